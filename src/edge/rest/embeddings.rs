//! `/v1/embeddings`: texts as vectors.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Kind;
use super::{Refusal, json_body};
use crate::edge::http::App;

/// Texts of one request: the protocol's limit.
const TEXTS_MAX: usize = 2_048;

/// Bytes of one text: the protocol's 8,192 tokens at four bytes each. Models read the first few hundred tokens of it.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Texts that go to the engine at a time. It cannot be stopped within a batch, and a caller's lookup may wait for it:
/// 8 take it 60 (MiniLM) to 350 ms (mpnet) on two cores.
const BATCH: usize = 8;

/// Bytes of English a token stands for. The engine does not say how many it read, so usage is an estimate.
const BYTES_PER_TOKEN: usize = 4;

#[derive(Debug, Deserialize)]
struct Asked {
    input: Value,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    dimensions: Option<usize>,
    #[serde(default)]
    encoding_format: Option<Encoding>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

/// `POST /v1/embeddings`
pub(in crate::edge) async fn create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let asked: Asked = json_body(request).await?;
    let texts = texts(asked.input)?;
    if asked.dimensions == Some(0) {
        return Err(Refusal::value("dimensions", "it must be at least 1"));
    }
    if !app.viva.readiness().engines.iter().any(|engine| engine.kind == "embed") {
        let message = "This server has no embedder; [engines.embed] in the configuration names one.";
        return Err(Refusal::unsupported("model", message));
    }
    let tokens: usize = texts.iter().map(|text| text.len().div_ceil(BYTES_PER_TOKEN)).sum();
    let ticket = app.desk.enter(Kind::Embed, &app.viva).await?;
    let mut data = Vec::with_capacity(texts.len());
    for batch in texts.chunks(BATCH) {
        for vector in ticket.embed(batch.to_vec()).await? {
            let vector = shortened(vector, asked.dimensions)?;
            let embedding = match asked.encoding_format.unwrap_or(Encoding::Float) {
                Encoding::Float => json!(vector),
                Encoding::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                    Value::String(STANDARD.encode(bytes))
                }
            };
            data.push(json!({"object": "embedding", "index": data.len(), "embedding": embedding}));
        }
    }
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let model = asked.model.unwrap_or_else(|| "viva-embed".into());
    Ok(Json(json!({"object": "list", "data": data, "model": model, "usage": usage})))
}

/// One text or many, none of them empty.
fn texts(input: Value) -> Result<Vec<String>, Refusal> {
    let texts = match input {
        Value::String(text) => vec![text],
        Value::Array(texts) => {
            let text = |value| match value {
                Value::String(text) => Ok(text),
                _ => Err(Refusal::value("input", "texts are embedded here, no numbers of tokens")),
            };
            texts.into_iter().map(text).collect::<Result<_, _>>()?
        }
        _ => return Err(Refusal::value("input", "it is a text, or a list of texts")),
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(Refusal::value("input", "it is empty"));
    }
    if texts.len() > TEXTS_MAX {
        return Err(Refusal::value("input", format!("{} texts are more than {TEXTS_MAX}", texts.len())));
    }
    if let Some(long) = texts.iter().find(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(Refusal::value(
            "input",
            format!("a text of {} bytes; at most {TEXT_BYTES_MAX}", long.len()),
        ));
    }
    Ok(texts)
}

/// The first so many dimensions, brought to length 1 again. Our models were not trained for that: short vectors find
/// less.
fn shortened(mut vector: Vec<f32>, dimensions: Option<usize>) -> Result<Vec<f32>, Refusal> {
    let Some(dimensions) = dimensions else { return Ok(vector) };
    if dimensions > vector.len() {
        return Err(Refusal::value("dimensions", format!("the model's vectors have {}", vector.len())));
    }
    vector.truncate(dimensions);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_short_vector_has_length_one() {
        assert_eq!(shortened(vec![0.6, 0.0, 0.8], Some(1)).unwrap(), [1.0]);
        assert_eq!(shortened(vec![0.6, 0.8], None).unwrap(), [0.6, 0.8]);
        assert_eq!(
            shortened(vec![0.6, 0.8], Some(3)).unwrap_err().body().param.as_deref(),
            Some("dimensions")
        );
    }

    #[test]
    fn what_cannot_be_embedded_is_refused() {
        assert_eq!(texts(json!(["a", "b"])).unwrap(), ["a", "b"]);
        for bad in
            [json!(""), json!([]), json!(["a", ""]), json!([1, 2]), json!({"a": 1}), json!(vec!["a"; 2_049])]
        {
            assert_eq!(texts(bad).unwrap_err().body().param.as_deref(), Some("input"));
        }
        assert!(texts(json!("x".repeat(TEXT_BYTES_MAX))).is_ok());
        assert!(texts(json!("x".repeat(TEXT_BYTES_MAX + 1))).is_err());
    }
}
