//! `[webrtc]`: calls over WebRTC.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// `[webrtc]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebRtcSection {
    /// Take calls over WebRTC; WebSockets are always taken.
    pub enabled: bool,
    /// UDP addresses for all peers, at most one of each family; empty for the server's own address and port.
    pub listen: Vec<SocketAddr>,
    /// Where peers find these from outside, as `IP` or `IP:PORT`; empty for what the machine itself knows.
    pub public: Vec<String>,
    /// Only answer ICE's checks.
    pub ice_lite: bool,
    /// STUN and TURN servers for browsers.
    pub ice_servers: Vec<IceServer>,
    /// Bits of our voice a second.
    pub bitrate: i32,
    /// Effort of the encoder, 0 to 10, while the server is not late.
    pub complexity: i32,
    /// How long a call waits for a client that lost its line, seconds; 0 ends it at once.
    pub resume_s: u64,
}

impl Default for WebRtcSection {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: Vec::new(),
            public: Vec::new(),
            ice_lite: true,
            ice_servers: Vec::new(),
            // Wideband speech has no more to gain from Opus above this.
            bitrate: 32_000,
            // Measured: 0 costs 66 us a frame, 5 costs 203, 9 costs 287, and speech gains little above 5.
            complexity: 5,
            // A change of networks, or a page that is loaded again.
            resume_s: 30,
        }
    }
}

/// A server browsers may use to reach us, as `RTCIceServer` has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IceServer {
    /// `stun:` and `turn:` addresses.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// For TURN.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub credential: String,
}

impl WebRtcSection {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, value: &dyn std::fmt::Display, why| {
            Err(ConfigError::Value { key, value: value.to_string(), why })
        };
        if let Some(two) = self.listen.iter().skip(1).find(|a| a.is_ipv4() == self.listen[0].is_ipv4()) {
            return fail("webrtc.listen", two, "there may be one address of each family");
        }
        if let Some(bad) = self.public.iter().find(|p| public_address(p, 0).is_none()) {
            return fail("webrtc.public", bad, "it must be an IP address, with a port or without");
        }
        let urls = self.ice_servers.iter().flat_map(|server| &server.urls);
        let schemes = ["stun:", "stuns:", "turn:", "turns:"];
        if let Some(bad) = urls.into_iter().find(|url| !schemes.iter().any(|s| url.starts_with(s))) {
            return fail("webrtc.ice_servers", bad, "it must begin with stun:, stuns:, turn: or turns:");
        }
        if !(6_000..=128_000).contains(&self.bitrate) {
            return fail("webrtc.bitrate", &self.bitrate, "it must be in 6000..=128000");
        }
        if !(0..=10).contains(&self.complexity) {
            return fail("webrtc.complexity", &self.complexity, "it must be in 0..=10");
        }
        if self.resume_s > 600 {
            return fail(
                "webrtc.resume_s",
                &self.resume_s,
                "it must be at most 600: a call that waits has a place",
            );
        }
        Ok(())
    }
}

/// An address of `webrtc.public`, with this port where it has none.
pub fn public_address(text: &str, port: u16) -> Option<SocketAddr> {
    let ip = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
    text.parse().ok().or_else(ip)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_key() {
        let good = WebRtcSection::default();
        assert!(good.check().is_ok());
        let server = |url: &str| vec![IceServer { urls: vec![url.into()], ..IceServer::default() }];
        let two = ["127.0.0.1:1", "127.0.0.2:1"].map(|a| a.parse().unwrap()).to_vec();
        for (bad, key) in [
            (WebRtcSection { listen: two, ..good.clone() }, "webrtc.listen"),
            (WebRtcSection { public: vec!["example.org".into()], ..good.clone() }, "webrtc.public"),
            (
                WebRtcSection { ice_servers: server("http://example.org"), ..good.clone() },
                "webrtc.ice_servers",
            ),
            (WebRtcSection { bitrate: 1, ..good.clone() }, "webrtc.bitrate"),
            (WebRtcSection { complexity: 11, ..good.clone() }, "webrtc.complexity"),
            (WebRtcSection { resume_s: 9_999, ..good }, "webrtc.resume_s"),
        ] {
            assert!(bad.check().unwrap_err().to_string().starts_with(key), "{key}");
        }
    }

    #[test]
    fn a_public_address_may_leave_the_port_out() {
        assert_eq!(public_address("203.0.113.7", 8790), "203.0.113.7:8790".parse().ok());
        assert_eq!(public_address("[2001:db8::1]:9", 8790), "[2001:db8::1]:9".parse().ok());
        assert_eq!(public_address("2001:db8::1", 8790), "[2001:db8::1]:8790".parse().ok());
        assert_eq!(public_address("nowhere", 1), None);
    }
}
