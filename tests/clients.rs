//! Agent frameworks made by others, each in a conversation with a real server on loopback. What each of them has done
//! stands in README.md ([`matrix`]).

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::matrix::{AGENTS_JS, AGENTS_JS_WEBRTC, AGENTS_PYTHON, LIVEKIT, PIPECAT, VALID};
use support::{Server, fakes, matrix, node_modules, outsider, python, python_with};
use tokio::process::Command;
use viva_actors::gpu::Engines;
use viva_actors::ports::SessionSpec;
use viva_actors::testkit::{Costs, engines};

/// Its reply is always the same call of a function.
fn calling() -> Engines {
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
    engines(Costs { asr_ms: 20, turn_ms: 5, prefill_ms: 5, step_ms: 2, tts_ms: 20 }, call, &Arc::default())
}

/// Some turns, with the start of node, Python or Chromium on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

fn script(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A client's conversation with a server of its own: `program script URL scenario EVENTS`. What it says that it has seen
/// work is noted, and every event it was sent must be what the `openai` package's types say.
async fn converses(client: &str, mut program: Command, file: &str, engines: Engines, scenario: &str) {
    let server = Server::with(engines, 8, SessionSpec::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    program.args([&script(file), &server.url(), scenario]).arg(&events);
    let said = outsider::run(program, WITHIN).await;
    valid(client, &events).await;
    matrix::proved(client, &said);
    // Whoever hangs up is gone at once: no place is kept for them.
    server.sessions(0).await;
    server.stop().await;
}

async fn valid(client: &str, events: &Path) {
    let mut validate = Command::new(python());
    validate.arg(script("python/validate_events.py")).arg(events);
    outsider::run(validate, WITHIN).await;
    matrix::prove(client, VALID);
}

/// The program for a client in Python, unless its packages could not be installed.
fn packaged(client: &str, packages: &str) -> Option<Command> {
    python_with(packages).map(Command::new).map_err(|why| matrix::absent(client, &why)).ok()
}

fn node() -> Command {
    let mut node = Command::new("node");
    let modules = node_modules();
    node.env("VIVA_NODE", modules.parent().unwrap()).env("VIVA_NODE_MODULES", &modules);
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_javascript_framework_is_spoken_with() {
    converses(AGENTS_JS, node(), "node/agents_client.mjs", fakes(), "spoken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_javascript_framework_calls_its_function() {
    converses(AGENTS_JS, node(), "node/agents_client.mjs", calling(), "functions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_browser_is_spoken_with_over_webrtc() {
    converses(AGENTS_JS_WEBRTC, node(), "browser/agents.mjs", fakes(), "spoken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_browser_calls_its_function_over_webrtc() {
    converses(AGENTS_JS_WEBRTC, node(), "browser/agents.mjs", calling(), "functions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_python_framework_is_spoken_with() {
    let Some(python) = packaged(AGENTS_PYTHON, "agents") else { return };
    converses(AGENTS_PYTHON, python, "python/agents_client.py", fakes(), "spoken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_python_framework_calls_its_function() {
    let Some(python) = packaged(AGENTS_PYTHON, "agents") else { return };
    converses(AGENTS_PYTHON, python, "python/agents_client.py", calling(), "functions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_pipecat_is_spoken_with() {
    let Some(python) = packaged(PIPECAT, "frameworks") else { return };
    converses(PIPECAT, python, "python/pipecat_client.py", fakes(), "spoken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_pipecat_calls_its_function() {
    let Some(python) = packaged(PIPECAT, "frameworks") else { return };
    converses(PIPECAT, python, "python/pipecat_client.py", calling(), "functions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_livekit_is_spoken_with() {
    let Some(python) = packaged(LIVEKIT, "frameworks") else { return };
    converses(LIVEKIT, python, "python/livekit_client.py", fakes(), "spoken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_livekit_calls_its_function() {
    let Some(python) = packaged(LIVEKIT, "frameworks") else { return };
    converses(LIVEKIT, python, "python/livekit_client.py", calling(), "functions").await;
}
