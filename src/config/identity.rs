//! `[identity]`, `[tiers.*]`, `[tls]`: who may come in, how much they may have, and over what.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySection {
    /// File of API keys, which `viva keys` manages; empty for none.
    pub keys: String,
    /// File of the keys that sign tokens (JWKS); empty for none.
    pub jwks: String,
    /// What a token's `iss` must be; empty for anything.
    pub issuer: String,
    /// What must be in a token's `aud`; empty for anything.
    pub audience: String,
    /// The claim that names the customer.
    pub tenant_claim: String,
    /// The claim that names the person.
    pub user_claim: String,
    /// The claim that names the tier.
    pub tier_claim: String,
    /// Serve whoever comes, also on addresses that others reach.
    pub open: bool,
}

impl Default for IdentitySection {
    fn default() -> Self {
        Self {
            keys: String::new(),
            jwks: String::new(),
            issuer: String::new(),
            audience: String::new(),
            tenant_claim: "tenant".into(),
            user_claim: "sub".into(),
            tier_claim: "tier".into(),
            open: false,
        }
    }
}

impl IdentitySection {
    /// Whether whoever comes must say who they are.
    pub fn required(&self) -> bool {
        !self.keys.is_empty() || !self.jwks.is_empty()
    }

    /// Fails where strangers could reach a server that asks nobody for anything.
    pub fn check(&self, listen: IpAddr) -> Result<(), ConfigError> {
        if self.required() && self.open {
            let why =
                "it cannot be set beside identity.keys or identity.jwks, which ask everybody who they are";
            return Err(ConfigError::Value { key: "identity.open", value: "true".into(), why });
        }
        if listen.is_loopback() || self.required() || self.open {
            return Ok(());
        }
        let why = "without API keys the server listens on this machine only. Make a key with \
                   `viva keys add --keys FILE NAME` and serve with --keys FILE; or, behind a proxy that knows its \
                   users, set identity.open = true";
        Err(ConfigError::Value { key: "server.listen", value: listen.to_string(), why })
    }
}

/// `[tiers.*]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TiersSection {
    /// `[tiers.free]`
    pub free: TierSection,
    /// `[tiers.pro]`
    pub pro: TierSection,
    /// `[tiers.enterprise]`
    pub enterprise: TierSection,
}

impl Default for TiersSection {
    fn default() -> Self {
        Self {
            // One conversation, and the one before that has not quite ended.
            free: TierSection { sessions_max: 2, requests_per_minute: 60 },
            pro: TierSection { sessions_max: 8, requests_per_minute: 600 },
            enterprise: TierSection { sessions_max: 0, requests_per_minute: 0 },
        }
    }
}

/// What one principal of a tier may have; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TierSection {
    /// Sessions at once.
    pub sessions_max: u32,
    /// HTTP requests a minute, the beginning of a session included.
    pub requests_per_minute: u32,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// File of the certificate and those it hangs on (PEM); empty for plain HTTP.
    pub cert: String,
    /// File of its key (PEM).
    pub key: String,
    /// Make a certificate at the start, which nobody else knows.
    pub self_signed: bool,
}

impl TlsSection {
    /// Whether the server speaks TLS.
    pub fn enabled(&self) -> bool {
        self.self_signed || !self.cert.is_empty()
    }

    /// Fails where half of it is set.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, value: &str, why| Err(ConfigError::Value { key, value: value.to_owned(), why });
        match (self.cert.is_empty(), self.key.is_empty()) {
            (false, true) => fail("tls.cert", &self.cert, "it needs tls.key, the file of its key"),
            (true, false) => fail("tls.key", &self.key, "it needs tls.cert, the file of its certificate"),
            (false, false) if self.self_signed => {
                fail("tls.self_signed", "true", "tls.cert names a certificate already")
            }
            _ => Ok(()),
        }
    }
}
