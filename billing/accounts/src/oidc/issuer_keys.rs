//! The keys that an issuer signs with: found by discovery, kept for a while, asked for again when
//! a token names one that is not among them.
//!
//! ```text
//! fresh        10 min   used as they are
//! then         1 h      asked for again; used on while the issuer does not answer
//! then                  nobody is let in until it answers
//! unknown key id        asked for again, but not within 30 s of the last time
//! ```

use nilometer_contract::Causes;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use nilometer_clock::SharedClock;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::warn;

use crate::authenticate::Rejection;
use crate::config::secure_url;

/// How long keys are used without asking again.
const FRESH: Duration = Duration::from_secs(600);
/// How long keys are used while the issuer does not answer.
const STALE_MAX: Duration = Duration::from_secs(3_600);
/// Shortest time between two questions to the issuer.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Longest time that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const BODY_MAX: usize = 256 << 10;

/// The keys of one issuer.
pub(super) struct IssuerKeys {
    issuer: String,
    client: Client,
    clock: SharedClock,
    known: RwLock<Arc<Known>>,
    /// When the issuer was asked last, by steady time; held while it is asked.
    asked: Mutex<Option<Duration>>,
}

/// What the issuer answered.
#[derive(Default)]
struct Known {
    keys: Vec<Jwk>,
    /// When, by steady time.
    at: Option<Duration>,
}

/// The part of the discovery document that matters here.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl IssuerKeys {
    pub(super) fn new(issuer: &str, clock: SharedClock) -> Result<Self, String> {
        let client = Client::builder().redirect(Policy::none()).timeout(ANSWER_MAX).build();
        let client = client.map_err(|error| format!("no TLS to reach it by: {error}"))?;
        let (known, asked) = (RwLock::default(), Mutex::default());
        Ok(IssuerKeys { issuer: issuer.to_owned(), client, clock, known, asked })
    }

    /// The key for a token: by its id, or the only one that fits where the token names none.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, Rejection> {
        let known = self.known();
        let fresh = known.is_within(FRESH, self.clock.steady());
        let key = match known.key(id, algorithm) {
            Some(key) if fresh => key,
            _ => {
                let known = self.ask(known).await?;
                known.key(id, algorithm).ok_or_else(|| {
                    Rejection::Refused("a token of an OIDC issuer: its key is unknown".to_owned())
                })?
            }
        };
        DecodingKey::from_jwk(&key)
            .map_err(|_| Rejection::Refused("a key of the issuer cannot be used".to_owned()))
    }

    /// What the issuer says now; what it said last if it was asked a moment ago or fails.
    async fn ask(&self, seen: Arc<Known>) -> Result<Arc<Known>, Rejection> {
        let mut asked = self.asked.lock().await;
        let now = self.clock.steady();
        let known = self.known();
        // Another task asked meanwhile.
        if known.at != seen.at {
            return Ok(known);
        }
        if asked.is_some_and(|at| now.saturating_sub(at) < ASK_AGAIN) {
            return match known.is_within(STALE_MAX, now) {
                true => Ok(known),
                false => Err(Rejection::Unavailable("the OIDC issuer did not answer".into())),
            };
        }
        *asked = Some(now);
        match self.fetch().await {
            Ok(keys) => {
                let known = Arc::new(Known { keys, at: Some(now) });
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known.clone();
                Ok(known)
            }
            Err(error) if known.is_within(STALE_MAX, now) => {
                warn!(error, issuer = self.issuer, "the keys of an OIDC issuer are not renewed");
                Ok(known)
            }
            Err(error) => Err(Rejection::Unavailable(error.into())),
        }
    }

    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let place = format!(
            "{}/.well-known/openid-configuration",
            self.issuer.strip_suffix('/').unwrap_or(&self.issuer)
        );
        let found: Discovery = self.get(&place).await?;
        if found.issuer != self.issuer {
            return Err(format!("{place} is about another issuer, {:?}", found.issuer));
        }
        secure_url(&found.jwks_uri).map_err(|why| format!("the jwks_uri at {place}: {why}"))?;
        let set: KeySet = self.get(&found.jwks_uri).await?;
        // A key of a kind that is not known here does not hide the others.
        Ok(set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let failed = |error: reqwest::Error| format!("{url} does not answer: {}", Causes(&error));
        let mut answer = self.client.get(url).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("{url} answers {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > BODY_MAX {
                return Err(format!("{url} answers more than {BODY_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| format!("{url} answers nonsense: {error}"))
    }
}

impl Known {
    fn is_within(&self, life: Duration, now: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_sub(at) < life)
    }

    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Jwk> {
        let fits = |key: &&Jwk| is_for(key, algorithm);
        match id {
            Some(id) => {
                let named = |key: &&Jwk| key.common.key_id.as_deref() == Some(id);
                self.keys.iter().filter(fits).find(named).cloned()
            }
            None => {
                let mut fitting = self.keys.iter().filter(fits);
                let first = fitting.next()?;
                fitting.next().is_none().then(|| first.clone())
            }
        }
    }
}

/// Whether signatures of this kind are made with this key: by its type, and by what it says of itself.
fn is_for(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => jsonwebtoken::AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(_) => jsonwebtoken::AlgorithmFamily::Ec,
        AlgorithmParameters::OctetKeyPair(_) => jsonwebtoken::AlgorithmFamily::Ed,
        _ => return false,
    };
    let of_kind = kind == algorithm.family();
    let signs = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let named = key.common.key_algorithm;
    of_kind && signs && named.is_none_or(|named| named.to_string() == format!("{algorithm:?}"))
}
