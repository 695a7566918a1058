//! Where a group reads the log: forward from its floor, once; and one key's events through its stream's index, again, when
//! the key is free.
//!
//! The invariant: every event that matches before `position` was seen by the keys or is settled, and `count` is how many
//! there were from the group's start on.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use spile_log::{ReadError, Record};
use spile_protocol::id;

use crate::{
    groups::keys::{Keys, Seen},
    limits::{GROUP_PLACES, GROUP_READERS, READ_BYTES, READ_KEY_BYTES, SCAN_RECORDS},
    log::{EventLog, Read},
    record::{self, Names, kind},
    unread::Unread,
};

/// Which events are a group's.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    tenant: String,
    filter: String,
    /// The prefix that was looked at last, and whether it matches.
    seen: Bytes,
    matches: bool,
}

impl Matcher {
    pub(crate) fn new(tenant: &str, filter: &str) -> Self {
        let (tenant, filter) = (tenant.to_owned(), filter.to_owned());
        Self { tenant, filter, seen: Bytes::new(), matches: false }
    }

    /// Equal prefixes are equal names: they are looked at once.
    pub(crate) fn matches(&mut self, record: &Record) -> bool {
        if !matches!(record.kind, kind::EVENT | kind::BATCH) {
            return false;
        }
        let Ok((prefix, _)) = record::split(&record.head) else { return false };
        if *prefix != *self.seen {
            let of = |names: &Names<'_>| {
                names.tenant == self.tenant && id::matches(&self.filter, names.topic)
            };
            self.matches = Names::parse(prefix).as_ref().is_ok_and(of);
            self.seen = record.head.slice_ref(prefix);
        }
        self.matches
    }
}

/// What a step forward came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A key can go; its record is at hand.
    Ready,
    /// The log holds nothing more now.
    End,
    /// Others have their turn first.
    Looked,
}

/// One key's events, read ahead a little.
struct Reading {
    reader: Box<dyn Read>,
    /// The position up to which it reads.
    last: u64,
    /// Versions before were handed out.
    after: u64,
    records: Unread,
}

/// The place in the log.
#[derive(Default)]
pub(crate) struct Cursor {
    pub(crate) matcher: Matcher,
    reader: Option<Box<dyn Read>>,
    pub(crate) records: Unread,
    /// Everything before was looked at.
    pub(crate) position: u64,
    start: u64,
    pub(crate) at_end: u64,
    pub(crate) count: u64,
    /// Places where the floor may stand, and how many events matched before each.
    places: VecDeque<(u64, u64)>,
    /// Keys of which all before a position is settled, where that lies ahead.
    skip: HashMap<u64, u64>,
    skip_until: u64,
    /// The last record that made a key ready.
    pub(crate) hand: Option<Record>,
    readings: Vec<(u64, Reading)>,
}

impl Cursor {
    pub(crate) fn new(matcher: Matcher, (start, floor, passed): (u64, u64, u64)) -> Self {
        let places = VecDeque::from([(floor, passed)]);
        Self { matcher, position: floor, start, count: passed, places, ..Self::default() }
    }

    /// All of a key before this position is settled.
    pub(crate) fn skip(&mut self, stream: u64, at: u64) {
        if at > self.position {
            self.skip.insert(stream, at);
            self.skip_until = self.skip_until.max(at);
        }
    }

    /// Reads on until a key can go. Not called with a key ready: what is at hand is the newest.
    pub(crate) fn step(
        &mut self,
        log: &dyn EventLog,
        end: u64,
        keys: &mut Keys,
    ) -> Result<Step, ReadError> {
        self.hand = None;
        for _ in 0..SCAN_RECORDS {
            let Some(record) = self.records.pop_front() else {
                if end <= self.at_end || !self.refill(log, end)? {
                    return Ok(Step::End);
                }
                continue;
            };
            if self.look(&record, keys) == Seen::Ready {
                self.hand = Some(record);
                return Ok(Step::Ready);
            }
        }
        Ok(Step::Looked)
    }

    fn refill(&mut self, log: &dyn EventLog, end: u64) -> Result<bool, ReadError> {
        self.note_place();
        let reader = self.reader.get_or_insert_with(|| log.read(self.position));
        let more = reader.read_ahead(READ_BYTES, &mut self.records)?;
        if !more {
            self.at_end = end;
            // What lies before the end and was not read is not kept any more.
            self.position = self.position.max(end);
            self.note_place();
        }
        Ok(more)
    }

    /// The floor may stand where reading stands between two records.
    fn note_place(&mut self) {
        if self.places.back().is_none_or(|&(position, _)| position < self.position) {
            self.places.push_back((self.position, self.count));
        }
        // At the cap every second place is forgotten: the floor moves in larger steps.
        if self.places.len() > GROUP_PLACES {
            let mut keep = false;
            self.places.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Looks at a record, which is the next; counts what matches.
    pub(crate) fn look(&mut self, record: &Record, keys: &mut Keys) -> Seen {
        let (at, end) = (record.position.get(), record.end().get());
        let begin = self.position.max(self.start).max(at);
        self.position = self.position.max(end);
        if begin >= end || !self.matcher.matches(record) {
            return Seen::Known;
        }
        self.count += end - begin;
        let settled = self.settled(record.stream, at);
        let begin = begin.max(settled);
        if begin >= end {
            return Seen::Known;
        }
        let first = record.version.saturating_add(begin - at);
        let last = record.version.saturating_add(u64::from(record.positions)) - 1;
        keys.seen(record.stream, (first, last), at, begin)
    }

    fn settled(&mut self, stream: u64, at: u64) -> u64 {
        if at >= self.skip_until {
            self.skip.clear();
        }
        self.skip.get(&stream).copied().unwrap_or(0)
    }

    /// How far the floor may go, where the first unsettled event is at `first`; and how many matched before.
    pub(crate) fn floor(&mut self, first: Option<u64>) -> (u64, u64) {
        if self.records.is_empty() {
            self.note_place();
        }
        let limit = first.unwrap_or(u64::MAX).min(self.position);
        while self.places.get(1).is_some_and(|&(position, _)| position <= limit) {
            self.places.pop_front();
        }
        let place = self.places.front().copied().filter(|&(position, _)| position <= limit);
        place.unwrap_or((0, 0))
    }

    /// The record that holds a version of a key, and those behind it: at hand, or by the stream's index. `None`: up to
    /// `last_position` there is nothing from that version on that matches.
    pub(crate) fn find(
        &mut self,
        log: &dyn EventLog,
        stream: u64,
        version: u64,
        last_position: u64,
    ) -> Result<Option<Record>, ReadError> {
        if let Some(hand) = self.hand.as_ref().filter(|hand| hand.stream == stream)
            && hand.version <= version
            && end_version(hand) > version
        {
            return Ok(Some(hand.clone()));
        }
        loop {
            let (known, mut reading) = self.reading(log, stream, version, last_position);
            let found = reading.find(version, &mut self.matcher)?;
            let whole = !known || reading.last == last_position;
            if found.is_some() {
                // At the cap the one that was used longest ago is closed: it is opened again where it is needed.
                if self.readings.len() >= GROUP_READERS {
                    self.readings.remove(0);
                }
                self.readings.push((stream, reading));
            }
            if found.is_some() || whole {
                return Ok(found);
            }
        }
    }

    /// A reading that reaches the version: one that is open (then it is said), or another.
    fn reading(
        &mut self,
        log: &dyn EventLog,
        stream: u64,
        version: u64,
        last: u64,
    ) -> (bool, Reading) {
        if let Some(at) = self.readings.iter().position(|(of, _)| *of == stream) {
            let (_, reading) = self.readings.remove(at);
            if version >= reading.after {
                return (true, reading);
            }
        }
        let reader = log.read_stream(stream, last, version);
        (false, Reading { reader, last, after: version, records: Unread::default() })
    }

    /// A record that was found was not delivered, or not all of it.
    pub(crate) fn give_back(&mut self, record: Record) {
        if self.is_at_hand(&record) {
            return;
        }
        let of = record.stream;
        if let Some((_, reading)) = self.readings.iter_mut().find(|(stream, _)| *stream == of) {
            reading.after = record.version;
            reading.records.push_front(record);
        }
    }

    /// Is it the record at hand?
    fn is_at_hand(&self, record: &Record) -> bool {
        self.hand.as_ref().is_some_and(|hand| hand.position == record.position)
    }

    /// What was read behind a record that was found.
    pub(crate) fn behind(&mut self, record: &Record) -> &mut Unread {
        let at_hand = self.is_at_hand(record);
        match self.readings.iter_mut().find(|(of, _)| !at_hand && *of == record.stream) {
            Some((_, reading)) => &mut reading.records,
            None => &mut self.records,
        }
    }

    /// So many lone events went together, the first of them this one: those behind it were taken from what was read.
    pub(crate) fn joined(&mut self, record: &Record, events: u32, keys: &mut Keys) {
        let behind = u64::from(events).saturating_sub(1);
        let last = record.version.saturating_add(behind);
        if self.is_at_hand(record) {
            let position = record.position.get().saturating_add(behind);
            self.position = self.position.max(position + 1);
            self.count += behind;
            keys.change(record.stream, |key| {
                if last > key.last {
                    (key.last, key.last_position) = (last, position);
                }
            });
        } else if let Some((_, reading)) =
            self.readings.iter_mut().find(|(of, _)| *of == record.stream)
        {
            reading.after = last + 1;
        }
    }
}

fn end_version(record: &Record) -> u64 {
    record.version.saturating_add(u64::from(record.positions))
}

impl Reading {
    /// Takes the first record from `version` on that matches.
    fn find(&mut self, version: u64, matcher: &mut Matcher) -> Result<Option<Record>, ReadError> {
        loop {
            while let Some(front) = self.records.pop_front() {
                if end_version(&front) > version && matcher.matches(&front) {
                    self.after = end_version(&front);
                    return Ok(Some(front));
                }
            }
            if !self.reader.read_ahead(READ_KEY_BYTES, &mut self.records)? {
                return Ok(None);
            }
        }
    }
}
