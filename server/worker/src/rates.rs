//! How much comes and goes a second: the counters of a worker, looked at once a second and told over the last ten.
//!
//! Pure: time comes in as an argument. Invariant: bounded, and an event costs nothing here.

use std::{collections::VecDeque, time::Duration};

use spile_protocol::time::Instant;

/// Looks that are remembered: ten seconds, where they are a second apart.
const LOOKS: usize = 11;
/// Less time than this says nothing of a rate.
const LEAST: Duration = Duration::from_secs(1);

/// Counts at one moment: events taken, their bytes, events delivered.
pub(crate) type Counts = [u64; 3];

/// The last looks.
#[derive(Debug, Default)]
pub(crate) struct Rates(VecDeque<(Instant, Counts)>);

impl Rates {
    /// So much was counted until now.
    pub(crate) fn look(&mut self, now: Instant, counts: Counts) {
        if self.0.len() >= LOOKS {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
    }

    /// Tenths a second since the oldest look; `None` where that was just now.
    pub(crate) fn tenths(&self, now: Instant, counts: Counts) -> Option<Counts> {
        let (from, before) = *self.0.front()?;
        let passed = now.since(from);
        let tenths = |(now, before): (u64, u64)| {
            let counted = u128::from(now.saturating_sub(before));
            let tenths = counted * 10_000_000 / passed.as_micros().max(1);
            u64::try_from(tenths).unwrap_or(u64::MAX)
        };
        let [events, bytes, delivered] = counts;
        let [events_before, bytes_before, delivered_before] = before;
        let pairs = [(events, events_before), (bytes, bytes_before), (delivered, delivered_before)];
        (passed >= LEAST).then(|| pairs.map(tenths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000)
    }

    #[test]
    fn a_rate_is_of_the_last_ten_seconds() {
        let mut rates = Rates::default();
        assert_eq!(rates.tenths(at(0), [0; 3]), None);
        rates.look(at(0), [0; 3]);
        assert_eq!(rates.tenths(at(999), [1; 3]), None);
        // Nothing for a minute, then five events of seven bytes a second, of which every tenth second one is delivered.
        for second in 1..=60 {
            rates.look(at(second * 1_000), [0; 3]);
        }
        for second in 61..=75_u64 {
            let counted = second - 60;
            rates.look(at(second * 1_000), [5 * counted, 35 * counted, counted / 10]);
            let over = counted.min(10) * 50 / 10;
            let told = rates.tenths(at(second * 1_000), [5 * counted, 35 * counted, counted / 10]);
            assert_eq!(told, Some([over, over * 7, u64::from(counted >= 10)]), "{counted}");
            assert!(rates.0.len() <= LOOKS);
        }
    }

    #[test]
    fn what_came_since_the_last_look_counts() {
        let mut rates = Rates::default();
        rates.look(at(0), [0; 3]);
        assert_eq!(rates.tenths(at(2_000), [3, 6, 0]), Some([15, 30, 0]));
    }
}
