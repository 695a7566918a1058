//! The frame: kind, length, header, payload, checksum. What is inside is [`crate::message`]'s.
//!
//! spec §2. A frame is verified in one pass; the payload's own CRC is what stands half-way, and is handed on so that the
//! next hop continues it over its own header. Nothing is copied; a declared length above the cap is refused before a
//! byte of the body is looked at.

use crate::{
    code::Code,
    crc, message,
    varint::{self, VarintError},
};

/// Set in a kind that a peer may skip when it does not know it.
pub const SKIPPABLE: u8 = 0x80;
/// Set where extras follow the fixed header of a hot kind.
pub const EXTRAS: u8 = 0x40;
/// The CRC-32 at a frame's end.
pub const CRC_BYTES: usize = 4;
/// The most a kind and a length take.
pub const HEAD_BYTES: usize = 1 + 5;

/// The first byte of a frame: six bits of kind, two flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tag(pub u8);

impl Tag {
    /// The kind without its flags.
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.0 & !(SKIPPABLE | EXTRAS)
    }

    /// May a peer that does not know the kind skip the frame?
    #[must_use]
    pub const fn skippable(self) -> bool {
        self.0 & SKIPPABLE != 0
    }

    /// Do extras follow the fixed header?
    #[must_use]
    pub const fn extras(self) -> bool {
        self.0 & EXTRAS != 0
    }
}

/// A frame whose checksum is right, borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Kind and flags.
    pub tag: Tag,
    /// What the kind's layout puts before the payload.
    pub header: &'a [u8],
    /// The payload; empty for kinds that have none.
    pub payload: &'a [u8],
    /// CRC-32 of the payload alone.
    pub payload_crc: u32,
}

/// Why bytes are not a frame. All of these end a session: after them the stream cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is not a canonical varint.
    #[error("the frame's length is malformed: {0}")]
    Length(VarintError),
    /// The length is above what was agreed.
    #[error("a frame of {length} bytes is above the limit of {limit}")]
    TooLarge {
        /// What the frame declares.
        length: u64,
        /// What was agreed.
        limit: u32,
    },
    /// The checksum does not match.
    #[error("a frame's checksum does not match its bytes")]
    Damaged,
}

impl FrameError {
    /// What the peer is told before it is cut.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Length(_) => Code::MALFORMED,
            Self::TooLarge { .. } => Code::TOO_LARGE,
            Self::Damaged => Code::DAMAGED,
        }
    }
}

/// Where a frame lies in a buffer: what [`measure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Kind and flags.
    pub tag: Tag,
    /// Where the body (header and payload) begins.
    pub body_start: usize,
    /// Where the body ends and the checksum begins.
    pub body_end: usize,
}

impl Extent {
    /// Where the next frame begins.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.body_end + CRC_BYTES
    }
}

/// Finds the frame at the front of `bytes`: `None` while kind and length are not all there yet.
pub fn measure(bytes: &[u8], limit: u32) -> Result<Option<Extent>, FrameError> {
    let Some((&tag, rest)) = bytes.split_first() else { return Ok(None) };
    // spec §2.3: a length has at most five bytes; one that goes on is refused as soon as that is seen.
    let (longest, whole) = (HEAD_BYTES - 1, rest.len() >= HEAD_BYTES - 1);
    let (length, length_bytes) = match varint::decode(rest.get(..longest).unwrap_or(rest)) {
        Ok(found) => found,
        Err(VarintError::Cut) if !whole => return Ok(None),
        Err(VarintError::Cut) => return Err(FrameError::Length(VarintError::TooLarge)),
        Err(error) => return Err(FrameError::Length(error)),
    };
    let small = u32::try_from(length)
        .ok()
        .filter(|&small| small <= limit)
        .and_then(|small| usize::try_from(small).ok());
    let Some(body) = small else { return Err(FrameError::TooLarge { length, limit }) };
    let body_start = 1 + length_bytes;
    Ok(Some(Extent { tag: Tag(tag), body_start, body_end: body_start + body }))
}

/// Reads the frame at the front of `bytes`, and how many bytes it took; `None` while it is not all there.
pub fn decode(bytes: &[u8], limit: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(extent) = measure(bytes, limit)? else { return Ok(None) };
    let Some(whole) = bytes.get(..extent.end()) else { return Ok(None) };
    check(whole, extent).map(|frame| Some((frame, extent.end())))
}

/// Verifies the whole frame that lies at `extent` in `bytes`.
pub fn check(bytes: &[u8], extent: Extent) -> Result<Frame<'_>, FrameError> {
    let (head, rest) = bytes.split_at_checked(extent.body_start).ok_or(FrameError::Damaged)?;
    let (body, rest) =
        rest.split_at_checked(extent.body_end - extent.body_start).ok_or(FrameError::Damaged)?;
    let (sum, _) = rest.split_first_chunk::<CRC_BYTES>().ok_or(FrameError::Damaged)?;
    let header_length = message::header_length(extent.tag, body).unwrap_or(body.len());
    let (header, payload) = body.split_at_checked(header_length).unwrap_or((body, &[]));
    // spec §2.4: payload first, then what stands before it on the wire.
    let payload_crc = crc::of(payload);
    if crc::extend(crc::extend(payload_crc, head), header).to_le_bytes() != *sum {
        return Err(FrameError::Damaged);
    }
    Ok(Frame { tag: extent.tag, header, payload, payload_crc })
}

/// A frame's two ends, for a vectored write: `head`, then the payload, then `crc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// How many bytes of the buffer hold kind, length and header.
    pub head: usize,
    /// What follows the payload.
    pub crc: [u8; CRC_BYTES],
}

/// Finishes the front of a frame whose header was written at [`HEAD_BYTES`] in `out`: puts kind and length before it,
/// moves it up and sums it. `payload_crc` is the payload's own, as it came. `None` where `out` is too short.
pub fn close(
    tag: Tag,
    header_len: usize,
    payload_len: usize,
    payload_crc: u32,
    out: &mut [u8],
) -> Option<Ends> {
    let length = u64::try_from(header_len.checked_add(payload_len)?).ok()?;
    let (first, rest) = out.split_first_mut()?;
    *first = tag.0;
    let at = 1 + varint::encode(length, rest)?;
    let header_end = HEAD_BYTES.checked_add(header_len)?;
    if header_end > out.len() {
        return None;
    }
    out.copy_within(HEAD_BYTES..header_end, at);
    let head = at + header_len;
    let crc = crc::extend(payload_crc, out.get(..head)?).to_le_bytes();
    Some(Ends { head, crc })
}
