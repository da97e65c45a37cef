//! An OpenAI-compatible endpoint, and how its answers are read without ever hanging a caller.
//!
//! HTTP here is blocking, and a blocking read cannot be called off. So each request runs on a thread of its
//! own that passes the body on through a bounded channel; who gives up drops the channel, and the thread ends
//! at its next byte, or at its timeout. The number of such threads is limited.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::{Agent, Body};

use crate::{Cancel, EngineError, Result};

/// Requests of one client that may be under way, those given up included. An endpoint that lets more than
/// this hang is not serving us.
const REQUESTS_MAX: usize = 64;
/// Pieces of a body that may wait to be read; then the server waits for us.
const PIECES_MAX: usize = 64;
/// Bytes of a piece: 170 ms of speech at 24 kHz, or some thirty tokens' events.
const PIECE: usize = 8_192;
/// Bytes of an answer: 4096 characters spoken slowly are some six minutes, 17 MB.
const ANSWER_MAX: u64 = 32 << 20;
/// Bytes of an error answer that are read for its message.
const ERROR_BODY_MAX: u64 = 16_384;
/// Characters of a server's message that are passed on.
const MESSAGE_MAX: usize = 300;
/// How often a waiting caller looks at its cancel flag.
const CANCEL_POLL: Duration = Duration::from_millis(10);
/// Longest one request may take in all, as a multiple of the wait for one piece: a server that sends a byte
/// now and then must end too.
const TOTAL_FACTOR: u32 = 10;

/// Where the endpoint is and what it is asked for.
#[derive(Clone)]
pub struct Remote {
    /// Up to and with the version: `https://api.example.com/v1`.
    pub base_url: String,
    /// Sent as a bearer token; never part of an error or a log line.
    pub api_key: Option<String>,
    /// The model's name there.
    pub model: String,
    /// How long to wait for a connection, for the first byte and between bytes. A whole request may take
    /// ten times as long.
    pub timeout_ms: u64,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("base_url", &self.base_url)
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("model", &self.model)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

/// What a request carries.
pub(crate) struct Upload {
    pub path: &'static str,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// Sends requests to one endpoint.
pub(crate) struct Client {
    remote: Arc<Remote>,
    agent: Agent,
    under_way: Arc<AtomicUsize>,
}

impl Client {
    pub fn new(remote: Remote) -> Self {
        let wait = Duration::from_millis(remote.timeout_ms.max(1));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // An answer from elsewhere than asked is a mistake in the settings, and a key must not travel.
            .max_redirects(0)
            .timeout_connect(Some(wait))
            .timeout_recv_response(Some(wait))
            .timeout_per_read(Some(wait))
            .timeout_per_write(Some(wait))
            .timeout_global(Some(wait * TOTAL_FACTOR));
        if is_loopback(&remote.base_url) {
            config = config.proxy(None);
        }
        Self { remote: Arc::new(remote), agent: config.build().into(), under_way: Arc::default() }
    }

    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Starts a request and returns at once. `doorbell` gets a ring, at most one outstanding, whenever there
    /// is something to read.
    pub fn send(&self, upload: Upload, doorbell: Option<SyncSender<()>>) -> Result<Incoming> {
        let permit = Permit::take(&self.under_way).ok_or_else(|| {
            EngineError::Unavailable(format!("{REQUESTS_MAX} requests to the endpoint hang already"))
        })?;
        let (pieces, incoming) = sync_channel(PIECES_MAX);
        let (remote, agent) = (self.remote.clone(), self.agent.clone());
        let run = move || {
            let _permit = permit;
            let outlet = Outlet { pieces, doorbell };
            let last = match request(&agent, &remote, upload, &outlet) {
                Ok(()) => Piece::End,
                Err(error) => Piece::Failed(error),
            };
            outlet.put(last);
        };
        std::thread::Builder::new()
            .name("viva-remote".into())
            .spawn(run)
            .map_err(|e| EngineError::Unavailable(format!("no thread for the request: {e}")))?;
        Ok(Incoming { pieces: incoming })
    }

    /// Sends a request and waits for the whole answer.
    pub fn call(&self, upload: Upload, cancel: &Cancel) -> Result<Vec<u8>> {
        let incoming = self.send(upload, None)?;
        let mut answer = Vec::new();
        while let Some(piece) = incoming.next(cancel)? {
            answer.extend_from_slice(&piece);
        }
        Ok(answer)
    }
}

enum Piece {
    Bytes(Vec<u8>),
    End,
    Failed(EngineError),
}

/// The reading end of an answer. Dropping it gives the request up.
pub(crate) struct Incoming {
    pieces: Receiver<Piece>,
}

impl Incoming {
    /// The next bytes, or none at the answer's end.
    pub fn next(&self, cancel: &Cancel) -> Result<Option<Vec<u8>>> {
        loop {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            match self.pieces.recv_timeout(CANCEL_POLL) {
                Ok(piece) => return piece.into_result(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(lost()),
            }
        }
    }

    /// What is there now: nothing yet (`None`), bytes, or the answer's end.
    pub fn poll(&self) -> Option<Result<Option<Vec<u8>>>> {
        match self.pieces.try_recv() {
            Ok(piece) => Some(piece.into_result()),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(lost())),
        }
    }
}

impl Piece {
    fn into_result(self) -> Result<Option<Vec<u8>>> {
        match self {
            Piece::Bytes(bytes) => Ok(Some(bytes)),
            Piece::End => Ok(None),
            Piece::Failed(error) => Err(error),
        }
    }
}

fn lost() -> EngineError {
    EngineError::Unavailable("the request's thread is gone".into())
}

/// The writing end, on the request's thread.
struct Outlet {
    pieces: SyncSender<Piece>,
    doorbell: Option<SyncSender<()>>,
}

impl Outlet {
    /// Waits for room; false when nobody reads any more.
    fn put(&self, piece: Piece) -> bool {
        let taken = self.pieces.send(piece).is_ok();
        if let Some(doorbell) = &self.doorbell {
            // A full doorbell has rung already.
            doorbell.try_send(()).ok();
        }
        taken
    }
}

/// One of the requests that may be under way.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(under_way: &Arc<AtomicUsize>) -> Option<Self> {
        let room = |n: usize| (n < REQUESTS_MAX).then_some(n + 1);
        under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Self(under_way.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn request(agent: &Agent, remote: &Remote, upload: Upload, outlet: &Outlet) -> Result<()> {
    let url = format!("{}/{}", remote.base_url.trim_end_matches('/'), upload.path);
    let mut request = agent.post(&url).header("Content-Type", &upload.content_type);
    if let Some(key) = &remote.api_key {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let started = Instant::now();
    let response = request.send(&upload.body[..]).map_err(|e| from_transport(&e, remote))?;
    tracing::debug!(
        url,
        status = response.status().as_u16(),
        ms = started.elapsed().as_millis() as u64,
        "remote"
    );
    if !response.status().is_success() {
        return Err(from_status(response, remote));
    }
    let mut body = response.into_body().into_with_config().limit(ANSWER_MAX).reader();
    loop {
        let mut bytes = vec![0; PIECE];
        let n = body.read(&mut bytes).map_err(|e| from_read(&e, remote))?;
        if n == 0 {
            return Ok(());
        }
        bytes.truncate(n);
        if !outlet.put(Piece::Bytes(bytes)) {
            return Ok(());
        }
    }
}

fn from_transport(error: &ureq::Error, remote: &Remote) -> EngineError {
    let why = remote.clean(&format!("{}: {error}", remote.base_url));
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            EngineError::Invalid(why)
        }
        _ => EngineError::Unavailable(why),
    }
}

fn from_read(error: &std::io::Error, remote: &Remote) -> EngineError {
    EngineError::Unavailable(remote.clean(&format!("{}: the answer broke off: {error}", remote.base_url)))
}

/// 5xx, 408 and 429 say that the endpoint cannot now; 400, 404, 413 and 422 that the request is wrong; the
/// rest (401, 403, …) that the settings are.
fn from_status(response: Response<Body>, remote: &Remote) -> EngineError {
    let status = response.status().as_u16();
    let body =
        response.into_body().into_with_config().limit(ERROR_BODY_MAX).lossy_utf8(true).read_to_string();
    let body = body.unwrap_or_default();
    let message = message_in(&body).unwrap_or(body);
    let why = remote.clean(&format!("{} answers {status}: {}", remote.base_url, message.trim()));
    match status {
        408 | 429 | 500..=599 => EngineError::Unavailable(why),
        400 | 404 | 413 | 422 => EngineError::Invalid(why),
        _ => EngineError::Failed(why),
    }
}

/// The message in an error answer: `{"error": {"message": …}}`, `{"error": …}`, `{"message"|"detail": …}`.
pub(crate) fn message_in(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = value.get("error").unwrap_or(&value);
    let message = error.get("message").or_else(|| error.get("detail")).unwrap_or(error);
    message.as_str().map(str::to_owned)
}

impl Remote {
    /// Makes a text fit for errors and logs: short, and without the key, which some servers send back.
    pub(crate) fn clean(&self, text: &str) -> String {
        let text = match &self.api_key {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "…"),
            _ => text.to_owned(),
        };
        text.chars().take(MESSAGE_MAX).collect()
    }
}

/// Whether the endpoint is on this machine, where no proxy of the environment belongs in between.
fn is_loopback(base_url: &str) -> bool {
    let host = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host == "localhost"
        || host == "[::1]"
        || host.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}
