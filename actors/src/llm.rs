//! The LLM stage: has the reply written and cuts it into clauses to speak.
//!
//! *Input:* draft requests from the RAG stage's lane; tokens from the scheduler. *Output:* clauses into the
//! lane of the TTS stage; what was written to the session. *Bound:* one text at a time, its length bounded by
//! the sampling's token limit; clauses that find the lane full wait here, at most one reply's worth.
//! *On a crash:* a draft of which nothing is written is ordered again; of one that has begun, what
//! was written is spoken and the reply ends there.

mod directed;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::{Begun, Cancel, EngineError, Message, Prompt, Sampling, StopReason};

use crate::director::Director;
use crate::gpu::work::{GenEvent, Job, Stake};
use crate::gpu::{Submitter, within};
use crate::lane::Lane;
use crate::rag::DraftRequest;
use crate::session::{Report, Reporter};
use crate::types::{Epoch, Stage};
use directed::{Held, usage};

/// A first clause is cut at a comma from so many characters on: it lets speech begin early, and is
/// still long enough to sound like a phrase.
const FIRST_CLAUSE_MIN: usize = 18;

/// Words that begin a phrase: a first clause without a comma may end before one of them.
const PHRASE_STARTS: [&str; 16] = [
    "and", "but", "because", "that", "which", "who", "when", "where", "while", "so", "if", "as", "since",
    "with", "about", "for",
];

/// A first clause may end before a phrase from so many characters on: about four words.
const FIRST_PHRASE_MIN: usize = 22;

/// A sentence longer than this is cut at its next comma or space: about 12 s of speech.
const CLAUSE_MAX: usize = 180;

/// When a reply's first clause is due.
const DUE_MS: u64 = 300;

/// When words that are read ahead are due: nothing waits for them.
const AHEAD_DUE_MS: u64 = 2_000;

/// How soon to look again whether the voice has room: it reads a clause at a time, each takes a while.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Tokens that may wait to be read: ten seconds of the quickest model. A stage that reads nothing for so long is
/// dead, and what is dropped is counted.
pub const TOKENS_LANE: usize = 1024;

/// Clauses that may wait to be spoken: the longest reply there may be has fewer (4096 tokens, a dozen a clause).
pub const CLAUSES_LANE: usize = 512;

/// A piece of the reply to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Of which reply.
    pub epoch: Epoch,
    /// The words; may be empty for the last.
    pub text: String,
    /// Nothing comes after it.
    pub last: bool,
}

/// What the stage is started with.
pub struct Args {
    /// From the RAG stage.
    pub drafts: Lane<DraftRequest>,
    /// To the TTS stage.
    pub clauses: Lane<Clause>,
    /// To the scheduler.
    pub submitter: Submitter,
    /// To the session.
    pub reporter: Reporter,
    /// Who decides what is said, if anybody does.
    pub director: Option<Arc<dyn Director>>,
}

/// What the stage is told.
pub enum Msg {
    /// A draft request or a token is there.
    Doorbell,
    /// It is time to see again whether the voice has room for a clause.
    LookAgain,
    /// Stop writing this.
    Void(Epoch),
    /// A reply that is looked at before it is said is not waited for any longer.
    Overdue(Epoch),
    /// Read these words ahead: the caller is still speaking, or pauses here and may go on.
    Prefill(Vec<Message>, Option<u32>),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// The stage.
pub struct Llm;

/// The stage's state.
pub struct State {
    args: Args,
    tokens: Lane<(Epoch, GenEvent)>,
    writing: Option<Writing>,
    waiting: VecDeque<Clause>,
    /// A look has been ordered: one at a time.
    looking: bool,
    /// What was voided last: a draft of it may still be on its way.
    voided: Epoch,
}

struct Writing {
    epoch: Epoch,
    pause: Option<u32>,
    cancel: Cancel,
    splitter: ClauseSplitter,
    /// What was written so far, while it may be a call; none for a reply that can only be words.
    call: Option<String>,
    begun: Option<Begun>,
    first_token: bool,
    /// What is written is looked at before it is said.
    held: Option<Held>,
}

impl Writing {
    /// Takes what was written next. Gives what of it is words; under a grammar a text that begins with a brace is a
    /// call and waits for its end.
    fn words(&mut self, piece: String) -> String {
        let Some(call) = &mut self.call else { return piece };
        call.push_str(&piece);
        if call.trim_start().is_empty() || call.trim_start().starts_with('{') {
            return String::new();
        }
        self.call.take().unwrap_or_default()
    }
}

impl Actor for Llm {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let bell = me.clone();
        args.drafts.attach(Box::new(move || {
            bell.cast(Msg::Doorbell).ok();
        }));
        let tokens = Lane::new(TOKENS_LANE);
        tokens.attach(Box::new(move || {
            me.cast(Msg::Doorbell).ok();
        }));
        Ok(State {
            args,
            tokens,
            writing: None,
            waiting: VecDeque::new(),
            looking: false,
            voided: Epoch::default(),
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Doorbell => {
                state.args.drafts.answer();
                state.tokens.answer();
            }
            Msg::LookAgain => state.looking = false,
            Msg::Void(epoch) => state.void(epoch),
            Msg::Overdue(epoch) => state.overdue(epoch),
            Msg::Prefill(messages, pause) => state.prefill(messages, pause),
            #[cfg(any(test, feature = "testkit"))]
            Msg::Panic => panic!("asked to"),
        }
        while let Some(draft) = state.args.drafts.pop() {
            state.begin(&me, draft);
        }
        while let Some((epoch, event)) = state.tokens.pop() {
            state.event(epoch, event);
        }
        if !state.pass_on() && !state.looking {
            state.looking = true;
            me.send_after(LOOK_AGAIN, || Msg::LookAgain);
        }
        Ok(())
    }
}

impl State {
    fn begin(&mut self, me: &ActorRef<Msg>, mut draft: DraftRequest) {
        if draft.epoch <= self.voided {
            return;
        }
        match draft.saying.take() {
            Some(saying) => self.begin_directed(me, draft, saying),
            None => self.write(draft, None),
        }
    }

    fn write(&mut self, draft: DraftRequest, held: Option<Held>) {
        self.stop();
        let (tokens, reporter) = (self.tokens.clone(), self.args.reporter.clone());
        let epoch = draft.epoch;
        let call = draft.sampling.grammar.as_ref().map(|_| String::new());
        let job = Job::Generate {
            prompt: Prompt { messages: draft.messages, unfinished: false },
            sampling: draft.sampling,
            sink: Box::new(move |event| {
                if tokens.push_latest((epoch, event)) {
                    reporter.dropped(Stage::Llm, "tokens_full");
                }
            }),
        };
        let cancel = self.args.submitter.submit(job, within(DUE_MS), draft.stake);
        let splitter = ClauseSplitter::default();
        let pause = draft.pause;
        self.writing =
            Some(Writing { epoch, pause, cancel, splitter, call, begun: None, first_token: false, held });
    }

    fn prefill(&mut self, messages: Vec<Message>, pause: Option<u32>) {
        if self.writing.is_some() {
            return;
        }
        let reporter = self.args.reporter.clone();
        let job = Job::Generate {
            prompt: Prompt { messages, unfinished: true },
            sampling: Sampling { max_tokens: 0, ..Sampling::default() },
            sink: Box::new(move |event| {
                if let (GenEvent::Ends(probability), Some(pause)) = (event, pause) {
                    reporter.tell(Report::SentenceEnds { pause, probability });
                }
            }),
        };
        // The next draft finds its words in the cache. In a pause the turn's end hangs on what it finds.
        let (due, stake) =
            if pause.is_some() { (DUE_MS, Stake::Wanted) } else { (AHEAD_DUE_MS, Stake::Ahead) };
        self.args.submitter.submit(job, within(due), stake);
    }

    fn stop(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.cancel.cancel();
        }
    }

    fn void(&mut self, epoch: Epoch) {
        self.voided = self.voided.max(epoch);
        if self.writing.as_ref().is_some_and(|w| w.epoch <= epoch) {
            self.stop();
        }
        self.waiting.retain(|c| c.epoch > epoch);
    }

    fn event(&mut self, epoch: Epoch, event: GenEvent) {
        let Some(writing) = self.writing.as_mut().filter(|w| w.epoch == epoch) else { return };
        match event {
            GenEvent::Begun(begun) => {
                writing.begun.get_or_insert(begun);
            }
            GenEvent::Ends(probability) => {
                if let Some(pause) = writing.pause {
                    self.args.reporter.tell(Report::SentenceEnds { pause, probability });
                }
            }
            GenEvent::Token(piece) => {
                if !writing.first_token {
                    writing.first_token = true;
                    self.args.reporter.tell(Report::FirstToken { epoch, begun: writing.begun });
                }
                if let Some(held) = &mut writing.held {
                    held.raw.push_str(&piece);
                    return;
                }
                let words = writing.words(piece);
                let clauses = writing.splitter.push(&words);
                self.clauses(epoch, clauses, false);
            }
            GenEvent::Done { piece, reason, tokens } => {
                let usage = usage(writing.begun, tokens);
                if let Some(mut held) = writing.held.take() {
                    held.raw.push_str(&piece);
                    self.writing = None;
                    return self.worded(epoch, Some(&held.raw), usage);
                }
                let words = writing.words(piece);
                let mut clauses = writing.splitter.push(&words);
                clauses.extend(writing.splitter.finish(reason == StopReason::Length));
                let call = writing.call.take().filter(|call| !call.trim().is_empty());
                if let Some(text) = call {
                    self.args.reporter.tell(Report::Called { epoch, text });
                }
                self.clauses(epoch, clauses, true);
                self.writing = None;
                self.args.reporter.tell(Report::Written {
                    epoch,
                    usage,
                    complete: reason == StopReason::Stop,
                });
            }
            GenEvent::Failed(EngineError::Cancelled) => {}
            GenEvent::Failed(error) => {
                if writing.held.is_some() {
                    tracing::warn!(%epoch, %error, "the model could not word a reply");
                    let usage = usage(writing.begun, 0);
                    self.writing = None;
                    return self.worded(epoch, None, usage);
                }
                self.writing = None;
                self.args.reporter.tell(Report::ReplyFailed { epoch, message: error.to_string() });
            }
        }
    }

    fn clauses(&mut self, epoch: Epoch, texts: Vec<String>, last: bool) {
        let count = texts.len();
        for (i, text) in texts.into_iter().enumerate() {
            self.args.reporter.tell(Report::Clause { epoch, text: text.clone() });
            self.waiting.push_back(Clause { epoch, text, last: last && i + 1 == count });
        }
        if last && count == 0 {
            self.waiting.push_back(Clause { epoch, text: String::new(), last: true });
        }
    }

    /// Gives the voice what it has room for. Says whether that was all.
    fn pass_on(&mut self) -> bool {
        while let Some(clause) = self.waiting.pop_front() {
            if let Err(clause) = self.args.clauses.push(clause) {
                self.waiting.push_front(clause);
                return false;
            }
        }
        true
    }
}

/// Cuts a growing text into clauses that can be spoken.
#[derive(Debug, Default)]
pub struct ClauseSplitter {
    text: String,
    spoken_any: bool,
}

impl ClauseSplitter {
    /// Takes more text; returns the clauses that are complete.
    pub fn push(&mut self, piece: &str) -> Vec<String> {
        self.text.extend(piece.chars().filter(|c| !matches!(c, '*' | '#' | '`' | '_' | '~')));
        let mut clauses = Vec::new();
        while let Some(end) = self.boundary() {
            let rest = self.text.split_off(end);
            let clause = std::mem::replace(&mut self.text, rest);
            self.emit(&clause, &mut clauses);
        }
        clauses
    }

    /// Nothing more comes. An answer that ran into its limit ends with its last whole sentence, if it
    /// has one.
    pub fn finish(&mut self, limit: bool) -> Vec<String> {
        let rest = std::mem::take(&mut self.text);
        let mut clauses = Vec::new();
        if !(limit && self.spoken_any) {
            self.emit(&rest, &mut clauses);
        }
        clauses
    }

    fn emit(&mut self, clause: &str, out: &mut Vec<String>) {
        let mut clause = clause.trim();
        if !self.spoken_any {
            // Small models like to write their own name first.
            for label in ["Interviewer:", "Assistant:", "AI:", "Viva:"] {
                clause = clause.strip_prefix(label).unwrap_or(clause).trim_start();
            }
        }
        if clause.chars().any(char::is_alphanumeric) {
            self.spoken_any = true;
            out.push(clause.to_owned());
        }
    }

    /// Whether a whole word that begins a phrase stands there.
    fn phrase_starts(&self, at: usize) -> bool {
        let Some((word, _)) = self.text[at..].split_once(char::is_whitespace) else { return false };
        PHRASE_STARTS.contains(&word.to_lowercase().as_str())
    }

    /// Where the first clause ends, if it is complete: after the mark, before the space.
    fn boundary(&self) -> Option<usize> {
        let mut last_space = None;
        for (at, c) in self.text.char_indices() {
            let end = at + c.len_utf8();
            let followed = self.text[end..].starts_with(char::is_whitespace);
            match c {
                '\n' if self.text[..at].chars().any(char::is_alphanumeric) => return Some(end),
                '.' | '!' | '?' | '…' if followed && !is_abbreviation(&self.text[..end]) => {
                    return Some(end);
                }
                ',' | ';' | ':' | '—' if followed => {
                    let early = !self.spoken_any && at >= FIRST_CLAUSE_MIN;
                    if early || at >= CLAUSE_MAX / 2 {
                        return Some(end);
                    }
                }
                c if c.is_whitespace() => {
                    if !self.spoken_any && at >= FIRST_PHRASE_MIN && self.phrase_starts(end) {
                        return Some(end);
                    }
                    last_space = Some(end);
                }
                _ => {}
            }
            if at >= CLAUSE_MAX {
                return last_space.or(Some(end));
            }
        }
        None
    }
}

/// Whether the mark at the end belongs to a title, an initial or a number.
fn is_abbreviation(text: &str) -> bool {
    const TITLES: [&str; 10] = ["mr.", "mrs.", "ms.", "dr.", "st.", "e.g.", "i.e.", "vs.", "etc.", "prof."];
    let word = text.rsplit(char::is_whitespace).next().unwrap_or_default().to_lowercase();
    let body = word.trim_end_matches('.');
    TITLES.contains(&word.as_str())
        || (word.ends_with('.') && !body.is_empty() && body.chars().all(|c| c.is_ascii_digit()))
        || (word.ends_with('.') && body.len() == 1 && body != "i")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, limit: bool) -> Vec<String> {
        let mut s = ClauseSplitter::default();
        let mut out: Vec<String> = text.split_inclusive(' ').flat_map(|w| s.push(w)).collect();
        out.extend(s.finish(limit));
        out
    }

    #[test]
    fn the_first_clause_comes_early_and_the_rest_by_sentences() {
        assert_eq!(
            split("That sounds like hard work, and fun. Tell me, what was next?", false),
            ["That sounds like hard work,", "and fun.", "Tell me, what was next?"]
        );
    }

    #[test]
    fn a_long_first_sentence_begins_with_a_phrase() {
        assert_eq!(
            split("I am so glad to hear that you are using Rust. Good.", false),
            ["I am so glad to hear that you are using Rust.", "Good."],
            "too early to break"
        );
        assert_eq!(
            split("It is wonderful to hear about that. Good that you came.", false),
            ["It is wonderful to hear", "about that.", "Good that you came."]
        );
    }

    #[test]
    fn titles_and_numbers_end_no_sentence() {
        assert_eq!(split("Dr. Lee had 1. place. Good.", false), ["Dr. Lee had 1. place.", "Good."]);
    }

    #[test]
    fn an_answer_cut_by_its_limit_ends_with_a_whole_sentence() {
        assert_eq!(split("Well done. And now we", true), ["Well done."]);
        assert_eq!(split("And now we", true), ["And now we"], "unless there is none");
    }

    #[test]
    fn marks_and_labels_are_not_spoken() {
        assert_eq!(split("Interviewer: **Great** `job`!", false), ["Great job!"]);
        assert_eq!(split("...\n\nYes.", false), ["Yes."]);
    }

    #[test]
    fn no_clause_is_endless() {
        assert!(split(&"word ".repeat(200), false).iter().all(|c| c.len() <= CLAUSE_MAX + 8));
    }
}
