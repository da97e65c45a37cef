//! One simulated session: the server's own turn machine in virtual time, with stages around it that order work and
//! take answers as the real ones do, and a candidate who acts.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use viva_actors::turn::{Action, Input, TurnConfig, TurnMachine};
use viva_actors::types::{Epoch, MediaTime};

use super::caller::Caller;
use super::candidate::{Gap, MS};
use super::orders::{Io, Order, Wake};
use super::policy::{DUE_MS, SPEECH_AHEAD_MS};
use super::reply::{Reply, Writing};
use super::words::Words;

/// A window of the speech detector: 512 samples at 16 kHz.
pub const WINDOW_US: u64 = 32 * MS;
const WINDOW_SAMPLES: u64 = 512;
/// A frame on the wire and of the playout.
pub const FRAME_US: u64 = 20 * MS;
/// Least time until the session looks at the clock again (`TIMER_MIN` in `session.rs`).
const TIMER_MIN_US: u64 = 20 * MS;
/// What the recogniser is given from before a turn's start, seconds (`PREFIX_MS` in `asr.rs`).
const PREFIX_S: f64 = 0.3;
/// An open window from here on has its older words made final, and keeps about half (`WINDOW_LONG` in `asr.rs`).
const WINDOW_LONG_S: f64 = 14.0;
/// Tokens of an interviewer's instructions with the template around them: 52 of the 77 tokens of a first prompt.
const SYSTEM_TOKENS: u32 = 52;
/// Tokens of the template around a message, and what of a prompt is read anew for it: 8 of 77 in the same turn.
const TEMPLATE_TOKENS: u32 = 8;
/// Tokens of history the prompt keeps: 6,000 characters (`PROMPT_CHARS_MAX`) of 4.3 each.
pub const HISTORY_TOKENS: u32 = 1_400;
/// Characters of a token, of what callers say and of what is written alike.
pub const CHARS_PER_TOKEN: f64 = 4.3;

/// Whether somebody speaks, from windows (`Hysteresis` in `vad.rs`, with windows that are always sure).
#[derive(Debug, Default)]
struct Speech {
    speaking: bool,
    silent: u64,
    last: MediaTime,
}

/// The session.
pub struct Session {
    machine: TurnMachine,
    pub(super) caller: Caller,
    /// Where its clock stood in the world's time when it began.
    began: u64,
    tail_us: u64,
    windows: u64,
    speech: Speech,
    timer: Option<MediaTime>,
    timers: u64,
    /// What the open pause tells, and how often it was scored.
    gap: Arc<Gap>,
    asked: usize,
    wanted: Words,
    /// Where the open window of the recogniser begins, and what it is doing.
    heard_from: MediaTime,
    turn_open: bool,
    pub(super) ticket: u64,
    recognising: bool,
    /// Tokens of history, of the turn's words, and how much of both is in the cache.
    history: u32,
    words: u32,
    pub(super) cached: u32,
    pub(super) reply: Option<Reply>,
    pub(super) writing: Option<Writing>,
    pub(super) certain: Epoch,
    pub(super) speaking: Option<u64>,
    pub(super) tickets: u64,
    /// The pause that is open, as the machine counts them.
    pause: Option<u32>,
    reply_tokens: (u32, u32),
    line_us: u64,
    dice: StdRng,
    /// Drafts thrown away.
    pub discarded: u64,
    /// Frames played, and 20 ms slots with nothing to play.
    pub frames: u64,
    /// See [`Self::frames`].
    pub missing: u64,
}

/// What every session of a machine has in common.
#[derive(Debug, Clone, Copy)]
pub struct Common {
    /// How long the detector hears speech after its end, microseconds.
    pub tail_us: u64,
    /// From leaving us to the caller, microseconds.
    pub line_us: u64,
    /// Tokens of a reply.
    pub reply_tokens: (u32, u32),
}

impl Session {
    /// Begins now.
    pub fn new(now: u64, caller: Caller, dice: StdRng, common: Common) -> Self {
        Self {
            machine: TurnMachine::new(TurnConfig::default()),
            caller,
            began: now,
            tail_us: common.tail_us,
            windows: 0,
            speech: Speech::default(),
            timer: None,
            timers: 0,
            gap: Arc::new(Gap { scores: [0.5; 3], ends: 0.1, words: String::new() }),
            asked: 0,
            wanted: Words::default(),
            heard_from: MediaTime(0),
            turn_open: false,
            ticket: 0,
            recognising: false,
            history: SYSTEM_TOKENS,
            words: 0,
            cached: SYSTEM_TOKENS,
            reply: None,
            writing: None,
            certain: Epoch::default(),
            speaking: None,
            tickets: 0,
            pause: None,
            reply_tokens: common.reply_tokens,
            line_us: common.line_us,
            dice,
            discarded: 0,
            frames: 0,
            missing: 0,
        }
    }

    /// When the window after those judged is full: its samples come in frames.
    pub fn window_full(&self) -> u64 {
        self.began + ((self.windows + 1) * WINDOW_US).div_ceil(FRAME_US) * FRAME_US
    }

    /// Tokens its place in the cache holds.
    pub fn held_tokens(&self) -> u64 {
        u64::from(self.cached)
    }

    /// Its place in the cache was taken; the instructions are kept for all.
    pub fn evicted(&mut self) {
        self.cached = SYSTEM_TOKENS;
    }

    fn media(&self) -> MediaTime {
        MediaTime(self.windows * WINDOW_SAMPLES)
    }

    /// Somebody wakes us.
    pub fn wake(&mut self, why: Wake, io: &mut Io) {
        match why {
            Wake::Window | Wake::Gathered => {}
            Wake::Tick(n) if n == self.timers => {
                self.timer = None;
                self.tell(&Input::Tick, io);
            }
            Wake::Caller(n) => self.caller.wake(n, io),
            Wake::PlayStart(n) => self.play_start(n, io),
            Wake::PlayEnd(n) => self.play_end(n, io),
            Wake::Voice => self.next_clause(io),
            Wake::Tick(_) => {}
        }
    }

    /// The window was judged.
    pub fn window(&mut self, io: &mut Io) {
        let middle = self.began + self.windows * WINDOW_US + WINDOW_US / 2;
        let voice = self.caller.voice_at(middle, self.tail_us);
        let at = self.media();
        self.windows += 1;
        let end = self.media();
        let pause_windows = u64::from(self.machine.config().pause_ms).div_ceil(WINDOW_US / MS);
        if voice {
            self.speech.silent = 0;
            self.speech.last = end;
            if !self.speech.speaking {
                self.speech.speaking = true;
                if !self.turn_open {
                    self.turn_open = true;
                    self.heard_from = at;
                }
                self.tell(&Input::SpeechStarted { at }, io);
            }
        } else if self.speech.speaking {
            self.speech.silent += 1;
            if self.speech.silent >= pause_windows {
                self.speech.speaking = false;
                self.gap = self.caller.gap_before(middle);
                self.asked = 0;
                let at = self.speech.last;
                self.tell(&Input::SpeechPaused { at }, io);
            }
        }
        self.freeze_long(io);
    }

    fn heard_s(&self) -> f64 {
        self.media().since_ms(self.heard_from) as f64 / 1_000.0 + PREFIX_S
    }

    fn freeze_long(&mut self, io: &mut Io) {
        if self.turn_open && !self.recognising && self.heard_s() >= WINDOW_LONG_S {
            self.recognise(None, io);
        }
    }

    fn recognise(&mut self, pause: Option<u32>, io: &mut Io) {
        if self.recognising {
            io.orders.push(Order::StopRecognising);
        }
        self.ticket += 1;
        self.recognising = true;
        if let Some(pause) = pause {
            self.wanted.asked(pause, io.now);
        }
        io.orders.push(Order::Recognise { pause, seconds: self.heard_s(), ticket: self.ticket });
    }

    /// Whether the caller has gone on after this pause.
    pub fn words_are_over(&self, pause: u32) -> bool {
        self.wanted.over(pause)
    }

    /// Whether nobody waits for the words of this pause yet.
    pub fn words_are_speculative(&self, pause: u32, now: u64) -> bool {
        self.wanted.speculative(pause, now)
    }

    /// Tells the machine what happened and does what it says.
    fn tell(&mut self, input: &Input, io: &mut Io) {
        for action in self.machine.handle(input, self.media()) {
            self.act(&action, io);
        }
        self.set_timer(io);
    }

    fn set_timer(&mut self, io: &mut Io) {
        let due = self.machine.next_tick();
        if due == self.timer {
            return;
        }
        self.timers += 1;
        self.timer = due;
        if let Some(due) = due {
            let wait = (due.since_ms(self.media()) * MS).max(TIMER_MIN_US);
            io.wake(io.now + wait, Wake::Tick(self.timers));
        }
    }

    fn act(&mut self, action: &Action, io: &mut Io) {
        match action {
            Action::Transcribe { pause } => {
                self.pause = Some(*pause);
                self.recognise(Some(*pause), io);
            }
            Action::Score { pause } => {
                self.pause = Some(*pause);
                self.wanted.asked(*pause, io.now);
                io.orders.push(Order::Score { pause: *pause });
            }
            Action::ReadAhead { pause } => self.read_ahead(Some(*pause), io),
            Action::GoOn { freeze, .. } => {
                self.pause = None;
                io.orders.push(Order::StopScoring);
                self.wanted.went_on(*freeze);
                if *freeze {
                    self.heard_from = self.speech.last;
                    self.read_ahead(None, io);
                }
            }
            Action::Dismiss => self.close_turn(io),
            Action::Draft { epoch } => self.draft(*epoch, io),
            Action::Discard { epoch } => {
                self.discarded += 1;
                self.void(*epoch, io);
            }
            Action::Decide { epoch } => self.certain = self.certain.max(*epoch),
            Action::Commit { epoch, .. } => self.commit(*epoch, io),
            Action::Hold { .. } => {
                if let Some(reply) = &mut self.reply {
                    reply.hold(io.now);
                }
            }
            Action::Resume { .. } => {
                if let Some(reply) = &mut self.reply {
                    reply.resume(io);
                }
                self.caller.resumed();
            }
            Action::Cut { epoch, .. } => {
                self.end_reply();
                self.void(*epoch, io);
                self.caller.reply_over(io);
            }
        }
    }

    fn close_turn(&mut self, io: &mut Io) {
        io.orders.push(Order::StopScoring);
        if self.recognising {
            io.orders.push(Order::StopRecognising);
        }
        self.ticket += 1;
        (self.recognising, self.turn_open) = (false, false);
    }

    fn read_ahead(&mut self, pause: Option<u32>, io: &mut Io) {
        if self.writing.as_ref().is_some_and(|writing| writing.epoch.is_some()) {
            return;
        }
        let due_us = if pause.is_some() { DUE_MS.draft } else { DUE_MS.ahead } * MS;
        self.write(None, pause, 0, due_us, io);
    }

    fn draft(&mut self, epoch: Epoch, io: &mut Io) {
        let (least, most) = self.reply_tokens;
        let tokens = self.dice.random_range(least..=most);
        self.reply = Some(Reply::new(epoch));
        self.write(Some(epoch), None, tokens, DUE_MS.draft * MS, io);
    }

    fn write(&mut self, epoch: Option<Epoch>, pause: Option<u32>, tokens: u32, due_us: u64, io: &mut Io) {
        self.words = (self.gap.words.chars().count() as f64 / CHARS_PER_TOKEN).ceil() as u32;
        if self.history > HISTORY_TOKENS {
            // The oldest messages go, and with them all of the prefix but the instructions.
            (self.history, self.cached) = (HISTORY_TOKENS / 2, SYSTEM_TOKENS);
        }
        let known = self.cached.min(self.history + self.words);
        let left = self.history + self.words + TEMPLATE_TOKENS - known;
        let asked = if epoch.is_some() { self.pause } else { pause };
        self.tickets += 1;
        let ticket = self.tickets;
        self.writing = Some(Writing::new(epoch, asked, tokens, ticket, &mut self.dice));
        io.orders.push(Order::Write { epoch, pause: asked, left, tokens, ticket, due_us });
    }

    /// A pause was scored.
    pub fn scored(&mut self, pause: u32, io: &mut Io) {
        let probability = Some(self.gap.scores[self.asked.min(2)]);
        self.asked += 1;
        self.wanted.scored(pause, probability);
        self.tell(&Input::Scored { pause, probability }, io);
    }

    /// A recognition is done.
    pub fn recognised(&mut self, pause: Option<u32>, ticket: u64, io: &mut Io) {
        if ticket != self.ticket {
            return;
        }
        self.recognising = false;
        match pause {
            Some(pause) => {
                let input = Input::Heard { pause, text: self.gap.words.clone(), confidence: 0.9 };
                self.tell(&input, io);
            }
            None => {
                // Cut in a quiet moment: on average half of the window is final then.
                let half = MediaTime::from_ms((WINDOW_LONG_S * 500.0) as u64).0;
                self.heard_from = MediaTime(self.heard_from.0 + half);
                self.read_ahead(None, io);
            }
        }
    }

    /// Whether this is the text it waits for.
    pub fn awaits(&self, ticket: u64) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.ticket == ticket)
    }

    /// Whether the text under way is only read.
    fn only_reads(&self) -> bool {
        self.writing.as_ref().is_none_or(|writing| writing.epoch.is_none())
    }

    /// The model has read the prompt.
    pub fn read(&mut self, io: &mut Io) {
        self.cached = self.history + self.words;
        let pause = self.writing.as_ref().and_then(|writing| writing.pause);
        if self.only_reads() {
            self.writing = None;
        }
        if let Some(pause) = pause {
            let input = Input::SentenceEnds { pause, probability: self.gap.ends };
            self.tell(&input, io);
        }
    }

    /// The model wrote a token.
    pub fn token(&mut self, io: &mut Io) {
        let Some(writing) = &mut self.writing else { return };
        let Some(epoch) = writing.epoch else { return };
        let (clauses, done) = writing.token();
        if done {
            self.writing = None;
        }
        if let Some(reply) = self.reply.as_mut().filter(|reply| reply.epoch == epoch) {
            reply.clauses.extend(clauses);
            reply.written |= done;
        }
        self.next_clause(io);
    }

    /// A clause was spoken.
    pub fn spoken(&mut self, ticket: u64, epoch: Epoch, chars: f64, io: &mut Io) {
        if self.speaking != Some(ticket) {
            return;
        }
        self.speaking = None;
        let Some(reply) = self.reply.as_mut().filter(|reply| reply.epoch == epoch) else { return };
        let first = reply.made(chars, io);
        self.missing += reply.take_missing();
        if first && !reply.committed {
            self.tell(&Input::ReplyReady { epoch }, io);
        } else if first {
            self.start_playing(io);
        }
        self.next_clause(io);
        self.drain(io);
    }

    /// Orders the next clause, if there is one and the voice is not too far ahead.
    fn next_clause(&mut self, io: &mut Io) {
        let Some(reply) = &mut self.reply else { return };
        if self.speaking.is_some() || reply.clauses.is_empty() {
            return;
        }
        let ahead_us = reply.ahead(io.now);
        if ahead_us >= SPEECH_AHEAD_MS * MS {
            return io.wake(io.now + 200 * MS, Wake::Voice);
        }
        let Some(chars) = reply.clauses.pop_front() else { return };
        self.tickets += 1;
        self.speaking = Some(self.tickets);
        let (epoch, ticket, due_us) = (reply.epoch, self.tickets, DUE_MS.clause * MS + ahead_us);
        io.orders.push(Order::Speak { epoch, chars, due_us, ticket });
    }

    fn commit(&mut self, epoch: Epoch, io: &mut Io) {
        self.certain = self.certain.max(epoch);
        self.close_turn(io);
        self.caller.decided(io.now);
        if let Some(reply) = self.reply.as_mut().filter(|reply| reply.epoch == epoch) {
            reply.committed = true;
            if reply.has_sound() {
                self.start_playing(io);
            }
        }
    }

    /// The first frame leaves at the pacer's next tick.
    fn start_playing(&mut self, io: &mut Io) {
        if let Some(reply) = &mut self.reply {
            let tick = io.now.div_ceil(FRAME_US) * FRAME_US;
            io.wake(tick, Wake::PlayStart(reply.stamp()));
        }
    }

    fn play_start(&mut self, stamp: u64, io: &mut Io) {
        let Some(reply) = self.reply.as_mut().filter(|reply| reply.stamp() == stamp && !reply.playing())
        else {
            return;
        };
        reply.start(io);
        let epoch = reply.epoch;
        self.caller.reply_heard(io.now + self.line_us, io);
        self.tell(&Input::PlayoutStarted { epoch }, io);
        self.drain(io);
    }

    /// Ends the reply when all of it is made, at the end of what is made.
    fn drain(&mut self, io: &mut Io) {
        if let Some(reply) = &mut self.reply
            && self.speaking.is_none()
        {
            reply.drain(io);
        }
    }

    fn play_end(&mut self, stamp: u64, io: &mut Io) {
        // A clause that is still being spoken is played, too.
        let over = |reply: &&Reply| reply.over(stamp, io.now) && self.speaking.is_none();
        let Some(reply) = self.reply.as_ref().filter(over) else { return };
        let epoch = reply.epoch;
        self.end_reply();
        self.tell(&Input::PlayoutDrained { epoch }, io);
        self.caller.reply_over(io);
    }

    /// What was heard is history.
    fn end_reply(&mut self) {
        let Some(reply) = self.reply.take() else { return };
        if reply.playing() {
            let (frames, tokens) = (reply.frames(), (reply.chars() / CHARS_PER_TOKEN).ceil() as u32);
            self.frames += frames;
            self.history += self.words + tokens + 2 * TEMPLATE_TOKENS;
            self.cached = self.history;
        }
    }

    /// Everything of this reply is void.
    fn void(&mut self, epoch: Epoch, io: &mut Io) {
        if self.writing.as_ref().and_then(|writing| writing.epoch).is_some_and(|e| e <= epoch) {
            self.writing = None;
            io.orders.push(Order::StopWriting);
        }
        if self.reply.as_ref().is_some_and(|reply| reply.epoch <= epoch) {
            self.reply = None;
        }
        self.speaking = None;
    }
}
