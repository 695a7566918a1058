//! The roles: which rooms a process has, and how they are joined. The one place where edge and worker are wired.
//!
//! Two steps. [`prepare`] reads and makes files, before there is a runtime; [`start`] binds and spawns. What a session
//! or a link does lives in the edge's and the worker's crates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spile_edge::registry::Copy;
use spile_edge::upstream::Workers;
use spile_protocol::message::{self, List};
use spile_protocol::time::Millis;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::certs::deployment;
use crate::clock::unix_seconds;
use crate::config::{Config, DeviceListen, Durability, Role, TlsFiles};
use crate::health::Colour;
use crate::inprocess::InProcess;
use crate::serve;
use crate::start::{Room, bind};
use crate::store::Store;
use crate::tls::{Acceptor, LinkConnector, TlsError};

/// An all-in-one's worker has them all.
const ALL_SLOTS: [u8; 32] = [0xff; 32];

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
        Role::Worker { link_tls, .. } => {
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
        (Role::Edge { listen, .. }, Prepared::Edge { devices, links }) => {
            edge(room, *listen, devices, links).await
        }
        (Role::Worker { listen, .. }, Prepared::Worker { links }) => {
            worker(room, *listen, links).await
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
    let store = Store::open(room, ALL_SLOTS, durability).await?;
    let workers = Workers::one(Arc::new(InProcess(Arc::clone(&store.worker))));
    let registry = Arc::new(registry());
    let edge = serve::edge(room, tenants, registry, workers)?;
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
    devices: Option<Arc<Acceptor>>,
    links: Arc<LinkConnector>,
) -> anyhow::Result<Started> {
    let (listener, address) = bind("edge", listen.address, "--listen").await?;
    if let Some(devices) = devices {
        keep_fresh(room, "edge", move || devices.reload().map(|()| devices.certificate_ends()));
    }
    keep_fresh(room, "links", move || links.reload().map(|()| links.certificate_ends()));
    hold(room, listener);
    Ok(Started { listening: vec![("edge", address)], hints: Vec::new() })
}

async fn worker(room: &Room, listen: SocketAddr, links: Arc<Acceptor>) -> anyhow::Result<Started> {
    let (listener, address) = bind("worker", listen, "--listen").await?;
    keep_fresh(room, "links", move || links.reload().map(|()| links.certificate_ends()));
    hold(room, listener);
    Ok(Started { listening: vec![("worker", address)], hints: Vec::new() })
}

/// Holds a listener whose sessions are not part of this build: whoever comes is closed at once, and health says so.
fn hold(room: &Room, listener: TcpListener) {
    room.health.set("sessions", Colour::Yellow, "not part of this build; connections are closed");
    let shutdown = room.told.shutdown.clone();
    room.tasks.spawn(async move {
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            drop(accepted);
        }
    });
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

/// Nobody is registered: certificates alone let in.
fn registry() -> Copy {
    let registry = Copy::new(u64::MAX);
    let nobody = message::Registry {
        upto: 0,
        whole: true,
        entries: List::default(),
        more: false,
        groups: List::default(),
    };
    registry.apply(Millis(0), &nobody);
    registry
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
