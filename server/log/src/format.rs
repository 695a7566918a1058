//! The bytes on disk: every layout is drawn once here and in `spec/log.md`, and nowhere else.
//!
//! Encoding appends to a buffer, decoding is total: it returns a value or `None`/a typed error, and never panics. No I/O.

pub(crate) mod accepted;
pub(crate) mod batch;
pub(crate) mod footer;
pub(crate) mod header;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod watermark;

use bytes::{BufMut, BytesMut};

/// Random bytes of one segment that nobody outside can know.
pub(crate) type Salt = [u8; 32];

/// BLAKE3 over what a segment holds.
pub(crate) type Hash = [u8; 32];

/// Takes integers off the front of a slice; `None` once it is too short.
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
    #[inline]
    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(first)
    }
    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }
    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// CRC-32 (IEEE) of `parts`, one after the other.
pub(crate) fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// CRC-32 continued from `seed` (a CRC of what came before) over `parts`.
#[inline]
pub(crate) fn crc_from(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Appends zeros until `out` is `len` long.
pub(crate) fn pad_to(out: &mut BytesMut, len: usize) {
    out.put_bytes(0, len.saturating_sub(out.len()));
}

/// `usize` as `u64`: lossless on every machine we build for.
pub(crate) const fn wide(n: usize) -> u64 {
    n as u64
}

/// `u64` as `usize`; what does not fit becomes the largest, which every bound then refuses.
pub(crate) fn narrow(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `u64` as `u32`; what does not fit becomes the largest, which every bound then refuses.
pub(crate) fn narrow32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
