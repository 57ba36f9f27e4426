//! Who may ask a process that serves HTTP.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use nilometer_accounts::{Accounts, Directory, ExposeSecret, Location, SecretString};
use nilometer_clock::SharedClock;
use nilometer_contract::Principal;
use nilometer_http::gate::{Authenticator, ClientCertificates, Credentials, Denied, Loopback};
use tracing::debug;

use crate::config::Config;

/// Where clients may have their key, so that no list of processes shows it.
const TOKEN_VARIABLE: &str = "NILOMETER_TOKEN";

/// The stored users, accounts and keys.
pub(crate) async fn directory(config: &Config, clock: SharedClock) -> anyhow::Result<Directory> {
    let location = Location::parse(&config.accounts.database, &config.data.dir)?;
    Ok(Directory::open(&location, clock).await?)
}

/// Who comes in at an address: who has a valid key, token or certificate, and on loopback without
/// `listen.token` everybody who presents nothing.
///
/// If there never was a key of an address that others can reach, one of an operator is made and
/// written to stderr, once; not to the log, which others may read and keep.
pub(crate) async fn authenticators(
    config: &Config,
    address: SocketAddr,
    clock: SharedClock,
) -> anyhow::Result<Vec<Arc<dyn Authenticator>>> {
    let token = &config.listen.token;
    let no_token = token.expose_secret().is_empty();
    let certificates: Arc<dyn Authenticator> = Arc::new(ClientCertificates);
    if address.ip().is_loopback() && no_token {
        return Ok(vec![certificates, Arc::new(Loopback)]);
    }
    let directory = directory(config, clock.clone()).await?;
    if no_token && let Some(first) = directory.keys.create_first().await? {
        writeln!(
            std::io::stderr(),
            "{address} can be reached by others, and there is no key yet. This one is an \
             operator's; it is shown this once:\n\n    {}\n\nMore: nilometer key create --help",
            first.token.expose_secret()
        )?;
    }
    let accounts = Accounts::new(directory, &config.accounts, token, Vec::new())?;
    Ok(vec![certificates, Arc::new(Keys(accounts))])
}

/// Whoever presents a key or token that the accounts know.
struct Keys(Accounts);

#[async_trait]
impl Authenticator for Keys {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        let Some(bearer) = &credentials.bearer else { return Err(Denied::Unknown) };
        self.0.authenticate(bearer.expose()).await.map_err(|denied| match denied {
            nilometer_accounts::Denied::Unavailable(cause) => Denied::Unavailable(cause),
            refused => {
                debug!(reason = refused.reason(), "credentials refused");
                Denied::Invalid(refused.to_string())
            }
        })
    }
}

/// The key that a client sends: of a file (`-` is stdin), the environment, or the configuration.
pub(crate) fn client_token(file: Option<&Path>, config: &Config) -> anyhow::Result<SecretString> {
    let text = match file {
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(text) => text,
            Err(_) => return Ok(config.listen.token.clone()),
        },
        Some(path) if path.as_os_str() == "-" => {
            std::io::read_to_string(std::io::stdin()).context("no key on standard input")?
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read a key from {}", path.display()))?,
    };
    Ok(SecretString::from(text.trim()))
}
