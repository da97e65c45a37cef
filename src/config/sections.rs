//! What each table of the configuration may hold, with its defaults.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use viva_actors::gpu::binding::{Quality, Serves};
use viva_actors::ports::SessionSpec;
use viva_actors::turn::{Endpointing, TurnConfig};
use viva_models::registry::{AsrSpec, EmbedSpec, LlmSpec, TtsSpec, TurnSpec, VadSpec};

use crate::presets;

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Origins of pages that may connect, beside our own.
    pub origins: Vec<String>,
    /// Sessions at once.
    pub sessions_max: usize,
    /// How late one more session may make the others, milliseconds.
    pub late_ms_max: u32,
    /// Longest session, seconds.
    pub session_s_max: u64,
    /// How long running sessions may go on after the server was asked to end, seconds.
    pub drain_s: u64,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8790)),
            origins: Vec::new(),
            // What two cores hold in real time is less than this; admission is to refine it.
            sessions_max: 8,
            // An answer after one second becomes one after two.
            late_ms_max: 1_000,
            // An interview lasts one hour, a long one two.
            session_s_max: 7_200,
            // Process managers kill after 30 to 90 s.
            drain_s: 30,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// For people or for machines.
    pub format: LogFormat,
    /// A tracing filter, such as `info` or `info,viva=debug`.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[models]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsSection {
    /// A profile of `models/manifest.toml`.
    pub profile: String,
    /// Where the weights lie; empty for the user's cache folder.
    pub dir: String,
}

impl Default for ModelsSection {
    fn default() -> Self {
        Self { profile: "default".into(), dir: String::new() }
    }
}

/// `[machine]`: 0 everywhere means that we choose by the machine's cores.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineSection {
    /// Cores the engines may use together.
    pub cores: u32,
    /// Threads of one recognition.
    pub asr_threads: u32,
    /// Threads of one step of the language model.
    pub llm_threads: u32,
    /// Threads of one sentence of speech.
    pub tts_threads: u32,
    /// Processes of the recogniser, each on a recognition of its own.
    pub asr_processes: u32,
    /// Processes of the voice, each on a sentence of its own.
    pub tts_processes: u32,
}

/// `[session]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionSection {
    /// Who Viva is: a preset of `presets/interviewers`.
    pub interviewer: String,
    /// The system message, in place of the interviewer's; empty for that.
    pub instructions: String,
    /// BCP-47 primary tag.
    pub language: String,
    /// How good the engines should be, where there are several of a kind.
    pub quality: Quality,
    /// Tokens of a reply.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Penalty on repeated tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Clean the caller's audio unless the client says otherwise.
    pub denoise: bool,
    /// Audio sent ahead of real time, milliseconds.
    pub lead_ms: u32,
}

impl Default for SessionSection {
    fn default() -> Self {
        let spec = SessionSpec::default();
        Self {
            interviewer: presets::INTERVIEWER.into(),
            instructions: String::new(),
            language: spec.language,
            quality: spec.quality,
            max_tokens: spec.voice.sampling.max_tokens,
            temperature: spec.voice.sampling.temperature,
            top_p: spec.voice.sampling.top_p,
            repeat_penalty: spec.voice.sampling.repeat_penalty,
            denoise: spec.listening.denoise,
            lead_ms: spec.lead_ms,
        }
    }
}

/// `[turn]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnSection {
    /// Multiplies every silence waited for.
    pub patience: f32,
    /// Silence that opens a pause, milliseconds.
    pub pause_ms: u32,
    /// Speech over ours that is an interruption whatever the words, milliseconds.
    pub barge_in_ms: u32,
    /// A pause that makes the words before it final, milliseconds.
    pub freeze_ms: u32,
    /// Longest turn, seconds.
    pub turn_s_max: u32,
}

impl Default for TurnSection {
    fn default() -> Self {
        let turn = TurnConfig::default();
        let patience = match turn.endpointing {
            Endpointing::Semantic { patience } => patience,
            _ => 1.0,
        };
        Self {
            patience,
            pause_ms: turn.pause_ms,
            barge_in_ms: turn.barge_in_ms,
            freeze_ms: turn.freeze_ms,
            turn_s_max: turn.turn_ms_max / 1000,
        }
    }
}

/// `[recordings]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingsSection {
    /// Folder for recordings of callers who agree to one; empty keeps none.
    pub dir: String,
}

/// `[knowledge]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnowledgeSection {
    /// Whether the server looks questions up.
    pub enabled: bool,
    /// Folder of imported banks and of the index; empty for the one beside the weights.
    pub dir: String,
    /// Address of a PostgreSQL with pgvector, in place of an index on this machine; empty for that.
    pub postgres: String,
}

impl Default for KnowledgeSection {
    fn default() -> Self {
        Self { enabled: true, dir: String::new(), postgres: String::new() }
    }
}

/// `[engines.*]`: in place of what the profile brings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)] // viva_models::registry describes them.
pub struct EnginesSection {
    pub asr: Option<AsrSpec>,
    pub llm: Option<LlmSpec>,
    pub tts: Option<TtsSpec>,
    pub vad: Option<VadSpec>,
    pub turn: Option<TurnSpec>,
    pub embed: Option<EmbedSpec>,
    pub more_asr: Vec<MoreEngine<AsrSpec>>,
    pub more_llm: Vec<MoreEngine<LlmSpec>>,
    pub more_tts: Vec<MoreEngine<TtsSpec>>,
}

/// `[[engines.more_*]]`: an engine beside the one there is, for other sessions or for when that one cannot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoreEngine<S> {
    /// What it is there for.
    #[serde(default)]
    pub serves: Serves,
    /// Processes that work side by side; of an engine elsewhere, requests at once. A language model has one.
    #[serde(default = "one_process")]
    pub processes: u32,
    /// Which engine.
    pub with: S,
}

fn one_process() -> u32 {
    1
}
