//! Clients made by others, as they come from their registries.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::support::{Server, python, speech, write_wav};

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
    let child = Command::new(python)
        .args([script, &server.url()])
        .arg(&recording)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = timeout(PYTHON_WITHIN, child.wait_with_output()).await.expect("it ends in time").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{out}{err}");
    server.sessions(0).await;
    server.stop().await;
}
