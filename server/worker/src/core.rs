//! The worker's state while it takes work: tables, what was appended and is not durable yet, and how to undo it.
//!
//! One short lock; nothing here waits or does I/O. The invariant: what was appended beyond the durable end stands in
//! `before`, oldest first, so that undoing it newest first gives the tables as they were at the durable end.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use spile_log::{Append, AppendError, Durable, NEW_STREAM, State};
use spile_protocol::{
    code::Code,
    crc,
    id::{Number, Version},
    session::producer::{Decision, decide},
};
use tokio::sync::watch;

use crate::{
    bell::Bell,
    groups::view::Groups,
    inbox::Cursors,
    log::EventLog,
    presence::{About, Sessions},
    record::{self, VoidTail},
    registry::Registered,
    slab::Ix,
    tables::{At, Stream, Tables},
    undo::{Before, Cut},
    uploads::Uploads,
    values::Values,
};

/// A record on its way to the log.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) kind: u8,
    pub(crate) positions: u32,
    pub(crate) time_ms: u64,
    pub(crate) head: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) payload_crc: u32,
}

/// Where a record will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) version: u64,
    pub(crate) position: u64,
}

/// A session that is attached.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) number: u64,
    pub(crate) bell: Arc<Bell>,
    pub(crate) about: Arc<About>,
}

/// The state.
pub(crate) struct Core {
    log: Arc<dyn EventLog>,
    pub(crate) durable: watch::Receiver<Durable>,
    pub(crate) tables: Tables,
    pub(crate) generation: u64,
    /// Where the next record lands.
    pub(crate) next: u64,
    pub(crate) before: VecDeque<Before>,
    /// Ends and bytes of calls that are not durable yet.
    pub(crate) calls: VecDeque<(u64, usize)>,
    /// Bytes in `calls`, for who asks without the lock.
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) cuts: VecDeque<Cut>,
    /// The newest cut that is not in `cuts` any more.
    pub(crate) cuts_forgotten: u64,
    /// Somebody else appended to the log: nothing may be said of positions any more.
    broken: bool,
    /// The call at work: its number, where it began, its records.
    pub(crate) call: u64,
    pub(crate) call_from: u64,
    records: Vec<Append>,
    record_bytes: usize,
    pub(crate) heads: BytesMut,
    pub(crate) sessions: Sessions,
    pub(crate) registered: Registered,
    pub(crate) values: Values,
    pub(crate) cursors: Cursors,
    pub(crate) uploads: Uploads,
    pub(crate) groups: Groups,
    /// Up to here the log was durable when it was looked at last, and the views hold that.
    pub(crate) settled: u64,
    /// Sessions that wait for edges to keep a change of the registry.
    pub(crate) confirmers: Vec<Weak<Bell>>,
}

impl Core {
    pub(crate) fn new(
        log: Arc<dyn EventLog>,
        tables: Tables,
        registered: Registered,
        values: Values,
        cursors: Cursors,
        uploads: Uploads,
        waiting: Arc<AtomicUsize>,
    ) -> Self {
        let durable = log.durable();
        let Durable { end, generation, .. } = *durable.borrow();
        Self {
            log,
            durable,
            tables,
            generation,
            next: end.get(),
            before: VecDeque::new(),
            calls: VecDeque::new(),
            waiting,
            cuts: VecDeque::new(),
            cuts_forgotten: 0,
            broken: false,
            call: 0,
            call_from: end.get(),
            records: Vec::new(),
            record_bytes: 0,
            heads: BytesMut::new(),
            sessions: Sessions::new(),
            registered,
            values,
            cursors,
            uploads,
            groups: Groups::default(),
            settled: end.get(),
            confirmers: Vec::new(),
        }
    }

    /// A call begins: what it changes can be undone alone.
    pub(crate) fn begin(&mut self) {
        self.call = self.call.wrapping_add(1);
        self.call_from = self.next;
        if self.heads.capacity() < 4096 {
            self.heads.reserve(256 * 1024);
        }
    }

    /// Bytes of records gathered in the call.
    pub(crate) fn gathered(&self) -> usize {
        self.record_bytes
    }

    /// Hands the call's records to the log: the time of day does not matter, they are not durable before
    /// [`EventLog::durable`] says so. Where the log takes none of them, nothing of the call has happened: the position it
    /// began at is said with the error.
    pub(crate) fn commit(&mut self, reserved: bool) -> Result<(), Refusal> {
        let bytes = std::mem::take(&mut self.record_bytes);
        if self.records.is_empty() {
            // Lanes were looked at, nothing was changed: there is nothing to undo later.
            self.undo(self.call_from);
            return Ok(());
        }
        if self.broken {
            self.records.clear();
            return Err(self.refused(Code::UNKNOWN_OUTCOME));
        }
        match self.log.append(self.generation, &mut self.records, reserved) {
            Ok(taken) if taken.start == self.call_from && taken.end == self.next => {
                self.calls.push_back((self.next, bytes));
                self.waiting.fetch_add(bytes, Ordering::Relaxed);
                self.begin();
                Ok(())
            }
            Ok(taken) => {
                self.broken = true;
                tracing::error!(?taken, expected = self.call_from, "the log has two appenders");
                Err(self.refused(Code::UNKNOWN_OUTCOME))
            }
            Err(error) => {
                self.records.clear();
                let code = self.code_of(&error);
                Err(self.refused(code))
            }
        }
    }

    fn refused(&mut self, code: Code) -> Refusal {
        let end = self.call_from;
        self.undo(end);
        self.registered.cut(end);
        self.values.cut(end);
        self.cursors.cut(end);
        self.cut_uploads(end);
        self.groups.cut(end);
        self.look();
        self.begin();
        Refusal { end, code }
    }

    fn code_of(&self, error: &AppendError) -> Code {
        match error {
            AppendError::Stale { .. } if self.durable.borrow().state == State::Full => {
                Code::DISK_FULL
            }
            AppendError::Stale { .. } | AppendError::Poisoned => Code::UNKNOWN_OUTCOME,
            AppendError::Full => Code::DISK_FULL,
            AppendError::QueueFull { .. } => Code::BUSY,
            AppendError::Damaged { .. } => Code::FROZEN,
            AppendError::TooLarge { .. } | AppendError::Invalid(_) => Code::INTERNAL,
            AppendError::Closed => Code::SHUTDOWN,
        }
    }

    /// What to do with numbers that arrived.
    pub(crate) fn decide(&self, at: At, first: Number, count: u32) -> Decision {
        let producer = self.tables.producers.get(at.producer);
        let last = producer.map(|producer| Number(producer.last)).filter(|last| last.0 > 0);
        let run = self.tables.runs.get(at.run);
        decide(last, first, count, run.is_some_and(|run| run.idle_ms != 0 && !run.doomed))
    }

    /// Puts a record of a lane's stream in the call; `last` is the number it ends with. The lane was touched.
    #[inline]
    pub(crate) fn put(&mut self, at: At, last: u64, put: Put) -> Option<Placed> {
        let time_ms = self.pass_time(put.time_ms);
        self.tables.producers.get_mut(at.producer)?.last = last;
        self.tables.runs.get_mut(at.run)?.idle_ms = time_ms;
        self.put_stream(at.stream, put)
    }

    fn pass_time(&mut self, time_ms: u64) -> u64 {
        // Zero would read as a run without records.
        let time_ms = time_ms.max(self.tables.time_ms).max(1);
        self.tables.time_ms = time_ms;
        time_ms
    }

    #[inline]
    fn put_stream(&mut self, ix: Ix<Stream>, put: Put) -> Option<Placed> {
        let position = self.next;
        let stream = self.tables.streams.get_mut(ix)?;
        let placed = Placed { version: stream.version.saturating_add(1), position };
        let id = if stream.id == 0 { NEW_STREAM } else { stream.id };
        let append = Append {
            kind: put.kind,
            positions: put.positions,
            time_ms: self.tables.time_ms,
            stream: id,
            version: placed.version,
            prev: stream.position,
            head: put.head,
            payload: put.payload,
            payload_crc: put.payload_crc,
        };
        if stream.id == 0 {
            stream.id = position;
        }
        stream.version = stream.version.saturating_add(u64::from(put.positions));
        stream.position = position;
        if !stream.watchers.is_empty() {
            stream.watchers.iter().for_each(|bell| bell.ring());
        }
        self.push(append);
        Some(placed)
    }

    #[inline]
    fn push(&mut self, append: Append) {
        self.next = self.next.saturating_add(u64::from(append.positions));
        // What the log adds to a record is less than 64 bytes.
        self.record_bytes += append.head.len() + append.payload.len() + 64;
        self.records.push(append);
    }

    /// Puts a VOID of a lane in the call. The lane was touched.
    pub(crate) fn put_void(
        &mut self,
        at: At,
        time_ms: u64,
        prefix: &[u8],
        void: VoidTail,
    ) -> Option<()> {
        let time_ms = self.pass_time(time_ms);
        let producer = self.tables.producers.get_mut(at.producer)?;
        producer.last = void.number.0.saturating_add(u64::from(void.count)).saturating_sub(1);
        producer.refuse(void);
        self.tables.runs.get_mut(at.run)?.idle_ms = time_ms;
        self.heads.extend_from_slice(prefix);
        record::put_void(&mut self.heads, time_ms, &void);
        let head = self.heads.split().freeze();
        let kind = record::kind::VOID;
        self.push(Append {
            kind,
            positions: 1,
            time_ms,
            stream: 0,
            version: 0,
            prev: 0,
            head,
            payload: Bytes::new(),
            payload_crc: 0,
        });
        Some(())
    }

    /// Puts a record that is in no stream in the call: its position.
    pub(crate) fn put_alone(
        &mut self,
        time_ms: u64,
        kind: u8,
        prefix: &[u8],
        payload: Bytes,
    ) -> u64 {
        let position = self.next;
        self.heads.extend_from_slice(prefix);
        // record §4.1: the time as the edge said it, though the log's own never goes back.
        record::put_beside(&mut self.heads, time_ms);
        let time_ms = self.pass_time(time_ms);
        let head = self.heads.split().freeze();
        let payload_crc = spile_protocol::crc::of(&payload);
        self.push(Append {
            kind,
            positions: 1,
            time_ms,
            stream: 0,
            version: 0,
            prev: 0,
            head,
            payload,
            payload_crc,
        });
        position
    }

    /// Puts an event of the worker's own in the call, in a stream without a producer.
    pub(crate) fn put_own(&mut self, stream: Ix<Stream>, put: Put) -> Option<Placed> {
        let before = self.before(stream, None)?;
        self.before.push_back(before);
        self.pass_time(put.time_ms);
        self.put_stream(stream, put)
    }

    /// Puts a record that is in no stream in the call. Undoing it leaves `stream` as it is.
    pub(crate) fn put_beside(
        &mut self,
        stream: Ix<Stream>,
        time_ms: u64,
        kind: u8,
        head: Bytes,
    ) -> Option<()> {
        let before = self.before(stream, None)?;
        self.before.push_back(before);
        let time_ms = self.pass_time(time_ms);
        self.push(Append {
            kind,
            positions: 1,
            time_ms,
            stream: 0,
            version: 0,
            prev: 0,
            head,
            payload: Bytes::new(),
            payload_crc: 0,
        });
        Some(())
    }

    /// Puts a record that is in no stream and changes no table in the call: it takes the time of the one before it.
    pub(crate) fn put_bare(&mut self, kind: u8, head: Bytes, payload: Bytes) {
        let payload_crc = crc::of(&payload);
        let time_ms = self.tables.time_ms.max(1);
        let (positions, stream, version, prev) = (1, 0, 0, 0);
        let append =
            Append { kind, positions, time_ms, stream, version, prev, head, payload, payload_crc };
        self.push(append);
    }

    /// What a subscription has to know of a stream to read on.
    pub(crate) fn see(&mut self, ix: Ix<Stream>) -> Option<Seen> {
        self.look();
        let stream = self.tables.streams.get(ix)?;
        let mut seen = Seen {
            id: stream.id,
            version: stream.version,
            durable_version: stream.version,
            position: stream.position,
            next: self.next,
        };
        // The oldest change that is not durable says how the stream was before it.
        if let Some(before) = self.before.iter().find(|before| before.stream == ix) {
            seen.id = before.id;
            seen.durable_version = before.version;
            seen.position = before.position;
        }
        Some(seen)
    }

    /// A session uses the stream no more, and wants no bell of it.
    pub(crate) fn release_stream(&mut self, ix: Ix<Stream>, bell: &Arc<Bell>) {
        if let Some(stream) = self.tables.streams.get_mut(ix)
            && let Some(at) = stream.watchers.iter().position(|other| Arc::ptr_eq(other, bell))
        {
            stream.watchers.swap_remove(at);
        }
        self.tables.release_stream(ix);
    }

    /// An edge has a change of the registry, or left: who waits for that looks again.
    pub(crate) fn ring_confirmers(&mut self) {
        self.confirmers.retain(|bell| {
            bell.upgrade().is_some_and(|bell| {
                bell.ring();
                true
            })
        });
    }

    /// The last version of a stream, as far as it was appended.
    pub(crate) fn version(&self, stream: Ix<Stream>) -> Version {
        Version(self.tables.streams.get(stream).map_or(0, |stream| stream.version))
    }
}

/// The log did not take a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// What lies beyond is not stored, and was not before.
    pub(crate) end: u64,
    pub(crate) code: Code,
}

/// A stream as a subscription sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    /// The last version appended.
    pub(crate) version: u64,
    /// The last version on disk, and the position of its record.
    pub(crate) durable_version: u64,
    pub(crate) position: u64,
    /// Where the next record lands.
    pub(crate) next: u64,
}
