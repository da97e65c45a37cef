//! Clients made by others, as they come from their registries.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::support::{Server, speech};

/// The Python that `make test` prepares: in `VIVA_VENV`, else in the user's cache folder.
fn python() -> PathBuf {
    let cache = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
    };
    let venv =
        std::env::var_os("VIVA_VENV").map(PathBuf::from).or_else(|| cache().map(|c| c.join("viva/venv")));
    let python = venv.unwrap_or_default().join("bin/python");
    assert!(
        python.is_file(),
        "there is no Python with the openai client at {python:?}; run: make setup-test"
    );
    python
}

/// A whole conversation with every kind of request; the script says what it checks.
const PYTHON_WITHIN: std::time::Duration = std::time::Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client_has_a_conversation() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("answer.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 24_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(&recording, spec).unwrap();
    for sample in speech(1_200) {
        wav.write_sample(sample).unwrap();
    }
    wav.finalize().unwrap();
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
