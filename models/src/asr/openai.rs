//! Recognition by an OpenAI-compatible `/audio/transcriptions`.

use std::io::Cursor;

use serde::Deserialize;

use crate::audio::{LISTEN_RATE, to_i16};
use crate::remote::{Client, Remote, Upload, message_in};
use crate::{Asr, AsrJob, Cancel, EngineError, Result, Transcription, Word};

/// Samples of the longest job: 30 s, by the contract.
const SAMPLES_MAX: usize = 30 * LISTEN_RATE as usize;
/// Longer than any text an upload holds beside the audio, and in no WAV by chance.
const BOUNDARY: &str = "viva-7f3a9c51e0d84b26-form-boundary";

/// A recogniser elsewhere.
pub struct OpenAiAsr {
    client: Client,
    name: String,
}

impl OpenAiAsr {
    /// Connects at the first job, not before.
    pub fn new(remote: Remote) -> Self {
        Self { name: format!("openai:{}", remote.model), client: Client::new(remote) }
    }
}

impl Asr for OpenAiAsr {
    fn name(&self) -> &str {
        &self.name
    }

    /// Where the server gives no probabilities, confidences are 1.
    fn transcribe(&mut self, job: &AsrJob, cancel: &Cancel) -> Result<Transcription> {
        if job.samples.len() > SAMPLES_MAX {
            return Err(EngineError::Invalid("a job holds at most 30 s".into()));
        }
        let assumed = job.language.clone().unwrap_or_default();
        if job.samples.is_empty() {
            return Ok(Transcription { language: assumed, ..Transcription::default() });
        }
        let upload = Upload {
            path: "audio/transcriptions",
            content_type: format!("multipart/form-data; boundary={BOUNDARY}"),
            body: form(&self.client.remote().model, job)?,
        };
        let answer = self.client.call(upload, cancel)?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|e| {
            let text = String::from_utf8_lossy(&answer);
            let said = message_in(&text).unwrap_or_else(|| e.to_string());
            EngineError::Failed(
                self.client.remote().clean(&format!("no transcription in the answer: {said}")),
            )
        })?;
        Ok(answer.into_transcription(assumed))
    }
}

/// What the server answers; all but the text is optional.
#[derive(Deserialize)]
struct Answer {
    text: String,
    #[serde(default)]
    language: Option<String>,
    #[serde(default)]
    words: Option<Vec<AnswerWord>>,
    #[serde(default)]
    segments: Option<Vec<Segment>>,
}

#[derive(Deserialize)]
struct AnswerWord {
    word: String,
    start: f64,
    end: f64,
    #[serde(default)]
    probability: Option<f32>,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(default)]
    start: f64,
    #[serde(default)]
    end: f64,
    #[serde(default)]
    avg_logprob: Option<f32>,
}

impl Answer {
    fn into_transcription(self, assumed: String) -> Transcription {
        let segments = self.segments.unwrap_or_default();
        let (mut weight, mut sum) = (0.0f64, 0.0f64);
        for segment in &segments {
            if let Some(probability) = segment.avg_logprob {
                let seconds = (segment.end - segment.start).max(0.01);
                weight += seconds;
                sum += seconds * f64::from(probability.exp().clamp(0.0, 1.0));
            }
        }
        let confidence = if weight > 0.0 { (sum / weight) as f32 } else { 1.0 };
        let ms = |seconds: f64| (seconds * 1000.0).round().clamp(0.0, 30_000.0) as u32;
        let words = self.words.unwrap_or_default().into_iter().map(|w| Word {
            text: w.word.trim().to_owned(),
            start_ms: ms(w.start),
            end_ms: ms(w.end).max(ms(w.start)),
            confidence: w.probability.unwrap_or(confidence).clamp(0.0, 1.0),
        });
        Transcription {
            text: self.text.trim().to_owned(),
            language: self.language.map_or(assumed, |name| tag(&name)),
            words: words.filter(|w| !w.text.is_empty()).collect(),
            confidence,
        }
    }
}

/// OpenAI answers with a language's English name ("english"); others with its tag.
fn tag(name: &str) -> String {
    let lower = name.trim().to_lowercase();
    let known = [
        ("english", "en"),
        ("german", "de"),
        ("french", "fr"),
        ("spanish", "es"),
        ("italian", "it"),
        ("portuguese", "pt"),
        ("dutch", "nl"),
        ("polish", "pl"),
        ("russian", "ru"),
        ("japanese", "ja"),
        ("chinese", "zh"),
        ("korean", "ko"),
        ("hindi", "hi"),
        ("arabic", "ar"),
        ("turkish", "tr"),
    ];
    known.iter().find(|(long, _)| *long == lower).map_or(lower, |(_, short)| (*short).to_owned())
}

/// The upload: the audio as 16-bit WAV, and the job's other fields.
fn form(model: &str, job: &AsrJob) -> Result<Vec<u8>> {
    let mut form = Vec::with_capacity(job.samples.len() * 2 + 2_048);
    let mut field = |name: &str, value: &str| {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(value.as_bytes());
        form.extend_from_slice(b"\r\n");
    };
    field("model", model);
    if let Some(language) = &job.language {
        field("language", language);
    }
    if let Some(prompt) = &job.prompt {
        field("prompt", prompt);
    }
    field("temperature", "0");
    if job.words {
        field("response_format", "verbose_json");
        field("timestamp_granularities[]", "word");
        field("timestamp_granularities[]", "segment");
    } else {
        field("response_format", "json");
    }
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"speech.wav\"\r\n\
         Content-Type: audio/wav\r\n\r\n"
    );
    form.extend_from_slice(head.as_bytes());
    form.extend_from_slice(&wav(&job.samples)?);
    form.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    Ok(form)
}

fn wav(samples: &[f32]) -> Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: LISTEN_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Cursor::new(Vec::with_capacity(samples.len() * 2 + 64));
    let write = |bytes: &mut Cursor<Vec<u8>>| -> std::result::Result<(), hound::Error> {
        let mut wav = hound::WavWriter::new(bytes, spec)?;
        for sample in samples {
            wav.write_sample(to_i16(*sample))?;
        }
        wav.finalize()
    };
    write(&mut bytes).map_err(|e| EngineError::Failed(format!("cannot write WAV: {e}")))?;
    Ok(bytes.into_inner())
}
