//! GROUP and SETTLED as bytes. record §9 draws the same.
//!
//! A head is names and a tail as of every record: tenant, and the group's name in the place of the key. Decoding is total.

use bytes::{BufMut, BytesMut};
use spile_protocol::{
    id::{Role, Run},
    message::{DecodeError, Fields, deliver::Kind},
    varint,
};

use crate::record::Names;

/// The prefix of a group's records. record §9
pub(crate) fn prefix(tenant: &str, name: &str) -> Vec<u8> {
    let (role, run, trace_base) = (Role::Operator, Run([0; 8]), [0; 8]);
    let kind = Kind::default();
    Names { role, run, trace_base, tenant, principal: "", key: name, topic: "", kind }.prefix()
}

fn put(out: &mut BytesMut, value: u64) {
    let mut bytes = [0; varint::MAX_BYTES];
    if let Some(encoded) = varint::encode(value, &mut bytes).and_then(|used| bytes.get(..used)) {
        out.put_slice(encoded);
    }
}

/// The tail of a GROUP; the definition is its payload. record §9.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupTail {
    pub(crate) time_ms: u64,
    pub(crate) id: u64,
    pub(crate) epoch: u32,
    pub(crate) removed: bool,
    /// The first position it delivers on this worker.
    pub(crate) start: u64,
}

impl GroupTail {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        let Self { time_ms, id, epoch, removed, start } = *self;
        [time_ms, id, u64::from(epoch), u64::from(removed), start]
            .iter()
            .for_each(|&value| put(out, value));
    }

    pub(crate) fn read(tail: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(tail);
        let time_ms = fields.varint("a GROUP's time")?;
        let id = fields.varint("a GROUP's id")?;
        let epoch = fields.varint32("a GROUP's epoch")?;
        let removed = flag(fields.varint("a GROUP's removed")?)?;
        let start = fields.varint("a GROUP's start")?;
        end(&fields)?;
        Ok(Self { time_ms, id, epoch, removed, start })
    }
}

fn end(fields: &Fields<'_>) -> Result<(), DecodeError> {
    if fields.is_empty() { Ok(()) } else { Err(DecodeError::malformed("a record's end")) }
}

fn flag(value: u64) -> Result<bool, DecodeError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::malformed("a record's flag")),
    }
}

/// The tail of a SETTLED; its entries are its payload. record §9.2
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettledTail {
    pub(crate) time_ms: u64,
    pub(crate) id: u64,
    pub(crate) epoch: u32,
    /// Everything that matches below is settled, but for keys whose entry says otherwise.
    pub(crate) floor: u64,
    /// How many events that match lie below.
    pub(crate) passed: u64,
}

impl SettledTail {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        let Self { time_ms, id, epoch, floor, passed } = *self;
        [time_ms, id, u64::from(epoch), floor, passed].iter().for_each(|&value| put(out, value));
    }

    pub(crate) fn read(tail: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(tail);
        let time_ms = fields.varint("a SETTLED's time")?;
        let id = fields.varint("a SETTLED's id")?;
        let epoch = fields.varint32("a SETTLED's epoch")?;
        let floor = fields.varint("a SETTLED's floor")?;
        let passed = fields.varint("a SETTLED's count")?;
        end(&fields)?;
        Ok(Self { time_ms, id, epoch, floor, passed })
    }
}

/// A retry that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Which attempt it will be.
    pub(crate) attempt: u32,
    /// Not before: milliseconds since 1970.
    pub(crate) due_ms: u64,
}

/// How far one key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The first version that may be unsettled.
    pub(crate) version: u64,
    /// All its events that match before this position are settled.
    pub(crate) at: u64,
    /// It may have unsettled events below the floor.
    pub(crate) open: bool,
    pub(crate) retry: Option<Retry>,
}

/// An event that is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) stream: u64,
    pub(crate) version: u64,
    pub(crate) attempts: u32,
    pub(crate) time_ms: u64,
    pub(crate) reason: String,
    /// It goes out again, on its own.
    pub(crate) replay: Option<Retry>,
}

/// One change of a group. record §9.3
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// How far a key is, and how many of its events were done since its last entry.
    Key { stream: u64, mark: Mark, events: u32 },
    /// The event at a position is dead, again or for the first time.
    Dead { position: u64, letter: Letter },
    /// The dead letter at a position goes out again.
    Replay { position: u64, replay: Retry },
    /// The dead letter at a position was done.
    Done { position: u64 },
    /// The dead letter at a position was dropped.
    Dropped { position: u64 },
}

mod tag {
    pub(super) const KEY: u64 = 1;
    pub(super) const DEAD: u64 = 2;
    pub(super) const REPLAY: u64 = 3;
    pub(super) const DONE: u64 = 4;
    pub(super) const DROPPED: u64 = 5;
}

impl Mark {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        let Self { version, at, open, retry } = *self;
        let Retry { attempt, due_ms } = retry.unwrap_or(Retry { attempt: 0, due_ms: 0 });
        [version, at, u64::from(open), u64::from(attempt), due_ms]
            .iter()
            .for_each(|&value| put(out, value));
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let version = fields.varint("a mark's version")?;
        let at = fields.varint("a mark's position")?;
        let open = flag(fields.varint("a mark's flag")?)?;
        Ok(Self { version, at, open, retry: retry(fields)? })
    }
}

fn retry(fields: &mut Fields<'_>) -> Result<Option<Retry>, DecodeError> {
    let attempt = fields.varint32("a retry's attempt")?;
    let due_ms = fields.varint("a retry's time")?;
    Ok((attempt != 0).then_some(Retry { attempt, due_ms }))
}

impl Letter {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        let Self { stream, version, attempts, time_ms, reason, replay } = self;
        let Retry { attempt, due_ms } = replay.unwrap_or(Retry { attempt: 0, due_ms: 0 });
        let length = u64::try_from(reason.len()).unwrap_or_default();
        [*stream, *version, u64::from(*attempts), *time_ms, u64::from(attempt), due_ms, length]
            .iter()
            .for_each(|&value| put(out, value));
        out.put_slice(reason.as_bytes());
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let stream = fields.varint("a letter's stream")?;
        let version = fields.varint("a letter's version")?;
        let attempts = fields.varint32("a letter's attempts")?;
        let time_ms = fields.varint("a letter's time")?;
        let replay = retry(fields)?;
        let reason = fields.text("a letter's reason", usize::MAX)?.to_owned();
        Ok(Self { stream, version, attempts, time_ms, reason, replay })
    }
}

impl Entry {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Key { stream, mark, events } => {
                [tag::KEY, *stream, u64::from(*events)].iter().for_each(|&value| put(out, value));
                mark.write(out);
            }
            Self::Dead { position, letter } => {
                [tag::DEAD, *position].iter().for_each(|&value| put(out, value));
                letter.write(out);
            }
            Self::Replay { position, replay } => {
                [tag::REPLAY, *position, u64::from(replay.attempt), replay.due_ms]
                    .iter()
                    .for_each(|&value| put(out, value));
            }
            Self::Done { position } => {
                [tag::DONE, *position].iter().for_each(|&value| put(out, value));
            }
            Self::Dropped { position } => {
                [tag::DROPPED, *position].iter().for_each(|&value| put(out, value));
            }
        }
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let tag = fields.varint("an entry's tag")?;
        match tag {
            tag::KEY => {
                let stream = fields.varint("an entry's stream")?;
                let events = fields.varint32("an entry's events")?;
                Ok(Self::Key { stream, mark: Mark::read(fields)?, events })
            }
            tag::DEAD => {
                let position = fields.varint("an entry's position")?;
                Ok(Self::Dead { position, letter: Letter::read(fields)? })
            }
            tag::REPLAY => {
                let position = fields.varint("an entry's position")?;
                let replay = retry(fields)?;
                let replay = replay.ok_or(DecodeError::malformed("an entry's replay"))?;
                Ok(Self::Replay { position, replay })
            }
            tag::DONE => Ok(Self::Done { position: fields.varint("an entry's position")? }),
            tag::DROPPED => Ok(Self::Dropped { position: fields.varint("an entry's position")? }),
            _ => Err(DecodeError::malformed("an entry's tag")),
        }
    }

    /// All entries of a SETTLED.
    pub(crate) fn all(payload: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let mut fields = Fields::new(payload);
        let mut entries = Vec::new();
        while !fields.is_empty() {
            entries.push(Self::read(&mut fields)?);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        let replay = Some(Retry { attempt: 1, due_ms: 9 });
        Letter { stream: 3, version: 4, attempts: 5, time_ms: 6, reason: "exit 1".into(), replay }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut out = BytesMut::new();
        let group = GroupTail { time_ms: 1, id: 2, epoch: 3, removed: true, start: 400 };
        group.write(&mut out);
        assert_eq!(GroupTail::read(&out).unwrap(), group);
        for cut in 0..out.len() {
            assert!(GroupTail::read(&out[..cut]).is_err(), "cut at {cut}");
        }
        out.clear();
        let settled = SettledTail { time_ms: 1, id: 2, epoch: 3, floor: 400, passed: 5 };
        settled.write(&mut out);
        assert_eq!(SettledTail::read(&out).unwrap(), settled);
        out.put_u8(0);
        assert!(SettledTail::read(&out).is_err(), "bytes behind the last field");
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let retry = Some(Retry { attempt: 2, due_ms: 77 });
        let entries = [
            Entry::Key {
                stream: 1,
                mark: Mark { version: 2, at: 300, open: true, retry },
                events: 4,
            },
            Entry::Key {
                stream: 1,
                mark: Mark { version: 2, at: 3, open: false, retry: None },
                events: 0,
            },
            Entry::Dead { position: 7, letter: letter() },
            Entry::Dead {
                position: 7,
                letter: Letter { replay: None, reason: String::new(), ..letter() },
            },
            Entry::Replay { position: 7, replay: Retry { attempt: 1, due_ms: 0 } },
            Entry::Done { position: 8 },
            Entry::Dropped { position: 9 },
        ];
        let mut out = BytesMut::new();
        let mut ends = vec![0];
        for entry in &entries {
            entry.write(&mut out);
            ends.push(out.len());
        }
        assert_eq!(Entry::all(&out).unwrap(), entries);
        for cut in (0..out.len()).filter(|cut| !ends.contains(cut)) {
            assert!(Entry::all(&out[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Entry::all(&[9]).is_err(), "a tag that is none");
    }
}
