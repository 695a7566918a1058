//! An append-only log, synced before acknowledged, and honest about damage.
//!
//! Records are opaque bytes at positions 1, 2, 3 …. What [`Log::durable`] says is stored survives every crash; what is damaged
//! is named, never hidden. The bytes on disk are drawn in `spec/log.md`; files are touched behind [`disk::Disk`] alone. Time and
//! randomness come in from outside. Start with [`Log`], then `writer`, `recover` and `reader`.

pub mod disk;
pub mod limits;

mod accept;
mod ahead;
mod block;
mod blocks;
mod build;
mod copy;
mod error;
mod format;
#[cfg(feature = "fuzz")]
pub mod fuzzing;
mod health;
mod keep;
mod listeners;
mod log;
mod mark;
mod offline;
mod options;
mod pace;
pub mod planted;
mod position;
mod precedence;
mod queue;
mod reader;
mod recover;
mod scan;
mod seal;
mod segment;
mod shared;
mod slices;
mod snapshot;
mod stream;
mod thread;
mod time;
mod writer;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use block::{Block, Gap, GapKind, Records};
pub use blocks::{LentBlock, share};
pub use disk::{Disk, DiskFile, RealDisk, SimDisk};
pub use error::{AppendError, DiskError, KeepError, OpenError, ReadError};
pub use format::record::{Record, RecordRef};
pub use health::{Damage, DamageKind, DiskSpace, Health};
pub use keep::{Retain, Retained, SegmentInfo, Thinned};
pub use listeners::Listener;
pub use log::Log;
pub use offline::{DumpLine, Report, SegmentReport, dump, rebuild, verify};
pub use options::Options;
pub use position::Position;
pub use precedence::Lead;
pub use queue::{Append, NEW_STREAM, in_this_call};
pub use reader::Reader;
pub use snapshot::{Snapshot, SnapshotInfo, SnapshotWriter};
pub use stream::{StreamItem, StreamReader};

/// What the log can do at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Running,
    /// The disk is full: only reserved records are taken. It goes on by itself once there is room.
    Full,
    /// A sync failed: nothing is taken any more, and what waited is unknown.
    Poisoned,
    /// Records that were synced can't be read: nothing is taken until an operator accepted that.
    Damaged,
}

/// How far the log is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// One past the last position that was synced.
    pub end: Position,
    /// One higher each time the log was cut back: what was appended under an older one beyond `end` is gone.
    pub generation: u64,
    /// What can be appended.
    pub state: State,
}

/// What was found when a log was opened, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The first position that is there.
    pub start: Position,
    /// One past the last: the durable end.
    pub end: Position,
    /// The generation to append under.
    pub generation: u64,
    /// Everything below was proven synced before this start.
    pub watermark: Position,
    /// Positions that were read but not proven: they were written anew and synced.
    pub unproven: u64,
    /// Segments there are.
    pub segments: usize,
    /// A torn tail that was kept aside.
    pub torn: Option<TornTail>,
    /// Segments that a killed recovery had left without their footer.
    pub resealed: Vec<String>,
    /// What is damaged.
    pub damages: Vec<Damage>,
    /// Damage for which writes wait: see [`Log::accept`].
    pub waiting: Option<Range<Position>>,
}

/// Bytes behind the end that were never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where they are kept.
    pub file: String,
    /// How many.
    pub bytes: u64,
    /// The position at which the log goes on.
    pub at: Position,
}

/// Locks; a thread that panicked with the lock leaves the value as it was.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
