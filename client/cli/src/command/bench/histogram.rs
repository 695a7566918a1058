//! Percentiles from fixed buckets: 64 a power of two of nanoseconds, so that a value is told within 1.6 %.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = ((64 - SUB_BITS as usize) + 1) << SUB_BITS;

/// Counts by latency.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0 }
    }
}

fn bucket(nanos: u64) -> usize {
    let place = if nanos < SUB {
        nanos
    } else {
        let shift = u64::BITS - 1 - nanos.leading_zeros() - SUB_BITS;
        u64::from(shift + 1) * SUB + (nanos >> shift) - SUB
    };
    usize::try_from(place).unwrap_or(BUCKETS - 1)
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    let (group, sub) = (bucket / SUB, bucket % SUB);
    match u32::try_from(group).unwrap_or(0).checked_sub(1) {
        None => sub,
        Some(shift) => u64::try_from((u128::from(SUB + sub + 1) << shift) - 1).unwrap_or(u64::MAX),
    }
}

impl Histogram {
    /// So many took that long.
    pub(super) fn record(&mut self, latency: Duration, count: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket(nanos)) {
            *bucket += count;
            self.count += count;
        }
    }

    /// Takes in what another saw.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, others) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += others;
        }
        self.count += other.count;
    }

    /// The nanoseconds within which that part of all lies; `None` when nothing was recorded.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rank of a quantile; half an event off is no matter"
    )]
    pub(super) fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = ((self.count as f64 * quantile).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_tells_it_within_a_64th() {
        for shift in 0..64 {
            for nanos in [1_u64 << shift, (1 << shift) + (1 << shift) / 3, u64::MAX >> shift] {
                let told = highest(bucket(nanos));
                assert!(told >= nanos && told - nanos <= nanos / 64, "{nanos} told as {told}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_a_known_set() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for nanos in 1..=1_000_u64 {
            histogram.record(Duration::from_nanos(nanos), 1);
        }
        for (quantile, want) in [(0.5, 500), (0.99, 990), (0.999, 999), (1.0, 1_000)] {
            let told = histogram.quantile(quantile).unwrap();
            assert!(told >= want && told <= want + want / 50, "{quantile}: {told}");
        }
    }

    #[test]
    fn two_are_as_one_that_saw_both() {
        let (mut a, mut b, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for nanos in [5_u64, 70, 900, 1_000_000] {
            a.record(Duration::from_nanos(nanos), 2);
            b.record(Duration::from_nanos(nanos * 3), 1);
            both.record(Duration::from_nanos(nanos), 2);
            both.record(Duration::from_nanos(nanos * 3), 1);
        }
        a.add(&b);
        assert_eq!(a.buckets, both.buckets);
        assert_eq!(a.quantile(0.7), both.quantile(0.7));
    }
}
