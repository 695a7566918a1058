//! Trace ids made here: a base a session, and an event's number behind it. No allocation and no randomness an event.
//!
//! Invariant: two sessions of one process never share a base, and two processes only by chance of one in 2^64.

/// Makes the bases of an edge's sessions.
#[derive(Clone, Copy, Debug)]
pub struct Bases {
    process: u64,
}

impl Bases {
    /// `random` is new for each process.
    #[must_use]
    pub const fn new(random: [u8; 8]) -> Self {
        Self { process: u64::from_be_bytes(random) }
    }

    /// The base of the session with that number.
    #[must_use]
    pub const fn of(self, session: u64) -> [u8; 8] {
        mix(self.process ^ session).to_be_bytes()
    }
}

/// One to one and without a pattern (the finalizer of splitmix64), so that traces of one process do not sort together
/// and sampling by prefix stays fair.
const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The base as it stands in log lines: the first half of every trace id of the session.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub [u8; 8]);

impl core::fmt::Display for Shown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn bases_differ_and_are_the_same_for_the_same_session() {
        let bases = Bases::new([7; 8]);
        let made: HashSet<_> = (0..10_000).map(|session| bases.of(session)).collect();
        assert_eq!(made.len(), 10_000);
        assert_eq!(bases.of(3), bases.of(3));
        assert_ne!(bases.of(3), Bases::new([8; 8]).of(3));
        assert_eq!(Shown([0, 0, 0, 0, 0, 0, 1, 255]).to_string(), "00000000000001ff");
    }
}
