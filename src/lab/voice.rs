//! The candidates' own voice: lines of words become clips, once, and are kept for the next run.
//!
//! Two mouths: Piper, which says the words (the same engine and weights as the server's), and sound with the
//! rhythm of speech for servers whose recogniser is a fake. Both say a line the same way each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use viva_models::audio::to_i16;
use viva_models::fetch::Weights;
use viva_models::registry::{self, Opened, PiperSpec, TtsSpec};
use viva_models::{Cancel, Style, Tts, TtsJob};

use crate::client::clip::Clip;
use crate::client::error::{ClientError, Result};
use crate::client::{Clips, signals};

/// Characters a second of fluent speech: the 24 short answers of `tests/data/answers` have 70 characters in
/// 4.0 s on average.
pub const CHARS_PER_S: f64 = 17.5;
/// Shortest made line, seconds: an "mm-hm".
const MADE_S_MIN: f64 = 0.35;

/// Seconds it takes to say a line.
pub fn seconds(text: &str) -> f64 {
    (text.chars().count() as f64 / CHARS_PER_S).max(MADE_S_MIN)
}

/// How lines are said.
pub enum Voice {
    /// In words, by Piper; kept in a folder.
    Piper(Box<Piper>),
    /// As sound with the rhythm of speech.
    Made,
}

/// Piper, opened when the first line is not in the folder yet.
pub struct Piper {
    model: PathBuf,
    spec: TtsSpec,
    folder: PathBuf,
    opened: Option<Opened<dyn Tts>>,
}

impl Voice {
    /// The voice of a profile's weights in `models`; what it says is kept beside that folder.
    ///
    /// # Errors
    /// [`ClientError::Voice`] when its weights are not there.
    pub fn piper(models: &Path, profile: &str) -> Result<Self> {
        let weights = Weights::within(models, profile).map_err(|error| failed(&error))?;
        let folder = models.parent().unwrap_or(models).join("lines");
        let spec = TtsSpec::Piper(PiperSpec {
            model: weights.tts.clone(),
            runtime: weights.runtime,
            threads: 1,
            espeak_data: None,
        });
        Ok(Self::Piper(Box::new(Piper { model: weights.tts, spec, folder, opened: None })))
    }

    /// Says every line, and adds it to the clips. `told` hears of each. Blocks while it speaks.
    pub fn say(&mut self, texts: &[&str], clips: &mut Clips, told: &mut dyn FnMut(&str)) -> Result<()> {
        for text in texts {
            let clip = match self {
                Self::Made => made(text),
                Self::Piper(piper) => piper.line(text)?,
            };
            clips.insert_line(*text, clip);
            told(text);
        }
        Ok(())
    }
}

fn failed(why: &dyn std::fmt::Display) -> ClientError {
    ClientError::Voice { why: why.to_string() }
}

fn made(text: &str) -> Arc<Clip> {
    // Only this process needs to get the same number for the same words; every build of it does.
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let sound = signals::speech_like(hasher.finish(), seconds(text));
    Arc::new(Clip::new(text, sound.samples.clone()))
}

impl Piper {
    /// A line from the folder, or spoken now.
    fn line(&mut self, text: &str) -> Result<Arc<Clip>> {
        let file = self.folder.join(format!("{}.wav", self.key(text)));
        if !file.is_file() {
            let (samples, rate) = self.speak(text)?;
            self.keep(&file, &samples, rate).map_err(|error| failed(&error))?;
        }
        let kept = Clip::load(&file)?;
        Ok(Arc::new(Clip::new(text, kept.samples.clone())))
    }

    /// The same words by the same weights have the same name.
    fn key(&self, text: &str) -> String {
        let voice = self.model.file_stem().unwrap_or_default().to_string_lossy();
        let hash = Sha256::new().chain_update(voice.as_bytes()).chain_update([0]).chain_update(text);
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn speak(&mut self, text: &str) -> Result<(Vec<f32>, u32)> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => registry::open_tts(&self.spec).map_err(|error| failed(&error))?,
        };
        let engine = &mut self.opened.insert(opened).engine;
        let job = TtsJob { text: text.to_owned(), style: Style::default(), language: Some("en".into()) };
        let mut samples = Vec::new();
        let mut sink = |more: &[f32]| samples.extend_from_slice(more);
        engine.speak(&job, &Cancel::new(), &mut sink).map_err(|error| failed(&error))?;
        let rate = engine.sample_rate();
        Ok((samples, rate))
    }

    /// Written under another name first, so that two runs at once never read half a line.
    fn keep(&self, file: &Path, samples: &[f32], rate: u32) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let half = file.with_extension(format!("{}.part", std::process::id()));
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let written = (|| -> std::result::Result<(), hound::Error> {
            let mut writer = hound::WavWriter::create(&half, spec)?;
            for &sample in samples {
                writer.write_sample(to_i16(sample))?;
            }
            writer.finalize()
        })();
        written.map_err(std::io::Error::other)?;
        std::fs::rename(&half, file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::client::{RATE, Step};

    #[test]
    fn made_lines_last_as_long_as_their_words_and_sound_the_same_each_time() {
        let step = Step::Say { text: "For the last three years I have mostly written Rust.".into() };
        let text = step.text().unwrap();
        let clip = made(text);
        let took = clip.samples.len() as f64 / f64::from(RATE);
        assert!((2.5..3.5).contains(&took), "{took}");
        assert_eq!(clip.samples, made(text).samples);
        assert_ne!(clip.samples, made("Another line of about the same length, with more in it.").samples);
    }

    #[test]
    fn a_line_that_was_kept_needs_no_engine() {
        let folder = tempfile::tempdir().unwrap();
        let model = PathBuf::from("nowhere/voice.onnx");
        let spec = TtsSpec::Piper(PiperSpec {
            model: model.clone(),
            runtime: "nowhere".into(),
            threads: 1,
            espeak_data: None,
        });
        let mut piper = Piper { model, spec, folder: folder.path().join("lines"), opened: None };
        assert!(piper.line("hello").is_err(), "there is no such engine");
        let sound: Vec<f32> = (0..22_050).map(|i| (i as f32 * 0.1).sin() * 0.3).collect();
        let file = piper.folder.join(format!("{}.wav", piper.key("hello")));
        piper.keep(&file, &sound, 22_050).unwrap();
        let clip = piper.line("hello").unwrap();
        assert!(clip.samples.len().abs_diff(RATE as usize) < 500 && clip.name == "hello");
        assert!(piper.line("hello you").is_err(), "other words are another line");
    }
}
