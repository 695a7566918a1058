//! The server's side: a connection becomes a stream and, perhaps, an identity; or it is cut, and why is said.
//!
//! A resumed session proves nothing by itself: the certificate it brings along is checked again for its time, and the
//! handshake it goes back to must be at most [`ORIGIN_MAX`] old. That time travels inside the ticket, which only this
//! process can make, and is carried on to every ticket made from it.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::{
    Acceptor as ClientHello, ProducesTickets, ServerConfig, WebPkiClientVerifier,
};
use rustls::{HandshakeKind, ServerConnection};
use spile_protocol::code::Code;
use spile_protocol::id::Role;
use spile_protocol::limits as wire;
use spile_protocol::message::{Fault, Message, Scope};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ALPN, Material, TlsError, VERSIONS, chain_ends, pair_error, provider};
use crate::certs::identity::{self, Identity, IdentityError};
use crate::config::TlsFiles;

/// The oldest full handshake, in seconds, that a resumed session may go back to.
pub const ORIGIN_MAX: u64 = 24 * 3_600;

/// One ticket is enough for a client that comes back, and each carries its certificate.
const TICKETS: usize = 1;

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Until its ClientHello is whole.
    pub hello: Duration,
    /// Until TLS is established, the ClientHello included.
    pub whole: Duration,
}

impl Deadlines {
    /// What the design gives a peer on an ordinary listener; AUTH shares the whole with TLS.
    pub const ORDINARY: Self = Self {
        hello: Duration::from_secs(wire::CLIENT_HELLO_S as u64),
        whole: Duration::from_secs(wire::AUTH_S as u64),
    };
}

/// Which listener: who may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Devices, users, services, operators; a certificate or another proof later.
    Devices,
    /// Edges only, each with its certificate.
    Links,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The stream.
    pub stream: TlsStream<IO>,
    /// Who it is, by its certificate; `None` when it brought none.
    pub identity: Option<Identity>,
    /// When that certificate ends, in milliseconds since 1970; 0 without one.
    pub ends_ms: u64,
    /// It went back to an earlier handshake.
    pub resumed: bool,
}

/// Why a connection was cut before it was a stream; the peer's fault, but for its own going away.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No whole ClientHello in time.
    #[error("tls: no ClientHello within {0:?}; cut")]
    SilentHello(Duration),
    /// Not established in time.
    #[error("tls: not established within {0:?}; cut")]
    Slow(Duration),
    /// It does not offer `spile/1`.
    #[error("tls: the peer does not offer ALPN spile/1; cut")]
    NoProtocol,
    /// TLS failed: garbage, an old version, a certificate of another authority.
    #[error("tls: handshake: {0}")]
    Handshake(#[source] io::Error),
    /// Its certificate says nobody.
    #[error("tls: {0}")]
    Identity(#[from] IdentityError),
    /// Its role has no business at this port.
    #[error("tls: {0} has no business at this port; cut")]
    OtherPort(Identity),
    /// It resumed what is too old.
    #[error("tls: resumes a handshake of more than 24 h ago; cut, a full handshake is needed")]
    StaleOrigin,
}

/// What accepts connections at one listener, and takes new certificates while it does.
#[derive(Debug)]
pub struct Acceptor {
    port: Port,
    files: TlsFiles,
    current: RwLock<Arc<Current>>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    authorities: Vec<CertificateDer<'static>>,
    ends: u64,
}

impl Acceptor {
    /// For the port where devices and operators come: a client certificate is verified when there is one.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub fn for_devices(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::new(Port::Devices, files)
    }

    /// For a worker's port: a client certificate is required.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub fn for_links(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::new(Port::Links, files)
    }

    fn new(port: Port, files: &TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(build(port, files, None)?));
        Ok(Self { port, files: files.clone(), current })
    }

    /// Reads the files again. Connections from now on get what is new; those that are open stay.
    ///
    /// # Errors
    /// A file is missing or wrong; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(build(self.port, &self.files, Some(&self.current()))?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The configuration in use.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    /// When the certificate in use ends, in seconds since 1970.
    pub fn certificate_ends(&self) -> u64 {
        self.current().ends
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a connection through TLS, at `now` in seconds since 1970.
    ///
    /// # Errors
    /// See [`AcceptError`]; the connection is gone then, and the peer was told where TLS has a word for it.
    pub async fn accept<IO>(
        &self,
        io: IO,
        deadlines: Deadlines,
        now: u64,
    ) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(deadlines.whole, self.establish(io, deadlines.hello, now))
            .await
            .unwrap_or(Err(AcceptError::Slow(deadlines.whole)))
    }

    async fn establish<IO>(
        &self,
        io: IO,
        hello: Duration,
        now: u64,
    ) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = timeout(hello, LazyConfigAcceptor::new(ClientHello::default(), io))
            .await
            .map_err(|_| AcceptError::SilentHello(hello))?
            .map_err(AcceptError::Handshake)?;
        if !start.client_hello().alpn().is_some_and(|mut offered| offered.any(|p| p == ALPN)) {
            return Err(refuse_protocol(start.io).await);
        }
        let mut stream = start
            .into_stream_with(self.config(), |connection| carry_origin(connection, now))
            .await
            .map_err(AcceptError::Handshake)?;
        match self.judge(stream.get_ref().1, now) {
            Ok((identity, ends_ms, resumed)) => Ok(Accepted { stream, identity, ends_ms, resumed }),
            Err(why) => {
                let links = self.port == Port::Links;
                tell(&mut stream, if links { Code::NOT_AN_EDGE } else { Code::UNAUTHENTICATED })
                    .await;
                Err(why)
            }
        }
    }

    /// Who it is, when its certificate ends, and whether it resumed.
    fn judge(
        &self,
        connection: &ServerConnection,
        now: u64,
    ) -> Result<(Option<Identity>, u64, bool), AcceptError> {
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed && origin(connection).is_none_or(|at| now.saturating_sub(at) > ORIGIN_MAX) {
            return Err(AcceptError::StaleOrigin);
        }
        let chain = connection.peer_certificates().unwrap_or_default();
        let identity = chain.first().map(|leaf| identity::read(leaf, now)).transpose()?;
        let ends_ms = chain_ends(chain).saturating_mul(1_000);
        if let Some(identity) = &identity
            && (identity.role == Role::Edge) != (self.port == Port::Links)
        {
            return Err(AcceptError::OtherPort(identity.clone()));
        }
        Ok((identity, ends_ms, resumed))
    }
}

/// Tells a peer why it is cut, before it is (design: a peer is told). What it does not hear changes nothing.
pub async fn tell<IO: AsyncWrite + Unpin>(stream: &mut IO, code: Code) {
    let fault = Fault { code, scope: Scope::Session, retry: false, retry_after_ms: 0, detail: "" };
    let mut frame = [0; 64];
    let Ok(length) = Message::Fault(fault).encode(&mut frame) else { return };
    let said = stream.write_all(frame.get(..length).unwrap_or_default()).await;
    if let Err(error) = said.and(stream.shutdown().await) {
        tracing::debug!(%code, %error, "a peer that is cut did not hear why");
    }
}

fn build(port: Port, files: &TlsFiles, before: Option<&Current>) -> Result<Current, TlsError> {
    let material = Material::read(files)?;
    let provider = provider();
    let roots = material.roots(&files.ca)?;
    // Hints cost every handshake bytes, and a device has one certificate anyway.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .clear_root_hint_subjects();
    let verifier = match port {
        Port::Devices => verifier.allow_unauthenticated(),
        Port::Links => verifier,
    };
    let verifier = verifier
        .build()
        .map_err(|why| TlsError::Authority { path: files.ca.clone(), why: why.to_string() })?;
    let ends = chain_ends(&material.chain);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(material.chain, material.key)
        .map_err(pair_error(files))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = TICKETS;
    config.ticketer = ticketer(before, &material.authorities)?;
    Ok(Current { config: Arc::new(config), authorities: material.authorities, ends })
}

/// Tickets hold a verified certificate, so that they must not outlive trust in its authority: other authorities, other
/// ticket keys.
fn ticketer(
    before: Option<&Current>,
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    match before.filter(|before| before.authorities == authorities) {
        Some(before) => Ok(Arc::clone(&before.config.ticketer)),
        None => Ok(Ticketer::new()?),
    }
}

/// Puts the time of the full handshake into the tickets to come.
fn carry_origin(connection: &mut ServerConnection, now: u64) {
    let received = connection.received_resumption_data().map(<[u8]>::to_vec);
    connection.set_resumption_data(&received.unwrap_or_else(|| now.to_be_bytes().to_vec()));
}

fn origin(connection: &ServerConnection) -> Option<u64> {
    let received = connection.received_resumption_data()?;
    Some(u64::from_be_bytes(received.try_into().ok()?))
}

/// Without this, a client that says no protocol at all would be let in by TLS.
async fn refuse_protocol<IO: AsyncWrite + Unpin>(mut io: IO) -> AcceptError {
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];
    match io.write_all(&ALERT).await {
        Ok(()) => AcceptError::NoProtocol,
        Err(why) => AcceptError::Handshake(why),
    }
}
