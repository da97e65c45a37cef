//! What work costs on an engine, learnt from what it did cost. Pure.

use std::time::Duration;

/// How much the last measure counts: a change of weights or load is learnt in about ten pieces.
const NEWEST: f64 = 0.2;

/// The cost of a unit of an engine's work: a recognition, a letter to speak, a token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    unit_us: Option<f64>,
}

impl Cost {
    /// So many units took so long.
    pub fn learn(&mut self, units: f64, took: Duration) {
        if units <= 0.0 {
            return;
        }
        let one = took.as_secs_f64() * 1e6 / units;
        self.unit_us = Some(self.unit_us.map_or(one, |known| known + NEWEST * (one - known)));
    }

    /// What so many units are going to take, microseconds; nothing while nothing is known.
    pub fn of(&self, units: f64) -> u64 {
        self.unit_us.map_or(0, |one| (one * units) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_learnt_and_follows_what_changes() {
        let mut cost = Cost::default();
        assert_eq!(cost.of(10.0), 0);
        cost.learn(10.0, Duration::from_millis(100));
        assert_eq!(cost.of(5.0), 50_000);
        for _ in 0..30 {
            cost.learn(10.0, Duration::from_millis(200));
        }
        assert!((95_000..=100_000).contains(&cost.of(5.0)), "{}", cost.of(5.0));
        cost.learn(0.0, Duration::from_secs(9));
        assert!(cost.of(5.0) < 101_000);
    }
}
