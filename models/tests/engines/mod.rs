//! What the engine tests share: where the weights lie, recordings of people, and how words are compared.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use viva_models::audio::decode_file;
use viva_models::registry::{
    AsrSpec, EmbedSpec, LlamaSpec, LlmSpec, OnnxSpec, OnnxTextSpec, PiperSpec, TtsSpec, TurnSpec, VadSpec,
    WhisperSpec,
};

/// A weight file by its place in the manifest's layout.
pub fn weights(file: &str) -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_default()
            .join("viva/models")
    };
    let folder = std::env::var_os("VIVA_MODELS").map_or_else(cache, PathBuf::from);
    let path = folder.join(file);
    assert!(path.is_file(), "{} is missing; run: viva models pull", path.display());
    path
}

pub fn runtime() -> PathBuf {
    weights("ort/libonnxruntime.so")
}

pub fn whisper(file: &str, threads: usize) -> AsrSpec {
    AsrSpec::Whisper(WhisperSpec { model: weights(file), threads, language: None, gpu: true })
}

pub fn llama(file: &str, threads: usize) -> LlamaSpec {
    LlamaSpec {
        decode_threads: 0,
        model: weights(file),
        threads,
        gpu_layers: 999,
        context: 1024,
        sequences: 8,
        cache_tokens: None,
    }
}

pub fn smollm(threads: usize) -> LlmSpec {
    LlmSpec::Llama(llama("llm/SmolLM2-135M-Instruct.Q4_1.gguf", threads))
}

pub fn joe(threads: usize) -> TtsSpec {
    TtsSpec::Piper(PiperSpec {
        model: weights("tts/piper-joe/en_US-joe-medium.onnx"),
        runtime: runtime(),
        threads,
        espeak_data: None,
    })
}

pub fn silero() -> VadSpec {
    VadSpec::Silero(OnnxSpec { model: weights("vad/silero_vad.onnx"), runtime: runtime(), threads: 1 })
}

pub fn smart_turn() -> TurnSpec {
    let model = weights("turn/smart-turn-v3.2-cpu.onnx");
    TurnSpec::SmartTurn(OnnxSpec { model, runtime: runtime(), threads: 1 })
}

pub fn embedder(folder: &str) -> EmbedSpec {
    EmbedSpec::Onnx(OnnxTextSpec {
        model: weights(&format!("embed/{folder}/model.onnx")),
        tokenizer: weights(&format!("embed/{folder}/tokenizer.json")),
        runtime: runtime(),
        threads: 1,
    })
}

/// Sentences of a LibriVox reading and what is said in them, from Debian's pocketsphinx-testdata.
pub fn readings() -> Vec<(Vec<f32>, &'static str)> {
    let folder = Path::new("/usr/share/pocketsphinx/test/data/librivox");
    [
        (
            "0870",
            "and mister john dashwood had then leisure to consider how much there might be prudently in his \
             power to do for them",
        ),
        ("0880", "he was not an ill disposed young man"),
        ("0890", "unless to be rather cold hearted and rather selfish is to be ill disposed"),
        (
            "0920",
            "had he married a more amiable woman he might have been made still more respectable than he was",
        ),
        ("0930", "he might even have been made amiable himself"),
    ]
    .into_iter()
    .map(|(name, text)| {
        let file = folder.join(format!("sense_and_sensibility_01_austen_64kb-{name}.wav"));
        let decoded = decode_file(&file, 60).unwrap_or_else(|e| {
            panic!("{}: {e}; run: apt-get install pocketsphinx-testdata", file.display())
        });
        (decoded.resampled(16_000).unwrap(), text)
    })
    .collect()
}

/// Lower-case words without punctuation; spellings that sound the same are one.
pub fn plain(text: &str) -> Vec<String> {
    let spaced = text.to_lowercase().replace(['-', '—'], " ").replace("mr.", "mister");
    spaced
        .split_whitespace()
        .map(|w| w.chars().filter(|c| c.is_alphanumeric() || *c == '\'').collect::<String>())
        .filter(|w| !w.is_empty())
        .collect()
}

/// Words that must be changed, added or removed to make `heard` of `said`.
pub fn word_errors(said: &str, heard: &str) -> usize {
    let (said, heard) = (plain(said), plain(heard));
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, a) in said.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in heard.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[heard.len()]
}

/// CPU seconds a process has used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // Fields 14 and 15 of proc(5), counted from after the name; the kernel reports in hundredths.
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Runs `work` and prints what it cost, in this process or in the engine's.
pub fn timed<T>(what: &str, pid: Option<u32>, work: impl FnOnce() -> T) -> T {
    let pid = pid.unwrap_or_else(std::process::id);
    let (started, cpu) = (Instant::now(), cpu_seconds(pid));
    let result = work();
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu);
    println!("{what}: {wall:.3} s wall, {cpu:.2} s CPU");
    result
}

pub fn kill_9(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}
