//! The exit chain: what makes a synthetic voice sit well in a headset, at one loudness for all voices.

use super::biquad::Biquad;
use super::limiter::Limiter;
use crate::audio;

/// Loudness of Viva's speech in LUFS: what spoken programmes for headphones are made at (Apple asks podcasts
/// for −16 ± 1).
pub const LOUDNESS_TARGET: f64 = -16.0;
/// Highest sample that leaves: −1 dBFS, room for what the listener's resampler and codec overshoot.
const CEILING: f32 = 0.891_250_9;
/// Below the lowest male voice (85 Hz), above the rumble that VITS makes.
const HIGH_PASS_HERTZ: f64 = 80.0;
/// Butterworth: flat down to the corner.
const HIGH_PASS_Q: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// Consonants live between 3 and 4 kHz.
const PRESENCE_HERTZ: f64 = 3_500.0;
/// About two octaves wide.
const PRESENCE_Q: f64 = 0.7;
/// Audible as nearness, not yet as sharpness.
const PRESENCE_DECIBELS: f64 = 2.0;
/// Most a voice is turned up or down: a voice that needs more is broken and would only be noise.
const GAIN_DECIBELS_MAX: f64 = 24.0;
/// Samples are held to ±this before the filters: 12 dB over full scale is more than any voice makes, and
/// an absurd value must not ring in the filters' state.
const INPUT_MAX: f32 = 4.0;
/// [`Voice::calibrate`] is content with so many LU beside the target: what a preset can say, and far less than
/// an ear tells apart.
const CALIBRATED_LU: f64 = 0.1;
/// Rounds in which [`Voice::calibrate`] makes good what the limiter takes. Each leaves about a third of what was
/// missing, more where much is limited; a voice that is still beside the target then cannot come nearer.
const CALIBRATION_ROUNDS: usize = 30;

/// The linear gain that brings speech of `measured` LUFS (after the chain's filters) to
/// [`LOUDNESS_TARGET`]. 1 where nothing was measured.
pub fn gain_for(measured: f64) -> f32 {
    if !measured.is_finite() {
        return 1.0;
    }
    let decibels = (LOUDNESS_TARGET - measured).clamp(-GAIN_DECIBELS_MAX, GAIN_DECIBELS_MAX);
    10f64.powf(decibels / 20.0) as f32
}

/// High-pass, presence, a gain fixed per voice, and a limiter that looks 4 ms ahead.
///
/// Every sample comes out once, in order and 4 ms late; the last ones by [`Voice::flush`], which is called
/// where a stretch of speech ends. Nothing is allocated while `out` has room for a frame.
pub struct Voice {
    rate: u32,
    high_pass: Biquad,
    presence: Biquad,
    gain: f32,
    limiter: Limiter,
}

impl Voice {
    /// A chain for speech at `rate`, turned up by the linear `gain` of the voice.
    pub fn new(rate: u32, gain: f32) -> Self {
        Self {
            rate,
            high_pass: Biquad::high_pass(rate, HIGH_PASS_HERTZ, HIGH_PASS_Q),
            presence: Biquad::peak(rate, PRESENCE_HERTZ, PRESENCE_Q, PRESENCE_DECIBELS),
            gain: if gain.is_finite() { gain } else { 1.0 },
            limiter: Limiter::new(rate, CEILING),
        }
    }

    /// The gain that brings this `speech` (some seconds of one voice at `rate`) through the whole chain to within
    /// 0.1 LU of [`LOUDNESS_TARGET`], or as near as gain and limiter let it come; 1 for silence. Take sentences
    /// of several kinds, 15 s or more: one alone was up to 1 LU beside the voice's mean. Costs some ten
    /// milliseconds a second of speech, once per voice.
    pub fn calibrate(rate: u32, speech: &[f32]) -> f32 {
        let mut gain = 1.0;
        let mut out = Vec::with_capacity(speech.len());
        for _ in 0..CALIBRATION_ROUNDS {
            let mut voice = Self::new(rate, gain);
            out.clear();
            voice.process(speech, &mut out);
            voice.flush(&mut out);
            let measured = audio::loudness(&out, rate);
            if !measured.is_finite() || (measured - LOUDNESS_TARGET).abs() <= CALIBRATED_LU {
                break;
            }
            let most = 10f32.powf(GAIN_DECIBELS_MAX as f32 / 20.0);
            gain = (gain * gain_for(measured)).clamp(1.0 / most, most);
        }
        gain
    }

    /// Samples by which the output lags.
    pub fn latency(&self) -> usize {
        self.limiter.latency()
    }

    /// Hertz it works at.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Another voice's gain, from the next sample on.
    pub fn set_gain(&mut self, gain: f32) {
        if gain.is_finite() {
            self.gain = gain;
        }
    }

    /// Takes any number of samples and appends those that are due. NaN and infinity count as silence.
    pub fn process(&mut self, input: &[f32], out: &mut Vec<f32>) {
        for &sample in input {
            let sample = if sample.is_finite() { sample.clamp(-INPUT_MAX, INPUT_MAX) } else { 0.0 };
            let filtered = self.presence.process(self.high_pass.process(f64::from(sample)));
            out.extend(self.limiter.process(filtered as f32 * self.gain));
        }
    }

    /// Appends what is still inside and is then ready for another stretch of speech.
    pub fn flush(&mut self, out: &mut Vec<f32>) {
        self.limiter.flush(out);
        self.high_pass.reset();
        self.presence.reset();
    }

    /// Forgets what is inside: after a cut.
    pub fn reset(&mut self) {
        self.limiter.reset();
        self.high_pass.reset();
        self.presence.reset();
    }
}
