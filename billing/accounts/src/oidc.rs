//! Tokens of an OIDC issuer: signed by one of its keys, for us, within their time.

mod claims;
mod issuer_keys;

use async_trait::async_trait;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use nilometer_contract::{MICROS_PER_SECOND, Timestamp, micros};
use serde::Deserialize;
use serde_json::{Map, Value};

use self::claims::{subject, values};
use self::issuer_keys::IssuerKeys;
use crate::authenticate::{Authenticator, Identity, Rejection};
use crate::config::{InvalidConfig, OidcConfig};
use crate::directory::Directory;

/// Types of tokens that are accepted. Logout tokens, for one, have the same signer and audience.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// Accepts the tokens of one issuer.
pub(crate) struct Issuer {
    config: OidcConfig,
    accepted: Vec<Algorithm>,
    directory: Directory,
    keys: IssuerKeys,
}

#[derive(Deserialize)]
struct IssuedBy {
    iss: String,
}

impl Issuer {
    /// Asks the issuer for nothing yet.
    pub(crate) fn new(config: OidcConfig, directory: Directory) -> Result<Self, InvalidConfig> {
        let invalid = |key: &str, why: String| InvalidConfig {
            key: format!("accounts.oidc.{} ({})", key, config.name),
            why,
        };
        let accepted = config
            .accepted()
            .ok_or_else(|| invalid("algorithms", "one is unknown or symmetric".to_owned()))?;
        let keys = IssuerKeys::new(&config.issuer, directory.clock().clone())
            .map_err(|why| invalid("issuer", why))?;
        Ok(Issuer { config, accepted, directory, keys })
    }

    /// The claims of a token, once all of it has been checked.
    async fn verified(&self, bearer: &str) -> Result<Map<String, Value>, Rejection> {
        // An algorithm that the library does not know, such as `none`, ends here.
        let header = decode_header(bearer).map_err(|_| refused("its header is not acceptable"))?;
        self.check_header(&header)?;
        let key = self.keys.find(header.kid.as_deref(), header.alg).await?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&self.config.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Times are checked below, by the clock that was passed in.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let decoded = decode::<Map<String, Value>>(bearer, &key, &validation)
            .map_err(|error| refused(&format!("it is not valid: {error}")))?;
        Ok(decoded.claims)
    }

    fn check_header(&self, header: &Header) -> Result<(), Rejection> {
        if !self.accepted.contains(&header.alg) {
            return Err(refused("its signature is of a kind that is not accepted"));
        }
        if header.crit.is_some() {
            return Err(refused("it has critical headers"));
        }
        let typ = header.typ.as_deref().map(str::to_ascii_lowercase);
        match typ.is_none_or(|typ| TYPES.contains(&typ.as_str())) {
            true => Ok(()),
            false => Err(refused("it is a token of another type")),
        }
    }

    /// The instant from which on the token is not valid.
    fn check_times(&self, claims: &Map<String, Value>) -> Result<Timestamp, Rejection> {
        let skew = micros(self.config.clock_skew);
        let now = self.directory.clock().now();
        let expires = instant(claims, "exp")?.ok_or_else(|| refused("it never expires"))?;
        let expires = expires.plus_micros(skew);
        if expires <= now {
            return Err(refused("it is expired"));
        }
        for claim in ["nbf", "iat"] {
            if instant(claims, claim)?.is_some_and(|at| at.plus_micros(-skew) > now) {
                return Err(refused("it is not valid yet"));
            }
        }
        Ok(expires)
    }

    async fn identity(
        &self,
        claims: &Map<String, Value>,
        expires: Timestamp,
    ) -> Result<Identity, Rejection> {
        let config = &self.config;
        let subject = subject(claims, &config.user_claim)
            .ok_or_else(|| refused("the claim that tells users apart is missing"))?;
        if let Some(user) = self.directory.users.bound(&config.name, subject).await? {
            let name = format!("user:{}", user.name);
            if user.disabled_at.is_some() {
                return Err(refused(&format!("{name} is disabled")));
            }
            let (role, account) = (user.role, user.account);
            return Ok(Identity { name, role, account, expires: Some(expires) });
        }
        let name = format!("oidc:{}:{subject}", config.name);
        let matches = |claim: &str, value: &str| values(claims, claim).any(|one| one == value);
        let rule = config.rules.iter().find(|rule| matches(&rule.claim, &rule.value));
        let rule =
            rule.ok_or_else(|| refused(&format!("{name}: no user and no rule is for it")))?;
        let account = match &rule.account_claim {
            None => rule.account.clone(),
            Some(claim) => {
                let mut named = values(claims, claim);
                match (named.next(), named.next()) {
                    (Some(account), None) => Some(account.to_owned()),
                    _ => return Err(refused(&format!("{name}: it names no account, or several"))),
                }
            }
        };
        Ok(Identity { name, role: rule.role, account, expires: Some(expires) })
    }
}

#[async_trait]
impl Authenticator for Issuer {
    async fn identify(&self, bearer: &str) -> Result<Option<Identity>, Rejection> {
        // Only to tell whose it is: nothing that it says is believed before it is verified.
        let named = insecure_decode_claims::<IssuedBy>(bearer);
        if !named.is_ok_and(|named| named.iss == self.config.issuer) {
            return Ok(None);
        }
        let claims = self.verified(bearer).await?;
        let expires = self.check_times(&claims)?;
        self.identity(&claims, expires).await.map(Some)
    }
}

/// A NumericDate; none if the claim is missing.
fn instant(claims: &Map<String, Value>, claim: &str) -> Result<Option<Timestamp>, Rejection> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..1e11).contains(seconds));
    let seconds = seconds.ok_or_else(|| refused("a time in it is no time"))?;
    Ok(Some(Timestamp((seconds * MICROS_PER_SECOND as f64) as i64)))
}

fn refused(why: &str) -> Rejection {
    Rejection::Refused(format!("a token of an OIDC issuer: {why}"))
}
