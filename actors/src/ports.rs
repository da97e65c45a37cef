//! What an edge holds of a session: a lane for the caller's audio, a bounded stream of what comes out,
//! and the messages it may send. Both media edges (WebSocket, WebRTC) use exactly this.

use std::path::PathBuf;
use std::sync::Arc;

use ractor::{ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use viva_models::{Sampling, Style};

use crate::conversation::{Item, ItemError, Place};
use crate::director::Director;
use crate::event::{ItemId, LogEntry};
use crate::gpu::binding::Quality;
use crate::lane::Lane;
use crate::turn::TurnConfig;
use crate::types::{Consent, Epoch, Principal, Retention, SessionId};

/// Samples of one outgoing frame: 20 ms at 24 kHz.
pub const OUT_FRAME: usize = 480;

/// Samples an incoming chunk may have: 100 ms at 16 kHz. Edges split what is longer.
pub const MIC_CHUNK_MAX: usize = 1600;

/// Chunks that wait in a session's mic lane: at 20 ms each this is ten seconds, at 100 ms fifty. A caller
/// who sends faster than we can listen loses the oldest, and it is counted.
pub const MIC_LANE: usize = 512;

/// Outgoing frames and events that wait for a slow edge: ten seconds of audio. Beyond that the frames
/// are dropped and counted; when even an event finds no room the session ends.
///
/// Entries are counted, not bytes, because bytes follow: a frame has 960, half a megabyte for a queue full of
/// them, and an event is an `Arc` of a line that the session's log keeps anyway. No line is large. The longest
/// hold a whole turn or reply: some 15 KB of words at the longest turn (300 s), and what the token limit lets a
/// reply have. Items that a client places or asks for pass by here: they are answered to the one who asked.
/// What is made of an event for the wire is the edge's own, and bounded there.
pub const OUT_QUEUE: usize = 512;

/// Everything that can differ from session to session.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// Whom it belongs to.
    pub principal: Principal,
    /// BCP-47 primary tag of the language spoken.
    pub language: String,
    /// How good the engines should be, where there are several.
    pub quality: Quality,
    /// What the caller agreed to.
    pub consent: Consent,
    /// How long anything stored may be kept.
    pub retention: Retention,
    /// Turn-taking.
    pub turn: TurnConfig,
    /// How to answer.
    pub voice: ReplyConfig,
    /// How to listen.
    pub listening: ListeningConfig,
    /// Folder for a recording of both sides; only used with consent.
    pub recordings: Option<PathBuf>,
    /// Bytes a prompt may have, instructions and conversation together: what the model's context holds.
    pub prompt_chars_max: usize,
    /// Frames sent ahead of real time, milliseconds; at most 120. Below 20 nothing is sent ahead: one frame a
    /// tick, and these milliseconds are how much a tick may come early.
    pub lead_ms: u32,
    /// Who decides what is said; without one the language model answers what was said.
    pub director: Option<Arc<dyn Director>>,
}

/// How replies are written and spoken.
#[derive(Debug, Clone)]
pub struct ReplyConfig {
    /// The system message.
    pub instructions: String,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How it sounds.
    pub style: Style,
    /// The voice's linear gain: brings it to −16 LUFS (from its preset).
    pub gain: f32,
    /// Speak the reply; otherwise it is text only.
    pub spoken: bool,
}

/// How the caller is listened to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListeningConfig {
    /// RNNoise before everything else.
    pub denoise: bool,
    /// Names and words to expect.
    pub prompt: Option<String>,
    /// VAD threshold, 0..1; none for the default.
    pub vad_threshold: Option<f32>,
    /// Audio kept from before the speech start, milliseconds; none for the default.
    pub prefix_ms: Option<u32>,
}

impl Default for SessionSpec {
    fn default() -> Self {
        Self {
            principal: Principal::default(),
            language: "en".into(),
            quality: Quality::default(),
            consent: Consent::default(),
            retention: Retention::default(),
            turn: TurnConfig::default(),
            voice: ReplyConfig {
                instructions: DEFAULT_INSTRUCTIONS.into(),
                // Warm enough not to repeat itself, cool enough to stay with the subject; small models loop
                // without the penalty.
                sampling: Sampling {
                    max_tokens: 64,
                    temperature: 0.6,
                    top_p: 0.9,
                    repeat_penalty: 1.15,
                    ..Sampling::default()
                },
                style: Style::default(),
                gain: 1.0,
                spoken: true,
            },
            listening: ListeningConfig::default(),
            recordings: None,
            // About 1,500 tokens: a context of 2,048 with room for the answer.
            prompt_chars_max: 6_000,
            lead_ms: 20,
            director: None,
        }
    }
}

/// Used when a session brings no instructions of its own.
pub const DEFAULT_INSTRUCTIONS: &str = "You are a friendly job interviewer talking with a candidate. Reply in \
one or two short spoken sentences. Acknowledge what they said, then ask one follow-up question.";

/// What a session's handle offers to an edge.
pub struct SessionPorts {
    /// The session's name.
    pub id: SessionId,
    /// Caller audio at 16 kHz goes in here, at most [`MIC_CHUNK_MAX`] samples at a time.
    pub mic: Lane<Box<[f32]>>,
    /// Control goes in here.
    pub control: ActorRef<SessionMsg>,
    /// Everything that comes out, in order. Closed when the session has ended.
    pub out: mpsc::Receiver<Out>,
}

/// What comes out of a session.
#[derive(Debug, Clone)]
pub enum Out {
    /// A line of the log.
    Event(Arc<LogEntry>),
    /// 20 ms of our voice at 24 kHz, sent at the time it is to be played (with the session's lead).
    Audio {
        /// Of which reply.
        epoch: Epoch,
        /// The samples.
        frame: Box<[i16; OUT_FRAME]>,
    },
    /// What was sent of this reply and not played yet is void.
    Flush {
        /// Which reply.
        epoch: Epoch,
        /// Milliseconds of it that were sent.
        sent_ms: u64,
    },
}

/// What may be asked of a session.
pub enum SessionMsg {
    /// From now on with these settings.
    Configure(Box<SessionSettings>),
    /// The caller's turn is over.
    CommitAudio,
    /// Forget what the caller said since the last turn.
    ClearAudio,
    /// Reply now.
    Respond(Box<ResponseOptions>),
    /// Stop replying.
    Cancel,
    /// Place an item. Answers with the name of the one before it.
    AddItem(Item, Place, RpcReplyPort<Result<Option<ItemId>, ItemError>>),
    /// Remove an item.
    DeleteItem(ItemId, RpcReplyPort<Result<(), ItemError>>),
    /// Look an item up.
    GetItem(ItemId, RpcReplyPort<Option<Item>>),
    /// All items, in order: at most what [`crate::conversation::BYTES_MAX`] allows.
    GetItems(RpcReplyPort<Vec<Item>>),
    /// The client played only so many milliseconds of this item. Answers with the text that is left.
    TruncateItem(ItemId, u64, RpcReplyPort<Result<String, TruncateError>>),
    /// Answer once everything before this is done.
    Settled(RpcReplyPort<()>),
    /// The log so far.
    Log(RpcReplyPort<Vec<Arc<LogEntry>>>),
    /// Make a stage fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic(crate::types::Stage),
    /// What became of the caller's line.
    Line(Line),
    /// The caller is gone, or the server ends; say why.
    Hangup(String),
    /// A stage or the playout has something to say. Not for edges.
    Internal(crate::session::Report),
}

/// The caller's line, as their edge sees it. Nobody has to say that it stands at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// It is dead, for now. Our voice pauses where it was last heard; what the caller does not send
    /// meanwhile is not taken for silence, because time is counted by what they send.
    Lost {
        /// Milliseconds since they were last heard of: so much of our voice they may have missed.
        unheard_ms: u32,
    },
    /// It stands again, over a transport that wants so much sent ahead.
    Back {
        /// Milliseconds, as [`SessionSpec::lead_ms`].
        lead_ms: u32,
    },
}

/// The part of a [`SessionSpec`] that may change while the session runs.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Turn-taking.
    pub turn: TurnConfig,
    /// Replies.
    pub voice: ReplyConfig,
    /// Listening.
    pub listening: ListeningConfig,
    /// Language.
    pub language: String,
    /// How good the engines should be, where there are several.
    pub quality: Quality,
}

/// What one response may have of its own.
#[derive(Debug, Clone, Default)]
pub struct ResponseOptions {
    /// In place of the session's.
    pub instructions: Option<String>,
    /// In place of the session's.
    pub max_tokens: Option<u32>,
    /// In place of the session's.
    pub spoken: Option<bool>,
    /// In place of the session's; within it none lets the model write what it likes.
    pub grammar: Option<Option<String>>,
}

/// Why a truncation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TruncateError {
    /// No such item, or not one of ours.
    #[error("there is no spoken reply '{0}' to truncate")]
    Unknown(ItemId),
    /// More than there was.
    #[error("audio of {audio_ms} ms exceeds the {sent_ms} ms that were sent of this item")]
    TooLong {
        /// Asked for.
        audio_ms: u64,
        /// Sent.
        sent_ms: u64,
    },
}
