//! `/v1/models`, `/v1/voices`: what there is to ask for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Refusal, unix_now};
use crate::edge::http::App;
use crate::presets;

/// What the HTTP endpoints' engines are called, beside the conversation's own model.
const TASKS: [&str; 4] = ["viva-transcribe", "viva-speak", "viva-chat", "viva-embed"];

fn object(id: &str, created: u64) -> Value {
    json!({"id": id, "object": "model", "created": created, "owned_by": "viva"})
}

fn known(app: &App) -> Vec<&str> {
    let embeds = app.viva.readiness().engines.iter().any(|e| e.kind == "embed");
    let tasks = TASKS.into_iter().filter(|task| embeds || *task != "viva-embed");
    std::iter::once(app.offer.model.as_str()).chain(tasks).collect()
}

/// When the server began: what there is was there from then on.
fn created(app: &App) -> u64 {
    unix_now().saturating_sub(app.began.elapsed().as_secs())
}

/// `GET /v1/models`
pub(in crate::edge) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let created = created(&app);
    let data: Vec<Value> = known(&app).into_iter().map(|id| object(id, created)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`
pub(in crate::edge) async fn one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    if known(&app).contains(&id.as_str()) {
        return Ok(Json(object(&id, created(&app))));
    }
    let message = format!("The model '{}' does not exist.", id.chars().take(80).collect::<String>());
    Err(Refusal::invalid("model_not_found", message, Some("model")).with_status(StatusCode::NOT_FOUND))
}

/// `GET /v1/voices`: not of the protocol, but what speech servers usually have.
pub(in crate::edge) async fn voices(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app
        .offer
        .voices
        .iter()
        .map(|name| {
            let preset = presets::voices().iter().find(|preset| preset.name == *name);
            json!({
                "id": name,
                "object": "voice",
                "name": name,
                "language": preset.map_or(app.offer.spec.language.as_str(), |preset| &preset.language),
                "licence": preset.map(|preset| &preset.licence),
            })
        })
        .collect();
    Json(json!({"object": "list", "data": data}))
}
