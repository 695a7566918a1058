//! A session's place on a link: what it says goes into the link's buffer, what it is told waits in its inbox.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use spile_protocol::{
    code::Code,
    frame,
    id::{LinkSessionId, Number},
    limits::FRAME_LINK,
    message::{Detach, Message, Sender, Void},
    session::{Amount, Transmit},
    time::Millis,
};

use super::{AWAY, Wire};
use crate::limits::LINK_INBOX;
use crate::upstream::{Input, Port, Ready};

/// What a worker has said to a session and its task has not taken.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Frames, one after the other.
    frames: Vec<u8>,
    /// The link is gone.
    closed: bool,
    waker: Option<Waker>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a message in; false where it is full.
    pub(super) fn put(&self, message: &Message<'_>, payload_crc: u32) -> bool {
        let mut waiting = self.lock();
        let fits = waiting.frames.len() + message.payload().len() <= LINK_INBOX;
        fits && waiting.frames.put(message, payload_crc).is_ok()
    }

    /// Wakes the session's task.
    pub(super) fn ring(&self) {
        if let Some(waker) = self.lock().waker.take() {
            waker.wake();
        }
    }

    /// The link is gone: what is here is not said any more.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        (waiting.closed, waiting.frames) = (true, Vec::new());
        drop(waiting);
        self.ring();
    }
}

/// A session's place on a link.
pub(super) struct LinkPort {
    wire: Arc<Wire>,
    generation: u64,
    session: LinkSessionId,
    inbox: Arc<Inbox>,
    /// What was taken out of the inbox and not said yet, from `at` on.
    taken: Vec<u8>,
    at: usize,
    flight: Amount,
}

impl LinkPort {
    pub(super) fn new(
        wire: Arc<Wire>,
        generation: u64,
        session: LinkSessionId,
        inbox: Arc<Inbox>,
    ) -> Self {
        let (taken, flight) = (Vec::new(), Amount::default());
        Self { wire, generation, session, inbox, taken, at: 0, flight }
    }

    fn is_dead(&self) -> bool {
        self.inbox.lock().closed
    }

    /// Does the session's number still mean this session? It may be another's once the worker has ended this one.
    fn is_attached(&self, shared: &super::Shared) -> bool {
        let same = |inbox: &Arc<Inbox>| Arc::ptr_eq(inbox, &self.inbox);
        shared.generation == self.generation && shared.inbox(self.session).is_some_and(same)
    }
}

impl Port for LinkPort {
    fn take<'b>(&mut self, now: Millis, inputs: &mut dyn Iterator<Item = Input<'b>>) {
        // Judged before the link is locked: others use it meanwhile.
        let inputs: Vec<_> = inputs.collect();
        let mut shared = self.wire.lock();
        if !self.is_attached(&shared) {
            return;
        }
        let super::Shared { machine: Some(machine), out, bulk, .. } = &mut *shared else { return };
        for input in inputs {
            if bulk.keep(self.session, &input) {
                continue;
            }
            let Input { message, number, payload_crc, .. } = input;
            let time = if number == Number(0) { Millis(0) } else { now };
            let sent = if let Message::Void(void) = message {
                machine.void(&Void { session: self.session, ..void }, out)
            } else {
                machine.send(self.session, number, time, &message, payload_crc, out)
            };
            if sent.is_err() {
                // The worker has ended the session or the link is closing: the inbox says so next.
                break;
            }
        }
        shared.wake_driver();
    }

    fn poll(&mut self, room: usize, sink: &mut dyn FnMut(&Message<'_>, u32)) {
        let mut left = room;
        loop {
            if self.at >= self.taken.len() {
                self.at = 0;
                self.taken = std::mem::take(&mut self.inbox.lock().frames);
            }
            let rest = self.taken.get(self.at..).unwrap_or_default();
            let Ok(Some((whole, used))) = frame::decode(rest, FRAME_LINK) else { break };
            if used > left && left < room {
                return;
            }
            if let Ok(message) = Message::decode(&whole, Sender::Server) {
                sink(&message, whole.payload_crc);
            }
            self.at += used;
            left = left.saturating_sub(used);
        }
        (self.taken, self.at) = (Vec::new(), 0);
    }

    fn in_flight(&mut self, amount: Amount) {
        if amount == self.flight {
            return;
        }
        let before = std::mem::replace(&mut self.flight, amount);
        let mut shared = self.wire.lock();
        if shared.generation == self.generation
            && let Some(machine) = &mut shared.machine
        {
            machine.account(before, amount);
            shared.wake_blocked();
        }
    }

    fn has_room(&self) -> bool {
        let shared = self.wire.lock();
        let dead = shared.generation != self.generation;
        dead || (shared.has_room() && shared.bulk.has_room(self.session))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        if self.is_dead() {
            return Poll::Ready(Ready::Away(AWAY));
        }
        if self.at < self.taken.len() {
            return Poll::Ready(Ready::Some);
        }
        if !self.has_room() {
            let mut shared = self.wire.lock();
            if shared.has_room() {
                shared.bulk.wake_then(self.session, cx.waker());
            } else {
                shared.blocked.push(cx.waker().clone());
            }
        }
        let mut waiting = self.inbox.lock();
        if waiting.closed {
            return Poll::Ready(Ready::Away(AWAY));
        }
        if !waiting.frames.is_empty() {
            return Poll::Ready(Ready::Some);
        }
        if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for LinkPort {
    fn drop(&mut self) {
        self.in_flight(Amount::default());
        let mut shared = self.wire.lock();
        if self.is_attached(&shared) {
            shared.detach(self.session, Code(0));
        }
    }
}

/// What a session hears when its worker has let go of it.
pub(super) fn detached(session: LinkSessionId, code: Code) -> Message<'static> {
    Message::Detach(Detach { session, code })
}
