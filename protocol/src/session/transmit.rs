//! Where frames go: a buffer of the caller's that says how much room it has.
//!
//! A frame goes in whole or not at all. The payload's CRC is given, not made: it is continued over the header (idea 3).

use crate::{
    frame,
    message::{Full, Message},
};

/// Takes frames.
pub trait Transmit {
    /// How many bytes it would still take.
    fn room(&self) -> usize;

    /// Appends one frame, whole or not at all. `payload_crc` is the CRC-32 of the message's payload as it came.
    fn put(&mut self, message: &Message<'_>, payload_crc: u32) -> Result<(), Full>;

    /// Appends one frame that is encoded already, whole or not at all.
    fn put_frame(&mut self, frame: &[u8]) -> Result<(), Full>;
}

/// Frames one after the other in a slice.
#[derive(Debug)]
pub struct Cursor<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Writes to the front of `out`.
    #[must_use]
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    /// What was written.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        self.out.get(..self.at).unwrap_or_default()
    }

    /// How much was written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.at
    }

    /// Was nothing written?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }
}

impl Transmit for Cursor<'_> {
    fn room(&self) -> usize {
        self.out.len() - self.at
    }

    fn put(&mut self, message: &Message<'_>, payload_crc: u32) -> Result<(), Full> {
        let free = self.out.get_mut(self.at..).ok_or(Full)?;
        let payload = message.payload();
        let ends = message.encode_ends(payload_crc, free)?;
        let (into, behind) = free
            .get_mut(ends.head..)
            .and_then(|rest| rest.split_at_mut_checked(payload.len()))
            .ok_or(Full)?;
        behind.get_mut(..frame::CRC_BYTES).ok_or(Full)?.copy_from_slice(&ends.crc);
        into.copy_from_slice(payload);
        self.at += ends.head + payload.len() + frame::CRC_BYTES;
        Ok(())
    }

    fn put_frame(&mut self, frame: &[u8]) -> Result<(), Full> {
        let free = self.out.get_mut(self.at..).ok_or(Full)?;
        free.get_mut(..frame.len()).ok_or(Full)?.copy_from_slice(frame);
        self.at += frame.len();
        Ok(())
    }
}

/// Takes frames up to so many bytes: one turn's share of a buffer that would grow.
#[derive(Debug)]
pub struct Limited<'a, T> {
    inner: &'a mut T,
    left: usize,
}

impl<'a, T: Transmit> Limited<'a, T> {
    /// At most `bytes` more go into `inner`.
    pub const fn new(inner: &'a mut T, bytes: usize) -> Self {
        Self { inner, left: bytes }
    }

    fn account(&mut self, put: impl FnOnce(&mut T) -> Result<(), Full>) -> Result<(), Full> {
        let before = self.inner.room();
        put(self.inner)?;
        self.left = self.left.saturating_sub(before - self.inner.room());
        Ok(())
    }
}

/// The longest head and CRC of a frame whose header is `fields` long.
const fn around(payload: usize) -> usize {
    frame::HEAD_BYTES + payload + frame::CRC_BYTES
}

impl<T: Transmit> Transmit for Limited<'_, T> {
    fn room(&self) -> usize {
        self.left.min(self.inner.room())
    }

    fn put(&mut self, message: &Message<'_>, payload_crc: u32) -> Result<(), Full> {
        if around(message.payload().len()) > self.left {
            return Err(Full);
        }
        self.account(|inner| inner.put(message, payload_crc))
    }

    fn put_frame(&mut self, frame: &[u8]) -> Result<(), Full> {
        if frame.len() > self.left {
            return Err(Full);
        }
        self.account(|inner| inner.put_frame(frame))
    }
}

/// A growing buffer's most: what the longest frame of a link takes is far below.
#[cfg(feature = "alloc")]
const GROWS: usize = 1 << 30;

/// The room a header is first tried with: hot kinds fit, others are tried again with more.
#[cfg(feature = "alloc")]
const HEAD_GUESS: usize = 64;

#[cfg(feature = "alloc")]
macro_rules! growing {
    ($buffer:ty) => {
        impl Transmit for $buffer {
            fn room(&self) -> usize {
                GROWS.saturating_sub(self.len())
            }

            fn put(&mut self, message: &Message<'_>, payload_crc: u32) -> Result<(), Full> {
                let (before, payload) = (self.len(), message.payload());
                let mut guess = HEAD_GUESS;
                loop {
                    self.resize(before + guess, 0);
                    let free = self.get_mut(before..).unwrap_or_default();
                    match message.encode_ends(payload_crc, free) {
                        Ok(ends) => {
                            self.truncate(before + ends.head);
                            self.extend_from_slice(payload);
                            self.extend_from_slice(&ends.crc);
                            return Ok(());
                        }
                        // spec §10.3: no header is longer than the longest frame.
                        Err(Full) if guess < 4 << 20 => guess *= 8,
                        Err(Full) => {
                            self.truncate(before);
                            return Err(Full);
                        }
                    }
                }
            }

            fn put_frame(&mut self, frame: &[u8]) -> Result<(), Full> {
                self.extend_from_slice(frame);
                Ok(())
            }
        }
    };
}

#[cfg(feature = "alloc")]
growing!(alloc::vec::Vec<u8>);
#[cfg(feature = "codec")]
growing!(bytes::BytesMut);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crc,
        id::RouteId,
        message::{Event, Extras, Fault, Scope},
    };

    #[test]
    fn every_buffer_holds_the_same_bytes() {
        let detail = core::str::from_utf8(&[b'x'; 200]).unwrap();
        let fault = Fault {
            code: crate::code::Code::BUSY,
            scope: Scope::Session,
            retry: true,
            retry_after_ms: 9,
            detail,
        };
        let event = Event { route: RouteId(3), extras: Extras::default(), payload: b"21.5" };
        let mut space = [0; 512];
        let mut cursor = Cursor::new(&mut space);
        let mut vec = std::vec::Vec::new();
        for message in [Message::Event(event), Message::Fault(fault)] {
            cursor.put(&message, crc::of(message.payload())).unwrap();
            vec.put(&message, crc::of(message.payload())).unwrap();
        }
        assert_eq!(cursor.written(), vec);
    }

    #[test]
    fn a_frame_goes_in_whole_or_not_at_all() {
        let event = Message::Event(Event {
            route: RouteId(3),
            extras: Extras::default(),
            payload: b"21.5",
        });
        for room in 0..11 {
            let mut space = [0; 11];
            let mut cursor = Cursor::new(&mut space[..room]);
            assert_eq!(cursor.put(&event, 0), Err(Full), "{room}");
            assert!(cursor.is_empty());
        }
        let mut vec = std::vec::Vec::new();
        assert_eq!(Limited::new(&mut vec, 9).put(&event, 0), Err(Full));
        assert!(vec.is_empty());
    }
}
