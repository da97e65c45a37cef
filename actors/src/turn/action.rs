//! What the turn machine orders.

use serde::{Deserialize, Serialize};

use crate::types::Epoch;

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The caller sounded finished, and the silence that goes with it passed.
    Scored,
    /// Only silence said so.
    Silence,
    /// The client said so.
    Client,
    /// The turn had lasted as long as one may.
    TooLong,
}

/// Why a reply was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutReason {
    /// The caller spoke over it.
    BargeIn,
    /// The caller went on before it was heard.
    CallerWentOn,
    /// The client asked.
    Client,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Recognise the turn so far.
    Transcribe {
        /// For which pause.
        pause: u32,
    },
    /// Ask the turn detector.
    Score {
        /// For which pause.
        pause: u32,
    },
    /// Have the language model read the words before this pause, and say whether a sentence ends with them.
    ReadAhead {
        /// Which pause.
        pause: u32,
    },
    /// The pause is over, the caller goes on; what it led to is void.
    GoOn {
        /// Which pause.
        pause: u32,
        /// It was long enough for the words before it to be final.
        freeze: bool,
    },
    /// Nothing was said: forget the audio.
    Dismiss,
    /// Draft a reply, unheard.
    Draft {
        /// Under which stamp.
        epoch: Epoch,
    },
    /// Throw a draft away without a trace.
    Discard {
        /// Which.
        epoch: Epoch,
    },
    /// By the silence the turn is over: the draft is committed as soon as it can be heard, if the caller has
    /// not gone on by then.
    Decide {
        /// Which draft.
        epoch: Epoch,
    },
    /// The turn is over; the draft of this epoch, if a reply is wanted, becomes the reply.
    Commit {
        /// Which.
        epoch: Epoch,
        /// The caller's turn is over with it; otherwise only a reply was asked for.
        turn: bool,
        /// Whether there is a reply.
        reply: bool,
        /// Why now.
        why: EndReason,
    },
    /// Pause playout, drop nothing.
    Hold {
        /// Which reply.
        epoch: Epoch,
    },
    /// Go on at the very sample.
    Resume {
        /// Which reply.
        epoch: Epoch,
    },
    /// End the reply here.
    Cut {
        /// Which reply.
        epoch: Epoch,
        /// Why.
        why: CutReason,
    },
}
