//! One engine that takes jobs, as the scheduler sees it: what waits for it, what it is doing, what that costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use viva_models::{Cancel, EngineError};

use super::binding::Serves;
use super::cost::Cost;
use super::device::{LinkHandle, LinkStatus, Opener, Run, spawn_link};
use super::load::Part;
use super::policy::Discipline;
use super::work::{Job, Stake, Work};

/// Windows, decisions or lookups that run in one call: what a session limit of a few hundred can bring
/// at once; beyond it a batch gains nothing more (measured up to 64).
const BATCH_MAX: usize = 64;

/// What an engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Vad,
    Turn,
    Asr,
    Tts,
    Embed,
}

impl Kind {
    /// The kind of engine that does this job; none for a text, which a language model writes.
    pub(super) fn of(job: &Job) -> Option<Self> {
        match job {
            Job::Vad { .. } => Some(Self::Vad),
            Job::Turn { .. } => Some(Self::Turn),
            Job::Asr { .. } => Some(Self::Asr),
            Job::Tts { .. } => Some(Self::Tts),
            Job::Embed { .. } => Some(Self::Embed),
            Job::Generate { .. } => None,
        }
    }

    pub(super) fn part(self) -> Part {
        match self {
            Self::Asr => Part::Asr,
            Self::Tts => Part::Tts,
            Self::Vad | Self::Turn | Self::Embed => Part::Other,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vad => "vad",
            Self::Turn => "turn",
            Self::Asr => "asr",
            Self::Tts => "tts",
            Self::Embed => "embed",
        }
    }

    /// Pieces of work in one call. One recognition and one clause at a time: these engines gain nothing from more.
    fn batch_max(self) -> usize {
        if matches!(self, Self::Asr | Self::Tts) { 1 } else { BATCH_MAX }
    }
}

/// What a batch came to.
pub(super) struct Done {
    pub(super) units: f64,
    pub(super) took: Duration,
}

/// What an engine is doing.
pub(super) struct Busy {
    /// Cores it holds.
    pub(super) held: u32,
    /// What hangs on its most urgent piece; nothing while it is being opened.
    stake: Option<Stake>,
    /// Stops that piece.
    cancel: Option<Cancel>,
    /// When its most urgent piece is due.
    pub(super) deadline: Instant,
    since: Instant,
}

impl Busy {
    /// Whether somebody waits for it, or waited: asked when it is done, since more is known then.
    pub(super) fn wanted(&self) -> bool {
        self.stake.as_ref().is_some_and(Stake::wanted)
    }
}

/// One process of an engine, or the engine itself where it is none.
struct Worker {
    handle: LinkHandle,
    /// None while it is idle. It is busy with being opened at first.
    busy: Option<Busy>,
}

/// One engine: a queue, and one process or several that work on it.
pub(super) struct Link {
    pub(super) kind: Kind,
    pub(super) serves: Serves,
    /// Cores that one process occupies while it works.
    pub(super) cores: u32,
    pub(super) cost: Cost,
    pub(super) queue: Vec<Work>,
    discipline: Discipline,
    workers: Vec<Worker>,
}

impl Link {
    pub(super) fn new(kind: Kind, serves: Serves, cores: u32, discipline: Discipline) -> Self {
        let (cost, queue, workers) = (Cost::default(), Vec::new(), Vec::new());
        Self { kind, serves, cores, cost, queue, discipline, workers }
    }

    /// Starts one process more.
    pub(super) fn spawn<T: ?Sized + Send + 'static>(
        &mut self,
        opener: Opener<T>,
        run: Run<T>,
        idle: impl Fn(Option<Done>) + Send + 'static,
    ) -> std::io::Result<()> {
        let handle = spawn_link(self.kind.name(), opener, run, idle)?;
        let now = Instant::now();
        let busy = Some(Busy { held: 0, stake: None, cancel: None, deadline: now, since: now });
        self.workers.push(Worker { handle, busy });
        Ok(())
    }

    /// Of each process.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &Arc<LinkStatus>> {
        self.workers.iter().map(|worker| &worker.handle.status)
    }

    /// Whether one of its processes is open.
    pub(super) fn up(&self) -> bool {
        self.workers.iter().any(|worker| worker.handle.status.up())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle() > 0
    }

    /// Whether something waits that somebody waits for. The queue is in order.
    pub(super) fn certain_waits(&self) -> bool {
        self.queue.first().is_some_and(|work| !work.speculative())
    }

    /// Stops what is only made to be shown.
    pub(super) fn stop_shown(&self) {
        for busy in self.workers.iter().filter_map(|worker| worker.busy.as_ref()) {
            if let (Some(stake), Some(cancel)) = (&busy.stake, &busy.cancel)
                && stake.is_over()
            {
                cancel.cancel();
            }
        }
    }

    /// Processes that do nothing.
    fn idle(&self) -> usize {
        self.workers.iter().filter(|worker| worker.busy.is_none()).count()
    }

    /// Whether one of its processes is at work; being opened is none.
    pub(super) fn at_work(&self) -> bool {
        self.workers.iter().any(|w| w.busy.as_ref().is_some_and(|_| w.handle.status.up()))
    }

    /// Since when each process does what it is doing.
    pub(super) fn busy_since(&self) -> impl Iterator<Item = (Option<Instant>, &Arc<LinkStatus>)> {
        self.workers.iter().map(|w| (w.busy.as_ref().map(|busy| busy.since), &w.handle.status))
    }

    /// A process is idle again. Gives what it was doing.
    pub(super) fn release(&mut self, worker: usize) -> Option<Busy> {
        self.workers.get_mut(worker)?.busy.take()
    }

    /// Drops what nobody waits for, and puts the most urgent first.
    pub(super) fn tidy(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        self.drop_void(|work| work.cancel.is_cancelled());
        match self.discipline {
            Discipline::Slack => self.queue.sort_by_key(|w| (w.speculative(), w.deadline)),
            Discipline::Arrival => self.queue.sort_by_key(|w| w.submitted),
        }
    }

    /// Removes work, telling whoever asked.
    pub(super) fn drop_void(&mut self, void: impl Fn(&Work) -> bool) {
        let mut i = 0;
        while i < self.queue.len() {
            if void(&self.queue[i]) {
                self.queue.swap_remove(i).job.fail(EngineError::Cancelled);
            } else {
                i += 1;
            }
        }
    }

    /// Pieces of work in one call.
    fn batch_max(&self) -> usize {
        match self.discipline {
            Discipline::Slack => self.kind.batch_max(),
            Discipline::Arrival => 1,
        }
    }

    /// What its idle processes would do next, most urgent first.
    pub(super) fn heads(&self) -> impl Iterator<Item = &Work> {
        self.queue.iter().step_by(self.batch_max()).take(self.idle())
    }

    /// The first piece that would be done too late here: because the engine is down, or because of what is before it.
    pub(super) fn take_late(&mut self) -> Option<Work> {
        let now = Instant::now();
        let units = 1.0_f64.max(self.queue.first().map_or(1.0, |w| w.job.units()));
        let (cost, up) = (self.cost, self.up());
        let free = |worker: &Worker| match &worker.busy {
            Some(busy) => (busy.since + Duration::from_micros(cost.of(units))).max(now),
            None => now,
        };
        // When each process comes free.
        let mut free: Vec<Instant> = self.workers.iter().map(free).collect();
        for i in 0..self.queue.len() {
            let work = &self.queue[i];
            let first = free.iter_mut().min()?;
            *first += Duration::from_micros(cost.of(work.job.units()));
            if !work.speculative() && (!up || *first > work.deadline) {
                return Some(self.queue.remove(i));
            }
        }
        None
    }

    /// Starts the most urgent batch. Gives the cores it holds from now on.
    pub(super) fn start(&mut self, total: u32) -> u32 {
        let size = self.batch_max().min(self.queue.len());
        let Some(head) = self.queue.first() else { return 0 };
        // One that is open before one that is still being opened again.
        let idle = self.workers.iter_mut().filter(|worker| worker.busy.is_none());
        let Some(worker) = idle.min_by_key(|worker| !worker.handle.status.up()) else { return 0 };
        let (stake, deadline) = (Some(head.stake.clone()), head.deadline);
        let cancel = Some(head.cancel.clone());
        let batch: Vec<Work> = self.queue.drain(..size).collect();
        if let Err(refused) = worker.handle.batches.try_send(batch) {
            // An idle link has room for a batch; one that has not is gone with its thread.
            let (std::sync::mpsc::TrySendError::Full(batch)
            | std::sync::mpsc::TrySendError::Disconnected(batch)) = refused;
            for work in batch {
                work.job.fail(EngineError::Unavailable(format!(
                    "the {} engine's thread is gone",
                    self.kind.name()
                )));
            }
            return 0;
        }
        let held = self.cores.min(total);
        worker.busy = Some(Busy { held, stake, cancel, deadline, since: Instant::now() });
        held
    }
}
