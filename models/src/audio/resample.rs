//! A streaming resampler that takes chunks of any length.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use super::AudioError;

/// Frames of the slower side that one transform works on. 10 ms at 16 kHz: shorter blocks widen the
/// filter's transition band (FEASIBILITY: rubato advises 100–1000 frames), longer ones add delay.
const BLOCK_SLOW_SIDE: usize = 160;

/// Converts one mono stream from one rate to another.
///
/// The filter's own delay is cut from the start, so that sample *n* of the output was at
/// *n · from / to* of the input and a stream keeps its length to within one sample. A sample comes out
/// at the latest 1.5 blocks after it went in: 15 ms at 16 or 48 kHz. Nothing is allocated after
/// [`Resampler::new`] as long as the output vector has room.
pub struct Resampler {
    from: u32,
    to: u32,
    fft: Option<Fft<f32>>,
    block: Vec<f32>,
    filled: usize,
    delay: usize,
    skip: usize,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// The rates that are accepted: from below telephony to above studio.
    pub const RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;

    /// A resampler `from` hertz `to` hertz. Equal rates pass samples through.
    pub fn new(from: u32, to: u32) -> Result<Self, AudioError> {
        for rate in [from, to] {
            if !Self::RATES.contains(&rate) {
                return Err(AudioError::Rate(rate));
            }
        }
        let fft = if from == to {
            None
        } else {
            let fft = Fft::new_custom(
                from as usize,
                to as usize,
                block_length(from, to),
                1,
                1,
                WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .expect("rates and block were checked to be positive");
            Some(fft)
        };
        let block = fft.as_ref().map_or(0, |fft| fft.input_frames_next());
        let delay = fft.as_ref().map_or(0, |fft| fft.output_delay());
        Ok(Self { from, to, fft, block: vec![0.0; block], filled: 0, delay, skip: delay, taken: 0, given: 0 })
    }

    /// A resampler that keeps the filter's delay of half a block: the output lags, but each full block
    /// gives a full block at once. For loops that must return as many samples as they took.
    pub(crate) fn with_delay(from: u32, to: u32) -> Result<Self, AudioError> {
        let mut resampler = Self::new(from, to)?;
        (resampler.skip, resampler.delay) = (0, 0);
        Ok(resampler)
    }

    /// Hertz going in.
    pub fn from_rate(&self) -> u32 {
        self.from
    }

    /// Hertz coming out.
    pub fn to_rate(&self) -> u32 {
        self.to
    }

    /// Takes any number of samples and appends what can be said of them to `out`.
    /// NaN and infinity count as silence.
    pub fn process(&mut self, mut input: &[f32], out: &mut Vec<f32>) {
        if self.fft.is_none() {
            out.extend(input.iter().map(|&s| finite(s)));
            return;
        }
        self.taken += input.len() as u64;
        while !input.is_empty() {
            let n = input.len().min(self.block.len() - self.filled);
            for (slot, &sample) in self.block[self.filled..].iter_mut().zip(&input[..n]) {
                *slot = finite(sample);
            }
            self.filled += n;
            input = &input[n..];
            if self.filled == self.block.len() {
                self.run_block(u64::MAX, out);
            }
        }
    }

    /// Ends the stream: appends what is still inside, and is then ready for another stream.
    pub fn flush(&mut self, out: &mut Vec<f32>) {
        if self.fft.is_none() {
            return;
        }
        let due = (u128::from(self.taken) * u128::from(self.to)).div_ceil(u128::from(self.from)) as u64;
        while self.given < due {
            self.block[self.filled..].fill(0.0);
            self.run_block(due, out);
        }
        self.reset();
    }

    /// Forgets the stream without giving what is still inside.
    pub fn reset(&mut self) {
        if let Some(fft) = &mut self.fft {
            fft.reset();
            self.skip = self.delay;
        }
        (self.filled, self.taken, self.given) = (0, 0, 0);
    }

    /// Transforms the block and appends its output, but for the filter's delay and what is beyond `due`.
    fn run_block(&mut self, due: u64, out: &mut Vec<f32>) {
        let Some(fft) = &mut self.fft else { return };
        let (frames_in, frames_out, start) = (self.block.len(), fft.output_frames_next(), out.len());
        out.resize(start + frames_out, 0.0);
        let input = InterleavedSlice::new(&self.block[..], 1, frames_in).expect("the block is that long");
        let mut output = InterleavedSlice::new_mut(&mut out[start..], 1, frames_out)
            .expect("the output was made that long");
        fft.process_into_buffer(&input, &mut output, None).expect("both sides have the lengths asked for");
        self.filled = 0;
        let skipped = self.skip.min(frames_out);
        if skipped > 0 {
            self.skip -= skipped;
            out.copy_within(start + skipped.., start);
            out.truncate(start + frames_out - skipped);
        }
        let keep = (out.len() - start).min(usize::try_from(due - self.given).unwrap_or(usize::MAX));
        out.truncate(start + keep);
        self.given += keep as u64;
    }
}

/// Input frames of one transform: at least [`BLOCK_SLOW_SIDE`] on the slower side, and even on both sides,
/// since the filter's delay is half a block and must be a whole number of samples to be cut away.
fn block_length(from: u32, to: u32) -> usize {
    let even_unit = 2 * from / gcd(from, to);
    let wanted = (BLOCK_SLOW_SIDE as f64 * f64::from(from) / f64::from(from.min(to))) as usize;
    wanted.next_multiple_of(even_unit as usize)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn finite(sample: f32) -> f32 {
    if sample.is_finite() { sample } else { 0.0 }
}
