//! Recordings of a call, as WAV files.

use std::path::Path;

use super::clip::RATE;

/// Writes one track.
pub fn write_mono(path: &Path, samples: &[i16]) -> Result<(), hound::Error> {
    write(path, 1, samples.iter().copied())
}

/// Writes the caller left, Viva right. The tracks have equal length.
pub fn write_stereo(path: &Path, left: &[i16], right: &[i16]) -> Result<(), hound::Error> {
    write(path, 2, left.iter().zip(right).flat_map(|(&left, &right)| [left, right]))
}

fn write(path: &Path, channels: u16, samples: impl Iterator<Item = i16>) -> Result<(), hound::Error> {
    let spec = hound::WavSpec {
        channels,
        sample_rate: RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        writer.write_sample(sample)?;
    }
    writer.finalize()
}
