//! A session's way to the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ractor::ActorRef;
use viva_models::{Cancel, EngineError};

use crate::lane::Lane;
use crate::metrics as m;

use super::GpuMsg;
use super::binding::Want;
use super::work::{Job, Stake, Work};

/// Work of one session that may wait to be read by the scheduler. By construction a session has at most
/// one window, one decision, two recognitions, two clauses, one lookup and one text under way.
pub const SUBMISSIONS: usize = 16;

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

/// A deadline so far from now.
pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
