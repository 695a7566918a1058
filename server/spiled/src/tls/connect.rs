//! The edge's side of a link: mutual TLS to a worker, which must carry its configured name.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ALPN, Material, TlsError, VERSIONS, chain_ends, pair_error, provider};
use crate::config::TlsFiles;

/// Sessions to workers that are remembered; there are at most 32 workers.
const RESUMABLE: usize = 64;

/// Why a worker was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its name can't be one in a certificate.
    #[error("tls: {0:?} can't be a worker's name in a certificate; rename the worker")]
    Name(String),
    /// TLS failed.
    #[error("tls: handshake with worker {name}: {why}")]
    Handshake {
        /// The worker.
        name: String,
        /// The reason.
        why: io::Error,
    },
    /// It does not speak `spile/1`.
    #[error("tls: worker {0} does not speak ALPN spile/1; check its address")]
    NoProtocol(String),
}

/// What connects to workers, and takes new certificates while it does.
#[derive(Debug)]
pub struct LinkConnector {
    files: TlsFiles,
    current: RwLock<(Arc<ClientConfig>, u64)>,
}

impl LinkConnector {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { files: files.clone(), current: RwLock::new(build(files)?) })
    }

    /// Reads the files again; links that are open stay.
    ///
    /// # Errors
    /// A file is missing or wrong; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = build(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The configuration in use.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// When the certificate in use ends, in seconds since 1970.
    pub fn certificate_ends(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Takes a connection to the worker of this name through TLS. The caller bounds the time.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect<IO>(&self, io: IO, worker: &str) -> Result<TlsStream<IO>, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(worker.to_owned())
            .map_err(|_| ConnectError::Name(worker.to_owned()))?;
        let stream = TlsConnector::from(self.config())
            .connect(name, io)
            .await
            .map_err(|why| ConnectError::Handshake { name: worker.to_owned(), why })?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(ConnectError::NoProtocol(worker.to_owned()));
        }
        Ok(stream)
    }
}

fn build(files: &TlsFiles) -> Result<(Arc<ClientConfig>, u64), TlsError> {
    let material = Material::read(files)?;
    let roots = material.roots(&files.ca)?;
    let ends = chain_ends(&material.chain);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots)
        .with_client_auth_cert(material.chain, material.key)
        .map_err(pair_error(files))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::in_memory_sessions(RESUMABLE);
    Ok((Arc::new(config), ends))
}
