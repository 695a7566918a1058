//! What came in with one read: decided under one lock, handed to the log in one call. The hot path.
//!
//! An event costs no allocation, no look-up by name and no wait: its lane holds places in the tables, its route holds the
//! prefix of its record.

use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use spile_protocol::{
    code::Code,
    id::{self, LaneId, Number, RouteId},
    limits,
    message::{
        Batch, Bind, Event, Expect, Lane as LaneMessage, Lengths, Message, Scope, deliver::Kind,
    },
    session::producer::Decision,
    time::Millis,
};

use crate::{
    answers::{What, receipt},
    block::behind,
    core::{Core, Placed, Put, Refusal},
    desk::{Desk, Lane, Route},
    inbox,
    limits::CALL_BYTES,
    record::{self, VoidTail, kind},
    said::Said,
    status::Tally,
    tables::{At, checked_key},
    values::{Change, Value},
    worker::Worker,
};

/// One read's worth of a session. What it took goes to the log when it is dropped.
pub struct Intake<'a> {
    pub(crate) worker: &'a std::sync::Arc<Worker>,
    pub(crate) core: MutexGuard<'a, Core>,
    pub(crate) desk: &'a mut Desk,
    tally: Tally,
    /// Another session took over: what this one still says counts no more.
    gone: bool,
}

impl std::fmt::Debug for Intake<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

/// Numbers that arrived in one frame, and whose.
#[derive(Clone, Copy)]
struct Came {
    lane: LaneId,
    time_ms: u64,
    first: Number,
    count: u32,
}

fn place(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl<'a> Intake<'a> {
    pub(crate) fn begin(worker: &'a std::sync::Arc<Worker>, desk: &'a mut Desk) -> Self {
        let mut core = worker.core();
        desk.catch_up(&mut core);
        core.begin();
        let gone = desk.bell.gone().is_some();
        Self { worker, core, desk, tally: Tally::default(), gone }
    }

    /// One message of the session, in the order they came. `number` is an EVENT's or BATCH's first; `payload` is the
    /// message's payload, and `payload_crc` its CRC as it came.
    #[inline]
    pub fn message(
        &mut self,
        now: Millis,
        number: Number,
        message: &Message<'_>,
        payload: &Bytes,
        payload_crc: u32,
    ) {
        if self.gone {
            return;
        }
        if let Message::Event(event) = message {
            self.event(now, number, event, payload, payload_crc);
        } else if let Message::Batch(batch) = message {
            self.batch(now, number, batch, payload, payload_crc);
        } else {
            self.other(now, message, payload, payload_crc);
        }
        if self.core.gathered() > CALL_BYTES {
            self.commit();
        }
    }

    /// The same for who has the payload only as a slice: it is copied beside the record's head.
    pub fn borrowed(
        &mut self,
        now: Millis,
        number: Number,
        message: &Message<'_>,
        payload_crc: u32,
    ) {
        let payload = message.payload();
        let payload = if payload.is_empty() {
            Bytes::new()
        } else {
            self.core.heads.extend_from_slice(payload);
            self.core.heads.split().freeze()
        };
        self.message(now, number, message, &payload, payload_crc);
    }

    /// Numbers of a lane that the edge refuses for good: their place is kept.
    pub fn void(&mut self, now: Millis, lane: LaneId, first: Number, count: u32, code: Code) {
        if self.gone {
            return;
        }
        let came = Came { lane, time_ms: now.0, first, count };
        let Some(skip) = self.decide(came) else { return };
        let number = Number(first.0.saturating_add(u64::from(skip)));
        self.refuse(came, VoidTail { number, count: count - skip, code, version: id::Version(0) });
    }

    /// Hands what was taken to the log. Dropping does the same.
    pub fn finish(self) {}

    pub(crate) fn commit(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        match self.core.commit(false) {
            Ok(()) => self.worker.counters.count(&tally),
            Err(refusal) => self.lose(refusal),
        }
    }

    pub(crate) fn lose(&mut self, refusal: Refusal) {
        self.worker.counters.refused_calls.add(1);
        self.desk.catch_up(&mut self.core);
        self.desk.lose(&self.core, refusal.end, refusal.code);
    }

    /// What the numbers are: how many of the first are stored already, where others are not. `None`: there is nothing to
    /// take, and what there is to say is said.
    #[inline]
    fn decide(&mut self, came: Came) -> Option<u32> {
        let Came { lane: id, time_ms, first, count } = came;
        let lane = self.desk.lanes.get_mut(place(id.0))?.as_mut().filter(|lane| lane.open)?;
        let known = self.core.touch(lane.at, time_ms, &mut lane.touched);
        let decision =
            if known { self.core.decide(lane.at, first, count) } else { Decision::UnknownRun };
        match decision {
            Decision::Take { skip } => return Some(skip),
            Decision::Duplicate => self.again(came),
            Decision::Gap { .. } => self.close(id, Code::OUT_OF_ORDER),
            Decision::UnknownRun => self.close(id, Code::UNKNOWN_RUN),
            Decision::Malformed => self.close(id, Code::MALFORMED),
        }
        None
    }

    fn close(&mut self, lane: LaneId, code: Code) {
        let gate = self.core.next;
        self.desk.close(&self.core, lane, gate, code);
    }

    /// spec §5.7: lower or equal: stored or refused already, and told again.
    fn again(&mut self, came: Came) {
        let Came { lane: id, first, count, .. } = came;
        self.tally.duplicates += u64::from(count);
        let Self { core, desk, .. } = self;
        let gate = core.next;
        let Some(at) = desk.lane(id).map(|lane| lane.at) else { return };
        let Some(producer) = core.tables.producers.get(at.producer) else { return };
        let end = first.0.saturating_add(u64::from(count));
        for void in producer.voids.iter().filter(|void| overlaps(void, first.0, end)) {
            desk.answers.push(gate, id, What::Refused(*void));
        }
        desk.answers.push(gate, id, What::Seen(Number(end.saturating_sub(1))));
    }

    #[inline]
    fn event(
        &mut self,
        now: Millis,
        number: Number,
        event: &Event<'_>,
        payload: &Bytes,
        payload_crc: u32,
    ) {
        let Some(lane) = self.lane_of(event.route) else { return };
        let came = Came { lane, time_ms: now.0, first: number, count: 1 };
        if self.decide(came).is_none() || !self.as_expected(came, event.extras.expect) {
            return;
        }
        let Self { core, desk, .. } = self;
        let Some(Some(route)) = desk.routes.get(place(event.route.0)) else { return };
        core.heads.extend_from_slice(&route.prefix);
        let written = record::put_event(&mut core.heads, now.0, number, &event.extras);
        let wanted = desk.who.receipts || event.extras.receipt;
        let (payload, kept, inbox) = (payload.clone(), route.kept.clone(), route.inbox);
        let length = payload.len();
        self.tally.inbox += u64::from(inbox);
        let placed = self.put(came, kind::EVENT, written.is_ok(), (payload, payload_crc), wanted);
        if let (Some(name), Some(placed)) = (kept, placed) {
            self.keep(name, came, placed, event.extras.ttl_ms, length);
        }
    }

    /// The record's last event is the latest of a kept topic, once it is durable.
    fn keep(
        &mut self,
        name: Arc<str>,
        came: Came,
        placed: Placed,
        ttl_ms: Option<u64>,
        length: usize,
    ) {
        let core = &mut *self.core;
        let behind = u64::from(came.count).saturating_sub(1);
        let (position, version) = (placed.position + behind, placed.version + behind);
        // spec §5.3.2: an empty payload removes the value.
        let value = (length > 0).then(|| Value::new(position, version, came.time_ms, ttl_ms));
        let time_ms = core.tables.time_ms;
        core.values.put(core.next, Change { name, value, time_ms });
    }

    fn batch(
        &mut self,
        now: Millis,
        number: Number,
        batch: &Batch<'_>,
        payload: &Bytes,
        payload_crc: u32,
    ) {
        let Some(lane) = self.lane_of(batch.route) else { return };
        let came = Came { lane, time_ms: now.0, first: number, count: batch.lengths.count() };
        let Some(skip) = self.decide(came) else { return };
        if !self.as_expected(came, batch.extras.expect) {
            return;
        }
        if skip == 0 {
            return self.put_batch(now, batch, came, batch.lengths, (payload.clone(), payload_crc));
        }
        let mut spelled = [0; 5 * limits::BATCH_EVENTS as usize];
        let part = behind(batch.lengths, skip, payload, payload_crc, &mut spelled);
        let Some((lengths, payload, payload_crc)) = part else {
            return self.close(lane, Code::DAMAGED);
        };
        self.tally.duplicates += u64::from(skip);
        let first = Number(number.0.saturating_add(u64::from(skip)));
        let came = Came { first, count: lengths.count(), ..came };
        self.put_batch(now, batch, came, lengths, (payload, payload_crc));
    }

    fn put_batch(
        &mut self,
        now: Millis,
        batch: &Batch<'_>,
        came: Came,
        lengths: Lengths<'_>,
        payload: (Bytes, u32),
    ) {
        let Self { core, desk, .. } = self;
        let Some(Some(route)) = desk.routes.get(place(batch.route.0)) else { return };
        core.heads.extend_from_slice(&route.prefix);
        let written = record::put_batch(&mut core.heads, now.0, came.first, lengths, &batch.extras);
        let wanted = desk.who.receipts || batch.extras.receipt;
        let kept = route.kept.clone();
        self.tally.inbox += if route.inbox { u64::from(came.count) } else { 0 };
        let placed = self.put(came, kind::BATCH, written.is_ok(), payload, wanted);
        if let (Some(name), Some(placed)) = (kept, placed) {
            let length = lengths.iter().last().unwrap_or_default();
            self.keep(name, came, placed, batch.extras.ttl_ms, length);
        }
    }

    /// Puts the record whose head was just written.
    #[inline]
    fn put(
        &mut self,
        came: Came,
        kind: u8,
        written: bool,
        payload: (Bytes, u32),
        wanted: bool,
    ) -> Option<Placed> {
        let Came { lane: id, time_ms, first, count } = came;
        let head = self.core.heads.split().freeze();
        let lane = self.desk.lanes.get(place(id.0))?.as_ref()?;
        if !written {
            self.close(id, Code::INTERNAL);
            return None;
        }
        let (payload, payload_crc) = payload;
        self.tally.events += u64::from(count);
        self.tally.bytes += payload.len();
        let last = first.0.saturating_add(u64::from(count)).saturating_sub(1);
        let put = Put { kind, positions: count, time_ms, head, payload, payload_crc };
        let placed = self.core.put(lane.at, last, put)?;
        let receipt = receipt(first.0, count, placed.version, placed.position);
        self.desk.answers.stored(self.core.next, id, receipt, wanted);
        Some(placed)
    }

    /// Is the stream as the event expects it? Where not, its numbers are refused for good.
    #[inline]
    fn as_expected(&mut self, came: Came, expect: Option<Expect>) -> bool {
        let Some(expect) = expect else { return true };
        let Some(at) = self.desk.lane(came.lane).map(|lane| lane.at) else { return false };
        let version = self.core.version(at.stream);
        let holds = match expect {
            Expect::Exists => version.0 > 0,
            Expect::Version(expected) => version == expected,
        };
        if !holds {
            let Some(skip) = self.decide(came) else { return false };
            let number = Number(came.first.0.saturating_add(u64::from(skip)));
            let count = came.count.saturating_sub(skip);
            let void = VoidTail { number, count, code: Code::STALE_VERSION, version };
            self.refuse(came, void);
        }
        holds
    }

    fn refuse(&mut self, came: Came, void: VoidTail) {
        let Self { core, desk, tally, .. } = self;
        let Some(lane) = desk.lane(came.lane) else { return };
        tally.voids += u64::from(void.count);
        if core.put_void(lane.at, came.time_ms, &lane.prefix, void).is_some() {
            desk.answers.push(core.next, came.lane, What::Refused(void));
        }
    }

    fn lane_of(&self, route: RouteId) -> Option<LaneId> {
        self.desk.routes.get(place(route.0))?.as_ref().map(|route| route.lane)
    }

    /// spec §5.1: the lane is open, and its last number is this; or it is closed at once.
    pub(crate) fn open(&mut self, message: &LaneMessage<'_>) {
        let lane = message.lane;
        if let Err(code) = self.try_open(message) {
            let closed = What::Closed { code, expected: Number(1), retry_after_ms: 0 };
            self.desk.answers.push(self.core.next, lane, closed);
        }
    }

    fn try_open(&mut self, message: &LaneMessage<'_>) -> Result<(), Code> {
        let Self { core, desk, .. } = self;
        if message.lane.0 >= limits::LANES {
            return Err(Code::TOO_MANY);
        }
        let key = checked_key(message.key.unwrap_or(&desk.who.principal))?.to_owned();
        let tables = &mut core.tables;
        let time_ms = tables.time_ms;
        tables.forget_expired(&desk.scoped, desk.who.run, time_ms);
        let at = tables.find(&desk.scoped, desk.who.run, &desk.who.tenant, &key)?;
        tables.hold(at);
        desk.rename_routes(&core.values, message.lane, &key);
        let prefix = desk.who.prefix(&key, "", Kind::default());
        let lane = Lane { at, key, open: true, touched: u64::MAX, prefix };
        if let Some(older) = put_at(&mut desk.lanes, message.lane.0, lane) {
            core.tables.release(older.at);
        }
        match core.decide(at, message.first_unacked, 1) {
            Decision::Take { .. } | Decision::Duplicate => {
                let refused = refused(core, at, message.first_unacked);
                let last =
                    core.tables.producers.get(at.producer).map_or(0, |producer| producer.last);
                let first = message.first_unacked;
                let opened = What::Opened { first, last: Number(last), refused };
                desk.answers.push(core.next, message.lane, opened);
            }
            Decision::Gap { .. } => self.close(message.lane, Code::OUT_OF_ORDER),
            Decision::UnknownRun => self.close(message.lane, Code::UNKNOWN_RUN),
            Decision::Malformed => self.close(message.lane, Code::MALFORMED),
        }
        Ok(())
    }

    pub(crate) fn bind(&mut self, bind: &Bind<'_>) {
        let &Bind { route, lane, topic, content_type, schema, encoding } = bind;
        let desk = &mut *self.desk;
        let gate = self.core.next;
        let refused = |code| Said::fault(code, Scope::Route(route), "");
        if id::topic(topic).is_err() {
            return desk.said(gate, refused(Code::INVALID));
        }
        if route.0 >= limits::ROUTES {
            return desk.said(gate, refused(Code::TOO_MANY));
        }
        let Some(Some(open)) = desk.lanes.get(place(lane.0)) else {
            return desk.said(gate, refused(Code::UNKNOWN_LANE));
        };
        let kind = Kind { content_type, schema, encoding };
        let prefix = desk.who.prefix(&open.key, topic, kind);
        let kept = self.core.values.name(&desk.who.tenant, &open.key, topic);
        let inbox = id::matches(inbox::FILTER, topic);
        put_at(&mut desk.routes, route.0, Route { lane, prefix, kept, inbox });
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        self.commit_chunks();
        self.commit();
    }
}

fn overlaps(void: &VoidTail, first: u64, end: u64) -> bool {
    void.number.0 < end && void.number.0.saturating_add(u64::from(void.count)) > first
}

/// What was refused from `first` on; one window at most, since no more is kept.
fn refused(core: &Core, at: At, first: Number) -> Vec<VoidTail> {
    let Some(producer) = core.tables.producers.get(at.producer) else { return Vec::new() };
    producer.voids.iter().filter(|void| overlaps(void, first.0, u64::MAX)).copied().collect()
}

/// Puts `value` at `at`, and gives back what was there.
fn put_at<T>(table: &mut Vec<Option<T>>, at: u32, value: T) -> Option<T> {
    let at = place(at);
    if table.len() <= at {
        table.resize_with(at + 1, || None);
    }
    table.get_mut(at)?.replace(value)
}
