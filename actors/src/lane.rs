//! Bounded lanes: how audio, tokens and clauses travel from stage to stage.
//!
//! A lane is a ring of fixed size with a doorbell. Writing never blocks; what happens when the ring is
//! full is the writer's choice ([`Lane::push`] refuses, [`Lane::push_latest`] drops the oldest), and
//! every drop is counted. The doorbell is coalesced: between two visits of the reader at most one ring
//! is outstanding, so a mailbox behind it holds at most one doorbell however much is written.
//!
//! Lanes belong to the session, not to the stages. A stage that was restarted attaches its own doorbell
//! and finds what its predecessor had not read yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use crossbeam_queue::ArrayQueue;

/// Wakes a lane's reader. Must not block.
pub type Bell = Box<dyn Fn() + Send + Sync>;

/// A bounded ring with a coalesced doorbell. Clones share the ring.
pub struct Lane<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    ring: ArrayQueue<T>,
    rung: AtomicBool,
    bell: ArcSwapOption<Bell>,
    dropped: AtomicU64,
}

impl<T> Clone for Lane<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> Lane<T> {
    /// A lane that holds at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                ring: ArrayQueue::new(capacity),
                rung: AtomicBool::new(false),
                bell: ArcSwapOption::empty(),
                dropped: AtomicU64::new(0),
            }),
        }
    }

    /// Appends, or gives the item back when the lane is full: the writer then has to wait for room.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.inner.ring.push(item)?;
        self.ring();
        Ok(())
    }

    /// Appends; when the lane is full the oldest item is dropped and counted. Returns whether one was.
    pub fn push_latest(&self, item: T) -> bool {
        let dropped = self.inner.ring.force_push(item).is_some();
        if dropped {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.ring();
        dropped
    }

    /// Takes the oldest item.
    pub fn pop(&self) -> Option<T> {
        self.inner.ring.pop()
    }

    /// Empties the lane, counting nothing as dropped. Returns how many items went.
    pub fn clear(&self) -> usize {
        std::iter::from_fn(|| self.pop()).count()
    }

    /// The reader calls this before it starts to read: whatever is written from now on rings again.
    pub fn answer(&self) {
        self.inner.rung.store(false, Ordering::Release);
    }

    /// Sets who is woken and rings once, so that a restarted reader sees what lies here already.
    pub fn attach(&self, bell: Bell) {
        self.inner.bell.store(Some(Arc::new(bell)));
        self.inner.rung.store(false, Ordering::Release);
        self.ring();
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.inner.ring.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.inner.ring.is_empty()
    }

    /// The most it can hold.
    pub fn capacity(&self) -> usize {
        self.inner.ring.capacity()
    }

    /// Items dropped because the lane was full, since it was made.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    fn ring(&self) {
        if !self.inner.rung.swap(true, Ordering::AcqRel)
            && let Some(bell) = self.inner.bell.load().as_ref()
        {
            bell();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counted(lane: &Lane<u32>) -> Arc<AtomicUsize> {
        let rings = Arc::new(AtomicUsize::new(0));
        let r = Arc::clone(&rings);
        lane.attach(Box::new(move || {
            r.fetch_add(1, Ordering::Relaxed);
        }));
        rings
    }

    #[test]
    fn a_full_lane_refuses_or_drops_the_oldest_and_counts() {
        let lane = Lane::new(2);
        lane.push(1).unwrap();
        lane.push(2).unwrap();
        assert_eq!(lane.push(3), Err(3));
        assert_eq!(lane.dropped(), 0);
        assert!(lane.push_latest(4));
        assert_eq!(lane.dropped(), 1);
        assert_eq!((lane.pop(), lane.pop(), lane.pop()), (Some(2), Some(4), None));
    }

    #[test]
    fn at_most_one_ring_is_outstanding() {
        let lane = Lane::new(8);
        let rings = counted(&lane);
        assert_eq!(rings.load(Ordering::Relaxed), 1, "attaching rings once");
        lane.answer();
        for i in 0..5 {
            lane.push(i).unwrap();
        }
        assert_eq!(rings.load(Ordering::Relaxed), 2);
        lane.answer();
        lane.push(9).unwrap();
        assert_eq!(rings.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_second_reader_finds_what_the_first_left() {
        let lane = Lane::new(4);
        counted(&lane);
        lane.push(7).unwrap();
        let rings = counted(&lane);
        assert_eq!(rings.load(Ordering::Relaxed), 1);
        assert_eq!(lane.pop(), Some(7));
    }
}
