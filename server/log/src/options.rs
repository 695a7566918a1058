//! What the owner of a log chooses, and what it costs.

use crate::Lead;
use crate::limits::{PAYLOAD_BYTES_MAX, QUEUE_BYTES_MAX, SEGMENT_BYTES_MAX};

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment is sealed once it holds this many bytes (256 MiB).
    pub segment_bytes: u64,
    /// Bytes of appends that may wait for the next write (8 MiB). More: `AppendError::QueueFull`. It bounds a batch too.
    pub queue_bytes: usize,
    /// Largest payload of one record.
    pub payload_bytes: usize,
    /// Zero-fill a little ahead of the end while the disk is idle, and the whole next segment while the log grows fast:
    /// overwriting zeros syncs faster than growing a file. It takes the disk space of one segment more.
    pub prefill: bool,
    /// Take space of the disk in steps of so many bytes ahead of the end, without writing it; 0: it grows with each write. For
    /// bulk: the file system has less to do for each page.
    pub ahead_bytes: u64,
    /// The log that syncs first is this one …
    pub leads: Option<Lead>,
    /// … or this one follows it: see [`Lead`].
    pub follows: Option<Lead>,
    /// Disk space held back for `append_reserved` (16 MiB); 0 for none.
    pub reserve_bytes: u64,
    /// With less than this free on the disk the log takes only reserved records, before the disk is full (64 MiB).
    pub free_bytes_low: u64,
    /// Bytes the log may have in all; at the limit it takes only reserved records until retention made room. 0: no limit.
    pub bytes_max: u64,
    /// Batches kept in memory after their sync, for readers that follow closely (8 MiB); 0 for none.
    pub recent_bytes: usize,
    /// Write the watermark whenever this much was written since the last (64 MiB). It bounds what a start copies.
    pub watermark_bytes: u64,
    /// No threads: the owner calls [`crate::Log::pump`] and [`crate::Log::tend`].
    pub inline: bool,
    /// Mistakes to make on purpose, for the test that shows they are found.
    #[cfg(feature = "planted")]
    pub planted: Option<crate::planted::Mistake>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            queue_bytes: 8 << 20,
            payload_bytes: 1 << 20,
            prefill: true,
            ahead_bytes: 0,
            leads: None,
            follows: None,
            reserve_bytes: 16 << 20,
            free_bytes_low: 64 << 20,
            bytes_max: 0,
            recent_bytes: 8 << 20,
            watermark_bytes: 64 << 20,
            inline: false,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }
}

impl Options {
    /// The same, within what the format can hold.
    pub(crate) fn bounded(mut self) -> Self {
        self.segment_bytes =
            self.segment_bytes.clamp(16 << 10, SEGMENT_BYTES_MAX - QUEUE_BYTES_MAX as u64 * 2);
        self.payload_bytes = self.payload_bytes.min(PAYLOAD_BYTES_MAX);
        self.queue_bytes =
            self.queue_bytes.clamp(64 << 10, QUEUE_BYTES_MAX - PAYLOAD_BYTES_MAX * 2);
        self
    }
}
