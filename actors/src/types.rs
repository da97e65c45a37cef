//! The words every room shares: who a session belongs to, when things happened, which draft they are of.

use std::fmt;

use serde::{Deserialize, Serialize};
use viva_models::audio::LISTEN_RATE;

/// Names a session in logs, on the wire and in stored rows. Random, so that it cannot be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub String);

impl SessionId {
    /// A new name with 96 random bits.
    pub fn random() -> Self {
        Self(format!("sess_{:024x}", rand::random::<u128>() >> 32))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a session, and everything stored of it, belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The customer.
    pub tenant: String,
    /// The customer's own name for the person; opaque to us.
    pub user: String,
    /// What they may use.
    pub tier: Tier,
}

impl Default for Principal {
    fn default() -> Self {
        Self { tenant: "local".into(), user: "local".into(), tier: Tier::Free }
    }
}

/// What a principal may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The default.
    #[default]
    Free,
    /// Paid.
    Pro,
    /// By contract.
    Enterprise,
}

/// What the caller agreed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Both sides may be recorded to disk.
    pub recording: bool,
}

/// How long what is stored of a session may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Days after which it is deleted; 0 keeps nothing beyond the session.
    pub days: u32,
}

impl Default for Retention {
    /// Thirty days: long enough to review an interview, short enough to be forgotten.
    fn default() -> Self {
        Self { days: 30 }
    }
}

/// Which turn, and which draft of the reply to it. Whatever carries an older epoch is dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Counts the caller's turns from 1.
    pub turn: u32,
    /// Counts the drafts of the reply within the turn from 1; 0 before the first.
    pub rev: u32,
}

impl Epoch {
    /// Packs into one word, for atomics.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.turn) << 32) | u64::from(self.rev)
    }

    /// Undoes [`Epoch::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self { turn: (bits >> 32) as u32, rev: bits as u32 }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.turn, self.rev)
    }
}

/// The session's media clock: samples of caller audio at 16 kHz since the session began. Only audio that
/// arrived moves it, so it never runs ahead of what was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MediaTime(pub u64);

impl MediaTime {
    /// Milliseconds since the session began.
    pub fn ms(self) -> u64 {
        self.0 * 1000 / u64::from(LISTEN_RATE)
    }

    /// The clock so many milliseconds after the session began.
    pub fn from_ms(ms: u64) -> Self {
        Self(ms * u64::from(LISTEN_RATE) / 1000)
    }

    /// Milliseconds from an earlier moment to this one; 0 if it is not earlier.
    pub fn since_ms(self, earlier: MediaTime) -> u64 {
        MediaTime(self.0.saturating_sub(earlier.0)).ms()
    }

    /// This moment moved back.
    pub fn back_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(Self::from_ms(ms).0))
    }
}

/// The stages of a session's graph, in the audio's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Finds speech.
    Vad,
    /// Makes it text.
    Asr,
    /// Looks up what helps to answer.
    Rag,
    /// Writes the answer.
    Llm,
    /// Speaks it.
    Tts,
    /// Makes it pleasant to hear.
    Enhancer,
}

impl Stage {
    /// All of them, in the audio's order.
    pub const ALL: [Stage; 6] = [Stage::Vad, Stage::Asr, Stage::Rag, Stage::Llm, Stage::Tts, Stage::Enhancer];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Vad => "vad",
            Stage::Asr => "asr",
            Stage::Rag => "rag",
            Stage::Llm => "llm",
            Stage::Tts => "tts",
            Stage::Enhancer => "enhancer",
        }
    }
}
