//! How late the pacer's ticks came of late: what admission and the codec's effort go by.
//!
//! Real time is kept or it is not; processor load, queue lengths and session counts only hint at it. The
//! pacer's own lateness is the thing itself, measured 50 times a second, whatever the cause.
//!
//! *Bound:* [`WINDOW`] ticks, the oldest goes. Written by one task, read by any.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

/// Ticks looked back on: ten seconds, so that one busy second (a model that loads) is forgotten soon.
pub const WINDOW: usize = 500;

/// Ticks before the share means anything: two and a half seconds.
const ENOUGH: usize = WINDOW / 4;

/// A tick's lateness is kept in tenths of a millisecond.
const UNIT: Duration = Duration::from_micros(100);

/// The last ticks.
#[derive(Debug)]
pub struct Lateness {
    ticks: Box<[AtomicU16; WINDOW]>,
    seen: AtomicUsize,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { ticks: Box::new([const { AtomicU16::new(0) }; WINDOW]), seen: AtomicUsize::new(0) }
    }
}

impl Lateness {
    /// A tick came so late. For the one task that ticks.
    pub fn record(&self, late: Duration) {
        let units = u16::try_from(late.as_micros() / UNIT.as_micros()).unwrap_or(u16::MAX);
        let seen = self.seen.load(Ordering::Relaxed);
        self.ticks[seen % WINDOW].store(units, Ordering::Relaxed);
        self.seen.store(seen.wrapping_add(1), Ordering::Release);
    }

    /// One tick in a hundred came later than this; zero while too few were seen to say.
    pub fn p99(&self) -> Duration {
        let seen = self.seen.load(Ordering::Acquire).min(WINDOW);
        if seen < ENOUGH {
            return Duration::ZERO;
        }
        let mut ticks: Vec<u16> = self.ticks[..seen].iter().map(|t| t.load(Ordering::Relaxed)).collect();
        let at = seen - 1 - seen / 100;
        let (_, p99, _) = ticks.select_nth_unstable(at);
        UNIT * u32::from(*p99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_tick_in_a_hundred_is_the_measure_and_old_ones_are_forgotten() {
        let lateness = Lateness::default();
        (0..WINDOW).for_each(|i| lateness.record(if i % 50 == 0 { 12 * MS } else { MS }));
        assert_eq!(lateness.p99(), 12 * MS, "two in a hundred are late");
        (0..WINDOW).for_each(|i| lateness.record(if i % 250 == 0 { 12 * MS } else { MS }));
        assert_eq!(lateness.p99(), MS, "four in a thousand are not one in a hundred");
    }

    #[test]
    fn a_server_that_just_began_is_not_called_late() {
        let lateness = Lateness::default();
        (0..ENOUGH - 1).for_each(|_| lateness.record(500 * MS));
        assert_eq!(lateness.p99(), Duration::ZERO);
        lateness.record(500 * MS);
        assert_eq!(lateness.p99(), 500 * MS);
    }

    #[test]
    fn a_stall_longer_than_can_be_counted_is_the_longest_that_can() {
        let lateness = Lateness::default();
        (0..WINDOW).for_each(|_| lateness.record(Duration::from_secs(60)));
        assert!(lateness.p99() > Duration::from_secs(6));
    }
}
