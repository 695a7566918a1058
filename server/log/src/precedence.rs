//! Who syncs first where two logs share a disk. One leads: its batches are small, and somebody waits for each. The other
//! follows: while the first is at work it syncs its bulk in slices, and lets the leader's sync go before its own.
//!
//! Invariants: no promise rests on it, it is about who waits for whom; and a follower waits for one sync at most, for no
//! longer than [`PATIENCE`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::limits::SLICE_BYTES;
use crate::lock;

/// A leader whose sync takes longer than this is not waited for: its disk is ill, or not the same.
const PATIENCE: Duration = Duration::from_millis(5);

/// What leads: given to the options of both logs.
#[derive(Clone, Debug)]
pub struct Lead(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slice_bytes: usize,
    state: Mutex<Leading>,
    passed: Condvar,
}

#[derive(Debug, Default)]
struct Leading {
    /// A batch of the leader is on its way.
    now: bool,
    /// Batches that were, and the one that is.
    batches: u64,
}

impl Default for Lead {
    fn default() -> Self {
        Self::with_slices(SLICE_BYTES)
    }
}

impl Lead {
    /// The same, where who follows syncs other slices.
    #[must_use]
    pub fn with_slices(slice_bytes: usize) -> Self {
        Self(Arc::new(Inner { slice_bytes, state: Mutex::default(), passed: Condvar::new() }))
    }

    /// What a follower writes and syncs at once, in bytes.
    pub(crate) fn slice_bytes(&self) -> usize {
        self.0.slice_bytes
    }

    /// The leader writes a batch.
    pub fn begins(&self) {
        let mut state = lock(&self.0.state);
        state.now = true;
        state.batches = state.batches.wrapping_add(1);
    }

    /// It is synced, or never will be.
    pub fn ends(&self) {
        lock(&self.0.state).now = false;
        self.0.passed.notify_all();
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
        lead.ends();
        assert!(!lead.is_at_work(&mut seen));
        lead.begins();
        lead.ends();
        assert!(lead.is_at_work(&mut seen), "since the last look");
        assert!(!lead.is_at_work(&mut seen));
    }

    #[test]
    fn one_batch_is_let_pass_and_a_leader_that_hangs_is_not_waited_for() {
        let lead = Lead::default();
        lead.begins();
        lead.let_pass();
        lead.ends();
        lead.let_pass();
        assert!(!lead.is_at_work(&mut 1));
    }
}
