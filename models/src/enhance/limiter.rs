//! A look-ahead limiter: peaks are turned down before they come, so that nothing is ever clipped.

use std::collections::VecDeque;

/// How far it looks ahead. 4 ms is the period of 250 Hz: gain that moves no faster adds little distortion
/// to speech, and 5 ms is what the exit chain may cost.
const LOOKAHEAD_MS: u32 = 4;
/// Time in which gain recovers by 63 %. Long against a period of a voice (5–12 ms), short against a word.
const RELEASE_MS: f32 = 60.0;

/// Keeps samples at or below a ceiling.
///
/// For each sample the gain it needs is known; the smallest over a window, averaged over a window of the
/// same length, is at or below that need when the sample comes out at the end of both windows, and moves
/// smoothly. Every sample comes out once, in order; the first comes when the window is full.
pub struct Limiter {
    ceiling: f32,
    recovery: f32,
    /// Gain that came out of release last.
    released: f32,
    /// Samples on their way through the window.
    delayed: Box<[f32]>,
    /// (Number of the sample, gain) with rising gains: the front is the window's smallest.
    rising: VecDeque<(u64, f32)>,
    /// The smallest gains of the last window, and their sum.
    smallest: Box<[f32]>,
    sum: f64,
    taken: u64,
}

impl Limiter {
    /// A limiter for `rate` that keeps samples within ±`ceiling`.
    pub fn new(rate: u32, ceiling: f32) -> Self {
        let window = (rate * LOOKAHEAD_MS / 1000).max(1) as usize;
        let mut limiter = Self {
            ceiling,
            recovery: 1.0 - (-1000.0 / (RELEASE_MS * rate as f32)).exp(),
            released: 1.0,
            delayed: vec![0.0; window].into(),
            rising: VecDeque::with_capacity(window + 1),
            smallest: vec![1.0; window].into(),
            sum: 0.0,
            taken: 0,
        };
        limiter.reset();
        limiter
    }

    /// Samples by which the output lags: one less than the window.
    pub fn latency(&self) -> usize {
        self.delayed.len() - 1
    }

    /// Takes one sample and gives the one that is due, if the window is full.
    pub fn process(&mut self, sample: f32) -> Option<f32> {
        let window = self.delayed.len() as u64;
        let size = sample.abs();
        let needed = if size > self.ceiling { self.ceiling / size } else { 1.0 };
        self.released = needed.min(self.released + (1.0 - self.released) * self.recovery);
        while self.rising.back().is_some_and(|(_, gain)| *gain >= self.released) {
            self.rising.pop_back();
        }
        self.rising.push_back((self.taken, self.released));
        if self.rising.front().is_some_and(|(at, _)| at + window <= self.taken) {
            self.rising.pop_front();
        }
        let smallest = self.rising.front().map_or(1.0, |(_, gain)| *gain);
        let slot = (self.taken % window) as usize;
        self.sum += f64::from(smallest) - f64::from(self.smallest[slot]);
        self.smallest[slot] = smallest;
        self.delayed[slot] = sample;
        self.taken += 1;
        if slot == 0 {
            // Once a window the sum is made anew, so that rounding cannot pile up over hours.
            self.sum = self.smallest.iter().map(|gain| f64::from(*gain)).sum();
        }
        let oldest = self.delayed[(self.taken % window) as usize];
        let gain = (self.sum / window as f64) as f32;
        // The clamp only takes off what rounding may have left above the ceiling.
        (self.taken >= window).then(|| (oldest * gain).clamp(-self.ceiling, self.ceiling))
    }

    /// Appends the samples that are still in the window, and is then as new.
    pub fn flush(&mut self, out: &mut Vec<f32>) {
        // One zero pushes out one sample; where the window never filled, the first of them fill it.
        for _ in 0..self.latency() {
            out.extend(self.process(0.0));
        }
        self.reset();
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.released = 1.0;
        self.delayed.fill(0.0);
        self.rising.clear();
        self.smallest.fill(1.0);
        self.sum = self.smallest.len() as f64;
        self.taken = 0;
    }
}
