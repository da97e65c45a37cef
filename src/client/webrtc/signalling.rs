//! How a call is set up, restarted and hung up: over HTTP.

use std::time::Duration;

use crate::client::error::{ClientError, Result};
use crate::client::wire::realtime_url;

/// How long an HTTP request may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's HTTP side.
#[derive(Debug, Clone)]
pub(super) struct Http {
    /// `http://host:port`
    pub(super) origin: String,
    /// `host:port`
    pub(super) host: String,
    /// Where calls are set up.
    pub(super) calls: String,
    key: Option<String>,
}

/// A description and where it belongs.
pub(super) struct Described {
    pub(super) sdp: String,
    pub(super) location: String,
    pub(super) etag: String,
}

impl Http {
    pub(super) fn new(server: &str, query: &str, key: Option<&str>) -> Self {
        let url = realtime_url(server).replacen("ws", "http", 1);
        let (address, asked) = url.split_once('?').unwrap_or((url.as_str(), ""));
        let more = if query.is_empty() { String::new() } else { format!("&{query}") };
        let calls = format!("{address}/calls?{asked}{more}");
        let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
        let host = rest.split('/').next().unwrap_or(rest);
        let origin = format!("{scheme}://{host}");
        let port = if scheme == "https" { 443 } else { 80 };
        let named = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if named { host.to_owned() } else { format!("{host}:{port}") };
        Self { origin, host, calls, key: key.map(str::to_owned) }
    }

    /// Sends an offer and takes the answer. A request blocks, so it has a thread of its own.
    pub(super) async fn describe(
        self,
        method: &'static str,
        url: String,
        offer: String,
        etag: Option<String>,
    ) -> Result<Described> {
        let asked = tokio::task::spawn_blocking(move || {
            let mut request = ureq::http::Request::builder()
                .method(method)
                .uri(&url)
                .header("Content-Type", "application/sdp");
            if let Some(key) = &self.key {
                request = request.header("Authorization", format!("Bearer {key}"));
            }
            if let Some(etag) = etag {
                request = request.header("If-Match", etag);
            }
            let unreachable = |why: String| ClientError::Unreachable { url: url.clone(), why };
            let request = request.body(offer).map_err(|error| unreachable(error.to_string()))?;
            let mut response = agent().run(request).map_err(|error| unreachable(error.to_string()))?;
            let status = response.status().as_u16();
            let header = |name: &str| {
                response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
            };
            let (location, etag, retry) = (header("location"), header("etag"), header("retry-after"));
            let body =
                response.body_mut().read_to_string().map_err(|error| unreachable(error.to_string()))?;
            match status {
                200 | 201 => Ok(Described { sdp: body, location, etag }),
                _ => Err(ClientError::Refused {
                    status,
                    retry_after_s: retry.parse().ok(),
                    message: why(&body),
                }),
            }
        });
        asked.await.map_err(|error| ClientError::Gone(error.to_string()))?
    }

    pub(super) async fn delete(self, url: String) -> Result<()> {
        let asked = tokio::task::spawn_blocking(move || {
            agent().delete(&url).call().map_err(|error| ClientError::Gone(error.to_string()))
        });
        asked.await.map_err(|error| ClientError::Gone(error.to_string()))?.map(|_| ())
    }
}

/// The message of an error's body.
fn why(body: &str) -> String {
    let message = serde_json::from_str::<serde_json::Value>(body).ok();
    let message = message.as_ref().and_then(|m| m.pointer("/error/message")).and_then(|m| m.as_str());
    message.unwrap_or("no reason given").to_owned()
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(HTTP_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .new_agent()
}
