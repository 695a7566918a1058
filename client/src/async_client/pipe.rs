//! A connection's bytes: TCP, and TLS above it. What they mean is the session's business.
//!
//! Reading goes through a buffer of our own, since rustls asks the socket for 4 KiB at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::Refusal;
use super::tls::ALPN;
use super::{Address, Error};
use spile_protocol::code::Code;
use spile_protocol::session::device::Channel;
use spile_protocol::session::key::EXPORTER_LABEL;

/// The bytes of a connection.
#[derive(Debug)]
pub(super) enum Pipe {
    Plain(TcpStream),
    Secure(Box<TlsStream<BufReader<TcpStream>>>),
}

/// What the handshake showed of the server, for those who look.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The server's certificate, then those above it, in DER.
    pub chain: Vec<Vec<u8>>,
    /// The cipher suite.
    pub suite: String,
}

impl Pipe {
    /// Connects, and speaks TLS where the address says so.
    pub(super) async fn open(
        address: &Address,
        tls: Option<&Arc<ClientConfig>>,
        buffer: usize,
    ) -> Result<Self, Error> {
        let tcp = TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(|why| Error::unreachable(address, plain_words(&why)))?;
        tcp.set_nodelay(true).map_err(|why| Error::unreachable(address, why))?;
        let Some(config) = tls else { return Ok(Self::Plain(tcp)) };
        let name = ServerName::try_from(address.host().to_owned())
            .map_err(|_| Error::untrusted(address, "its host can't be a name in a certificate"))?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, BufReader::with_capacity(buffer, tcp))
            .await
            .map_err(|why| explain(address, &why))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(Error::untrusted(address, "it does not speak spile/1"));
        }
        Ok(Self::Secure(Box::new(stream)))
    }

    /// What a device key's proof is bound to.
    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Plain(_) => Channel::Plain,
            Self::Secure(stream) => {
                let (_, session) = stream.get_ref();
                Channel::Tls(session.export_keying_material([0; 32], EXPORTER_LABEL, None).ok())
            }
        }
    }

    /// What the handshake showed.
    pub(super) fn seen(&self) -> Seen {
        match self {
            Self::Plain(_) => Seen::default(),
            Self::Secure(stream) => {
                let (_, session) = stream.get_ref();
                let chain = session.peer_certificates().unwrap_or_default();
                let suite = session.negotiated_cipher_suite();
                Seen {
                    chain: chain.iter().map(|der| der.to_vec()).collect(),
                    suite: suite.map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
                }
            }
        }
    }
}

fn plain_words(why: &io::Error) -> String {
    if why.kind() == io::ErrorKind::ConnectionRefused {
        return "nobody listens there".to_owned();
    }
    why.to_string()
}

/// Who is at fault when TLS or the socket below it fails.
pub(super) fn explain(address: &Address, why: &io::Error) -> Error {
    let tls = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(alert)) => {
            let detail = format!("the server refused our certificate or TLS ({alert:?})");
            Refusal::of(Code::UNAUTHENTICATED).detail(&detail).into()
        }
        Some(tls) => Error::untrusted(address, tls),
        None if why.kind() == io::ErrorKind::UnexpectedEof => {
            Error::unreachable(address, "the connection was closed")
        }
        None => Error::unreachable(address, plain_words(why)),
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Secure(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Secure(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Secure(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Secure(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
