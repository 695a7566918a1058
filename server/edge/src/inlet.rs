//! Bytes on their way in: what a read brought is worked off at once, and only what is left of it is kept.
//!
//! Each thread has one buffer for reading, which every session of the thread uses in its turn; only a part of a frame is
//! kept with the session. A long frame, as a chunk's is, is read into a block of its own, which is handed on whole and
//! used again. Invariant: no byte that was read is dropped, and nothing is read but in order.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use spile_log::{LentBlock, limits::BLOCK_BYTES};
use spile_protocol::{frame::measure, limits::FRAME_LINK};
use tokio::io::{AsyncRead, ReadBuf};

use crate::limits;

thread_local! {
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is kept up to this length is copied to the front of the thread's buffer; a longer part of a frame grows where it
/// is, so that a large frame is copied once and not with each read.
const COPIED: usize = limits::READ / 4;

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// The peer sends nothing more.
    End,
}

/// What is there to be worked off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<'b> {
    /// What was read; what is worked off is taken off its front.
    pub(crate) bytes: &'b [u8],
    /// The block they stand in, where they have one of their own: a part of it is kept without being copied.
    pub(crate) block: Option<&'b Bytes>,
}

/// The way in.
#[derive(Debug, Default)]
pub(crate) struct Inlet {
    kept: Kept,
}

/// The beginning of a frame whose rest has not come.
#[derive(Debug)]
enum Kept {
    /// Of any frame.
    Part(Vec<u8>),
    /// Of a long one: so much of it is there, and so much is all of it.
    Long(Box<Long>),
}

#[derive(Debug)]
struct Long {
    block: LentBlock,
    filled: usize,
    whole: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self::Part(Vec::new())
    }
}

impl Kept {
    fn of(part: Vec<u8>) -> Self {
        match Long::begun(&part) {
            Some(long) => Self::Long(Box::new(long)),
            None => Self::Part(part),
        }
    }
}

impl Long {
    /// A frame that is worth a block of its own, and fits it.
    fn begun(part: &[u8]) -> Option<Self> {
        let extent = measure(part, FRAME_LINK).ok()??;
        let (whole, filled) = (extent.end(), part.len());
        if filled <= COPIED || filled >= whole || whole <= BLOCK_BYTES / 4 {
            return None;
        }
        let mut block = LentBlock::take();
        block.get_mut(..whole)?.get_mut(..filled)?.copy_from_slice(part);
        Some(Self { block, filled, whole })
    }

    /// Reads on, no further than the frame goes.
    fn fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Got>> {
        let frame = self.block.get_mut(..self.whole).unwrap_or_default();
        let got = ready!(fill(stream, cx, frame, self.filled))?;
        if let Got::Bytes(bytes) = got {
            self.filled += bytes;
        }
        Poll::Ready(Ok(got))
    }
}

impl Inlet {
    /// Reads what there is, at most [`limits::READ`] bytes or the rest of a long frame, and gives it to `work` behind what
    /// was kept. What `work` leaves is kept.
    pub(crate) fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Arrived<'_>),
    ) -> Poll<io::Result<Got>> {
        match std::mem::take(&mut self.kept) {
            Kept::Long(long) => self.read_long(long, stream, cx, work),
            Kept::Part(part) if part.len() > COPIED => self.read_on(part, stream, cx, work),
            Kept::Part(part) => self.read_into_thread_s(part, stream, cx, work),
        }
    }

    /// The frame has a block of its own, and is handed over with it.
    fn read_long<S: AsyncRead + Unpin>(
        &mut self,
        mut long: Box<Long>,
        stream: &mut S,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Arrived<'_>),
    ) -> Poll<io::Result<Got>> {
        let got = long.fill(stream, cx);
        if long.filled < long.whole {
            self.kept = Kept::Long(long);
            return got;
        }
        let Long { block, whole, .. } = *long;
        let block = block.freeze(whole);
        let mut arrived = Arrived { bytes: &block, block: Some(&block) };
        work(&mut arrived);
        self.kept = Kept::Part(arrived.bytes.to_vec());
        got
    }

    fn read_on<S: AsyncRead + Unpin>(
        &mut self,
        mut buffer: Vec<u8>,
        stream: &mut S,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Arrived<'_>),
    ) -> Poll<io::Result<Got>> {
        let begin = buffer.len();
        buffer.resize(begin + limits::READ, 0);
        let got = fill(stream, cx, &mut buffer, begin);
        let (end, left) = worked(&got, &buffer, begin, work);
        buffer.truncate(end);
        buffer.drain(..end - left);
        if left > 0 {
            self.kept = Kept::of(buffer);
        }
        got
    }

    fn read_into_thread_s<S: AsyncRead + Unpin>(
        &mut self,
        part: Vec<u8>,
        stream: &mut S,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Arrived<'_>),
    ) -> Poll<io::Result<Got>> {
        let mut buffer = READ.take();
        buffer.resize(COPIED + limits::READ, 0);
        let begin = part.len();
        if let Some(front) = buffer.get_mut(..begin) {
            front.copy_from_slice(&part);
        }
        let got = fill(stream, cx, &mut buffer, begin);
        let (end, left) = worked(&got, &buffer, begin, work);
        let rest = buffer.get(end - left..end).unwrap_or_default();
        self.kept = kept(part, rest, left != begin || got.is_ready());
        READ.set(buffer);
        got
    }
}

/// What is kept now, in place of what was.
fn kept(mut part: Vec<u8>, rest: &[u8], changed: bool) -> Kept {
    if rest.is_empty() {
        return Kept::default();
    }
    if changed {
        if let Some(long) = Long::begun(rest) {
            return Kept::Long(Box::new(long));
        }
        part.clear();
        part.extend_from_slice(rest);
    }
    Kept::Part(part)
}

/// Where what was read ends, and how much of it is left when `work` is done.
fn worked(
    got: &Poll<io::Result<Got>>,
    buffer: &[u8],
    begin: usize,
    work: impl FnOnce(&mut Arrived<'_>),
) -> (usize, usize) {
    let Poll::Ready(Ok(Got::Bytes(bytes))) = got else { return (begin, begin) };
    let end = begin + bytes;
    let mut arrived = Arrived { bytes: buffer.get(..end).unwrap_or_default(), block: None };
    work(&mut arrived);
    (end, arrived.bytes.len())
}

/// Reads into `buffer` from `begin` on until nothing more is there or it is full.
fn fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    begin: usize,
) -> Poll<io::Result<Got>> {
    let mut free = ReadBuf::new(buffer.get_mut(begin..).unwrap_or_default());
    while free.remaining() > 0 {
        let before = free.filled().len();
        match Pin::new(&mut *stream).poll_read(cx, &mut free) {
            Poll::Pending if before == 0 => return Poll::Pending,
            Poll::Pending => break,
            // What came before an error or the end is worked off first; the next read says it again.
            Poll::Ready(result)
                if before > 0 && (result.is_err() || free.filled().len() == before) =>
            {
                break;
            }
            Poll::Ready(result) => result?,
        }
        if free.filled().is_empty() {
            return Poll::Ready(Ok(Got::End));
        }
    }
    Poll::Ready(Ok(Got::Bytes(free.filled().len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spile_log::share;
    use spile_protocol::{
        frame::decode,
        message::{Chunk, Message},
        session::Transmit,
    };
    use tokio::io::{AsyncWriteExt, duplex};

    /// Reads all of a stream; `work` takes blocks of `block` bytes only.
    async fn read_all(mut stream: tokio::io::DuplexStream, block: usize) -> Vec<u8> {
        let (mut inlet, mut all) = (Inlet::default(), Vec::new());
        loop {
            let got = std::future::poll_fn(|cx| {
                inlet.read(&mut stream, cx, |arrived| {
                    while let Some((whole, rest)) = arrived.bytes.split_at_checked(block) {
                        all.extend_from_slice(whole);
                        arrived.bytes = rest;
                    }
                })
            });
            if got.await.unwrap() == Got::End {
                let Kept::Part(rest) = inlet.kept else { panic!("no frame") };
                assert!(all.is_empty() || rest.len() < block);
                return all;
            }
        }
    }

    #[tokio::test]
    async fn whole_frames_come_out_however_they_are_cut() {
        let bytes: Vec<u8> = (0..600_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        for (block, cut) in
            [(1, 7_000), (100, 99), (50_000, 4_096), (200_000, 65_536), (300_000, 1_000_000)]
        {
            let (mut near, far) = duplex(1 << 17);
            let sent = bytes.clone();
            let send = async move {
                for part in sent.chunks(cut) {
                    near.write_all(part).await.unwrap();
                }
            };
            let (got, ()) = tokio::join!(read_all(far, block), send);
            assert_eq!(got.len(), bytes.len() / block * block);
            assert!(got == bytes[..got.len()], "{block} {cut}");
        }
    }

    /// Frames of all lengths, each with whether its payload stood in a block of its own.
    async fn read_frames(mut stream: tokio::io::DuplexStream) -> Vec<(usize, bool)> {
        let (mut inlet, mut all) = (Inlet::default(), Vec::new());
        loop {
            let got = std::future::poll_fn(|cx| {
                inlet.read(&mut stream, cx, |arrived| {
                    while let Some((frame, used)) = decode(arrived.bytes, FRAME_LINK).unwrap() {
                        let block = arrived.block.and_then(|block| share(block, frame.payload));
                        assert!(block.as_ref().is_none_or(|block| block == frame.payload));
                        all.push((frame.payload.len(), block.is_some()));
                        arrived.bytes = &arrived.bytes[used..];
                    }
                })
            });
            if got.await.unwrap() == Got::End {
                return all;
            }
        }
    }

    #[tokio::test]
    async fn a_long_frame_has_a_block_of_its_own_and_no_byte_is_lost_around_it() {
        let lengths = [9, 262_144, 1, 70_000, 262_144, 300_000, 30_000, 262_144, 0, 1_000_000, 5];
        let mut bytes = Vec::new();
        for (length, fill) in lengths.into_iter().zip(1..) {
            let payload = vec![fill; length];
            let chunk = Chunk { upload: 1, offset: 0, payload: &payload };
            bytes.put(&Message::Chunk(chunk), spile_protocol::crc::of(&payload)).unwrap();
        }
        for cut in [1_000, 20_000, 65_536, 1 << 20] {
            let (mut near, far) = duplex(1 << 17);
            let sent = bytes.clone();
            let send = async move {
                for part in sent.chunks(cut) {
                    near.write_all(part).await.unwrap();
                }
            };
            let (got, ()) = tokio::join!(read_frames(far), send);
            assert_eq!(got.iter().map(|one| one.0).collect::<Vec<_>>(), lengths, "{cut}");
            for (length, own) in got {
                // Too long for a block, or not worth one.
                assert!(!own || (65_000..=262_144).contains(&length), "{cut}: {length}");
                assert!(own || length != 262_144, "{cut}: copied");
            }
        }
    }
}
