//! docs/protocol.md says what the code says: its tables are made from the sources, and this holds them equal.
//! `VIVA_BLESS=1 cargo test --release --test protocol` writes them anew.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

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
