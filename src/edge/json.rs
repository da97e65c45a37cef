//! Bodies in JSON: read with a limit, refused with the field that is wrong.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::http::error;
use super::protocol::ErrorBody;

/// The body as what it should be.
///
/// # Errors
/// The answer to send: 400 with the field's path where it is not what it should be, 413 where it is too long.
pub(super) async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Box<Response<Body>>> {
    let bytes = Bytes::from_request(request, &()).await.map_err(|rejection| {
        let status = rejection.status();
        let body = ErrorBody::invalid("invalid_body", rejection.body_text(), None);
        Box::new(error(status, body, None))
    })?;
    let reader = &mut serde_json::Deserializer::from_slice(if bytes.is_empty() { b"{}" } else { &bytes });
    serde_path_to_error::deserialize(reader).map_err(|wrong| {
        let path = wrong.path().to_string();
        let param = Some(path.as_str()).filter(|path| *path != ".");
        let message = match param {
            Some(param) => format!("Invalid '{param}': {}.", wrong.inner()),
            None => format!("Invalid body: {}.", wrong.inner()),
        };
        Box::new(error(StatusCode::BAD_REQUEST, ErrorBody::invalid("invalid_value", message, param), None))
    })
}
