//! Voice activity detection.

pub mod silero;

pub use silero::Silero;
