//! Subscriptions, settling, requests: what each must satisfy before the driver sees it. spec §8, §9.

use super::{
    Input, Session,
    tables::{Settles, Subscription, SubscriptionState},
    upstream::{Taken, UNEXPECTED, through},
};
use crate::{
    code::Code,
    id::{self, LaneId, Number, RequestId},
    message::{Credit, End, Message, Outcome, Scope, Serve, Settle, Source, Subscribe, Target},
    session::window::Amount,
    time::Instant,
};

impl Session {
    pub(super) fn subscribe<'b>(
        &mut self,
        message: Message<'b>,
        subscribe: &Subscribe<'b>,
    ) -> Taken<'b> {
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

    pub(super) fn settle<'b>(
        &mut self,
        now: Instant,
        message: Message<'b>,
        settle: &Settle<'b>,
    ) -> Taken<'b> {
        let seen = settle.outcome == Outcome::Seen;
        // spec §6.5: what answers what was handed out is not budgeted.
        let subscription = self.tables.subscription(settle.subscription);
        if !subscription.is_some_and(|of| !seen || of.frees(settle.delivery)) {
            self.spend_cheap(now)?;
        }
        // What came before the client heard of the end is dropped.
        let Some(subscription) = self.tables.subscription_mut(settle.subscription) else {
            return Ok(None);
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

    pub(super) fn credit<'b>(&mut self, message: Message<'b>, credit: Credit) -> Taken<'b> {
        let Some(id) = credit.subscription else {
            return Err((UNEXPECTED, "Credit.subscription is missing"));
        };
        let known = self.tables.subscription(id).is_some();
        // The window changes when the server's CREDIT says what is kept.
        Ok(known.then_some(()).and_then(|()| through(message)))
    }

    pub(super) fn end<'b>(&mut self, message: Message<'b>, end: End) -> Taken<'b> {
        let Some(subscription) = self.tables.subscription_mut(end.subscription) else {
            return Ok(None);
        };
        let first = subscription.state != SubscriptionState::Ending;
        subscription.state = SubscriptionState::Ending;
        Ok(first.then_some(()).and_then(|()| through(message)))
    }

    pub(super) fn get<'b>(
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

    pub(super) fn call<'b>(
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

    pub(super) fn serve<'b>(&mut self, message: Message<'b>, serve: &Serve<'b>) -> Taken<'b> {
        self.ask(message, serve.request, service_is_valid(serve.service), 0)
    }

    pub(super) fn ask<'b>(
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

    pub(super) fn reply<'b>(
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
