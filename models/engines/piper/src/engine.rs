//! One Piper voice: text → clauses → phonemes → speech, a sentence at a time.

use std::path::{Path, PathBuf};

use espeak::phonemes;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use piper_rs::{ModelConfig, Piper};
use viva_models::registry::PiperSpec;
use viva_models::{Cancel, EngineError, Result, StyleSupport, TTS_TEXT_MAX, Tts, TtsJob};

use crate::text::{Clause, sentences};

/// Below this (−46 dBFS) a sample counts as silence when the start of a line is trimmed.
const SILENCE: f32 = 0.005;

/// Silence kept in front of the first sound: the caller waits through it. 10 ms let a soft consonant begin.
const LEAD_MS: usize = 10;

/// Silence kept behind the last sound of a sentence, so that its last consonant dies away.
const TAIL_MS: usize = 80;

/// Rest between two inferences of one job: a speaker's short breath.
const REST_MS: usize = 180;

/// Pace a style may ask for, see [`viva_models::Style`].
const PACE_MIN: f32 = 0.25;
const PACE_MAX: f32 = 4.0;

/// Piper behind the contract.
pub(crate) struct Voice {
    name: String,
    sample_rate: u32,
    /// espeak's name of the language the voice speaks.
    accent: String,
    length_scale: f32,
    speakers: Vec<(String, i64)>,
    piper: Piper,
}

impl Voice {
    /// Loads the voice, its configuration and the runtime.
    pub(crate) fn open(spec: &PiperSpec) -> Result<Self> {
        let config = read_config(&config_path(&spec.model))?;
        viva_models::ort_runtime::init(&spec.runtime)?;
        let session = session(&spec.model, spec.threads)
            .map_err(|e| EngineError::Invalid(format!("{} is no usable voice: {e}", spec.model.display())))?;
        let stem = spec.model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let mut speakers: Vec<(String, i64)> =
            config.speaker_id_map.iter().map(|(name, id)| (name.clone(), *id)).collect();
        speakers.sort_by_key(|(_, id)| *id);
        if speakers.is_empty() {
            // A voice of one speaker is called by its own name: "joe" of "en_US-joe-medium".
            speakers.push((stem.split('-').nth(1).unwrap_or(&stem).to_owned(), 0));
        }
        let mut voice = Self {
            name: format!("piper {stem}"),
            sample_rate: config.audio.sample_rate,
            accent: config.espeak.voice.clone(),
            length_scale: config.inference.length_scale,
            speakers,
            piper: Piper::from_session(session, config),
        };
        // The first inference allocates; better here than under a caller's first sentence. It also proves
        // that espeak finds its data.
        voice.say(&[Clause { text: "Ready".into(), mark: '.' }], voice.length_scale, 0)?;
        Ok(voice)
    }

    fn speaker(&self, name: &str) -> Result<i64> {
        if name.is_empty() {
            return Ok(self.speakers[0].1);
        }
        self.speakers.iter().find(|(known, _)| known == name).map(|(_, id)| *id).ok_or_else(|| {
            let known: Vec<&str> = self.speakers.iter().take(20).map(|(n, _)| n.as_str()).collect();
            EngineError::Invalid(format!("{} has no voice {name:?}; it has {}", self.name, known.join(", ")))
        })
    }

    /// Speaks one inference's clauses and trims the silence around them.
    fn say(&mut self, clauses: &[Clause], length_scale: f32, speaker: i64) -> Result<Vec<f32>> {
        let mut line = String::new();
        for clause in clauses {
            let spoken = phonemes(&clause.text, &self.accent)?;
            if spoken.is_empty() {
                continue;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&spoken);
            line.push(clause.mark);
        }
        if line.is_empty() {
            return Ok(Vec::new());
        }
        let (mut samples, _) = self
            .piper
            .create(&line, true, Some(speaker), Some(length_scale), None, None)
            .map_err(|e| EngineError::Failed(e.to_string()))?;
        trim(&mut samples, self.sample_rate);
        Ok(samples)
    }
}

impl Tts for Voice {
    fn name(&self) -> &str {
        &self.name
    }

    fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    fn styles(&self) -> StyleSupport {
        let voices = self.speakers.iter().map(|(name, _)| name.clone()).collect();
        StyleSupport { voices, pace: true, ..StyleSupport::default() }
    }

    fn speak(&mut self, job: &TtsJob, cancel: &Cancel, sink: &mut dyn FnMut(&[f32])) -> Result<()> {
        if job.text.len() > TTS_TEXT_MAX {
            return Err(EngineError::Invalid(format!(
                "{} bytes of text; at most {TTS_TEXT_MAX} are spoken in one job",
                job.text.len()
            )));
        }
        let speaker = self.speaker(&job.style.voice)?;
        let pace = if job.style.pace.is_finite() { job.style.pace.clamp(PACE_MIN, PACE_MAX) } else { 1.0 };
        let rest = vec![0.0; (REST_MS as f32 / pace) as usize * self.sample_rate as usize / 1000];
        let mut spoken = false;
        for sentence in sentences(&job.text) {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let samples = self.say(&sentence, self.length_scale / pace, speaker)?;
            if samples.is_empty() {
                continue;
            }
            if spoken {
                sink(&rest);
            }
            sink(&samples);
            spoken = true;
        }
        if cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }
}

/// Cuts silence down to [`LEAD_MS`] in front and [`TAIL_MS`] behind. A line that is all silence is emptied.
fn trim(samples: &mut Vec<f32>, rate: u32) {
    let ms = |n: usize| n * rate as usize / 1000;
    let Some(first) = samples.iter().position(|s| s.abs() > SILENCE) else {
        samples.clear();
        return;
    };
    let last = samples.iter().rposition(|s| s.abs() > SILENCE).unwrap_or(first);
    samples.truncate((last + 1 + ms(TAIL_MS)).min(samples.len()));
    samples.drain(..first.saturating_sub(ms(LEAD_MS)));
}

fn config_path(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| EngineError::Invalid(format!("{}: {e}; run: viva models pull", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|e| EngineError::Invalid(format!("{} is no voice's configuration: {e}", path.display())))
}

fn session(model: &Path, threads: usize) -> std::result::Result<Session, ort::Error> {
    let mut builder = Session::builder()?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads.max(1))?
        .with_inter_threads(1)?
        // Threads that spin take the core from the other engines.
        .with_intra_op_spinning(false)?
        // Every sentence has another length; a plan for each would only grow.
        .with_memory_pattern(false)?;
    #[cfg(feature = "cuda")]
    {
        builder = builder.with_execution_providers([ort::ep::CUDA::default().build()])?;
    }
    builder.commit_from_file(model)
}

/// espeak-ng through piper-rs's own binding crate.
mod espeak {
    use std::sync::{Mutex, PoisonError};

    use viva_models::{EngineError, Result};

    /// espeak-ng corrupts its memory when two threads are in it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// IPA of a text without clause marks, in espeak's voice `accent` ("en-us").
    pub(super) fn phonemes(text: &str, accent: &str) -> Result<String> {
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = espeak_rs::text_to_phonemes(text, accent, None)
            .map_err(|e| EngineError::Failed(e.to_string()))?;
        // Its own closing marks go: the caller knows which one stood there.
        let joined = parts.iter().map(|p| p.trim().trim_end_matches(['.', ',', '!', '?', ';', ':']));
        Ok(joined.collect::<Vec<_>>().join(" ").trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_around_speech_is_cut_to_a_breath() {
        let mut samples = vec![0.0; 10_000];
        samples.extend([0.5; 1_000]);
        samples.extend([0.0; 10_000]);
        trim(&mut samples, 10_000);
        assert_eq!(samples.len(), LEAD_MS * 10 + 1_000 + TAIL_MS * 10);
        let mut nothing = vec![0.001; 100];
        trim(&mut nothing, 10_000);
        assert!(nothing.is_empty());
    }
}
