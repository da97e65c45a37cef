//! The JSON Schema of the events, made from the types they are written from and read into.
//!
//! It says what an event of a client must have and what one of the server has; what is beyond that (ranges, names that
//! exist, what is said when) stands in docs/protocol.md.

use axum::body::Body;
use axum::http::{Response, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::protocol::ServerEvent;
use super::protocol::client_events::{self, Definitions, NAMES};

/// Where utoipa's references point, and where those of a JSON Schema do.
const COMPONENTS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/$defs/";

/// The document. `$defs/ClientEvent` and `$defs/ServerEvent` are what a socket's messages must be.
pub fn document() -> Value {
    let mut definitions = Definitions::new();
    ServerEvent::schemas(&mut definitions);
    let said = json!(ServerEvent::schema());
    let fields = client_events::schemas(&mut definitions);
    let asked: Vec<Value> = NAMES
        .iter()
        .zip(fields)
        .map(|(name, fields)| {
            let head = json!({
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"const": name}, "event_id": {"type": ["string", "null"], "maxLength": 512}},
            });
            let parts: Vec<Value> =
                std::iter::once(head).chain(fields.map(|fields| json!(fields))).collect();
            json!({"title": name, "allOf": parts})
        })
        .collect();
    let mut all: Map<String, Value> =
        definitions.into_iter().map(|(name, schema)| (name, json!(schema))).collect();
    let named =
        json!({"type": "object", "required": ["event_id"], "properties": {"event_id": {"type": "string"}}});
    all.insert("ServerEvent".into(), json!({"allOf": [named, said]}));
    all.insert("ClientEvent".into(), json!({"oneOf": asked}));
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Events of Viva's realtime endpoint",
        "anyOf": [{"$ref": "#/$defs/ServerEvent"}, {"$ref": "#/$defs/ClientEvent"}],
        "$defs": all,
    });
    refer_within(&mut document);
    document
}

/// Lets references point into this document. And where one of several is asked for, any of them will do: a session that
/// only listens has a part of what a conversation has, so that the latter is both.
fn refer_within(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(several) = fields.remove("oneOf") {
                fields.insert("anyOf".into(), several);
            }
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(COMPONENTS)
            {
                *reference = format!("{DEFINITIONS}{name}");
            }
            fields.values_mut().for_each(refer_within);
        }
        Value::Array(values) => values.iter_mut().for_each(refer_within),
        _ => {}
    }
}

/// `GET /events.schema.json`.
pub(super) async fn served() -> Response<Body> {
    ([(header::CONTENT_TYPE, "application/schema+json")], document().to_string()).into_response()
}
