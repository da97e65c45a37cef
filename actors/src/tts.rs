//! The TTS stage: has the clauses of a reply spoken, in order.
//!
//! *Input:* clauses from the LLM stage's lane. *Output:* samples, with a mark at the end of each clause, into
//! the lane of the enhancer. *Bound:* one clause at a time, and none while [`AHEAD_MS`] of speech wait to be
//! played. *On a crash:* the clause being spoken lives in the session's [`Current`]; the next
//! stage goes on with what of it was not handed on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::{Cancel, EngineError, Style, TtsJob};

use crate::gpu::work::{Answer, Certain, Job, Stake};
use crate::gpu::{Submitter, within};
use crate::lane::Lane;
use crate::llm::Clause;
use crate::playout::{FRAME_MS, PlayItem};
use crate::session::{Report, Reporter};
use crate::types::{Epoch, Stage};

/// Speech made ahead of what is heard: more would be thrown away at an interruption, less would let a busy
/// moment be heard.
pub const AHEAD_MS: u64 = 8_000;

/// With so much to play a clause may wait for the one before it to have passed the enhancer: that takes
/// milliseconds, and we look again far sooner than it is played.
const CALM_MS: u64 = 1_000;

/// How soon to look again whether the voice may go on.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// When the first clause of a reply is due.
const DUE_MS: u64 = 100;

/// Pieces of speech that may wait for the enhancer: a clause of 12 s in pieces of 100 ms fits twice.
pub const SPEECH_LANE: usize = 256;

/// What goes to the enhancer.
pub enum Speech {
    /// Samples at this rate.
    Samples(Epoch, Vec<f32>, u32),
    /// The clause of these words is complete.
    ClauseEnd(Epoch, String),
    /// The reply is complete.
    End(Epoch),
}

/// The clause being spoken. Belongs to the session, so that it outlives the stage.
pub type Current = Arc<Mutex<Speaking>>;

/// A clause and how far it has come.
#[derive(Debug, Default)]
pub struct Speaking {
    clause: Option<Clause>,
    /// Samples handed on.
    delivered: usize,
    /// Counts the orders to speak: what an older order still makes is not handed on.
    order: u64,
}

/// What the stage is started with.
pub struct Args {
    /// From the LLM stage.
    pub clauses: Lane<Clause>,
    /// To the enhancer.
    pub speech: Lane<Speech>,
    /// The playout's frames, to know how far ahead we are.
    pub frames: Lane<PlayItem>,
    /// The clause being spoken.
    pub current: Current,
    /// Up to which reply work is certain to be wanted.
    pub certain: Certain,
    /// To the scheduler.
    pub submitter: Submitter,
    /// To the session.
    pub reporter: Reporter,
    /// How it sounds.
    pub style: Style,
    /// BCP-47 primary tag.
    pub language: String,
}

/// What the stage is told.
pub enum Msg {
    /// A clause is there.
    Doorbell,
    /// It is time to see again whether the voice may go on.
    LookAgain,
    /// Everything up to this reply is void.
    Void(Epoch),
    /// After everything else of its reply.
    Append(Clause),
    /// A clause was spoken.
    Spoken(Epoch, Box<Result<Answer<()>, EngineError>>),
    /// From now on like this; `false` passes the words on unspoken.
    Configure(Style, String, bool),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// The stage.
pub struct Tts;

/// The stage's state.
pub struct State {
    args: Args,
    aloud: bool,
    running: Option<(Epoch, Cancel)>,
    void: Epoch,
    /// A look has been ordered: one at a time.
    looking: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        // Nobody hands on any more what it still makes.
        if let Some((_, cancel)) = &self.running {
            cancel.cancel();
        }
    }
}

fn current(cell: &Current) -> std::sync::MutexGuard<'_, Speaking> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor for Tts {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        args.clauses.attach(Box::new(move || {
            me.cast(Msg::Doorbell).ok();
        }));
        Ok(State { args, aloud: true, running: None, void: Epoch::default(), looking: false })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Doorbell => state.args.clauses.answer(),
            Msg::LookAgain => state.looking = false,
            Msg::Void(epoch) => state.void(epoch),
            Msg::Append(clause) => {
                // A failed reply ends here; its lane has room, since nobody writes it any more.
                if state.args.clauses.push_latest(clause) {
                    state.args.reporter.dropped(Stage::Tts, "clauses_full");
                }
            }
            Msg::Spoken(epoch, result) => state.spoken(epoch, *result),
            Msg::Configure(style, language, aloud) => {
                (state.args.style, state.args.language, state.aloud) = (style, language, aloud);
            }
            #[cfg(any(test, feature = "testkit"))]
            Msg::Panic => panic!("asked to"),
        }
        if !state.next(&me) && !state.looking {
            state.looking = true;
            me.send_after(LOOK_AGAIN, || Msg::LookAgain);
        }
        Ok(())
    }
}

impl State {
    fn void(&mut self, epoch: Epoch) {
        self.void = self.void.max(epoch);
        if let Some((running, cancel)) = &self.running
            && *running <= epoch
        {
            cancel.cancel();
            self.running = None;
            let mut current = current(&self.args.current);
            current.clause = None;
            current.order += 1;
        }
    }

    fn spoken(&mut self, epoch: Epoch, result: Result<Answer<()>, EngineError>) {
        if self.running.as_ref().is_none_or(|(running, _)| *running != epoch) {
            return;
        }
        self.running = None;
        let Some(clause) = current(&self.args.current).clause.take() else { return };
        match result {
            Ok(_) => self.end_of(clause),
            Err(EngineError::Cancelled) => {}
            Err(error) => {
                self.args.reporter.tell(Report::ReplyFailed { epoch, message: error.to_string() });
            }
        }
    }

    fn end_of(&self, clause: Clause) {
        let Clause { epoch, text, last } = clause;
        if !text.is_empty() {
            self.push(Speech::ClauseEnd(epoch, text));
        }
        if last {
            self.push(Speech::End(epoch));
        }
    }

    fn push(&self, speech: Speech) {
        if self.args.speech.push_latest(speech) {
            self.args.reporter.dropped(Stage::Tts, "speech_full");
        }
    }

    /// Has the next clause spoken, if it may be. Says whether there is no need to look again by itself.
    fn next(&mut self, me: &ActorRef<Msg>) -> bool {
        loop {
            if self.running.is_some() {
                return true;
            }
            let ahead = self.args.frames.len() as u64 * FRAME_MS;
            let mut held = current(&self.args.current);
            if held.clause.is_none() {
                if self.args.clauses.is_empty() {
                    return true;
                }
                // What is on its way through the enhancer counts too, once there is enough to play meanwhile.
                let under_way = ahead > CALM_MS && !self.args.speech.is_empty();
                if ahead >= AHEAD_MS || under_way || self.args.speech.len() > SPEECH_LANE / 2 {
                    return false;
                }
                held.clause = self.args.clauses.pop();
                held.delivered = 0;
            }
            let Some(clause) = held.clause.clone() else { return true };
            if clause.epoch <= self.void {
                held.clause = None;
                continue;
            }
            drop(held);
            if clause.text.is_empty() || !self.aloud {
                current(&self.args.current).clause = None;
                self.end_of(clause);
                continue;
            }
            self.speak(&clause, ahead, me);
        }
    }

    fn speak(&mut self, clause: &Clause, ahead_ms: u64, me: &ActorRef<Msg>) {
        let epoch = clause.epoch;
        let (speech, cell) = (self.args.speech.clone(), Arc::clone(&self.args.current));
        let reporter = self.args.reporter.clone();
        // A stage that was started anew speaks the clause anew: what its predecessor handed on is skipped,
        // and what the predecessor's order still makes is not handed on any more.
        let (order, delivered) = {
            let mut current = current(&cell);
            current.order += 1;
            (current.order, current.delivered)
        };
        let sink = Box::new(move |samples: &[f32], rate: u32| {
            let mut current = current(&cell);
            if current.order == order {
                current.delivered += samples.len();
                if speech.push_latest(Speech::Samples(epoch, samples.to_vec(), rate)) {
                    reporter.dropped(Stage::Tts, "speech_full");
                }
            }
        });
        let me = me.clone();
        let reply = Box::new(move |result| {
            me.cast(Msg::Spoken(epoch, Box::new(result))).ok();
        });
        let job = TtsJob {
            text: clause.text.clone(),
            style: self.args.style.clone(),
            language: Some(self.args.language.clone()),
        };
        let cancel = self.args.submitter.submit(
            Job::Tts { job, sink, delivered, reply },
            within(DUE_MS + ahead_ms),
            Stake::Draft(epoch, self.args.certain.clone()),
        );
        self.running = Some((epoch, cancel));
    }
}
