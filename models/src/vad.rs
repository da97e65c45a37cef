//! Voice activity detection.

mod silero;

pub use silero::Silero;
