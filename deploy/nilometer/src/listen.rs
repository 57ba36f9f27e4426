//! Settings of the HTTP server and of the clients that ask one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nilometer_accounts::SecretString;
use nilometer_http::gate::Rate;
use nilometer_http::tls::TlsFiles;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    pub(crate) http: SocketAddr,
    #[serde(deserialize_with = "nilometer_accounts::deserialize_secret")]
    pub(crate) token: SecretString,
    pub(crate) metrics: Readers,
    pub(crate) tls: TlsSettings,
    pub(crate) limit: Limit,
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Readers {
    Operator,
    Everyone,
}

/// Files in PEM; an empty path is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsSettings {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: PathBuf,
    pub(crate) scheduler_ca: PathBuf,
}

/// Requests of one principal.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    pub(crate) per_second: f64,
    pub(crate) burst: u32,
}

/// How the commands reach a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientSettings {
    pub(crate) url: String,
    pub(crate) ca: PathBuf,
}

fn named(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

impl Listen {
    /// Certificates, if it is TLS that is spoken.
    pub(crate) fn tls_files(&self) -> Option<TlsFiles> {
        let TlsSettings { cert, key, client_ca, scheduler_ca } = &self.tls;
        let (cert, key) = (named(cert)?.to_owned(), key.clone());
        let client_ca = named(client_ca).map(Path::to_owned);
        let scheduler_ca = named(scheduler_ca).map(Path::to_owned);
        Some(TlsFiles { cert, key, client_ca, scheduler_ca })
    }

    /// Where it listens, as clients write it.
    pub(crate) fn url(&self, address: SocketAddr) -> String {
        let scheme = if named(&self.tls.cert).is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    pub(crate) fn rate(&self) -> Rate {
        Rate { per_second: self.limit.per_second, burst: f64::from(self.limit.burst) }
    }

    /// What belongs together is there, and numbers are within their bounds.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let TlsSettings { cert, key, client_ca, scheduler_ca } = &self.tls;
        if named(cert).is_some() != named(key).is_some() {
            bail!("TLS needs both listen.tls.cert and listen.tls.key");
        }
        for (name, ca) in [("client_ca", client_ca), ("scheduler_ca", scheduler_ca)] {
            if named(ca).is_some() && named(cert).is_none() {
                bail!("listen.tls.{name} needs listen.tls.cert and listen.tls.key");
            }
        }
        let Limit { per_second, burst } = self.limit;
        if !(0.01..=1e6).contains(&per_second) || burst == 0 {
            bail!("listen.limit: per_second is 0.01 to 1000000 and burst at least 1");
        }
        Ok(())
    }
}

impl ClientSettings {
    /// The authority that has signed the server's certificate, beside those of the system.
    pub(crate) fn ca(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(path) = named(&self.ca) else { return Ok(None) };
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read the certificates {}", path.display()))?;
        Ok(Some(pem))
    }
}
