//! The next segment's file, filled with zeros before it is begun, while the log grows, but not as fast as the disk. To overwrite
//! zeros the file system need not change its own records, so a sync of events neither grows the file nor waits for what else is
//! written to the disk.
//!
//! All of it is off the path of acknowledgements, slice by slice (log §9.5.1). The invariants: nothing is promised by this file,
//! whose `.tmp` name the next start removes; and of two files only one ever has that name: who takes the file takes it from
//! there before the next can be made.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{DiskFile, write_whole};
use crate::error::At;
use crate::format::narrow;
use crate::limits::{AHEAD_MOST, AHEAD_PART, AHEAD_SLICE};
use crate::shared::Shared;
use crate::writer::discard;
use crate::{Options, State, lock};

/// Its name until it is taken.
const NAME: &str = "ahead.tmp";

/// The file while it is filled.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    file: Option<Arc<dyn DiskFile>>,
    /// Zeros up to here, synced.
    filled: u64,
    /// What the log had written at the last look.
    seen: u64,
}

impl Shared {
    /// A look each second: does the log grow so that its next segment is to be filled? Begins with it.
    pub(crate) fn look_ahead(&self) -> bool {
        let written = self.counters.bytes.load(Ordering::Relaxed);
        let mut filling = lock(&self.filling);
        let grew = written.saturating_sub(std::mem::replace(&mut filling.seen, written));
        let segment = self.options.segment_bytes;
        let grows = (segment / AHEAD_PART..segment / AHEAD_MOST).contains(&grew);
        let begins = self.options.prefill && grows && filling.file.is_none();
        if begins && lock(&self.ahead).is_none() && self.has_room_ahead() {
            filling.filled = 0;
            // Without it the log grows as it is written.
            let free = discard(&*self.disk, NAME).is_ok();
            filling.file = free.then(|| self.disk.create(NAME).ok()).flatten();
        }
        filling.file.is_some()
    }

    /// One slice of zeros. Says whether there are more to come.
    pub(crate) fn fill_ahead(&self) -> bool {
        let mut filling = lock(&self.filling);
        let Some(file) = filling.file.clone() else { return false };
        let to = zeros_of(self.options.segment_bytes);
        let slice = AHEAD_SLICE.min(self.options.segment_bytes / 8);
        let zeros = vec![0_u8; narrow(slice.min(to.saturating_sub(filling.filled)))];
        let running = lock(&self.queue).state == State::Running;
        if !running || write_whole(&*file, filling.filled, &zeros).is_err() {
            filling.file = None;
            drop(self.disk.remove(NAME));
            return false;
        }
        if let Err(error) = file.sync().at("sync", NAME) {
            // log §9: a failed sync is never retried, whatever file it was.
            self.poison(&error);
            return false;
        }
        filling.filled = filling.filled.saturating_add(slice).min(to);
        if filling.filled < to {
            return true;
        }
        *lock(&self.ahead) = filling.file.take();
        false
    }

    /// The file that is filled, under another name from here on; `None` where there is none.
    pub(crate) fn take_ahead(&self, name: &str) -> Option<Arc<dyn DiskFile>> {
        // Held until the name is free: the keeper makes the next file as soon as it finds none.
        let mut ahead = lock(&self.ahead);
        let file = ahead.take()?;
        self.disk.rename(NAME, name).is_ok().then_some(file)
    }

    /// Its room is wanted for something else, or the log ends.
    pub(crate) fn forget_ahead(&self) {
        let mut filling = lock(&self.filling);
        let filled = lock(&self.ahead).take();
        if filling.file.take().or(filled).is_some() {
            // What is left of it the next start removes.
            drop(self.disk.remove(NAME));
        }
    }

    /// A segment more must leave as much free as is kept, and be within the log's own limit.
    fn has_room_ahead(&self) -> bool {
        let Options { segment_bytes, free_bytes_low, bytes_max, .. } = self.options;
        let twice = segment_bytes.saturating_mul(2);
        let free = self.disk.free_bytes().unwrap_or(0);
        let limited =
            bytes_max > 0 && lock(&self.index).file_bytes().saturating_add(twice) > bytes_max;
        free > free_bytes_low.saturating_add(twice) && !limited
    }
}

/// How many zeros a segment begins with: a little more than it holds, for the batch that makes it full.
pub(crate) const fn zeros_of(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_add(segment_bytes / AHEAD_PART)
}
