//! From a caller's packets as they come to their audio as it was said. Pure: time comes in as an argument.
//!
//! This is no playout buffer: nobody listens to it but a recogniser, so what is in order passes at once and
//! only a hole makes anything wait, for at most [`HOLE_WAIT`]. What does not come by then is made up: the last
//! lost frame from the forward correction in the packet behind the hole, those before it by concealment; a hole
//! beyond [`CONCEAL_MAX`] is no audio at all, and the decoder begins anew.
//!
//! Time is the sender's: a jump of its clock between two packets in a row is a silence it did not send. A
//! stream that stalls is silence only as long as the sender is known to be there, because the packets said that
//! they would become rare (DTX) or because something else came from it; a dead network says nothing, and then
//! time stands still.
//!
//! *Bound:* [`WAITING_MAX`] packets. *When it is full* the hole is given up at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// How long a hole may wait to be filled. Measured with aiortc and jitter of 0 to 60 ms: 20 ms made false losses
/// of 5 % of the packets, 60 ms of none.
pub const HOLE_WAIT: Duration = Duration::from_millis(60);

/// The longest hole that is made up: ten frames. What concealment says beyond 200 ms is noise.
pub const CONCEAL_MAX: Duration = Duration::from_millis(200);

/// Packets behind a hole: over half a second of them, ten times what comes within the wait.
const WAITING_MAX: usize = 32;

/// A packet this far from the one expected is another stream's, or one after a long outage: 20 s of packets.
const SEQUENCE_JUMP: i64 = 1000;

/// The longest silence a jump of the sender's clock may be: a paused track. Beyond it clocks were reset.
const CLOCK_JUMP_MAX: u64 = 10 * CLOCK;

/// RTP's clock for Opus, in Hz.
const CLOCK: u64 = 48_000;

/// One frame of what is made up: every Opus sender we know of sends 20 ms.
const FRAME: Duration = Duration::from_millis(20);

/// Nothing for this long is a stall: a frame and the wait for a hole.
const STALL: Duration = Duration::from_millis(80);

/// Bytes of a packet that announces silence (RFC 6716: a frame of at most one byte beside its header).
const DTX_BYTES: usize = 2;

/// How long an announced silence is believed without another word: Opus says something every 400 ms.
const DTX_BELIEVED: Duration = Duration::from_millis(1000);

/// Something else must have come this long after the last packet, or it was only on the way beside it.
const ALIVE_AFTER: Duration = Duration::from_millis(200);

/// How long a sign of life is believed: browsers check the path every 2.5 s.
const ALIVE_BELIEVED: Duration = Duration::from_secs(3);

/// A packet of the caller's.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Counts packets.
    pub sequence: u16,
    /// Counts samples at 48 kHz.
    pub timestamp: u32,
    /// Samples at 48 kHz in it.
    pub length: u32,
    /// Opus.
    pub payload: Bytes,
}

/// What to do next with the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Decode this.
    Decode(Bytes),
    /// Make up the frame before this packet, from what the packet carries of it.
    Correct(Bytes),
    /// Make up a frame.
    Conceal,
    /// So much silence.
    Silence(Duration),
    /// Begin anew: what comes does not go on from what came.
    Reset,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that never came, or too late.
    pub lost: u64,
    /// Packets that came after their place had been given up, or twice.
    pub late: u64,
    /// Packets that came out of order and were put in order.
    pub reordered: u64,
}

/// One stream.
#[derive(Debug, Default)]
pub struct Dejitter {
    next: Option<Next>,
    waiting: BTreeMap<i64, Packet>,
    /// When the hole before `waiting` was found.
    hole: Option<Instant>,
    stall: Option<Stall>,
    counts: Counts,
}

/// The packet that is due.
#[derive(Debug, Clone, Copy)]
struct Next {
    sequence: i64,
    timestamp: u32,
    /// When the one before it came.
    came: Instant,
    /// The one before it announced silence.
    dtx: bool,
}

/// Silence made since the last packet.
#[derive(Debug, Clone, Copy)]
struct Stall {
    /// Up to this time.
    until: Instant,
    /// In samples at 48 kHz.
    made: u64,
}

impl Dejitter {
    /// A packet came at `now`. What can be done at once is added to `out`.
    pub fn packet(&mut self, packet: Packet, now: Instant, out: &mut Vec<Step>) {
        let Some(next) = self.next else {
            let sequence = i64::from(packet.sequence);
            return self.take(packet, now, sequence, out);
        };
        // The counter wraps every 22 minutes: the nearest place it can mean.
        let ahead = i64::from(packet.sequence.wrapping_sub(next.sequence as u16) as i16);
        let sequence = next.sequence + ahead;
        if ahead.abs() > SEQUENCE_JUMP {
            self.restart(packet, now, out);
        } else if ahead < 0 || self.waiting.contains_key(&sequence) {
            self.counts.late += 1;
        } else if ahead == 0 {
            if self.hole.take().is_some() {
                self.counts.reordered += 1;
            }
            self.take(packet, now, sequence, out);
            self.go_on(now, out);
        } else {
            self.hole.get_or_insert(now);
            self.waiting.insert(sequence, packet);
            if self.waiting.len() > WAITING_MAX {
                self.give_up(now, out);
            }
        }
    }

    /// Time has passed. `heard`: when anything at all came from the sender last.
    pub fn tick(&mut self, now: Instant, heard: Instant, out: &mut Vec<Step>) {
        while self.hole.is_some_and(|since| now >= since + HOLE_WAIT) {
            self.give_up(now, out);
        }
        self.stalled(now, heard, out);
    }

    /// When to call [`Self::tick`] if nothing comes; none before the first packet.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let next = self.next?;
        let stalled = (next.came + STALL).max(now + FRAME);
        Some(self.hole.map_or(stalled, |since| stalled.min(since + HOLE_WAIT)))
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Hands on the packet that is due.
    fn take(&mut self, packet: Packet, now: Instant, sequence: i64, out: &mut Vec<Step>) {
        let made = self.stall.take().map_or(0, |stall| stall.made);
        match self.next {
            Some(next) => {
                let jump = u64::from(packet.timestamp.wrapping_sub(next.timestamp));
                if jump > 0 && jump <= CLOCK_JUMP_MAX {
                    let silence = jump.saturating_sub(made);
                    if silence > 0 {
                        out.push(Step::Silence(Duration::from_micros(silence * 1_000_000 / CLOCK)));
                    }
                }
            }
            None => out.push(Step::Reset),
        }
        self.next = Some(Next {
            sequence: sequence + 1,
            timestamp: packet.timestamp.wrapping_add(packet.length),
            came: now,
            dtx: packet.payload.len() <= DTX_BYTES,
        });
        out.push(Step::Decode(packet.payload));
    }

    /// Another stream, or the same one after so long that nothing of it is missed.
    fn restart(&mut self, packet: Packet, now: Instant, out: &mut Vec<Step>) {
        let counts = self.counts;
        *self = Self { counts, ..Self::default() };
        let sequence = i64::from(packet.sequence);
        self.take(packet, now, sequence, out);
    }

    /// Hands on what waits and is in order now; what is behind the next hole goes on waiting.
    fn go_on(&mut self, now: Instant, out: &mut Vec<Step>) {
        while let Some(next) = self.next
            && let Some(packet) = self.waiting.remove(&next.sequence)
        {
            self.take(packet, now, next.sequence, out);
        }
        self.hole = (!self.waiting.is_empty()).then(|| self.hole.unwrap_or(now));
    }

    /// The hole will not be filled any more.
    fn give_up(&mut self, now: Instant, out: &mut Vec<Step>) {
        self.hole = None;
        let (Some(next), Some((sequence, packet))) = (self.next, self.waiting.pop_first()) else { return };
        self.counts.lost += (sequence - next.sequence) as u64;
        let missing = u64::from(packet.timestamp.wrapping_sub(next.timestamp));
        let missing = Duration::from_micros(missing * 1_000_000 / CLOCK);
        if missing > CONCEAL_MAX {
            out.push(Step::Reset);
        } else {
            let frames = missing.as_millis() / FRAME.as_millis();
            for left in (0..frames).rev() {
                out.push(if left == 0 { Step::Correct(packet.payload.clone()) } else { Step::Conceal });
            }
        }
        // What was missing has been dealt with: the clock goes on from this packet.
        self.next = Some(Next { sequence, timestamp: packet.timestamp, ..next });
        self.stall = None;
        self.take(packet, now, sequence, out);
        self.go_on(now, out);
    }

    fn stalled(&mut self, now: Instant, heard: Instant, out: &mut Vec<Step>) {
        let Some(next) = self.next.filter(|next| self.hole.is_none() && now >= next.came + STALL) else {
            return;
        };
        let announced = next.dtx && now < next.came + DTX_BELIEVED;
        let alive = heard >= next.came + ALIVE_AFTER && now < heard + ALIVE_BELIEVED;
        if !(announced || alive) {
            // What passes unseen is not made up later either.
            if let Some(stall) = &mut self.stall {
                stall.until = now;
            }
            return;
        }
        let begin = if announced { next.came + FRAME } else { now };
        let stall = self.stall.get_or_insert(Stall { until: begin, made: 0 });
        let silence = now.saturating_duration_since(stall.until);
        let frames = (silence.as_millis() / FRAME.as_millis()) as u32;
        if frames > 0 {
            stall.until += FRAME * frames;
            stall.made += u64::from(frames) * (CLOCK / 50);
            out.push(Step::Silence(FRAME * frames));
        }
    }
}

#[cfg(test)]
#[path = "dejitter/tests.rs"]
mod tests;
