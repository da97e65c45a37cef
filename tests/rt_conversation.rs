//! The product's main job, on real weights and in real time: a conversation of five turns with a thinking
//! pause, a cough that is no interruption and a real interruption.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use viva::client::{Call, CallOptions, CallReport, Clips, Script, ServerOptions, ServerProcess};

/// Starting the engines, a clip of a few seconds, and its answer.
const TALK_WITHIN: std::time::Duration = std::time::Duration::from_secs(120);

/// A server of our own on the small weights.
async fn server() -> ServerProcess {
    let options = ServerOptions {
        program: Some(env!("CARGO_BIN_EXE_viva").into()),
        profile: Some("test".into()),
        ..ServerOptions::default()
    };
    ServerProcess::start(&options).await.unwrap()
}

/// Plays a script to the server; what was heard of it.
async fn hold(server: &ServerProcess, file: &str) -> (CallReport, (Vec<i16>, Vec<i16>)) {
    let script =
        Script::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/interview").join(file)).unwrap();
    let clips = Clips::load([&script]).unwrap();
    let options = CallOptions { keep_audio: true, ..CallOptions::default() };
    let mut call = Call::connect(&server.url, clips, options).await.unwrap();
    call.run(&script, false).await.unwrap();
    let (report, tracks) = (call.report(), call.tracks());
    call.hang_up().await;
    for turn in &report.turns {
        println!(
            "{}\n  caller: {}\n  viva:   {}\n  voice to voice: {:?} ms, {}",
            turn.file, turn.heard, turn.said, turn.voice_to_voice_ms, turn.status
        );
    }
    (report, tracks)
}

/// Whether most of the words were recognised; the small recogniser makes a mistake now and then.
fn mostly(heard: &str, said: &str) -> bool {
    let words = |t: &str| -> Vec<String> {
        t.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 2).map(str::to_lowercase).collect()
    };
    let (heard, said) = (words(heard), words(said));
    let found = said.iter().filter(|w| heard.contains(w)).count();
    found * 10 >= said.len() * 7
}

#[tokio::test(flavor = "multi_thread")]
async fn five_turns_with_a_cough_and_an_interruption() {
    let server = server().await;
    let (report, (caller, viva)) = hold(&server, "five-turns.toml").await;

    assert_eq!(report.errors, 0, "{:?}", report.error_messages);
    let turns = &report.turns;
    assert_eq!(turns.len(), 5, "a thinking pause is no turn of its own");
    let lines = [
        "Hi, thanks for having me. I'm a software engineer, and for the last five years I've built payment systems",
        "The project I'm most proud of was moving our billing service off a single database. We split it by \
         customer, and I wrote the migration tool that copied the data while everything was running.",
        "I think the hardest part was keeping both copies in sync while customers were still paying.",
        "Sorry, can I just add something? We also had to train the support team before we could switch.",
        "We were a team of four. I led the design, and we paired on the risky parts every day.",
    ];
    for (turn, line) in turns.iter().zip(lines) {
        assert!(mostly(&turn.heard, line), "heard {:?} of {line:?}", turn.heard);
        assert!(turn.answered, "{}: no answer", turn.file);
        assert!(!turn.said.is_empty());
        // A decision taken back before anything was heard is no cut-off.
        let spoke = turn.cut_off.as_ref().is_some_and(|c| c.spoke);
        assert!(!spoke, "{}: we spoke before they were done: {turn:?}", turn.file);
    }
    assert_eq!((report.coughs, report.false_barge_ins), (1, 0), "a cough interrupts nobody");
    let interruption = &turns[3];
    assert!(interruption.barge_in && !interruption.barge_in_ignored, "{interruption:?}");
    assert!(turns[2].status.starts_with("cancelled"), "the interrupted reply was cut: {}", turns[2].status);
    assert!(turns.iter().filter(|t| !t.status.starts_with("cancelled")).count() == 4);
    assert_eq!(report.stray_deltas, 0, "nothing of a reply comes after it was taken back");
    assert!(caller.len().abs_diff(viva.len()) < 24_000 * 5, "both sides on one timeline");
    assert!(server.stop().await, "it ends cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_human_voice_is_understood() {
    let server = server().await;
    let (report, _) = hold(&server, "human.toml").await;
    let turn = &report.turns[0];
    assert!(mostly(&turn.heard, "He might even have been made amiable himself."), "{}", turn.heard);
    assert!(turn.answered && !turn.cut_off.as_ref().is_some_and(|c| c.spoke));
    server.stop().await;
}

/// As README's first command does it, with a server of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_answered_by_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/interview/human.opus");
    let mut talk = tokio::process::Command::new(env!("CARGO_BIN_EXE_viva"));
    talk.args(["talk", clip, "--profile", "test", "--json"]).current_dir(folder.path()).kill_on_drop(true);
    let output = tokio::time::timeout(TALK_WITHIN, talk.output()).await.expect("it ends by itself").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let turn: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        mostly(turn["heard"].as_str().unwrap(), "He might even have been made amiable himself."),
        "{turn}"
    );
    let reply = hound::WavReader::open(folder.path().join("reply.wav")).unwrap();
    let loudest = reply.into_samples::<i16>().map(|s| s.unwrap().unsigned_abs()).max();
    assert!(loudest > Some(3_000), "{loudest:?}");
}
