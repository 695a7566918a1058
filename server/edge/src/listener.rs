//! The accept loop: one task a connection, from its first byte to its last.
//!
//! Not here: TLS itself (the [`Door`]), and what is said inside ([`crate::session`]). Invariants: a connection has a place
//! among the half-open ones until it is authenticated; accepting never waits for a peer; when the listener is told to
//! stop, every connection is told to go, and none is left when [`serve`] returns, but for what the time limit cut.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use spile_protocol::{code::Code, time::Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Edge;
use crate::auth::Presented;
use crate::half_open::{Caps, HalfOpen, Place};
use crate::session::Connection;
use crate::signal::Signal;

/// What a byte stream of a client has to be.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Takes a TCP connection through TLS, or lets it in as it is on a plaintext listener.
pub trait Door: Send + Sync + 'static {
    /// What comes out.
    type Stream: Stream;
    /// Why nothing comes out: for the log, one line.
    type Refusal: core::fmt::Display + Send;

    /// Keeps the deadlines for ClientHello and for TLS as a whole.
    fn open(
        &self,
        io: TcpStream,
    ) -> impl Future<Output = Result<(Self::Stream, Presented), Self::Refusal>> + Send;
}

/// How a listener behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Connections that have not proven who they are.
    pub half_open: Caps,
    /// How long sessions may take to go when the listener stops.
    pub drain: Duration,
}

/// How long accepting rests after it failed: out of file descriptors, mostly.
const REST: Duration = Duration::from_millis(50);

/// Accepts until `stop`, then drains.
pub async fn serve<D: Door>(
    listener: TcpListener,
    door: Arc<D>,
    edge: Arc<Edge>,
    config: Config,
    stop: CancellationToken,
) {
    let half_open = HalfOpen::new(config.half_open, Arc::clone(&edge.metrics.half_open));
    let tasks = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((io, peer)) => {
                let arrival = Arrival::new(&edge, &half_open, peer);
                tasks.spawn(arrival.live(Arc::clone(&door), io));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; trying again");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    drain(&edge, &half_open, &tasks, config.drain).await;
}

async fn drain(edge: &Edge, half_open: &HalfOpen, tasks: &TaskTracker, limit: Duration) {
    half_open.end_all(Code::SHUTDOWN);
    edge.sessions.end_all(Code::SHUTDOWN);
    tasks.close();
    if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "sessions did not go in time and are cut");
    }
}

/// A connection that has just come.
struct Arrival {
    edge: Arc<Edge>,
    peer: SocketAddr,
    signal: Arc<Signal>,
    place: Place,
    /// spec §12.2: deadlines count from here, TLS included.
    came: Instant,
}

impl Arrival {
    fn new(edge: &Arc<Edge>, half_open: &Arc<HalfOpen>, peer: SocketAddr) -> Self {
        let signal = Arc::new(Signal::default());
        edge.metrics.connections.add(1);
        let place = half_open.enter(canonical(peer.ip()), Arc::clone(&signal), &edge.metrics.cut);
        Self { edge: Arc::clone(edge), peer, signal, place, came: edge.clock.now() }
    }

    async fn live<D: Door>(self, door: Arc<D>, io: TcpStream) {
        // In a box, so that a live session does not carry the room a handshake needs.
        let session = Box::pin(self.enter(door, io)).await;
        if let Some(session) = session {
            session.run().await;
        }
    }

    /// Through the door; `None` where it was cut before it was a session.
    async fn enter<D: Door>(
        self,
        door: Arc<D>,
        io: TcpStream,
    ) -> Option<Box<Connection<D::Stream>>> {
        // Small acks must not wait for more of them; a socket that can't is as good as closed.
        io.set_nodelay(true).ok()?;
        let Self { edge, peer, signal, place, came } = self;
        match opened(&*door, io, &signal).await {
            Ok((stream, presented)) => {
                edge.metrics.handshakes.add(1);
                let place = (place, came);
                Some(Box::new(Connection::new(edge, stream, presented, peer, signal, place)))
            }
            Err(why) => {
                edge.metrics.cut.add(1);
                tracing::debug!(%peer, %why, "connection cut before it was a session");
                None
            }
        }
    }
}

/// Through the door, unless the connection is told to go first.
async fn opened<D: Door>(
    door: &D,
    io: TcpStream,
    signal: &Signal,
) -> Result<(D::Stream, Presented), String> {
    tokio::select! {
        biased;
        code = std::future::poll_fn(|cx| signal.poll_ended(cx)) => Err(code.to_string()),
        opened = door.open(io) => opened.map_err(|why| why.to_string()),
    }
}

/// An IPv4 address that came by an IPv6 socket is the same peer; of IPv6, one peer has a whole /64.
fn canonical(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_is_one_address() {
        for (address, want) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ] {
            assert_eq!(canonical(address.parse().unwrap()), want.parse::<IpAddr>().unwrap());
        }
    }
}
