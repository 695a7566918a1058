//! The writer's thread and the keeper's: the only places that wait.
//!
//! The writer commits whenever something waits, with no timer before it. The keeper writes the watermark, fills the next segment
//! with zeros and looks whether a full disk has room again; it is never between an append and its acknowledgement.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lock;
use crate::shared::Shared;

/// The keeper looks this often whether the log was idle, or has room again.
const TICK: Duration = Duration::from_secs(1);

/// Wakes the keeper before its time.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    called: Mutex<Called>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Called {
    work: bool,
    stop: bool,
}

impl Keeper {
    /// There is a footer to write.
    pub(crate) fn wake(&self) {
        lock(&self.called).work = true;
        self.bell.notify_all();
    }

    fn stop(&self) {
        lock(&self.called).stop = true;
        self.bell.notify_all();
    }

    /// Waits for work, no longer than this. Says whether to go on.
    fn wait(&self, most: Duration) -> bool {
        let called = lock(&self.called);
        let waiting = |called: &mut Called| !called.work && !called.stop;
        let woken = self.bell.wait_timeout_while(called, most, waiting);
        let (mut called, _) = woken.unwrap_or_else(PoisonError::into_inner);
        called.work = false;
        !called.stop
    }
}

/// The threads of one log.
#[derive(Debug)]
pub(crate) struct Threads {
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts both.
    pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let spawn = |name: &str, work: fn(&Shared)| {
            let shared = shared.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared))
        };
        Ok(Self { handles: vec![spawn("log-writer", write)?, spawn("log-keeper", keep)?] })
    }

    /// Lets the writer finish what waits and ends both.
    pub(crate) fn stop(self, shared: &Shared) {
        lock(&shared.queue).closed = true;
        shared.wake.notify_all();
        shared.keeper.stop();
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

/// Tends the log every second, writes a footer when one waits, and fills the next segment, resting as long as it works.
fn keep(shared: &Shared) {
    if let Ok(free) = shared.disk.free_bytes() {
        shared.note_space(free);
    }
    let passed_since = |then| shared.disk.passed().saturating_sub(then);
    let (mut seen, mut ticked, mut rest) = (0, shared.disk.passed(), None);
    while shared.keeper.wait(rest.unwrap_or(TICK).min(TICK.saturating_sub(passed_since(ticked)))) {
        shared.tend_sealing();
        let mut fills = false;
        let begun = shared.disk.passed();
        if rest.is_some() {
            fills = shared.fill_ahead();
        }
        if passed_since(ticked) >= TICK {
            ticked = begun;
            let commits = shared.counters.commits.load(Ordering::Relaxed);
            shared.tend(commits == seen);
            seen = commits;
            fills = shared.look_ahead();
        }
        rest = fills.then(|| passed_since(begun));
    }
}
