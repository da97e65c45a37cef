//! RNNoise, a small recurrent network that takes noise out of speech.

use nnnoiseless::DenoiseState;

use crate::Denoiser;
use crate::audio::{LISTEN_RATE, Resampler};

/// Hertz RNNoise works at.
const RATE: u32 = 48_000;
/// Samples it takes at a time: 10 ms.
const FRAME: usize = DenoiseState::FRAME_SIZE;
/// RNNoise was trained on 16-bit samples as they are.
const SCALE: f32 = 32_768.0;

/// RNNoise at its own rate. Its output lags by one frame (10 ms); the first frame fades in.
pub struct RnNoise {
    state: Box<DenoiseState<'static>>,
    input: [f32; FRAME],
    output: [f32; FRAME],
}

impl RnNoise {
    /// Samples at 48 kHz by which the output lags.
    pub const LATENCY: usize = FRAME;

    /// A denoiser for one caller. Its state takes some 20 kB.
    pub fn new() -> Self {
        Self { state: DenoiseState::new(), input: [0.0; FRAME], output: [0.0; FRAME] }
    }
}

impl Default for RnNoise {
    fn default() -> Self {
        Self::new()
    }
}

impl Denoiser for RnNoise {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn frame(&self) -> usize {
        FRAME
    }

    fn process(&mut self, frame: &mut [f32]) {
        assert_eq!(frame.len(), FRAME, "the contract is exactly one frame");
        for (slot, sample) in self.input.iter_mut().zip(frame.iter()) {
            // Held to the range of 16 bits: one NaN would stay in the network's state for good.
            *slot = if sample.is_finite() { sample.clamp(-1.0, 1.0) * SCALE } else { 0.0 };
        }
        self.state.process_frame(&mut self.output, &self.input);
        for (sample, clean) in frame.iter_mut().zip(&self.output) {
            *sample = clean / SCALE;
        }
    }
}

/// RNNoise for streams at 16 kHz: up to 48 kHz, clean, and down again.
pub struct RnNoise16 {
    inner: RnNoise,
    up: Resampler,
    down: Resampler,
    wide: Vec<f32>,
    narrow: Vec<f32>,
}

impl RnNoise16 {
    /// Samples at 16 kHz by which the output lags: 20 ms, of which RNNoise is 10 and the filter of each
    /// resampler 5.
    pub const LATENCY: usize = 320;
    const FRAME: usize = FRAME / 3;

    /// A denoiser for one caller.
    pub fn new() -> Self {
        let resampler =
            |from, to| Resampler::with_delay(from, to).expect("both rates are ours and within the limits");
        Self {
            inner: RnNoise::new(),
            up: resampler(LISTEN_RATE, RATE),
            down: resampler(RATE, LISTEN_RATE),
            wide: Vec::with_capacity(2 * FRAME),
            narrow: Vec::with_capacity(2 * FRAME),
        }
    }
}

impl Default for RnNoise16 {
    fn default() -> Self {
        Self::new()
    }
}

impl Denoiser for RnNoise16 {
    fn sample_rate(&self) -> u32 {
        LISTEN_RATE
    }

    fn frame(&self) -> usize {
        Self::FRAME
    }

    fn process(&mut self, frame: &mut [f32]) {
        assert_eq!(frame.len(), Self::FRAME, "the contract is exactly one frame");
        self.wide.clear();
        self.narrow.clear();
        self.up.process(frame, &mut self.wide);
        // Blocks of both resamplers and RNNoise's frame are all 10 ms, so each gives exactly one.
        self.inner.process(&mut self.wide);
        self.down.process(&self.wide, &mut self.narrow);
        frame.copy_from_slice(&self.narrow);
    }
}
