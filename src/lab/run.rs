//! Lets many callers call at once and watches the server's processes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::processes::{ProcessTree, Usage};
use super::scenario::Scenario;
use crate::client::{Call, CallOptions, CallReport, ClientError, Clips};

/// After the run's end a script may still take so long to its answer's end; then it is cut short.
const FINISH_GRACE: Duration = Duration::from_secs(45);
/// How often the server's processes are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// A load run.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// Where to call.
    pub server: String,
    /// The server's process, to watch it.
    pub server_pid: Option<u32>,
    /// How many callers.
    pub callers: usize,
    /// Seconds during which scripts are begun.
    pub seconds: f64,
    /// Callers begin within so many seconds, spread evenly with a random share of their place.
    pub ramp_up_s: f64,
    /// Seed of the starts and of who says what.
    pub seed: u64,
    /// What they do.
    pub scenario: Arc<Scenario>,
    /// The recordings they do it with.
    pub clips: Clips,
    /// How they call.
    pub call: CallOptions,
}

/// What one caller went through.
#[derive(Debug, Clone, Serialize)]
pub struct CallerRun {
    /// Its number.
    pub caller: usize,
    /// When it called, seconds into the run.
    pub started_s: f64,
    /// The server would not take the call.
    pub refused: bool,
    /// Why the call ended before its time.
    pub broken: Option<String>,
    /// What it heard.
    pub report: CallReport,
}

/// The server's processes at a moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Watch {
    /// Seconds into the run.
    pub at_s: f64,
    /// What they used.
    #[serde(flatten)]
    pub usage: Usage,
    /// Calls standing.
    pub calls: u64,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct LoadRun {
    /// Every caller.
    pub callers: Vec<CallerRun>,
    /// The server's processes, once a second; empty when they are not ours to see.
    pub watched: Vec<Watch>,
}

/// What can be told while it runs.
#[derive(Debug, Default)]
pub struct Live {
    /// Calls standing.
    pub calls: AtomicU64,
    /// Turns done.
    pub turns: AtomicU64,
    /// Calls refused or broken.
    pub lost: AtomicU64,
}

/// Runs the plan to its end.
pub async fn run(plan: &LoadPlan, live: &Arc<Live>) -> LoadRun {
    let begin = Instant::now();
    let mut starts = StdRng::seed_from_u64(plan.seed);
    let (stop, stopped) = oneshot::channel();
    let watching = plan.server_pid.map(|pid| tokio::spawn(watch(pid, begin, Arc::clone(live), stopped)));
    let mut calling = JoinSet::new();
    for caller in 0..plan.callers {
        let place = plan.ramp_up_s / plan.callers as f64;
        let offset = place * (caller as f64 + starts.random_range(0.0..1.0));
        let seed = starts.random();
        calling.spawn(one_caller(caller, begin, offset, seed, plan.clone(), Arc::clone(live)));
    }
    let mut callers = Vec::with_capacity(plan.callers);
    while let Some(joined) = calling.join_next().await {
        match joined {
            Ok(run) => callers.push(run),
            Err(error) => tracing::error!(%error, "a caller's task ended"),
        }
    }
    callers.sort_by_key(|run| run.caller);
    // The watch may have ended by itself only by a panic; then there is nothing to stop.
    let _ = stop.send(());
    let watched = match watching {
        Some(watching) => watching.await.unwrap_or_default(),
        None => Vec::new(),
    };
    LoadRun { callers, watched }
}

async fn one_caller(
    caller: usize,
    begin: Instant,
    offset_s: f64,
    seed: u64,
    plan: LoadPlan,
    live: Arc<Live>,
) -> CallerRun {
    sleep_until(begin + Duration::from_secs_f64(offset_s)).await;
    let started_s = begin.elapsed().as_secs_f64();
    let mut call = match Call::connect(&plan.server, plan.clips.clone(), plan.call.clone()).await {
        Ok(call) => call,
        Err(error) => {
            live.lost.fetch_add(1, Ordering::Relaxed);
            let refused = matches!(error, ClientError::Refused { status: 503 | 429, .. });
            let report = CallReport::default();
            return CallerRun { caller, started_s, refused, broken: Some(error.to_string()), report };
        }
    };
    live.calls.fetch_add(1, Ordering::Relaxed);
    let end = begin + Duration::from_secs_f64(plan.seconds);
    let scripts = repeat(&mut call, end, seed, &plan, &live);
    let broken = match timeout_at(end + FINISH_GRACE, scripts).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("its last script did not end in time".to_owned()),
    };
    live.calls.fetch_sub(1, Ordering::Relaxed);
    if broken.is_some() {
        live.lost.fetch_add(1, Ordering::Relaxed);
    }
    let report = call.report();
    call.hang_up().await;
    CallerRun { caller, started_s, refused: false, broken, report }
}

/// Plays one script a cycle until `end`, with a thought before each.
async fn repeat(
    call: &mut Call,
    end: Instant,
    seed: u64,
    plan: &LoadPlan,
    live: &Live,
) -> Result<(), ClientError> {
    let mut dice = StdRng::seed_from_u64(seed);
    let cycle = Duration::from_secs_f64(plan.scenario.cycle_s);
    loop {
        let began = Instant::now();
        call.run(&plan.scenario.draw(&mut dice), true).await?;
        live.turns.fetch_add(1, Ordering::Relaxed);
        let thought = Duration::from_millis(plan.scenario.think_ms(&mut dice).into());
        let next = (began + cycle).max(Instant::now() + thought);
        if next >= end {
            return Ok(());
        }
        call.listen(next.saturating_duration_since(Instant::now())).await?;
    }
}

/// Looks at the server's processes until `stop` changes, and once more then.
async fn watch(pid: u32, begin: Instant, live: Arc<Live>, mut stop: oneshot::Receiver<()>) -> Vec<Watch> {
    let mut tree = ProcessTree::new(pid);
    let mut watched = Vec::new();
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stopped = false;
    while !stopped {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stop => stopped = true,
        }
        let calls = live.calls.load(Ordering::Relaxed);
        watched.push(Watch { at_s: begin.elapsed().as_secs_f64(), usage: tree.usage(), calls });
    }
    watched
}
