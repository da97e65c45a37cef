//! (being written)
use std::path::Path;

use super::AudioError;

/// A decoded recording.
pub struct Decoded {
    /// Mono.
    pub samples: Vec<f32>,
    /// Hertz.
    pub rate: u32,
}

/// Decodes.
pub fn decode(_bytes: &[u8], _hint: Option<&str>, _seconds_max: u32) -> Result<Decoded, AudioError> {
    Err(AudioError::Unsupported("not yet".into()))
}

/// Decodes a file.
pub fn decode_file(path: &Path, seconds_max: u32) -> Result<Decoded, AudioError> {
    let bytes =
        std::fs::read(path).map_err(|error| AudioError::Io { path: path.display().to_string(), error })?;
    decode(&bytes, path.extension().and_then(|e| e.to_str()), seconds_max)
}
