//! One question: who is it that sends this bearer token?
//!
//! The answer to a wrong token is the same whatever is wrong with it. Why it was refused is for
//! audits and logs, [`Denied::reason`], and no part of what the error displays.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nilometer_clock::SharedClock;
use nilometer_contract::{Causes, Principal, Role, Scope, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use crate::cache::Cache;
use crate::config::{Config, InvalidConfig};
use crate::directory::Directory;
use crate::error::AccountsError;
use crate::keys::{StoredKey, covers};
use crate::oidc::Issuer;
use crate::secret::Digest;
use crate::token;

/// Longest bearer token that is looked at.
const BEARER_MAX: usize = 16 << 10;
/// Longest time that an answer takes; a database that does not answer by then is away.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest time that recording the last use of a key holds up who uses it.
const RECORD_MAX: Duration = Duration::from_secs(1);
/// How exactly the last use of a key is recorded.
const USED_MICROS: i64 = 60_000_000;

/// Why a token was not let in.
#[derive(thiserror::Error)]
pub enum Denied {
    /// It is not valid: answer 401.
    #[error("the credentials are missing, wrong, expired or revoked")]
    Refused(Refusal),
    /// It cannot be found out: answer 503.
    #[error("credentials cannot be checked at the moment; try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a token is not valid, for the operator alone.
pub struct Refusal(String);

/// What an authenticator proved of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unique name for logs and audits, such as `user:alice`; never a secret.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The account that it belongs to; of roles within one only.
    pub account: Option<String>,
    /// The instant from which on the token is not valid.
    pub expires: Option<Timestamp>,
}

/// Why an authenticator proved nothing.
#[derive(Debug)]
pub enum Rejection {
    /// The token is not valid; why, for the operator alone and without the token.
    Refused(String),
    /// Whoever knows could not be asked.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

/// One way to prove who sends a token.
///
/// API keys and OIDC issuers are two; Keystone and the TokenReview of Kubernetes fit in the same
/// way, as more authenticators given to [`Accounts::new`].
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Who it is; none if the token is not of this authenticator's kind, so that others are asked.
    async fn identify(&self, bearer: &str) -> Result<Option<Identity>, Rejection>;
}

/// Answers who sends a bearer token.
pub struct Accounts {
    directory: Directory,
    authenticators: Vec<Box<dyn Authenticator>>,
    cache: Cache,
    clock: SharedClock,
}

/// The keys of the directory.
struct StoredKeys(Directory);

/// The one operator key that the configuration holds.
struct OperatorToken(Digest);

impl Accounts {
    /// With the directory's keys, the configured issuers, and further authenticators; and a token
    /// that is an operator's by configuration, unless it is empty.
    ///
    /// # Errors
    ///
    /// If a setting is refused.
    pub fn new(
        directory: Directory,
        config: &Config,
        operator_token: &SecretString,
        further: Vec<Box<dyn Authenticator>>,
    ) -> Result<Self, InvalidConfig> {
        config.check()?;
        let mut authenticators: Vec<Box<dyn Authenticator>> = Vec::new();
        if !operator_token.expose_secret().is_empty() {
            let digest = Digest::of(operator_token.expose_secret().as_bytes());
            authenticators.push(Box::new(OperatorToken(digest)));
        }
        authenticators.push(Box::new(StoredKeys(directory.clone())));
        for issuer in &config.oidc {
            authenticators.push(Box::new(Issuer::new(issuer.clone(), directory.clone())?));
        }
        authenticators.extend(further);
        let (cache, clock) = (Cache::new(config.cache_life), directory.clock().clone());
        Ok(Accounts { directory, authenticators, cache, clock })
    }

    /// What is stored, to show and to change.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Who sends a bearer token, without the word `Bearer`.
    ///
    /// # Errors
    ///
    /// [`Denied::Refused`] of a token that is not valid, [`Denied::Unavailable`] if that cannot be
    /// found out. Whom the cache knows is let in meanwhile, for as long as its entries live.
    pub async fn authenticate(&self, bearer: &str) -> Result<Principal, Denied> {
        if bearer.is_empty() || bearer.len() > BEARER_MAX {
            return Err(refused("no token, or one that is too long"));
        }
        let (digest, asked) = (Digest::of(bearer.as_bytes()), self.clock.steady());
        if let Some(principal) = self.cache.get(digest, asked, self.clock.now()) {
            return Ok(principal);
        }
        let proved = tokio::time::timeout(ANSWER_MAX, self.prove(bearer)).await;
        let (principal, expires) = proved
            .map_err(|_| Denied::Unavailable("who knows did not answer in time".into()))??;
        self.cache.put(digest, principal.clone(), asked, expires);
        Ok(principal)
    }

    /// Asks the database of everybody again: what this process changed takes effect at once.
    pub fn forget_cached(&self) {
        self.cache.clear();
    }

    /// Asks one authenticator after the other.
    async fn prove(&self, bearer: &str) -> Result<(Principal, Option<Timestamp>), Denied> {
        for authenticator in &self.authenticators {
            if let Some(identity) = authenticator.identify(bearer).await? {
                let expires = identity.expires;
                return Ok((self.principal(identity).await?, expires));
            }
        }
        Err(refused("not a key, and not a token of a configured issuer"))
    }

    async fn principal(&self, identity: Identity) -> Result<Principal, Denied> {
        let Identity { name, role, account, .. } = identity;
        let scope = match (role, account.as_deref()) {
            (Role::Operator | Role::Scheduler, None) => Scope::system(),
            (Role::Agent, None) => Scope::projects([]),
            (Role::AccountAdministrator | Role::Viewer, Some(account)) => {
                let projects = self.directory.accounts.projects(account).await;
                let Some(projects) = projects.map_err(unavailable)? else {
                    return Err(refused(format!(
                        "{name}: account {account} is unknown or disabled"
                    )));
                };
                Scope::projects(projects.into_iter().map(|(name, valid)| (name.into(), valid)))
            }
            _ => {
                return Err(refused(format!("{name}: role {role} and account do not go together")));
            }
        };
        Ok(Principal { name: name.into(), role, account: account.map(Arc::from), scope })
    }
}

#[async_trait]
impl Authenticator for OperatorToken {
    async fn identify(&self, bearer: &str) -> Result<Option<Identity>, Rejection> {
        let name = "key:listen.token".to_owned();
        let identity = Identity { name, role: Role::Operator, account: None, expires: None };
        Ok((Digest::of(bearer.as_bytes()) == self.0).then_some(identity))
    }
}

impl StoredKeys {
    /// A key is let in though its use cannot be recorded.
    async fn record_use(&self, id: &str, now: Timestamp) {
        match tokio::time::timeout(RECORD_MAX, self.0.keys.used(id, now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(error = %Causes(&error), key = id, "the last use of a key is not recorded");
            }
            Err(_) => warn!(key = id, "the last use of a key is not recorded in time"),
        }
    }
}

#[async_trait]
impl Authenticator for StoredKeys {
    async fn identify(&self, bearer: &str) -> Result<Option<Identity>, Rejection> {
        if !token::is_key(bearer) {
            return Ok(None);
        }
        let refused = |why: &str, id: &str| Err(Rejection::Refused(format!("key:{id}: {why}")));
        let Some(sent) = token::parse(bearer) else {
            return Err(Rejection::Refused("a key that is cut off or misspelt".to_owned()));
        };
        let stored = self.0.keys.stored(sent.id).await.map_err(Rejection::from)?;
        // An unknown id costs the comparison all the same.
        let hash = stored.as_ref().map_or("", |stored| stored.hash.as_str());
        let (right, Some(stored)) = (sent.digest.equals_hex(hash), &stored) else {
            return refused("no such key", sent.id);
        };
        if !right {
            return refused("the secret is wrong", sent.id);
        }
        let now = self.0.clock().now();
        if let Some(why) = why_invalid(stored, now) {
            return refused(why, sent.id);
        }
        let stale = |at: Timestamp| now.0.saturating_sub(at.0) >= USED_MICROS;
        if stored.key.last_used_at.is_none_or(stale) {
            self.record_use(sent.id, now).await;
        }
        let name = match &stored.key.user {
            Some(user) => format!("user:{user}/key:{}", sent.id),
            None => format!("key:{}", sent.id),
        };
        let (role, account) = (stored.key.role, stored.key.account.clone());
        Ok(Some(Identity { name, role, account, expires: stored.key.expires_at }))
    }
}

/// Why a key whose secret is right is not valid.
fn why_invalid(stored: &StoredKey, now: Timestamp) -> Option<&'static str> {
    let key = &stored.key;
    if key.revoked_at.is_some() {
        return Some("it is revoked");
    }
    if key.expires_at.is_some_and(|at| at <= now) {
        return Some("it is expired");
    }
    let owner = stored.owner.as_ref()?;
    if !owner.enabled {
        return Some("its user is disabled");
    }
    if !covers(owner.role, key.role) {
        return Some("its user may do less than it");
    }
    let same = owner.account.is_none() || owner.account == key.account;
    (!same).then_some("its user is of another account")
}

impl Denied {
    /// Why a token was refused, for audits and logs; not for who sent it.
    pub fn reason(&self) -> &str {
        match self {
            Denied::Refused(Refusal(why)) => why,
            Denied::Unavailable(_) => "it could not be checked",
        }
    }
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Refused(_) => f.write_str("Refused"),
            Denied::Unavailable(source) => f.debug_tuple("Unavailable").field(source).finish(),
        }
    }
}

impl From<Rejection> for Denied {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Refused(why) => refused(why),
            Rejection::Unavailable(source) => Denied::Unavailable(source),
        }
    }
}

impl From<AccountsError> for Rejection {
    fn from(error: AccountsError) -> Self {
        Rejection::Unavailable(Box::new(error))
    }
}

fn refused(why: impl Into<String>) -> Denied {
    Denied::Refused(Refusal(why.into()))
}

fn unavailable(error: AccountsError) -> Denied {
    Denied::Unavailable(Box::new(error))
}
