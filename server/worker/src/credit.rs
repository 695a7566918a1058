//! What a subscription has delivered and its consumer has not settled: the credit of it.
//!
//! The invariant: a delivery holds its credit until it is seen or settled, whatever became of those before it. spec §6.1

use std::collections::VecDeque;

use crate::subscription::Window;

/// Deliveries that hold credit.
#[derive(Debug)]
pub(crate) struct Unsettled {
    /// Events and bytes of each, the oldest first; none where it is settled and an older one is not.
    open: VecDeque<(u32, u32)>,
    events: u64,
    bytes: u64,
    /// The number of the oldest.
    oldest: u64,
}

impl Default for Unsettled {
    fn default() -> Self {
        Self { open: VecDeque::new(), events: 0, bytes: 0, oldest: 1 }
    }
}

impl Unsettled {
    /// A delivery went out.
    pub(crate) fn push(&mut self, events: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.open.push_back((events, bytes));
        self.events += u64::from(events);
        self.bytes += u64::from(bytes);
    }

    /// Deliveries up to this one were received.
    pub(crate) fn seen(&mut self, delivery: u64) {
        while self.oldest <= delivery
            && let Some((events, bytes)) = self.open.pop_front()
        {
            self.oldest += 1;
            self.events -= u64::from(events);
            self.bytes -= u64::from(bytes);
        }
    }

    /// One delivery was settled.
    pub(crate) fn free(&mut self, delivery: u64) {
        let at = delivery.checked_sub(self.oldest).and_then(|at| usize::try_from(at).ok());
        let Some(open) = at.and_then(|at| self.open.get_mut(at)) else { return };
        let (events, bytes) = std::mem::take(open);
        self.events -= u64::from(events);
        self.bytes -= u64::from(bytes);
        // A delivery has an event at least: one without is settled.
        while self.open.pop_front_if(|open| *open == (0, 0)).is_some() {
            self.oldest += 1;
        }
    }

    /// May so much go? With nothing open, one delivery always.
    pub(crate) fn allows(&self, window: Window, events: u32, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.open.is_empty()
            || (self.events + u64::from(events) <= u64::from(window.events)
                && self.bytes.saturating_add(bytes) <= u64::from(window.bytes))
    }

    /// What is left of a window.
    pub(crate) fn left(&self, window: Window) -> (u64, u64) {
        let events = u64::from(window.events).saturating_sub(self.events);
        (events, u64::from(window.bytes).saturating_sub(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { events: 3, bytes: 10 };

    #[test]
    fn credit_comes_back_for_each_delivery_alone_and_for_all_up_to_one() {
        let mut open = Unsettled::default();
        for _ in 0..3 {
            open.push(1, 1);
        }
        assert!(!open.allows(WINDOW, 1, 1));
        open.free(2);
        assert_eq!((open.left(WINDOW), open.allows(WINDOW, 1, 1)), ((1, 8), true));
        // Settled again, it gives nothing more.
        open.free(2);
        assert_eq!(open.left(WINDOW), (1, 8));
        open.seen(3);
        assert_eq!(open.left(WINDOW), (3, 10));
        open.push(1, 99);
        open.seen(3);
        assert!(!open.allows(WINDOW, 1, 1), "the fourth is open");
        open.free(4);
        assert!(open.allows(WINDOW, 9, 99), "one always goes");
    }
}
