//! The noises, each with a root mean square of 1.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use viva_models::audio::LISTEN_RATE;

/// What is in the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// All frequencies alike: a bad microphone.
    White,
    /// Falling by 3 dB an octave: wind, traffic, ventilation.
    Pink,
    /// Six others talking at once.
    Babble,
    /// Mains hum, and somebody who types.
    Desk,
}

/// Voices that make babble: fewer can be followed word by word.
const TALKERS: usize = 6;
/// The hum's overtones and their amplitudes: what rectifiers make of 50 Hz.
const HUM: [(f32, f32); 4] = [(50.0, 1.0), (100.0, 0.7), (150.0, 0.4), (250.0, 0.2)];
/// Hertz a key's knock rings at, and the time in which it fades to a third, seconds.
const KNOCK: (std::ops::Range<f32>, f32) = (1_800.0..4_200.0, 0.006);
/// Seconds between two keys: six to twelve a second, somebody who types fast.
const KEYS: std::ops::Range<f32> = 0.08..0.17;

impl Noise {
    pub const ALL: [Self; 4] = [Self::White, Self::Pink, Self::Babble, Self::Desk];

    pub fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Pink => "pink",
            Self::Babble => "babble",
            Self::Desk => "hum and keys",
        }
    }
}

/// So many samples of it, the same for the same seed. `others` are the clips babble is made of.
pub fn make(noise: Noise, length: usize, seed: u64, others: &[&[f32]]) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed ^ (noise as u64) << 32);
    let mut out = match noise {
        Noise::White => white(&mut rng, length),
        Noise::Pink => pink(&mut rng, length),
        Noise::Babble => babble(&mut rng, length, others),
        Noise::Desk => {
            let (hum, keys) = (level(hum(length)), level(keys(&mut rng, length)));
            hum.iter().zip(&keys).map(|(h, k)| h + k).collect()
        }
    };
    out = level(out);
    out
}

fn level(mut samples: Vec<f32>) -> Vec<f32> {
    let rms = (samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32).sqrt();
    samples.iter_mut().for_each(|s| *s /= rms.max(f32::MIN_POSITIVE));
    samples
}

fn white(rng: &mut StdRng, length: usize) -> Vec<f32> {
    // The sum of uniform values is near enough to a bell curve.
    (0..length).map(|_| (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum()).collect()
}

/// White noise held for 1, 2, 4 … samples and summed (Voss): 3 dB an octave to within half a decibel.
fn pink(rng: &mut StdRng, length: usize) -> Vec<f32> {
    let mut held = [0.0f32; 12];
    (0..length)
        .map(|i| {
            for (row, value) in held.iter_mut().enumerate() {
                if i % (1 << row) == 0 {
                    *value = rng.random_range(-1.0..1.0);
                }
            }
            held.iter().sum()
        })
        .collect()
}

fn babble(rng: &mut StdRng, length: usize, others: &[&[f32]]) -> Vec<f32> {
    let mut sum = vec![0.0; length];
    for _ in 0..TALKERS.min(others.len() * TALKERS) {
        let talker = level(others[rng.random_range(0..others.len())].to_vec());
        let from = rng.random_range(0..talker.len());
        for (to, sample) in sum.iter_mut().zip(talker.iter().cycle().skip(from)) {
            *to += sample;
        }
    }
    sum
}

fn hum(length: usize) -> Vec<f32> {
    let at = |i: usize| {
        let t = i as f32 / LISTEN_RATE as f32;
        HUM.iter().map(|(hertz, size)| size * (std::f32::consts::TAU * hertz * t).sin()).sum()
    };
    (0..length).map(at).collect()
}

fn keys(rng: &mut StdRng, length: usize) -> Vec<f32> {
    let mut out = vec![0.0; length];
    let mut at = 0usize;
    while at < length {
        let (hertz, size) = (rng.random_range(KNOCK.0), rng.random_range(0.5..1.0f32));
        for (i, sample) in out[at..].iter_mut().take(LISTEN_RATE as usize / 25).enumerate() {
            let t = i as f32 / LISTEN_RATE as f32;
            let ring = (std::f32::consts::TAU * hertz * t).sin() + rng.random_range(-1.0..1.0f32);
            *sample += size * ring * (-t / KNOCK.1).exp();
        }
        at += (rng.random_range(KEYS) * LISTEN_RATE as f32) as usize;
    }
    out
}
