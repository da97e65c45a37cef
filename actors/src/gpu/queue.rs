//! One engine that takes jobs, as the scheduler sees it: what waits for it, what it is doing, what that costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use viva_models::EngineError;

use super::binding::Serves;
use super::cost::Cost;
use super::device::{LinkHandle, LinkStatus, Opener, Run, spawn_link};
use super::work::{Job, Work};

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
    /// Somebody waits for it.
    pub(super) certain: bool,
    /// When its most urgent piece is due.
    pub(super) deadline: Instant,
    since: Instant,
}

/// One engine.
pub(super) struct Link {
    pub(super) kind: Kind,
    pub(super) serves: Serves,
    pub(super) cores: u32,
    pub(super) cost: Cost,
    pub(super) queue: Vec<Work>,
    handle: LinkHandle,
    /// None while it is idle. It is busy with being opened at first.
    busy: Option<Busy>,
}

impl Link {
    pub(super) fn spawn<T: ?Sized + Send + 'static>(
        kind: Kind,
        serves: Serves,
        cores: u32,
        opener: Opener<T>,
        run: Run<T>,
        idle: impl Fn(Option<Done>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let handle = spawn_link(kind.name(), opener, run, idle)?;
        let now = Instant::now();
        let busy = Some(Busy { held: 0, certain: false, deadline: now, since: now });
        Ok(Self { kind, serves, cores, cost: Cost::default(), queue: Vec::new(), handle, busy })
    }

    pub(super) fn status(&self) -> &Arc<LinkStatus> {
        &self.handle.status
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_none()
    }

    pub(super) fn busy_since(&self) -> Option<Instant> {
        self.busy.as_ref().map(|busy| busy.since)
    }

    /// It is idle again. Gives what it was doing.
    pub(super) fn release(&mut self) -> Option<Busy> {
        self.busy.take()
    }

    /// Drops what nobody waits for, and puts the most urgent first.
    pub(super) fn tidy(&mut self) {
        self.drop_void(|work| work.cancel.is_cancelled());
        self.queue.sort_by_key(|w| (w.speculative(), w.deadline));
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

    /// What it would do next, if it can.
    pub(super) fn head(&self) -> Option<&Work> {
        self.queue.first().filter(|_| self.is_idle())
    }

    /// The first piece that would be done too late here: because the engine is down, or because of what is before it.
    pub(super) fn take_late(&mut self) -> Option<Work> {
        let now = Instant::now();
        let mut at = self.busy.as_ref().map_or(now, |busy| {
            let units = 1.0_f64.max(self.queue.first().map_or(1.0, |w| w.job.units()));
            (busy.since + Duration::from_micros(self.cost.of(units))).max(now)
        });
        let down = !self.handle.status.up();
        for i in 0..self.queue.len() {
            let work = &self.queue[i];
            at += Duration::from_micros(self.cost.of(work.job.units()));
            if !work.speculative() && (down || at > work.deadline) {
                return Some(self.queue.remove(i));
            }
        }
        None
    }

    /// Starts the most urgent batch. Gives the cores it holds from now on.
    pub(super) fn start(&mut self, total: u32) -> u32 {
        let size = self.kind.batch_max().min(self.queue.len());
        let Some(head) = self.queue.first() else { return 0 };
        let (certain, deadline) = (!head.speculative(), head.deadline);
        let batch: Vec<Work> = self.queue.drain(..size).collect();
        if let Err(refused) = self.handle.batches.try_send(batch) {
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
        self.busy = Some(Busy { held, certain, deadline, since: Instant::now() });
        held
    }
}
