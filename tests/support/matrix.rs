//! Which client of others has been seen to do what. A test notes each cell when it has proved it, and fails where README.md
//! does not have it; tests/matrix.rs, which runs after all others, holds the whole table equal to what was noted.
#![allow(dead_code, reason = "tests note, and one judges")]

use std::fs;
use std::path::{Path, PathBuf};

/// A table of README.md: its mark there, its rows, its columns.
pub struct Table {
    pub name: &'static str,
    pub clients: &'static [&'static str],
    pub features: &'static [&'static str],
}

pub const OPENAI_PYTHON: &str = "`openai` (Python)";
pub const OPENAI_NODE: &str = "`openai` (npm)";
pub const AGENTS_JS: &str = "`@openai/agents-realtime`, WebSocket";
pub const AGENTS_JS_WEBRTC: &str = "`@openai/agents-realtime`, WebRTC in Chromium";
pub const AGENTS_PYTHON: &str = "`openai-agents` (Python)";
pub const PIPECAT: &str = "Pipecat `OpenAIRealtimeLLMService`";
pub const LIVEKIT: &str = "LiveKit `openai.realtime.RealtimeModel`";

/// Every event of the conversation is what the `openai` package's own types say.
pub const VALID: &str = "valid events";

pub const TABLES: [Table; 2] = [
    Table {
        name: "realtime",
        clients: &[OPENAI_PYTHON, OPENAI_NODE, AGENTS_JS, AGENTS_JS_WEBRTC, AGENTS_PYTHON, PIPECAT, LIVEKIT],
        features: &[
            "spoken turn",
            "captions",
            "interruption",
            "truncation",
            "items",
            "functions",
            "reply on request",
            "TLS and key",
            VALID,
        ],
    },
    Table {
        name: "http",
        clients: &[OPENAI_PYTHON, OPENAI_NODE],
        features: &["models", "embeddings", "speech", "transcriptions", "chat"],
    },
];

/// What a client's script prints before the name of a feature that it has seen work.
const PROVED: &str = "proved ";

/// In what a file says that a client could not be installed.
const ABSENT: &str = "absent";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients")
}

fn note(client: &str, what: &str, text: &str) {
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let folder = folder().join(plain(client));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(plain(what)), text).unwrap();
}

fn noted(client: &str, what: &str) -> Option<String> {
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    fs::read_to_string(folder().join(plain(client)).join(plain(what))).ok()
}

pub fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

pub fn blessing() -> bool {
    std::env::var_os("VIVA_BLESS").is_some()
}

impl Table {
    /// What stands around it.
    pub fn marks(&self) -> (String, &'static str) {
        (format!("<!-- proved by the tests: {} -->\n", self.name), "<!-- end -->")
    }

    fn row(&self, client: &str, cell: impl Fn(&str) -> bool) -> String {
        let cells = self.features.iter().map(|feature| if cell(feature) { " yes |" } else { " |" });
        format!("| {client} |{}\n", cells.collect::<String>())
    }

    /// As README.md has it.
    pub fn written<'a>(&self, text: &'a str) -> &'a str {
        let (from, to) = self.marks();
        let rest = text.split_once(&from).unwrap_or_else(|| panic!("README.md has no {from:?}")).1;
        rest.split_once(to).unwrap().0
    }

    /// As the notes have it; a client that could not be installed keeps the row it has.
    pub fn proved(&self, written: &str) -> String {
        let mut table = format!("| client | {} |\n", self.features.join(" | "));
        table.push_str(&format!("|---|{}\n", "---|".repeat(self.features.len())));
        for client in self.clients {
            let kept = noted(client, ABSENT)
                .and_then(|_| written.lines().find(|line| line.starts_with(&format!("| {client} |"))));
            match kept {
                Some(line) => table.push_str(&format!("{line}\n")),
                None => table.push_str(&self.row(client, |feature| noted(client, feature).is_some())),
            }
        }
        table
    }
}

/// A client does this. README.md must say so.
pub fn prove(client: &str, feature: &str) {
    let known = |table: &&Table| table.clients.contains(&client) && table.features.contains(&feature);
    let table = TABLES.iter().find(known).unwrap_or_else(|| panic!("no cell for {client} and {feature:?}"));
    note(client, feature, "");
    if blessing() {
        return;
    }
    let text = fs::read_to_string(readme()).unwrap();
    let row = table.written(&text).lines().find(|line| line.starts_with(&format!("| {client} |")));
    let row = row.unwrap_or_else(|| panic!("README.md has no row for {client}"));
    let place = table.features.iter().position(|known| *known == feature).unwrap();
    let cell = row.split('|').nth(place + 2).unwrap().trim();
    assert_eq!(cell, "yes", "README.md does not say that {client} does {feature:?}: {row}");
}

/// Everything that a client's script says it has seen work; at least one thing.
pub fn proved(client: &str, said: &str) {
    let features: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix(PROVED)).collect();
    assert!(!features.is_empty(), "{client} has proved nothing: {said}");
    features.iter().for_each(|feature| prove(client, feature));
}

/// A client could not be installed.
pub fn absent(client: &str, why: &str) {
    println!("skipped: {client} could not be installed: {why}");
    note(client, ABSENT, why);
}
