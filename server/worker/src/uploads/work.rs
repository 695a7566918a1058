//! What of an upload is in the chunk log: how much is on disk, what is on its way there, the hash so far, and who writes.
//!
//! The invariant: `stored` is durable in the chunk log; `flight` follows it, oldest first, and is forgotten where the log is
//! cut back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde::{Deserialize, Serialize};
use spile_protocol::code::Code;

use crate::bell::Bell;

/// The first bytes of an upload, and where their chunks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// How many bytes.
    pub(crate) offset: u64,
    /// The stream of the chunks: the position of the first; 0 while there is none.
    pub(crate) stream: u64,
    /// The position of the last chunk.
    pub(crate) last: u64,
}

/// An upload's bytes.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) stored: Part,
    /// The position behind a chunk, and what there is when it is durable.
    pub(crate) flight: VecDeque<(u64, Part)>,
    pub(crate) hash: Hash,
    pub(crate) writer: Option<Arc<Seat>>,
    /// When the last chunk came; 0 where none did since the start.
    pub(crate) active_ms: u64,
}

impl Work {
    /// All that was taken, durable or not.
    pub(crate) fn taken(&self) -> Part {
        self.flight.back().map_or(self.stored, |&(_, part)| part)
    }

    /// The position behind the last chunk that is not durable; 0 where all are.
    pub(crate) fn gate(&self) -> u64 {
        self.flight.back().map_or(0, |&(end, _)| end)
    }

    /// The chunk log is durable up to `end`.
    pub(crate) fn settle(&mut self, end: u64) {
        while let Some((_, part)) = self.flight.pop_front_if(|chunk| chunk.0 <= end) {
            self.stored = part;
        }
    }

    /// The chunk log was cut back to `end`: what was hashed may be gone.
    pub(crate) fn cut(&mut self, end: u64) {
        self.settle(end);
        if !self.flight.is_empty() {
            self.flight.clear();
            self.hash = Hash::default();
        }
    }

    /// The log did not take what was put from position `from` on.
    pub(crate) fn take_back(&mut self, from: u64) {
        while self.flight.pop_back_if(|chunk| chunk.0 > from).is_some() {}
    }

    /// Puts a chunk of a call that began at `from`: what there is then. The chunks of a call are durable together, and are
    /// one entry.
    pub(crate) fn put(&mut self, from: u64, position: u64, bytes: u64) -> Part {
        let Part { offset, stream, .. } = self.taken();
        let stream = if stream == 0 { position } else { stream };
        let part = Part { offset: offset.saturating_add(bytes), stream, last: position };
        let end = position.saturating_add(1);
        match self.flight.back_mut() {
            Some(back) if back.0 > from => *back = (end, part),
            Some(_) | None => self.flight.push_back((end, part)),
        }
        part
    }

    /// The newest session writes; the older hears why it does not, once the log is durable up to `gate`.
    pub(crate) fn take_over(&mut self, seat: Arc<Seat>, gate: u64) {
        if let Some(older) = self.writer.replace(seat) {
            older.end(gate, Code::REPLACED);
        }
    }
}

/// A session that writes an upload, as the upload knows it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) bell: Arc<Bell>,
    over: OnceLock<(u64, Code)>,
}

impl Seat {
    pub(crate) fn new(bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Self { bell, over: OnceLock::new() })
    }

    /// It is over, for this reason, once the event log is durable up to `gate`.
    pub(crate) fn end(&self, gate: u64, code: Code) {
        // The first reason counts.
        if self.over.set((gate, code)).is_ok() {
            self.bell.ring();
        }
    }

    /// Why it writes no more, to be told when the event log is durable up to the position.
    pub(crate) fn over(&self) -> Option<(u64, Code)> {
        self.over.get().copied()
    }
}

/// BLAKE3 of the first bytes of an upload.
#[derive(Debug, Default)]
pub(crate) struct Hashed {
    hasher: Option<Box<blake3::Hasher>>,
    upto: u64,
    /// Somebody is asked to hash on from the log.
    pub(crate) asked: bool,
    /// The log can't be read.
    pub(crate) broken: bool,
}

/// Shared by whoever takes chunks and whoever reads them back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hash(Arc<Mutex<Hashed>>);

impl Hash {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Hashed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hashed {
    /// Takes bytes that follow; others are read from the log later.
    pub(crate) fn take(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.upto {
            self.hasher.get_or_insert_default().update(bytes);
            self.upto = self.upto.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
    }

    /// How many bytes it holds.
    pub(crate) fn upto(&self) -> u64 {
        self.upto
    }

    /// The hash of all it holds.
    pub(crate) fn hash(&self) -> [u8; 32] {
        match &self.hasher {
            Some(hasher) => *hasher.finalize().as_bytes(),
            None => *blake3::hash(&[]).as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_taken_back_with_its_hash() {
        let mut work = Work::default();
        assert_eq!(work.put(10, 10, 3), Part { offset: 3, stream: 10, last: 10 });
        assert_eq!(work.put(10, 11, 1), Part { offset: 4, stream: 10, last: 11 });
        assert_eq!(work.flight.len(), 1, "one call");
        assert_eq!(work.put(12, 12, 4), Part { offset: 8, stream: 10, last: 12 });
        work.hash.lock().take(0, b"aaaabbbb");
        work.settle(12);
        assert_eq!((work.stored.offset, work.gate()), (4, 13));
        work.cut(12);
        assert_eq!((work.taken(), work.gate()), (Part { offset: 4, stream: 10, last: 11 }, 0));
        assert_eq!(work.hash.lock().upto(), 0);
    }

    #[test]
    fn only_what_follows_is_hashed() {
        let mut hashed = Hashed::default();
        assert_eq!(hashed.hash(), *blake3::hash(b"").as_bytes());
        hashed.take(0, b"ab");
        hashed.take(3, b"d");
        hashed.take(0, b"ab");
        hashed.take(2, b"c");
        assert_eq!((hashed.upto(), hashed.hash()), (3, *blake3::hash(b"abc").as_bytes()));
    }
}
