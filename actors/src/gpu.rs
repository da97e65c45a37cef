//! The scheduler actor: all inference of all sessions goes through here, on a CPU as on a GPU.
//!
//! *Input:* every session has a bounded submission lane (16 pieces of work); the mailbox carries
//! only doorbells and control. *Output:* answers go straight from the device's thread to whoever asked.
//! *When a lane is full* the submission is refused and the stage deals with it. *On a crash* of an engine
//! its link opens it again and runs what was lost once more (see [`device`], [`sequences`]); a crash of
//! this actor ends the server's sessions, since nothing can be answered without it: the root restarts it.
//!
//! *When an engine hangs* the watchdog kills its process after [`STUCK_AFTER`], and it is a crash like another.
//!
//! The decisions themselves are pure and lie in [`policy`] (who runs), [`binding`] (on which engine) and [`load`] (how
//! many sessions).

pub mod binding;
mod cost;
pub mod device;
mod dispatch;
mod engines;
pub mod load;
pub mod policy;
mod queue;
mod said;
mod sequences;
mod submit;
pub mod work;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use viva_models::EngineError;
use viva_models::tts::spoken::Spoken;

use crate::lane::Lane;
use crate::metrics as m;

pub use engines::{Cores, Engines, More, Order, PROCESSES_MAX, Share};
pub use submit::{SUBMISSIONS, Submitter, within};

use binding::{Serves, Want};
use device::{LinkStatus, Opener};
use load::{Load, Meter, Others, Part, Verdict};
use policy::{Candidate, Discipline};
use queue::{Done, Kind, Link};
use sequences::Outcome;
use work::Work;
use writer::Writer;

/// How often the device's load is looked at, and whether an engine hangs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a smaller model is taken to cost of a usual one before both have worked: of two neighbours in a family the
/// smaller has about half the weights.
const SMALLER_COSTS: f64 = 0.5;

/// A batch that takes longer than this is never done: the longest recognition, clause or step we have seen takes 3 s
/// on two busy cores.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// One engine, as the outside sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// `vad`, `turn`, `asr`, `llm`, `tts`, `embed`.
    pub kind: &'static str,
    /// What it is there for.
    pub serves: Serves,
    /// Whether it is open.
    pub up: bool,
    /// How often it was opened again.
    pub restarts: u64,
    /// Its process, where it is one.
    pub pid: Option<u32>,
    /// Why it could not be opened, after all attempts.
    pub refused: Option<EngineError>,
}

/// What the scheduler is told.
pub enum GpuMsg {
    /// A session's submission lane has work.
    Doorbell(u64),
    /// A new session's lane, and what engines it wants.
    Register(u64, Lane<Work>, Want),
    /// From now on this session wants others.
    Wants(u64, Want),
    /// A session is gone: what it waits for is void, its place in the cache is free.
    Released(u64),
    /// An engine finished its batch, or is open.
    Idle(IdleReport),
    /// A language model finished an order.
    Stepped(Box<SteppedReport>),
    /// Windows of speech have waited for others long enough.
    Gathered,
    /// It is time to look at the load and for engines that hang.
    Look,
    /// What the scheduler holds.
    Counts(RpcReplyPort<Counts>),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// What the scheduler holds for those it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sessions and others that may ask for work.
    pub clients: usize,
    /// Pieces of work that wait.
    pub queued: usize,
    /// Places taken in the language models' caches.
    pub places: usize,
}

/// What an engine's thread reports.
pub struct IdleReport {
    link: usize,
    worker: usize,
    done: Option<Done>,
}

/// What a language model's thread reports.
pub struct SteppedReport {
    writer: usize,
    outcome: Outcome,
}

/// The scheduler.
pub struct Gpu;

/// Who asks for work.
struct Client {
    lane: Lane<Work>,
    want: Want,
}

/// The scheduler's state.
pub struct GpuState {
    clients: HashMap<u64, Client>,
    links: Vec<Link>,
    writers: Vec<Writer>,
    total: u32,
    free: u32,
    meter: Meter,
    shared: Shared,
    spoken: Option<Arc<Spoken>>,
    discipline: Discipline,
    /// Windows wait for others, and [`GpuMsg::Gathered`] is on its way.
    gathering: bool,
    /// Room for what may start, kept from one look to the next.
    candidates: Vec<Candidate>,
}

/// The engines that take jobs, while they are started.
struct Links {
    me: ActorRef<GpuMsg>,
    discipline: Discipline,
    links: Vec<Link>,
}

impl Links {
    fn add<T: ?Sized + Send + 'static>(
        &mut self,
        kind: Kind,
        serves: Serves,
        cores: u32,
        processes: u32,
        opener: &Opener<T>,
        run: device::Run<T>,
    ) -> std::io::Result<()> {
        let link = self.links.len();
        let mut engine = Link::new(kind, serves, cores, self.discipline);
        for worker in 0..processes.clamp(1, PROCESSES_MAX) as usize {
            let me = self.me.clone();
            engine.spawn(Arc::clone(opener), run, move |done| {
                me.cast(GpuMsg::Idle(IdleReport { link, worker, done })).ok();
            })?;
        }
        self.links.push(engine);
        Ok(())
    }
}

/// What can be read of the scheduler without asking the actor.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    engines: Vec<(&'static str, Serves, Arc<LinkStatus>)>,
    load: Load,
    others: Others,
    sessions: usize,
}

impl Shared {
    /// All engines.
    pub fn engines(&self) -> Vec<EngineStatus> {
        self.seen()
            .engines
            .iter()
            .map(|(kind, serves, s)| EngineStatus {
                kind,
                serves: serves.clone(),
                up: s.up(),
                restarts: s.restarts(),
                pid: s.pid(),
                refused: s.refused(),
            })
            .collect()
    }

    /// How busy the device is, with the sessions there are now.
    pub fn load(&self) -> Load {
        let seen = self.seen();
        Load { sessions: seen.sessions, ..seen.load }
    }

    /// What becomes of one more session, where so late is too late.
    pub fn verdict(&self, late_ms_max: u32) -> Verdict {
        let others = self.seen().others;
        self.load().verdict(late_ms_max, others)
    }

    /// So many sessions run now.
    pub fn set_sessions(&self, count: usize) {
        self.seen().sessions = count;
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Actor for Gpu {
    type Msg = GpuMsg;
    type State = GpuState;
    type Arguments = (Engines, Shared);

    async fn pre_start(
        &self,
        me: ActorRef<GpuMsg>,
        (engines, shared): Self::Arguments,
    ) -> Result<GpuState, ActorProcessingErr> {
        let (cores, total, order) = (engines.cores, engines.cores.total, engines.order);
        let mut room = Links { me: me.clone(), discipline: order.discipline, links: Vec::new() };
        let any = Serves::default;
        room.add(Kind::Vad, any(), 0, 1, &engines.vad, device::run_vad)?;
        room.add(Kind::Turn, any(), cores.turn, 1, &engines.turn, device::run_turn)?;
        room.add(Kind::Asr, any(), cores.asr, order.asr_processes, &engines.asr, device::run_asr)?;
        room.add(Kind::Tts, any(), cores.tts, order.tts_processes, &engines.tts, device::run_tts)?;
        if let Some(embed) = &engines.embed {
            room.add(Kind::Embed, any(), 1, 1, embed, device::run_embed)?;
        }
        let stepped = |writer: usize| {
            let me = me.clone();
            move |outcome| {
                me.cast(GpuMsg::Stepped(Box::new(SteppedReport { writer, outcome }))).ok();
            }
        };
        let spawn = |serves, cores, opener, writer| {
            Writer::spawn(serves, cores, opener, order.discipline, stepped(writer))
        };
        let mut writers = vec![spawn(any(), (cores.llm, cores.llm_alone), engines.llm, 0)?];
        for (serves, more) in engines.more {
            match more {
                More::Asr(opener, Share { cores, processes }) => {
                    room.add(Kind::Asr, serves, cores, processes, &opener, device::run_asr)?;
                }
                More::Tts(opener, Share { cores, processes }) => {
                    room.add(Kind::Tts, serves, cores, processes, &opener, device::run_tts)?;
                }
                More::Llm(opener, Share { cores, .. }) => {
                    writers.push(spawn(serves, (cores, 0), opener, writers.len())?);
                }
            }
        }
        let links = room.links;
        let of_links =
            links.iter().flat_map(|l| l.statuses().map(|s| (l.kind.name(), l.serves.clone(), Arc::clone(s))));
        let of_writers = writers.iter().map(|w| ("llm", w.serves.clone(), Arc::clone(w.status())));
        shared.seen().engines = of_links.chain(of_writers).collect();
        me.send_interval(LOOK_EVERY, || GpuMsg::Look);
        let mut meter = Meter::new(total);
        meter.assume(order.session_cores);
        shared.seen().load = meter.load(sequences::micros(Instant::now()));
        Ok(GpuState {
            clients: HashMap::new(),
            links,
            writers,
            total,
            free: total,
            meter,
            shared,
            spoken: engines.spoken,
            discipline: order.discipline,
            gathering: false,
            candidates: Vec::new(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<GpuMsg>,
        msg: GpuMsg,
        state: &mut GpuState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            GpuMsg::Register(key, lane, want) => {
                state.clients.insert(key, Client { lane, want });
            }
            GpuMsg::Wants(key, want) => {
                if let Some(client) = state.clients.get_mut(&key) {
                    client.want = Want { handed: client.want.handed, ..want };
                }
            }
            GpuMsg::Released(key) => {
                state.clients.remove(&key);
                state.writers.iter_mut().for_each(|writer| writer.book.release(key));
                state.links.iter_mut().for_each(|link| link.drop_void(|work| work.session == key));
            }
            GpuMsg::Doorbell(key) => {
                if state.collect(key) && state.gather(&me) {
                    // Nothing came but windows, and they wait.
                    return Ok(());
                }
            }
            GpuMsg::Gathered => state.gathering = false,
            GpuMsg::Idle(report) => state.idle(report),
            GpuMsg::Stepped(report) => {
                let SteppedReport { writer, outcome } = *report;
                let (freed, work) = state.writers[writer].done(outcome);
                state.free += freed;
                if let Some((took, certain)) = work {
                    let now = sequences::micros(Instant::now());
                    state.meter.worked(now, took, freed.max(1), Part::Llm, certain);
                }
            }
            GpuMsg::Look => state.look(),
            GpuMsg::Counts(reply) => {
                reply.send(state.counts()).ok();
            }
            #[cfg(any(test, feature = "testkit"))]
            GpuMsg::Panic => panic!("asked to"),
        }
        state.dispatch();
        Ok(())
    }
}

impl GpuState {
    /// What else a session could be given, and what it would leave to us of an ordinary one's work.
    fn others(&self, load: &Load) -> Others {
        let links = self.links.iter().map(|l| (l.kind.part(), &l.serves, l.cores, l.up(), l.cost.of(1.0)));
        let writers = self
            .writers
            .iter()
            .map(|w| (Part::Llm, &w.serves, w.cores_at_most(), w.status().up(), w.step_us()));
        let engines: Vec<_> = links.chain(writers).filter(|engine| engine.3).collect();
        let (mut smaller, mut elsewhere) = (None, None);
        for part in [Part::Asr, Part::Llm, Part::Tts] {
            let share = load.parts[part as usize];
            let of_part = || engines.iter().filter(|engine| engine.0 == part);
            let Some(usual) = of_part().find(|engine| !engine.1.spill) else { continue };
            if let Some(small) = of_part().find(|e| !e.1.spill && e.1.quality < usual.1.quality) {
                // What one costs of the other, where both have been at work.
                let of_usual = match (small.4, usual.4) {
                    (0, _) | (_, 0) => SMALLER_COSTS,
                    (small, usual) => (small as f64 / usual as f64).min(1.0),
                };
                *smaller.get_or_insert(1.0) -= share * (1.0 - of_usual);
            }
            if of_part().any(|engine| engine.1.spill && engine.2 == 0) {
                *elsewhere.get_or_insert(1.0) -= share;
            }
        }
        Others { smaller, elsewhere }
    }

    fn counts(&self) -> Counts {
        Counts {
            clients: self.clients.len(),
            queued: self.links.iter().map(|link| link.queue.len()).sum::<usize>()
                + self.writers.iter().map(|writer| writer.book.waiting()).sum::<usize>(),
            places: self.writers.iter().map(|writer| writer.book.places()).sum(),
        }
    }

    /// An engine is done, or open.
    fn idle(&mut self, IdleReport { link, worker, done }: IdleReport) {
        let engine = &mut self.links[link];
        let Some(busy) = engine.release(worker) else { return };
        self.free += busy.held;
        let Some(done) = done else { return };
        let now = Instant::now();
        engine.cost.learn(done.units, done.took);
        // A detector without a core of its own works on one all the same.
        let cores = if engine.serves.spill { 0 } else { busy.held.max(1) };
        let took = done.took.as_micros() as u64;
        self.meter.worked(sequences::micros(now), took, cores, engine.kind.part(), busy.wanted());
        // Windows come 31 times a second and are never late by themselves.
        if busy.wanted() && !matches!(engine.kind, Kind::Vad | Kind::Embed) {
            let late = now.saturating_duration_since(busy.deadline).as_secs_f64() * 1e3;
            self.meter.finished(late);
        }
    }

    /// Looks at the load, and for engines that hang.
    fn look(&mut self) {
        let now = Instant::now();
        let seen = self.shared.seen().sessions;
        self.meter.sessions(sequences::micros(now), seen);
        let load = self.meter.load(sequences::micros(now));
        let others = self.others(&load);
        {
            let mut seen = self.shared.seen();
            (seen.load, seen.others) = (load, others);
        }
        metrics::gauge!(m::DEVICE_LOAD, "kind" => "certain").set(load.certain / load.cores);
        metrics::gauge!(m::DEVICE_LOAD, "kind" => "ahead").set(load.ahead / load.cores);
        metrics::gauge!(m::DEVICE_LATE_MS).set(load.late_ms);
        let of_link = |l: &'_ Link| l.kind.name();
        let links =
            self.links.iter().flat_map(|l| l.busy_since().map(move |(since, s)| (of_link(l), since, s)));
        let writers = self.writers.iter().map(|w| ("llm", w.busy_since(), w.status()));
        for (kind, since, status) in links.chain(writers) {
            let stuck = since.is_some_and(|since| now.saturating_duration_since(since) > STUCK_AFTER);
            if let (true, Some(pid)) = (stuck, status.pid()) {
                tracing::error!(
                    engine = kind,
                    pid,
                    "an engine hangs; its process is killed and started again"
                );
                viva_models::host::kill(pid);
            }
        }
    }
}
