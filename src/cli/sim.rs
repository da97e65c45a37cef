//! `viva sim`: what a machine would carry, in virtual time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::ProgressBar;

use super::load::write;
use crate::lab::ramp::{LATE_SHARE, Limits};
use crate::lab::report::capacity_table;
use crate::lab::scenario::Scenario;
use crate::lab::sim::machine::Machine;
use crate::lab::sim::policy::Policy;
use crate::lab::sim::report::SimReport;
use crate::lab::sim::{Outcome, Plan, ramp, run as simulate};

/// The most sessions that are simulated: beyond it even virtual time takes minutes.
const SESSIONS_MAX: u64 = 10_000;
/// Milliseconds p95 may last, as in `viva load`.
const TARGET_MS: f64 = 2_000.0;

const AFTER_HELP: &str = "\
Examples:
  viva sim --machine h100-80 --sessions 64        what 64 callers would feel on one H100
  viva sim --machine cpu2 --ramp                  how many callers two cores carry
  viva sim --machine cpu2 --ramp --policy fifo    ... if calls ran one at a time in the order of arrival
  viva sim --machine mine.toml --scenario interview --ramp --html r.html

Machines that come along: cpu2 (two cores, measured in part), h100-48 and h100-80 (from published figures, a forecast of
a forecast). One of your own is a file of the same form; each figure says where it comes from.

The scheduler and the turn machine are the server's own; engines are their times. What is left out: the network,
memory, what engines do to each other's caches, and words that are misheard.";

/// Simulates many sessions in virtual time.
///
/// The server's own scheduler and turn machine, against a machine whose engines are known by their times. The same
/// seed gives the same run to the last bit.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct SimArgs {
    /// The machine: the name of one that comes along, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "cpu2")]
    pub machine: PathBuf,
    /// How many sessions
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=SESSIONS_MAX))]
    pub sessions: u64,
    /// Simulated seconds during which they begin turns
    #[arg(long, default_value_t = 300.0)]
    pub seconds: f64,
    /// Simulated seconds within which they join [default: one cycle of the scenario]
    #[arg(long, value_name = "SECONDS")]
    pub ramp_up: Option<f64>,
    /// What callers do: the name of a scenario that comes along, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "short")]
    pub scenario: PathBuf,
    /// Seconds from one script's start to the next one's [default: the scenario's]
    #[arg(long, value_name = "SECONDS")]
    pub cycle: Option<f64>,
    /// Who decides what runs next
    #[arg(long, value_enum, default_value = "viva")]
    pub policy: Policy,
    /// Seed of everything that is left to chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Find how many sessions are carried: doubling their number, then halving the gap
    #[arg(long)]
    pub ramp: bool,
    /// With --ramp: the most p95 of voice to voice may last, milliseconds [default: 2000]
    #[arg(long, value_name = "MS", requires = "ramp", conflicts_with = "target_ratio")]
    pub target_ms: Option<f64>,
    /// With --ramp: p95 may last so many times that of one session
    #[arg(long, value_name = "TIMES", requires = "ramp")]
    pub target_ratio: Option<f64>,
    /// With --ramp: try no more sessions
    #[arg(long, default_value_t = 2_048, value_name = "SESSIONS", value_parser = clap::value_parser!(u64).range(1..=SESSIONS_MAX))]
    pub ramp_max: u64,
    /// Write the report here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one self-contained page with plots here
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Simulates, and tells.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    ensure!((1.0..=86_400.0).contains(&args.seconds), "--seconds must lie between 1 and 86400");
    ensure!(
        args.target_ms.is_none_or(|ms| (1.0..=600_000.0).contains(&ms)),
        "--target-ms must lie between 1 and 600000"
    );
    ensure!(
        args.target_ratio.is_none_or(|times| (1.0..=100.0).contains(&times)),
        "--target-ratio must lie between 1 and 100"
    );
    let machine = Machine::load(&args.machine).map_err(anyhow::Error::msg)?;
    let (mut scenario, clips) = Scenario::load(&args.scenario)?;
    if let Some(cycle) = args.cycle {
        ensure!((0.0..=3_600.0).contains(&cycle), "--cycle must lie between 0 and 3600");
        scenario.cycle_s = cycle;
    }
    let ramp_up_s = args.ramp_up.unwrap_or(scenario.cycle_s.min(args.seconds / 2.0));
    ensure!((0.0..=args.seconds).contains(&ramp_up_s), "--ramp-up must lie between 0 and --seconds");
    let plan = Plan {
        machine: &machine,
        policy: args.policy,
        scenario: Arc::new(scenario),
        clips: Arc::new(clips),
        sessions: args.sessions,
        seconds: args.seconds,
        ramp_up_s,
        seed: args.seed,
    };
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.set_message("simulating ...");
    let (outcome, capacity) = match args.ramp {
        false => (simulate(&plan), None),
        true => {
            let limits = |alone: &Outcome| {
                let ratio = args.target_ratio.map(|times| alone.voice_to_voice_ms.p95 * times);
                Limits { p95_ms: ratio.or(args.target_ms).unwrap_or(TARGET_MS), late_share: LATE_SHARE }
            };
            let mut told = |point: &crate::lab::ramp::Point| {
                let (sessions, p95) = (point.callers, point.voice_to_voice_ms.p95);
                bar.set_message(format!("{sessions} sessions: p95 {p95:.0} ms"));
            };
            let (outcome, capacity) = ramp(&plan, args.ramp_max, limits, &mut told);
            (outcome, Some(capacity))
        }
    };
    bar.finish_and_clear();
    let report = SimReport::new(&plan, &outcome, capacity.as_ref());
    println!("{}\n{}", report.preface().join("\n"), report.tables());
    if let Some(capacity) = &capacity {
        println!("{}\n{}", capacity_table(capacity), capacity.sentence());
    }
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?)?;
    }
    if let Some(path) = &args.html {
        write(path, &report.page()?.render())?;
    }
    ensure!(outcome.answered > 0, "no session got an answer: the machine is too slow even for these few");
    Ok(())
}
