//! Clients made by others, as they come from their registries.

use tokio::process::Command;

use super::support::{Server, matrix, outsider, python, speech, write_wav};

/// A whole conversation with every kind of request; the script says what it checks.
const PYTHON_WITHIN: std::time::Duration = std::time::Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client_has_a_conversation() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("answer.wav");
    write_wav(&recording, &speech(1_200));
    let server = Server::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/realtime_client.py");
    let mut client = Command::new(python);
    client.args([script, &server.url()]).arg(&recording);
    let said = outsider::run(client, PYTHON_WITHIN).await;
    matrix::proved(matrix::OPENAI_PYTHON, &said);
    server.sessions(0).await;
    server.stop().await;
}
