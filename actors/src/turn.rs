//! The turn-taking machine: who has the floor, and what follows from what was just heard.
//!
//! A pure function of (state, input, now): [`TurnMachine::handle`] takes what happened and says what to
//! do. It reads no clock and knows no actor, so that a session's log replays to the same decisions and
//! every rule below is tested in virtual time.
//!
//! **Endpointing.** A short silence ([`TurnConfig::pause_ms`], found by the VAD stage) opens a *pause*. The
//! pause is transcribed and scored at once; a reply may be drafted in it, unheard. The turn ends when the
//! silence has lasted as long as the score and the words ask for ([`TurnConfig::silence_asked_ms`]) *and* the
//! draft's first sound is there: until then nobody has heard of the decision, and a caller who goes on
//! discards the draft without a trace.
//!
//! **Barge-in.** Speech while we speak *holds* our voice at once. Whether it was an interruption is decided
//! after that: long speech or words *cut* the reply, a cough or an "mm-hm" lets it *resume* at the very
//! sample where it stopped.
//!
//! Time is the caller's media clock: a stream that stalls is not silence.

mod action;
mod endpointing;
mod input;
mod words;

pub use action::{Action, CutReason, EndReason};
pub use endpointing::{Endpointing, Evidence, TurnConfig};
pub use input::Input;
pub use words::is_backchannel;

use crate::types::{Epoch, MediaTime};
use endpointing::silence_floor_ms;

/// Silences at which a pause is scored, the later ones only while the score is below [`SCORED_WELL`]: of 27
/// finished answers smart-turn is sure of 8 at 160 ms, of 18 at 300 ms, of 21 at 500 ms.
const SCORE_MS: [u64; 3] = [160, 300, 500];

/// See [`SCORE_MS`]. Above this nothing would be decided otherwise.
const SCORED_WELL: f32 = 0.8;

/// In a turn shorter than this every pause is recognised at once; in a longer one, where pauses add up, when
/// its score is worth it.
const SHORT_TURN_MS: u64 = 10_000;

/// A draft is started this long before the silence asked for would be reached: about the time it takes to have its
/// first sentence spoken (290 ms at p50, 310 at p95 on the default weights, once its prompt was read ahead), and as
/// much again for other callers. Where less silence is asked for, it starts as soon as the words are there. After a
/// long answer, which asks for 1,450 ms, most pauses for thought are over before anything was drafted in vain.
const DRAFT_LEAD_MS: f32 = 600.0;

/// From this score on a pause is worth a recognition at once: a reply may be near.
const TRANSCRIBE_SCORE: f32 = 0.3;

/// Silence after which a pause is recognised whatever its score: long enough that most pauses for breath
/// are over, well before any silence that ends a turn.
const TRANSCRIBE_MS: u64 = 400;

/// A turn that is over by its silence waits at most this long for the draft's first sound. Beyond it a caller
/// reads their words rather than nothing: a slow engine must not look like a deaf one.
const READY_MS_MAX: f32 = 1_500.0;

/// While our voice is held, words are waited for this long after the caller fell silent.
const VERDICT_MS_MAX: u64 = 1_500;

/// With no words to judge by, speech at least this long counts as an interruption.
const WORDLESS_BARGE_IN_MS: u64 = 450;

/// Recognised words of a held reply below this confidence are taken for a noise.
const NOISE_CONFIDENCE: f32 = 0.45;

#[derive(Debug, Clone, PartialEq)]
enum Caller {
    Silent,
    Speaking { since: MediaTime },
    Paused(Pause),
}

#[derive(Debug, Clone, PartialEq)]
struct Pause {
    id: u32,
    since: MediaTime,
    speech_end: MediaTime,
    score: Option<f32>,
    scored: bool,
    /// How often a score was ordered.
    asked: usize,
    transcribing: bool,
    heard: Option<String>,
    /// The words were given to the language model, with a draft or ahead of one.
    read: bool,
    /// How likely a sentence ends with them.
    ends: Option<f32>,
    /// The draft whose turn is over by its silence.
    decided: Option<Epoch>,
    forced: Option<EndReason>,
}

impl Pause {
    fn evidence<'a>(&self, heard: &'a str) -> Evidence<'a> {
        let turn_ms = self.speech_end.since_ms(self.since);
        Evidence { score: self.score, ends: self.ends, text: heard, turn_ms }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Reply {
    None,
    Draft { epoch: Epoch, ready: bool },
    Awaited { epoch: Epoch },
    Spoken { epoch: Epoch },
    Held { epoch: Epoch, since: MediaTime },
}

/// Who has the floor. See the module's text.
#[derive(Debug, Clone)]
pub struct TurnMachine {
    config: TurnConfig,
    caller: Caller,
    reply: Reply,
    turn: u32,
    rev: u32,
    pauses: u32,
    /// The longest pause after a whole sentence of this turn after which the caller went on.
    longest_pause_ms: u64,
}

impl TurnMachine {
    /// A session's start: nobody speaks.
    pub fn new(config: TurnConfig) -> Self {
        Self {
            config,
            caller: Caller::Silent,
            reply: Reply::None,
            turn: 1,
            rev: 0,
            pauses: 0,
            longest_pause_ms: 0,
        }
    }

    /// Changes the settings from here on.
    pub fn configure(&mut self, config: TurnConfig) {
        self.config = config;
    }

    /// The settings.
    pub fn config(&self) -> &TurnConfig {
        &self.config
    }

    /// Whether the caller is speaking, and not pausing.
    pub fn caller_speaks(&self) -> bool {
        matches!(self.caller, Caller::Speaking { .. })
    }

    /// Whether our voice is being heard (or held).
    pub fn speaking(&self) -> bool {
        matches!(self.reply, Reply::Spoken { .. } | Reply::Held { .. })
    }

    /// Whether a reply is on its way or being heard.
    pub fn replying(&self) -> bool {
        matches!(self.reply, Reply::Awaited { .. } | Reply::Spoken { .. } | Reply::Held { .. })
    }

    /// The stamp of what is being made or played.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.reply {
            Reply::None => None,
            Reply::Awaited { epoch } | Reply::Spoken { epoch } => Some(epoch),
            Reply::Draft { epoch, .. } | Reply::Held { epoch, .. } => Some(epoch),
        }
    }

    /// A word for the state, as a page would show it.
    pub fn state(&self) -> &'static str {
        match (&self.caller, self.reply) {
            (_, Reply::Held { .. }) => "held",
            (_, Reply::Spoken { .. }) => "speaking",
            (Caller::Speaking { .. }, _) => "hearing",
            (_, Reply::Awaited { .. }) => "thinking",
            (Caller::Paused(p), _) if p.decided.is_some() => "thinking",
            (Caller::Paused(_), _) => "hearing",
            (Caller::Silent, _) => "listening",
        }
    }

    /// When [`Input::Tick`] is next wanted, on the media clock.
    pub fn next_tick(&self) -> Option<MediaTime> {
        let after = |t: MediaTime, ms: f32| {
            ms.is_finite().then(|| MediaTime(t.0 + MediaTime::from_ms(ms.ceil() as u64).0))
        };
        match (&self.caller, self.reply) {
            (Caller::Speaking { .. }, Reply::Held { since, .. }) => {
                after(since, self.config.barge_in_ms as f32)
            }
            (Caller::Speaking { since }, _) => after(*since, self.config.turn_ms_max as f32),
            (Caller::Paused(p), Reply::Held { .. }) => after(p.speech_end, VERDICT_MS_MAX as f32),
            (Caller::Paused(p), _) if !p.transcribing && p.heard.is_none() => {
                let transcribe = (self.config.endpointing != Endpointing::Manual).then_some(TRANSCRIBE_MS);
                let due = transcribe.into_iter().chain(self.score_ms(p)).min()?;
                after(p.speech_end, due as f32)
            }
            (Caller::Paused(p), reply) => {
                let decision = p.heard.as_deref().map(|heard| match reply {
                    Reply::None => self.draft_after_ms(p, heard),
                    _ if p.decided.is_some() => self.asked_ms(p, heard) + READY_MS_MAX,
                    _ => self.asked_ms(p, heard),
                });
                let score = self.score_ms(p).map(|ms| ms as f32);
                after(p.speech_end, decision.into_iter().chain(score).reduce(f32::min)?)
            }
            (Caller::Silent, _) => None,
        }
    }

    /// Takes what happened; says what to do, in order.
    pub fn handle(&mut self, input: &Input, now: MediaTime) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::SpeechStarted { at } => self.speech_started(*at, now, &mut actions),
            Input::SpeechPaused { at } => self.speech_paused(*at, &mut actions),
            Input::Scored { pause, probability } => {
                if let Some(p) = self.pause(*pause) {
                    p.score = probability.or(p.score);
                    p.scored = true;
                }
            }
            Input::SentenceEnds { pause, probability } => {
                if let Some(p) = self.pause(*pause) {
                    p.ends = Some(*probability);
                }
            }
            Input::Heard { pause, text, confidence } => self.heard(*pause, text, *confidence, &mut actions),
            Input::HearingFailed { pause } => self.hearing_failed(*pause, &mut actions),
            Input::ReplyReady { epoch } => {
                if let Reply::Draft { epoch: draft, ready } = &mut self.reply
                    && draft == epoch
                {
                    *ready = true;
                }
            }
            Input::PlayoutStarted { epoch } => {
                if self.reply == (Reply::Awaited { epoch: *epoch }) {
                    self.reply = Reply::Spoken { epoch: *epoch };
                }
            }
            Input::PlayoutDrained { epoch } | Input::ReplyFailed { epoch } => {
                if self.epoch() == Some(*epoch) {
                    self.reply = Reply::None;
                }
            }
            Input::CommitAsked => self.commit_asked(now, &mut actions),
            Input::ReplyAsked => self.reply_asked(&mut actions),
            Input::CancelAsked => self.cut(CutReason::Client, &mut actions),
            Input::ClearAsked => {
                self.discard_draft(&mut actions);
                self.resume(&mut actions);
                self.caller = Caller::Silent;
                actions.push(Action::Dismiss);
            }
            Input::Tick => {}
        }
        self.decide(now, &mut actions);
        actions
    }

    fn pause(&mut self, id: u32) -> Option<&mut Pause> {
        match &mut self.caller {
            Caller::Paused(p) if p.id == id => Some(p),
            _ => None,
        }
    }

    fn speech_started(&mut self, at: MediaTime, now: MediaTime, actions: &mut Vec<Action>) {
        let since = match &self.caller {
            Caller::Paused(p) => {
                let silence = now.since_ms(p.speech_end);
                let freeze = silence >= u64::from(self.config.freeze_ms) && p.heard.is_some();
                actions.push(Action::GoOn { pause: p.id, freeze });
                // Who stops to think in mid-sentence need not be slow between sentences.
                if p.heard.as_deref().is_some_and(|heard| !p.evidence(heard).hangs()) {
                    self.longest_pause_ms = self.longest_pause_ms.max(at.since_ms(p.speech_end));
                }
                p.since
            }
            Caller::Speaking { since } => *since,
            Caller::Silent => at,
        };
        self.caller = Caller::Speaking { since };
        if self.config.endpointing == Endpointing::Manual {
            return;
        }
        match self.reply {
            Reply::Draft { .. } => self.discard_draft(actions),
            Reply::Awaited { .. } if self.config.interrupt_response => {
                self.cut(CutReason::CallerWentOn, actions);
            }
            Reply::Spoken { epoch } if self.config.interrupt_response => {
                actions.push(Action::Hold { epoch });
                self.reply = Reply::Held { epoch, since: at };
            }
            _ => {}
        }
    }

    fn speech_paused(&mut self, at: MediaTime, actions: &mut Vec<Action>) {
        let Caller::Speaking { since } = self.caller else { return };
        self.open_pause(since, at, None, actions);
    }

    fn open_pause(
        &mut self,
        since: MediaTime,
        speech_end: MediaTime,
        forced: Option<EndReason>,
        actions: &mut Vec<Action>,
    ) {
        self.pauses += 1;
        let id = self.pauses;
        let held = matches!(self.reply, Reply::Held { .. });
        let long = speech_end.since_ms(since) >= SHORT_TURN_MS;
        let transcribing = match self.config.endpointing {
            _ if forced.is_some() => true,
            Endpointing::Manual => false,
            Endpointing::Silence { .. } => true,
            // The score costs a tenth of a recognition and says whether one is worth it.
            Endpointing::Semantic { .. } => held || !long,
        };
        self.caller = Caller::Paused(Pause {
            id,
            since,
            speech_end,
            score: None,
            scored: false,
            asked: 0,
            transcribing,
            heard: None,
            read: false,
            ends: None,
            decided: None,
            forced,
        });
        if transcribing {
            actions.push(Action::Transcribe { pause: id });
        }
    }

    fn heard(&mut self, pause: u32, text: &str, confidence: f32, actions: &mut Vec<Action>) {
        let held = matches!(self.reply, Reply::Held { .. });
        let Some(p) = self.pause(pause) else { return };
        let noise = text.trim().is_empty() || (held && confidence < NOISE_CONFIDENCE);
        let nothing = noise || (held && is_backchannel(text));
        let forced = p.forced.is_some();
        if nothing && !forced {
            self.caller = Caller::Silent;
            actions.push(Action::Dismiss);
            self.resume(actions);
            return;
        }
        p.heard = Some(text.to_owned());
        if held {
            self.cut(CutReason::BargeIn, actions);
        }
    }

    fn hearing_failed(&mut self, pause: u32, actions: &mut Vec<Action>) {
        if self.pause(pause).is_some() {
            self.caller = Caller::Silent;
            actions.push(Action::Dismiss);
            self.resume(actions);
        }
    }

    fn commit_asked(&mut self, now: MediaTime, actions: &mut Vec<Action>) {
        match &mut self.caller {
            Caller::Paused(p) if self.config.endpointing != Endpointing::Manual => {
                p.forced = Some(EndReason::Client);
            }
            Caller::Paused(Pause { since, .. }) | Caller::Speaking { since } => {
                let since = *since;
                self.open_pause(since, now, Some(EndReason::Client), actions);
            }
            // Speech the VAD did not find is still the client's to commit.
            Caller::Silent => self.open_pause(now, now, Some(EndReason::Client), actions),
        }
    }

    fn reply_asked(&mut self, actions: &mut Vec<Action>) {
        if self.replying() {
            return;
        }
        self.discard_draft(actions);
        let epoch = self.draft(actions);
        actions.push(Action::Commit { epoch, turn: false, reply: true, why: EndReason::Client });
        self.reply = Reply::Awaited { epoch };
        self.next_turn();
    }

    fn draft(&mut self, actions: &mut Vec<Action>) -> Epoch {
        self.rev += 1;
        let epoch = Epoch { turn: self.turn, rev: self.rev };
        actions.push(Action::Draft { epoch });
        self.reply = Reply::Draft { epoch, ready: false };
        epoch
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        self.rev = 0;
        self.longest_pause_ms = 0;
    }

    /// Milliseconds of silence after which this pause ends the turn.
    fn asked_ms(&self, p: &Pause, heard: &str) -> f32 {
        let asked = self.config.silence_asked_ms(p.evidence(heard));
        match self.config.endpointing {
            Endpointing::Semantic { patience } => {
                let floor = silence_floor_ms(p.speech_end.since_ms(p.since), self.longest_pause_ms);
                asked.max(floor * patience)
            }
            _ => asked,
        }
    }

    /// The silence at which a pause is due to be scored next, if it is.
    fn score_ms(&self, p: &Pause) -> Option<u64> {
        let semantic = matches!(self.config.endpointing, Endpointing::Semantic { .. });
        let open = p.asked == 0 || p.score.is_some_and(|s| s < SCORED_WELL);
        SCORE_MS.get(p.asked).copied().filter(|_| semantic && open && p.forced.is_none())
    }

    fn discard_draft(&mut self, actions: &mut Vec<Action>) {
        if let Reply::Draft { epoch, .. } = self.reply {
            actions.push(Action::Discard { epoch });
            self.reply = Reply::None;
        }
    }

    fn cut(&mut self, why: CutReason, actions: &mut Vec<Action>) {
        match self.reply {
            Reply::None => {}
            Reply::Draft { .. } => self.discard_draft(actions),
            Reply::Awaited { epoch } | Reply::Spoken { epoch } | Reply::Held { epoch, .. } => {
                actions.push(Action::Cut { epoch, why });
                self.reply = Reply::None;
            }
        }
    }

    fn resume(&mut self, actions: &mut Vec<Action>) {
        if let Reply::Held { epoch, .. } = self.reply {
            actions.push(Action::Resume { epoch });
            self.reply = Reply::Spoken { epoch };
        }
    }

    fn draft_after_ms(&self, p: &Pause, heard: &str) -> f32 {
        (self.asked_ms(p, heard) - DRAFT_LEAD_MS).max(0.0)
    }

    /// What time alone decides, after every input.
    fn decide(&mut self, now: MediaTime, actions: &mut Vec<Action>) {
        if let Reply::Held { since, .. } = self.reply {
            self.decide_held(since, now, actions);
            return;
        }
        match &self.caller {
            Caller::Speaking { since } if now.since_ms(*since) >= u64::from(self.config.turn_ms_max) => {
                let since = *since;
                self.open_pause(since, now, Some(EndReason::TooLong), actions);
            }
            Caller::Paused(_) => self.decide_paused(now, actions),
            _ => {}
        }
    }

    fn decide_held(&mut self, since: MediaTime, now: MediaTime, actions: &mut Vec<Action>) {
        match &self.caller {
            Caller::Speaking { .. } if now.since_ms(since) >= u64::from(self.config.barge_in_ms) => {
                self.cut(CutReason::BargeIn, actions);
            }
            Caller::Paused(p) if now.since_ms(p.speech_end) >= VERDICT_MS_MAX => {
                if p.speech_end.since_ms(since) >= WORDLESS_BARGE_IN_MS {
                    self.cut(CutReason::BargeIn, actions);
                } else {
                    self.caller = Caller::Silent;
                    actions.push(Action::Dismiss);
                    self.resume(actions);
                }
            }
            Caller::Silent => self.resume(actions),
            _ => {}
        }
    }

    fn score(&mut self, now: MediaTime, actions: &mut Vec<Action>) {
        let Caller::Paused(p) = &self.caller else { return };
        if self.score_ms(p).is_some_and(|ms| now.since_ms(p.speech_end) >= ms)
            && let Caller::Paused(p) = &mut self.caller
        {
            p.asked += 1;
            actions.push(Action::Score { pause: p.id });
        }
    }

    fn decide_paused(&mut self, now: MediaTime, actions: &mut Vec<Action>) {
        let manual = self.config.endpointing == Endpointing::Manual;
        self.score(now, actions);
        let Caller::Paused(p) = &mut self.caller else { return };
        let Some(heard) = p.heard.clone() else {
            let worth_it = match p.score {
                Some(score) => score >= TRANSCRIBE_SCORE,
                None => p.scored,
            };
            if !p.transcribing && !manual && (worth_it || now.since_ms(p.speech_end) >= TRANSCRIBE_MS) {
                p.transcribing = true;
                actions.push(Action::Transcribe { pause: p.id });
            }
            return;
        };
        // While we still speak and may not be interrupted, the turn waits.
        if self.replying() {
            return;
        }
        let Caller::Paused(p) = &self.caller else { return };
        let silence = now.since_ms(p.speech_end) as f32;
        let asked = self.asked_ms(p, &heard);
        let over = p.forced.is_some() || silence >= asked;
        let respond = self.config.create_response && p.forced != Some(EndReason::Client);
        if !respond {
            if over {
                self.discard_draft(actions);
                self.commit(Epoch { turn: self.turn, rev: self.rev }, false, actions);
            }
            return;
        }
        let epoch = match self.reply {
            Reply::Draft { epoch, .. } => epoch,
            _ if over || silence >= self.draft_after_ms(p, &heard) => self.draft(actions),
            // The words are read all the same: what they say of the turn's end decides when it is.
            _ => return self.read_ahead(actions),
        };
        if !over {
            return;
        }
        let Caller::Paused(p) = &mut self.caller else { return };
        let waited_enough = p.forced.is_some() || silence >= asked + READY_MS_MAX;
        if waited_enough || self.reply == (Reply::Draft { epoch, ready: true }) {
            self.commit(epoch, true, actions);
        } else if p.decided != Some(epoch) {
            p.decided = Some(epoch);
            actions.push(Action::Decide { epoch });
        }
    }

    fn read_ahead(&mut self, actions: &mut Vec<Action>) {
        let Caller::Paused(p) = &mut self.caller else { return };
        if !std::mem::replace(&mut p.read, true) {
            actions.push(Action::ReadAhead { pause: p.id });
        }
    }

    /// The pause's turn is over.
    fn commit(&mut self, epoch: Epoch, reply: bool, actions: &mut Vec<Action>) {
        let Caller::Paused(p) = &self.caller else { return };
        let why = p.forced.unwrap_or(match p.score {
            Some(score) if score >= 0.5 => EndReason::Scored,
            _ => EndReason::Silence,
        });
        actions.push(Action::Commit { epoch, turn: true, reply, why });
        self.reply = if reply { Reply::Awaited { epoch } } else { Reply::None };
        self.caller = Caller::Silent;
        self.next_turn();
    }
}

#[cfg(test)]
#[path = "turn/tests.rs"]
mod tests;
