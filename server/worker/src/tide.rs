//! Sessions that wait for nothing but their own events to be on disk, each rung when it is and not before.
//!
//! A watch of the durable position wakes every session that waits at every commit, of which a commit concerns a third. The
//! invariant: whoever was put here and whose position is durable was rung, or sees it is when it looks again behind
//! [`Tide::await_at`].

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::{Arc, Mutex, PoisonError, atomic},
};

use spile_log::{Durable, State};

use crate::bell::Bell;

/// Those that wait.
#[derive(Debug, Default)]
pub(crate) struct Tide {
    waiting: Mutex<Waiting>,
}

/// One entry a session, and one more for each time the log was cut back meanwhile: what went with that is rung for nothing.
#[derive(Debug, Default)]
struct Waiting {
    sessions: BinaryHeap<Reverse<Entry>>,
    /// What was certain last: where that changes everybody looks.
    seen: Option<(u64, State)>,
}

#[derive(Debug)]
struct Entry {
    gate: u64,
    bell: Arc<Bell>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.gate == other.gate
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gate.cmp(&other.gate)
    }
}

impl Tide {
    /// Rings when the log is durable up to `gate`. Whoever waits looks once more behind this: it may be already.
    pub(crate) fn await_at(&self, gate: u64, bell: &Arc<Bell>) {
        if bell.awaits.swap(gate, atomic::Ordering::AcqRel) == gate {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.sessions.push(Reverse(Entry { gate, bell: bell.clone() }));
    }

    /// The durable end moved, or what is certain changed.
    pub(crate) fn rose(&self, durable: Durable) {
        // Rung outside: who is woken may come back here at once.
        for Entry { gate, bell } in self.due(durable) {
            let (now, none) = (atomic::Ordering::AcqRel, atomic::Ordering::Relaxed);
            match bell.awaits.compare_exchange(gate, 0, now, none) {
                // Where it waits for another position by now that is another entry; it may look.
                Ok(_) | Err(_) => bell.ring(),
            }
        }
    }

    fn due(&self, durable: Durable) -> Vec<Entry> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (certain, end) = ((durable.generation, durable.state), durable.end.get());
        let all = waiting.seen.replace(certain) != Some(certain);
        let mut due = Vec::new();
        while let Some(Reverse(first)) = waiting.sessions.peek()
            && (all || first.gate <= end)
        {
            due.extend(waiting.sessions.pop().map(|Reverse(entry)| entry));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable(end: u64, generation: u64) -> Durable {
        Durable { end: end.into(), generation, state: State::Running }
    }

    fn rung(bells: &[Arc<Bell>]) -> Vec<bool> {
        bells.iter().map(|bell| bell.take_rung()).collect()
    }

    #[test]
    fn each_is_rung_when_its_own_is_durable_and_all_where_that_is_not_certain() {
        let (tide, bells) = (Tide::default(), [(); 4].map(|()| Arc::<Bell>::default()));
        tide.rose(durable(1, 1));
        for (bell, gate) in bells.iter().zip([9, 5, 7, 5]) {
            tide.await_at(gate, bell);
            tide.await_at(gate, bell);
        }
        assert_eq!(rung(&bells), [false; 4]);
        tide.rose(durable(4, 1));
        assert_eq!(rung(&bells), [false; 4]);
        tide.rose(durable(5, 1));
        assert_eq!(rung(&bells), [false, true, false, true]);
        // Once for each time it waits.
        tide.rose(durable(6, 1));
        assert_eq!(rung(&bells), [false; 4]);
        tide.await_at(5, &bells[1]);
        tide.rose(durable(7, 1));
        assert_eq!(rung(&bells), [false, true, true, false]);
        tide.rose(durable(7, 2));
        assert_eq!(rung(&bells), [true, false, false, false], "the log was cut back");
        assert!(tide.due(durable(u64::MAX, 2)).is_empty());
    }

    #[test]
    fn who_waits_for_another_position_by_now_is_in_for_both() {
        let (tide, bell) = (Tide::default(), [Arc::<Bell>::default()]);
        tide.rose(durable(1, 1));
        tide.await_at(5, &bell[0]);
        tide.await_at(8, &bell[0]);
        tide.rose(durable(5, 1));
        assert_eq!(rung(&bell), [true]);
        tide.await_at(8, &bell[0]);
        tide.rose(durable(8, 1));
        assert_eq!(rung(&bell), [true]);
        assert!(tide.due(durable(u64::MAX, 1)).is_empty());
    }
}
