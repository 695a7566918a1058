//! What must hold of a log whatever happened to its disk: acked ⊆ log ⊆ attempted, in order, positions never used twice.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use spile_log::{Append, Durable, GapKind, Log, Position, Record};

/// What was tried, promised and seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    next_id: u64,
    /// Every (position, id, positions) that an append was given.
    attempted: BTreeSet<(u64, u64, u32)>,
    /// Appended, not known to be stored: position, positions, id, generation.
    waiting: Vec<(u64, u32, u64, u64)>,
    /// Stored or read: what is at this position for ever.
    fixed: BTreeMap<u64, u64>,
    /// Positions that retention or rewriting took.
    removed: BTreeSet<u64>,
}

/// The payload of record `id`: its id, and filler that follows from it.
pub(crate) fn payload(id: u64, bytes: usize) -> Bytes {
    let mut out = id.to_le_bytes().to_vec();
    out.extend((0..bytes).map(|n| u8::try_from((n as u64 * 31 + id * 7) % 251).unwrap_or(0)));
    Bytes::from(out)
}

impl Oracle {
    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn appended(&mut self, first: Position, records: &[(u64, u32)], generation: u64) {
        let mut at = first.get();
        for (id, positions) in records {
            self.attempted.insert((at, *id, *positions));
            self.waiting.push((at, *positions, *id, generation));
            at += u64::from(*positions);
        }
    }

    /// The log said this: what it covers is promised, what was cut is void.
    pub(crate) fn heard(&mut self, durable: Durable) -> Result<(), String> {
        let end = durable.end.get();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|(at, positions, id, generation)| {
            let stored = at + u64::from(*positions) <= end;
            if stored {
                self.fixed.insert(*at, *id);
            }
            !stored && *generation == durable.generation.get_or(*generation)
        });
        self.waiting = waiting;
        Ok(())
    }

    /// The process ended: nothing that waited is promised.
    pub(crate) fn stopped(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn stored(&self) -> Vec<u64> {
        self.fixed.keys().copied().filter(|at| !self.removed.contains(at)).collect()
    }

    pub(crate) fn removed(&mut self, at: u64) {
        self.removed.insert(at);
    }

    /// A byte rotted: what nothing proves to have been synced may be taken for torn.
    pub(crate) fn not_proven(&mut self, from: u64) {
        self.fixed.retain(|at, _| *at < from);
    }

    /// Positions that were promised, and not removed, must be there.
    pub(crate) fn end(&self) -> u64 {
        self.fixed.last_key_value().map_or(1, |(at, _)| at + 1)
    }

    fn record(&self, record: &Record) -> Result<u64, String> {
        let at = record.position.get();
        let id = record.payload.first_chunk::<8>().map(|c| u64::from_le_bytes(*c));
        let Some(id) = id else { return Err(format!("record {at} has no id")) };
        if !self.attempted.contains(&(at, id, record.positions)) {
            return Err(format!("record {id} at {at} was never appended there"));
        }
        if crc32fast::hash(&record.payload) != record.payload_crc
            || record.head.as_ref() != id.to_be_bytes()
        {
            return Err(format!("record {id} at {at} is not what was appended"));
        }
        match self.fixed.get(&at) {
            Some(fixed) if *fixed != id => {
                Err(format!("position {at} had record {fixed} and has {id} now"))
            }
            Some(_) | None => Ok(id),
        }
    }

    /// Reads the whole log. `damaged` says which positions are known to be damaged.
    pub(crate) fn check(
        &mut self,
        log: &Log,
        max_bytes: usize,
        damaged: &dyn Fn(u64) -> bool,
    ) -> Result<(), String> {
        let mut reader = log.read(Position::FIRST);
        let mut found = BTreeMap::new();
        let mut at = 1;
        while let Some(block) = reader.next(max_bytes).map_err(|error| error.to_string())? {
            if let Some(gap) = block.gap() {
                for position in gap.range.start.get()..gap.range.end.get() {
                    let known = match gap.kind {
                        GapKind::Removed => {
                            !self.fixed.contains_key(&position) || self.removed.contains(&position)
                        }
                        GapKind::Damaged => damaged(position),
                    };
                    if !known {
                        return Err(format!("{position} is in a gap that nobody made: {gap:?}"));
                    }
                    if gap.kind == GapKind::Damaged {
                        found.insert(position, u64::MAX);
                    }
                }
                at = gap.range.end.get();
                continue;
            }
            for record in block.records() {
                if record.position.get() != at {
                    return Err(format!("{} follows {at}", record.position));
                }
                found.insert(at, self.record(&record)?);
                at = record.end().get();
            }
        }
        let end = log.durable().borrow().end.get();
        if at != end {
            return Err(format!("reading ended at {at}, the log says {end}"));
        }
        let lost =
            self.fixed.keys().find(|at| !found.contains_key(at) && !self.removed.contains(at));
        if let Some(at) = lost {
            return Err(format!("{at} was stored and is not there; the log goes to {end}"));
        }
        found.retain(|_, id| *id != u64::MAX);
        self.fixed.extend(found);
        Ok(())
    }
}

trait OrSame {
    fn get_or(self, other: u64) -> u64;
}

impl OrSame for u64 {
    /// A generation that is not newer leaves what waits under it alone.
    fn get_or(self, other: u64) -> u64 {
        if self > other { self } else { other }
    }
}

/// One record with this id.
pub(crate) fn record(id: u64, bytes: usize, positions: u32) -> Append {
    let payload = payload(id, bytes);
    Append {
        kind: 1,
        positions,
        time_ms: id,
        stream: 0,
        version: 0,
        prev: 0,
        head: Bytes::copy_from_slice(&id.to_be_bytes()),
        payload_crc: crc32fast::hash(&payload),
        payload,
    }
}
