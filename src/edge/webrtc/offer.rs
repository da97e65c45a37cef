//! What is looked at in an offer before anything is built for it, and what is written into an answer. Pure.

use std::net::SocketAddr;

use crate::edge::protocol::ErrorBody;

/// Bytes of an offer. A browser's with one track and a channel has 3 to 6 KiB, with many candidates some more.
pub const OFFER_MAX: usize = 64 * 1024;

/// Lines of an offer.
const LINES_MAX: usize = 1000;

/// Candidates of an offer: those of a machine with ten interfaces, three transports each.
const CANDIDATES_MAX: usize = 64;

/// Lengths the standard (RFC 8839) gives to the two halves of ICE's credentials.
const UFRAG: std::ops::RangeInclusive<usize> = 4..=256;
const PASSWORD: std::ops::RangeInclusive<usize> = 22..=256;

/// The largest event that goes into one message where the offer does not say (RFC 8841), and the largest we
/// send, whatever it says.
pub const EVENT_MAX: usize = 64 * 1024;

/// An offer worth building a peer for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The text as it came.
    pub sdp: String,
    /// Bytes one event may have.
    pub event_max: usize,
    /// There is a data channel.
    pub channel: bool,
}

fn bad(message: impl Into<String>) -> ErrorBody {
    ErrorBody::invalid("invalid_offer", message, Some("sdp"))
}

impl Offer {
    /// Checks an offer.
    ///
    /// # Errors
    /// What is wrong with it, for whoever made it.
    pub fn check(body: &[u8]) -> Result<Self, ErrorBody> {
        let sdp = std::str::from_utf8(body).map_err(|_| bad("The offer is not UTF-8."))?;
        if body.len() > OFFER_MAX {
            return Err(bad(format!("The offer has more than {OFFER_MAX} bytes.")));
        }
        if sdp.trim().is_empty() {
            return Err(bad("The offer is empty; the body is the SDP of an RTCPeerConnection's offer."));
        }
        if !sdp.starts_with("v=0") {
            return Err(bad("The offer is no SDP: it does not begin with 'v=0'."));
        }
        if sdp.lines().nth(LINES_MAX).is_some() {
            return Err(bad(format!("The offer has more than {LINES_MAX} lines.")));
        }
        let sections: Vec<&str> = sdp.lines().filter_map(|line| line.strip_prefix("m=")).collect();
        let audio = sections.iter().filter(|m| m.starts_with("audio ")).count();
        let channels = sections.iter().filter(|m| m.starts_with("application ")).count();
        if audio != 1 || channels > 1 || sections.len() != audio + channels {
            let message = "An offer here has one 'm=audio' section, and one 'm=application' for the events; \
                           leave video and everything else out.";
            return Err(bad(message));
        }
        let attributes = |name: &'static str| sdp.lines().filter_map(move |line| line.strip_prefix(name));
        if !attributes("a=rtpmap:").any(|a| a.to_ascii_lowercase().contains(" opus/48000")) {
            return Err(bad("The offer has no Opus: audio is sent and heard as 'opus/48000/2'."));
        }
        let credential = |name, length: std::ops::RangeInclusive<usize>| {
            let mut found = attributes(name).peekable();
            found.peek().is_some() && found.all(|value| length.contains(&value.trim_end().len()))
        };
        if !credential("a=ice-ufrag:", UFRAG) || !credential("a=ice-pwd:", PASSWORD) {
            return Err(bad("The offer has no ICE credentials ('a=ice-ufrag' and 'a=ice-pwd')."));
        }
        if attributes("a=fingerprint:").next().is_none() {
            return Err(bad("The offer has no 'a=fingerprint': audio is encrypted (DTLS-SRTP) or not sent."));
        }
        if attributes("a=candidate:").count() > CANDIDATES_MAX {
            return Err(bad(format!("The offer has more than {CANDIDATES_MAX} candidates.")));
        }
        let size = attributes("a=max-message-size:").next().map(|size| size.trim().parse::<usize>());
        let event_max = match size {
            None => EVENT_MAX,
            // Zero is how the standard says that there is no limit.
            Some(Ok(0)) => EVENT_MAX,
            Some(Ok(size)) => size.min(EVENT_MAX),
            Some(Err(_)) => return Err(bad("The offer's 'a=max-message-size' is no number.")),
        };
        Ok(Self { sdp: sdp.to_owned(), event_max, channel: channels == 1 })
    }
}

/// The ICE name and password of a description.
pub fn credentials(sdp: &str) -> Option<(String, String)> {
    let first =
        |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
    Some((first("a=ice-ufrag:")?, first("a=ice-pwd:")?))
}

/// An answer that tells the peer to come to these addresses, and to no others.
pub fn advertise(answer: &str, addresses: &[SocketAddr]) -> String {
    /// The preference RFC 8445 recommends for host candidates, and of one component.
    const HOST: u32 = 126 << 24 | 255;
    let mut lines: Vec<String> = answer
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.starts_with("a=candidate:") && !line.starts_with("a=end-of-candidates"))
        .map(str::to_owned)
        .collect();
    let sections = lines.iter().enumerate().filter(|(_, line)| line.starts_with("m=")).map(|(at, _)| at);
    // All sections share one transport, and its addresses stand in the first.
    let end = sections.clone().nth(1).unwrap_or(lines.len());
    if sections.clone().next().is_none() {
        return answer.to_owned();
    }
    let candidates = addresses.iter().enumerate().map(|(i, address)| {
        let priority = HOST | (65_535 - i as u32) << 8;
        format!("a=candidate:{} 1 udp {priority} {} {} typ host", i + 1, address.ip(), address.port())
    });
    let added: Vec<String> = candidates.chain(["a=end-of-candidates".to_owned()]).collect();
    lines.splice(end..end, added);
    lines.join("\r\n") + "\r\n"
}

#[cfg(test)]
#[path = "offer/tests.rs"]
mod tests;
