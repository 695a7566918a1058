//! The decision about an event's number: take it, take a part, ack it again, or refuse. Pure; the worker keeps the numbers.
//!
//! The invariant: in a run and lane every number is taken once, in order, without a hole.

use crate::id::Number;

/// What to do with numbers that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take them but for the first `skip`, which are stored already.
    Take {
        /// How many of the first are stored already.
        skip: u32,
    },
    /// All are stored already: ack again.
    Duplicate,
    /// A number before them is missing: close the lane and name the one expected.
    Gap {
        /// The number expected.
        expected: Number,
    },
    /// The run is not known and does not open at 1: the client takes a new one.
    UnknownRun,
    /// Zero events, the number zero, or numbers past the last there is: the frame is malformed.
    Malformed,
}

/// Decides about `count` numbers from `first` on.
///
/// `last` is the last number stored or refused for (principal, run, key); `None` where nothing is. `known_run` says
/// whether this worker keeps anything of the run. spec §5.7.1
#[must_use]
pub fn decide(last: Option<Number>, first: Number, count: u32, known_run: bool) -> Decision {
    let end = u64::from(count).checked_sub(1).and_then(|more| first.0.checked_add(more));
    let Some(end) = end.filter(|_| first.0 > 0) else { return Decision::Malformed };
    if last.is_none() && !known_run && first.0 > 1 {
        return Decision::UnknownRun;
    }
    let stored = last.map_or(0, |last| last.0);
    if end <= stored {
        return Decision::Duplicate;
    }
    match first.0.checked_sub(stored.saturating_add(1)) {
        Some(0) => Decision::Take { skip: 0 },
        Some(_) => Decision::Gap { expected: Number(stored.saturating_add(1)) },
        // What is stored lies inside the block, so the part fits the block's own count.
        None => Decision::Take { skip: u32::try_from(stored - first.0 + 1).unwrap_or(u32::MAX) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_table() {
        let n = |n| Some(Number(n));
        for (last, first, count, known, want) in [
            (None, 1, 1, false, Decision::Take { skip: 0 }),
            (None, 1, 10, true, Decision::Take { skip: 0 }),
            (None, 2, 1, false, Decision::UnknownRun),
            (None, 2, 1, true, Decision::Gap { expected: Number(1) }),
            (n(0), 1, 1, true, Decision::Take { skip: 0 }),
            (n(7), 8, 1, true, Decision::Take { skip: 0 }),
            (n(7), 8, 1, false, Decision::Take { skip: 0 }),
            (n(7), 7, 1, true, Decision::Duplicate),
            (n(7), 1, 7, true, Decision::Duplicate),
            (n(7), 1, 8, true, Decision::Take { skip: 7 }),
            (n(7), 5, 10, true, Decision::Take { skip: 3 }),
            (n(7), 9, 1, true, Decision::Gap { expected: Number(8) }),
            (n(7), 0, 1, true, Decision::Malformed),
            (n(7), 8, 0, true, Decision::Malformed),
            (n(7), u64::MAX, 2, true, Decision::Malformed),
            (n(u64::MAX), u64::MAX, 1, true, Decision::Duplicate),
        ] {
            assert_eq!(decide(last, Number(first), count, known), want, "{last:?} {first} {count}");
        }
    }

    #[test]
    fn whatever_comes_in_whatever_order_is_taken_once_and_in_order() {
        // A small reference: the set of numbers taken so far is always 1..=last.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut last = None;
        let mut taken = std::vec::Vec::new();
        for _ in 0..10_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let first =
                last.map_or(0, |last: Number| last.0).saturating_sub(seed >> 61) + (seed >> 40) % 3;
            let count = u32::try_from((seed >> 20) % 5).unwrap();
            if let Decision::Take { skip } = decide(last, Number(first), count, true) {
                taken.extend(first + u64::from(skip)..first + u64::from(count));
                last = Some(Number(first + u64::from(count) - 1));
            }
        }
        assert!(taken.len() > 1000);
        assert!(taken.iter().zip(1..).all(|(&taken, want)| taken == want));
    }
}
