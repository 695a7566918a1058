//! A budget for frames that cost no credit, so that what is cheap for a peer is not dear for us.
//!
//! A bucket of tokens: so many at once, so many a second. The invariant: in any time `t` at most burst + rate × `t` are
//! spent.

use crate::time::Instant;

const MICROS_PER_S: u64 = 1_000_000;

/// What is left of a budget, in millionths of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    burst: u64,
    per_s: u64,
    left: u64,
    at: Instant,
}

impl Budget {
    /// A full one.
    pub(crate) fn new(now: Instant, burst: u32, per_s: u32) -> Self {
        let burst = u64::from(burst) * MICROS_PER_S;
        Self { burst, per_s: u64::from(per_s), left: burst, at: now }
    }

    /// Gives tokens back, up to the burst.
    pub(crate) fn refill(&mut self, tokens: u64) {
        self.left = self.left.saturating_add(tokens.saturating_mul(MICROS_PER_S)).min(self.burst);
    }

    /// Spends `tokens` where there are so many.
    #[must_use]
    pub(crate) fn spend(&mut self, now: Instant, tokens: u32) -> bool {
        let gained = now.0.saturating_sub(self.at.0).saturating_mul(self.per_s);
        self.at = now.max(self.at);
        self.left = self.left.saturating_add(gained).min(self.burst);
        let wanted = u64::from(tokens) * MICROS_PER_S;
        let enough = self.left >= wanted;
        if enough {
            self.left -= wanted;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut budget = Budget::new(Instant(0), 3, 2);
        let spent =
            |budget: &mut Budget, now| (0..10).filter(|_| budget.spend(Instant(now), 1)).count();
        assert_eq!(spent(&mut budget, 0), 3);
        assert_eq!(spent(&mut budget, 500_000), 1);
        assert_eq!(spent(&mut budget, 400_000), 0);
        assert_eq!(spent(&mut budget, 60_000_000), 3);
    }
}
