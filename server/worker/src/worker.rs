//! The worker: a log, the tables that are a view of it, and the sessions that are attached.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use spile_log::{Durable, ReadError, State};
use spile_protocol::{
    id::{NameError, Slot, name},
    message::Attach,
    time::Millis,
};
use tokio::sync::watch;

use crate::{
    ahead::Ahead,
    changes::Changes,
    checkpoint::{self, Copied},
    clock::Clock,
    core::Core,
    groups::GroupsMeasured,
    keeper::{Keeper, Kept},
    limits::{
        AHEAD_BYTES, GROUP_KEYS, RETENTION_EVERY_MS, SNAPSHOT_ROWS, UPLOAD_BYTES, UPLOAD_IDLE_MS,
        VALUES, WAITING_CHUNK_BYTES,
    },
    links::share::Shares,
    log::{ChunkLog, EventLog},
    rebuild::{ApplyError, Rebuilt},
    registry::{self, Device, Follower},
    retention::{Retainer, Retention, RetentionCounts, Rule},
    services::{CallsMeasured, Services},
    session::Session,
    snapshot::{self, SnapshotError},
    status::{CallsStatus, Counters, Status, hours_left},
    tide::Tide,
    time_of_day::TimeOfDay,
    uploads::{
        chunks::Chunks,
        free,
        hashing::{self, Jobs, Tender},
    },
    views::{SledViews, Views, ViewsError},
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
    /// Filters of topics whose latest event is kept.
    pub keep: Vec<String>,
    /// The largest upload that is taken, in bytes; 1 TiB at most.
    pub upload_bytes: u64,
    /// An upload nobody goes on with for so long is forgotten.
    pub upload_idle_ms: u64,
    /// What time it is.
    pub clock: TimeOfDay,
    /// Keys of a group that may have something outstanding.
    pub group_keys: usize,
    /// Rows that a snapshot may change of the one before.
    pub snapshot_rows: usize,
    /// Which events are kept for how long; none: all of them, for ever.
    pub retention: Vec<Rule>,
    /// How often it is looked what may go.
    pub retention_every_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        let keep = vec!["state/#".to_owned()];
        Self {
            name: "worker".to_owned(),
            slots: [0xff; 32],
            waiting_bytes: 4 << 20,
            keep,
            upload_bytes: UPLOAD_BYTES,
            upload_idle_ms: UPLOAD_IDLE_MS,
            clock: TimeOfDay::Wall,
            group_keys: GROUP_KEYS,
            snapshot_rows: SNAPSHOT_ROWS,
            retention: Vec::new(),
            retention_every_ms: RETENTION_EVERY_MS,
        }
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
    /// The views can't be set aside.
    #[error(transparent)]
    Views(#[from] ViewsError),
    /// There is no snapshot to begin at.
    #[error("the views can't be rebuilt: {0}")]
    Snapshot(#[from] SnapshotError),
    /// A thread can't be started.
    #[error("a thread can't be started: {0}; raise the limit of threads")]
    Thread(io::Error),
}

/// The logs a worker rests on.
pub struct Logs {
    /// Of events: the truth.
    pub events: Arc<dyn EventLog>,
    /// Of chunks of uploads; without one no uploads are taken.
    pub chunks: Option<Arc<dyn ChunkLog>>,
    /// No thread tends uploads and retention: the owner calls [`Worker::tend_uploads`], [`Worker::snapshot`] and
    /// [`Worker::retain`].
    pub inline: bool,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("chunks", &self.chunks.is_some()).finish_non_exhaustive()
    }
}

impl Logs {
    /// Both.
    #[must_use]
    pub fn new(events: Arc<dyn EventLog>, chunks: Arc<dyn ChunkLog>) -> Self {
        Self { events, chunks: Some(chunks), inline: false }
    }
}

impl From<Arc<dyn EventLog>> for Logs {
    fn from(events: Arc<dyn EventLog>) -> Self {
        Self { events, chunks: None, inline: false }
    }
}

impl<L: EventLog + 'static> From<Arc<L>> for Logs {
    fn from(events: Arc<L>) -> Self {
        let events: Arc<dyn EventLog> = events;
        events.into()
    }
}

/// The worker. Everything it knows is in its log.
pub struct Worker {
    pub(crate) config: Config,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) kept: Arc<Kept>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its clock, for what has a deadline.
    pub(crate) clock: Clock,
    services: Mutex<Services>,
    sessions: AtomicU64,
    /// What subscriptions that wait hold.
    pub(crate) ahead: Ahead,
    /// Bytes that wait for the disk, as the core counted them last.
    waiting: Arc<AtomicUsize>,
    /// The same of the chunk log.
    waiting_chunks: Arc<AtomicUsize>,
    /// How many links share what may wait of chunks.
    pub(crate) shares: Shares,
    durable: watch::Receiver<Durable>,
    pub(crate) tide: Arc<Tide>,
    /// Uploads to be hashed from the log.
    pub(crate) jobs: Arc<Jobs>,
    _tender: Option<Tender>,
    pub(crate) retention: Arc<Retention>,
    _retainer: Option<Retainer>,
    _keeper: Keeper,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts on a log. Its views are made from the checkpoint in `views` and the log behind it; where that can't be read
    /// it is set aside, and they are made from the log alone. Without a folder nothing is kept but the log.
    pub fn open(
        config: Config,
        logs: impl Into<Logs>,
        views: Option<&Path>,
    ) -> Result<Arc<Self>, OpenError> {
        let logs = logs.into();
        let (views, rebuilt) = match views {
            Some(folder) => load(folder, &*logs.events, &config.keep)?,
            None => (None, snapshot::load(&*logs.events, &config.keep, None)?),
        };
        Self::start(config, logs, views, rebuilt)
    }

    /// The same with a store of checkpoints of the caller's. One that can't be read, or is of another log, is an
    /// error: whoever brings a store sets a bad one aside.
    pub fn open_with(
        config: Config,
        logs: impl Into<Logs>,
        mut views: Box<dyn Views>,
    ) -> Result<Arc<Self>, OpenError> {
        let logs = logs.into();
        let log = &*logs.events;
        let mut rebuilt = Rebuilt::load_all(&*views, log, &config.keep)?.ok_or(ViewsError::Row)?;
        if !snapshot::reaches(log, rebuilt.applied).map_err(SnapshotError::from)? {
            rebuilt = snapshot::load(log, &config.keep, Some(&mut *views))?;
        }
        Self::start(config, logs, Some(views), rebuilt)
    }

    fn start(
        config: Config,
        logs: Logs,
        views: Option<Box<dyn Views>>,
        mut rebuilt: Rebuilt,
    ) -> Result<Arc<Self>, OpenError> {
        if let Err(why) = name(&config.name) {
            return Err(OpenError::Name { name: config.name, why });
        }
        let Logs { events: log, chunks, inline } = logs;
        let checkpoint = rebuilt.applied;
        rebuilt.follow(&*log)?;
        if let Some(chunks) = &chunks {
            rebuilt.follow_chunks(&**chunks)?;
        }
        let Rebuilt { tables, registered, values, cursors, groups, mut uploads, .. } = rebuilt;
        let waiting_chunks = Arc::new(AtomicUsize::new(0));
        uploads.chunks = chunks.map(|chunks| Chunks::new(chunks, waiting_chunks.clone()));
        uploads.freed = true;
        let tended = !inline && uploads.chunks.is_some();
        let durable = log.durable();
        let tide = Arc::new(Tide::default());
        let risen = Arc::downgrade(&tide);
        log.listen(Box::new(move |durable| {
            risen.upgrade().is_some_and(|tide| {
                tide.rose(durable);
                true
            })
        }));
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut core =
            Core::new(log.clone(), tables, registered, values, cursors, uploads, waiting.clone());
        core.groups = groups;
        let kept = Arc::new(Kept::new(core, views, checkpoint));
        let (counters, clock) = (Arc::<Counters>::default(), Clock::start());
        let keeper = Keeper::start(kept.clone(), counters.clone(), clock);
        let keeper = keeper.map_err(OpenError::Thread)?;
        let jobs = Arc::new(Jobs::default());
        let tender =
            tended.then(|| Tender::start(kept.clone(), jobs.clone(), config.upload_idle_ms));
        let tender = tender.transpose().map_err(OpenError::Thread)?;
        let retention = Retention::new(kept.clone(), log.clone(), config.clone());
        let retainer = (!inline).then(|| Retainer::start(retention.clone()));
        let retainer = retainer.transpose().map_err(OpenError::Thread)?;
        let sessions = AtomicU64::new(0);
        Ok(Arc::new(Self {
            config,
            log,
            kept,
            counters,
            clock,
            services: Mutex::default(),
            sessions,
            waiting,
            waiting_chunks,
            shares: Shares::default(),
            ahead: Ahead::new(AHEAD_BYTES),
            durable,
            tide,
            jobs,
            _tender: tender,
            retention,
            _retainer: retainer,
            _keeper: keeper,
        }))
    }

    /// Writes a checkpoint of what changed since the last one, so that the next start has less to read. The same is done
    /// now and then while the worker runs.
    pub fn checkpoint(&self) {
        self.kept.checkpoint();
    }

    /// Makes the next snapshot of all views out of the last one and the log, and says up to where it holds; `None` where
    /// nothing is new. The same is done now and then while the worker runs. It takes a while: not for a runtime's thread.
    pub fn snapshot(&self) -> Result<Option<u64>, SnapshotError> {
        self.retention.snapshot(&|| false)
    }

    /// Removes what no rule keeps and nothing rests on, where both snapshots are past it. The same is done now and then while
    /// the worker runs. It takes a while: not for a runtime's thread.
    pub fn retain(&self) {
        self.retention.remove(&|| false);
    }

    /// What retention did since the start.
    #[must_use]
    pub fn retained(&self) -> &RetentionCounts {
        &self.retention.counts
    }

    /// All views as text, as far as they are durable: the same views give the same text.
    #[must_use]
    pub fn dump(&self) -> String {
        let copied = Copied::all(&mut self.core());
        checkpoint::dump(&copied.rows())
    }

    /// A session is here, and this is who it is. It is trusted: whoever attaches has checked it. The newest session of a
    /// (principal, run) stays, an older one is sent away.
    #[must_use]
    pub fn attach(self: &Arc<Self>, attach: &Attach<'_>) -> Session {
        let number = self.number();
        Session::attach(self.clone(), attach, number)
    }

    /// A number no session or member had.
    pub(crate) fn number(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Follows the registry for an edge: a whole copy, then changes. Only the worker of its slot has one to follow.
    #[must_use]
    pub fn follow_registry(self: &Arc<Self>, edge: &str) -> Option<Follower> {
        let number = self.number();
        self.has_registry().then(|| Follower::new(self.clone(), number, edge))
    }

    /// Follows changes of values for an edge that keeps what it was told. spec §10.8
    #[must_use]
    pub fn follow_changes(self: &Arc<Self>) -> Changes {
        Changes::new(self.clone())
    }

    /// Is this the worker that holds the slot of `$registry`?
    #[must_use]
    pub fn has_registry(&self) -> bool {
        let slot = Slot::of(registry::TENANT, registry::KEY).0;
        let byte = self.config.slots.get(usize::from(slot / 8)).copied().unwrap_or_default();
        byte & (1 << (slot % 8)) != 0
    }

    /// What is registered of a principal, as far as it is durable.
    #[must_use]
    pub fn registered(&self, tenant: &str, principal: &str) -> Option<Device> {
        let mut core = self.core();
        core.look();
        core.registered.get(tenant, principal).cloned()
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

    /// Is there room for more chunks? Asked by those who send any.
    #[must_use]
    pub fn has_room_for_chunks(&self) -> bool {
        if self.waiting_chunks.load(Ordering::Relaxed) < WAITING_CHUNK_BYTES {
            return true;
        }
        self.core().uploads.look();
        self.waiting_chunks.load(Ordering::Relaxed) < WAITING_CHUNK_BYTES
    }

    /// Hashes what was asked for, and gives back space: what a thread does, where the owner did not say
    /// [`Logs::inline`].
    pub fn tend_uploads(&self) {
        while let Some(job) = self.jobs.next() {
            hashing::run(&self.kept, &self.jobs, &job);
        }
        free::tend(&self.kept, &|| false);
    }

    /// Forgets uploads that nobody went on with for as long as the configuration says before `now`: done by the same thread.
    pub fn expire_uploads(&self, now: Millis) {
        free::expire(&self.kept, now, self.config.upload_idle_ms);
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut core = self.core();
        core.look();
        self.status_of(&core, None)
    }

    pub(crate) fn status_of(&self, core: &Core, lags_of: Option<&str>) -> Status {
        let health = self.log.health();
        let durable = *self.durable.borrow();
        let free = health.disk.map(|disk| disk.free_bytes);
        let mut wrong: Vec<String> = Vec::new();
        wrong.extend(health.poisoned.clone());
        wrong.extend(health.full.clone());
        let damaged = health.damages.iter().filter(|damage| !damage.accepted);
        wrong.extend(damaged.map(|damage| {
            format!("{}: positions {} up to {} are damaged", damage.file, damage.from, damage.to)
        }));
        let turned_away = core.values.turned_away();
        if turned_away > 0 {
            wrong.push(format!(
                "{turned_away} values were not kept, since {VALUES} are; let values expire (--ttl) or keep fewer topics"
            ));
        }
        let mut files = core.uploads.status();
        let chunks_good = files.wrong.is_empty();
        wrong.append(&mut files.wrong);
        let tables = &core.tables;
        let (groups, in_flight, dead) = core.groups.counts();
        let (lag, unread, lags) = core.groups.lags(durable.end.get(), lags_of);
        let rates = self.counters.tenths(self.clock.now());
        Status {
            files,
            calls: self.calls(),
            worker: self.config.name.clone(),
            slots: self.config.slots.iter().map(|byte| byte.count_ones()).sum(),
            healthy: health.is_good()
                && durable.state == State::Running
                && turned_away == 0
                && chunks_good,
            wrong,
            start: self.log.start(),
            end: durable.end.get(),
            streams: tables.streams.len(),
            runs: tables.runs.len(),
            devices: core.registered.len(),
            values: core.values.len(),
            found: self.counters.found.get(),
            missed: self.counters.missed.get(),
            sessions: self.counters.sessions.get(),
            links: self.counters.links.get(),
            events: self.counters.events.get(),
            bytes: self.counters.bytes.get(),
            voids: self.counters.voids.get(),
            duplicates: self.counters.duplicates.get(),
            delivered: self.counters.delivered_events.get(),
            delivered_bytes: self.counters.delivered_bytes.get(),
            events_per_s: rates.map(|[events, ..]| events),
            bytes_per_s: rates.map(|[_, bytes, _]| bytes / 10),
            delivered_per_s: rates.map(|[.., delivered]| delivered),
            groups,
            in_flight,
            dead,
            lag,
            unread,
            lags,
            redelivered: self.counters.redelivered.get(),
            settled: self.counters.settled.get(),
            died: self.counters.died.get(),
            commits: health.commits,
            segments: health.segments,
            log_bytes: health.segment_bytes,
            waiting_bytes: health.waiting_bytes,
            checkpoints: self.kept.checkpoints(),
            snapshots: self.retention.counts.snapshots.get(),
            snapshot: self.retention.newest(),
            segments_removed: self.retention.counts.removed.get(),
            segments_rewritten: self.retention.counts.rewritten.get(),
            freed_bytes: self.retention.counts.freed.get(),
            sealed: self.counters.sealed.get(),
            chunk_bytes: self.counters.chunk_bytes.get(),
            read_bytes: self.counters.read_bytes.get(),
            disk_free_bytes: free,
            disk_total_bytes: health.disk.map(|disk| disk.total_bytes),
            sync_p50_us: health.sync_p50_us,
            sync_p99_us: health.sync_p99_us,
            hours_left: hours_left(free, health.bytes_per_hour),
        }
    }

    /// Counts up whenever a breaker of a service opens or closes; [`Self::calls`] says which are not closed.
    #[must_use]
    pub fn breakers_changed(&self) -> watch::Receiver<u64> {
        self.services().breakers_changed()
    }

    /// How calls go.
    #[must_use]
    pub fn calls(&self) -> CallsStatus {
        self.services().status(self.clock.now())
    }

    /// How long calls took, and how they failed.
    #[must_use]
    pub fn calls_measured(&self) -> CallsMeasured {
        self.services().measured()
    }

    /// How far groups are. It may read a bounded part of the log.
    #[must_use]
    pub fn groups_measured(&self) -> GroupsMeasured {
        crate::groups::measure::measured(self)
    }

    /// The state, for a moment: nothing waits while it is held.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.kept.core()
    }

    /// Who serves what, for a moment. Locked behind the core where both are, never before it.
    pub(crate) fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn position_at(&self, time_ms: u64) -> Result<u64, ReadError> {
        self.log.position_at(time_ms)
    }
}

/// The checkpoint in a folder, and the store to write the next to. Where it can't be used the views begin at the newest
/// snapshot, and so does the next checkpoint.
fn load(
    folder: &Path,
    log: &dyn EventLog,
    keep: &[String],
) -> Result<(Option<Box<dyn Views>>, Rebuilt), OpenError> {
    let why = match SledViews::open(folder) {
        Ok(views) => match Rebuilt::load_all(&views, log, keep) {
            Ok(Some(rebuilt))
                if snapshot::reaches(log, rebuilt.applied).map_err(SnapshotError::from)? =>
            {
                return Ok((Some(Box::new(views)), rebuilt));
            }
            Ok(Some(_)) => "the log was thinned out behind it".to_owned(),
            Ok(None) => "it is of another log".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!(folder = %folder.display(), why, "the checkpoint is set aside, the views are rebuilt");
    SledViews::set_aside(folder)?;
    let mut views = SledViews::open(folder)?;
    let rebuilt = snapshot::load(log, keep, Some(&mut views))?;
    Ok((Some(Box::new(views)), rebuilt))
}
