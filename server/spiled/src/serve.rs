//! The edge of this process: its listener, its registry, its counters.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use spile_edge::cache::Cache;
use spile_edge::half_open::Caps;
use spile_edge::listener::{self, Door};
use spile_edge::metrics::Metrics;
use spile_edge::registry::Registry;
use spile_edge::upstream::Workers;
use spile_edge::{Edge, Parts};
use spile_protocol::session::edge;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::door::{Plain, Tls, random};
use crate::start::Room;
use crate::tls::Acceptor;

/// What sessions have of the drain's time; the rest is for the log and for ending.
const DRAIN_SHARE: u32 = 2;

/// Makes the edge of this process.
///
/// # Errors
/// The system has no random bytes.
pub fn edge(
    room: &Room,
    tenants: &[String],
    registry: Arc<dyn Registry>,
    workers: Workers,
) -> anyhow::Result<Arc<Edge>> {
    let limits = &room.config.limits;
    let mut session = edge::Config {
        frame_max: limits.frame,
        edge: Arc::from(room.config.name.as_str()),
        software: Arc::from(concat!("spiled/", env!("CARGO_PKG_VERSION"))),
        ..edge::Config::default()
    };
    if room.config.role.is_slow() {
        session.deadlines = edge::Deadlines::slow();
    }
    session.deadlines.drain = drain(room) / DRAIN_SHARE;
    let edge = Edge::new(Parts {
        session,
        tenants: tenants.to_vec(),
        sessions: usize::try_from(limits.sessions)?,
        registry,
        workers,
        cache_max_age: room.config.cache_max_age,
        random: random()?,
    });
    let (metrics, cache) = (Arc::clone(&edge.metrics), Arc::clone(&edge.cache));
    room.metrics.register(|registry| registry.register_collector(Box::new(Counts(metrics, cache))));
    Ok(edge)
}

fn drain(room: &Room) -> Duration {
    room.config.limits.drain / DRAIN_SHARE
}

/// Serves the devices' port until the process is told to end and its sessions have gone, and says so by `served`.
pub fn listen(
    room: &Room,
    edge: Arc<Edge>,
    listener: TcpListener,
    devices: Option<Arc<Acceptor>>,
    served: CancellationToken,
) {
    let following = Arc::clone(&edge);
    let stop = room.told.shutdown.clone();
    room.tasks.spawn(async move {
        // The registry outlives the sessions; what is left to follow ends with the process.
        stop.run_until_cancelled(following.follow_registry()).await.unwrap_or_default();
    });
    match devices {
        Some(acceptor) => {
            serve(room, Tls::new(acceptor, room.config.role.is_slow()), edge, listener, served)
        }
        None => serve(room, Plain, edge, listener, served),
    }
}

fn serve<D: Door>(
    room: &Room,
    door: D,
    edge: Arc<Edge>,
    listener: TcpListener,
    served: CancellationToken,
) {
    let limits = &room.config.limits;
    let cap = |cap: u32| usize::try_from(cap).unwrap_or(usize::MAX);
    let half_open = Caps { all: cap(limits.half_open), address: cap(limits.half_open_per_address) };
    let config = listener::Config { half_open, drain: drain(room) };
    let stop = room.told.shutdown.clone();
    room.tasks.spawn(async move {
        listener::serve(listener, Arc::new(door), edge, config, stop).await;
        served.cancel();
    });
}

/// An edge's counters, as Prometheus reads them.
#[derive(Debug)]
struct Counts(Arc<Metrics>, Arc<Cache>);

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (metrics, cache) = (&self.0, &self.1.counts);
        for (name, help, value) in [
            ("spile_edge_sessions", "Live sessions", metrics.sessions.get()),
            ("spile_edge_half_open", "Connections not authenticated yet", metrics.half_open.get()),
            ("spile_edge_links", "Links that are up", metrics.links.get()),
            ("spile_edge_cache_entries", "Values held to be told again", cache.entries()),
            ("spile_edge_cache_bytes", "What they take, in bytes", cache.bytes()),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            ("spile_edge_connections", "Connections accepted", metrics.connections.get()),
            ("spile_edge_handshakes", "TLS handshakes completed", metrics.handshakes.get()),
            ("spile_edge_cut", "Connections cut before they were a session", metrics.cut.get()),
            ("spile_edge_refused", "Authentications refused", metrics.refused.get()),
            ("spile_edge_events", "Events taken from clients", metrics.events.get()),
            ("spile_edge_event_bytes", "Payload taken from clients", metrics.event_bytes.get()),
            ("spile_edge_delivered", "Events delivered to clients", metrics.delivered.get()),
            ("spile_edge_cache_hits", "GETs answered from the cache", cache.hits.get()),
            (
                "spile_edge_cache_misses",
                "GETs that might have been, and went to a worker",
                cache.misses.get(),
            ),
            (
                "spile_edge_cache_changed",
                "Values let go since their worker said that they changed",
                cache.changed.get(),
            ),
            ("spile_edge_cache_evicted", "Values let go at a cap", cache.evicted.get()),
            ("spile_edge_denied", "Messages and events the policy denied", metrics.denied.get()),
            ("spile_edge_bytes_in", "Bytes read from clients, inside TLS", metrics.bytes_in.get()),
            (
                "spile_edge_bytes_out",
                "Bytes written to clients, inside TLS",
                metrics.bytes_out.get(),
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        self.faults(&mut encoder)
    }
}

impl Counts {
    fn faults(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = ("spile_edge_faults", "Faults sent, by code");
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (code, count) in self.0.faults().filter(|(_, count)| *count > 0) {
            let labels = [("code", code.name())];
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
