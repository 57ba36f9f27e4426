//! Who may ask a process that knows no accounts.

use std::net::SocketAddr;
use std::sync::Arc;

use nilometer_surface::gate::{Authenticator, ClientCertificates, Loopback, OperatorToken};
use secrecy::ExposeSecret;
use tracing::warn;

use crate::listen::{Listen, Readers};

/// Whoever has the token of the configuration or a certificate; on loopback without a token
/// everybody who presents nothing.
pub fn without_accounts(listen: &Listen, address: SocketAddr) -> Vec<Arc<dyn Authenticator>> {
    let mut known: Vec<Arc<dyn Authenticator>> = vec![Arc::new(ClientCertificates)];
    match OperatorToken::new(listen.token.expose_secret()) {
        Some(token) => known.push(Arc::new(token)),
        None if address.ip().is_loopback() => known.push(Arc::new(Loopback)),
        None if listen.metrics == Readers::Operator => {
            warn!(
                %address,
                "nobody may read /metrics: set listen.token, or listen.metrics = \"everyone\""
            );
        }
        None => {}
    }
    known
}
