//! A segment's header: 256 bytes, kept twice in the first page (log §3).

use bytes::{BufMut, BytesMut};

use super::{Hash, Salt, Take, crc, pad_to};

pub(crate) const MAGIC: [u8; 8] = *b"SPILELOG";
pub(crate) const FORMAT: u32 = 1;
const COPY_BYTES: usize = 256;
const SECOND_COPY: usize = 2048;

/// The segment before this one may lack its footer: it is written once this one is there.
pub(crate) const AFTER_UNSEALED: u32 = 1;
/// Positions may jump: records nobody wanted were left out.
pub(crate) const REWRITTEN: u32 = 2;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u32,
    pub(crate) id: u64,
    pub(crate) base: u64,
    /// Time of the last record before it: no record of it is earlier.
    pub(crate) time_floor: u64,
    pub(crate) salt: Salt,
    pub(crate) prev_id: u64,
    pub(crate) prev_hash: Hash,
}

/// Why a header page was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Neither copy is whole.
    Damaged,
    /// A later format than this program knows.
    Version(u32),
}

impl Header {
    /// The whole first page.
    pub(crate) fn encode_page(&self) -> BytesMut {
        let one = self.encode();
        let mut page = BytesMut::with_capacity(4096);
        page.extend_from_slice(&one);
        pad_to(&mut page, SECOND_COPY);
        page.extend_from_slice(&one);
        pad_to(&mut page, 4096);
        page
    }

    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(COPY_BYTES);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(self.flags);
        out.put_u64_le(self.id);
        out.put_u64_le(self.base);
        out.put_u64_le(self.time_floor);
        out.put_slice(&self.salt);
        out.put_u64_le(self.prev_id);
        out.put_slice(&self.prev_hash);
        pad_to(&mut out, COPY_BYTES - 4);
        let check = crc(&[&out]);
        out.put_u32_le(check);
        out
    }

    /// The header, and whether both copies were whole and equal.
    pub(crate) fn decode_page(page: &[u8]) -> Result<(Self, bool), HeaderError> {
        let first = page.get(..COPY_BYTES).map_or(Err(HeaderError::Damaged), Self::decode);
        let second = page
            .get(SECOND_COPY..SECOND_COPY + COPY_BYTES)
            .map_or(Err(HeaderError::Damaged), Self::decode);
        match (first, second) {
            (Ok(a), Ok(b)) => Ok((a.clone(), a == b && rest_is_zero(page))),
            (Ok(a), Err(_)) | (Err(_), Ok(a)) => Ok((a, false)),
            (Err(HeaderError::Version(v)), Err(_)) | (Err(_), Err(HeaderError::Version(v))) => {
                Err(HeaderError::Version(v))
            }
            (Err(HeaderError::Damaged), Err(HeaderError::Damaged)) => Err(HeaderError::Damaged),
        }
    }

    fn decode(copy: &[u8]) -> Result<Self, HeaderError> {
        let (body, check) = copy.split_last_chunk::<4>().ok_or(HeaderError::Damaged)?;
        if crc(&[body]) != u32::from_le_bytes(*check) {
            return Err(HeaderError::Damaged);
        }
        let mut take = Take(body);
        let read = |take: &mut Take<'_>| {
            let magic = take.array::<8>()?;
            let format = take.u32()?;
            let header = Self {
                flags: take.u32()?,
                id: take.u64()?,
                base: take.u64()?,
                time_floor: take.u64()?,
                salt: take.array()?,
                prev_id: take.u64()?,
                prev_hash: take.array()?,
            };
            let known = format != FORMAT || header.flags & !(AFTER_UNSEALED | REWRITTEN) == 0;
            (magic == MAGIC && known).then_some((format, header))
        };
        match read(&mut take) {
            Some((FORMAT, header)) => Ok(header),
            Some((other, _)) => Err(HeaderError::Version(other)),
            None => Err(HeaderError::Damaged),
        }
    }
}

fn rest_is_zero(page: &[u8]) -> bool {
    let parts = [page.get(COPY_BYTES..SECOND_COPY), page.get(SECOND_COPY + COPY_BYTES..)];
    parts.into_iter().flatten().all(|part| part.iter().all(|b| *b == 0))
}
