//! Certificates for tests: an authority, and what it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in files.
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Signs for this machine, into two files that are replaced as a whole.
    pub(crate) fn sign(&self, folder: &Path, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        for (path, text) in [(&pair.key, key.serialize_pem()), (&pair.cert, cert.pem())] {
            let fresh = path.with_extension("fresh");
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(fresh, path).unwrap();
        }
        pair
    }

    /// Its own certificate in a file.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, &self.pem).unwrap();
        path
    }
}

/// A client that trusts an authority alone, with a certificate or without.
pub(crate) fn client(trusts: &Authority, shows: Option<&Pair>) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(trusts.pem.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().tls_built_in_root_certs(false);
    let builder = builder.add_root_certificate(root);
    let builder = match shows {
        None => builder,
        Some(pair) => {
            let text = [&pair.key, &pair.cert].map(|path| std::fs::read_to_string(path).unwrap());
            let identity = reqwest::Identity::from_pem(text.concat().as_bytes()).unwrap();
            builder.identity(identity)
        }
    };
    builder.build().unwrap()
}
