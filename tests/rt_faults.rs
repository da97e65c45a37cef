//! `kill -9` of each native engine in mid-utterance: no session ends, the utterance is not lost, the answer
//! comes late but comes. Real weights, real processes, real time.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use viva::client::{Call, CallOptions, Clips, Script, ServerOptions, ServerProcess, Step};

/// The process of an engine below the server.
fn engine(server: u32, name: &str) -> u32 {
    let program = format!("viva-engine-{name}");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent: Option<u32> =
            stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1)).and_then(|p| p.parse().ok());
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if parent == Some(server) && command.contains(&program) {
            return pid;
        }
    }
    panic!("no {program} below process {server}");
}

async fn kill_in_mid_utterance(name: &str) {
    let options = ServerOptions {
        program: Some(env!("CARGO_BIN_EXE_viva").into()),
        profile: Some("test".into()),
        ..ServerOptions::default()
    };
    let server = ServerProcess::start(&options).await.unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/interview/team.opus");
    let script = Script::of_files(&[file.clone(), file]);
    let clips = Clips::load([&script]).unwrap();
    let mut call = Call::connect(&server.url, clips, CallOptions::default()).await.unwrap();
    // One turn in peace, so that every engine has worked and holds something.
    for step in &script.steps[..2] {
        call.step(step).await.unwrap();
    }
    let pid = engine(server.id().unwrap(), name);
    let killer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    });
    for step in &script.steps[2..] {
        call.step(step).await.unwrap();
    }
    killer.await.unwrap();
    assert!(matches!(script.steps[3], Step::Wait { .. }));
    let report = call.report();
    call.hang_up().await;
    let turn = &report.turns[1];
    println!("{name}: heard {:?}, answered after {:?} ms", turn.heard, turn.voice_to_voice_ms);
    assert!(turn.heard.to_lowercase().contains("team of four"), "{name}: {:?}", turn.heard);
    assert!(turn.answered, "{name}: the answer comes late, but it comes: {turn:?}");
    assert_eq!(report.errors, 0, "{name}: {:?}", report.error_messages);
    assert_ne!(engine(server.id().unwrap(), name), pid, "a new process");
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recogniser_is_killed() {
    kill_in_mid_utterance("whisper").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_language_model_is_killed() {
    kill_in_mid_utterance("llama").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_voice_is_killed() {
    kill_in_mid_utterance("piper").await;
}
