//! Sounds made by arithmetic, for callers who have no recordings: a cough, and something with the
//! pitch, formants and rhythm of speech. Seeded, so that every run hears the same.

use std::f64::consts::TAU;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::clip::{Clip, RATE};

/// A cough: two bursts of noise through a low resonance, 0.45 s altogether.
pub fn cough(seed: u64) -> Arc<Clip> {
    let mut random = StdRng::seed_from_u64(seed);
    let total = RATE as usize * 45 / 100;
    let mut resonance = Resonator::new(900.0, 700.0);
    let samples = (0..total).map(|i| {
        let t = i as f64 / f64::from(RATE);
        // An explosive start, a dip at 0.2 s, a weaker second push; each decays within 0.1 s.
        let push = |at: f64, size: f64| if t < at { 0.0 } else { size * (-(t - at) / 0.05).exp() };
        let noise = random.random_range(-1.0..1.0);
        resonance.pass(noise) * (push(0.02, 1.0) + push(0.22, 0.6))
    });
    Arc::new(Clip::new("<cough>", normalised(samples.collect(), 0.5)))
}

/// So many seconds of something speech-like: voiced syllables at 4 a second, changing vowels, a falling
/// pitch, short gaps between words.
pub fn speech_like(seed: u64, seconds: f64) -> Arc<Clip> {
    let mut random = StdRng::seed_from_u64(seed);
    let total = (seconds * f64::from(RATE)) as usize;
    let base_pitch = random.random_range(95.0..190.0);
    let (mut samples, mut phase) = (Vec::with_capacity(total), 0.0_f64);
    while samples.len() < total {
        let [f1, f2, f3] = VOWELS[random.random_range(0..VOWELS.len())];
        let mut formants = [Resonator::new(f1, 80.0), Resonator::new(f2, 110.0), Resonator::new(f3, 160.0)];
        let length = (f64::from(RATE) * random.random_range(0.16..0.26)) as usize;
        let gap = if random.random_bool(0.3) { length / 3 } else { length / 12 };
        for i in 0..length {
            let within = i as f64 / length as f64;
            let said = samples.len() as f64 / total as f64;
            let pitch = base_pitch * (1.1 - 0.2 * said + 0.05 * (within * TAU).sin());
            phase = (phase + pitch / f64::from(RATE)).fract();
            // A glottal pulse: open for 60 % of the cycle, then shut, plus a little breath.
            let pulse = if phase < 0.6 { (phase / 0.6 * TAU / 2.0).sin().powi(2) } else { 0.0 };
            let source = pulse - 0.3 + random.random_range(-0.04..0.04);
            let voiced: f64 = formants.iter_mut().map(|formant| formant.pass(source)).sum();
            samples.push(voiced * (within * TAU / 2.0).sin().powf(0.6));
        }
        samples.extend(std::iter::repeat_n(0.0, gap));
    }
    samples.truncate(total);
    Arc::new(Clip::new("<speech-like>", normalised(samples, 0.4)))
}

/// First three formants in hertz of five vowels of adult speakers (Peterson and Barney 1952).
const VOWELS: [[f64; 3]; 5] = [
    [270.0, 2290.0, 3010.0],
    [530.0, 1840.0, 2480.0],
    [730.0, 1090.0, 2440.0],
    [570.0, 840.0, 2410.0],
    [300.0, 870.0, 2240.0],
];

/// A two-pole resonance of unit gain at its centre.
struct Resonator {
    gain: f64,
    a1: f64,
    a2: f64,
    y1: f64,
    y2: f64,
}

impl Resonator {
    fn new(hertz: f64, width: f64) -> Self {
        let rate = f64::from(RATE);
        let radius = (-TAU / 2.0 * width / rate).exp();
        let a1 = 2.0 * radius * (TAU * hertz / rate).cos();
        Self { gain: 1.0 - radius, a1, a2: -radius * radius, y1: 0.0, y2: 0.0 }
    }

    fn pass(&mut self, x: f64) -> f64 {
        let y = self.gain * x + self.a1 * self.y1 + self.a2 * self.y2;
        self.y2 = self.y1;
        self.y1 = y;
        y
    }
}

fn normalised(samples: Vec<f64>, peak: f64) -> Vec<i16> {
    let loudest = samples.iter().fold(1e-9_f64, |loudest, sample| loudest.max(sample.abs()));
    samples.iter().map(|sample| (sample / loudest * peak * 32767.0) as i16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_sound() {
        assert_eq!(cough(3).samples, cough(3).samples);
        assert_ne!(speech_like(1, 1.0).samples, speech_like(2, 1.0).samples);
    }

    #[test]
    fn speech_like_has_the_length_asked_for_and_ends_near_it() {
        let clip = speech_like(7, 2.5);
        assert_eq!(clip.samples.len(), RATE as usize * 5 / 2);
        assert!(clip.samples.len() - clip.speech_end < RATE as usize / 3);
    }
}
