//! Interviews over HTTP: asked for, looked at, deleted; and who may sit down in one.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use viva_actors::director::Director;
use viva_actors::ports::{SessionPorts, SessionSpec};
use viva_actors::recorder;

use crate::interview::director::{Progress, Room, Seat};
use crate::interview::event::{Entry, Line, transcript};
use crate::interview::plan::{Plan, Wanted};
use crate::knowledge::bank::Level;
use crate::presets;

use super::gate::Guest;
use super::http::{App, error};
use super::json;
use super::protocol::ErrorBody;
use super::secrets::{Grant, TTL_MAX};

/// How much longer than its interview a secret is good: to come back when a line was lost, and for who is late.
const SECRET_BEYOND: Duration = Duration::from_secs(15 * 60);

/// What is asked for. What is left out is the interviewer's own.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InterviewRequest {
    /// The job's title.
    #[schema(example = "nurse", max_length = 80)]
    pub role: Option<String>,
    /// Whom it is for.
    pub level: Option<Level>,
    /// The trade, as the bank names it.
    #[schema(example = "healthcare")]
    pub industry: Option<String>,
    /// How long it takes.
    #[schema(minimum = 4, maximum = 60, example = 15)]
    pub minutes: Option<u32>,
    /// `en`: the bank has no other language.
    pub language: Option<String>,
    /// A preset: friendly, formal, technical, ward, sales, finance, school, leadership.
    #[schema(example = "friendly")]
    pub interviewer: Option<String>,
}

/// A secret that opens one interview.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClientSecret {
    /// `ek_…`: goes into `Authorization: Bearer …`, or from a browser's WebSocket into the subprotocol
    /// `openai-insecure-api-key.…`.
    pub value: String,
    /// Seconds since 1970.
    pub expires_at: u64,
}

/// An interview that was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct InterviewCreated {
    /// Its name.
    #[schema(example = "int_0123456789abcdef0123456789abcdef")]
    pub id: String,
    /// `interview.session`.
    pub object: &'static str,
    /// What opens `/v1/realtime` and `/v1/realtime/calls` for it, and nothing else.
    pub client_secret: ClientSecret,
    /// What it will be.
    pub plan: Plan,
    /// Where it stands.
    pub progress: Progress,
}

/// An interview as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct InterviewObject {
    /// Its name.
    pub id: String,
    /// `interview.session`.
    pub object: &'static str,
    /// What it is to be.
    pub plan: Plan,
    /// Where it stands.
    pub progress: Progress,
    /// What was said and heard, in order.
    pub transcript: Vec<Line>,
    /// Everything that was decided, with its reason.
    pub decisions: Vec<Entry>,
}

/// What was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct InterviewDeleted {
    /// Its name.
    pub id: String,
    /// `interview.session.deleted`.
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}

/// An interviewer to choose.
#[derive(Debug, Serialize, ToSchema)]
pub struct Interviewer {
    /// What it is chosen by.
    pub name: &'static str,
    /// A line about it.
    pub about: &'static str,
    /// The role it asks about unless told otherwise; empty where it has none.
    pub role: &'static str,
    /// Whom for.
    pub level: Level,
    /// How long.
    pub minutes: u32,
}

fn invalid(field: &'static str, why: &str) -> Response<Body> {
    let message = format!("Invalid '{field}': {why}.");
    error(StatusCode::BAD_REQUEST, ErrorBody::invalid("invalid_value", message, Some(field)), None)
}

/// The interviewers there are.
#[utoipa::path(get, path = "/interview/voice/interviewers", tag = "interview",
    responses((status = 200, description = "The interviewers there are", body = Vec<Interviewer>)))]
pub(super) async fn interviewers() -> Response<Body> {
    let all: Vec<Interviewer> = presets::interviewers()
        .iter()
        .map(|preset| Interviewer {
            name: &preset.name,
            about: &preset.about,
            role: &preset.conduct.role,
            level: preset.conduct.level,
            minutes: preset.conduct.minutes,
        })
        .collect();
    axum::Json(all).into_response()
}

/// Makes an interview.
#[utoipa::path(post, path = "/interview/voice/sessions", tag = "interview", request_body = InterviewRequest,
    responses((status = 201, description = "Made; its secret is told only here", body = InterviewCreated),
        (status = 400, description = "What was asked for cannot be"),
        (status = 429, description = "As many are kept as may be")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Guest>,
    request: Request,
) -> Response<Body> {
    let asked: InterviewRequest = match json::read(request).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let name = asked.interviewer.as_deref().unwrap_or(presets::INTERVIEWER);
    let Some(preset) = presets::interviewer(name) else {
        return invalid("interviewer", presets::interviewer_names());
    };
    let InterviewRequest { role, level, industry, minutes, language, .. } = asked;
    let wanted = Wanted { role, level, industry, minutes, language };
    let plan = match Plan::new(&preset.name, &preset.conduct, wanted) {
        Ok(plan) => plan,
        Err(wrong) => return invalid(wrong.field, &wrong.why),
    };
    let full = |why: String| {
        let body = ErrorBody::invalid("too_many_interviews", format!("{why}."), None);
        error(StatusCode::TOO_MANY_REQUESTS, body, Some(RETRY_FULL_S))
    };
    let principal = guest.principal;
    let ttl = Duration::from_secs(u64::from(plan.conduct.minutes) * 60) + SECRET_BEYOND;
    let (id, room) = match app.interviews.open(plan.clone(), principal.clone()).await {
        Ok(opened) => opened,
        Err(why) => return full(why.to_string()),
    };
    let grant = Grant { principal: principal.clone(), interview: Some(id.clone()), session: None };
    let value = match app.secrets.mint(grant, ttl, Instant::now()) {
        Ok(value) => value,
        Err(why) => {
            app.interviews.delete(&id, &principal);
            return full(why.to_string());
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires_at = (now + ttl.min(TTL_MAX)).as_secs();
    let plan = room.look(|interview| interview.plan().clone());
    let location = format!("/interview/voice/sessions/{id}");
    let body = InterviewCreated {
        id,
        object: "interview.session",
        client_secret: ClientSecret { value, expires_at },
        plan,
        progress: room.progress(),
    };
    (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(body)).into_response()
}

/// Seconds after which a place may be free where all are taken.
const RETRY_FULL_S: u64 = 60;

fn no_interview(id: &str) -> Response<Body> {
    let id: String = id.chars().take(80).collect();
    let message =
        format!("There is no interview '{id}'; it was deleted, or forgotten two hours after its end.");
    error(StatusCode::NOT_FOUND, ErrorBody::invalid("interview_not_found", message, Some("id")), None)
}

/// An interview as it stands: its plan, what was said, and what was decided and why.
#[utoipa::path(get, path = "/interview/voice/sessions/{id}", tag = "interview",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "As it stands", body = InterviewObject),
        (status = 404, description = "There is none of that name")))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
) -> Response<Body> {
    let Some(room) = app.interviews.find(&id, &guest.principal) else { return no_interview(&id) };
    let (plan, decisions) = room.look(|interview| (interview.plan().clone(), interview.log().to_vec()));
    let body = InterviewObject {
        id,
        object: "interview.session",
        plan,
        progress: room.progress(),
        transcript: transcript(&decisions),
        decisions,
    };
    axum::Json(body).into_response()
}

/// Forgets an interview: its words, its log, its secrets. A call that is held for it ends.
#[utoipa::path(delete, path = "/interview/voice/sessions/{id}", tag = "interview",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "It is gone", body = InterviewDeleted),
        (status = 404, description = "There is none of that name"),
        (status = 500, description = "It is gone, but not a recording of it")))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
) -> Response<Body> {
    let Some(sessions) = app.interviews.delete(&id, &guest.principal) else { return no_interview(&id) };
    app.secrets.revoke_interview(&id);
    if let Some(folder) = &app.offer.spec.recordings
        && let Err(cause) =
            sessions.iter().try_for_each(|session| recorder::forget(folder, session).map(drop))
    {
        tracing::error!(%cause, folder = %folder.display(), "a recording could not be deleted");
        let message =
            "The interview is forgotten, but a recording of it could not be deleted; its operator has to.";
        return error(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorBody::server("recording_not_deleted", message),
            None,
        );
    }
    axum::Json(InterviewDeleted { id, object: "interview.session.deleted", deleted: true }).into_response()
}

/// Who was let in.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    seat: Option<(Arc<Room>, Arc<Seat>)>,
}

/// Seats whoever brings the client secret of an interview.
pub(super) fn admit(app: &App, guest: &Guest) -> Result<Admitted, Box<Response<Body>>> {
    let Some(id) = guest.grant.as_ref().and_then(|grant| grant.interview.as_ref()) else {
        return Ok(Admitted::default());
    };
    let Some(room) = app.interviews.find(id, &guest.principal) else {
        return Err(Box::new(no_interview(id)));
    };
    let Some(seat) = room.sit() else {
        let message = "This interview is over, or somebody is on its line; it has one candidate at a time.";
        let body = ErrorBody::invalid("interview_in_use", message, None);
        return Err(Box::new(error(StatusCode::CONFLICT, body, None)));
    };
    Ok(Admitted { seat: Some((room, seat)) })
}

impl Admitted {
    /// Makes the session what was granted.
    pub(super) fn shape(&self, spec: &mut SessionSpec) {
        if let Some((_, seat)) = &self.seat {
            spec.director = Some(Arc::clone(seat) as Arc<dyn Director>);
        }
    }

    /// The session stands.
    pub(super) fn opened(&self, ports: &SessionPorts) {
        if let Some((room, _)) = &self.seat {
            room.seated(ports.id.clone(), ports.control.clone());
        }
    }
}
