//! Which values an edge was told, and which of them have changed since: what its cache lives by. spec §10.8
//!
//! Kept by marks, not by names: a bit for each that was asked for, a bit for each that changed, whatever is asked. The
//! invariant: a mark that was asked for is told after the next record that changes a value of that mark is durable; nothing
//! is told that was not asked for since it was told last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use spile_log::Durable;
use spile_protocol::{crc, id::Mark};
use tokio::sync::watch;

use crate::worker::Worker;

/// What was asked for by one edge, over one link or in the same process.
#[derive(Debug)]
pub(crate) struct Asked {
    marks: Mutex<Marks>,
    /// How far the log must be durable before there may be something to tell. Sent again when there is.
    gate: watch::Sender<u64>,
}

/// Sets of marks; none takes room before something is asked.
#[derive(Debug, Default)]
struct Marks {
    asked: Set,
    /// Told next; each once, since it leaves `asked`.
    changed: Vec<Mark>,
}

/// A set of marks, a bit each.
#[derive(Debug, Default)]
struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, mark: Mark) {
        let (at, bit) = place(mark);
        if self.0.is_empty() {
            self.0 = vec![0; WORDS];
        }
        if let Some(word) = self.0.get_mut(at) {
            *word |= bit;
        }
    }

    fn contains(&self, mark: Mark) -> bool {
        let (at, bit) = place(mark);
        self.0.get(at).is_some_and(|word| word & bit != 0)
    }

    /// Takes it out: was it there?
    fn remove(&mut self, mark: Mark) -> bool {
        let (at, bit) = place(mark);
        self.0.get_mut(at).is_some_and(|word| std::mem::replace(word, *word & !bit) & bit != 0)
    }
}

const WORDS: usize = 65_536 / 64;

fn place(mark: Mark) -> (usize, u64) {
    (usize::from(mark.0 / 64), 1 << (mark.0 % 64))
}

impl Asked {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All who asked, as the values know them.
#[derive(Debug, Default)]
pub(crate) struct Askers(Vec<Weak<Asked>>);

/// The mark of a value's name: tenant, key and topic with a zero byte between, as it is kept.
fn mark_of(name: &str) -> Mark {
    let [low, high, ..] = crc::of(name.as_bytes()).to_le_bytes();
    Mark(u16::from_le_bytes([low, high]))
}

impl Askers {
    fn add(&mut self, asked: &Arc<Asked>) {
        self.0.retain(|known| known.strong_count() > 0);
        self.0.push(Arc::downgrade(asked));
    }

    fn each(&self, name: &str, tell: impl Fn(&Asked, Mark)) {
        if self.0.is_empty() {
            return;
        }
        let mark = mark_of(name);
        self.0.iter().filter_map(Weak::upgrade).for_each(|asked| tell(&asked, mark));
    }

    /// A change was appended, and counts once the log is durable up to `end`.
    pub(crate) fn coming(&self, end: u64, name: &str) {
        self.each(name, |asked, mark| {
            if asked.marks().asked.contains(mark) {
                asked.gate.send_replace(end);
            }
        });
    }

    /// It counts.
    pub(crate) fn changed(&self, name: &str) {
        self.each(name, |asked, mark| {
            let mut marks = asked.marks();
            if marks.asked.remove(mark) {
                marks.changed.push(mark);
                drop(marks);
                asked.gate.send_modify(|_| {});
            }
        });
    }
}

/// Who asks: given to each session that comes from the same edge.
#[derive(Clone, Debug)]
pub struct Asking(Arc<Asked>);

impl Asking {
    /// The value of that name is asked for; `coming` is how far the log must be durable before all is told that was on its
    /// way to it already.
    pub(crate) fn ask(&self, name: &str, coming: Option<u64>) {
        self.0.marks().asked.insert(mark_of(name));
        if let Some(end) = coming {
            self.0.gate.send_replace(end);
        }
    }
}

/// Follows what was asked for, as it changes.
pub struct Changes {
    worker: Arc<Worker>,
    asked: Arc<Asked>,
    gate: watch::Receiver<u64>,
    durable: watch::Receiver<Durable>,
    /// Up to where the values were looked at.
    looked: u64,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("looked", &self.looked).finish_non_exhaustive()
    }
}

impl Changes {
    pub(crate) fn new(worker: Arc<Worker>) -> Self {
        let asked = Arc::new(Asked { marks: Mutex::default(), gate: watch::Sender::new(0) });
        let (gate, durable) = (asked.gate.subscribe(), worker.durable());
        worker.core().values.askers.add(&asked);
        let looked = durable.borrow().end.get();
        Self { worker, asked, gate, durable, looked }
    }

    /// For sessions whose GETs are to be followed.
    #[must_use]
    pub fn asking(&self) -> Asking {
        Asking(Arc::clone(&self.asked))
    }

    /// What changed by now, `most` at most; the rest comes next.
    pub fn poll(&mut self, most: usize) -> Vec<Mark> {
        let gate = *self.gate.borrow_and_update();
        let durable = self.durable.borrow_and_update().end.get();
        if gate > self.looked && durable > self.looked {
            // Further perhaps than the gate is: what is told is never late, and may be early.
            self.worker.core().look();
            self.looked = durable;
        }
        let mut marks = self.asked.marks();
        let most = most.min(marks.changed.len());
        marks.changed.drain(..most).collect()
    }

    /// Waits until something changed. Nothing is lost when the wait is dropped.
    pub async fn next(&mut self, most: usize) -> Vec<Mark> {
        loop {
            let marks = self.poll(most);
            if !marks.is_empty() {
                return marks;
            }
            let waits = *self.gate.borrow() > self.looked;
            // What was appended is told once it is durable; by then more may have been appended.
            let moved =
                if waits { self.durable.changed().await } else { self.gate.changed().await };
            if moved.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_told_once_and_nothing_else() {
        let asked = Arc::new(Asked { marks: Mutex::default(), gate: watch::Sender::new(0) });
        let mut askers = Askers::default();
        askers.add(&asked);
        askers.changed("t\0k\0a");
        assert_eq!(asked.marks().changed, [], "nobody asked");
        Asking(Arc::clone(&asked)).ask("t\0k\0a", None);
        askers.coming(7, "t\0k\0b");
        assert_eq!(*asked.gate.borrow(), 0, "another one's change");
        askers.coming(7, "t\0k\0a");
        assert_eq!(*asked.gate.borrow(), 7);
        askers.changed("t\0k\0a");
        askers.changed("t\0k\0a");
        assert_eq!(
            asked.marks().changed,
            [Mark::of("t", "k", "a")],
            "once until it is asked again"
        );
    }

    #[test]
    fn an_edge_that_is_gone_is_forgotten() {
        let asked = || Arc::new(Asked { marks: Mutex::default(), gate: watch::Sender::new(0) });
        let mut askers = Askers::default();
        askers.add(&asked());
        let stays = asked();
        askers.add(&stays);
        assert_eq!(askers.0.len(), 1);
    }
}
