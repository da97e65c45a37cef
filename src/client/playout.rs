//! What a person would have heard of the reply: a pure model of a player with a small jitter buffer.
//!
//! Every audio delta comes in with its time of arrival on the caller's media clock; out comes where it
//! was played, where there was nothing to play, and the whole as one track beside the caller's own.

use super::clip::{AUDIBLE, FRAME, RATE};

/// Samples the player waits before it starts, so that what comes a little late is not missed: 40 ms, two
/// frames, what browsers settle at on a calm network.
pub const JITTER_BUFFER: u64 = RATE as u64 / 25;

/// A stretch of reply as it was played.
#[derive(Debug, Clone)]
struct Segment {
    /// Index of the reply it belongs to, as the caller counts them.
    reply: usize,
    /// Where playing starts, in samples of the caller's media clock.
    start: u64,
    /// Samples that were played; less than came where a flush cut it off.
    length: u64,
    /// Offset of its last audible sample, plus one; 0 when all of it is silence.
    audible_until: u64,
    /// The samples, where the track is wanted.
    samples: Vec<i16>,
}

/// The player had nothing to play in mid-reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Where the sound stopped, in samples of the caller's media clock.
    pub start: u64,
    /// Where it went on.
    pub end: u64,
}

/// What became of one delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Played {
    /// Where its first sample is played.
    pub start: u64,
    /// Where its first audible sample is played, if it has one.
    pub audible: Option<u64>,
    /// The silence it ended, when it came too late to follow what went before.
    pub gap: Option<Gap>,
    /// How many of its samples had been due before they came.
    pub late: u64,
}

/// The player.
#[derive(Debug, Default)]
pub struct Playout {
    segments: Vec<Segment>,
    /// Whether samples are kept for [`Self::track`].
    keep: bool,
    /// Frames of 20 ms that came, rounded up a delta.
    frames: u64,
}

impl Playout {
    /// `keep`: remember the samples, for a recording.
    pub fn new(keep: bool) -> Self {
        Self { keep, ..Self::default() }
    }

    /// Takes a delta of `reply` that arrived at `arrival`.
    pub fn push(&mut self, reply: usize, arrival: u64, samples: Vec<i16>) -> Played {
        let queue_end = self.end();
        let continues = self.segments.last().is_some_and(|last| last.reply == reply);
        let dry = arrival > queue_end || self.segments.is_empty();
        let start = if dry { arrival + JITTER_BUFFER } else { queue_end };
        let gap = (dry && continues).then_some(Gap { start: queue_end, end: start });
        let late = gap.map_or(0, |gap| (arrival - gap.start).min(samples.len() as u64));
        let audible = |sample: &i16| sample.unsigned_abs() > AUDIBLE;
        let first = samples.iter().position(audible);
        let length = samples.len() as u64;
        self.frames += samples.len().div_ceil(FRAME) as u64;
        let audible_until = samples.iter().rposition(audible).map_or(0, |last| last as u64 + 1);
        let samples = if self.keep { samples } else { Vec::new() };
        match self.segments.last_mut() {
            // One segment a stretch of sound, so that an hour's call stays small.
            Some(last) if continues && !dry => {
                if audible_until > 0 {
                    last.audible_until = last.length + audible_until;
                }
                last.length += length;
                last.samples.extend(samples);
            }
            _ => self.segments.push(Segment { reply, start, length, audible_until, samples }),
        }
        Played { start, audible: first.map(|first| start + first as u64), gap, late }
    }

    /// Throws away what `reply` has not played yet at `now`: a barge-in, a cancelled response.
    pub fn flush(&mut self, reply: usize, now: u64) {
        for segment in
            self.segments.iter_mut().rev().take_while(|segment| segment.start + segment.length > now)
        {
            if segment.reply == reply {
                segment.length = now.saturating_sub(segment.start);
                segment.start = segment.start.min(now);
                segment.audible_until = segment.audible_until.min(segment.length);
                segment.samples.truncate(segment.length as usize);
            }
        }
    }

    /// Where the queue runs dry.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.start + last.length)
    }

    /// Where the last audible sample of `reply` that starts before `before` was played. A stretch that is
    /// still going on at `before` counts up to its end.
    pub fn audible_end(&self, reply: usize, before: u64) -> Option<u64> {
        self.segments
            .iter()
            .rev()
            .filter(|segment| segment.reply == reply && segment.start < before && segment.audible_until > 0)
            .map(|segment| segment.start + segment.audible_until)
            .next()
    }

    /// 20 ms frames received.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The reply's side of the call, from sample 0 of the media clock, `length` samples long.
    pub fn track(&self, length: usize) -> Vec<i16> {
        let mut track = vec![0; length];
        for segment in &self.segments {
            let start = (segment.start as usize).min(length);
            let room = segment.samples.len().min(length - start);
            track[start..start + room].copy_from_slice(&segment.samples[..room]);
        }
        track
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: u64 = FRAME as u64;

    fn loud(frames: usize) -> Vec<i16> {
        vec![1000; frames * FRAME]
    }

    #[test]
    fn frames_on_time_are_one_unbroken_stretch() {
        let mut playout = Playout::new(true);
        for i in 0..10 {
            // Each up to 30 ms late against a steady beat: within the buffer.
            let late = if i % 3 == 0 { F * 3 / 2 } else { 0 };
            let played = playout.push(0, 1000 + i * F + late, loud(1));
            assert_eq!(played.gap, None, "frame {i}");
        }
        let track = playout.track(40 * FRAME);
        assert_eq!(track.iter().filter(|&&s| s != 0).count(), 10 * FRAME);
        assert_eq!(playout.frames(), 10);
    }

    #[test]
    fn a_frame_that_comes_after_the_buffer_ran_dry_leaves_a_gap() {
        let mut playout = Playout::new(false);
        playout.push(0, 0, loud(1));
        // Plays at 40..60 ms; the next comes at 100 ms and is played at 140.
        let played = playout.push(0, 5 * F, loud(1));
        assert_eq!(played.gap, Some(Gap { start: 3 * F, end: 7 * F }));
        assert_eq!(played.late, F, "its one frame was due at 60 ms");
    }

    #[test]
    fn a_new_reply_after_silence_is_no_gap() {
        let mut playout = Playout::new(false);
        playout.push(0, 0, loud(1));
        let played = playout.push(1, 500 * F, loud(1));
        assert_eq!(played, Played { start: 502 * F, audible: Some(502 * F), gap: None, late: 0 });
    }

    #[test]
    fn leading_silence_is_not_audible() {
        let mut playout = Playout::new(false);
        let mut samples = vec![3; 100];
        samples.extend([200; 380]);
        assert_eq!(playout.push(0, 0, samples).audible, Some(JITTER_BUFFER + 100));
    }

    #[test]
    fn a_flush_drops_what_was_not_played() {
        let mut playout = Playout::new(true);
        playout.push(0, 0, loud(10));
        playout.flush(0, JITTER_BUFFER + 3 * F);
        assert_eq!(playout.end(), JITTER_BUFFER + 3 * F);
        assert_eq!(playout.audible_end(0, u64::MAX), Some(JITTER_BUFFER + 3 * F));
        assert_eq!(playout.track(20 * FRAME).iter().filter(|&&s| s != 0).count(), 3 * FRAME);
    }
}
