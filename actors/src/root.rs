//! The root: starts the scheduler and the pacer, opens and supervises sessions, drains.
//!
//! *Input:* requests to open a session, to drain. *Output:* a session's ports. *Bound:* the session limit.
//! *On a crash* of a session its slot is free again and nobody else notices; on a crash of the scheduler all
//! sessions end with an error and a new scheduler starts.

mod admission;
mod seats;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use tokio::sync::mpsc;

use crate::gpu::binding::{Handed, Want};
use crate::gpu::load::{Load, Verdict};
use crate::gpu::{Counts, EngineStatus, Engines, Gpu, GpuMsg, Shared, Submitter};
use crate::lateness::Lateness;
use crate::metrics as m;
use crate::playout::Pacer;
use crate::ports::{OUT_QUEUE, SessionMsg, SessionPorts, SessionSpec};
use crate::rag::{NoRetriever, Retriever};
use crate::recorder::Unwritable;
use crate::session::graph::Lanes;
use crate::session::{self, Session};
use crate::types::SessionId;

pub use admission::{OpenError, WAIT_MAX, WAITING_MAX};
use admission::{WAITING_LOOK, Waiting, missing};
use seats::Seats;

/// What the server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// How late, at the 95th percentile, one more session may make the answers of those there are, milliseconds; 0
    /// takes whoever finds a place.
    pub late_ms_max: u32,
}

impl Default for Limits {
    /// Enough for a demonstration on two cores with small weights; a GPU carries more.
    fn default() -> Self {
        // An answer after one second becomes one after two.
        Self { sessions: 16, late_ms_max: 1_000 }
    }
}

/// What the root is told.
pub enum RootMsg {
    /// Open a session. Where there is no seat, it may wait so long for one.
    Open(Box<SessionSpec>, Duration, RpcReplyPort<Result<SessionPorts, OpenError>>),
    /// It is time to see whether those who wait can be let in.
    LookAtWaiting,
    /// A way to the scheduler that is there now, for work of no session.
    Submitter(RpcReplyPort<Submitter>),
    /// Open no more sessions.
    Close,
    /// End all sessions, with this reason.
    HangUpAll(String),
    /// What the scheduler holds.
    Counts(RpcReplyPort<Counts>),
    /// Make the scheduler fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    PanicGpu,
}

/// The actor.
pub struct Root;

/// What the root is started with.
pub struct Args {
    engines: Engines,
    limits: Limits,
    retriever: Arc<dyn Retriever>,
    shared: Shared,
    running: Arc<AtomicUsize>,
    lateness: Arc<Lateness>,
    /// Seconds until a seat is free, for who would come now.
    wait_s: Arc<AtomicU32>,
}

/// The root's state.
pub struct State {
    args: Args,
    gpu: ActorRef<GpuMsg>,
    pacer: Pacer,
    sessions: HashMap<ActorId, Seat>,
    seats: Seats,
    /// In the order in which they came; at most [`WAITING_MAX`].
    waiting: VecDeque<Waiting>,
    closed: bool,
}

/// A session that is there.
struct Seat {
    control: ActorRef<SessionMsg>,
    since: Instant,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<RootMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let gpu = spawn_gpu(&me, &args).await?;
        let pacer = Pacer::start(Arc::clone(&args.lateness));
        Ok(State {
            args,
            gpu,
            pacer,
            sessions: HashMap::new(),
            seats: Seats::default(),
            waiting: VecDeque::new(),
            closed: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<RootMsg>,
        msg: RootMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            RootMsg::Open(spec, patience, reply) => state.ask(&me, *spec, patience, reply).await,
            RootMsg::LookAtWaiting => {
                state.let_in(&me).await;
                if !state.waiting.is_empty() {
                    me.send_after(WAITING_LOOK, || RootMsg::LookAtWaiting);
                }
            }
            RootMsg::Submitter(reply) => {
                reply.send(Submitter::register(&state.gpu, Want::default())).ok();
            }
            RootMsg::Close => {
                state.closed = true;
                state.let_in(&me).await;
            }
            RootMsg::HangUpAll(reason) => state.hang_up_all(&reason),
            RootMsg::Counts(reply) => {
                state.gpu.cast(GpuMsg::Counts(reply)).ok();
            }
            #[cfg(any(test, feature = "testkit"))]
            RootMsg::PanicGpu => {
                state.gpu.cast(GpuMsg::Panic).ok();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (who, failure) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, Some(error.to_string())),
            SupervisionEvent::ActorTerminated(who, ..) => (who, None),
            _ => return Ok(()),
        };
        if let Some(seat) = state.sessions.remove(&who.get_id()) {
            state.seats.ended(seat.since.elapsed().as_secs_f64());
            state.count();
            if let Some(error) = failure {
                tracing::error!(%error, "a session died");
            }
            state.let_in(&me).await;
        } else if who.get_id() == state.gpu.get_id() {
            tracing::error!(?failure, "the scheduler died; all sessions end and a new one starts");
            state.hang_up_all("the server had an internal error");
            state.gpu = spawn_gpu(&me, &state.args).await?;
        }
        Ok(())
    }
}

async fn spawn_gpu(me: &ActorRef<RootMsg>, args: &Args) -> Result<ActorRef<GpuMsg>, ActorProcessingErr> {
    let arguments = (args.engines.clone(), args.shared.clone());
    Ok(Actor::spawn_linked(None, Gpu, arguments, me.get_cell()).await?.0)
}

/// Logs the details, which name folders and inner parts, and gives what a caller may know of them.
fn not_started(id: &SessionId, error: SpawnErr) -> OpenError {
    match error {
        SpawnErr::StartupFailed(why) if why.is::<Unwritable>() => {
            tracing::error!(session = %id, error = %why, "a caller who asked for a recording was refused");
            OpenError::RecordingUnavailable
        }
        error => {
            tracing::error!(session = %id, %error, "a session could not be started");
            OpenError::NotReady("the session could not be started".into())
        }
    }
}

impl State {
    async fn open(
        &mut self,
        me: &ActorRef<RootMsg>,
        spec: SessionSpec,
        handed: Handed,
    ) -> Result<SessionPorts, OpenError> {
        let to = match handed {
            Handed::No => None,
            Handed::Smaller => Some("smaller"),
            Handed::Elsewhere => Some("elsewhere"),
        };
        if let Some(to) = to {
            metrics::counter!(m::SESSIONS_HANDED, "to" => to).increment(1);
            tracing::info!(to, load = ?self.args.shared.load(), "a session is handed on: there is no room for it here");
        }
        let (out, receiver) = mpsc::channel(OUT_QUEUE);
        let lanes = Lanes::default();
        let id = SessionId::random();
        let args = session::Args {
            id: id.clone(),
            spec,
            handed,
            gpu: self.gpu.clone(),
            pacer: self.pacer.clone(),
            lanes: lanes.clone(),
            out,
            retriever: Arc::clone(&self.args.retriever),
        };
        let (control, _) = Actor::spawn_linked(None, Session, args, me.get_cell())
            .await
            .map_err(|error| not_started(&id, error))?;
        let seat = Seat { control: control.clone(), since: Instant::now() };
        self.sessions.insert(control.get_id(), seat);
        self.count();
        Ok(SessionPorts { id, mic: lanes.mic, control, out: receiver })
    }

    fn count(&self) {
        self.args.running.store(self.sessions.len(), Ordering::Release);
        self.args.shared.set_sessions(self.sessions.len());
        self.args.wait_s.store(self.wait_s(), Ordering::Release);
        metrics::gauge!(m::SESSIONS_WAITING).set(self.waiting.len() as f64);
    }

    fn hang_up_all(&self, reason: &str) {
        for seat in self.sessions.values() {
            seat.control.cast(SessionMsg::Hangup(reason.to_owned())).ok();
        }
    }
}

/// Whether the server can take callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// An engine of every kind is up and sessions may be opened.
    pub ready: bool,
    /// The engines, one by one.
    pub engines: Vec<EngineStatus>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("the server could not start: {0}")]
pub struct StartError(String);

/// The whole engine room, as the edges hold it. Clones share it.
#[derive(Clone)]
pub struct Viva {
    root: ActorRef<RootMsg>,
    shared: Shared,
    running: Arc<AtomicUsize>,
    limits: Limits,
    lateness: Arc<Lateness>,
    wait_s: Arc<AtomicU32>,
    closed: Arc<std::sync::atomic::AtomicBool>,
}

/// How often a drain looks whether all sessions have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How long sessions that are told to end may take for it.
const HANG_UP_LIMIT: Duration = Duration::from_secs(2);

impl Viva {
    /// Starts the scheduler and its engines. Returns at once; [`Viva::readiness`] says when they are up.
    pub async fn start(engines: Engines, limits: Limits) -> Result<Self, StartError> {
        Self::start_with(engines, limits, Arc::new(NoRetriever)).await
    }

    /// The same with a RAG hook.
    pub async fn start_with(
        engines: Engines,
        limits: Limits,
        retriever: Arc<dyn Retriever>,
    ) -> Result<Self, StartError> {
        let (shared, running) = (Shared::default(), Arc::new(AtomicUsize::new(0)));
        let (lateness, wait_s) = (Arc::new(Lateness::default()), Arc::new(AtomicU32::new(0)));
        let args = Args {
            engines,
            limits,
            retriever,
            shared: shared.clone(),
            running: Arc::clone(&running),
            lateness: Arc::clone(&lateness),
            wait_s: Arc::clone(&wait_s),
        };
        let (root, _) = Actor::spawn(None, Root, args).await.map_err(|e| StartError(e.to_string()))?;
        Ok(Self { root, shared, running, limits, lateness, wait_s, closed: Arc::default() })
    }

    /// Opens a session.
    pub async fn open(&self, spec: SessionSpec) -> Result<SessionPorts, OpenError> {
        self.open_within(spec, Duration::ZERO).await
    }

    /// Opens a session; where there is no seat, waits so long for one, at most [`WAIT_MAX`], behind those who came before.
    /// At most [`WAITING_MAX`] wait. Whoever drops this does not wait any more.
    ///
    /// # Errors
    /// Why there is none, and when to come back.
    pub async fn open_within(
        &self,
        spec: SessionSpec,
        patience: Duration,
    ) -> Result<SessionPorts, OpenError> {
        let gone = |_| OpenError::NotReady("the server is ending".into());
        let (reply, answer) = ractor::concurrency::oneshot();
        self.root
            .cast(RootMsg::Open(Box::new(spec), patience, reply.into()))
            .map_err(|e| OpenError::NotReady(e.to_string()))?;
        answer.await.map_err(gone)?
    }

    /// A way to the scheduler for work of no session, such as looking a question up. It ends with the scheduler:
    /// whoever gets no answer any more asks for another. None when the server is ending.
    pub async fn submitter(&self) -> Option<Submitter> {
        let (reply, answer) = ractor::concurrency::oneshot();
        self.root.cast(RootMsg::Submitter(reply.into())).ok()?;
        answer.await.ok()
    }

    /// What a caller would be told who came now, if they would be refused for want of room.
    pub fn full(&self) -> Option<OpenError> {
        let retry_after_s = self.wait_s.load(Ordering::Acquire);
        if self.sessions() >= self.limits.sessions {
            return Some(OpenError::Full { retry_after_s });
        }
        let refused = self.shared.verdict(self.limits.late_ms_max) == Verdict::Refuse;
        refused.then_some(OpenError::Busy { retry_after_s })
    }

    /// What would become of one more session, as far as the engines' load goes.
    pub fn verdict(&self) -> Verdict {
        self.shared.verdict(self.limits.late_ms_max)
    }

    /// Sessions running.
    pub fn sessions(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// How busy the device is.
    pub fn load(&self) -> Load {
        self.shared.load()
    }

    /// How late the pacer ticks.
    pub fn lateness(&self) -> &Arc<Lateness> {
        &self.lateness
    }

    /// Whether callers can be taken.
    pub fn readiness(&self) -> Readiness {
        let engines = self.shared.engines();
        let ready = !engines.is_empty()
            && missing(&engines).is_none()
            && !self.closed.load(Ordering::Acquire)
            && self.root.get_status() == ractor::ActorStatus::Running;
        Readiness { ready, engines }
    }

    /// What the scheduler holds for those it serves; none when it is about to be restarted.
    pub async fn scheduler_counts(&self) -> Option<Counts> {
        let (reply, answer) = ractor::concurrency::oneshot();
        self.root.cast(RootMsg::Counts(reply.into())).ok()?;
        answer.await.ok()
    }

    /// Makes the scheduler fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    pub fn panic_scheduler(&self) {
        self.root.cast(RootMsg::PanicGpu).ok();
    }

    /// Opens no more sessions, lets those that run end within the limit, ends the rest.
    pub async fn drain(&self, limit: Duration) {
        self.closed.store(true, Ordering::Release);
        self.root.cast(RootMsg::Close).ok();
        self.wait_empty(limit).await;
        self.root.cast(RootMsg::HangUpAll("the server is shutting down".into())).ok();
        self.wait_empty(HANG_UP_LIMIT).await;
        self.root.stop(None);
    }

    async fn wait_empty(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        while self.sessions() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}
