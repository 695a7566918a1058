//! TLS 1.3 to the edge, and what is in the files it needs.
//!
//! Invariant: the provider is passed, never the process's default; without `spile/1` nothing is sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;

/// The one application protocol.
pub(super) const ALPN: &[u8] = b"spile/1";

/// Where authority and client certificate are.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

const REMEDY: &str = "name a readable PEM file";

/// Reads the files once.
pub(super) fn config(files: &Files) -> Result<Arc<ClientConfig>, Error> {
    let ca = files.ca.as_deref().ok_or_else(|| {
        Error::setup(
            "ca",
            "no authority is named",
            "name the PEM file of the authority that signs the server",
        )
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", ca)? {
        roots.add(certificate).map_err(|why| Error::setup("ca", told(ca, why), REMEDY))?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|why| Error::setup("tls", why.to_string(), "report this"))?
        .with_root_certificates(roots);
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("cert", cert)?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|why| Error::setup("client key", told(key, why), REMEDY))?;
            builder.with_client_auth_cert(chain, private).map_err(|why| {
                Error::setup(
                    "cert",
                    told(cert, why),
                    "name a certificate and the key that belongs to it",
                )
            })?
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::setup(
                "cert",
                "certificate and client key come together",
                "name both or neither",
            ));
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// aws-lc-rs with the groups this bus offers: the hybrid, then what small devices have.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group;
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |why| Error::setup(what, told(path, why), REMEDY);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect();
    let found = found.map_err(|why| Error::setup(what, told(path, why), REMEDY))?;
    if found.is_empty() {
        return Err(Error::setup(what, told(path, "no certificate is in it"), REMEDY));
    }
    Ok(found)
}

fn told(path: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}
