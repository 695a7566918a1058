//! The only door to files. Nothing else of this crate names `std::fs` (a test keeps that).
//!
//! A disk is one flat folder. What is written is durable only once [`DiskFile::sync`] returned, and a name only once
//! [`Disk::sync_folder`] returned.

pub mod real;
pub mod sim;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

pub use real::RealDisk;
pub use sim::SimDisk;

/// One folder and its files.
pub trait Disk: Send + Sync + Debug {
    /// The names in the folder, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; an error if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// A file that is there, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, in one step; a file of that name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a name away. Who has the file open reads on.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Bytes there are in all.
    fn total_bytes(&self) -> io::Result<u64>;
    /// The time since it was opened. It says how long things take; nothing is decided by it, and none of it is stored.
    fn passed(&self) -> Duration;
    /// Bytes nobody can guess.
    fn random(&self) -> io::Result<[u8; 32]>;
}

/// One open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Its length.
    fn bytes(&self) -> io::Result<u64>;
    /// Reads at `offset`; fewer bytes only at the file's end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes the parts one after the other at `offset`; says how many bytes were taken.
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts (or extends with zeros) to this length.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Takes disk space for this length, with zeros behind the end; what lies before `from` has it.
    fn allocate(&self, from: u64, bytes: u64) -> io::Result<()>;
}

/// Reads exactly `into.len()` bytes or says that the file ended.
pub(crate) fn read_exact(file: &dyn DiskFile, offset: u64, into: &mut [u8]) -> io::Result<()> {
    if file.read_at(offset, into)? == into.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before what was read"))
    }
}

/// Writes `bytes` whole; a short write is an error of kind `WriteZero`.
pub(crate) fn write_whole(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    if file.write_at(offset, &[IoSlice::new(bytes)])? == bytes.len() {
        Ok(())
    } else {
        Err(short_write())
    }
}

/// What a short write becomes.
pub(crate) fn short_write() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the disk took only a part")
}

/// No more may be taken, though there is some.
pub(crate) fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "what is left is kept for others")
}

/// Whether this error says that there is no room (and not that the disk is ill).
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::WriteZero
    )
}
