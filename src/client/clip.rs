//! Something a caller says: PCM at the wire's rate, cut into ready-made messages, with the places where
//! the speech in it begins and ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use viva_models::audio::{decode_file, to_i16};

use super::error::{ClientError, Result};

/// Hertz on the wire: the protocol's `audio/pcm` knows only this rate.
pub const RATE: u32 = 24_000;
/// Samples of one frame: 20 ms, what browsers and telephones send.
pub const FRAME: usize = RATE as usize / 50;
/// Below this a sample counts as silence: −50 dBFS of full scale (10^(−50/20) × 32768).
pub const AUDIBLE: u16 = 104;
/// Longest clip we load: the protocol's own limit of a session is an hour, an answer is far shorter.
const CLIP_SECONDS_MAX: u32 = 600;

/// Window of the end-of-speech measure, 10 ms: shorter than any phoneme.
const LEVEL_WINDOW: usize = RATE as usize / 100;
/// Speech must last so many windows (30 ms), so that a click of the microphone is none.
const SPEECH_WINDOWS_MIN: usize = 3;
/// Speech is what is less than so far below the clip's loudest window. Unvoiced endings lie 25–30 dB
/// below a stressed vowel; room noise of a usable recording lies below 40.
const SPEECH_BELOW_PEAK_DB: f32 = 35.0;
/// ... and at least so far above the clip's own noise (its 10th percentile): twice its amplitude, which
/// room noise does not reach for 30 ms on end, and the last syllables of the packaged read clips do.
const SPEECH_ABOVE_NOISE_DB: f32 = 6.0;
/// ... and never below this, whatever the file.
const SPEECH_FLOOR_DB: f32 = -55.0;

/// One utterance, ready to be sent.
#[derive(Debug)]
pub struct Clip {
    /// What to call it in reports: the file's path, or a name in angle brackets for made sounds.
    pub name: String,
    /// Mono at [`RATE`].
    pub samples: Vec<i16>,
    /// First sample of speech.
    pub speech_start: usize,
    /// One past the last sample of speech: what latency is measured from.
    pub speech_end: usize,
    /// `input_audio_buffer.append` messages of [`FRAME`] samples each, encoded once for all callers.
    pub(super) messages: Vec<Utf8Bytes>,
}

impl Clip {
    /// Takes samples at [`RATE`]; finds the speech in them.
    pub fn new(name: impl Into<String>, samples: Vec<i16>) -> Self {
        let (speech_start, speech_end) = speech_bounds(&samples);
        let messages = samples.chunks(FRAME).map(append_message).collect();
        Self { name: name.into(), samples, speech_start, speech_end, messages }
    }

    /// Reads any sound file the models crate can decode.
    pub fn load(path: &Path) -> Result<Arc<Self>> {
        let refuse = |why: String| ClientError::Clip { path: path.to_path_buf(), why };
        let samples = decode_file(path, CLIP_SECONDS_MAX)
            .and_then(|decoded| decoded.resampled(RATE))
            .map_err(|error| refuse(error.to_string()))?;
        let pcm: Vec<i16> = samples.iter().map(|&sample| to_i16(sample)).collect();
        if !pcm.iter().any(|sample| sample.unsigned_abs() > AUDIBLE) {
            return Err(refuse("nothing in it is louder than -50 dBFS".into()));
        }
        Ok(Arc::new(Self::new(path.display().to_string(), pcm)))
    }

    /// Reads every sound file of a folder, in the order of their names.
    pub fn load_folder(folder: &Path) -> Result<Vec<Arc<Self>>> {
        let refuse = |why: String| ClientError::Clip { path: folder.to_path_buf(), why };
        let entries = std::fs::read_dir(folder).map_err(|error| refuse(error.to_string()))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.extension().is_some_and(|e| SOUND_FILES.iter().any(|s| e.eq_ignore_ascii_case(s)))
            })
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(refuse(format!("no sound file in it (looked for {})", SOUND_FILES.join(", "))));
        }
        files.iter().map(|file| Self::load(file)).collect()
    }

    /// Seconds of the whole clip.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(RATE)
    }
}

/// What [`Clip::load_folder`] looks for.
const SOUND_FILES: &[&str] = &["wav", "mp3", "flac", "ogg", "opus", "m4a", "webm"];

/// One frame of silence, as a message.
pub(super) fn silence_message() -> Utf8Bytes {
    static SILENCE: OnceLock<Utf8Bytes> = OnceLock::new();
    SILENCE.get_or_init(|| append_message(&[0; FRAME])).clone()
}

/// An append event of one frame; a short last frame is filled up with silence.
fn append_message(frame: &[i16]) -> Utf8Bytes {
    let mut bytes = Vec::with_capacity(FRAME * 2);
    for sample in frame {
        bytes.extend_from_slice(&sample.to_le_bytes());
    }
    bytes.resize(FRAME * 2, 0);
    format!(r#"{{"type":"input_audio_buffer.append","audio":"{}"}}"#, BASE64.encode(&bytes)).into()
}

/// Where speech begins and ends, by energy: `(first, one past the last)` sample. A clip without any
/// speech gives its whole length.
pub fn speech_bounds(samples: &[i16]) -> (usize, usize) {
    let levels: Vec<f32> = samples.chunks(LEVEL_WINDOW).map(level_db).collect();
    let mut sorted = levels.clone();
    sorted.sort_by(f32::total_cmp);
    let (Some(&loudest), Some(&noise)) = (sorted.last(), sorted.get(sorted.len() / 10)) else {
        return (0, samples.len());
    };
    // A clip cut tightly has no noise in it: its 10th percentile is speech, so the peak rule caps it.
    let over_noise = (noise + SPEECH_ABOVE_NOISE_DB).min(loudest - SPEECH_ABOVE_NOISE_DB);
    let bar = (loudest - SPEECH_BELOW_PEAK_DB).max(over_noise).max(SPEECH_FLOOR_DB);
    let runs: Vec<usize> = levels
        .windows(SPEECH_WINDOWS_MIN)
        .enumerate()
        .filter(|(_, run)| run.iter().all(|&level| level >= bar))
        .map(|(at, _)| at)
        .collect();
    match (runs.first(), runs.last()) {
        (Some(first), Some(last)) => {
            (first * LEVEL_WINDOW, ((last + SPEECH_WINDOWS_MIN) * LEVEL_WINDOW).min(samples.len()))
        }
        _ => (0, samples.len()),
    }
}

/// RMS of a window in dBFS; digital silence is −120.
fn level_db(window: &[i16]) -> f32 {
    let power: f64 =
        window.iter().map(|&s| (f64::from(s) / 32768.0).powi(2)).sum::<f64>() / window.len() as f64;
    (10.0 * power.max(1e-12).log10()) as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tone(seconds: f64, amplitude: f64) -> Vec<i16> {
        (0..(seconds * f64::from(RATE)) as usize)
            .map(|i| (amplitude * 32767.0 * (i as f64 * 0.1).sin()) as i16)
            .collect()
    }

    #[track_caller]
    fn check(parts: &[(f64, f64)], start_ms: usize, end_ms: usize) {
        let samples: Vec<i16> = parts.iter().flat_map(|&(seconds, level)| tone(seconds, level)).collect();
        let (start, end) = speech_bounds(&samples);
        let ms = |samples: usize| samples * 1000 / RATE as usize;
        assert!(ms(start).abs_diff(start_ms) <= 10, "start {} ms, expected {start_ms}", ms(start));
        assert!(ms(end).abs_diff(end_ms) <= 10, "end {} ms, expected {end_ms}", ms(end));
    }

    #[test]
    fn silence_around_speech_is_trimmed() {
        check(&[(0.3, 0.0), (1.0, 0.5), (0.7, 0.0)], 300, 1300);
    }

    #[test]
    fn room_noise_after_speech_is_no_speech() {
        check(&[(0.3, 0.003), (1.0, 0.5), (1.0, 0.004)], 300, 1300);
    }

    #[test]
    fn a_quiet_ending_is_still_speech() {
        check(&[(0.5, 0.001), (1.0, 0.5), (0.2, 0.05), (0.5, 0.001)], 500, 1700);
    }

    #[test]
    fn a_pause_inside_is_kept() {
        check(&[(0.2, 0.0), (0.5, 0.5), (1.8, 0.0), (0.5, 0.4), (0.4, 0.0)], 200, 3000);
    }

    #[test]
    fn a_click_after_speech_is_no_speech() {
        check(&[(0.2, 0.0), (1.0, 0.5), (0.5, 0.0), (0.01, 0.9), (0.5, 0.0)], 200, 1200);
    }

    #[test]
    fn a_tight_clip_and_an_empty_one_keep_their_length() {
        check(&[(1.0, 0.5)], 0, 1000);
        assert_eq!(speech_bounds(&[]), (0, 0));
        assert_eq!(speech_bounds(&[0; 4800]), (0, 4800));
    }

    #[test]
    fn messages_carry_every_sample_and_fill_the_last_frame() {
        let clip = Clip::new("x", vec![7; FRAME + 1]);
        assert_eq!(clip.messages.len(), 2);
        let event: serde_json::Value = serde_json::from_str(clip.messages[1].as_str()).unwrap();
        let bytes = BASE64.decode(event["audio"].as_str().unwrap()).unwrap();
        assert_eq!(bytes.len(), FRAME * 2);
        assert_eq!(&bytes[..4], &[7, 0, 0, 0]);
    }

    #[test]
    fn a_file_that_is_no_sound_says_so_with_its_name() {
        let error = Clip::load(Path::new("Cargo.toml")).unwrap_err().to_string();
        assert!(error.starts_with("cannot play Cargo.toml"), "{error}");
    }
}
