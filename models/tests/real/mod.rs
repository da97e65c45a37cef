//! What tests over real weights and real speech share.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

/// The sentences in `data/`, in the order they are read.
pub const SENTENCES: [&str; 5] = ["0870", "0880", "0890", "0920", "0930"];

/// A weight file of the manifest's layout.
pub fn weights(file: &str) -> PathBuf {
    let root = std::env::var_os("VIVA_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        cache.join("viva").join("models")
    });
    let path = root.join(file);
    assert!(path.is_file(), "{} is missing; run: viva models pull", path.display());
    path
}

/// The ONNX Runtime library.
pub fn runtime() -> PathBuf {
    weights("ort/libonnxruntime.so")
}

/// One sentence at 16 kHz.
pub fn sentence(name: &str) -> Vec<f32> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/austen-{name}.opus"));
    viva_models::audio::decode_file(&path, 30).unwrap().resampled(viva_models::audio::LISTEN_RATE).unwrap()
}

/// Processor time of this process so far, all threads; Linux counts it in steps of 10 ms.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Processor milliseconds of one of `rounds` runs.
pub fn cpu_ms(rounds: u32, mut run: impl FnMut()) -> f64 {
    run();
    let before = cpu();
    (0..rounds).for_each(|_| run());
    (cpu() - before).as_secs_f64() * 1e3 / f64::from(rounds)
}
