//! What each message from a client must satisfy before the driver sees it. spec §5 to §9.

use super::{
    Input, Session, State,
    tables::{LaneState, Voided},
};
use crate::{
    code::Code,
    id::{self, LaneId, Number, RouteId},
    limits,
    message::{Batch, Bind, Event, Extras, Happened, Lane, Message, Ping},
    session::window::Amount,
    time::Instant,
};

/// Why a message is not taken: the session ends (`Err`), or the message is dropped (`Ok(None)`).
pub(super) type Taken<'b> = Result<Option<Input<'b>>, (Code, &'static str)>;

pub(super) const UNEXPECTED: Code = Code::UNEXPECTED;

/// An event or a batch: what the credit and the numbers need to know of it.
#[derive(Clone, Copy, Debug)]
struct Frame {
    route: RouteId,
    spelled: Option<Number>,
    amount: Amount,
    longest: usize,
    /// spec §5.5.4: it is worth nothing any more.
    expired: Option<Code>,
}

impl Session {
    pub(super) fn upstream<'b>(
        &mut self,
        now: Instant,
        message: Message<'b>,
        crc: u32,
    ) -> Option<Input<'b>> {
        let taken = match message {
            Message::Event(event) => self.event(message, Frame::of_event(&event), crc),
            Message::Batch(batch) => self.event(message, Frame::of_batch(&batch), crc),
            Message::Chunk(chunk) => self.chunk(message, &chunk, crc),
            Message::Seal(seal) => self.seal(message, seal),
            Message::Settle(settle) => self.settle(now, message, &settle),
            Message::Call(call) => {
                self.call(message, call.fields.request, call.fields.service, crc)
            }
            Message::Reply(reply) => {
                Ok(self.reply(message, reply.fields.request, reply.fields.more, crc))
            }
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Ping(_)
            | Message::GoAway(_)
            | Message::Fault(_)
            | Message::Lane(_)
            | Message::LaneAnswer(_)
            | Message::Bind(_)
            | Message::Ack(_)
            | Message::Credit(_)
            | Message::Open(_)
            | Message::Opened(_)
            | Message::Abort(_)
            | Message::Subscribe(_)
            | Message::Deliver(_)
            | Message::End(_)
            | Message::Get(_)
            | Message::Value(_)
            | Message::List(_)
            | Message::Serve(_)
            | Message::Attach(_)
            | Message::Detach(_)
            | Message::Envelope(_)
            | Message::Registry(_)
            | Message::Void(_)
            | Message::LinkHello(_)
            | Message::Changed(_)
            | Message::Skipped(_) => self.cheap(now, message),
        };
        match taken {
            Ok(input) if self.due.is_bounded() => input,
            Ok(_) => Some(self.fail(Code::TOO_MANY, "too many faults wait to be read")),
            Err((code, what)) => Some(self.fail(code, what)),
        }
    }

    pub(super) fn one_event<'b>(&mut self, event: Event<'b>, crc: u32) -> Option<Input<'b>> {
        match self.event(Message::Event(event), Frame::of_event(&event), crc) {
            Ok(input) => input,
            Err((code, what)) => Some(self.fail(code, what)),
        }
    }

    pub(super) fn spend_cheap(&mut self, now: Instant) -> Result<(), (Code, &'static str)> {
        let spent = self.cheap.spend(now, 1);
        if spent { Ok(()) } else { Err((Code::TOO_MANY, "too many frames that cost no credit")) }
    }

    /// Everything that costs no credit costs a token: spec §6.5.
    fn cheap<'b>(&mut self, now: Instant, message: Message<'b>) -> Taken<'b> {
        self.spend_cheap(now)?;
        match message {
            Message::Ping(ping) => self.ping(now, ping),
            Message::GoAway(goaway) => Ok(Some(self.client_leaves(now, goaway.code))),
            Message::Abort(abort) => self.abort(message, abort),
            Message::Credit(credit) => self.credit(message, credit),
            Message::End(end) => self.end(message, end),
            Message::Skipped(_) => Ok(None),
            Message::Lane(_)
            | Message::Bind(_)
            | Message::Subscribe(_)
            | Message::Open(_)
            | Message::Get(_)
            | Message::List(_)
            | Message::Serve(_)
                if self.is_draining() =>
            {
                Ok(None) // spec §4.5.1: nothing new is taken
            }
            Message::Lane(lane) => self.lane(message, &lane),
            Message::Bind(bind) => self.bind(message, &bind),
            Message::Subscribe(subscribe) => self.subscribe(message, &subscribe),
            Message::Open(open) => self.open(message, &open),
            Message::Get(get) => self.get(message, get.request, &get.target),
            Message::List(list) => Ok(self.ask(message, list.request, true, 0)?),
            Message::Serve(serve) => self.serve(message, &serve),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Fault(_)
            | Message::LaneAnswer(_)
            | Message::Event(_)
            | Message::Batch(_)
            | Message::Ack(_)
            | Message::Opened(_)
            | Message::Chunk(_)
            | Message::Seal(_)
            | Message::Deliver(_)
            | Message::Settle(_)
            | Message::Value(_)
            | Message::Call(_)
            | Message::Reply(_)
            | Message::Attach(_)
            | Message::Detach(_)
            | Message::Envelope(_)
            | Message::Registry(_)
            | Message::Void(_)
            | Message::LinkHello(_)
            | Message::Changed(_) => Err((UNEXPECTED, "a message no client sends here")),
        }
    }

    pub(super) const fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    fn event<'b>(&mut self, message: Message<'b>, frame: Frame, crc: u32) -> Taken<'b> {
        if self.is_draining() {
            return Ok(None); // spec §4.5.1: nothing new is taken
        }
        let payload_max = usize::try_from(self.config.payload_max).unwrap_or(usize::MAX);
        let route = self
            .tables
            .route(frame.route)
            .ok_or((Code::UNKNOWN_LANE, "an event on a route not bound"))?;
        let lane = self
            .tables
            .lane_mut(route.lane)
            .ok_or((Code::UNKNOWN_LANE, "an event on a lane not opened"))?;
        if lane.state == LaneState::Closed {
            return Ok(None); // spec §5.9.1: dropped until a new LANE
        }
        let first = frame.spelled.unwrap_or(lane.next);
        // spec §5.7.1: no event is number 0, or goes past the last number there is.
        let next = first.0.checked_add(u64::from(frame.amount.events)).filter(|_| first.0 > 0);
        let next = next.ok_or((Code::MALFORMED, "Extras.number"))?;
        if first < lane.next {
            // spec §5.1.2: an event that spells its number sets it; a lower one would make acks ambiguous.
            return Err((UNEXPECTED, "an event's number goes back"));
        }
        let last = Number(next - 1);
        lane.next = Number(next);
        if !self.tables.spend(route.lane, last, frame.amount) {
            return Err((Code::TOO_FAST, "more was sent than the credit allows"));
        }
        let refused = if frame.longest > payload_max {
            Some(Code::TOO_LARGE)
        } else {
            frame.expired.or(route.denied)
        };
        match refused {
            Some(code) => {
                Ok(self.void(route.lane, Voided { first, count: frame.amount.events, code }))
            }
            None => {
                Ok(Some(Input::Upstream { lane: route.lane, first, message, payload_crc: crc }))
            }
        }
    }

    fn void<'b>(&mut self, id: LaneId, voided: Voided) -> Option<Input<'b>> {
        let Voided { first, count, code } = voided;
        let lane = self.tables.lane_mut(id)?;
        // Of what was acknowledged before nothing is said again: spec §5.4.3.
        let known = lane.acked.0.saturating_add(1).saturating_sub(first.0);
        let rest = u32::try_from(known).ok().and_then(|known| count.checked_sub(known));
        if let Some(rest) = rest.filter(|&rest| rest > 0) {
            let first = Number(first.0 + u64::from(count - rest));
            lane.voids.push_back(Voided { first, count: rest, code });
        }
        Some(Input::Void { lane: id, first, count, code })
    }

    fn lane<'b>(&mut self, message: Message<'b>, lane: &Lane<'b>) -> Taken<'b> {
        let (id, first) = (lane.lane, lane.first_unacked);
        if first == Number(0) {
            return Err((Code::MALFORMED, "Lane.first_unacked is 0"));
        }
        if self.tables.is_busy_with_another(id, lane.key) {
            return Err((UNEXPECTED, "LANE with another key while something is in flight on it")); // spec §5.1.6
        }
        let named = lane.key.is_none_or(|key| id::key(key).is_ok())
            && lane.key.is_none() == (id == LaneId(0));
        let refused = if !named {
            Some(Code::INVALID)
        } else if self.tables.carries(id, lane.key, &self.own) {
            Some(Code::CONFLICT) // spec §5.1.1
        } else {
            (!self.tables.open_lane(id, first, lane.key)).then_some(Code::TOO_MANY)
        };
        match refused {
            Some(code) => {
                self.tables.close_lane(id);
                self.due.lane(id, code, first, None);
                Ok(None)
            }
            None => {
                self.due.forget_lane(id);
                Ok(Some(Input::Upstream { lane: id, first, message, payload_crc: 0 }))
            }
        }
    }

    fn bind<'b>(&mut self, message: Message<'b>, bind: &Bind<'b>) -> Taken<'b> {
        if self.tables.lane(bind.lane).is_none() {
            return Err((Code::UNKNOWN_LANE, "BIND to a lane not opened"));
        }
        if !self.tables.bind(bind.route, bind.lane) {
            self.due.route(bind.route, Code::TOO_MANY);
            return Ok(None);
        }
        let short = |text: &str| text.len() <= limits::CONTENT_TYPE_BYTES;
        if id::topic(bind.topic).is_err() || !short(bind.content_type) || !short(bind.encoding) {
            self.deny_route(bind.route, Code::INVALID);
            return Ok(None);
        }
        Ok(Some(Input::Upstream { lane: bind.lane, first: Number(0), message, payload_crc: 0 }))
    }

    fn ping<'b>(&mut self, now: Instant, ping: Ping) -> Taken<'b> {
        if !self.pings.spend(now, 1) {
            return Err((Code::TOO_MANY, "too many pings"));
        }
        if !ping.answer {
            self.due.pong = Some(ping.number); // spec §4.4.1: the newest is enough
        }
        Ok(None)
    }

    fn client_leaves<'b>(&mut self, now: Instant, code: Code) -> Input<'b> {
        if let State::Open = self.state {
            self.leave = code;
            self.client_left = true;
            self.state = State::Draining { deadline: now.after(self.config.deadlines.drain) };
        }
        Input::Leaving(code)
    }
}

impl Frame {
    fn of_event(event: &Event<'_>) -> Self {
        let longest = event.payload.len();
        let amount = Amount { events: 1, bytes: u32::try_from(longest).unwrap_or(u32::MAX) };
        Self {
            route: event.route,
            spelled: event.extras.number,
            amount,
            longest,
            expired: expired(&event.extras),
        }
    }

    fn of_batch(batch: &Batch<'_>) -> Self {
        let amount = Amount {
            events: batch.lengths.count(),
            bytes: u32::try_from(batch.payload.len()).unwrap_or(u32::MAX),
        };
        let longest = batch.lengths.iter().max().unwrap_or_default();
        Self {
            route: batch.route,
            spelled: batch.extras.number,
            amount,
            longest,
            expired: expired(&batch.extras),
        }
    }
}

/// spec §5.5.4: is it older than it is worth anything?
fn expired(extras: &Extras<'_>) -> Option<Code> {
    match (extras.happened, extras.ttl_ms) {
        (Some(Happened::Ago(age)), Some(ttl)) if age > ttl => Some(Code::EXPIRED),
        (Some(Happened::Ago(_) | Happened::At(_)) | None, _) => None,
    }
}

/// A message that has no lane, number or payload.
#[expect(clippy::unnecessary_wraps, reason = "every check ends in it, as what the driver is given")]
pub(super) const fn through(message: Message<'_>) -> Option<Input<'_>> {
    Some(Input::Upstream { lane: LaneId(0), first: Number(0), message, payload_crc: 0 })
}
