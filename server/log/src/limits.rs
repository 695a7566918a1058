//! Every cap of the log, in one place, with what happens at the cap.

/// Bytes of the page at a segment's start that hold its header, twice. Nothing else is ever written there.
pub const HEADER_PAGE: u64 = 4096;

/// Caller's header bytes in one record. Longer: `AppendError::TooLarge`.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Payload bytes in one record. Longer: `AppendError::TooLarge`.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Payloads of this many bytes or more go to the disk from the caller's buffer; smaller ones are copied, so that a small record
/// does not pin a large buffer.
pub const COPY_BELOW: usize = 1024;

/// Records one call of `append` may carry. More: `AppendError::TooLarge`.
pub const CALL_RECORDS_MAX: usize = 1 << 20;

/// Entries of the per-stream index of one segment. At the cap the segment is sealed and the next begins: this bounds the memory
/// of the open segment's index to 32 MiB.
pub const INDEX_ENTRIES_MAX: usize = 1 << 20;

/// Bytes between two marks (position, time, offset) of a segment.
pub const MARK_EVERY: u64 = 64 * 1024;

/// Largest data of one segment: offsets in its index are 32 bits. A batch that would pass it goes to the next segment.
pub const SEGMENT_BYTES_MAX: u64 = 3 << 30;

/// Largest queue of appends that wait: a batch is one queue, and has a 32-bit length.
pub const QUEUE_BYTES_MAX: usize = 1 << 30;

/// Buffers given to one vectored write; more are written by further calls.
pub const IOVECS_MAX: usize = 512;

/// The least of a slice, where larger ones hold up the log that leads.
pub const SLICE_LEAST: usize = 512 << 10;

/// What a log that follows another writes and syncs at once while that one is at work, at most, in bytes (a single larger payload
/// goes whole). Uploads open and seal in the other log too, so that much less would cost many small ones a sync each.
pub const SLICE_BYTES: usize = 8 << 20;

/// Zeros that are written and synced at once in the file of the next segment.
pub const AHEAD_SLICE: u64 = 512 << 10;

/// A log that grows by this part of a segment in a second gets its next segment filled with zeros ahead …
pub const AHEAD_PART: u64 = 64;

/// … but not one that grows by this part: its commits are large, and the disk would have to write all of it twice.
pub const AHEAD_MOST: u64 = 4;

/// Zero-filled bytes ahead of the end that are topped up while the disk is idle.
pub const PREFILL_BYTES: u64 = 256 * 1024;

/// When fewer zero-filled bytes than this are left, and nobody waits, more are filled.
pub const PREFILL_LOW: u64 = 64 * 1024;

/// Torn tails kept aside. At the cap the oldest is removed.
pub const TORN_KEPT: usize = 8;

/// Snapshots kept. Older ones are removed once a newer one is synced.
pub const SNAPSHOTS_KEPT: usize = 2;

/// Damages remembered by health. Further ones are only counted.
pub const DAMAGES_MAX: usize = 1024;

/// Bytes one read of a block asks for at the most (a single larger record is still read whole).
pub const BLOCK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a block that is used again: the longest chunk with all that is around it in its frame.
pub const BLOCK_BYTES: usize = 260 * 1024;

/// Blocks that wait for their next use while others are in use: 32 MiB, as much as chunks may wait for the disk. At the cap one
/// that comes back is freed.
pub const BLOCKS_KEPT: usize = 126;

/// Blocks that wait while none is in use: 2 MiB.
pub const BLOCKS_IDLE: usize = 8;
