//! What a reader hands out: a run of verified records as slices of one buffer, or a gap that says why it is there.

use std::ops::Range;

use bytes::Bytes;

use crate::format::batch;
use crate::format::record::{Record, RecordHeader, RecordRef};
use crate::{Position, format::Take};

/// Why positions are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapKind {
    /// Retention or rewriting left them out.
    Removed,
    /// They are damaged.
    Damaged,
}

/// Positions that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which.
    pub range: Range<Position>,
    /// Why.
    pub kind: GapKind,
}

/// Some records that follow each other, or a gap.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Bytes,
    /// Bytes left of the batch that `bytes` begins in; 0 when it begins with a batch header.
    left: usize,
    from: u64,
    next: u64,
    gap: Option<Gap>,
}

impl Block {
    pub(crate) fn records_in(bytes: Bytes, left: usize, from: u64, next: u64) -> Self {
        Self { bytes, left, from, next, gap: None }
    }

    pub(crate) fn gap_of(from: u64, to: u64, kind: GapKind) -> Self {
        let gap = Some(Gap { range: from.into()..to.into(), kind });
        Self { bytes: Bytes::new(), left: 0, from, next: to, gap }
    }

    /// The gap, if this is one. It has no records then.
    #[must_use]
    pub fn gap(&self) -> Option<&Gap> {
        self.gap.as_ref()
    }

    /// Where reading goes on behind this block.
    #[must_use]
    pub fn next(&self) -> Position {
        self.next.into()
    }

    /// Bytes of it in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// It has no bytes: it is a gap.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The records, in order. They were verified; each is made as it is asked for.
    #[must_use]
    pub fn records(&self) -> Records {
        let Self { bytes, left, from, next, gap: _ } = self;
        Records { bytes: bytes.clone(), at: 0, left: *left, from: *from, next: *next }
    }
}

impl IntoIterator for &Block {
    type Item = Record;
    type IntoIter = Records;
    fn into_iter(self) -> Records {
        self.records()
    }
}

/// The records of a block that were not taken yet. It holds the block's buffer until the last of them was.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Bytes,
    at: usize,
    left: usize,
    from: u64,
    next: u64,
}

impl Records {
    /// All were taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes in memory that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// One past the last position, while anything is left.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        (!self.is_empty()).then(|| self.next.into())
    }

    /// Goes past the next record if it is `wanted`, who sees it where it lies; says whether it did. That costs a tenth of
    /// making a [`Record`] of it.
    #[inline]
    pub fn pass_if(&mut self, wanted: impl FnOnce(&RecordRef<'_>) -> bool) -> bool {
        let Some(header) = self.find() else { return false };
        let here = self.bytes.get(self.at..).and_then(|bytes| header.refer(bytes));
        let passed = here.is_some_and(|record| wanted(&record));
        if passed {
            self.pass(&header);
        }
        passed
    }

    /// Goes to the next record that is wanted. Where there is none it lets go of the buffer.
    #[inline]
    fn find(&mut self) -> Option<RecordHeader> {
        let found = self.look();
        if found.is_none() {
            self.bytes = Bytes::new();
        }
        found
    }

    #[inline]
    fn look(&mut self) -> Option<RecordHeader> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            if self.left < RecordHeader::MIN {
                // Padding, then the next batch.
                self.at += self.left;
                let length = batch_length(self.bytes.get(self.at..)?)?;
                self.at += batch::BYTES;
                self.left = length.checked_sub(batch::BYTES)?;
                continue;
            }
            let header = RecordHeader::parse(rest).ok()?;
            if header.position >= self.next || header.total() > rest.len().min(self.left) {
                return None;
            }
            if header.end() > self.from {
                return Some(header);
            }
            self.at += header.total();
            self.left -= header.total();
        }
    }

    /// Behind the record that was found.
    #[inline]
    fn pass(&mut self, header: &RecordHeader) {
        self.at += header.total();
        self.left = self.left.saturating_sub(header.total());
        self.from = header.end();
        if self.from >= self.next {
            self.bytes = Bytes::new();
        }
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let header = self.find()?;
        let record = header.slice_at(&self.bytes, self.at);
        self.pass(&header);
        Some(record)
    }
}

/// The length that a batch header says.
pub(crate) fn batch_length(bytes: &[u8]) -> Option<usize> {
    let mut take = Take(bytes.get(..batch::BYTES)?);
    take.u32()?;
    take.u32().map(|n| n as usize)
}
