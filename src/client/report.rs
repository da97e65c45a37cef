//! A call in figures: one [`TurnReport`] an utterance, one [`CallReport`] a call.

use serde::Serialize;

use super::caller::Sent;
use super::clip::RATE;
use super::hearing::{Hearing, frames, ms};
use super::playout::Gap;
use super::wire::TurnMetrics;

/// Silence after the caller's last word that a person takes for a fault: 3 s, three times the "standard
/// maximum silence" of about one second in conversation (Jefferson 1989).
pub const DEAD_AIR_MS: f64 = 3_000.0;

/// The server spoke, or decided to, before the caller was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CutOff {
    /// How long before the end of the speech.
    pub early_ms: f64,
    /// Whether sound of the reply was there before the end, or only the decision.
    pub spoke: bool,
}

/// One utterance and its answer. Times are milliseconds after the caller's last speech sample was sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TurnReport {
    /// What was played.
    pub file: String,
    /// Where the speech began, seconds into the call.
    pub at_s: f64,
    /// Length of the utterance, pauses included, seconds.
    pub speech_s: f64,
    /// What the server heard.
    pub heard: String,
    /// What it said, as far as it told.
    pub said: String,
    /// The server's own times.
    pub server: Option<TurnMetrics>,
    /// First audible sample of the answer received.
    pub voice_to_voice_ms: Option<f64>,
    /// The same as it left a player's jitter buffer.
    pub played_ms: Option<f64>,
    /// Whether the caller had finished and waited for an answer.
    pub waited: bool,
    /// Whether an answer was heard.
    pub answered: bool,
    /// How the response ended, in the protocol's words.
    pub status: String,
    /// Whether it was cut off.
    pub cut_off: Option<CutOff>,
    /// Whether this utterance interrupted a reply.
    pub barge_in: bool,
    /// From the start of this interruption to the last audible sample of the reply.
    pub barge_in_silent_ms: Option<f64>,
    /// The interrupted reply went on to its end as if nothing had been said.
    pub barge_in_ignored: bool,
    /// The caller waited longer than the run allows ([`DEAD_AIR_MS`] unless it says otherwise), or in vain.
    pub dead_air: bool,
}

/// A silence inside a reply.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Silence {
    /// Where, milliseconds into the call.
    pub at_ms: f64,
    /// How long.
    pub ms: f64,
}

/// One call.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CallReport {
    /// Seconds of the call.
    pub seconds: f64,
    /// Its turns.
    pub turns: Vec<TurnReport>,
    /// 20 ms frames of reply received.
    pub frames: u64,
    /// Of these, come after they were due in a player with a 40 ms buffer.
    pub late_frames: u64,
    /// 20 ms slots inside replies in which that player had nothing to play.
    pub missing_frames: u64,
    /// Those silences.
    pub glitches: Vec<Silence>,
    /// Silences inside replies while the server listened to us, or there was no line.
    pub holds: Vec<Silence>,
    /// How often the network was gone, by our own will.
    pub lines_lost: u64,
    /// Noises made that were no interruption.
    pub coughs: u64,
    /// Of these, taken for one.
    pub false_barge_ins: u64,
    /// Audio that came for replies already taken back.
    pub stray_deltas: u64,
    /// Errors the server told, and ours.
    pub errors: u64,
    /// The first of them.
    pub error_messages: Vec<String>,
    /// Our own punctuality.
    pub sent: Sent,
}

impl CallReport {
    /// Sums up what was heard until `now`. Waits of more than `dead_air_ms` are dead air.
    pub fn new(hearing: &Hearing, now: u64, sent: Sent, dead_air_ms: f64) -> Self {
        let silences = |gaps: &[Gap]| {
            gaps.iter().map(|gap| Silence { at_ms: ms(gap.start), ms: ms(gap.end - gap.start) }).collect()
        };
        Self {
            seconds: now as f64 / f64::from(RATE),
            turns: (0..hearing.turns.len()).map(|turn| TurnReport::new(hearing, turn, dead_air_ms)).collect(),
            frames: hearing.playout.frames(),
            late_frames: frames(hearing.late + super::clip::FRAME as u64 - 1),
            missing_frames: hearing.glitches.iter().map(|gap| frames(gap.end - gap.start)).sum(),
            glitches: silences(&hearing.glitches),
            holds: silences(&hearing.holds),
            lines_lost: hearing.lines_lost(),
            coughs: hearing.coughs(),
            false_barge_ins: hearing.false_barge_ins(),
            stray_deltas: hearing.stray_deltas,
            errors: hearing.error_count,
            error_messages: hearing.errors.clone(),
            sent,
        }
    }
}

impl TurnReport {
    fn new(hearing: &Hearing, index: usize, dead_air_ms: f64) -> Self {
        let turn = &hearing.turns[index];
        let end = turn.end();
        let metrics = turn.metrics.clone();
        let told = |field: fn(&TurnMetrics) -> Option<&String>| {
            metrics.as_ref().and_then(field).cloned().unwrap_or_default()
        };
        let replies = || hearing.replies.iter().filter(|reply| reply.turn == Some(index));
        let answer = hearing.answer(index).map(|answer| &hearing.replies[answer]);
        let said: Vec<&str> = replies().map(|r| r.said.trim()).filter(|said| !said.is_empty()).collect();
        let voice_to_voice_ms = answer.and_then(|reply| reply.arrived).map(|at| ms(at - end));
        let answered = replies().any(|reply| reply.arrived.is_some());
        let mut report = Self {
            file: turn.files.join(" + "),
            at_s: turn.speech_start as f64 / f64::from(RATE),
            speech_s: turn.speech_end.saturating_sub(turn.speech_start) as f64 / f64::from(RATE),
            heard: if turn.heard.is_empty() { told(|m| m.heard.as_ref()) } else { turn.heard.clone() },
            said: if said.is_empty() { told(|m| m.said.as_ref()) } else { said.join(" ") },
            voice_to_voice_ms,
            played_ms: answer.and_then(|reply| reply.played).map(|at| ms(at.saturating_sub(end))),
            waited: turn.closed,
            answered,
            status: replies()
                .next_back()
                .and_then(|reply| reply.over.as_ref())
                .map(|(_, status, reason)| format!("{status} {reason}").trim().to_owned())
                .unwrap_or_default(),
            cut_off: cut_off(hearing, index),
            barge_in: turn.interrupts.is_some(),
            dead_air: turn.closed
                && (!answered || voice_to_voice_ms.is_some_and(|waited| waited > dead_air_ms)),
            server: metrics,
            ..Self::default()
        };
        if let Some(reply) = turn.interrupts {
            report.barge_in_ignored = hearing.replies[reply].flushed.is_none();
            report.barge_in_silent_ms = (!report.barge_in_ignored)
                .then(|| hearing.playout.audible_end(reply, turn.speech_start + 1))
                .flatten()
                .map(|silent| ms(silent.saturating_sub(turn.speech_start)));
        }
        report
    }
}

fn cut_off(hearing: &Hearing, index: usize) -> Option<CutOff> {
    let turn = &hearing.turns[index];
    let end = turn.end();
    let sounds = hearing.replies.iter().filter(|r| r.turn == Some(index)).filter_map(|r| r.arrived);
    let first_sound = sounds.min().filter(|&at| at < end);
    let first_decision = turn.decisions.iter().copied().min().filter(|&at| at < end);
    let first = first_sound.into_iter().chain(first_decision).min()?;
    Some(CutOff { early_ms: ms(end - first), spoke: first_sound.is_some() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::client::caller::Arrival;
    use crate::client::clip::{Clip, FRAME};
    use crate::client::hearing::Progress;
    use crate::client::wire::Event;

    const F: u64 = FRAME as u64;
    const SECOND: u64 = RATE as u64;

    fn second_of_speech() -> Arc<Clip> {
        Arc::new(Clip::new("a", (0..RATE).map(|i| ((f64::from(i) * 0.1).sin() * 9000.0) as i16).collect()))
    }

    fn created(id: &str) -> Event {
        Event::ResponseCreated { response: id.into() }
    }

    fn done(id: &str, status: &str) -> Event {
        Event::ResponseDone { response: id.into(), status: status.into(), reason: String::new() }
    }

    fn frame(id: &str) -> Event {
        Event::Audio { response: id.into(), samples: vec![2000; FRAME] }
    }

    /// Frames of a reply, one every 20 ms from `at` on.
    fn reply(hearing: &mut Hearing, id: &str, at: u64, count: u64) {
        for i in 0..count {
            hearing.handle(Arrival { at: at + i * F, event: frame(id) });
        }
    }

    fn report(hearing: &Hearing) -> CallReport {
        CallReport::new(hearing, 100 * SECOND, Sent::default(), DEAD_AIR_MS)
    }

    #[test]
    fn an_answer_is_measured_from_the_last_speech_sample() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), SECOND);
        hearing.close_turn();
        assert_eq!(hearing.progress(0, 2 * SECOND, SECOND), Progress::Until(3 * SECOND));
        hearing.handle(Arrival { at: 2 * SECOND + F, event: created("r") });
        reply(&mut hearing, "r", 2 * SECOND + 30 * F, 50);
        hearing.handle(Arrival { at: 2 * SECOND + 80 * F, event: done("r", "completed") });
        assert_eq!(hearing.progress(0, 2 * SECOND + 90 * F, SECOND), Progress::Over);
        let turn = &report(&hearing).turns[0];
        assert_eq!(turn.voice_to_voice_ms, Some(600.0));
        assert_eq!(turn.played_ms, Some(640.0));
        assert_eq!((turn.cut_off.clone(), turn.dead_air, turn.barge_in), (None, false, false));
    }

    #[test]
    fn a_decision_before_the_end_is_a_cut_off_and_the_second_reply_is_the_answer() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), 0);
        hearing.handle(Arrival { at: SECOND - 20 * F, event: created("early") });
        hearing.handle(Arrival { at: SECOND - 10 * F, event: done("early", "cancelled") });
        hearing.close_turn();
        assert_eq!(hearing.progress(0, SECOND, 9 * SECOND), Progress::Until(10 * SECOND));
        hearing.handle(Arrival { at: SECOND + 20 * F, event: created("r") });
        reply(&mut hearing, "r", SECOND + 40 * F, 5);
        let turn = &report(&hearing).turns[0];
        assert_eq!(turn.cut_off, Some(CutOff { early_ms: 400.0, spoke: false }));
        assert_eq!(turn.voice_to_voice_ms, Some(800.0));
    }

    #[test]
    fn a_barge_in_is_measured_to_the_last_audible_sample() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), 0);
        hearing.close_turn();
        reply(&mut hearing, "r", 2 * SECOND, 50);
        // We speak up at 3 s; the server's lead ends, it holds, then cancels.
        hearing.interrupt(&second_of_speech(), 3 * SECOND, 0);
        hearing.handle(Arrival { at: 3 * SECOND + 20 * F, event: done("r", "cancelled") });
        let turn = &report(&hearing).turns[1];
        assert!(turn.barge_in && !turn.barge_in_ignored);
        assert_eq!(turn.barge_in_silent_ms, Some(40.0), "what the player's buffer still held");
    }

    #[test]
    fn a_cough_that_holds_the_reply_is_no_glitch_and_one_that_ends_it_is_a_false_barge_in() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), 0);
        hearing.close_turn();
        reply(&mut hearing, "r", 2 * SECOND, 50);
        hearing.cough(&second_of_speech(), 3 * SECOND);
        reply(&mut hearing, "r", 4 * SECOND, 50);
        let calm = report(&hearing);
        assert_eq!((calm.coughs, calm.false_barge_ins, calm.holds.len(), calm.glitches.len()), (1, 0, 1, 0));
        hearing.handle(Arrival { at: 5 * SECOND, event: done("r", "cancelled") });
        assert_eq!(report(&hearing).false_barge_ins, 1);
    }

    #[test]
    fn a_late_frame_is_a_glitch_with_its_slots_counted() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), 0);
        hearing.close_turn();
        reply(&mut hearing, "r", 3 * SECOND, 10);
        // The player runs dry 2 frames after the 10th; the next comes 5 frames after that.
        reply(&mut hearing, "r", 3 * SECOND + 17 * F, 10);
        let report = report(&hearing);
        assert_eq!(report.glitches, vec![Silence { at_ms: 3240.0, ms: 140.0 }]);
        assert_eq!((report.frames, report.late_frames, report.missing_frames), (20, 1, 7));
    }

    #[test]
    fn a_gap_while_there_was_no_line_is_no_glitch() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), 0);
        hearing.close_turn();
        reply(&mut hearing, "r", 3 * SECOND, 10);
        hearing.lost_line(3 * SECOND + 10 * F, 5 * SECOND);
        reply(&mut hearing, "r", 5 * SECOND + F, 10);
        let report = report(&hearing);
        assert_eq!((report.glitches.len(), report.holds.len(), report.lines_lost), (0, 1, 1));
    }

    #[test]
    fn words_come_from_the_protocol_and_else_from_the_metrics() {
        let mut hearing = Hearing::new(false);
        hearing.speak(&second_of_speech(), 0);
        let metrics = TurnMetrics { heard: Some("h".into()), said: Some("s".into()), ..Default::default() };
        hearing.handle(Arrival { at: SECOND, event: Event::Turn(Box::new(metrics)) });
        assert_eq!(
            (report(&hearing).turns[0].heard.as_str(), report(&hearing).turns[0].said.as_str()),
            ("h", "s")
        );
        hearing.handle(Arrival { at: SECOND, event: Event::Transcribed("heard".into()) });
        hearing.handle(Arrival {
            at: SECOND,
            event: Event::Said { response: "r".into(), delta: "said".into() },
        });
        let report = report(&hearing);
        assert_eq!((report.turns[0].heard.as_str(), report.turns[0].said.as_str()), ("heard", "said"));
    }
}
