//! How many callers are too many: doubling until a step fails, then halving the gap.

use serde::Serialize;

use super::score::Percentiles;

/// A search is over when the gap is one caller, or this share of what is carried: a twentieth is less than two
/// runs of the same number differ.
const GAP_SHARE: u64 = 20;

/// What a number of callers must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Most milliseconds of voice to voice at p95.
    pub p95_ms: f64,
    /// Largest share of late frames, 0 to 1.
    pub late_share: f64,
}

/// Frames may come late in one of a hundred: more is heard as a bad line.
pub const LATE_SHARE: f64 = 0.01;

/// One number of callers, tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Callers.
    pub callers: u64,
    /// What they waited.
    pub voice_to_voice_ms: Percentiles,
    /// Share of late frames, 0 to 1.
    pub late_share: f64,
    /// Turns cut off, of those taken.
    pub cut_off_share: f64,
    /// Calls that were refused, broke or got no answer at all.
    pub lost: u64,
    /// Seconds of CPU a session-second, where they could be seen.
    pub cpu_s_per_session_s: Option<f64>,
    /// Whether the limits were kept.
    pub passed: bool,
    /// Which limit was not.
    pub why: Option<String>,
}

impl Point {
    /// Judges it.
    pub fn judged(mut self, limits: Limits) -> Self {
        let waited = &self.voice_to_voice_ms;
        self.why = if self.lost > 0 {
            Some(format!("{} calls were lost", self.lost))
        } else if waited.n == 0 {
            Some("nobody was answered".into())
        } else if waited.p95 > limits.p95_ms {
            Some(format!("p95 of {:.0} ms is above {:.0}", waited.p95, limits.p95_ms))
        } else if self.late_share > limits.late_share {
            Some(format!("{:.1} % of frames came late", self.late_share * 100.0))
        } else {
            None
        };
        self.passed = self.why.is_none();
        self
    }
}

/// The whole search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// The most callers that kept the limits; 0 if not even one did.
    pub callers: u64,
    /// The search ended at the most that were to be tried, and they kept the limits.
    pub at_least: bool,
    /// What was to be kept to.
    pub limits: Limits,
    /// Every number tried, in order of callers.
    pub points: Vec<Point>,
}

impl Capacity {
    /// Sums up a search.
    pub fn new(search: &Search, limits: Limits, mut points: Vec<Point>) -> Self {
        points.sort_by_key(|point| point.callers);
        Self { callers: search.carried, at_least: search.carried == search.most, limits, points }
    }

    /// In one line.
    pub fn sentence(&self) -> String {
        let more = if self.at_least { " at least (no more were tried)" } else { "" };
        format!(
            "capacity: {} callers{more}, with p95 within {:.0} ms and late frames within {:.0} %",
            self.callers,
            self.limits.p95_ms,
            self.limits.late_share * 100.0
        )
    }
}

/// The search. Ask [`Self::next`], try it, tell [`Self::took`].
#[derive(Debug, Clone)]
pub struct Search {
    carried: u64,
    failed: Option<u64>,
    most: u64,
}

impl Search {
    /// Up to `most`.
    pub fn new(most: u64) -> Self {
        Self { carried: 0, failed: None, most: most.max(1) }
    }

    /// How many to try next; none when it is known.
    pub fn next(&self) -> Option<u64> {
        match self.failed {
            None if self.carried >= self.most => None,
            None => Some((self.carried * 2).clamp(1, self.most)),
            Some(failed) if failed - self.carried <= (self.carried / GAP_SHARE).max(1) => None,
            Some(failed) => Some(self.carried + (failed - self.carried) / 2),
        }
    }

    /// What came of it.
    pub fn took(&mut self, callers: u64, passed: bool) {
        if passed {
            self.carried = self.carried.max(callers);
        } else {
            self.failed = Some(self.failed.map_or(callers, |failed| failed.min(callers)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries until it is known; gives what was tried.
    fn search(most: u64, carries: u64) -> (Vec<u64>, u64) {
        let (mut search, mut tried) = (Search::new(most), Vec::new());
        while let Some(callers) = search.next() {
            assert!(tried.len() < 40, "it never ends: {tried:?}");
            tried.push(callers);
            search.took(callers, callers <= carries);
        }
        (tried, search.carried)
    }

    #[test]
    fn it_doubles_then_halves_the_gap() {
        assert_eq!(search(1000, 11), (vec![1, 2, 4, 8, 16, 12, 10, 11], 11));
        assert_eq!(search(1000, 0), (vec![1], 0));
        assert_eq!(search(6, 99), (vec![1, 2, 4, 6], 6));
    }

    #[test]
    fn whatever_is_carried_is_found_within_a_twentieth() {
        for carries in 1..600 {
            let (_, found) = search(1000, carries);
            assert!(found <= carries && carries - found <= carries / 20, "{carries}: {found}");
        }
    }

    #[test]
    fn a_limit_that_is_missed_is_named() {
        let limits = Limits { p95_ms: 1000.0, late_share: LATE_SHARE };
        let point = |p95, late_share, lost| Point {
            callers: 4,
            voice_to_voice_ms: Percentiles { n: 9, p95, ..Percentiles::default() },
            late_share,
            cut_off_share: 0.0,
            lost,
            cpu_s_per_session_s: None,
            passed: false,
            why: None,
        };
        assert!(point(999.0, 0.01, 0).judged(limits).passed);
        assert_eq!(point(1001.0, 0.0, 0).judged(limits).why.as_deref(), Some("p95 of 1001 ms is above 1000"));
        assert!(!point(10.0, 0.02, 0).judged(limits).passed && !point(10.0, 0.0, 1).judged(limits).passed);
    }
}
