//! What the worker says on its way to the client: passed on where the client may hear it now. spec §5 to §9.

use super::{
    Session,
    due::void_fault,
    tables::{LaneState, Settles, Spelled, SubscriptionState, UploadState, Voided},
};
use crate::{
    code::Code,
    id::{LaneId, Number, RequestId},
    limits,
    message::{
        Abort, Ack, Body, Call, Credit, Deliver, End, Fault, Full, LaneAnswer, Message, Opened,
        Scope, Settle, Writer, deliver::Kind,
    },
    session::{Transmit, window::Amount},
    time::Instant,
};

/// What became of a message for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Told {
    /// It went out, or there is nothing new in it for the client.
    Said,
    /// A delivery went out; the client settles it by this number.
    Delivered(u64),
    /// It is about something the client has closed or never opened, or the session is over: nothing went out.
    Dropped,
    /// The client's credit does not allow it now: nothing went out. Keep it, and try again when a SETTLE or CREDIT came.
    NoCredit,
    /// It is longer than the client takes: the client got a FAULT in its place; what the message was about is over.
    TooLong,
}

impl Session {
    /// Says `message` to the client, after everything that is due before it. `Full`: not all of it fit; give the same
    /// message again when there is room.
    ///
    /// A worker says ACK spelled; it is shortened here. For messages no worker sends: `Dropped`.
    pub fn handle_downstream(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<Told, Full> {
        self.say_due(out)?;
        if self.is_closed() {
            return Ok(Told::Dropped);
        }
        let told = self.tell(message, payload_crc, out)?;
        self.close_when_drained(now);
        Ok(told)
    }

    fn tell(
        &mut self,
        message: &Message<'_>,
        crc: u32,
        out: &mut impl Transmit,
    ) -> Result<Told, Full> {
        match message {
            Message::Ack(ack) => self.tell_ack(ack, out),
            Message::Deliver(deliver) => self.tell_deliver(deliver, crc, out),
            Message::LaneAnswer(answer) => self.tell_lane(answer, out),
            Message::Fault(fault) => self.tell_fault(fault, out),
            Message::Opened(opened) => self.tell_opened(opened, out),
            Message::Abort(abort) => self.tell_abort(*abort, out),
            Message::Value(value) => {
                let more = value.fields.more;
                let told = self.tell_answer(message, value.fields.request, more, crc, out)?;
                // spec §6.5: whoever waits for its answers is no flood.
                self.cheap.refill(u64::from(told == Told::Said && !more));
                Ok(told)
            }
            Message::Reply(reply) => {
                self.tell_answer(message, reply.fields.request, reply.fields.more, crc, out)
            }
            Message::Call(call) => self.tell_call(message, call, crc, out),
            Message::Credit(credit) => self.tell_credit(credit, out),
            Message::Settle(settle) => self.tell_settle(settle, out),
            Message::End(end) => self.tell_end(*end, out),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Ping(_)
            | Message::GoAway(_)
            | Message::Lane(_)
            | Message::Bind(_)
            | Message::Event(_)
            | Message::Batch(_)
            | Message::Open(_)
            | Message::Chunk(_)
            | Message::Seal(_)
            | Message::Subscribe(_)
            | Message::Get(_)
            | Message::List(_)
            | Message::Serve(_)
            | Message::Attach(_)
            | Message::Detach(_)
            | Message::Envelope(_)
            | Message::Registry(_)
            | Message::Void(_)
            | Message::LinkHello(_)
            | Message::Changed(_)
            | Message::Skipped(_) => Ok(Told::Dropped),
        }
    }

    fn tell_ack(&mut self, ack: &Ack<'_>, out: &mut impl Transmit) -> Result<Told, Full> {
        let Ack::Spelled { durability, lane: id, last, receipts } = *ack else {
            return Ok(Told::Dropped);
        };
        let Some(lane) = self.tables.lane(id).filter(|lane| lane.state == LaneState::Open) else {
            return Ok(Told::Dropped);
        };
        let Some(step) = last.0.checked_sub(lane.acked.0).filter(|&step| step > 0) else {
            return Ok(Told::Said);
        };
        self.say_voids(id, last, out)?;
        let short = u8::try_from(step).ok().filter(|&step| {
            step <= crate::message::ack::STEP_MAX
                && id == LaneId(0)
                && receipts == crate::message::List::default()
        });
        let ack = match short {
            Some(step) => Ack::Step { durability, step },
            None => Ack::Spelled { durability, lane: id, last, receipts },
        };
        out.put(&Message::Ack(ack), 0)?;
        self.acked(id, last);
        Ok(Told::Said)
    }

    /// What is acknowledged leaves the credit, and earns cheap frames (spec §6.5).
    fn acked(&mut self, id: LaneId, last: Number) {
        if let Some(step) = self.tables.ack(id, last) {
            self.cheap.refill(step.saturating_mul(u64::from(limits::CHEAP_PER_EVENT)));
        }
    }

    /// spec §5.6.5: no ACK passes a VOID whose FAULT has not gone out before it.
    fn say_voids(&mut self, id: LaneId, last: Number, out: &mut impl Transmit) -> Result<(), Full> {
        let Some(lane) = self.tables.lane_mut(id) else { return Ok(()) };
        while let Some(&voided) = lane.voids.front().filter(|voided| voided.first <= last) {
            out.put(&void_fault(id, voided), 0)?;
            lane.voids.pop_front();
        }
        Ok(())
    }

    fn tell_lane(
        &mut self,
        answer: &LaneAnswer<'_>,
        out: &mut impl Transmit,
    ) -> Result<Told, Full> {
        let Some(lane) =
            self.tables.lane_mut(answer.lane).filter(|lane| lane.state != LaneState::Closed)
        else {
            return Ok(Told::Dropped);
        };
        out.put(&Message::LaneAnswer(*answer), 0)?;
        lane.state = LaneState::Open;
        if let Some(last) = answer.last {
            // What was refused before and sent again: the answer has named it.
            lane.voids.retain(|voided| voided.first > last);
            self.acked(answer.lane, last);
        }
        Ok(Told::Said)
    }

    fn tell_fault(&mut self, fault: &Fault<'_>, out: &mut impl Transmit) -> Result<Told, Full> {
        let about_something = match fault.scope {
            Scope::Session => true,
            Scope::Lane { lane, .. } => {
                self.tables.lane(lane).is_some_and(|lane| lane.state != LaneState::Closed)
            }
            Scope::Number { lane, .. } => {
                self.tables.lane(lane).is_some_and(|lane| lane.state == LaneState::Open)
            }
            Scope::Route(route) => self.tables.route(route).is_some(),
            Scope::Subscription(id) => self.tables.subscription(id).is_some(),
            Scope::Request(request) => self.tables.is_asked(request),
            Scope::Upload { upload, .. } => self.tables.upload_mut(upload).is_some(),
        };
        if !about_something {
            return Ok(Told::Dropped);
        }
        out.put(&Message::Fault(*fault), 0)?;
        self.faulted(fault);
        Ok(Told::Said)
    }

    /// What a fault that went out closes.
    fn faulted(&mut self, fault: &Fault<'_>) {
        match fault.scope {
            Scope::Session => self.state = super::State::Closed(fault.code),
            Scope::Lane { lane, .. } => {
                self.tables.close_lane(lane);
            }
            Scope::Number { lane, number, count, .. } => {
                let named = |voided: &Voided| {
                    voided.first >= number && voided.first.0 - number.0 < u64::from(count)
                };
                if let Some(lane) = self.tables.lane_mut(lane) {
                    lane.voids.retain(|voided| !named(voided));
                }
            }
            Scope::Route(route) => {
                if let Some(route) = self.tables.route_mut(route) {
                    route.denied = Some(fault.code);
                }
            }
            Scope::Subscription(id) => {
                self.tables.unsubscribe(id);
            }
            Scope::Request(request) => self.tables.answered(request),
            Scope::Upload { upload, .. } => {
                self.tables.end_upload(upload);
            }
        }
    }

    fn tell_deliver(
        &mut self,
        deliver: &Deliver<'_>,
        crc: u32,
        out: &mut impl Transmit,
    ) -> Result<Told, Full> {
        let longest = self.greeting.frame_max;
        let Some(subscription) = self.tables.subscription_mut(deliver.subscription) else {
            return Ok(Told::Dropped);
        };
        match subscription.state {
            SubscriptionState::Ending => return Ok(Told::Dropped),
            SubscriptionState::Opening => return Ok(Told::NoCredit), // spec §8.1.1
            SubscriptionState::Open => {}
        }
        let bytes = u32::try_from(deliver.payload.len()).unwrap_or(u32::MAX);
        let amount = Amount { events: deliver.lengths.count(), bytes };
        if !subscription.takes(amount) {
            return Ok(Told::NoCredit);
        }
        let message = Message::Deliver(subscription.spelled.shorten(deliver));
        if !fits(&message, longest) {
            return self.too_long(Scope::Subscription(deliver.subscription), out);
        }
        out.put(&message, crc)?;
        subscription.spelled.note(deliver);
        Ok(Told::Delivered(subscription.deliver(amount)))
    }

    fn too_long(&mut self, scope: Scope, out: &mut impl Transmit) -> Result<Told, Full> {
        let code = Code::TOO_LARGE;
        let fault = Fault {
            code,
            scope,
            retry: false,
            retry_after_ms: 0,
            detail: "longer than HELLO's frame_max",
        };
        out.put(&Message::Fault(fault), 0)?;
        self.faulted(&fault);
        Ok(Told::TooLong)
    }

    fn tell_answer(
        &mut self,
        message: &Message<'_>,
        request: RequestId,
        more: bool,
        crc: u32,
        out: &mut impl Transmit,
    ) -> Result<Told, Full> {
        if !self.tables.is_asked(request) {
            return Ok(Told::Dropped);
        }
        if !fits(message, self.greeting.frame_max) {
            return self.too_long(Scope::Request(request), out);
        }
        out.put(message, crc)?;
        if !more {
            self.tables.answered(request);
        }
        Ok(Told::Said)
    }

    fn tell_call(
        &mut self,
        message: &Message<'_>,
        call: &Body<'_, Call<'_>>,
        crc: u32,
        out: &mut impl Transmit,
    ) -> Result<Told, Full> {
        if !fits(message, self.greeting.frame_max) {
            return Ok(Told::TooLong);
        }
        if self.tables.called.len() >= limits::CALLS {
            return Ok(Told::NoCredit);
        }
        out.put(message, crc)?;
        self.tables.called.push(call.fields.request);
        Ok(Told::Said)
    }

    fn tell_opened(&mut self, opened: &Opened<'_>, out: &mut impl Transmit) -> Result<Told, Full> {
        let Some(upload) = self.tables.upload_mut(opened.upload) else { return Ok(Told::Dropped) };
        match upload.state {
            UploadState::Aborting => return Ok(Told::Dropped),
            UploadState::Opening | UploadState::Open | UploadState::Sealing => {}
        }
        out.put(&Message::Opened(*opened), 0)?;
        if upload.state == UploadState::Opening {
            upload.state = UploadState::Open;
        }
        self.tables.store(opened.upload, opened.stored_offset);
        if !opened.blob.is_empty() {
            self.tables.end_upload(opened.upload);
        }
        Ok(Told::Said)
    }

    fn tell_abort(&mut self, abort: Abort, out: &mut impl Transmit) -> Result<Told, Full> {
        if self.tables.upload_mut(abort.upload).is_none() {
            return Ok(Told::Dropped);
        }
        out.put(&Message::Abort(abort), 0)?;
        self.tables.end_upload(abort.upload);
        Ok(Told::Said)
    }

    fn tell_credit(&mut self, credit: &Credit, out: &mut impl Transmit) -> Result<Told, Full> {
        let Some(id) = credit.subscription else {
            self.set_credit(
                Amount { events: credit.events, bytes: credit.bytes },
                credit.chunk_bytes,
            );
            return self.say_due(out).map(|()| Told::Said);
        };
        let Some(subscription) = self.tables.subscription_mut(id) else { return Ok(Told::Dropped) };
        out.put(&Message::Credit(*credit), 0)?;
        subscription.window.limit(Amount { events: credit.events, bytes: credit.bytes });
        if subscription.state == SubscriptionState::Opening {
            subscription.state = SubscriptionState::Open;
        }
        Ok(Told::Said)
    }

    /// spec §8.3.3: its credit was free when the client sent it.
    fn tell_settle(&mut self, settle: &Settle<'_>, out: &mut impl Transmit) -> Result<Told, Full> {
        let open = self.tables.subscription(settle.subscription);
        if open.is_none_or(|subscription| subscription.settles == Settles::Seen) {
            return Ok(Told::Dropped);
        }
        out.put(&Message::Settle(*settle), 0)?;
        Ok(Told::Said)
    }

    fn tell_end(&mut self, end: End, out: &mut impl Transmit) -> Result<Told, Full> {
        if self.tables.subscription(end.subscription).is_none() {
            return Ok(Told::Dropped);
        }
        out.put(&Message::End(end), 0)?;
        self.tables.unsubscribe(end.subscription);
        Ok(Told::Said)
    }

    /// What may be delivered on a subscription now; `None` where there is no such subscription.
    #[must_use]
    pub fn delivery_room(&self, subscription: crate::id::SubscriptionId) -> Option<Amount> {
        self.tables.subscription(subscription).map(|subscription| subscription.window.room())
    }
}

/// Does a message fit a frame of the client's? Most do whatever their header is; the others are measured.
fn fits(message: &Message<'_>, longest: u32) -> bool {
    const HEADER: usize = 4 * 1024;
    let longest = usize::try_from(longest).unwrap_or(usize::MAX);
    let payload = message.payload().len();
    if payload.saturating_add(HEADER) <= longest {
        return true;
    }
    let mut header = [0; HEADER];
    let mut writer = Writer::new(&mut header);
    message.encode_header(&mut writer).is_ok() && writer.len() + payload <= longest
}

impl Spelled {
    /// The delivery without what the last one has spelled.
    fn shorten<'a>(&self, deliver: &Deliver<'a>) -> Deliver<'a> {
        let mut short = *deliver;
        let known = |old: &Option<alloc::boxed::Box<str>>, new: Option<&'a str>| {
            new.filter(|&new| old.as_deref() != Some(new))
        };
        short.key = known(&self.key, deliver.key);
        short.topic = known(&self.topic, deliver.topic);
        short.worker = known(&self.worker, deliver.worker);
        short.kind = deliver.kind.filter(|kind| !self.is_kind(kind));
        short
    }

    fn is_kind(&self, kind: &Kind<'_>) -> bool {
        self.schema == kind.schema
            && self.content_type.as_deref() == Some(kind.content_type)
            && self.encoding.as_deref() == Some(kind.encoding)
    }

    /// Keeps what a delivery spelled.
    fn note(&mut self, deliver: &Deliver<'_>) {
        let keep = |old: &mut Option<alloc::boxed::Box<str>>, new: Option<&str>| {
            if let Some(new) = new.filter(|&new| old.as_deref() != Some(new)) {
                *old = Some(new.into());
            }
        };
        keep(&mut self.key, deliver.key);
        keep(&mut self.topic, deliver.topic);
        keep(&mut self.worker, deliver.worker);
        if let Some(kind) = deliver.kind {
            keep(&mut self.content_type, Some(kind.content_type));
            keep(&mut self.encoding, Some(kind.encoding));
            self.schema = kind.schema;
        }
    }
}
