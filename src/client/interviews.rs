//! Interviews over HTTP, as a client asks for them.

use std::time::Duration;

use serde_json::Value;

use super::error::{ClientError, Result};
use super::script::Step;
use crate::interview::talk::{Talk, classify};
use crate::interview::words::overlap;

/// How long the server may take: it looks up the role's fields before it answers.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An interview that was made for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its name.
    pub id: String,
    /// What opens it.
    pub secret: String,
}

/// The server's address for plain HTTP, however it is named.
fn address(server: &str, path: &str) -> String {
    let server = server.trim().trim_end_matches('/');
    let (scheme, rest) = match server.split_once("://") {
        Some(("https" | "wss", rest)) => ("https", rest),
        Some((_, rest)) => ("http", rest),
        None => ("http", server),
    };
    let host = rest.split(['/', '?']).next().unwrap_or(rest);
    format!("{scheme}://{host}{path}")
}

/// Asks for an interview: `wanted` is the body of `POST /interview/voice/sessions`.
///
/// # Errors
/// [`ClientError::Unreachable`], [`ClientError::Refused`].
pub async fn invite(server: &str, key: Option<&str>, wanted: Value) -> Result<Invitation> {
    let answer = ask(address(server, "/interview/voice/sessions"), key, Some(wanted)).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Invitation { id: text(&answer["id"]), secret: text(&answer["client_secret"]["value"]) })
}

/// Looks at an interview: the answer of `GET /interview/voice/sessions/{id}`.
///
/// # Errors
/// As [`invite`].
pub async fn look(server: &str, key: Option<&str>, id: &str) -> Result<Value> {
    ask(address(server, &format!("/interview/voice/sessions/{id}")), key, None).await
}

/// Which line of a candidate's comes next: none after the close. Lines that ask something, or say that there is
/// nothing to ask, wait until they are invited; of the others the one that has most to do with what was asked, and of
/// those that have nothing to do with it the next one. A recording is nothing but the next one.
pub fn fitting(left: &[&Step], section: &str, asked: &str) -> Option<usize> {
    if section == "close" {
        return None;
    }
    let text = |step: &Step| match step {
        Step::Say { text } => text.clone(),
        _ => String::new(),
    };
    let own = |step: &Step| matches!(classify(&text(step), true), Talk::Asks | Talk::Nothing);
    let fit = |step: &Step| {
        if matches!(section, "greeting" | "questions") { 0.0 } else { overlap(&text(step), asked) }
    };
    let mut best: Option<(usize, f32)> = None;
    // Who has asked all they wanted to is asked something again, if there is time.
    let asks = section == "questions" && left.iter().any(|step| own(step));
    let may = left.iter().enumerate().filter(|(_, step)| own(step) == asks);
    for (at, step) in may {
        let fits = fit(step);
        if best.is_none_or(|(_, most)| fits > most) {
            best = Some((at, fits));
        }
    }
    best.map(|(at, _)| at)
}

async fn ask(url: String, key: Option<&str>, body: Option<Value>) -> Result<Value> {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let named = url.clone();
    let asking = tokio::task::spawn_blocking(move || -> std::result::Result<(u16, Value), ureq::Error> {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        let agent = config.build().new_agent();
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(bearer) = bearer {
            request = request.header("Authorization", bearer);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.header("Content-Type", "application/json").body(body)?;
        let mut response = agent.run(request)?;
        let status = response.status().as_u16();
        let answer = response.body_mut().read_to_string()?;
        Ok((status, serde_json::from_str(&answer).unwrap_or_default()))
    });
    let unreachable = |why: String| ClientError::Unreachable { url: named.clone(), why };
    let (status, answer) =
        asking.await.map_err(|e| unreachable(e.to_string()))?.map_err(|e| unreachable(e.to_string()))?;
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let message = answer["error"]["message"].as_str().unwrap_or("it gave no reason").to_owned();
    Err(ClientError::Refused { status, retry_after_s: None, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_named_in_many_ways() {
        for name in ["h:1", "http://h:1/", "ws://h:1/v1/realtime", "h:1?x=y"] {
            assert_eq!(address(name, "/p"), "http://h:1/p", "{name}");
        }
        assert_eq!(address("wss://h/v1", "/p"), "https://h/p");
    }
}
