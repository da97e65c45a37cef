//! Agent frameworks made by others, each in a conversation with a real server on loopback. Which client does what is
//! printed as a table, a line a cell: `cell | client | feature | ok`.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::{Server, fakes, node_modules, outsider, python};
use tokio::process::Command;
use viva_actors::gpu::Engines;
use viva_actors::ports::SessionSpec;
use viva_actors::testkit::{Costs, engines};

/// Its reply is always the same call of a function.
fn calling() -> Engines {
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
    engines(Costs { asr_ms: 20, turn_ms: 5, prefill_ms: 5, step_ms: 2, tts_ms: 20 }, call, &Arc::default())
}

/// A conversation, with the start of node or Python.
const WITHIN: Duration = Duration::from_secs(60);

fn script(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

async fn valid(events: &Path) {
    let mut validate = Command::new(python());
    validate.arg(script("python/validate_events.py")).arg(events);
    outsider::run(validate, WITHIN).await;
}

async fn agents_js(engines: Engines, scenario: &str) {
    let server = Server::with(engines, 8, SessionSpec::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let mut node = Command::new("node");
    node.args([&script("node/agents_client.mjs"), &server.url(), scenario]).arg(&events);
    node.env("VIVA_NODE_MODULES", node_modules());
    outsider::run(node, WITHIN).await;
    valid(&events).await;
    println!("cell | @openai/agents-realtime | {scenario} | ok");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_javascript_framework_is_spoken_with() {
    agents_js(fakes(), "spoken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_javascript_framework_calls_its_function() {
    agents_js(calling(), "functions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_python_framework_is_spoken_with() {
    let python = support::agents_python();
    let server = Server::start().await;
    let mut command = Command::new(python);
    command.args([&script("python/agents_client.py"), &server.url()]);
    outsider::run(command, WITHIN).await;
    println!("cell | openai-agents | spoken | ok");
    server.stop().await;
}
