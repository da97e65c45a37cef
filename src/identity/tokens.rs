//! Signed tokens (JWT) of somebody else's login: HS256, RS256 and EdDSA, checked with the keys of a JWKS file.
//!
//! A key says which algorithm it is for, and a token with another one is refused: who knows a public key must not be
//! able to use it as a shared secret.

use std::fs;
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use viva_actors::types::{Principal, Tier};

use super::keys::NAME_MAX;
use crate::config::IdentitySection;

/// Clocks of two machines may differ by so many seconds.
const LEEWAY_S: u64 = 30;

/// Keys of one file: login servers keep the one they sign with and a few before it.
const KEYS_MAX: usize = 64;

/// What is wrong with the file of keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// It cannot be read.
    #[error("identity.jwks: cannot read {path}: {error}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It holds nothing that can be used.
    #[error("identity.jwks: {path}: {why}", path = path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Reads tokens.
pub struct Tokens {
    keys: Vec<Key>,
    issuer: String,
    audience: String,
    tenant_claim: String,
    user_claim: String,
    tier_claim: String,
}

impl Tokens {
    /// Reads the keys. Those of algorithms that are not accepted here are left out.
    pub fn open(path: &Path, section: &IdentitySection) -> Result<Self, JwksError> {
        let unusable = |why: String| JwksError::Unusable { path: path.to_owned(), why };
        let text =
            fs::read_to_string(path).map_err(|error| JwksError::Io { path: path.to_owned(), error })?;
        let set: JwkSet = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(unusable(format!("{} keys are more than {KEYS_MAX}", set.keys.len())));
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(unusable("there is no key for HS256, RS256 or EdDSA in it".into()));
        }
        Ok(Self {
            keys,
            issuer: section.issuer.clone(),
            audience: section.audience.clone(),
            tenant_claim: section.tenant_claim.clone(),
            user_claim: section.user_claim.clone(),
            tier_claim: section.tier_claim.clone(),
        })
    }

    /// Whose token this is; none where it is not good, or does not say.
    pub fn read(&self, token: &str) -> Option<Principal> {
        let head = decode_header(token).ok()?;
        let fits = |key: &&Key| {
            key.algorithm == head.alg && (head.kid.is_none() || key.id.is_none() || key.id == head.kid)
        };
        let claims = self.keys.iter().filter(fits).find_map(|key| {
            let claims = decode::<Map<String, Value>>(token, &key.key, &self.validation(key.algorithm));
            claims.ok().map(|data| data.claims)
        })?;
        let name = |claim: &str| {
            let name = claims.get(claim).and_then(Value::as_str)?;
            (!name.is_empty() && name.len() <= NAME_MAX).then(|| name.to_owned())
        };
        let tier = match claims.get(&self.tier_claim) {
            None => Tier::default(),
            Some(tier) => serde_json::from_value(tier.clone()).ok()?,
        };
        let tenant = if claims.contains_key(&self.tenant_claim) {
            name(&self.tenant_claim)?
        } else {
            "default".into()
        };
        Some(Principal { tenant, user: name(&self.user_claim)?, tier })
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if !self.issuer.is_empty() {
            validation.set_issuer(&[&self.issuer]);
            required.push("iss");
        }
        if self.audience.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&[&self.audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let named = jwk.common.key_algorithm.map(|named| named.to_string());
    if named.is_some_and(|named| named != format!("{algorithm:?}")) {
        return None;
    }
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    fn section() -> IdentitySection {
        IdentitySection {
            issuer: "https://login.example".into(),
            audience: "viva".into(),
            ..IdentitySection::default()
        }
    }

    fn open(keys: Value) -> Result<Tokens, JwksError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), json!({ "keys": keys }).to_string()).unwrap();
        Tokens::open(file.path(), &section())
    }

    fn shared() -> Tokens {
        open(json!([{"kty": "oct", "alg": "HS256", "kid": "one", "k": URL_SAFE_NO_PAD.encode(SECRET)}]))
            .unwrap()
    }

    fn claims(extra: Value) -> Value {
        let mut claims = json!({"sub": "ann", "tenant": "acme", "tier": "pro", "iss": "https://login.example",
            "aud": "viva", "exp": jsonwebtoken::get_current_timestamp() + 60});
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        claims
    }

    fn signed(claims: &Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).unwrap()
    }

    #[test]
    fn a_token_says_who_and_what_tier() {
        let tokens = shared();
        let ann = Principal { tenant: "acme".into(), user: "ann".into(), tier: Tier::Pro };
        assert_eq!(tokens.read(&signed(&claims(json!({})))), Some(ann));
        let mut plain = claims(json!({}));
        plain.as_object_mut().unwrap().retain(|name, _| name != "tier" && name != "tenant");
        let read = tokens.read(&signed(&plain)).unwrap();
        assert_eq!((read.tenant.as_str(), read.tier), ("default", Tier::Free));
    }

    #[test]
    fn a_token_that_is_not_good_opens_nothing() {
        let tokens = shared();
        let late = jsonwebtoken::get_current_timestamp();
        for wrong in [
            json!({"exp": late - LEEWAY_S - 5}),
            json!({"nbf": late + LEEWAY_S + 5}),
            json!({"iss": "https://other.example"}),
            json!({"aud": "other"}),
            json!({"tier": "emperor"}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"tenant": ""}),
        ] {
            assert_eq!(tokens.read(&signed(&claims(wrong.clone()))), None, "{wrong}");
        }
        let mut endless = claims(json!({}));
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(tokens.read(&signed(&endless)), None);
        let other = encode(&Header::default(), &claims(json!({})), &EncodingKey::from_secret(b"x")).unwrap();
        let unsigned = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode(claims(json!({})).to_string())
        );
        let good = signed(&claims(json!({})));
        for bad in [other.as_str(), &unsigned, &good[..good.len() - 2], "", "a.b.c", "\u{0}"] {
            assert_eq!(tokens.read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let raw = pair.der_bytes().to_vec();
        let public = URL_SAFE_NO_PAD.encode(&raw);
        let tokens = open(json!([{"kty": "OKP", "crv": "Ed25519", "x": public}])).unwrap();
        let key = EncodingKey::from_ed_der(&pair.serialize_der());
        let good = encode(&Header::new(Algorithm::EdDSA), &claims(json!({})), &key).unwrap();
        assert!(tokens.read(&good).is_some());
        let forged =
            encode(&Header::new(Algorithm::HS256), &claims(json!({})), &EncodingKey::from_secret(&raw))
                .unwrap();
        assert_eq!(tokens.read(&forged), None);
    }

    #[test]
    fn a_file_without_a_usable_key_is_refused() {
        assert!(open(json!([])).is_err());
        assert!(open(json!([{"kty": "oct", "alg": "HS512", "k": "AAAA"}])).is_err());
    }
}
