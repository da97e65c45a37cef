//! A second-order filter. Ours rather than a crate's, because its state must be kept clear of denormals:
//! in the silence between sentences they cost a hundred times the processor time of sound.

use std::f64::consts::TAU;

/// State smaller than this is set to zero: 300 dB below full scale.
const QUIET: f64 = 1e-15;

/// Transposed direct form II, by Robert Bristow-Johnson's cookbook.
#[derive(Debug, Clone)]
pub struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    z: [f64; 2],
}

impl Biquad {
    /// Falls by 12 dB an octave below `hertz`.
    pub fn high_pass(rate: u32, hertz: f64, q: f64) -> Self {
        let (cos, alpha) = Self::angle(rate, hertz, q);
        Self::normalised(
            [(1.0 + cos) / 2.0, -1.0 - cos, (1.0 + cos) / 2.0],
            [1.0 + alpha, -2.0 * cos, 1.0 - alpha],
        )
    }

    /// Lifts by `decibels` around `hertz`.
    pub fn peak(rate: u32, hertz: f64, q: f64, decibels: f64) -> Self {
        let (cos, alpha) = Self::angle(rate, hertz, q);
        let a = 10f64.powf(decibels / 40.0);
        Self::normalised(
            [1.0 + alpha * a, -2.0 * cos, 1.0 - alpha * a],
            [1.0 + alpha / a, -2.0 * cos, 1.0 - alpha / a],
        )
    }

    fn angle(rate: u32, hertz: f64, q: f64) -> (f64, f64) {
        let w = TAU * hertz / f64::from(rate);
        (w.cos(), w.sin() / (2.0 * q))
    }

    fn normalised(b: [f64; 3], a: [f64; 3]) -> Self {
        Self { b: b.map(|v| v / a[0]), a: [a[1] / a[0], a[2] / a[0]], z: [0.0; 2] }
    }

    /// Filters one sample.
    pub fn process(&mut self, x: f64) -> f64 {
        let y = self.b[0] * x + self.z[0];
        self.z[0] = quiet(self.b[1] * x - self.a[0] * y + self.z[1]);
        self.z[1] = quiet(self.b[2] * x - self.a[1] * y);
        y
    }

    /// Forgets what it heard.
    pub fn reset(&mut self) {
        self.z = [0.0; 2];
    }
}

fn quiet(state: f64) -> f64 {
    if state.abs() < QUIET { 0.0 } else { state }
}
