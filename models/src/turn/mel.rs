//! Whisper's log-mel picture of the last eight seconds, as smart-turn was trained on it.

use std::f64::consts::TAU;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use crate::audio::LISTEN_RATE;

/// Samples of one transform: 25 ms (Whisper's `n_fft`).
const WINDOW: usize = 400;
/// Samples from one frame to the next: 10 ms (Whisper's `hop_length`).
const HOP: usize = 160;
/// Bins of the real spectrum.
const BINS: usize = WINDOW / 2 + 1;
/// Added to the variance before its root is taken (transformers' `zero_mean_unit_var_norm`).
const VARIANCE_FLOOR: f64 = 1e-7;
/// Smallest power that is told from silence (Whisper).
const POWER_FLOOR: f32 = 1e-10;
/// Decades below the loudest point at which the picture is cut (Whisper).
const DECADES: f32 = 8.0;

/// Makes log-mel pictures and keeps what that takes: window, filters, transform, scratch.
pub struct LogMel {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    filters: Vec<Filter>,
    padded: Vec<f32>,
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
    power: Vec<f32>,
}

/// One triangle of the filter bank: where it starts and its weights.
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    /// Mel bands.
    pub const BANDS: usize = 80;
    /// Frames of one picture.
    pub const FRAMES: usize = 800;
    /// Samples of one picture: 8 s at 16 kHz.
    pub const SAMPLES: usize = Self::FRAMES * HOP;

    /// Plans the transform and computes the filters.
    pub fn new() -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(WINDOW);
        let window =
            (0..WINDOW).map(|i| (0.5 - 0.5 * (TAU * i as f64 / WINDOW as f64).cos()) as f32).collect();
        Self {
            window,
            filters: filters(),
            padded: vec![0.0; Self::SAMPLES + WINDOW],
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            power: vec![0.0; BINS],
            fft,
        }
    }

    /// Fills `out` (bands × frames, band-major) from the last [`LogMel::SAMPLES`] of `samples` at 16 kHz,
    /// which are put at the end of the picture behind zeros where there are fewer.
    pub fn compute(&mut self, samples: &[f32], out: &mut [f32]) {
        assert_eq!(out.len(), Self::BANDS * Self::FRAMES, "the caller brings a picture of the fixed size");
        let samples = &samples[samples.len().saturating_sub(Self::SAMPLES)..];
        let silent = self.place(samples);
        // Frames that lie wholly in the zeros in front are all alike: one is computed for all. The first
        // one sees them mirrored, which changes nothing.
        let alike = silent.saturating_sub(WINDOW / 2) / HOP;
        if alike > 1 {
            self.transform(0);
            self.bands(0, out);
            for band in out.chunks_exact_mut(Self::FRAMES) {
                let value = band[0];
                band[1..alike].fill(value);
            }
        }
        for frame in if alike > 1 { alike } else { 0 }..Self::FRAMES {
            self.transform(frame);
            self.bands(frame, out);
        }
        let loudest = out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for value in out.iter_mut() {
            *value = (value.max(loudest - DECADES) + 4.0) / 4.0;
        }
    }

    /// Puts normalised samples into the padded buffer; returns how many zeros stand in front of them.
    fn place(&mut self, samples: &[f32]) -> usize {
        let finite = |s: &f32| if s.is_finite() { f64::from(*s) } else { 0.0 };
        let n = Self::SAMPLES as f64;
        // Mean and variance run over the zeros too, as in the training.
        let mean = samples.iter().map(finite).sum::<f64>() / n;
        let silent = Self::SAMPLES - samples.len();
        let squares: f64 = samples.iter().map(|s| (finite(s) - mean).powi(2)).sum();
        let variance = (squares + silent as f64 * mean * mean) / n;
        let scale = 1.0 / (variance + VARIANCE_FLOOR).sqrt();
        let half = WINDOW / 2;
        self.padded[half..half + silent].fill((-mean * scale) as f32);
        for (slot, sample) in self.padded[half + silent..].iter_mut().zip(samples) {
            *slot = ((finite(sample) - mean) * scale) as f32;
        }
        // Both ends are mirrored without repeating the outermost sample.
        let last = half + Self::SAMPLES - 1;
        for i in 1..=half {
            self.padded[half - i] = self.padded[half + i];
            self.padded[last + i] = self.padded[last - i];
        }
        silent
    }

    fn transform(&mut self, frame: usize) {
        let from = &self.padded[frame * HOP..frame * HOP + WINDOW];
        for ((slot, sample), weight) in self.frame.iter_mut().zip(from).zip(&self.window) {
            *slot = sample * weight;
        }
        self.fft
            .process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch)
            .expect("all buffers were made by this plan");
        for (power, bin) in self.power.iter_mut().zip(&self.spectrum) {
            *power = bin.norm_sqr();
        }
    }

    fn bands(&self, frame: usize, out: &mut [f32]) {
        for (band, filter) in self.filters.iter().enumerate() {
            let bins = &self.power[filter.first..filter.first + filter.weights.len()];
            let energy: f32 = bins.iter().zip(&filter.weights).map(|(p, w)| p * w).sum();
            out[band * Self::FRAMES + frame] = energy.max(POWER_FLOOR).log10();
        }
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

/// Slaney's mel scale: linear to 1 kHz, logarithmic above (27 steps to a factor of 6.4).
fn mel_to_hertz(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp() }
}

fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4f64.ln() }
}

/// Triangles from 0 Hz to half the rate, each of area 1 ("Slaney" normalisation), without their zeros.
fn filters() -> Vec<Filter> {
    let nyquist = f64::from(LISTEN_RATE) / 2.0;
    let top = hertz_to_mel(nyquist);
    let corner = |i: usize| mel_to_hertz(top * i as f64 / (LogMel::BANDS + 1) as f64);
    let filter = |band: usize| {
        let (low, mid, high) = (corner(band), corner(band + 1), corner(band + 2));
        let weight = |bin: usize| {
            let hertz = nyquist * bin as f64 / (BINS - 1) as f64;
            let slope = ((hertz - low) / (mid - low)).min((high - hertz) / (high - mid));
            (slope.max(0.0) * 2.0 / (high - low)) as f32
        };
        let first = (0..BINS).find(|bin| weight(*bin) > 0.0).unwrap_or(0);
        Filter { first, weights: (first..BINS).map(weight).take_while(|w| *w > 0.0).collect() }
    };
    (0..LogMel::BANDS).map(filter).collect()
}
