//! The chunk log as its one appender sees it: what a call put there, where it will be, and how far it is on disk.
//!
//! A part of the worker's core, under its lock; nothing here waits. The invariant: `next` is where the next chunk lands.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use spile_log::{Append, AppendError, Durable, NEW_STREAM, State};
use spile_protocol::code::Code;
use tokio::sync::watch;

use crate::{
    log::ChunkLog,
    uploads::{
        form::{CHUNK, ChunkOf, chunk_head},
        work::Part,
    },
};

/// The chunk log.
pub(crate) struct Chunks {
    pub(crate) log: Arc<dyn ChunkLog>,
    pub(crate) durable: watch::Receiver<Durable>,
    pub(crate) generation: u64,
    pub(crate) next: u64,
    pub(crate) call_from: u64,
    records: Vec<Append>,
    bytes: usize,
    /// Ends and bytes of calls that are not durable yet.
    calls: VecDeque<(u64, usize)>,
    /// Bytes in `calls`, for who asks without the lock.
    waiting: Arc<AtomicUsize>,
    /// Somebody else appended to the log.
    broken: bool,
}

impl Chunks {
    pub(crate) fn new(log: Arc<dyn ChunkLog>, waiting: Arc<AtomicUsize>) -> Self {
        let durable = log.durable();
        let Durable { end, generation, .. } = *durable.borrow();
        let next = end.get();
        Self {
            log,
            durable,
            generation,
            next,
            call_from: next,
            records: Vec::new(),
            bytes: 0,
            calls: VecDeque::new(),
            waiting,
            broken: false,
        }
    }

    /// How far it is on disk, and whether it was cut back since the last look: then nothing beyond ever was.
    pub(crate) fn look(&mut self) -> (u64, bool) {
        let durable = *self.durable.borrow();
        let (end, cut) = (durable.end.get(), durable.generation != self.generation);
        if cut {
            self.generation = durable.generation;
            self.drop_call();
            while let Some((_, bytes)) = self.calls.pop_back_if(|call| call.0 > end) {
                self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            }
            (self.next, self.call_from) = (end, end);
        }
        while let Some((_, bytes)) = self.calls.pop_front_if(|call| call.0 <= end) {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        (end, cut)
    }

    fn drop_call(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    /// Bytes gathered in the call.
    pub(crate) fn gathered(&self) -> usize {
        self.bytes
    }

    /// Puts a chunk in the call, behind what is there of its upload: its position.
    pub(crate) fn put(
        &mut self,
        now_ms: u64,
        of: ChunkOf,
        behind: Part,
        payload: Bytes,
        payload_crc: u32,
    ) -> u64 {
        let position = self.next;
        self.next = self.next.saturating_add(1);
        self.bytes = self.bytes.saturating_add(payload.len()).saturating_add(128);
        let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        self.records.push(Append {
            kind: CHUNK,
            positions: 1,
            time_ms: now_ms,
            stream: if behind.stream == 0 { NEW_STREAM } else { behind.stream },
            // record §11.6: where the chunk ends, so that the stream's index finds the chunk that holds a byte.
            version: behind.offset.saturating_add(length),
            prev: behind.last,
            head: chunk_head(of),
            payload,
            payload_crc,
        });
        position
    }

    /// Hands the call to the log. Where it is not taken, nothing of it has happened: where it began, and why.
    pub(crate) fn commit(&mut self) -> Result<(), (u64, Code)> {
        if self.records.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let from = std::mem::replace(&mut self.call_from, self.next);
        let taken = if self.broken {
            Err(AppendError::Poisoned)
        } else {
            self.log.append(self.generation, &mut self.records, false)
        };
        let code = match taken {
            Ok(taken) if taken.start == from && taken.end == self.next => {
                self.calls.push_back((self.next, bytes));
                self.waiting.fetch_add(bytes, Ordering::Relaxed);
                return Ok(());
            }
            Ok(taken) => {
                self.broken = true;
                tracing::error!(?taken, expected = from, "the chunk log has two appenders");
                Code::INTERNAL
            }
            Err(error) => self.code_of(&error),
        };
        self.drop_call();
        (self.next, self.call_from) = (from, from);
        Err((from, code))
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
}
