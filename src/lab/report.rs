//! A load run as JSON, with every turn, and as a table for the terminal.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::ramp::Capacity;
use super::run::{LoadPlan, LoadRun};
use super::score::{Percentiles, Score};
use crate::client::Via;

/// The whole report, as it is written to `--json`.
#[derive(Debug, Serialize)]
pub struct LoadReport<'a> {
    /// Viva's version.
    pub version: &'static str,
    /// What was run.
    pub plan: PlanReport<'a>,
    /// In figures.
    pub score: &'a Score,
    /// What a ramp found; `score` and `run` are then of the most callers that kept the limits (of one, if none
    /// did).
    pub capacity: Option<&'a Capacity>,
    /// Every caller with every turn, and the server's processes second by second.
    pub run: &'a LoadRun,
}

/// What a reader needs to repeat the run.
#[derive(Debug, Serialize)]
pub struct PlanReport<'a> {
    /// The server called.
    pub server: &'a str,
    /// `real` or `fake`; `unknown` when it is not ours.
    pub engines: &'a str,
    /// Weights' profile, when the server is ours.
    pub profile: &'a str,
    /// `ws` or `webrtc`.
    pub transport: &'a str,
    /// Callers.
    pub callers: usize,
    /// Seconds.
    pub seconds: f64,
    /// Seconds within which they joined.
    pub ramp_up_s: f64,
    /// Seed.
    pub seed: u64,
    /// The scenario's name.
    pub scenario: &'a str,
    /// Seconds of its cycle.
    pub cycle_s: f64,
    /// Cores of this machine.
    pub cores: usize,
}

impl<'a> LoadReport<'a> {
    /// Puts it together.
    pub fn new(
        plan: &'a LoadPlan,
        engines: &'a str,
        profile: &'a str,
        run: &'a LoadRun,
        score: &'a Score,
        capacity: Option<&'a Capacity>,
    ) -> Self {
        let plan = PlanReport {
            server: &plan.server,
            engines,
            profile,
            transport: match plan.call.caller.via {
                Via::WebSocket => "ws",
                Via::WebRtc(_) => "webrtc",
            },
            callers: plan.callers,
            seconds: plan.seconds,
            ramp_up_s: plan.ramp_up_s,
            seed: plan.seed,
            scenario: &plan.scenario.name,
            cycle_s: plan.scenario.cycle_s,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
        };
        Self { version: env!("CARGO_PKG_VERSION"), plan, score, capacity, run }
    }
}

/// The latencies that were measured: name and value.
pub fn latencies(score: &Score) -> Vec<(&'static str, &Percentiles)> {
    let mut rows: Vec<(&'static str, &Percentiles)> =
        score.stages_ms.iter().map(|(name, p)| (name.split_once(' ').map_or(*name, |(_, n)| n), p)).collect();
    rows.push(("voice to voice", &score.voice_to_voice_ms));
    rows.push(("… as played", &score.played_ms));
    rows.push(("interruption to silence", &score.barge_in_silent_ms));
    rows.retain(|(_, p)| p.n > 0);
    rows
}

/// The latencies, one row a measure.
pub fn latency_table(score: &Score) -> Table {
    let mut table = table(&["milliseconds", "n", "p50", "p95", "p99", "max"]);
    for (name, p) in latencies(score) {
        let mut row = vec![Cell::new(name), right(p.n.to_string())];
        row.extend([p.p50, p.p95, p.p99, p.max].map(|ms| right(format!("{ms:.0}"))));
        table.add_row(row);
    }
    table
}

/// Everything else: name and value.
pub fn findings(score: &Score) -> Vec<(&'static str, String)> {
    let share = |part: u64, whole: u64| {
        let percent = if whole > 0 { 100.0 * part as f64 / whole as f64 } else { 0.0 };
        format!("{part} of {whole} ({percent:.1} %)")
    };
    let mut findings = vec![
        ("sessions", format!("{}, {} refused, {} broken", score.sessions, score.refused, score.broken)),
        ("turns answered", share(score.answered, score.turns)),
        ("cut-offs", format!("{}, {} with sound", share(score.cut_offs, score.turns), score.cut_offs_spoken)),
        ("interruptions ignored", share(score.barge_ins_ignored, score.barge_ins)),
        ("noises taken for one", share(score.false_barge_ins, score.coughs)),
        ("dead air", share(score.dead_air, score.turns)),
        ("late frames", share(score.late_frames, score.frames)),
        ("missing frames, gaps", format!("{}, {}", score.missing_frames, score.glitches)),
        ("errors told", score.errors.to_string()),
        ("lines lost on purpose", score.lines_lost.to_string()),
        ("our own late frames", share(score.own_late_frames, score.own_frames)),
    ];
    if let Some(cost) = &score.cost {
        findings.extend([
            ("server CPU", format!("{:.1} s", cost.cpu_s)),
            ("… a session-second", format!("{:.4} s", cost.cpu_s_per_session_s)),
            ("… an answered turn", format!("{:.2} s", cost.cpu_s_per_turn)),
            ("server memory", format!("{:.0} MiB, at most {:.0}", cost.rss_mib_start, cost.rss_mib_peak)),
            ("… a session", format!("{:.2} MiB", cost.rss_mib_per_session)),
        ]);
    }
    findings
}

/// [`findings`] as a table.
pub fn findings_table(score: &Score) -> Table {
    let mut table = table(&["", "found"]);
    for (name, value) in findings(score) {
        table.add_row(vec![Cell::new(name), right(value)]);
    }
    table
}

/// The numbers of callers that were tried.
pub fn capacity_table(capacity: &Capacity) -> Table {
    let mut table = table(&["callers", "p50 ms", "p95 ms", "late frames", "cut-offs", "lost", "limits"]);
    for point in &capacity.points {
        let p = &point.voice_to_voice_ms;
        let mut row = vec![right(point.callers.to_string())];
        row.extend([p.p50, p.p95].map(|ms| right(format!("{ms:.0}"))));
        row.extend([point.late_share, point.cut_off_share].map(|s| right(format!("{:.1} %", s * 100.0))));
        row.push(right(point.lost.to_string()));
        row.push(Cell::new(point.why.as_deref().unwrap_or("kept")));
        table.add_row(row);
    }
    table
}

/// An empty table in the lab's style.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    table
}

/// A number in a table.
pub fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
