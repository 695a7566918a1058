//! Events on their way to one consumer: by filter in the log's order, or one stream in its own.
//!
//! Catching up and following are one movement: a cursor reads forward, never past the durable end, and waits there. The
//! invariant: every matching event from the start on is delivered once, in order, and what is delivered and not settled
//! never passes the window, but for a single delivery that is larger than it.

use std::collections::VecDeque;

use bytes::Bytes;
use spile_log::Record;
use spile_protocol::{
    code::Code,
    id::{self, Position, SubscriptionId, Version},
    message::{Deliver, Extras, Lengths, Message, Scope},
    time::Millis,
};

use crate::{
    answers::Sink,
    block::{how_many, part, place},
    limits::{READ_BYTES, SCAN_RECORDS},
    log::Read,
    record::{self, Names, Tail, kind},
    said::Said,
    session::Identity,
    slab::Ix,
    tables::Stream,
    worker::Worker,
};

/// What is read.
pub(crate) enum Source {
    /// The log, from a position on.
    Log { from: u64, reader: Box<dyn Read>, at_end: u64 },
    /// One stream, from a version on.
    Stream { stream: Ix<Stream>, state: Following, from: u64 },
}

/// How far the reading of a stream is.
pub(crate) enum Following {
    /// There may be more: look.
    Look,
    /// Up to a record that is durable.
    Reading(Box<dyn Read>),
    /// The next is on its way to the disk; it is there when the log is durable up to here.
    Coming(u64),
    /// The bell rings when there is a next one.
    Sleeping,
}

/// What is asked for.
pub(crate) struct Wanted {
    pub(crate) id: SubscriptionId,
    pub(crate) source: Source,
    /// Topics; `None` for all.
    pub(crate) filter: Option<String>,
    /// Only events from this position on.
    pub(crate) position: u64,
    /// Only events from this version on.
    pub(crate) version: u64,
    /// It ends at this position; `None`: never.
    pub(crate) until: Option<u64>,
    pub(crate) window: Window,
}

/// What may be delivered and not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) events: u32,
    pub(crate) bytes: u32,
}

/// One subscription.
pub(crate) struct Subscription {
    wanted: Wanted,
    records: VecDeque<Record>,
    /// Events of the front record that were delivered.
    within: u32,
    /// Deliveries that are not settled: events and bytes of each, the oldest first.
    open: VecDeque<(u32, u32)>,
    open_events: u64,
    open_bytes: u64,
    /// The number of the oldest in `open`.
    oldest: u64,
    last: Last,
    /// The window, where the consumer was not told it yet.
    answer: Option<Window>,
    over: Option<Said>,
}

/// What the last delivery and the last look said, so that the next needs to say less.
#[derive(Default)]
struct Last {
    /// The prefix that was looked at last, and whether its topic matches.
    seen: Bytes,
    matches: bool,
    /// The prefix of the last delivery; empty before the first.
    delivered: Bytes,
}

/// What became of a record.
enum One {
    /// So many bytes were said; none where it was passed over.
    Delivered(usize),
    NoCredit,
    NoRoom,
}

impl Subscription {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            records: VecDeque::new(),
            within: 0,
            open: VecDeque::new(),
            open_events: 0,
            open_bytes: 0,
            oldest: 1,
            last: Last::default(),
            answer: Some(wanted.window),
            over: None,
            wanted,
        }
    }

    pub(crate) fn id(&self) -> SubscriptionId {
        self.wanted.id
    }

    pub(crate) fn stream(&self) -> Option<Ix<Stream>> {
        match &self.wanted.source {
            Source::Log { .. } => None,
            Source::Stream { stream, .. } => Some(*stream),
        }
    }

    /// What it says last, where it is over.
    pub(crate) fn over(&self) -> Option<&Said> {
        self.over.as_ref()
    }

    /// It ends: with what it says last.
    pub(crate) fn end(&mut self) {
        self.over = Some(Said::End(self.wanted.id));
        self.records.clear();
    }

    fn fail(&mut self, code: Code, detail: &str) {
        self.over = Some(Said::fault(code, Scope::Subscription(self.wanted.id), detail));
        self.records.clear();
    }

    /// Another window; the consumer is told.
    pub(crate) fn set_window(&mut self, window: Window) {
        self.wanted.window = window;
        self.answer = Some(window);
    }

    /// Deliveries up to this one were received: their credit is free.
    pub(crate) fn seen(&mut self, delivery: u64) {
        while self.oldest <= delivery
            && let Some((events, bytes)) = self.open.pop_front()
        {
            self.oldest += 1;
            self.open_events -= u64::from(events);
            self.open_bytes -= u64::from(bytes);
        }
    }

    fn has_credit(&self, events: u32, bytes: usize) -> bool {
        let Window { events: most_events, bytes: most_bytes } = self.wanted.window;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.open.is_empty()
            || (self.open_events + u64::from(events) <= u64::from(most_events)
                && self.open_bytes.saturating_add(bytes) <= u64::from(most_bytes))
    }

    /// Is there anything a poll would do, when the log is durable up to `end`?
    pub(crate) fn ready(&self, end: u64) -> bool {
        if self.over.is_some() {
            return true;
        }
        let there = !self.records.is_empty()
            || match &self.wanted.source {
                Source::Log { at_end, .. } => end > *at_end,
                Source::Stream { state, .. } => match state {
                    Following::Look | Following::Reading(_) => true,
                    Following::Coming(gate) => end >= *gate,
                    Following::Sleeping => false,
                },
            };
        there && self.has_credit(1, 1)
    }

    /// Does it wait for the log to move?
    pub(crate) fn waits_for_disk(&self) -> bool {
        match &self.wanted.source {
            Source::Log { .. } => self.has_credit(1, 1),
            Source::Stream { state, .. } => matches!(state, Following::Coming(_)),
        }
    }

    /// The session's bell rang: there may be a next record of the stream.
    pub(crate) fn woken(&mut self) {
        if let Source::Stream { state: state @ Following::Sleeping, .. } = &mut self.wanted.source {
            *state = Following::Look;
        }
    }

    /// Delivers what there is, within credit, and room behind what was `said`. Says whether there is more for which there
    /// was no room.
    pub(crate) fn poll(
        &mut self,
        worker: &Worker,
        who: &Identity,
        (end, room): (u64, usize),
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        // spec §8.1.1: deliveries come only behind the answer.
        if let Some(Window { events, bytes }) = self.answer.take() {
            let answer = Said::Credit { subscription: self.wanted.id, events, bytes };
            *said += answer.size();
            answer.say(sink);
        }
        let mut looked = 0;
        while self.over.is_none() {
            let Some(record) = self.records.front().cloned() else {
                if self.refill(worker, end) {
                    continue;
                }
                return false;
            };
            looked += 1;
            if looked > SCAN_RECORDS {
                return true;
            }
            match self.one(worker, who, &record, room.saturating_sub(*said), sink) {
                One::Delivered(bytes) => *said += bytes,
                One::NoCredit => return false,
                One::NoRoom if *said > 0 => return true,
                One::NoRoom => match self.one(worker, who, &record, usize::MAX, sink) {
                    One::Delivered(bytes) => *said += bytes,
                    One::NoCredit | One::NoRoom => return false,
                },
            }
        }
        false
    }

    /// Reads on; false where there is nothing more now.
    fn refill(&mut self, worker: &Worker, end: u64) -> bool {
        if self.wanted.until.is_some_and(|until| self.position() >= until) {
            self.end();
            return false;
        }
        match &mut self.wanted.source {
            Source::Log { reader, from, at_end } => {
                if end <= *at_end {
                    return false;
                }
                match reader.next(READ_BYTES, &mut self.records) {
                    Ok(true) => {
                        if let Some(last) = self.records.back() {
                            *from = last.end().get();
                        }
                        true
                    }
                    Ok(false) => {
                        *at_end = end;
                        *from = (*from).max(end);
                        self.wanted.until.is_some()
                    }
                    Err(error) => {
                        tracing::error!(%error, "a subscription can't read");
                        self.fail(Code::CORRUPT, "the log can't be read");
                        false
                    }
                }
            }
            Source::Stream { .. } => self.refill_stream(worker, end),
        }
    }

    /// The position all events before which were read.
    fn position(&self) -> u64 {
        match &self.wanted.source {
            Source::Log { from, .. } => *from,
            Source::Stream { .. } => 0,
        }
    }

    fn refill_stream(&mut self, worker: &Worker, end: u64) -> bool {
        let Source::Stream { stream, state, from } = &mut self.wanted.source else { return false };
        match state {
            Following::Sleeping => false,
            Following::Coming(gate) if end < *gate => false,
            Following::Coming(_) | Following::Look => {
                let Some(seen) = worker.core().see(*stream) else {
                    self.fail(Code::INTERNAL, "the stream is gone");
                    return false;
                };
                if seen.durable_version >= *from {
                    let reader = worker.log.read_stream(seen.id, seen.position, *from);
                    *state = Following::Reading(reader);
                    return true;
                }
                if self.wanted.until.is_some() {
                    self.end();
                    return false;
                }
                *state = if seen.version >= *from {
                    Following::Coming(seen.next)
                } else {
                    Following::Sleeping
                };
                false
            }
            Following::Reading(reader) => match reader.next(READ_BYTES, &mut self.records) {
                Ok(true) => {
                    if let Some(last) = self.records.back() {
                        *from = last.version.saturating_add(u64::from(last.positions));
                    }
                    true
                }
                Ok(false) => {
                    *state = Following::Look;
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "a subscription can't read its stream");
                    self.fail(Code::CORRUPT, "the stream can't be read");
                    false
                }
            },
        }
    }

    /// Delivers the front record, or a part of it, or passes it over.
    fn one(
        &mut self,
        worker: &Worker,
        who: &Identity,
        record: &Record,
        room: usize,
        sink: &mut Sink<'_>,
    ) -> One {
        let before = self.wanted.position.saturating_sub(record.position.get());
        let before = before.max(self.wanted.version.saturating_sub(record.version));
        let skip = self.within.max(u32::try_from(before).unwrap_or(u32::MAX));
        let wanted = matches!(record.kind, kind::EVENT | kind::BATCH)
            && skip < record.positions
            && self.wanted.until.is_none_or(|until| record.position.get() < until);
        if !wanted || !self.matches(who, record) {
            self.pass();
            return One::Delivered(0);
        }
        self.deliver(worker, who, (record, skip), room, sink).unwrap_or_else(|code| {
            let detail = format!("the event at position {} can't be delivered", record.position);
            self.fail(code, &detail);
            One::Delivered(0)
        })
    }

    fn pass(&mut self) {
        self.records.pop_front();
        self.within = 0;
    }

    /// Is the record's topic one that is wanted, in this tenant? The names are looked at where they are others than the
    /// last record's.
    fn matches(&mut self, who: &Identity, record: &Record) -> bool {
        let Ok((prefix, _)) = record::split(&record.head) else { return false };
        if *prefix == *self.last.seen {
            return self.last.matches;
        }
        let matches = Names::parse(prefix).is_ok_and(|names| {
            let filter = self.wanted.filter.as_deref();
            names.tenant == who.tenant
                && filter.is_none_or(|filter| id::matches(filter, names.topic))
        });
        self.last.seen = record.head.slice_ref(prefix);
        self.last.matches = matches;
        matches
    }

    fn deliver(
        &mut self,
        worker: &Worker,
        who: &Identity,
        (record, skip): (&Record, u32),
        room: usize,
        sink: &mut Sink<'_>,
    ) -> Result<One, Code> {
        let (prefix, tail) = record::split(&record.head).map_err(|_| Code::CORRUPT)?;
        let tail = Tail::parse(record.kind, tail, &record.payload).map_err(|_| Code::CORRUPT)?;
        let whole = tail.lengths.ok_or(Code::CORRUPT)?;
        // What is spelled of the names stands in the prefix, the rest in the tail; both hold more than a DELIVER does.
        let names = if *prefix == *self.last.delivered { 0 } else { prefix.len() };
        let header = FIXED_HEADER + names + (record.head.len() - prefix.len());
        let fits = how_many(whole, skip, who.frame_max.saturating_sub(header));
        if fits == 0 {
            return Err(Code::TOO_LARGE);
        }
        let bytes: usize = whole.iter().skip(place(skip)).take(place(fits)).sum();
        if !self.has_credit(fits, bytes) {
            return Ok(One::NoCredit);
        }
        if header + bytes > room {
            return Ok(One::NoRoom);
        }
        let mut spelled = [0; 5 * 1024];
        let (lengths, payload, payload_crc) =
            part(whole, skip, fits, record, &mut spelled).ok_or(Code::CORRUPT)?;
        self.say(worker, record, (prefix, &tail), (skip, lengths), &payload, payload_crc, sink)?;
        self.open.push_back((fits, u32::try_from(bytes).unwrap_or(u32::MAX)));
        self.open_events += u64::from(fits);
        self.open_bytes += u64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        worker.counters.delivered(fits, bytes);
        self.last.delivered = record.head.slice_ref(prefix);
        if skip + fits >= record.positions {
            self.pass();
        } else {
            self.within = skip + fits;
        }
        Ok(One::Delivered(header + bytes))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a delivery is what stands in a record, its part and where it goes"
    )]
    fn say(
        &self,
        worker: &Worker,
        record: &Record,
        (prefix, tail): (&[u8], &Tail<'_>),
        (skip, lengths): (u32, Lengths<'_>),
        payload: &[u8],
        payload_crc: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Code> {
        let first = self.last.delivered.is_empty();
        let same = *prefix == *self.last.delivered;
        let names = Names::parse(prefix).map_err(|_| Code::CORRUPT)?;
        let last = if first || same { None } else { Names::parse(&self.last.delivered).ok() };
        let differs = |of: fn(&Names<'_>, &Names<'_>) -> bool| {
            !same && last.as_ref().is_none_or(|last| !of(last, &names))
        };
        let trace = Some(record::trace(&names, tail.number, tail.extras.trace).nth(skip));
        let skipped = u64::from(skip);
        let deliver = Deliver {
            subscription: self.wanted.id,
            key: Some(names.key).filter(|_| differs(|a, b| a.key == b.key)),
            topic: Some(names.topic).filter(|_| differs(|a, b| a.topic == b.topic)),
            kind: Some(names.kind).filter(|kind| {
                differs(|a, b| a.kind == b.kind) && !(first && *kind == Default::default())
            }),
            worker: Some(worker.config.name.as_str()).filter(|_| first),
            attempt: 1,
            version: Version(record.version.saturating_add(skipped)),
            position: Position(record.position.get().saturating_add(skipped)),
            time: Millis(tail.time_ms),
            lengths,
            extras: Extras { trace, ..tail.extras },
            payload,
        };
        sink(&Message::Deliver(deliver), payload_crc);
        Ok(())
    }
}

/// The most a DELIVER takes beside names, lengths, extras and payload; the worker's name is in it.
const FIXED_HEADER: usize = 128;
