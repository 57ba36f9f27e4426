//! TLS for the server: certificates from files, read again when they change.
//!
//! A client may present a certificate where `client_ca` says which are good; one that presents none
//! has to prove otherwise who it is. One that is not good ends the handshake.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::gate::Peer;

/// Most handshakes at once; further connections wait.
const MAX_HANDSHAKES: usize = 256;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// After an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose certificates clients may present.
    pub client_ca: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds something else.
    #[error("{path} has no {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<rustls::pki_types::pem::Error>,
    },
    /// They do not belong together, or are not of a supported kind.
    #[error("the certificate {path} cannot be used")]
    Unfit {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Certificates in force.
pub struct Tls {
    files: TlsFiles,
    current: RwLock<(Fingerprint, Arc<ServerConfig>)>,
}

type Fingerprint = [u8; 32];

impl Tls {
    /// Reads the files.
    pub fn open(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = (fingerprint(&files), config(&files)?);
        Ok(Arc::new(Tls { files, current: RwLock::new(current) }))
    }

    /// Reads the files again if they hold something else; says whether it did. What cannot be used
    /// leaves what is in force in force.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let found = fingerprint(&self.files);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).0 == found {
            return Ok(false);
        }
        let config = config(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (found, config);
        Ok(true)
    }

    /// Looks at the files again and again, until cancelled.
    pub async fn watch(self: Arc<Self>, cancel: CancellationToken) {
        let mut refused = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let files = fingerprint(&self.files);
            match self.reload() {
                Ok(true) => info!(cert = %self.files.cert.display(), "certificates were reloaded"),
                Ok(false) => {}
                // A file that is being written is looked at again; each state is logged once.
                Err(error) if refused != Some(files) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "changed certificates cannot be used; the old ones stay in force");
                    refused = Some(files);
                }
                Err(_) => {}
            }
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone().into()
    }
}

/// What the files hold, as far as they can be read.
fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    let mut digest = Sha256::new();
    for path in paths.into_iter().flatten() {
        digest.update(Sha256::digest(std::fs::read(path).unwrap_or_default()));
    }
    digest.finalize().into()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File {
        path: path.to_owned(),
        what: "certificate in PEM",
        source: Box::new(source),
    };
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed)?;
    match Vec::is_empty(&found) {
        true => Err(failed(rustls::pki_types::pem::Error::NoItemsFound)),
        false => Ok(found),
    }
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::File {
        path: files.key.clone(),
        what: "private key in PEM",
        source: Box::new(source),
    })?;
    let unfit = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| TlsError::Unfit {
        path: path.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(&files.cert, error.into()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| unfit(path, error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| unfit(path, error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| unfit(&files.cert, error.into()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connections whose handshake is done. A slow one holds up no other.
pub struct TlsListener {
    done: mpsc::Receiver<(TlsStream<TcpStream>, Peer)>,
    address: Peer,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    /// Takes connections from a listener.
    pub fn new(listener: TcpListener, tls: Arc<Tls>) -> std::io::Result<Self> {
        let address = Peer { address: listener.local_addr()?, certificate: None };
        let (ready, done) = mpsc::channel(MAX_HANDSHAKES);
        Ok(TlsListener { done, address, accepting: tokio::spawn(accept(listener, tls, ready)) })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    tls: Arc<Tls>,
    ready: mpsc::Sender<(TlsStream<TcpStream>, Peer)>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "no connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready) = (tls.acceptor(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let chain = stream.get_ref().1.peer_certificates();
                    let certificate =
                        chain.and_then(|chain| chain.first()).map(|it| Arc::from(&**it));
                    let _ = ready.send((stream, Peer { address, certificate })).await;
                }
                Ok(Err(error)) => debug!(%address, %error, "handshake failed"),
                Err(_) => debug!(%address, "handshake took too long"),
            }
            drop(permit);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.done.recv().await {
            Some(connection) => connection,
            // Only a panic ends the task that accepts; then nobody comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address.clone())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.remote_addr().clone()
    }
}
