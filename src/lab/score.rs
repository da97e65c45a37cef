//! A load run in figures: what the callers felt and what it cost.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ramp::{Limits, Point};
use super::run::{CallerRun, LoadRun};
use crate::client::{TurnMetrics, TurnReport};

/// Percentiles of some milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many.
    pub n: u64,
    /// Median.
    pub p50: f64,
    /// 95 of 100 are no longer.
    pub p95: f64,
    /// 99 of 100 are no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
}

/// What the server's processes used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cost {
    /// CPU seconds over the run.
    pub cpu_s: f64,
    /// A second of a session.
    pub cpu_s_per_session_s: f64,
    /// An answered turn.
    pub cpu_s_per_turn: f64,
    /// Resident memory before the first call, MiB.
    pub rss_mib_start: f64,
    /// The most.
    pub rss_mib_peak: f64,
    /// What it grew by, a session.
    pub rss_mib_per_session: f64,
}

/// What one caller felt.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CallerScore {
    /// Its number.
    pub caller: usize,
    /// Turns that waited for an answer.
    pub turns: u64,
    /// Of these, answered.
    pub answered: u64,
    /// What it waited, without the ramp-up.
    pub voice_to_voice_ms: Percentiles,
    /// Turns cut off.
    pub cut_offs: u64,
    /// Noises taken for an interruption.
    pub false_barge_ins: u64,
    /// Waits a person takes for a fault.
    pub dead_air: u64,
    /// 20 ms frames that came too late.
    pub late_frames: u64,
    /// 20 ms slots with nothing to play.
    pub missing_frames: u64,
    /// Audible gaps.
    pub glitches: u64,
    /// Errors told.
    pub errors: u64,
}

impl CallerScore {
    fn new(run: &CallerRun, ramp_up_s: f64) -> Self {
        let report = &run.report;
        let waited = || report.turns.iter().filter(|turn| turn.waited);
        let steady = waited().filter(|turn| run.started_s + turn.at_s >= ramp_up_s);
        let count = |pick: fn(&TurnReport) -> bool| waited().filter(|turn| pick(turn)).count() as u64;
        Self {
            caller: run.caller,
            turns: count(|_| true),
            answered: count(|turn| turn.answered),
            voice_to_voice_ms: Percentiles::of(steady.filter_map(|turn| turn.voice_to_voice_ms)),
            cut_offs: count(|turn| turn.cut_off.is_some()),
            false_barge_ins: report.false_barge_ins,
            dead_air: count(|turn| turn.dead_air),
            late_frames: report.late_frames,
            missing_frames: report.missing_frames,
            glitches: report.glitches.len() as u64,
            errors: report.errors,
        }
    }
}

/// The whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    /// Calls that stood.
    pub sessions: u64,
    /// Calls refused with 503 or 429.
    pub refused: u64,
    /// Calls that broke, or never stood for another reason.
    pub broken: u64,
    /// Seconds of all sessions together.
    pub session_s: f64,
    /// Turns that waited for an answer.
    pub turns: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Turns left out of the latencies, since callers were still joining when they began.
    pub turns_in_ramp_up: u64,
    /// Last speech sample sent to first audible sample received.
    pub voice_to_voice_ms: Percentiles,
    /// The same as it left the player.
    pub played_ms: Percentiles,
    /// The server's own stages.
    pub stages_ms: BTreeMap<&'static str, Percentiles>,
    /// Turns cut off.
    pub cut_offs: u64,
    /// Of these, with sound before the caller's end.
    pub cut_offs_spoken: u64,
    /// Interruptions.
    pub barge_ins: u64,
    /// Of these, ignored.
    pub barge_ins_ignored: u64,
    /// Until Viva was silent.
    pub barge_in_silent_ms: Percentiles,
    /// Noises that were no interruption.
    pub coughs: u64,
    /// Of these, taken for one.
    pub false_barge_ins: u64,
    /// Waits a person takes for a fault.
    pub dead_air: u64,
    /// 20 ms frames received.
    pub frames: u64,
    /// Of these, too late.
    pub late_frames: u64,
    /// 20 ms slots with nothing to play.
    pub missing_frames: u64,
    /// Audible gaps.
    pub glitches: u64,
    /// Errors told by the server.
    pub errors: u64,
    /// Frames this machine sent too late: beyond one in a hundred, distrust the run.
    pub own_late_frames: u64,
    /// Frames this machine sent.
    pub own_frames: u64,
    /// Lines lost on purpose.
    pub lines_lost: u64,
    /// What it cost, where the server's processes could be seen.
    pub cost: Option<Cost>,
    /// Each caller by itself.
    pub callers: Vec<CallerScore>,
}

impl Percentiles {
    /// Of these milliseconds.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        // Microseconds up to ten minutes, three digits: finer than anything measured here.
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)
            .expect("the bounds are constants that the histogram accepts");
        for ms in samples {
            histogram.saturating_record((ms * 1000.0).max(1.0) as u64);
        }
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            n: histogram.len(),
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max() as f64 / 1000.0,
            mean: histogram.mean() / 1000.0,
        }
    }
}

/// A turn with the caller it belongs to and when in the run it began.
pub fn turns(run: &LoadRun) -> impl Iterator<Item = (usize, f64, &TurnReport)> {
    run.callers.iter().flat_map(|caller| {
        caller.report.turns.iter().map(move |turn| (caller.caller, caller.started_s + turn.at_s, turn))
    })
}

impl Score {
    /// Scores a run; turns that began before `ramp_up_s` count in no latency, if any came later.
    pub fn new(run: &LoadRun, ramp_up_s: f64) -> Self {
        let waited: Vec<(f64, &TurnReport)> =
            turns(run).filter(|(_, _, turn)| turn.waited).map(|(_, at, turn)| (at, turn)).collect();
        let after = waited.iter().filter(|(at, _)| *at >= ramp_up_s).count();
        let from = if after > 0 { ramp_up_s } else { 0.0 };
        let steady: Vec<&TurnReport> =
            waited.iter().filter(|(at, _)| *at >= from).map(|(_, turn)| *turn).collect();
        let percentiles = |pick: &dyn Fn(&TurnReport) -> Option<f64>| {
            Percentiles::of(steady.iter().filter_map(|turn| pick(turn)))
        };
        let count =
            |pick: &dyn Fn(&TurnReport) -> bool| waited.iter().filter(|(_, turn)| pick(turn)).count() as u64;
        let sum = |pick: &dyn Fn(&crate::client::CallReport) -> u64| {
            run.callers.iter().map(|caller| pick(&caller.report)).sum::<u64>()
        };
        let stage = |pick: fn(&TurnMetrics) -> Option<f64>| {
            percentiles(&|turn: &TurnReport| turn.server.as_ref().and_then(pick))
        };
        let mut score = Self {
            sessions: run.callers.iter().filter(|caller| caller.report.seconds > 0.0).count() as u64,
            refused: run.callers.iter().filter(|caller| caller.refused).count() as u64,
            broken: run.callers.iter().filter(|c| c.broken.is_some() && !c.refused).count() as u64,
            session_s: run.callers.iter().map(|caller| caller.report.seconds).sum(),
            turns: waited.len() as u64,
            answered: count(&|turn| turn.answered),
            turns_in_ramp_up: (waited.len() - steady.len()) as u64,
            voice_to_voice_ms: percentiles(&|turn| turn.voice_to_voice_ms),
            played_ms: percentiles(&|turn| turn.played_ms),
            stages_ms: BTreeMap::from([
                ("1 turn decided", stage(|m| m.endpoint_ms)),
                ("2 ASR final", stage(|m| m.asr_final_ms)),
                ("3 first token", stage(|m| m.llm_first_token_ms)),
                ("4 first sentence", stage(|m| m.first_sentence_ms)),
                ("5 first audio", stage(|m| m.first_audio_ms)),
            ]),
            cut_offs: count(&|turn| turn.cut_off.is_some()),
            cut_offs_spoken: count(&|turn| turn.cut_off.as_ref().is_some_and(|c| c.spoke)),
            barge_ins: count(&|turn| turn.barge_in),
            barge_ins_ignored: count(&|turn| turn.barge_in_ignored),
            barge_in_silent_ms: percentiles(&|turn| turn.barge_in_silent_ms),
            coughs: sum(&|report| report.coughs),
            false_barge_ins: sum(&|report| report.false_barge_ins),
            dead_air: count(&|turn| turn.dead_air),
            frames: sum(&|report| report.frames),
            late_frames: sum(&|report| report.late_frames),
            missing_frames: sum(&|report| report.missing_frames),
            glitches: sum(&|report| report.glitches.len() as u64),
            errors: sum(&|report| report.errors),
            own_late_frames: sum(&|report| report.sent.late),
            own_frames: sum(&|report| report.sent.frames),
            lines_lost: sum(&|report| report.lines_lost),
            cost: None,
            callers: run.callers.iter().map(|caller| CallerScore::new(caller, ramp_up_s)).collect(),
        };
        score.cost = score.cost_of(run);
        score
    }

    /// The run as a point of a capacity curve.
    pub fn point(&self, callers: u64, limits: Limits) -> Point {
        let share = |part: u64, whole: u64| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
        let mute = self.callers.iter().filter(|caller| caller.answered == 0).count() as u64;
        let point = Point {
            callers,
            voice_to_voice_ms: self.voice_to_voice_ms.clone(),
            late_share: share(self.late_frames, self.frames),
            cut_off_share: share(self.cut_offs, self.turns),
            // Who was refused or broke before the first answer is mute, too.
            lost: (self.refused + self.broken).max(mute),
            cpu_s_per_session_s: self.cost.as_ref().map(|cost| cost.cpu_s_per_session_s),
            passed: false,
            why: None,
        };
        point.judged(limits)
    }

    fn cost_of(&self, run: &LoadRun) -> Option<Cost> {
        let (first, last) = (run.watched.first()?.usage, run.watched.last()?.usage);
        let peak = run.watched.iter().map(|watch| watch.usage.rss_mib).fold(0.0, f64::max);
        let cpu_s = last.cpu_s - first.cpu_s;
        let each = |whole: f64, parts: f64| if parts > 0.0 { whole / parts } else { 0.0 };
        Some(Cost {
            cpu_s,
            cpu_s_per_session_s: each(cpu_s, self.session_s),
            cpu_s_per_turn: each(cpu_s, self.answered as f64),
            rss_mib_start: first.rss_mib,
            rss_mib_peak: peak,
            rss_mib_per_session: each(peak - first.rss_mib, self.sessions as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::CallReport;
    use crate::lab::processes::Usage;
    use crate::lab::run::Watch;

    fn turn(at_s: f64, ms: Option<f64>) -> TurnReport {
        TurnReport {
            at_s,
            waited: true,
            answered: ms.is_some(),
            voice_to_voice_ms: ms,
            ..TurnReport::default()
        }
    }

    fn caller(number: usize, started_s: f64, turns: Vec<TurnReport>) -> CallerRun {
        let report = CallReport { seconds: 10.0, turns, ..CallReport::default() };
        CallerRun { caller: number, started_s, refused: false, broken: None, report }
    }

    fn watch(at_s: f64, cpu_s: f64, rss_mib: f64) -> Watch {
        Watch { at_s, usage: Usage { cpu_s, rss_mib, processes: 1 }, calls: 0 }
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let p = Percentiles::of((1..=100).map(f64::from));
        assert!((p.p50 - 50.0).abs() < 0.1 && (p.p95 - 95.0).abs() < 0.1 && (p.max - 100.0).abs() < 0.1);
        assert_eq!(Percentiles::of([]), Percentiles::default());
    }

    #[test]
    fn latencies_leave_out_the_ramp_up_and_costs_are_shared() {
        let run = LoadRun {
            callers: vec![
                caller(0, 0.0, vec![turn(1.0, Some(5000.0)), turn(6.0, Some(800.0))]),
                caller(1, 2.0, vec![turn(4.0, None), turn(5.0, Some(800.0))]),
            ],
            watched: vec![watch(0.0, 1.0, 100.0), watch(1.0, 2.0, 140.0), watch(9.0, 7.0, 120.0)],
        };
        let score = Score::new(&run, 5.0);
        assert_eq!((score.turns, score.answered, score.turns_in_ramp_up), (4, 3, 1));
        assert!((score.voice_to_voice_ms.max - 800.0).abs() < 1.0, "{:?}", score.voice_to_voice_ms);
        let cost = score.cost.clone().unwrap_or_default();
        assert_eq!((cost.cpu_s, cost.cpu_s_per_session_s, cost.cpu_s_per_turn), (6.0, 0.3, 2.0));
        assert_eq!(cost.rss_mib_per_session, 20.0);
        assert_eq!((score.callers[0].turns, score.callers[0].voice_to_voice_ms.n), (2, 1));
        let limits = Limits { p95_ms: 1000.0, late_share: 0.01 };
        assert!(score.point(2, limits).passed);
    }
}
