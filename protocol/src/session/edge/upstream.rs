//! What each message from a client must satisfy before the driver sees it. spec §5 to §9.

use super::{
    Input, Session, State,
    tables::{LaneState, Settles, Subscription, SubscriptionState, UploadState, Voided, bytes},
};
use crate::{
    code::Code,
    id::{self, LaneId, Number, RequestId, RouteId},
    limits,
    message::{
        Abort, Batch, Bind, Chunk, Credit, End, Event, Extras, Happened, Lane, Message, Open,
        Outcome, Ping, Scope, Seal, Serve, Settle, Source, Subscribe, Target,
    },
    session::window::Amount,
    time::Instant,
};

/// Why a message is not taken: the session ends (`Err`), or the message is dropped (`Ok(None)`).
type Taken<'b> = Result<Option<Input<'b>>, (Code, &'static str)>;

const UNEXPECTED: Code = Code::UNEXPECTED;

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

    /// Everything that costs no credit costs a token: spec §6.5.
    fn cheap<'b>(&mut self, now: Instant, message: Message<'b>) -> Taken<'b> {
        if !self.cheap.spend(now, 1) {
            return Err((Code::TOO_MANY, "too many frames that cost no credit"));
        }
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
            | Message::LinkHello(_) => Err((UNEXPECTED, "a message no client sends here")),
        }
    }

    const fn is_draining(&self) -> bool {
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
        if first < lane.next {
            // spec §5.1.2: an event that spells its number sets it; a lower one would make acks ambiguous.
            return Err((UNEXPECTED, "an event's number goes back"));
        }
        let next = first
            .0
            .checked_add(u64::from(frame.amount.events))
            .ok_or((Code::INVALID, "Extras.number"))?;
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
        if first > lane.acked {
            lane.voids.push_back(voided);
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

    fn subscribe<'b>(&mut self, message: Message<'b>, subscribe: &Subscribe<'b>) -> Taken<'b> {
        let id = subscribe.subscription;
        if self.tables.subscription(id).is_some() {
            return Err((UNEXPECTED, "SUBSCRIBE on a subscription that has not ended"));
        }
        let amount = Amount { events: subscribe.events, bytes: subscribe.bytes };
        let new = Subscription::new(id, settles(&subscribe.source), amount);
        let refused = if source_is_valid(&subscribe.source) {
            (!self.tables.subscribe(new)).then_some(Code::TOO_MANY)
        } else {
            Some(Code::INVALID)
        };
        match refused {
            Some(code) => {
                self.due.scoped(Scope::Subscription(id), code, None);
                Ok(None)
            }
            None => Ok(through(message)),
        }
    }

    fn settle<'b>(&mut self, now: Instant, message: Message<'b>, settle: &Settle<'b>) -> Taken<'b> {
        let seen = settle.outcome == Outcome::Seen;
        if seen && !self.cheap.spend(now, 1) {
            return Err((Code::TOO_MANY, "too many frames that cost no credit"));
        }
        // What came before the client heard of the end is dropped.
        let Some(subscription) = self.tables.subscription_mut(settle.subscription) else {
            return if seen { Ok(None) } else { self.cheap(now, Message::Skipped(0)) };
        };
        match (subscription.settles, seen) {
            (Settles::Seen, false) | (Settles::Each, true) => {
                return Err((UNEXPECTED, "Settle.outcome is not for this kind of subscription"));
            }
            (Settles::Seen | Settles::Both, true) | (Settles::Each | Settles::Both, false) => {}
        }
        let events = match settle.outcome {
            Outcome::Retry { .. } => 0, // spec §8.3.2: always all that is left
            Outcome::Seen | Outcome::Done | Outcome::Reject => settle.events,
        };
        let known = if seen {
            subscription.seen(settle.delivery)
        } else {
            subscription.settle(settle.delivery, events)
        };
        if known {
            Ok(through(message))
        } else {
            Err((UNEXPECTED, "Settle.delivery was never handed out"))
        }
    }

    fn credit<'b>(&mut self, message: Message<'b>, credit: Credit) -> Taken<'b> {
        let Some(id) = credit.subscription else {
            return Err((UNEXPECTED, "Credit.subscription is missing"));
        };
        let known = self.tables.subscription(id).is_some();
        // The window changes when the server's CREDIT says what is kept.
        Ok(known.then_some(()).and_then(|()| through(message)))
    }

    fn end<'b>(&mut self, message: Message<'b>, end: End) -> Taken<'b> {
        let Some(subscription) = self.tables.subscription_mut(end.subscription) else {
            return Ok(None);
        };
        let first = subscription.state != SubscriptionState::Ending;
        subscription.state = SubscriptionState::Ending;
        Ok(first.then_some(()).and_then(|()| through(message)))
    }

    fn get<'b>(
        &mut self,
        message: Message<'b>,
        request: RequestId,
        target: &Target<'b>,
    ) -> Taken<'b> {
        let valid = match *target {
            Target::State { key, topic } => id::key(key).is_ok() && id::topic(topic).is_ok(),
            Target::Blob { blob, .. } => !blob.is_empty(),
            Target::Stream { key } => id::key(key).is_ok(),
        };
        self.ask(message, request, valid, 0)
    }

    fn call<'b>(
        &mut self,
        message: Message<'b>,
        request: RequestId,
        service: &str,
        crc: u32,
    ) -> Taken<'b> {
        if self.is_draining() {
            return Ok(None);
        }
        self.ask(message, request, service_is_valid(service), crc)
    }

    fn serve<'b>(&mut self, message: Message<'b>, serve: &Serve<'b>) -> Taken<'b> {
        self.ask(message, serve.request, service_is_valid(serve.service), 0)
    }

    fn ask<'b>(
        &mut self,
        message: Message<'b>,
        request: RequestId,
        valid: bool,
        crc: u32,
    ) -> Taken<'b> {
        if self.tables.is_asked(request) {
            return Err((UNEXPECTED, "a request's number is in use"));
        }
        let refused = if valid {
            (!self.tables.ask(request, message.payload().len())).then_some(Code::TOO_MANY)
        } else {
            Some(Code::INVALID)
        };
        match refused {
            Some(code) => {
                self.due.scoped(Scope::Request(request), code, code.retry().then_some(0));
                Ok(None)
            }
            None => Ok(Some(Input::Upstream {
                lane: LaneId(0),
                first: Number(0),
                message,
                payload_crc: crc,
            })),
        }
    }

    fn reply<'b>(
        &mut self,
        message: Message<'b>,
        request: RequestId,
        more: bool,
        crc: u32,
    ) -> Option<Input<'b>> {
        // spec §9.5.1: a REPLY to a request that is not open any more is ignored.
        let at = self.tables.called.iter().position(|&called| called == request)?;
        if !more {
            self.tables.called.swap_remove(at);
        }
        Some(Input::Upstream { lane: LaneId(0), first: Number(0), message, payload_crc: crc })
    }

    fn open<'b>(&mut self, message: Message<'b>, open: &Open<'b>) -> Taken<'b> {
        let refused = if open.key.is_none_or(|key| id::key(key).is_ok()) {
            (!self.tables.open_upload(open.upload, open.size)).then_some(Code::TOO_MANY)
        } else {
            Some(Code::INVALID)
        };
        match refused {
            Some(code) => {
                self.fault_upload(open.upload, code);
                Ok(None)
            }
            None => Ok(through(message)),
        }
    }

    /// Closes an upload on this session: what is behind it is dropped until a new OPEN.
    fn fault_upload(&mut self, upload: u32, code: Code) {
        let expected = self.tables.upload_mut(upload).map_or(0, |upload| upload.next);
        self.tables.end_upload(upload);
        self.due.scoped(Scope::Upload { upload, expected }, code, code.retry().then_some(0));
    }

    fn chunk<'b>(&mut self, message: Message<'b>, chunk: &Chunk<'b>, crc: u32) -> Taken<'b> {
        // spec §7.2.1: what comes behind a fault is dropped until a new OPEN.
        let Some(upload) = self.tables.upload_mut(chunk.upload) else { return Ok(None) };
        let length = u64::try_from(chunk.payload.len()).unwrap_or(u64::MAX);
        let end = chunk.offset.checked_add(length);
        let refused = match upload.state {
            UploadState::Sealing | UploadState::Aborting => {
                return Err((UNEXPECTED, "CHUNK behind SEAL or ABORT"));
            }
            UploadState::Opening | UploadState::Open if chunk.payload.len() > limits::CHUNK_MAX => {
                Some(Code::TOO_LARGE)
            }
            UploadState::Opening | UploadState::Open if chunk.offset != upload.next => {
                Some(Code::OUT_OF_ORDER)
            }
            UploadState::Opening | UploadState::Open => {
                (length == 0 || end.is_none_or(|end| end > upload.size)).then_some(Code::INVALID)
            }
        };
        if let Some(code) = refused {
            self.fault_upload(chunk.upload, code);
            return Ok(None);
        }
        upload.next = upload.next.saturating_add(length);
        if !self.tables.chunks.spend(bytes(length)) {
            return Err((Code::TOO_FAST, "more was sent than the credit allows"));
        }
        Ok(Some(Input::Upstream { lane: LaneId(0), first: Number(0), message, payload_crc: crc }))
    }

    fn seal<'b>(&mut self, message: Message<'b>, seal: Seal) -> Taken<'b> {
        let Some(upload) = self.tables.upload_mut(seal.upload) else { return Ok(None) };
        match upload.state {
            UploadState::Sealing | UploadState::Aborting => {
                Err((UNEXPECTED, "SEAL behind SEAL or ABORT"))
            }
            UploadState::Opening | UploadState::Open if upload.next != seal.size => {
                self.fault_upload(seal.upload, Code::MISMATCH);
                Ok(None)
            }
            UploadState::Opening | UploadState::Open => {
                upload.state = UploadState::Sealing;
                Ok(through(message))
            }
        }
    }

    fn abort<'b>(&mut self, message: Message<'b>, abort: Abort) -> Taken<'b> {
        let Some(upload) = self.tables.upload_mut(abort.upload) else {
            self.fault_upload(abort.upload, Code::NOT_FOUND);
            return Ok(None);
        };
        upload.state = UploadState::Aborting;
        Ok(through(message))
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
const fn through(message: Message<'_>) -> Option<Input<'_>> {
    Some(Input::Upstream { lane: LaneId(0), first: Number(0), message, payload_crc: 0 })
}

fn source_is_valid(source: &Source<'_>) -> bool {
    match *source {
        Source::Filter { filter, key, .. } => {
            id::filter(filter).is_ok() && key.is_none_or(|key| id::key(key).is_ok())
        }
        Source::Stream { key, .. } => id::key(key).is_ok(),
        Source::Group { name, .. } => id::name(name).is_ok(),
        Source::Inbox => true,
    }
}

const fn settles(source: &Source<'_>) -> Settles {
    match source {
        Source::Filter { .. } | Source::Stream { .. } => Settles::Seen,
        Source::Group { .. } => Settles::Each,
        Source::Inbox => Settles::Both,
    }
}

fn service_is_valid(service: &str) -> bool {
    id::name(service.strip_prefix("device/").unwrap_or(service)).is_ok()
}
