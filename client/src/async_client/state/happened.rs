//! What the server said, brought to who waits for it.

use std::sync::Arc;

use spile_protocol::code::Code;
use spile_protocol::id::{LaneId, Number, Version};
use spile_protocol::message::{Durability, Fault, GoAway, LaneAnswer, Scope, Welcome};
use spile_protocol::session::device::Event;
use spile_protocol::time::Millis;

use super::super::clock::wall;
use super::super::error::{Error, Refusal};
use super::looking::is_look;
use super::serving::is_serve;
use super::{Phase, Session, State};

fn lane(id: LaneId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl State {
    pub(super) fn happened(&mut self, event: Event<'_>) {
        match event {
            Event::Acked { lane: id, through, durability, receipts } => {
                self.held_up = None;
                self.outbox.acked(lane(id), through, durability, receipts.iter(), &mut self.wake);
            }
            Event::Deliver { delivery, deliver, payload_crc: _ } => {
                self.delivered(delivery, &deliver);
            }
            Event::Welcomed(welcome) => self.welcomed(&welcome),
            Event::LaneOpen(answer) => self.lane_open(&answer),
            Event::Refused { lane: id, number, count, code, version } => {
                self.refused(lane(id), number, count, code, version);
            }
            Event::LaneClosed { lane: id, code, expected: _, retry_after_ms } => {
                if let Some(millis) = retry_after_ms {
                    self.held_up = Some(Refusal::of(code).after_ms(true, millis).into());
                    self.ways.closed(lane(id));
                } else {
                    // Their callers are told: should the key be allowed later, they are not sent again.
                    let abandoned = self.device.abandon_lane(id);
                    debug_assert!(abandoned.is_ok(), "{abandoned:?}");
                    self.lane_refused(lane(id), Refusal::of(code));
                }
            }
            Event::UnknownRun(_) => self.lost = true,
            Event::SubscriptionOpen(credit) => self.subscribed(&credit),
            Event::Settled(settle) => self.settled(&settle),
            Event::Ended(id) => self.subscription_ended(id, None),
            Event::Reply(reply) if is_serve(reply.fields.request) => {
                let fields = reply.fields;
                self.serves_now(fields.request, fields.code, fields.detail);
            }
            Event::Reply(reply) => self.replied(&reply),
            Event::Call(call) => self.called(&call),
            Event::Value(value) => self.valued(&value),
            Event::Failed(fault) => self.failed(&fault),
            Event::GoAway(goaway) => self.goes_away(&goaway),
            Event::Closed { code, retry_after_ms, detail } => {
                let retry = retry_after_ms.is_some();
                let word = Refusal::of(code).detail(detail);
                let word = word.after_ms(retry, retry_after_ms.unwrap_or(0));
                self.last_word.get_or_insert(word.into());
            }
            Event::Stored(opened) => self.uploaded(&opened),
            Event::Aborted(upload) => self.upload_aborted(upload),
        }
    }

    fn welcomed(&mut self, welcome: &Welcome<'_>) {
        let asked = self.tenant.get_or_insert_with(|| Arc::from(welcome.tenant));
        if **asked != *welcome.tenant {
            let (asked, given) = (Arc::clone(asked), Arc::from(welcome.tenant));
            self.foreign = Some(Error::OtherTenant { asked, given });
            return;
        }
        self.phase = Phase::Open;
        self.credit = (welcome.credit_events, welcome.credit_bytes);
        (self.payload_max, self.frame_max) = (size(welcome.payload_max), size(welcome.frame_max));
        self.session = Session {
            principal: Arc::from(welcome.principal),
            tenant: Arc::from(welcome.tenant),
            edge: Arc::from(welcome.edge),
            software: Arc::from(welcome.software),
            number: welcome.session,
            server_time: Millis(welcome.server_time_ms),
            local_time: wall(),
        };
        self.wake.append(&mut self.opening);
        self.outbox.room(&mut self.wake);
        self.resume_subscriptions();
        self.rejoin_groups();
    }

    /// The answer acknowledges what was stored before: on the connection that is gone. spec §5.1.3
    fn lane_open(&mut self, answer: &LaneAnswer<'_>) {
        let at = lane(answer.lane);
        self.ways.reopened(at, answer.last.is_some());
        self.outbox.room(&mut self.wake);
        self.outbox.opened(at, answer.worker);
        for run in answer.refused.iter() {
            self.refused(at, run.number, run.count, run.code, Version(0));
        }
        if let Some(last) = answer.last {
            let receipts = answer.receipts.iter();
            self.outbox.acked(at, last, Durability::Stored, receipts, &mut self.wake);
        }
    }

    fn refused(&mut self, lane: usize, number: Number, count: u32, code: Code, version: Version) {
        let version = (code == Code::STALE_VERSION && version != Version(0)).then_some(version);
        let refusal = Refusal { version, retry_after: None, ..Refusal::of(code) };
        self.outbox.refused(lane, number, u64::from(count), refusal);
    }

    /// The server does not open the lane, and will not: who waits for its numbers hears it.
    fn lane_refused(&mut self, lane: usize, why: Refusal) {
        let unused = u64::try_from(self.gathered.drop_lane(lane)).unwrap_or(u64::MAX);
        self.outbox.fail_lane(lane, unused, &why.clone().into(), &mut self.wake);
        self.ways.refuse(lane, why);
    }

    fn failed(&mut self, fault: &Fault<'_>) {
        let refusal = Refusal::of(fault.code)
            .detail(fault.detail)
            .after_ms(fault.retry, fault.retry_after_ms);
        match fault.scope {
            Scope::Subscription(id) => self.subscription_ended(id, Some(refusal)),
            Scope::Request(id) if is_look(id) => self.look_failed(id, refusal),
            Scope::Request(id) if is_serve(id) => self.serve_failed(id, refusal),
            Scope::Request(id) => self.call_failed(id, refusal),
            Scope::Upload { upload, .. } => self.upload_failed(upload, refusal),
            // A route's events are refused one by one; the others do not come this way.
            Scope::Route(_) | Scope::Session | Scope::Lane { .. } | Scope::Number { .. } => {}
        }
    }

    fn goes_away(&mut self, goaway: &GoAway<'_>) {
        self.going = true;
        let retry = goaway.code != Code::REPLACED;
        let word = Refusal::of(goaway.code).detail(goaway.detail);
        self.last_word = Some(word.after_ms(retry, goaway.retry_after_ms).into());
    }
}
