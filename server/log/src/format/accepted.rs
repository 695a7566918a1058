//! The file of damages that an operator accepted: ranges of positions, sorted, with a check (log §8).

use bytes::{BufMut, BytesMut};

use super::{Take, crc, narrow32, wide};

const MAGIC: [u8; 8] = *b"SPILEACC";
/// Ranges one file holds; neighbours are joined.
pub(crate) const RANGES_MAX: usize = 4096;
/// Bytes of the largest file.
pub(crate) const FILE_BYTES_MAX: usize = 16 + RANGES_MAX * 16;

pub(crate) fn encode(ranges: &[(u64, u64)]) -> BytesMut {
    let mut out = BytesMut::with_capacity(16 + ranges.len() * 16);
    out.put_slice(&MAGIC);
    out.put_u32_le(narrow32(wide(ranges.len())));
    for (from, to) in ranges {
        out.put_u64_le(*from);
        out.put_u64_le(*to);
    }
    let check = crc(&[&out]);
    out.put_u32_le(check);
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let (body, check) = bytes.split_last_chunk::<4>()?;
    let mut take = Take(body);
    if crc(&[body]) != u32::from_le_bytes(*check) || take.array::<8>()? != MAGIC {
        return None;
    }
    let count = take.u32()? as usize;
    if count > RANGES_MAX || take.0.len() != count * 16 {
        return None;
    }
    (0..count).map(|_| Some((take.u64()?, take.u64()?))).collect()
}
