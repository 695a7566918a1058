//! The bare limit of sessions: a tokio-rustls acceptor that verifies the same certificates with the same configuration,
//! says one byte, and holds the connection. It runs as a process of its own, so that its memory and time are its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use spiled::config::TlsFiles;
use spiled::tls::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::process;
use crate::server::Server;

/// What it says when a connection is accepted.
pub(crate) const WELCOME: u8 = b'w';

/// Serves until its standard input ends, which is when its parent does.
pub(crate) fn serve(cert: &Path, key: &Path, ca: &Path) -> Result<()> {
    let files = TlsFiles { cert: cert.into(), key: key.into(), ca: ca.into() };
    let acceptor = TlsAcceptor::from(Acceptor::for_devices(&files)?.config());
    // As many threads as the server has.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.spawn(accept(acceptor));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.shutdown_background();
    Ok(())
}

async fn accept(acceptor: TlsAcceptor) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await?;
        connections.spawn(hold(tcp, acceptor.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn hold(tcp: TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    stream.write_all(&[WELCOME]).await?;
    while stream.read(&mut [0]).await? > 0 {}
    Ok(())
}

/// The acceptor, seen by its parent.
pub(crate) struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    /// Starts one that has the server's certificate.
    pub(crate) fn start(server: &Server) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("acceptor")
            .args([server.certs("edge.pem"), server.certs("edge.key")])
            .arg(server.certs("device-ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output is a pipe")?)
            .read_line(&mut line)?;
        let address = line.trim().parse().context("the bare acceptor does not start")?;
        Ok(Self { child, address })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(why) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("figures: the bare acceptor could not be ended: {why}");
        }
    }
}
