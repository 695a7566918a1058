//! Reading what a socket has with one call, though TLS asks for 4 KiB at a time.
//!
//! Each thread has one buffer that is read into; a stream keeps it only while TLS has not taken all of it, which is within
//! the same turn. Invariant: no byte is dropped or overtaken, and a stream without unread bytes holds no buffer.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once: two TLS records.
const GULP: usize = 32 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream that is read in gulps.
#[derive(Debug)]
pub struct Gulp<S> {
    stream: S,
    held: Vec<u8>,
    begin: usize,
    end: usize,
}

impl<S> Gulp<S> {
    /// Reads `stream` in gulps.
    pub const fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), begin: 0, end: 0 }
    }

    /// Gives what is held, as much as is asked for; the buffer goes back to the thread with its last byte.
    fn give(&mut self, wanted: &mut ReadBuf<'_>) {
        let end = self.end.min(self.begin + wanted.remaining());
        wanted.put_slice(self.held.get(self.begin..end).unwrap_or_default());
        self.begin = end;
        if self.begin == self.end {
            SPARE.set(std::mem::take(&mut self.held));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gulp<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        wanted: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gulp = self.get_mut();
        if gulp.held.is_empty() {
            if wanted.remaining() >= GULP {
                return Pin::new(&mut gulp.stream).poll_read(cx, wanted);
            }
            let mut spare = SPARE.take();
            spare.resize(GULP, 0);
            let mut free = ReadBuf::new(&mut spare);
            let read = Pin::new(&mut gulp.stream).poll_read(cx, &mut free);
            let end = free.filled().len();
            if end == 0 {
                SPARE.set(spare);
                return read;
            }
            ready!(read)?;
            (gulp.held, gulp.begin, gulp.end) = (spare, 0, end);
        }
        gulp.give(wanted);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gulp<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Two streams of one thread in turns, each asked for a little at a time.
    #[tokio::test]
    async fn what_is_read_is_what_was_written_whoever_holds_the_buffer() {
        let (mut a, a_end) = duplex(1 << 20);
        let (mut b, b_end) = duplex(1 << 20);
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        a.write_all(&bytes).await.unwrap();
        b.write_all(&bytes).await.unwrap();
        drop((a, b));
        let (mut a, mut b) = (Gulp::new(a_end), Gulp::new(b_end));
        let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
        let mut part = [0; 4096];
        for step in 1.. {
            let want = 1 + step * 37 % 4096;
            let got = a.read(&mut part[..want]).await.unwrap();
            from_a.extend_from_slice(&part[..got]);
            let other = b.read(&mut part[..want / 2 + 1]).await.unwrap();
            from_b.extend_from_slice(&part[..other]);
            if got == 0 && other == 0 {
                break;
            }
        }
        assert!(from_a == bytes && from_b == bytes);
        assert!(a.held.is_empty() && b.held.is_empty());
    }
}
