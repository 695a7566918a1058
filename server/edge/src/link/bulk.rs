//! What sessions say of uploads and has to wait for credit of the link: chunks, and behind them the rest of the same
//! session's uploads, in order. spec §10.6.2.
//!
//! Sessions take turns, a chunk each. The invariants: in front of each that waits stands a chunk; and a session holds one read
//! at most beyond [`LINK_BULK`](crate::limits::LINK_BULK), since it reads nothing more while that is passed and its own wait.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;
use spile_protocol::{
    frame,
    id::{LinkSessionId, Number},
    limits::FRAME_LINK,
    message::{Chunk, Message, Sender},
    session::{
        Transmit,
        link::{Edge as Machine, Refusal},
    },
    time::Millis,
};

use crate::limits::{LINK_BULK, WRITE};
use crate::upstream::Input;

#[derive(Debug, Default)]
pub(super) struct Bulk {
    waiting: HashMap<LinkSessionId, Waiting>,
    turns: VecDeque<LinkSessionId>,
    /// What all that waits here takes.
    bytes: usize,
}

/// A session's.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Held>,
    /// Its task, where it reads nothing until all is gone.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Held {
    Chunk {
        upload: u32,
        offset: u64,
        payload: Bytes,
        payload_crc: u32,
    },
    /// Anything else, as the frame it is.
    Frame(Vec<u8>),
}

impl Held {
    fn of(input: &Input<'_>) -> Option<Self> {
        let Input { message, payload_crc, block, .. } = *input;
        if let Message::Chunk(Chunk { upload, offset, payload }) = message {
            let shared = block.and_then(|block| spile_log::share(block, payload));
            let payload = shared.unwrap_or_else(|| Bytes::copy_from_slice(payload));
            return Some(Self::Chunk { upload, offset, payload, payload_crc });
        }
        let mut frame = Vec::new();
        frame.put(&message, payload_crc).ok()?;
        Some(Self::Frame(frame))
    }

    /// What it takes of the memory: a payload of one byte is not one byte.
    fn bytes(&self) -> usize {
        let own = match self {
            Self::Chunk { payload, .. } => payload.len(),
            Self::Frame(frame) => frame.len(),
        };
        size_of::<Self>() + own
    }

    fn say(
        &self,
        session: LinkSessionId,
        machine: &mut Machine,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let mut send = |message: &Message<'_>, payload_crc| {
            machine.send(session, Number(0), Millis(0), message, payload_crc, out)
        };
        match self {
            &Self::Chunk { upload, offset, ref payload, payload_crc } => {
                send(&Message::Chunk(Chunk { upload, offset, payload }), payload_crc)
            }
            Self::Frame(bytes) => {
                // It was put here as a frame, and is one.
                let Ok(Some((frame, _))) = frame::decode(bytes, FRAME_LINK) else { return Ok(()) };
                match Message::decode(&frame, Sender::Client) {
                    Ok(message) => send(&message, frame.payload_crc),
                    Err(_) => Ok(()),
                }
            }
        }
    }
}

/// Is it about an upload?
const fn is_of_upload(message: &Message<'_>) -> bool {
    matches!(message, Message::Open(_) | Message::Seal(_) | Message::Abort(_))
}

impl Bulk {
    /// Keeps what has to wait its turn; false: it may be said at once.
    pub(super) fn keep(&mut self, session: LinkSessionId, input: &Input<'_>) -> bool {
        let is_chunk = matches!(input.message, Message::Chunk(_));
        let behind = is_of_upload(&input.message) && self.waiting.contains_key(&session);
        if !is_chunk && !behind {
            return false;
        }
        let Some(held) = Held::of(input) else { return false };
        self.bytes += held.bytes();
        let turns = &mut self.turns;
        let waiting = self.waiting.entry(session).or_insert_with(|| {
            turns.push_back(session);
            Waiting::default()
        });
        waiting.messages.push_back(held);
        true
    }

    /// Says what the link has credit for, a write's worth and at least one chunk.
    pub(super) fn say(&mut self, machine: &mut Machine, out: &mut Vec<u8>) {
        let begun = out.len();
        while out.len() - begun < WRITE
            && let Some(&session) = self.turns.front()
            && self.say_one(session, machine, out)
        {
            self.turns.pop_front();
            if self.waiting.get(&session).is_some_and(|waiting| waiting.messages.is_empty()) {
                self.forget(session);
            } else {
                self.turns.push_back(session);
            }
        }
    }

    /// A chunk, and what follows it up to the next; false where there is no credit.
    fn say_one(
        &mut self,
        session: LinkSessionId,
        machine: &mut Machine,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(Waiting { messages, .. }) = self.waiting.get_mut(&session) else { return true };
        let Some(chunk) = messages.front() else { return true };
        if chunk.say(session, machine, out) == Err(Refusal::NoCredit) {
            return false;
        }
        // Any other refusal: the session or the link is over, and hears so.
        self.bytes -= messages.pop_front().as_ref().map_or(0, Held::bytes);
        while let Some(Held::Frame(_)) = messages.front()
            && let Some(frame) = messages.pop_front()
        {
            self.bytes -= frame.bytes();
            if let Err(why) = frame.say(session, machine, out) {
                tracing::debug!(%session, %why, "nothing more is said of an upload");
            }
        }
        true
    }

    /// Drops what is here of a session, and wakes it.
    pub(super) fn forget(&mut self, session: LinkSessionId) {
        let Some(Waiting { messages, waker }) = self.waiting.remove(&session) else { return };
        self.bytes -= messages.iter().map(Held::bytes).sum::<usize>();
        if !messages.is_empty() {
            self.turns.retain(|&waits| waits != session);
        }
        waker.into_iter().for_each(Waker::wake);
    }

    /// May the session bring more?
    pub(super) fn has_room(&self, session: LinkSessionId) -> bool {
        self.bytes < LINK_BULK || !self.waiting.contains_key(&session)
    }

    /// Wakes the session's task when it may.
    pub(super) fn wake_then(&mut self, session: LinkSessionId, waker: &Waker) {
        if let Some(waiting) = self.waiting.get_mut(&session) {
            waiting.waker = Some(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use spile_protocol::message::Seal;

    use super::*;

    const ONE: LinkSessionId = LinkSessionId(1);

    fn keep(bulk: &mut Bulk, message: Message<'_>) -> bool {
        bulk.keep(ONE, &Input { message, number: Number(0), payload_crc: 0, block: None })
    }

    #[test]
    fn what_is_small_fills_the_room_too() {
        let mut bulk = Bulk::default();
        let seal = || Message::Seal(Seal { upload: 1, size: 1, blake3: [0; 32] });
        assert!(!keep(&mut bulk, seal()), "nothing stands before it");
        let mut held = 0_u64;
        while bulk.has_room(ONE) {
            let offset = held;
            assert!(keep(&mut bulk, Message::Chunk(Chunk { upload: 1, offset, payload: b"x" })));
            assert!(keep(&mut bulk, seal()));
            held += 1;
        }
        let least = 2 * size_of::<Held>() * usize::try_from(held).unwrap();
        assert!(least < LINK_BULK, "{held} of each take {least} at least");
        bulk.forget(ONE);
        assert_eq!(bulk.bytes, 0);
    }
}
