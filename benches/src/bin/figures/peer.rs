//! A peer that does what a session needs and no more: TLS, then HELLO and AUTH until WELCOME; or one byte of the bare
//! acceptor. The same client cost on both sides is what makes their ratio mean something.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use spile_protocol::id::Run;
use spile_protocol::message::{Auth, Hello, Message, Proof, Sender};
use spile_protocol::{codec, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::acceptor::WELCOME;
use crate::server::Server;

/// Who answers, and what makes a session there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Spile(SocketAddr),
    Bare(SocketAddr),
}

/// How this peer speaks TLS, with its own memory of tickets.
pub(crate) fn tls(server: &Server, certificate: bool, resume: bool) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.dev("ca.pem"))?)?;
    let builder = ClientConfig::builder_with_provider(spiled::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = if certificate {
        let chain = CertificateDer::pem_file_iter(server.dev("operator.pem"))?;
        let key = PrivateKeyDer::from_pem_file(server.dev("operator.key"))?;
        builder.with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![spiled::tls::ALPN.to_vec()];
    config.resumption =
        if resume { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An open session, by certificate where it is Spile's, and how its TLS came about.
pub(crate) async fn open(
    side: Side,
    tls: &TlsConnector,
) -> Result<(TlsStream<TcpStream>, HandshakeKind)> {
    let (Side::Spile(address) | Side::Bare(address)) = side;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut stream = tls.connect(ServerName::try_from("localhost")?, tcp).await?;
    match side {
        Side::Bare(_) => ensure!(stream.read_u8().await? == WELCOME, "not the bare acceptor"),
        Side::Spile(_) => authenticate(&mut stream).await?,
    }
    let kind = stream.get_ref().1.handshake_kind().context("the handshake is over")?;
    Ok((stream, kind))
}

async fn authenticate(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let hello = Message::Hello(Hello {
        version: 1,
        oldest: 1,
        frame_max: limits::FRAME_DEFAULT,
        run: Run([7; 8]),
        receipts: false,
        keep_alive_s: 0,
        software: "figures",
        abandoned: Run::default(),
    });
    let mut buffer = BytesMut::with_capacity(512);
    for message in [hello, Message::Auth(Auth { proof: Proof::Certificate })] {
        codec::append(&mut buffer, &message, 0)?;
    }
    stream.write_all_buf(&mut buffer).await?;
    loop {
        if let Some(whole) = codec::take(&mut buffer, limits::FRAME_DEFAULT)? {
            let answer = whole.message(Sender::Server)?;
            ensure!(matches!(answer, Message::Welcome(_)), "no WELCOME but {answer:?}");
            return Ok(());
        }
        ensure!(stream.read_buf(&mut buffer).await? > 0, "closed before WELCOME");
    }
}
