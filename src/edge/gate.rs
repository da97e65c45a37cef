//! The gate before every route but those that tell an operator how the server is: who comes, and whether they have had
//! enough for this minute.
//!
//! Whoever passes is known to the handlers as a [`Guest`]. Where nobody is asked for anything, everybody is the local
//! principal. A client secret (`ek_…`) opens calls and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::Next;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use viva_actors::types::{Principal, SessionId};

use super::call;
use super::http::{App, RealtimeQuery, error};
use super::protocol::session_object::{SessionPatch, TRANSCRIPTION};
use super::protocol::{ErrorBody, SessionObject};
use super::rest::{Refusal, json_body, unix_now};
use super::secrets::{self, Grant};
use super::sideband::Sidebands;
use crate::identity::Denied;
use crate::identity::quota::{Left, RETRY_SESSION_S, Seat};

/// What operators ask for without a key: whether the server lives, can take callers, and what it measures.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Where a client secret opens something: calls, and what a browser needs to make one.
const CALLS: &str = "/v1/realtime";

/// How long browsers may remember that an origin is let in, seconds.
const PREFLIGHT_S: u64 = 600;

/// Whoever passed the gate.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Whose everything is that they begin.
    pub principal: Principal,
    /// What their client secret opens; none for those who hold a key.
    pub grant: Option<Grant>,
}

impl Guest {
    /// Further lines to a call of the guest's, of which there are none yet.
    pub(super) fn sidebands(&self) -> Sidebands {
        let interview = self.grant.as_ref().and_then(|grant| grant.interview.clone());
        Sidebands::of(self.principal.clone(), interview)
    }

    /// A seat among the sessions of the guest's tier; an answer where all are taken.
    pub(super) fn seat(&self, app: &App) -> Result<Option<Seat>, Box<Response<Body>>> {
        let Some(identity) = &app.identity else { return Ok(None) };
        match identity.quotas.seat(&self.principal, Instant::now()) {
            Some(seat) => Ok(Some(seat)),
            None => {
                let message = "All sessions of this account are taken; end one, or try again later.";
                Err(Box::new(too_many("session_limit_exceeded", message, RETRY_SESSION_S)))
            }
        }
    }
}

fn too_many(code: &str, message: &str, retry_after_s: u64) -> Response<Body> {
    let mut body = ErrorBody::invalid(code, message, None);
    body.kind = "rate_limit_error";
    error(StatusCode::TOO_MANY_REQUESTS, body, Some(retry_after_s))
}

/// Lets in whoever may come in.
pub(super) async fn identify(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let path = request.uri().path();
    // A call's address and the token of a way back are secrets themselves, and outlive the one that opened the call.
    let known_call = path.starts_with(&format!("{CALLS}/calls/")) || resumes(&app, request.uri());
    if OPEN.contains(&path) || known_call {
        request.extensions_mut().insert(Guest { principal: app.offer.spec.principal.clone(), grant: None });
        return next.run(request).await;
    }
    let now = Instant::now();
    let presented = secrets::presented(request.headers());
    let secret = presented.filter(|presented| presented.starts_with(secrets::PREFIX));
    let guest = match (secret.map(|secret| app.secrets.open(secret, now)), &app.identity) {
        (Some(Some(grant)), _) if path.starts_with(CALLS) && path != "/v1/realtime/client_secrets" => {
            Guest { principal: grant.principal.clone(), grant: Some(grant) }
        }
        // What opens nothing here is no key either.
        (Some(_), _) => return denied(Denied::Wrong),
        (None, None) => Guest { principal: app.offer.spec.principal.clone(), grant: None },
        (None, Some(identity)) => match identity.who(presented) {
            Ok(principal) => Guest { principal, grant: None },
            Err(why) => return denied(why),
        },
    };
    let Some(identity) = &app.identity else {
        request.extensions_mut().insert(guest);
        return next.run(request).await;
    };
    let meter = identity.quotas.meter(&guest.principal);
    let mut response = match identity.quotas.request(&guest.principal, now) {
        Ok(()) => {
            request.extensions_mut().insert(guest);
            next.run(request).await
        }
        Err(seconds) => too_many("rate_limit_exceeded", "Too many requests for this minute.", seconds),
    };
    if let Some(left) = meter.left() {
        tell_left(&left, response.headers_mut());
    }
    response
}

/// What is left of a quota, in the headers that OpenAI's clients read.
fn tell_left(left: &Left, headers: &mut HeaderMap) {
    let reset = match left.reset.as_millis() {
        ms if ms < 1_000 => format!("{ms}ms"),
        ms => format!("{}s", ms as f64 / 1_000.0),
    };
    let figures =
        [("limit", left.limit.to_string()), ("remaining", left.remaining.to_string()), ("reset", reset)];
    for (name, figure) in figures {
        let name = HeaderName::try_from(format!("x-ratelimit-{name}-requests"));
        if let (Ok(name), Ok(figure)) = (name, HeaderValue::try_from(figure)) {
            headers.insert(name, figure);
        }
    }
}

/// Whether somebody comes back to a call that waits for them. A sideband is another line: its token proves nothing.
fn resumes(app: &App, uri: &Uri) -> bool {
    let query = Query::<RealtimeQuery>::try_from_uri(uri);
    query.is_ok_and(|Query(query)| {
        query.call_id.is_none() && query.resume.is_some_and(|token| app.parking.knows(&token))
    })
}

fn denied(why: Denied) -> Response<Body> {
    let message = match why {
        Denied::Missing => "No API key was given; send it as 'Authorization: Bearer KEY'.",
        Denied::Wrong => {
            "Incorrect API key: it is not one of this server's, or it was revoked or has expired."
        }
    };
    let mut response =
        error(StatusCode::UNAUTHORIZED, ErrorBody::invalid("invalid_api_key", message, None), None);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What pages of the origins in the configuration may read of our answers.
pub(super) fn cors(origins: &[String]) -> CorsLayer {
    let listed = origins.iter().filter_map(|origin| HeaderValue::from_str(origin.trim_end_matches('/')).ok());
    let methods = [Method::GET, Method::POST, Method::PATCH, Method::DELETE];
    let told = [
        header::LOCATION,
        header::ETAG,
        header::RETRY_AFTER,
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(listed))
        .allow_methods(AllowMethods::list(methods))
        // SDKs send a dozen of their own.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(told)
        .max_age(Duration::from_secs(PREFLIGHT_S))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SecretAsked {
    expires_after: Option<ExpiresAfter>,
    session: Option<SessionPatch>,
}

#[derive(Debug, Deserialize)]
struct ExpiresAfter {
    #[serde(default)]
    anchor: Option<String>,
    #[serde(default)]
    seconds: Option<u64>,
}

/// `POST /v1/realtime/client_secrets`: a secret for a page, with settings that the page cannot change.
pub(super) async fn create_secret(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Guest>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let asked: SecretAsked = json_body(request).await?;
    let ttl = match asked.expires_after {
        None => secrets::TTL,
        Some(after) => checked_ttl(&after)?,
    };
    let session = match &asked.session {
        None => call::first_object(&SessionId::random(), &app.offer),
        Some(patch) => locked_object(&app, patch)?,
    };
    let grant = Grant { principal: guest.principal, interview: None, session: asked.session };
    let value = app.secrets.mint(grant, ttl, Instant::now()).map_err(|error| {
        let refusal = Refusal::invalid("too_many_client_secrets", format!("There are {error}."), None);
        refusal.with_status(StatusCode::TOO_MANY_REQUESTS).with_retry_after(secrets::TTL_MIN.as_secs())
    })?;
    Ok(Json(json!({"value": value, "expires_at": unix_now() + ttl.as_secs(), "session": session.shown()})))
}

fn checked_ttl(after: &ExpiresAfter) -> Result<Duration, Refusal> {
    if after.anchor.as_deref().is_some_and(|anchor| anchor != "created_at") {
        return Err(Refusal::value("expires_after.anchor", "it is created_at"));
    }
    let ttl = after.seconds.map_or(secrets::TTL, Duration::from_secs);
    if !(secrets::TTL_MIN..=secrets::TTL_MAX).contains(&ttl) {
        let (min, max) = (secrets::TTL_MIN.as_secs(), secrets::TTL_MAX.as_secs());
        return Err(Refusal::value(
            "expires_after.seconds",
            format!("{} is not in {min}..={max}", ttl.as_secs()),
        ));
    }
    Ok(ttl)
}

/// The settings a session will start with, if they can be.
fn locked_object(app: &App, patch: &SessionPatch) -> Result<SessionObject, Refusal> {
    let mut object = call::first_object(&SessionId::random(), &app.offer);
    if patch.kind == TRANSCRIPTION {
        object = object.into_transcription();
    }
    object.patched(patch.clone(), &app.offer, false).map_err(Refusal::bad_request)
}
