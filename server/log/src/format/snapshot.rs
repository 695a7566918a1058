//! A snapshot file: a header, blocks with their checks, and an end that says they were all there (log §8).

use bytes::{BufMut, BytesMut};

use super::{Hash, Take, crc, narrow32, wide};

const MAGIC: [u8; 8] = *b"SPILESNP";
const FORMAT: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 24;
pub(crate) const BLOCK_HEADER: usize = 8;
/// Largest block. A longer write is cut into several.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
pub(crate) const END_BYTES: usize = BLOCK_HEADER + 8 + 32;

/// The file's first bytes.
pub(crate) fn encode_header(position: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER_BYTES);
    out.put_slice(&MAGIC);
    out.put_u32_le(FORMAT);
    out.put_u64_le(position);
    let check = crc(&[&out]);
    out.put_u32_le(check);
    out
}

/// The position it was made at.
pub(crate) fn decode_header(bytes: &[u8]) -> Option<u64> {
    let (body, check) = bytes.get(..HEADER_BYTES)?.split_last_chunk::<4>()?;
    let mut take = Take(body);
    let right = crc(&[body]) == u32::from_le_bytes(*check)
        && take.array::<8>()? == MAGIC
        && take.u32()? == FORMAT;
    let position = take.u64()?;
    right.then_some(position)
}

fn block_crc(position: u64, number: u64, data: &[u8]) -> u32 {
    crc(&[&position.to_le_bytes(), &number.to_le_bytes(), &wide(data.len()).to_le_bytes(), data])
}

/// The eight bytes before block `number`.
pub(crate) fn encode_block_header(position: u64, number: u64, data: &[u8]) -> [u8; BLOCK_HEADER] {
    let mut out = [0_u8; BLOCK_HEADER];
    let mut cursor = out.as_mut_slice();
    cursor.put_u32_le(narrow32(wide(data.len())));
    cursor.put_u32_le(block_crc(position, number, data));
    out
}

/// Length and check of the block behind these bytes; length 0 is the end.
pub(crate) fn decode_block_header(bytes: &[u8]) -> Option<(usize, u32)> {
    let mut take = Take(bytes);
    let (length, check) = (take.u32()? as usize, take.u32()?);
    (length <= BLOCK_BYTES).then_some((length, check))
}

/// Whether `data` is block `number` of the snapshot at `position`.
pub(crate) fn block_holds(position: u64, number: u64, data: &[u8], check: u32) -> bool {
    block_crc(position, number, data) == check
}

/// The end: an empty block, the total length and the hash of all data.
pub(crate) fn encode_end(position: u64, number: u64, total: u64, hash: &Hash) -> BytesMut {
    let mut body = BytesMut::with_capacity(40);
    body.put_u64_le(total);
    body.put_slice(hash);
    let mut out = BytesMut::with_capacity(END_BYTES);
    out.put_u32_le(0);
    out.put_u32_le(block_crc(position, number, &body));
    out.extend_from_slice(&body);
    out
}

/// Total length and hash that the end says.
pub(crate) fn decode_end(position: u64, number: u64, bytes: &[u8]) -> Option<(u64, Hash)> {
    let mut take = Take(bytes.get(..END_BYTES)?);
    let (length, check) = (take.u32()?, take.u32()?);
    let right = length == 0 && block_holds(position, number, take.0, check);
    let end = (take.u64()?, take.array()?);
    right.then_some(end)
}
