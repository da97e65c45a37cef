//! What RNNoise at the entrance gives and takes: word errors and VAD errors of noisy speech, with it and without.
//!
//! `cargo bench --bench noise -- --out benches/runs/<date>-noise`; without `--out` only the table is printed, and
//! `--clips N` takes the first N clips. The default of `session.denoise` follows from this.
//!
//! Every clip stands in a second of quiet on both sides and is mixed with each noise at each ratio. The ratio is
//! that of the speech's power where the VAD hears speech in the clean clip to the noise's. The VAD's answers are held
//! against those on the clean clip; the recogniser gets the stretch the clean clip's VAD marks, so that its errors
//! are its own.

#[path = "noise/corpus.rs"]
mod corpus;
#[allow(dead_code)]
#[path = "load/machine.rs"]
mod machine;
#[path = "noise/noises.rs"]
mod noises;
#[path = "noise/tables.rs"]
mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use corpus::Clip;
use noises::Noise;
use serde::Serialize;
use viva_models::audio::LISTEN_RATE;
use viva_models::enhance::RnNoise16;
use viva_models::fetch::models_dir;
use viva_models::registry::{AsrSpec, OnnxSpec, VadSpec, WhisperSpec, open_asr, open_vad};
use viva_models::{Asr, AsrJob, Cancel, Denoiser, VAD_WINDOW, Vad, VadJob, VadState};

/// Ratios of speech to noise in decibels: a street, an open-plan office, a room with a fan.
const RATIOS: [i32; 3] = [0, 5, 10];
/// Root mean square that all speech is brought to: −26 dB, a usual microphone, with room for noise as loud.
const SPEECH_RMS: f32 = 0.05;
/// Quiet before and after each clip, samples: one second, longer than any wait for an end of turn.
const MARGIN: usize = LISTEN_RATE as usize;
/// Audio the recogniser gets before and after what the VAD marks, samples: 300 ms, as a session gives it.
const CONTEXT: usize = LISTEN_RATE as usize * 3 / 10;
/// A window is speech from here on (`viva_actors::vad::THRESHOLD`) ...
const SPEECH: f32 = 0.5;
/// ... and no longer speech below this.
const QUIET: f32 = 0.35;
/// Quiet windows that make a pause: 160 ms, the default of `turn.pause_ms`.
const PAUSE_WINDOWS: usize = 5;
/// Any number would do; this one makes the run repeatable.
const SEED: u64 = 2026;

/// One clip in one noise, with or without RNNoise.
#[derive(Debug, Serialize)]
pub struct Row {
    clip: String,
    /// Read by a person, not by the synthetic voice.
    human: bool,
    noise: &'static str,
    snr_db: Option<i32>,
    denoise: bool,
    words: usize,
    word_errors: usize,
    heard: String,
    /// Windows of 32 ms that are speech in the clean clip, and how many of these were not heard as such.
    speech_windows: usize,
    missed: usize,
    /// The same for the rest.
    quiet_windows: usize,
    false_speech: usize,
    /// From the clean clip's last window of speech to the end of the pause after it; none if no pause was found
    /// in the second that follows.
    pause_ms: Option<usize>,
}

/// What `raw.json` holds before its rows.
#[derive(Serialize)]
struct Run {
    command: String,
    machine: machine::Machine,
    engines: [String; 3],
    seed: u64,
    clips: usize,
    seconds_of_clips: f32,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let most = option("--clips").map_or(Ok(usize::MAX), |n| n.parse()).context("--clips takes a number")?;
    let weights = |file: &str| {
        let path = models_dir().join(file);
        anyhow::ensure!(path.is_file(), "{} is missing; run: viva models pull", path.display());
        Ok(path)
    };
    let onnx = OnnxSpec {
        model: weights("vad/silero_vad.onnx")?,
        runtime: weights("ort/libonnxruntime.so")?,
        threads: 1,
    };
    let whisper = WhisperSpec {
        model: weights("asr/ggml-tiny.en.bin")?,
        threads: 1,
        language: Some("en".into()),
        gpu: false,
    };
    let mut bench = Bench {
        vad: open_vad(&VadSpec::Silero(onnx))?.engine,
        asr: open_asr(&AsrSpec::Whisper(whisper))?.engine,
    };
    let clips = corpus::clips(most)?;
    let mut all = Vec::new();
    for clip in &clips {
        let others: Vec<&[f32]> =
            clips.iter().filter(|c| c.name != clip.name).map(|c| &c.samples[..]).collect();
        all.push((clip, bench.prepare(clip)?, others));
    }
    let mut rows = Vec::new();
    for (clip, clean, others) in &all {
        eprintln!("{}: {}", clip.name, clip.text);
        rows.extend(bench.both(clip, clean, &clean.samples, ("none", None))?);
        for noise in Noise::ALL {
            let noisy = noises::make(noise, clean.samples.len(), SEED, others);
            for snr_db in RATIOS {
                let loud = SPEECH_RMS / 10f32.powf(snr_db as f32 / 20.0);
                let mixed: Vec<f32> = clean.samples.iter().zip(&noisy).map(|(s, n)| s + n * loud).collect();
                rows.extend(bench.both(clip, clean, &mixed, (noise.name(), Some(snr_db)))?);
            }
        }
    }
    let table = tables::table(&rows);
    println!("{table}");
    let Some(out) = option("--out") else { return Ok(()) };
    let run = Run {
        command: format!("cargo bench --bench noise -- {}", args[1..].join(" ").replace(" --bench", "")),
        machine: machine::Machine::describe(),
        engines: [bench.vad.name().into(), bench.asr.name().into(), "nnnoiseless 0.5.2 at 48 kHz".into()],
        seed: SEED,
        clips: clips.len(),
        seconds_of_clips: clips.iter().map(|c| c.samples.len() as f32 / LISTEN_RATE as f32).sum(),
    };
    write(Path::new(out), &run, &rows, &table)
}

fn write(folder: &Path, run: &Run, rows: &[Row], table: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // One row a line, so that the differences between two runs can be read.
    let rows: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let head = serde_json::to_string_pretty(run)?;
    let head = head.trim_end_matches("\n}");
    let raw = format!("{head},\n  \"rows\": [\n{}\n  ]\n}}\n", rows.join(",\n"));
    std::fs::write(folder.join("raw.json"), raw)?;
    std::fs::write(folder.join("table.md"), table)?;
    Ok(())
}

/// A clip at one loudness, in quiet, with what the VAD says of it.
struct Clean {
    samples: Vec<f32>,
    speech: Vec<bool>,
    /// The stretch the recogniser gets.
    heard: std::ops::Range<usize>,
}

struct Bench {
    vad: Box<dyn Vad>,
    asr: Box<dyn Asr>,
}

impl Bench {
    fn prepare(&mut self, clip: &Clip) -> Result<Clean> {
        let quiet = || std::iter::repeat_n(0.0, MARGIN);
        let mut samples: Vec<f32> = quiet().chain(clip.samples.iter().copied()).chain(quiet()).collect();
        samples.resize(samples.len().next_multiple_of(VAD_WINDOW), 0.0);
        let speech: Vec<bool> = self.probabilities(&samples)?.iter().map(|p| *p >= SPEECH).collect();
        let marked = samples.chunks(VAD_WINDOW).zip(&speech).filter(|(_, speech)| **speech);
        let power: Vec<f32> =
            marked.map(|(w, _)| w.iter().map(|s| s * s).sum::<f32>() / w.len() as f32).collect();
        let rms = (power.iter().sum::<f32>() / power.len().max(1) as f32).sqrt();
        samples.iter_mut().for_each(|s| *s *= SPEECH_RMS / rms);
        let none = || format!("the VAD hears no speech in {}", clip.name);
        let first = speech.iter().position(|s| *s).with_context(none)?;
        let last = speech.iter().rposition(|s| *s).with_context(none)?;
        let heard = (first * VAD_WINDOW).saturating_sub(CONTEXT)
            ..((last + 1) * VAD_WINDOW + CONTEXT).min(samples.len());
        Ok(Clean { samples, speech, heard })
    }

    fn both(
        &mut self,
        clip: &Clip,
        clean: &Clean,
        mixed: &[f32],
        (noise, snr_db): (&'static str, Option<i32>),
    ) -> Result<[Row; 2]> {
        let mut row = |denoise: bool| -> Result<Row> {
            let cleaned = denoise.then(|| denoised(mixed));
            let signal = cleaned.as_deref().unwrap_or(mixed);
            let probabilities = self.probabilities(signal)?;
            let wrong = |speech: bool| {
                let of = clean.speech.iter().zip(&probabilities).filter(|(s, _)| **s == speech);
                (of.clone().count(), of.filter(|(_, p)| (**p >= SPEECH) != speech).count())
            };
            let ((speech_windows, missed), (quiet_windows, false_speech)) = (wrong(true), wrong(false));
            let job = AsrJob {
                samples: signal[clean.heard.clone()].to_vec(),
                language: Some("en".into()),
                ..AsrJob::default()
            };
            let heard = self.asr.transcribe(&job, &Cancel::new())?.text;
            let (word_errors, words) = corpus::word_errors(&clip.text, &heard);
            Ok(Row {
                clip: clip.name.clone(),
                human: clip.human,
                noise,
                snr_db,
                denoise,
                words,
                word_errors,
                heard,
                speech_windows,
                missed,
                quiet_windows,
                false_speech,
                pause_ms: pause_ms(&clean.speech, &probabilities),
            })
        };
        Ok([row(false)?, row(true)?])
    }

    /// How likely each window is speech.
    fn probabilities(&mut self, samples: &[f32]) -> Result<Vec<f32>> {
        let (mut state, mut all, mut one) = (VadState::default(), Vec::new(), Vec::new());
        for window in samples.chunks_exact(VAD_WINDOW) {
            let window = Box::new(window.try_into().expect("chunks_exact gives whole windows"));
            let mut batch = [VadJob { state, window }];
            self.vad.detect(&mut batch, &mut one)?;
            all.extend(&one);
            let [job] = batch;
            state = job.state;
        }
        Ok(all)
    }
}

/// The signal as RNNoise leaves it, moved back by its latency, so that windows can be compared.
fn denoised(signal: &[f32]) -> Vec<f32> {
    let mut denoiser = RnNoise16::new();
    let mut out = signal.to_vec();
    let whole = (signal.len() + RnNoise16::LATENCY).next_multiple_of(denoiser.frame());
    out.resize(whole, 0.0);
    out.chunks_exact_mut(denoiser.frame()).for_each(|frame| denoiser.process(frame));
    out.drain(..RnNoise16::LATENCY);
    out.truncate(signal.len());
    out
}

/// When a session would find the pause after the last speech, in milliseconds from its end.
fn pause_ms(speech: &[bool], probabilities: &[f32]) -> Option<usize> {
    let end = speech.iter().rposition(|s| *s)? + 1;
    let after = probabilities.get(end..)?;
    let quiet = after.windows(PAUSE_WINDOWS).position(|run| run.iter().all(|p| *p < QUIET))?;
    Some((quiet + PAUSE_WINDOWS) * VAD_WINDOW * 1000 / LISTEN_RATE as usize)
}

/// A file of the package; cargo starts benchmarks there, but nobody has to.
fn packaged(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
