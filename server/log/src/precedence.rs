//! Who syncs first where two logs share a disk. One leads: its batches are small, and somebody waits for each. The other
//! follows: while the first is at work it syncs its bulk in slices, and lets the leader's sync go before its own. How large they are
//! follows from how long the leader's batches take beside them ([`crate::slices`]).
//!
//! Invariants: no promise rests on it, it is about who waits for whom; and a follower waits for one sync at most, for no
//! longer than [`PATIENCE`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::limits::SLICE_BYTES;
use crate::lock;
use crate::slices::Slices;

/// A leader whose sync takes longer than this is not waited for: its disk is ill, or not the same.
const PATIENCE: Duration = Duration::from_millis(5);

/// What leads: given to the options of both logs.
#[derive(Clone, Debug)]
pub struct Lead(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<Leading>,
    passed: Condvar,
}

#[derive(Debug)]
struct Leading {
    /// A batch of the leader is on its way.
    now: bool,
    /// Batches that were, and the one that is.
    batches: u64,
    /// A follower syncs.
    followed: bool,
    /// One did, while the leader's batch was on its way.
    beside: bool,
    slices: Slices,
}

impl Default for Lead {
    fn default() -> Self {
        Self::with_slices(SLICE_BYTES)
    }
}

impl Lead {
    /// The same, where who follows syncs at most such slices.
    #[must_use]
    pub fn with_slices(slice_bytes: usize) -> Self {
        let slices = Slices::new(slice_bytes);
        let state = Leading { now: false, batches: 0, followed: false, beside: false, slices };
        Self(Arc::new(Inner { state: Mutex::new(state), passed: Condvar::new() }))
    }

    /// What a follower writes and syncs at once, in bytes.
    pub(crate) fn slice_bytes(&self) -> usize {
        lock(&self.0.state).slices.bytes()
    }

    /// The leader writes a batch.
    pub fn begins(&self) {
        let mut state = lock(&self.0.state);
        (state.now, state.beside) = (true, state.followed);
        state.batches = state.batches.wrapping_add(1);
    }

    /// It is synced, or never will be, and took so long.
    pub fn ends(&self, took: Duration) {
        let mut state = lock(&self.0.state);
        state.now = false;
        let beside = state.beside;
        state.slices.led(took, beside);
        drop(state);
        self.0.passed.notify_all();
    }

    /// A follower begins to sync, or has.
    pub(crate) fn followed(&self, now: bool) {
        let mut state = lock(&self.0.state);
        state.followed = now;
        state.beside |= now;
    }

    /// Was the leader at work since `seen`, which is brought up to date, or is it now?
    pub(crate) fn is_at_work(&self, seen: &mut u64) -> bool {
        let state = lock(&self.0.state);
        std::mem::replace(seen, state.batches) != state.batches || state.now
    }

    /// Waits until the batch that is on its way is synced.
    pub(crate) fn let_pass(&self) {
        let state = lock(&self.0.state);
        let batch = state.batches;
        let same = |state: &mut Leading| state.now && state.batches == batch;
        drop(
            self.0
                .passed
                .wait_timeout_while(state, PATIENCE, same)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_at_work_while_and_after_it_was() {
        let (lead, mut seen) = (Lead::default(), 0);
        assert!(!lead.is_at_work(&mut seen));
        lead.begins();
        assert!(lead.is_at_work(&mut seen) && lead.is_at_work(&mut seen));
        lead.ends(Duration::ZERO);
        assert!(!lead.is_at_work(&mut seen));
        lead.begins();
        lead.ends(Duration::ZERO);
        assert!(lead.is_at_work(&mut seen), "since the last look");
        assert!(!lead.is_at_work(&mut seen));
    }

    #[test]
    fn a_leader_that_is_slow_beside_a_follower_makes_its_slices_smaller() {
        let (lead, slow, fast) =
            (Lead::default(), Duration::from_millis(9), Duration::from_micros(99));
        let batch = |took| {
            lead.begins();
            lead.ends(took);
        };
        batch(fast);
        // Alone it may be slow.
        batch(slow);
        assert_eq!(lead.slice_bytes(), SLICE_BYTES);
        // The follower began first.
        lead.followed(true);
        batch(slow);
        lead.followed(false);
        assert_eq!(lead.slice_bytes(), SLICE_BYTES / 2);
        // The leader did.
        lead.begins();
        lead.followed(true);
        lead.followed(false);
        lead.ends(slow);
        assert_eq!(lead.slice_bytes(), SLICE_BYTES / 4);
        batch(slow);
        assert_eq!(lead.slice_bytes(), SLICE_BYTES / 4, "alone again");
    }

    #[test]
    fn one_batch_is_let_pass_and_a_leader_that_hangs_is_not_waited_for() {
        let lead = Lead::default();
        lead.begins();
        lead.let_pass();
        lead.ends(Duration::ZERO);
        lead.let_pass();
        assert!(!lead.is_at_work(&mut 1));
    }
}
