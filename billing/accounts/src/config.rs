//! Settings of `[accounts]`.

use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use nilometer_contract::Role;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use url::Url;

use crate::error::needs_account;
use crate::name::check_text;

/// Longest life of what is remembered of a token that was let in.
const CACHE_LIFE_MAX: Duration = Duration::from_secs(60);
/// Greatest clock skew.
const SKEW_MAX: Duration = Duration::from_secs(300);

/// Settings of `[accounts]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where accounts are kept: empty is SQLite in the data folder, else a URL of PostgreSQL.
    #[serde(deserialize_with = "crate::secret::deserialize")]
    pub database: SecretString,
    /// How long a token that was let in is let in again without asking: within it, a revocation
    /// takes effect everywhere.
    #[serde(deserialize_with = "duration")]
    pub cache_life: Duration,
    /// OIDC issuers whose tokens are let in.
    pub oidc: Vec<OidcConfig>,
}

/// An OIDC issuer whose tokens are let in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Short name, in the names of principals and in the bindings of users.
    pub name: String,
    /// Its URL, to the letter as in its tokens.
    pub issuer: String,
    /// Audiences of which a token must have one.
    pub audience: Vec<String>,
    /// Signatures that are accepted; symmetric ones are not.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<String>,
    /// By how much its clock and ours may differ.
    #[serde(default = "skew", deserialize_with = "duration")]
    pub clock_skew: Duration,
    /// The claim that tells its users apart.
    #[serde(default = "user_claim")]
    pub user_claim: String,
    /// What users may do that are bound to no user of ours: the first rule that matches.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// What a token with a claim may do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The claim; a path with dots, such as `realm_access.roles`.
    pub claim: String,
    /// Its value, or one of its values.
    pub value: String,
    /// What the token may do.
    pub role: Role,
    /// The account of the token.
    #[serde(default)]
    pub account: Option<String>,
    /// The claim that names the account of the token, instead of `account`.
    #[serde(default)]
    pub account_claim: Option<String>,
}

/// A setting of `[accounts]` that is refused.
#[derive(Debug, thiserror::Error)]
#[error("{key} is refused: {why}")]
pub struct InvalidConfig {
    /// The setting.
    pub key: String,
    /// What is wrong with it, and what is right.
    pub why: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            database: SecretString::from(""),
            cache_life: Duration::from_secs(10),
            oidc: Vec::new(),
        }
    }
}

impl Config {
    /// Checks what types do not.
    ///
    /// # Errors
    ///
    /// With the first setting that is refused.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.cache_life > CACHE_LIFE_MAX {
            return Err(invalid("accounts.cache_life", "it is 0s to 60s"));
        }
        for (index, oidc) in self.oidc.iter().enumerate() {
            oidc.check(&format!("accounts.oidc[{index}]"))?;
            if self.oidc[..index].iter().any(|other| other.name == oidc.name) {
                let why = format!("two issuers are named {:?}", oidc.name);
                return Err(invalid(&format!("accounts.oidc[{index}].name"), &why));
            }
        }
        Ok(())
    }
}

impl OidcConfig {
    fn check(&self, at: &str) -> Result<(), InvalidConfig> {
        let key = |name: &str| format!("{at}.{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(plain) {
            return Err(invalid(&key("name"), "it is 1 to 32 of a-z, 0-9 and '-'"));
        }
        secure_url(&self.issuer).map_err(|why| invalid(&key("issuer"), &why))?;
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return Err(invalid(&key("audience"), "name the audience that tokens for us have"));
        }
        if self.accepted().is_none() {
            let why = "choose of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
            return Err(invalid(&key("algorithms"), why));
        }
        if self.clock_skew > SKEW_MAX {
            return Err(invalid(&key("clock_skew"), "it is 0s to 5min"));
        }
        if check_text("claim", &self.user_claim).is_err() {
            return Err(invalid(&key("user_claim"), "name a claim, such as sub"));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|why| invalid(&key(&format!("rules[{index}]")), why))?;
        }
        Ok(())
    }

    /// Accepted signatures; none if the list is empty or has one that is unknown or symmetric.
    pub(crate) fn accepted(&self) -> Option<Vec<Algorithm>> {
        let asymmetric = |name: &String| {
            name.parse().ok().filter(|known: &Algorithm| known.family() != AlgorithmFamily::Hmac)
        };
        let accepted: Option<Vec<Algorithm>> = self.algorithms.iter().map(asymmetric).collect();
        accepted.filter(|accepted| !accepted.is_empty())
    }
}

impl Rule {
    fn check(&self) -> Result<(), &'static str> {
        if self.claim.is_empty() || self.value.is_empty() {
            return Err("claim and value are what a token must have");
        }
        let named = usize::from(self.account.is_some()) + usize::from(self.account_claim.is_some());
        match (needs_account(self.role), named) {
            (true, 1) | (false, 0) => Ok(()),
            (true, _) => Err("its role is one within an account: give account or account_claim"),
            (false, _) => Err("its role is one without an account: leave account out"),
        }
    }
}

/// A URL that others cannot answer for: https, or http on loopback.
pub(crate) fn secure_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(format!("{text:?} is not https")),
    }
}

fn invalid(key: &str, why: &str) -> InvalidConfig {
    InvalidConfig { key: key.to_owned(), why: why.to_owned() }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("{text:?} is no duration: {error}")))
}

fn algorithms() -> Vec<String> {
    vec!["RS256".to_owned(), "ES256".to_owned()]
}

fn skew() -> Duration {
    Duration::from_secs(60)
}

fn user_claim() -> String {
    "sub".to_owned()
}
