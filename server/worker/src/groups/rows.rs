//! Groups as rows of a checkpoint, and back. record §9.5

use std::{collections::BTreeSet, sync::Arc};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use spile_protocol::message::Fields;

use crate::{
    checkpoint::{BadRow, Row},
    groups::{
        definition::{Defined, Definition},
        record::{GroupTail, Letter, Mark},
        view::{Dirty, Group, Groups, Name},
    },
};

/// What begins each kind of row.
pub(crate) mod row {
    /// A group, or its definition in the registry.
    pub(crate) const GROUP: u8 = b'g';
    /// How far a key is.
    pub(crate) const MARK: u8 = b'h';
    /// A dead letter.
    pub(crate) const LETTER: u8 = b'l';
    pub(super) const DEFINED: u8 = b'd';
    pub(super) const HEAD: u8 = b'v';
}

/// A group's head as a row.
#[derive(Serialize, Deserialize)]
struct Head {
    id: u64,
    epoch: u32,
    removed: bool,
    start: u64,
    floor: u64,
    passed: u64,
    settled: u64,
    dropped: u64,
    carried: u64,
    definition: Definition,
}

fn key(kind: &[u8], name: &Name, number: Option<u64>) -> Vec<u8> {
    let mut key = kind.to_vec();
    for part in [&name.0, &name.1] {
        key.extend_from_slice(part.as_bytes());
        key.push(0);
    }
    key.extend(number.into_iter().flat_map(u64::to_be_bytes));
    key
}

/// A definition in the registry, as a row.
pub(crate) fn defined_row(end: u64, defined: &Defined) -> Option<Row> {
    let name = (defined.tenant.clone(), defined.name.clone());
    Some((defined_key(&name), serde_json::to_vec(&(end, defined)).ok()?))
}

/// Its key.
pub(crate) fn defined_key(name: &Name) -> Vec<u8> {
    key(&[row::GROUP, row::DEFINED], name, None)
}

fn head_row(name: &Name, group: &Group) -> Option<Row> {
    let head = Head {
        id: group.id,
        epoch: group.epoch,
        removed: group.removed,
        start: group.start,
        floor: group.floor,
        passed: group.passed,
        settled: group.settled,
        dropped: group.dropped,
        carried: group.carried,
        definition: Definition::clone(&group.definition),
    };
    Some((key(&[row::GROUP, row::HEAD], name, None), serde_json::to_vec(&head).ok()?))
}

fn mark_row(name: &Name, stream: u64, mark: &Mark) -> Row {
    let mut value = BytesMut::new();
    mark.write(&mut value);
    (key(&[row::MARK], name, Some(stream)), value.to_vec())
}

fn letter_row(name: &Name, position: u64, letter: &Letter) -> Row {
    let mut value = BytesMut::new();
    letter.write(&mut value);
    (key(&[row::LETTER], name, Some(position)), value.to_vec())
}

/// Rows of groups: what is removed before what is written.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) removed: Vec<Vec<u8>>,
    pub(crate) rows: Vec<Row>,
}

impl Groups {
    /// All rows.
    pub(crate) fn all_rows(&self) -> Rows {
        let mut out = Rows::default();
        self.iter().for_each(|(name, group)| group.all_rows(name, &mut out));
        out
    }

    /// What changed since this was asked the last time.
    pub(crate) fn take_rows(&mut self) -> Rows {
        let mut out = Rows::default();
        for (name, group) in self.iter_mut() {
            let Dirty { head, whole, marks, letters } = std::mem::take(&mut group.dirty);
            if whole {
                out.removed.extend([row::MARK, row::LETTER].map(|kind| key(&[kind], name, None)));
                group.all_rows(name, &mut out);
                continue;
            }
            if head {
                out.rows.extend(head_row(name, group));
            }
            for stream in marks {
                match group.marks.get(&stream) {
                    Some(mark) => out.rows.push(mark_row(name, stream, mark)),
                    None => out.removed.push(key(&[row::MARK], name, Some(stream))),
                }
            }
            for position in letters {
                match group.letters.get(&position) {
                    Some(letter) => out.rows.push(letter_row(name, position, letter)),
                    None => out.removed.push(key(&[row::LETTER], name, Some(position))),
                }
            }
        }
        out
    }

    /// Puts a row back: a group's head, its marks, its letters. They come in this order.
    pub(crate) fn load_row(&mut self, kind: u8, name: &[u8], value: &[u8]) -> Result<(), BadRow> {
        if kind == row::GROUP {
            let (name, _) = split(name.strip_prefix(&[row::HEAD]).ok_or(BadRow)?)?;
            let head = serde_json::from_slice(value).map_err(|_| BadRow)?;
            self.load(name, loaded(head));
            return Ok(());
        }
        let (name, number) = split(name)?;
        let number = number.ok_or(BadRow)?;
        let group = self.loaded(&name).ok_or(BadRow)?;
        let mut fields = Fields::new(value);
        if kind == row::MARK {
            group.put_mark(number, Mark::read(&mut fields)?);
        } else {
            group.letters.insert(number, Letter::read(&mut fields)?);
        }
        Ok(())
    }
}

/// Is a row of `GROUP` a definition in the registry? Then this is it.
pub(crate) fn defined(
    kind: u8,
    name: &[u8],
    value: &[u8],
) -> Result<Option<(u64, Defined)>, BadRow> {
    match name.first() {
        Some(&row::DEFINED) if kind == row::GROUP => {
            Ok(Some(serde_json::from_slice(value).map_err(|_| BadRow)?))
        }
        Some(_) | None => Ok(None),
    }
}

/// Tenant and name, and the number behind them.
fn split(key: &[u8]) -> Result<(Name, Option<u64>), BadRow> {
    let mut parts = key.splitn(3, |&byte| byte == 0);
    let mut text = || {
        let part = parts.next().ok_or(BadRow)?;
        std::str::from_utf8(part).map(str::to_owned).map_err(|_| BadRow)
    };
    let name = (text()?, text()?);
    let number = parts.next().and_then(|rest| Some(u64::from_be_bytes(*rest.first_chunk()?)));
    Ok((name, number))
}

fn loaded(head: Head) -> Group {
    let Head { id, epoch, removed, start, floor, passed, settled, dropped, carried, definition } =
        head;
    let tail = GroupTail { time_ms: 0, id, epoch, removed, start };
    let mut group = Group::new(&tail, Arc::new(definition));
    (group.floor, group.passed, group.carried) = (floor, passed, carried);
    (group.settled, group.dropped, group.dirty) = (settled, dropped, Dirty::default());
    group
}

impl Group {
    fn all_rows(&self, name: &Name, out: &mut Rows) {
        out.rows.extend(head_row(name, self));
        let streams: BTreeSet<_> = self.marks.keys().copied().collect();
        let marks = streams.into_iter().filter_map(|it| Some((it, self.marks.get(&it)?)));
        out.rows.extend(marks.map(|(stream, mark)| mark_row(name, stream, mark)));
        let letters = self.letters.iter();
        out.rows.extend(letters.map(|(position, letter)| letter_row(name, *position, letter)));
    }
}
