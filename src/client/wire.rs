//! The realtime protocol as a caller sees it: events read leniently, since a server may say more than
//! we know, and the few events we send.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::clip::RATE;

/// A server event that means something to a caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The session stands.
    SessionCreated,
    /// Our settings were taken.
    SessionUpdated,
    /// The server hears us speak.
    SpeechStarted,
    /// The server hears us no more.
    SpeechStopped,
    /// Our turn is decided to be over.
    Committed,
    /// What it heard.
    Transcribed(String),
    /// It could not recognise our turn.
    TranscriptionFailed(String),
    /// It begins to answer.
    ResponseCreated {
        /// Which answer.
        response: String,
    },
    /// Sound of the answer.
    Audio {
        /// Which answer.
        response: String,
        /// Mono at [`RATE`].
        samples: Vec<i16>,
    },
    /// Words of the answer.
    Said {
        /// Which answer.
        response: String,
        /// More of its text.
        delta: String,
    },
    /// The whole text of the answer.
    SaidAll {
        /// Which answer.
        response: String,
        /// Its text.
        text: String,
    },
    /// The answer is over.
    ResponseDone {
        /// Which answer.
        response: String,
        /// `completed`, `cancelled`, `failed` or `incomplete`.
        status: String,
        /// Why, where it says so.
        reason: String,
    },
    /// Throw away what has not been played.
    PlaybackClear,
    /// The voice of an answer begins, where it comes beside the events.
    VoiceStarted {
        /// Which answer.
        response: String,
    },
    /// That voice was cut: what came is still played, and no more comes.
    VoiceCut,
    /// With this a call is come back to, once, when its line was lost.
    WayBack {
        /// The secret.
        token: String,
    },
    /// The server's own measure of a turn.
    Turn(Box<TurnMetrics>),
    /// Something was wrong; the session goes on.
    Error(String),
    /// Anything else, by type.
    Other(String),
    /// Not an event at all.
    Malformed(String),
}

/// `metrics.turn`: the server's own times of one turn, in milliseconds after the caller's last speech
/// sample. Fields a server does not know stay empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnMetrics {
    /// The answer's id.
    pub response_id: Option<String>,
    /// What it heard.
    pub heard: Option<String>,
    /// What it says.
    pub said: Option<String>,
    /// End of turn decided.
    pub endpoint_ms: Option<f64>,
    /// Recognition final.
    pub asr_final_ms: Option<f64>,
    /// First token of the answer.
    pub llm_first_token_ms: Option<f64>,
    /// First sentence complete.
    pub first_sentence_ms: Option<f64>,
    /// First sound ready.
    pub first_audio_ms: Option<f64>,
    /// First sound sent, as the server counts it.
    pub voice_to_voice_ms: Option<f64>,
    /// Whatever else it tells: CPU, queues, speculation.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Every field a caller reads, borrowed from the message where it can be.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    response_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    transcript: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(default)]
    response: Option<ResponseObject>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseObject {
    id: String,
    status: Option<String>,
    status_details: Option<StatusDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StatusDetails {
    reason: Option<String>,
    error: Option<ErrorObject>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorObject {
    code: Option<String>,
    message: Option<String>,
    param: Option<String>,
}

impl ErrorObject {
    fn sentence(self) -> String {
        let mut sentence = self.message.or(self.code).unwrap_or_else(|| "no message".into());
        if let Some(param) = self.param {
            sentence.push_str(&format!(" (param: {param})"));
        }
        sentence
    }
}

impl Event {
    /// Reads one text message.
    pub fn parse(text: &str) -> Self {
        Self::parse_named(text).0
    }

    /// The same, with the name the server gave it (`event_id`): a caller who comes back says which was the last.
    pub fn parse_named(text: &str) -> (Self, Option<String>) {
        match serde_json::from_str::<Envelope<'_>>(text) {
            Ok(mut envelope) => {
                let name = envelope.event_id.take().map(Cow::into_owned);
                (Self::of(envelope, text), name)
            }
            Err(error) => (Self::unread(text, &error), None),
        }
    }

    fn of(envelope: Envelope<'_>, text: &str) -> Self {
        let owned = |field: Option<Cow<'_, str>>| field.map(Cow::into_owned).unwrap_or_default();
        let response = envelope.response_id;
        match envelope.kind.as_ref() {
            "response.output_audio.delta" => match pcm(envelope.delta.as_deref().unwrap_or_default()) {
                Ok(samples) => Self::Audio { response: owned(response), samples },
                Err(why) => Self::Malformed(why),
            },
            "session.created" => Self::SessionCreated,
            "session.updated" => Self::SessionUpdated,
            "input_audio_buffer.speech_started" => Self::SpeechStarted,
            "input_audio_buffer.speech_stopped" => Self::SpeechStopped,
            "input_audio_buffer.committed" => Self::Committed,
            "conversation.item.input_audio_transcription.completed" => {
                Self::Transcribed(owned(envelope.transcript))
            }
            "conversation.item.input_audio_transcription.failed" => {
                Self::TranscriptionFailed(envelope.error.unwrap_or_default().sentence())
            }
            "response.created" => {
                Self::ResponseCreated { response: envelope.response.unwrap_or_default().id }
            }
            "response.output_audio_transcript.delta" | "response.output_text.delta" => {
                Self::Said { response: owned(response), delta: owned(envelope.delta) }
            }
            "response.output_audio_transcript.done" => {
                Self::SaidAll { response: owned(response), text: owned(envelope.transcript) }
            }
            "response.output_text.done" => {
                Self::SaidAll { response: owned(response), text: owned(envelope.text) }
            }
            "response.done" => done(envelope.response.unwrap_or_default()),
            "viva.resume" => Self::WayBack { token: owned(envelope.token) },
            "playback.clear" => Self::PlaybackClear,
            "output_audio_buffer.started" => Self::VoiceStarted { response: owned(response) },
            "output_audio_buffer.cleared" => Self::VoiceCut,
            "metrics.turn" => match serde_json::from_str(text) {
                Ok(metrics) => Self::Turn(Box::new(metrics)),
                Err(error) => Self::Malformed(format!("metrics.turn: {error}")),
            },
            "error" => Self::Error(envelope.error.unwrap_or_default().sentence()),
            other => Self::Other(other.to_owned()),
        }
    }
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

/// The prefixes of the protocol's own events; below them a field of another shape is a mistake.
const PROTOCOL: &[&str] = &["session.", "conversation.", "input_audio_buffer.", "response.", "error"];

impl Event {
    /// What could not be read: news of a kind unknown to us is no mistake.
    fn unread(text: &str, error: &serde_json::Error) -> Self {
        match serde_json::from_str::<Kind>(text) {
            Ok(Kind { kind }) if !PROTOCOL.iter().any(|known| kind.starts_with(known)) => Self::Other(kind),
            Ok(Kind { kind }) => Self::Malformed(format!("{kind}: {error}")),
            Err(_) => Self::Malformed(error.to_string()),
        }
    }
}

fn done(response: ResponseObject) -> Event {
    let details = response.status_details.unwrap_or_default();
    let reason = details.error.map(ErrorObject::sentence).or(details.reason).unwrap_or_default();
    Event::ResponseDone { response: response.id, status: response.status.unwrap_or_default(), reason }
}

fn pcm(base64: &str) -> Result<Vec<i16>, String> {
    let bytes = BASE64.decode(base64).map_err(|error| format!("audio delta: {error}"))?;
    if bytes.len() % 2 != 0 {
        return Err(format!("audio delta of {} bytes, which is half a sample too many", bytes.len()));
    }
    Ok(bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect())
}

/// What a caller asks of its session; what is left out stays as the server has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// Instructions.
    pub instructions: Option<String>,
    /// The voice's name.
    pub voice: Option<String>,
    /// The protocol's `turn_detection` object; `Value::Null` turns it off.
    pub turn_detection: Option<Value>,
}

impl Wishes {
    /// The `session.update` that says so.
    pub fn session_update(&self) -> Value {
        let format = json!({"type": "audio/pcm", "rate": RATE});
        let mut input = json!({"format": format, "transcription": {"model": "whisper-1"}});
        if let Some(turn_detection) = &self.turn_detection {
            input["turn_detection"] = turn_detection.clone();
        }
        let mut output = json!({"format": format});
        if let Some(voice) = &self.voice {
            output["voice"] = json!(voice);
        }
        let mut session = json!({
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {"input": input, "output": output},
        });
        if let Some(instructions) = &self.instructions {
            session["instructions"] = json!(instructions);
        }
        json!({"type": "session.update", "session": session})
    }
}

/// The realtime endpoint of a server named in any of the ways people name it: `host:port`, `http://…`,
/// `ws://…`, with or without the path. Asks for our own events.
pub fn realtime_url(server: &str) -> String {
    let server = server.trim().trim_end_matches('/');
    let (scheme, rest) = match server.split_once("://") {
        Some(("http" | "ws", rest)) => ("ws", rest),
        Some(("https" | "wss", rest)) => ("wss", rest),
        Some((other, rest)) => (other, rest),
        None => ("ws", server),
    };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let address = address.trim_end_matches('/');
    let path = if address.ends_with("/realtime") {
        ""
    } else if address.ends_with("/v1") {
        "/realtime"
    } else {
        "/v1/realtime"
    };
    let query = match query {
        "" => "events=extended".to_owned(),
        query if query.contains("events=") => query.to_owned(),
        query => format!("{query}&events=extended"),
    };
    format!("{scheme}://{address}{path}?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_is_decoded_and_half_samples_are_refused() {
        let event = Event::parse(
            r#"{"type":"response.output_audio.delta","event_id":"e","response_id":"r","item_id":"i","delta":"AQACAA=="}"#,
        );
        assert_eq!(event, Event::Audio { response: "r".into(), samples: vec![1, 2] });
        let odd = Event::parse(r#"{"type":"response.output_audio.delta","response_id":"r","delta":"AQAC"}"#);
        assert!(matches!(odd, Event::Malformed(_)));
    }

    #[test]
    fn a_cancelled_response_tells_why() {
        let event = Event::parse(
            r#"{"type":"response.done","response":{"id":"r","status":"cancelled",
                "status_details":{"type":"cancelled","reason":"turn_detected"},"output":[]}}"#,
        );
        let expected = Event::ResponseDone {
            response: "r".into(),
            status: "cancelled".into(),
            reason: "turn_detected".into(),
        };
        assert_eq!(event, expected);
    }

    #[test]
    fn metrics_may_say_less_and_more_than_we_know() {
        let event = Event::parse(
            r#"{"type":"metrics.turn","turn":3,"heard":"hello","endpoint_ms":310,"cpu_s":1.5,"said":null}"#,
        );
        let Event::Turn(metrics) = event else { unreachable!("it is a turn") };
        assert_eq!(metrics.endpoint_ms, Some(310.0));
        assert_eq!(metrics.asr_final_ms, None);
        assert_eq!(metrics.more["cpu_s"], 1.5);
    }

    #[test]
    fn what_is_no_event_is_malformed_and_what_is_new_is_other() {
        assert!(matches!(Event::parse("{"), Event::Malformed(_)));
        assert_eq!(Event::parse(r#"{"type":"x.y","response":null}"#), Event::Other("x.y".into()));
        assert_eq!(Event::parse(r#"{"type":"x.y","delta":{"a":1}}"#), Event::Other("x.y".into()));
        assert!(matches!(Event::parse(r#"{"type":"response.created","response":7}"#), Event::Malformed(_)));
    }

    #[test]
    fn a_server_may_be_named_in_many_ways() {
        let full = "ws://h:1/v1/realtime?events=extended";
        for name in ["h:1", "http://h:1", "http://h:1/", "ws://h:1/v1", "ws://h:1/v1/realtime/"] {
            assert_eq!(realtime_url(name), full, "{name}");
        }
        assert_eq!(realtime_url("https://h/?model=m"), "wss://h/v1/realtime?model=m&events=extended");
    }
}
