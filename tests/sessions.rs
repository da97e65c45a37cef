//! Kinds of sessions and replies beside the plain conversation, as the official client sees them: functions that are
//! called, sessions that only listen, silence that is answered, responses beside the conversation.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Server, fakes, matrix, outsider, python};
use tokio::process::Command;
use viva_actors::gpu::Engines;
use viva_actors::ports::SessionSpec;
use viva_actors::testkit::{Costs, engines};

/// Holds this conversation; what the client printed.
async fn scenario(engines: Engines, name: &str) -> String {
    let server = Server::with(engines, 8, SessionSpec::default()).await;
    let mut client = Command::new(python());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sessions_client.py");
    client.args([script, &server.url(), name]);
    let said = outsider::run(client, Duration::from_secs(60)).await;
    server.sessions(0).await;
    server.stop().await;
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_called_and_its_result_is_answered() {
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
    let costs = Costs { asr_ms: 20, turn_ms: 5, prefill_ms: 5, step_ms: 2, tts_ms: 20 };
    let said = scenario(engines(costs, call, &Arc::default()), "functions").await;
    matrix::proved(matrix::OPENAI_PYTHON, &said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_only_listens_answers_nothing() {
    scenario(fakes(), "listening").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_answered_where_the_client_wishes_it() {
    scenario(fakes(), "silence").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_beside_the_conversation_leaves_no_trace_in_it() {
    // Slow enough that several are under way at once.
    let costs = Costs { asr_ms: 20, turn_ms: 5, prefill_ms: 5, step_ms: 30, tts_ms: 20 };
    scenario(engines(costs, support::REPLY, &Arc::default()), "beside").await;
}
