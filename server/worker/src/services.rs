//! Services: who serves what, which calls are under way, and who is told when one ends.
//!
//! ```text
//!  asker ── CALL ──▶ open call ── mailbox ──▶ member      (the one with the least of its window in use)
//!    ◀── mailbox ── REPLY, or a FAULT: timed out, member gone ──┘
//! ```
//!
//! Here: members and open calls, under one short lock of their own. [`breaker`] decides whether a service is asked at all,
//! [`mailbox`] carries between sessions, [`desk`] is a session's side, [`listing`] tells operators. No clock, no log, no task
//! a call. Invariants: each call is told exactly one final answer, however its member and its deadline race; a place in a
//! member's window is taken until that member has answered, whoever still waits.

pub(crate) mod breaker;
mod call;
mod counted;
pub(crate) mod desk;
mod listing;
pub(crate) mod mailbox;
mod member;
mod recent;

pub(crate) use self::{
    call::{Asker, Asking, Handed, Head, Refused},
    member::Serving,
};
pub use self::{
    counted::{CALL_CLASSES, CALL_SECONDS, CallsMeasured},
    listing::{CallsStatus, OpenBreaker},
};

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use spile_protocol::{code::Code, limits, time::Instant};

use tokio::sync::watch;

use self::{
    breaker::{Admit, Outcome},
    call::{Open, fault, outcome_of, refused, why},
    counted::Counted,
    mailbox::{Answer, Letter},
    member::{Member, Service, choose, hand},
    recent::{End, Recents},
};
use crate::{
    limits::{
        BREAKER_PATIENCE_MS, BREAKERS_TOLD, CALL_ATTEMPTS, CALL_BYTES_WAITING, CALLS, MEMBERS,
        RETRY_BUSY_MS, SERVICES,
    },
    tables::scoped,
};

/// All services of a worker.
#[derive(Debug, Default)]
pub(crate) struct Services {
    of: BTreeMap<Arc<str>, Service>,
    open: HashMap<u32, Open>,
    next: u32,
    turn: u64,
    /// Payload of open calls that is kept.
    bytes: usize,
    counted: Counted,
    /// Counts up when a breaker opens or closes.
    breakers: watch::Sender<u64>,
    recent: Recents,
}

fn size(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Services {
    /// Hears of each breaker that opens or closes.
    pub(crate) fn breakers_changed(&self) -> watch::Receiver<u64> {
        self.breakers.subscribe()
    }

    /// Services that somebody serves.
    fn served(&self) -> usize {
        self.of.values().filter(|service| !service.members.is_empty()).count()
    }

    /// How calls go, for health and metrics.
    pub(crate) fn status(&self, now: Instant) -> CallsStatus {
        let Counted { calls, failed, timed_out, refused, measured: _ } = self.counted;
        CallsStatus {
            services: self.served(),
            calls,
            in_flight: self.open.len(),
            failed,
            timed_out,
            refused,
            breakers: self.open_breakers(now, BREAKERS_TOLD),
        }
    }

    /// How long calls took, and what was said of those that failed.
    pub(crate) const fn measured(&self) -> CallsMeasured {
        self.counted.measured
    }

    /// A session serves from now on, or with another window; 0: not any more.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        scoped: &Arc<str>,
        serving: &Serving,
        window: u32,
    ) -> Result<(), Refused> {
        if window == 0 {
            self.stop(now, scoped, serving.session);
            return Ok(());
        }
        if !self.of.contains_key(scoped) && self.of.len() >= SERVICES {
            // Names nobody serves any more make room.
            self.of
                .retain(|_, service| !service.members.is_empty() || !service.breaker.is_fresh(now));
            if self.of.len() >= SERVICES {
                return Err(refused(Code::TOO_MANY, 0, "this worker has too many services"));
            }
        }
        let window = window.min(u32::try_from(limits::CALLS).unwrap_or(u32::MAX));
        let service = self.of.entry(Arc::clone(scoped)).or_default();
        let session = serving.session;
        if let Some(known) = service.members.iter_mut().find(|member| member.is.session == session)
        {
            known.window = window;
            self.shrink(now, scoped, session);
            return Ok(());
        }
        if service.members.len() >= MEMBERS {
            return Err(refused(Code::TOO_MANY, 0, "the service has too many members"));
        }
        service.members.push(Member { is: serving.clone(), window, open: Vec::new(), turn: 0 });
        Ok(())
    }

    /// Has the session something to do with the service?
    pub(crate) fn is_member(&self, scoped: &str, session: u64) -> bool {
        let members = self.of.get(scoped).map(|service| service.members.as_slice());
        members.is_some_and(|members| members.iter().any(|member| member.is.session == session))
    }

    /// A member takes no calls any more; what it has it may answer.
    fn stop(&mut self, now: Instant, scoped: &str, session: u64) {
        let Some(service) = self.of.get_mut(scoped) else { return };
        let own = service.members.iter_mut().find(|member| member.is.session == session);
        let Some(member) = own else { return };
        member.window = 0;
        self.shrink(now, scoped, session);
        if let Some(service) = self.of.get_mut(scoped) {
            service.members.retain(|member| member.window > 0 || !member.open.is_empty());
        }
        self.tidy(now, scoped);
    }

    /// What a member has not seen, and is too much for its window now, goes to others.
    fn shrink(&mut self, now: Instant, scoped: &str, session: u64) {
        let Self { of, open, .. } = self;
        let members = of.get_mut(scoped).map(|service| service.members.iter_mut());
        let Some(member) = members.and_then(|mut all| all.find(|one| one.is.session == session))
        else {
            return;
        };
        let mut excess = member.open.len().saturating_sub(size(member.window));
        let mut moved = Vec::new();
        member.open.retain(|key| {
            let moves = excess > 0 && open.get(key).is_some_and(|open| !open.sent);
            if moves {
                excess -= 1;
                moved.push(*key);
            }
            !moves
        });
        let count = u32::try_from(moved.len()).unwrap_or(u32::MAX);
        member.is.mail.serving.fetch_sub(count, Ordering::Relaxed);
        moved.into_iter().for_each(|key| self.orphan(now, key));
    }

    /// Forgets a service that nobody serves, unless its breaker has something to remember.
    fn tidy(&mut self, now: Instant, scoped: &str) {
        let over = |service: &Service| service.members.is_empty() && service.breaker.is_fresh(now);
        if self.of.get(scoped).is_some_and(over) {
            self.of.remove(scoped);
        }
    }

    /// What happened in calls of a trace, of late. admin §12.3
    pub(crate) fn traced(&self, tenant: &str, id: [u8; 16]) -> Vec<(Instant, String)> {
        self.recent.steps(id, |service| scoped(tenant, service))
    }

    /// Takes a call: its number, under which it is forgotten or timed out later.
    pub(crate) fn call(&mut self, now: Instant, asking: Asking) -> Result<u32, Refused> {
        let recent = self.recent.take(now, &asking.scoped, &asking.head);
        let taken = self.try_call(now, asking, recent);
        self.counted.calls += 1;
        if let Err(why) = &taken {
            self.recent.end(now, recent, End::Told(why.code));
            self.counted.measured.code(why.code);
        }
        self.counted.refused += u64::from(taken.is_err());
        taken
    }

    fn try_call(&mut self, now: Instant, asking: Asking, recent: u64) -> Result<u32, Refused> {
        let Asking { scoped, head, payload, payload_crc, wait, asker } = asking;
        let full = self.open.len() >= CALLS
            || self.bytes.saturating_add(payload.len()) > CALL_BYTES_WAITING;
        if full {
            return Err(refused(Code::BUSY, RETRY_BUSY_MS, "too many calls are under way"));
        }
        let none = || refused(Code::NOT_FOUND, 0, format!("nobody serves {}", head.service));
        let service = self.of.get_mut(&scoped).ok_or_else(none)?;
        let chosen = choose(service, None, payload.len());
        if chosen == Err(Code::NOT_FOUND) {
            return Err(none());
        }
        let held = |retry_after_ms| {
            let detail = format!("{} failed too often of late", head.service);
            refused(Code::BREAKER_OPEN, retry_after_ms, detail)
        };
        if let Some(wait_ms) = service.breaker.waits(now) {
            return Err(held(wait_ms));
        }
        // Asked last, so that no probe is lost on a call that goes nowhere.
        let at = chosen.map_err(|code| why(code, &head.service))?;
        let probe = match service.breaker.admit(now) {
            Admit::Go => false,
            Admit::Probe => true,
            Admit::Wait(wait_ms) => return Err(held(wait_ms)),
        };
        let key = free(&self.open, &mut self.next);
        self.turn += 1;
        self.bytes += payload.len();
        service.calls += 1;
        let mut open = Open {
            scoped: Arc::clone(&scoped),
            head,
            asker: Some(asker),
            member: 0,
            payload: Some(payload),
            payload_crc,
            sent: false,
            parts: false,
            probe,
            patient: wait >= Duration::from_millis(BREAKER_PATIENCE_MS),
            decided: false,
            taken: now,
            told: false,
            deadline: now.after(wait),
            attempts: 0,
            recent,
        };
        hand(service, at, key, &mut open, self.turn);
        self.open.insert(key, open);
        Ok(key)
    }

    /// A member's session says a call to its client now: what to say, unless nobody waits for the answer any more.
    pub(crate) fn take(&mut self, now: Instant, session: u64, key: u32) -> Option<Handed> {
        let open = self.open.get_mut(&key)?;
        if open.member != session || open.sent {
            return None;
        }
        let left = open.deadline.since(now).as_millis();
        // spec §9.4.1: at 0 whoever asked hears so by itself.
        let remaining_ms = u32::try_from(left).unwrap_or(u32::MAX);
        if remaining_ms == 0 {
            return None;
        }
        open.sent = true;
        let members = self.of.get(&open.scoped).map_or(&[][..], |service| &service.members);
        if let Some(member) = members.iter().find(|member| member.is.session == session) {
            self.recent.hand(now, open.recent, &member.is);
        }
        let again = open.head.idempotent;
        let payload = if again { open.payload.clone() } else { open.payload.take() };
        let payload = payload.unwrap_or_default();
        if !again {
            self.bytes = self.bytes.saturating_sub(payload.len());
        }
        let (head, payload_crc) = (Arc::clone(&open.head), open.payload_crc);
        Some(Handed { head, payload, payload_crc, remaining_ms })
    }

    /// A member answers. What it says of a call that is not its own, or is over, is ignored (spec §9.5.1).
    pub(crate) fn reply(&mut self, now: Instant, session: u64, key: u32, mut answer: Answer) {
        let is_its = |open: &&mut Open| open.member == session && open.sent;
        let Some(open) = self.open.get_mut(&key).filter(is_its) else { return };
        let (more, code, recent) = (answer.more, answer.code, open.recent);
        let mut told = code;
        let mut outcome = outcome_of(code);
        if let Some(asker) = open.asker.clone() {
            answer.request = asker.request;
            open.parts = true;
            if asker.mail.put(Letter::Reply(Box::new(answer))).is_err() {
                let detail = "the answer comes faster than it is read";
                fault(&asker, refused(Code::BUSY, RETRY_BUSY_MS, detail), open.head.idempotent);
                open.asker = None;
                told = Code::BUSY;
                // That is neither the service's fault nor its merit.
                outcome = Outcome::Neither;
                self.decide(now, key, outcome);
            }
        }
        if !more {
            self.recent.answer(now, recent, code);
        }
        if !more || told != code {
            self.end(now, key, End::Told(told));
        }
        if !more {
            self.decide(now, key, outcome);
            self.close(now, key);
        }
    }

    /// The time of a call is over: was somebody still waiting for its answer?
    pub(crate) fn timed_out(&mut self, now: Instant, session: u64, key: u32) -> bool {
        if !self.forget(now, session, key, true) {
            return false;
        }
        self.counted.timed_out += 1;
        true
    }

    /// Whoever asked is gone.
    pub(crate) fn abandon(&mut self, now: Instant, session: u64, key: u32) {
        self.forget(now, session, key, false);
    }

    fn forget(&mut self, now: Instant, session: u64, key: u32, late: bool) -> bool {
        let Some(open) = self.open.get_mut(&key) else { return false };
        if open.asker.as_ref().is_none_or(|asker| asker.session != session) {
            return false;
        }
        open.asker = None;
        let outcome = if late && open.patient { Outcome::Bad } else { Outcome::Neither };
        let sent = open.sent;
        if let Some(payload) = open.payload.take() {
            self.bytes = self.bytes.saturating_sub(payload.len());
        }
        self.end(now, key, if late { End::Told(Code::TIMED_OUT) } else { End::Gone });
        self.decide(now, key, outcome);
        // What the member never saw takes no place in its window.
        if !sent {
            self.close(now, key);
        }
        true
    }

    /// A session is gone: what it served, and `served` says where.
    pub(crate) fn leave(&mut self, now: Instant, session: u64, served: &[Arc<str>]) {
        for scoped in served {
            let Some(service) = self.of.get_mut(scoped) else { continue };
            let at = service.members.iter().position(|member| member.is.session == session);
            let Some(member) = at.map(|at| service.members.swap_remove(at)) else { continue };
            for key in member.open {
                self.orphan(now, key);
            }
            self.tidy(now, scoped);
        }
    }

    /// The member that had it is gone: to another, or it ends.
    fn orphan(&mut self, now: Instant, key: u32) {
        let Some(open) = self.open.get(&key) else { return };
        let (sent, waited) = (open.sent, open.asker.is_some());
        // spec §9.4.6: where nothing was done yet, or it may be done twice. Parts that went out can't be taken back.
        let again = waited && (!sent || (open.head.idempotent && !open.parts));
        if sent {
            self.decide(now, key, if waited { Outcome::Bad } else { Outcome::Neither });
        }
        let why = if again { self.again(key).err() } else { None };
        if again && why.is_none() {
            return;
        }
        let Some(open) = self.open.get(&key) else { return };
        if let Some(asker) = &open.asker {
            let gone = || refused(Code::UNKNOWN_OUTCOME, 0, "the member that had the call is gone");
            let why = why.filter(|_| !sent).unwrap_or_else(gone);
            let code = why.code;
            fault(asker, why, open.head.idempotent);
            self.end(now, key, End::Told(code));
        }
        self.decide(now, key, Outcome::Neither);
        self.drop_open(now, key);
    }

    /// Hands a call to another member.
    fn again(&mut self, key: u32) -> Result<(), Refused> {
        let Self { of, open, turn, counted, .. } = self;
        let gone = || refused(Code::NOT_FOUND, 0, "nobody serves it any more");
        let open = open.get_mut(&key).ok_or_else(gone)?;
        let service = of.get_mut(&open.scoped).ok_or_else(gone)?;
        let length = open.payload.as_ref().map_or(0, Bytes::len);
        if open.attempts >= CALL_ATTEMPTS || !(service.breaker.is_closed() || open.probe) {
            return Err(refused(Code::UNKNOWN_OUTCOME, 0, "members go away as they get it"));
        }
        let at = choose(service, Some(open.member), length)
            .map_err(|code| why(code, &open.head.service))?;
        *turn += 1;
        open.decided = false;
        hand(service, at, key, open, *turn);
        counted.measured.retried += 1;
        Ok(())
    }

    /// Who asked has heard the last word, or is gone: what is first counts.
    fn end(&mut self, now: Instant, key: u32, end: End) {
        let Some(open) = self.open.get_mut(&key) else { return };
        self.recent.end(now, open.recent, end);
        let is_first = !std::mem::replace(&mut open.told, true);
        if let End::Told(code) = end
            && is_first
        {
            self.counted.measured.ended(code, now.since(open.taken));
        }
    }

    /// What became of a call is known: it counts once.
    fn decide(&mut self, now: Instant, key: u32, outcome: Outcome) {
        let Self { of, open, counted, breakers, .. } = self;
        let Some(open) = open.get_mut(&key).filter(|open| !open.decided) else { return };
        open.decided = true;
        let Some(service) = of.get_mut(&open.scoped) else { return };
        let was_closed = service.breaker.is_closed();
        service.breaker.ended(now, std::mem::take(&mut open.probe), outcome);
        let is_closed = service.breaker.is_closed();
        if is_closed != was_closed {
            breakers.send_modify(|changes| *changes += 1);
            let (service, closed) = (&*open.head.service, is_closed);
            tracing::warn!(service, closed, "a breaker has opened or closed");
        }
        if outcome == Outcome::Bad {
            service.failed += 1;
            counted.failed += 1;
        }
    }

    /// The member has answered, or never had it: its place is free.
    fn close(&mut self, now: Instant, key: u32) {
        let Some(open) = self.open.get(&key) else { return };
        let scoped = Arc::clone(&open.scoped);
        if let Some(service) = self.of.get_mut(&scoped) {
            let session = open.member;
            if let Some(member) = service.members.iter_mut().find(|one| one.is.session == session) {
                let before = member.open.len();
                member.open.retain(|&other| other != key);
                if member.open.len() < before {
                    member.is.mail.serving.fetch_sub(1, Ordering::Relaxed);
                }
            }
            service.members.retain(|member| member.window > 0 || !member.open.is_empty());
        }
        self.drop_open(now, key);
    }

    fn drop_open(&mut self, now: Instant, key: u32) {
        let Some(open) = self.open.remove(&key) else { return };
        self.bytes = self.bytes.saturating_sub(open.payload.map_or(0, |payload| payload.len()));
        self.tidy(now, &open.scoped);
    }
}

/// A number that no open call has: late answers are not taken for another's.
fn free(open: &HashMap<u32, Open>, next: &mut u32) -> u32 {
    loop {
        let key = *next;
        // What lies above is for calls to edges.
        *next = (key + 1) % crate::errands::FIRST;
        if !open.contains_key(&key) {
            return key;
        }
    }
}
