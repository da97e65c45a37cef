//! A load run as a page: which plots there are and what they say.

use super::html::{Page, Table};
use super::plots::{self, Figure, PlotError, Points, Row};
use super::ramp::Capacity;
use super::report::{LoadReport, findings, latencies};
use super::run::{CallerRun, LoadRun};
use super::score::{Percentiles, turns};
use crate::client::TurnReport;

/// Turns of one session that its timeline shows: what fits on a screen.
const TURNS_SHOWN: usize = 16;
/// Callers shown by themselves: those who had it worst.
const CALLERS_SHOWN: usize = 12;

/// Draws it.
pub fn page(report: &LoadReport<'_>) -> Result<Page, PlotError> {
    let plan = &report.plan;
    let lead = vec![
        format!(
            "{} engines, profile {}, transport {}, scenario \u{201c}{}\u{201d} with a cycle of {:.0} s, joined within \
             {:.0} s, seed {}, {} cores, Viva {}.",
            plan.engines,
            plan.profile,
            plan.transport,
            plan.scenario,
            plan.cycle_s,
            plan.ramp_up_s,
            plan.seed,
            plan.cores,
            report.version
        ),
        "Voice to voice: the caller's last speech sample sent to the first audible sample of the reply received. A \
         latency counts only beside the cut-offs of the same run."
            .into(),
    ];
    let mut figures = Vec::new();
    if let Some(capacity) = report.capacity {
        figures.push(capacity_curve(capacity)?);
    }
    figures.extend(run_figures(report.run, &report.score.voice_to_voice_ms)?);
    Ok(Page {
        title: format!("{} callers for {:.0} s", plan.callers, plan.seconds),
        lead,
        answer: report.capacity.map(Capacity::sentence),
        tables: tables(report),
        figures,
        notes: Vec::new(),
    })
}

fn tables(report: &LoadReport<'_>) -> Vec<Table> {
    let heads = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut tables = vec![
        Table {
            title: "Latency".into(),
            head: heads(&["milliseconds", "n", "p50", "p95", "p99", "max"]),
            rows: latencies(report.score)
                .into_iter()
                .map(|(name, p)| {
                    let mut row = vec![name.to_owned(), p.n.to_string()];
                    row.extend([p.p50, p.p95, p.p99, p.max].map(|ms| format!("{ms:.0}")));
                    row
                })
                .collect(),
        },
        Table {
            title: "What else was felt, and what it cost".into(),
            head: Vec::new(),
            rows: findings(report.score)
                .into_iter()
                .map(|(name, value)| vec![name.to_owned(), value])
                .collect(),
        },
    ];
    if let Some(capacity) = report.capacity {
        tables.push(capacity_table(capacity));
    }
    let mut worst: Vec<_> = report.score.callers.iter().collect();
    worst.sort_by(|a, b| b.voice_to_voice_ms.p95.total_cmp(&a.voice_to_voice_ms.p95));
    tables.push(Table {
        title: "By person, the slowest first".into(),
        head: heads(&["caller", "turns", "p50", "p95", "cut-offs", "dead air", "gaps", "errors"]),
        rows: worst
            .into_iter()
            .take(CALLERS_SHOWN)
            .map(|caller| {
                let p = &caller.voice_to_voice_ms;
                let mut row = vec![format!("{}", caller.caller + 1), caller.turns.to_string()];
                row.extend([p.p50, p.p95].map(|ms| format!("{ms:.0}")));
                let counts = [caller.cut_offs, caller.dead_air, caller.glitches, caller.errors];
                row.extend(counts.map(|count| count.to_string()));
                row
            })
            .collect(),
    });
    tables
}

/// The points of a capacity, as a table.
pub fn capacity_table(capacity: &Capacity) -> Table {
    let heads = ["callers", "p50", "p95", "p99", "late", "cut-offs", "lost", ""];
    Table {
        title: "Capacity, number by number".into(),
        head: heads.map(str::to_owned).to_vec(),
        rows: capacity
            .points
            .iter()
            .map(|point| {
                let p = &point.voice_to_voice_ms;
                let mut row = vec![point.callers.to_string()];
                row.extend([p.p50, p.p95, p.p99].map(|ms| format!("{ms:.0}")));
                row.extend([point.late_share, point.cut_off_share].map(|s| format!("{:.1} %", s * 100.0)));
                row.extend([point.lost.to_string(), point.why.clone().unwrap_or("kept".into())]);
                row
            })
            .collect(),
    }
}

/// Latency against callers, with the limit.
pub fn capacity_curve(capacity: &Capacity) -> Result<Figure, PlotError> {
    let of = |pick: fn(&Percentiles) -> f64| -> Points {
        let answered = capacity.points.iter().filter(|point| point.voice_to_voice_ms.n > 0);
        answered.map(|point| (point.callers as f64, pick(&point.voice_to_voice_ms))).collect()
    };
    let limit = capacity.limits.p95_ms;
    let caption = format!(
        "Voice to voice by the number of callers. The most that kept p95 within {limit:.0} ms are {}; what lies \
         above three times the limit is drawn at the upper edge.",
        capacity.callers
    );
    plots::lines(
        "Capacity",
        "callers",
        "ms",
        &[("p50", of(|p| p.p50)), ("p95", of(|p| p.p95))],
        Some(("limit of p95", limit)),
        caption,
    )
}

fn run_figures(run: &LoadRun, waited: &Percentiles) -> Result<Vec<Figure>, PlotError> {
    let answered: Points = turns(run)
        .filter_map(|(_, at, turn)| turn.voice_to_voice_ms.map(|ms| (at + turn.speech_s, ms)))
        .collect();
    let values: Vec<f64> = answered.iter().map(|point| point.1).collect();
    let mut figures = vec![
        plots::distribution(
            "Voice to voice",
            "ms",
            "turns",
            &values,
            &[("p50", waited.p50), ("p95", waited.p95), ("p99", waited.p99)],
            format!(
                "How long callers waited, {} turns, those of the ramp-up included. Half waited at most {:.0} ms, 95 \
                 of 100 at most {:.0} ms (without the ramp-up).",
                values.len(),
                waited.p50,
                waited.p95
            ),
        )?,
        plots::scatter(
            "Voice to voice over the run",
            "seconds into the run",
            "ms",
            &answered,
            "Each answered turn where the caller's speech ended. A cloud that climbs means work that piles up."
                .into(),
        )?,
    ];
    figures.extend(timeline(run)?);
    if run.watched.len() > 1 {
        figures.extend(watched(run)?);
    }
    Ok(figures)
}

/// The stages of the session with the most turns the server told of.
fn timeline(run: &LoadRun) -> Result<Option<Figure>, PlotError> {
    const NAMES: [&str; 5] =
        ["words recognised", "first token", "first clause", "first sound made", "turn decided"];
    let told = |caller: &&CallerRun| caller.report.turns.iter().filter(|turn| turn.server.is_some()).count();
    let Some(caller) = run.callers.iter().max_by_key(told).filter(|caller| told(caller) > 0) else {
        return Ok(None);
    };
    let row = |turn: &TurnReport| {
        let server = turn.server.as_ref()?;
        let moments = [
            server.asr_final_ms,
            server.llm_first_token_ms,
            server.first_sentence_ms,
            server.first_audio_ms,
            server.endpoint_ms,
        ];
        let moments = moments.iter().enumerate().filter_map(|(i, at)| Some((i, (*at)?))).collect();
        Some(Row { stretch: (0.0, turn.voice_to_voice_ms?), moments })
    };
    let rows: Vec<Row> = caller.report.turns.iter().filter_map(row).take(TURNS_SHOWN).collect();
    let caption = format!(
        "The first {} answered turns of caller {}, the first on top. The bar is what the caller waited after their \
         last word; the dots are when the server had each thing ready, by its own account. What is ready left of \
         \u{201c}turn decided\u{201d} cost the caller nothing.",
        rows.len(),
        caller.caller + 1
    );
    plots::timeline("One session's turns", "ms after the caller's last word", "turns", &NAMES, &rows, caption)
        .map(Some)
}

fn watched(run: &LoadRun) -> Result<Vec<Figure>, PlotError> {
    let watched = &run.watched;
    let memory: Points = watched.iter().map(|w| (w.at_s, w.usage.rss_mib)).collect();
    let cores: Points = watched
        .windows(2)
        .map(|pair| {
            let (seconds, cpu) = (pair[1].at_s - pair[0].at_s, pair[1].usage.cpu_s - pair[0].usage.cpu_s);
            (pair[1].at_s, if seconds > 0.1 { cpu / seconds } else { 0.0 })
        })
        .collect();
    let calls: Points = watched.iter().map(|w| (w.at_s, w.calls as f64)).collect();
    const X: &str = "seconds into the run";
    Ok(vec![
        plots::area(
            "Cores used by the server",
            X,
            "cores",
            &cores,
            "The server with its engines, second by second, without the callers.".into(),
        )?,
        plots::area(
            "Server memory",
            X,
            "MiB",
            &memory,
            "Resident memory of the server with its engines; what two of them share counts twice.".into(),
        )?,
        plots::area("Calls standing", X, "calls", &calls, "Calls that stood at each second.".into())?,
    ])
}
