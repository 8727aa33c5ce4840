//! JSON Web Tokens: signed by an issuer whose public keys come as a JWKS.
//!
//! What can fail: the issuer's address. Keys that were fetched once stay in force; without any, callers are told to try again.
//!
//! **Invariant:** only public-key algorithms are taken, the one of the key; issuer, audience and expiry are always checked.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use countersign_telemetry::with_sources;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::config::AccessSection;
use super::{Caller, Denied, Means, Role};
use crate::context::Context;
use crate::watched::Watched;

/// How often keys are fetched.
const FETCH: Duration = Duration::from_mins(5);
/// Least time between two fetches because of a key that is not known.
const FETCH_AGAIN: Duration = Duration::from_secs(10);
/// Time of one fetch.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// Largest JWKS, bytes.
const JWKS_MAX: usize = 1024 * 1024;
/// How far clocks may differ, seconds.
const LEEWAY_S: u64 = 30;

/// Verifies tokens of one issuer. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Jwt {
    keys: Keys,
    issuer: Arc<str>,
    audience: Arc<str>,
    claim: Arc<str>,
}

#[derive(Clone)]
enum Keys {
    File(Watched<JwkSet>),
    Fetched(Arc<Fetched>),
}

struct Fetched {
    client: reqwest::Client,
    url: String,
    now: RwLock<Option<Arc<JwkSet>>>,
    /// When the last fetch began; whoever holds it fetches.
    last: Mutex<Option<Instant>>,
}

impl Jwt {
    /// By the section; none when it names no keys.
    pub(crate) fn open(context: &Context, section: &AccessSection) -> Result<Option<Self>, String> {
        if section.jwks.is_empty() {
            return Ok(None);
        }
        let keys = if section.jwks.starts_with("https://") {
            let client = client(&section.jwks_ca_file)?;
            let fetched = Fetched { client, url: section.jwks.clone(), now: RwLock::default(), last: Mutex::default() };
            Keys::Fetched(Arc::new(fetched)).kept_fresh(context)
        } else {
            let file = vec![section.jwks.clone().into()];
            Keys::File(Watched::open(context, "access.jwks", file, |bytes| parse(&bytes[0]))?)
        };
        let (issuer, audience) = (section.jwt_issuer.as_str().into(), section.jwt_audience.as_str().into());
        Ok(Some(Self { keys, issuer, audience, claim: section.jwt_roles_claim.0.as_str().into() }))
    }

    /// Whose token this is.
    pub(crate) async fn caller(&self, token: &str) -> Result<Caller, Denied> {
        let header = decode_header(token).map_err(|_| Denied::Unknown("the token is no JWT, and none of the tokens file"))?;
        let kid = header.kid.as_deref();
        let Some(jwk) = self.keys.find(kid).await? else {
            return Err(Denied::Unknown("the token is signed with a key that its issuer does not publish"));
        };
        let algorithm = algorithm(&jwk).ok_or(Denied::Unknown("the token's key is of a kind that is not taken"))?;
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| Denied::Unknown("the token's key cannot be used"))?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims =
            decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| Denied::Unknown(wrong(&error)))?.claims;
        let name = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        Ok(Caller::known(name, Means::Jwt, &roles(claims.get(&*self.claim))))
    }
}

impl Keys {
    fn kept_fresh(self, context: &Context) -> Self {
        if let Self::Fetched(fetched) = &self {
            let (fetched, stop) = (fetched.clone(), context.frame.servers_stop.clone());
            context.frame.servers.spawn(stop.run_until_cancelled_owned(async move {
                loop {
                    fetched.fetch(FETCH_AGAIN).await;
                    let wait = if fetched.now().is_some() { FETCH } else { FETCH_AGAIN };
                    tokio::time::sleep(wait).await;
                }
            }));
        }
        self
    }

    /// The key of this id; without an id, the only key.
    async fn find(&self, kid: Option<&str>) -> Result<Option<Jwk>, Denied> {
        match self {
            Self::File(keys) => Ok(pick(&keys.now(), kid)),
            Self::Fetched(fetched) => {
                if let Some(jwk) = fetched.now().and_then(|keys| pick(&keys, kid)) {
                    return Ok(Some(jwk));
                }
                fetched.fetch(FETCH_AGAIN).await;
                let keys = fetched.now().ok_or(Denied::Later("the issuer's keys cannot be fetched: try again"))?;
                Ok(pick(&keys, kid))
            }
        }
    }
}

impl Fetched {
    fn now(&self) -> Option<Arc<JwkSet>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches, unless the last fetch is younger than `pause`; who comes while one is under way gets what it brings.
    async fn fetch(&self, pause: Duration) {
        let mut last = self.last.lock().await;
        if last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        *last = Some(Instant::now());
        match self.get().await {
            Ok(keys) => *self.now.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys)),
            Err(problem) => {
                tracing::warn!(url = self.url, problem, "the issuer's keys cannot be fetched: those known stay in force");
            }
        }
    }

    async fn get(&self) -> Result<JwkSet, String> {
        let words = |error: reqwest::Error| with_sources(&error);
        let mut answer = self.client.get(&self.url).send().await.and_then(reqwest::Response::error_for_status).map_err(words)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(words)? {
            if bytes.len() + chunk.len() > JWKS_MAX {
                return Err(format!("more than {JWKS_MAX} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        parse(&bytes)
    }
}

fn client(ca_file: &Path) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder().timeout(FETCH_TIME).https_only(true);
    if !ca_file.as_os_str().is_empty() {
        let wrong = |error: String| format!("access.jwks_ca_file {}: {error}", ca_file.display());
        let pem = std::fs::read(ca_file).map_err(|error| wrong(error.to_string()))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(with_sources(&error)))?;
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| format!("access.jwks cannot be fetched: {}", with_sources(&error)))
}

fn parse(bytes: &[u8]) -> Result<JwkSet, String> {
    let keys: JwkSet = serde_json::from_slice(bytes).map_err(|error| format!("this is no JWKS: {error}"))?;
    if keys.keys.iter().any(|key| algorithm(key).is_some()) {
        Ok(keys)
    } else {
        Err("no key of the JWKS can be used: RSA, EC P-256, EC P-384 and Ed25519 can".to_owned())
    }
}

fn pick(keys: &JwkSet, kid: Option<&str>) -> Option<Jwk> {
    match kid {
        Some(kid) => keys.find(kid).cloned(),
        None => (keys.keys.len() == 1).then(|| keys.keys[0].clone()),
    }
}

/// The one algorithm of a key: what the token says of itself decides nothing.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let said = jwk.common.key_algorithm.and_then(|algorithm| algorithm.to_string().parse::<Algorithm>().ok());
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => match said {
            None => Some(Algorithm::RS256),
            Some(
                said @ (Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512),
            ) => Some(said),
            Some(_) => None,
        },
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(Algorithm::ES256),
            EllipticCurve::P384 => Some(Algorithm::ES384),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(key) => (key.curve == EllipticCurve::Ed25519).then_some(Algorithm::EdDSA),
        AlgorithmParameters::OctetKey(_) => None,
    }
}

/// Roles of a claim: a list of words, or words with blanks between.
fn roles(claim: Option<&Value>) -> Vec<Role> {
    let word = |word: &str| Role::of_word(word);
    match claim {
        Some(Value::String(words)) => words.split_whitespace().filter_map(word).collect(),
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).filter_map(word).collect(),
        _ => Vec::new(),
    }
}

fn wrong(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired: get a new one",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss, aud or sub",
        _ => "the token's signature is wrong",
    }
}

#[cfg(test)]
mod tests;
