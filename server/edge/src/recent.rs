//! Calls that sessions of this edge asked of late, for who asks what a trace touched (admin §12.3): in memory only.
//!
//! Invariant: the newest [`CALLS_REMEMBERED`] calls are here, each with what its caller heard, or that it has not yet.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use spile_protocol::{code::Code, message::Trace, time::Millis};

use crate::limits::{CALLS_REMEMBERED, TRACE_CALLS};

#[derive(Debug)]
struct Call {
    trace: Trace,
    tenant: Box<str>,
    /// Service, method and caller, as they are told.
    what: Box<str>,
    came: Millis,
    /// What the caller heard; `None` within: it went away before.
    ended: Option<(Millis, Option<Code>)>,
}

#[derive(Debug, Default)]
struct Ring {
    base: u64,
    all: VecDeque<Call>,
}

/// Calls of late, of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Ring>);

/// A step of a trace.
pub(crate) type Step = Value;

impl Recent {
    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call came: its number here. `what`: service, method and caller.
    pub(crate) fn came(&self, wall: Millis, tenant: &str, trace: Trace, what: String) -> u64 {
        tracing::debug!(%trace, tenant, what, "a call came");
        let (tenant, what, came) = (tenant.into(), what.into(), wall);
        let mut ring = self.ring();
        if ring.all.len() >= CALLS_REMEMBERED {
            ring.all.pop_front();
            ring.base += 1;
        }
        ring.all.push_back(Call { trace, tenant, what, came, ended: None });
        ring.base + u64::try_from(ring.all.len()).unwrap_or(u64::MAX) - 1
    }

    /// Its caller heard this; `None`: it went away before.
    pub(crate) fn ended(&self, wall: Millis, number: u64, code: Option<Code>) {
        let mut ring = self.ring();
        let at = number.checked_sub(ring.base).and_then(|at| usize::try_from(at).ok());
        let Some(call) = at.and_then(|at| ring.all.get_mut(at)) else { return };
        call.ended = Some((wall, code));
        let (trace, what, took_ms) = (call.trace, &*call.what, wall.0.saturating_sub(call.came.0));
        let code = code.map(tracing::field::display);
        tracing::debug!(%trace, what, code, took_ms, "a call ends");
    }

    /// What is known of a trace, of its newest calls: what came, and what its callers heard.
    pub(crate) fn steps(&self, tenant: &str, id: [u8; 16]) -> (Vec<Step>, Vec<Step>) {
        let ring = self.ring();
        let own = |call: &&Call| call.trace.id == id && *call.tenant == *tenant;
        let mut found: Vec<_> = ring.all.iter().rev().filter(own).take(TRACE_CALLS).collect();
        found.reverse();
        let came = found.iter().map(|call| step(call.came, format!("call of {}", call.what)));
        let came = came.collect();
        let ended = found.iter().filter_map(|call| {
            let (at, code) = call.ended?;
            let after_ms = at.0.saturating_sub(call.came.0);
            let heard = match code {
                None => "nobody heard the answer, its session was over".to_owned(),
                Some(Code(0)) => "answered: done".to_owned(),
                Some(code) => format!("answered: {code}"),
            };
            Some(step(at, format!("call of {} {heard}, after {after_ms} ms", call.what)))
        });
        (came, ended.collect())
    }
}

fn step(at: Millis, what: String) -> Step {
    json!({ "time_ms": at.0, "where": "edge", "what": what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(byte: u8) -> Trace {
        Trace { id: [byte; 16], span: [0; 8], flags: 0 }
    }

    fn told(recent: &Recent, tenant: &str, byte: u8) -> Vec<String> {
        let (came, ended) = recent.steps(tenant, [byte; 16]);
        came.iter().chain(&ended).map(|step| step["what"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_trace_tells_its_own_calls_of_its_own_tenant() {
        let recent = Recent::default();
        let one = recent.came(Millis(5), "main", trace(1), "a do from user/u".to_owned());
        let two = recent.came(Millis(6), "main", trace(1), "b do from user/u".to_owned());
        let other = recent.came(Millis(7), "main", trace(2), "c do from user/u".to_owned());
        recent.ended(Millis(9), two, Some(Code::NOT_FOUND));
        recent.ended(Millis(9), other, None);
        assert_eq!(
            told(&recent, "main", 1),
            [
                "call of a do from user/u",
                "call of b do from user/u",
                "call of b do from user/u answered: 401 not-found, after 3 ms"
            ]
        );
        recent.ended(Millis(10), one, Some(Code(0)));
        assert_eq!(
            told(&recent, "main", 1)[2],
            "call of a do from user/u answered: done, after 5 ms"
        );
        assert_eq!(
            told(&recent, "main", 2)[1],
            "call of c do from user/u nobody heard the answer, its session was over, after 2 ms"
        );
        assert!(told(&recent, "other", 1).is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten_and_what_ends_late_is_not_taken_for_another() {
        let recent = Recent::default();
        let first = recent.came(Millis(0), "main", trace(1), "first".to_owned());
        for n in 0..CALLS_REMEMBERED {
            recent.came(Millis(1), "main", trace(2), format!("{n}"));
        }
        recent.ended(Millis(9), first, Some(Code(0)));
        assert!(told(&recent, "main", 1).is_empty());
        let newest = told(&recent, "main", 2);
        assert_eq!(newest.len(), TRACE_CALLS, "none has ended");
        assert_eq!(newest.last().unwrap(), &format!("call of {}", CALLS_REMEMBERED - 1));
    }
}
