//! The scheduler actor: all inference of all sessions goes through here, on a CPU as on a GPU.
//!
//! *Input:* every session has a bounded submission lane ([`SUBMISSIONS`] pieces of work); the mailbox carries
//! only doorbells and control. *Output:* answers go straight from the device's thread to whoever asked.
//! *When a lane is full* the submission is refused and the stage deals with it. *On a crash* of an engine
//! its link opens it again and runs what was lost once more (see [`device`], [`sequences`]); a crash of
//! this actor ends the server's sessions, since nothing can be answered without it: the root restarts it.
//!
//! The decisions themselves are pure and lie in [`policy`].

pub mod device;
pub mod policy;
mod sequences;
pub mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::{Asr, Cancel, Embedder, EngineError, Llm, Tts, TurnDetector, Vad};

use crate::lane::Lane;
use crate::metrics as m;

use device::{LinkHandle, LinkStatus, Opener, spawn_link};
use policy::Candidate;
use sequences::{Book, LlmLink, Outcome, spawn_llm};
use work::{Job, Stake, Work};

/// Work of one session that may wait to be read by the scheduler. By construction a session has at most
/// one window, one decision, two recognitions, two clauses, one lookup and one text under way.
const SUBMISSIONS: usize = 16;

/// Windows, decisions or lookups that run in one call: what a session limit of a few hundred can bring
/// at once; beyond it a batch gains nothing more (measured up to 64).
const BATCH_MAX: usize = 64;

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
    /// How they share the machine.
    pub cores: Cores,
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
    /// A new session's lane.
    Register(u64, Lane<Work>),
    /// A session is gone: what it waits for is void, its place in the cache is free.
    Released(u64),
    /// An engine finished its batch.
    Idle(usize),
    /// The language model finished an order.
    Stepped(Box<SteppedReport>),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// What the language model's thread reports.
pub struct SteppedReport(Outcome);

/// The kinds of engines that take jobs, in the order of their links.
const KINDS: [&str; 5] = ["vad", "turn", "asr", "tts", "embed"];

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
    /// Registers a session.
    pub fn register(gpu: &ActorRef<GpuMsg>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        let lane = Lane::new(SUBMISSIONS);
        gpu.cast(GpuMsg::Register(key, lane.clone())).ok();
        let bell = gpu.clone();
        lane.attach(Box::new(move || {
            bell.cast(GpuMsg::Doorbell(key)).ok();
        }));
        Self(Arc::new(SubmitterInner { key, lane, gpu: gpu.clone() }))
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

/// The scheduler's state.
pub struct GpuState {
    lanes: HashMap<u64, Lane<Work>>,
    queues: [Vec<Work>; 5],
    links: [Option<LinkHandle>; 5],
    busy: [bool; 5],
    cores: [u32; 5],
    held: [u32; 5],
    llm: LlmLink,
    llm_busy: bool,
    llm_cores: u32,
    llm_held: u32,
    book: Book,
    total: u32,
    free: u32,
}

/// Where the engines' status can be read without asking the actor.
#[derive(Clone, Default)]
pub struct Statuses(Arc<std::sync::Mutex<Vec<Known>>>);

/// An engine's kind and status.
type Known = (&'static str, Arc<LinkStatus>);

impl Statuses {
    /// All engines.
    pub fn read(&self) -> Vec<EngineStatus> {
        let list = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        list.iter()
            .map(|(kind, s)| EngineStatus {
                kind,
                up: s.up(),
                restarts: s.restarts(),
                pid: s.pid(),
                refused: s.refused(),
            })
            .collect()
    }
}

impl Actor for Gpu {
    type Msg = GpuMsg;
    type State = GpuState;
    type Arguments = (Engines, Statuses);

    async fn pre_start(
        &self,
        me: ActorRef<GpuMsg>,
        (engines, statuses): Self::Arguments,
    ) -> Result<GpuState, ActorProcessingErr> {
        let idle = |link: usize| {
            let me = me.clone();
            move || {
                me.cast(GpuMsg::Idle(link)).ok();
            }
        };
        let links = [
            Some(spawn_link("vad", engines.vad, device::run_vad, idle(0))?),
            Some(spawn_link("turn", engines.turn, device::run_turn, idle(1))?),
            Some(spawn_link("asr", engines.asr, device::run_asr, idle(2))?),
            Some(spawn_link("tts", engines.tts, device::run_tts, idle(3))?),
            match engines.embed {
                Some(opener) => Some(spawn_link("embed", opener, device::run_embed, idle(4))?),
                None => None,
            },
        ];
        let report = me.clone();
        let llm = spawn_llm(engines.llm, move |outcome| {
            report.cast(GpuMsg::Stepped(Box::new(SteppedReport(outcome)))).ok();
        })?;
        let mut list: Vec<_> = KINDS
            .iter()
            .zip(&links)
            .filter_map(|(kind, link)| link.as_ref().map(|l| (*kind, Arc::clone(&l.status))))
            .collect();
        list.push(("llm", Arc::clone(&llm.status)));
        *statuses.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = list;
        let c = engines.cores;
        Ok(GpuState {
            lanes: HashMap::new(),
            queues: Default::default(),
            links,
            // Each link reports idle once its engine is open.
            busy: [true; 5],
            cores: [0, c.turn, c.asr, c.tts, 1],
            held: [0; 5],
            llm,
            llm_busy: true,
            llm_cores: c.llm,
            llm_held: 0,
            book: Book::new(),
            total: c.total,
            free: c.total,
        })
    }

    async fn handle(
        &self,
        _me: ActorRef<GpuMsg>,
        msg: GpuMsg,
        state: &mut GpuState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            GpuMsg::Register(key, lane) => {
                state.lanes.insert(key, lane);
            }
            GpuMsg::Released(key) => {
                state.lanes.remove(&key);
                state.book.release(key);
                for queue in &mut state.queues {
                    drop_void(queue, |work| work.session == key);
                }
            }
            GpuMsg::Doorbell(key) => state.collect(key),
            GpuMsg::Idle(link) => {
                if state.busy[link] {
                    state.busy[link] = false;
                    state.free += state.held[link];
                    state.held[link] = 0;
                }
            }
            GpuMsg::Stepped(report) => {
                // A death while idle is reported without an order; one may be on its way all the same.
                if report.0.ordered || state.llm_held == 0 {
                    state.free += std::mem::take(&mut state.llm_held);
                    state.llm_busy = false;
                }
                state.book.outcome(report.0);
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
        let Some(lane) = self.lanes.get(&key) else { return };
        lane.answer();
        while let Some(work) = lane.pop() {
            let queue = match &work.job {
                Job::Vad { .. } => 0,
                Job::Turn { .. } => 1,
                Job::Asr { .. } => 2,
                Job::Tts { .. } => 3,
                Job::Embed { .. } => 4,
                Job::Generate { .. } => {
                    self.book.submit(key, work);
                    continue;
                }
            };
            if self.links[queue].is_none() {
                work.job.fail(EngineError::Invalid(format!("no {} engine is configured", KINDS[queue])));
                continue;
            }
            self.queues[queue].push(work);
        }
    }

    /// Starts whatever may start now.
    fn dispatch(&mut self) {
        const LLM: usize = KINDS.len();
        let mut candidates = Vec::with_capacity(LLM + 1);
        for link in 0..LLM {
            let queue = &mut self.queues[link];
            drop_void(queue, |work| work.cancel.is_cancelled());
            if self.busy[link] || queue.is_empty() {
                continue;
            }
            queue.sort_by_key(|w| (w.speculative(), w.deadline));
            let head = &queue[0];
            candidates.push(Candidate {
                link,
                deadline_us: sequences::micros(head.deadline),
                speculative: head.speculative(),
                cores: self.cores[link],
            });
        }
        if !self.llm_busy
            && let Some((deadline, speculative)) = self.book.head()
        {
            let deadline_us = sequences::micros(deadline);
            candidates.push(Candidate { link: LLM, deadline_us, speculative, cores: self.llm_cores });
        }
        for link in policy::grant(&mut candidates, self.free, self.total) {
            if link == LLM { self.start_llm() } else { self.start(link) }
        }
    }

    fn start(&mut self, link: usize) {
        let Some(handle) = &self.links[link] else { return };
        // One recognition or clause at a time: they gain nothing from a batch on these engines.
        let size = if matches!(link, 2 | 3) { 1 } else { BATCH_MAX.min(self.queues[link].len()) };
        let batch: Vec<Work> = self.queues[link].drain(..size).collect();
        if handle.batches.try_send(batch).is_ok() {
            self.busy[link] = true;
            self.held[link] = self.cores[link].min(self.total);
            self.free -= self.held[link];
        }
    }

    fn start_llm(&mut self) {
        let order = self.book.order();
        if self.llm.orders.try_send(order).is_ok() {
            self.llm_busy = true;
            self.llm_held = self.llm_cores.min(self.total);
            self.free -= self.llm_held;
        }
    }
}

/// Removes work nobody waits for any more, telling whoever asked.
fn drop_void(queue: &mut Vec<Work>, void: impl Fn(&Work) -> bool) {
    let mut i = 0;
    while i < queue.len() {
        if void(&queue[i]) {
            queue.swap_remove(i).job.fail(EngineError::Cancelled);
        } else {
            i += 1;
        }
    }
}

/// A deadline so far from now.
pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
