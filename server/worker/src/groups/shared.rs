//! What a group's members, its view and its waiting sessions share: the reading state behind its lock, and a few numbers
//! that say without the lock whether it is worth taking.
//!
//! The lock of the reading state is taken before the core's, never within it. The bells' is taken last.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{bell::Bell, groups::live::Live};

/// One group's.
#[derive(Default)]
pub(crate) struct Shared {
    live: Mutex<Live>,
    bells: Mutex<Vec<(u64, Arc<Bell>)>>,
    /// Another number whenever the view took a turn that the reading state does not follow by itself.
    stamp: AtomicU64,
    /// A definition is on its way to the disk: nothing goes out, and nothing is settled, until it is there.
    changing: AtomicBool,
    /// The log was read up to here, and held nothing more.
    pub(crate) at_end: AtomicU64,
    /// Keys that could go out.
    pub(crate) ready: AtomicU64,
    /// When the log is durable up to here, a key may become free. `u64::MAX`: none waits.
    pub(crate) gate: AtomicU64,
    /// When something is due, milliseconds since 1970. `u64::MAX`: nothing is.
    pub(crate) due: AtomicU64,
    /// Events handed out and not settled.
    pub(crate) in_flight: AtomicU64,
    /// Events that match, up to where they were counted, and which stamp that holds for.
    pub(crate) produced: AtomicU64,
    pub(crate) counted_to: AtomicU64,
    pub(crate) counted_stamp: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        let shared = Self::default();
        shared.stamp.store(1, Ordering::Release);
        shared.gate.store(u64::MAX, Ordering::Release);
        shared.due.store(u64::MAX, Ordering::Release);
        Arc::new(shared)
    }

    /// The reading state, for a moment. Not to be called with the core locked.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bells(&self) -> MutexGuard<'_, Vec<(u64, Arc<Bell>)>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(&self, member: u64, bell: Arc<Bell>) {
        self.bells().push((member, bell));
    }

    pub(crate) fn leave(&self, member: u64) {
        self.bells().retain(|(other, _)| *other != member);
    }

    /// Wakes every member but one.
    pub(crate) fn ring_others(&self, member: u64) {
        self.bells().iter().filter(|(other, _)| *other != member).for_each(|(_, bell)| bell.ring());
    }

    fn ring(&self) {
        self.bells().iter().for_each(|(_, bell)| bell.ring());
    }

    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.changing.load(Ordering::Acquire)
    }

    /// A definition was appended.
    pub(crate) fn change(&self) {
        self.changing.store(true, Ordering::Release);
    }

    /// What was done did not come about: the reading state begins again.
    pub(crate) fn again(&self) {
        self.stamp.fetch_add(1, Ordering::AcqRel);
        self.ring();
    }

    /// The view took another turn: the reading state begins again.
    pub(crate) fn turn(&self) {
        self.changing.store(false, Ordering::Release);
        self.stamp.fetch_add(1, Ordering::AcqRel);
        self.ring();
    }
}
