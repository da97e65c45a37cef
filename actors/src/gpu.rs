//! The scheduler actor: all inference of all sessions goes through here, on a CPU as on a GPU.
//!
//! *Input:* every session has a bounded submission lane ([`SUBMISSIONS`] pieces of work); the mailbox carries
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
pub mod load;
pub mod policy;
mod queue;
mod said;
mod sequences;
pub mod work;
mod writer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use viva_models::tts::spoken::Spoken;
use viva_models::{Asr, Cancel, Embedder, EngineError, Llm, Tts, TurnDetector, Vad};

use crate::lane::Lane;
use crate::metrics as m;

use binding::{Serves, Want};
use device::{LinkStatus, Opener};
use load::{Load, Meter};
use policy::Candidate;
use queue::{Done, Kind, Link};
use sequences::Outcome;
use work::{Job, Stake, Work};
use writer::Writer;

/// Work of one session that may wait to be read by the scheduler. By construction a session has at most
/// one window, one decision, two recognitions, two clauses, one lookup and one text under way.
pub const SUBMISSIONS: usize = 16;

/// The place of the voice whose lines are kept, among the links.
const VOICE: usize = 3;

/// How often the device's load is looked at, and whether an engine hangs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A batch that takes longer than this is never done: the longest recognition, clause or step we have seen takes 3 s
/// on two busy cores.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// The engines a server runs on.
#[derive(Clone)]
pub struct Engines {
    /// Finds speech.
    pub vad: Opener<dyn Vad>,
    /// Judges whether a caller is done.
    pub turn: Opener<dyn TurnDetector>,
    /// Recognises.
    pub asr: Opener<dyn Asr>,
    /// Writes.
    pub llm: Opener<dyn Llm>,
    /// Speaks.
    pub tts: Opener<dyn Tts>,
    /// Embeds.
    pub embed: Option<Opener<dyn Embedder>>,
    /// Lines of the voice that were spoken before.
    pub spoken: Option<Arc<Spoken>>,
    /// For other languages and qualities than these, and to spill to.
    pub more: Vec<(Serves, More)>,
    /// How they share the machine.
    pub cores: Cores,
}

/// One engine more of a kind.
#[derive(Clone)]
pub enum More {
    /// Recognises, on so many cores.
    Asr(Opener<dyn Asr>, u32),
    /// Writes.
    Llm(Opener<dyn Llm>, u32),
    /// Speaks.
    Tts(Opener<dyn Tts>, u32),
}

/// Cores of the device and how many of them each engine occupies while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Of the device.
    pub total: u32,
    /// Of the recogniser.
    pub asr: u32,
    /// Of the language model.
    pub llm: u32,
    /// Of the voice.
    pub tts: u32,
    /// Of the turn detector; 0 lets it run beside a recogniser that has all cores: both are needed at the
    /// same pause, and together they take as long as one after the other.
    pub turn: u32,
}

impl Default for Cores {
    fn default() -> Self {
        let total = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        // A voice gains nothing from a second thread (a short line: 84 ms against 94), and one leaves a core
        // to the language model.
        Self { total, asr: total.min(4), llm: total.min(4), tts: 1, turn: 0 }
    }
}

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
    done: Option<Done>,
}

/// What a language model's thread reports.
pub struct SteppedReport {
    writer: usize,
    outcome: Outcome,
}

/// A session's way to the scheduler. The last clone's drop releases everything the session holds there.
#[derive(Clone)]
pub struct Submitter(Arc<SubmitterInner>);

struct SubmitterInner {
    key: u64,
    lane: Lane<Work>,
    gpu: ActorRef<GpuMsg>,
}

impl Drop for SubmitterInner {
    fn drop(&mut self) {
        // The scheduler may be gone already when the server ends.
        self.gpu.cast(GpuMsg::Released(self.key)).ok();
    }
}

impl Submitter {
    /// Registers a session, or whoever else wants work done.
    pub fn register(gpu: &ActorRef<GpuMsg>, want: Want) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        let lane = Lane::new(SUBMISSIONS);
        gpu.cast(GpuMsg::Register(key, lane.clone(), want)).ok();
        let bell = gpu.clone();
        lane.attach(Box::new(move || {
            bell.cast(GpuMsg::Doorbell(key)).ok();
        }));
        Self(Arc::new(SubmitterInner { key, lane, gpu: gpu.clone() }))
    }

    /// From now on for other engines.
    pub fn want(&self, want: Want) {
        self.0.gpu.cast(GpuMsg::Wants(self.0.key, want)).ok();
    }

    /// Asks for work to be done by `deadline`. Returns the flag that makes it void. A full lane fails
    /// the work at once.
    pub fn submit(&self, job: Job, deadline: Instant, stake: Stake) -> Cancel {
        let cancel = Cancel::new();
        let (submitted, session) = (Instant::now(), self.0.key);
        let work = Work { job, deadline, submitted, cancel: cancel.clone(), stake, session };
        if let Err(work) = self.0.lane.push(work) {
            metrics::counter!(m::DROPS, "stage" => "gpu", "reason" => "submissions_full").increment(1);
            work.job.fail(EngineError::Failed("the scheduler does not keep up with this session".into()));
        }
        cancel
    }
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
}

/// What can be read of the scheduler without asking the actor.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    engines: Vec<(&'static str, Serves, Arc<LinkStatus>)>,
    load: Load,
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
        let (total, cores) = (engines.cores.total, engines.cores);
        let mut links = Vec::new();
        let idle = |link: usize| {
            let me = me.clone();
            move |done| {
                me.cast(GpuMsg::Idle(IdleReport { link, done })).ok();
            }
        };
        let any = Serves::default;
        links.push(Link::spawn(Kind::Vad, any(), 0, engines.vad, device::run_vad, idle(0))?);
        links.push(Link::spawn(Kind::Turn, any(), cores.turn, engines.turn, device::run_turn, idle(1))?);
        links.push(Link::spawn(Kind::Asr, any(), cores.asr, engines.asr, device::run_asr, idle(2))?);
        links.push(Link::spawn(Kind::Tts, any(), cores.tts, engines.tts, device::run_tts, idle(3))?);
        if let Some(embed) = engines.embed {
            links.push(Link::spawn(Kind::Embed, any(), 1, embed, device::run_embed, idle(4))?);
        }
        let stepped = |writer: usize| {
            let me = me.clone();
            move |outcome| {
                me.cast(GpuMsg::Stepped(Box::new(SteppedReport { writer, outcome }))).ok();
            }
        };
        let mut writers = vec![Writer::spawn(any(), cores.llm, engines.llm, stepped(0))?];
        for (serves, more) in engines.more {
            let next = idle(links.len());
            match more {
                More::Asr(opener, cores) => {
                    links.push(Link::spawn(Kind::Asr, serves, cores, opener, device::run_asr, next)?);
                }
                More::Tts(opener, cores) => {
                    links.push(Link::spawn(Kind::Tts, serves, cores, opener, device::run_tts, next)?);
                }
                More::Llm(opener, cores) => {
                    let report = stepped(writers.len());
                    writers.push(Writer::spawn(serves, cores, opener, report)?);
                }
            }
        }
        let of_links = links.iter().map(|l| (l.kind.name(), l.serves.clone(), Arc::clone(l.status())));
        let of_writers = writers.iter().map(|w| ("llm", w.serves.clone(), Arc::clone(w.status())));
        shared.seen().engines = of_links.chain(of_writers).collect();
        me.send_interval(LOOK_EVERY, || GpuMsg::Look);
        Ok(GpuState {
            clients: HashMap::new(),
            links,
            writers,
            total,
            free: total,
            meter: Meter::new(total),
            shared,
            spoken: engines.spoken,
        })
    }

    async fn handle(
        &self,
        _me: ActorRef<GpuMsg>,
        msg: GpuMsg,
        state: &mut GpuState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            GpuMsg::Register(key, lane, want) => {
                state.clients.insert(key, Client { lane, want });
            }
            GpuMsg::Wants(key, want) => {
                if let Some(client) = state.clients.get_mut(&key) {
                    client.want = want;
                }
            }
            GpuMsg::Released(key) => {
                state.clients.remove(&key);
                state.writers.iter_mut().for_each(|writer| writer.book.release(key));
                state.links.iter_mut().for_each(|link| link.drop_void(|work| work.session == key));
            }
            GpuMsg::Doorbell(key) => state.collect(key),
            GpuMsg::Idle(IdleReport { link, done }) => state.idle(link, done),
            GpuMsg::Stepped(report) => {
                let SteppedReport { writer, outcome } = *report;
                let (freed, work) = state.writers[writer].done(outcome);
                state.free += freed;
                if let Some((took, certain)) = work {
                    state.meter.worked(sequences::micros(Instant::now()), took, freed.max(1), certain);
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
    /// Reads a session's lane.
    fn collect(&mut self, key: u64) {
        let Some(client) = self.clients.get(&key) else { return };
        client.lane.answer();
        while let Some(work) = client.lane.pop() {
            let Some(kind) = Kind::of(&work.job) else {
                let serves: Vec<Serves> = self.writers.iter().map(|w| w.serves.clone()).collect();
                let first = binding::choose(&serves, &client.want).unwrap_or(0);
                let other = binding::spill(&serves, &client.want);
                let chosen = match other {
                    Some(other) if !self.writers[first].has_room() => other,
                    _ => first,
                };
                for (i, writer) in self.writers.iter_mut().enumerate().filter(|(i, _)| *i != chosen) {
                    // What it had under way elsewhere is replaced by this.
                    let _ = i;
                    writer.book.release(key);
                }
                self.writers[chosen].book.submit(key, work);
                continue;
            };
            let of_kind: Vec<usize> = (0..self.links.len()).filter(|&l| self.links[l].kind == kind).collect();
            let serves: Vec<Serves> = of_kind.iter().map(|&l| self.links[l].serves.clone()).collect();
            match binding::choose(&serves, &client.want) {
                Some(chosen) => {
                    let link = of_kind[chosen];
                    let work = match &self.spoken {
                        Some(spoken) if link == VOICE => match said::answer(spoken, work) {
                            Some(work) => work,
                            None => continue,
                        },
                        _ => work,
                    };
                    self.links[link].queue.push(work);
                }
                None => {
                    work.job.fail(EngineError::Invalid(format!("no {} engine is configured", kind.name())))
                }
            }
        }
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
    fn idle(&mut self, link: usize, done: Option<Done>) {
        let engine = &mut self.links[link];
        let Some(busy) = engine.release() else { return };
        self.free += busy.held;
        let Some(done) = done else { return };
        let now = Instant::now();
        engine.cost.learn(done.units, done.took);
        // A detector without a core of its own works on one all the same.
        let cores = if engine.serves.spill { 0 } else { busy.held.max(1) };
        self.meter.worked(sequences::micros(now), done.took.as_micros() as u64, cores, busy.certain);
        // Windows come 31 times a second and are never late by themselves.
        if busy.certain && !matches!(engine.kind, Kind::Vad | Kind::Embed) {
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
        self.shared.seen().load = load;
        metrics::gauge!(m::DEVICE_LOAD, "kind" => "certain").set(load.certain / load.cores);
        metrics::gauge!(m::DEVICE_LOAD, "kind" => "ahead").set(load.ahead / load.cores);
        metrics::gauge!(m::DEVICE_LATE_MS).set(load.late_ms);
        let links = self.links.iter().map(|l| (l.kind.name(), l.busy_since(), l.status()));
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

    /// Moves what would come too late, or not at all, to an engine that is there for that.
    fn spill(&mut self) {
        for from in 0..self.links.len() {
            if self.links[from].serves.spill || self.links[from].queue.is_empty() {
                continue;
            }
            let kind = self.links[from].kind;
            let to = (0..self.links.len()).find(|&l| {
                self.links[l].kind == kind && self.links[l].serves.spill && self.links[l].is_idle()
            });
            let Some(to) = to else { continue };
            if let Some(work) = self.links[from].take_late() {
                metrics::counter!(m::SPILLED, "stage" => kind.name()).increment(1);
                self.links[to].queue.push(work);
            }
        }
    }

    /// Starts whatever may start now.
    fn dispatch(&mut self) {
        let links = self.links.len();
        let mut candidates = Vec::with_capacity(links + self.writers.len());
        for link in &mut self.links {
            link.tidy();
        }
        self.spill();
        for (i, link) in self.links.iter().enumerate() {
            let Some(head) = link.head() else { continue };
            candidates.push(Candidate {
                link: i,
                deadline_us: sequences::micros(head.deadline),
                cost_us: link.cost.of(head.job.units()),
                speculative: head.speculative(),
                cores: link.cores,
            });
        }
        for (i, writer) in self.writers.iter_mut().enumerate() {
            let Some((deadline, speculative)) = writer.head() else { continue };
            candidates.push(Candidate {
                link: links + i,
                deadline_us: sequences::micros(deadline),
                cost_us: writer.step_us(),
                speculative,
                cores: writer.cores,
            });
        }
        for granted in policy::grant(&mut candidates, self.free, self.total) {
            let held = match granted.checked_sub(links) {
                Some(writer) => self.writers[writer].start(self.total),
                None => self.links[granted].start(self.total),
            };
            self.free -= held;
        }
    }
}

/// A deadline so far from now.
pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
