//! From the log to the tables: every record that a view rests on, applied once, in order.
//!
//! The invariant: applying the log's records from any checkpoint on gives the tables that taking the events gave.

use std::collections::VecDeque;

use spile_log::{ReadError, Record};
use spile_protocol::code::Code;

use crate::{
    groups::{definition, view::Groups},
    inbox::{self, Cursors},
    limits::READ_BYTES,
    log::{ChunkLog, EventLog},
    record::{self, Names, Tail, kind},
    registry::{Device, KEY, Registered, TENANT, TOPIC},
    tables::{Tables, principal},
    uploads::Uploads,
    values::Values,
    views::{Views, ViewsError},
};

/// The tables and what is registered, up to a position.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    pub(crate) tables: Tables,
    pub(crate) registered: Registered,
    pub(crate) values: Values,
    pub(crate) cursors: Cursors,
    pub(crate) uploads: Uploads,
    /// One past the last position of the chunk log that was applied.
    pub(crate) chunks: u64,
    pub(crate) groups: Groups,
    /// One past the last position that was applied; 0 for nothing.
    pub(crate) applied: u64,
}

/// Why a record can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The log can't be read.
    #[error("the log can't be read at {at}: {source}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        source: ReadError,
    },
    /// A later program wrote it, or it is not ours.
    #[error("the record at {at} is not of a known form; start the newer program")]
    Form {
        /// Where.
        at: u64,
    },
    /// A table is full.
    #[error("the record at {at} does not fit the tables: {code}")]
    Full {
        /// Where.
        at: u64,
        /// Which.
        code: Code,
    },
}

/// How often progress is told: every so many positions.
const TELL_EVERY: u64 = 10_000_000;

impl Rebuilt {
    /// Nothing, with the latest event of these topics to be kept.
    pub(crate) fn new(keep: &[String]) -> Self {
        Self { values: Values::new(keep), ..Self::default() }
    }

    /// What a checkpoint holds; `None` where there is none that fits the log.
    pub(crate) fn load_all(
        views: &dyn Views,
        log: &dyn EventLog,
        keep: &[String],
    ) -> Result<Option<Self>, ViewsError> {
        let mut rebuilt = Self::new(keep);
        rebuilt.applied = views.load(&mut |key, value| rebuilt.load(key, value).is_ok())?;
        rebuilt.registered.loaded(rebuilt.applied);
        rebuilt.uploads.view.loaded();
        // A checkpoint beyond the log's end is one of another log.
        let end = log.durable().borrow().end.get();
        Ok(Some(rebuilt).filter(|rebuilt| rebuilt.applied <= end))
    }

    /// Applies all that the log holds from where this ends.
    pub(crate) fn follow(&mut self, log: &dyn EventLog) -> Result<(), ApplyError> {
        let end = log.durable().borrow().end.get();
        let mut reader = log.read(self.applied.max(1));
        let mut records = VecDeque::new();
        let mut told = self.applied;
        loop {
            let at = self.applied;
            let more = reader.next(READ_BYTES, &mut records);
            if !more.map_err(|source| ApplyError::Read { at, source })? {
                break;
            }
            for record in records.drain(..) {
                self.apply(&record)?;
            }
            if self.applied.saturating_sub(told) >= TELL_EVERY {
                told = self.applied;
                tracing::info!(applied = told, end, "rebuilding views from the log");
            }
        }
        self.applied = self.applied.max(end);
        Ok(())
    }

    /// Applies what the chunk log holds of uploads that are open. The event log was followed before.
    pub(crate) fn follow_chunks(&mut self, log: &dyn ChunkLog) -> Result<(), ApplyError> {
        let open = self.uploads.view.uploads.values();
        // Nothing before is of any.
        let Some(from) = open.map(|upload| upload.from).min() else { return Ok(()) };
        let from = self.chunks.max(from);
        let mut reader = log.read(from);
        let mut records = VecDeque::new();
        loop {
            let at = self.chunks;
            let more = reader.next(READ_BYTES, &mut records);
            if !more.map_err(|source| ApplyError::Read { at, source })? {
                return Ok(());
            }
            for record in records.drain(..) {
                let at = record.position.get();
                self.uploads.apply_chunk(&record).ok_or(ApplyError::Form { at })?;
                self.chunks = record.end().get();
            }
        }
    }

    /// Applies a record, where it was not applied before.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        let at = record.position.get();
        if record.kind != 0 && record.end().get() > self.applied {
            let form = |_| ApplyError::Form { at };
            let (prefix, tail) = record::split(&record.head).map_err(form)?;
            let names = Names::parse(prefix).map_err(form)?;
            if matches!(record.kind, kind::GROUP | kind::SETTLED) {
                self.groups.apply(record).map_err(form)?;
            } else if record.kind == kind::CURSOR {
                self.cursor(record, &names, inbox::parse_cursor(tail).map_err(form)?);
            } else {
                let tail = Tail::parse(record.kind, tail, &record.payload).map_err(form)?;
                self.one(record, &names, &tail).map_err(|code| ApplyError::Full { at, code })?;
            }
        }
        self.applied = self.applied.max(record.end().get());
        Ok(())
    }

    /// record §10.6
    fn cursor(&mut self, record: &Record, names: &Names<'_>, version: u64) {
        self.tables.time_ms = self.tables.time_ms.max(record.time_ms);
        let name = principal(names.tenant, names.role, names.principal);
        self.cursors.apply(name.into(), version);
    }

    fn one(&mut self, record: &Record, names: &Names<'_>, tail: &Tail<'_>) -> Result<(), Code> {
        let tables = &mut self.tables;
        tables.time_ms = tables.time_ms.max(record.time_ms);
        if tail.number.0 > 0 {
            number(tables, record, names, tail)?;
        }
        if matches!(record.kind, kind::UPLOAD | kind::BLOB | kind::FREED) {
            self.uploads.apply(record, names, tail.time_ms).ok_or(Code::MALFORMED)?;
        }
        if matches!(record.kind, kind::VOID | kind::UPLOAD | kind::FREED) {
            return Ok(());
        }
        let ix = tables.stream(names.tenant, names.key)?;
        if let Some(stream) = tables.streams.get_mut(ix) {
            if stream.id == 0 {
                stream.id = record.position.get();
            }
            stream.version = record.version.saturating_add(u64::from(record.positions)) - 1;
            stream.position = record.position.get();
        }
        tables.mark_stream(ix);
        self.values.stored(record, names, tail);
        if (names.tenant, names.key, names.topic) == (TENANT, KEY, definition::TOPIC)
            && let Ok(defined) = serde_json::from_slice(&record.payload)
        {
            self.registered.apply_group(record.end().get(), defined);
        }
        if (names.tenant, names.key, names.topic) == (TENANT, KEY, TOPIC)
            && let Ok(device) = serde_json::from_slice::<Device>(&record.payload)
        {
            self.registered.apply(record.end().get(), device);
        }
        Ok(())
    }
}

/// The numbers of a producer: what the record says was stored or refused.
fn number(
    tables: &mut Tables,
    record: &Record,
    names: &Names<'_>,
    tail: &Tail<'_>,
) -> Result<(), Code> {
    let principal = principal(names.tenant, names.role, names.principal);
    tables.forget_expired(&principal, names.run, record.time_ms);
    let at = tables.find(&principal, names.run, names.tenant, names.key)?;
    let unborn = tables.runs.get(at.run).is_some_and(|run| run.idle_ms == 0);
    if unborn {
        for forgotten in tables.bear(at.run, record.time_ms) {
            tables.forget(forgotten);
        }
    }
    if let Some(run) = tables.runs.get_mut(at.run) {
        run.idle_ms = record.time_ms;
    }
    if let Some(producer) = tables.producers.get_mut(at.producer) {
        let count = tail.void.map_or(u64::from(record.positions), |void| u64::from(void.count));
        producer.last = tail.number.0.saturating_add(count).saturating_sub(1);
        if let Some(void) = tail.void {
            producer.refuse(void);
        }
    }
    tables.mark_numbers(at.run, at.producer);
    Ok(())
}
