//! The HTTP endpoints of the OpenAI API: recognition, speech, embeddings, texts, and the lists of what there is.
//!
//! All of it is work for the scheduler, behind that of the conversations ([`desk`]): nobody hears it, so it never
//! costs a caller a deadline. A client that goes away drops its request, and with it what it ordered.
//!
//! Names of models are taken as they come, since stock clients insist on one (`whisper-1`, `tts-1`): there is one
//! engine of each kind to choose from, and `/v1/models` says what it is called here.

pub mod chat;
pub mod desk;
pub mod embeddings;
pub mod encode;
pub mod models;
pub mod recognise;
pub mod speech;
pub mod subtitles;
pub mod transcriptions;
pub mod upload;
pub mod writing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use futures_util::Stream;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::http::{App, error};
use super::protocol::ErrorBody;

/// Bytes a JSON request may have: 2,048 texts of 2,000 bytes to embed, the most the protocol allows in one request.
const JSON_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a JSON request may take to arrive: a second on any line, and half a minute on the worst.
const JSON_WITHIN: Duration = Duration::from_secs(30);

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::one))
        .route("/v1/voices", get(models::voices))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/audio/speech", post(speech::create))
        .route("/v1/audio/transcriptions", post(transcriptions::create))
        .route("/v1/audio/translations", post(transcriptions::translate))
        .route("/v1/chat/completions", post(chat::create))
        // Each handler reads its body itself, with a bound of its own.
        .layer(DefaultBodyLimit::disable())
}

/// Why a request is not answered as asked.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    body: Box<ErrorBody>,
    retry_after_s: Option<u64>,
}

impl Refusal {
    /// The request cannot be carried out as it is; `param` is the field that is wrong.
    pub fn invalid(code: &str, message: impl Into<String>, param: Option<&str>) -> Self {
        let body = ErrorBody::invalid(code, message, param);
        Self { status: StatusCode::BAD_REQUEST, body: body.into(), retry_after_s: None }
    }

    /// A value of this field cannot be.
    pub fn value(param: &str, what: impl std::fmt::Display) -> Self {
        Self::invalid("invalid_value", format!("Invalid '{param}': {what}."), Some(param))
    }

    /// What the protocol knows and this server does not do.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::invalid("unsupported", message, Some(param))
    }

    /// There is too much to do.
    pub fn busy(retry_after_s: u64) -> Self {
        let message = "The server has too much to do; try again later.";
        let body = ErrorBody::server("server_busy", message);
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: body.into(),
            retry_after_s: Some(retry_after_s),
        }
    }

    /// Something is not there now.
    pub fn unavailable(why: &str, retry_after_s: u64) -> Self {
        let body = ErrorBody::server("not_ready", format!("Not ready: {why}."));
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: body.into(),
            retry_after_s: Some(retry_after_s),
        }
    }

    /// Our own mistake. The details are for the log.
    pub fn internal(details: &dyn std::fmt::Display) -> Self {
        tracing::error!(%details, "a request failed");
        let body = ErrorBody::server("internal_error", "The server failed; its log says why.");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, body: body.into(), retry_after_s: None }
    }

    /// What a check of the protocol's own found.
    pub fn bad_request(body: ErrorBody) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: body.into(), retry_after_s: None }
    }

    /// The same with a time to come back at.
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The same with another status.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// What it says, for streams that have begun already.
    pub fn body(&self) -> &ErrorBody {
        &self.body
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        error(self.status, *self.body, self.retry_after_s)
    }
}

/// Reads a JSON body; what is wrong with it is said by field.
pub(super) async fn json_body<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.trim_start().to_ascii_lowercase().starts_with("application/json") {
        let refusal = Refusal::invalid("unsupported_content_type", "The body is 'application/json'.", None);
        return Err(refusal.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let read = timeout(JSON_WITHIN, to_bytes(request.into_body(), JSON_BYTES_MAX)).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let message =
                format!("The body cannot be read, or has more than {JSON_BYTES_MAX} bytes: {error}.");
            let refusal = Refusal::invalid("invalid_body", message, None);
            return Err(refusal.with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Err(_) => {
            let refusal = Refusal::invalid("request_timeout", "The body did not arrive in time.", None);
            return Err(refusal.with_status(StatusCode::REQUEST_TIMEOUT));
        }
    };
    read_json(&bytes)
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let reader = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner();
        if inner.classify() != serde_json::error::Category::Data {
            return Refusal::invalid("invalid_json", format!("The body is not valid JSON: {inner}."), None);
        }
        let param = Some(path.as_str()).filter(|path| *path != ".");
        Refusal::invalid("invalid_value", format!("Invalid request: {inner}."), param)
    })
}

/// One server-sent event.
fn sse(data: &Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

/// A stream of server-sent events.
fn sse_response(stream: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response<Body> {
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
