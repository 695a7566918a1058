//! Links, on both sides: an edge's to each worker of its configuration, and a worker's port where edges come.
//!
//! Invariants: slots are what the configuration says, and both sides compare them; an edge's links outlive its sessions; a
//! worker takes a link only from an edge its configuration names, and for that edge's tenants.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use spile_edge::Edge;
use spile_edge::link::{self, Condition, Connector, Link, Registered};
use spile_edge::registry::Copy;
use spile_edge::upstream::{Upstream, Workers, has_slot};
use spile_protocol::code::Code;
use spile_protocol::id::Slot;
use spile_protocol::limits;
use spile_protocol::session::link::Config;
use spile_worker::Worker;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::unix_seconds;
use crate::config::{EdgeLink, SlotSet, WorkerLink};
use crate::door::random;
use crate::gulp::Gulp;
use crate::health::{Colour, Health};
use crate::kept;
use crate::start::Room;
use crate::tls::{self, Acceptor, Deadlines, LinkConnector};

/// How long an edge trusts its copy of the registry without word from its worker, in milliseconds: 24 h.
const REGISTRY_MAX_AGE_MS: u64 = 24 * 3_600 * 1_000;

/// Tenant and key of the registry: its slot's worker has it.
const REGISTRY: (&str, &str) = (spile_worker::registry::TENANT, spile_worker::registry::KEY);

/// All links, and the registry one of them feeds.
#[derive(Debug)]
pub struct Links {
    links: Vec<(Arc<Link>, String)>,
    workers: Workers,
    registry: Arc<Copy>,
}

impl Links {
    /// The links of a configuration; nothing is connected yet.
    ///
    /// # Errors
    /// A slot is with two workers or with none.
    pub fn new(workers: &[WorkerLink]) -> anyhow::Result<Self> {
        let registry = Arc::new(Copy::new(REGISTRY_MAX_AGE_MS));
        let home = Slot::of(REGISTRY.0, REGISTRY.1).0;
        let link = |worker: &WorkerLink| {
            let slots = bits(&worker.slots);
            let copy = Arc::clone(&registry);
            let registered = if has_slot(&slots, home) {
                Registered::Feeds(copy)
            } else {
                Registered::Hears(copy)
            };
            (Link::new(worker.name.clone(), slots, registered), worker.address.clone())
        };
        let links: Vec<_> = workers.iter().map(link).collect();
        let all =
            links.iter().map(|(link, _)| (Arc::clone(link) as Arc<dyn Upstream>, *link.slots()));
        let workers = Workers::new(all.collect())?;
        Ok(Self { links, workers, registry })
    }

    /// The workers behind the links.
    #[must_use]
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }

    /// The copy of the registry; nobody is let in before it is there.
    #[must_use]
    pub fn registry(&self) -> Arc<Copy> {
        Arc::clone(&self.registry)
    }

    /// Keeps them up until `served`, and health's facts about them true.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn start(
        self,
        room: &Room,
        edge: &Edge,
        connector: &Arc<LinkConnector>,
        served: &CancellationToken,
    ) -> anyhow::Result<()> {
        let home = Slot::of(REGISTRY.0, REGISTRY.1).0;
        let all = self.links.iter().map(|(link, _)| Arc::clone(link));
        let (feeding, hearing): (Vec<_>, Vec<_>) =
            all.partition(|link| has_slot(link.slots(), home));
        for link in feeding {
            kept::start(room, self.registry(), link, served.clone());
        }
        kept::pass_groups(room, &self.registry, hearing, served.clone());
        for (place, (link, address)) in self.links.into_iter().enumerate() {
            link.tells(Arc::clone(&edge.cache), place);
            room.tasks.spawn(tell(Arc::clone(&link), room.health.clone(), served.clone()));
            let to =
                To { connector: Arc::clone(connector), worker: link.name().to_owned(), address };
            let mut config = Config::new(Arc::from(room.config.name.as_str()), *link.slots());
            config.software = Arc::from(concat!("spiled/", env!("CARGO_PKG_VERSION")));
            let of_edge = (edge.clock, Arc::clone(&edge.metrics));
            let random = u64::from_be_bytes(random()?);
            room.tasks.spawn(link::run(link, to, config, of_edge, random, served.clone()));
        }
        Ok(())
    }
}

/// Connections to a worker's port that are not links yet. At the cap: a new one is closed.
const HALF_OPEN: usize = 256;

/// Serves a worker's port until the process is told to end and its links have drained, and says so by `served`.
pub fn listen(
    room: &Room,
    worker: Arc<Worker>,
    edges: &[EdgeLink],
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    served: CancellationToken,
) {
    let port = Arc::new(Port {
        worker,
        edges: edges.to_vec(),
        acceptor,
        stop: room.told.shutdown.clone(),
    });
    room.tasks.spawn(async move {
        port.serve(listener).await;
        served.cancel();
    });
}

/// A worker's port.
struct Port {
    worker: Arc<Worker>,
    edges: Vec<EdgeLink>,
    acceptor: Arc<Acceptor>,
    stop: CancellationToken,
}

impl Port {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let tasks = TaskTracker::new();
        let half_open = Arc::new(Semaphore::new(HALF_OPEN));
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match (accepted, Arc::clone(&half_open).try_acquire_owned()) {
                (Ok((io, peer)), Ok(place)) => {
                    let port = Arc::clone(&self);
                    tasks.spawn(async move {
                        if let Err(why) = port.link(io, place).await {
                            tracing::warn!(%peer, %why, "link refused or over");
                        }
                    });
                }
                (Ok((io, peer)), Err(_)) => {
                    tracing::warn!(%peer, "too many connections are not links yet; closed");
                    drop(io);
                }
                (Err(why), _) => {
                    tracing::warn!(%why, "accepting a link failed; trying again");
                    tokio::time::sleep(REST).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }

    async fn link(&self, io: TcpStream, place: OwnedSemaphorePermit) -> anyhow::Result<()> {
        io.set_nodelay(true)?;
        let accepting = self.acceptor.accept(Gulp::new(io), deadlines(), unix_seconds());
        let Some(accepted) = self.stop.run_until_cancelled(accepting).await else { return Ok(()) };
        let mut accepted = accepted?;
        drop(place);
        let name = accepted.identity.map(|identity| identity.name).unwrap_or_default();
        let Some(edge) = self.edges.iter().find(|edge| edge.name == name) else {
            tls::tell(&mut accepted.stream, Code::NOT_AN_EDGE).await;
            anyhow::bail!("edge {name:?} is not in this worker's configuration; add it to [edges]");
        };
        let edge = spile_worker::links::Edge { name, tenants: Some(edge.tenants.clone()) };
        tracing::info!(edge = edge.name, "link is up");
        spile_worker::links::serve(
            Arc::clone(&self.worker),
            edge,
            accepted.stream,
            self.stop.clone(),
        )
        .await?;
        Ok(())
    }
}

/// How long accepting rests after it failed.
const REST: Duration = Duration::from_millis(50);

fn deadlines() -> Deadlines {
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    Deadlines { hello: seconds(limits::CLIENT_HELLO_S), whole: seconds(limits::AUTH_S) }
}

/// One bit a slot, slot 0 the lowest of the first byte.
#[must_use]
pub fn bits(set: &SlotSet) -> [u8; 32] {
    let mut bits = [0; 32];
    for (byte, first) in bits.iter_mut().zip((0..=u8::MAX).step_by(8)) {
        *byte = (0..8).filter(|bit| set.contains(first + bit)).fold(0, |byte, bit| byte | 1 << bit);
    }
    bits
}

async fn tell(link: Arc<Link>, health: Health, served: CancellationToken) {
    let mut condition = link.condition();
    let fact = format!("link:{}", link.name());
    loop {
        match &*condition.borrow_and_update() {
            Condition::Up => health.set(&fact, Colour::Green, "up"),
            Condition::Away(why) => {
                let detail = format!("away: {why}; its keys wait, other keys go on");
                health.set(&fact, Colour::Yellow, detail);
            }
        }
        match served.run_until_cancelled(condition.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// The way to one worker.
struct To {
    connector: Arc<LinkConnector>,
    worker: String,
    address: String,
}

impl Connector for To {
    type Stream = TlsStream<Gulp<TcpStream>>;

    async fn connect(&self) -> io::Result<Self::Stream> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        self.connector.connect(Gulp::new(tcp), &self.worker).await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_slots() {
        let bits = bits(&SlotSet::parse("0-7,9,255").unwrap());
        assert_eq!((bits[0], bits[1], bits[31]), (0xff, 2, 0x80));
        assert_eq!(bits.iter().map(|byte| byte.count_ones()).sum::<u32>(), 10);
        assert!(
            (0..=255).all(|slot| has_slot(&bits, slot) == (slot < 8 || slot == 9 || slot == 255))
        );
    }
}
