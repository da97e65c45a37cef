//! Silero on real speech: separation, batching, state that travels.
#![allow(clippy::unwrap_used)]

mod real;

use real::{SENTENCES, cpu_ms, runtime, sentence, weights};
use viva_models::audio::LISTEN_RATE;
use viva_models::vad::Silero;
use viva_models::{EngineError, VAD_WINDOW, Vad, VadJob, VadState};

fn open() -> Silero {
    Silero::open(&weights("vad/silero_vad.onnx"), &runtime()).unwrap()
}

fn windows(samples: &[f32]) -> Vec<[f32; VAD_WINDOW]> {
    samples.chunks_exact(VAD_WINDOW).map(|w| w.try_into().unwrap()).collect()
}

/// Runs streams side by side, one window of each in every call; streams may end at different times.
fn run(vad: &mut Silero, streams: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let windows: Vec<_> = streams.iter().map(|s| windows(s)).collect();
    let mut states = vec![VadState::default(); streams.len()];
    let mut all = vec![Vec::new(); streams.len()];
    let mut probabilities = Vec::new();
    for at in 0..windows.iter().map(Vec::len).max().unwrap_or(0) {
        let who: Vec<usize> = (0..streams.len()).filter(|i| at < windows[*i].len()).collect();
        let mut batch: Vec<VadJob> = who
            .iter()
            .map(|&i| VadJob { state: std::mem::take(&mut states[i]), window: Box::new(windows[i][at]) })
            .collect();
        vad.detect(&mut batch, &mut probabilities).unwrap();
        assert_eq!(probabilities.len(), who.len());
        for ((i, job), p) in who.into_iter().zip(batch).zip(&probabilities) {
            states[i] = job.state;
            all[i].push(*p);
        }
    }
    all
}

/// White noise and a hum, seeded.
fn noise(samples: usize, level: f32) -> Vec<f32> {
    let mut seed = 7u32;
    (0..samples)
        .map(|i| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            level * ((seed >> 8) as f32 / 8_388_608.0 - 1.0) + level * (i as f32 * 0.0196).sin()
        })
        .collect()
}

#[test]
fn speech_is_told_from_silence_and_noise() {
    let mut vad = open();
    let mean = |p: &[f32]| p.iter().sum::<f32>() / p.len() as f32;
    for name in SENTENCES {
        let speech = run(&mut vad, &[sentence(name)]).remove(0);
        let heard = speech.iter().filter(|p| **p > 0.5).count() as f32 / speech.len() as f32;
        println!("{name}: mean {:.2}, over 0.5 in {:.0} % of windows", mean(&speech), heard * 100.0);
        assert!(heard > 0.6, "{name}: speech in only {heard} of it");
    }
    for (what, samples) in [
        ("silence", vec![0.0; 48_000]),
        ("soft noise", noise(48_000, 0.003)),
        ("loud noise", noise(48_000, 0.1)),
    ] {
        let quiet = run(&mut vad, &[samples]).remove(0);
        let worst = quiet.iter().copied().fold(0.0, f32::max);
        println!("{what}: mean {:.3}, worst {worst:.3}", mean(&quiet));
        assert!(worst < 0.5, "{what} taken for speech: {worst}");
    }
}

/// What a microphone hears that is no speech: clicks, a knock on the desk, typing, breath.
fn noises() -> Vec<(&'static str, Vec<f32>)> {
    let second = LISTEN_RATE as usize;
    let decay = |at: usize, from: usize, tau: f32| (-((at - from) as f32) / tau).exp();
    let hiss = noise(3 * second, 1.0);
    let bursts = |every: usize, tau: f32, level: f32, tone: f32| -> Vec<f32> {
        let at = |i: usize| i / every * every;
        (0..3 * second)
            .map(|i| level * decay(i, at(i), tau) * (hiss[i] + tone * (i as f32 * 0.05).sin()) * 0.5)
            .collect()
    };
    let breath = |i: usize| 0.02 * (i as f32 * std::f32::consts::PI / second as f32).sin().powi(2);
    vec![
        ("mouse clicks", bursts(second / 2, 20.0, 0.5, 0.0)),
        ("typing", bursts(second / 8, 60.0, 0.3, 0.2)),
        ("knocks", bursts(second, 400.0, 0.8, 2.0)),
        ("breath", (0..3 * second).map(|i| breath(i) * hiss[i]).collect()),
    ]
}

/// A single window from 0.85 on begins a turn and holds our voice (`START_SURE` in the actors' VAD stage).
#[test]
fn no_click_or_breath_is_surely_speech() {
    let mut vad = open();
    for (what, samples) in noises() {
        let worst = run(&mut vad, &[samples]).remove(0).into_iter().fold(0.0, f32::max);
        println!("{what}: worst {worst:.3}");
        assert!(worst < 0.85, "{what} taken for speech: {worst}");
    }
}

#[test]
fn a_batch_gives_what_each_caller_alone_would_get() {
    let mut vad = open();
    // 70 callers: more than one run holds, and streams of different length.
    let streams: Vec<Vec<f32>> =
        (0..70).map(|i| sentence(SENTENCES[i % 5])[i * 100..][..16_000 + i * 64].to_vec()).collect();
    let together = run(&mut vad, &streams);
    let mut worst = 0.0f32;
    for (stream, batch) in streams.iter().zip(&together) {
        let alone = run(&mut vad, std::slice::from_ref(stream)).remove(0);
        assert_eq!(alone.len(), batch.len());
        worst = alone.iter().zip(batch).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    println!("largest difference {worst:e}");
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn windows_with_nan_do_no_lasting_harm_and_no_windows_are_no_work() {
    let mut vad = open();
    let mut probabilities = vec![1.0];
    vad.detect(&mut [], &mut probabilities).unwrap();
    assert!(probabilities.is_empty());
    let mut batch = [VadJob { state: VadState::default(), window: Box::new([f32::NAN; VAD_WINDOW]) }];
    vad.detect(&mut batch, &mut probabilities).unwrap();
    assert!(probabilities[0].is_finite() && batch[0].state.recurrent.iter().all(|s| s.is_finite()));
}

#[test]
fn a_missing_file_is_named() {
    let error = Silero::open("nowhere/silero.onnx".as_ref(), &runtime()).err().unwrap();
    assert!(matches!(&error, EngineError::Invalid(why) if why.contains("nowhere/silero.onnx")), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.onnx");
    std::fs::write(&bad, b"not a model").unwrap();
    let error = Silero::open(&bad, &runtime()).err().unwrap();
    assert!(matches!(&error, EngineError::Invalid(why) if why.contains("bad.onnx")), "{error}");
}

#[test]
fn batching_pays() {
    let mut vad = open();
    let speech = sentence("0870");
    for size in [1usize, 8, 64] {
        let mut batch: Vec<VadJob> = (0..size)
            .map(|i| VadJob {
                state: VadState::default(),
                window: Box::new(speech[i * 700..][..VAD_WINDOW].try_into().unwrap()),
            })
            .collect();
        let mut probabilities = Vec::new();
        let ms = cpu_ms((4_000 / size) as u32, || vad.detect(&mut batch, &mut probabilities).unwrap());
        println!(
            "batch of {size}: {:.3} ms a window, {:.2} ms per second of audio",
            ms / size as f64,
            ms / size as f64 / 0.032
        );
    }
}
