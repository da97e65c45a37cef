//! docs/protocol.md says what the code says: its tables are made from the sources, and this holds them equal.
//! `VIVA_BLESS=1 cargo test --release --test protocol` writes them anew.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Caller, Server, outsider, python_with};
use tokio::process::Command;
use viva::edge::events_schema;
use viva::edge::protocol::client_events;

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands between two texts.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).unwrap_or_else(|| panic!("no {from:?}")).1.split_once(to).unwrap().0
}

/// The events the server sends: variant, name on the wire, fields.
fn server_events() -> Vec<(String, String, Vec<String>)> {
    let source = source("src/edge/protocol/server_events.rs");
    let all = between(&source, "pub enum ServerEvent {", "\n}\n");
    let mut events = Vec::new();
    for piece in all.split("#[serde(rename = \"").skip(1) {
        let (name, rest) = piece.split_once("\")]").unwrap();
        let variant: String = rest.trim_start().chars().take_while(char::is_ascii_alphanumeric).collect();
        let body = rest.split_once(&variant).unwrap().1;
        let body = match body.trim_start().chars().next() {
            Some('{') => between(body, "{", "}"),
            // The one that has a type of its own.
            _ => "metrics: of the turn",
        };
        let body = body.replace("ids: Ids", "response_id: S, item_id: S, output_index: N, content_index: N");
        let plain: String =
            body.lines().map(str::trim).filter(|l| !l.starts_with("#[") && !l.starts_with("//")).collect();
        let fields =
            plain.split(':').filter_map(|before| before.rsplit([',', ' ', '<']).find(|f| !f.is_empty()));
        let mut fields: Vec<String> = fields.map(str::to_owned).collect();
        // What stands behind the last colon is a type.
        fields.pop();
        events.push((variant, name.to_owned(), fields));
    }
    events
}

fn server_table() -> String {
    let source = source("src/edge/protocol/server_events.rs");
    let ours = between(&source, "pub fn is_extended(&self) -> bool {", "\n    }\n");
    let mut table = String::from("| event | fields | |\n|---|---|---|\n");
    for (variant, name, fields) in server_events() {
        let fields: Vec<String> = fields.iter().map(|f| format!("`{f}`")).collect();
        let ours = ours.contains(&format!("Self::{variant} ")) || ours.contains(&format!("Self::{variant}("));
        let whose = if ours { "ours, with `events=extended`" } else { "" };
        table.push_str(&format!("| `{name}` | {} | {whose} |\n", fields.join(", ")));
    }
    table
}

fn client_table() -> String {
    let rows = client_events::NAMES.iter().map(|name| format!("| `{name}` |\n"));
    format!("| event |\n|---|\n{}", rows.collect::<String>())
}

fn route_table() -> String {
    let mut table = String::from("| address | methods |\n|---|---|\n");
    for file in ["src/edge/rest.rs", "src/edge/http.rs"] {
        for route in source(file).split(".route(").skip(1) {
            let path = between(route, "\"", "\"");
            let line = route.split_once(',').unwrap().1.split('\n').next().unwrap();
            let methods = ["get", "post", "patch", "delete"]
                .into_iter()
                .filter(|method| line.contains(&format!("{method}(")))
                .map(str::to_uppercase)
                .collect::<Vec<_>>();
            table.push_str(&format!("| `{path}` | {} |\n", methods.join(", ")));
        }
    }
    table
}

#[test]
fn the_document_has_what_the_code_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let mut text = fs::read_to_string(&path).unwrap();
    for (name, table) in [("http", route_table()), ("client", client_table()), ("server", server_table())] {
        let (from, to) = (format!("<!-- made from the code: {name} -->\n"), "<!-- end -->".to_owned());
        let old = between(&text, &from, &to).to_owned();
        if old == table {
            continue;
        }
        assert!(
            std::env::var_os("VIVA_BLESS").is_some(),
            "the table '{name}' is out of date; it is\n{table}"
        );
        text = text.replace(&format!("{from}{old}{to}"), &format!("{from}{table}{to}"));
        fs::write(&path, &text).unwrap();
    }
}

/// The committed schema of the events.
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.schema.json");

#[test]
fn the_schema_of_the_events_is_what_the_code_makes_of_its_types() {
    let made = format!("{}\n", serde_json::to_string_pretty(&events_schema::document()).unwrap());
    let old = fs::read_to_string(SCHEMA).unwrap_or_default();
    if old != made {
        assert!(std::env::var_os("VIVA_BLESS").is_some(), "docs/events.schema.json is out of date");
        fs::write(SCHEMA, made).unwrap();
    }
}

/// One of each event a client may send, as its fields may be.
fn asked() -> Vec<Value> {
    let message =
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]});
    vec![
        json!({"type": "session.update", "session": {"type": "realtime", "instructions": "Be brief.",
            "audio": {"input": {"transcription": {}, "turn_detection": {"type": "semantic_vad"}}}}}),
        json!({"type": "input_audio_buffer.append", "audio": "AAAA"}),
        json!({"type": "input_audio_buffer.commit"}),
        json!({"type": "input_audio_buffer.clear"}),
        json!({"type": "output_audio_buffer.clear"}),
        json!({"type": "conversation.item.create", "item": message.clone()}),
        json!({"type": "conversation.item.retrieve", "item_id": "item_1"}),
        json!({"type": "conversation.item.delete", "item_id": "item_1"}),
        json!({"type": "conversation.item.truncate", "item_id": "item_1", "content_index": 0, "audio_end_ms": 5}),
        json!({"type": "response.create", "response": {"conversation": "none", "input": [message],
            "output_modalities": ["text"], "max_output_tokens": 20}}),
        json!({"type": "response.cancel", "response_id": "resp_1"}),
    ]
}

/// Whether the package that reads schemas is here; it comes along with the agents' own.
fn validator() -> Option<Command> {
    python_with("agents").map(Command::new).map_err(|why| println!("skipped: {why}")).ok()
}

async fn valid(kind: &str, events: &[Value]) {
    let Some(mut validate) = validator() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    fs::write(&path, lines).unwrap();
    validate.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/validate_schema.py"));
    validate.args([SCHEMA, kind]).arg(&path);
    outsider::run(validate, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_a_conversation_is_what_the_schema_describes() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "?events=extended").await;
    for event in asked() {
        caller.send(event).await;
    }
    // Of these some are refused, which is to be told in its form as well.
    while caller.next().await.unwrap()["type"] != "response.done" {}
    assert_eq!(caller.turn(900).await["status"], "completed");
    caller.send(json!({"type": "response.create", "response": {"output_modalities": ["text"]}})).await;
    caller.until("response.done").await;
    valid("ServerEvent", &caller.seen).await;
    valid("ClientEvent", &asked()).await;
    server.stop().await;
}
