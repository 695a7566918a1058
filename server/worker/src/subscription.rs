//! Events on their way to one consumer: by filter in the log's order, or one stream in its own.
//!
//! Catching up and following are one movement: a cursor reads forward, never past the durable end, and waits there. The
//! invariant: every matching event from the start on is delivered once, in order, and what is delivered and not settled
//! never passes the window, but for a single delivery that is larger than it.

use spile_log::Record;
use spile_protocol::{
    code::Code,
    id::{self, Position, SubscriptionId, Version},
    message::{Deliver, Extras, Lengths, Message, Scope},
    time::Millis,
};

use crate::{
    ahead::Held,
    answers::Sink,
    block::{how_many, part, place},
    credit::Unsettled,
    desk::Identity,
    inbox::Member,
    joined::{Joined, Most},
    limits::{LENGTHS_BYTES, SCAN_RECORDS},
    record::{self, Tail, kind},
    said::Said,
    slab::Ix,
    source::{Following, Refill, Source},
    spelling::Spelling,
    tables::Stream,
    unread::Unread,
    worker::Worker,
};

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
    /// It must be there, where it was stored.
    pub(crate) whole: bool,
    /// It ends at this position; `None`: never.
    pub(crate) until: Option<u64>,
    pub(crate) window: Window,
    /// Its part in the principal's inbox, where it is that.
    pub(crate) inbox: Option<Member>,
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
    records: Unread,
    /// Events of the front record that were delivered.
    within: u32,
    /// Deliveries that are not settled.
    open: Unsettled,
    spelling: Spelling,
    /// The window, where the consumer was not told it yet.
    answer: Option<Window>,
    /// Room for events that go together.
    joined: Joined,
    /// What the next delivery takes, where it had to wait.
    next: Option<Next>,
    /// The right to keep what was read, while it waits.
    held: Option<Held>,
    pub(crate) inbox: Option<Member>,
    over: Option<Said>,
}

/// What a delivery takes.
#[derive(Clone, Copy)]
struct Next {
    events: u32,
    bytes: usize,
    /// With all that is said beside the payload.
    whole: usize,
}

/// What became of a record.
enum One {
    /// It is not wanted.
    Passed,
    /// So many bytes were said: all of it was delivered.
    Delivered(usize),
    /// So many bytes were said: some of it is left.
    Part(usize),
    NoCredit,
    NoRoom,
}

impl Subscription {
    pub(crate) fn new(mut wanted: Wanted) -> Self {
        Self {
            inbox: wanted.inbox.take(),
            records: Unread::default(),
            within: 0,
            open: Unsettled::default(),
            spelling: Spelling::default(),
            answer: Some(wanted.window),
            joined: Joined::default(),
            next: None,
            held: None,
            over: None,
            wanted,
        }
    }

    pub(crate) fn id(&self) -> SubscriptionId {
        self.wanted.id
    }

    pub(crate) fn stream(&self) -> Option<Ix<Stream>> {
        self.wanted.source.stream()
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

    pub(crate) fn fail(&mut self, code: Code, detail: &str) {
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
        self.open.seen(delivery);
    }

    /// One delivery's credit is free.
    pub(crate) fn free(&mut self, delivery: u64) {
        self.open.free(delivery);
    }

    fn has_credit(&self, events: u32, bytes: usize) -> bool {
        self.open.allows(self.wanted.window, events, bytes)
    }

    /// Is there anything a poll would do, when the log is durable up to `end`?
    pub(crate) fn ready(&self, end: u64) -> bool {
        if self.over.is_some() || self.is_replaced() {
            return true;
        }
        let there = !self.records.is_empty() || self.wanted.source.has_more(end);
        let (events, bytes) = self.next.map_or((1, 1), |next| (next.events, next.bytes));
        there && self.has_credit(events, bytes)
    }

    /// Does it wait for the log to move?
    pub(crate) fn waits_for_disk(&self) -> bool {
        match &self.wanted.source {
            Source::Log { .. } => self.has_credit(1, 1),
            Source::Stream { state, .. } => matches!(state, Following::Coming(_)),
        }
    }

    fn is_replaced(&self) -> bool {
        self.inbox.as_ref().is_some_and(Member::is_replaced)
    }

    /// The session's bell rang: there may be a next record of the stream.
    pub(crate) fn woken(&mut self) {
        self.wanted.source.wake();
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
        if self.over.is_none() && self.is_replaced() {
            self.fail(Code::REPLACED, "another subscription reads this inbox now");
        }
        let more = self.go_on(worker, who, (end, room), said, sink);
        // One that waits, for whatever, holds no room.
        self.joined = Joined::default();
        self.keep(worker);
        more
    }

    /// It waits with what it read and may not deliver yet; where too many do, it reads it again later.
    fn keep(&mut self, worker: &Worker) {
        let Some(front) = self.records.front() else { return };
        self.held = worker.ahead.hold(self.records.bytes());
        if self.held.is_none() {
            self.wanted.source.go_back(worker, front);
            self.records.clear();
        }
    }

    fn go_on(
        &mut self,
        worker: &Worker,
        who: &Identity,
        (end, room): (u64, usize),
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        if let Some(next) = self.next {
            if !self.has_credit(next.events, next.bytes) {
                return false;
            }
            if *said > 0 && next.whole > room.saturating_sub(*said) {
                return true;
            }
        }
        (self.next, self.held) = (None, None);
        let mut looked = 0;
        while self.over.is_none() {
            let Some(record) = self.records.pop_front() else {
                if self.refill(worker, end) {
                    continue;
                }
                return false;
            };
            looked += 1;
            let left = if *said == 0 { usize::MAX } else { room.saturating_sub(*said) };
            let one = self.one(worker, who, &record, left, sink);
            let over = looked >= SCAN_RECORDS;
            match one {
                One::Passed => {}
                One::Delivered(bytes) => *said += bytes,
                One::Part(bytes) => {
                    *said += bytes;
                    self.records.push_front(record);
                }
                One::NoCredit | One::NoRoom => {
                    self.records.push_front(record);
                    return matches!(one, One::NoRoom);
                }
            }
            if over {
                return true;
            }
        }
        false
    }

    /// Reads on; false where there is nothing more now.
    fn refill(&mut self, worker: &Worker, end: u64) -> bool {
        let Wanted { source, until, whole, .. } = &mut self.wanted;
        if until.is_some_and(|until| source.position() >= until) {
            self.end();
            return false;
        }
        match source.refill(worker, end, &mut self.records, whole) {
            Refill::More => return true,
            Refill::Nothing => {}
            Refill::AtEnd if until.is_some() => self.end(),
            Refill::AtEnd => {}
            Refill::Gone(first) => self.gone(first),
            Refill::Failed(code, detail) => self.fail(code, detail),
        }
        false
    }

    /// Where it was to begin is not kept: the first version that is.
    fn gone(&mut self, first: u64) {
        let detail = match first {
            u64::MAX => "no version stored so far is kept".to_owned(),
            first => format!("the first version kept is {first}"),
        };
        self.fail(Code::GONE, &detail);
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
        let wanted = matches!(record.kind, kind::EVENT | kind::BATCH | kind::BLOB)
            && skip < record.positions
            && self.wanted.until.is_none_or(|until| record.position.get() < until);
        let split = record::split(&record.head).ok().filter(|_| wanted);
        let Some((_, tail)) = split.filter(|(prefix, _)| self.matches(who, record, prefix)) else {
            self.within = 0;
            return One::Passed;
        };
        self.deliver(worker, who, (record, tail, skip), room, sink).unwrap_or_else(|code| {
            let detail = format!("the event at position {} can't be delivered", record.position);
            self.fail(code, &detail);
            One::Passed
        })
    }

    /// Is it of this tenant, on a topic that is wanted?
    fn matches(&mut self, who: &Identity, record: &Record, prefix: &[u8]) -> bool {
        let filter = self.wanted.filter.as_deref();
        self.spelling.look(record, prefix, |names| {
            let matches = |filter| id::matches(filter, names.topic);
            names.tenant == who.tenant && filter.is_none_or(matches)
        })
    }

    fn deliver(
        &mut self,
        worker: &Worker,
        who: &Identity,
        (record, tail, skip): (&Record, &[u8], u32),
        room: usize,
        sink: &mut Sink<'_>,
    ) -> Result<One, Code> {
        // What is said beside the names stands in the tail, which is no shorter.
        let header = FIXED_HEADER + self.spelling.bytes() + tail.len();
        let tail = Tail::parse(record.kind, tail, &record.payload).map_err(|_| Code::CORRUPT)?;
        let whole = tail.lengths.ok_or(Code::CORRUPT)?;
        let fits = how_many(whole, skip, who.frame_max.saturating_sub(header));
        if fits == 0 {
            return Err(Code::TOO_LARGE);
        }
        let all = skip == 0 && fits == whole.count();
        let bytes = if all {
            record.payload.len()
        } else {
            whole.iter().skip(place(skip)).take(place(fits)).sum()
        };
        let next = Next { events: fits, bytes, whole: header + bytes };
        if !self.has_credit(fits, bytes) {
            self.next = Some(next);
            return Ok(One::NoCredit);
        }
        if next.whole > room {
            self.next = Some(next);
            return Ok(One::NoRoom);
        }
        if all && self.join(record, &tail, room.min(who.frame_max).saturating_sub(header)) {
            return self.say_joined(worker, (record, &tail), header, sink);
        }
        if all {
            self.say(worker, (record, &tail, 0), whole, &record.payload, record.payload_crc, sink);
        } else {
            let mut spelled = [0; LENGTHS_BYTES];
            let part = part(whole, skip, fits, record, &mut spelled).ok_or(Code::CORRUPT)?;
            let (lengths, payload, payload_crc) = part;
            self.say(worker, (record, &tail, skip), lengths, &payload, payload_crc, sink);
        }
        self.account(worker, record.version.saturating_add(u64::from(skip)), fits, bytes);
        let left = skip + fits < record.positions;
        self.within = if left { skip + fits } else { 0 };
        Ok(if left { One::Part(header + bytes) } else { One::Delivered(header + bytes) })
    }

    /// Do lone events behind this one go with it? Their lengths may take as much as their count in varints.
    fn join(&mut self, record: &Record, tail: &Tail<'_>, room: usize) -> bool {
        if self.records.is_empty() {
            return false;
        }
        let (events, bytes) = self.open.left(self.wanted.window);
        let most = Most {
            events: u32::try_from(events).unwrap_or(u32::MAX),
            bytes: room
                .saturating_sub(LENGTHS_BYTES)
                .min(usize::try_from(bytes).unwrap_or(usize::MAX)),
            until: self.wanted.until.unwrap_or(u64::MAX),
        };
        self.joined.take(record, tail, &mut self.records, most)
    }

    fn say_joined(
        &mut self,
        worker: &Worker,
        (record, tail): (&Record, &Tail<'_>),
        header: usize,
        sink: &mut Sink<'_>,
    ) -> Result<One, Code> {
        let mut spelled = [0; LENGTHS_BYTES];
        let Joined { lengths, payload, payload_crc, .. } = &self.joined;
        let lengths = Lengths::encode(lengths.iter().copied(), &mut spelled);
        let lengths = lengths.map_err(|_| Code::INTERNAL)?;
        self.say(worker, (record, tail, 0), lengths, payload, *payload_crc, sink);
        let (events, bytes) = (lengths.count(), payload.len());
        self.account(worker, record.version, events, bytes);
        self.within = 0;
        Ok(One::Delivered(header + LENGTHS_BYTES.min(place(events) * 5) + bytes))
    }

    fn account(&mut self, worker: &Worker, version: u64, events: u32, bytes: usize) {
        if let Some(inbox) = &mut self.inbox {
            inbox.delivered(version, events);
        }
        self.spelling.delivered();
        self.open.push(events, bytes);
        worker.counters.delivered(events, bytes);
    }

    fn say(
        &self,
        worker: &Worker,
        (record, tail, skip): (&Record, &Tail<'_>, u32),
        lengths: Lengths<'_>,
        payload: &[u8],
        payload_crc: u32,
        sink: &mut Sink<'_>,
    ) {
        let (spelling, skipped) = (&self.spelling, u64::from(skip));
        let trace = Some(spelling.trace(tail.number, tail.extras.trace).nth(skip));
        let deliver = Deliver {
            subscription: self.wanted.id,
            key: spelling.key(),
            topic: spelling.topic(),
            kind: spelling.kind(),
            worker: Some(worker.config.name.as_str()).filter(|_| spelling.is_first()),
            attempt: 1,
            version: Version(record.version.saturating_add(skipped)),
            position: Position(record.position.get().saturating_add(skipped)),
            time: Millis(tail.time_ms),
            lengths,
            extras: Extras { trace, ..tail.extras },
            payload,
        };
        sink(&Message::Deliver(deliver), payload_crc);
    }
}

/// The most a DELIVER takes beside names, lengths, extras and payload; the worker's name is in it.
const FIXED_HEADER: usize = 128;
