//! Recordings of both sides: with consent only, on one timeline, and never at the session's cost.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Caller, Server, WITHIN, fakes, speech};
use viva_actors::ports::SessionSpec;
use viva_models::audio::SPEAK_RATE;

/// Milliseconds the caller speaks in these tests.
const SPOKEN: usize = 1500;

async fn server(folder: &Path) -> Server {
    let spec = SessionSpec { recordings: Some(folder.to_owned()), ..SessionSpec::default() };
    Server::with(fakes(), 8, spec).await
}

/// One spoken turn and its answer, heard to the end, with a second of quiet before and after.
async fn turn(server: &Server, query: &str) -> Caller {
    let mut caller = Caller::connect(server.address, query).await;
    caller.speak(&[0; 24_000]).await;
    caller.speak(&speech(SPOKEN)).await;
    let done = caller.hush_until("response.done", 0).await;
    assert_eq!(done["response"]["status"], "completed");
    caller.speak(&[0; 24_000]).await;
    caller
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The recording, once it is complete. Its header is brought up to date last.
async fn recording(folder: &Path, least_s: f32) -> (Vec<i16>, Vec<i16>, Value) {
    let began = Instant::now();
    loop {
        let [about, wav] = &files(folder)[..] else { panic!("not one recording: {:?}", files(folder)) };
        let mut reader = hound::WavReader::open(wav).unwrap();
        assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, SPEAK_RATE));
        if reader.duration() as f32 >= least_s * SPEAK_RATE as f32 {
            let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
            let side = |n: usize| samples.iter().skip(n).step_by(2).copied().collect();
            let about = serde_json::from_slice(&std::fs::read(about).unwrap()).unwrap();
            return (side(0), side(1), about);
        }
        assert!(began.elapsed() < WITHIN, "the recording never came to {least_s} s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where a side sounds, in milliseconds.
fn sounding(side: &[i16]) -> (usize, usize) {
    let loud = |s: &i16| s.unsigned_abs() > 2_000;
    let ms = |sample: usize| sample * 1000 / SPEAK_RATE as usize;
    (ms(side.iter().position(loud).expect("it sounds")), ms(side.iter().rposition(loud).expect("it sounds")))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_recorded_on_one_timeline() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let mut caller = turn(&server, "?record=true&events=extended").await;
    let metrics = caller.hush_until("metrics.turn", 0).await;
    caller.socket.close(None).await.unwrap();
    server.sessions(0).await;
    // 60 ms a character; the space between the two sentences is not spoken.
    let spoken_ms = (support::REPLY.len() - 1) * 60;
    let (left, right, about) = recording(folder.path(), (2500 + spoken_ms) as f32 / 1000.0).await;
    let (theirs, ours) = (sounding(&left), sounding(&right));
    // The caller began after a second of quiet.
    assert!(theirs.0.abs_diff(1000) <= 40 && theirs.1.abs_diff(1000 + SPOKEN) <= 40, "{theirs:?}");
    assert!(ours.0 > theirs.1, "we answered at {} ms, they ended at {} ms", ours.0, theirs.1);
    // The file says the same of the wait as the server measured, to within its clock's step and the frame.
    let waited = metrics["voice_to_voice_ms"].as_u64().unwrap() as usize;
    assert!((ours.0 - theirs.1).abs_diff(waited) <= 100, "{} ms, measured {waited}", ours.0 - theirs.1);
    assert!((ours.1 - ours.0).abs_diff(spoken_ms) <= 60, "{ours:?} of {spoken_ms} ms");
    assert_eq!(about["principal"]["tenant"], "local");
    assert_eq!(about["consent"]["recording"], true);
    assert_eq!(about["retention"]["days"], 30);
    let name = files(folder.path())[1].file_stem().unwrap().to_string_lossy().into_owned();
    assert_eq!(about["session"], name.as_str());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_consent_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    drop(turn(&server, "").await);
    drop(Caller::connect(server.address, "?record=false").await);
    server.sessions(0).await;
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_refuses_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Below a file there is no folder, not even for root.
    let server = server(&file.join("recordings")).await;
    let handshake =
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (status, _, body) = server.get("/v1/realtime?record=true", handshake).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("recording_unavailable") && !body.contains(&*file.to_string_lossy()), "{body}");
    server.sessions(0).await;
    // Who asks for no recording is served.
    drop(turn(&server, "").await);
    server.stop().await;
}

/// Bytes the child may write to a file: a second and a half of both sides, less than one turn.
const DISK: u64 = 144 * 1024;

#[test]
fn a_full_disk_ends_the_recording_and_not_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    // A limit on a file's length stands for the full disk, which needs no root. Its signal is ignored, so
    // that writing fails instead. bash counts the limit in KiB.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", DISK / 1024);
    let child = Command::new("bash")
        .args(["-c", &script])
        .arg(this)
        .args(["--exact", "on_a_full_disk", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(said.matches("the recording ends here").count(), 1, "{said}");
    let [_, wav] = &files(folder.path())[..] else { panic!("{:?}", files(folder.path())) };
    assert!(std::fs::metadata(wav).unwrap().len() <= DISK);
    // What was written can be played: a second at least, and no more than there is.
    let mut reader = hound::WavReader::open(wav).unwrap();
    assert!(reader.duration() >= SPEAK_RATE, "{} samples", reader.duration());
    assert!(reader.samples::<i16>().all(|sample| sample.is_ok()));
}

/// Tells the child where its disk is.
const FOLDER: &str = "VIVA_TEST_FULL_DISK";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_full_disk_ends_the_recording_and_not_the_session"]
async fn on_a_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).init();
    let server = server(Path::new(&folder)).await;
    let mut caller = turn(&server, "?record=true").await;
    // The recording has ended by now; the same session takes another turn.
    let from = caller.seen.len();
    caller.speak(&speech(SPOKEN)).await;
    let done = caller.hush_until("response.done", from).await;
    assert_eq!(done["response"]["status"], "completed");
    let (_, _, page) = server.get("/metrics", "").await;
    let counted = page.lines().find(|l| l.starts_with("viva_drops_total") && l.contains("\"recorder\""));
    assert!(counted.is_some_and(|l| l.contains("disk") && l.ends_with(" 1")), "{counted:?}");
    drop(caller);
    server.sessions(0).await;
    server.stop().await;
}
