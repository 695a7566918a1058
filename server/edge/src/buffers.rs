//! Bytes on their way out, without a buffer of its own for a session that has none on its way. The way in is [`crate::inlet`].
//!
//! Each thread has one buffer for writing, which every session of the thread uses in its turn. Only what the socket did not
//! take is kept with the session. Invariant: no byte is dropped, and nothing is written but in order.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use spile_protocol::{
    code::Code,
    limits::FRAME_MAX,
    message::{Full, Message},
    session::Transmit,
};
use tokio::io::AsyncWrite;

use crate::limits;

thread_local! {
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The way out.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    /// What the stream did not take, from `at` on.
    unsent: Vec<u8>,
    at: usize,
    unflushed: bool,
}

impl Outlet {
    /// Writes what is left, then what `say` puts out, until that is nothing: ready when all is with the peer's socket.
    /// How many bytes were taken is added to `written`.
    pub(crate) fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        written: &mut u64,
        mut say: impl FnMut(&mut Context<'_>, &mut Turn<'_>),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.write_unsent(stream, cx))?;
            let mut buffer = WRITE.take();
            buffer.clear();
            say(cx, &mut Turn::of(&mut buffer));
            let said = buffer.len();
            *written += u64::try_from(said).unwrap_or(u64::MAX);
            let sent = self.write_now(stream, cx, &buffer);
            give_back(buffer);
            ready!(sent)?;
            if said == 0 {
                break;
            }
        }
        self.flush(stream, cx)
    }

    fn write_unsent<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.unsent.get(self.at..).filter(|rest| !rest.is_empty()) {
            self.at += ready!(some(Pin::new(&mut *stream).poll_write(cx, rest)))?;
        }
        (self.unsent, self.at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn write_now<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> Poll<io::Result<()>> {
        self.unflushed |= !bytes.is_empty();
        while !bytes.is_empty() {
            match some(Pin::new(&mut *stream).poll_write(cx, bytes)) {
                Poll::Ready(taken) => bytes = bytes.get(taken?..).unwrap_or_default(),
                Poll::Pending => {
                    self.unsent = bytes.to_vec();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn flush<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// A buffer that a rare long frame has grown does not stay with the thread.
fn give_back(buffer: Vec<u8>) {
    if buffer.capacity() <= limits::WRITE * 4 {
        WRITE.set(buffer);
    }
}

/// A stream that takes nothing is gone.
fn some(taken: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    match ready!(taken) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        taken => Poll::Ready(taken),
    }
}

/// One write's worth of frames: up to [`limits::WRITE`], or a single frame of any length.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    out: &'a mut Vec<u8>,
    /// The last FAULT that was put in.
    fault: Option<Code>,
}

impl<'a> Turn<'a> {
    fn of(out: &'a mut Vec<u8>) -> Self {
        Self { out, fault: None }
    }

    /// The last FAULT that was put in.
    pub(crate) const fn fault(&self) -> Option<Code> {
        self.fault
    }

    /// What was put in.
    pub(crate) fn said(&self) -> &[u8] {
        self.out
    }

    /// How much was put in.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// Takes all of `frames`, which may be many, and empties it.
    pub(crate) fn take_all(&mut self, frames: &mut Vec<u8>) {
        if self.out.is_empty() {
            std::mem::swap(self.out, frames);
        } else {
            self.out.append(frames);
        }
    }

    fn put_if_room(
        &mut self,
        length: usize,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), Full>,
    ) -> Result<(), Full> {
        if length > self.room() { Err(Full) } else { put(self.out) }
    }
}

/// The longest head, header and checksum around a payload.
const AROUND: usize = 4 * 1024;

impl Transmit for Turn<'_> {
    fn room(&self) -> usize {
        match self.out.len() {
            0 => usize::try_from(FRAME_MAX).unwrap_or(usize::MAX) + AROUND,
            len => limits::WRITE.saturating_sub(len),
        }
    }

    fn put(&mut self, message: &Message<'_>, payload_crc: u32) -> Result<(), Full> {
        self.put_if_room(message.payload().len(), |out| out.put(message, payload_crc))?;
        if let Message::Fault(fault) = message {
            self.fault = Some(fault.code);
        }
        Ok(())
    }

    fn put_frame(&mut self, frame: &[u8]) -> Result<(), Full> {
        self.put_if_room(frame.len(), |out| out.put_frame(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, duplex};

    #[tokio::test]
    async fn what_the_stream_does_not_take_is_sent_later_and_nothing_is_kept_in_the_end() {
        let (mut near, mut far) = duplex(1_000);
        let (mut outlet, mut left, mut written) = (Outlet::default(), 40_u8, 0);
        let write = std::future::poll_fn(|cx| {
            outlet.write(&mut near, cx, &mut written, |_, turn| {
                while left > 0 && turn.put_frame(&vec![left; 5_000]).is_ok() {
                    left -= 1;
                }
            })
        });
        let read = async {
            let mut got = vec![0; 200_000];
            far.read_exact(&mut got).await.unwrap();
            got
        };
        let (write, got) = tokio::join!(write, read);
        write.unwrap();
        let want: Vec<u8> = (1..=40).rev().flat_map(|left| vec![left; 5_000]).collect();
        assert!(got == want);
        assert_eq!((outlet.unflushed, outlet.unsent.capacity(), written), (false, 0, 200_000));
    }

    #[test]
    fn a_turn_ends_at_its_cap_but_a_single_long_frame_goes() {
        let mut out = Vec::new();
        let mut turn = Turn::of(&mut out);
        let long = vec![0; 300_000];
        assert_eq!(turn.put_frame(&long), Ok(()));
        assert_eq!(turn.put_frame(&[0]), Err(Full));
    }
}
