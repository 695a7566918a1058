//! A sealed segment's footer: pages of rows, then the trailer in the file's last 4096 bytes (log §6).
//!
//! Each page has its own check, so that a lookup reads and verifies only the pages it needs.

use bytes::{BufMut, BytesMut};

use super::{Hash, Take, crc_from, narrow32, pad_to, wide};

pub(crate) const PAGE: usize = 4096;
const ROWS_BYTES: usize = PAGE - 16;
const MAGIC: [u8; 8] = *b"SPILEEND";

/// Which table a page belongs to; also their order in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Marks = 0,
    Streams = 1,
    Entries = 2,
    Gaps = 3,
}

impl Section {
    pub(crate) const ALL: [Self; 4] = [Self::Marks, Self::Streams, Self::Entries, Self::Gaps];

    fn slot(self) -> usize {
        match self {
            Self::Marks => 0,
            Self::Streams => 1,
            Self::Entries => 2,
            Self::Gaps => 3,
        }
    }
}

/// A fixed-width row of one section.
pub(crate) trait Row: Sized + Copy {
    const SECTION: Section;
    const BYTES: usize;
    const PER_PAGE: usize = ROWS_BYTES / Self::BYTES;
    fn encode(&self, out: &mut BytesMut);
    fn decode(take: &mut Take<'_>) -> Option<Self>;
}

/// Where a batch begins: one about every 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: u64,
    pub(crate) time_ms: u64,
    pub(crate) offset: u32,
}

impl Row for Mark {
    const SECTION: Section = Section::Marks;
    const BYTES: usize = 20;
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.position);
        out.put_u64_le(self.time_ms);
        out.put_u32_le(self.offset);
    }
    fn decode(take: &mut Take<'_>) -> Option<Self> {
        Some(Self { position: take.u64()?, time_ms: take.u64()?, offset: take.u32()? })
    }
}

/// One stream that has records here, sorted by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamRow {
    pub(crate) stream: u64,
    pub(crate) first_version: u64,
    /// The stream's record before this segment, 0 for none.
    pub(crate) prev: u64,
    /// Its entries: the number of the first, and how many.
    pub(crate) first_entry: u32,
    pub(crate) entries: u32,
}

impl Row for StreamRow {
    const SECTION: Section = Section::Streams;
    const BYTES: usize = 32;
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.stream);
        out.put_u64_le(self.first_version);
        out.put_u64_le(self.prev);
        out.put_u32_le(self.first_entry);
        out.put_u32_le(self.entries);
    }
    fn decode(take: &mut Take<'_>) -> Option<Self> {
        Some(Self {
            stream: take.u64()?,
            first_version: take.u64()?,
            prev: take.u64()?,
            first_entry: take.u32()?,
            entries: take.u32()?,
        })
    }
}

/// One record of a stream: its first version and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRow {
    pub(crate) version: u64,
    pub(crate) position: u64,
    pub(crate) offset: u32,
}

impl Row for EntryRow {
    const SECTION: Section = Section::Entries;
    const BYTES: usize = 20;
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.version);
        out.put_u64_le(self.position);
        out.put_u32_le(self.offset);
    }
    fn decode(take: &mut Take<'_>) -> Option<Self> {
        Some(Self { version: take.u64()?, position: take.u64()?, offset: take.u32()? })
    }
}

/// Positions that are not here, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GapRow {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Damage that an operator accepted; otherwise nobody wanted them.
    pub(crate) damaged: bool,
}

impl Row for GapRow {
    const SECTION: Section = Section::Gaps;
    const BYTES: usize = 17;
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out.put_u8(u8::from(self.damaged));
    }
    fn decode(take: &mut Take<'_>) -> Option<Self> {
        Some(Self { from: take.u64()?, to: take.u64()?, damaged: take.u8()? != 0 })
    }
}

/// Appends the pages of `rows` to `out` and returns how many they are.
pub(crate) fn encode_rows<R: Row>(rows: &[R], seed: u32, out: &mut BytesMut) -> u32 {
    let mut pages = 0_u32;
    for chunk in rows.chunks(R::PER_PAGE) {
        let mut body = BytesMut::with_capacity(PAGE);
        body.put_u32_le(narrow32(wide(chunk.len())));
        body.put_u32_le(R::SECTION as u32);
        body.put_u32_le(pages);
        chunk.iter().for_each(|row| row.encode(&mut body));
        pad_to(&mut body, PAGE - 4);
        out.put_u32_le(crc_from(seed, &[&body]));
        out.extend_from_slice(&body);
        pages = pages.saturating_add(1);
    }
    pages
}

/// The rows of one page, if its check, section and number are right.
pub(crate) fn decode_rows<R: Row>(page: &[u8], seed: u32, number: u32) -> Option<Vec<R>> {
    let (check, body) = page.split_first_chunk::<4>()?;
    if body.len() != PAGE - 4 || crc_from(seed, &[body]) != u32::from_le_bytes(*check) {
        return None;
    }
    let mut take = Take(body);
    let count = take.u32()? as usize;
    if take.u32()? != R::SECTION as u32 || take.u32()? != number || count > R::PER_PAGE {
        return None;
    }
    (0..count).map(|_| R::decode(&mut take)).collect()
}

/// The last page of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) id: u64,
    pub(crate) base: u64,
    pub(crate) end: u64,
    /// Where the last batch ends; the pages begin at the next multiple of 4096.
    pub(crate) data_end: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) records: u64,
    /// Hash over the CRCs of the records that are here.
    pub(crate) hash: Hash,
    /// The hash that the next segment names: of the segment before anything was left out.
    pub(crate) kept_hash: Hash,
    pub(crate) pages: [u32; 4],
}

impl Trailer {
    pub(crate) fn encode(&self, seed: u32) -> BytesMut {
        let mut body = BytesMut::with_capacity(PAGE);
        body.put_slice(&MAGIC);
        for n in [
            self.id,
            self.base,
            self.end,
            self.data_end,
            self.first_time,
            self.last_time,
            self.records,
        ] {
            body.put_u64_le(n);
        }
        body.put_slice(&self.hash);
        body.put_slice(&self.kept_hash);
        self.pages.iter().for_each(|n| body.put_u32_le(*n));
        pad_to(&mut body, PAGE - 4);
        let check = crc_from(seed, &[&body]);
        body.put_u32_le(check);
        body
    }

    /// The trailer in `page`, if its check is right and it fits a file of `file_bytes`.
    pub(crate) fn decode(page: &[u8], seed: u32, file_bytes: u64) -> Option<Self> {
        let (body, check) = page.split_last_chunk::<4>()?;
        if body.len() != PAGE - 4 || crc_from(seed, &[body]) != u32::from_le_bytes(*check) {
            return None;
        }
        let mut take = Take(body);
        if take.array::<8>()? != MAGIC {
            return None;
        }
        let trailer = Self {
            id: take.u64()?,
            base: take.u64()?,
            end: take.u64()?,
            data_end: take.u64()?,
            first_time: take.u64()?,
            last_time: take.u64()?,
            records: take.u64()?,
            hash: take.array()?,
            kept_hash: take.array()?,
            pages: [take.u32()?, take.u32()?, take.u32()?, take.u32()?],
        };
        (trailer.file_bytes() == file_bytes && trailer.base <= trailer.end).then_some(trailer)
    }

    /// How long the file is, exactly.
    pub(crate) fn file_bytes(&self) -> u64 {
        let pages = self.pages.iter().fold(1_u64, |sum, n| sum.saturating_add(u64::from(*n)));
        pages_at(self.data_end).saturating_add(pages.saturating_mul(wide(PAGE)))
    }

    /// Where page `number` of `section` begins, `None` past its last.
    pub(crate) fn page_at(&self, section: Section, number: u32) -> Option<u64> {
        let slot = section.slot();
        let before: u64 = self.pages.iter().take(slot).map(|n| u64::from(*n)).sum();
        let count = self.pages.get(slot)?;
        (number < *count).then(|| {
            pages_at(self.data_end)
                .saturating_add((before + u64::from(number)).saturating_mul(wide(PAGE)))
        })
    }

    pub(crate) fn page_count(&self, section: Section) -> u32 {
        self.pages.get(section.slot()).copied().unwrap_or(0)
    }
}

/// Where the pages begin behind data that ends here.
pub(crate) fn pages_at(data_end: u64) -> u64 {
    data_end.div_ceil(wide(PAGE)).saturating_mul(wide(PAGE))
}
