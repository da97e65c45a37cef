//! What a client may say, and what is answered when it cannot be read.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::items::WireItem;
use super::server_events::ErrorBody;
use super::session_object::{INSTRUCTIONS_MAX, SessionPatch, TokenLimit};

/// Schemas that others refer to, by their names.
pub(in crate::edge) type Definitions = Vec<(String, RefOr<Schema>)>;

/// The events a client may send.
pub const NAMES: [&str; 11] = [
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "output_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
];

/// Bytes of an event other than an append. Much of what a client sets is kept and said again, in every
/// `session.updated` or in each response, so a client of many megabytes of tools would cost as much again and
/// again. The longest instructions we take fit, even where every character is escaped by six.
pub const EVENT_BYTES_MAX: usize = 512 * 1024;

const _: () = assert!(EVENT_BYTES_MAX > 6 * INSTRUCTIONS_MAX);

/// Bytes of a client's own name for an event: the protocol's limit. A longer one is not repeated in errors.
const EVENT_ID_MAX: usize = 512;

/// One event, read.
#[derive(Debug, PartialEq)]
pub enum ClientEvent<'a> {
    /// New settings.
    SessionUpdate(Box<SessionPatch>),
    /// Audio in base64.
    Append(Cow<'a, str>),
    /// The caller's turn is over.
    Commit,
    /// Forget what was appended.
    Clear,
    /// Only on transports whose playout we own to the end.
    OutputClear,
    /// Place an item.
    ItemCreate {
        /// The item.
        item: WireItem,
        /// After which one; `root` is before all.
        previous: Option<String>,
    },
    /// Show an item.
    ItemRetrieve(String),
    /// Remove an item.
    ItemDelete(String),
    /// The client played only so much of an item.
    ItemTruncate(Truncate),
    /// Reply now.
    ResponseCreate(Box<ResponseParams>),
    /// Stop replying.
    ResponseCancel(Option<String>),
}

/// The fields of `conversation.item.truncate`.
#[derive(Debug, PartialEq, Deserialize, ToSchema)]
pub struct Truncate {
    /// The item.
    pub item_id: String,
    /// Always 0.
    #[serde(default)]
    pub content_index: u32,
    /// Milliseconds played.
    pub audio_end_ms: u64,
}

/// The `response` of `response.create`.
#[derive(Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResponseParams {
    /// In place of the session's.
    pub instructions: Option<String>,
    /// In place of the session's.
    pub output_modalities: Option<Vec<String>>,
    /// In place of the session's.
    pub max_output_tokens: Option<TokenLimit>,
    /// `auto`, or `none` for a response beside the conversation.
    pub conversation: Option<String>,
    /// What a response beside the conversation reads instead of it.
    pub input: Option<Vec<WireItem>>,
    /// Echoed in the response.
    pub metadata: Option<Value>,
    /// In place of the session's.
    pub tools: Option<Vec<Value>>,
    /// In place of the session's.
    pub tool_choice: Option<Value>,
}

/// An event and the client's name for it.
#[derive(Debug, PartialEq)]
pub struct Parsed<'a> {
    /// The client's `event_id`.
    pub event_id: Option<String>,
    /// The event, or what is wrong with it.
    pub event: Result<ClientEvent<'a>, ErrorBody>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    event_id: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
struct SessionUpdate {
    session: SessionPatch,
}

#[derive(Deserialize, ToSchema)]
struct Append<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    audio: Cow<'a, str>,
}

#[derive(Deserialize, ToSchema)]
struct ItemCreate {
    item: WireItem,
    #[serde(default)]
    previous_item_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
struct ItemName {
    item_id: String,
}

#[derive(Deserialize, ToSchema)]
struct ResponseCreate {
    #[serde(default)]
    response: Option<ResponseParams>,
}

#[derive(Deserialize, ToSchema)]
struct ResponseCancel {
    #[serde(default)]
    response_id: Option<String>,
}

/// Reads one message. Never fails: what cannot be read becomes the error to answer with.
pub fn parse(text: &str) -> Parsed<'_> {
    // serde would also take an array for a struct.
    let object = text.trim_start().starts_with('{');
    let head: Head<'_> = match serde_json::from_str(text) {
        Ok(head) if object => head,
        Ok(_) => return Parsed { event_id: None, event: Err(not_an_event()) },
        Err(error) => return Parsed { event_id: None, event: Err(unreadable(text, &error)) },
    };
    let event_id = head.event_id.as_ref().and_then(Value::as_str).filter(|id| id.len() <= EVENT_ID_MAX);
    let event_id = event_id.map(str::to_owned);
    let event = match head.kind {
        Some(kind) if text.len() > EVENT_BYTES_MAX && kind != "input_audio_buffer.append" => {
            let bytes = text.len();
            let message = format!("An event without audio may have {EVENT_BYTES_MAX} bytes, not {bytes}.");
            Err(ErrorBody::invalid("event_too_large", message, None))
        }
        Some(kind) => read(&kind, text),
        None => Err(ErrorBody::invalid(
            "missing_required_parameter",
            "Missing required parameter: 'type'.",
            Some("type"),
        )),
    };
    Parsed { event_id, event }
}

fn read<'a>(kind: &str, text: &'a str) -> Result<ClientEvent<'a>, ErrorBody> {
    Ok(match kind {
        "session.update" => ClientEvent::SessionUpdate(Box::new(fields::<SessionUpdate>(text)?.session)),
        "input_audio_buffer.append" => ClientEvent::Append(fields::<Append<'_>>(text)?.audio),
        "input_audio_buffer.commit" => ClientEvent::Commit,
        "input_audio_buffer.clear" => ClientEvent::Clear,
        "output_audio_buffer.clear" => ClientEvent::OutputClear,
        "conversation.item.create" => {
            let ItemCreate { item, previous_item_id } = fields(text)?;
            ClientEvent::ItemCreate { item, previous: previous_item_id }
        }
        "conversation.item.retrieve" => ClientEvent::ItemRetrieve(fields::<ItemName>(text)?.item_id),
        "conversation.item.delete" => ClientEvent::ItemDelete(fields::<ItemName>(text)?.item_id),
        "conversation.item.truncate" => ClientEvent::ItemTruncate(fields(text)?),
        "response.create" => {
            let params = fields::<ResponseCreate>(text)?.response.unwrap_or_default();
            ClientEvent::ResponseCreate(Box::new(params))
        }
        "response.cancel" => ClientEvent::ResponseCancel(fields::<ResponseCancel>(text)?.response_id),
        other => {
            let other: String = other.chars().take(SHOWN_CHARS_MAX).collect();
            let known = NAMES.map(|n| format!("'{n}'")).join(", ");
            return Err(ErrorBody::invalid(
                "invalid_value",
                format!("Invalid value: '{other}'. Supported values are: {known}."),
                Some("type"),
            ));
        }
    })
}

/// What the fields of each event look like, in the order of [`NAMES`]; none for those without.
pub(in crate::edge) fn schemas(definitions: &mut Definitions) -> [Option<RefOr<Schema>>; 11] {
    fn of<T: ToSchema>(definitions: &mut Definitions) -> Option<RefOr<Schema>> {
        T::schemas(definitions);
        Some(T::schema())
    }
    [
        of::<SessionUpdate>(definitions),
        of::<Append<'_>>(definitions),
        None,
        None,
        None,
        of::<ItemCreate>(definitions),
        of::<ItemName>(definitions),
        of::<ItemName>(definitions),
        of::<Truncate>(definitions),
        of::<ResponseCreate>(definitions),
        of::<ResponseCancel>(definitions),
    ]
}

/// Characters of a client's own value that an error message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// Reads the fields of one kind of event; an error names the field.
fn fields<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ErrorBody> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner().to_string();
        let prefix = if path == "." { String::new() } else { path };
        if let Some(name) = inner.strip_prefix("missing field `").and_then(|r| r.split('`').next()) {
            let param = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            let message = format!("Missing required parameter: '{param}'.");
            return ErrorBody::invalid("missing_required_parameter", message, Some(&param));
        }
        // The position at the end of serde's message means nothing to whoever built the event.
        let what = inner.split(" at line ").next().unwrap_or_default();
        let what: String = what.chars().take(3 * SHOWN_CHARS_MAX).collect();
        let code = if what.starts_with("invalid type") { "invalid_type" } else { "invalid_value" };
        ErrorBody::invalid(code, format!("Invalid '{prefix}': {what}."), Some(&prefix))
    })
}

fn not_an_event() -> ErrorBody {
    ErrorBody::invalid("invalid_event", "An event must be a JSON object with a 'type' in text.", None)
}

fn unreadable(text: &str, error: &serde_json::Error) -> ErrorBody {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return not_an_event();
    }
    ErrorBody::invalid("invalid_json", format!("The message is not valid JSON: {error}."), None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(text: &str) -> (String, Option<String>, Option<String>) {
        let parsed = parse(text);
        let error = parsed.event.unwrap_err();
        (error.code.unwrap(), error.param, parsed.event_id)
    }

    #[test]
    fn every_known_event_is_read() {
        let bodies = [
            r#""session":{"type":"realtime"}"#,
            r#""audio":"AAAA""#,
            r#""x":1"#,
            r#""x":1"#,
            r#""x":1"#,
            r#""item":{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}"#,
            r#""item_id":"a""#,
            r#""item_id":"a""#,
            r#""item_id":"a","content_index":0,"audio_end_ms":5"#,
            r#""response":{"instructions":"x","max_output_tokens":"inf"}"#,
            r#""response_id":null"#,
        ];
        for (name, body) in NAMES.iter().zip(bodies) {
            let text = format!(r#"{{"type":"{name}","event_id":"e1",{body}}}"#);
            let parsed = parse(&text);
            assert!(parsed.event.is_ok(), "{name}: {parsed:?}");
            assert_eq!(parsed.event_id.as_deref(), Some("e1"));
        }
    }

    #[test]
    fn an_error_names_the_field_and_the_clients_event() {
        let e = |s: &str| Some(s.to_owned());
        assert_eq!(
            refused(r#"{"type":"nonsense","event_id":"e7"}"#),
            ("invalid_value".into(), e("type"), e("e7"))
        );
        assert_eq!(
            refused(r#"{"event_id":"e7"}"#),
            ("missing_required_parameter".into(), e("type"), e("e7"))
        );
        assert_eq!(
            refused(r#"{"type":"conversation.item.delete"}"#),
            ("missing_required_parameter".into(), e("item_id"), None)
        );
        let update = r#"{"type":"session.update","session":{"type":"realtime","audio":{"input":{"format":{"type":"audio/mp3"}}}}}"#;
        assert_eq!(refused(update), ("invalid_value".into(), e("session.audio.input.format.type"), None));
        let typed = r#"{"type":"session.update","session":{"type":"realtime","instructions":5}}"#;
        assert_eq!(refused(typed), ("invalid_type".into(), e("session.instructions"), None));
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for text in ["", "{", "[1", "nope", "\"", "{\"type\":\"response.create\""] {
            assert_eq!(refused(text).0, "invalid_json", "{text}");
        }
        for text in ["7", "[]", "\"x\"", r#"{"type":3}"#] {
            assert_eq!(refused(text).0, "invalid_event", "{text}");
        }
    }
    #[test]
    fn what_is_large_is_refused_unless_it_is_audio_and_never_repeated() {
        let large = "x".repeat(EVENT_BYTES_MAX);
        for (kind, field) in [("session.update", "session"), ("response.create", "response"), ("x", "y")] {
            let text = format!(r#"{{"type":"{kind}","event_id":"e1","{field}":{{"metadata":"{large}"}}}}"#);
            assert_eq!(refused(&text), ("event_too_large".into(), None, Some("e1".into())));
        }
        let append = |id: &str| {
            format!(r#"{{"type":"input_audio_buffer.append","event_id":"{id}","audio":"{large}"}}"#)
        };
        assert!(parse(&append("e1")).event.is_ok());
        assert_eq!(parse(&append(&large)).event_id, None);
    }
}
