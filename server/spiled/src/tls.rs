//! TLS for both listeners and for links: 1.3 only, ALPN `spile/1`, certificates that are swapped without a restart.
//!
//! Here: which cryptography, and building configurations from files. Accepting: [`Acceptor`]; going to a worker:
//! [`LinkConnector`]. Invariants: the provider is passed, never the process's default; a reload that fails changes
//! nothing; no 0-RTT.

mod accept;
mod connect;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};

pub use accept::{AcceptError, Accepted, Acceptor, Deadlines, ORIGIN_MAX, tell};
pub use connect::{ConnectError, LinkConnector};

use crate::config::TlsFiles;

/// The one application protocol; a peer that does not offer it is cut.
pub const ALPN: &[u8] = b"spile/1";

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Why a TLS configuration can't be built from its files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is not PEM.
    #[error("tls: read {path}: {why}; name a readable PEM file", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: rustls::pki_types::pem::Error,
    },
    /// A file has no certificate in it.
    #[error("tls: read {path}: no certificate in it; name a PEM file with one", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// An authority that can't be one.
    #[error("tls: authority {path}: {why}; name an authority's certificate", path = path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// Certificate and key do not belong together, or the algorithm is not offered.
    #[error("tls: certificate {cert} with key {key}: {why}; name a pair that belongs together", cert = cert.display(), key = key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The reason.
        why: rustls::Error,
    },
    /// The library refused.
    #[error("tls: {0}; report this")]
    Library(#[from] rustls::Error),
}

/// aws-lc-rs with the groups this bus offers, strongest first: the hybrid, then what small devices have.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group;
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

/// Three files, read.
struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Material {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|why| TlsError::File { path: files.key.clone(), why })?;
        let (chain, authorities) = (certificates(&files.cert)?, certificates(&files.ca)?);
        Ok(Self { chain, key, authorities })
    }

    fn roots(&self, path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|why| TlsError::Authority {
                path: path.to_owned(),
                why: why.to_string(),
            })?;
        }
        Ok(Arc::new(roots))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |why| TlsError::File { path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(file)?.collect();
    let found = found.map_err(file)?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(found)
}

fn pair_error(files: &TlsFiles) -> impl FnOnce(rustls::Error) -> TlsError {
    let (cert, key) = (files.cert.clone(), files.key.clone());
    move |why| TlsError::Pair { cert, key, why }
}

/// When the first certificate of a chain ends, in seconds since 1970; 0 when it can't be read.
fn chain_ends(chain: &[CertificateDer<'_>]) -> u64 {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let first = chain.first().and_then(|der| X509Certificate::from_der(der).ok());
    let ends = first.map(|(_, parsed)| parsed.validity().not_after.timestamp());
    ends.and_then(|ends| u64::try_from(ends).ok()).unwrap_or(0)
}
