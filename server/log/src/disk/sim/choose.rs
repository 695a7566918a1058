//! Who decides what survives: a seed, or all possibilities one after the other.

/// Decides between possibilities.
pub trait Choose {
    /// One of `0..n`; 0 when `n` is 0.
    fn choose(&mut self, n: u64) -> u64;
}

/// By a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed, the same choices.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Choose for Random {
    fn choose(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }
}

/// Every combination of choices: ask for one after the other, then go to the [`EveryChoice::next_combination`].
#[derive(Clone, Debug, Default)]
pub struct EveryChoice {
    /// What was chosen and of how many.
    made: Vec<(u64, u64)>,
    at: usize,
}

impl EveryChoice {
    /// The next combination; `false` when all were had.
    pub fn next_combination(&mut self) -> bool {
        self.made.truncate(self.at);
        self.at = 0;
        while let Some((chosen, of)) = self.made.pop() {
            if chosen + 1 < of {
                self.made.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

impl Choose for EveryChoice {
    fn choose(&mut self, n: u64) -> u64 {
        let (chosen, _) = match self.made.get(self.at) {
            Some(made) => *made,
            None => {
                self.made.push((0, n));
                (0, n)
            }
        };
        self.at += 1;
        chosen
    }
}
