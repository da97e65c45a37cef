//! What a caller experienced: folds the caller's own utterances and the server's events into turns,
//! gaps and mistakes. Pure: time comes in as samples of the media clock.

use std::sync::Arc;

use super::caller::{Arrival, sent_at};
use super::clip::{Clip, FRAME, RATE};
use super::playout::{Gap, Playout};
use super::wire::{Event, TurnMetrics};

/// A gap is a breath held for us, not a glitch, when we made a sound at most this long before it: the
/// server may need 150 ms to fall silent, and hears us through its own buffers.
const HOLD_REACH: u64 = RATE as u64 * 6 / 10;
/// A gap so soon after a lost line came back is that line's: a server may take a second to notice, and as long
/// to speak on.
const LINE_REACH: u64 = RATE as u64 * 2;
/// After a reply that came too early, the real one may still come within this: 3 s, the longest turn
/// decision a server takes by silence alone.
const SECOND_REPLY_GRACE: u64 = RATE as u64 * 3;
/// Longest reply we wait out: two minutes is no interviewer's line.
pub const REPLY_MAX: u64 = RATE as u64 * 120;
/// Messages of errors kept; the rest is only counted.
const ERRORS_KEPT: usize = 50;

/// One reply of the server.
#[derive(Debug, Clone)]
pub struct Reply {
    id: String,
    /// The turn it answers; none when nobody had spoken.
    pub turn: Option<usize>,
    /// When it was first heard of.
    pub born: u64,
    /// When its first audible sample arrived.
    pub arrived: Option<u64>,
    /// Where its first audible sample was played.
    pub played: Option<u64>,
    /// `response.done`: when, status, reason.
    pub over: Option<(u64, String, String)>,
    /// When the rest of it was thrown away.
    pub flushed: Option<u64>,
    /// Its words.
    pub said: String,
}

/// One utterance of the caller and what came of it.
#[derive(Debug, Clone)]
pub struct Turn {
    /// What was played.
    pub files: Vec<String>,
    /// First sample of speech.
    pub speech_start: u64,
    /// One past the last sample of speech, so far.
    pub speech_end: u64,
    /// The reply it interrupts, as an index.
    pub interrupts: Option<usize>,
    /// The caller is done and waits for the answer.
    pub closed: bool,
    /// When the server decided that it was over.
    pub decisions: Vec<u64>,
    /// What the server heard.
    pub heard: String,
    /// The server's own times.
    pub metrics: Option<TurnMetrics>,
}

impl Turn {
    fn new(file: &str, speech_start: u64, speech_end: u64) -> Self {
        Self {
            files: vec![file.to_owned()],
            speech_start,
            speech_end,
            interrupts: None,
            closed: false,
            decisions: Vec::new(),
            heard: String::new(),
            metrics: None,
        }
    }

    /// When its last speech sample was sent.
    pub fn end(&self) -> u64 {
        sent_at(self.speech_end)
    }
}

/// How far the answer to a turn has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing changes before this time unless an event comes; if none came by then, none will.
    Until(u64),
    /// It was heard to its end.
    Over,
    /// It ended without a sound, and why.
    Failed(String),
}

/// A sound that was meant as no interruption.
#[derive(Debug, Clone, Copy)]
struct Cough {
    at: u64,
    /// The reply that was going on.
    reply: Option<usize>,
}

/// The fold.
#[derive(Debug, Default)]
pub struct Hearing {
    /// The player's model.
    pub playout: Playout,
    /// Every reply, in the order in which they began.
    pub replies: Vec<Reply>,
    /// Every utterance.
    pub turns: Vec<Turn>,
    /// Silences in replies that nobody caused.
    pub glitches: Vec<Gap>,
    /// Silences in replies while the server listened to us, or there was no line.
    pub holds: Vec<Gap>,
    /// Samples that had been due before they came.
    pub late: u64,
    /// The first errors, as sentences.
    pub errors: Vec<String>,
    /// How many errors.
    pub error_count: u64,
    /// Deltas of replies that had been thrown away.
    pub stray_deltas: u64,
    spoken: Vec<(u64, Arc<Clip>)>,
    coughs: Vec<Cough>,
    /// When we had no line: from, until.
    away: Vec<(u64, u64)>,
}

impl Hearing {
    /// `keep`: remember the sound of replies, for a recording.
    pub fn new(keep: bool) -> Self {
        Self { playout: Playout::new(keep), ..Self::default() }
    }

    /// The caller says `clip` from `start` on, going on with an open utterance or beginning one.
    pub fn speak(&mut self, clip: &Arc<Clip>, start: u64) {
        let (speech_start, speech_end) = (start + clip.speech_start as u64, start + clip.speech_end as u64);
        match self.turns.last_mut() {
            Some(turn) if !turn.closed => {
                turn.files.push(clip.name.clone());
                turn.speech_end = speech_end;
            }
            _ => self.turns.push(Turn::new(&clip.name, speech_start, speech_end)),
        }
        self.spoken.push((start, Arc::clone(clip)));
    }

    /// The caller asks for a reply, having said nothing.
    pub fn ask(&mut self, at: u64) {
        self.close_turn();
        self.turns.push(Turn { closed: true, ..Turn::new("(asked)", at, at) });
    }

    /// The caller interrupts `reply` with `clip`.
    pub fn interrupt(&mut self, clip: &Arc<Clip>, start: u64, reply: usize) {
        self.close_turn();
        self.speak(clip, start);
        if let Some(turn) = self.turns.last_mut() {
            turn.interrupts = Some(reply);
        }
    }

    /// The caller makes a sound that is no turn.
    pub fn cough(&mut self, clip: &Arc<Clip>, start: u64) {
        let going_on = self
            .replies
            .len()
            .checked_sub(1)
            .filter(|&i| self.replies[i].over.is_none() || self.playout.end() > start);
        self.coughs.push(Cough { at: start, reply: going_on });
        self.spoken.push((start, Arc::clone(clip)));
    }

    /// There was no line to hear anything over.
    pub fn lost_line(&mut self, from: u64, until: u64) {
        self.away.push((from, until));
    }

    /// How often there was no line.
    pub fn lines_lost(&self) -> u64 {
        self.away.len() as u64
    }

    /// The caller is done speaking.
    pub fn close_turn(&mut self) {
        if let Some(turn) = self.turns.last_mut() {
            turn.closed = true;
        }
    }

    /// Takes an event.
    pub fn handle(&mut self, arrival: Arrival) {
        let at = arrival.at;
        match arrival.event {
            Event::Committed => self.decided(at),
            Event::ResponseCreated { response } => {
                self.decided(at);
                self.reply(&response, at);
            }
            Event::Audio { response, samples } => self.audio(&response, at, samples),
            Event::Said { response, delta } => {
                let index = self.reply(&response, at);
                self.replies[index].said.push_str(&delta);
            }
            Event::SaidAll { response, text } => {
                let index = self.reply(&response, at);
                self.replies[index].said = text;
            }
            Event::ResponseDone { response, status, reason } => {
                let index = self.reply(&response, at);
                if status == "cancelled" {
                    self.flush(index, at);
                }
                self.replies[index].over = Some((at, status, reason));
            }
            Event::PlaybackClear => {
                if let Some(last) = self.replies.len().checked_sub(1) {
                    self.flush(last, at);
                }
            }
            Event::VoiceCut => {
                // Players of such a voice have no more than a network's jitter of it, and play that.
                if let Some(last) = self.replies.last_mut() {
                    last.flushed.get_or_insert(at);
                }
            }
            Event::Transcribed(text) => self.heard(text.trim()),
            Event::Turn(metrics) => self.measured(*metrics),
            Event::TranscriptionFailed(why) => self.mistake(format!("recognition failed: {why}")),
            Event::Error(why) => self.mistake(why),
            Event::Malformed(why) => self.mistake(format!("not an event of the protocol: {why}")),
            Event::SessionCreated
            | Event::WayBack { .. }
            | Event::SessionUpdated
            | Event::SpeechStarted
            | Event::SpeechStopped
            | Event::VoiceStarted { .. }
            | Event::Other(_) => {}
        }
    }

    /// How far the answer to `turn` has come at `now`, if it must begin within `limit` samples.
    pub fn progress(&self, turn: usize, now: u64, limit: u64) -> Progress {
        let end = self.turns[turn].end();
        let Some(reply) = self.answer_so_far(turn) else { return Progress::Until(end + limit) };
        let Some((_, status, reason)) = &reply.over else {
            return Progress::Until(reply.arrived.map_or(end + limit, |arrived| arrived + REPLY_MAX));
        };
        let Some(arrived) = reply.arrived else {
            // A reply taken back before its first sound is followed by another one.
            return match status.as_str() {
                "cancelled" => Progress::Until(end + limit),
                _ => Progress::Failed(format!("the reply ended as {status:?} without a sound {reason}")),
            };
        };
        // What came before we were done answers only a part: the real answer may follow.
        let grace = if arrived < end { end.max(self.playout.end()) + SECOND_REPLY_GRACE } else { 0 };
        let played_until = self.playout.end().max(grace);
        if now < played_until { Progress::Until(played_until) } else { Progress::Over }
    }

    /// The reply that answers `turn`, as its index: the first whose sound came after the speech's end.
    pub fn answer(&self, turn: usize) -> Option<usize> {
        let end = self.turns[turn].end();
        self.replies.iter().position(|r| r.turn == Some(turn) && r.arrived.is_some_and(|at| at >= end))
    }

    /// Coughs that made the server stop, or take them for a turn.
    pub fn false_barge_ins(&self) -> u64 {
        let fooled = |cough: &&Cough| {
            let next_turn = self.turns.iter().map(|turn| turn.speech_start).find(|&start| start > cough.at);
            let span = cough.at..next_turn.unwrap_or(u64::MAX);
            cough.reply.is_some_and(|reply| {
                self.replies[reply].flushed.is_some_and(|at| span.contains(&at))
                    || self.replies.iter().skip(reply + 1).any(|later| span.contains(&later.born))
            })
        };
        self.coughs.iter().filter(fooled).count() as u64
    }

    /// Sounds made that were no turn.
    pub fn coughs(&self) -> u64 {
        self.coughs.len() as u64
    }

    /// Both sides of the call as tracks of equal length: the caller's, the server's.
    pub fn tracks(&self) -> (Vec<i16>, Vec<i16>) {
        let own_end = self.spoken.iter().map(|(start, clip)| *start as usize + clip.samples.len()).max();
        let length = own_end.unwrap_or(0).max(self.playout.end() as usize);
        let mut own = vec![0; length];
        for (start, clip) in &self.spoken {
            let start = *start as usize;
            own[start..start + clip.samples.len()].copy_from_slice(&clip.samples);
        }
        (own, self.playout.track(length))
    }

    fn answer_so_far(&self, turn: usize) -> Option<&Reply> {
        self.replies.iter().rfind(|reply| reply.turn == Some(turn))
    }

    fn reply(&mut self, id: &str, at: u64) -> usize {
        match self.replies.iter().rposition(|reply| reply.id == id) {
            Some(index) => index,
            None => {
                self.replies.push(Reply {
                    id: id.to_owned(),
                    turn: self.turns.len().checked_sub(1),
                    born: at,
                    arrived: None,
                    played: None,
                    over: None,
                    flushed: None,
                    said: String::new(),
                });
                self.replies.len() - 1
            }
        }
    }

    fn audio(&mut self, response: &str, at: u64, samples: Vec<i16>) {
        let index = self.reply(response, at);
        if self.replies[index].flushed.is_some() {
            self.stray_deltas += 1;
            return;
        }
        let played = self.playout.push(index, at, samples);
        let reply = &mut self.replies[index];
        if let (None, Some(audible)) = (reply.arrived, played.audible) {
            reply.arrived = Some(at);
            reply.played = Some(audible);
        }
        if let Some(gap) = played.gap {
            let away =
                self.away.iter().any(|&(from, until)| from < gap.end && until + LINE_REACH > gap.start);
            if away || self.spoke_between(gap.start.saturating_sub(HOLD_REACH), gap.end) {
                self.holds.push(gap);
            } else {
                self.glitches.push(gap);
                self.late += played.late;
            }
        }
    }

    fn flush(&mut self, index: usize, at: u64) {
        let reply = &mut self.replies[index];
        let playing = reply.over.is_none() || self.playout.end() > at;
        if playing && reply.flushed.is_none() {
            reply.flushed = Some(at);
            self.playout.flush(index, at);
        }
    }

    fn spoke_between(&self, from: u64, until: u64) -> bool {
        self.spoken.iter().rev().any(|(start, clip)| {
            start + (clip.speech_start as u64) < until && start + clip.speech_end as u64 > from
        })
    }

    fn decided(&mut self, at: u64) {
        if let Some(turn) = self.turns.last_mut() {
            turn.decisions.push(at);
        }
    }

    fn heard(&mut self, text: &str) {
        if let Some(turn) = self.turns.last_mut().filter(|_| !text.is_empty()) {
            if !turn.heard.is_empty() {
                turn.heard.push(' ');
            }
            turn.heard.push_str(text);
        }
    }

    fn measured(&mut self, metrics: TurnMetrics) {
        let reply = metrics.response_id.as_ref().and_then(|id| self.replies.iter().find(|r| r.id == *id));
        let turn = reply.map_or_else(|| self.turns.len().checked_sub(1), |reply| reply.turn);
        if let Some(turn) = turn.and_then(|turn| self.turns.get_mut(turn)) {
            turn.metrics = Some(metrics);
        }
    }

    fn mistake(&mut self, why: String) {
        self.error_count += 1;
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(why);
        }
    }
}

/// 20 ms slots that fit in so many samples.
pub fn frames(samples: u64) -> u64 {
    samples / FRAME as u64
}

/// Samples as milliseconds.
pub fn ms(samples: u64) -> f64 {
    samples as f64 * 1000.0 / f64::from(RATE)
}
