//! When a seat is going to be free, and who waits for one. The estimate is pure: time comes in, in seconds.

use std::collections::VecDeque;

/// Lengths of sessions that are remembered: enough for a mean, few enough to follow the day.
const KEPT: usize = 32;

/// Sessions that must have ended before their lengths say more than the guess.
const ENOUGH: usize = 4;

/// Seconds a session lasts, guessed before enough have ended: an interview's half hour.
const GUESS_S: f64 = 1_800.0;

/// The shortest and the longest wait that is named: nobody is to knock every second, and whoever
/// is told more than two minutes does not come back.
const WAIT_S: (f64, f64) = (5.0, 120.0);

/// How long sessions last here.
#[derive(Debug, Default)]
pub struct Seats {
    lengths: VecDeque<f64>,
}

impl Seats {
    /// A session has ended that lasted so long.
    pub fn ended(&mut self, length_s: f64) {
        if self.lengths.len() == KEPT {
            self.lengths.pop_front();
        }
        self.lengths.push_back(length_s);
    }

    /// How long one who comes now is going to wait for a seat, seconds, with so many sessions that began so long ago and
    /// so many who wait already: as many must end as are before them. How long a session still lasts is taken for the
    /// mean of those that have ended less its age, and for half of that where it is older.
    pub fn wait_s(&self, ages_s: impl IntoIterator<Item = f64>, before: usize) -> u32 {
        let mean = match self.lengths.len() {
            n if n >= ENOUGH => self.lengths.iter().sum::<f64>() / n as f64,
            _ => GUESS_S,
        };
        let mut left: Vec<f64> =
            ages_s.into_iter().map(|age| if age < mean { mean - age } else { mean / 2.0 }).collect();
        left.sort_by(f64::total_cmp);
        // Beyond those there are, seats come free as they did before.
        let at = |n: usize| left.get(n).copied().unwrap_or(mean);
        at(before).clamp(WAIT_S.0, WAIT_S.1).ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_as_long_as_the_session_that_ends_first_still_lasts() {
        let mut seats = Seats::default();
        assert_eq!(seats.wait_s([1_700.0, 1_000.0], 0), 100, "half an hour is guessed");
        for _ in 0..ENOUGH {
            seats.ended(120.0);
        }
        assert_eq!(seats.wait_s([10.0, 90.0, 50.0], 0), 30);
        assert_eq!(seats.wait_s([10.0, 90.0, 50.0], 2), 110, "two are before");
        assert_eq!(seats.wait_s([10.0, 90.0], 5), 120);
        assert_eq!(seats.wait_s([119.0], 0), 5, "nobody is to knock every second");
        assert_eq!(seats.wait_s([4_000.0], 0), 60, "who stays longer than usual may go on for a while");
    }

    #[test]
    fn only_the_last_sessions_count() {
        let mut seats = Seats::default();
        (0..KEPT).for_each(|_| seats.ended(9_000.0));
        (0..KEPT).for_each(|_| seats.ended(60.0));
        assert_eq!(seats.wait_s([0.0], 0), 60);
    }
}
