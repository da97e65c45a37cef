//! The entrance's denoiser and the exit's voice chain.
#![allow(clippy::unwrap_used)]

mod real;

use std::f64::consts::TAU;
use std::time::Instant;

use real::{SENTENCES, sentence};
use viva_models::Denoiser;
use viva_models::audio::{Resampler, SPEAK_RATE, loudness};
use viva_models::enhance::{Limiter, RnNoise, RnNoise16, Voice, gain_for};

/// −1 dBFS.
const CEILING: f32 = 0.891_26;

fn noise(samples: usize, level: f32, mut seed: u32) -> Vec<f32> {
    (0..samples)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            level * ((seed >> 8) as f32 / 8_388_608.0 - 1.0)
        })
        .collect()
}

fn rms(samples: &[f32]) -> f32 {
    (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
}

fn denoise(denoiser: &mut dyn Denoiser, samples: &[f32]) -> Vec<f32> {
    let mut out = samples.to_vec();
    let frame = denoiser.frame();
    let whole = out.len() / frame * frame;
    out.truncate(whole);
    out.chunks_exact_mut(frame).for_each(|part| denoiser.process(part));
    out
}

/// All speech there is, at the rate Viva speaks at.
fn speech() -> Vec<f32> {
    let mut resampler = Resampler::new(16_000, SPEAK_RATE).unwrap();
    let mut out = Vec::new();
    for name in SENTENCES {
        resampler.process(&sentence(name), &mut out);
        resampler.flush(&mut out);
    }
    out
}

fn chain(voice: &mut Voice, samples: &[f32], chunk: usize) -> Vec<f32> {
    let mut out = Vec::new();
    samples.chunks(chunk).for_each(|part| voice.process(part, &mut out));
    voice.flush(&mut out);
    assert_eq!(out.len(), samples.len(), "every sample comes out once");
    out
}

#[test]
fn noise_goes_and_speech_stays() {
    let (steady, clean) = (noise(48_000, 0.02, 3), sentence("0870"));
    let quiet = denoise(&mut RnNoise16::new(), &steady);
    let gone = 20.0 * (rms(&steady[24_000..]) / rms(&quiet[24_000..]).max(1e-9)).log10();
    let kept = denoise(&mut RnNoise16::new(), &clean);
    let lost = 20.0 * (rms(&clean) / rms(&kept)).log10();
    println!("noise down by {gone:.1} dB, clean speech by {lost:.1} dB");
    assert!(gone > 5.0 && lost.abs() < 2.0);
    let noisy: Vec<f32> = clean.iter().zip(noise(clean.len(), 0.05, 9)).map(|(s, n)| s + n).collect();
    let cleaned = denoise(&mut RnNoise16::new(), &noisy);
    let shift = RnNoise16::LATENCY;
    let error = |x: &[f32]| x.iter().zip(&clean).map(|(a, b)| a - b).collect::<Vec<_>>();
    let (before, after) = (rms(&error(&noisy)), rms(&error(&cleaned[shift..])));
    println!("distance from clean speech {before:.4}, cleaned {after:.4}");
    assert!(after < before);
}

#[test]
fn the_denoiser_lags_by_exactly_what_it_says() {
    for (denoiser, rate, latency) in [
        (&mut RnNoise::new() as &mut dyn Denoiser, 48_000, RnNoise::LATENCY),
        (&mut RnNoise16::new(), 16_000, RnNoise16::LATENCY),
    ] {
        let mut resampler = Resampler::new(16_000, rate).unwrap();
        let mut clean = Vec::new();
        resampler.process(&sentence("0870"), &mut clean);
        let out = denoise(denoiser, &clean);
        let product = |lag: usize| -> f32 { out[lag..].iter().zip(&clean).map(|(a, b)| a * b).sum() };
        let best = (0..3 * latency).max_by(|a, b| product(*a).total_cmp(&product(*b))).unwrap();
        assert_eq!(best, latency, "at {rate} Hz");
    }
}

#[test]
fn the_denoiser_outlives_bad_samples() {
    let mut denoiser = RnNoise16::new();
    let bad: Vec<f32> = (0..1_600).map(|i| [f32::NAN, f32::INFINITY, 1e30, -1e30, 0.0][i % 5]).collect();
    assert!(denoise(&mut denoiser, &bad).iter().all(|s| s.is_finite()));
    let after = denoise(&mut denoiser, &sentence("0870"));
    assert!(after.iter().all(|s| s.is_finite()) && rms(&after) > 0.01);
}

#[test]
fn speech_leaves_at_the_target_loudness() {
    let speech = speech();
    let loudest = speech.iter().fold(0.0f32, |a, s| a.max(s.abs()));
    // The same with its quiet parts pushed down: a voice of peaks, which the limiter takes most from.
    let peaked = speech.iter().map(|s| s * (s.abs() / loudest).sqrt()).collect::<Vec<f32>>();
    for (speech, level) in
        [(&speech, 0.2), (&speech, 0.5), (&speech, 1.0), (&speech, 2.5), (&peaked, 0.5), (&peaked, 1.0)]
    {
        let input: Vec<f32> = speech.iter().map(|s| s * level).collect();
        let gain = Voice::calibrate(SPEAK_RATE, &input);
        let out = chain(&mut Voice::new(SPEAK_RATE, gain), &input, 480);
        let (before, after) = (loudness(&input, SPEAK_RATE), loudness(&out, SPEAK_RATE));
        let peak = out.iter().fold(0.0f32, |a, s| a.max(s.abs()));
        println!(
            "{before:.1} LUFS in, gain {:.1} dB, {after:.2} LUFS out, peak {peak:.3}",
            20.0 * gain.log10()
        );
        assert!((after + 16.0).abs() <= 0.1 && peak <= CEILING);
    }
    // What cannot come there ends as well: nothing at all, and single clicks.
    assert_eq!(Voice::calibrate(SPEAK_RATE, &[0.0; 48_000]), 1.0);
    let clicks: Vec<f32> = (0..48_000).map(|i| if i % 12_000 == 0 { 0.5 } else { 0.0 }).collect();
    let gain = 20.0 * Voice::calibrate(SPEAK_RATE, &clicks).log10();
    assert!(gain > 0.0 && gain <= 24.01, "{gain:.1} dB");
    assert!((gain_for(-22.0) - 1.9953).abs() < 1e-3);
    assert_eq!(gain_for(f64::NEG_INFINITY), 1.0);
}

#[test]
fn nothing_ever_leaves_above_the_ceiling() {
    let square: Vec<f32> = (0..24_000).map(|i| if i / 53 % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let impulses: Vec<f32> = (0..24_000).map(|i| if i % 997 == 0 { 3.9 } else { 0.0 }).collect();
    let bursts: Vec<f32> = noise(24_000, 1.0, 5)
        .iter()
        .enumerate()
        .map(|(i, s)| if i / 480 % 3 == 0 { s * 4.0 } else { s * 0.01 })
        .collect();
    let absurd: Vec<f32> = (0..24_000)
        .map(|i| [f32::MAX, f32::MIN, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1e-40][i % 7])
        .collect();
    for (what, input) in [("square", square), ("impulses", impulses), ("bursts", bursts), ("absurd", absurd)]
    {
        for gain in [1.0, 15.0] {
            let out = chain(&mut Voice::new(SPEAK_RATE, gain), &input, 480);
            let peak = out.iter().fold(0.0f32, |a, s| a.max(s.abs()));
            println!("{what} at {gain}: peak {peak}");
            assert!(out.iter().all(|s| s.is_finite()) && peak <= CEILING);
        }
    }
    let not_sound = chain(&mut Voice::new(SPEAK_RATE, 4.0), &[f32::NAN; 5_000], 480);
    assert!(not_sound.iter().all(|s| *s == 0.0));
}

#[test]
fn the_limiter_turns_down_before_the_peak_and_leaves_the_rest_alone() {
    let mut limiter = Limiter::new(SPEAK_RATE, 0.5);
    let mut input = vec![0.25f32; 24_000];
    input[12_000] = 2.0;
    let mut out: Vec<f32> = Vec::new();
    input.iter().for_each(|s| out.extend(limiter.process(*s)));
    limiter.flush(&mut out);
    assert_eq!(out.len(), input.len());
    assert_eq!(out[..11_000], input[..11_000], "untouched long before");
    assert!(out[12_000] > 0.49 && out[12_000] <= 0.5, "the peak is at the ceiling: {}", out[12_000]);
    assert!(out[11_950] < 0.25 && out[12_050] < 0.25, "the gain moves smoothly around it");
    assert!((out[23_999] - 0.25).abs() < 1e-3, "and recovers");
    let step = out
        .windows(2)
        .enumerate()
        .filter(|(i, _)| *i != 11_999 && *i != 12_000)
        .map(|(_, w)| (w[1] - w[0]).abs());
    assert!(step.fold(0.0, f32::max) < 0.01);
}

#[test]
fn frames_of_any_size_give_the_same_output() {
    let input: Vec<f32> = speech().iter().map(|s| s * 3.0).collect();
    let whole = chain(&mut Voice::new(SPEAK_RATE, 2.0), &input, 480);
    for chunk in [1, 7, 479, 100_000] {
        assert_eq!(chain(&mut Voice::new(SPEAK_RATE, 2.0), &input, chunk), whole, "frames of {chunk}");
    }
    // A chain that was flushed or reset is as new.
    let mut used = Voice::new(SPEAK_RATE, 2.0);
    chain(&mut used, &input, 480);
    assert_eq!(chain(&mut used, &input, 480), whole);
    used.process(&input[..999], &mut Vec::new());
    used.reset();
    assert_eq!(chain(&mut used, &input, 480), whole);
    for few in [0, 1, 50, 95, 96, 97] {
        chain(&mut used, &input[..few], 480);
    }
}

#[test]
fn filters_do_what_they_say() {
    let response = |hertz: f64| {
        let tone: Vec<f32> = (0..24_000)
            .map(|i| (0.1 * (TAU * hertz * f64::from(i) / f64::from(SPEAK_RATE)).sin()) as f32)
            .collect();
        let out = chain(&mut Voice::new(SPEAK_RATE, 1.0), &tone, 480);
        20.0 * f64::from(rms(&out[12_000..]) / rms(&tone[12_000..])).log10()
    };
    for (hertz, low, high) in [
        (20.0, -40.0, -22.0),
        (40.0, -14.0, -11.0),
        (80.0, -3.3, -2.7),
        (160.0, -0.5, 0.1),
        (1_000.0, -0.1, 0.6),
        (3_500.0, 1.9, 2.1),
        (10_000.0, -0.1, 0.6),
    ] {
        let decibels = response(hertz);
        println!("{hertz} Hz: {decibels:.2} dB");
        assert!((low..=high).contains(&decibels), "{hertz} Hz: {decibels}");
    }
    let offset = chain(&mut Voice::new(SPEAK_RATE, 1.0), &[0.5; 48_000], 480);
    assert!(offset[24_000..].iter().all(|s| s.abs() < 1e-4), "an offset is removed");
}

#[test]
fn the_chain_costs_little_time_and_less_delay() {
    let mut voice = Voice::new(SPEAK_RATE, 3.0);
    assert!(voice.latency() as f64 / f64::from(SPEAK_RATE) <= 0.005, "{}", voice.latency());
    let input = speech();
    let mut out = Vec::with_capacity(960);
    let place = out.as_ptr();
    let mut per_frame = |what: &str, input: &[f32]| {
        let started = Instant::now();
        let mut frames = 0;
        for frame in input.chunks_exact(480).cycle().take(5_000) {
            out.clear();
            voice.process(frame, &mut out);
            frames += 1;
        }
        let us = started.elapsed().as_secs_f64() * 1e6 / f64::from(frames);
        println!("voice chain, {what}: {us:.1} us per 20 ms");
        us
    };
    let loud = per_frame("speech", &input);
    // After speech the filters ring out: denormals would show here.
    let silent = per_frame("silence", &[0.0; 4_800]);
    assert!(silent < loud * 3.0 + 20.0, "silence costs {silent} us, speech {loud} us");
    assert_eq!(place, out.as_ptr());

    let (mut narrow, mut wide) = (RnNoise16::new(), RnNoise::new());
    let mut frames: Vec<f32> = sentence("0870");
    let mut resampler = Resampler::new(16_000, 48_000).unwrap();
    let mut at_48 = Vec::new();
    resampler.process(&frames, &mut at_48);
    let started = Instant::now();
    at_48.chunks_exact_mut(480).for_each(|frame| wide.process(frame));
    let us48 = started.elapsed().as_secs_f64() * 1e6 / (at_48.len() / 480) as f64;
    let started = Instant::now();
    frames.chunks_exact_mut(160).for_each(|frame| narrow.process(frame));
    let us16 = started.elapsed().as_secs_f64() * 1e6 / (frames.len() / 160) as f64;
    println!("RNNoise: {us48:.0} us per 10 ms at 48 kHz, {us16:.0} us at 16 kHz with resampling");
}
