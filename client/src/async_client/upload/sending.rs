//! One upload on its way: what is read and not stored yet, and how far it is. No I/O, and no clock.
//!
//! ```text
//!            place, session            answered             all sent           answered
//!  Waiting ───────────────▶ Asked ───────────────▶ Open ───────────────▶ Sealing ───────▶ Over
//!     ▲────────────────────── connection gone, or a fault that passes ──────┘
//!
//! One that is to be forgotten goes from Open to Aborting, and from there over.
//! ```
//!
//! Invariants: blocks follow one another without gaps, and none ends before what is stored; `next` never goes below
//! `stored`.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use spile_protocol::code::Code;
use spile_protocol::message::Opened;
use spile_protocol::time::Instant;

use super::super::Error;
use super::super::error::Refusal;
use super::super::outbox::register;
use super::Progress;
use super::source::{BLOCK, Read};

/// Faults that pass, in a row and without a byte stored between, that say something else is wrong. Only for those about
/// what we sent: a worker may be away for as long as it takes.
const FAULTS: u32 = 8;
/// The pause after the first of them, doubled each time up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Blocks that wait to be read into again: as many as a second's worth is ahead of the server's disk. More are freed.
const SPARES: usize = 4;

/// What OPEN says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct What {
    pub(in super::super) id: [u8; 16],
    pub(in super::super) size: u64,
    pub(in super::super) key: Option<String>,
    pub(in super::super) name: String,
    pub(in super::super) content_type: String,
    pub(in super::super) meta: Vec<(String, String)>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Ended {
    Sealed(Sealed),
    /// The server has forgotten it, as it was asked to.
    Aborted,
}

/// It is a blob now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Sealed {
    pub(in super::super) blob: String,
    pub(in super::super) revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// OPEN goes out when there is a session and this has come.
    Waiting {
        at: Instant,
    },
    Asked,
    Open,
    Sealing,
    Aborting,
    Over(Result<Ended, Error>),
    /// Nobody waits for it; its number is taken until the server is done with it, or the session.
    Left,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Told {
    pub(in super::super) stored: u64,
    pub(in super::super) sent: u64,
    pub(in super::super) resumed_at: Option<u64>,
    waits: Option<Refusal>,
}

impl Told {
    pub(in super::super) fn progress(self, size: u64) -> Progress {
        let Self { stored, sent, resumed_at, waits } = self;
        Progress { size, stored, sent, resumed_at, waits }
    }
}

/// What its caller is to do next.
#[derive(Debug)]
pub(in super::super) enum Next {
    /// Read the block that begins there.
    Read {
        at: u64,
        /// A block to read it into: one whose bytes are stored.
        spare: Option<BytesMut>,
    },
    /// Tell who wants to know.
    Told(Told),
    Over(Result<Ended, Error>, Told),
}

/// An upload on its way.
#[derive(Debug)]
pub(in super::super) struct Sending {
    pub(in super::super) what: What,
    phase: Phase,
    /// The server is to forget it.
    aborts: bool,
    /// The first block's offset, or where the next one begins.
    base: u64,
    blocks: VecDeque<Bytes>,
    /// Blocks whose bytes are stored, to be read into again.
    spares: Vec<BytesMut>,
    /// Where the blocks end.
    read: u64,
    /// Where the next chunk begins.
    next: u64,
    hash: Option<[u8; 32]>,
    told: Told,
    /// `told` says something the caller has not heard.
    news: bool,
    faults: u32,
    waker: Option<Waker>,
}

impl Sending {
    pub(in super::super) fn new(what: What) -> Self {
        // Nothing has to be read of an empty one.
        let hash = (what.size == 0).then(|| *blake3::hash(b"").as_bytes());
        Self {
            what,
            phase: Phase::Waiting { at: Instant(0) },
            aborts: false,
            base: 0,
            blocks: VecDeque::new(),
            spares: Vec::new(),
            read: 0,
            next: 0,
            hash,
            told: Told::default(),
            news: false,
            faults: 0,
            waker: None,
        }
    }

    /// One that is opened to be forgotten.
    pub(in super::super) fn to_abort(what: What) -> Self {
        Self { aborts: true, ..Self::new(what) }
    }

    /// When OPEN is to go out; `None`: it went, or never will.
    pub(in super::super) const fn opens_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { at } => Some(at),
            Phase::Asked
            | Phase::Open
            | Phase::Sealing
            | Phase::Aborting
            | Phase::Over(_)
            | Phase::Left => None,
        }
    }

    pub(in super::super) fn asked(&mut self) {
        self.phase = Phase::Asked;
    }

    pub(in super::super) const fn is_left(&self) -> bool {
        matches!(self.phase, Phase::Left)
    }

    const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    fn wake(&mut self, wake: &mut Vec<Waker>) {
        wake.extend(self.waker.take());
    }

    /// What the caller is to do; nothing while the connection has enough.
    pub(in super::super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.news && !self.is_over() {
            self.news = false;
            return Poll::Ready(Next::Told(self.told.clone()));
        }
        if let Phase::Over(outcome) = &self.phase {
            return Poll::Ready(Next::Over(outcome.clone(), self.told.clone()));
        }
        if self.wants() {
            return Poll::Ready(Next::Read { at: self.read, spare: self.spares.pop() });
        }
        register(&mut self.waker, cx);
        Poll::Pending
    }

    /// Is there to be read? What is stored already is read for its hash only.
    fn wants(&self) -> bool {
        let unsent = self.read.saturating_sub(self.next.max(self.base));
        !self.aborts && self.read < self.what.size && unsent < BLOCK
    }

    /// A block was read at `at`.
    pub(in super::super) fn offer(&mut self, at: u64, read: Read) {
        self.hash = self.hash.or(read.hash);
        // Where the server said in between to go on elsewhere, it is of no use.
        if at == self.read {
            self.read += length(&read.bytes);
            self.blocks.push_back(read.bytes);
            self.drop_stored();
        }
    }

    /// What is stored need not be kept.
    fn drop_stored(&mut self) {
        while let Some(end) = self.blocks.front().map(|block| self.base + length(block)) {
            if end > self.told.stored {
                return;
            }
            let stored = self.blocks.pop_front().map(Bytes::try_into_mut);
            if let Some(Ok(block)) = stored
                && self.spares.len() < SPARES
            {
                self.spares.push(block);
            }
            self.base = end;
        }
    }

    /// The next chunk's bytes, at most so many, where there are some and they may go.
    pub(in super::super) fn chunk(&self, most: usize) -> Option<Bytes> {
        if self.phase != Phase::Open {
            return None;
        }
        let mut begin = self.base;
        for block in &self.blocks {
            let end = begin + length(block);
            if self.next < end {
                let from = usize::try_from(self.next.checked_sub(begin)?).ok()?;
                return Some(block.slice(from..block.len().min(from.saturating_add(most))));
            }
            begin = end;
        }
        None
    }

    /// Bytes that were not sent on this connection.
    pub(in super::super) const fn left(&self) -> u64 {
        self.what.size.saturating_sub(self.next)
    }

    pub(in super::super) fn sent(&mut self, bytes: u64) {
        self.next += bytes;
        self.told.sent += bytes;
    }

    /// Does the caller have to read more?
    pub(in super::super) fn hungry(&mut self, wake: &mut Vec<Waker>) {
        if self.wants() {
            self.wake(wake);
        }
    }

    /// All was sent and nothing is to be read: the hash to seal it with.
    pub(in super::super) fn seals(&self) -> Option<[u8; 32]> {
        let whole = self.phase == Phase::Open && self.next == self.what.size;
        self.hash.filter(|_| whole && !self.aborts)
    }

    pub(in super::super) fn sealing(&mut self) {
        self.phase = Phase::Sealing;
    }

    /// It is open, and ABORT is to go out.
    pub(in super::super) fn forgets(&self) -> bool {
        self.aborts && self.phase == Phase::Open
    }

    pub(in super::super) fn aborting(&mut self) {
        self.phase = Phase::Aborting;
    }

    /// The server has forgotten it.
    pub(in super::super) fn aborted(&mut self, wake: &mut Vec<Waker>) {
        if self.phase == Phase::Aborting {
            self.phase = Phase::Over(Ok(Ended::Aborted));
            self.wake(wake);
        }
    }

    /// The server's answer to OPEN, chunks or SEAL: how many bytes of chunks it says are stored.
    pub(in super::super) fn opened(&mut self, opened: &Opened<'_>, wake: &mut Vec<Waker>) -> u64 {
        let offset = opened.stored_offset.min(self.what.size);
        let stored = match self.phase {
            Phase::Asked => {
                self.goes_on_at(offset);
                0
            }
            Phase::Open | Phase::Sealing | Phase::Aborting | Phase::Left => {
                let through = offset.clamp(self.told.stored, self.next);
                through - std::mem::replace(&mut self.told.stored, through)
            }
            Phase::Waiting { .. } | Phase::Over(_) => return 0,
        };
        if stored > 0 {
            (self.faults, self.told.waits) = (0, None);
        }
        self.drop_stored();
        self.news = true;
        if !opened.blob.is_empty() {
            self.told.resumed_at.get_or_insert(self.what.size);
            let (blob, revision) = (opened.blob.to_owned(), opened.revision);
            self.phase = Phase::Over(Ok(Ended::Sealed(Sealed { blob, revision })));
        }
        self.wake(wake);
        stored
    }

    /// The answer to OPEN says from where. spec §7.1.1
    fn goes_on_at(&mut self, offset: u64) {
        self.phase = Phase::Open;
        self.told.stored = offset;
        self.told.resumed_at.get_or_insert(offset);
        self.next = offset;
        if offset < self.base {
            // The server has forgotten some of it: that is read again.
            self.blocks.clear();
            (self.base, self.read) = (offset, offset);
        }
    }

    /// What of it was sent and is not known to be stored.
    pub(in super::super) const fn in_flight(&self) -> u64 {
        self.next.saturating_sub(self.told.stored)
    }

    /// The server refused, for now or for good.
    pub(in super::super) fn failed(&mut self, why: Refusal, now: Instant, wake: &mut Vec<Waker>) {
        let ours = why.code == Code::OUT_OF_ORDER;
        let passes =
            if ours { (self.faults < FAULTS).then_some(Duration::ZERO) } else { why.retry_after };
        match (passes, &self.phase) {
            (_, Phase::Over(_) | Phase::Left) => {}
            (None, _) => {
                self.phase = Phase::Over(Err(why.into()));
                self.wake(wake);
            }
            (Some(after), _) => {
                let pause = PAUSE.saturating_mul(1 << self.faults.min(10)).min(PAUSE_MAX);
                self.faults += 1;
                self.phase = Phase::Waiting { at: now.after(after.max(pause)) };
                (self.told.waits, self.news) = (Some(why), true);
                self.wake(wake);
            }
        }
    }

    /// There will be no answer.
    pub(in super::super) fn ended(&mut self, why: &Error, wake: &mut Vec<Waker>) {
        if !self.is_over() {
            self.phase = Phase::Over(Err(why.clone()));
            self.wake(wake);
        }
    }

    /// The connection is gone: it is opened again on the next.
    pub(in super::super) fn disconnected(&mut self) {
        match self.phase {
            // One that was forgotten is opened anew, and forgotten again.
            Phase::Asked | Phase::Open | Phase::Sealing | Phase::Aborting => {
                self.phase = Phase::Waiting { at: Instant(0) };
            }
            Phase::Left | Phase::Waiting { .. } | Phase::Over(_) => {}
        }
    }

    /// Nobody waits for it any more: is its number free?
    pub(in super::super) fn leave(&mut self) -> bool {
        match self.phase {
            Phase::Waiting { .. } | Phase::Over(_) => true,
            Phase::Asked | Phase::Open | Phase::Sealing | Phase::Aborting | Phase::Left => {
                self.phase = Phase::Left;
                self.blocks.clear();
                false
            }
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
