//! The session's log: everything that was decided or became known, in order, with its reason.
//!
//! The log is append-only. Transcript, captions, metrics and the wire's events are folds over it; the
//! [`SessionEvent::Decided`] entries carry the turn machine's inputs with their time, so that a log can
//! be replayed ([`replay`]) and gives the same decisions.

use serde::{Deserialize, Serialize};

use crate::ports::Line;
use crate::turn::{Action, CutReason, EndReason, Input, TurnConfig, TurnMachine};
use crate::types::{Epoch, MediaTime, SessionId, Stage};

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Counts from 0.
    pub seq: u64,
    /// The media clock.
    pub media: MediaTime,
    /// Milliseconds since the session began, monotonic.
    pub mono_ms: u64,
    /// What.
    pub event: SessionEvent,
}

/// Names one message of the conversation, as the wire does (`item_…`).
pub type ItemId = String;

/// How a reply ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Played to its end.
    Completed,
    /// Ended because it had reached the token limit; what there was has been played.
    Incomplete,
    /// Ended early because its writer was lost; what there was has been played.
    Shortened,
    /// Stopped before its end.
    Cut(CutReason),
    /// Could not be made (or not to its end); says why.
    Failed(String),
}

/// When the stages of a turn were done, in milliseconds after the caller's last speech sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnMetrics {
    /// Counts the caller's turns from 1.
    pub turn: u32,
    /// The turn was judged to be over.
    pub endpoint_ms: Option<u64>,
    /// Its words were there.
    pub asr_final_ms: Option<u64>,
    /// The reply's first token was there.
    pub llm_first_token_ms: Option<u64>,
    /// The reply's first sentence was written.
    pub first_sentence_ms: Option<u64>,
    /// The reply's first audio was made.
    pub first_audio_ms: Option<u64>,
    /// The reply's first audio was sent.
    pub voice_to_voice_ms: Option<u64>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, found in the cache.
    pub reused_tokens: u32,
    /// Drafts of this turn that were thrown away.
    pub discarded_drafts: u32,
}

/// What happened. Texts are the caller's and ours: they belong to the session's principal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SessionEvent {
    /// The session's first entry.
    Opened {
        /// Its name.
        id: SessionId,
        /// How turns are taken.
        turn: TurnConfig,
    },
    /// The turn-taking settings changed.
    Configured {
        /// To these.
        turn: TurnConfig,
    },
    /// The turn machine took an input.
    Decided {
        /// What it was told.
        input: Input,
        /// What it answered.
        actions: Vec<Action>,
    },
    /// The caller began to speak.
    SpeechStarted {
        /// First sample.
        at: MediaTime,
        /// The item this will become.
        item: ItemId,
    },
    /// The caller's turn is over, or what they said was nothing: their speech ended here.
    SpeechStopped {
        /// Last sample.
        at: MediaTime,
        /// The item.
        item: ItemId,
    },
    /// What was heard was nothing.
    Dismissed {
        /// The item that will not be.
        item: ItemId,
    },
    /// Words of the caller that will not change any more, while they still speak.
    CallerWords {
        /// The item.
        item: ItemId,
        /// Text to append.
        delta: String,
    },
    /// The caller's turn is over.
    TurnEnded {
        /// Its stamp.
        epoch: Epoch,
        /// The item.
        item: ItemId,
        /// The item before it.
        previous: Option<ItemId>,
        /// Everything that was said.
        text: String,
        /// Why now.
        why: EndReason,
        /// Length of the turn's audio.
        audio_ms: u64,
    },
    /// The caller's words could not be recognised.
    HearingFailed {
        /// The item.
        item: ItemId,
        /// Why.
        message: String,
    },
    /// A reply is certain to come.
    ReplyStarted {
        /// Its stamp.
        epoch: Epoch,
        /// The response's name (`resp_…`).
        response: String,
        /// The item.
        item: ItemId,
        /// The item before it.
        previous: Option<ItemId>,
    },
    /// Text of the reply.
    ReplyText {
        /// Its stamp.
        epoch: Epoch,
        /// Text to append.
        delta: String,
    },
    /// The reply is no words, but a call of one of the client's functions; its end follows.
    ReplyCalls {
        /// Its stamp.
        epoch: Epoch,
        /// The call, as the model wrote it.
        call: String,
    },
    /// The reply's first audio was sent.
    ReplyAudible {
        /// Its stamp.
        epoch: Epoch,
    },
    /// The reply is over.
    ReplyEnded {
        /// Its stamp.
        epoch: Epoch,
        /// How.
        outcome: Outcome,
        /// What the caller heard of it.
        heard: String,
        /// What had been written of it.
        written: String,
        /// How much of it was played.
        heard_ms: u64,
        /// Tokens of prompt and answer.
        usage: Usage,
    },
    /// Our voice is held while we find out what the caller wants.
    Held {
        /// Which reply.
        epoch: Epoch,
    },
    /// Our voice goes on.
    Resumed {
        /// Which reply.
        epoch: Epoch,
    },
    /// The caller's line was lost, or stands again.
    Line {
        /// Which of the two.
        line: Line,
    },
    /// What the client reports to have played of a reply.
    Truncated {
        /// The item.
        item: ItemId,
        /// Milliseconds played.
        audio_ms: u64,
        /// What is left of its text.
        text: String,
    },
    /// A turn's latency.
    Measured {
        /// When its stages were done.
        metrics: TurnMetrics,
        /// What was heard.
        heard: String,
        /// The reply as far as it is written.
        said: String,
    },
    /// Who has the floor, in a word.
    State {
        /// `listening`, `hearing`, `thinking`, `speaking`, `held`.
        state: String,
    },
    /// A stage died and was started again.
    StageRestarted {
        /// Which.
        stage: Stage,
        /// What it died of.
        reason: String,
    },
    /// What the session's director lets clients know of where it stands.
    Directed {
        /// Its own form.
        news: serde_json::Value,
    },
    /// Something went wrong that the caller should know.
    Trouble {
        /// A word a program can read.
        code: String,
        /// A sentence a person can read.
        message: String,
    },
    /// The session's last entry.
    Ended {
        /// Why.
        reason: String,
    },
}

/// Tokens spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    pub input: u32,
    /// Of these, found in the cache.
    pub cached: u32,
    /// Of the answer.
    pub output: u32,
}

/// Feeds a log's inputs to a fresh machine. Returns the first entry whose decisions differ, if any.
pub fn replay(log: &[LogEntry]) -> Option<u64> {
    let mut machine: Option<TurnMachine> = None;
    for entry in log {
        match (&entry.event, machine.as_mut()) {
            (SessionEvent::Opened { turn, .. }, _) => machine = Some(TurnMachine::new(turn.clone())),
            (SessionEvent::Configured { turn }, Some(m)) => m.configure(turn.clone()),
            (SessionEvent::Decided { input, actions }, Some(m)) => {
                let again = m.handle(input, entry.media);
                if again != *actions {
                    return Some(entry.seq);
                }
            }
            _ => {}
        }
    }
    None
}
