//! A group's reading state: its members, its keys, its place in the log, and what its next record says.
//!
//! Volatile. It begins as the view says ([`Live::begin`]) and begins again whenever the view took another turn. The
//! invariant: what it did since then stands in records, in order; so where the log loses one, all of it begins again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use spile_log::{ReadError, Record};
use spile_protocol::code::Code;

use crate::{
    core::Core,
    groups::{
        backoff::Jitter,
        cursor::{Cursor, Matcher, Step},
        definition::Definition,
        handing::Going,
        keys::{At, Keys, Out, Replay},
        latest,
        record::{Entry, Mark, Retry, SettledTail, prefix},
        shared::Shared,
        view::{Group, Name},
    },
    limits::{GROUP_FLOOR_EVERY, GROUP_LAGGARDS, GROUP_LETTERS, GROUP_RECORD_BYTES},
    log::EventLog,
    record::kind,
    worker::Worker,
};

/// Which group, in which epoch.
#[derive(Debug)]
pub(crate) struct Of {
    pub(crate) name: Arc<Name>,
    pub(crate) id: u64,
    pub(crate) epoch: u32,
    pub(crate) definition: Arc<Definition>,
    /// A dead event holds its key.
    pub(crate) holds: bool,
    prefix: Vec<u8>,
}

/// Who takes part.
#[derive(Debug)]
pub(crate) struct Seat {
    /// `ROLE/NAME`.
    pub(crate) principal: String,
    /// Through which edge it came.
    pub(crate) edge: Arc<str>,
    /// Events it has.
    pub(crate) in_flight: u64,
    /// It would take more.
    pub(crate) hungry: bool,
}

/// Where a record was appended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stored {
    /// The end that must be durable.
    pub(crate) gate: u64,
    pub(crate) generation: u64,
}

/// The state.
#[derive(Default)]
pub(crate) struct Live {
    stamp: u64,
    pub(crate) of: Option<Of>,
    pub(crate) keys: Keys,
    pub(crate) cursor: Cursor,
    /// Events that match from the start up to where somebody counted for `show`, and up to where.
    pub(crate) counted: (u64, u64),
    pub(crate) members: BTreeMap<u64, Seat>,
    /// What the next SETTLED says.
    pub(crate) pending: Vec<Entry>,
    /// Keys whose settlement is in `pending`.
    pub(crate) touched: Vec<u64>,
    /// Dead letters, and marks of the view, as counted last.
    pub(crate) letters: usize,
    marks: usize,
    most_keys: usize,
    /// The floor as it was recorded last.
    floor: u64,
    pub(crate) jitter: Option<Jitter>,
    /// Events that were done, and that died, since the last record.
    pub(crate) tally: (u64, u64),
}

impl Live {
    /// Begins as the view says, where it took another turn since. Says whether there is such a group.
    pub(crate) fn follow(&mut self, worker: &Worker, name: &Name, shared: &Shared) -> bool {
        let stamp = shared.stamp();
        if stamp != self.stamp {
            self.stamp = stamp;
            self.begin(worker, name);
            self.hint(shared);
        }
        self.of.is_some()
    }

    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Would another member take something?
    pub(crate) fn others_hungry(&self, member: u64) -> bool {
        self.members.iter().any(|(&other, seat)| other != member && seat.hungry)
    }

    /// Reads on until a key can go: then true. `None`: there is nothing more now.
    pub(crate) fn read_on(&mut self, worker: &Worker, end: u64) -> Result<Option<bool>, ReadError> {
        if !self.has_room() {
            return Ok(None);
        }
        Ok(match self.cursor.step(&*worker.log, end, &mut self.keys)? {
            Step::Ready => Some(true),
            Step::Looked => Some(false),
            Step::End => None,
        })
    }

    /// What of a key that can go goes; `None` where it has nothing after all.
    pub(crate) fn next_of(
        &mut self,
        worker: &Worker,
        stream: u64,
    ) -> Result<Option<Going>, ReadError> {
        let Some(key) = self.keys.get(stream) else { return Ok(None) };
        if let Some(replay) = key.replay() {
            return self.next_replay(worker, stream, replay);
        }
        let (next, last_position, attempt) = (key.next, key.last_position, key.attempt);
        let Some(record) = self.cursor.find(&*worker.log, stream, next, last_position)? else {
            self.nothing_left(stream);
            return Ok(None);
        };
        let skip = u32::try_from(next.saturating_sub(record.version)).unwrap_or(u32::MAX);
        Ok(Some(Going { stream, record, skip, attempt, before: 0, replay: false }))
    }

    fn next_replay(
        &mut self,
        worker: &Worker,
        stream: u64,
        replay: Replay,
    ) -> Result<Option<Going>, ReadError> {
        let Replay { position, attempts: before, retry: Retry { attempt, .. }, .. } = replay;
        let Some(record) = record_at(&*worker.log, position)? else {
            // It is not kept any more: there is nothing to replay.
            self.drop_letter(position, stream);
            return Ok(None);
        };
        let skip = position.saturating_sub(record.position.get());
        let skip = u32::try_from(skip).unwrap_or(u32::MAX);
        Ok(Some(Going { stream, record, skip, attempt, before, replay: true }))
    }

    /// What was seen of a key is not the group's, or is not kept any more.
    fn nothing_left(&mut self, stream: u64) {
        self.keys.change(stream, |key| {
            key.next = key.last.saturating_add(1);
            (key.from, key.attempt) = (key.from.max(key.last_position + 1), 1);
        });
        self.note(stream, 0);
    }

    /// It can't be delivered, to anybody.
    pub(crate) fn dead_at_once(&mut self, stream: u64, going: &Going, now_ms: u64, reason: &str) {
        self.reject(stream, going.out((0, 0)), 1, now_ms, reason);
    }

    /// It was handed out.
    pub(crate) fn hand(&mut self, stream: u64, out: Out, now_ms: u64) {
        let within = self.of.as_ref().map_or(0, |of| of.definition.settle_within_ms);
        let deadline_ms = now_ms.saturating_add(within);
        self.keys.change(stream, |key| {
            if !out.replay {
                (key.next, key.from) = (out.version, key.from.max(out.position));
            }
            key.at = At::Out(Out { deadline_ms, ..out });
        });
    }

    pub(crate) fn joined(&mut self, record: &Record, events: u32) {
        self.cursor.joined(record, events, &mut self.keys);
    }

    /// Writes what happened since the last record, if anything did. Where that is refused, or the view took another turn
    /// meanwhile, all begins again.
    pub(crate) fn record(
        &mut self,
        worker: &Worker,
        shared: &Shared,
        now_ms: u64,
    ) -> Result<Option<Stored>, Code> {
        let behind = self.cursor.position.saturating_sub(self.floor);
        if self.pending.is_empty() && behind < GROUP_FLOOR_EVERY {
            return Ok(None);
        }
        let mut core = worker.core();
        core.look();
        let other = shared.stamp() != self.stamp || shared.is_changing();
        let stored =
            if other { Err(Code::UNKNOWN_OUTCOME) } else { self.commit(&mut core, now_ms) };
        drop(core);
        let (settled, died) = std::mem::take(&mut self.tally);
        match stored {
            Ok(_) => {
                worker.counters.settled.add(settled);
                worker.counters.died.add(died);
            }
            Err(_) => shared.again(),
        }
        stored
    }

    fn begin(&mut self, worker: &Worker, name: &Name) {
        let members = std::mem::take(&mut self.members);
        let jitter = self.jitter.take();
        let mut core = worker.core();
        core.look();
        let most_keys = worker.config.group_keys;
        *self = Self { stamp: self.stamp, members, jitter, most_keys, ..Self::default() };
        self.members.values_mut().for_each(|seat| seat.in_flight = 0);
        let Some((name, group)) = core.groups.find(&name.0, &name.1) else { return };
        let (name, tenant) = (name.clone(), &name.0);
        let definition = group.definition.clone();
        let matcher = Matcher::new(tenant, &definition.filter);
        self.cursor = Cursor::new(matcher, (group.start, group.floor, group.passed));
        let prefix = prefix(tenant, &name.1);
        let (id, epoch, holds) = (group.id, group.epoch, group.holds());
        self.of = Some(Of { name, id, epoch, definition, holds, prefix });
        (self.floor, self.letters, self.marks) =
            (group.floor, group.letters.len(), group.marks.len());
        let open = self.marks_of(group);
        drop(core);
        let last = latest::of(worker, open.iter().map(|(stream, _)| *stream));
        for (stream, mark) in open {
            self.reopen(stream, mark, last.get(&stream).copied().unwrap_or((0, 0)));
        }
    }

    /// Puts marks and letters back; gives back the keys that may have something below the floor.
    fn marks_of(&mut self, group: &Group) -> Vec<(u64, Mark)> {
        let mut open = Vec::new();
        for (&stream, mark) in &group.marks {
            if mark.open {
                open.push((stream, *mark));
            } else {
                self.cursor.skip(stream, mark.at);
            }
        }
        let holds = group.holds();
        for (&position, letter) in &group.letters {
            if !holds && letter.replay.is_none() {
                continue;
            }
            let replay = letter.replay.map(|retry| {
                let due = false;
                let (version, attempts) = (letter.version, letter.attempts);
                Replay { position, version, attempts, retry, due }
            });
            self.keys.change(letter.stream, |key| {
                key.held += u32::from(holds);
                key.replays.extend(replay);
            });
        }
        open.sort_unstable_by_key(|&(stream, mark)| (mark.at, stream));
        open
    }

    fn reopen(&mut self, stream: u64, mark: Mark, (last, last_position): (u64, u64)) {
        self.keys.change(stream, |key| {
            (key.next, key.from, key.open) = (mark.version, mark.at, true);
            (key.last, key.last_position) = (last, last_position);
            if let Some(Retry { attempt, due_ms }) = mark.retry {
                (key.attempt, key.retry_ms) = (attempt, Some(due_ms));
            }
        });
    }

    /// Events that match from the start on, as far as the log was looked at.
    pub(crate) fn produced(&self) -> u64 {
        let (events, to) = self.counted;
        if to > self.cursor.position { events } else { self.cursor.count }
    }

    /// Up to where `produced` counts.
    pub(crate) fn counted_to(&self) -> u64 {
        self.counted.1.max(self.cursor.position)
    }

    /// Somebody counted so many up to `to`, and is further than others were meanwhile.
    pub(crate) fn note_counted(&mut self, stamp: u64, events: u64, to: u64) {
        if stamp == self.stamp && to > self.counted_to() {
            self.counted = (events, to);
        }
    }

    /// Does something of the key come before a replay?
    pub(crate) fn is_busy(&self, stream: u64) -> bool {
        self.keys.get(stream).is_some_and(|key| key.at != At::Free)
    }

    /// May it look at further keys?
    pub(crate) fn has_room(&self) -> bool {
        self.keys.len() < self.most_keys && self.letters < GROUP_LETTERS
    }

    /// Says what waiting members look at.
    pub(crate) fn hint(&self, shared: &Shared) {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        // Without room the log is as good as read to its end, until a key is done.
        let at_end = if self.has_room() { self.cursor.at_end } else { u64::MAX };
        let more = usize::from(self.has_room() && !self.cursor.records.is_empty());
        shared.at_end.store(at_end, Ordering::Release);
        shared.ready.store(wide(self.keys.ready() + more), Ordering::Release);
        shared.gate.store(self.keys.gate(), Ordering::Release);
        shared.due.store(self.keys.due(), Ordering::Release);
        shared.in_flight.store(self.keys.in_flight(), Ordering::Release);
        shared.produced.store(self.produced(), Ordering::Release);
        shared.counted_to.store(self.counted_to().max(self.cursor.at_end), Ordering::Release);
        shared.counted_stamp.store(self.stamp, Ordering::Release);
    }

    /// A key changed for good: the next record says how far it is.
    pub(crate) fn note(&mut self, stream: u64, events: u32) {
        let seen = self.cursor.position;
        let mark = self.keys.change(stream, |key| {
            // A key that waits or is held does not hold the floor; one with nothing left needs no mark for long.
            key.open = key.retry_ms.is_some() || key.held > 0 || (key.open && key.outstanding());
            key.mark(seen)
        });
        if !mark.open && mark.at > seen {
            self.cursor.skip(stream, mark.at);
        }
        self.tally.0 += u64::from(events);
        self.pending.push(Entry::Key { stream, mark, events });
    }

    /// What rests on the record must not be told before it is durable.
    fn commit(&mut self, core: &mut Core, now_ms: u64) -> Result<Option<Stored>, Code> {
        let Some(of) = &self.of else { return Ok(None) };
        self.marks = core.groups.get(&of.name).map_or(0, |group| group.marks.len());
        if self.marks > self.most_keys / 2 {
            self.pass_laggards();
        }
        let (floor, passed) = self.cursor.floor(self.keys.first());
        let moved = floor.saturating_sub(self.floor);
        if self.pending.is_empty() && moved < GROUP_FLOOR_EVERY {
            return Ok(None);
        }
        let floor = floor.max(self.floor);
        let tail = SettledTail { time_ms: now_ms, id: 0, epoch: 0, floor, passed };
        let end = self.write(core, tail)?;
        self.floor = floor;
        for stream in std::mem::take(&mut self.touched) {
            self.keys.settling(stream, end);
        }
        Ok(Some(Stored { gate: end, generation: core.generation }))
    }

    /// Keys that are far behind get a mark, so that the floor goes on without them: else every other key would need one.
    fn pass_laggards(&mut self) {
        for stream in self.keys.laggards(GROUP_LAGGARDS) {
            let seen = self.cursor.position;
            let mark = self.keys.change(stream, |key| {
                key.open = true;
                key.mark(seen)
            });
            self.pending.push(Entry::Key { stream, mark, events: 0 });
        }
    }

    fn write(&mut self, core: &mut Core, tail: SettledTail) -> Result<u64, Code> {
        let Some(of) = &self.of else { return Err(Code::NOT_FOUND) };
        let tail = SettledTail { id: of.id, epoch: of.epoch, ..tail };
        let mut entries = std::mem::take(&mut self.pending);
        core.look();
        core.begin();
        let mut written = Vec::new();
        loop {
            let (payload, rest) = payload_of(&mut entries);
            let mut head = BytesMut::from(&*of.prefix);
            // All but the last leave the floor where it is: their entries come before it moves.
            let floor = if rest.is_empty() { tail.floor } else { self.floor };
            let part = SettledTail { floor, ..tail };
            part.write(&mut head);
            core.put_bare(kind::SETTLED, head.freeze(), payload);
            written.push((core.next, part, std::mem::replace(&mut entries, rest)));
            if entries.is_empty() {
                break;
            }
        }
        let end = core.next;
        // There is room in reserve: what is settled frees keys when the disk is full.
        core.commit(true).map_err(|refusal| refusal.code)?;
        for (end, part, entries) in written {
            core.groups.put_settled(end, of.name.clone(), part, entries);
        }
        Ok(end)
    }
}

/// As many of the entries as one record takes, as bytes; the rest is given back.
fn payload_of(entries: &mut Vec<Entry>) -> (Bytes, Vec<Entry>) {
    let mut payload = BytesMut::new();
    let fits = entries.iter().take_while(|entry| {
        let more = payload.len() < GROUP_RECORD_BYTES;
        if more {
            entry.write(&mut payload);
        }
        more
    });
    let fits = fits.count();
    let rest = entries.split_off(fits);
    (payload.freeze(), rest)
}

/// The record that holds a position.
pub(crate) fn record_at(log: &dyn EventLog, position: u64) -> Result<Option<Record>, ReadError> {
    let mut records = VecDeque::new();
    log.read(position).next(1, &mut records)?;
    let holds =
        |record: &Record| record.position.get() <= position && position < record.end().get();
    Ok(records.pop_front().filter(holds))
}
