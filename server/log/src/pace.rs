//! How fast the disk is and how fast it fills: what syncs took in the last minute, and what was written in the last hour.
//!
//! Time comes in as an argument, counted from when the log was opened. Invariant: bounded, and nothing is allocated a
//! sync.

use std::collections::VecDeque;
use std::time::Duration;

/// Durations are counted in slices of so long; a slice older than a minute does not count.
const SLICE: Duration = Duration::from_secs(5);
/// Slices of a minute, and the one that is being filled.
const SLICES: usize = 13;
/// Four buckets a doubling, from a microsecond to some minutes.
const BUCKETS: usize = 4 * 28;
/// Minutes that are remembered of what was written.
const MINUTES: usize = 61;
/// Less time than this says nothing of how fast a disk fills.
const LEAST: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Slice {
    number: u64,
    counts: [u32; BUCKETS],
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Pace {
    slices: Vec<Slice>,
    /// Bytes written until the first look of each minute.
    written: VecDeque<(u64, u64)>,
}

impl Default for Pace {
    fn default() -> Self {
        let slice = Slice { number: u64::MAX, counts: [0; BUCKETS] };
        Self { slices: vec![slice; SLICES], written: VecDeque::new() }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = micros.ilog2();
    // The two bits behind the highest say which quarter of the doubling it is.
    let quarter = if doubling >= 2 { micros >> (doubling - 2) & 3 } else { 0 };
    let at = u64::from(doubling) * 4 + quarter;
    usize::try_from(at).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The longest duration of a bucket, in microseconds.
fn upper(bucket: usize) -> u64 {
    let (doubling, quarter) = (bucket / 4, u64::try_from(bucket % 4).unwrap_or_default());
    let one = 1_u64 << doubling;
    if doubling < 2 { one * 2 - 1 } else { one + (one >> 2) * (quarter + 1) - 1 }
}

impl Pace {
    /// A sync that returned at `now` took so long.
    pub(crate) fn synced(&mut self, now: Duration, took: Duration) {
        let number = now.as_secs() / SLICE.as_secs();
        let at = usize::try_from(number).unwrap_or_default() % SLICES;
        let Some(slice) = self.slices.get_mut(at) else { return };
        if slice.number != number {
            *slice = Slice { number, counts: [0; BUCKETS] };
        }
        if let Some(count) = slice.counts.get_mut(bucket(took)) {
            *count = count.saturating_add(1);
        }
    }

    /// What so many hundredths of the syncs of the last minute did not pass, in microseconds; `None` where there was none.
    pub(crate) fn percentile(&self, now: Duration, hundredths: u64) -> Option<u64> {
        let newest = now.as_secs() / SLICE.as_secs();
        let recent = |slice: &&Slice| newest.checked_sub(slice.number).is_some_and(|age| age < 12);
        let mut counts = [0_u64; BUCKETS];
        for slice in self.slices.iter().filter(recent) {
            for (sum, count) in counts.iter_mut().zip(slice.counts) {
                *sum += u64::from(count);
            }
        }
        let all: u64 = counts.iter().sum();
        let wanted = all.saturating_mul(hundredths).div_ceil(100).max(1);
        let mut seen = 0;
        counts.iter().zip(0..).find_map(|(count, at)| {
            seen += count;
            (all > 0 && seen >= wanted).then(|| upper(at))
        })
    }

    /// So many bytes were written since the log was opened.
    pub(crate) fn wrote(&mut self, now: Duration, bytes: u64) {
        let minute = now.as_secs() / 60;
        if self.written.back().is_none_or(|(last, _)| *last < minute) {
            if self.written.len() >= MINUTES {
                self.written.pop_front();
            }
            self.written.push_back((minute, bytes));
        }
    }

    /// Bytes an hour, by the last hour; `None` where too little is known.
    pub(crate) fn bytes_per_hour(&self, now: Duration, bytes: u64) -> Option<u64> {
        let (minute, before) = *self.written.front()?;
        let passed = now.checked_sub(Duration::from_secs(minute * 60))?;
        let grown = u128::from(bytes.saturating_sub(before));
        let hourly = grown * 3_600_000 / passed.as_millis().max(1);
        (passed >= LEAST).then(|| u64::try_from(hourly).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_bucket_holds_what_it_says() {
        for micros in (1..5_000).chain([100_000, 7_000_000, 1 << 40]) {
            let at = bucket(Duration::from_micros(micros));
            assert!(at == BUCKETS - 1 || upper(at) >= micros, "{micros}");
            // Never told as more than a quarter longer than it was.
            assert!(
                micros < 4 || at == BUCKETS - 1 || upper(at) <= micros + micros / 4,
                "{micros}"
            );
        }
    }

    #[test]
    fn percentiles_are_of_the_last_minute() {
        let mut pace = Pace::default();
        assert_eq!(pace.percentile(at(9), 50), None);
        for _ in 0..98 {
            pace.synced(at(10), Duration::from_micros(100));
        }
        pace.synced(at(31), Duration::from_millis(40));
        pace.synced(at(31), Duration::from_millis(40));
        let [half, most] = [50, 99].map(|hundredths| pace.percentile(at(31), hundredths).unwrap());
        assert!((100..125).contains(&half) && (40_000..50_000).contains(&most), "{half} {most}");
        assert!(pace.percentile(at(80), 50).unwrap() >= 40_000, "the fast ones are long ago");
        assert_eq!(pace.percentile(at(200), 50), None);
        // A slice is used again an hour later, and holds nothing of before.
        pace.synced(at(3_600 + 10), Duration::from_micros(1));
        assert_eq!(pace.percentile(at(3_600 + 10), 99), Some(1));
    }

    #[test]
    fn the_rate_is_of_the_last_hour() {
        let mut pace = Pace::default();
        for minute in 0..120 {
            pace.wrote(at(minute * 60), minute * 1_000);
            let rate = pace.bytes_per_hour(at(minute * 60), minute * 1_000);
            assert_eq!(rate, (minute > 0).then_some(60_000), "{minute}");
        }
        assert_eq!(pace.bytes_per_hour(at(120 * 60), 119_000), Some(60_000 * 60 / 61));
    }
}
