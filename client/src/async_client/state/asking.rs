//! Subscriptions and calls: what is asked on a connection, and asked again on the next.

use std::task::{Context, Poll};

use spile_protocol::code::Code;
use spile_protocol::crc;
use spile_protocol::id::{self, RequestId, SubscriptionId};
use spile_protocol::limits;
use spile_protocol::message::{Body, Call, Credit, Deliver, Full, Message, Reply};
use spile_protocol::session::device::Refusal as Machine;
use spile_protocol::time::Millis;

use super::super::Error;
use super::super::clock::wall;
use super::super::error::Refusal;
use super::super::event::Block;
use super::super::inbox::{Inbox, Interest, on_the_wire};
use super::super::request::{Ask, Asked};
use super::consuming::member;
use super::{GIVE_BACK_EVERY, Phase, State};

/// The longest list of positions: a name and a number for each worker.
const POSITIONS: usize = limits::WORKERS * (limits::NAME_BYTES + 16);

/// The place of a plain subscription; memberships of groups have the odd numbers.
fn place(id: SubscriptionId) -> usize {
    usize::try_from(id.0 / 2).unwrap_or(usize::MAX)
}

/// Subscriptions.
impl State {
    pub(in super::super) fn subscribe(&mut self, interest: Interest) -> Result<usize, Error> {
        self.check()?;
        interest.check()?;
        let number = self.inboxes.insert(Inbox::new(interest));
        if self.phase == Phase::Open {
            self.ask_for(number);
        }
        Ok(number)
    }

    /// SUBSCRIBE goes out; where it can't, the subscription is over.
    fn ask_for(&mut self, number: usize) {
        let Some(inbox) = self.inboxes.get(number) else { return };
        let mut room = [0; POSITIONS];
        let asked = match inbox.interest.subscribe(on_the_wire(number), &mut room) {
            Ok(subscribe) => self.device.subscribe(&subscribe, &mut self.said),
            Err(Full) => Err(Machine::TooLarge),
        };
        self.asked_for(number, asked);
    }

    fn asked_for(&mut self, number: usize, asked: Result<(), Machine>) {
        self.dirty = true;
        let Err(why) = asked else { return };
        // A session that is going away is asked again when there is another.
        let waits = matches!(why, Machine::Leaving | Machine::NotConnected);
        if let Some(inbox) = self.inboxes.get_mut(number).filter(|_| !waits) {
            let code =
                if matches!(why, Machine::TooMany(_)) { Code::TOO_MANY } else { Code::INVALID };
            let refusal = Refusal::of(code).detail(&why.to_string());
            inbox.ended(Some(refusal.into()), &mut self.wake);
        }
    }

    pub(super) fn resume_subscriptions(&mut self) {
        let waiting: Vec<_> = self
            .inboxes
            .iter_mut()
            .filter(|(_, inbox)| !inbox.is_over())
            .map(|(number, _)| number)
            .collect();
        waiting.into_iter().for_each(|number| self.ask_for(number));
    }

    /// The connection is gone: who left already needs no answer any more.
    pub(super) fn suspend_subscriptions(&mut self) {
        let mut left = Vec::new();
        for (number, inbox) in self.inboxes.iter_mut() {
            if inbox.has_left() {
                left.push(number);
            } else if !inbox.is_over() {
                inbox.reconnected();
            }
        }
        for number in left {
            self.inboxes.remove(number);
        }
    }

    pub(super) fn subscribed(&mut self, credit: &Credit) {
        if let Some(number) = credit.subscription.and_then(member) {
            return self.joined(number);
        }
        let session = &self.session;
        let since_welcome = wall().0.saturating_sub(session.local_time.0);
        let servers_now = Millis(session.server_time.0.saturating_add(since_welcome));
        let inbox = credit.subscription.and_then(|id| self.inboxes.get_mut(place(id)));
        if let Some(inbox) = inbox {
            inbox.opened((credit.events, credit.bytes), servers_now, &mut self.wake);
        }
    }

    pub(super) fn delivered(&mut self, delivery: u64, deliver: &Deliver<'_>) {
        if let Some(number) = member(deliver.subscription) {
            return self.handed(number, delivery, deliver);
        }
        if let Some(inbox) = self.inboxes.get_mut(place(deliver.subscription)) {
            inbox.delivered(deliver, &mut self.wake);
        }
    }

    pub(super) fn subscription_ended(&mut self, id: SubscriptionId, why: Option<Refusal>) {
        if let Some(number) = member(id) {
            return self.membership_ended(number, why);
        }
        let number = place(id);
        let Some(inbox) = self.inboxes.get_mut(number) else { return };
        if inbox.has_left() {
            self.inboxes.remove(number);
            return;
        }
        // A worker we had heard nothing of is not named where we want to go on: from the beginning then.
        let unnamed = why.as_ref().is_some_and(|why| why.code == Code::INVALID);
        if unnamed && inbox.falls_back() {
            return self.ask_for(number);
        }
        inbox.ended(why.map(Error::from), &mut self.wake);
    }

    pub(in super::super) fn poll_subscribed(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.inboxes
            .get_mut(number)
            .map_or(Poll::Ready(Err(Error::Closed)), |inbox| inbox.poll_open(cx))
    }

    pub(in super::super) fn poll_block(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Block, Error>>> {
        let Some(inbox) = self.inboxes.get_mut(number) else { return Poll::Ready(None) };
        let next = inbox.poll_next(cx);
        self.dirty |= inbox.is_due();
        next
    }

    pub(in super::super) fn is_ready(&self, number: usize) -> bool {
        self.inboxes.get(number).is_some_and(Inbox::is_ready)
    }

    /// Nobody takes what comes any more.
    pub(in super::super) fn unsubscribe(&mut self, number: usize) {
        let Some(inbox) = self.inboxes.get_mut(number) else { return };
        let told = !inbox.is_over() && self.device.end(on_the_wire(number), &mut self.said).is_ok();
        if told {
            // Its number is free when the server has answered.
            inbox.leave();
            self.dirty = true;
        } else {
            self.inboxes.remove(number);
        }
    }

    /// Credit of what was taken goes back.
    pub(super) fn give_back_credit(&mut self, out: &mut Vec<u8>) {
        self.owes = self.inboxes.iter_mut().any(|(_, inbox)| inbox.is_due());
        if !self.owes || self.now < self.gave_back.after(GIVE_BACK_EVERY) {
            return;
        }
        (self.gave_back, self.owes) = (self.now, false);
        for (number, inbox) in self.inboxes.iter_mut() {
            let Some(delivery) = inbox.due() else { continue };
            // Refused only where the subscription ended, and its credit with it.
            if self.device.seen(on_the_wire(number), delivery, out).is_err() {
                continue;
            }
        }
    }
}

/// Calls.
impl State {
    pub(in super::super) fn call(&mut self, ask: &Ask) -> Result<usize, Error> {
        self.check()?;
        let Ask { service, method, payload, content_type, .. } = ask;
        id::name(service.strip_prefix("device/").unwrap_or(service)).map_err(|why| {
            Error::setup("service", format!("{service:?}: {why}"), "correct the name")
        })?;
        if method.is_empty() {
            return Err(Error::setup("method", "none is given", "name one"));
        }
        Error::unless_it_fits("method", method, limits::NAME_BYTES)?;
        Error::unless_it_fits("content type", content_type, limits::CONTENT_TYPE_BYTES)?;
        let number = self.calls.insert(Asked::new(ask.idempotent));
        let fields = Call {
            request: RequestId(u32::try_from(number).unwrap_or(u32::MAX)),
            service,
            method,
            remaining_ms: u32::try_from(ask.within.as_millis()).unwrap_or(u32::MAX),
            idempotent: ask.idempotent,
            content_type,
            caller: "",
            trace: ask.trace,
        };
        let message = Message::Call(Body { fields, payload });
        match self.device.request(&message, crc::of(payload), &mut self.said) {
            Ok(()) => {
                self.dirty = true;
                Ok(number)
            }
            Err(why) => {
                self.calls.remove(number);
                let code = if why == Machine::TooLarge { Code::TOO_LARGE } else { Code::SHUTDOWN };
                Err(Refusal::of(code).detail(&why.to_string()).into())
            }
        }
    }

    pub(in super::super) fn asked(&mut self, number: usize) -> Option<&mut Asked> {
        self.calls.get_mut(number)
    }

    /// Nobody waits for the answer any more. The number stays taken until it came, so that no other call gets it.
    pub(in super::super) fn forget_call(&mut self, number: usize) {
        if self.calls.get_mut(number).is_some_and(Asked::forget) {
            self.calls.remove(number);
        }
    }

    pub(super) fn replied(&mut self, reply: &Body<'_, Reply<'_>>) {
        let fields = reply.fields;
        let number = usize::try_from(fields.request.0).unwrap_or(usize::MAX);
        let Some(asked) = self.calls.get_mut(number) else { return };
        let part = (fields.content_type, reply.payload);
        asked.answered(fields.code, fields.detail, part, fields.more, &mut self.wake);
        if !fields.more && asked.is_forgotten() {
            self.calls.remove(number);
        }
    }

    pub(super) fn call_failed(&mut self, id: RequestId, why: Refusal) {
        let number = usize::try_from(id.0).unwrap_or(usize::MAX);
        let Some(asked) = self.calls.get_mut(number) else { return };
        asked.failed(why.into(), &mut self.wake);
        if asked.is_forgotten() {
            self.calls.remove(number);
        }
    }

    /// The connection is gone: whether what was asked was done is not known.
    pub(super) fn fail_calls(&mut self, why: &Error) {
        let why = format!("{why}; it is not known whether it was done");
        let mut forgotten = Vec::new();
        for (number, asked) in self.calls.iter_mut() {
            asked.cut(&why, &mut self.wake);
            if asked.is_forgotten() {
                forgotten.push(number);
            }
        }
        for number in forgotten {
            self.calls.remove(number);
        }
    }
}
