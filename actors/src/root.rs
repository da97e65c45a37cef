//! The root: starts the scheduler and the pacer, opens and supervises sessions, drains.
//!
//! *Input:* requests to open a session, to drain. *Output:* a session's ports. *Bound:* the session limit.
//! *On a crash* of a session its slot is free again and nobody else notices; on a crash of the scheduler all
//! sessions end with an error and a new scheduler starts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use tokio::sync::mpsc;

use crate::gpu::binding::Want;
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

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// All places are taken.
    #[error("the server is full; try again in {retry_after_s} s")]
    Full {
        /// When a place is likely to be free.
        retry_after_s: u32,
    },
    /// Those who are being served are only just served in time.
    #[error("the server is too busy; try again in {retry_after_s} s")]
    Busy {
        /// When it is worth another try.
        retry_after_s: u32,
    },
    /// The server is about to end.
    #[error("the server is shutting down")]
    Draining,
    /// An engine is not there.
    #[error("the server is not ready: {0}")]
    NotReady(String),
    /// The caller agreed to a recording and none can be written now. The log says why; the caller need not
    /// know where recordings lie.
    #[error("no recording can be written now")]
    RecordingUnavailable,
}

/// When to come back to a full server: about the time a short conversation still takes.
const RETRY_AFTER_S: u32 = 15;

/// Above this lateness of one tick in a hundred no further caller is taken: half a frame. In prototypes a
/// server beyond it collapsed within seconds (ticks of two seconds, calls that dropped and came again).
const LATE_MAX: Duration = Duration::from_millis(10);

/// When to come back to a busy server: the lateness looks back ten seconds.
const RETRY_BUSY_S: u32 = 10;

/// What the root is told.
pub enum RootMsg {
    /// Open a session.
    Open(Box<SessionSpec>, RpcReplyPort<Result<SessionPorts, OpenError>>),
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
}

/// The root's state.
pub struct State {
    args: Args,
    gpu: ActorRef<GpuMsg>,
    pacer: Pacer,
    sessions: HashMap<ActorId, ActorRef<SessionMsg>>,
    closed: bool,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<RootMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let gpu = spawn_gpu(&me, &args).await?;
        let pacer = Pacer::start(Arc::clone(&args.lateness));
        Ok(State { args, gpu, pacer, sessions: HashMap::new(), closed: false })
    }

    async fn handle(
        &self,
        me: ActorRef<RootMsg>,
        msg: RootMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            RootMsg::Open(spec, reply) => {
                let opened = state.open(&me, *spec).await;
                if let Err(error) = &opened {
                    let reason = match error {
                        OpenError::Full { .. } => "full",
                        OpenError::Busy { .. } => "busy",
                        OpenError::Draining => "draining",
                        OpenError::NotReady(_) => "not_ready",
                        OpenError::RecordingUnavailable => "recording_unavailable",
                    };
                    metrics::counter!(m::SESSIONS_REFUSED, "reason" => reason).increment(1);
                }
                // An edge that is gone drops the ports, and the session ends for want of a reader.
                reply.send(opened).ok();
            }
            RootMsg::Submitter(reply) => {
                reply.send(Submitter::register(&state.gpu, Want::default())).ok();
            }
            RootMsg::Close => state.closed = true,
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
        if state.sessions.remove(&who.get_id()).is_some() {
            state.count();
            if let Some(error) = failure {
                tracing::error!(%error, "a session died");
            }
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
    async fn open(&mut self, me: &ActorRef<RootMsg>, spec: SessionSpec) -> Result<SessionPorts, OpenError> {
        if self.closed {
            return Err(OpenError::Draining);
        }
        if let Some(kind) = missing(&self.args.shared.engines()) {
            return Err(OpenError::NotReady(format!("the {kind} engine is not up yet")));
        }
        if self.sessions.len() >= self.args.limits.sessions {
            return Err(OpenError::Full { retry_after_s: RETRY_AFTER_S });
        }
        // With nobody there, there is nobody to protect, and what makes us late (a model that loads) is no caller.
        if !self.sessions.is_empty() && self.args.lateness.p99() > LATE_MAX {
            return Err(OpenError::Busy { retry_after_s: RETRY_BUSY_S });
        }
        let load = self.args.shared.load();
        if load.verdict(self.args.limits.late_ms_max) == Verdict::Refuse {
            tracing::warn!(
                ?load,
                late_ms = load.late_with_one_more(),
                "one more caller would make the others late"
            );
            return Err(OpenError::Busy { retry_after_s: RETRY_AFTER_S });
        }
        let (out, receiver) = mpsc::channel(OUT_QUEUE);
        let lanes = Lanes::default();
        let id = SessionId::random();
        let args = session::Args {
            id: id.clone(),
            spec,
            gpu: self.gpu.clone(),
            pacer: self.pacer.clone(),
            lanes: lanes.clone(),
            out,
            retriever: Arc::clone(&self.args.retriever),
        };
        let (control, _) = Actor::spawn_linked(None, Session, args, me.get_cell())
            .await
            .map_err(|error| not_started(&id, error))?;
        self.sessions.insert(control.get_id(), control.clone());
        self.count();
        Ok(SessionPorts { id, mic: lanes.mic, control, out: receiver })
    }

    fn count(&self) {
        self.args.running.store(self.sessions.len(), Ordering::Release);
        self.args.shared.set_sessions(self.sessions.len());
    }

    fn hang_up_all(&self, reason: &str) {
        for session in self.sessions.values() {
            session.cast(SessionMsg::Hangup(reason.to_owned())).ok();
        }
    }
}

/// The first kind of engine of which none is up.
fn missing(engines: &[EngineStatus]) -> Option<&'static str> {
    engines.iter().map(|e| e.kind).find(|kind| !engines.iter().any(|e| e.kind == *kind && e.up))
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
    sessions_max: usize,
    lateness: Arc<Lateness>,
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
        let (sessions_max, lateness) = (limits.sessions, Arc::new(Lateness::default()));
        let args = Args {
            engines,
            limits,
            retriever,
            shared: shared.clone(),
            running: Arc::clone(&running),
            lateness: Arc::clone(&lateness),
        };
        let (root, _) = Actor::spawn(None, Root, args).await.map_err(|e| StartError(e.to_string()))?;
        Ok(Self { root, shared, running, sessions_max, lateness, closed: Arc::default() })
    }

    /// Opens a session.
    pub async fn open(&self, spec: SessionSpec) -> Result<SessionPorts, OpenError> {
        let gone = |_| OpenError::NotReady("the server is ending".into());
        let (reply, answer) = ractor::concurrency::oneshot();
        self.root
            .cast(RootMsg::Open(Box::new(spec), reply.into()))
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
        (self.sessions() >= self.sessions_max).then_some(OpenError::Full { retry_after_s: RETRY_AFTER_S })
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
