//! The thread that makes snapshots, so that nobody who takes events ever waits for one.
//!
//! The invariant: it takes no lock that sessions wait for while it reads or writes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    limits::{SNAPSHOT_S, SNAPSHOT_START_S},
    log::EventLog,
    snapshot::{self, SnapshotError},
    worker::Config,
};

/// The thread. Dropping it ends it; a snapshot that is not whole by then never was.
pub(crate) struct Retainer {
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Retainer {
    pub(crate) fn start(log: Arc<dyn EventLog>, config: Config) -> io::Result<Self> {
        let closed = Arc::<AtomicBool>::default();
        let shared = closed.clone();
        let builder = thread::Builder::new().name("retention".to_owned());
        let thread = Some(builder.spawn(move || keep(&*log, &config, &shared))?);
        Ok(Self { closed, thread })
    }
}

impl Drop for Retainer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread of retention panicked");
            }
        }
    }
}

fn keep(log: &dyn EventLog, config: &Config, closed: &AtomicBool) {
    let stop = || closed.load(Ordering::Acquire);
    let mut wait_s = SNAPSHOT_START_S;
    while !stop() {
        thread::park_timeout(Duration::from_secs(1));
        wait_s = wait_s.saturating_sub(1);
        if wait_s == 0 {
            wait_s = SNAPSHOT_S;
            while !stop() && is_due(log) && snap(log, config, &stop) {}
        }
    }
}

/// Is a segment sealed that the newest snapshot does not hold?
fn is_due(log: &dyn EventLog) -> bool {
    let newest = log.snapshots().ok().and_then(|found| found.first().copied()).unwrap_or(0);
    log.sealed().last().is_some_and(|segment| segment.range.end.get() > newest)
}

/// Makes the next snapshot: says whether there was one to be made.
fn snap(log: &dyn EventLog, config: &Config, stop: &dyn Fn() -> bool) -> bool {
    match snapshot::next(log, config, stop) {
        Ok(Some(position)) => {
            tracing::info!(position, "a snapshot of the views was made");
            true
        }
        Ok(None) | Err(SnapshotError::Stopped) => false,
        Err(error) => {
            tracing::warn!(%error, "no snapshot is made; the log keeps what the views rest on");
            false
        }
    }
}
