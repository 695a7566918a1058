//! How much a log that follows syncs at once while the one that leads is at work: as much as lets the leader's batches take about
//! as long as they do alone. Pure: what batches took comes in.
//!
//! Invariant: between [`SLICE_LEAST`] and the most, whatever was measured.

use std::time::Duration;

use crate::limits::SLICE_LEAST;

/// A batch of the leader that takes so many times what one takes alone waited for the follower's.
const HURT: u64 = 2;
/// Of how many batches alone the mean is taken.
const ALONE: u64 = 32;

#[derive(Debug)]
pub(crate) struct Slices {
    most: usize,
    bytes: usize,
    /// What a batch takes alone, in microseconds; 0 before there was one.
    alone_us: u64,
}

impl Slices {
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, bytes: most, alone_us: 0 }
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A batch of the leader took so long, while the follower synced or not.
    pub(crate) fn led(&mut self, took: Duration, beside: bool) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if !beside {
            let sum = self.alone_us.saturating_mul(ALONE - 1).saturating_add(took_us);
            self.alone_us = if self.alone_us == 0 { took_us } else { sum.div_ceil(ALONE) };
        } else if took_us > self.alone_us.saturating_mul(HURT) {
            self.bytes = (self.bytes / 2).max(SLICE_LEAST.min(self.most));
        } else {
            self.bytes = self.bytes.saturating_add(SLICE_LEAST / 8).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn slices_shrink_while_the_leader_is_hurt_and_grow_again() {
        let mut slices = Slices::new(8 << 20);
        (0..100).for_each(|_| slices.led(us(200), false));
        slices.led(us(400), true);
        assert_eq!(slices.bytes(), 8 << 20, "twice is let be");
        slices.led(us(401), true);
        assert_eq!(slices.bytes(), 4 << 20);
        (0..100).for_each(|_| slices.led(us(9_000), true));
        assert_eq!(slices.bytes(), SLICE_LEAST);
        (0..8).for_each(|_| slices.led(us(300), true));
        assert_eq!(slices.bytes(), 2 * SLICE_LEAST);
        (0..1000).for_each(|_| slices.led(us(300), true));
        assert_eq!(slices.bytes(), 8 << 20);
    }

    #[test]
    fn what_is_slow_alone_hurts_nobody() {
        let mut slices = Slices::new(8 << 20);
        (0..1000).for_each(|_| slices.led(us(200), false));
        (0..1000).for_each(|_| slices.led(us(5_000), false));
        slices.led(us(9_000), true);
        assert_eq!(slices.bytes(), 8 << 20);
    }
}
