//! The roles: which rooms a process has, and how they are joined. The one place where edge and worker are wired.
//!
//! Two steps. [`prepare`] reads and makes files, before there is a runtime; [`start`] binds and spawns. What a session
//! or a link does lives in the edge's and the worker's crates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spile_edge::upstream::Workers;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::certs::deployment;
use crate::clock::unix_seconds;
use crate::config::{
    Config, DeviceListen, Durability, EdgeLink, Role, SlotSet, TlsFiles, WorkerLink,
};
use crate::data::tenure;
use crate::health::Colour;
use crate::inprocess::{self, InProcess};
use crate::kept;
use crate::links;
use crate::serve;
use crate::start::{Room, bind};
use crate::store::Store;
use crate::tls::{Acceptor, LinkConnector, TlsError};

/// A certificate that ends sooner than this, in seconds, is a yellow fact.
const ENDS_SOON: u64 = 14 * 86_400;

/// What is there before the runtime is.
#[derive(Debug)]
pub enum Prepared {
    /// Edge and worker in one process.
    All {
        /// The devices' port; `None` when it is plaintext.
        devices: Option<Arc<Acceptor>>,
        /// Where contexts are written once the address is known.
        dev: PathBuf,
    },
    /// An edge.
    Edge {
        /// The devices' port; `None` when it is plaintext.
        devices: Option<Arc<Acceptor>>,
        /// The way to workers.
        links: Arc<LinkConnector>,
    },
    /// A worker.
    Worker {
        /// The links' port.
        links: Arc<Acceptor>,
    },
}

/// What a role says of itself once it has started.
#[derive(Debug)]
pub struct Started {
    /// Its listeners, as the ready line names them.
    pub listening: Vec<(&'static str, SocketAddr)>,
    /// Lines for people: where credentials are, what to try.
    pub hints: Vec<String>,
}

/// Makes and reads what a role needs from disk.
///
/// # Errors
/// A file is missing or wrong, or can't be made.
pub fn prepare(config: &Config, data: &Path, now: u64) -> anyhow::Result<Prepared> {
    match &config.role {
        Role::All { tenants, listen, .. } => {
            tenure::claim(data, &config.name, &SlotSet::ALL)?;
            let local = deployment::local(data, &config.name, first(tenants), now)?;
            Ok(Prepared::All {
                devices: device_acceptor(*listen, Some(&local.tls))?,
                dev: local.dev,
            })
        }
        Role::Edge { listen, tls, link_tls, .. } => Ok(Prepared::Edge {
            devices: device_acceptor(*listen, tls.as_ref())?,
            links: Arc::new(LinkConnector::new(link_tls)?),
        }),
        Role::Worker { link_tls, slots, .. } => {
            tenure::claim(data, &config.name, slots)?;
            Ok(Prepared::Worker { links: Arc::new(Acceptor::for_links(link_tls)?) })
        }
    }
}

fn device_acceptor(
    listen: DeviceListen,
    tls: Option<&TlsFiles>,
) -> Result<Option<Arc<Acceptor>>, TlsError> {
    if listen.insecure {
        tracing::warn!(address = %listen.address, "insecure = true: PLAINTEXT on this listener");
        return Ok(None);
    }
    tls.map(|files| Acceptor::for_devices(files).map(Arc::new)).transpose()
}

/// Binds the role's listeners and spawns its tasks into the room's tracker.
///
/// # Errors
/// An address is taken.
pub async fn start(room: &Room, prepared: Prepared) -> anyhow::Result<Started> {
    match (&room.config.role, prepared) {
        (Role::All { tenants, listen, durability }, Prepared::All { devices, dev }) => {
            all(room, *listen, tenants, *durability, devices, dev).await
        }
        (Role::Edge { listen, tenants, workers, .. }, Prepared::Edge { devices, links }) => {
            edge(room, *listen, tenants, workers, devices, links).await
        }
        (Role::Worker { listen, slots, durability, edges, .. }, Prepared::Worker { links }) => {
            worker(room, *listen, (slots, *durability), edges, links).await
        }
        (Role::All { .. } | Role::Edge { .. } | Role::Worker { .. }, _) => {
            anyhow::bail!("start: what was prepared is for another role; report this")
        }
    }
}

async fn all(
    room: &Room,
    listen: DeviceListen,
    tenants: &[String],
    durability: Durability,
    devices: Option<Arc<Acceptor>>,
    dev: PathBuf,
) -> anyhow::Result<Started> {
    let (listener, address) = bind("edge", listen.address, "--listen").await?;
    let (folder, tenant) = (dev.clone(), first(tenants).to_owned());
    spawn_blocking(move || deployment::write_contexts(&folder, address, &tenant)).await??;
    let store = Store::open(room, links::bits(&SlotSet::ALL), durability).await?;
    let (worker, edge) = (Arc::clone(&store.worker), room.config.name.clone());
    let changes = store.worker.follow_changes();
    let workers = Workers::one(Arc::new(InProcess { worker, edge, asking: changes.asking() }));
    let registry = inprocess::registry(room, &store.worker);
    let edge = serve::edge(room, tenants, registry, workers)?;
    inprocess::follow_changes(room, changes, Arc::clone(&edge.cache));
    if let Some(devices) = devices.clone() {
        keep_fresh(room, "edge", move || devices.reload().map(|()| devices.certificate_ends()));
    }
    let served = CancellationToken::new();
    serve::listen(room, edge, listener, devices, served.clone());
    store.close_behind(room, served);
    Ok(Started { listening: vec![("edge", address)], hints: hints(&dev) })
}

async fn edge(
    room: &Room,
    listen: DeviceListen,
    tenants: &[String],
    workers: &[WorkerLink],
    devices: Option<Arc<Acceptor>>,
    connector: Arc<LinkConnector>,
) -> anyhow::Result<Started> {
    let (listener, address) = bind("edge", listen.address, "--listen").await?;
    let links = links::Links::new(workers)?;
    kept::restore(room, &links.registry());
    let edge = serve::edge(room, tenants, links.registry(), links.workers())?;
    if let Some(devices) = devices.clone() {
        keep_fresh(room, "edge", move || devices.reload().map(|()| devices.certificate_ends()));
    }
    let fresh = Arc::clone(&connector);
    keep_fresh(room, "links", move || fresh.reload().map(|()| fresh.certificate_ends()));
    let served = CancellationToken::new();
    links.start(room, &edge, &connector, &served)?;
    serve::listen(room, edge, listener, devices, served);
    Ok(Started { listening: vec![("edge", address)], hints: Vec::new() })
}

async fn worker(
    room: &Room,
    listen: SocketAddr,
    (slots, durability): (&SlotSet, Durability),
    edges: &[EdgeLink],
    acceptor: Arc<Acceptor>,
) -> anyhow::Result<Started> {
    let (listener, address) = bind("worker", listen, "--listen").await?;
    let store = Store::open(room, links::bits(slots), durability).await?;
    let fresh = Arc::clone(&acceptor);
    keep_fresh(room, "links", move || fresh.reload().map(|()| fresh.certificate_ends()));
    let served = CancellationToken::new();
    let worker = Arc::clone(&store.worker);
    links::listen(room, worker, edges, listener, acceptor, served.clone());
    store.close_behind(room, served);
    Ok(Started { listening: vec![("worker", address)], hints: Vec::new() })
}

/// Reloads certificates when told to, and keeps health's fact about them true.
fn keep_fresh(
    room: &Room,
    which: &'static str,
    reload: impl Fn() -> Result<u64, TlsError> + Send + Sync + 'static,
) {
    let (health, told) = (room.health.clone(), room.told.clone());
    let reload = Arc::new(reload);
    room.tasks.spawn(async move {
        let mut asked = told.reload.clone();
        let fact = format!("certificate:{which}");
        loop {
            let reload = Arc::clone(&reload);
            let (colour, detail) = match spawn_blocking(move || reload()).await {
                Ok(Ok(ends)) => judge(ends, unix_seconds()),
                Ok(Err(why)) => (Colour::Yellow, format!("reload failed, the old stays: {why}")),
                Err(why) => (Colour::Yellow, format!("reload broke, the old stays: {why}")),
            };
            tracing::info!(which, ?colour, detail, "certificates");
            health.set(&fact, colour, detail);
            let change = told.shutdown.run_until_cancelled(asked.changed());
            let Some(Ok(())) = change.await else { return };
        }
    });
}

fn judge(ends: u64, now: u64) -> (Colour, String) {
    let days = ends.saturating_sub(now) / 86_400;
    if ends <= now.saturating_add(ENDS_SOON) {
        return (Colour::Yellow, format!("ends in {days} days; renew it and send SIGHUP"));
    }
    (Colour::Green, format!("ends in {days} days"))
}

fn first(tenants: &[String]) -> &str {
    tenants.first().map_or("main", String::as_str)
}

fn hints(dev: &Path) -> Vec<String> {
    let (operator, device) = (dev.join("operator.toml"), dev.join("device.toml"));
    let (operator, device) = (operator.display(), device.display());
    vec![
        format!("credentials: operator {operator}, device {device}"),
        "try:".to_owned(),
        format!("  spile --context {operator} subscribe 'telemetry/#'"),
        format!("  spile --context {device} publish telemetry/temp 21.5"),
    ]
}
