//! Frames over tokio: a Decoder whose frames are slices of the read buffer, and an Encoder. spec §2.
//!
//! What is inside a frame is [`crate::message`]'s. A small body is copied out, so that it does not pin the buffer it came
//! in; a large one is a slice of it. A declared length above the limit is refused before any of the body is waited for,
//! and no room is made because a peer declared it: the buffer grows a step at a time, as bytes come.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    frame::{self, Frame, FrameError, Tag},
    message::{DecodeError, Full, Message, Sender},
};

/// Bodies below this are copied out of the read buffer.
pub const COPIED_BELOW: usize = 1024;
/// How far the read buffer grows at once, whatever a frame declares.
const STEP: usize = 64 * 1024;
/// The room a header is first tried with: hot kinds fit.
const HEAD_GUESS: usize = 96;
/// The longest room tried: above the longest frame of a link.
const HEAD_MOST: usize = 4 << 20;

/// A whole frame whose checksum is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Kind and flags.
    pub tag: Tag,
    /// What the kind's layout puts before the payload.
    pub header: Bytes,
    /// The payload; empty for kinds that have none.
    pub payload: Bytes,
    /// CRC-32 of the payload alone.
    pub payload_crc: u32,
}

impl Whole {
    /// The same, borrowed.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        let Self { tag, ref header, ref payload, payload_crc } = *self;
        Frame { tag, header, payload, payload_crc }
    }

    /// What it holds.
    pub fn message(&self, sender: Sender) -> Result<Message<'_>, DecodeError> {
        Message::decode(&self.frame(), sender)
    }
}

/// What to keep of `part`, which lies in `buffer`: a slice where it is large, a copy where it is small.
#[must_use]
pub fn keep(buffer: &Bytes, part: &[u8]) -> Bytes {
    if part.len() < COPIED_BELOW { Bytes::copy_from_slice(part) } else { buffer.slice_ref(part) }
}

/// Takes the frame at the front of `buffer`; `None` while it is not all there, and then there is room for more.
pub fn take(buffer: &mut BytesMut, limit: u32) -> Result<Option<Whole>, FrameError> {
    let Some(extent) = frame::measure(buffer, limit)? else { return Ok(None) };
    if buffer.len() < extent.end() {
        buffer.reserve((extent.end() - buffer.len()).min(STEP));
        return Ok(None);
    }
    let Frame { tag, header, payload_crc, .. } = frame::check(buffer, extent)?;
    let header = header.len();
    let body = extent.body_start..extent.body_end;
    let body = if body.len() < COPIED_BELOW {
        let copy = Bytes::copy_from_slice(buffer.get(body).unwrap_or_default());
        buffer.advance(extent.end());
        copy
    } else {
        buffer.split_to(extent.end()).freeze().slice(body)
    };
    Ok(Some(Whole {
        tag,
        header: body.slice(..header),
        payload: body.slice(header..),
        payload_crc,
    }))
}

/// Appends one frame to `out`, whole or not at all. `payload_crc` is the payload's own, as it came.
pub fn append(out: &mut BytesMut, message: &Message<'_>, payload_crc: u32) -> Result<(), Full> {
    let (before, payload) = (out.len(), message.payload());
    let mut room = HEAD_GUESS;
    loop {
        out.resize(before + room, 0);
        match message.encode_ends(payload_crc, out.get_mut(before..).unwrap_or_default()) {
            Ok(ends) => {
                out.truncate(before + ends.head);
                out.reserve(payload.len() + ends.crc.len());
                out.extend_from_slice(payload);
                out.extend_from_slice(&ends.crc);
                return Ok(());
            }
            Err(Full) if room < HEAD_MOST => room *= 8,
            Err(Full) => {
                out.truncate(before);
                return Err(Full);
            }
        }
    }
}

/// Frames in and out of a tokio-util `Framed`.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    limit: u32,
}

impl Codec {
    /// Refuses frames whose body is longer than `limit`.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self { limit }
    }

    /// Another limit from now on: what HELLO and WELCOME agreed.
    pub const fn limit(&mut self, limit: u32) {
        self.limit = limit;
    }
}

/// Why a stream of frames ends.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// What came is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The message does not fit any frame.
    #[error(transparent)]
    Full(#[from] Full),
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

impl Decoder for Codec {
    type Item = Whole;
    type Error = CodecError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Whole>, CodecError> {
        Ok(take(buffer, self.limit)?)
    }
}

/// A message and its payload's CRC, on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The message.
    pub message: Message<'a>,
    /// CRC-32 of its payload alone, as it came.
    pub payload_crc: u32,
}

impl Encoder<Outgoing<'_>> for Codec {
    type Error = CodecError;

    fn encode(&mut self, outgoing: Outgoing<'_>, out: &mut BytesMut) -> Result<(), CodecError> {
        Ok(append(out, &outgoing.message, outgoing.payload_crc)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crc,
        id::RouteId,
        message::{Event, Extras},
    };

    fn event(payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let event = Event { route: RouteId(3), extras: Extras::default(), payload };
        append(&mut out, &Message::Event(event), crc::of(payload)).unwrap();
        out
    }

    #[test]
    fn a_small_payload_does_not_pin_the_buffer_and_a_large_one_is_not_copied() {
        for (length, shared) in [(32, false), (COPIED_BELOW, true)] {
            let mut buffer = event(&std::vec![7; length]);
            let range = buffer.as_ptr_range();
            let whole = take(&mut buffer, 4096).unwrap().unwrap();
            assert_eq!(range.contains(&whole.payload.as_ptr()), shared, "{length}");
            assert_eq!(whole.payload_crc, crc::of(&whole.payload));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_declared_length_makes_no_room_for_itself() {
        let mut buffer = event(&std::vec![7; 1 << 20]);
        buffer.truncate(8);
        assert_eq!(take(&mut buffer, 2 << 20).unwrap(), None);
        assert!(buffer.capacity() - buffer.len() >= 1);
        let mut small = BytesMut::from(&buffer[..]);
        assert_eq!(take(&mut small, 2 << 20).unwrap(), None);
        assert!(small.capacity() <= 2 * STEP, "{}", small.capacity());
        let too_large = FrameError::TooLarge { length: (1 << 20) + 1, limit: 4096 };
        assert_eq!(take(&mut small, 4096), Err(too_large));
    }
}
