//! The writer's thread and the keeper's: the only places that wait.
//!
//! The writer commits whenever something waits, with no timer before it. The keeper writes the watermark and looks whether a full
//! disk has room again; it is never between an append and its acknowledgement.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lock;
use crate::shared::Shared;

/// The keeper looks this often whether the log was idle, or has room again.
const TICK: Duration = Duration::from_secs(1);

/// The threads of one log.
#[derive(Debug)]
pub(crate) struct Threads {
    stop: Arc<(Mutex<bool>, Condvar)>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts both.
    pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let writing = shared.clone();
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || write(&writing))?;
        let (keeping, stopped) = (shared.clone(), stop.clone());
        let keeper = std::thread::Builder::new()
            .name("log-keeper".to_owned())
            .spawn(move || keep(&keeping, &stopped))?;
        Ok(Self { stop, handles: vec![writer, keeper] })
    }

    /// Lets the writer finish what waits and ends both.
    pub(crate) fn stop(self, shared: &Shared) {
        lock(&shared.queue).closed = true;
        shared.wake.notify_all();
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        for handle in self.handles {
            // A thread that panicked has nothing more to finish.
            drop(handle.join());
        }
    }
}

/// Commits until the log is closed and nothing waits.
fn write(shared: &Shared) {
    loop {
        let wrote = lock(&shared.writer).as_mut().is_some_and(|writer| writer.pump(shared));
        if wrote {
            continue;
        }
        if let Some(writer) = lock(&shared.writer).as_mut() {
            writer.prefill(shared);
        }
        let mut queue = lock(&shared.queue);
        while queue.pending.is_empty() {
            if queue.closed {
                return;
            }
            queue.idle = true;
            queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.idle = false;
    }
}

/// Tends the log every second, and whenever much was written.
fn keep(shared: &Shared, stop: &(Mutex<bool>, Condvar)) {
    let mut seen = 0;
    let mut stopped = lock(&stop.0);
    while !*stopped {
        stopped = stop.1.wait_timeout(stopped, TICK).unwrap_or_else(PoisonError::into_inner).0;
        drop(stopped);
        let commits = shared.counters.commits.load(std::sync::atomic::Ordering::Relaxed);
        shared.tend(commits == seen);
        seen = commits;
        stopped = lock(&stop.0);
    }
}
