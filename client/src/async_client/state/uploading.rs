//! Uploads on their connection: opened, sent chunk by chunk behind every event, sealed; and opened again on the next.
//! spec §7.
//!
//! On the wire an upload's number is its place here. Invariants: a chunk goes out only where nothing else waits to be
//! written, one at a time, each upload in its turn; at most as many are here as a session may have open.

use std::task::{Context, Poll};

use spile_protocol::code::Code;
use spile_protocol::id;
use spile_protocol::limits;
use spile_protocol::message::{List, Meta, Open, Opened, Seal};
use spile_protocol::session::device::Refusal as Machine;
use spile_protocol::time::Instant;

use super::super::Error;
use super::super::error::Refusal;
use super::super::slab::Slab;
use super::super::upload::pace::Pace;
use super::super::upload::sending::{Next, Sending, What};
use super::super::upload::source::Read;
use super::{Leaving, Phase, State};

/// More than so much that waits to be written goes before the next chunk.
const BEHIND: usize = 4 * 1024;

/// All uploads of a client.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    sending: Slab<Sending>,
    count: usize,
    /// Whose turn it is.
    turn: usize,
    pace: Pace,
    /// Who waits for a place.
    waiting: Vec<std::task::Waker>,
}

fn place(upload: u32) -> usize {
    usize::try_from(upload).unwrap_or(usize::MAX)
}

fn on_the_wire(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// What can't be said in an OPEN is told before it is tried.
fn check(what: &What) -> Result<(), Error> {
    let wrong = |which: &'static str, why: String| {
        Err(Error::setup(which, why, "correct it; spec/protocol.md has the limits"))
    };
    if let Some(key) = &what.key
        && let Err(why) = id::key(key)
    {
        return wrong("key", format!("{key:?}: {why}"));
    }
    Error::unless_it_fits("name", &what.name, limits::BLOB_NAME_BYTES)?;
    Error::unless_it_fits("type", &what.content_type, limits::CONTENT_TYPE_BYTES)?;
    match meta(what, &mut [0; limits::META_BYTES]) {
        Some(_) => Ok(()),
        None => wrong("meta", format!("it takes more than {} bytes", limits::META_BYTES)),
    }
}

fn meta<'a>(what: &'a What, room: &'a mut [u8; limits::META_BYTES]) -> Option<List<'a, Meta<'a>>> {
    let items = what.meta.iter().map(|(name, value)| Meta { name, value });
    List::encode(items, room).ok()
}

/// What callers ask.
impl State {
    /// A place for an upload, when there is one.
    pub(in super::super) fn poll_upload_place(
        &mut self,
        what: &mut Option<What>,
        aborts: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        if let Err(why) = self.check().and_then(|()| what.as_ref().map_or(Ok(()), check)) {
            return Poll::Ready(Err(why));
        }
        if self.uploads.count >= limits::UPLOADS {
            if self.uploads.sending.iter_mut().all(|(_, sending)| sending.is_left()) {
                let refusal = Refusal::of(Code::TOO_MANY)
                    .detail("uploads were given up halfway; connect again, or finish them");
                return Poll::Ready(Err(refusal.into()));
            }
            if !self.uploads.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                self.uploads.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let Some(what) = what.take() else { return Poll::Ready(Err(Error::Closed)) };
        self.uploads.count += 1;
        self.dirty = true;
        let sending = if aborts { Sending::to_abort(what) } else { Sending::new(what) };
        Poll::Ready(Ok(self.uploads.sending.insert(sending)))
    }

    pub(in super::super) fn poll_upload(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        let next = self.uploads.sending.get_mut(number).map(|sending| sending.poll(cx));
        next.unwrap_or_else(|| Poll::Ready(Next::Over(Err(Error::Closed), Default::default())))
    }

    /// A block was read for it.
    pub(in super::super) fn offer(&mut self, number: usize, at: u64, read: Read) {
        if let Some(sending) = self.uploads.sending.get_mut(number) {
            sending.offer(at, read);
            self.dirty = true;
        }
    }

    /// Nobody waits for it any more. Where the server still has it open here, its number stays taken.
    pub(in super::super) fn leave_upload(&mut self, number: usize) {
        if self.uploads.sending.get_mut(number).is_some_and(Sending::leave) {
            self.remove_upload(number);
        }
    }

    /// What is over is told once.
    pub(in super::super) fn take_upload(&self, number: usize) -> Option<What> {
        self.uploads.sending.get(number).map(|sending| sending.what.clone())
    }

    fn remove_upload(&mut self, number: usize) {
        if self.uploads.sending.remove(number).is_some() {
            self.uploads.count -= 1;
            self.wake.append(&mut self.uploads.waiting);
        }
    }
}

/// What goes out.
impl State {
    /// Is there a session that takes something new?
    fn opens_uploads(&self) -> bool {
        self.phase == Phase::Open && !self.going && self.leaving == Leaving::No
    }

    /// OPEN of what waits for it, on a session that stands; and ABORT of what was opened to be forgotten.
    pub(super) fn open_uploads(&mut self) {
        if !self.opens_uploads() {
            return;
        }
        let now = self.now;
        for (number, sending) in self.uploads.sending.iter_mut() {
            if sending.forgets() && self.device.abort(on_the_wire(number), &mut self.said).is_ok() {
                sending.aborting();
            }
            if sending.opens_at().is_none_or(|at| at > now) {
                continue;
            }
            let mut room = [0; limits::META_BYTES];
            let Some(meta) = meta(&sending.what, &mut room) else { continue };
            let open = Open {
                upload: on_the_wire(number),
                id: sending.what.id,
                size: sending.what.size,
                key: sending.what.key.as_deref(),
                name: &sending.what.name,
                content_type: &sending.what.content_type,
                meta,
            };
            match self.device.open_upload(&open, &mut self.said) {
                Ok(()) => sending.asked(),
                // There is another session soon, or another upload ends.
                Err(Machine::Leaving | Machine::NotConnected) => return,
                Err(why) => {
                    let many = matches!(why, Machine::TooMany(_));
                    let code = if many { Code::TOO_MANY } else { Code::INVALID };
                    let refusal = Refusal::of(code).detail(&why.to_string());
                    sending.failed(refusal, now, &mut self.wake);
                }
            }
        }
    }

    /// When an upload is to be opened again.
    pub(super) fn uploads_due(&self) -> Option<Instant> {
        if self.uploads.count == 0 || !self.opens_uploads() {
            return None;
        }
        self.uploads.sending.iter().filter_map(|(_, sending)| sending.opens_at()).min()
    }

    /// One chunk, where nothing else waits to be written. spec §6.4
    pub(super) fn say_chunk(&mut self, out: &mut Vec<u8>) {
        if self.uploads.count == 0 || self.phase != Phase::Open || out.len() > BEHIND {
            return;
        }
        let places = self.uploads.sending.places();
        for step in 0..places {
            let number = (self.uploads.turn + step) % places;
            let sent = self.say_chunk_of(number, out);
            self.say_seal_of(number, out);
            match sent {
                Ok(true) => {
                    self.uploads.turn = number + 1;
                    return;
                }
                Ok(false) => {}
                // Credit, the link's pace or the session has none to give.
                Err(_) => return,
            }
        }
    }

    /// Did a chunk of this one go out?
    fn say_chunk_of(&mut self, number: usize, out: &mut Vec<u8>) -> Result<bool, Machine> {
        let Uploads { sending, pace, .. } = &mut self.uploads;
        let Some(sending) = sending.get_mut(number).filter(|sending| sending.chunk(1).is_some())
        else {
            return Ok(false);
        };
        let (_, credit) = self.device.chunk_room(on_the_wire(number))?;
        let room = pace.room(credit, sending.left());
        let Some(chunk) = sending.chunk(room).filter(|chunk| !chunk.is_empty()) else {
            return Err(Machine::Busy);
        };
        self.device.chunk(self.now, on_the_wire(number), &chunk, out)?;
        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        sending.sent(bytes);
        pace.sent(self.now, bytes);
        sending.hungry(&mut self.wake);
        Ok(true)
    }

    fn say_seal_of(&mut self, number: usize, out: &mut Vec<u8>) {
        let Some(sending) = self.uploads.sending.get_mut(number) else { return };
        let Some(blake3) = sending.seals() else { return };
        let seal = Seal { upload: on_the_wire(number), size: sending.what.size, blake3 };
        // Where the session is going away it is said on the next.
        if self.device.seal(&seal, out).is_ok() {
            sending.sealing();
        }
    }
}

/// What comes in.
impl State {
    pub(super) fn uploaded(&mut self, opened: &Opened<'_>) {
        let number = place(opened.upload);
        let Some(sending) = self.uploads.sending.get_mut(number) else { return };
        let stored = sending.opened(opened, &mut self.wake);
        if stored > 0 {
            self.uploads.pace.stored(self.now, stored);
        }
        if sending.is_left() && !opened.blob.is_empty() {
            self.remove_upload(number);
        }
        self.dirty = true;
    }

    /// The server has forgotten it.
    pub(super) fn upload_aborted(&mut self, upload: u32) {
        let number = place(upload);
        let Some(sending) = self.uploads.sending.get_mut(number) else { return };
        sending.aborted(&mut self.wake);
        if sending.is_left() {
            self.remove_upload(number);
        }
    }

    pub(super) fn upload_failed(&mut self, upload: u32, why: Refusal) {
        let number = place(upload);
        let Some(sending) = self.uploads.sending.get_mut(number) else { return };
        self.uploads.pace.dropped(sending.in_flight());
        if sending.is_left() {
            return self.remove_upload(number);
        }
        sending.failed(why, self.now, &mut self.wake);
        self.dirty = true;
    }

    /// The connection is gone, and with it what was left on it.
    pub(super) fn suspend_uploads(&mut self) {
        self.uploads.pace.disconnected();
        let mut left = Vec::new();
        for (number, sending) in self.uploads.sending.iter_mut() {
            if sending.is_left() {
                left.push(number);
            } else {
                sending.disconnected();
            }
        }
        left.into_iter().for_each(|number| self.remove_upload(number));
    }

    /// Over for good: everyone who waits hears why.
    pub(super) fn fail_uploads(&mut self, why: &Error) {
        for (_, sending) in self.uploads.sending.iter_mut() {
            sending.ended(why, &mut self.wake);
        }
        self.wake.append(&mut self.uploads.waiting);
    }
}
