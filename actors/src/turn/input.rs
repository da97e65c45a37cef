//! What the turn machine is told.

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, MediaTime};

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Input {
    /// The caller began to speak.
    SpeechStarted {
        /// First sample of it.
        at: MediaTime,
    },
    /// The caller has been silent for [`pause_ms`](super::TurnConfig::pause_ms).
    SpeechPaused {
        /// Last sample of speech.
        at: MediaTime,
    },
    /// The turn detector's answer.
    Scored {
        /// Of which pause.
        pause: u32,
        /// How likely the caller is done, 0..1; none if it could not say.
        probability: Option<f32>,
    },
    /// The language model's opinion of the words before a pause.
    SentenceEnds {
        /// Of which pause.
        pause: u32,
        /// How likely a sentence ends with them, 0..1.
        probability: f32,
    },
    /// The recogniser's answer: the words of the whole turn so far.
    Heard {
        /// Of which pause.
        pause: u32,
        /// The words.
        text: String,
        /// How sure it is, 0..1.
        confidence: f32,
    },
    /// The recogniser gave up on this pause.
    HearingFailed {
        /// Of which pause.
        pause: u32,
    },
    /// The first sound of a reply can be sent (for one in text, its first words), or there will be none.
    ReplyReady {
        /// Which reply.
        epoch: Epoch,
    },
    /// The reply's first sample left us.
    PlayoutStarted {
        /// Which reply.
        epoch: Epoch,
    },
    /// The reply was played to its end.
    PlayoutDrained {
        /// Which reply.
        epoch: Epoch,
    },
    /// The reply could not be made.
    ReplyFailed {
        /// Which reply.
        epoch: Epoch,
    },
    /// The client says that the turn is over.
    CommitAsked,
    /// The client wants a reply now, without a turn of the caller's.
    ReplyAsked,
    /// The client wants the reply to stop.
    CancelAsked,
    /// The client throws away what it sent.
    ClearAsked,
    /// Time has passed.
    Tick,
}
