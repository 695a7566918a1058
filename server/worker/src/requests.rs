//! What a session asks for beside publishing: subscriptions and their credit, look-ups, calls. Part of an intake.

use std::borrow::Cow;

use bytes::Bytes;
use spile_protocol::{
    code::Code,
    id::{self, RequestId, SubscriptionId},
    limits,
    message::{
        Body, Credit, End, From, Message, Outcome, Scope, Settle, Source as Asked, Subscribe,
    },
    time::Millis,
};

use crate::{
    groups::member::{Joins, Member, Settling},
    inbox::FILTER,
    intake::Intake,
    limits::{WINDOW_BYTES, WINDOW_EVENTS},
    said::Said,
    source::{Following, Source},
    subscription::{Subscription, Wanted, Window},
    tables::checked_key,
};

/// Why something that was asked for is not done.
struct Refused {
    code: Code,
    detail: Cow<'static, str>,
}

fn refused(code: Code, detail: impl Into<Cow<'static, str>>) -> Refused {
    Refused { code, detail: detail.into() }
}

/// Where a subscription begins.
struct Begin {
    /// The first position to be read.
    read: u64,
    /// The first position wanted.
    wanted: u64,
}

impl Intake<'_> {
    /// A message that is neither EVENT nor BATCH.
    pub(crate) fn other(
        &mut self,
        now: Millis,
        message: &Message<'_>,
        payload: &Bytes,
        payload_crc: u32,
    ) {
        match message {
            Message::Lane(lane) => self.open(lane),
            Message::Bind(bind) => self.bind(bind),
            Message::Subscribe(subscribe) => self.subscribe(subscribe),
            Message::Settle(settle) => self.settle(now, settle),
            Message::Credit(credit) => self.credit(credit),
            Message::End(end) => self.end(end),
            Message::Get(get) => self.look_up(now, get),
            Message::List(list) => self.list_values(now, list),
            Message::Serve(serve) => self.serve(serve),
            Message::Call(Body { fields, .. }) if !fields.service.starts_with('$') => {
                self.call_service(fields, payload, payload_crc);
            }
            Message::Call(Body { fields, .. }) => self.call(now, fields, payload),
            Message::Reply(Body { fields, .. }) => self.replied(fields, payload, payload_crc),
            Message::Open(open) => self.open_upload(now, open),
            Message::Chunk(chunk) => self.chunk(now, chunk, payload, payload_crc),
            Message::Seal(seal) => self.seal(now, *seal),
            Message::Abort(abort) => self.abort(now, *abort),
            // What only a server says, or is between an edge and its client: the edge lets none of it through, and a link
            // that brings it is cut by its driver.
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Ping(_)
            | Message::GoAway(_)
            | Message::Fault(_)
            | Message::LaneAnswer(_)
            | Message::Event(_)
            | Message::Batch(_)
            | Message::Ack(_)
            | Message::Opened(_)
            | Message::Deliver(_)
            | Message::Value(_)
            | Message::Attach(_)
            | Message::Detach(_)
            | Message::Envelope(_)
            | Message::Registry(_)
            | Message::Void(_)
            | Message::LinkHello(_)
            | Message::Changed(_)
            | Message::Skipped(_) => {}
        }
    }

    pub(crate) fn refuse_request(&mut self, request: RequestId, detail: &str) {
        let gate = self.core.next;
        self.desk.refuse(gate, request, Code::NOT_FOUND, detail);
    }

    fn subscribe(&mut self, subscribe: &Subscribe<'_>) {
        let id = subscribe.subscription;
        let gate = self.core.next;
        if let Asked::Group { name, max_events, max_bytes } = subscribe.source {
            let limits = (max_events, max_bytes);
            if let Err(Refused { code, detail }) = self.join_group(subscribe, name, limits) {
                self.desk.said(gate, Said::fault(code, Scope::Subscription(id), &detail));
            }
            return;
        }
        match self.wanted(subscribe) {
            Ok(wanted) => self.desk.subscriptions.push(Subscription::new(wanted)),
            Err(Refused { code, detail }) => {
                self.desk.said(gate, Said::fault(code, Scope::Subscription(id), &detail));
            }
        }
    }

    fn free_number(&mut self, id: SubscriptionId) -> Result<(), Refused> {
        let taken = self.desk.subscription(id).is_some() || self.desk.groups.member(id).is_some();
        if taken {
            return Err(refused(Code::CONFLICT, "the subscription's number is in use"));
        }
        let open = self.desk.subscriptions.len() + self.desk.groups.members.len();
        if open >= limits::SUBSCRIPTIONS as usize {
            return Err(refused(Code::TOO_MANY, ""));
        }
        Ok(())
    }

    fn join_group(
        &mut self,
        subscribe: &Subscribe<'_>,
        name: &str,
        (max_events, max_bytes): (u32, u32),
    ) -> Result<(), Refused> {
        let id = subscribe.subscription;
        self.free_number(id)?;
        self.core.look();
        let tenant = &self.desk.who.tenant;
        let (name, group) = self
            .core
            .groups
            .find(tenant, name)
            .ok_or(refused(Code::NOT_FOUND, "there is no such group"))?;
        let window = turned(kept(subscribe.events, subscribe.bytes), subscribe.events);
        let joins = Joins { id, window, max_events, max_bytes, live: subscribe.live };
        let (name, shared, bell) = (name.clone(), group.shared.clone(), self.desk.bell.clone());
        let member = Member::new(joins, self.worker.number(), name, shared, bell);
        self.desk.groups.members.push(member);
        Ok(())
    }

    fn wanted(&mut self, subscribe: &Subscribe<'_>) -> Result<Wanted, Refused> {
        let id = subscribe.subscription;
        self.free_number(id)?;
        let window = kept(subscribe.events, subscribe.bytes);
        let until = (!subscribe.live).then(|| self.core.look().end.get());
        let (mut version, mut inbox, mut whole) = (0, None, false);
        let (source, filter, position) = match subscribe.source {
            Asked::Filter { filter, key, from } => self.by_filter(filter, key, from)?,
            Asked::Stream { key, from } => {
                // spec §8.1.3: from version 0 on is what is kept.
                (version, whole) = (from.0, from.0 > 0);
                (self.by_stream(key, from.0)?, None, 0)
            }
            Asked::Group { .. } => return Err(refused(Code::NOT_FOUND, "there is no such group")),
            Asked::Inbox => {
                let own = self.desk.who.principal.clone();
                let (member, from) = self.enter_inbox();
                (version, inbox) = (from, Some(member));
                (self.by_stream(&own, from)?, Some(FILTER.to_owned()), 0)
            }
        };
        Ok(Wanted { id, source, filter, position, version, whole, until, window, inbox })
    }

    fn by_filter(
        &mut self,
        filter: &str,
        key: Option<&str>,
        from: From<'_>,
    ) -> Result<(Source, Option<String>, u64), Refused> {
        id::filter(filter).map_err(|_| refused(Code::INVALID, "the filter is not one"))?;
        let filter = Some(filter.to_owned());
        let Begin { read, wanted } = self.begin_at(from)?;
        let Some(key) = key else {
            let reader = self.worker.log.read(read);
            return Ok((Source::Log { from: read, reader, at_end: 0 }, filter, wanted));
        };
        let version = match from {
            // What is on its way was sent before; it is stored from now on all the same.
            From::End => self.durable_version(key)?.saturating_add(1),
            From::Start | From::Time(_) | From::Positions(_) => 1,
        };
        Ok((self.by_stream(key, version)?, filter, wanted))
    }

    fn begin_at(&mut self, from: From<'_>) -> Result<Begin, Refused> {
        let end = self.core.look().end.get();
        let start = self.worker.log.start();
        let at = match from {
            From::Start => start,
            From::End => end,
            From::Time(time_ms) => {
                let at = self.worker.position_at(time_ms);
                at.map_err(|_| refused(Code::CORRUPT, "the log can't be read"))?
            }
            From::Positions(list) => {
                let own = list.iter().find(|at| at.worker == self.worker.config.name);
                own.ok_or(refused(Code::INVALID, "this worker's position is not named"))?.position.0
            }
        };
        if at < start && at != 0 && matches!(from, From::Positions(_)) {
            let first = format!("the first position kept is {}:{start}", self.worker.name());
            return Err(refused(Code::GONE, first));
        }
        Ok(Begin { read: at.clamp(start, end.max(start)), wanted: at })
    }

    fn by_stream(&mut self, key: &str, from: u64) -> Result<Source, Refused> {
        let invalid = |code| refused(code, "the key is not one");
        let key = checked_key(key).map_err(invalid)?;
        let stream = self.core.tables.stream(&self.desk.who.tenant, key);
        let stream = stream.map_err(|code| refused(code, "too many streams"))?;
        self.core.tables.hold_stream(stream);
        if let Some(entry) = self.core.tables.streams.get_mut(stream) {
            entry.watchers.push(self.desk.bell.clone());
        }
        Ok(Source::Stream { stream, state: Following::Look, from: from.max(1) })
    }

    fn durable_version(&mut self, key: &str) -> Result<u64, Refused> {
        let name = crate::tables::scoped(&self.desk.who.tenant, key);
        let known = self.core.tables.names.get(name.as_str()).copied();
        Ok(known.and_then(|ix| self.core.see(ix)).map_or(0, |seen| seen.durable_version))
    }

    /// A plain subscription hears only that a delivery was received.
    fn settle(&mut self, now: Millis, settle: &Settle<'_>) {
        if self.settle_inbox(now, settle) {
            return;
        }
        let Settle { subscription, delivery, outcome, events, reason } = *settle;
        if let Some(member) = self.desk.groups.member(subscription) {
            let settling = Settling { delivery, outcome, events, reason: reason.to_owned() };
            if !member.settle(settling) {
                self.desk.bell.send_away(Code::TOO_FAST);
            }
            return;
        }
        let Some(subscription) = self.desk.subscription(subscription) else { return };
        match outcome {
            Outcome::Seen | Outcome::Done | Outcome::Reject | Outcome::Retry { .. } => {
                subscription.seen(delivery);
            }
        }
    }

    fn credit(&mut self, credit: &Credit) {
        let Some(id) = credit.subscription else { return };
        let window = kept(credit.events, credit.bytes);
        if let Some(subscription) = self.desk.subscription(id) {
            subscription.set_window(window);
        } else if let Some(member) = self.desk.groups.member(id) {
            member.set_window(turned(window, credit.events));
        }
    }

    fn end(&mut self, end: &End) {
        if let Some(subscription) = self.desk.subscription(end.subscription) {
            subscription.end();
        } else if let Some(member) = self.desk.groups.member(end.subscription) {
            member.end();
        }
    }
}

/// spec §10.7: an edge whose client takes less than one delivery a worker has some of them wait for their turn.
const fn turned(window: Window, events: u32) -> Window {
    if events == 0 { Window { events: 0, ..window } } else { window }
}

/// The window that is kept, of the one that was asked for: a subscription without any would never deliver.
fn kept(events: u32, bytes: u32) -> Window {
    Window { events: events.clamp(1, WINDOW_EVENTS), bytes: bytes.clamp(1, WINDOW_BYTES) }
}
