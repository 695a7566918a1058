//! What is said because of the session's state alone: greetings, pings, credit, faults, goodbyes. Nothing is queued: each
//! thing is due or not, so that what waits is bounded by the tables it is about.

use alloc::vec::Vec;

use super::{Admission, Session, tables::Voided};
use crate::{
    code::Code,
    id::{LaneId, Number, RouteId, Version},
    message::{Auth, Credit, Fault, Full, GoAway, Message, Ping, Proof, Scope, Welcome},
    session::Transmit,
    time::{Instant, Millis},
};

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) challenge: Option<[u8; 16]>,
    pub(super) welcome: Option<(Millis, Admission)>,
    pub(super) pong: Option<u32>,
    pub(super) ping: bool,
    pings: u32,
    pub(super) credit: bool,
    /// At most one a lane, route, subscription, upload or question: newest wins.
    faults: Vec<Owed>,
    pub(super) goaway: Option<(Code, u32)>,
    pub(super) fault: Option<(Code, &'static str, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Owed {
    scope: Scope,
    code: Code,
    retry_after_ms: Option<u32>,
}

impl Due {
    pub(super) fn lane(
        &mut self,
        lane: LaneId,
        code: Code,
        expected: Number,
        retry_after_ms: Option<u32>,
    ) {
        self.scoped(Scope::Lane { lane, expected }, code, retry_after_ms);
    }

    pub(super) fn route(&mut self, route: RouteId, code: Code) {
        self.scoped(Scope::Route(route), code, None);
    }

    /// A lane that is opened again: what was to be said of the old one is no longer true.
    pub(super) fn forget_lane(&mut self, id: LaneId) {
        self.faults.retain(|owed| !matches!(owed.scope, Scope::Lane { lane, .. } if lane == id));
    }

    /// Is what waits to be said within its cap?
    pub(super) fn is_bounded(&self) -> bool {
        self.faults.len() <= crate::limits::FAULTS
    }

    pub(super) fn scoped(&mut self, scope: Scope, code: Code, retry_after_ms: Option<u32>) {
        let owed = Owed { scope, code, retry_after_ms };
        match self.faults.iter_mut().find(|old| same_thing(old.scope, scope)) {
            Some(old) => *old = owed,
            None => self.faults.push(owed),
        }
    }
}

/// Are two faults about the same lane, route, subscription, upload or question?
fn same_thing(old: Scope, new: Scope) -> bool {
    match (old, new) {
        (Scope::Lane { lane: a, .. }, Scope::Lane { lane: b, .. }) => a == b,
        (Scope::Upload { upload: a, .. }, Scope::Upload { upload: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

/// A FAULT about numbers that were refused for good.
pub(super) const fn void_fault(lane: LaneId, voided: Voided) -> Message<'static> {
    let Voided { first: number, count, code } = voided;
    let scope = Scope::Number { lane, number, count, version: Version(0) };
    Message::Fault(Fault { code, scope, retry: false, retry_after_ms: 0, detail: "" })
}

impl Session {
    /// Says what is due, as far as there is room: WELCOME before anything else, what ends the session last.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut impl Transmit) {
        self.close_when_drained(now);
        // A frame that does not fit now is due still, and goes out next time.
        let _all: Result<(), Full> = self.say_due(out);
    }

    /// Is anything due to be said?
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        let due = &self.due;
        due.challenge.is_some()
            || due.welcome.is_some()
            || due.pong.is_some()
            || due.ping
            || due.credit
            || !due.faults.is_empty()
            || due.goaway.is_some()
            || due.fault.is_some()
    }

    pub(super) fn say_due(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        self.say_greeting(out)?;
        if let Some(number) = self.due.pong {
            out.put(&Message::Ping(Ping { number, answer: true }), 0)?;
            self.due.pong = None;
        }
        if self.due.ping {
            let number = self.due.pings.wrapping_add(1);
            out.put(&Message::Ping(Ping { number, answer: false }), 0)?;
            self.due.pings = number;
            self.due.ping = false;
        }
        if self.due.credit {
            let super::Amount { events, bytes } = self.config.credit;
            let chunk_bytes = Some(self.config.chunk_bytes);
            out.put(
                &Message::Credit(Credit { subscription: None, events, bytes, chunk_bytes }),
                0,
            )?;
            self.due.credit = false;
        }
        self.say_faults(out)?;
        self.say_goodbye(out)
    }

    fn say_greeting(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        if let Some(nonce) = self.due.challenge {
            out.put(&Message::Auth(Auth { proof: Proof::Challenge { nonce } }), 0)?;
            self.due.challenge = None;
        }
        if let Some((wall, admission)) = &self.due.welcome {
            out.put(&Message::Welcome(self.welcome(*wall, admission)), 0)?;
            self.due.welcome = None;
        }
        Ok(())
    }

    fn welcome<'a>(&'a self, wall: Millis, admission: &'a Admission) -> Welcome<'a> {
        let idle_s = self.idle().map_or(0, |idle| idle.as_secs());
        Welcome {
            version: self.greeting.version,
            server_time_ms: wall.0,
            frame_max: self.config.frame_max,
            credit_events: self.config.credit.events,
            credit_bytes: self.config.credit.bytes,
            idle_timeout_s: u32::try_from(idle_s).unwrap_or(u32::MAX),
            principal: &admission.principal,
            tenant: &admission.tenant,
            proof: admission.proof.as_ref().map_or(&[], |proof| proof),
            lanes: crate::limits::LANES,
            routes: crate::limits::ROUTES,
            payload_max: self.config.payload_max,
            software: &self.config.software,
            session: self.config.session,
            edge: &self.config.edge,
            chunk_bytes: self.config.chunk_bytes,
        }
    }

    fn say_faults(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        let mut said = 0;
        let mut result = Ok(());
        for &Owed { scope, code, retry_after_ms } in &self.due.faults {
            let retry = retry_after_ms.is_some();
            let retry_after_ms = retry_after_ms.unwrap_or_default();
            result = out
                .put(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail: "" }), 0);
            if result.is_err() {
                break;
            }
            said += 1;
        }
        self.due.faults.drain(..said);
        result
    }

    fn say_goodbye(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        if let Some((code, retry_after_ms)) = self.due.goaway {
            out.put(&Message::GoAway(GoAway { code, retry_after_ms, detail: "" }), 0)?;
            self.due.goaway = None;
        }
        if let Some((code, detail, retry_after_ms)) = self.due.fault {
            let (scope, retry) = (Scope::Session, code.retry());
            out.put(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail }), 0)?;
            self.due.fault = None;
        }
        Ok(())
    }
}
