//! What a caller was told last, for one who comes back over another line and may not have heard it.
//!
//! *Bound:* [`EVENTS_MAX`] events of [`BYTES_MAX`] bytes together; the oldest go. Our voice is none of them: the
//! playout says again what was not heard.

use std::collections::VecDeque;
use std::io;

use super::protocol::ServerEvent;

/// Events that are kept: a reply has thirty and its caller's words ten. A line is missed after seconds, so these
/// are several times what may have gone into nothing.
const EVENTS_MAX: usize = 256;

/// Bytes of them, as they are written: the largest event a data channel takes is 64 KiB.
const BYTES_MAX: usize = 64 * 1024;

/// The events told last, by their numbers.
#[derive(Debug, Default)]
pub struct Recall {
    told: VecDeque<(u64, usize, ServerEvent)>,
    bytes: usize,
    /// The last one that is not known any more.
    forgotten: u64,
}

impl Recall {
    /// Keeps an event that is told now. What belongs to one line only is not kept.
    pub fn keep(&mut self, number: u64, event: &ServerEvent) {
        if matches!(
            event,
            ServerEvent::SessionCreated { .. } | ServerEvent::WayBack { .. } | ServerEvent::CameBack { .. }
        ) {
            return;
        }
        let mut length = Length(0);
        // Counting cannot fail; an event that cannot be written was not told either.
        serde_json::to_writer(&mut length, event).ok();
        self.bytes += length.0;
        self.told.push_back((number, length.0, event.clone()));
        while self.told.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some((number, bytes, _)) = self.told.pop_front() else { return };
            self.bytes -= bytes;
            self.forgotten = number;
        }
    }

    /// What was told after this one, and whether that is all of it.
    pub fn after(&self, number: u64) -> (Vec<(u64, ServerEvent)>, bool) {
        let later = self.told.iter().filter(|(n, ..)| *n > number);
        (later.map(|(n, _, event)| (*n, event.clone())).collect(), number >= self.forgotten)
    }
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> ServerEvent {
        ServerEvent::State { state: text.to_owned() }
    }

    #[test]
    fn what_came_after_an_event_is_told_again_in_order() {
        let mut recall = Recall::default();
        recall.keep(3, &state("hearing"));
        recall.keep(4, &ServerEvent::WayBack { token: "secret".into(), expires_in_s: 30 });
        recall.keep(7, &state("thinking"));
        recall.keep(9, &state("speaking"));
        assert_eq!(recall.after(3), (vec![(7, state("thinking")), (9, state("speaking"))], true));
        assert_eq!(recall.after(9), (Vec::new(), true));
    }

    #[test]
    fn events_and_bytes_are_bounded_and_it_is_said_what_is_missing() {
        let mut recall = Recall::default();
        for n in 1..=300 {
            recall.keep(n, &state("hearing"));
        }
        let (again, whole) = recall.after(0);
        assert_eq!((again.len(), whole), (EVENTS_MAX, false));
        assert!(recall.after(300 - EVENTS_MAX as u64).1, "nothing after it is missing");
        recall.keep(301, &state(&"long".repeat(BYTES_MAX / 4 - 1_000)));
        assert!(recall.after(0).0.len() < 200 && recall.bytes <= BYTES_MAX);
        recall.keep(302, &state(&"long".repeat(BYTES_MAX)));
        assert_eq!((recall.after(0), recall.bytes), ((Vec::new(), false), 0));
    }
}
