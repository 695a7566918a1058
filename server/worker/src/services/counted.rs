//! What is counted of calls, under the lock that each call takes anyway: no allocation, no lock of its own.
//!
//! The invariant: a call is counted once, by the first final word that its asker heard.

use std::time::Duration;

use spile_protocol::code::{Class, Code};

/// Upper ends of the steps in which a call's time is told, in seconds; what took longer is beyond the last.
pub const CALL_SECONDS: [f64; 9] = [0.001, 0.0025, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];
/// The same in microseconds.
const STEPS_US: [u64; CALL_SECONDS.len()] =
    [1_000, 2_500, 10_000, 25_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000];
/// Whose fault it was that a call failed, as it is told.
pub const CALL_CLASSES: [Class; 5] =
    [Class::YourFrame, Class::YourRight, Class::YourPace, Class::YourRequest, Class::OurSide];

/// How long calls took, and how they failed, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallsMeasured {
    /// Calls handed to another member, since the first went away with it.
    pub retried: u64,
    /// Final answers and faults, by the step their time falls in; the last is beyond all of [`CALL_SECONDS`].
    pub steps: [u64; CALL_SECONDS.len() + 1],
    /// All their times together.
    pub micros: u64,
    /// Those that said another code than 0, and calls handed to nobody, by its class: [`CALL_CLASSES`].
    pub failed: [u64; CALL_CLASSES.len()],
}

impl CallsMeasured {
    /// A call that was handed out has its final word.
    pub(super) fn ended(&mut self, code: Code, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let step = STEPS_US.iter().position(|&most| took_us <= most).unwrap_or(STEPS_US.len());
        if let Some(step) = self.steps.get_mut(step) {
            *step += 1;
        }
        self.micros = self.micros.saturating_add(took_us);
        self.code(code);
    }

    /// What its asker heard.
    pub(super) fn code(&mut self, code: Code) {
        let class = CALL_CLASSES.iter().position(|&class| class == code.class());
        let failed = class.filter(|_| code != Code(0)).and_then(|at| self.failed.get_mut(at));
        if let Some(failed) = failed {
            *failed += 1;
        }
    }
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) timed_out: u64,
    pub(super) refused: u64,
    pub(super) measured: CallsMeasured,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_falls_in_the_first_step_that_it_does_not_pass() {
        let seconds = STEPS_US.map(|micros| Duration::from_micros(micros).as_secs_f64());
        assert_eq!(seconds, CALL_SECONDS);
        let mut measured = CallsMeasured::default();
        for (took_us, code) in [
            (1_000, Code(0)),
            (1_001, Code::NOT_FOUND),
            (30_000_001, Code::TIMED_OUT),
            (u64::MAX, Code::FORBIDDEN),
        ] {
            measured.ended(code, Duration::from_micros(took_us));
        }
        assert_eq!(measured.steps, [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(measured.micros, u64::MAX);
        let of = |code: Code| {
            let at = CALL_CLASSES.iter().position(|&class| class == code.class()).unwrap();
            measured.failed[at]
        };
        assert_eq!((of(Code::NOT_FOUND), of(Code::FORBIDDEN)), (1, 1));
        assert_eq!(measured.failed.iter().sum::<u64>(), 3);
    }
}
