//! `/v1/audio/transcriptions`: the words of a recording, all at the end or as they are recognised.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use viva_models::AsrJob;
use viva_models::audio::{AudioError, LISTEN_RATE};

use super::desk::{Kind, Ticket};
use super::recognise::{Piece, Window, windows};
use super::subtitles::{Segment, TimedWord, seconds, segments, srt, vtt};
use super::upload::Form;
use super::{Refusal, sse, sse_response};
use crate::edge::http::App;

/// The formats of the protocol that are written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Srt,
    VerboseJson,
    Vtt,
}

/// What the form asks for beside its file.
#[derive(Debug, PartialEq)]
struct Asked {
    format: Format,
    stream: bool,
    /// Words beside the segments, in `verbose_json`.
    words: bool,
    language: Option<String>,
    prompt: Option<String>,
}

impl Asked {
    fn of(form: &Form) -> Result<Self, Refusal> {
        let format = match form.get("response_format").unwrap_or("json") {
            "json" => Format::Json,
            "text" => Format::Text,
            "srt" => Format::Srt,
            "verbose_json" => Format::VerboseJson,
            "vtt" => Format::Vtt,
            "diarized_json" => {
                let message = "This server does not tell speakers apart; ask for verbose_json.";
                return Err(Refusal::unsupported("response_format", message));
            }
            _ => return Err(Refusal::value("response_format", "it is json, text, srt, verbose_json or vtt")),
        };
        let stream = match form.get("stream").unwrap_or("false") {
            "true" | "1" => true,
            "false" | "0" | "" => false,
            _ => return Err(Refusal::value("stream", "it is true or false")),
        };
        if stream && !matches!(format, Format::Json | Format::Text) {
            let message =
                "What is streamed has no times; ask for response_format json, or leave 'stream' out.";
            return Err(Refusal::unsupported("stream", message));
        }
        if form.list("include").contains(&"logprobs") {
            return Err(Refusal::unsupported(
                "include",
                "The recogniser tells no log probabilities of tokens.",
            ));
        }
        let granularities = form.list("timestamp_granularities");
        if granularities.iter().any(|g| !["word", "segment"].contains(g)) {
            return Err(Refusal::value("timestamp_granularities", "they are word and segment"));
        }
        let keywords = form.list("keywords").join(", ");
        let prompt = [form.get("prompt").unwrap_or_default(), &keywords].join(" ").trim().to_owned();
        Ok(Self {
            format,
            stream,
            words: granularities.contains(&"word"),
            language: form.get("language").filter(|tag| !tag.is_empty()).map(str::to_owned),
            prompt: (!prompt.is_empty()).then_some(prompt),
        })
    }

    /// Whether times are wanted, which cost the recogniser a little more.
    fn timed(&self) -> bool {
        !matches!(self.format, Format::Json | Format::Text)
    }
}

/// `POST /v1/audio/transcriptions`
pub(in crate::edge) async fn create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    // Before the upload: whoever waits must not fill the disk meanwhile.
    let ticket = app.desk.enter(Kind::Recognise, &app.viva).await?;
    let form = Form::read(request).await?;
    let asked = Asked::of(&form)?;
    let pieces = windows(form.file, form.hint, app.viva.clone());
    let mut listening = Listening { pieces, ticket, asked, heard: Heard::default() };
    if !listening.asked.stream {
        while listening.next().await?.is_some() {}
        return Ok(listening.heard.response(&listening.asked));
    }
    // The first window decides between an answer and an error.
    let first = listening.next().await?;
    Ok(streamed(listening, first))
}

/// `POST /v1/audio/translations`: no recogniser here can.
pub(in crate::edge) async fn translate() -> Refusal {
    let message = "The recognisers of this server write down what is said and do not translate it; use \
                   /v1/audio/transcriptions.";
    Refusal::unsupported("model", message)
}

/// A recording on its way to being written down.
struct Listening {
    pieces: mpsc::Receiver<Result<Piece, AudioError>>,
    ticket: Ticket,
    asked: Asked,
    heard: Heard,
}

/// What was recognised so far.
#[derive(Debug, Default)]
struct Heard {
    text: String,
    language: Option<String>,
    segments: Vec<Segment>,
    words: Vec<TimedWord>,
    ms: u64,
}

impl Listening {
    /// The words of the next window; none at the end.
    async fn next(&mut self) -> Result<Option<String>, Refusal> {
        let window = match self.pieces.recv().await {
            Some(Ok(Piece::Window(window))) => window,
            Some(Ok(Piece::End(ms))) => {
                self.heard.ms = ms;
                return Ok(None);
            }
            Some(Err(error)) => return Err(unreadable(&error)),
            None => return Err(Refusal::internal(&"the decoder's thread ended")),
        };
        let Window { start_ms, samples } = window;
        let end_ms = start_ms + samples.len() as u64 * 1_000 / u64::from(LISTEN_RATE);
        let heard = self
            .ticket
            .recognise(AsrJob {
                samples,
                language: self.asked.language.clone(),
                prompt: self.asked.prompt.clone(),
                words: self.asked.timed(),
            })
            .await?;
        let words: Vec<TimedWord> =
            heard.words.iter().cloned().map(|word| TimedWord::of(word, start_ms)).collect();
        let all = &mut self.heard;
        if self.asked.timed() {
            all.segments.extend(segments(&heard, &words, start_ms, end_ms));
            all.words.extend(words);
        }
        if heard.text.is_empty() {
            return Ok(Some(String::new()));
        }
        all.language.get_or_insert(heard.language);
        let delta = if all.text.is_empty() { heard.text } else { format!(" {}", heard.text) };
        all.text.push_str(&delta);
        Ok(Some(delta))
    }
}

fn unreadable(error: &AudioError) -> Refusal {
    match error {
        AudioError::Io { .. } => Refusal::internal(error),
        AudioError::TooLong(_) => {
            Refusal::invalid("file_too_long", format!("Invalid 'file': {error}."), Some("file"))
        }
        _ => Refusal::invalid("invalid_audio", format!("Invalid 'file': {error}."), Some("file")),
    }
}

impl Heard {
    fn usage(&self) -> Value {
        json!({"type": "duration", "seconds": seconds(self.ms)})
    }

    fn response(&self, asked: &Asked) -> Response<Body> {
        let plain = |text: String, kind: &'static str| {
            let mut response = text.into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        };
        match asked.format {
            Format::Json => axum::Json(json!({"text": self.text, "usage": self.usage()})).into_response(),
            Format::Text => plain(format!("{}\n", self.text), "text/plain; charset=utf-8"),
            Format::Srt => plain(srt(&self.segments), "application/x-subrip; charset=utf-8"),
            Format::Vtt => plain(vtt(&self.segments), "text/vtt; charset=utf-8"),
            Format::VerboseJson => {
                let segments: Vec<Value> = self.segments.iter().enumerate().map(|(i, s)| s.json(i)).collect();
                let words: Option<Vec<Value>> =
                    asked.words.then(|| self.words.iter().map(TimedWord::json).collect());
                axum::Json(json!({
                    "task": "transcribe",
                    "language": self.language.as_deref().or(asked.language.as_deref()).unwrap_or("en"),
                    "duration": seconds(self.ms),
                    "text": self.text,
                    "segments": segments,
                    "words": words,
                    "usage": self.usage(),
                }))
                .into_response()
            }
        }
    }
}

fn streamed(listening: Listening, first: Option<String>) -> Response<Body> {
    let delta = |text: String| {
        Some(text)
            .filter(|text| !text.is_empty())
            .map(|text| sse(&json!({"type": "transcript.text.delta", "delta": text})))
    };
    let begun = first.clone().and_then(delta);
    let over = first.is_none();
    let stream = unfold((begun, Some(listening), over), move |(begun, listening, over)| async move {
        let mut listening = listening?;
        if let Some(begun) = begun {
            return Some((Ok::<_, Infallible>(begun), (None, Some(listening), over)));
        }
        let mut over = over;
        while !over {
            match listening.next().await {
                Ok(Some(text)) => {
                    if let Some(event) = delta(text) {
                        return Some((Ok(event), (None, Some(listening), false)));
                    }
                }
                Ok(None) => over = true,
                Err(refusal) => {
                    return Some((Ok(sse(&json!({"error": refusal.body()}))), (None, None, true)));
                }
            }
        }
        let heard = &listening.heard;
        let done = json!({"type": "transcript.text.done", "text": heard.text, "usage": heard.usage()});
        Some((Ok(sse(&done)), (None, None, true)))
    });
    sse_response(stream)
}
