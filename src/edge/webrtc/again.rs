//! A handshake's datagrams, said again until they are heard.
//!
//! The stack sends a flight of its DTLS handshake anew after one second, and not at all once anything has come
//! from the other side meanwhile: where one of our flights is lost, the other side repeats its own, that stops our
//! timer, and both wait for good (one set-up in ten at 12 % loss). SCTP, which comes after it, waits a second for
//! each datagram that is lost. None of these times can be set. So the first datagrams of each connection are sent
//! again from here as they are: a receiver that has one already knows it by its number and drops it (RFC 6347,
//! 4.1.2.6).
//!
//! *Bound:* [`HANDSHAKES_MAX`] and [`DATA_MAX`] datagrams a peer, each by one task that ends with the peer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// Pauses before each time a datagram of the handshake is sent again. The first is more than a handshake takes on
/// a good network, where nothing is said twice; with the last it has been sent seven times within 6.3 s.
const HANDSHAKE_AFTER: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1_600),
    Duration::from_millis(3_200),
];

/// The same for the first datagrams behind the handshake: what takes longer is for SCTP's own timer, a second.
const DATA_AFTER: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(160)];

/// Datagrams of the handshake that are kept: a handshake has three of each side, in two pieces where
/// certificates are long, and the stack sends the last ones up to seven times itself.
const HANDSHAKES_MAX: usize = 16;

/// Datagrams behind it that are kept: SCTP opens with two of each side, the channel with one, and the first
/// events follow.
const DATA_MAX: usize = 8;

/// What a datagram is, by its first byte (RFC 7983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Handshake,
    /// Within DTLS, or media beside it: whoever sends either has our whole handshake.
    Beyond {
        data: bool,
    },
    Other,
}

fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        // Change of cipher, alert, handshake; application data; SRTP and SRTCP.
        Some(20..=22) => Kind::Handshake,
        Some(23) => Kind::Beyond { data: true },
        Some(128..=191) => Kind::Beyond { data: false },
        _ => Kind::Other,
    }
}

/// One peer's beginning.
#[derive(Debug)]
pub(super) struct Beginning {
    /// The other side has our whole handshake.
    heard: watch::Sender<bool>,
    handshakes: AtomicUsize,
    data: AtomicUsize,
}

impl Default for Beginning {
    fn default() -> Self {
        let (heard, _) = watch::channel(false);
        Self { heard, handshakes: AtomicUsize::new(0), data: AtomicUsize::new(0) }
    }
}

impl Beginning {
    /// Notes what came.
    pub(super) fn received(&self, datagram: &[u8]) {
        if matches!(kind(datagram), Kind::Beyond { .. }) && !*self.heard.borrow() {
            self.heard.send_replace(true);
        }
    }

    /// Notes what was sent, and sends it `again` where it belongs to a beginning. Within a Tokio runtime.
    pub(super) fn sent(&self, datagram: &[u8], again: impl Fn() + Send + 'static) {
        let (pauses, until): (&'static [Duration], _) = match kind(datagram) {
            Kind::Handshake if !*self.heard.borrow() && first(&self.handshakes, HANDSHAKES_MAX) => {
                (&HANDSHAKE_AFTER, true)
            }
            Kind::Beyond { data: true } if first(&self.data, DATA_MAX) => (&DATA_AFTER, false),
            _ => return,
        };
        let mut heard = self.heard.subscribe();
        tokio::spawn(async move {
            for pause in pauses {
                tokio::select! {
                    () = sleep(*pause) => again(),
                    // Heard, or the peer is gone.
                    _ = heard.wait_for(|heard| *heard && until) => return,
                }
            }
        });
    }
}

/// Whether this is one of the first so many.
fn first(count: &AtomicUsize, max: usize) -> bool {
    // Only ever counted up to there, so that it cannot turn over.
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HELLO: &[u8] = &[22, 254, 253];
    const DATA: &[u8] = &[23, 254, 253];
    const VOICE: &[u8] = &[128, 111];

    /// What is said again of these within so long, sent at once, when this comes after so many milliseconds.
    async fn said_again(sent: &[&'static [u8]], comes: Option<(u64, &[u8])>, within_ms: u64) -> usize {
        let (beginning, count) = (Beginning::default(), Arc::new(AtomicUsize::new(0)));
        for datagram in sent {
            let count = Arc::clone(&count);
            beginning.sent(datagram, move || {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        let (after, datagram) = comes.unwrap_or_default();
        sleep(Duration::from_millis(after)).await;
        beginning.received(datagram);
        sleep(Duration::from_millis(within_ms - after)).await;
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_handshake_is_said_again_until_the_other_side_shows_that_it_has_it() {
        let (never, soon, later, repeated) = tokio::join!(
            said_again(&[HELLO], None, 7_000),
            said_again(&[HELLO], Some((50, VOICE)), 1_000),
            // After 100, 300 and 700 ms.
            said_again(&[HELLO], Some((500, DATA)), 2_000),
            said_again(&[HELLO], Some((500, HELLO)), 1_100),
        );
        assert_eq!((never, soon, later), (6, 0, 2));
        assert_eq!(repeated, 3, "they may have lost what we said last");
    }

    #[tokio::test]
    async fn the_first_events_are_said_again_and_media_and_checks_are_not() {
        let (event, others, events, hellos) = tokio::join!(
            said_again(&[DATA], Some((10, DATA)), 1_000),
            said_again(&[VOICE, &[0, 1], &[]], None, 1_000),
            said_again(&[DATA; 100], None, 1_000),
            said_again(&[HELLO; 100], None, 200),
        );
        assert_eq!((event, others, events, hellos), (2, 0, 2 * DATA_MAX, HANDSHAKES_MAX));
    }

    #[tokio::test]
    async fn what_is_said_again_ends_with_the_peer() {
        let beginning = Beginning::default();
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        beginning.sent(HELLO, move || drop(Arc::clone(&holds)));
        drop(beginning);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
