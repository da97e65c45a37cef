//! Recordings on a disk that is full, in a folder that cannot be written, and when their time is over.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio_tungstenite::tungstenite::Error::Http;

use super::support::child::{Running, VIVA, failure, viva};
use super::support::{Caller, WITHIN, get};

fn config(recordings: &Path) -> String {
    format!("[recordings]\ndir = '{}'\n", recordings.display())
}

/// A server whose files may have so many blocks of 512 bytes: a disk of its own with so much room.
async fn on_a_disk_of(blocks: &str, recordings: &Path, config_file: &Path) -> Running {
    std::fs::write(config_file, config(recordings)).unwrap();
    let mut command = Command::new("sh");
    // The signal is ignored, so that writing fails instead.
    let serve = "trap '' XFSZ; ulimit -f \"$2\"; exec \"$0\" serve --engines fake --listen 127.0.0.1:0 --config \"$1\"";
    command.args(["-c", serve, VIVA]).arg(config_file).arg(blocks);
    Running::of(command).await
}

/// Who agreed to be recorded is refused in the protocol's form, without a word on where recordings lie; the
/// operator reads it in the log; who asks for no recording is served.
async fn refuses_to_record(server: &Running, recordings: &Path) {
    let url = format!("ws://{}/v1/realtime?record=true", server.address);
    let refused = tokio_tungstenite::connect_async(url).await;
    let Err(Http(response)) = refused else { panic!("{refused:?}") };
    let body = String::from_utf8_lossy(response.body().as_ref().unwrap()).into_owned();
    assert_eq!(response.status(), 503, "{body}");
    let error = serde_json::from_str::<serde_json::Value>(&body).unwrap()["error"].clone();
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("server_error"), Some("recording_unavailable"))
    );
    assert!(error["message"].as_str().unwrap().contains("start without recording"), "{body}");
    let folder = recordings.display().to_string();
    assert!(!body.contains(&folder) && !body.contains("panic") && !body.contains("os error"), "{body}");
    let line = server.logged("no recording can be written", Duration::from_secs(5)).await;
    assert!(line.contains(&folder) && line.contains("ERROR"), "{line}");
    let (_, _, page) = get(server.address, "/metrics", "").await;
    let counted =
        |l: &str| l.starts_with("viva_sessions_refused_total") && l.contains("recording_unavailable");
    assert!(page.lines().any(counted), "{page}");
    let mut caller = Caller::connect(server.address, "?events=extended").await;
    caller.answered_after_ms().await;
    caller.socket.close(None).await.unwrap();
    server.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_recording_and_not_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    // Room for one second.
    let server = on_a_disk_of("200", &recordings, &folder.path().join("viva.toml")).await;
    let mut caller = Caller::connect(server.address, "?record=true&events=extended").await;
    caller.answered_after_ms().await;
    let line = server.logged("is the disk full?", Duration::from_secs(5)).await;
    println!("{line}");
    caller.answered_after_ms().await;
    let (_, _, page) = get(server.address, "/metrics", "").await;
    let counted = page
        .lines()
        .any(|l| l.starts_with("viva_drops_total") && l.contains("\"recorder\"") && l.contains("\"disk\""));
    assert!(counted, "{page}");
    caller.socket.close(None).await.unwrap();
    server.empty().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_later_refuses_the_next_recording() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    let server = on_a_disk_of("200", &recordings, &folder.path().join("viva.toml")).await;
    // It started with room; now there is none left.
    let none = Command::new("prlimit").args(["--fsize=0", "--pid", &server.pid.to_string()]).status().await;
    assert!(none.unwrap().success());
    refuses_to_record(&server, &recordings).await;
    assert_eq!(std::fs::read_dir(&recordings).unwrap().count(), 0, "nothing is left of the attempt");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_away_refuses_the_next_recording() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    let server = Running::start(&config(&recordings)).await;
    // Below a file there is no folder, not even for root.
    std::fs::remove_dir(&recordings).unwrap();
    std::fs::write(&recordings, "").unwrap();
    refuses_to_record(&server, &recordings).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config_file) = (folder.path().join("a file"), folder.path().join("viva.toml"));
    std::fs::write(&file, "").unwrap();
    let recordings = file.join("in it");
    std::fs::write(&config_file, config(&recordings)).unwrap();
    let mut command = viva(["serve", "--engines", "fake", "--listen", "127.0.0.1:0", "--config"]);
    command.arg(&config_file);
    let (said, _) = failure(command, WITHIN).await;
    let last = said.lines().last().unwrap_or_default();
    println!("{last}");
    assert!(last.starts_with("error: ") && last.contains(&recordings.display().to_string()), "{said}");
    assert!(last.contains("recordings.dir"), "it says what to do: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_whose_time_is_over_is_gone_soon_after_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    let server = Running::start(&config(&recordings)).await;
    let mut caller = Caller::connect(server.address, "?record=true&events=extended").await;
    caller.answered_after_ms().await;
    caller.socket.close(None).await.unwrap();
    server.empty().await;
    server.stop().await;
    let files = || std::fs::read_dir(&recordings).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let sidecar = files().into_iter().find(|file| file.extension().is_some_and(|e| e == "json")).unwrap();
    // A server that starts again keeps what still has time, and then the time is over.
    let server = Running::start(&config(&recordings)).await;
    server.stop().await;
    assert_eq!(files().len(), 2);
    let mut about: serde_json::Value = serde_json::from_slice(&std::fs::read(&sidecar).unwrap()).unwrap();
    about["delete_after_unix_s"] = about["began_unix_s"].clone();
    std::fs::write(&sidecar, about.to_string()).unwrap();
    let server = Running::start(&config(&recordings)).await;
    let line = server.logged("recordings whose time was over were deleted", WITHIN).await;
    assert!(line.contains("deleted=1"), "{line}");
    assert_eq!(files(), Vec::<std::path::PathBuf>::new());
    let (_, _, page) = get(server.address, "/metrics", "").await;
    assert!(page.lines().any(|l| l == "viva_recordings_deleted_total 1"), "{page}");
    server.stop().await;
}
