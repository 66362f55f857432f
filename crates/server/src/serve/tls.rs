//! TLS: a certificate and its key, from PEM files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, ServerConfig};

/// What a server proves its identity with; TLS 1.2 and 1.3.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

/// Why a certificate and its key cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("the {what} {path:?} cannot be read: {error}")]
    Unreadable {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file that is not PEM.
    #[error("the {what} {path:?} is not PEM: {error}; expected {expected}")]
    NotPem {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
        /// What belongs there.
        expected: &'static str,
    },
    /// A file without what it should hold.
    #[error("the {what} {path:?} has no {what} in it: expected {expected}")]
    Nothing {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// Files of two certificates.
    #[error(
        "the key {key:?} is not that of the first certificate in {cert:?}: give the two that were made together"
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate or a key that TLS cannot use.
    #[error("the certificate {cert:?} with the key {key:?} cannot be used for TLS: {error}")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        error: Error,
    },
}

const CERTIFICATE: &str = "a PEM file with the server's certificate first and those of its issuers after it";

const KEY: &str = "a PEM file with a private key that needs no password (PKCS #8, PKCS #1 or SEC1)";

impl Tls {
    /// Reads a certificate with its chain, and its private key, from PEM files.
    ///
    /// # Errors
    /// If a file cannot be read or is not what it should be, and if the two do not belong together.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read("certificate", cert, CERTIFICATE, |bytes| {
            CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()
        })?;
        if chain.is_empty() {
            return Err(TlsError::Nothing {
                what: "certificate",
                path: cert.to_owned(),
                expected: CERTIFICATE,
            });
        }
        let private = read("key", key, KEY, PrivateKeyDer::from_pem_slice)?;
        let unusable = |error| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), error };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let mut config =
            config.with_no_client_auth().with_single_cert(chain, private).map_err(|error| match error {
                Error::InconsistentKeys(_) => {
                    TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
                }
                error => unusable(error),
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        f.write_str("Tls")
    }
}

fn read<T>(
    what: &'static str,
    path: &Path,
    expected: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, pem::Error>,
) -> Result<T, TlsError> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Err(error) => Err(TlsError::Unreadable { what, path, error }),
        Ok(bytes) => parse(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::Nothing { what, path, expected },
            error => TlsError::NotPem { what, path, error, expected },
        }),
    }
}
