//! A session's side of the uploads it writes: what of them it was told, and what it hears next. spec §7.
//!
//! All of it follows from two positions, how far the event log and the chunk log are on disk; nothing is queued. The
//! invariant: no offset is said before the chunks up to it, and the record that opened the upload, are durable.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use spile_log::{Durable, State as LogState};
use spile_protocol::{
    code::Code,
    message::{Abort, Fault, Message, Open, Opened, Scope},
    time::Millis,
};
use tokio::sync::watch;

use crate::{
    answers::Sink,
    bell::Bell,
    desk::Identity,
    limits::{RETRY_BUSY_MS, RETRY_DISK_MS},
    uploads::{
        Uploads,
        form::Blake3,
        hashing::{Job, Jobs},
        list::Listing,
        read::Download,
        work::{Hash, Seat},
    },
    worker::Worker,
};

/// What the answer to OPEN waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// The event log's position.
    pub(crate) gate: u64,
    /// The chunk log's: from what is there, the upload goes on.
    pub(crate) chunks: u64,
}

/// What SEAL announced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealing {
    pub(crate) now: Millis,
    pub(crate) blake3: Blake3,
}

/// How far an upload is, for its session.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Chunks are taken.
    Open,
    /// SEAL came: once all of it is durable and hashed it becomes a blob.
    Sealing(Sealing),
    /// It is a blob, once the event log is durable up to `gate`.
    Sealed { gate: u64, blob: String, revision: u64 },
    /// It is forgotten, once the event log is durable up to `gate`.
    Aborting { gate: u64 },
    /// It failed for this session; that is said when both logs are durable up to here.
    Failed { code: Code, expected: u64, gate: u64, chunks: u64 },
}

/// An upload that the session writes.
#[derive(Debug)]
pub(crate) struct Writing {
    /// The session's number for it.
    pub(crate) upload: u32,
    /// The position of its first UPLOAD.
    pub(crate) at: u64,
    pub(crate) size: u64,
    pub(crate) seat: Arc<Seat>,
    pub(crate) hash: Hash,
    pub(crate) opening: Option<Opening>,
    pub(crate) state: State,
    /// What is durable, once `opening` is over.
    pub(crate) stored: u64,
    /// The next offset that is taken.
    pub(crate) next: u64,
    epoch: u32,
    told: Option<u64>,
    /// The positions behind chunks that are not durable, and the offsets that are when they are.
    flight: VecDeque<(u64, u64)>,
}

/// Where both logs are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) events: u64,
    pub(crate) chunks: u64,
}

impl Writing {
    pub(crate) fn new(open: &Open<'_>, at: u64, epoch: u32, bell: &Arc<Bell>) -> Self {
        Self {
            upload: open.upload,
            at,
            size: open.size,
            seat: Seat::new(bell.clone()),
            hash: Hash::default(),
            opening: None,
            state: State::Open,
            stored: 0,
            next: 0,
            epoch,
            told: None,
            flight: VecDeque::new(),
        }
    }

    /// A chunk of a call that began at `from` was taken: the position behind it, and the offset.
    pub(crate) fn took(&mut self, gate: u64, offset: u64, from: u64) {
        self.next = offset;
        match self.flight.back_mut() {
            Some(back) if back.0 > from => *back = (gate, offset),
            Some(_) | None => self.flight.push_back((gate, offset)),
        }
    }

    /// It fails: said when all it rests on is durable, so that the offset it names holds.
    pub(crate) fn fail(&mut self, code: Code, gate: u64) {
        let opening = self.opening.take();
        let chunks = self.flight.back().map_or(0, |chunk| chunk.0);
        self.state = State::Failed {
            code,
            expected: self.next,
            gate: opening.map_or(gate, |opening| opening.gate.max(gate)),
            chunks: opening.map_or(chunks, |opening| opening.chunks.max(chunks)),
        };
    }

    fn takes(&self) -> bool {
        matches!(self.state, State::Open) && self.seat.over().is_none()
    }

    /// The last position of the event log that it rests on.
    fn gate(&self) -> u64 {
        let opening = self.opening.map_or(0, |opening| opening.gate);
        match self.state {
            State::Open | State::Sealing(_) => opening,
            State::Sealed { gate, .. } | State::Aborting { gate } | State::Failed { gate, .. } => {
                opening.max(gate)
            }
        }
    }

    /// The event log was cut back to `end`, or what rests on more is unknown.
    fn lose(&mut self, end: u64, code: Code) {
        if self.gate() <= end {
            return;
        }
        self.opening = None;
        self.state = State::Failed { code, expected: 0, gate: end, chunks: 0 };
    }

    /// Chunks from position `from` on are gone.
    fn lose_chunks(&mut self, from: u64, gate: u64, code: Code) {
        let before = self.flight.len();
        while self.flight.pop_back_if(|chunk| chunk.0 > from).is_some() {}
        let opening = self.opening.is_some_and(|opening| opening.chunks > from);
        let gone = matches!(self.state, State::Failed { chunks, .. } if chunks > from);
        if before == self.flight.len() && !opening && !gone {
            return;
        }
        self.next = self.flight.back().map_or(self.stored, |chunk| chunk.1);
        if let Some(opening) = self.opening.as_mut().filter(|_| opening) {
            opening.chunks = from;
        }
        match &mut self.state {
            State::Open | State::Sealing(_) => self.fail(code, gate),
            State::Failed { code: failed, expected, chunks, .. } => {
                *chunks = (*chunks).min(from);
                *expected = self.next;
                // What came behind the lost ones was in order when it was sent.
                if *failed == Code::OUT_OF_ORDER {
                    *failed = code;
                }
            }
            State::Sealed { .. } | State::Aborting { .. } => {}
        }
    }

    fn settle(&mut self, ends: Ends) {
        if self.opening.is_some_and(|it| it.gate <= ends.events && it.chunks <= ends.chunks) {
            self.opening = None;
        }
        while let Some((_, offset)) = self.flight.pop_front_if(|chunk| chunk.0 <= ends.chunks) {
            self.stored = offset;
        }
    }

    /// Is there something to be said or done?
    fn due(&self, ends: Ends) -> bool {
        if self.seat.over().is_some_and(|(gate, _)| gate <= ends.events) {
            return true;
        }
        let open = self.opening.is_none_or(|it| it.gate <= ends.events && it.chunks <= ends.chunks);
        match &self.state {
            State::Open => open && self.untold(ends),
            // Another session has it: that is said when it is durable.
            State::Sealing(_) if self.seat.over().is_some() => false,
            State::Sealing(_) => {
                let whole = self.flight.back().is_none_or(|chunk| chunk.0 <= ends.chunks);
                let hashed = self.hash.lock();
                let waits = hashed.asked && !hashed.broken && hashed.upto() < self.size;
                open && (self.untold(ends) || (whole && !waits))
            }
            State::Sealed { gate, .. } | State::Aborting { gate } => *gate <= ends.events,
            State::Failed { gate, chunks, .. } => *gate <= ends.events && *chunks <= ends.chunks,
        }
    }

    /// Is more durable than was told?
    fn untold(&self, ends: Ends) -> bool {
        self.told != Some(self.stored)
            || self.flight.front().is_some_and(|chunk| chunk.0 <= ends.chunks)
    }

    /// Says what is due; true where that was the last of it.
    fn say(&mut self, ends: Ends, sink: &mut Sink<'_>) -> bool {
        self.settle(ends);
        let over = self.seat.over().filter(|(gate, _)| *gate <= ends.events);
        if let (Some((_, code)), State::Open | State::Sealing(_)) = (over, &self.state) {
            self.fault(code, self.stored, sink);
            return true;
        }
        match &self.state {
            State::Open | State::Sealing(_) => {
                if self.opening.is_none() && self.told != Some(self.stored) {
                    self.told = Some(self.stored);
                    self.opened(self.stored, "", 0, sink);
                }
                false
            }
            State::Sealed { gate, blob, revision } if *gate <= ends.events => {
                self.opened(self.size, blob, *revision, sink);
                true
            }
            State::Aborting { gate } if *gate <= ends.events => {
                sink(&Message::Abort(Abort { upload: self.upload }), 0);
                true
            }
            &State::Failed { code, expected, gate, chunks }
                if gate <= ends.events && chunks <= ends.chunks =>
            {
                self.fault(code, expected, sink);
                true
            }
            State::Sealed { .. } | State::Aborting { .. } | State::Failed { .. } => false,
        }
    }

    fn opened(&self, stored_offset: u64, blob: &str, revision: u64, sink: &mut Sink<'_>) {
        let (upload, epoch) = (self.upload, self.epoch);
        sink(&Message::Opened(Opened { upload, stored_offset, epoch, blob, revision }), 0);
    }

    fn fault(&self, code: Code, expected: u64, sink: &mut Sink<'_>) {
        let retry_after_ms = match code {
            Code::DISK_FULL | Code::UNKNOWN_OUTCOME | Code::FROZEN => RETRY_DISK_MS,
            Code::BUSY => RETRY_BUSY_MS,
            _ => 0,
        };
        let scope = Scope::Upload { upload: self.upload, expected };
        let fault = Fault { code, scope, retry: code.retry(), retry_after_ms, detail: "" };
        sink(&Message::Fault(fault), 0);
    }
}

/// What one answer about an upload takes.
const SAID_BYTES: usize = 128;

/// A session's files: what it writes, reads and lists.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) writings: Vec<Writing>,
    /// Chunks that were taken and are to be hashed: whose, where, and what.
    pub(crate) unhashed: Vec<(Hash, u64, Bytes)>,
    pub(crate) downloads: Vec<Download>,
    pub(crate) listings: Vec<Listing>,
    /// How far the chunk log is on disk; `None` until the first upload.
    durable: Option<watch::Receiver<Durable>>,
    generation: u64,
    poisoned: bool,
}

impl Files {
    /// Follows the chunk log from now on.
    pub(crate) fn begin(&mut self, uploads: &Uploads) {
        let Some(chunks) = uploads.chunks.as_ref().filter(|_| self.durable.is_none()) else {
            return;
        };
        self.generation = chunks.generation;
        self.durable = Some(chunks.durable.clone());
    }

    pub(crate) fn durable(&self) -> Option<&watch::Receiver<Durable>> {
        self.durable.as_ref()
    }

    /// Does the session write any upload, and follow the chunk log for it?
    pub(crate) fn sends_chunks(&self) -> bool {
        self.durable.is_some() && !self.writings.is_empty()
    }

    pub(crate) fn writing(&mut self, upload: u32) -> Option<&mut Writing> {
        self.writings.iter_mut().find(|writing| writing.upload == upload)
    }

    /// The upload, where it takes chunks.
    pub(crate) fn taking(&mut self, upload: u32) -> Option<&mut Writing> {
        self.writing(upload).filter(|writing| writing.takes())
    }

    /// The upload, where it is not sealed and has not failed.
    pub(crate) fn abortable(&mut self, upload: u32) -> Option<&mut Writing> {
        let open = |state: &State| matches!(state, State::Open | State::Sealing(_));
        self.writing(upload).filter(|writing| open(&writing.state) && writing.seat.over().is_none())
    }

    /// spec §7.4.1: behind the answer to ABORT nothing is said of what failed before it.
    pub(crate) fn forget_failed(&mut self, upload: u32) {
        let failed = |one: &Writing| matches!(one.state, State::Failed { .. });
        self.writings.retain(|one| one.upload != upload || !failed(one));
    }

    /// What rests on the event log beyond `end` is not stored.
    pub(crate) fn lose(&mut self, end: u64, code: Code) {
        self.writings.iter_mut().for_each(|writing| writing.lose(end, code));
    }

    /// The log did not take chunks from position `from` on.
    pub(crate) fn lose_chunks(&mut self, from: u64, gate: u64, code: Code) {
        self.unhashed.clear();
        self.writings.iter_mut().for_each(|writing| writing.lose_chunks(from, gate, code));
    }

    /// How far both logs are; where the chunk log was cut back, those who lost something hear it.
    fn ends(&self, events: u64) -> Ends {
        let chunks = self.durable.as_ref().map_or(0, |durable| durable.borrow().end.get());
        Ends { events, chunks }
    }

    fn sync(&mut self, events: u64) -> Ends {
        let Some(durable) = &mut self.durable else { return Ends { events, chunks: 0 } };
        let Durable { end, generation, state } = *durable.borrow_and_update();
        let (chunks, cut) = (end.get(), generation != self.generation);
        let poisoned = state == LogState::Poisoned && !self.poisoned;
        self.generation = generation;
        self.poisoned |= poisoned;
        if cut || poisoned {
            let full = state == LogState::Full;
            let code = if full { Code::DISK_FULL } else { Code::UNKNOWN_OUTCOME };
            self.lose_chunks(chunks, 0, code);
        }
        Ends { events, chunks }
    }

    /// Hashes what was taken. Long work, done in the session's own time and under no lock that others wait for.
    pub(crate) fn hash(&mut self) {
        for (hash, offset, bytes) in self.unhashed.drain(..) {
            hash.lock().take(offset, &bytes);
        }
    }

    /// Is there anything a poll would say or do?
    pub(crate) fn ready(&self, events: u64) -> bool {
        if self.writings.is_empty() {
            return self.has_answers(events);
        }
        let ends = self.ends(events);
        let moved = self.durable.as_ref().is_some_and(|durable| {
            let durable = durable.borrow();
            durable.generation != self.generation
                || (durable.state == LogState::Poisoned && !self.poisoned)
        });
        !self.unhashed.is_empty()
            || moved
            || self.has_answers(events)
            || self.writings.iter().any(|writing| writing.due(ends))
    }

    fn has_answers(&self, events: u64) -> bool {
        !self.listings.is_empty() || self.downloads.iter().any(|one| one.gate <= events)
    }

    /// Does it wait for the event log to move?
    pub(crate) fn waits_for_events(&self) -> bool {
        !self.writings.is_empty() || !self.downloads.is_empty()
    }

    /// Says what is due of the uploads, as long as there is room; true where there is more.
    fn say(&mut self, events: u64, room: usize, said: &mut usize, sink: &mut Sink<'_>) -> bool {
        let ends = self.sync(events);
        let mut more = false;
        self.writings.retain_mut(|writing| {
            if !writing.due(ends) {
                return true;
            }
            if *said > 0 && *said + SAID_BYTES > room {
                more = true;
                return true;
            }
            *said += SAID_BYTES;
            !writing.say(ends, sink)
        });
        more
    }

    /// Says what is due: of uploads, then blobs that are read, then listings. True where there is more than room.
    pub(crate) fn poll(
        &mut self,
        worker: &Worker,
        who: &Identity,
        (end, room): (u64, usize),
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        let mut more = !self.writings.is_empty() && self.say(end, room, said, sink);
        let name = worker.name();
        self.listings.retain_mut(|listing| {
            let over = listing.poll(&mut worker.core(), who, name, room, said, sink);
            more |= !over;
            !over
        });
        self.downloads.retain_mut(|download| {
            if download.gate > end {
                return true;
            }
            let before = *said;
            let over = download.poll(name, who.frame_max, room, said, sink);
            let bytes = u64::try_from(said.saturating_sub(before)).unwrap_or(u64::MAX);
            worker.counters.read_bytes.add(bytes);
            more |= !over;
            !over
        });
        // Who reads first changes, so that one blob does not starve the others.
        if more && !self.downloads.is_empty() {
            self.downloads.rotate_left(1);
        }
        more
    }

    /// Uploads that are whole on disk and hashed: each with what SEAL announced, and the hash. Where bytes are not hashed,
    /// somebody is asked to.
    pub(crate) fn whole(&mut self, events: u64, jobs: &Jobs) -> Vec<(u32, Sealing, [u8; 32])> {
        let ends = self.sync(events);
        let mut whole = Vec::new();
        for writing in &mut self.writings {
            writing.settle(ends);
            let State::Sealing(sealing) = writing.state else {
                writing.hash_on(jobs);
                continue;
            };
            let waits = writing.opening.is_some() || !writing.flight.is_empty();
            if waits || writing.seat.over().is_some() {
                continue;
            }
            let hashed = writing.hash.lock();
            let (broken, upto, hash) = (hashed.broken, hashed.upto(), hashed.hash());
            drop(hashed);
            if broken {
                writing.fail(Code::CORRUPT, 0);
            } else if upto == writing.size {
                whole.push((writing.upload, sealing, hash));
            } else {
                writing.hash_on(jobs);
            }
        }
        whole
    }
}

impl Writing {
    /// Asks for what is on disk and not hashed.
    fn hash_on(&mut self, jobs: &Jobs) {
        if self.opening.is_some() || !self.flight.is_empty() {
            return;
        }
        let mut hashed = self.hash.lock();
        if hashed.upto() >= self.stored || hashed.asked || hashed.broken {
            return;
        }
        hashed.asked = true;
        drop(hashed);
        let job = Job { upload: self.at, hash: self.hash.clone(), bell: self.seat.bell.clone() };
        jobs.ask(job);
    }
}
