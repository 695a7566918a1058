//! What the worker asks of a log, and the embedded one that gives it. Nothing above knows which log it is.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use spile_log::{
    Append, AppendError, Block, Durable, GapKind, Health, KeepError, Listener, Log, Position,
    ReadError, Reader, Record, Retain, SegmentInfo, Snapshot, SnapshotWriter, StreamItem,
    StreamReader, Thinned,
};
use tokio::sync::watch;

use crate::unread::Unread;

/// An append-only log that says how far it is durable. Positions are comparable within it only, and follow each other: who
/// appends alone knows where the next record lands.
pub trait EventLog: Send + Sync {
    /// Takes all of `records`, or none. The one appender says under which generation it counts. `reserved` finds room when
    /// the disk is full: settlements, registry, audit.
    fn append(
        &self,
        generation: u64,
        records: &mut Vec<Append>,
        reserved: bool,
    ) -> Result<Range<u64>, AppendError>;
    /// How far it is durable, as it moves.
    fn durable(&self) -> watch::Receiver<Durable>;
    /// Calls `listener` each time that moves or changes, behind the watch, until it says false.
    fn listen(&self, listener: Listener);
    /// Records from a position on, in order.
    fn read(&self, from: u64) -> Box<dyn Read>;
    /// One stream's records, from the one that holds `version` to the one at `last`.
    fn read_stream(&self, stream: u64, last: u64, version: u64) -> Box<dyn Read>;
    /// The first position that is not earlier than a time.
    fn position_at(&self, time_ms: u64) -> Result<u64, ReadError>;
    /// The first position that is kept.
    fn start(&self) -> u64;
    /// What it knows to be wrong with itself, and its counters.
    fn health(&self) -> Health;
    /// Removes or rewrites the segment that holds `position`: see [`Log::thin`].
    fn thin(
        &self,
        position: u64,
        rewrite_percent: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
        sure: &mut dyn FnMut() -> bool,
    ) -> Result<Thinned, KeepError>;
    /// The segments that are not written any more, oldest first.
    fn sealed(&self) -> Vec<SegmentInfo>;
    /// Up to where the snapshots there are hold, whole or not: newest first.
    fn snapshots(&self) -> Result<Vec<u64>, KeepError>;
    /// The newest snapshot that is whole: up to where it holds, and its bytes.
    fn newest_snapshot(&self) -> Result<Option<Held>, KeepError>;
    /// Begins a snapshot of views that hold everything before `position`: newer than the last, not beyond the durable end.
    fn begin_snapshot(&self, position: u64) -> Result<Box<dyn PutPieces>, KeepError>;
}

/// A snapshot: up to where it holds, and its bytes.
pub type Held = (u64, Box<dyn Pieces>);

/// A snapshot's bytes, from the first on.
pub trait Pieces: Send {
    /// The next of them; `None` behind the last.
    fn next(&mut self) -> Result<Option<Bytes>, KeepError>;
    /// The next are the first again.
    fn rewind(&mut self);
}

/// A snapshot that is written. Dropped before it is finished, it never was.
pub trait PutPieces: Send {
    /// Adds bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<(), KeepError>;
    /// It is whole: from now on it counts.
    fn finish(self: Box<Self>) -> Result<(), KeepError>;
}

/// The log of chunks: beside what every log does, it gives space back.
pub trait ChunkLog: EventLog {
    /// The segments that are not written any more: their first positions, one past their last, and their bytes.
    fn segments(&self) -> Vec<(Range<u64>, u64)>;
    /// Keeps of the segment that holds `position` only what is `wanted`, at its position: how many bytes that freed.
    /// `None`: there is no such segment now.
    fn rewrite(
        &self,
        position: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Option<u64>, KeepError>;
    /// Removes the segments before `position`: nothing in them is wanted. How many bytes that freed.
    fn remove_before(&self, position: u64) -> Result<u64, KeepError>;
}

/// Reads forward, never past the durable end.
pub trait Read: Send {
    /// Puts about `max_bytes` of records behind `out`, and at least one; false where there is nothing more now.
    fn next(&mut self, max_bytes: usize, out: &mut VecDeque<Record>) -> Result<bool, ReadError>;

    /// The same, as records lie in the log's own buffer where it has them in one.
    fn read_ahead(&mut self, max_bytes: usize, out: &mut Unread) -> Result<bool, ReadError> {
        self.next(max_bytes, out.made())
    }
}

impl EventLog for Log {
    fn append(
        &self,
        generation: u64,
        records: &mut Vec<Append>,
        reserved: bool,
    ) -> Result<Range<u64>, AppendError> {
        let taken = if reserved {
            self.append_reserved(generation, records)
        } else {
            Self::append(self, generation, records)
        };
        taken.map(|taken| taken.start.get()..taken.end.get())
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        Self::durable(self)
    }

    fn listen(&self, listener: Listener) {
        Self::listen(self, listener);
    }

    fn read(&self, from: u64) -> Box<dyn Read> {
        Box::new(Self::read(self, Position::new(from)))
    }

    fn read_stream(&self, stream: u64, last: u64, version: u64) -> Box<dyn Read> {
        Box::new(Self::read_stream(self, stream, Position::new(last), version))
    }

    fn position_at(&self, time_ms: u64) -> Result<u64, ReadError> {
        Self::position_at(self, time_ms).map(Position::get)
    }

    fn start(&self) -> u64 {
        Self::start(self).get()
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn thin(
        &self,
        position: u64,
        rewrite_percent: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
        sure: &mut dyn FnMut() -> bool,
    ) -> Result<Thinned, KeepError> {
        Self::thin(self, Position::new(position), rewrite_percent, wanted, sure)
    }

    fn sealed(&self) -> Vec<SegmentInfo> {
        Self::sealed(self)
    }

    fn snapshots(&self) -> Result<Vec<u64>, KeepError> {
        let found = Self::snapshots(self)?.into_iter();
        Ok(found.map(|snapshot| snapshot.position.get()).collect())
    }

    fn newest_snapshot(&self) -> Result<Option<Held>, KeepError> {
        let newest = Self::newest_snapshot(self)?;
        Ok(newest.map(|newest| (newest.position().get(), Box::new(newest) as Box<dyn Pieces>)))
    }

    fn begin_snapshot(&self, position: u64) -> Result<Box<dyn PutPieces>, KeepError> {
        Ok(Box::new(self.snapshot(Position::new(position))?))
    }
}

impl Pieces for Snapshot {
    fn next(&mut self) -> Result<Option<Bytes>, KeepError> {
        self.read()
    }

    fn rewind(&mut self) {
        Self::rewind(self);
    }
}

impl PutPieces for SnapshotWriter {
    fn put(&mut self, bytes: &[u8]) -> Result<(), KeepError> {
        self.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<(), KeepError> {
        Self::finish(*self).map(drop)
    }
}

impl ChunkLog for Log {
    fn segments(&self) -> Vec<(Range<u64>, u64)> {
        let sealed = Self::sealed(self).into_iter();
        sealed.map(|one| (one.range.start.get()..one.range.end.get(), one.bytes)).collect()
    }

    fn rewrite(
        &self,
        position: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Option<u64>, KeepError> {
        Self::rewrite(self, Position::new(position), wanted)
    }

    fn remove_before(&self, position: u64) -> Result<u64, KeepError> {
        // A log gives up a segment only where a snapshot is past it. What rests on chunks are views of the event log:
        // an empty snapshot says that nothing here needs the old segments.
        let end = Self::durable(self).borrow().end;
        if self.snapshots()?.first().is_none_or(|newest| newest.position < end) {
            self.snapshot(end)?.finish()?;
        }
        let before = Position::new(position);
        let rule =
            Retain { before, older_than_ms: Some(u64::MAX), bytes_max: None, rewrite_percent: 0 };
        let retained = self.retain(&rule, &mut |_| false)?;
        Ok(retained.freed_bytes)
    }
}

impl Read for Reader {
    fn next(&mut self, max_bytes: usize, out: &mut VecDeque<Record>) -> Result<bool, ReadError> {
        let Some(block) = Self::next(self, max_bytes)? else { return Ok(false) };
        tell_gap(&block);
        out.extend(block.records());
        Ok(true)
    }

    fn read_ahead(&mut self, max_bytes: usize, out: &mut Unread) -> Result<bool, ReadError> {
        let Some(block) = Self::next(self, max_bytes)? else { return Ok(false) };
        tell_gap(&block);
        out.push_block(block.records());
        Ok(true)
    }
}

/// Reads go round a hole; that it is there is said once a reader, and by health.
fn tell_gap(block: &Block) {
    if let Some(gap) = block.gap().filter(|gap| gap.kind == GapKind::Damaged) {
        tracing::warn!(range = ?gap.range, kind = ?gap.kind, "a read goes round positions that are not there");
    }
}

impl Read for StreamReader {
    fn next(&mut self, max_bytes: usize, out: &mut VecDeque<Record>) -> Result<bool, ReadError> {
        match Self::next(self, max_bytes)? {
            None => return Ok(false),
            Some(StreamItem::Records(records)) => out.extend(records),
            Some(StreamItem::Gap(gap)) if gap.kind != GapKind::Damaged => {}
            Some(StreamItem::Gap(gap)) => {
                tracing::warn!(range = ?gap.range, kind = ?gap.kind, "a stream goes round versions that are not there");
            }
        }
        Ok(true)
    }
}
