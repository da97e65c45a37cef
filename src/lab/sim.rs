//! The simulator: thousands of sessions in virtual time, to say what a machine would carry that is not here.
//!
//! What decides is the server's own: the scheduler's policy ([`policy`]) and the turn machine. What costs is a
//! [`machine`](machine::Machine): a file of measured or published times. Who talks are the [`candidate`]s of a
//! scenario. A [`world`] lets time pass. The same seed gives the same run to the last bit.

pub mod caller;
pub mod candidate;
pub mod machine;
pub mod orders;
pub mod policy;
pub mod reply;
pub mod report;
pub mod session;
mod texts;
mod words;
pub mod world;

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::client::Clips;
use crate::lab::ramp::{Capacity, Limits, Point, Search};
use crate::lab::scenario::Scenario;
use crate::lab::score::Percentiles;

use caller::{Caller, Felt};
use machine::Machine;
use orders::Io;
use policy::Policy;
use session::{Common, Session};
use world::{LINKS, NAMES, Use, World};

/// After the end answers are waited for so long, microseconds.
const FINISH_US: u64 = 45_000_000;

/// What is simulated.
#[derive(Clone)]
pub struct Plan<'a> {
    /// What it costs.
    pub machine: &'a Machine,
    /// Who decides.
    pub policy: Policy,
    /// What candidates do.
    pub scenario: Arc<Scenario>,
    /// Its recordings.
    pub clips: Arc<Clips>,
    /// How many.
    pub sessions: u64,
    /// Seconds during which they begin turns.
    pub seconds: f64,
    /// Seconds within which they join.
    pub ramp_up_s: f64,
    /// Of everything that is left to chance.
    pub seed: u64,
}

/// What an engine did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineUse {
    /// Which.
    pub engine: &'static str,
    /// Calls, or steps.
    pub calls: u64,
    /// Jobs in a call, or sequences in a step, on average.
    pub batch_mean: f64,
    /// The most in one.
    pub batch_max: u64,
    /// Share of the time during which it worked, 0 to 1; of several processes, on average.
    pub utilisation: f64,
    /// Milliseconds a job waited for its call, on average.
    pub queue_ms: f64,
}

/// What came of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Sessions.
    pub sessions: u64,
    /// Turns that waited for an answer, after the ramp-up.
    pub turns: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Last speech sample said to first frame of the reply arrived.
    pub voice_to_voice_ms: Percentiles,
    /// Turns in which the server decided or spoke too early.
    pub cut_offs: u64,
    /// Waits a person takes for a fault.
    pub dead_air: u64,
    /// Noises made over the voice.
    pub noises: u64,
    /// Times the voice went on after a hold.
    pub resumed: u64,
    /// 20 ms frames of reply.
    pub frames: u64,
    /// 20 ms slots with nothing to play.
    pub missing_frames: u64,
    /// Drafts thrown away.
    pub drafts_discarded: u64,
    /// Sessions that were never answered.
    pub mute: u64,
    /// Share of the processor, and of the GPU, that sessions and engines used, 0 to 1.
    pub used: (f64, f64),
    /// What the engines did.
    pub engines: Vec<EngineUse>,
    /// Events in the simulator's queue.
    pub events: u64,
    /// Every wait after the ramp-up: when in the run, seconds, and how long, milliseconds.
    #[serde(skip)]
    pub waits: Vec<(f64, f64)>,
}

/// Runs it.
pub fn run(plan: &Plan<'_>) -> Outcome {
    let mut starts = StdRng::seed_from_u64(plan.seed);
    let mut world = World::new(plan.machine, plan.policy);
    let session = &plan.machine.session;
    let common = Common {
        tail_us: (session.vad_tail_ms * 1_000.0) as u64,
        line_us: (session.line_ms * 1_000.0) as u64,
        reply_tokens: plan.machine.llm.reply_tokens,
    };
    let end = (plan.seconds * 1e6) as u64;
    for number in 0..plan.sessions {
        let place = plan.ramp_up_s / plan.sessions as f64;
        let at = ((number as f64 + starts.random_range(0.0..1.0)) * place * 1e6) as u64;
        let dice = |starts: &mut StdRng| StdRng::seed_from_u64(starts.random());
        let mut io = Io { now: at, ..Io::default() };
        let (scenario, clips) = (Arc::clone(&plan.scenario), Arc::clone(&plan.clips));
        let caller = Caller::new(scenario, clips, dice(&mut starts), at, end, &mut io);
        world.run_until(at);
        world.open(Session::new(at, caller, dice(&mut starts), common), io.wakes);
    }
    world.run_until(end);
    let share = |used_us: f64, there: f64| used_us / (end as f64 * there).max(1.0);
    let used = (share(world.used_us.0, plan.machine.cpu_cores), share(world.used_us.1, 1.0));
    world.run_until(end + FINISH_US);
    Outcome { used, ..outcome(plan, &world, end) }
}

fn outcome(plan: &Plan<'_>, world: &World<'_>, end: u64) -> Outcome {
    let from = (plan.ramp_up_s * 1e6) as u64;
    let felt = || world.sessions.iter().flat_map(|session| &session.caller.felt);
    let steady: Vec<&Felt> = felt().filter(|felt| felt.end_us >= from).collect();
    let waits: Vec<(f64, f64)> = steady
        .iter()
        .filter_map(|felt| Some((felt.end_us as f64 / 1e6, felt.waited_us? as f64 / 1_000.0)))
        .collect();
    let count = |pick: fn(&Felt) -> bool| steady.iter().filter(|felt| pick(felt)).count() as u64;
    let sum = |pick: fn(&Session) -> u64| world.sessions.iter().map(pick).sum::<u64>();
    let mute = |session: &&Session| session.caller.felt.iter().all(|felt| felt.waited_us.is_none());
    Outcome {
        sessions: plan.sessions,
        turns: steady.len() as u64,
        answered: count(|felt| felt.waited_us.is_some()),
        voice_to_voice_ms: Percentiles::of(waits.iter().map(|wait| wait.1)),
        cut_offs: count(|felt| felt.cut_off),
        dead_air: count(|felt| felt.dead_air()),
        noises: sum(|session| session.caller.noises),
        resumed: sum(|session| session.caller.resumed),
        frames: sum(|session| session.frames),
        missing_frames: sum(|session| session.missing),
        drafts_discarded: sum(|session| session.discarded),
        mute: world.sessions.iter().filter(mute).count() as u64,
        used: (0.0, 0.0),
        engines: (0..LINKS).map(|link| engine(link, plan.machine, &world.uses[link], end)).collect(),
        events: world.handled,
        waits,
    }
}

fn engine(link: usize, machine: &Machine, used: &Use, end: u64) -> EngineUse {
    let processes = match link {
        world::ASR => machine.asr.processes,
        world::TTS => machine.tts.processes,
        _ => 1,
    } as f64;
    let each = |whole: f64, parts: u64| if parts > 0 { whole / parts as f64 } else { 0.0 };
    EngineUse {
        engine: NAMES[link],
        calls: used.calls,
        batch_mean: each(used.jobs as f64, used.calls),
        batch_max: used.most,
        utilisation: (used.busy_us / (end.max(1) as f64 * processes)).min(1.0),
        queue_ms: each(used.queued_us as f64 / 1_000.0, used.jobs),
    }
}

impl Outcome {
    /// As a point of a capacity curve.
    pub fn point(&self, limits: Limits) -> Point {
        let share = |part: u64, whole: u64| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
        let point = Point {
            callers: self.sessions,
            voice_to_voice_ms: self.voice_to_voice_ms.clone(),
            late_share: share(self.missing_frames, self.frames),
            cut_off_share: share(self.cut_offs, self.turns),
            lost: self.mute,
            cpu_s_per_session_s: None,
            passed: false,
            why: None,
        };
        point.judged(limits)
    }
}

/// Searches for the capacity, up to `most`. `told` hears of each number tried. Gives the outcome of the most sessions
/// that kept the limits, or of one.
pub fn ramp(
    plan: &Plan<'_>,
    most: u64,
    limits: impl Fn(&Outcome) -> Limits,
    told: &mut dyn FnMut(&Point),
) -> (Outcome, Capacity) {
    let mut search = Search::new(most);
    let mut best = run(&Plan { sessions: 1, ..plan.clone() });
    let limits = limits(&best);
    let mut points = Vec::new();
    while let Some(sessions) = search.next() {
        let tried = run(&Plan { sessions, ..plan.clone() });
        let point = tried.point(limits);
        told(&point);
        search.took(sessions, point.passed);
        if point.passed && tried.sessions > best.sessions {
            best = tried;
        }
        points.push(point);
    }
    (best, Capacity::new(&search, limits, points))
}

#[cfg(test)]
mod tests;
