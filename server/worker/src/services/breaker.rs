//! A service's breaker: when it fails too often, callers hear so at once instead of waiting for the next failure.
//!
//! ```text
//!           too many failures                  pause over: the next call is the probe
//!  Closed ────────────────────▶ Open ───────────────────────────────────────▶ Half-open
//!    ▲                            ▲──────────── the probe failed: a longer pause ──┘ │
//!    └───────────────────────── the probe was answered ──────────────────────────────┘
//! ```
//!
//! No clock here: time is an argument. Invariant: half-open has one probe under way at most.

use std::time::Duration;

use spile_protocol::time::Instant;

use crate::limits::{
    BREAKER_FAILURES, BREAKER_PAUSE_MAX_MS, BREAKER_PAUSE_MS, BREAKER_PROBE_MS, BREAKER_WINDOW_MS,
};

/// May a call go to the service?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Yes.
    Go,
    /// Yes; what becomes of it decides for those behind it.
    Probe,
    /// No: come back after so many milliseconds.
    Wait(u32),
}

/// What became of a call, as far as the breaker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The service answered.
    Good,
    /// It did not, or said that it is broken itself.
    Bad,
    /// Nobody knows: whoever asked is gone.
    Neither,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant, pause_ms: u32 },
    HalfOpen { pause_ms: u32, probing: bool },
}

/// Answers and failures of half a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    good: u64,
    bad: u64,
}

/// The breaker of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breaker {
    state: State,
    /// Since when `this` is counted; `last` is the half before it.
    since: Instant,
    this: Counted,
    last: Counted,
}

impl Default for Breaker {
    fn default() -> Self {
        let (this, last) = (Counted::default(), Counted::default());
        Self { state: State::Closed, since: Instant(0), this, last }
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

impl Breaker {
    /// How long a call would have to wait, in milliseconds, where none goes now.
    pub(crate) fn waits(&self, now: Instant) -> Option<u32> {
        match self.state {
            State::Open { until, .. } if now < until => {
                let left = until.since(now).as_millis().max(1);
                Some(u32::try_from(left).unwrap_or(u32::MAX))
            }
            State::HalfOpen { probing: true, .. } => Some(BREAKER_PROBE_MS),
            State::Closed | State::Open { .. } | State::HalfOpen { probing: false, .. } => None,
        }
    }

    /// May a call go now? One that is told `Probe` is told of again with [`Self::ended`].
    pub(crate) fn admit(&mut self, now: Instant) -> Admit {
        match (self.waits(now), self.state) {
            (Some(wait_ms), _) => Admit::Wait(wait_ms),
            (None, State::Closed) => Admit::Go,
            (None, State::Open { pause_ms, .. } | State::HalfOpen { pause_ms, .. }) => {
                self.state = State::HalfOpen { pause_ms, probing: true };
                Admit::Probe
            }
        }
    }

    /// A call has ended, `probe` where it was admitted as one.
    pub(crate) fn ended(&mut self, now: Instant, probe: bool, outcome: Outcome) {
        match (self.state, outcome) {
            (State::HalfOpen { .. }, Outcome::Good) if probe => *self = Self::default(),
            (State::HalfOpen { pause_ms, .. }, Outcome::Bad) if probe => {
                self.open(now, pause_ms.saturating_mul(2).min(BREAKER_PAUSE_MAX_MS));
            }
            (State::HalfOpen { pause_ms, .. }, Outcome::Neither) if probe => {
                self.state = State::HalfOpen { pause_ms, probing: false };
            }
            (State::Closed, Outcome::Good | Outcome::Bad) => self.count(now, outcome),
            // What was begun before it opened decides nothing any more.
            (State::Closed, Outcome::Neither)
            | (
                State::Open { .. } | State::HalfOpen { .. },
                Outcome::Good | Outcome::Bad | Outcome::Neither,
            ) => {}
        }
    }

    fn count(&mut self, now: Instant, outcome: Outcome) {
        self.turn(now);
        match outcome {
            Outcome::Good => self.this.good += 1,
            Outcome::Bad => self.this.bad += 1,
            Outcome::Neither => {}
        }
        let (good, bad) = (self.this.good + self.last.good, self.this.bad + self.last.bad);
        // A few failures among many answers are the caller's to retry.
        if outcome == Outcome::Bad && bad >= BREAKER_FAILURES && bad >= good {
            self.open(now, BREAKER_PAUSE_MS);
        }
    }

    /// Counts in halves of the window, so that what is older is forgotten without a list.
    fn turn(&mut self, now: Instant) {
        let half = ms(BREAKER_WINDOW_MS / 2);
        let passed = now.since(self.since);
        if passed < half {
            return;
        }
        self.last = if passed < half * 2 { self.this } else { Counted::default() };
        (self.this, self.since) = (Counted::default(), now);
    }

    fn open(&mut self, now: Instant, pause_ms: u32) {
        *self = Self::default();
        self.state = State::Open { until: now.after(ms(pause_ms)), pause_ms };
    }

    /// Does it let every call through?
    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Is there nothing in it that a new one would not have?
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let quiet = now.since(self.since) >= ms(BREAKER_WINDOW_MS);
        self.is_closed() && (quiet || self.this.bad + self.last.bad == 0)
    }

    /// How it is, in the words of admin §9.
    pub(crate) fn name(&self, now: Instant) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { until, .. } if now < until => "open",
            State::Open { .. } | State::HalfOpen { .. } => "half-open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, one a step, at a time in milliseconds.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// So many failures of calls that were let through.
        Bad(u64),
        Good(u64),
        /// A call asks.
        Asks(Admit),
        /// The probe ended.
        Probe(Outcome),
        Is(&'static str),
    }

    use Step::{Asks, Bad, Good, Is, Probe};

    const N: u64 = BREAKER_FAILURES;
    const PAUSE: u64 = BREAKER_PAUSE_MS as u64;
    const WINDOW: u64 = BREAKER_WINDOW_MS as u64;

    fn at(ms: u64) -> Instant {
        Instant(1_000_000 + ms * 1000)
    }

    fn check(name: &str, steps: &[(u64, Step)]) {
        let mut breaker = Breaker::default();
        for (n, &(time, step)) in steps.iter().enumerate() {
            let now = at(time);
            match step {
                Bad(count) => (0..count).for_each(|_| breaker.ended(now, false, Outcome::Bad)),
                Good(count) => (0..count).for_each(|_| breaker.ended(now, false, Outcome::Good)),
                Asks(expected) => assert_eq!(breaker.admit(now), expected, "{name}, step {n}"),
                Probe(outcome) => breaker.ended(now, true, outcome),
                Is(expected) => assert_eq!(breaker.name(now), expected, "{name}, step {n}"),
            }
        }
    }

    #[test]
    fn it_opens_on_many_failures_and_closes_on_an_answered_probe() {
        let wait = |ms: u64| Asks(Admit::Wait(u32::try_from(ms).unwrap()));
        check("one less is nothing", &[(0, Bad(N - 1)), (0, Asks(Admit::Go)), (0, Is("closed"))]);
        check(
            "enough opens it",
            &[(0, Bad(N)), (0, Is("open")), (0, wait(PAUSE)), (400, wait(PAUSE - 400))],
        );
        check("failures among more answers", &[(0, Good(N + 1)), (0, Bad(N)), (1, Is("closed"))]);
        check("as many as answers", &[(0, Good(N)), (0, Bad(N)), (1, Is("open"))]);
        check(
            "failures of long ago",
            &[(0, Bad(N - 1)), (WINDOW, Bad(N - 1)), (WINDOW, Is("closed"))],
        );
        check(
            "across half a window",
            &[(0, Bad(N - 1)), (WINDOW / 2, Bad(1)), (WINDOW / 2, Is("open"))],
        );
        check(
            "one probe, and it decides",
            &[
                (0, Bad(N)),
                (PAUSE, Is("half-open")),
                (PAUSE, Asks(Admit::Probe)),
                (PAUSE, wait(u64::from(BREAKER_PROBE_MS))),
                (PAUSE, Good(9)),
                (PAUSE, Is("half-open")),
                (PAUSE + 5, Probe(Outcome::Good)),
                (PAUSE + 5, Asks(Admit::Go)),
                (PAUSE + 5, Bad(N - 1)),
                (PAUSE + 5, Is("closed")),
            ],
        );
        check(
            "a probe that fails doubles the pause",
            &[
                (0, Bad(N)),
                (PAUSE, Asks(Admit::Probe)),
                (PAUSE, Probe(Outcome::Bad)),
                (PAUSE, wait(PAUSE * 2)),
                (3 * PAUSE, Asks(Admit::Probe)),
                (3 * PAUSE, Probe(Outcome::Bad)),
                (3 * PAUSE, wait(PAUSE * 4)),
            ],
        );
        check(
            "a probe nobody waits for leaves its place to the next",
            &[
                (0, Bad(N)),
                (PAUSE, Asks(Admit::Probe)),
                (PAUSE, Probe(Outcome::Neither)),
                (PAUSE, Asks(Admit::Probe)),
            ],
        );
        check("late answers do not close it", &[(0, Bad(N)), (1, Good(100)), (1, Is("open"))]);
    }

    #[test]
    fn the_pause_is_bounded() {
        let mut breaker = Breaker::default();
        let mut now = at(0);
        (0..N).for_each(|_| breaker.ended(now, false, Outcome::Bad));
        for _ in 0..40 {
            let Admit::Wait(wait) = breaker.admit(now) else { panic!("it is open") };
            assert!(wait <= BREAKER_PAUSE_MAX_MS);
            now = now.after(ms(wait));
            assert_eq!(breaker.admit(now), Admit::Probe);
            breaker.ended(now, true, Outcome::Bad);
        }
        assert_eq!(breaker.admit(now), Admit::Wait(BREAKER_PAUSE_MAX_MS));
    }
}
