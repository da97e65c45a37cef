//! `/v1/audio/speech`: a text spoken, sent while it is being spoken.
//!
//! The text goes to the engine a sentence at a time, and the next one only when the client has taken what there is:
//! a slow reader holds nothing up but itself, and callers' clauses come in between.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::json;
use viva_actors::ports::ReplyConfig;
use viva_models::audio::{Resampler, SPEAK_RATE, to_i16};
use viva_models::enhance::Voice;
use viva_models::{Style, TtsJob};

use super::desk::{Kind, Speech, Ticket};
use super::encode::{AudioFormat, EncodeError, Encoder, made};
use super::{Refusal, json_body, sse, sse_response};
use crate::edge::http::App;
use crate::edge::protocol::session_object::{VoiceName, known_voice};

/// Characters of one request: the protocol's limit.
const INPUT_CHARS_MAX: usize = 4_096;

/// Speeds: the protocol's own range, and that of [`Style::pace`].
const SPEED: std::ops::RangeInclusive<f32> = 0.25..=4.0;

/// Bytes of one sentence to the engine, which cannot be stopped within it: some 20 s of speech.
const SENTENCE_MAX: usize = 300;

/// Rest between two sentences at the voice's own pace: a speaker's short breath, as the engine makes it.
const REST_MS: f32 = 180.0;

/// Characters of an instruction that may name an emotion: a word or three.
const EMOTION_MAX: usize = 40;

#[derive(Debug, Deserialize)]
struct Asked {
    input: String,
    #[serde(default)]
    voice: Option<VoiceName>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    response_format: Option<AudioFormat>,
    #[serde(default)]
    speed: Option<f32>,
    #[serde(default)]
    stream_format: Option<StreamFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StreamFormat {
    Audio,
    Sse,
}

/// `POST /v1/audio/speech`
pub(in crate::edge) async fn create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let asked: Asked = json_body(request).await?;
    let chars = asked.input.chars().count();
    if chars == 0 || chars > INPUT_CHARS_MAX {
        return Err(Refusal::value(
            "input",
            format!("{chars} characters; 1 to {INPUT_CHARS_MAX} are spoken"),
        ));
    }
    let speed = asked.speed.unwrap_or(1.0);
    if !SPEED.contains(&speed) {
        return Err(Refusal::value(
            "speed",
            format!("{speed} is not in {}..={}", SPEED.start(), SPEED.end()),
        ));
    }
    let format = asked.response_format.unwrap_or(AudioFormat::DEFAULT);
    let encoder = Encoder::new(format).map_err(|error| match error {
        EncodeError::Unsupported(why) => Refusal::unsupported("response_format", why),
        EncodeError::Failed(_) => Refusal::internal(&error),
    })?;
    let mut style = style(&app, asked.voice, asked.instructions)?;
    style.pace = (style.pace * speed).clamp(*SPEED.start(), *SPEED.end());
    let ticket = app.desk.enter(Kind::Speak, &app.viva).await?;
    let mut speaking = Speaking {
        sentences: sentences(&asked.input).into(),
        now: None,
        said_any: false,
        style,
        language: app.offer.spec.language.clone(),
        studio: Some(Studio::new(encoder, app.offer.spec.voice.gain)),
        ticket,
        samples: 0,
    };
    // The first piece decides between an answer and an error.
    let first = speaking.next().await?;
    Ok(match asked.stream_format.unwrap_or(StreamFormat::Audio) {
        StreamFormat::Audio => audio(speaking, first, format),
        StreamFormat::Sse => events(speaking, first, chars),
    })
}

/// How it is to sound: the voice's own style, with what the client wants of it.
fn style(app: &App, voice: Option<VoiceName>, instructions: Option<String>) -> Result<Style, Refusal> {
    let mut style = app.offer.spec.voice.style.clone();
    if let Some(VoiceName::Name(name) | VoiceName::Id { id: name }) = voice {
        let voice = known_voice(&name, &app.offer.voices).map_err(|what| Refusal::value("voice", what))?;
        // The first is the engine's own.
        if let Some(voice) = voice.filter(|voice| app.offer.voices.iter().skip(1).any(|known| known == voice))
        {
            style.voice = voice;
        }
    }
    // Engines with emotions know them by a word; of a whole paragraph they could make nothing.
    if let Some(word) = instructions.filter(|text| text.chars().count() <= EMOTION_MAX) {
        style.emotion = Some(word);
    }
    Ok(style)
}

fn audio(speaking: Speaking, first: Option<Bytes>, format: AudioFormat) -> Response<Body> {
    let stream = unfold((first, Some(speaking)), |(first, speaking)| async move {
        let mut speaking = speaking?;
        if let Some(first) = first {
            return Some((Ok(first), (None, Some(speaking))));
        }
        match speaking.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), (None, Some(speaking)))),
            Ok(None) => None,
            // The connection ends within the body, which is how a client sees that this is not all.
            Err(refusal) => Some((Err(std::io::Error::other(refusal.body().message.clone())), (None, None))),
        }
    });
    let mut response = Body::from_stream(stream).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.mime()));
    response
}

fn events(speaking: Speaking, first: Option<Bytes>, chars: usize) -> Response<Body> {
    let delta = |bytes: &Bytes| sse(&json!({"type": "speech.audio.delta", "audio": STANDARD.encode(bytes)}));
    let stream = unfold((first, Some(speaking)), move |(first, speaking)| async move {
        let mut speaking = speaking?;
        if let Some(first) = first {
            return Some((Ok::<_, Infallible>(delta(&first)), (None, Some(speaking))));
        }
        match speaking.next().await {
            Ok(Some(bytes)) => Some((Ok(delta(&bytes)), (None, Some(speaking)))),
            Ok(None) => Some((Ok(done(chars, speaking.samples)), (None, None))),
            Err(refusal) => Some((Ok(sse(&json!({"error": refusal.body()}))), (None, None))),
        }
    });
    sse_response(stream)
}

/// The last event. There are no tokens here: a character counts as a quarter of one, as in English text, and 50 ms of
/// sound as one, as the protocol's first server counts.
fn done(chars: usize, samples: u64) -> Bytes {
    let input = chars.div_ceil(4) as u64;
    let output = (samples * 20).div_ceil(u64::from(SPEAK_RATE));
    let usage = json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    sse(&json!({"type": "speech.audio.done", "usage": usage}))
}

/// A text on its way to being heard.
pub(in crate::edge) struct Speaking {
    sentences: VecDeque<String>,
    now: Option<Speech>,
    said_any: bool,
    style: Style,
    language: String,
    /// None after the end.
    studio: Option<Studio>,
    ticket: Ticket,
    /// Samples made so far.
    samples: u64,
}

impl Speaking {
    /// A text spoken for a caller: its file is 16-bit samples at 24 kHz without a header.
    pub fn samples(ticket: Ticket, text: &str, voice: &ReplyConfig, language: &str) -> Result<Self, Refusal> {
        let encoder = Encoder::new(AudioFormat::Pcm).map_err(|error| Refusal::internal(&error))?;
        Ok(Self {
            sentences: sentences(text).into(),
            now: None,
            said_any: false,
            style: voice.style.clone(),
            language: language.to_owned(),
            studio: Some(Studio::new(encoder, voice.gain)),
            ticket,
            samples: 0,
        })
    }

    /// More of the file; none after its end.
    ///
    /// # Errors
    /// When the engine fails or does not come to it in time.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if self.now.is_none() {
                let Some(text) = self.sentences.pop_front() else { return self.finish().await };
                let language = Some(self.language.clone());
                self.now = Some(self.ticket.speak(TtsJob { text, style: self.style.clone(), language }));
                if std::mem::replace(&mut self.said_any, true) {
                    let rest = (REST_MS / self.style.pace) as usize * SPEAK_RATE as usize / 1000;
                    if let Some(bytes) = self.encode(vec![0.0; rest], SPEAK_RATE).await? {
                        return Ok(Some(bytes));
                    }
                }
            }
            let Some(now) = &mut self.now else { continue };
            match now.next().await {
                None => self.now = None,
                Some(piece) => {
                    let (samples, rate) = piece?;
                    if let Some(bytes) = self.encode(samples, rate).await? {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    async fn encode(&mut self, samples: Vec<f32>, rate: u32) -> Result<Option<Bytes>, Refusal> {
        self.in_studio(move |studio| studio.take(&samples, rate)).await
    }

    async fn finish(&mut self) -> Result<Option<Bytes>, Refusal> {
        if self.studio.is_none() {
            return Ok(None);
        }
        let last = self.in_studio(Studio::finish).await;
        self.studio = None;
        last
    }

    /// Some seconds of speech take the encoder some ten milliseconds: too long for a thread that serves others.
    async fn in_studio(
        &mut self,
        work: impl FnOnce(&mut Studio) -> Result<Vec<u8>, EncodeError> + Send + 'static,
    ) -> Result<Option<Bytes>, Refusal> {
        let Some(mut studio) = self.studio.take() else { return Ok(None) };
        let worked = tokio::task::spawn_blocking(move || {
            let made = work(&mut studio);
            (studio, made)
        });
        let (studio, out) = worked.await.map_err(|error| Refusal::internal(&error))?;
        self.samples = studio.samples;
        self.studio = Some(studio);
        out.map(made).map_err(|error| Refusal::internal(&error))
    }
}

/// From the engine's samples to the file's bytes: the same chain that callers hear, so that a voice is as loud here.
struct Studio {
    resampler: Option<Resampler>,
    chain: Voice,
    encoder: Encoder,
    samples: u64,
}

impl Studio {
    fn new(encoder: Encoder, gain: f32) -> Self {
        Self { resampler: None, chain: Voice::new(SPEAK_RATE, gain), encoder, samples: 0 }
    }

    fn take(&mut self, samples: &[f32], rate: u32) -> Result<Vec<u8>, EncodeError> {
        let mut wide = Vec::new();
        if rate == SPEAK_RATE {
            self.end_resampling(&mut wide);
            wide.extend_from_slice(samples);
        } else {
            if self.resampler.as_ref().is_none_or(|r| r.from_rate() != rate) {
                self.end_resampling(&mut wide);
                let fresh = Resampler::new(rate, SPEAK_RATE);
                self.resampler = Some(fresh.map_err(|error| EncodeError::Failed(error.to_string()))?);
            }
            if let Some(resampler) = &mut self.resampler {
                resampler.process(samples, &mut wide);
            }
        }
        let mut ready = Vec::with_capacity(wide.len());
        self.chain.process(&wide, &mut ready);
        self.write(&ready)
    }

    fn end_resampling(&mut self, wide: &mut Vec<f32>) {
        if let Some(resampler) = &mut self.resampler {
            resampler.flush(wide);
        }
    }

    fn write(&mut self, ready: &[f32]) -> Result<Vec<u8>, EncodeError> {
        let samples: Vec<i16> = ready.iter().map(|s| to_i16(*s)).collect();
        self.samples += samples.len() as u64;
        let mut out = Vec::new();
        self.encoder.push(&samples, &mut out)?;
        Ok(out)
    }

    fn finish(&mut self) -> Result<Vec<u8>, EncodeError> {
        let (mut wide, mut ready) = (Vec::new(), Vec::new());
        self.end_resampling(&mut wide);
        self.chain.process(&wide, &mut ready);
        self.chain.flush(&mut ready);
        let mut out = self.write(&ready)?;
        self.encoder.finish(&mut out)?;
        Ok(out)
    }
}

/// The text in pieces for the engine: sentences, and long ones cut at a comma or between words.
fn sentences(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(sentence_end(rest));
        if piece.chars().any(char::is_alphanumeric) {
            pieces.push(piece.trim().to_owned());
        }
        rest = after.trim_start();
    }
    pieces
}

/// Where the first sentence ends, in bytes; beyond [`SENTENCE_MAX`] where it may be cut best.
fn sentence_end(text: &str) -> usize {
    let (mut comma, mut space, mut last) = (None, None, 0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let after = at + c.len_utf8();
        if after > SENTENCE_MAX {
            return comma.or(space).unwrap_or(last.max(c.len_utf8()));
        }
        let spaced = chars.peek().is_none_or(|(_, next)| next.is_whitespace());
        match c {
            '\n' | '。' | '！' | '？' => return after,
            '.' | '!' | '?' | '…' if spaced => return after,
            ',' | ';' | ':' | '–' if spaced => comma = Some(after),
            c if c.is_whitespace() => space = Some(after),
            _ => {}
        }
        last = after;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_spoken_sentence_by_sentence() {
        let check = |text: &str, expect: &[&str]| assert_eq!(sentences(text), expect, "{text:?}");
        check("One. Two! Three", &["One.", "Two!", "Three"]);
        check("It costs 3.50 euros.\nNext", &["It costs 3.50 euros.", "Next"]);
        check(" … --- ", &[]);
        check("你好。再见", &["你好。", "再见"]);
    }

    #[test]
    fn no_piece_is_longer_than_the_engine_may_be_held() {
        let long = "word ".repeat(400) + &"x".repeat(1_000) + &"ü".repeat(400);
        let pieces = sentences(&long);
        assert!(pieces.iter().all(|piece| piece.len() <= SENTENCE_MAX), "{pieces:?}");
        let said: String = pieces.concat();
        assert_eq!(said.replace(' ', ""), long.replace(' ', ""));
        let comma = format!("{}, {}", "a".repeat(200), "b ".repeat(100));
        assert_eq!(sentences(&comma)[0].len(), 201);
    }
}
