//! How this process is: facts that its parts set, and what follows for readiness.
//!
//! Nothing here asks; parts say what they know when they learn it. Invariant: ready means serving, and no fact is red.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock::unix_seconds;

/// At most this many facts; one more is not taken, and the report says how many were not.
const FACTS_MAX: usize = 1_024;

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// As it should be.
    Green,
    /// Serving, and someone should look: a worker away, a certificate about to end.
    Yellow,
    /// Not able to keep its promise: readiness ends.
    Red,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not serving yet.
    Starting,
    /// Serving.
    Serving,
    /// Asked to end; finishing what it has.
    Draining,
}

/// The registry of facts; clones are the same registry.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    phase: Phase,
    started: u64,
    facts: BTreeMap<String, Known>,
    refused: u64,
}

#[derive(Debug)]
struct Known {
    colour: Colour,
    detail: String,
    since: u64,
}

/// What `/health` says.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of all facts.
    pub status: Colour,
    /// Serving, and nothing red.
    pub ready: bool,
    /// Where the process is in its life.
    pub phase: Phase,
    /// This version.
    pub version: &'static str,
    /// For how long it has run.
    pub uptime_s: u64,
    /// What is known.
    pub facts: Vec<Fact>,
    /// Facts that were not taken because there were too many.
    pub facts_refused: u64,
}

/// One thing that is known.
#[derive(Debug, Serialize)]
pub struct Fact {
    /// What it is about: `log`, `link:a`, `certificate:edge`.
    pub name: String,
    /// How it is.
    pub status: Colour,
    /// In one line: what, why, what to do.
    pub detail: String,
    /// Since when its colour is this, in seconds since 1970.
    pub since: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::Starting,
            started: unix_seconds(),
            facts: BTreeMap::new(),
            refused: 0,
        })))
    }
}

impl Health {
    /// Sets what is known about `name`; an earlier fact of that name is replaced.
    pub fn set(&self, name: &str, colour: Colour, detail: impl Into<String>) {
        self.set_at(name, colour, detail.into(), unix_seconds());
    }

    fn set_at(&self, name: &str, colour: Colour, detail: String, now: u64) {
        let mut state = self.lock();
        if state.facts.len() >= FACTS_MAX && !state.facts.contains_key(name) {
            state.refused = state.refused.saturating_add(1);
            return;
        }
        let since = match state.facts.get(name) {
            Some(known) if known.colour == colour => known.since,
            Some(_) | None => now,
        };
        state.facts.insert(name.to_owned(), Known { colour, detail, since });
    }

    /// Forgets what is known about `name`.
    pub fn clear(&self, name: &str) {
        self.lock().facts.remove(name);
    }

    /// Says where the process is in its life.
    pub fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// Serving, and nothing red.
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        state.phase == Phase::Serving && worst(&state) != Colour::Red
    }

    /// Everything that is known, worst first.
    pub fn report(&self) -> Report {
        let state = self.lock();
        let mut facts: Vec<Fact> = (state.facts.iter())
            .map(|(name, known)| Fact {
                name: name.clone(),
                status: known.colour,
                detail: known.detail.clone(),
                since: known.since,
            })
            .collect();
        facts.sort_by_key(|fact| std::cmp::Reverse(fact.status));
        Report {
            status: worst(&state),
            ready: state.phase == Phase::Serving && worst(&state) != Colour::Red,
            phase: state.phase,
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: unix_seconds().saturating_sub(state.started),
            facts,
            facts_refused: state.refused,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn worst(state: &State) -> Colour {
    state.facts.values().map(|known| known.colour).max().unwrap_or(Colour::Green)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_serving_without_anything_red() {
        let health = Health::default();
        assert!(!health.is_ready(), "starting");
        health.enter(Phase::Serving);
        assert!(health.is_ready());
        health.set("link:a", Colour::Yellow, "away");
        assert!(health.is_ready());
        health.set("log", Colour::Red, "sync failed");
        assert!(!health.is_ready());
        health.clear("log");
        assert!(health.is_ready());
        health.enter(Phase::Draining);
        assert!(!health.is_ready());
    }

    #[test]
    fn a_fact_keeps_the_time_its_colour_came() {
        let health = Health::default();
        let since = |colour, now| {
            health.set_at("log", colour, String::new(), now);
            health.report().facts[0].since
        };
        assert_eq!(since(Colour::Red, 10), 10);
        assert_eq!(since(Colour::Red, 20), 10);
        assert_eq!(since(Colour::Green, 30), 30);
    }

    #[test]
    fn facts_are_bounded_worst_first_and_the_refused_are_counted() {
        let health = Health::default();
        for n in 0..FACTS_MAX + 3 {
            health.set(&format!("f{n}"), Colour::Green, "");
        }
        health.set("f7", Colour::Red, "known ones change at the cap too");
        let report = health.report();
        assert_eq!((report.facts.len(), report.facts_refused), (FACTS_MAX, 3));
        assert_eq!((report.facts[0].name.as_str(), report.status), ("f7", Colour::Red));
    }
}
