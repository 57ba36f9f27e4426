//! Settings of the HTTP server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use nilometer_surface::gate::Rate;
use nilometer_surface::tls::TlsFiles;
use secrecy::SecretString;
use serde::Deserialize;

use crate::values::secret;

/// `[listen]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address.
    pub http: SocketAddr,
    /// Token of an operator; empty is none.
    #[serde(deserialize_with = "secret")]
    pub token: SecretString,
    /// Who may read `/metrics`.
    pub metrics: Readers,
    /// Certificates.
    pub tls: TlsSettings,
    /// Bounds of one principal.
    pub limit: Limit,
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readers {
    /// Operators.
    Operator,
    /// Whoever can reach it.
    Everyone,
}

/// Files in PEM; an empty path is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate and what leads to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of agents.
    pub client_ca: PathBuf,
    /// Authorities of schedulers.
    pub scheduler_ca: PathBuf,
}

/// Requests of one principal.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// In the long run.
    pub per_second: f64,
    /// At once.
    pub burst: u32,
}

fn named(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

impl Listen {
    /// Certificates, if it is TLS that is spoken.
    pub fn tls_files(&self) -> Option<TlsFiles> {
        let TlsSettings { cert, key, client_ca, scheduler_ca } = &self.tls;
        let (cert, key) = (named(cert)?.to_owned(), key.clone());
        let client_ca = named(client_ca).map(Path::to_owned);
        let scheduler_ca = named(scheduler_ca).map(Path::to_owned);
        Some(TlsFiles { cert, key, client_ca, scheduler_ca })
    }

    /// Where it listens, as clients write it.
    pub fn url(&self, address: SocketAddr) -> String {
        let scheme = if named(&self.tls.cert).is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// How often a principal may ask.
    pub fn rate(&self) -> Rate {
        Rate { per_second: self.limit.per_second, burst: f64::from(self.limit.burst) }
    }

    /// What belongs together is there, and numbers are within their bounds.
    ///
    /// # Errors
    ///
    /// If they are not, with the names of the settings.
    pub fn check(&self) -> anyhow::Result<()> {
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
