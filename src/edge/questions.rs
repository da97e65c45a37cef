//! The bank over HTTP: browsed, searched, and asked for the next question; and texts as vectors.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use viva_models::EngineError;

use crate::interview::next::{self, Context};
use crate::interview::plan::{Plan, Section, Wanted};
use crate::knowledge::Knowledge;
use crate::knowledge::bank::{Category, Level, Record};
use crate::knowledge::embedding::Haste;
use crate::knowledge::store::{EXCLUDED_MAX, Filter, QUERY_CHARS_MAX, RESULTS_MAX, StoreError};
use crate::presets;

use super::http::{App, error, unavailable};
use super::json;
use super::protocol::ErrorBody;

/// Questions of a page, unless more are asked for.
const PAGE: usize = 20;

/// Results of a search, unless more are asked for.
const RESULTS: usize = 5;

/// Texts that are embedded at once: a second of work for the small model on a busy machine.
const TEXTS_MAX: usize = 64;

/// Seconds after which a client may try again where an engine or the index is not there yet.
const RETRY_S: u64 = 10;

fn knowledge(app: &App) -> Result<&Knowledge, Box<Response<Body>>> {
    app.knowledge.as_ref().ok_or_else(|| {
        let message =
            "This server looks nothing up: it runs without an embedder, or knowledge.enabled is false.";
        let body = ErrorBody::server("no_knowledge", message);
        Box::new(error(StatusCode::SERVICE_UNAVAILABLE, body, None))
    })
}

fn invalid(message: String, param: Option<&str>) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, ErrorBody::invalid("invalid_value", message, param), None)
}

fn refused(why: &StoreError) -> Response<Body> {
    match why {
        StoreError::Asked(_) | StoreError::Unknown { .. } => {
            invalid(format!("Invalid request: {why}."), None)
        }
        StoreError::NoIndex(_) => unavailable("the index of questions is still being made", RETRY_S),
        StoreError::Embedding(why) => embedding_failed(why),
        other => {
            tracing::error!(error = %other, "a question could not be looked up");
            let message = "The bank could not be read; the server's log says why.";
            error(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::server("bank_failed", message), None)
        }
    }
}

fn embedding_failed(why: &EngineError) -> Response<Body> {
    match why {
        EngineError::Invalid(why) => invalid(format!("The text cannot be embedded: {why}."), None),
        other => unavailable(&format!("the embedder has no answer: {other}"), RETRY_S),
    }
}

/// Which questions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BrowseQuery {
    /// technical, behavioral, soft_skills or self_introduction.
    pub category: Option<Category>,
    /// Of this field, group or industry.
    pub subcategory: Option<String>,
    /// Of this industry, or of none at all.
    pub industry: Option<String>,
    /// junior, mid, senior or lead.
    pub level: Option<Level>,
    /// The easiest, 1..5.
    pub difficulty_min: Option<u8>,
    /// The hardest, 1..5.
    pub difficulty_max: Option<u8>,
    /// How many to pass over.
    pub skip: usize,
    /// How many to give, at most 100.
    pub limit: Option<usize>,
}

/// A page of questions.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuestionPage {
    /// `list`.
    pub object: &'static str,
    /// How many the filter lets through.
    pub total: usize,
    /// These, by id.
    pub data: Vec<Record>,
}

/// The questions that belong to nobody, page by page.
#[utoipa::path(get, path = "/rag/general/questions", tag = "questions", params(BrowseQuery),
    responses((status = 200, description = "A page", body = QuestionPage),
        (status = 400, description = "A filter that cannot be"),
        (status = 503, description = "There is no index (yet)")))]
pub(super) async fn browse(
    State(app): State<Arc<App>>,
    query: Result<Query<BrowseQuery>, QueryRejection>,
) -> Response<Body> {
    let asked = match query {
        Ok(Query(asked)) => asked,
        Err(wrong) => return invalid(format!("Invalid query: {}.", wrong.body_text()), None),
    };
    let knowledge = match knowledge(&app) {
        Ok(knowledge) => knowledge,
        Err(refusal) => return *refusal,
    };
    let filter = Filter {
        category: asked.category,
        subcategory: asked.subcategory,
        industry: asked.industry,
        levels: asked.level.into_iter().collect(),
        difficulty: asked.difficulty_min.unwrap_or(1)..=asked.difficulty_max.unwrap_or(5),
        ..Filter::default()
    };
    let limit = asked.limit.unwrap_or(PAGE);
    if limit > RESULTS_MAX {
        return invalid(format!("Invalid 'limit': {limit}; there may be {RESULTS_MAX}."), Some("limit"));
    }
    match knowledge.store().browse(filter, asked.skip, limit).await {
        Ok(page) => {
            axum::Json(QuestionPage { object: "list", total: page.total, data: page.records }).into_response()
        }
        Err(why) => refused(&why),
    }
}

/// Which questions a search goes through.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueryFilters {
    /// Of this field, group or industry.
    pub subcategory: Option<String>,
    /// Of this industry, or of none at all.
    pub industry: Option<String>,
    /// Of one of these levels; empty for all.
    pub levels: Vec<Level>,
    /// The easiest and the hardest, 1..5.
    pub difficulty: Option<[u8; 2]>,
    /// None of these ids.
    pub exclude: Vec<String>,
}

/// A search.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuestionQuery {
    /// What to look for: a topic, a job, or something a candidate said.
    #[schema(max_length = 4000)]
    pub text: String,
    /// In one kind of question only.
    #[serde(default)]
    pub category: Option<Category>,
    /// How many, at most 100.
    #[serde(default)]
    pub n_results: Option<usize>,
    /// Among these.
    #[serde(default)]
    pub filters: QueryFilters,
}

/// A question that was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuestionHit {
    /// One less the cosine of query and question: 0 is the same.
    pub distance: f32,
    /// How good it is among the others of this search; larger is better.
    pub score: f32,
    /// It, with its criteria, probes and tags.
    pub question: Record,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuestionHits {
    /// `list`.
    pub object: &'static str,
    /// Best first.
    pub data: Vec<QuestionHit>,
}

/// The questions nearest to a text.
#[utoipa::path(post, path = "/rag/general/query", tag = "questions", request_body = QuestionQuery,
    responses((status = 200, description = "The best, best first", body = QuestionHits),
        (status = 400, description = "A query that cannot be"),
        (status = 503, description = "There is no index (yet), or no embedder")))]
pub(super) async fn query(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let asked: QuestionQuery = match json::read(request).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let knowledge = match knowledge(&app) {
        Ok(knowledge) => knowledge,
        Err(refusal) => return *refusal,
    };
    let n = asked.n_results.unwrap_or(RESULTS);
    if !(1..=RESULTS_MAX).contains(&n) {
        return invalid(
            format!("Invalid 'n_results': {n}; there may be 1 to {RESULTS_MAX}."),
            Some("n_results"),
        );
    }
    let [low, high] = asked.filters.difficulty.unwrap_or([1, 5]);
    let filter = Filter {
        category: asked.category,
        subcategory: asked.filters.subcategory,
        industry: asked.filters.industry,
        levels: asked.filters.levels,
        difficulty: low..=high,
        exclude: asked.filters.exclude,
        ..Filter::default()
    };
    match knowledge.query(&asked.text, filter, n).await {
        Ok(hits) => {
            let data = hits
                .into_iter()
                .map(|hit| QuestionHit { distance: hit.distance, score: hit.score, question: hit.record })
                .collect();
            axum::Json(QuestionHits { object: "list", data }).into_response()
        }
        Err(why) => refused(&why),
    }
}

/// What is known when the next question is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NextRequest {
    /// The job's title.
    #[schema(example = "nurse")]
    pub role: String,
    /// Which kind of question.
    pub category: Category,
    /// Whom it is for.
    #[serde(default)]
    pub level: Option<Level>,
    /// The trade.
    #[serde(default)]
    pub industry: Option<String>,
    /// What the candidate said last.
    #[serde(default)]
    pub said: String,
    /// Ids of what was asked; neither they nor their neighbours come again.
    #[serde(default)]
    pub asked: Vec<String>,
    /// How difficult it should be, 1..5; by the level where it is left out.
    #[serde(default)]
    pub ability: Option<f32>,
}

/// The next question.
#[derive(Debug, Serialize, ToSchema)]
pub struct NextQuestion {
    /// It; null where nothing is left.
    pub question: Option<Record>,
    /// Ids of what it was chosen from, best first.
    pub candidates: Vec<String>,
}

/// The question an interviewer would ask next.
#[utoipa::path(post, path = "/rag/general/next", tag = "questions", request_body = NextRequest,
    responses((status = 200, description = "The question", body = NextQuestion),
        (status = 400, description = "A request that cannot be")))]
pub(super) async fn next_question(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let asked: NextRequest = match json::read(request).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let too_long = asked.said.chars().count() > QUERY_CHARS_MAX;
    if too_long || asked.asked.len() > EXCLUDED_MAX {
        let message = format!(
            "Invalid request: 'said' may have {QUERY_CHARS_MAX} characters and 'asked' {EXCLUDED_MAX} ids."
        );
        return invalid(message, Some(if too_long { "said" } else { "asked" }));
    }
    let conduct = presets::interviewer(presets::INTERVIEWER).map(|preset| preset.conduct.clone());
    let wanted =
        Wanted { role: Some(asked.role), level: asked.level, industry: asked.industry, ..Wanted::default() };
    let mut plan = match Plan::new(presets::INTERVIEWER, &conduct.unwrap_or_default(), wanted) {
        Ok(plan) => plan,
        Err(wrong) => {
            return invalid(format!("Invalid '{}': {}.", wrong.field, wrong.why), Some(wrong.field));
        }
    };
    let finder = app.interviews.finder();
    plan.conduct.fields = finder.fields(&plan.conduct.role).await;
    let ability = asked.ability.unwrap_or_else(|| next::first_ability(plan.conduct.level)).clamp(1.0, 5.0);
    let section = Section::ALL.into_iter().find(|s| s.category() == Some(asked.category));
    let query = next::query(&Context {
        plan: &plan,
        section: section.unwrap_or(Section::Behavioral),
        category: asked.category,
        ability,
        asked: &asked.asked,
        said: &asked.said,
    });
    let found = finder.find(&query).await;
    let table = next::Table {
        category: asked.category,
        ability,
        plan: &plan,
        asked: &asked.asked,
        texts: &[],
        had: &[],
    };
    let question = next::shortlist(&found, &table).first().map(|record| (*record).clone());
    let candidates = found.into_iter().map(|record| record.id).collect();
    axum::Json(NextQuestion { question, candidates }).into_response()
}

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedRequest {
    /// At most 64, each of at most 4,000 characters.
    pub texts: Vec<String>,
}

/// Their vectors.
#[derive(Debug, Serialize, ToSchema)]
pub struct Embedded {
    /// Who made them; vectors of different models must not be compared.
    pub model: String,
    /// Numbers of a vector.
    pub dimensions: usize,
    /// One of length 1 a text, in order.
    pub embeddings: Vec<Vec<f32>>,
}

/// Texts as vectors of the embedder that questions are found by.
#[utoipa::path(post, path = "/embedding/embed", tag = "questions", request_body = EmbedRequest,
    responses((status = 200, description = "The vectors", body = Embedded),
        (status = 400, description = "Too many texts, or one that is empty or too long"),
        (status = 503, description = "There is no embedder")))]
pub(super) async fn embed(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let asked: EmbedRequest = match json::read(request).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let knowledge = match knowledge(&app) {
        Ok(knowledge) => knowledge,
        Err(refusal) => return *refusal,
    };
    if !(1..=TEXTS_MAX).contains(&asked.texts.len()) {
        let message =
            format!("Invalid 'texts': {} of them; there may be 1 to {TEXTS_MAX}.", asked.texts.len());
        return invalid(message, Some("texts"));
    }
    let bad = asked.texts.iter().position(|t| t.trim().is_empty() || t.chars().count() > QUERY_CHARS_MAX);
    if let Some(i) = bad {
        let message = format!("Invalid 'texts[{i}]': a text has 1 to {QUERY_CHARS_MAX} characters.");
        return invalid(message, Some("texts"));
    }
    match knowledge.embedding().embed(asked.texts, Haste::Query).await {
        Ok(embeddings) => {
            let dimensions = embeddings.first().map_or(0, Vec::len);
            let model = knowledge.embedding().name().to_owned();
            axum::Json(Embedded { model, dimensions, embeddings }).into_response()
        }
        Err(why) => embedding_failed(&why),
    }
}
