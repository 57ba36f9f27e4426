//! TLS for the server: certificates from files, read again when they change.
//!
//! A client may present a certificate of an authority of agents or of schedulers; one that presents
//! none has to prove otherwise who it is. A certificate of another authority ends the handshake.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use nilometer_contract::Role;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::gate::{ClientCertificate, Peer};

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
    /// Authorities whose certificates agents may present.
    pub client_ca: Option<PathBuf>,
    /// Authorities whose certificates schedulers may present.
    pub scheduler_ca: Option<PathBuf>,
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
    current: RwLock<Current>,
}

/// What was read last.
struct Current {
    fingerprint: Fingerprint,
    config: Arc<ServerConfig>,
    /// Tells certificates of schedulers from those of agents.
    schedulers: Option<Arc<dyn ClientCertVerifier>>,
}

type Fingerprint = [u8; 32];

impl Tls {
    /// Reads the files.
    pub fn open(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = Current::read(&files)?;
        Ok(Arc::new(Tls { files, current: RwLock::new(current) }))
    }

    /// Reads the files again if they hold something else; says whether it did. What cannot be used
    /// leaves what is in force in force.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let found = fingerprint(&self.files);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).fingerprint == found {
            return Ok(false);
        }
        let current = Current::read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
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
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone().into()
    }

    /// The certificate that a verified chain begins with.
    fn certificate(&self, chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
        let (leaf, rest) = chain.split_first()?;
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let is_scheduler = current.schedulers.as_ref().is_some_and(|schedulers| {
            schedulers.verify_client_cert(leaf, rest, UnixTime::now()).is_ok()
        });
        let role = if is_scheduler { Role::Scheduler } else { Role::Agent };
        Some(ClientCertificate { leaf: Arc::from(&**leaf), role })
    }
}

impl Current {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let fingerprint = fingerprint(files);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let schedulers = files.scheduler_ca.as_deref();
        let schedulers = schedulers.map(|ca| verifier(&[ca], &provider)).transpose()?;
        Ok(Current { fingerprint, config: config(files, &provider)?, schedulers })
    }
}

/// What the files hold, as far as they can be read.
fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let authorities = [files.client_ca.as_ref(), files.scheduler_ca.as_ref()];
    let paths = [Some(&files.cert), Some(&files.key)].into_iter().chain(authorities);
    let mut digest = Sha256::new();
    for path in paths.flatten() {
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

/// Accepts certificates of the authorities in some files, and clients without one.
fn verifier(
    files: &[&Path],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let mut last = Path::new("");
    for &path in files {
        last = path;
        for root in certificates(path)? {
            roots.add(root).map_err(|error| unfit(path, error.into()))?;
        }
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    builder.allow_unauthenticated().build().map_err(|error| unfit(last, error.into()))
}

fn unfit(path: &Path, source: Box<dyn std::error::Error + Send + Sync>) -> TlsError {
    TlsError::Unfit { path: path.to_owned(), source }
}

fn config(files: &TlsFiles, provider: &Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::File {
        path: files.key.clone(),
        what: "private key in PEM",
        source: Box::new(source),
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(&files.cert, error.into()))?;
    let authorities = [files.client_ca.as_deref(), files.scheduler_ca.as_deref()];
    let authorities: Vec<&Path> = authorities.into_iter().flatten().collect();
    let builder = match authorities.is_empty() {
        true => builder.with_no_client_auth(),
        false => builder.with_client_cert_verifier(verifier(&authorities, provider)?),
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
        let (tls, acceptor, ready) = (tls.clone(), tls.acceptor(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let chain = stream.get_ref().1.peer_certificates();
                    let certificate = chain.and_then(|chain| tls.certificate(chain));
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
