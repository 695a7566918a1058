//! The worker: a log, the tables that are a view of it, and the sessions that are attached.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use spile_log::{Durable, ReadError, State};
use spile_protocol::{
    id::{NameError, name},
    message::Attach,
};
use tokio::sync::watch;

use crate::{
    core::Core,
    log::EventLog,
    rebuild::{ApplyError, Rebuilt},
    session::Session,
    status::{Counters, Status},
};

/// What a worker is told when it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name: the first half of its positions.
    pub name: String,
    /// Which of the slots it holds: one bit each, as in LINK_HELLO.
    pub slots: [u8; 32],
    /// Bytes that may wait for the disk before sessions are asked to stop reading. Keep it at a quarter of the log's queue:
    /// every session may add one read to it.
    pub waiting_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "worker".to_owned(), slots: [0xff; 32], waiting_bytes: 4 << 20 }
    }
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its name is not one.
    #[error("a worker can't be called {name:?}: {why}")]
    Name {
        /// What was said.
        name: String,
        /// Why not.
        why: NameError,
    },
    /// The views can't be made from the log.
    #[error("the views can't be rebuilt: {0}")]
    Rebuild(#[from] ApplyError),
}

/// The worker. Everything it knows is in its log.
pub struct Worker {
    pub(crate) config: Config,
    pub(crate) log: Arc<dyn EventLog>,
    core: Mutex<Core>,
    /// What it counts.
    pub counters: Counters,
    sessions: AtomicU64,
    /// Bytes that wait for the disk, as the core counted them last.
    waiting: Arc<AtomicUsize>,
    durable: watch::Receiver<Durable>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts on a log: its views are made from it.
    pub fn open(config: Config, log: Arc<dyn EventLog>) -> Result<Arc<Self>, OpenError> {
        if let Err(why) = name(&config.name) {
            return Err(OpenError::Name { name: config.name, why });
        }
        let mut rebuilt = Rebuilt::default();
        rebuilt.follow(&*log)?;
        let Rebuilt { tables, registered, .. } = rebuilt;
        let durable = log.durable();
        let waiting = Arc::new(AtomicUsize::new(0));
        let core = Mutex::new(Core::new(log.clone(), tables, registered, waiting.clone()));
        let (counters, sessions) = (Counters::default(), AtomicU64::new(0));
        Ok(Arc::new(Self { config, log, core, counters, sessions, waiting, durable }))
    }

    /// A session is here, and this is who it is. It is trusted: whoever attaches has checked it. The newest session of a
    /// (principal, run) stays, an older one is sent away.
    #[must_use]
    pub fn attach(self: &Arc<Self>, attach: &Attach<'_>) -> Session {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        Session::attach(self.clone(), attach, number)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Which slots it holds.
    #[must_use]
    pub fn slots(&self) -> [u8; 32] {
        self.config.slots
    }

    /// How far its log is on disk.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// Is there room for more events? Where not, they wait with their senders.
    #[must_use]
    pub fn has_room(&self) -> bool {
        if self.waiting.load(Ordering::Relaxed) < self.config.waiting_bytes {
            return true;
        }
        let mut core = self.core();
        core.look();
        self.waiting.load(Ordering::Relaxed) < self.config.waiting_bytes
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let health = self.log.health();
        let durable = *self.durable.borrow();
        let mut wrong: Vec<String> = Vec::new();
        wrong.extend(health.poisoned.clone());
        wrong.extend(health.full.clone());
        let damaged = health.damages.iter().filter(|damage| !damage.accepted);
        wrong.extend(damaged.map(|damage| {
            format!("{}: positions {} up to {} are damaged", damage.file, damage.from, damage.to)
        }));
        let core = self.core();
        let tables = &core.tables;
        Status {
            worker: self.config.name.clone(),
            healthy: health.is_good() && durable.state == State::Running,
            wrong,
            start: self.log.start(),
            end: durable.end.get(),
            streams: tables.streams.len(),
            runs: tables.runs.len(),
            devices: core.registered.len(),
            sessions: self.counters.sessions.get(),
            links: self.counters.links.get(),
            events: self.counters.events.get(),
            bytes: self.counters.bytes.get(),
            voids: self.counters.voids.get(),
            duplicates: self.counters.duplicates.get(),
            delivered: self.counters.delivered_events.get(),
            commits: health.commits,
            segments: health.segments,
            log_bytes: health.segment_bytes,
            waiting_bytes: health.waiting_bytes,
        }
    }

    /// The state, for a moment: nothing waits while it is held.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn position_at(&self, time_ms: u64) -> Result<u64, ReadError> {
        self.log.position_at(time_ms)
    }
}
