//! Whole recordings from memory or disk: WAV, MP3, FLAC, M4A (AAC), Ogg (Vorbis, Opus), WebM (Opus, Vorbis).

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;

use super::{AudioError, Resampler};

/// Packets in a row that may fail to decode before the rest is given up. A flipped bit spoils one or two;
/// this many in a row are no longer that recording.
pub(super) const BAD_PACKETS_MAX: u32 = 64;

/// A decoded recording.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Mono: the mean of all channels.
    pub samples: Vec<f32>,
    /// Hertz, as the recording has it.
    pub rate: u32,
}

impl Decoded {
    /// The recording at another rate.
    pub fn resampled(self, rate: u32) -> Result<Vec<f32>, AudioError> {
        let mut resampler = Resampler::new(self.rate, rate)?;
        let seconds = self.samples.len() as f64 / f64::from(self.rate);
        let mut out = Vec::with_capacity((seconds * f64::from(rate)) as usize + rate as usize / 10);
        resampler.process(&self.samples, &mut out);
        resampler.flush(&mut out);
        Ok(out)
    }

    /// How long it is.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate)
    }
}

/// Decodes a recording of at most `seconds_max`. `hint` is a file extension or a MIME type and only helps
/// the guess: the content decides.
///
/// What is cut off or damaged gives what can be decoded of it; [`AudioError::Corrupt`] means that this is
/// nothing. Work and memory are bounded by `seconds_max` and the input's length.
pub fn decode(bytes: &[u8], hint: Option<&str>, seconds_max: u32) -> Result<Decoded, AudioError> {
    // Bytes from outside must never end a thread of ours, not even through a mistake in a decoder.
    catch_unwind(AssertUnwindSafe(|| decode_inner(bytes, hint, seconds_max)))
        .unwrap_or_else(|_| Err(AudioError::Corrupt("the decoder gave up".into())))
}

/// Reads and decodes a file; its extension is the hint.
pub fn decode_file(path: &Path, seconds_max: u32) -> Result<Decoded, AudioError> {
    let bytes =
        std::fs::read(path).map_err(|error| AudioError::Io { path: path.display().to_string(), error })?;
    decode(&bytes, path.extension().and_then(|e| e.to_str()), seconds_max)
}

/// Symphonia's own codecs, and Opus, which it does not have.
pub(super) fn codecs() -> &'static CodecRegistry {
    static CODECS: OnceLock<CodecRegistry> = OnceLock::new();
    CODECS.get_or_init(|| {
        let mut codecs = CodecRegistry::new();
        symphonia::default::register_enabled_codecs(&mut codecs);
        codecs.register_audio_decoder::<symphonia_adapter_libopus::OpusDecoder>();
        codecs
    })
}

/// What is in a stream of bytes.
pub(super) fn probe<'a>(
    stream: MediaSourceStream<'a>,
    hint: Option<&str>,
) -> Result<Box<dyn FormatReader + 'a>, AudioError> {
    let mut guess = Hint::new();
    match hint {
        Some(mime) if mime.contains('/') => guess.mime_type(mime),
        Some(extension) => guess.with_extension(extension),
        None => &mut guess,
    };
    symphonia::default::get_probe()
        .probe(&guess, stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|error| AudioError::Unsupported(error.to_string()))
}

/// The first audio track and a decoder for it.
pub(super) fn audio_track(format: &dyn FormatReader) -> Result<(u32, Box<dyn AudioDecoder>), AudioError> {
    let track = format
        .default_track(TrackType::Audio)
        .ok_or_else(|| AudioError::Unsupported("there is no audio track in it".into()))?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(AudioError::Unsupported("the audio track names no codec".into()));
    };
    let decoder = codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|error| AudioError::Unsupported(error.to_string()))?;
    Ok((track.id, decoder))
}

/// Appends the mean of all channels to `mono`; what is no number counts as silence.
pub(super) fn mix_down(buffer: &GenericAudioBufferRef<'_>, planes: &mut Vec<f32>, mono: &mut Vec<f32>) {
    let channels = buffer.num_planes();
    buffer.copy_to_vec_interleaved::<f32>(planes);
    let scale = 1.0 / channels as f32;
    mono.extend(planes.chunks_exact(channels).map(|frame| {
        let sum: f32 = frame.iter().sum();
        if sum.is_finite() { sum * scale } else { 0.0 }
    }));
}

fn decode_inner(bytes: &[u8], hint: Option<&str>, seconds_max: u32) -> Result<Decoded, AudioError> {
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), MediaSourceStreamOptions::default());
    let mut format = probe(stream, hint)?;
    let (track_id, mut decoder) = audio_track(&*format)?;
    let mut mono =
        Mono { decoded: Decoded { samples: Vec::new(), rate: 0 }, planes: Vec::new(), seconds_max };
    let why = read_packets(&mut *format, &mut *decoder, track_id, bytes.len(), &mut mono)?;
    if mono.decoded.samples.is_empty() {
        return Err(AudioError::Corrupt(why.unwrap_or_else(|| "there is no sound in it".into())));
    }
    Ok(mono.decoded)
}

/// Feeds packets to the decoder until the end, or until nothing more can be made of them. Returns the last
/// complaint of reader or decoder.
fn read_packets(
    format: &mut dyn FormatReader,
    decoder: &mut dyn AudioDecoder,
    track_id: u32,
    bytes: usize,
    mono: &mut Mono,
) -> Result<Option<String>, AudioError> {
    let (mut bad, mut why) = (0, None);
    // Each packet takes a byte of the input at the least, so a reader that goes round in circles is seen.
    for _ in 0..=bytes {
        let packet = match format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => {
                why = Some(error.to_string());
                bad += 1;
                if bad > BAD_PACKETS_MAX || matches!(error, Error::IoError(_) | Error::ResetRequired) {
                    break;
                }
                continue;
            }
        };
        if packet.track_id != track_id {
            continue;
        }
        match decoder.decode(&packet) {
            Ok(buffer) => {
                bad = 0;
                mono.append(&buffer)?;
            }
            Err(error) => {
                why = Some(error.to_string());
                bad += 1;
                if bad > BAD_PACKETS_MAX {
                    break;
                }
            }
        }
    }
    Ok(why)
}

/// Where packets are mixed down to.
struct Mono {
    decoded: Decoded,
    planes: Vec<f32>,
    seconds_max: u32,
}

impl Mono {
    fn append(&mut self, buffer: &GenericAudioBufferRef<'_>) -> Result<(), AudioError> {
        let rate = buffer.spec().rate();
        let channels = buffer.num_planes();
        if buffer.frames() == 0 || channels == 0 {
            return Ok(());
        }
        if self.decoded.rate == 0 {
            if !Resampler::RATES.contains(&rate) {
                return Err(AudioError::Rate(rate));
            }
            self.decoded.rate = rate;
        }
        if rate != self.decoded.rate {
            return Err(AudioError::Unsupported("the sample rate changes within the recording".into()));
        }
        let limit = self.seconds_max as usize * rate as usize;
        if self.decoded.samples.len() + buffer.frames() > limit {
            return Err(AudioError::TooLong(self.seconds_max));
        }
        mix_down(buffer, &mut self.planes, &mut self.decoded.samples);
        Ok(())
    }
}
