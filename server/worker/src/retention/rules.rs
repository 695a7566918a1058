//! Which events are kept for their topic's sake: rules, the first that matches decides; no rule, kept for ever.
//!
//! The invariant: an event that no rule matches is kept whatever else is said.

use serde::{Deserialize, Serialize};
use spile_protocol::id;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which topics.
    pub filter: String,
    /// Events are kept so long; `None`: for ever.
    pub max_age_ms: Option<u64>,
    /// The newest events are kept, at least so many bytes of records; `None`: all.
    pub max_bytes: Option<u64>,
}

/// What a rule keeps now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Records from this time on …
    pub(super) time_ms: u64,
    /// … that are not before this position.
    pub(super) position: u64,
}

impl Line {
    pub(super) fn keeps(&self, time_ms: u64, end: u64) -> bool {
        time_ms >= self.time_ms && end > self.position
    }

    /// Is a whole segment beyond it, by time, by place?
    pub(super) fn passed(&self, last_ms: u64, end: u64) -> usize {
        usize::from(last_ms < self.time_ms) + usize::from(end <= self.position)
    }
}

/// The rule of a topic: its place among all.
pub(super) fn rule_of(rules: &[Rule], topic: &str) -> Option<usize> {
    rules.iter().position(|rule| id::matches(&rule.filter, topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(filter: &str) -> Rule {
        Rule { filter: filter.to_owned(), max_age_ms: None, max_bytes: None }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = ["a/b", "a/#", "c"].map(rule);
        let of = |topic| rule_of(&rules, topic);
        assert_eq!([of("a/b"), of("a/c"), of("c"), of("d")], [Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn a_record_is_kept_while_it_is_young_and_near() {
        let line = Line { time_ms: 10, position: 100 };
        assert!(line.keeps(10, 101));
        assert!(!line.keeps(9, 101) && !line.keeps(10, 100));
        assert_eq!([line.passed(9, 100), line.passed(9, 101), line.passed(10, 101)], [2, 1, 0]);
        assert!(Line::default().keeps(0, 1), "no line keeps everything");
    }
}
