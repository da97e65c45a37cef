//! The router: the demo page, the realtime endpoint, what operators look at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{DefaultBodyLimit, Extension, Query, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, patch, post};
use axum::serve::Listener;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::{sleep, timeout};
use viva_actors::gpu::load::Verdict;
use viva_actors::ports::SessionSpec;
use viva_actors::root::{OpenError, Viva};

use crate::interview::book::Book;
use crate::knowledge::Knowledge;

use super::calls::Calls;
use super::gate::Guest;
use super::out_of_band::Writer;
use super::parking::Parking;
use super::patience::Patient;
use super::protocol::session_object::{Offer, TRANSCRIPTION};
use super::protocol::{ErrorBody, SessionObject};
use super::rest::desk::Desk;
use super::secrets::Secrets;
use super::sideband::Sidebands;
use super::transport::{AnyTransport, Transport};
use super::webrtc::WebRtc;
use super::webrtc::offer::OFFER_MAX;
use super::ws::{MESSAGE_MAX, WsTransport};
use super::{assets, call, calls, events_schema, gate, interviews, openapi, origin, questions, rest};
use crate::identity::Identity;

/// Bytes a request body may have: an offer's, with room for the form around it.
const BODY_MAX: usize = OFFER_MAX;

/// Bytes tungstenite collects before it writes: one paced frame with its event is about 2 KiB.
const WRITE_BUFFER: usize = 0;

/// Seconds after which a client may try again while engines load or the server is about to end.
const RETRY_SOON_S: u64 = 5;

/// Everything the handlers share.
pub struct App {
    /// The sessions.
    pub viva: Viva,
    /// What a session starts from.
    pub offer: Arc<Offer>,
    /// Origins that are served beside our own.
    pub origins: Vec<String>,
    /// Whether we listen on a loopback address.
    pub loopback: bool,
    /// Where the metrics are; none where the process has no recorder.
    pub metrics: Option<PrometheusHandle>,
    /// When the server began, for `/healthz`.
    pub began: Instant,
    /// The bank of questions; none where nothing can be looked up.
    pub knowledge: Option<Knowledge>,
    /// The interviews that were asked for.
    pub interviews: Arc<Book>,
    /// Calls over WebRTC; none where they are not taken.
    pub webrtc: Option<Arc<WebRtc>>,
    /// Those that can be addressed.
    pub webrtc_calls: Arc<Calls>,
    /// Where calls wait whose line was lost.
    pub parking: Arc<Parking<call::Return<AnyTransport>>>,
    /// Who may come in; none where everybody may.
    pub identity: Option<Identity>,
    /// What pages hold in place of keys.
    pub secrets: Secrets,
    /// Lets requests of no session in.
    pub desk: Arc<Desk>,
    draining: AtomicBool,
    calls: Arc<RwLock<()>>,
}

/// How long a call waits for its client, where nobody says otherwise.
const RESUME_WITHIN: Duration = Duration::from_secs(30);

impl App {
    /// A server's state.
    pub fn new(viva: Viva, offer: Offer, origins: Vec<String>, loopback: bool) -> Self {
        Self {
            viva,
            offer: Arc::new(offer),
            origins,
            loopback,
            metrics: None,
            began: Instant::now(),
            knowledge: None,
            interviews: Arc::new(Book::of_bank()),
            webrtc: None,
            webrtc_calls: Arc::default(),
            parking: Parking::new(RESUME_WITHIN),
            identity: None,
            secrets: Secrets::default(),
            desk: Arc::default(),
            draining: AtomicBool::new(false),
            calls: Arc::default(),
        }
    }
}

impl App {
    /// A place among the calls that a drain waits for; none when no more are taken.
    pub(super) fn running(&self) -> Option<OwnedRwLockReadGuard<()>> {
        Arc::clone(&self.calls).try_read_owned().ok()
    }

    /// How a call begins that was asked for like this.
    pub(super) fn beginning(
        &self,
        query: &RealtimeQuery,
        object: Option<SessionObject>,
        guest: &Guest,
        sidebands: Sidebands,
    ) -> call::Beginning<AnyTransport> {
        let grant = guest.grant.as_ref();
        call::Beginning {
            offer: Arc::clone(&self.offer),
            extended: query.events.as_deref() == Some("extended"),
            object,
            locked: grant.and_then(|grant| grant.session.clone()),
            parking: Arc::clone(&self.parking),
            sidebands,
            writer: Writer { desk: Arc::clone(&self.desk), viva: self.viva.clone() },
            directed: grant.is_some_and(|grant| grant.interview.is_some()),
            meter: self.identity.as_ref().map(|identity| identity.quotas.meter(&guest.principal)),
        }
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/realtime", get(realtime))
        .route("/v1/realtime/client_secrets", post(gate::create_secret))
        .route("/v1/realtime/calls", post(calls::create))
        .route("/v1/realtime/calls/{id}", patch(calls::restart).delete(calls::hang_up))
        .route("/v1/realtime/calls/{id}/hangup", post(calls::hang_up))
        .route("/v1/realtime/ice", get(calls::ice))
        .merge(interview_routes())
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .merge(rest::routes())
        // Pages and their files are for everybody: who they are, they can only say when they have been loaded.
        .route_layer(from_fn_with_state(Arc::clone(&app), gate::identify))
        .fallback(fallback)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(check_encoding))
        .layer(from_fn_with_state(Arc::clone(&app), check_origin))
        .layer(gate::cors(&app.origins))
        .with_state(app)
}

/// Interviews and the bank.
fn interview_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/interview/voice/interviewers", get(interviews::interviewers))
        .route("/interview/voice/sessions", post(interviews::create))
        .route("/interview/voice/sessions/{id}", get(interviews::show).delete(interviews::delete))
        .route("/rag/general/questions", get(questions::browse))
        .route("/rag/general/query", post(questions::query))
        .route("/rag/general/next", post(questions::next_question))
        .route("/embedding/embed", post(questions::embed))
        .route("/openapi.json", get(openapi::document))
        .route("/events.schema.json", get(events_schema::served))
}

/// Serves until `stop` is done; then takes no new session, lets those that run end within `drain`, ends
/// the others, and returns.
pub async fn serve<L: Listener<Addr = SocketAddr>>(
    listener: L,
    app: Arc<App>,
    stop: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> std::io::Result<()> {
    let routes = router(Arc::clone(&app));
    let (closed, wait_closed) = tokio::sync::oneshot::channel::<()>();
    let draining = tokio::spawn(async move {
        stop.await;
        app.draining.store(true, Ordering::Release);
        tracing::info!(sessions = app.viva.sessions(), limit_s = drain.as_secs(), "draining");
        app.viva.drain(drain).await;
        // Every call holds a read lock until its last words are out.
        timeout(LAST_WORDS, app.calls.write()).await.ok();
        closed.send(()).ok();
    });
    // Plain HTTP goes on until the sessions have ended, so that probes can see what is happening.
    let serving = axum::serve(Patient::new(listener), routes).with_graceful_shutdown(async move {
        wait_closed.await.ok();
    });
    tokio::select! {
        served = async { serving.await } => served,
        // A client that keeps its connection open and silent must not hold us.
        () = async { draining.await.ok(); sleep(LINGER).await } => Ok(()),
    }
}

/// How long calls may take to end after their sessions did: longer than a transport's goodbye.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long plain HTTP requests may take to end after that.
const LINGER: Duration = Duration::from_millis(500);

#[derive(Debug, Default, Deserialize)]
pub(super) struct RealtimeQuery {
    #[serde(default)]
    intent: Option<String>,
    #[serde(default)]
    pub(super) events: Option<String>,
    #[serde(default)]
    pub(super) model: Option<String>,
    /// The caller agrees to a recording of both sides.
    #[serde(default)]
    record: bool,
    /// Seconds the caller is willing to wait for a seat; the handshake, or the answer to an offer, then takes as long.
    #[serde(default)]
    wait: u16,
    /// The caller comes back to a call.
    #[serde(default)]
    pub(super) resume: Option<String>,
    /// The last event they saw of it: what was told after that is told again.
    #[serde(default)]
    pub(super) last_event: Option<String>,
    /// A call over WebRTC that this socket is a further line of.
    #[serde(default)]
    pub(super) call_id: Option<String>,
}

impl RealtimeQuery {
    /// How long the caller waits for a seat.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(u64::from(self.wait))
    }

    /// The session that is asked for, or what cannot be had.
    pub(super) fn spec(&self, app: &App, guest: &Guest) -> Result<SessionSpec, Box<Response<Body>>> {
        let unsupported = |message, param| {
            let body = ErrorBody::invalid("unsupported", message, Some(param));
            Err(Box::new(error(StatusCode::BAD_REQUEST, body, None)))
        };
        if self.intent.as_deref().is_some_and(|intent| !["conversation", TRANSCRIPTION].contains(&intent)) {
            return unsupported("The intent is 'conversation' or 'transcription'.", "intent");
        }
        let mut spec = app.offer.spec.clone();
        spec.principal = guest.principal.clone();
        if self.record {
            if spec.recordings.is_none() {
                let message =
                    "This server keeps no recordings; 'recordings.dir' in the configuration names a folder.";
                return unsupported(message, "record");
            }
            spec.consent.recording = true;
        }
        Ok(spec)
    }
}

/// The realtime endpoint. Whether there is room is known before the handshake, so that who is refused gets
/// a plain HTTP answer.
async fn realtime(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Guest>,
    Query(query): Query<RealtimeQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response<Body> {
    let mut spec = match query.spec(&app, &guest) {
        Ok(spec) => spec,
        Err(refusal) => return *refusal,
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade
            .protocols(["realtime"])
            .max_message_size(MESSAGE_MAX)
            .max_frame_size(MESSAGE_MAX)
            .write_buffer_size(WRITE_BUFFER),
        Err(rejection) => return not_a_websocket(&app, &rejection),
    };
    if let Some(id) = &query.call_id {
        return calls::join(&app, &guest, id, &query, upgrade);
    }
    if let Some(token) = query.resume {
        return resume(app, token, query.last_event, upgrade);
    }
    let seat = match guest.seat(&app) {
        Ok(seat) => seat,
        Err(refusal) => return *refusal,
    };
    let Some(running) = app.running() else {
        return unavailable("the server is about to end", RETRY_SOON_S);
    };
    let admitted = match interviews::admit(&app, &guest) {
        Ok(admitted) => admitted,
        Err(refusal) => return *refusal,
    };
    admitted.shape(&mut spec);
    let ports = match app.viva.open_within(spec, query.patience()).await {
        Ok(ports) => ports,
        Err(refusal) => return refused(&refusal),
    };
    admitted.opened(&ports);
    tracing::debug!(session = %ports.id, model = query.model, "handshake");
    let only_listens = query.intent.as_deref() == Some(TRANSCRIPTION);
    let object = only_listens.then(|| call::first_object(&ports.id, &app.offer).into_transcription());
    let beginning = app.beginning(&query, object, &guest, guest.sidebands());
    // If the handshake fails, the ports are dropped here and with them the session's queue, which ends it.
    upgrade.on_upgrade(move |socket| async move {
        call::run(AnyTransport::Ws(Box::new(WsTransport::new(socket))), ports, beginning).await;
        drop((running, seat));
    })
}

/// A fresh WebSocket for a call that waits for a line. The token is spent when the socket stands.
fn resume(
    app: Arc<App>,
    token: String,
    last_event: Option<String>,
    upgrade: WebSocketUpgrade,
) -> Response<Body> {
    if !app.parking.knows(&token) {
        return resume_expired();
    }
    upgrade.on_upgrade(move |socket| async move {
        let transport = AnyTransport::Ws(Box::new(WsTransport::new(socket)));
        let back = call::Return { transport, last_event };
        if let Err(mut unused) = calls::hand_over(&app, &token, back).await {
            unused.transport.close(call::close::NORMAL, "the token was spent meanwhile").await;
        }
    })
}

/// A token that opens nothing (any more).
pub(super) fn resume_expired() -> Response<Body> {
    let message = "There is no call to come back to with this token: it was used, or the call is over.";
    error(StatusCode::NOT_FOUND, ErrorBody::invalid("resume_expired", message, Some("resume")), None)
}

/// A page asks the same address by plain HTTP to learn why its handshake was refused: browsers hide it.
fn not_a_websocket(app: &App, rejection: &WebSocketUpgradeRejection) -> Response<Body> {
    if let Some(why) = not_ready(app) {
        return unavailable(&why, RETRY_SOON_S);
    }
    if let Some(full) = app.viva.full() {
        return refused(&full);
    }
    let message = format!("This is a WebSocket endpoint: {rejection}.");
    let body = ErrorBody::invalid("websocket_required", message, None);
    let mut response = error(StatusCode::UPGRADE_REQUIRED, body, None);
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}

pub(super) fn refused(refusal: &OpenError) -> Response<Body> {
    match refusal {
        OpenError::Full { retry_after_s } => {
            let message =
                format!("All seats are taken; one is likely to be free in about {retry_after_s} s.");
            let body = ErrorBody::server("server_full", message);
            error(StatusCode::SERVICE_UNAVAILABLE, body, Some(u64::from(*retry_after_s)))
        }
        OpenError::Busy { retry_after_s } => {
            let message =
                format!("The server is too busy to take another call; try again in about {retry_after_s} s.");
            let body = ErrorBody::server("server_busy", message);
            error(StatusCode::SERVICE_UNAVAILABLE, body, Some(u64::from(*retry_after_s)))
        }
        OpenError::Draining => unavailable("the server is about to end", RETRY_SOON_S),
        OpenError::NotReady(why) => unavailable(why, RETRY_SOON_S),
        // Nobody knows when: no `Retry-After`.
        OpenError::RecordingUnavailable => {
            let message = "This server cannot record now; start without recording, or tell its operator.";
            let body = ErrorBody::server("recording_unavailable", message);
            error(StatusCode::SERVICE_UNAVAILABLE, body, None)
        }
    }
}

pub(super) fn unavailable(why: &str, retry_after_s: u64) -> Response<Body> {
    let body = ErrorBody::server("not_ready", format!("Not ready: {why}."));
    error(StatusCode::SERVICE_UNAVAILABLE, body, Some(retry_after_s))
}

/// Why no session would be taken now.
fn not_ready(app: &App) -> Option<String> {
    if app.draining.load(Ordering::Acquire) {
        return Some("the server is about to end".into());
    }
    let readiness = app.viva.readiness();
    if readiness.ready {
        return None;
    }
    let down: Vec<&str> = readiness.engines.iter().filter(|e| !e.up).map(|e| e.kind).collect();
    Some(if down.is_empty() { "starting".into() } else { format!("engines are not up: {}", down.join(", ")) })
}

async fn healthz(State(app): State<Arc<App>>) -> Response<Body> {
    let body = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.began.elapsed().as_secs(),
    });
    axum::Json(body).into_response()
}

async fn readyz(State(app): State<Arc<App>>) -> Response<Body> {
    if let Some(why) = not_ready(&app) {
        return unavailable(&why, RETRY_SOON_S);
    }
    let engines: Vec<_> = app
        .viva
        .readiness()
        .engines
        .iter()
        .map(|e| json!({"kind": e.kind, "up": e.up, "restarts": e.restarts, "serves": e.serves}))
        .collect();
    // What one more caller would get: "admit", or of smaller engines, elsewhere, or "refuse".
    let next = if app.viva.full().is_some() { Verdict::Refuse } else { app.viva.verdict() };
    let body = json!({"status": "ready", "sessions": app.viva.sessions(), "next": next, "engines": engines});
    axum::Json(body).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response<Body> {
    match &app.metrics {
        Some(handle) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (kind, handle.render()).into_response()
        }
        None => not_found("/metrics"),
    }
}

async fn fallback(method: axum::http::Method, uri: Uri) -> Response<Body> {
    if method == axum::http::Method::GET
        && let Some(file) = assets::file(uri.path())
    {
        return file;
    }
    not_found(uri.path())
}

pub(super) fn not_found(path: &str) -> Response<Body> {
    let path: String = path.chars().take(80).collect();
    let message = format!("There is nothing at '{path}'.");
    error(StatusCode::NOT_FOUND, ErrorBody::invalid("not_found", message, None), None)
}

async fn method_not_allowed() -> Response<Body> {
    let body = ErrorBody::invalid("method_not_allowed", "This address does not know that method.", None);
    error(StatusCode::METHOD_NOT_ALLOWED, body, None)
}

async fn check_origin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    if origin::permitted(request.headers(), &app.origins, app.loopback) {
        return next.run(request).await;
    }
    let message = "Pages of this origin are not served; 'server.origins' in the configuration lists those \
                   that are.";
    error(StatusCode::FORBIDDEN, ErrorBody::invalid("origin_not_allowed", message, None), None)
}

/// Nothing is unpacked here: what a packed body swells to is known only when it has.
async fn check_encoding(request: Request, next: Next) -> Response<Body> {
    let packed = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !request.headers().get_all(header::CONTENT_ENCODING).iter().any(packed) {
        return next.run(request).await;
    }
    let message = "Bodies are taken as they are; send it without 'Content-Encoding'.";
    let body = ErrorBody::invalid("unsupported_content_encoding", message, None);
    error(StatusCode::UNSUPPORTED_MEDIA_TYPE, body, None)
}

/// An error in the OpenAI shape.
pub(super) fn error(status: StatusCode, body: ErrorBody, retry_after_s: Option<u64>) -> Response<Body> {
    let mut response = (status, axum::Json(json!({ "error": body }))).into_response();
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
