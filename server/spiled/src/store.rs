//! A worker's store: its logs on disk, the worker upon it, and what health and the process's end follow from both.
//!
//! Invariants: nothing is served before the log was recovered; a log that can't keep its promise ends the process; the
//! log is closed after the last session, and the process ends after that.

use std::path::Path;
use std::sync::{Arc, Weak};

use anyhow::{Context, anyhow};
use spile_log::{Lead, Log, Options, RealDisk, Recovered, State};
use spile_worker::{Logs, Worker};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::config::{Durability, RetentionRule};
use crate::counts::Counts;
use crate::durable;
use crate::health::{Colour, Health};
use crate::start::Room;

/// The folder of the event log in a data folder.
const EVENTS: &str = "events";

/// The folder of the log of uploads' chunks.
const CHUNKS: &str = "chunks";

/// Chunks that may wait for their disk: twice what stops those who send them.
const CHUNK_QUEUE_BYTES: usize = 64 << 20;

/// Space of the disk that the log of chunks takes ahead of its end.
const CHUNKS_AHEAD: u64 = 8 << 20;

/// The folder of the views' checkpoint: what is in it can be made again from the log.
const VIEWS: &str = "views";

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// The worker.
    pub worker: Arc<Worker>,
    logs: [Kept; 2],
}

/// One of the logs, and what health calls it.
#[derive(Debug, Clone)]
struct Kept {
    fact: &'static str,
    log: Log,
}

impl Store {
    /// Recovers the log in the room's data folder, or begins one, and starts the worker upon it.
    ///
    /// # Errors
    /// The log can't be read or written, or the views can't be made from it.
    pub async fn open(
        room: &Room,
        slots: [u8; 32],
        durability: Durability,
    ) -> anyhow::Result<Self> {
        let data = room.data.path().to_owned();
        let (name, keep) = (room.config.name.clone(), room.config.keep.clone());
        let retention = &room.config.retention;
        let every = retention.every.as_millis();
        let idle = durability.upload_idle.as_millis();
        let config = spile_worker::Config {
            name,
            slots,
            keep,
            upload_bytes: durability.upload_bytes,
            upload_idle_ms: u64::try_from(idle).unwrap_or(u64::MAX),
            retention: retention.rules.iter().map(RetentionRule::for_worker).collect(),
            retention_every_ms: u64::try_from(every).unwrap_or(u64::MAX),
            ..spile_worker::Config::default()
        };
        let opened = spawn_blocking(move || open(&data, config, durability)).await;
        let (store, recovered) = opened.context("log: open")??;
        for (kept, recovered) in store.logs.iter().zip(&recovered) {
            tell(&room.health, kept.fact, recovered);
            room.tasks.spawn(watch(room.clone(), kept.clone()));
        }
        let counts = Counts(Arc::downgrade(&store.worker));
        room.metrics.register(|registry| registry.register_collector(Box::new(counts)));
        let changed = store.worker.breakers_changed();
        room.tasks.spawn(watch_breakers(room.clone(), Arc::downgrade(&store.worker), changed));
        Ok(store)
    }

    /// Stores what waits, leaves a checkpoint for a quick start, and ends the logs' threads, once `served` says that nobody
    /// uses it any more.
    pub fn close_behind(self, room: &Room, served: CancellationToken) {
        let Self { logs, worker } = self;
        room.tasks.spawn(async move {
            served.cancelled().await;
            let close = move || {
                worker.checkpoint();
                drop(worker);
                logs.iter().for_each(|kept| kept.log.close());
            };
            if spawn_blocking(close).await.is_err() {
                tracing::error!("closing the log broke; the next start recovers it");
            }
        });
    }
}

fn open(
    data: &Path,
    config: spile_worker::Config,
    durability: Durability,
) -> anyhow::Result<(Store, [Recovered; 2])> {
    // They share a disk: events sync first, bulk in slices.
    let lead = Lead::default();
    let options = Options {
        segment_bytes: durability.segment,
        leads: Some(lead.clone()),
        ..Options::default()
    };
    // Bulk is not zero-filled ahead: that would halve its bandwidth. Nothing is held in reserve for it.
    let bulk = Options {
        segment_bytes: durability.chunk_segment,
        prefill: false,
        ahead_bytes: CHUNKS_AHEAD,
        leads: None,
        follows: Some(lead),
        reserve_bytes: 0,
        // Bulk ends before events have to.
        free_bytes_low: 2 * options.free_bytes_low,
        recent_bytes: 0,
        queue_bytes: CHUNK_QUEUE_BYTES,
        ..options.clone()
    };
    let (events, event_log) = open_log(data, EVENTS, options)?;
    let (chunks, chunk_log) = open_log(data, CHUNKS, bulk)?;
    let logs = Logs::new(Arc::new(events.clone()), Arc::new(chunks.clone()));
    let views = data.join(VIEWS);
    let worker = Worker::open(config, logs, Some(&views))
        .map_err(|why| anyhow!("log: open {}: {why}", data.join(EVENTS).display()))?;
    let logs = [Kept { fact: "log", log: events }, Kept { fact: "chunks", log: chunks }];
    Ok((Store { worker, logs }, [event_log, chunk_log]))
}

fn open_log(data: &Path, name: &str, options: Options) -> anyhow::Result<(Log, Recovered)> {
    let folder = data.join(name);
    let broken = |why: &dyn core::fmt::Display| anyhow!("log: open {}: {why}", folder.display());
    durable::make_folder(&folder)?;
    let disk = RealDisk::open(&folder).map_err(|why| broken(&why))?;
    Log::open(Arc::new(disk), options).map_err(|why| broken(&why))
}

fn tell(health: &Health, fact: &'static str, recovered: &Recovered) {
    let Recovered { start, end, unproven, segments, torn, damages, .. } = recovered;
    tracing::info!(log = fact, %start, %end, unproven, segments, "log recovered");
    if let Some(torn) = torn {
        let (file, bytes, at) = (&torn.file, torn.bytes, torn.at);
        tracing::warn!(file, bytes, %at, "a torn tail was kept aside; nothing in it was acknowledged");
    }
    for damage in damages.iter().filter(|damage| !damage.accepted) {
        tracing::error!(file = damage.file, from = %damage.from, to = %damage.to, "damaged records");
    }
    health.set(fact, Colour::Green, format!("positions {start} to {end}"));
}

/// Keeps health's fact about open breakers true: there is one as long as there is such a breaker. admin §9.2
async fn watch_breakers(room: Room, worker: Weak<Worker>, mut changed: watch::Receiver<u64>) {
    const FACT: &str = "breakers";
    while let Some(Ok(())) = room.told.shutdown.run_until_cancelled(changed.changed()).await {
        let Some(worker) = worker.upgrade() else { return };
        let breakers = worker.calls().breakers;
        if breakers.is_empty() {
            room.health.clear(FACT);
            continue;
        }
        let named = breakers.iter().map(|open| format!("{}/{}", open.tenant, open.service));
        let named = named.collect::<Vec<_>>().join(", ");
        let why = "failed too often; see `spile service ls` and what their members say";
        room.health.set(FACT, Colour::Yellow, format!("{named}: {why}"));
    }
}

/// Keeps health's fact about the log true; a sync that failed ends the process.
async fn watch(room: Room, kept: Kept) {
    let mut durable = kept.log.durable();
    let mut known = None;
    loop {
        let state = durable.borrow_and_update().state;
        if known != Some(state) {
            judge(&room, &kept, state);
            known = Some(state);
        }
        let changed =
            async { durable.wait_for(|durable| Some(durable.state) != known).await.is_ok() };
        match room.told.shutdown.run_until_cancelled(changed).await {
            Some(true) => {}
            Some(false) | None => return,
        }
    }
}

fn judge(room: &Room, Kept { fact, log }: &Kept, state: State) {
    let health = log.health();
    let damaged = health.damages.iter().find(|damage| !damage.accepted);
    match (state, damaged) {
        (State::Running, None) => room.health.set(fact, Colour::Green, "stores"),
        (State::Running | State::Damaged, Some(damage)) => {
            let (file, from, to) = (&damage.file, damage.from, damage.to);
            let hole =
                format!("{file}: positions {from} to {to} are damaged; restore them, or accept");
            room.health.set(fact, Colour::Red, hole);
        }
        (State::Damaged, None) => {
            room.health.set(fact, Colour::Red, "damaged; see the start-up log")
        }
        (State::Full, _) => {
            room.health.set(fact, Colour::Yellow, "the disk is full; free space or add a disk")
        }
        (State::Poisoned, _) => {
            let why = health.poisoned.unwrap_or_default();
            room.fail(
                fact,
                &format!(
                    "a sync failed: {why}; what waited is not acknowledged, restart on a sound disk"
                ),
            );
        }
    }
}
