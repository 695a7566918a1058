//! How long a failed event waits before it goes out again: twice as long each time, with full jitter, so that many that
//! failed together do not come back together.

/// A source of numbers that look random; the same seed gives the same. (splitmix64)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number up to `most`, itself too.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        self.next() % most.saturating_add(1).max(1)
    }
}

/// How long to wait behind attempt `attempt`, which failed: anything up to the cap of that attempt.
pub(crate) fn wait_ms(jitter: &mut Jitter, attempt: u32, (min, max): (u64, u64)) -> u64 {
    let doubled = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    jitter.up_to(min.saturating_mul(doubled).min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_are_spread() {
        let mut jitter = Jitter::new(1);
        for (attempt, cap) in
            [(1, 100), (2, 200), (4, 800), (5, 1000), (64, 1000), (u32::MAX, 1000)]
        {
            let waits: Vec<_> =
                (0..500).map(|_| wait_ms(&mut jitter, attempt, (100, 1000))).collect();
            assert!(waits.iter().all(|&wait| wait <= cap), "attempt {attempt}: {waits:?}");
            assert!(waits.iter().any(|&wait| wait > cap * 9 / 10), "attempt {attempt}: {waits:?}");
            assert!(waits.iter().any(|&wait| wait < cap / 10), "attempt {attempt}: {waits:?}");
        }
        assert_eq!(wait_ms(&mut jitter, 1, (0, 0)), 0);
    }

    #[test]
    fn the_same_seed_gives_the_same() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 8].map(|()| jitter.up_to(1 << 40))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
