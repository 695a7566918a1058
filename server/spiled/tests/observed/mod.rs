//! Between a client and its server: ends the client's TLS as the server, goes on to it as the operator, and reads both
//! ways. Holds every CHUNK against the stored offset that the client had been told when it sent it, and lets only so many of
//! them by on a connection, so that an upload is surely under way when a test kills one end.
//!
//! Invariant: what a server says is known here before the client can hear it, so that no chunk is judged by less.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and what is not of an upload is let through"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use spile_protocol::message::{Message, Sender};
use spile_protocol::{frame, limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::e2e::tls;

/// What went by, of all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The highest stored offset that was said of each upload, by its id.
    told: HashMap<[u8; 16], u64>,
    pub(crate) opened: u64,
    pub(crate) chunk_bytes: u64,
    /// Chunks that began before what was said to be stored: that, where they began, and how long they were.
    pub(crate) again: Vec<(u64, u64, usize)>,
}

/// One connection's uploads, by their numbers on it: whose each is, and what is stored of it as its client knows.
#[derive(Default)]
struct Uploads(HashMap<u32, ([u8; 16], u64)>);

impl Uploads {
    fn said(&mut self, seen: &mut Seen, message: &Message<'_>) {
        match message {
            Message::Open(open) => {
                seen.opened += 1;
                // What was said on an earlier connection holds on this one too.
                let told = seen.told.get(&open.id).copied().unwrap_or(0);
                self.0.insert(open.upload, (open.id, told));
            }
            Message::Opened(opened) => {
                let Some((id, told)) = self.0.get_mut(&opened.upload) else { return };
                *told = (*told).max(opened.stored_offset);
                let most = seen.told.entry(*id).or_default();
                *most = (*most).max(*told);
            }
            Message::Chunk(chunk) => {
                seen.chunk_bytes += u64::try_from(chunk.payload.len()).unwrap();
                let told = self.0.get(&chunk.upload).map_or(0, |(_, told)| *told);
                if chunk.offset < told {
                    seen.again.push((told, chunk.offset, chunk.payload.len()));
                }
            }
            _ => {}
        }
    }
}

pub(crate) struct Observer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    /// Bytes of chunks that go by on one connection.
    most: watch::Sender<u64>,
    _runtime: Runtime,
}

impl Observer {
    /// Before the all-in-one that listens at `server`, with its data in `data`. Of a connection's chunks the first go by, up
    /// to `most` bytes; those behind wait until it ends, or all are let by.
    pub(crate) fn before(server: SocketAddr, data: &Path, most: u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let (most, held) = watch::channel(most);
        let ends = (acceptor(data), server, data.to_owned());
        runtime.spawn(accept(listener, ends, Arc::clone(&seen), held));
        Self { address, seen, most, _runtime: runtime }
    }

    pub(crate) fn let_by(&self) {
        self.most.send_replace(u64::MAX);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

fn acceptor(data: &Path) -> TlsAcceptor {
    let certs = data.join("certs");
    let chain = CertificateDer::pem_file_iter(certs.join("edge.pem")).unwrap();
    let chain = chain.map(|one| one.unwrap()).collect();
    let key = PrivateKeyDer::from_pem_file(certs.join("edge.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(spiled::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"spile/1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(
    listener: TcpListener,
    (acceptor, server, data): (TlsAcceptor, SocketAddr, PathBuf),
    seen: Arc<Mutex<Seen>>,
    most: watch::Receiver<u64>,
) {
    let operator = TlsConnector::from(tls(&data.join("dev"), Some("operator")));
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, operator) = (acceptor.clone(), operator.clone());
        let (seen, most) = (Arc::clone(&seen), most.clone());
        connections.spawn(async move {
            // A server that is down: its client hears that by the end of its own connection.
            let Ok(up) = TcpStream::connect(server).await else { return };
            let name = ServerName::try_from("localhost").unwrap();
            let Ok(up) = operator.connect(name, up).await else { return };
            let Ok(down) = acceptor.accept(tcp).await else { return };
            let (down, up) = (tokio::io::split(down), tokio::io::split(up));
            let uploads = Mutex::new(Uploads::default());
            // Whichever way ends first ends both.
            tokio::select! {
                () = carry(down.0, up.1, (Sender::Client, most.clone()), &uploads, &seen) => {}
                () = carry(up.0, down.1, (Sender::Server, most), &uploads, &seen) => {}
            }
        });
    }
}

/// Whole frames from one to the other, each looked at before it goes on, or waits because of the chunks before it.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (sender, mut most): (Sender, watch::Receiver<u64>),
    uploads: &Mutex<Uploads>,
    seen: &Mutex<Seen>,
) {
    let (mut bytes, mut passed) = (Vec::new(), 0);
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        let (mut whole, mut chunks) = (0, 0);
        while let Some((frame, length)) =
            frame::decode(bytes.get(whole..).unwrap_or_default(), limits::FRAME_MAX).unwrap()
        {
            let message = Message::decode(&frame, sender).unwrap();
            uploads.lock().unwrap().said(&mut seen.lock().unwrap(), &message);
            whole += length;
            if let Message::Chunk(chunk) = message {
                chunks += u64::try_from(chunk.payload.len()).unwrap();
            }
        }
        // Some chunks go by in any case.
        let may = |most: &u64| chunks == 0 || passed == 0 || passed + chunks <= *most;
        if most.wait_for(may).await.is_err() {
            return;
        }
        passed += chunks;
        let sent = match bytes.get(..whole) {
            Some(whole) => to.write_all(whole).await.and(to.flush().await),
            None => return,
        };
        if sent.is_err() {
            return;
        }
        bytes.drain(..whole);
    }
}
