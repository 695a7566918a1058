//! Randomness that a seed replays: `SPILE_SEED=N cargo test -p spile-protocol --test pair` runs the one that failed,
//! `SPILE_SEEDS=20000` runs more.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// SplitMix64.
pub struct Seed(pub u64);

impl Seed {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap()).unwrap()
    }

    /// Once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs `scenario` under `usual` seeds, or as many as SPILE_SEEDS says, or the one of SPILE_SEED.
pub fn each_seed(usual: u64, scenario: impl Fn(&mut Seed)) {
    let seeds = match variable("SPILE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SPILE_SEEDS").unwrap_or(usual),
    };
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| {
            scenario(&mut Seed(seed.wrapping_mul(0x5851_f42d_4c95_7f2d)))
        }));
        if let Err(panic) = run {
            println!("this was SPILE_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
