//! Who decides what a session says, where that is more than the language model's answer to what was said.
//!
//! A session that has a [`Director`] asks it for the words of every reply, tells it what became of them, and lets it
//! speak into a silence. Drafts are asked for while nobody knows whether the caller is done, and most of them are
//! thrown away: a director may find out what it likes for one, but whatever it decides counts only once it is told
//! that the reply is [committed](Director::committed).

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use viva_models::{Message, Sampling};

use crate::types::Epoch;

/// What is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Cue {
    /// The reply's stamp.
    pub epoch: Epoch,
    /// The caller's words; none where they are silent and we speak by ourselves.
    pub words: Option<String>,
    /// How long they have been speaking, milliseconds.
    pub spoke_ms: u64,
    /// Milliseconds since their last sound.
    pub ended_ms_ago: u64,
    /// Milliseconds since the session began.
    pub now_ms: u64,
}

/// What to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Saying {
    /// This.
    Say(String),
    /// Something that the language model has yet to word.
    Word(Box<Wording>),
}

/// How words are to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Wording {
    /// Said at once, while the rest is being written.
    pub lead: String,
    /// What the model reads.
    pub messages: Vec<Message>,
    /// How it writes.
    pub sampling: Sampling,
    /// How long it is waited for.
    pub within: Duration,
}

/// How the caller is listened to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manner {
    /// Multiplies the silences that end a turn, beside the session's own patience.
    pub patience: f32,
    /// After so many milliseconds a turn is ended.
    pub turn_ms_max: u32,
}

/// When we speak by ourselves, if the floor is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wake {
    /// After so many milliseconds of silence, by the caller's own audio: a line that stalls is not silent.
    pub silent_ms: Option<u64>,
    /// At this time, milliseconds since the session began.
    pub at_ms: Option<u64>,
    /// The session ends then, and nothing is said.
    pub hang_up: bool,
}

/// What a session's director answers when it has found out.
pub type Found<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Decides what a session says. All calls but the futures must return at once.
pub trait Director: Debug + Send + Sync {
    /// What the language model would read if the caller said no more than these words: it is read ahead. The last
    /// message is the caller's, and ends with these words.
    fn ahead(&self, words: &str) -> Vec<Message>;

    /// What to say. The same cue may come twice, when a stage died.
    fn draft(self: Arc<Self>, cue: Cue) -> Found<Saying>;

    /// What the language model wrote for this draft; none where it failed or was too late. Returns what is said.
    fn worded(&self, epoch: Epoch, raw: Option<&str>) -> String;

    /// This draft was thrown away.
    fn discarded(&self, epoch: Epoch);

    /// This draft is the reply.
    fn committed(&self, epoch: Epoch, now_ms: u64);

    /// This reply is over; so much of it was heard, and it was all of it or not.
    fn ended(&self, epoch: Epoch, heard: &str, whole: bool, now_ms: u64);

    /// How to listen now.
    fn manner(&self) -> Manner;

    /// When to speak by ourselves.
    fn wake(&self) -> Wake;

    /// The conversation has come to its end: the session ends with the reply that is being said.
    fn over(&self) -> bool;

    /// What clients may be told that has changed since it was last asked for.
    fn news(&self, now_ms: u64) -> Option<Value>;
}
