//! Cleaning what callers send, and finishing what Viva says.

mod biquad;
mod limiter;
mod rnnoise;
mod voice;

pub use limiter::Limiter;
pub use rnnoise::{RnNoise, RnNoise16};
pub use voice::{LOUDNESS_TARGET, Voice, gain_for};
