//! What subscriptions that wait have read from the log and not delivered, all of them together.
//!
//! A subscription that nobody takes from keeps what it read last, so that it goes on without reading again. Thousands of
//! them together may not: from the cap on, one that waits lets go of it and reads again when it may deliver. The
//! invariant: what is held never passes the cap.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that are held.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    held: Arc<AtomicUsize>,
    cap: usize,
}

/// A part of them: given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Ahead {
    pub(crate) fn new(cap: usize) -> Self {
        Self { held: Arc::default(), cap }
    }

    /// May so much be held? `None`: no, let go of it.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Held> {
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.cap);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Held { all: Arc::clone(&self.held), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_never_passes_the_cap_and_comes_back() {
        let ahead = Ahead::new(10);
        let first = ahead.hold(6);
        assert!(first.is_some() && ahead.hold(5).is_none());
        let second = ahead.hold(4);
        assert!(second.is_some() && ahead.hold(1).is_none());
        drop(first);
        assert!(ahead.hold(7).is_none() && ahead.hold(6).is_some());
    }
}
