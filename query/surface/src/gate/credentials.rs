//! What a client presents, and what turns it into a principal.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::connect_info::Connected;
use axum::http::{HeaderMap, header};
use axum::serve::IncomingStream;
use nilometer_contract::{Principal, Role, Scope};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;

/// Longest secret that is looked at.
const MAX_SECRET_BYTES: usize = 16 << 10;

/// A text that is never shown, logged or recorded.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a connection comes from: the `ConnectInfo` of the server.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate that it proved to have (mutual TLS).
    pub certificate: Option<ClientCertificate>,
}

/// A certificate that the TLS server has verified.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The leaf, in DER.
    pub leaf: Arc<[u8]>,
    /// What its authority stands for.
    pub role: Role,
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Peer { address: *stream.remote_addr(), certificate: None }
    }
}

/// What a client presents with a request.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The text after `Authorization: Bearer`.
    pub bearer: Option<Secret>,
    /// A certificate.
    pub certificate: Option<ClientCertificate>,
    /// Where it comes from; none within the program.
    pub peer: Option<SocketAddr>,
    /// The host that it asked for.
    pub host: Option<String>,
}

impl Credentials {
    /// Those of a request.
    pub fn of(headers: &HeaderMap, peer: Option<&Peer>) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, secret) = value.split_once(' ')?;
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            (is_bearer && secret.len() <= MAX_SECRET_BYTES).then(|| Secret::new(secret.trim()))
        });
        Credentials {
            bearer,
            certificate: peer.and_then(|peer| peer.certificate.clone()),
            peer: peer.map(|peer| peer.address),
            host: text(header::HOST).map(str::to_owned),
        }
    }

    /// Whether nothing was presented.
    pub fn is_empty(&self) -> bool {
        self.bearer.is_none() && self.certificate.is_none()
    }
}

/// Why a client is not let in. Its text goes to the client and says nothing that helps to guess.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Nothing that this authenticator knows; another one may.
    #[error("send `Authorization: Bearer …` with a key; `nilometer key create` makes one")]
    Unknown,
    /// Known, and not valid: wrong, expired or revoked.
    #[error("{0}")]
    Invalid(String),
    /// Who it is cannot be found out now.
    #[error("who asks cannot be found out now; try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Turns credentials into a principal.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Who presents these credentials. [`Denied::Unknown`] leaves it to the next authenticator,
    /// every other answer is final.
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied>;
}

/// Whoever is on this machine and presents nothing is the operator: the default, for a server that
/// listens on loopback only.
///
/// The host asked for must be a loopback one too, so that a page in a browser on this machine
/// cannot ask under a name that it has made point here.
#[derive(Clone, Copy, Debug)]
pub struct Loopback;

#[async_trait]
impl Authenticator for Loopback {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        let from_here = credentials.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        let to_here = credentials.host.as_deref().is_none_or(is_loopback_host);
        match from_here && to_here && credentials.is_empty() {
            true => Ok(Principal::operator("loopback")),
            false => Err(Denied::Unknown),
        }
    }
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    address || name.eq_ignore_ascii_case("localhost")
}

/// Whoever has proven to have a certificate of `listen.tls.client_ca` is an agent, which sends and
/// reads nothing; of `listen.tls.scheduler_ca`, a scheduler, which asks for placements. Its name is
/// the digest of the certificate.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificates;

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        let certificate = match (&credentials.bearer, &credentials.certificate) {
            (None, Some(certificate)) => certificate,
            _ => return Err(Denied::Unknown),
        };
        let digest = Sha256::digest(&certificate.leaf);
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let (name, scope) = (format!("certificate:{digest}").into(), Scope::projects([]));
        Ok(Principal { name, role: certificate.role, account: None, scope })
    }
}

/// Whoever presents the token of the configuration is the operator, for a process that knows no
/// accounts.
pub struct OperatorToken([u8; 32]);

impl OperatorToken {
    /// The one with this text; none if it is empty.
    pub fn new(token: &str) -> Option<Self> {
        (!token.is_empty()).then(|| OperatorToken(Sha256::digest(token).into()))
    }
}

#[async_trait]
impl Authenticator for OperatorToken {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        let Some(bearer) = &credentials.bearer else { return Err(Denied::Unknown) };
        // Digests of one length in constant time: how long it takes says nothing of the token.
        match bool::from(Sha256::digest(bearer.expose()).as_slice().ct_eq(&self.0)) {
            true => Ok(Principal::operator("key:listen.token")),
            false => Err(Denied::Invalid("not the token of listen.token".to_owned())),
        }
    }
}

/// Whoever asks is this principal.
#[derive(Clone, Debug)]
pub struct Trusted(pub Principal);

#[async_trait]
impl Authenticator for Trusted {
    async fn authenticate(&self, _: &Credentials) -> Result<Principal, Denied> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, host: Option<&str>, bearer: Option<&str>) -> Credentials {
        Credentials {
            bearer: bearer.map(Secret::new),
            peer: Some(peer.parse().unwrap()),
            host: host.map(str::to_owned),
            ..Credentials::default()
        }
    }

    #[tokio::test]
    async fn loopback_is_the_operator_without_credentials_only() {
        for host in [None, Some("localhost:8600"), Some("127.0.0.1:8600"), Some("[::1]:8600")] {
            for peer in ["127.0.0.1:50000", "[::1]:50000", "[::ffff:127.0.0.1]:50000"] {
                let principal = Loopback.authenticate(&from(peer, host, None)).await.unwrap();
                assert_eq!(principal, Principal::operator("loopback"));
            }
        }
        for credentials in [
            from("10.0.0.7:50000", Some("localhost"), None),
            from("127.0.0.1:50000", Some("evil.example:8600"), None),
            from("127.0.0.1:50000", Some("localhost"), Some("guess")),
            Credentials::default(),
        ] {
            let denied = Loopback.authenticate(&credentials).await;
            assert!(matches!(denied, Err(Denied::Unknown)), "{credentials:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "bearer  s3cret".parse().unwrap());
        let credentials = Credentials::of(&headers, None);
        assert_eq!(credentials.bearer.as_ref().map(Secret::expose), Some("s3cret"));
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }
}
