//! Client secrets (`ek_…`): what a page may hold in place of a key, for one kind of call and not for long.
//!
//! A secret is 192 random bits, told once. Here only its SHA-256 is kept, and looked up by: how long that takes says
//! nothing of another secret, since nobody can choose the digest of what they try. It may be used again until it
//! expires, because a page that loads again comes with the same one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use sha2::{Digest, Sha256};
use viva_actors::types::Principal;

use super::protocol::session_object::SessionPatch;

/// What every client secret begins with.
pub const PREFIX: &str = "ek_";

/// The subprotocol by which a browser's WebSocket, which can send no headers, brings its key or secret.
pub const SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// How long a secret may be good: the protocol's own range and default.
pub const TTL_MIN: Duration = Duration::from_secs(10);
/// See [`TTL_MIN`].
pub const TTL_MAX: Duration = Duration::from_secs(7_200);
/// See [`TTL_MIN`].
pub const TTL: Duration = Duration::from_secs(600);

/// Secrets that are good at once: a hundred times as many as there are seats on a large machine. An entry has a
/// digest and a handful of settings, a few hundred bytes.
pub const SECRETS_MAX: usize = 10_000;

/// Secrets one user may hold of these, so that nobody takes all of them.
pub const SECRETS_A_USER_MAX: usize = 1_000;

/// Bytes of what is presented as a key or a secret: the longest we issue has 51, a signed token of another's a few
/// thousand.
const PRESENTED_MAX: usize = 8 * 1024;

/// What a secret opens.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// Whose session it will be.
    pub principal: Principal,
    /// The interview that the call conducts, if it is one.
    pub interview: Option<String>,
    /// Settings the session starts with and its client may not change.
    pub session: Option<SessionPatch>,
}

/// Why there is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// All there may be are in use.
    #[error("too many client secrets are good now; wait until some expire, or ask for shorter ones")]
    Full,
    /// All that this user may have are in use.
    #[error("this user has too many client secrets that are still good; wait until some expire")]
    UserFull,
}

struct Entry {
    grant: Grant,
    expires: Instant,
}

/// The secrets that are good now.
#[derive(Default)]
pub struct Secrets(Mutex<HashMap<[u8; 32], Entry>>);

impl Secrets {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new secret, good for `ttl` from `now` on (at most [`TTL_MAX`]). This is the only time it is told.
    pub fn mint(&self, grant: Grant, ttl: Duration, now: Instant) -> Result<String, MintError> {
        let mut secrets = self.lock();
        secrets.retain(|_, entry| entry.expires > now);
        if secrets.len() >= SECRETS_MAX {
            return Err(MintError::Full);
        }
        let whose = |p: &Principal| p.tenant == grant.principal.tenant && p.user == grant.principal.user;
        if secrets.values().filter(|entry| whose(&entry.grant.principal)).count() >= SECRETS_A_USER_MAX {
            return Err(MintError::UserFull);
        }
        let secret = format!("{PREFIX}{:032x}{:016x}", rand::random::<u128>(), rand::random::<u64>());
        secrets.insert(digest(&secret), Entry { grant, expires: now + ttl.min(TTL_MAX) });
        Ok(secret)
    }

    /// What a secret opens, if it is one of ours and still good.
    pub fn open(&self, secret: &str, now: Instant) -> Option<Grant> {
        if !secret.starts_with(PREFIX) {
            return None;
        }
        let secrets = self.lock();
        let entry = secrets.get(&digest(secret))?;
        (entry.expires > now).then(|| entry.grant.clone())
    }

    /// Makes those of an interview worthless at once.
    pub fn revoke_interview(&self, id: &str) {
        self.lock().retain(|_, entry| entry.grant.interview.as_deref() != Some(id));
    }

    /// How many are kept, expired ones included.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The key or secret a request brings: `Authorization: Bearer …`, or, from a browser's WebSocket, the subprotocol
/// `openai-insecure-api-key.…`. Only the first that is there counts.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).map(|value| {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    let found = match bearer {
        Some(bearer) => bearer,
        None => headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .find_map(|name| name.trim().strip_prefix(SUBPROTOCOL)),
    };
    found.filter(|presented| !presented.is_empty() && presented.len() <= PRESENTED_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn grant(interview: &str) -> Grant {
        Grant { principal: Principal::default(), interview: Some(interview.into()), session: None }
    }

    #[test]
    fn a_secret_opens_its_interview_until_it_expires() {
        let (secrets, now) = (Secrets::default(), Instant::now());
        let secret = secrets.mint(grant("int_a"), Duration::from_secs(60), now).unwrap();
        assert!(secret.starts_with(PREFIX) && secret.len() == 51, "{secret}");
        let later = now + Duration::from_secs(59);
        assert_eq!(secrets.open(&secret, later), Some(grant("int_a")));
        assert_eq!(secrets.open(&secret, later), Some(grant("int_a")), "as often as wanted");
        assert_eq!(secrets.open(&secret, now + Duration::from_secs(60)), None);
        assert_eq!(secrets.open(&secret[..50], now), None);
        assert_eq!(secrets.open("ek_", now), None);
        assert_eq!(secrets.open("sk_anything", now), None);
    }

    #[test]
    fn no_secret_outlives_the_longest_time() {
        let (secrets, now) = (Secrets::default(), Instant::now());
        let secret = secrets.mint(grant("a"), Duration::from_secs(1_000_000), now).unwrap();
        assert_eq!(secrets.open(&secret, now + TTL_MAX), None);
    }

    #[test]
    fn a_deleted_interviews_secrets_are_worthless() {
        let (secrets, now) = (Secrets::default(), Instant::now());
        let gone = secrets.mint(grant("a"), TTL, now).unwrap();
        let other = secrets.mint(grant("b"), TTL, now).unwrap();
        secrets.revoke_interview("a");
        assert_eq!(secrets.open(&gone, now), None);
        assert!(secrets.open(&other, now).is_some());
    }

    #[test]
    fn there_is_an_end_to_them_and_those_expired_make_room() {
        let (secrets, now) = (Secrets::default(), Instant::now());
        for _ in 0..SECRETS_A_USER_MAX {
            secrets.mint(grant("a"), TTL, now).unwrap();
        }
        assert_eq!(secrets.mint(grant("a"), TTL, now), Err(MintError::UserFull));
        assert!(secrets.mint(grant("a"), TTL, now + TTL).is_ok());
        assert_eq!(secrets.len(), 1);
    }

    #[test]
    fn a_key_is_read_from_the_header_or_the_subprotocol() {
        let read = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            presented(&headers).map(str::to_owned)
        };
        assert_eq!(read("authorization", "Bearer ek_1").as_deref(), Some("ek_1"));
        assert_eq!(read("authorization", "bearer  ek_1 ").as_deref(), Some("ek_1"));
        assert_eq!(read("authorization", "Basic ek_1"), None);
        assert_eq!(read("authorization", "Bearer "), None);
        let list = "realtime, openai-insecure-api-key.ek_2, openai-beta.realtime-v1";
        assert_eq!(read("sec-websocket-protocol", list).as_deref(), Some("ek_2"));
        assert_eq!(read("sec-websocket-protocol", "realtime"), None);
        assert_eq!(read("authorization", &format!("Bearer {}", "x".repeat(PRESENTED_MAX + 1))), None);
    }
}
