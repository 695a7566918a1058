//! Calls of late, for who asks what a trace touched (admin §12.3): in memory only, since a call is not a record.
//!
//! Invariant: the newest [`CALLS_REMEMBERED`] calls are here, with who had them and what became of them; older ones are
//! forgotten, whatever still happens to them.

use std::{collections::VecDeque, sync::Arc};

use spile_protocol::{code::Code, time::Instant};

use super::{Serving, call::Head};
use crate::limits::{CALLS_REMEMBERED, TRACE_CALLS};

/// Whom a call was handed to.
#[derive(Clone, Debug)]
struct Handed {
    at: Instant,
    principal: Arc<str>,
    edge: Arc<str>,
}

/// What whoever asked came to hear, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The answer's code, or the fault's.
    Told(Code),
    /// It went away before.
    Gone,
}

#[derive(Debug)]
struct Recent {
    scoped: Arc<str>,
    head: Arc<Head>,
    taken: Instant,
    handed: Vec<Handed>,
    /// What its member said.
    answered: Option<(Instant, Code)>,
    ended: Option<(Instant, End)>,
}

/// The newest calls, by the count of all.
#[derive(Debug, Default)]
pub(super) struct Recents {
    base: u64,
    all: VecDeque<Recent>,
}

impl Recents {
    /// A call came: its number here.
    pub(super) fn take(&mut self, now: Instant, scoped: &Arc<str>, head: &Arc<Head>) -> u64 {
        if self.all.len() >= CALLS_REMEMBERED {
            self.all.pop_front();
            self.base += 1;
        }
        let (scoped, head) = (Arc::clone(scoped), Arc::clone(head));
        let (handed, answered, ended) = (Vec::new(), None, None);
        self.all.push_back(Recent { scoped, head, taken: now, handed, answered, ended });
        self.base + u64::try_from(self.all.len()).unwrap_or(u64::MAX) - 1
    }

    fn at(&mut self, number: u64) -> Option<&mut Recent> {
        self.all.get_mut(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    /// A member has it now.
    pub(super) fn hand(&mut self, now: Instant, number: u64, to: &Serving) {
        let Some(recent) = self.at(number) else { return };
        let (principal, edge) = (Arc::clone(&to.principal), Arc::clone(&to.edge));
        tracing::debug!(trace = %recent.head.id(), service = &*recent.head.service, member = &*principal, edge = &*edge, "a call is handed out");
        recent.handed.push(Handed { at: now, principal, edge });
    }

    /// Its member said all it says.
    pub(super) fn answer(&mut self, now: Instant, number: u64, code: Code) {
        let Some(recent) = self.at(number) else { return };
        recent.answered = Some((now, code));
        let member = recent.handed.last().map_or("", |handed| &*handed.principal);
        let took_us = u64::try_from(now.since(recent.taken).as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(trace = %recent.head.id(), service = &*recent.head.service, member, %code, took_us, "a call is answered");
    }

    /// Whoever asked heard what came of it, or is gone: what is said first counts.
    pub(super) fn end(&mut self, now: Instant, number: u64, end: End) {
        let Some(recent) = self.at(number).filter(|recent| recent.ended.is_none()) else { return };
        recent.ended = Some((now, end));
        let Head { service, method, caller, .. } = &*recent.head;
        let took_us = u64::try_from(now.since(recent.taken).as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(trace = %recent.head.id(), service, method, caller, took_us, ?end, "a call ends");
    }

    /// What happened in calls of this trace, when, in order: of the newest [`TRACE_CALLS`]. `of`: a service's name with
    /// its tenant.
    pub(super) fn steps(
        &self,
        id: [u8; 16],
        of: impl Fn(&str) -> String,
    ) -> Vec<(Instant, String)> {
        let traced = |recent: &&Recent| recent.head.trace.is_some_and(|trace| trace.id == id);
        let own = |recent: &&Recent| *recent.scoped == *of(&recent.head.service);
        let newest = self.all.iter().rev().filter(traced).filter(own).take(TRACE_CALLS);
        let mut found: Vec<_> = newest.collect();
        found.reverse();
        found.into_iter().flat_map(Recent::steps).collect()
    }
}

impl Recent {
    fn steps(&self) -> Vec<(Instant, String)> {
        let Head { service, method, caller, .. } = &*self.head;
        let mut steps =
            vec![(self.taken, format!("call of {service} {method} from {caller} taken"))];
        for Handed { at, principal, edge } in &self.handed {
            steps.push((*at, format!("call of {service} handed to {principal} at edge {edge}")));
        }
        let after = |at: Instant| format!("after {} ms", at.since(self.taken).as_millis());
        if let (Some((at, code)), Some(by)) = (self.answered, self.handed.last()) {
            let said = if code == Code(0) { "done".to_owned() } else { code.to_string() };
            let what =
                format!("call of {service} answered by {} {}: {said}", by.principal, after(at));
            steps.push((at, what));
        }
        match self.ended {
            // What the member said is what the caller heard.
            Some((_, End::Told(code))) if self.answered.is_some_and(|(_, said)| said == code) => {}
            Some((at, End::Told(code))) => {
                steps.push((at, format!("{caller} told {code} of {service} {}", after(at))));
            }
            Some((at, End::Gone)) => {
                steps.push((
                    at,
                    format!("{caller} gone before the answer of {service} {}", after(at)),
                ));
            }
            None => {}
        }
        steps.sort_by_key(|(at, _)| *at);
        steps
    }
}
