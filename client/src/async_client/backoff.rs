//! When to try again: exponential, with full jitter, never sooner than the server said.

use std::time::Duration;

/// The first pause is at most this long.
const FIRST: Duration = Duration::from_millis(50);

/// A server that says "in an hour" is spread no further than this.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);

/// How often it failed in a row, and how long a pause may become.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Backoff {
    pub(super) const fn new(longest: Duration) -> Self {
        Self { failures: 0, longest }
    }

    /// It worked: the next pause is a short one again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure: anything up to a bound that doubles, so that many clients do not come back
    /// together; and at least what the server asked for, with the same spread behind it.
    pub(super) fn pause(&mut self, asked: Duration, random: u64) -> Duration {
        let bound = FIRST.saturating_mul(1_u32 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        // spec §4.5.1: after what the server says, plus as much again.
        let bound = bound.max(asked.min(LONGEST_SPREAD));
        let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX - 1);
        asked.saturating_add(Duration::from_micros(random % (bound + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(300));
        // The largest remainder shows the bound.
        let mut bound = |expected: u64| {
            let pause = backoff.pause(Duration::ZERO, expected * 1_000);
            assert_eq!(pause, Duration::from_millis(expected));
        };
        [50, 100, 200, 300, 300].into_iter().for_each(&mut bound);
        backoff.reset();
        assert_eq!(backoff.pause(Duration::ZERO, 50_001), Duration::ZERO);
    }

    #[test]
    fn the_servers_word_is_the_least() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let asked = Duration::from_secs(7);
        assert_eq!(backoff.pause(asked, 7_000_000), asked * 2);
        for random in [0, 1, u64::MAX] {
            let pause = backoff.pause(asked, random);
            assert!(pause >= asked && pause <= asked * 2, "{pause:?}");
        }
    }
}
