//! From settings to engines. The only place that names them all.
//!
//! Every kind has its settings type, tagged by `engine`, and one `open_*` that returns the engine and, where
//! it is a process, that process's id for whoever watches memory and deaths.

mod spec;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use spec::{
    AsrSpec, CACHE_TOKENS_DEFAULT_MAX, EmbedSpec, LlamaSpec, LlmSpec, OnnxSpec, OnnxTextSpec, PiperSpec,
    RemoteSpec, TtsSpec, TurnSpec, VadSpec, WhisperSpec,
};

use crate::contract::{Asr, Embedder, EngineError, Llm, Result, Tts, TurnDetector, Vad};
use crate::host::{AsrProxy, Launch, LlmProxy, TtsProxy};
use crate::remote::Remote;

/// An engine and, where it is a process of its own, that process's id.
pub struct Opened<T: ?Sized> {
    /// The engine.
    pub engine: Box<T>,
    /// Its process, for those that are one.
    pub pid: Option<u32>,
}

/// Opens a recogniser. Blocks until its weights are loaded.
pub fn open_asr(spec: &AsrSpec) -> Result<Opened<dyn Asr>> {
    match spec {
        AsrSpec::Whisper(whisper) => {
            require(&whisper.model)?;
            let proxy = AsrProxy::open(&launch("whisper", whisper, whisper.threads)?)?;
            let pid = Some(proxy.pid());
            Ok(Opened { engine: Box::new(proxy), pid })
        }
        AsrSpec::Openai(remote) => {
            Ok(Opened { engine: Box::new(crate::asr::openai::OpenAiAsr::new(connect(remote)?)), pid: None })
        }
    }
}

/// Opens a language model. Blocks until its weights are loaded.
pub fn open_llm(spec: &LlmSpec) -> Result<Opened<dyn Llm>> {
    match spec {
        LlmSpec::Llama(llama) => {
            require(&llama.model)?;
            let proxy = LlmProxy::open(&launch("llama", llama, llama.threads)?)?;
            let pid = Some(proxy.pid());
            Ok(Opened { engine: Box::new(proxy), pid })
        }
        LlmSpec::Openai(remote) => {
            Ok(Opened { engine: Box::new(crate::llm::openai::OpenAiLlm::new(connect(remote)?)), pid: None })
        }
    }
}

/// Opens a voice. Blocks until its weights are loaded.
pub fn open_tts(spec: &TtsSpec) -> Result<Opened<dyn Tts>> {
    match spec {
        TtsSpec::Piper(piper) => {
            require(&piper.model)?;
            require(&piper.runtime)?;
            let mut launch = launch("piper", piper, piper.threads)?;
            let data = piper.espeak_data.clone().or_else(|| espeak_data(&launch.program));
            if let Some(data) = data {
                launch.env.push(("PIPER_ESPEAKNG_DATA_DIRECTORY".into(), data.display().to_string()));
            }
            let proxy = TtsProxy::open(&launch)?;
            let pid = Some(proxy.pid());
            Ok(Opened { engine: Box::new(proxy), pid })
        }
        TtsSpec::Openai(remote) => {
            Ok(Opened { engine: Box::new(crate::tts::openai::OpenAiTts::new(connect(remote)?)), pid: None })
        }
    }
}

/// Opens a voice-activity detector.
pub fn open_vad(spec: &VadSpec) -> Result<Opened<dyn Vad>> {
    let VadSpec::Silero(onnx) = spec;
    Ok(Opened { engine: Box::new(crate::vad::silero::Silero::open(&onnx.model, &onnx.runtime)?), pid: None })
}

/// Opens an end-of-turn detector.
pub fn open_turn(spec: &TurnSpec) -> Result<Opened<dyn TurnDetector>> {
    let TurnSpec::SmartTurn(onnx) = spec;
    let engine = crate::turn::smart_turn::SmartTurn::open(&onnx.model, &onnx.runtime, onnx.threads)?;
    Ok(Opened { engine: Box::new(engine), pid: None })
}

/// Opens an embedder.
pub fn open_embed(spec: &EmbedSpec) -> Result<Opened<dyn Embedder>> {
    let EmbedSpec::Onnx(onnx) = spec;
    let engine =
        crate::embed::onnx::OnnxEmbedder::open(&onnx.model, &onnx.tokenizer, &onnx.runtime, onnx.threads)?;
    Ok(Opened { engine: Box::new(engine), pid: None })
}

fn connect(spec: &RemoteSpec) -> Result<Remote> {
    let api_key = match &spec.api_key_env {
        None => None,
        Some(name) => Some(std::env::var(name).map_err(|_| {
            EngineError::Invalid(format!("the environment has no {name}, which should hold the API key"))
        })?),
    };
    Ok(Remote {
        base_url: spec.base_url.clone(),
        api_key,
        model: spec.model.clone(),
        timeout_ms: spec.timeout_ms,
    })
}

fn require(file: &Path) -> Result<()> {
    if file.is_file() {
        return Ok(());
    }
    Err(EngineError::Invalid(format!("{} does not exist; run: viva models pull", file.display())))
}

fn launch<S: Serialize>(name: &str, spec: &S, threads: usize) -> Result<Launch> {
    let settings = serde_json::to_string(spec)
        .map_err(|e| EngineError::Invalid(format!("the settings of {name} cannot be written: {e}")))?;
    Ok(Launch { name: name.to_owned(), program: find_binary(name)?, settings, threads, env: Vec::new() })
}

/// The binary of an engine: in `VIVA_ENGINES`, beside this program (or a folder up: test programs live in
/// `deps/`, and a dev build finds the engines of the release build), then on `PATH`.
pub fn find_binary(name: &str) -> Result<PathBuf> {
    let file = format!("viva-engine-{name}");
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(folder) = std::env::var_os("VIVA_ENGINES") {
        folders.push(folder.into());
    }
    if let Ok(program) = std::env::current_exe() {
        let beside = program.parent().map(Path::to_path_buf);
        let above = beside.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        // target/debug/deps/test-x → target/release: native engines are only ever built in release.
        let release = [&above, &above.as_deref().and_then(Path::parent).map(Path::to_path_buf)]
            .map(|folder| folder.as_ref().map(|f| f.join("release")));
        folders.extend(beside);
        folders.extend(above);
        folders.extend(release.into_iter().flatten());
    }
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    folders.iter().map(|folder| folder.join(&file)).find(|file| file.is_file()).ok_or_else(|| {
        EngineError::Unavailable(format!(
            "no {file} in VIVA_ENGINES, beside this program, or on PATH; build it with: \
             cargo build --release -p {file}"
        ))
    })
}

/// The folder that holds `espeak-ng-data`: beside the engine, or where its build left it. Without either,
/// espeak looks where it was compiled to.
fn espeak_data(program: &Path) -> Option<PathBuf> {
    let beside = program.parent()?;
    if beside.join("espeak-ng-data").is_dir() {
        return Some(beside.to_path_buf());
    }
    let builds = std::fs::read_dir(beside.join("build")).ok()?;
    builds
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("espeak-rs-sys-"))
        .map(|entry| entry.path().join("out/share"))
        .find(|share| share.join("espeak-ng-data").is_dir())
}
