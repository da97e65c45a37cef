//! Samples on their way in and out: rates, raw formats, resampling, decoding, loudness.
//!
//! Inside Viva audio is mono `f32` in −1..1. Callers are heard at [`LISTEN_RATE`]; Viva speaks at
//! [`SPEAK_RATE`]. Everything else is converted at the edge by what stands here.

mod decode;
mod recording;
mod resample;

pub use decode::{Decoded, decode, decode_file};
pub use recording::Recording;
pub use resample::Resampler;

/// Hertz at which callers are heard: what Silero, smart-turn and Whisper were trained on.
pub const LISTEN_RATE: u32 = 16_000;

/// Hertz at which Viva speaks: the rate of `audio/pcm` in the realtime protocol.
pub const SPEAK_RATE: u32 = 24_000;

/// What can be wrong with audio that came from outside.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// A rate outside [`Resampler::RATES`].
    #[error("sample rate {0} Hz is outside 4000..=192000")]
    Rate(u32),
    /// PCM16 whose last sample is cut in half.
    #[error("16-bit audio must have an even number of bytes, got {0}")]
    OddLength(usize),
    /// Neither container nor codec is one of ours.
    #[error("unsupported audio: {0}")]
    Unsupported(String),
    /// The container was recognised, but nothing in it could be decoded.
    #[error("corrupt audio: {0}")]
    Corrupt(String),
    /// Decoding stopped because the recording is longer than the caller allows.
    #[error("audio is longer than {0} s")]
    TooLong(u32),
    /// The file could not be read.
    #[error("cannot read {path}: {error}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// Appends little-endian 16-bit samples to `out` as −1..1. An odd length appends nothing and is an error.
pub fn pcm16_decode(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), AudioError> {
    if !bytes.len().is_multiple_of(2) {
        return Err(AudioError::OddLength(bytes.len()));
    }
    out.extend(bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0));
    Ok(())
}

/// One sample as 16 bits: rounded, held at the ends of the range, NaN as silence.
pub fn to_i16(sample: f32) -> i16 {
    // A float-to-int `as` saturates, and makes NaN zero.
    (sample * 32_768.0).round() as i16
}

/// Appends samples to `out` as little-endian 16 bits.
pub fn pcm16_encode(samples: &[f32], out: &mut Vec<u8>) {
    out.reserve(samples.len() * 2);
    for &sample in samples {
        out.extend_from_slice(&to_i16(sample).to_le_bytes());
    }
}

/// The two companded telephone codes of ITU-T G.711, one byte a sample at 8 kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum G711 {
    /// North America and Japan (`audio/pcmu`).
    MuLaw,
    /// Elsewhere (`audio/pcma`).
    ALaw,
}

/// Hertz of G.711.
pub const G711_RATE: u32 = 8_000;

/// Appends G.711 bytes to `out` as −1..1.
pub fn g711_decode(law: G711, bytes: &[u8], out: &mut Vec<f32>) {
    let decode = match law {
        G711::MuLaw => audio_codec_algorithms::decode_ulaw,
        G711::ALaw => audio_codec_algorithms::decode_alaw,
    };
    out.extend(bytes.iter().map(|&b| f32::from(decode(b)) / 32_768.0));
}

/// Appends samples to `out` as G.711 bytes.
pub fn g711_encode(law: G711, samples: &[f32], out: &mut Vec<u8>) {
    let encode = match law {
        G711::MuLaw => audio_codec_algorithms::encode_ulaw,
        G711::ALaw => audio_codec_algorithms::encode_alaw,
    };
    out.extend(samples.iter().map(|&s| encode(to_i16(s))));
}

/// Integrated loudness in LUFS (EBU R128). Minus infinity when all of it is below the gate of −70 LUFS,
/// or shorter than one gating block of 400 ms.
pub fn loudness(samples: &[f32], rate: u32) -> f64 {
    let measured = ebur128::EbuR128::new(1, rate, ebur128::Mode::I).and_then(|mut meter| {
        meter.add_frames_f32(samples)?;
        meter.loudness_global()
    });
    measured.unwrap_or(f64::NEG_INFINITY)
}
