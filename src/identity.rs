//! Who may come in, and how much they may have: API keys ([`keys`]), signed tokens ([`tokens`]), quotas ([`quota`]).
//!
//! Nothing here knows HTTP. What a client presents is a secret: it is compared by digest in constant time, and it never
//! reaches a log, an error or a metric.

pub mod keys;
pub mod quota;
pub mod tokens;

use std::path::Path;

use viva_actors::types::Principal;

use crate::config::{IdentitySection, TiersSection};
use keys::KeyFile;
use quota::Quotas;
use tokens::Tokens;

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// They presented nothing.
    #[error("no API key was given")]
    Missing,
    /// What they presented opens nothing (any more).
    #[error("the API key is wrong, revoked or expired")]
    Wrong,
}

/// Why nobody could be told apart.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] keys::KeyError),
    /// The keys that sign tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] tokens::JwksError),
}

/// All ways to be known.
pub struct Identity {
    keys: Option<KeyFile>,
    tokens: Option<Tokens>,
    /// How much each may have.
    pub quotas: Quotas,
}

impl Identity {
    /// As configured; none where nobody is asked for anything.
    pub fn of(section: &IdentitySection, tiers: &TiersSection) -> Result<Option<Self>, IdentityError> {
        if !section.required() {
            return Ok(None);
        }
        let file = |name: &str| (!name.is_empty()).then(|| Path::new(name).to_owned());
        let keys = file(&section.keys).map(KeyFile::open).transpose()?;
        let tokens = file(&section.jwks).map(|path| Tokens::open(&path, section)).transpose()?;
        Ok(Some(Self { keys, tokens, quotas: Quotas::new(tiers.clone()) }))
    }

    /// Whose key or token this is.
    pub fn who(&self, presented: Option<&str>) -> Result<Principal, Denied> {
        let presented = presented.ok_or(Denied::Missing)?;
        if presented.starts_with(keys::PREFIX) {
            return self.keys.as_ref().and_then(|keys| keys.find(presented)).ok_or(Denied::Wrong);
        }
        self.tokens.as_ref().and_then(|tokens| tokens.read(presented)).ok_or(Denied::Wrong)
    }

    /// Keys there are now; none where there is no file of them.
    pub fn keys(&self) -> Option<usize> {
        self.keys.as_ref().map(KeyFile::len)
    }
}
