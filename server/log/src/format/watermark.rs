//! The watermark file: two slots, written in turn, that say what is proven synced and what retention removed (log §7).

use bytes::{BufMut, BytesMut};

use super::{Take, crc, pad_to};

pub(crate) const SLOT: usize = 4096;
pub(crate) const FILE_BYTES: u64 = 8192;
const MAGIC: [u8; 8] = *b"SPILEWM\x01";
const SLOT_BODY: usize = 36;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Counts writes: the higher valid slot is the newer. It is written to slot `turn % 2`.
    pub(crate) turn: u64,
    /// One past the last position proven synced.
    pub(crate) durable: u64,
    /// The first position that retention left: what is below was removed on purpose.
    pub(crate) floor: u64,
}

impl Watermark {
    pub(crate) fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(SLOT);
        out.put_slice(&MAGIC);
        out.put_u64_le(self.turn);
        out.put_u64_le(self.durable);
        out.put_u64_le(self.floor);
        let check = crc(&[&out]);
        out.put_u32_le(check);
        pad_to(&mut out, SLOT);
        out
    }

    pub(crate) fn decode(slot: &[u8]) -> Option<Self> {
        let (body, check) = slot.get(..SLOT_BODY)?.split_last_chunk::<4>()?;
        let mut take = Take(body);
        let right = crc(&[body]) == u32::from_le_bytes(*check) && take.array::<8>()? == MAGIC;
        let mark = Self { turn: take.u64()?, durable: take.u64()?, floor: take.u64()? };
        right.then_some(mark)
    }

    /// Where this turn's slot begins.
    pub(crate) fn offset(&self) -> u64 {
        (self.turn % 2) * 4096
    }
}
