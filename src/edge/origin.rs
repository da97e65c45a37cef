//! Which pages may talk to us.
//!
//! A WebSocket is not held back by the same-origin policy, so any page a user visits could reach a server
//! on their own machine. A request that carries an `Origin` is therefore only taken from our own pages or
//! from the list in the configuration. Programs send no `Origin` and are not affected.

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};

/// Whether the request's `Origin`, if it has one, may be served. `allowed` holds origins as browsers write
/// them (`https://example.org`).
///
/// Our own page has the origin it was loaded from. Where that is a name, a page elsewhere could have had it
/// point to this machine (DNS rebinding), so on a loopback listener (`loopback`) only `localhost` and
/// addresses count as our own; a name, as behind a proxy, has to be listed.
pub fn permitted(headers: &HeaderMap, allowed: &[String], loopback: bool) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if allowed.iter().any(|a| a.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Some((_, origin_host)) = origin.split_once("://") else { return false };
    let Some(host) = headers.get(HOST).and_then(|h| h.to_str().ok()) else { return false };
    origin_host.eq_ignore_ascii_case(host) && (!loopback || is_address(host))
}

/// Whether it is `localhost` or an IP address, with or without a port.
fn is_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(origin: Option<&str>, host: &str, loopback: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        permitted(&headers, &["https://jobs.example.org".into()], loopback)
    }

    #[test]
    fn programs_and_our_own_pages_are_served() {
        assert!(check(None, "127.0.0.1:8790", true));
        assert!(check(Some("http://127.0.0.1:8790"), "127.0.0.1:8790", true));
        assert!(check(Some("http://localhost:8790"), "localhost:8790", true));
        assert!(check(Some("http://[::1]:8790"), "[::1]:8790", true));
        assert!(check(Some("https://jobs.example.org"), "127.0.0.1:8790", true));
        assert!(check(Some("https://viva.example.com"), "viva.example.com", false));
    }

    #[test]
    fn a_foreign_page_is_not() {
        assert!(!check(Some("https://evil.example"), "127.0.0.1:8790", true));
        assert!(!check(Some("null"), "127.0.0.1:8790", true));
        assert!(!check(Some("http://localhost:3000"), "localhost:8790", true));
        assert!(!check(Some("http://evil.example:8790"), "evil.example:8790", true), "DNS rebinding");
    }
}
