//! The state and where its checkpoints go, and the thread that writes them, so that nobody who takes events ever waits for
//! the store. Once a second it looks at what was counted, too, so that rates can be told.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    checkpoint::Copied,
    clock::Clock,
    core::Core,
    limits::{CHECKPOINT_POSITIONS, CHECKPOINT_ROWS, CHECKPOINT_S, CHECKPOINT_START},
    status::Counters,
    views::{self, Views},
};

/// What the worker and the thread share.
pub(crate) struct Kept {
    core: Mutex<Core>,
    /// Where checkpoints go; `None` where none are kept.
    views: Mutex<Option<Box<dyn Views>>>,
    closed: AtomicBool,
    checkpoints: AtomicU64,
    /// Up to where the last checkpoint holds.
    applied: AtomicU64,
}

impl Kept {
    /// `applied`: up to where the checkpoint that is there holds.
    pub(crate) fn new(core: Core, views: Option<Box<dyn Views>>, applied: u64) -> Self {
        let (core, views) = (Mutex::new(core), Mutex::new(views));
        let (checkpoints, applied) = (AtomicU64::new(0), AtomicU64::new(applied));
        Self { core, views, closed: AtomicBool::new(false), checkpoints, applied }
    }

    /// The state, for a moment: nothing waits while it is held.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn views(&self) -> MutexGuard<'_, Option<Box<dyn Views>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a checkpoint of what changed since the last. After a failure none is written any more: the last good one
    /// and the log give the views at the next start.
    pub(crate) fn checkpoint(&self) {
        let mut views = self.views();
        let Some(store) = views.as_mut() else { return };
        let copied = Copied::changed(&mut self.core());
        let changes = copied.rows();
        let applied = changes.applied;
        match views::store(&mut **store, changes) {
            Ok(()) => {
                self.applied.store(applied, Ordering::Relaxed);
                self.checkpoints.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::error!(%error, "no more checkpoints are written until the next start");
                *views = None;
            }
        }
    }

    /// How many rows the next checkpoint has, and how many positions a start would read without it.
    fn changed(&self) -> (usize, u64) {
        let core = self.core();
        let changed = &core.tables.changed;
        let rows = changed.streams.len() + changed.runs.len() + changed.producers.len();
        let rows = rows + core.values.changed() + core.cursors.changed() + core.uploads.changed();
        let rows = rows + core.groups.dirty();
        let end = core.durable.borrow().end.get();
        (rows, end.saturating_sub(self.applied.load(Ordering::Relaxed)))
    }

    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Relaxed)
    }
}

/// The thread. Dropping it ends it, behind the checkpoint it is at: who opens log and store next has them alone.
pub(crate) struct Keeper {
    kept: Arc<Kept>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(
        kept: Arc<Kept>,
        counters: Arc<Counters>,
        clock: Clock,
    ) -> io::Result<Self> {
        let shared = kept.clone();
        let builder = thread::Builder::new().name("checkpoints".to_owned());
        let thread = Some(builder.spawn(move || keep(&shared, &counters, clock))?);
        Ok(Self { kept, thread })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kept.closed.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread that writes checkpoints panicked");
            }
        }
    }
}

fn keep(kept: &Kept, counters: &Counters, clock: Clock) {
    counters.look(clock.now());
    // A worker that is killed again and again within seconds must not read a longer log at each start.
    if kept.changed().1 >= CHECKPOINT_START {
        kept.checkpoint();
    }
    let mut waited_s = 0;
    while !kept.closed.load(Ordering::Acquire) {
        thread::park_timeout(Duration::from_secs(1));
        waited_s += 1;
        counters.look(clock.now());
        let (rows, behind) = kept.changed();
        let much = rows >= CHECKPOINT_ROWS || behind >= CHECKPOINT_POSITIONS;
        if rows > 0 && (much || waited_s >= CHECKPOINT_S) {
            kept.checkpoint();
            waited_s = 0;
        }
    }
}
