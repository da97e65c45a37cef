//! Speech by an OpenAI-compatible `/audio/speech`.

use serde_json::json;

use crate::audio::SPEAK_RATE;
use crate::remote::{Client, Remote, Upload, message_in};
use crate::{Cancel, EngineError, Result, StyleSupport, TTS_TEXT_MAX, Tts, TtsJob};

/// The voice that is asked for when a style names none: the first of OpenAI's own, which compatible servers
/// map to theirs.
const VOICE: &str = "alloy";

/// A voice elsewhere. Its samples come as raw 16-bit PCM at 24 kHz, as they are made.
pub struct OpenAiTts {
    client: Client,
    name: String,
    voices: Vec<String>,
}

impl OpenAiTts {
    /// Connects at the first job, not before.
    pub fn new(remote: Remote) -> Self {
        Self {
            name: format!("openai:{}", remote.model),
            client: Client::new(remote),
            voices: vec![VOICE.to_owned()],
        }
    }

    /// Names the voices the endpoint has; the first speaks when a style names none.
    pub fn with_voices(mut self, voices: Vec<String>) -> Self {
        if !voices.is_empty() {
            self.voices = voices;
        }
        self
    }
}

impl Tts for OpenAiTts {
    fn name(&self) -> &str {
        &self.name
    }

    fn sample_rate(&self) -> u32 {
        SPEAK_RATE
    }

    fn styles(&self) -> StyleSupport {
        StyleSupport { voices: self.voices.clone(), pace: true, ..StyleSupport::default() }
    }

    fn speak(&mut self, job: &TtsJob, cancel: &Cancel, sink: &mut dyn FnMut(&[f32])) -> Result<()> {
        if job.text.len() > TTS_TEXT_MAX {
            return Err(EngineError::Invalid(format!("a job holds at most {TTS_TEXT_MAX} bytes of text")));
        }
        // Servers answer what cannot be said with an error, with nothing, or with a click.
        if !job.text.chars().any(char::is_alphanumeric) {
            return Ok(());
        }
        let voice = if job.style.voice.is_empty() { &self.voices[0] } else { &job.style.voice };
        let pace = if job.style.pace.is_finite() { job.style.pace.clamp(0.25, 4.0) } else { 1.0 };
        let body = json!({
            "model": self.client.remote().model,
            "input": job.text,
            "voice": voice,
            "speed": pace,
            "response_format": "pcm",
        });
        let upload = Upload {
            path: "audio/speech",
            content_type: "application/json".into(),
            body: body.to_string().into_bytes(),
        };
        let incoming = self.client.send(upload, None)?;
        let mut pcm = Pcm::default();
        while let Some(bytes) = incoming.next(cancel)? {
            pcm.take(&bytes, sink).map_err(|why| EngineError::Failed(self.client.remote().clean(&why)))?;
        }
        pcm.end().map_err(|why| EngineError::Failed(self.client.remote().clean(&why)))
    }
}

/// Turns bytes into samples, whatever pieces they come in.
#[derive(Default)]
struct Pcm {
    /// First bytes of the answer, until it is clear that they are sound; later, half a sample.
    held: Vec<u8>,
    begun: bool,
    samples: Vec<f32>,
}

/// Bytes by which containers and error answers are told from raw samples.
const PROBE: usize = 4;

impl Pcm {
    fn take(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[f32])) -> std::result::Result<(), String> {
        self.held.extend_from_slice(bytes);
        if !self.begun {
            if self.held.len() < PROBE {
                return Ok(());
            }
            self.begun = true;
            check_format(&self.held)?;
        }
        let whole = self.held.len() / 2 * 2;
        self.samples.clear();
        crate::audio::pcm16_decode(&self.held[..whole], &mut self.samples).expect("the length was made even");
        self.held.drain(..whole);
        if !self.samples.is_empty() {
            sink(&self.samples);
        }
        Ok(())
    }

    fn end(self) -> std::result::Result<(), String> {
        if self.begun { Ok(()) } else { Err("the server sent no sound".into()) }
    }
}

fn check_format(bytes: &[u8]) -> std::result::Result<(), String> {
    if let Some(message) = std::str::from_utf8(bytes).ok().and_then(message_in) {
        return Err(format!("the server sent an error in place of sound: {message}"));
    }
    let container = [(&b"RIFF"[..], "WAV"), (b"OggS", "Ogg"), (b"fLaC", "FLAC"), (b"ID3", "MP3")];
    match container.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, name)) => Err(format!("the server sent {name} where raw PCM was asked for")),
        // An object whose first key is a word: as sound it would begin with a click at a quarter of full scale.
        None if bytes.starts_with(b"{\"") && bytes[2..PROBE].iter().all(u8::is_ascii_alphabetic) => {
            Err("the server sent JSON where raw PCM was asked for".into())
        }
        None => Ok(()),
    }
}
