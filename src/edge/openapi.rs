//! The OpenAPI document, made from the handlers themselves.

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse;
use utoipa::OpenApi;

use super::{interviews, questions};

/// Every address that is described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Viva",
        description = "Interviews, the bank of questions, and vectors. The calls themselves speak the OpenAI Realtime \
            protocol at /v1/realtime (WebSocket) and /v1/realtime/calls (WebRTC). Errors have OpenAI's form: \
            {\"error\": {\"type\", \"code\", \"message\", \"param\"}}."
    ),
    paths(
        interviews::interviewers,
        interviews::create,
        interviews::show,
        interviews::delete,
        questions::browse,
        questions::query,
        questions::next_question,
        questions::embed,
    ),
    tags(
        (name = "interview", description = "Interviews: made, looked at, deleted"),
        (name = "questions", description = "The bank of questions")
    )
)]
pub struct Document;

/// `GET /openapi.json`.
pub(super) async fn document() -> Response<Body> {
    axum::Json(Document::openapi()).into_response()
}
