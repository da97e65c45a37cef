//! smart-turn: its picture of the sound against the reference, its judgement on real sentences.
#![allow(clippy::unwrap_used)]

mod real;

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Instant;

use half::f16;
use real::{SENTENCES, cpu_ms, runtime, sentence, weights};
use viva_models::TurnDetector;
use viva_models::turn::{LogMel, SmartTurn};

fn open(threads: usize) -> SmartTurn {
    SmartTurn::open(&weights("turn/smart-turn-v3.2-cpu.onnx"), &runtime(), threads).unwrap()
}

#[test]
fn the_picture_is_the_one_the_model_was_trained_on() {
    // The same signal in numpy went through the reference formula; see data/README.md.
    let mut seed = 7u32;
    let samples: Vec<f32> = (0..80_000)
        .map(|i| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let t = f64::from(i) / 16_000.0;
            let chirp = 0.3 * (TAU * (100.0 * t + 300.0 * t * t)).sin() * (3.0 * t).sin().abs();
            (0.02 + chirp + 0.001 * (f64::from(seed >> 8) / 8_388_608.0 - 1.0)) as f32
        })
        .collect();
    let mut out = vec![0.0; LogMel::BANDS * LogMel::FRAMES];
    LogMel::new().compute(&samples, &mut out);
    let reference = include_bytes!("data/mel.bin");
    assert_eq!(reference.len(), LogMel::BANDS * 100 * 2);
    let mut worst = 0.0f32;
    for (i, bytes) in reference.chunks_exact(2).enumerate() {
        let want = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let (band, frame) = (i / 100, i % 100 * 8);
        worst = worst.max((out[band * LogMel::FRAMES + frame] - want).abs());
    }
    println!("largest difference {worst:.5}");
    assert!(worst < 0.002, "{worst}");
}

#[test]
fn the_picture_takes_any_input_quickly() {
    let (mut mel, mut out) = (LogMel::new(), vec![0.0; LogMel::BANDS * LogMel::FRAMES]);
    for samples in [vec![], vec![0.1; 1], vec![f32::NAN; 500], vec![f32::MAX; 200_000], vec![1e-30; 16_000]] {
        mel.compute(&samples, &mut out);
        assert!(out.iter().all(|v| v.is_finite()), "{} samples", samples.len());
    }
    let long: Vec<f32> = (0..128_000).map(|i| (i as f32 * 0.1).sin() * 0.3).collect();
    for samples in [&long[..], &long[..32_000]] {
        let ms = cpu_ms(100, || mel.compute(samples, &mut out));
        println!("picture of {} s: {ms:.1} ms", samples.len() / 16_000);
        assert!(ms < 15.0, "{ms} ms");
    }
}

/// A sentence, or its beginning, with the pause in which the detector is asked.
fn paused(samples: &[f32]) -> Arc<[f32]> {
    let mut turn = samples.to_vec();
    turn.extend([0.0; 3_200]);
    turn.into()
}

#[test]
fn whole_sentences_score_above_sentences_cut_short() {
    let mut detector = open(2);
    let (mut right, mut all) = (0, 0);
    for name in SENTENCES {
        let speech = sentence(name);
        let parts: Vec<_> = [0.35, 0.5, 0.65, 0.8, 1.0]
            .iter()
            .map(|part| paused(&speech[..(speech.len() as f64 * part) as usize]))
            .collect();
        let scores = detector.score(&parts).unwrap();
        println!("{name}: cut at 35 50 65 80 %: {:.3?}, whole: {:.3}", &scores[..4], scores[4]);
        right += scores[..4].iter().filter(|cut| **cut < scores[4]).count();
        all += 4;
        assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)));
    }
    println!("{right} of {all} cuts score below their whole sentence");
    assert!(right * 4 >= all * 3, "{right} of {all}");
}

#[test]
fn only_the_last_eight_seconds_count() {
    let mut detector = open(1);
    let speech = sentence("0870");
    let mut long = sentence("0920");
    long.extend(&sentence("0890"));
    long.extend(&speech);
    let tail: Arc<[f32]> = long[long.len() - LogMel::SAMPLES..].into();
    let scores = detector.score(&[long.into(), tail, Arc::from([])]).unwrap();
    assert_eq!(scores[0], scores[1]);
    assert!(scores[2].is_finite());
}

#[test]
fn a_decision_is_affordable() {
    let turn = paused(&sentence("0870"));
    for threads in [1, 2] {
        let mut detector = open(threads);
        let batch = [turn.clone()];
        let started = Instant::now();
        let ms = cpu_ms(15, || drop(detector.score(&batch).unwrap()));
        println!(
            "{threads} threads: {ms:.0} CPU ms, {:.0} ms wall",
            started.elapsed().as_secs_f64() * 1e3 / 16.0
        );
    }
}
