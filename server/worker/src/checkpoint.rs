//! The tables as rows: what a checkpoint writes of them, how they are read back, and a canonical dump of all.
//!
//! Only what is durable becomes a row: what was appended beyond is taken back in the copy. The invariant: loading all rows
//! and applying the log from `applied` on gives the tables as they were.

use std::{collections::HashMap, sync::Arc};

use spile_protocol::{
    code::Code,
    id::{Number, Run, Version},
    message::Fields,
    varint,
};

use crate::{
    core::Core,
    groups,
    inbox::CursorRows,
    rebuild::Rebuilt,
    record::VoidTail,
    registry::Device,
    slab::Ix,
    tables::{Forgotten, Producer, RunEntry, Stream, Tables},
    uploads::{self, rows::Rows as FileRows},
    values::ValueRows,
};

/// What begins each kind of row.
pub(crate) mod row {
    pub(crate) const STREAM: u8 = b's';
    pub(crate) const RUN: u8 = b'r';
    pub(crate) const NUMBERS: u8 = b'n';
    pub(crate) const DEVICE: u8 = b'd';
    pub(crate) const CLOCK: u8 = b't';
    pub(crate) const VALUE: u8 = b'v';
    pub(crate) const CURSOR: u8 = b'i';
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// What a checkpoint changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Rows to be removed: every key that begins so.
    pub(crate) removed: Vec<Vec<u8>>,
    /// Rows to be written, over what is there; after the removals.
    pub(crate) rows: Vec<Row>,
    /// One past the last position that all rows together hold.
    pub(crate) applied: u64,
}

/// A row that is not one: the views are made anew from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the views is damaged")]
pub(crate) struct BadRow;

impl From<spile_protocol::message::DecodeError> for BadRow {
    fn from(_: spile_protocol::message::DecodeError) -> Self {
        Self
    }
}

impl From<Code> for BadRow {
    fn from(_: Code) -> Self {
        Self
    }
}

fn put(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; varint::MAX_BYTES];
    let used = varint::encode(value, &mut bytes).unwrap_or_default();
    out.extend_from_slice(bytes.get(..used).unwrap_or_default());
}

pub(crate) fn values(of: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(of.len() * 4);
    of.iter().for_each(|&value| put(&mut out, value));
    out
}

/// What of a stream is durable.
#[derive(Clone, Debug)]
struct StreamRow {
    name: Arc<str>,
    id: u64,
    version: u64,
    position: u64,
}

#[derive(Clone, Debug)]
struct RunRow {
    principal: Arc<str>,
    run: Run,
    idle_ms: u64,
}

#[derive(Clone, Debug)]
struct NumbersRow {
    run: Ix<RunEntry>,
    stream: Ix<Stream>,
    last: u64,
    voids: Vec<VoidTail>,
}

/// What is copied out of the core while it is locked; it becomes rows after.
#[derive(Debug)]
pub(crate) struct Copied {
    streams: HashMap<Ix<Stream>, StreamRow>,
    runs: HashMap<Ix<RunEntry>, RunRow>,
    numbers: HashMap<Ix<Producer>, NumbersRow>,
    /// The names that numbers stand under.
    under: HashMap<Ix<Producer>, (Arc<str>, Run, Arc<str>)>,
    forgotten: Vec<Forgotten>,
    devices: Vec<Device>,
    values: ValueRows,
    cursors: CursorRows,
    files: FileRows,
    groups: groups::Rows,
    time_ms: u64,
    applied: u64,
}

impl Copied {
    /// What changed since the last time, as far as it is durable.
    pub(crate) fn changed(core: &mut Core) -> Self {
        core.look();
        core.tables.sweep();
        let changed = std::mem::take(&mut core.tables.changed);
        let devices = core.registered.take_dirty();
        core.sweep_values();
        let files = core.uploads.rows_changed();
        let tables = &mut core.tables;
        let mut copied = Self::empty(changed.forgotten, devices);
        copied.values = core.values.changed_rows();
        copied.cursors = core.cursors.changed_rows();
        copied.files = files;
        copied.groups = core.groups.take_rows();
        let (gone, defined) = core.registered.take_group_rows();
        copied.groups.removed.extend(gone);
        copied.groups.rows.extend(defined);
        for ix in changed.streams {
            if let Some(stream) = tables.streams.get_mut(ix) {
                stream.dirty = false;
                copied.streams.insert(ix, stream_row(stream));
            }
        }
        for ix in changed.runs {
            if let Some(run) = tables.runs.get_mut(ix) {
                run.dirty = false;
                copied.runs.insert(ix, run_row(run));
            }
        }
        for (run, ix) in changed.producers {
            if let Some(producer) = tables.producers.get_mut(ix) {
                producer.dirty = false;
                copied.numbers.insert(ix, numbers_row(run, producer));
            }
        }
        copied.take_back(core);
        copied
    }

    /// All that is durable.
    pub(crate) fn all(core: &mut Core) -> Self {
        core.look();
        core.tables.sweep();
        core.sweep_values();
        let mut copied = Self::empty(Vec::new(), core.registered.iter().cloned().collect());
        copied.values = core.values.all_rows();
        copied.cursors = core.cursors.all_rows();
        copied.files = FileRows { rows: core.uploads.rows(), removed: Vec::new() };
        copied.groups = core.groups.all_rows();
        copied.groups.rows.extend(core.registered.group_rows());
        copied.copy_tables(&core.tables);
        copied.take_back(core);
        copied
    }

    /// All that was folded from records: they are durable. What expired by their time is left out.
    pub(crate) fn folded(rebuilt: &mut Rebuilt) -> Self {
        let Rebuilt { tables, registered, values, cursors, uploads, groups, .. } = rebuilt;
        tables.sweep();
        values.sweep(tables.time_ms);
        let mut copied = Self::empty(Vec::new(), registered.iter().cloned().collect());
        copied.values = values.all_rows();
        copied.cursors = cursors.all_rows();
        copied.files = FileRows { rows: uploads.rows(), removed: Vec::new() };
        copied.groups = groups.all_rows();
        copied.groups.rows.extend(registered.group_rows());
        copied.copy_tables(tables);
        copied.time_ms = tables.time_ms;
        copied.applied = rebuilt.applied;
        copied.name_numbers(tables);
        copied
    }

    fn copy_tables(&mut self, tables: &Tables) {
        self.streams = tables.streams.iter().map(|(ix, stream)| (ix, stream_row(stream))).collect();
        for (ix, run) in tables.runs.iter() {
            self.runs.insert(ix, run_row(run));
            for &producer in run.keys.values() {
                if let Some(entry) = tables.producers.get(producer) {
                    self.numbers.insert(producer, numbers_row(ix, entry));
                }
            }
        }
    }

    fn empty(forgotten: Vec<Forgotten>, devices: Vec<Device>) -> Self {
        Self {
            streams: HashMap::new(),
            runs: HashMap::new(),
            numbers: HashMap::new(),
            under: HashMap::new(),
            forgotten,
            devices,
            values: ValueRows::default(),
            cursors: CursorRows::default(),
            files: FileRows::default(),
            groups: groups::Rows::default(),
            time_ms: 0,
            applied: 0,
        }
    }

    /// Takes back, in the copy, what is not durable: the newest change first.
    fn take_back(&mut self, core: &Core) {
        let tables = &core.tables;
        self.time_ms = tables.time_ms;
        for before in core.before.iter().rev() {
            self.time_ms = before.time_ms;
            if let Some(stream) = self.streams.get_mut(&before.stream) {
                stream.id = before.id;
                (stream.version, stream.position) = (before.version, before.position);
            }
            let Some(lane) = &before.lane else { continue };
            if let Some(run) = self.runs.get_mut(&lane.run) {
                run.idle_ms = lane.idle_ms;
            }
            if let Some(numbers) = self.numbers.get_mut(&lane.producer) {
                numbers.last = lane.last;
                numbers.voids.retain(|void| void.number.0 <= lane.last);
            }
        }
        // Views without a way back hold what is durable, and the tables were taken back to the same.
        self.applied = core.settled;
        if let Some((at, time_ms)) = core.uploads.first_pending() {
            (self.applied, self.time_ms) = (self.applied.min(at), self.time_ms.min(time_ms));
        }
        self.name_numbers(tables);
    }

    /// Finds the names that numbers stand under; leaves those that stand under none.
    fn name_numbers(&mut self, tables: &Tables) {
        self.numbers.retain(|&ix, numbers| {
            let under = names_of(tables, numbers);
            let known = under.is_some();
            self.under.extend(under.map(|under| (ix, under)));
            known
        });
    }

    /// As rows, in the order of their keys.
    pub(crate) fn rows(self) -> Changes {
        let Self { streams, runs, numbers, under, forgotten, devices, time_ms, applied, .. } = self;
        let mut rows: Vec<Row> = Vec::with_capacity(streams.len() + runs.len() + numbers.len());
        for StreamRow { name, id, version, position } in streams.into_values() {
            if id != 0 {
                let key = key_of(row::STREAM, &[name.as_bytes()]);
                rows.push((key, values(&[id, version, position])));
            }
        }
        for RunRow { principal, run, idle_ms } in runs.into_values() {
            if idle_ms != 0 {
                rows.push((run_key(row::RUN, run, &principal), values(&[idle_ms])));
            }
        }
        for (ix, NumbersRow { last, voids, .. }) in numbers {
            if let Some((principal, run, key)) = under.get(&ix).filter(|_| last != 0) {
                let key =
                    key_of(row::NUMBERS, &[&run.0, principal.as_bytes(), b"\0", key.as_bytes()]);
                rows.push((key, numbers_value(last, &voids)));
            }
        }
        rows.extend(devices.iter().filter_map(device_row));
        rows.push((vec![row::CLOCK], values(&[time_ms])));
        rows.extend(self.values.rows(row::VALUE));
        rows.extend(self.cursors.rows(row::CURSOR));
        rows.extend(self.files.rows);
        rows.extend(self.groups.rows);
        rows.sort_unstable();
        let removed = forgotten.iter().flat_map(|Forgotten { principal, run }| {
            [row::RUN, row::NUMBERS].map(|kind| run_key(kind, *run, principal))
        });
        let removed = removed.chain(self.values.removed(row::VALUE));
        let removed = removed.chain(self.files.removed);
        let removed = removed.chain(self.groups.removed).collect();
        Changes { removed, rows, applied }
    }
}

fn stream_row(stream: &Stream) -> StreamRow {
    let Stream { id, version, position, .. } = *stream;
    StreamRow { name: stream.name.clone(), id, version, position }
}

fn run_row(entry: &RunEntry) -> RunRow {
    RunRow { principal: entry.principal.clone(), run: entry.run, idle_ms: entry.idle_ms }
}

fn numbers_row(run: Ix<RunEntry>, producer: &Producer) -> NumbersRow {
    let voids = producer.voids.iter().copied().collect();
    NumbersRow { run, stream: producer.stream, last: producer.last, voids }
}

fn names_of(tables: &Tables, numbers: &NumbersRow) -> Option<(Arc<str>, Run, Arc<str>)> {
    let run = tables.runs.get(numbers.run)?;
    let (_, key) = Tables::halves(&tables.streams.get(numbers.stream)?.name);
    Some((run.principal.clone(), run.run, key.into()))
}

fn key_of(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn run_key(kind: u8, run: Run, principal: &str) -> Vec<u8> {
    key_of(kind, &[&run.0, principal.as_bytes(), b"\0"])
}

fn numbers_value(last: u64, voids: &[VoidTail]) -> Vec<u8> {
    let mut value = values(&[last]);
    for void in voids {
        let VoidTail { number, count, code, version } = *void;
        let fields = [number.0, u64::from(count), u64::from(code.0), version.0];
        fields.iter().for_each(|&field| put(&mut value, field));
    }
    value
}

fn device_row(device: &Device) -> Option<Row> {
    let key = key_of(row::DEVICE, &[device.tenant.as_bytes(), b"\0", device.principal.as_bytes()]);
    Some((key, serde_json::to_vec(device).ok()?))
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, BadRow> {
    std::str::from_utf8(bytes).map_err(|_| BadRow)
}

impl Rebuilt {
    /// Puts one row back. Rows come in the order of their keys: streams last but for the clock, so that numbers find or
    /// make theirs.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRow> {
        let (&kind, name) = key.split_first().ok_or(BadRow)?;
        let mut fields = Fields::new(value);
        match kind {
            row::STREAM => self.load_stream(text(name)?, &mut fields),
            row::RUN => {
                let (run, principal) = name.split_first_chunk::<8>().ok_or(BadRow)?;
                let principal = text(principal)?.strip_suffix('\0').ok_or(BadRow)?;
                let ix = self.tables.run(principal, Run(*run))?;
                let idle_ms = fields.varint("idle")?;
                self.tables.runs.get_mut(ix).ok_or(BadRow)?.idle_ms = idle_ms;
                Ok(())
            }
            row::NUMBERS => self.load_numbers(name, &mut fields),
            row::DEVICE => {
                let device = serde_json::from_slice(value).map_err(|_| BadRow)?;
                self.registered.load(device);
                Ok(())
            }
            groups::row::GROUP | groups::row::MARK | groups::row::LETTER => {
                match groups::defined(kind, name, value)? {
                    Some((end, defined)) => self.registered.load_group(end, defined),
                    None => self.groups.load_row(kind, name, value)?,
                }
                Ok(())
            }
            row::CURSOR => self.cursors.load_row(name, value),
            row::VALUE => self.values.load_row(name, value),
            uploads::rows::UPLOAD | uploads::rows::BLOB => {
                if let Some(chunks) = self.uploads.load(key, value)? {
                    self.chunks = chunks;
                }
                Ok(())
            }
            row::CLOCK => {
                self.tables.time_ms = fields.varint("time")?;
                Ok(())
            }
            _ => Err(BadRow),
        }
    }

    fn load_stream(&mut self, name: &str, fields: &mut Fields<'_>) -> Result<(), BadRow> {
        let (tenant, key) = Tables::halves(name);
        let ix = self.tables.stream(tenant, key)?;
        let stream = self.tables.streams.get_mut(ix).ok_or(BadRow)?;
        stream.id = fields.varint("id")?;
        stream.version = fields.varint("version")?;
        stream.position = fields.varint("position")?;
        Ok(())
    }

    fn load_numbers(&mut self, name: &[u8], fields: &mut Fields<'_>) -> Result<(), BadRow> {
        let (run, name) = name.split_first_chunk::<8>().ok_or(BadRow)?;
        let name = text(name)?;
        let (principal, key) = name.rsplit_once('\0').ok_or(BadRow)?;
        let (tenant, _) = Tables::halves(principal);
        let at = self.tables.find(principal, Run(*run), tenant, key)?;
        let producer = self.tables.producers.get_mut(at.producer).ok_or(BadRow)?;
        producer.last = fields.varint("last")?;
        while !fields.is_empty() {
            let number = Number(fields.varint("number")?);
            let count = fields.varint32("count")?;
            let code = u16::try_from(fields.varint32("code")?).map_err(|_| BadRow)?;
            let version = Version(fields.varint("version")?);
            producer.refuse(VoidTail { number, count, code: Code(code), version });
        }
        Ok(())
    }
}

/// Rows as text, for who compares or reads them: the same tables give the same text.
pub(crate) fn dump(changes: &Changes) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (key, value) in &changes.rows {
        let key = key.escape_ascii();
        // Writing to a String can't fail.
        if writeln!(text, "{key} {}", value.escape_ascii()).is_err() {
            break;
        }
    }
    text
}
