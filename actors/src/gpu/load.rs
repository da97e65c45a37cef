//! How busy the device is, and what one more session would do to those that are served. Pure: time comes in.
//!
//! Two things are measured while work is done: how much of the cores it takes that somebody waits for, and how
//! late it is finished. From the first follows what a session costs; from both, what the next one would change.
//! *Bound:* [`WINDOW_S`] buckets of a second, [`LATE_KEPT`] latenesses.

use std::collections::VecDeque;

use serde::Serialize;

/// Seconds looked back on: two turns of an interview, so that speaking and thinking are both in it.
pub const WINDOW_S: usize = 24;

/// Latenesses kept: enough for a 95th percentile, few enough to forget a bad moment.
pub const LATE_KEPT: usize = 256;

/// Latenesses a percentile needs to mean something.
const LATE_ENOUGH: usize = 20;

/// Session-seconds after which their cost is measured and no longer assumed.
const SESSION_SECONDS_ENOUGH: f64 = 40.0;

/// Share of the cores that sessions may take: beyond, any unevenness becomes a queue that does not drain. In a
/// queue with one server the wait doubles between 0.8 and 0.9.
const FULL_FROM: f64 = 0.85;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Meter {
    /// Core-microseconds of certain work by second, and session-microseconds.
    buckets: VecDeque<Bucket>,
    late_ms: VecDeque<f64>,
    /// Cores of the device.
    cores: f64,
    sessions: usize,
    /// When the session count was last folded into the buckets.
    counted_us: u64,
    began_us: Option<u64>,
    /// Cores one session takes, as assumed before it is measured.
    assumed: f64,
    measured: Option<f64>,
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The recogniser's.
    Asr,
    /// The language model's.
    Llm,
    /// The voice's.
    Tts,
    /// Of the detectors and the rest.
    Other,
}

/// How many parts there are.
pub const PARTS: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    second: u64,
    certain_us: f64,
    /// The same by [`Part`].
    parts_us: [f64; PARTS],
    ahead_us: f64,
    session_us: f64,
}

/// What the meter says now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Cores of the device.
    pub cores: f64,
    /// Cores that work takes which somebody waits for.
    pub certain: f64,
    /// Cores that work takes which nobody waits for yet.
    pub ahead: f64,
    /// Sessions running.
    pub sessions: usize,
    /// Cores one session takes; 0 while unknown.
    pub demand: f64,
    /// How late certain work was done, 95th percentile, milliseconds; 0 for what was in time.
    pub late_ms: f64,
    /// What share of certain work each [`Part`] is, 0 to 1; all 0 while unknown.
    pub parts: [f64; PARTS],
}

/// What else a session can be given, as the share of an ordinary session's work that it would leave to us, 0 to 1. None
/// where there is no such engine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Others {
    /// By engines of the next lower quality.
    pub smaller: Option<f64>,
    /// By engines of the second line that are elsewhere.
    pub elsewhere: Option<f64>,
}

/// What becomes of one more session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There is room.
    Admit,
    /// There is room for one that is served by smaller engines.
    Smaller,
    /// There is room for one that is served elsewhere, as far as it can be.
    Elsewhere,
    /// It would make the others late.
    Refuse,
}

impl Meter {
    /// For a device of so many cores.
    pub fn new(cores: u32) -> Self {
        Self {
            buckets: VecDeque::new(),
            late_ms: VecDeque::new(),
            cores: f64::from(cores.max(1)),
            sessions: 0,
            counted_us: 0,
            began_us: None,
            assumed: 0.0,
            measured: None,
        }
    }

    /// Until it is measured, a session takes so many cores.
    pub fn assume(&mut self, cores: f64) {
        self.assumed = cores;
    }

    /// An engine worked for so long on so many cores.
    pub fn worked(&mut self, now_us: u64, took_us: u64, cores: u32, part: Part, certain: bool) {
        let bucket = self.bucket(now_us);
        let work = took_us as f64 * f64::from(cores);
        if certain {
            bucket.certain_us += work;
            bucket.parts_us[part as usize] += work;
        } else {
            bucket.ahead_us += work;
        }
    }

    /// Work that somebody waited for was done so much after it was due (negative: before).
    pub fn finished(&mut self, late_ms: f64) {
        if self.late_ms.len() == LATE_KEPT {
            self.late_ms.pop_front();
        }
        self.late_ms.push_back(late_ms.max(0.0));
    }

    /// So many sessions run from now on.
    pub fn sessions(&mut self, now_us: u64, count: usize) {
        self.count(now_us);
        self.sessions = count;
    }

    fn count(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.counted_us) as f64;
        self.counted_us = now_us;
        let sessions = self.sessions as f64;
        self.bucket(now_us).session_us += passed * sessions;
    }

    fn bucket(&mut self, now_us: u64) -> &mut Bucket {
        self.began_us.get_or_insert(now_us);
        let second = now_us / 1_000_000;
        while self.buckets.front().is_some_and(|b| b.second + (WINDOW_S as u64) <= second) {
            self.buckets.pop_front();
        }
        if self.buckets.back().is_none_or(|b| b.second < second) {
            self.buckets.push_back(Bucket { second, ..Bucket::default() });
        }
        self.buckets.back_mut().expect("one was pushed if there was none")
    }

    /// What it comes to.
    pub fn load(&mut self, now_us: u64) -> Load {
        self.count(now_us);
        let began = self.began_us.unwrap_or(now_us);
        let window = (now_us.saturating_sub(began)).clamp(1_000_000, WINDOW_S as u64 * 1_000_000) as f64;
        let sum = |of: fn(&Bucket) -> f64| self.buckets.iter().map(of).sum::<f64>();
        let (certain, ahead) = (sum(|b| b.certain_us) / window, sum(|b| b.ahead_us) / window);
        let session_us = sum(|b| b.session_us);
        if session_us >= SESSION_SECONDS_ENOUGH * 1e6 {
            self.measured = Some(sum(|b| b.certain_us) / session_us);
        }
        let all: f64 = sum(|b| b.certain_us);
        let mut parts = [0.0; PARTS];
        for bucket in self.buckets.iter().filter(|_| all > 0.0) {
            parts.iter_mut().zip(bucket.parts_us).for_each(|(part, us)| *part += us / all);
        }
        Load {
            parts,
            cores: self.cores,
            certain,
            ahead,
            sessions: self.sessions,
            demand: self.measured.unwrap_or(self.assumed),
            late_ms: self.late_p95(),
        }
    }

    fn late_p95(&self) -> f64 {
        if self.late_ms.len() < LATE_ENOUGH {
            return 0.0;
        }
        let mut sorted: Vec<f64> = self.late_ms.iter().copied().collect();
        let at = sorted.len() - 1 - sorted.len() / 20;
        let (_, p95, _) = sorted.select_nth_unstable_by(at, f64::total_cmp);
        *p95
    }
}

impl Load {
    /// Cores that all sessions are going to take, with so much of one more: those who have just come have not cost
    /// anything yet.
    fn expected(&self, more: f64) -> f64 {
        self.certain.max(self.demand * self.sessions as f64) + self.demand * more
    }

    /// How late certain work would be done with so much of a session more, 95th percentile, milliseconds. What waits in
    /// a queue grows as the room that is left shrinks.
    pub fn late_with(&self, more: f64) -> f64 {
        let room = |more: f64| (1.0 - self.expected(more) / self.cores).max(0.01);
        self.late_ms * room(0.0) / room(more)
    }

    fn fits(&self, more: f64, late_ms_max: u32) -> bool {
        self.expected(more) <= FULL_FROM * self.cores && self.late_with(more) <= f64::from(late_ms_max)
    }

    /// What becomes of one more session, where so late is too late; 0 takes everybody. Smaller engines go before
    /// somebody else's computer.
    pub fn verdict(&self, late_ms_max: u32, others: Others) -> Verdict {
        // With nobody there, there is nobody to protect.
        if self.sessions == 0 || late_ms_max == 0 || self.fits(1.0, late_ms_max) {
            return Verdict::Admit;
        }
        let fits = |share: Option<f64>| share.is_some_and(|share| self.fits(share, late_ms_max));
        match others {
            Others { smaller, .. } if fits(smaller) => Verdict::Smaller,
            Others { elsewhere, .. } if fits(elsewhere) => Verdict::Elsewhere,
            _ => Verdict::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    /// So many sessions of which each takes 0.2 cores, for a minute, done so late.
    fn after_a_minute(cores: u32, sessions: usize, late_ms: f64) -> Load {
        let mut meter = Meter::new(cores);
        meter.sessions(0, sessions);
        for second in 0..60 {
            for _ in 0..sessions {
                meter.worked(second * S, 50_000, 1, Part::Asr, true);
                meter.worked(second * S, 150_000, 1, Part::Llm, true);
                meter.worked(second * S, 50_000, 1, Part::Llm, false);
                meter.finished(late_ms);
            }
            // The scheduler looks once a second.
            meter.load(second * S);
        }
        meter.load(60 * S)
    }

    #[test]
    fn what_a_session_costs_is_measured() {
        let load = after_a_minute(2, 3, -100.0);
        assert!((load.certain - 0.6).abs() < 0.05, "{load:?}");
        assert!((load.ahead - 0.15).abs() < 0.02, "{load:?}");
        assert!((load.demand - 0.2).abs() < 0.02, "{load:?}");
        assert_eq!(load.late_ms, 0.0, "in time is not late");
        assert!((load.parts[Part::Llm as usize] - 0.75).abs() < 0.01, "{load:?}");
    }

    #[test]
    fn one_more_is_taken_or_refused_by_what_it_would_take() {
        let verdicts: Vec<Verdict> =
            (0..9).map(|n| after_a_minute(2, n, 0.0).verdict(1_000, Others::default())).collect();
        // 1.7 of two cores is full: eight sessions take 1.6, nine 1.8.
        let expect = |n: usize| if n < 8 { Verdict::Admit } else { Verdict::Refuse };
        for (n, verdict) in verdicts.into_iter().enumerate() {
            assert_eq!(verdict, expect(n), "beside {n}");
        }
    }

    #[test]
    fn who_finds_no_room_is_handed_to_smaller_engines_then_elsewhere_then_sent_away() {
        // Eight sessions take 1.6 of two cores; a good half of one more may be taken.
        let full = after_a_minute(2, 8, 0.0);
        let with = |smaller, elsewhere| full.verdict(1_000, Others { smaller, elsewhere });
        assert_eq!(with(Some(0.4), Some(0.25)), Verdict::Smaller);
        assert_eq!(with(Some(0.95), Some(0.25)), Verdict::Elsewhere);
        assert_eq!(with(Some(0.95), None), Verdict::Refuse);
        assert_eq!(
            after_a_minute(2, 3, 0.0).verdict(1_000, Others { smaller: Some(0.1), elsewhere: None }),
            Verdict::Admit
        );
    }

    #[test]
    fn lateness_refuses_before_the_cores_are_full() {
        let load = after_a_minute(2, 5, 700.0);
        assert!(load.late_with(1.0) > 850.0 && load.late_with(1.0) < 1_100.0, "{load:?}");
        assert_eq!(after_a_minute(2, 5, 900.0).verdict(1_000, Others::default()), Verdict::Refuse);
        assert_eq!(
            after_a_minute(2, 5, 900.0).verdict(0, Others::default()),
            Verdict::Admit,
            "who wants everybody gets everybody"
        );
    }

    #[test]
    fn a_crowd_that_comes_at_once_is_counted_before_it_costs_anything() {
        let mut meter = Meter::new(2);
        meter.assume(0.2);
        let mut taken = 0;
        while taken < 100 {
            if meter.load(0).verdict(1_000, Others::default()) == Verdict::Refuse {
                break;
            }
            taken += 1;
            meter.sessions(0, taken);
        }
        assert_eq!(taken, 8, "eight take 1.6 of two cores");
    }

    #[test]
    fn a_bad_moment_is_forgotten() {
        let mut meter = Meter::new(2);
        (0..LATE_KEPT).for_each(|_| meter.finished(5_000.0));
        assert_eq!(meter.load(S).late_ms, 5_000.0);
        (0..LATE_KEPT).for_each(|_| meter.finished(-3.0));
        assert_eq!(meter.load(2 * S).late_ms, 0.0);
        meter.sessions(2 * S, 1);
        meter.worked(2 * S, S, 2, Part::Llm, true);
        assert!(meter.load(3 * S).certain > 0.5);
        assert_eq!(meter.load((3 + WINDOW_S as u64) * S).certain, 0.0);
    }
}
