//! A recording of any length, decoded piece by piece: an hour takes no more memory than a minute.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::errors::Error;
use symphonia::core::formats::FormatReader;
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};

use super::decode::{BAD_PACKETS_MAX, audio_track, mix_down, probe};
use super::{AudioError, Resampler};

/// An open recording, read at one rate as mono.
pub struct Recording {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// Hertz that are wanted.
    rate: u32,
    resampler: Option<Resampler>,
    /// Packets that may still be read: each takes a byte of the file at the least, so a reader that goes round in
    /// circles is seen.
    packets_left: u64,
    bad: u32,
    why: Option<String>,
    planes: Vec<f32>,
    mono: Vec<f32>,
    heard: bool,
    ended: bool,
}

impl Recording {
    /// Finds out what the file is. `hint` is a file extension or a MIME type and only helps the guess; `rate` is the
    /// rate at which samples are wanted, in hertz.
    pub fn open(file: File, hint: Option<&str>, rate: u32) -> Result<Self, AudioError> {
        let bytes =
            file.metadata().map_err(|error| AudioError::Io { path: "the recording".into(), error })?.len();
        let opened = guarded(|| {
            let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
            let format = probe(stream, hint)?;
            let (track, decoder) = audio_track(&*format)?;
            Ok((format, decoder, track))
        });
        let (format, decoder, track) = opened?;
        Ok(Self {
            format,
            decoder,
            track,
            rate,
            resampler: None,
            packets_left: bytes.saturating_add(1),
            bad: 0,
            why: None,
            planes: Vec::new(),
            mono: Vec::new(),
            heard: false,
            ended: false,
        })
    }

    /// Appends the samples of the next packets to `out`; false when the recording is over. What is damaged is left
    /// out; [`AudioError::Corrupt`] at the end means that nothing of it could be decoded.
    pub fn read(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        if self.ended {
            return Ok(false);
        }
        guarded(|| self.read_packet(out))
    }

    fn read_packet(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        let Some(left) = self.packets_left.checked_sub(1) else { return self.end(out) };
        self.packets_left = left;
        let packet = match self.format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => return self.end(out),
            Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => return self.end(out),
            Err(error) => {
                let last = matches!(error, Error::IoError(_) | Error::ResetRequired);
                return self.spoilt(error.to_string(), last, out);
            }
        };
        if packet.track_id != self.track {
            return Ok(true);
        }
        let buffer = match self.decoder.decode(&packet) {
            Ok(buffer) => buffer,
            Err(error) => {
                let why = error.to_string();
                return self.spoilt(why, false, out);
            }
        };
        self.bad = 0;
        if buffer.frames() == 0 || buffer.num_planes() == 0 {
            return Ok(true);
        }
        let from = buffer.spec().rate();
        self.mono.clear();
        mix_down(&buffer, &mut self.planes, &mut self.mono);
        self.heard = true;
        match &mut self.resampler {
            Some(resampler) if resampler.from_rate() == from => resampler.process(&self.mono, out),
            slot => {
                // Some containers hold chapters of different rates.
                if let Some(before) = slot {
                    before.flush(out);
                }
                slot.insert(Resampler::new(from, self.rate)?).process(&self.mono, out);
            }
        }
        Ok(true)
    }

    fn spoilt(&mut self, why: String, last: bool, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        self.why = Some(why);
        self.bad += 1;
        if last || self.bad > BAD_PACKETS_MAX { self.end(out) } else { Ok(true) }
    }

    fn end(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        self.ended = true;
        if !self.heard {
            let why = self.why.take().unwrap_or_else(|| "there is no sound in it".into());
            return Err(AudioError::Corrupt(why));
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.flush(out);
        }
        Ok(false)
    }
}

/// Bytes from outside must never end a thread of ours, not even through a mistake in a decoder.
fn guarded<T>(work: impl FnOnce() -> Result<T, AudioError>) -> Result<T, AudioError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(AudioError::Corrupt("the decoder gave up".into())))
}
