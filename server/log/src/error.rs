//! What can go wrong, one enum a boundary; each says what failed, on what, and what to do.

use std::io;

use thiserror::Error;

use crate::Position;

/// An operation on a file that failed.
#[derive(Debug, Error)]
#[error("{op} {name}: {source}; check the disk and the rights on the data folder")]
pub struct DiskError {
    /// What was tried.
    pub op: &'static str,
    /// On which file of the log's folder.
    pub name: String,
    /// What the system said.
    pub source: io::Error,
}

/// Names operation and file for an `io::Error`.
pub(crate) trait At<T> {
    fn at(self, op: &'static str, name: &str) -> Result<T, DiskError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, op: &'static str, name: &str) -> Result<T, DiskError> {
        self.map_err(|source| DiskError { op, name: name.to_owned(), source })
    }
}

/// Why a log could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A later program wrote it.
    #[error("{name} has format {version}, this program knows up to {known}; start the newer program", known = crate::format::header::FORMAT)]
    Version {
        /// Which file.
        name: String,
        /// Its format.
        version: u32,
    },
}

/// Why records were not taken. Nothing of the call was taken then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The log cut back to `end`: what was appended beyond it is gone. Roll back to `end` and use the new generation.
    #[error(
        "the log was cut back to {end}; roll back to it and append again under generation {generation}"
    )]
    Stale {
        /// The generation to use from now on.
        generation: u64,
        /// One past the last record that is left.
        end: Position,
    },
    /// The disk is full, or down to the reserve. Try later.
    #[error("the disk is full; free space on it and send again")]
    Full,
    /// Too much waits for the disk. Try when the durable end has moved.
    #[error("{waiting} bytes wait for the disk; send again when some are stored")]
    QueueFull {
        /// Bytes that wait.
        waiting: usize,
    },
    /// A sync failed. Nothing will ever be taken again: what waited is unknown.
    #[error("a sync failed, what waited is unknown; restart the server once the disk is sound")]
    Poisoned,
    /// There is a hole below what was synced. Writes wait until an operator accepted it.
    #[error(
        "positions {from} up to {to} are damaged and writes wait; see them with `spiled log verify` and restore a backup"
    )]
    Damaged {
        /// First position that is lost.
        from: Position,
        /// One past the last.
        to: Position,
    },
    /// Larger than a record or a call may be.
    #[error("{bytes} bytes where at most {limit} are taken; send less at once")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What is taken.
        limit: usize,
    },
    /// Something in a record is not allowed.
    #[error("a record can't be written: {0}")]
    Invalid(&'static str),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// Why a read stopped.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why retention, rewriting, a snapshot or an accept was not done.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A sync failed: the log takes nothing any more.
    #[error("a sync of {name} failed; restart the server once the disk is sound")]
    Poisoned {
        /// Which file.
        name: String,
    },
    /// There is no such hole, or the range does not cover it.
    #[error(
        "there is no damage within {from}..{to} that waits; look at the log's health for the range"
    )]
    NoSuchHole {
        /// What was said.
        from: Position,
        /// What was said.
        to: Position,
    },
    /// The snapshot would be older than the newest one, or beyond the durable end.
    #[error("a snapshot at {at} is not between the newest one and the durable end; make it anew")]
    BadSnapshot {
        /// What was said.
        at: Position,
    },
    /// Bytes that should be good are not.
    #[error("{name} is damaged at position {at}; it is left as it is")]
    Damaged {
        /// Which file.
        name: String,
        /// Where.
        at: Position,
    },
}
