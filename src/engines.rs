//! From the configuration to the engines the scheduler runs on.

use std::path::Path;
use std::sync::Arc;

use viva_actors::gpu::{Cores, Engines, More, Order, Share};
use viva_models::fetch::{FetchError, Part, Role, Weights, locate};
use viva_models::host::WIRE_VERSION;
use viva_models::registry::{
    self, AsrSpec, EmbedSpec, LlamaSpec, LlmSpec, OnnxSpec, OnnxTextSpec, PiperSpec, TtsSpec, TurnSpec,
    VadSpec, WhisperSpec,
};
use viva_models::tts::spoken::Spoken;

use crate::calibration::{Calibration, Threads};
use crate::config::{Config, EnginesSection};

/// The engines a configuration asks for, by their settings.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Chosen {
    pub vad: VadSpec,
    pub turn: TurnSpec,
    pub asr: AsrSpec,
    pub llm: LlmSpec,
    pub tts: TtsSpec,
    /// None where nothing is to be looked up, or where all other engines are named and there are no weights.
    pub embed: Option<EmbedSpec>,
    /// Beside these.
    pub more: EnginesSection,
    /// How they share the machine.
    pub cores: Cores,
    /// How many processes work on what waits, and in which order.
    pub order: Order,
}

/// Cores for which the voice has a process by itself. With one of them 64 simulated callers on 32 cores waited for
/// the voice, which was busy all the time; four were busy a quarter of it.
const CORES_A_VOICE: u32 = 8;

/// Processes of the voice that are started unasked: each holds some 100 MB.
const VOICES_BY_ITSELF: u32 = 4;

/// Tokens of one sequence: a long system prompt of 1,000 and half an interview's turns. It costs nothing until it
/// is used, since all sequences share one cache.
const CONTEXT: u32 = 4096;

/// Bytes of English a token stands for, on the safe side: 4.4 on our scripts, less with names and figures.
const BYTES_PER_TOKEN: usize = 3;

/// Tokens the chat template may put around the messages of a conversation.
const TEMPLATE_TOKENS: usize = 160;

impl Chosen {
    /// The profile's engines with the configuration's own in their place. Fails when a file that is needed
    /// is missing, with a sentence that says what to run.
    pub fn of(config: &Config) -> Result<Self, FetchError> {
        let known = Calibration::known(config);
        let measured = known.as_ref().map(|known| known.threads);
        let cores = cores(config, measured);
        let weights = Weights::within(&config.models_dir(), &config.models.profile);
        let engines = &config.engines;
        let onnx = |model: &Path, w: &Weights| OnnxSpec {
            model: model.to_owned(),
            runtime: w.runtime.clone(),
            threads: 1,
        };
        let all_named = engines.vad.is_some()
            && engines.turn.is_some()
            && engines.asr.is_some()
            && engines.llm.is_some()
            && engines.tts.is_some();
        let w = match (weights, all_named) {
            (Ok(weights), _) => Some(weights),
            (Err(_), true) => None,
            (Err(missing), false) => return Err(missing),
        };
        // What is not named needs the weights, and then they are there.
        let needed = || w.as_ref().expect("an engine is taken from the weights only where they were found");
        Ok(Self {
            vad: engines.vad.clone().unwrap_or_else(|| VadSpec::Silero(onnx(&needed().vad, needed()))),
            turn: engines.turn.clone().unwrap_or_else(|| TurnSpec::SmartTurn(onnx(&needed().turn, needed()))),
            asr: engines.asr.clone().unwrap_or_else(|| {
                AsrSpec::Whisper(WhisperSpec {
                    model: needed().asr.clone(),
                    threads: cores.asr as usize,
                    language: Some(config.session.language.clone()),
                    gpu: true,
                })
            }),
            llm: engines.llm.clone().unwrap_or_else(|| {
                LlmSpec::Llama(LlamaSpec {
                    model: needed().llm.clone(),
                    threads: cores.llm as usize,
                    decode_threads: match measured {
                        Some(threads) if config.machine.llm_threads == 0 => threads.llm_decode as usize,
                        _ => decode_threads(&needed().llm, cores.llm as usize),
                    },
                    gpu_layers: u32::MAX >> 16,
                    context: CONTEXT,
                    sequences: (config.server.sessions_max as u32).min(LlamaSpec::SEQUENCES_MAX),
                    cache_tokens: None,
                })
            }),
            tts: engines.tts.clone().unwrap_or_else(|| {
                TtsSpec::Piper(PiperSpec {
                    model: needed().tts.clone(),
                    runtime: needed().runtime.clone(),
                    threads: cores.tts as usize,
                    espeak_data: None,
                })
            }),
            embed: engines.embed.clone().or_else(|| {
                let weights = w.as_ref().filter(|_| config.knowledge.enabled)?;
                Some(onnx_text(&weights.embed, &weights.embed_tokenizer, &weights.runtime, 1))
            }),
            more: engines.clone(),
            cores,
            order: Order {
                session_cores: known.map_or(0.0, |known| known.session_cores()),
                ..order(config, cores)
            },
        }
        .with_llm_alone())
    }

    /// Cores of a step of the language model that makes a single token, where it is one of ours.
    fn with_llm_alone(mut self) -> Self {
        if let LlmSpec::Llama(llama) = &self.llm {
            self.cores.llm_alone = llama.decode_threads as u32;
        }
        self
    }

    /// The programs of engines that are processes, by the name the registry finds them under.
    pub fn programs(&self) -> Vec<&'static str> {
        let more = &self.more;
        let mut asr = std::iter::once(&self.asr).chain(more.more_asr.iter().map(|m| &m.with));
        let mut llm = std::iter::once(&self.llm).chain(more.more_llm.iter().map(|m| &m.with));
        let mut tts = std::iter::once(&self.tts).chain(more.more_tts.iter().map(|m| &m.with));
        let native = [
            ("whisper", asr.any(|spec| matches!(spec, AsrSpec::Whisper(_)))),
            ("llama", llm.any(|spec| matches!(spec, LlmSpec::Llama(_)))),
            ("piper", tts.any(|spec| matches!(spec, TtsSpec::Piper(_)))),
        ];
        native.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name).collect()
    }

    /// Bytes a prompt may have, so that with an answer of `max_tokens` it fits the model's context.
    pub fn prompt_chars_max(&self, max_tokens: u32) -> usize {
        let context = match &self.llm {
            LlmSpec::Llama(llama) => llama.context,
            // Every model that is served these days has that much.
            LlmSpec::Openai(_) => CONTEXT,
        };
        (context as usize).saturating_sub(max_tokens as usize + TEMPLATE_TOKENS) * BYTES_PER_TOKEN
    }

    /// The voice's name on the wire: its file's, or the remote model's.
    pub fn voice_name(&self) -> String {
        match &self.tts {
            TtsSpec::Piper(piper) => {
                piper.model.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
            }
            TtsSpec::Openai(remote) => remote.model.clone(),
        }
    }

    /// What the scheduler opens, and opens again when one dies.
    pub fn engines(self) -> Engines {
        let Self { vad, turn, asr, llm, tts, embed, more, cores, order } = self;
        let spoken = spoken(&tts);
        let asr_more = more.more_asr.into_iter().map(|m| {
            let cores = if let AsrSpec::Whisper(whisper) = &m.with { whisper.threads as u32 } else { REMOTE };
            let share = Share { cores, processes: m.processes };
            (m.serves, More::Asr(Arc::new(move || registry::open_asr(&m.with)), share))
        });
        let llm_more = more.more_llm.into_iter().map(|m| {
            let cores = if let LlmSpec::Llama(llama) = &m.with { llama.threads as u32 } else { REMOTE };
            (m.serves, More::Llm(Arc::new(move || registry::open_llm(&m.with)), Share::of(cores)))
        });
        let tts_more = more.more_tts.into_iter().map(|m| {
            let cores = if let TtsSpec::Piper(piper) = &m.with { piper.threads as u32 } else { REMOTE };
            let share = Share { cores, processes: m.processes };
            (m.serves, More::Tts(Arc::new(move || registry::open_tts(&m.with)), share))
        });
        Engines {
            vad: Arc::new(move || registry::open_vad(&vad)),
            turn: Arc::new(move || registry::open_turn(&turn)),
            asr: Arc::new(move || registry::open_asr(&asr)),
            llm: Arc::new(move || registry::open_llm(&llm)),
            tts: Arc::new(move || registry::open_tts(&tts)),
            embed: embed.map(|spec| -> viva_actors::gpu::device::Opener<dyn viva_models::Embedder> {
                Arc::new(move || registry::open_embed(&spec))
            }),
            spoken,
            more: asr_more.chain(llm_more).chain(tts_more).collect(),
            cores,
            order,
        }
    }
}

/// Lines the voice has spoken before, beside the folder of its weights. Only for a voice of our own: what somebody
/// else's says may change any day. Without the folder every line is made, and nothing else is different.
fn spoken(tts: &TtsSpec) -> Option<Arc<Spoken>> {
    let TtsSpec::Piper(piper) = tts else { return None };
    let weights = std::fs::metadata(&piper.model).ok()?.len();
    let name = piper.model.file_stem()?.to_string_lossy();
    let models = viva_models::fetch::models_dir();
    let folder = models.parent().unwrap_or(&models).join("spoken");
    match Spoken::open(&folder, &format!("piper {name} {weights} {WIRE_VERSION}")) {
        Ok(spoken) => Some(Arc::new(spoken)),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "lines that were spoken before cannot be kept");
            None
        }
    }
}

/// Cores of this machine that an engine elsewhere occupies.
const REMOTE: u32 = 0;

/// The embedder alone, for programs that need no other engine; it may use so many threads.
pub fn embedder(config: &Config, threads: usize) -> Result<EmbedSpec, FetchError> {
    if let Some(named) = &config.engines.embed {
        return Ok(named.clone());
    }
    let (dir, profile) = (config.models_dir(), &config.models.profile);
    let find = |part, role| locate(&dir, profile, part, role);
    let model = find(Part::Embed, Role::Weights)?;
    let tokenizer = find(Part::Embed, Role::Tokenizer)?;
    Ok(onnx_text(&model, &tokenizer, &find(Part::Runtime, Role::Weights)?, threads))
}

fn onnx_text(model: &Path, tokenizer: &Path, runtime: &Path, threads: usize) -> EmbedSpec {
    EmbedSpec::Onnx(OnnxTextSpec {
        model: model.to_owned(),
        tokenizer: tokenizer.to_owned(),
        runtime: runtime.to_owned(),
        threads,
    })
}

/// Weights below this move one token as fast on one core as on two (135M: 60 against 39 to 59 tokens a
/// second); larger ones are bound by more than one core's memory bandwidth.
const SMALL_WEIGHTS: u64 = 256 << 20;

/// Threads that make a single token.
fn decode_threads(weights: &Path, threads: usize) -> usize {
    let small = std::fs::metadata(weights).is_ok_and(|m| m.len() < SMALL_WEIGHTS);
    if small { 1 } else { threads }
}

/// How the engines share the machine: what the configuration says, else what was measured here, else what is
/// usual.
fn cores(config: &Config, measured: Option<Threads>) -> Cores {
    let machine = &config.machine;
    let mut cores = Cores::default();
    if let Some(threads) = measured {
        (cores.asr, cores.llm, cores.tts) = (threads.asr, threads.llm, threads.tts);
    }
    if machine.cores > 0 {
        cores.total = machine.cores;
        cores.asr = cores.asr.min(machine.cores);
        cores.llm = cores.llm.min(machine.cores);
        cores.tts = cores.tts.min(machine.cores);
    }
    let set = |threads: u32, default: u32| if threads > 0 { threads } else { default };
    cores.asr = set(machine.asr_threads, cores.asr);
    cores.llm = set(machine.llm_threads, cores.llm);
    cores.tts = set(machine.tts_threads, cores.tts);
    cores
}

/// How many processes work on what waits.
fn order(config: &Config, cores: Cores) -> Order {
    let machine = &config.machine;
    let set = |processes: u32, default: u32| if processes > 0 { processes } else { default };
    Order {
        asr_processes: set(machine.asr_processes, 1),
        tts_processes: set(machine.tts_processes, (cores.total / CORES_A_VOICE).clamp(1, VOICES_BY_ITSELF)),
        ..Order::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn missing_weights_say_what_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.models.dir = folder.path().display().to_string();
        let error = Chosen::of(&config).unwrap_err().to_string();
        assert!(error.contains("viva models pull"), "{error}");
    }

    #[test]
    fn threads_follow_the_configuration() {
        let mut config = Config::default();
        config.machine.cores = 1;
        config.machine.asr_threads = 3;
        let cores = cores(&config, None);
        assert_eq!((cores.total, cores.asr, cores.llm, cores.tts), (1, 3, 1, 1));
    }

    #[test]
    fn the_voice_has_processes_by_the_cores_or_as_many_as_it_is_told() {
        let of = |total, told| {
            let mut config = Config::default();
            (config.machine.cores, config.machine.tts_processes) = (total, told);
            order(&config, cores(&config, None)).tts_processes
        };
        assert_eq!((of(2, 0), of(16, 0), of(128, 0), of(2, 3)), (1, 2, 4, 3));
    }
}
