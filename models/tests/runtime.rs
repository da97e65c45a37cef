//! An ONNX Runtime library that is damaged. In a program of its own: a process can load only one.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use viva_models::{EngineError, ort_runtime};

/// Loading says no within this, or it hangs.
const WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_damaged_runtime_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libonnxruntime.so");
    for bytes in [&[][..], &[7; 65_536]] {
        std::fs::write(&file, bytes).unwrap();
        let (library, (told, said)) = (file.clone(), sync_channel(1));
        std::thread::spawn(move || told.send(ort_runtime::init(&library)).ok());
        let refused = said.recv_timeout(WITHIN).expect("loading a damaged library hangs");
        let Err(EngineError::Invalid(why)) = refused else { panic!("{refused:?}") };
        println!("{why}");
        assert!(why.contains("libonnxruntime.so"), "{why}");
    }
}
