//! What the demultiplexer must know of STUN: whose check it is, and whether its sender knows the secret.
//! Parsing and the MAC are the `rtc` crate's.

use std::sync::LazyLock;

use rtc::crypto::RTCCryptoProvider;
use rtc::stun::attributes::ATTR_USERNAME;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{BINDING_REQUEST, Message};

/// Bytes of a check: browsers send about 100, and nothing longer fits one packet.
const CHECK_BYTES_MAX: usize = 1280;

/// Bytes of a STUN message's header.
const HEADER: usize = 20;

/// A connectivity check.
pub struct Check(Message);

/// What kind of datagram it is, by its first byte (RFC 7983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// STUN.
    Stun,
    /// DTLS, RTP or RTCP: means something only from a peer we know.
    Media,
    /// Nothing of ours.
    Other,
}

/// Sorts a datagram.
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0..=3) => Kind::Stun,
        Some(20..=63 | 128..=191) => Kind::Media,
        _ => Kind::Other,
    }
}

impl Check {
    /// Reads a binding request; none for anything else.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        if !(HEADER..=CHECK_BYTES_MAX).contains(&datagram.len()) {
            return None;
        }
        let mut message = Message::new();
        message.unmarshal_binary(datagram).ok()?;
        (message.typ == BINDING_REQUEST).then_some(Self(message))
    }

    /// The name of the one who is asked: the first half of the user name.
    pub fn asked(&self) -> Option<String> {
        let name = String::from_utf8(self.0.get(ATTR_USERNAME).ok()?).ok()?;
        Some(name.split_once(':')?.0.to_owned())
    }

    /// Whether the sender knows the password of the one who is asked.
    pub fn proves(&mut self, password: &str) -> bool {
        static CRYPTO: LazyLock<Option<std::sync::Arc<dyn RTCCryptoProvider>>> =
            LazyLock::new(|| rtc::crypto::default_provider().ok());
        let Some(provider) = &*CRYPTO else { return false };
        MessageIntegrity::check(&mut self.0, password.as_bytes(), provider.crypto()).is_ok()
    }
}

#[cfg(test)]
#[path = "stun/tests.rs"]
pub(super) mod tests;
