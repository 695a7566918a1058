//! What operators hear of a principal beside its sessions: the newest FAULT it was told here (admin §3.3), and whose frames
//! are logged for a while (admin §3.7).
//!
//! In memory, gone with a restart, and bounded. Invariant: of two looks at whom to log, a session's at its beginning and an
//! operator's at all sessions, one at least sees the other's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use spile_protocol::{code::Code, time::Millis};

use crate::limits::{DEBUGGED, FAULTS_REMEMBERED};

/// Tenant and name.
type Name = (Box<str>, Box<str>);

fn named(tenant: &str, principal: &str) -> Name {
    (tenant.into(), principal.into())
}

/// A FAULT that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub time: Millis,
    /// Why.
    pub code: Code,
}

#[derive(Debug, Default)]
struct Faults {
    known: HashMap<Name, (Fault, u64)>,
    /// The same by when they were told, the oldest first.
    order: BTreeMap<u64, Name>,
    next: u64,
}

/// Until when a session's frames are logged, in milliseconds since 1970; 0: they are not.
#[derive(Debug, Default)]
pub struct Until(AtomicU64);

impl Until {
    pub(crate) fn set(&self, until: Millis) {
        self.0.store(until.0, Ordering::Relaxed);
    }

    /// The same, unless it was set meanwhile: by an operator, who knows better.
    pub(crate) fn begin(&self, until: Millis) {
        match self.0.compare_exchange(0, until.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) | Err(_) => {}
        }
    }

    /// Are they logged now?
    pub(crate) fn covers(&self, now: Millis) -> bool {
        self.0.load(Ordering::Relaxed) > now.0
    }
}

/// What is remembered of principals.
#[derive(Debug, Default)]
pub struct Watch {
    faults: Mutex<Faults>,
    debugged: Mutex<Vec<(Name, Millis)>>,
}

impl Watch {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn debugged(&self) -> MutexGuard<'_, Vec<(Name, Millis)>> {
        self.debugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session of it was told a FAULT.
    pub(crate) fn told(&self, tenant: &str, principal: &str, fault: Fault) {
        let name = named(tenant, principal);
        let mut faults = self.faults();
        let turn = faults.next;
        faults.next += 1;
        if let Some((_, before)) = faults.known.insert(name.clone(), (fault, turn)) {
            faults.order.remove(&before);
        }
        faults.order.insert(turn, name);
        if faults.known.len() > FAULTS_REMEMBERED
            && let Some((_, oldest)) = faults.order.pop_first()
        {
            faults.known.remove(&oldest);
        }
    }

    /// The newest FAULT it was told.
    #[must_use]
    pub fn last_fault(&self, tenant: &str, principal: &str) -> Option<Fault> {
        self.faults().known.get(&named(tenant, principal)).map(|(fault, _)| *fault)
    }

    /// Its frames are logged until then, or no more where that is over; false where there are as many as may be.
    pub(crate) fn debug(
        &self,
        now: Millis,
        (tenant, principal): (&str, &str),
        until: Millis,
    ) -> bool {
        let name = named(tenant, principal);
        let mut debugged = self.debugged();
        debugged.retain(|(known, until)| *until > now && *known != name);
        if until <= now {
            return true;
        }
        let room = debugged.len() < DEBUGGED;
        if room {
            debugged.push((name, until));
        }
        room
    }

    /// Until when its frames are logged; 0 where they are not.
    pub(crate) fn debugged_until(&self, tenant: &str, principal: &str) -> Millis {
        let debugged = self.debugged();
        let same = |((of, known), _): &&(Name, Millis)| **of == *tenant && **known == *principal;
        debugged.iter().find(same).map_or(Millis(0), |(_, until)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_fault_is_told_and_the_one_longest_ago_is_forgotten() {
        let watch = Watch::default();
        let fault = |time, code| Fault { time: Millis(time), code };
        watch.told("main", "a", fault(1, Code::FORBIDDEN));
        watch.told("main", "b", fault(2, Code::BUSY));
        watch.told("main", "a", fault(3, Code::BUSY));
        assert_eq!(watch.last_fault("main", "a"), Some(fault(3, Code::BUSY)));
        assert_eq!(watch.last_fault("other", "a"), None);
        for n in 0..FAULTS_REMEMBERED - 1 {
            watch.told("main", &format!("n{n}"), fault(4, Code::BUSY));
        }
        assert_eq!(watch.last_fault("main", "b"), None, "told before a's newest");
        assert!(watch.last_fault("main", "a").is_some());
        assert_eq!(watch.faults().order.len(), FAULTS_REMEMBERED);
    }

    #[test]
    fn whom_to_log_ends_by_itself_or_when_it_is_asked_to_and_is_bounded() {
        let watch = Watch::default();
        assert!(watch.debug(Millis(1), ("main", "a"), Millis(10)));
        assert_eq!(watch.debugged_until("main", "a"), Millis(10));
        assert_eq!(watch.debugged_until("other", "a"), Millis(0));
        assert!(watch.debug(Millis(2), ("main", "a"), Millis(0)));
        assert_eq!(watch.debugged_until("main", "a"), Millis(0));
        for n in 0..DEBUGGED {
            assert!(watch.debug(Millis(3), ("main", &format!("n{n}")), Millis(10)));
        }
        assert!(!watch.debug(Millis(4), ("main", "one more"), Millis(10)));
        assert!(watch.debug(Millis(4), ("main", "n0"), Millis(20)), "it is one of them");
        assert!(watch.debug(Millis(11), ("main", "one more"), Millis(20)), "the others are over");
        let until = Until::default();
        assert!(!until.covers(Millis(0)));
        until.set(Millis(10));
        assert!(until.covers(Millis(9)) && !until.covers(Millis(10)));
        // A session that comes in asked a moment before the operator did.
        until.begin(Millis(0));
        assert!(until.covers(Millis(9)));
        let ended = Until::default();
        ended.set(Millis(1));
        ended.begin(Millis(10));
        assert!(!ended.covers(Millis(2)));
    }
}
