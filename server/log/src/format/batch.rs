//! A batch's header: what one write put down, and the salted tag that proves it is ours (log §4).

use bytes::BufMut;

use super::{Salt, Take};

pub(crate) const BYTES: usize = 64;
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"SPB\x01");
/// Batches begin at multiples of this.
pub(crate) const ALIGN: u64 = 8;

/// The header of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Bytes of the batch: this header, its records and the padding.
    pub(crate) length: u32,
    pub(crate) base: u64,
    pub(crate) end: u64,
    /// What was durable, one past the last, when this batch was written.
    pub(crate) synced_upto: u64,
    /// The tag of the batch before it in the segment; 0 for the first.
    pub(crate) prev_tag: u64,
    pub(crate) records: u32,
    /// CRC over the CRCs of its records.
    pub(crate) body_crc: u32,
    pub(crate) time_ms: u64,
}

impl Batch {
    /// Its bytes at `offset` of a segment with this salt, and its tag.
    pub(crate) fn encode(&self, salt: &Salt, offset: u64) -> ([u8; BYTES], u64) {
        let mut out = [0_u8; BYTES];
        let mut cursor = out.as_mut_slice();
        cursor.put_u32_le(MAGIC);
        cursor.put_u32_le(self.length);
        cursor.put_u64_le(self.base);
        cursor.put_u64_le(self.end);
        cursor.put_u64_le(self.synced_upto);
        cursor.put_u64_le(self.prev_tag);
        cursor.put_u32_le(self.records);
        cursor.put_u32_le(self.body_crc);
        cursor.put_u64_le(self.time_ms);
        let tag = tag(salt, offset, &out);
        let mut last = out.last_chunk_mut::<8>().map_or(&mut [][..], |c| c.as_mut_slice());
        last.put_u64_le(tag);
        (out, tag)
    }

    /// The header at the front of `bytes` and its tag, if the tag is right for this salt and offset.
    pub(crate) fn decode(bytes: &[u8], salt: &Salt, offset: u64) -> Option<(Self, u64)> {
        let whole = bytes.first_chunk::<BYTES>()?;
        let (batch, said) = Self::unchecked(whole)?;
        (said == tag(salt, offset, whole)).then_some((batch, said))
    }

    /// The same with the tag taken as it is.
    pub(crate) fn unchecked(bytes: &[u8]) -> Option<(Self, u64)> {
        let mut take = Take(bytes.first_chunk::<BYTES>()?);
        if take.u32()? != MAGIC {
            return None;
        }
        let batch = Self {
            length: take.u32()?,
            base: take.u64()?,
            end: take.u64()?,
            synced_upto: take.u64()?,
            prev_tag: take.u64()?,
            records: take.u32()?,
            body_crc: take.u32()?,
            time_ms: take.u64()?,
        };
        let said = take.u64()?;
        let sane = batch.length as usize > BYTES
            && batch.base < batch.end
            && batch.synced_upto <= batch.base;
        sane.then_some((batch, said))
    }

    /// First and last position of what may be a batch header, unchecked.
    pub(crate) fn hint(bytes: &[u8]) -> Option<(u64, u64)> {
        let mut take = Take(bytes);
        (take.u32()? == MAGIC).then_some(())?;
        take.u32()?;
        Some((take.u64()?, take.u64()?))
    }
}

/// log §4: 64 bits of BLAKE3, keyed with the salt, over the offset and the header before the tag.
fn tag(salt: &Salt, offset: u64, header: &[u8; BYTES]) -> u64 {
    let mut message = [0_u8; BYTES];
    let mut cursor = message.as_mut_slice();
    cursor.put_u64_le(offset);
    cursor.put_slice(header.split_last_chunk::<8>().map_or(&[][..], |(front, _)| front));
    let hash = blake3::keyed_hash(salt, &message);
    hash.as_bytes().first_chunk::<8>().map_or(0, |c| u64::from_le_bytes(*c))
}
