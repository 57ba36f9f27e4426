//! Settings of the clients that ask a server.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

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

impl ClientSettings {
    /// The authority that has signed the server's certificate, beside those of the system.
    pub(crate) fn ca(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(path) = named(&self.ca) else { return Ok(None) };
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read the certificates {}", path.display()))?;
        Ok(Some(pem))
    }
}
