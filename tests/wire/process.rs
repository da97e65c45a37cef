//! The program as its operator sees it: start, trouble, end; and as a caller without a microphone.

use std::time::Duration;

use tokio::net::TcpListener;

use super::support::child::{Running, failure, viva};
use super::support::{Caller, Server, WITHIN, speech, write_wav};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let command = viva(["serve", "--engines", "fake", "--listen", &address]);
    let (said, _) = failure(command, WITHIN).await;
    assert!(said.contains("in use") && said.contains("--listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_weights_are_a_clear_error() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = viva(["serve", "--listen", "127.0.0.1:0"]);
    command.env("VIVA_MODELS", empty.path());
    let (said, _) = failure(command, WITHIN).await;
    assert!(said.contains("viva models pull"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_is_a_clear_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[server]\nlistne = 1\n").unwrap();
    let path = file.path().display().to_string();
    let (said, _) = failure(viva(["serve", "--engines", "fake", "--config", &path]), WITHIN).await;
    assert!(said.contains("listne"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_refuses_new_callers_lets_the_others_end_and_exits_with_0() {
    let mut server = Running::start("").await;
    let caller = Caller::connect(server.address, "").await;
    server.asked_to_end().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = tokio_tungstenite::connect_async(format!("ws://{}/v1/realtime", server.address)).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 503);
    assert!(server.runs(), "a session still runs");
    drop(caller);
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_recordings_are_a_talk_with_a_table_and_with_both_sides_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    for (name, ms) in [("one.wav", 1_200), ("two.wav", 900)] {
        write_wav(&folder.path().join(name), &speech(ms));
    }
    let server = Server::start().await;
    for json in [true, false] {
        let mut talk = viva(["talk", "one.wav", "two.wav", "--server", &server.url()]);
        talk.args(json.then_some("--json")).current_dir(folder.path());
        let output = tokio::time::timeout(WITHIN, talk.output()).await.expect("it ends by itself").unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&output.stderr));
        if json {
            turns_are_whole(&out);
        } else {
            assert!(out.contains("word1 word2 word3") && out.contains("voice to voice"), "{out}");
        }
        for (file, channels) in [("reply.wav", 1), ("call.wav", 2)] {
            let wav = hound::WavReader::open(folder.path().join(file)).unwrap();
            assert_eq!(wav.spec().channels, channels, "{file}");
            let loud =
                wav.into_samples::<i16>().filter(|s| s.as_ref().unwrap().unsigned_abs() > 2_000).count();
            assert!(loud > 24_000 / 2, "{file}: {loud} samples that sound");
        }
    }
    server.stop().await;
}

/// One object a turn, each with everything that was promised.
fn turns_are_whole(out: &str) {
    let turns: Vec<serde_json::Value> =
        out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    assert_eq!(turns.len(), 2, "{out}");
    for (turn, file) in turns.iter().zip(["one.wav", "two.wav"]) {
        assert!(turn["file"].as_str().unwrap().ends_with(file), "{turn}");
        assert!(!turn["heard"].as_str().unwrap().is_empty() && !turn["said"].as_str().unwrap().is_empty());
        let steps =
            ["endpoint", "asr_final", "llm_first_token", "first_sentence", "first_audio", "voice_to_voice"];
        for step in steps {
            assert!(turn[format!("{step}_ms")].is_number(), "{step}: {turn}");
        }
    }
}
