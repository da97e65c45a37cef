//! Weights that are damaged end the start with a word on what to do.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use viva_actors::ports::SessionSpec;
use viva_actors::root::{Limits, OpenError, Viva};
use viva_models::EngineError;
use viva_models::fetch::{Weights, models_dir};

use super::support::child::{failure, viva};
use super::support::fakes;

/// A folder like the one of the weights, of links to its files; those under `without` are left out.
fn linked(from: &Path, to: &Path, without: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            linked(&source, &target, without);
        } else if target != without {
            // Another disk cannot have a hard link.
            if fs::hard_link(&source, &target).is_err() {
                std::os::unix::fs::symlink(&source, &target).unwrap();
            }
        }
    }
}

/// Starts a server on good weights but this one, of which `damage` is left.
async fn check(which: impl Fn(&Weights) -> PathBuf, damage: impl Fn(&[u8]) -> Vec<u8>) {
    let models = models_dir();
    let good = which(&Weights::within(&models, "test").unwrap());
    assert!(good.is_file(), "{} is missing; run: viva models pull", good.display());
    // Beside the good ones, so that links reach.
    let folder = tempfile::tempdir_in(models.parent().unwrap()).unwrap();
    let bad = folder.path().join(good.strip_prefix(&models).unwrap());
    linked(&models, folder.path(), &bad);
    File::create_new(&bad).unwrap().write_all(&damage(&fs::read(&good).unwrap())).unwrap();
    let mut command = viva(["serve", "--listen", "127.0.0.1:0", "--profile", "test", "--models"]);
    command.arg(folder.path());
    let (said, took) = failure(command, Duration::from_secs(60)).await;
    let last = said.lines().last().unwrap_or_default();
    println!("{}: after {took:?}: {last}", good.display());
    let name = good.file_name().unwrap().to_string_lossy().into_owned();
    assert!(last.starts_with("error: ") && last.contains(&name), "the last line names the file: {said}");
    assert!(last.contains("viva models pull"), "and says what to do: {last}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

fn half(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

/// Ten bytes short: only the last tensor is not whole.
fn nearly(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 10].to_vec()
}

/// As long as it should be, so that only who reads it can tell.
fn scribbled(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = bytes.len() / 4;
    bytes[..end].iter_mut().zip(0u32..).for_each(|(b, i)| *b = (i * 131 + i / 7) as u8);
    bytes
}

fn garbage(bytes: &[u8]) -> Vec<u8> {
    (0..bytes.len().min(1 << 20)).map(|i| (i * 131 + i / 7) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_language_model_ends_the_start() {
    check(|w| w.llm.clone(), half).await;
    check(|w| w.llm.clone(), nearly).await;
    check(|w| w.llm.clone(), garbage).await;
    check(|w| w.llm.clone(), scribbled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_recogniser_ends_the_start() {
    check(|w| w.asr.clone(), half).await;
    check(|w| w.asr.clone(), nearly).await;
    check(|w| w.asr.clone(), garbage).await;
    check(|w| w.asr.clone(), scribbled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_voice_ends_the_start() {
    check(|w| w.tts.clone(), scribbled).await;
    check(|w| w.tts.clone(), half).await;
    check(|w| format!("{}.json", w.tts.display()).into(), half).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_detectors_end_the_start() {
    check(|w| w.vad.clone(), scribbled).await;
    check(|w| w.turn.clone(), scribbled).await;
    check(|w| w.runtime.clone(), half).await;
}

/// Nobody is let in while an engine is down, so that no work of theirs would open it: it must come back by
/// itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_could_not_be_opened_is_tried_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let (mut engines, is_broken) = (fakes(), Arc::clone(&broken));
    let open = Arc::clone(&engines.tts);
    engines.tts = Arc::new(move || match is_broken.load(Ordering::Acquire) {
        true => Err(EngineError::Invalid("voice.onnx is no voice".into())),
        false => open(),
    });
    let viva = Viva::start(engines, Limits { sessions: 2, ..Limits::default() }).await.unwrap();
    let voice = || viva.readiness().engines.into_iter().find(|e| e.kind == "tts").unwrap();
    let until = async |what: &str, within: u64, is: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(within);
        while !is() {
            assert!(Instant::now() < end, "never {what}: {:?}", viva.readiness());
            sleep(Duration::from_millis(20)).await;
        }
    };
    until("refused", 2, &|| voice().refused.is_some()).await;
    assert!(voice().refused.unwrap().to_string().contains("voice.onnx"));
    assert!(matches!(viva.open(SessionSpec::default()).await, Err(OpenError::NotReady(_))));
    broken.store(false, Ordering::Release);
    until("ready", 15, &|| viva.readiness().ready).await;
    assert_eq!((voice().refused, voice().up), (None, true));
    viva.open(SessionSpec::default()).await.unwrap();
    viva.drain(Duration::ZERO).await;
}
