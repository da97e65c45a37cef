//! What the server says.

use serde::Serialize;
use utoipa::ToSchema;
use viva_actors::event::Usage;

use super::items::{ItemObject, ResponsePart};
use super::session_object::{Format, ShownSession};
use crate::identity::quota::Left;

/// An event with its name, as it is written on the wire.
#[derive(Debug, Serialize)]
pub struct Envelope<'a> {
    /// Unique within the session.
    pub event_id: String,
    /// The event.
    #[serde(flatten)]
    pub event: &'a ServerEvent,
}

/// Where in a response something belongs. Our responses have one item with one part.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Ids {
    /// The response.
    pub response_id: String,
    /// The item.
    pub item_id: String,
    /// Always 0.
    pub output_index: u32,
    /// Always 0.
    pub content_index: u32,
}

/// Everything the server may say. Names are the GA protocol's; what stands after
/// `output_audio_buffer.cleared` is ours and goes only to a client that asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type")]
#[allow(missing_docs)] // The fields are the protocol's; its own documentation describes them.
pub enum ServerEvent {
    #[serde(rename = "session.created")]
    SessionCreated { session: ShownSession },
    #[serde(rename = "session.updated")]
    SessionUpdated { session: ShownSession },
    #[serde(rename = "error")]
    Error { error: ErrorBody },
    #[serde(rename = "conversation.item.added")]
    ItemAdded { previous_item_id: Option<String>, item: ItemObject },
    #[serde(rename = "conversation.item.done")]
    ItemDone { previous_item_id: Option<String>, item: ItemObject },
    #[serde(rename = "conversation.item.retrieved")]
    ItemRetrieved { item: ItemObject },
    #[serde(rename = "conversation.item.deleted")]
    ItemDeleted { item_id: String },
    #[serde(rename = "conversation.item.truncated")]
    ItemTruncated { item_id: String, content_index: u32, audio_end_ms: u64 },
    #[serde(rename = "input_audio_buffer.speech_started")]
    SpeechStarted { audio_start_ms: u64, item_id: String },
    #[serde(rename = "input_audio_buffer.speech_stopped")]
    SpeechStopped { audio_end_ms: u64, item_id: String },
    #[serde(rename = "input_audio_buffer.committed")]
    Committed { previous_item_id: Option<String>, item_id: String },
    #[serde(rename = "input_audio_buffer.timeout_triggered")]
    TimeoutTriggered { audio_start_ms: u64, audio_end_ms: u64, item_id: String },
    #[serde(rename = "input_audio_buffer.cleared")]
    Cleared {},
    #[serde(rename = "conversation.item.input_audio_transcription.delta")]
    TranscriptionDelta { item_id: String, content_index: u32, delta: String },
    #[serde(rename = "conversation.item.input_audio_transcription.completed")]
    TranscriptionCompleted { item_id: String, content_index: u32, transcript: String, usage: DurationUsage },
    #[serde(rename = "conversation.item.input_audio_transcription.failed")]
    TranscriptionFailed { item_id: String, content_index: u32, error: ErrorBody },
    #[serde(rename = "response.created")]
    ResponseCreated { response: Box<ResponseObject> },
    #[serde(rename = "response.output_item.added")]
    OutputItemAdded { response_id: String, output_index: u32, item: ItemObject },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        #[serde(flatten)]
        ids: Ids,
        part: ResponsePart,
    },
    #[serde(rename = "response.output_audio_transcript.delta")]
    SpokenDelta {
        #[serde(flatten)]
        ids: Ids,
        delta: String,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        #[serde(flatten)]
        ids: Ids,
        delta: String,
    },
    #[serde(rename = "response.output_audio.delta")]
    AudioDelta {
        #[serde(flatten)]
        ids: Ids,
        delta: String,
    },
    #[serde(rename = "response.output_audio.done")]
    AudioDone {
        #[serde(flatten)]
        ids: Ids,
    },
    #[serde(rename = "response.output_audio_transcript.done")]
    SpokenDone {
        #[serde(flatten)]
        ids: Ids,
        transcript: String,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        #[serde(flatten)]
        ids: Ids,
        text: String,
    },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { response_id: String, item_id: String, output_index: u32, call_id: String, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        response_id: String,
        item_id: String,
        output_index: u32,
        call_id: String,
        name: String,
        arguments: String,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        #[serde(flatten)]
        ids: Ids,
        part: ResponsePart,
    },
    #[serde(rename = "response.output_item.done")]
    OutputItemDone { response_id: String, output_index: u32, item: ItemObject },
    #[serde(rename = "response.done")]
    ResponseDone { response: Box<ResponseObject> },
    #[serde(rename = "rate_limits.updated")]
    RateLimits { rate_limits: Vec<RateLimit> },
    #[serde(rename = "output_audio_buffer.started")]
    AudioBufferStarted { response_id: String },
    #[serde(rename = "output_audio_buffer.stopped")]
    AudioBufferStopped { response_id: String },
    #[serde(rename = "output_audio_buffer.cleared")]
    AudioBufferCleared {
        response_id: String,
        /// Ours: how much of it was sent, and so heard.
        #[serde(skip_serializing_if = "Option::is_none")]
        audio_end_ms: Option<u64>,
    },
    /// Ours: a client whose line is lost comes back with this, once.
    #[serde(rename = "viva.resume")]
    WayBack { token: String, expires_in_s: u64 },
    /// Ours: it came back, after so long.
    #[serde(rename = "viva.resumed")]
    CameBack {
        session_id: String,
        away_ms: u64,
        /// Events told again; none to a client that did not say which it saw last.
        replayed: usize,
        /// Whether these are all it missed.
        complete: bool,
    },
    /// Ours: who has the floor.
    #[serde(rename = "viva.state")]
    State { state: String },
    /// Ours: where the interview stands.
    #[serde(rename = "viva.interview")]
    Interview { interview: serde_json::Value },
    /// Ours: a stage was restarted.
    #[serde(rename = "viva.stage_restarted")]
    StageRestarted { stage: &'static str, reason: String },
    /// Ours: throw away what was sent of this item and not played yet.
    #[serde(rename = "playback.clear")]
    PlaybackClear { item_id: String },
    /// Ours: when the stages of a turn were done, in milliseconds after the caller's last speech sample.
    #[serde(rename = "metrics.turn")]
    TurnMetrics(Box<TurnMetricsBody>),
}

impl ServerEvent {
    /// Whether it is ours, and only for clients that asked for more than the protocol's own events.
    pub fn is_extended(&self) -> bool {
        matches!(
            self,
            Self::State { .. }
                | Self::Interview { .. }
                | Self::StageRestarted { .. }
                | Self::PlaybackClear { .. }
                | Self::WayBack { .. }
                | Self::CameBack { .. }
                | Self::TurnMetrics(_)
        )
    }

    /// Whether it is about a voice that travels beside the events.
    pub fn is_of_a_track(&self) -> bool {
        matches!(
            self,
            Self::AudioBufferStarted { .. }
                | Self::AudioBufferStopped { .. }
                | Self::AudioBufferCleared { .. }
        )
    }

    /// Its name on the wire.
    pub fn name(&self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|v| v.get("type").and_then(|t| t.as_str()).map(str::to_owned))
            .unwrap_or_default()
    }
}

/// How much of a quota is left.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RateLimit {
    /// `requests`: tokens have no limit here.
    pub name: &'static str,
    /// How many a minute has.
    pub limit: u32,
    /// How many are left now.
    pub remaining: u32,
    /// Seconds until all are there again.
    pub reset_seconds: f64,
}

impl From<Left> for RateLimit {
    fn from(left: Left) -> Self {
        let reset_seconds = left.reset.as_secs_f64();
        Self { name: "requests", limit: left.limit, remaining: left.remaining, reset_seconds }
    }
}

/// The body of `metrics.turn`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)] // viva_actors::event::TurnMetrics describes them.
pub struct TurnMetricsBody {
    pub turn: u32,
    pub item_id: Option<String>,
    pub response_id: Option<String>,
    pub heard: String,
    pub said: String,
    pub endpoint_ms: Option<u64>,
    pub asr_final_ms: Option<u64>,
    pub llm_first_token_ms: Option<u64>,
    pub first_sentence_ms: Option<u64>,
    pub first_audio_ms: Option<u64>,
    pub voice_to_voice_ms: Option<u64>,
    pub prompt_tokens: u32,
    pub reused_tokens: u32,
    pub discarded_drafts: u32,
}

/// What an error says, in the OpenAI shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A word a program can read.
    pub code: Option<String>,
    /// A sentence a person can read.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// The client's own name for the event that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

impl ErrorBody {
    /// The client asked for something that cannot be.
    pub fn invalid(code: &str, message: impl Into<String>, param: Option<&str>) -> Self {
        Self {
            kind: "invalid_request_error",
            code: Some(code.to_owned()),
            message: message.into(),
            param: param.map(str::to_owned),
            event_id: None,
        }
    }

    /// Something of ours went wrong.
    pub fn server(code: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "server_error",
            code: Some(code.to_owned()),
            message: message.into(),
            param: None,
            event_id: None,
        }
    }
}

/// What a transcription cost.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DurationUsage {
    /// Always `duration`: we count seconds, not tokens.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Seconds of audio.
    pub seconds: f64,
}

impl DurationUsage {
    /// So many milliseconds.
    pub fn of_ms(ms: u64) -> Self {
        Self { kind: "duration", seconds: ms as f64 / 1000.0 }
    }
}

/// A response, as `response.created` and `response.done` show it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)] // The fields are the protocol's.
pub struct ResponseObject {
    pub object: &'static str,
    pub id: String,
    pub conversation_id: Option<String>,
    pub status: &'static str,
    pub status_details: Option<StatusDetails>,
    pub output: Vec<ItemObject>,
    #[schema(value_type = Vec<String>)]
    pub output_modalities: [&'static str; 1],
    pub audio: ResponseAudio,
    pub usage: Option<ResponseUsage>,
    pub metadata: Option<serde_json::Value>,
    pub max_output_tokens: serde_json::Value,
}

/// How a response sounds.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResponseAudio {
    /// The one stream out.
    pub output: ResponseAudioOutput,
}

/// Its stream.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct ResponseAudioOutput {
    pub format: Format,
    pub voice: String,
}

/// How a response ended.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct StatusDetails {
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<StatusError>,
}

/// Why it failed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct StatusError {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub code: String,
    /// The protocol has no such field; it tells a person what happened.
    pub message: String,
}

/// Tokens spent. All of ours are text tokens: the speech engines are no part of the language model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct ResponseUsage {
    pub total_tokens: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
    pub input_token_details: InputDetails,
    pub output_token_details: OutputDetails,
}

/// Tokens of the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct InputDetails {
    pub text_tokens: u32,
    pub audio_tokens: u32,
    pub cached_tokens: u32,
}

/// Tokens of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct OutputDetails {
    pub text_tokens: u32,
    pub audio_tokens: u32,
}

impl From<Usage> for ResponseUsage {
    fn from(u: Usage) -> Self {
        Self {
            total_tokens: u.input + u.output,
            input_tokens: u.input,
            output_tokens: u.output,
            input_token_details: InputDetails {
                text_tokens: u.input,
                audio_tokens: 0,
                cached_tokens: u.cached,
            },
            output_token_details: OutputDetails { text_tokens: u.output, audio_tokens: 0 },
        }
    }
}
