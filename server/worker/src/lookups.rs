//! GET and LIST of state, and the versions of streams: what is answered at once, what waits, and values read from the log.
//!
//! The invariant: an answer is of what was durable when the question came, or later; nothing waits longer than it was asked
//! to, or than [`WAIT_MS`]. spec §9.1, §9.3

use std::{collections::VecDeque, pin::Pin, sync::Arc, task::Context, time::Duration};

use spile_log::Record;
use spile_protocol::{
    code::Code,
    id::{self, Position, RequestId, Version},
    limits::REQUESTS,
    message::{
        Body, Get, Message, Scope, Target, Value as Fields,
        request::{List, Listing},
    },
    time::Millis,
};
use tokio::time::{Sleep, sleep};

use crate::{
    answers::Sink,
    bell::Bell,
    block::part,
    core::Core,
    intake::Intake,
    limits::{LENGTHS_BYTES, PAGE_BYTES, PAGE_VALUES, TURN_VALUES, WAIT_MS},
    record::{self, Names, Tail, kind},
    said::Said,
    slab::Ix,
    tables::{Stream, scoped},
    trace::Search,
    values::{Value, key_and_topic, named},
    worker::Worker,
};

/// A question about one key.
struct Asked {
    request: RequestId,
    tenant: String,
    key: String,
    /// Of a kept value; `None`: the stream itself.
    topic: Option<String>,
    newer_than: Version,
    at_least: Version,
    now: Millis,
}

/// What there is to answer.
enum Answer {
    /// The view does not hold the version that was asked for.
    TooOld,
    /// Nothing, or nothing newer.
    Absent,
    Version(Version),
    /// And the time at which it was there: the question's, or later.
    Value(Value, u64),
}

/// A question that waits for the stream to move.
pub(crate) struct Waiting {
    asked: Asked,
    stream: Ix<Stream>,
    state: Following,
    deadline: Pin<Box<Sleep>>,
    late: bool,
}

/// How far a stream was looked at.
enum Following {
    Look,
    /// Its next record is durable when the log is, up to here.
    Coming(u64),
    /// The bell rings when there is a next one.
    Sleeping,
}

/// Values that are read and said, one after the other.
pub(crate) struct Telling {
    request: RequestId,
    values: VecDeque<(Arc<str>, Value)>,
    /// What is left of values that end counts from here.
    now_ms: u64,
    /// It is a page: values that the log lost are left out, and behind it there may be more.
    page: Option<Page>,
}

struct Page {
    /// There are more behind its values.
    more: bool,
    /// Payload bytes said.
    bytes: usize,
}

/// A look-up that is not answered.
pub(crate) enum Lookup {
    Waiting(Box<Waiting>),
    Telling(Telling),
    Trace(Box<Search>),
}

impl Asked {
    /// The answer, as far as the log is durable.
    fn answer(&self, core: &mut Core) -> Answer {
        let version = durable_version(core, &self.tenant, &self.key);
        if version < self.at_least {
            return Answer::TooOld;
        }
        let Some(topic) = &self.topic else {
            return if version > self.newer_than {
                Answer::Version(version)
            } else {
                Answer::Absent
            };
        };
        // A value that was stored while the question waited is younger than its asker's clock.
        let now_ms = self.now.0.max(core.tables.time_ms);
        let value = core.values.get(&named(&self.tenant, &self.key, topic), now_ms);
        value
            .filter(|value| value.version > self.newer_than.0)
            .map_or(Answer::Absent, |value| Answer::Value(value, now_ms))
    }

    /// Is this what it waits to get rid of? spec §9.1: for a version, else for something newer.
    fn waits(&self, answer: &Answer) -> bool {
        match answer {
            Answer::TooOld => true,
            Answer::Absent => self.newer_than.0 > 0 || self.at_least.0 == 0,
            Answer::Version(_) | Answer::Value(..) => false,
        }
    }
}

fn durable_version(core: &mut Core, tenant: &str, key: &str) -> Version {
    let known = core.tables.names.get(scoped(tenant, key).as_str()).copied();
    Version(known.and_then(|ix| core.see(ix)).map_or(0, |seen| seen.durable_version))
}

/// The answer as a message, or the value that is to be read for it.
fn decided(asked: &Asked, answer: &Answer) -> Result<Said, Telling> {
    let request = asked.request;
    let key = asked.key.clone();
    match answer {
        Answer::TooOld => Ok(Said::fault(
            Code::TIMED_OUT,
            Scope::Request(request),
            "the version that was asked for is not there yet",
        )),
        Answer::Absent => Ok(Said::Version { request, key, version: Version(0) }),
        Answer::Version(version) => Ok(Said::Version { request, key, version: *version }),
        Answer::Value(value, now_ms) => {
            let topic = asked.topic.as_deref().unwrap_or_default();
            let name = named(&asked.tenant, &asked.key, topic).into();
            let values = VecDeque::from([(name, *value)]);
            Err(Telling { request, values, now_ms: *now_ms, page: None })
        }
    }
}

impl Intake<'_> {
    pub(crate) fn look_up(&mut self, now: Millis, get: &Get<'_>) {
        let Get { request, target, newer_than, at_least, wait_ms } = *get;
        let (key, topic) = match target {
            Target::State { key, topic } => (key, Some(topic)),
            Target::Stream { key } => (key, None),
            Target::Blob { blob, offset, length } => {
                return self.get_blob(request, blob, offset, length);
            }
        };
        if id::key(key).is_err() || topic.is_some_and(|topic| id::topic(topic).is_err()) {
            return self.desk.refuse(0, request, Code::INVALID, "the key or the topic is not one");
        }
        if self.desk.lookups.len() >= REQUESTS {
            return self.desk.refuse(0, request, Code::BUSY, "too many requests wait");
        }
        let (tenant, key) = (self.desk.who.tenant.clone(), key.to_owned());
        let topic = topic.map(str::to_owned);
        let asked = Asked { request, tenant, key, topic, newer_than, at_least, now };
        if let (Some(asking), Some(topic)) = (&self.desk.asking, &asked.topic) {
            // Before it is looked at: what changes from here on is told.
            let name = named(&asked.tenant, &asked.key, topic);
            asking.ask(&name, self.core.values.coming());
        }
        let answer = asked.answer(&mut self.core);
        if wait_ms > 0 && asked.waits(&answer) {
            return self.wait(asked, wait_ms);
        }
        self.worker.counters.looked_up(!matches!(answer, Answer::TooOld | Answer::Absent));
        match decided(&asked, &answer) {
            Ok(said) => self.desk.said(0, said),
            Err(telling) => self.desk.lookups.push(Lookup::Telling(telling)),
        }
    }

    fn wait(&mut self, asked: Asked, wait_ms: u32) {
        let tables = &mut self.core.tables;
        let stream = match tables.stream(&asked.tenant, &asked.key) {
            Ok(stream) => stream,
            Err(code) => return self.desk.refuse(0, asked.request, code, "too many streams"),
        };
        tables.hold_stream(stream);
        if let Some(entry) = tables.streams.get_mut(stream) {
            entry.watchers.push(self.desk.bell.clone());
        }
        let deadline = Box::pin(sleep(Duration::from_millis(u64::from(wait_ms.min(WAIT_MS)))));
        let (state, late) = (Following::Look, false);
        let waiting = Waiting { asked, stream, state, deadline, late };
        self.desk.lookups.push(Lookup::Waiting(Box::new(waiting)));
    }

    pub(crate) fn list_values(&mut self, now: Millis, list: &List<'_>) {
        let List { request, listing, prefix, after, limit } = *list;
        match listing {
            Listing::State => {}
            Listing::Blobs | Listing::Uploads => return self.list_files(list),
            Listing::Services => return self.list_names(list),
        }
        if self.desk.lookups.len() >= REQUESTS {
            return self.desk.refuse(0, request, Code::BUSY, "too many requests wait");
        }
        self.core.look();
        // spec §9.3.2: a cursor need not be an entry's.
        let after = Some(after).filter(|after| !after.is_empty());
        let after = after.map(|after| after.split_once(SEPARATOR).unwrap_or((after, "")));
        let tenant = &self.desk.who.tenant;
        let limit = usize::try_from(limit).unwrap_or(PAGE_VALUES).clamp(1, PAGE_VALUES);
        let page = self.core.values.page(tenant, prefix, after, now.0);
        let mut values: VecDeque<_> =
            page.take(limit + 1).map(|(name, value)| (name.clone(), *value)).collect();
        let more = values.len() > limit;
        values.truncate(limit);
        if values.is_empty() {
            let nothing = Said::Version { request, key: String::new(), version: Version(0) };
            return self.desk.said(0, nothing);
        }
        let page = Some(Page { more, bytes: 0 });
        let now_ms = now.0;
        self.desk.lookups.push(Lookup::Telling(Telling { request, values, now_ms, page }));
    }
}

/// Between the fields of a cursor. spec §9.3.2
const SEPARATOR: char = '\u{1f}';

/// What became of a look-up in a turn.
enum Turn {
    Done,
    Waits,
    NoRoom,
}

impl Lookup {
    /// Is there anything a poll would do, when the log is durable up to `end`?
    pub(crate) fn ready(&self, end: u64) -> bool {
        match self {
            Self::Telling(_) | Self::Trace(_) => true,
            Self::Waiting(waiting) => match waiting.state {
                Following::Look => true,
                Following::Coming(gate) => waiting.late || end >= gate,
                Following::Sleeping => waiting.late,
            },
        }
    }

    pub(crate) fn waits_for_disk(&self) -> bool {
        match self {
            Self::Telling(_) | Self::Trace(_) => false,
            Self::Waiting(waiting) => matches!(waiting.state, Following::Coming(_)),
        }
    }

    /// The session's bell rang: there may be a next record of the stream.
    pub(crate) fn woken(&mut self) {
        if let Self::Waiting(waiting) = self
            && let state @ Following::Sleeping = &mut waiting.state
        {
            *state = Following::Look;
        }
    }

    /// The log was cut back: what was coming may not.
    pub(crate) fn cut(&mut self) {
        if let Self::Waiting(waiting) = self {
            waiting.state = Following::Look;
        }
    }

    /// Is its time over? Wakes the task when it is.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let waiting = match self {
            Self::Waiting(waiting) => waiting,
            Self::Trace(search) => return search.poll_late(cx),
            Self::Telling(_) => return false,
        };
        let now_late = !waiting.late && waiting.deadline.as_mut().poll(cx).is_ready();
        waiting.late |= now_late;
        now_late
    }

    /// The stream it holds.
    pub(crate) fn stream(&self) -> Option<Ix<Stream>> {
        match self {
            Self::Waiting(waiting) => Some(waiting.stream),
            Self::Telling(_) | Self::Trace(_) => None,
        }
    }

    /// Goes on: answers, reads and says what there is room for.
    fn turn(
        &mut self,
        worker: &Worker,
        bell: &Arc<Bell>,
        (end, room): (u64, usize),
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> Turn {
        if let Self::Waiting(waiting) = self {
            if !waiting.is_due(end) {
                return Turn::Waits;
            }
            let mut core = worker.core();
            let answer = waiting.asked.answer(&mut core);
            if !waiting.late && waiting.asked.waits(&answer) {
                waiting.look_again(&mut core);
                return Turn::Waits;
            }
            core.release_stream(waiting.stream, bell);
            drop(core);
            worker.counters.looked_up(!matches!(answer, Answer::TooOld | Answer::Absent));
            match decided(&waiting.asked, &answer) {
                Ok(answer) => {
                    *said += answer.size();
                    answer.say(sink);
                    return Turn::Done;
                }
                Err(telling) => *self = Self::Telling(telling),
            }
        }
        match self {
            Self::Telling(telling) => telling.turn(worker, room, said, sink),
            Self::Waiting(_) => Turn::Waits,
            Self::Trace(search) => {
                if search.turn(worker, said, sink) {
                    Turn::Done
                } else {
                    Turn::NoRoom
                }
            }
        }
    }
}

impl Waiting {
    const fn is_due(&self, end: u64) -> bool {
        match self.state {
            Following::Look => true,
            Following::Coming(gate) => self.late || end >= gate,
            Following::Sleeping => self.late,
        }
    }

    /// What it waits for next: the disk, where more was appended than is durable, else the bell.
    fn look_again(&mut self, core: &mut Core) {
        let seen = core.see(self.stream);
        let coming = seen.filter(|seen| seen.version > seen.durable_version);
        self.state = coming.map_or(Following::Sleeping, |seen| Following::Coming(seen.next));
    }
}

impl Telling {
    fn turn(
        &mut self,
        worker: &Worker,
        room: usize,
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> Turn {
        for _ in 0..TURN_VALUES {
            let Some((name, value)) = self.values.front_mut() else { return Turn::Done };
            let mut record = read(worker, name, *value);
            // A newer one took its place meanwhile, and retention its record.
            if record.is_err()
                && let Some(newer) = newer(worker, name, *value)
            {
                *value = newer;
                record = read(worker, name, newer);
            }
            let bytes = record.as_ref().map_or(0, |record| record.payload.len());
            if *said > 0 && bytes > room.saturating_sub(*said) {
                return Turn::NoRoom;
            }
            *said += bytes + HEADER;
            let told = record.and_then(|record| self.say(worker, &record, sink));
            if let Err(code) = told {
                let scope = Scope::Request(self.request);
                Said::fault(code, scope, "the value can't be read from the log").say(sink);
                return Turn::Done;
            }
            self.values.pop_front();
            if self.page.as_ref().is_none_or(|page| page.bytes > PAGE_BYTES) {
                return Turn::Done;
            }
        }
        if self.values.is_empty() { Turn::Done } else { Turn::NoRoom }
    }

    /// Says the front value, out of its record.
    fn say(&mut self, worker: &Worker, record: &Record, sink: &mut Sink<'_>) -> Result<(), Code> {
        let corrupt = |_| Code::CORRUPT;
        let (name, value) = self.values.front().ok_or(Code::INTERNAL)?;
        let (prefix, tail) = record::split(&record.head).map_err(corrupt)?;
        let names = Names::parse(prefix).map_err(corrupt)?;
        let tail = Tail::parse(record.kind, tail, &record.payload).map_err(corrupt)?;
        let within = value.position.saturating_sub(record.position.get());
        let within = u32::try_from(within).map_err(|_| Code::CORRUPT)?;
        let mut spelled = [0; LENGTHS_BYTES];
        let whole = tail.lengths.ok_or(Code::CORRUPT)?;
        let (_, payload, crc) =
            part(whole, within, 1, record, &mut spelled).ok_or(Code::CORRUPT)?;
        let (mut more, mut cursor) = (false, String::new());
        let (key, topic) = key_and_topic(name);
        if let Some(page) = &mut self.page {
            page.bytes += payload.len();
            let full = page.bytes > PAGE_BYTES;
            more = self.values.len() > 1 && !full;
            if !more && (page.more || self.values.len() > 1) {
                cursor = format!("{key}{SEPARATOR}{topic}");
            }
        }
        let fields = Fields {
            request: self.request,
            more,
            name: topic,
            key,
            version: Version(value.version),
            position: Some(Position(value.position)),
            time_ms: tail.time_ms,
            content_type: names.kind.content_type,
            worker: worker.name(),
            cursor: &cursor,
            principal: &format!("{}/{}", names.role.name(), names.principal),
            left_ms: value.left_ms(self.now_ms),
            ..Fields::default()
        };
        sink(&Message::Value(Body { fields, payload: &payload }), crc);
        Ok(())
    }
}

/// About the bytes of a VALUE beside its payload.
const HEADER: usize = 512;

/// The record that holds a value. It is durable.
fn read(worker: &Worker, name: &str, value: Value) -> Result<Record, Code> {
    let mut records = VecDeque::new();
    let read = worker.log.read(value.position).next(1, &mut records);
    let record = read.ok().and_then(|_| records.pop_front()).ok_or(Code::CORRUPT)?;
    let holds = |record: &Record| {
        let begin = record.position.get();
        let names =
            record::split(&record.head).ok().and_then(|(prefix, _)| Names::parse(prefix).ok());
        matches!(record.kind, kind::EVENT | kind::BATCH)
            && (begin..record.end().get()).contains(&value.position)
            && names.is_some_and(|names| named(names.tenant, names.key, names.topic) == name)
    };
    Some(record).filter(holds).ok_or(Code::CORRUPT)
}

/// The value of that name, where it is another by now.
fn newer(worker: &Worker, name: &str, than: Value) -> Option<Value> {
    let mut core = worker.core();
    core.look();
    let now_ms = core.tables.time_ms;
    core.values.get(name, now_ms).filter(|value| *value != than)
}

/// Goes on with all look-ups of a session: whether there is more for which there was no room.
pub(crate) fn poll(
    lookups: &mut Vec<Lookup>,
    worker: &Worker,
    bell: &Arc<Bell>,
    (end, room): (u64, usize),
    said: &mut usize,
    sink: &mut Sink<'_>,
) -> bool {
    let mut more = false;
    lookups.retain_mut(|lookup| match lookup.turn(worker, bell, (end, room), said, sink) {
        Turn::Done => false,
        Turn::Waits => true,
        Turn::NoRoom => {
            more = true;
            true
        }
    });
    more
}
