//! The session object: what a client sees of its settings and what it may ask to change.
//!
//! How a change is checked and what it means to the session stands in [`apply`].

mod apply;
mod functions;
mod lock;
#[cfg(test)]
mod tests;
mod transcription;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use viva_actors::ports::SessionSpec;

use super::server_events::ErrorBody;
use apply::out_of_range;

pub use apply::{INSTRUCTIONS_MAX, checked_instructions, checked_modality, known_voice};
pub use functions::Functions;
pub use transcription::{ShownSession, TRANSCRIPTION};

/// Tokens a client may allow a reply: the protocol's own range.
const TOKENS: std::ops::RangeInclusive<u32> = 1..=4096;

/// A session's settings as the wire shows them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)] // The fields are the protocol's.
pub struct SessionObject {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub object: &'static str,
    pub id: String,
    pub model: String,
    #[schema(value_type = Vec<String>)]
    pub output_modalities: [&'static str; 1],
    pub instructions: String,
    pub tools: Vec<Value>,
    pub tool_choice: Value,
    pub max_output_tokens: TokenLimit,
    pub truncation: &'static str,
    pub tracing: Option<Value>,
    pub prompt: Option<Value>,
    pub include: Option<Vec<String>>,
    pub expires_at: u64,
    pub audio: AudioObject,
}

/// Both directions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct AudioObject {
    pub input: InputObject,
    pub output: OutputObject,
}

/// How the caller is heard.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct InputObject {
    pub format: Format,
    pub transcription: Option<Transcription>,
    pub noise_reduction: Option<NoiseReduction>,
    pub turn_detection: Option<TurnDetection>,
}

/// How we sound.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct OutputObject {
    pub format: Format,
    pub voice: String,
    pub speed: f32,
}

/// An audio format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Format {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// Hertz; only for PCM, and only 24,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
}

/// The formats of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum FormatKind {
    /// 16 bits, little-endian, mono, 24 kHz.
    #[serde(rename = "audio/pcm")]
    Pcm,
    /// G.711 µ-law, 8 kHz.
    #[serde(rename = "audio/pcmu")]
    Pcmu,
    /// G.711 A-law, 8 kHz.
    #[serde(rename = "audio/pcma")]
    Pcma,
}

impl Format {
    /// The protocol's default.
    pub const PCM: Self = Self { kind: FormatKind::Pcm, rate: Some(24_000) };
}

/// A number of tokens, or no limit of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TokenLimit {
    /// So many.
    Tokens(u32),
    /// `inf`.
    Unlimited(Inf),
}

/// The word `inf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Inf {
    /// `inf`.
    Inf,
}

impl TokenLimit {
    /// No limit of the client's: ours holds.
    pub const INF: Self = Self::Unlimited(Inf::Inf);

    /// The number, checked; none for `inf`.
    pub fn checked(self, param: &str) -> Result<Option<u32>, ErrorBody> {
        match self {
            Self::Unlimited(_) => Ok(None),
            Self::Tokens(n) if TOKENS.contains(&n) => Ok(Some(n)),
            Self::Tokens(n) => {
                Err(out_of_range(param, format!("{n} is not in {}..={}", TOKENS.start(), TOKENS.end())))
            }
        }
    }
}

/// Transcripts of the caller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Transcription {
    pub model: Option<String>,
    pub language: Option<String>,
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
}

/// Noise reduction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoiseReduction {
    /// Near or far microphone: one denoiser serves both.
    #[serde(rename = "type")]
    pub kind: Field,
}

/// Where the microphone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Field {
    NearField,
    FarField,
}

/// How turns are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct TurnDetection {
    #[serde(rename = "type")]
    pub kind: TurnKind,
    #[serde(default = "yes")]
    pub create_response: bool,
    #[serde(default = "yes")]
    pub interrupt_response: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eagerness: Option<Eagerness>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_padding_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_duration_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u32>,
}

/// The two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum TurnKind {
    ServerVad,
    SemanticVad,
}

/// How soon we take the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Eagerness {
    Low,
    Medium,
    High,
    Auto,
}

impl Eagerness {
    /// Multiplies the silences we wait for. `high` is about as quick as the score allows without speaking
    /// into thinking pauses; `low` gives half as much time again.
    fn patience(self) -> f32 {
        match self {
            Self::Low => 1.5,
            Self::Medium | Self::Auto => 1.0,
            Self::High => 0.7,
        }
    }
}

fn yes() -> bool {
    true
}

/// What a client wants changed. A field left out stays; `null`, where the protocol knows it, turns off.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct SessionPatch {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub instructions: Option<String>,
    #[serde(default)]
    pub output_modalities: Option<Vec<String>>,
    #[serde(default)]
    pub max_output_tokens: Option<TokenLimit>,
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    #[serde(default)]
    pub tool_choice: Option<Value>,
    #[serde(default)]
    pub audio: Option<AudioPatch>,
}

/// Both directions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AudioPatch {
    pub input: Option<InputPatch>,
    pub output: Option<OutputPatch>,
}

/// How the caller is heard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct InputPatch {
    pub format: Option<Format>,
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<Transcription>)]
    pub transcription: Option<Option<Transcription>>,
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<NoiseReduction>)]
    pub noise_reduction: Option<Option<NoiseReduction>>,
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<TurnDetection>)]
    pub turn_detection: Option<Option<TurnDetection>>,
}

/// How we sound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct OutputPatch {
    pub format: Option<Format>,
    pub voice: Option<VoiceName>,
    pub speed: Option<f32>,
}

/// A voice, by name or by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum VoiceName {
    /// By name.
    Name(String),
    /// By id, which is a name to us.
    Id {
        /// The id.
        id: String,
    },
}

/// Tells `null` (some none) from a field that is not there (none).
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// What a server lets its sessions be, beside the session's own start.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The model's name on the wire.
    pub model: String,
    /// The voices there are; the first is the default.
    pub voices: Vec<String>,
    /// What a session starts from.
    pub spec: SessionSpec,
    /// Longest session, seconds.
    pub session_s_max: u64,
}
