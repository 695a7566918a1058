//! What a reader hands out: a run of verified records as slices of one buffer, or a gap that says why it is there.

use std::ops::Range;

use bytes::Bytes;

use crate::format::batch;
use crate::format::record::{Record, RecordHeader};
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
    pub fn records(&self) -> Records<'_> {
        Records { bytes: &self.bytes, at: 0, left: self.left, from: self.from, next: self.next }
    }
}

impl<'a> IntoIterator for &'a Block {
    type Item = Record;
    type IntoIter = Records<'a>;
    fn into_iter(self) -> Records<'a> {
        self.records()
    }
}

/// The records of a block.
#[derive(Debug)]
pub struct Records<'a> {
    bytes: &'a Bytes,
    at: usize,
    left: usize,
    from: u64,
    next: u64,
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
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
            let total = header.total();
            let (start, end) = (self.at, self.at + total);
            self.at = end;
            self.left = self.left.checked_sub(total)?;
            if header.position >= self.next || end > self.bytes.len() {
                return None;
            }
            if header.end() > self.from {
                return Some(header.slice(&self.bytes.slice(start..end)));
            }
        }
    }
}

/// The length that a batch header says.
pub(crate) fn batch_length(bytes: &[u8]) -> Option<usize> {
    let mut take = Take(bytes.get(..batch::BYTES)?);
    take.u32()?;
    take.u32().map(|n| n as usize)
}
