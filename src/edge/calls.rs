//! Calls over WebRTC, as HTTP sees them: set up by an offer, restarted by another, hung up.
//!
//! A call's address names it by 128 random bits, and whoever knows it may restart or end it. It lasts as long as
//! its line does, also while the call waits for a lost one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, FromRequest, Multipart, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use ractor::ActorRef;
use serde_json::json;
use tokio::sync::mpsc;
use viva_actors::ports::{SessionMsg, SessionPorts};
use viva_actors::types::SessionId;

use super::call;
use super::gate::Guest;
use super::http::{App, RealtimeQuery, error, not_found, refused, resume_expired, unavailable};
use super::interviews;
use super::parking::Home;
use super::protocol::session_object::SessionPatch;
use super::protocol::{ErrorBody, SessionObject};
use super::sideband::{self, Door, Sight};
use super::transport::{AnyTransport, Transport};
use super::webrtc::offer::{OFFER_MAX, Offer};
use super::webrtc::peer::Peer;
use super::webrtc::transport::{LEAD_MS, WebRtcTransport};
use super::webrtc::{WebRtc, refused as refused_offer};
use super::ws::WsTransport;

/// Seconds after which a client may try again where calls are not taken for a moment.
const RETRY_SOON_S: u64 = 5;

/// A client that comes back, over either transport.
type AnyReturn = call::Return<AnyTransport>;

/// The calls that can be addressed.
#[derive(Default)]
pub struct Calls(Mutex<HashMap<String, Entry>>);

struct Entry {
    session: ActorRef<SessionMsg>,
    peer: Weak<Peer>,
    etag: String,
    door: Door,
}

/// A call's place among them, until its line is given up.
pub struct Registered {
    calls: Arc<Calls>,
    id: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls known now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The way in for sidebands.
    pub(super) fn door(&self, id: &str) -> Option<Door> {
        self.lock().get(id).map(|entry| entry.door.clone())
    }

    fn peer(&self, id: &str) -> Option<(Arc<Peer>, String)> {
        let calls = self.lock();
        let entry = calls.get(id)?;
        let peer = entry.peer.upgrade().filter(|peer| !peer.closed())?;
        Some((peer, entry.etag.clone()))
    }
}

fn new_etag() -> String {
    format!("\"{:016x}\"", rand::random::<u64>())
}

/// What a client asks for.
struct Asked {
    offer: Offer,
    session: Option<SessionPatch>,
}

/// `POST /v1/realtime/calls`: a new call, or one that goes on (`?resume=TOKEN`).
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Guest>,
    Query(query): Query<RealtimeQuery>,
    request: Request,
) -> Response<Body> {
    let Some(webrtc) = app.webrtc.clone() else {
        let message = "This server takes no calls over WebRTC; use a WebSocket at /v1/realtime.";
        return error(StatusCode::NOT_FOUND, ErrorBody::invalid("not_found", message, None), None);
    };
    let asked = match read(&app, request).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    match &query.resume {
        Some(token) => resume(&app, &webrtc, &asked.offer, token, query.last_event.clone()).await,
        None => begin(&app, &webrtc, asked, &query, guest).await,
    }
}

/// Reads the offer, alone or with settings beside it.
async fn read(app: &App, request: Request) -> Result<Asked, Box<Response<Body>>> {
    let bad = |body| Box::new(error(StatusCode::BAD_REQUEST, body, None));
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/sdp" => {
            let offer = Offer::check(&whole(request).await?).map_err(bad)?;
            Ok(Asked { offer, session: None })
        }
        "multipart/form-data" => {
            let (sdp, session) = parts(request).await?;
            let offer = Offer::check(&sdp).map_err(bad)?;
            let session = session.map(|json| checked_session(app, &json)).transpose().map_err(bad)?;
            Ok(Asked { offer, session })
        }
        _ => {
            let message = "The body is 'application/sdp', or 'multipart/form-data' with 'sdp' and 'session'.";
            let body = ErrorBody::invalid("unsupported_content_type", message, None);
            Err(Box::new(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, body, None)))
        }
    }
}

fn too_large() -> Box<Response<Body>> {
    let body =
        ErrorBody::invalid("offer_too_large", format!("The body has more than {OFFER_MAX} bytes."), None);
    Box::new(error(StatusCode::PAYLOAD_TOO_LARGE, body, None))
}

async fn whole(request: Request) -> Result<Bytes, Box<Response<Body>>> {
    Bytes::from_request(request, &()).await.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(ref failed)
            if failed.status() == StatusCode::PAYLOAD_TOO_LARGE =>
        {
            too_large()
        }
        other => {
            let body = ErrorBody::invalid("invalid_body", format!("The body cannot be read: {other}."), None);
            Box::new(error(StatusCode::BAD_REQUEST, body, None))
        }
    })
}

/// The parts `sdp` and `session` of a form.
async fn parts(request: Request) -> Result<(Bytes, Option<Bytes>), Box<Response<Body>>> {
    let bad = |what: String, status| match status {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        _ => {
            let body = ErrorBody::invalid("invalid_body", format!("The form cannot be read: {what}."), None);
            Box::new(error(StatusCode::BAD_REQUEST, body, None))
        }
    };
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|e| bad(e.body_text(), StatusCode::BAD_REQUEST))?;
    let (mut sdp, mut session) = (None, None);
    while let Some(field) = form.next_field().await.map_err(|e| bad(e.body_text(), e.status()))? {
        let name = field.name().unwrap_or_default().to_owned();
        let content = field.bytes().await.map_err(|e| bad(e.body_text(), e.status()))?;
        match name.as_str() {
            "sdp" => sdp = Some(content),
            "session" => session = Some(content),
            _ => {}
        }
    }
    let sdp = sdp.ok_or_else(|| bad("it has no part 'sdp'".into(), StatusCode::BAD_REQUEST))?;
    Ok((sdp, session))
}

/// Settings that could be applied; what is wrong with others is said before anything is built.
fn checked_session(app: &App, json: &[u8]) -> Result<SessionPatch, ErrorBody> {
    let invalid = |what: String| {
        ErrorBody::invalid("invalid_value", format!("Invalid 'session': {what}."), Some("session"))
    };
    let reader = &mut serde_json::Deserializer::from_slice(json);
    let patch: SessionPatch = serde_path_to_error::deserialize(reader).map_err(|e| invalid(e.to_string()))?;
    let checked = call::first_object(&SessionId(String::new()), &app.offer);
    checked.patched(patch.clone(), &app.offer, false)?;
    Ok(patch)
}

async fn begin(
    app: &Arc<App>,
    webrtc: &WebRtc,
    asked: Asked,
    query: &RealtimeQuery,
    guest: Guest,
) -> Response<Body> {
    let mut spec = match query.spec(app, &guest) {
        Ok(spec) => spec,
        Err(refusal) => return *refusal,
    };
    spec.lead_ms = LEAD_MS;
    let seat = match guest.seat(app) {
        Ok(seat) => seat,
        Err(refusal) => return *refusal,
    };
    let Some(running) = app.running() else {
        return unavailable("the server is about to end", RETRY_SOON_S);
    };
    let admitted = match interviews::admit(app, &guest) {
        Ok(admitted) => admitted,
        Err(refusal) => return *refusal,
    };
    admitted.shape(&mut spec);
    let ports = match app.viva.open_within(spec, query.patience()).await {
        Ok(ports) => ports,
        Err(refusal) => return refused(&refusal),
    };
    admitted.opened(&ports);
    let sidebands = guest.sidebands();
    let home = Home { session: ports.control.clone(), door: sidebands.door() };
    let (location, etag, answer, transport) = match set_up(app, webrtc, &asked.offer, home).await {
        Ok(set_up) => set_up,
        // The ports are dropped with this, and the session ends with them.
        Err(body) => return error(StatusCode::BAD_REQUEST, body, None),
    };
    tracing::debug!(session = %ports.id, model = query.model, "answered an offer");
    let locked = guest.grant.as_ref().and_then(|grant| grant.session.clone());
    let asked = asked.session.map(|patch| patch.without(locked.as_ref()));
    let object = asked.and_then(|patch| first_settings(app, &ports, patch));
    let beginning = app.beginning(query, object, &guest, sidebands);
    tokio::spawn(async move {
        call::run(AnyTransport::WebRtc(Box::new(transport)), ports, beginning).await;
        drop((running, seat));
    });
    created(&location, &etag, answer)
}

fn first_settings(app: &App, ports: &SessionPorts, patch: SessionPatch) -> Option<SessionObject> {
    // It was checked against the same offer.
    call::first_object(&ports.id, &app.offer).patched(patch, &app.offer, false).ok()
}

/// A fresh line for a call that waits for one. It becomes that as soon as media comes through it.
async fn resume(
    app: &Arc<App>,
    webrtc: &WebRtc,
    offer: &Offer,
    token: &str,
    last_event: Option<String>,
) -> Response<Body> {
    let Some(home) = app.parking.home(token) else { return resume_expired() };
    let (location, etag, answer, transport) = match set_up(app, webrtc, offer, home).await {
        Ok(set_up) => set_up,
        Err(body) => return error(StatusCode::BAD_REQUEST, body, None),
    };
    // The token is spent when media comes through: where UDP is blocked a WebSocket must still find it good.
    let (app, token) = (Arc::clone(app), token.to_owned());
    tokio::spawn(async move {
        let mut transport = transport;
        let opened = transport.opened().await;
        let transport = AnyTransport::WebRtc(Box::new(transport));
        let back = call::Return { transport, last_event };
        let unused = if opened { hand_over(&app, &token, back).await.err() } else { Some(back) };
        if let Some(mut unused) = unused {
            unused.transport.close(call::close::NORMAL, "").await;
        }
    });
    created(&location, &etag, answer)
}

/// Spends a token: the transport becomes the line of its call. Given back where the token is not good any more.
pub(super) async fn hand_over(app: &App, token: &str, back: AnyReturn) -> Result<(), AnyReturn> {
    let Some(door) = app.parking.claim(token) else { return Err(back) };
    door.send(back).await.map_err(|mpsc::error::SendError(back)| back)
}

/// Builds the peer and gives it an address.
async fn set_up(
    app: &Arc<App>,
    webrtc: &WebRtc,
    offer: &Offer,
    home: Home,
) -> Result<(String, String, String, WebRtcTransport), ErrorBody> {
    let id = format!("rtc_{:032x}", rand::random::<u128>());
    let registered = Registered { calls: Arc::clone(&app.webrtc_calls), id: id.clone() };
    let (peer, answer, transport) = webrtc.answer(offer, Box::new(registered)).await?;
    let etag = new_etag();
    let Home { session, door } = home;
    let entry = Entry { session, peer: Arc::downgrade(&peer), etag: etag.clone(), door };
    app.webrtc_calls.lock().insert(id.clone(), entry);
    Ok((format!("/v1/realtime/calls/{id}"), etag, answer, transport))
}

fn created(location: &str, etag: &str, answer: String) -> Response<Body> {
    let mut response = described(StatusCode::CREATED, etag, answer);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn described(status: StatusCode, etag: &str, sdp: String) -> Response<Body> {
    let headers = [(header::CONTENT_TYPE, "application/sdp"), (header::ETAG, etag)];
    (status, headers, sdp).into_response()
}

/// `PATCH …/{id}`: another offer for the same call, after the network changed.
pub(super) async fn restart(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Response<Body> {
    let Some((peer, etag)) = app.webrtc_calls.peer(&id) else { return not_found("that call") };
    if let Some(expected) = headers.get(header::IF_MATCH)
        && expected.as_bytes() != b"*"
        && expected.as_bytes() != etag.as_bytes()
    {
        let message = "The call was restarted since; 'If-Match' names an older description.";
        let body = ErrorBody::invalid("precondition_failed", message, None);
        return error(StatusCode::PRECONDITION_FAILED, body, None);
    }
    let offer = match whole(request).await {
        Ok(body) => match Offer::check(&body) {
            Ok(offer) => offer,
            Err(body) => return error(StatusCode::BAD_REQUEST, body, None),
        },
        Err(refusal) => return *refusal,
    };
    match peer.restart(&offer).await {
        Ok(answer) => {
            let etag = new_etag();
            if let Some(entry) = app.webrtc_calls.lock().get_mut(&id) {
                entry.etag.clone_from(&etag);
            }
            described(StatusCode::OK, &etag, answer)
        }
        Err(problem) => error(StatusCode::BAD_REQUEST, refused_offer(&problem), None),
    }
}

/// `DELETE …/{id}` and `POST …/{id}/hangup`: the caller hangs up.
pub(super) async fn hang_up(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response<Body> {
    let Some(entry) = app.webrtc_calls.lock().remove(&id) else { return not_found("that call") };
    // A session that has ended is hung up already.
    entry.session.cast(SessionMsg::Hangup("the caller hung up".into())).ok();
    StatusCode::OK.into_response()
}

/// A further line of control to a call. Who may not know of a call is told that there is none.
pub(super) fn join(
    app: &App,
    guest: &Guest,
    id: &str,
    query: &RealtimeQuery,
    upgrade: WebSocketUpgrade,
) -> Response<Body> {
    let door = app.webrtc_calls.door(id);
    let Some(door) = door.filter(|door| door.opens_to(&guest.principal, guest.grant.as_ref())) else {
        let message = "There is no such call, or it is over.";
        let body = ErrorBody::invalid("call_not_found", message, Some("call_id"));
        return error(StatusCode::NOT_FOUND, body, None);
    };
    let Some(place) = door.place() else {
        let mut body = ErrorBody::invalid(
            "too_many_sidebands",
            "This call has as many sidebands as it may have.",
            Some("call_id"),
        );
        body.kind = "rate_limit_error";
        return error(StatusCode::TOO_MANY_REQUESTS, body, Some(RETRY_SOON_S));
    };
    let extended = query.events.as_deref() == Some("extended");
    let sight = Sight { trusted: guest.grant.is_none(), extended };
    let upgrade = upgrade.max_message_size(sideband::MESSAGE_MAX).max_frame_size(sideband::MESSAGE_MAX);
    upgrade.on_upgrade(move |socket| door.serve(WsTransport::new(socket), sight, place))
}

/// `GET /v1/realtime/ice`: whether calls are taken over WebRTC, and what browsers need to reach us.
pub(super) async fn ice(State(app): State<Arc<App>>) -> Response<Body> {
    let servers = app.webrtc.as_ref().map(|webrtc| webrtc.ice_servers.as_slice()).unwrap_or_default();
    let body = json!({
        "webrtc": app.webrtc.is_some(),
        "ice_servers": servers,
        "recording": app.offer.spec.recordings.is_some(),
    });
    axum::Json(body).into_response()
}
