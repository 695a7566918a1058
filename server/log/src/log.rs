//! The handle: what the owner of a log calls.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::watch;

use crate::disk::Disk;
use crate::error::{AppendError, At, KeepError, OpenError, ReadError};
use crate::health::Health;
use crate::keep::{Retain, Retained, SegmentInfo, Thinned};
use crate::listeners::{Listener, Listeners};
use crate::planted::Slips;
use crate::queue::{Append, Queue};
use crate::reader::Reader;
use crate::recover::{Found, recover};
use crate::segment::Open;
use crate::shared::{Counters, Shared};
use crate::snapshot::{Snapshot, SnapshotInfo, SnapshotWriter};
use crate::stream::StreamReader;
use crate::thread::{Keeper, Threads};
use crate::time::position_at;
use crate::writer::Writer;
use crate::{Durable, Options, Position, Record, Recovered, State, lock};

/// One log in one folder. Clones are handles of the same log; it ends when the last is dropped or one is closed.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

/// Ends the threads with the last handle.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(threads) = lock(&self.threads).take() {
            threads.stop(&self.shared);
        }
    }
}

impl Log {
    /// Recovers the log in `disk`, or begins one. This reads and writes files on the caller's thread: up to two segments. One process may have a folder open at a time; keeping others out is the
    /// caller's.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered), OpenError> {
        let options = options.bounded();
        let slips = Slips::of(&options);
        let Found { mut index, build, accepted, watermark, recovered } = recover(&*disk, slips)?;
        let reserve = match options.reserve_bytes {
            0 => None,
            bytes => Shared::take_reserve(&*disk, bytes)?,
        };
        let full = options.reserve_bytes > 0 && reserve.is_none();
        let seed = index.open.as_ref().map_or(0, Open::seed);
        let mut queue = Queue::new(index.durable_end, index.last_time, seed, &options);
        if let Some(hole) = &recovered.waiting {
            queue.hole = hole.start.get()..hole.end.get();
            queue.state = State::Damaged;
        } else if full {
            queue.state = State::Full;
        }
        index.forget_recent();
        let durable = Durable {
            end: queue.durable_end.into(),
            generation: queue.generation,
            state: queue.state,
        };
        let mut health = Health::default();
        recovered.damages.iter().for_each(|damage| health.add(damage.clone()));
        let shared = Arc::new(Shared {
            disk,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            index: Mutex::new(index),
            durable: watch::Sender::new(durable),
            listeners: Listeners::default(),
            writer: Mutex::new(build.map(|build| Writer::new(build, reserve))),
            accepted: Mutex::new(accepted),
            watermark: Mutex::new(watermark),
            health: Mutex::new(health),
            pace: Mutex::default(),
            counters: Counters::default(),
            marked_bytes: AtomicU64::new(0),
            filling: Mutex::default(),
            ahead: Mutex::default(),
            keeping: Mutex::new(()),
            sealing: Mutex::new(None),
            keeper: Keeper::default(),
            slips,
            options,
        });
        let threads = match shared.options.inline {
            true => None,
            false => Some(Threads::start(&shared).at("start", "the writer's thread")?),
        };
        let owner = Arc::new(Owner { shared: shared.clone(), threads: Mutex::new(threads) });
        Ok((Self { shared, owner }, recovered))
    }

    /// Takes all of `records` at consecutive positions, or none, without waiting for the disk. They are stored once
    /// [`Log::durable`] has passed them under the same generation. On an error `records` is as it was.
    pub fn append(
        &self,
        generation: u64,
        records: &mut Vec<Append>,
    ) -> Result<Range<Position>, AppendError> {
        self.take(generation, records, false)
    }

    /// The same for records that must find room when the disk is full: settlements, registry, audit.
    pub fn append_reserved(
        &self,
        generation: u64,
        records: &mut Vec<Append>,
    ) -> Result<Range<Position>, AppendError> {
        self.take(generation, records, true)
    }

    fn take(
        &self,
        generation: u64,
        records: &mut Vec<Append>,
        reserved: bool,
    ) -> Result<Range<Position>, AppendError> {
        let wanted = Queue::measure(records, self.shared.options.payload_bytes)?;
        let mut queue = lock(&self.shared.queue);
        let taken = queue.append(generation, records, &wanted, reserved)?;
        let wake = std::mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(taken)
    }

    /// How far the log is on disk, to be watched.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// Calls `listener` each time that changes, on the thread that changed it, until it says false.
    pub fn listen(&self, listener: Listener) {
        self.shared.listeners.add(listener);
    }

    /// Where the next append lands, if no other comes first.
    #[must_use]
    pub fn next(&self) -> Position {
        lock(&self.shared.queue).next.into()
    }

    /// The first position that is still there.
    #[must_use]
    pub fn start(&self) -> Position {
        lock(&self.shared.index).start().into()
    }

    /// Reads forward from a position.
    #[must_use]
    pub fn read(&self, from: Position) -> Reader {
        Reader::new(self.shared.clone(), from)
    }

    /// Reads one stream in order, up to its record at `last`, from the record that holds `from_version` on, without touching
    /// the records of others. Records that rewriting left out show as a step in the versions.
    #[must_use]
    pub fn read_stream(&self, stream: u64, last: Position, from_version: u64) -> StreamReader {
        StreamReader::new(self.shared.clone(), stream, last, from_version)
    }

    /// The first record at or after this time; the durable end if there is none.
    pub fn position_at(&self, time_ms: u64) -> Result<Position, ReadError> {
        position_at(&self.shared, time_ms)
    }

    /// Begins a snapshot of views that hold everything below `position`. It must be newer than the last and not beyond the
    /// durable end.
    pub fn snapshot(&self, position: Position) -> Result<SnapshotWriter, KeepError> {
        SnapshotWriter::new(self.shared.clone(), position)
    }

    /// The newest snapshot, verified whole; an older one if that is damaged.
    pub fn newest_snapshot(&self) -> Result<Option<Snapshot>, KeepError> {
        Ok(self.shared.newest_snapshot()?)
    }

    /// Removes and rewrites sealed segments that hold nothing that is wanted any more, or little: see [`Retain`].
    pub fn retain(
        &self,
        rule: &Retain,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Retained, KeepError> {
        self.shared.retain(rule, wanted)
    }

    /// Removes the sealed segment that holds `position`, where it is the first and nothing in it is wanted; or rewrites it with
    /// what is, where that takes at most this part of its bytes; in both cases only where both snapshots are past it. Right before
    /// its file changes the owner is asked whether it is `sure`.
    pub fn thin(
        &self,
        position: Position,
        rewrite_percent: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
        sure: &mut dyn FnMut() -> bool,
    ) -> Result<Thinned, KeepError> {
        self.shared.thin(position, rewrite_percent, wanted, sure)
    }

    /// Rewrites the sealed segment that holds `position` with its wanted records alone, at their positions. Says how many bytes
    /// that freed; `None` when no sealed segment holds it.
    pub fn rewrite(
        &self,
        position: Position,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Option<u64>, KeepError> {
        self.shared.rewrite(position, wanted)
    }

    /// An operator accepts that what is damaged within `range` is lost. Health turns green for it, now and after later
    /// starts; where writes waited for it ([`State::Damaged`]), they go on.
    pub fn accept(&self, range: Range<Position>) -> Result<(), KeepError> {
        self.shared.accept(&range)
    }

    /// The sealed segments, oldest first.
    #[must_use]
    pub fn sealed(&self) -> Vec<SegmentInfo> {
        let index = lock(&self.shared.index);
        index.sealed.iter().map(|one| one.info()).collect()
    }

    /// The snapshots there are, newest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, KeepError> {
        Ok(self.shared.snapshots()?)
    }

    /// One group commit on this thread (`Options::inline`). Says whether anything waited.
    pub fn pump(&self) -> bool {
        lock(&self.shared.writer).as_mut().is_some_and(|writer| writer.pump(&self.shared))
    }

    /// What is done while the disk is idle, on this thread (`Options::inline`): zero-filling, the watermark, a look whether a
    /// full disk has room again, the next segment's file.
    pub fn tend(&self) {
        if let Some(writer) = lock(&self.shared.writer).as_mut() {
            writer.prefill(&self.shared);
        }
        self.shared.tend(true);
        let mut fills = self.shared.look_ahead();
        while fills {
            fills = self.shared.fill_ahead();
        }
    }

    /// What is wrong, and how much was done.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = lock(&self.shared.health).clone();
        let counters = &self.shared.counters;
        health.commits = counters.commits.load(Ordering::Relaxed);
        health.records = counters.records.load(Ordering::Relaxed);
        health.bytes = counters.bytes.load(Ordering::Relaxed);
        health.waiting_bytes = lock(&self.shared.queue).pending.total();
        let (now, pace) = (self.shared.disk.passed(), lock(&self.shared.pace));
        health.sync_p50_us = pace.percentile(now, 50);
        health.sync_p99_us = pace.percentile(now, 99);
        health.bytes_per_hour = pace.bytes_per_hour(now, health.bytes);
        drop(pace);
        let index = lock(&self.shared.index);
        let open = index.open.as_ref().map(|open| open.data_end);
        health.segments = index.sealed.len() + usize::from(open.is_some());
        health.segment_bytes =
            index.sealed.iter().map(|segment| segment.file_bytes).chain(open).sum();
        health
    }

    /// Stores what waits, writes the watermark and ends the threads. Later appends are refused, reads go on.
    pub fn close(&self) {
        if let Some(threads) = lock(&self.owner.threads).take() {
            threads.stop(&self.shared);
        }
        while self.pump() {}
        lock(&self.shared.queue).closed = true;
        self.shared.forget_ahead();
        self.shared.tend(true);
    }
}
