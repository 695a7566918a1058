//! Which rows the records of a range can change: those are loaded and folded, all others are copied as they are.
//!
//! The invariant: applying the range to the rows that [`Scope::holds`] gives what applying it to all rows gives of them, and
//! changes no other row but those that [`Scope::is_gone`].

use std::collections::{HashMap, HashSet};

use spile_log::Record;
use spile_protocol::{
    id,
    message::{DecodeError, Fields},
};

use crate::{
    checkpoint::row,
    groups::{self, record::Entry},
    limits::{RUN_IDLE_MS, VALUES},
    record::{self, Names, kind},
    registry::{Device, KEY, TENANT, TOPIC},
    tables::{principal, scoped},
    uploads::{self, form::Freed, form::Place},
    values::named,
};

/// What of a group's rows is needed.
#[derive(Debug, Default)]
struct OfGroup {
    /// Its definition changed: all.
    whole: bool,
    letters: HashSet<u64>,
}

/// The rows.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Topics that are kept.
    keep: Vec<String>,
    streams: HashSet<String>,
    principals: HashSet<String>,
    /// Run, principal and key, as in the row's key.
    numbers: HashSet<Vec<u8>>,
    values: HashSet<String>,
    /// All values are loaded.
    values_whole: bool,
    devices: HashSet<Vec<u8>>,
    cursors: HashSet<String>,
    groups: HashMap<Vec<u8>, OfGroup>,
    /// Blobs that were freed, by position, and names whose blobs changed.
    freed: HashSet<u64>,
    files: HashSet<Vec<u8>>,
    /// Runs that are no more, as in their rows' keys.
    expired: HashSet<Vec<u8>>,
    /// The time of the last record.
    pub(super) time_ms: u64,
    /// One past the last position that was looked at.
    pub(super) end: u64,
    /// The prefix that was looked at last: equal prefixes are equal names.
    seen: Vec<u8>,
}

impl Scope {
    pub(super) fn new(keep: &[String], from: u64) -> Self {
        Self { keep: keep.to_vec(), end: from, ..Self::default() }
    }

    /// How much memory it and what it loads takes, in rows.
    pub(super) fn len(&self) -> usize {
        let letters: usize = self.groups.values().map(|group| group.letters.len()).sum();
        self.streams.len() + self.numbers.len() + self.values.len() + self.cursors.len() + letters
    }

    /// Values are all loaded: other topics are kept now, or there are so many that it matters which.
    pub(super) fn want_all_values(&mut self) {
        self.values_whole = true;
    }

    /// Takes note of what a record changes.
    pub(super) fn note(&mut self, record: &Record) -> Result<(), DecodeError> {
        self.end = self.end.max(record.end().get());
        self.time_ms = self.time_ms.max(record.time_ms);
        if record.kind == 0 {
            return Ok(());
        }
        let (prefix, mut tail) = record::split(&record.head)?;
        match record.kind {
            kind::GROUP | kind::SETTLED => return self.note_group(record, &Names::parse(prefix)?),
            kind::CURSOR => {
                let names = Names::parse(prefix)?;
                self.cursors.insert(principal(names.tenant, names.role, names.principal));
                return Ok(());
            }
            kind::UPLOAD => return Ok(()),
            kind::FREED => {
                let freed = serde_json::from_slice::<Freed>(&record.payload);
                self.freed.extend(freed.ok().and_then(|freed| freed.blob));
                return Ok(());
            }
            kind::BLOB => {
                let names = Names::parse(prefix)?;
                Place::take(&mut tail)?;
                if let Some(name) = uploads::rows::sealed_name(names.tenant, &record.payload) {
                    self.files.insert(name);
                }
            }
            _ => {}
        }
        if *prefix == *self.seen {
            return Ok(());
        }
        self.seen = prefix.to_vec();
        self.note_names(record, &Names::parse(prefix)?);
        Ok(())
    }

    fn note_names(&mut self, record: &Record, names: &Names<'_>) {
        let Names { tenant, key, topic, run, .. } = *names;
        self.streams.insert(scoped(tenant, key));
        let who = principal(tenant, names.role, names.principal);
        self.numbers.insert([&run.0[..], who.as_bytes(), b"\0", key.as_bytes()].concat());
        self.principals.insert(who);
        if self.keep.iter().any(|filter| id::matches(filter, topic)) {
            self.values.insert(named(tenant, key, topic));
        }
        if (tenant, key, topic) == (TENANT, KEY, TOPIC) {
            // What it says is in the payload: each record is looked at.
            self.seen.clear();
            if let Ok(Device { tenant, principal, .. }) = serde_json::from_slice(&record.payload) {
                self.devices.insert([tenant.as_bytes(), b"\0", principal.as_bytes()].concat());
            }
        }
    }

    fn note_group(&mut self, record: &Record, names: &Names<'_>) -> Result<(), DecodeError> {
        let name = [names.tenant.as_bytes(), b"\0", names.key.as_bytes(), b"\0"].concat();
        let of = self.groups.entry(name).or_default();
        if record.kind == kind::GROUP {
            of.whole = true;
            return Ok(());
        }
        for entry in Entry::all(&record.payload)? {
            match entry {
                Entry::Key { .. } => {}
                Entry::Dead { position, .. }
                | Entry::Replay { position, .. }
                | Entry::Done { position }
                | Entry::Dropped { position } => {
                    of.letters.insert(position);
                }
            }
        }
        Ok(())
    }

    /// Looks at a row of the snapshot before: what of it can't be known from the records alone. `values` counts those seen.
    pub(super) fn survey(&mut self, key: &[u8], value: &[u8], values: &mut usize) {
        let Some((&kind, rest)) = key.split_first() else { return };
        match kind {
            uploads::rows::BLOB => {
                let freed = position(rest).is_some_and(|at| self.freed.contains(&at));
                if freed && let Some(name) = uploads::rows::blob_name(value) {
                    self.files.insert(name);
                }
            }
            row::RUN => {
                let idle_ms = Fields::new(value).varint("idle").unwrap_or_default();
                let idle = idle_ms != 0 && self.time_ms.saturating_sub(idle_ms) > RUN_IDLE_MS;
                if idle && !self.holds(key, value) {
                    self.expired.insert(rest.to_vec());
                }
            }
            row::VALUE if !rest.is_empty() => {
                *values += 1;
                self.values_whole |= values.saturating_add(self.values.len()) >= VALUES;
            }
            _ => {}
        }
    }

    /// Is the row loaded, and written anew?
    pub(super) fn holds(&self, key: &[u8], value: &[u8]) -> bool {
        let Some((&kind, rest)) = key.split_first() else { return true };
        let text = std::str::from_utf8(rest);
        match kind {
            row::STREAM => text.is_ok_and(|name| self.streams.contains(name)),
            row::RUN => run_of(rest).is_some_and(|(_, name)| self.principals.contains(name)),
            row::NUMBERS => self.numbers.contains(rest),
            row::DEVICE => self.devices.contains(rest),
            row::CURSOR => text.is_ok_and(|name| self.cursors.contains(name)),
            row::VALUE => {
                let named = |name: &str| self.values.contains(name.trim_end_matches('\0'));
                rest.is_empty() || self.values_whole || text.is_ok_and(named)
            }
            groups::row::MARK => self.group(rest).is_some(),
            groups::row::LETTER => self.group(rest).is_some_and(|(of, position)| {
                of.whole || position.is_some_and(|at| of.letters.contains(&at))
            }),
            uploads::rows::BLOB => self.holds_file(rest, value),
            // The clock, groups' heads and definitions, and uploads under way: they are few.
            _ => true,
        }
    }

    fn group(&self, rest: &[u8]) -> Option<(&OfGroup, Option<u64>)> {
        let (name, at) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        Some((self.groups.get(name)?, position(at)))
    }

    fn holds_file(&self, rest: &[u8], value: &[u8]) -> bool {
        if self.files.is_empty() {
            return false;
        }
        match rest.split_first() {
            Some((&uploads::rows::NAME, name)) => self.files.contains(name),
            Some(_) | None => {
                uploads::rows::blob_name(value).is_some_and(|name| self.files.contains(&name))
            }
        }
    }

    /// Is a row that is not held no more? `alive`: runs of the principals it holds, as they are after the fold.
    pub(super) fn is_gone(&self, key: &[u8], value: &[u8], alive: &HashSet<Vec<u8>>) -> bool {
        let Some((&kind, rest)) = key.split_first() else { return false };
        match kind {
            row::RUN => self.expired.contains(rest),
            row::NUMBERS => {
                let Some((run, name)) = run_of(rest) else { return false };
                let forgotten = self.principals.contains(name) && !alive.contains(run);
                forgotten || self.expired.contains(run)
            }
            row::VALUE => {
                let mut fields = Fields::new(value);
                let end = [0, 1, 2].map(|_| fields.varint("a value's end").unwrap_or(0))[2];
                end != 0 && end <= self.time_ms
            }
            _ => false,
        }
    }
}

/// Run and principal, as they stand in the keys of rows; and the principal alone.
fn run_of(rest: &[u8]) -> Option<(&[u8], &str)> {
    let behind = rest.iter().rposition(|&byte| byte == 0)?;
    let (run, _) = rest.split_at_checked(behind.checked_add(1)?)?;
    Some((run, std::str::from_utf8(run.get(8..behind)?).ok()?))
}

fn position(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
