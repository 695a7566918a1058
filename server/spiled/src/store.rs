//! A worker's store: its log on disk, the worker upon it, and what health and the process's end follow from both.
//!
//! Invariants: nothing is served before the log was recovered; a log that can't keep its promise ends the process; the
//! log is closed after the last session, and the process ends after that.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use spile_log::{Log, Options, RealDisk, Recovered, State};
use spile_worker::Worker;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::config::Durability;
use crate::durable;
use crate::health::{Colour, Health};
use crate::start::Room;

/// The folder of the event log in a data folder.
const EVENTS: &str = "events";

/// The folder of the views' checkpoint: what is in it can be made again from the log.
const VIEWS: &str = "views";

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// The worker.
    pub worker: Arc<Worker>,
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
        let config = spile_worker::Config { name, slots, keep, ..spile_worker::Config::default() };
        let opened = spawn_blocking(move || open(&data, config, durability)).await;
        let (store, recovered) = opened.context("log: open")??;
        tell(&room.health, &recovered);
        room.tasks.spawn(watch(room.clone(), store.log.clone()));
        Ok(store)
    }

    /// Stores what waits, leaves a checkpoint for a quick start, and ends the log's threads, once `served` says that nobody
    /// uses it any more.
    pub fn close_behind(self, room: &Room, served: CancellationToken) {
        let Self { log, worker } = self;
        room.tasks.spawn(async move {
            served.cancelled().await;
            let close = move || {
                worker.checkpoint();
                drop(worker);
                log.close();
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
) -> anyhow::Result<(Store, Recovered)> {
    let folder = data.join(EVENTS);
    let broken = |why: &dyn core::fmt::Display| anyhow!("log: open {}: {why}", folder.display());
    durable::make_folder(&folder)?;
    let disk = RealDisk::open(&folder).map_err(|why| broken(&why))?;
    let options = Options { segment_bytes: durability.segment, ..Options::default() };
    let (log, recovered) = Log::open(Arc::new(disk), options).map_err(|why| broken(&why))?;
    let views = data.join(VIEWS);
    let worker =
        Worker::open(config, Arc::new(log.clone()), Some(&views)).map_err(|why| broken(&why))?;
    Ok((Store { worker, log }, recovered))
}

fn tell(health: &Health, recovered: &Recovered) {
    let Recovered { start, end, unproven, segments, torn, damages, .. } = recovered;
    tracing::info!(%start, %end, unproven, segments, "log recovered");
    if let Some(torn) = torn {
        let (file, bytes, at) = (&torn.file, torn.bytes, torn.at);
        tracing::warn!(file, bytes, %at, "a torn tail was kept aside; nothing in it was acknowledged");
    }
    for damage in damages.iter().filter(|damage| !damage.accepted) {
        tracing::error!(file = damage.file, from = %damage.from, to = %damage.to, "damaged records");
    }
    health.set("log", Colour::Green, format!("positions {start} to {end}"));
}

/// Keeps health's fact about the log true; a sync that failed ends the process.
async fn watch(room: Room, log: Log) {
    let mut durable = log.durable();
    let mut known = None;
    loop {
        let state = durable.borrow_and_update().state;
        if known != Some(state) {
            judge(&room, &log, state);
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

fn judge(room: &Room, log: &Log, state: State) {
    let health = log.health();
    let damaged = health.damages.iter().find(|damage| !damage.accepted);
    match (state, damaged) {
        (State::Running, None) => room.health.set("log", Colour::Green, "stores"),
        (State::Running | State::Damaged, Some(damage)) => {
            let (file, from, to) = (&damage.file, damage.from, damage.to);
            let hole =
                format!("{file}: positions {from} to {to} are damaged; restore them, or accept");
            room.health.set("log", Colour::Red, hole);
        }
        (State::Damaged, None) => {
            room.health.set("log", Colour::Red, "damaged; see the start-up log")
        }
        (State::Full, _) => {
            room.health.set("log", Colour::Yellow, "the disk is full; free space or add a disk")
        }
        (State::Poisoned, _) => {
            let why = health.poisoned.unwrap_or_default();
            room.fail(
                "log",
                &format!(
                    "a sync failed: {why}; what waited is not acknowledged, restart on a sound disk"
                ),
            );
        }
    }
}
