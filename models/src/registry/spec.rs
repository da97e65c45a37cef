//! Settings of engines, as they stand in the configuration and travel to engine processes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which recogniser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub enum AsrSpec {
    /// whisper.cpp in a process of its own.
    Whisper(WhisperSpec),
    /// An OpenAI-compatible transcription endpoint.
    Openai(RemoteSpec),
}

/// Which language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub enum LlmSpec {
    /// llama.cpp in a process of its own.
    Llama(LlamaSpec),
    /// An OpenAI-compatible chat endpoint.
    Openai(RemoteSpec),
}

/// Which voice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub enum TtsSpec {
    /// Piper in a process of its own.
    Piper(PiperSpec),
    /// An OpenAI-compatible speech endpoint.
    Openai(RemoteSpec),
}

/// Which voice-activity detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub enum VadSpec {
    /// Silero, in-process.
    Silero(OnnxSpec),
}

/// Which end-of-turn detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub enum TurnSpec {
    /// smart-turn, in-process.
    SmartTurn(OnnxSpec),
}

/// Which embedder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub enum EmbedSpec {
    /// A sentence transformer as ONNX, in-process.
    Onnx(OnnxTextSpec),
}

impl EmbedSpec {
    /// The name the opened engine will have.
    pub fn name(&self) -> String {
        let Self::Onnx(onnx) = self;
        crate::embed::onnx::name_of(&onnx.model)
    }
}

/// whisper.cpp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhisperSpec {
    /// The ggml weights.
    pub model: PathBuf,
    /// Threads of one decode.
    #[serde(default = "one")]
    pub threads: usize,
    /// Language of jobs that name none; without it a multilingual model detects it.
    #[serde(default)]
    pub language: Option<String>,
    /// Compute on the GPU, in a build with the `cuda` feature.
    #[serde(default = "yes")]
    pub gpu: bool,
}

/// llama.cpp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaSpec {
    /// The GGUF weights.
    pub model: PathBuf,
    /// Threads of a step of several tokens: a prompt, or many sequences.
    #[serde(default = "one")]
    pub threads: usize,
    /// Threads of a step of a single token; 0 is as many as `threads`. A small model moves its token no
    /// faster on two cores than on one, and pays for both.
    #[serde(default)]
    pub decode_threads: usize,
    /// Layers computed on the GPU, in a build with the `cuda` feature. All of them by default.
    #[serde(default = "all_layers")]
    pub gpu_layers: u32,
    /// Tokens of one sequence, prompt and answer together.
    #[serde(default = "context")]
    pub context: u32,
    /// Sequences that can be open at once.
    #[serde(default = "sequences")]
    pub sequences: u32,
    /// Tokens in the cache that all sequences share (a common prefix counts once). By default as many as
    /// all sequences could need, at most [`CACHE_TOKENS_DEFAULT_MAX`].
    #[serde(default)]
    pub cache_tokens: Option<u32>,
}

/// Tokens the shared cache has unless the settings say more: 16,384 are 380 MB with SmolLM2-135M and 200 MB with
/// Qwen2.5-0.5B, and hold eight interviews of 2,000 tokens each. With half of it six callers who talked for five
/// minutes pushed each other out, and every turn read a whole conversation anew (`viva sim`, 300 s).
pub const CACHE_TOKENS_DEFAULT_MAX: u32 = 16_384;

impl LlamaSpec {
    /// Sequences there can be: llama.cpp's own 256, less four that keep system prompts.
    pub const SEQUENCES_MAX: u32 = 252;

    /// Tokens in the shared cache; never fewer than one whole sequence.
    pub fn cache(&self) -> u32 {
        let wanted = self
            .cache_tokens
            .unwrap_or_else(|| self.context.saturating_mul(self.sequences).min(CACHE_TOKENS_DEFAULT_MAX));
        wanted.max(self.context)
    }
}

/// Piper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PiperSpec {
    /// The voice; its configuration lies beside it as `<model>.json`.
    pub model: PathBuf,
    /// The ONNX Runtime library.
    pub runtime: PathBuf,
    /// Threads of one inference.
    #[serde(default = "one")]
    pub threads: usize,
    /// The folder that holds `espeak-ng-data`; found beside the engine or in its build when not given.
    #[serde(default)]
    pub espeak_data: Option<PathBuf>,
}

/// A model on ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnnxSpec {
    /// The weights.
    pub model: PathBuf,
    /// The ONNX Runtime library.
    pub runtime: PathBuf,
    /// Threads of one inference.
    #[serde(default = "one")]
    pub threads: usize,
}

/// A text model on ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnnxTextSpec {
    /// The weights.
    pub model: PathBuf,
    /// Its tokenizer.json.
    pub tokenizer: PathBuf,
    /// The ONNX Runtime library.
    pub runtime: PathBuf,
    /// Threads of one inference.
    #[serde(default = "one")]
    pub threads: usize,
}

/// An OpenAI-compatible endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSpec {
    /// Such as `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// Name of the environment variable that holds the key; keys do not belong into files.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// The model's name there.
    pub model: String,
    /// How long one request may take, milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn all_layers() -> u32 {
    // More than any model has; llama.cpp takes what there is.
    999
}

fn context() -> u32 {
    // A 300-token system prompt and about twenty turns of 80 tokens.
    2048
}

fn sequences() -> u32 {
    8
}

fn timeout_ms() -> u64 {
    // A caller hangs up before this; it only has to be finite.
    30_000
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_tagged_by_engine_and_have_defaults() {
        let spec: AsrSpec = toml::from_str("engine = 'whisper'\nmodel = 'a.bin'").unwrap();
        let AsrSpec::Whisper(whisper) = spec else { panic!("{spec:?}") };
        assert_eq!((whisper.threads, whisper.language, whisper.gpu), (1, None, true));
        let spec: TurnSpec = toml::from_str("engine = 'smart-turn'\nmodel = 'a'\nruntime = 'b'").unwrap();
        assert!(matches!(spec, TurnSpec::SmartTurn(_)));
    }

    #[test]
    fn a_misspelt_setting_is_named() {
        let error = toml::from_str::<LlmSpec>("engine = 'llama'\nmodel = 'a'\nthread = 2").unwrap_err();
        assert!(error.to_string().contains("thread"), "{error}");
    }

    #[test]
    fn the_cache_holds_at_least_one_sequence() {
        let toml = "engine = 'llama'\nmodel = 'a'\ncontext = 4096\nsequences = 64\n";
        for (more, cache) in [("", 16_384), ("cache_tokens = 100", 4096), ("cache_tokens = 20000", 20_000)] {
            let LlmSpec::Llama(llama) = toml::from_str(&format!("{toml}{more}")).unwrap() else { panic!() };
            assert_eq!(llama.cache(), cache);
        }
    }
}
