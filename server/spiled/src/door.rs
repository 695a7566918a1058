//! How a connection becomes a stream for the edge: through TLS, or as it is on a plaintext listener.
//!
//! TLS itself is [`crate::tls`]'s. Here its answer is put in the edge's words, with the exporter that a device key's
//! proof is bound to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConnection;
use spile_edge::auth::{Channel, Identity, Presented};
use spile_edge::listener::Door;
use spile_protocol::{limits, session::key};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::clock::unix_seconds;
use crate::gulp::Gulp;
use crate::tls::{AcceptError, Acceptor, Deadlines};

/// TLS, with or without a client certificate.
#[derive(Debug)]
pub struct Tls {
    acceptor: Arc<Acceptor>,
    deadlines: Deadlines,
}

impl Tls {
    /// The devices' port.
    #[must_use]
    pub fn new(acceptor: Arc<Acceptor>, slow: bool) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let (hello, whole) = if slow {
            (limits::SLOW_CLIENT_HELLO_S, limits::SLOW_AUTH_S)
        } else {
            (limits::CLIENT_HELLO_S, limits::AUTH_S)
        };
        Self { acceptor, deadlines: Deadlines { hello: seconds(hello), whole: seconds(whole) } }
    }
}

impl Door for Tls {
    type Stream = TlsStream<Gulp<TcpStream>>;
    type Refusal = AcceptError;

    async fn open(&self, io: TcpStream) -> Result<(Self::Stream, Presented), AcceptError> {
        let accepted = self.acceptor.accept(Gulp::new(io), self.deadlines, unix_seconds()).await?;
        let (_, connection) = accepted.stream.get_ref();
        let channel = exporter(connection).map(Channel::Tls).map_err(AcceptError::Handshake)?;
        let identity = accepted.identity.map(|identity| Identity {
            tenant: identity.tenant,
            role: identity.role,
            name: identity.name,
            ends_ms: accepted.ends_ms,
        });
        Ok((accepted.stream, Presented { identity, channel }))
    }
}

fn exporter(connection: &ServerConnection) -> io::Result<[u8; 32]> {
    connection.export_keying_material([0; 32], key::EXPORTER_LABEL, None).map_err(io::Error::other)
}

/// Nothing around the frames; only ever on a loopback address.
#[derive(Debug)]
pub struct Plain;

impl Door for Plain {
    type Stream = TcpStream;
    type Refusal = io::Error;

    async fn open(&self, io: TcpStream) -> io::Result<(TcpStream, Presented)> {
        let nonce = random()?;
        Ok((io, Presented { identity: None, channel: Channel::Plain(nonce) }))
    }
}

/// Random bytes of the system's.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if filled == N { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
