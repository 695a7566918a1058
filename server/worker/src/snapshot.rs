//! Snapshots: all views at a position, as rows, in the log's folder. The next one is made from the last one and the log.
//!
//! A snapshot never rests on the store of checkpoints, nor on the views in memory: what it says follows from records alone.
//! The invariant: a snapshot and the log behind it give the views that all records give, though the log before it may be
//! gone. Memory: what the records between two snapshots change is held, all else is copied row by row. record §8.3

mod rows;
mod scope;

use std::collections::{HashSet, VecDeque};

use spile_log::{KeepError, Record};
use spile_protocol::id;

use self::{
    rows::{PutRows, Rows},
    scope::Scope,
};
use crate::{
    checkpoint::{BadRow, Copied, Row, row},
    limits::{READ_BYTES, RESTOCK_ROWS},
    log::EventLog,
    rebuild::{ApplyError, Rebuilt},
    record::{self, Names, Tail, kind},
    values,
    views::{Views, ViewsError},
    worker::Config,
};

/// Why there is no snapshot, or none that can be begun at.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It can't be read or written.
    #[error("a snapshot can't be read or written: {0}")]
    Keep(#[from] KeepError),
    /// The records behind it can't be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// It is not of a form that is known.
    #[error("a snapshot is not of a known form; start the newer program")]
    Form,
    /// The views that are filled from it can't be written.
    #[error(transparent)]
    Views(#[from] ViewsError),
    /// What was removed from the log is in no snapshot that is whole.
    #[error(
        "the log begins at {start}, and no snapshot before it is whole; restore a backup of its folder"
    )]
    Gone {
        /// The first position that is kept.
        start: u64,
    },
    /// Records that were synced can't be read: a snapshot without them would lose what they say for good.
    #[error(
        "positions {from} up to {to} are damaged: no snapshot is made over them; see them with `spiled log verify` and restore a backup"
    )]
    Damaged {
        /// The first.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// The owner ends.
    #[error("it was ended")]
    Stopped,
}

impl From<BadRow> for SnapshotError {
    fn from(_: BadRow) -> Self {
        Self::Form
    }
}

/// Can the views begin at what a checkpoint holds? Before the older snapshot the log may have been thinned out.
pub(crate) fn reaches(log: &dyn EventLog, applied: u64) -> Result<bool, KeepError> {
    let oldest = log.snapshots()?.last().copied().unwrap_or(0);
    Ok(applied.max(1) >= oldest.max(log.start()))
}

/// The views as the newest snapshot has them, with the latest event of these topics to be kept; nothing where there is
/// none. A store of checkpoints is filled with the same rows.
pub(crate) fn load(
    log: &dyn EventLog,
    keep: &[String],
    views: Option<&mut dyn Views>,
) -> Result<Rebuilt, SnapshotError> {
    let mut rebuilt = Rebuilt::new(keep);
    let Some((position, pieces)) = log.newest_snapshot()? else {
        let start = log.start();
        return if start > 1 { Err(SnapshotError::Gone { start }) } else { Ok(rebuilt) };
    };
    let mut rows = Rows::new(pieces);
    let mut stock = Stock::new(views);
    let mut topics = Topics::new(keep);
    rows.each(&mut |key, value| {
        if topics.keeps(key, value) {
            rebuilt.load(key, value)?;
            stock.put(key, value)?;
        }
        Ok(())
    })?;
    topics.follow(log, &mut rebuilt, position)?;
    stock.finish(topics.changed(), position)?;
    rebuilt.applied = position;
    rebuilt.registered.loaded(position);
    rebuilt.uploads.view.loaded();
    tracing::info!(position, "views begin at the snapshot");
    Ok(rebuilt)
}

/// Fills a store of checkpoints, some rows at once: until it is whole it says that it holds nothing.
struct Stock<'v> {
    views: Option<&'v mut dyn Views>,
    rows: Vec<Row>,
    begun: bool,
}

impl<'v> Stock<'v> {
    fn new(views: Option<&'v mut dyn Views>) -> Self {
        Self { views, rows: Vec::new(), begun: false }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ViewsError> {
        if self.views.is_some() {
            self.rows.push((key.to_vec(), value.to_vec()));
            if self.rows.len() >= RESTOCK_ROWS {
                self.store(0)?;
            }
        }
        Ok(())
    }

    fn store(&mut self, applied: u64) -> Result<(), ViewsError> {
        let Some(views) = &mut self.views else { return Ok(()) };
        // Every key begins with nothing.
        let removed = if self.begun { Vec::new() } else { vec![Vec::new()] };
        self.begun = true;
        views.store(&removed, std::mem::take(&mut self.rows), applied)
    }

    /// `changed`: values of other topics are in memory alone. They are found again the same way.
    fn finish(&mut self, changed: bool, position: u64) -> Result<(), ViewsError> {
        self.store(if changed { 0 } else { position })
    }
}

/// Which topics are kept now, where the snapshot was made for others.
struct Topics<'k> {
    keep: &'k [String],
    /// What was kept then, where that was something else.
    before: Option<Vec<String>>,
}

impl<'k> Topics<'k> {
    fn new(keep: &'k [String]) -> Self {
        Self { keep, before: None }
    }

    fn changed(&self) -> bool {
        self.before.is_some()
    }

    fn matches(filters: &[String], topic: &str) -> bool {
        filters.iter().any(|filter| id::matches(filter, topic))
    }

    /// Is a row still one? Those of values say first which topics they are of.
    fn keeps(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some((&row::VALUE, name)) = key.split_first() else { return true };
        if name.is_empty() {
            let text = String::from_utf8_lossy(value);
            let same = *value == *self.keep.join("\n").as_bytes();
            self.before = (!same).then(|| text.lines().map(str::to_owned).collect());
            return same;
        }
        let topic = |name| values::key_and_topic(name).1;
        let name = std::str::from_utf8(name).unwrap_or_default().trim_end_matches('\0');
        !self.changed() || Self::matches(self.keep, topic(name))
    }

    /// Values of topics that were not kept then are looked for in what the log still holds before `end`. record §8.4
    fn follow(
        &self,
        log: &dyn EventLog,
        rebuilt: &mut Rebuilt,
        end: u64,
    ) -> Result<(), SnapshotError> {
        let Some(before) = &self.before else { return Ok(()) };
        each_record(log, (log.start(), end), &|| false, &mut |record| {
            if !matches!(record.kind, kind::EVENT | kind::BATCH) {
                return Ok(true);
            }
            let form = |_| ApplyError::Form { at: record.position.get() };
            let (prefix, tail) = record::split(&record.head).map_err(form)?;
            let names = Names::parse(prefix).map_err(form)?;
            if Self::matches(self.keep, names.topic) && !Self::matches(before, names.topic) {
                let tail = Tail::parse(record.kind, tail, &record.payload).map_err(form)?;
                rebuilt.values.stored(record, &names, &tail);
            }
            Ok(true)
        })
    }
}

/// Gives the records of a range to `each`, until it says false.
pub(crate) fn each_record(
    log: &dyn EventLog,
    (from, to): (u64, u64),
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&Record) -> Result<bool, SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut reader = log.read(from.max(1));
    let mut records = VecDeque::new();
    let mut at = from;
    while at < to {
        if stop() {
            return Err(SnapshotError::Stopped);
        }
        let more = reader.next(READ_BYTES, &mut records);
        if !more.map_err(|source| ApplyError::Read { at, source })? {
            break;
        }
        for record in records.drain(..) {
            at = record.end().get();
            if at > to || (at > from && !each(&record)?) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Makes the next snapshot, of all that is durable or of a good part of it: up to where it holds. `None` where nothing is
/// new since the last.
pub(crate) fn next(
    log: &dyn EventLog,
    config: &Config,
    stop: &dyn Fn() -> bool,
) -> Result<Option<u64>, SnapshotError> {
    let end = log.durable().borrow().end.get();
    let newest = log.snapshots()?.first().copied().unwrap_or(1);
    if end <= newest {
        return Ok(None);
    }
    let base = log.newest_snapshot()?;
    let start = log.start();
    if base.is_none() && start > 1 {
        return Err(SnapshotError::Gone { start });
    }
    let from = base.as_ref().map_or(1, |(position, _)| *position);
    let mut rows = base.map(|(_, pieces)| Rows::new(pieces));
    let scope = scope_of(log, config, (from, newest, end), stop)?;
    refuse_damage(log, from, scope.end)?;
    make(log, &config.keep, (from, scope), rows.as_mut(), stop).map(Some)
}

/// What a range of records changes. It ends early where that is much, but not before there is something new.
fn scope_of(
    log: &dyn EventLog,
    config: &Config,
    (from, newest, end): (u64, u64, u64),
    stop: &dyn Fn() -> bool,
) -> Result<Scope, SnapshotError> {
    let mut scope = Scope::new(&config.keep, from);
    let mut full = false;
    each_record(log, (from, end), stop, &mut |record| {
        let at = record.position.get();
        scope.note(record).map_err(|_| ApplyError::Form { at })?;
        full = scope.len() >= config.snapshot_rows && scope.end > newest;
        Ok(!full)
    })?;
    if !full {
        scope.end = end;
    }
    Ok(scope)
}

fn refuse_damage(log: &dyn EventLog, from: u64, to: u64) -> Result<(), SnapshotError> {
    let health = log.health();
    let within = |begin: u64, end: u64| begin < to && from < end;
    let mut damages = health.damages.iter().filter(|damage| !damage.accepted);
    let hole = damages.find(|damage| within(damage.from.get(), damage.to.get()));
    hole.map_or(Ok(()), |hole| {
        Err(SnapshotError::Damaged { from: hole.from.get(), to: hole.to.get() })
    })
}

fn make(
    log: &dyn EventLog,
    keep: &[String],
    (from, mut scope): (u64, Scope),
    mut base: Option<&mut Rows>,
    stop: &dyn Fn() -> bool,
) -> Result<u64, SnapshotError> {
    let mut rebuilt = Rebuilt::new(keep);
    rebuilt.applied = from;
    if let Some(base) = &mut base {
        load_scope(log, keep, (from, &mut scope), base, &mut rebuilt)?;
    }
    let to = scope.end;
    each_record(log, (from, to), stop, &mut |record| {
        rebuilt.apply(record)?;
        Ok(true)
    })?;
    rebuilt.applied = to;
    let fresh = Copied::folded(&mut rebuilt).rows().rows;
    drop(rebuilt);
    write(log, &scope, base, fresh, stop)?;
    Ok(to)
}

/// Loads the rows that the records of the range may change.
fn load_scope(
    log: &dyn EventLog,
    keep: &[String],
    (from, scope): (u64, &mut Scope),
    base: &mut Rows,
    rebuilt: &mut Rebuilt,
) -> Result<(), SnapshotError> {
    let mut topics = Topics::new(keep);
    let mut values = 0;
    base.each(&mut |key, value| {
        topics.keeps(key, value);
        scope.survey(key, value, &mut values);
        Ok(())
    })?;
    if topics.changed() {
        scope.want_all_values();
    }
    base.each(&mut |key, value| {
        if scope.holds(key, value) && topics.keeps(key, value) {
            rebuilt.load(key, value)?;
        }
        Ok(())
    })?;
    topics.follow(log, rebuilt, from)
}

/// Writes what the range changed among what it did not.
fn write(
    log: &dyn EventLog,
    scope: &Scope,
    base: Option<&mut Rows>,
    fresh: Vec<Row>,
    stop: &dyn Fn() -> bool,
) -> Result<(), SnapshotError> {
    let runs = fresh.iter().filter_map(|(key, _)| key.strip_prefix(&[row::RUN]));
    let alive: HashSet<Vec<u8>> = runs.map(<[u8]>::to_vec).collect();
    let mut fresh = fresh.into_iter().peekable();
    let mut out = PutRows::new(log.begin_snapshot(scope.end)?);
    if let Some(base) = base {
        base.each(&mut |key, value| {
            while let Some((new, value)) = fresh.next_if(|(new, _)| **new < *key) {
                out.put(&new, &value)?;
            }
            if stop() {
                return Err(SnapshotError::Stopped);
            }
            if !scope.holds(key, value) && !scope.is_gone(key, value, &alive) {
                out.put(key, value)?;
            }
            Ok(())
        })?;
    }
    for (key, value) in fresh {
        out.put(&key, &value)?;
    }
    Ok(out.finish()?)
}
