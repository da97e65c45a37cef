//! Our voice as a file: raw, WAV, FLAC, Ogg Opus, and MP3 where the program was built with it. All of them are
//! written while the speech is being made: what a header would have to know of the end is left open.

use std::io::Write;

use bytes::Bytes;
use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, Stream, StreamInfo};
use flacenc::error::{Verified, Verify};
use flacenc::source::{Fill, FrameBuf};
use ogg::{PacketWriteEndInfo, PacketWriter};
use opus::{Application, Bitrate, Channels};
use serde::Deserialize;
use viva_models::audio::SPEAK_RATE;

/// Samples of a FLAC block: the format's usual 4,096, a sixth of a second.
const FLAC_BLOCK: usize = 4_096;

/// Samples of an Opus frame: 20 ms.
const OPUS_FRAME: usize = SPEAK_RATE as usize / 50;

/// Opus counts at 48 kHz whatever it is given.
const OPUS_TICKS: u64 = 48_000 / SPEAK_RATE as u64;

/// Bits a second: speech is transparent from 32 kbit/s on; half as much again for music in a voice.
const OPUS_BITS: i32 = 48_000;

/// Bytes of one Opus packet: the format's own limit for a frame.
const OPUS_PACKET_MAX: usize = 1_275;

/// Packets of an Ogg page: a fifth of a second, so that a player begins soon.
const OPUS_PAGE: u32 = 10;

/// The formats of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioFormat {
    /// MPEG layer III.
    Mp3,
    /// Opus in Ogg.
    Opus,
    /// Not written here.
    Aac,
    /// Lossless.
    Flac,
    /// Uncompressed.
    Wav,
    /// 24 kHz, 16 bits, little-endian, mono, without a header.
    Pcm,
}

impl AudioFormat {
    /// What a client gets who does not say: the protocol's own where we have it.
    pub const DEFAULT: Self = if cfg!(feature = "mp3") { Self::Mp3 } else { Self::Wav };

    /// On the wire.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Mp3 => "audio/mpeg",
            Self::Opus => "audio/ogg",
            Self::Aac => "audio/aac",
            Self::Flac => "audio/flac",
            Self::Wav => "audio/wav",
            Self::Pcm => "audio/pcm",
        }
    }
}

/// Why an encoder could not be made or did not take what it was given.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The format is not written by this program.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The encoder failed.
    #[error("the encoder failed: {0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Debug) -> EncodeError {
    EncodeError::Failed(format!("{error:?}"))
}

/// Turns samples at [`SPEAK_RATE`] into the bytes of a file.
pub enum Encoder {
    /// As they are.
    Pcm,
    /// Behind a header.
    Wav {
        /// The header has been written.
        begun: bool,
    },
    /// FLAC.
    Flac(Box<Flac>),
    /// Opus.
    Opus(Box<Opus>),
    /// MP3.
    #[cfg(feature = "mp3")]
    Mp3(Box<mp3lame_encoder::Encoder>),
}

impl Encoder {
    /// For one file.
    pub fn new(format: AudioFormat) -> Result<Self, EncodeError> {
        match format {
            AudioFormat::Pcm => Ok(Self::Pcm),
            AudioFormat::Wav => Ok(Self::Wav { begun: false }),
            AudioFormat::Flac => Ok(Self::Flac(Box::new(Flac::new()?))),
            AudioFormat::Opus => Ok(Self::Opus(Box::new(Opus::new()?))),
            #[cfg(feature = "mp3")]
            AudioFormat::Mp3 => mp3_encoder().map(|encoder| Self::Mp3(Box::new(encoder))),
            #[cfg(not(feature = "mp3"))]
            AudioFormat::Mp3 => Err(EncodeError::Unsupported(
                "This server was built without MP3 (cargo's feature 'mp3'); ask for opus, flac, wav or pcm.",
            )),
            AudioFormat::Aac => Err(EncodeError::Unsupported(
                "This server does not write AAC, for which there is no free encoder; ask for opus, flac, wav or pcm.",
            )),
        }
    }

    /// Takes samples and appends what is certain of the file.
    pub fn push(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Pcm => raw(samples, out),
            Self::Wav { begun } => {
                if !std::mem::replace(begun, true) {
                    wav_header(out);
                }
                raw(samples, out);
            }
            Self::Flac(flac) => flac.push(samples, out)?,
            Self::Opus(opus) => opus.push(samples, out)?,
            #[cfg(feature = "mp3")]
            Self::Mp3(mp3) => {
                out.reserve(mp3lame_encoder::max_required_buffer_size(samples.len()));
                mp3.encode_to_vec(mp3lame_encoder::MonoPcm(samples), out).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Appends the end of the file.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Pcm => {}
            Self::Wav { .. } => self.push(&[], out)?,
            Self::Flac(flac) => flac.finish(out)?,
            Self::Opus(opus) => opus.finish(out)?,
            #[cfg(feature = "mp3")]
            Self::Mp3(mp3) => {
                /// LAME asks for this much room for its last frames.
                const LAST_BYTES: usize = 7_200;
                out.reserve(LAST_BYTES);
                mp3.flush_to_vec::<mp3lame_encoder::FlushNoGap>(out).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn raw(samples: &[i16], out: &mut Vec<u8>) {
    out.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
}

/// A header of a file whose length nobody knows yet: both lengths are the largest there is, as streaming servers
/// write them, and players read to the end.
fn wav_header(out: &mut Vec<u8>) {
    let rate = SPEAK_RATE;
    out.extend_from_slice(b"RIFF\xff\xff\xff\xffWAVEfmt ");
    out.extend_from_slice(&16u32.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&rate.to_le_bytes());
    out.extend_from_slice(&(rate * 2).to_le_bytes());
    out.extend_from_slice(&2u16.to_le_bytes());
    out.extend_from_slice(&16u16.to_le_bytes());
    out.extend_from_slice(b"data\xff\xff\xff\xff");
}

#[cfg(feature = "mp3")]
fn mp3_encoder() -> Result<mp3lame_encoder::Encoder, EncodeError> {
    use mp3lame_encoder::{Bitrate, Builder, Mode, Quality};
    let builder = Builder::new().ok_or_else(|| EncodeError::Failed("no memory for LAME".into()))?;
    let builder = builder.with_num_channels(1).map_err(failed)?;
    let builder = builder.with_sample_rate(SPEAK_RATE).map_err(failed)?;
    let builder = builder.with_mode(Mode::Mono).map_err(failed)?;
    let builder = builder.with_brate(Bitrate::Kbps64).map_err(failed)?;
    builder.with_quality(Quality::Good).map_err(failed)?.build().map_err(failed)
}

/// FLAC, block by block.
pub struct Flac {
    config: Verified<flacenc::config::Encoder>,
    info: StreamInfo,
    waiting: Vec<i32>,
    frames: usize,
}

impl Flac {
    fn new() -> Result<Self, EncodeError> {
        let config =
            flacenc::config::Encoder::default().into_verified().map_err(|(_, error)| failed(error))?;
        let mut info = StreamInfo::new(SPEAK_RATE as usize, 1, 16).map_err(failed)?;
        info.set_block_sizes(FLAC_BLOCK, FLAC_BLOCK).map_err(failed)?;
        Ok(Self { config, info, waiting: Vec::new(), frames: 0 })
    }

    fn push(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.waiting.extend(samples.iter().map(|s| i32::from(*s)));
        let whole = self.waiting.len() - self.waiting.len() % FLAC_BLOCK;
        let waiting = std::mem::take(&mut self.waiting);
        for block in waiting[..whole].chunks(FLAC_BLOCK) {
            self.block(block, out)?;
        }
        self.waiting.extend_from_slice(&waiting[whole..]);
        Ok(())
    }

    fn block(&mut self, block: &[i32], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut sink = ByteSink::new();
        if self.frames == 0 {
            Stream::with_stream_info(self.info.clone()).write(&mut sink).map_err(failed)?;
        }
        let mut frame = FrameBuf::with_size(1, block.len()).map_err(failed)?;
        frame.fill_interleaved(block).map_err(failed)?;
        let frame = flacenc::encode_fixed_size_frame(&self.config, &frame, self.frames, &self.info);
        frame.map_err(failed)?.write(&mut sink).map_err(failed)?;
        self.frames += 1;
        out.extend_from_slice(sink.as_slice());
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        /// The shortest block the encoder makes.
        const SHORTEST: usize = 32;
        let mut last = std::mem::take(&mut self.waiting);
        if !last.is_empty() && last.len() < SHORTEST {
            last.resize(SHORTEST, 0);
        }
        if last.is_empty() { Ok(()) } else { self.block(&last, out) }
    }
}

/// Opus in Ogg (RFC 7845), packet by packet.
pub struct Opus {
    encoder: opus::Encoder,
    pages: PacketWriter<'static, Vec<u8>>,
    serial: u32,
    waiting: Vec<i16>,
    packets: u32,
    /// Samples at 48 kHz so far.
    ticks: u64,
    /// The packet before: the last one must say that it is.
    held: Option<Vec<u8>>,
}

impl Opus {
    fn new() -> Result<Self, EncodeError> {
        let mut encoder =
            opus::Encoder::new(SPEAK_RATE, Channels::Mono, Application::Audio).map_err(failed)?;
        encoder.set_bitrate(Bitrate::Bits(OPUS_BITS)).map_err(failed)?;
        let skip = encoder.get_lookahead().map_err(failed)? as u64 * OPUS_TICKS;
        let mut opus = Self {
            encoder,
            pages: PacketWriter::new(Vec::new()),
            serial: rand::random(),
            waiting: Vec::new(),
            packets: 0,
            ticks: 0,
            held: None,
        };
        opus.headers(skip as u16)?;
        Ok(opus)
    }

    fn headers(&mut self, skip: u16) -> Result<(), EncodeError> {
        let mut head = Vec::from(*b"OpusHead\x01\x01");
        head.extend_from_slice(&skip.to_le_bytes());
        head.extend_from_slice(&SPEAK_RATE.to_le_bytes());
        head.extend_from_slice(&[0, 0, 0]);
        let mut tags = Vec::from(*b"OpusTags");
        tags.extend_from_slice(&4u32.to_le_bytes());
        tags.extend_from_slice(b"viva");
        tags.extend_from_slice(&0u32.to_le_bytes());
        for packet in [head, tags] {
            let page = self.pages.write_packet(packet, self.serial, PacketWriteEndInfo::EndPage, 0);
            page.map_err(failed)?;
        }
        Ok(())
    }

    fn push(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.waiting.extend_from_slice(samples);
        let waiting = std::mem::take(&mut self.waiting);
        let mut frames = waiting.chunks_exact(OPUS_FRAME);
        for frame in &mut frames {
            self.frame(frame)?;
        }
        self.waiting.extend_from_slice(frames.remainder());
        out.append(self.pages.inner_mut());
        Ok(())
    }

    fn frame(&mut self, frame: &[i16]) -> Result<(), EncodeError> {
        let mut packet = vec![0; OPUS_PACKET_MAX];
        let bytes = self.encoder.encode(frame, &mut packet).map_err(failed)?;
        packet.truncate(bytes);
        if let Some(before) = self.held.replace(packet) {
            self.packets += 1;
            let end = if self.packets.is_multiple_of(OPUS_PAGE) {
                PacketWriteEndInfo::EndPage
            } else {
                PacketWriteEndInfo::NormalPacket
            };
            self.pages.write_packet(before, self.serial, end, self.ticks).map_err(failed)?;
        }
        self.ticks += OPUS_FRAME as u64 * OPUS_TICKS;
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut last = std::mem::take(&mut self.waiting);
        let end = self.ticks + last.len() as u64 * OPUS_TICKS;
        // One frame more, so that what the encoder looks ahead comes out.
        last.resize(OPUS_FRAME, 0);
        self.frame(&last)?;
        self.frame(&[0; OPUS_FRAME])?;
        if let Some(packet) = self.held.take() {
            let closing = PacketWriteEndInfo::EndStream;
            self.pages.write_packet(packet, self.serial, closing, end.max(1)).map_err(failed)?;
        }
        self.pages.inner_mut().flush().map_err(failed)?;
        out.append(self.pages.inner_mut());
        Ok(())
    }
}

/// What an encoder has made, if anything.
pub fn made(out: Vec<u8>) -> Option<Bytes> {
    (!out.is_empty()).then(|| Bytes::from(out))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use viva_actors::testkit::tone;
    use viva_models::audio::{Decoded, decode, to_i16};

    use super::*;

    /// A tone of 1.013 s through the encoder in uneven pieces, and back.
    fn there_and_back(format: AudioFormat) -> Decoded {
        let samples: Vec<i16> = tone(440.0, 24_312, SPEAK_RATE).into_iter().map(to_i16).collect();
        let (mut encoder, mut out) = (Encoder::new(format).unwrap(), Vec::new());
        for piece in samples.chunks(777) {
            encoder.push(piece, &mut out).unwrap();
        }
        encoder.finish(&mut out).unwrap();
        decode(&out, None, 10).unwrap()
    }

    fn check(format: AudioFormat, exact: bool) {
        let back = there_and_back(format);
        let seconds = back.seconds();
        let (least, most) = if exact { (1.0129, 1.0131) } else { (1.0, 1.2) };
        assert!((least..most).contains(&seconds), "{format:?}: {seconds} s");
        // A third of full scale, as a tone has it.
        let middle = &back.samples[back.samples.len() / 4..back.samples.len() / 2];
        let level = (middle.iter().map(|s| s * s).sum::<f32>() / middle.len() as f32).sqrt();
        assert!((0.18..0.24).contains(&level), "{format:?}: {level}");
    }

    #[test]
    fn what_is_encoded_can_be_decoded() {
        check(AudioFormat::Wav, true);
        check(AudioFormat::Flac, true);
        check(AudioFormat::Opus, false);
        #[cfg(feature = "mp3")]
        check(AudioFormat::Mp3, false);
    }

    #[test]
    fn pcm_is_the_samples_themselves() {
        let (mut encoder, mut out) = (Encoder::new(AudioFormat::Pcm).unwrap(), Vec::new());
        encoder.push(&[1, -2], &mut out).unwrap();
        encoder.finish(&mut out).unwrap();
        assert_eq!(out, [1, 0, 0xfe, 0xff]);
    }

    #[test]
    fn a_format_that_cannot_be_written_says_which_can() {
        let Err(EncodeError::Unsupported(why)) = Encoder::new(AudioFormat::Aac) else { panic!() };
        assert!(why.contains("opus"), "{why}");
    }
}
