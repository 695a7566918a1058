//! A record's header, and the record as a reader gets it (log §5).

use bytes::{BufMut, Bytes, BytesMut};

use super::{Take, crc_from};
use crate::Position;
use crate::limits::{HEAD_BYTES_MAX, PAYLOAD_BYTES_MAX};

const SHORT: usize = 36;
const LONG: usize = 60;
const HAS_STREAM: u8 = 1;

/// One record's header, without the caller's header bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) header_crc: u32,
    pub(crate) payload_crc: u32,
    pub(crate) payload_len: u32,
    pub(crate) head_len: u16,
    pub(crate) kind: u8,
    pub(crate) positions: u32,
    pub(crate) position: u64,
    pub(crate) time_ms: u64,
    pub(crate) stream: u64,
    pub(crate) version: u64,
    pub(crate) prev: u64,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// They end before it does; this many are needed.
    Short(usize),
    /// Its own header is wrong: nothing of it can be believed.
    Header,
}

impl RecordHeader {
    /// Bytes of a header for a record with or without a stream.
    pub(crate) const fn fixed(has_stream: bool) -> usize {
        if has_stream { LONG } else { SHORT }
    }

    /// Bytes of the whole record.
    pub(crate) fn total(&self) -> usize {
        Self::fixed(self.stream != 0) + usize::from(self.head_len) + self.payload_len as usize
    }

    /// Where its payload begins, from the start of the record.
    pub(crate) fn payload_at(&self) -> usize {
        Self::fixed(self.stream != 0) + usize::from(self.head_len)
    }

    /// One past its last position.
    pub(crate) fn end(&self) -> u64 {
        self.position.saturating_add(u64::from(self.positions))
    }

    /// Appends header and head to `out` and returns the header's CRC, continued from `seed` (the CRC of the salt).
    #[inline]
    pub(crate) fn encode(&self, seed: u32, head: &[u8], out: &mut BytesMut) -> u32 {
        let mut fixed = [0_u8; LONG];
        let mut cursor = fixed.as_mut_slice();
        cursor.put_u32_le(0);
        cursor.put_u32_le(self.payload_crc);
        cursor.put_u32_le(self.payload_len);
        cursor.put_u16_le(self.head_len);
        cursor.put_u8(self.kind);
        cursor.put_u8(if self.stream == 0 { 0 } else { HAS_STREAM });
        cursor.put_u32_le(self.positions);
        cursor.put_u64_le(self.position);
        cursor.put_u64_le(self.time_ms);
        cursor.put_u64_le(self.stream);
        cursor.put_u64_le(self.version);
        cursor.put_u64_le(self.prev);
        let used = fixed.get(4..Self::fixed(self.stream != 0)).unwrap_or_default();
        let check = crc_from(seed, &[used, head]);
        out.put_u32_le(check);
        out.put_slice(used);
        out.put_slice(head);
        check
    }

    /// The header at the front of `bytes`, checked together with the caller's header bytes.
    #[inline]
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Result<Self, RecordError> {
        let header = Self::parse(bytes)?;
        let checked =
            bytes.get(4..header.payload_at()).ok_or(RecordError::Short(header.payload_at()))?;
        if crc_from(seed, &[checked]) == header.header_crc {
            Ok(header)
        } else {
            Err(RecordError::Header)
        }
    }

    /// The header at the front of `bytes`, not checked yet.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut take = Take(bytes);
        let (header, flags) = Self::parse_short(&mut take).ok_or(RecordError::Short(SHORT))?;
        let sane = flags <= HAS_STREAM
            && header.positions != 0
            && usize::from(header.head_len) <= HEAD_BYTES_MAX
            && header.payload_len as usize <= PAYLOAD_BYTES_MAX;
        match flags {
            _ if !sane => Err(RecordError::Header),
            HAS_STREAM => {
                let header = header.with_stream(&mut take).ok_or(RecordError::Short(LONG))?;
                if header.stream == 0 { Err(RecordError::Header) } else { Ok(header) }
            }
            _ => Ok(header),
        }
    }

    #[inline]
    fn parse_short(take: &mut Take<'_>) -> Option<(Self, u8)> {
        let mut fixed = Take(take.bytes(SHORT)?);
        let take = &mut fixed;
        let (header_crc, payload_crc, payload_len) = (take.u32()?, take.u32()?, take.u32()?);
        let (head_len, kind, flags, positions) = (take.u16()?, take.u8()?, take.u8()?, take.u32()?);
        let (position, time_ms) = (take.u64()?, take.u64()?);
        let (stream, version, prev) = (0, 0, 0);
        let header = Self {
            header_crc,
            payload_crc,
            payload_len,
            head_len,
            kind,
            positions,
            position,
            time_ms,
            stream,
            version,
            prev,
        };
        Some((header, flags))
    }

    #[inline]
    fn with_stream(self, take: &mut Take<'_>) -> Option<Self> {
        Some(Self { stream: take.u64()?, version: take.u64()?, prev: take.u64()?, ..self })
    }

    /// Whether the payload behind this header has the CRC that the device took.
    #[inline]
    pub(crate) fn payload_holds(&self, record: &[u8]) -> bool {
        record
            .get(self.payload_at()..self.total())
            .is_some_and(|p| crc32fast::hash(p) == self.payload_crc)
    }

    /// The smallest record there is: what is left of a batch below this is padding.
    pub(crate) const MIN: usize = SHORT;

    /// The record where it lies: at the front of `bytes`.
    #[inline]
    pub(crate) fn refer<'a>(&self, bytes: &'a [u8]) -> Option<RecordRef<'a>> {
        let head_at = Self::fixed(self.stream != 0);
        Some(RecordRef {
            position: Position::new(self.position),
            kind: self.kind,
            version: self.version,
            head: bytes.get(head_at..self.payload_at())?,
            payload: bytes.get(self.payload_at()..self.total())?,
            payload_crc: self.payload_crc,
        })
    }

    /// The record, as slices of `bytes`, which begins with it.
    pub(crate) fn slice(&self, bytes: &Bytes) -> Record {
        self.slice_at(bytes, 0)
    }

    /// The record, as slices of `bytes`, where it stands at `at`.
    pub(crate) fn slice_at(&self, bytes: &Bytes, at: usize) -> Record {
        let end = |length: usize| at.saturating_add(length).min(bytes.len());
        let head_at = end(Self::fixed(self.stream != 0));
        let (head_end, whole) = (end(self.payload_at()), end(self.total()));
        Record {
            position: Position::new(self.position),
            positions: self.positions,
            kind: self.kind,
            time_ms: self.time_ms,
            stream: self.stream,
            version: self.version,
            prev: self.prev,
            head: bytes.slice(head_at..head_end),
            payload: bytes.slice(head_end..whole),
            payload_crc: self.payload_crc,
        }
    }
}

/// One record where it lies in a buffer, for who only looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its first position.
    pub position: Position,
    /// The caller's kind.
    pub kind: u8,
    /// Its first version in the stream.
    pub version: u64,
    /// The caller's header bytes.
    pub head: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// CRC-32 of the payload, as the device took it.
    pub payload_crc: u32,
}

impl<'a> From<&'a Record> for RecordRef<'a> {
    fn from(record: &'a Record) -> Self {
        let Record { position, kind, version, payload_crc, .. } = *record;
        let (head, payload) = (&*record.head, &*record.payload);
        Self { position, kind, version, head, payload, payload_crc }
    }
}

/// One record as it was appended, with what the log gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first position.
    pub position: Position,
    /// How many positions it takes.
    pub positions: u32,
    /// The caller's kind.
    pub kind: u8,
    /// Its time: never earlier than the record before it.
    pub time_ms: u64,
    /// The position of the first record of its stream, 0 for none.
    pub stream: u64,
    /// Its first version in the stream.
    pub version: u64,
    /// The position of the stream's record before it, 0 for none.
    pub prev: u64,
    /// The caller's header bytes.
    pub head: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// CRC-32 of the payload, as the device took it.
    pub payload_crc: u32,
}

impl Record {
    /// One past its last position.
    #[must_use]
    pub fn end(&self) -> Position {
        self.position.plus(u64::from(self.positions))
    }
}
