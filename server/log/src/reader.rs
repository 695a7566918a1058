//! Reads records forward from a position: verified, in blocks, never past the durable end.
//!
//! A reader holds no lock while it reads a file, one buffer, and one open file. Damage is gone round by the lengths that can
//! still be believed and by the segment's marks, and said as a gap.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::block::{Block, GapKind};
use crate::error::{At, ReadError};
use crate::format::batch::{self, Batch};
use crate::format::footer::Mark;
use crate::format::record::{RecordError, RecordHeader};
use crate::format::{narrow, wide};
use crate::health::{Damage, DamageKind};
use crate::limits::BLOCK_BYTES_MAX;
use crate::segment::{Place, Recent, Segment, View};
use crate::shared::Shared;
use crate::{Position, lock};

/// Reads one log forward.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    next: u64,
    at: Option<Cursor>,
    /// The last block's buffer: used again once nobody else holds it.
    last: Option<Bytes>,
}

/// A place in a file.
#[derive(Debug)]
struct Cursor {
    view: View,
    segment: Option<Arc<Segment>>,
    offset: u64,
    /// Bytes left of the batch at `offset`; 0 at a batch header.
    left: usize,
    /// The batch that `offset` is in ends before this position.
    batch_end: u64,
}

/// Why a walk over a buffer ended.
enum Stop {
    /// The segment's data ends here.
    End,
    /// So many bytes are needed to say more.
    More(usize),
    /// The next record is at this position, not at the one wanted.
    Jump(u64),
    /// A payload is not what the device summed; the record ends here.
    Payload { end: u64, bytes: usize },
    /// A record's header is bad: the rest of its batch can't be read.
    Batch,
    /// A batch's header is bad: nothing up to the next mark can.
    Chain,
}

/// What a walk over a buffer found.
struct Walk {
    /// Where the records wanted begin, and the bytes left of their batch there.
    start: Option<(usize, usize)>,
    /// Where the walk ended, always between two records.
    at: usize,
    left: usize,
    batch_end: u64,
    next: u64,
    stop: Stop,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Position) -> Self {
        Self { shared, next: from.get().max(1), at: None, last: None }
    }

    /// Where it reads next.
    #[must_use]
    pub fn position(&self) -> Position {
        self.next.into()
    }

    /// The next records, about `max_bytes` of them and at least one; `None` when the durable end is reached. A record that takes
    /// several positions is given whole, even if reading began inside it.
    pub fn next(&mut self, max_bytes: usize) -> Result<Option<Block>, ReadError> {
        loop {
            if let Some(block) = self.step(max_bytes.clamp(4096, BLOCK_BYTES_MAX))? {
                self.next = block.next().get();
                return Ok(Some(block));
            }
            if self.at.is_none() {
                return Ok(None);
            }
        }
    }

    /// One step: a block, or a place to look at (`at` is set), or the end (`at` is not).
    fn step(&mut self, max_bytes: usize) -> Result<Option<Block>, ReadError> {
        if let Some(cursor) =
            self.at.take_if(|cursor| cursor.view.sealed && self.next < cursor.view.end)
        {
            return self.read(cursor, max_bytes);
        }
        let place = lock(&self.shared.index).find(self.next);
        let before = self.at.take();
        match place {
            Place::End => {
                // One that waits for more keeps no buffer: it may wait for long, beside thousands of others.
                self.last = None;
                Ok(None)
            }
            Place::Recent(recent) => Ok(self.in_memory(&recent, max_bytes)),
            Place::Nowhere(next) => {
                Ok(Some(Block::gap_of(self.next, next, self.kind_of_gap(next))))
            }
            Place::Open(view, mark) => {
                self.read(Cursor::go_on(before, view, None, mark), max_bytes)
            }
            Place::Sealed(segment) => self.enter(before, segment, max_bytes),
        }
    }

    /// Below the first segment: removed on purpose. Between two: lost.
    fn kind_of_gap(&self, next: u64) -> GapKind {
        if next <= lock(&self.shared.index).start() { GapKind::Removed } else { GapKind::Damaged }
    }

    fn enter(
        &mut self,
        before: Option<Cursor>,
        segment: Arc<Segment>,
        max_bytes: usize,
    ) -> Result<Option<Block>, ReadError> {
        if segment.lost {
            return Ok(Some(Block::gap_of(self.next, segment.end, GapKind::Damaged)));
        }
        let view = segment.view(&*self.shared.disk)?;
        let next = self.next;
        let mark = segment.mark(&view, |mark| mark.position <= next)?;
        self.read(Cursor::go_on(before, view, Some(segment), mark), max_bytes)
    }

    fn in_memory(&self, recent: &Recent, max_bytes: usize) -> Option<Block> {
        let mut at = batch::BYTES;
        let mut start = None;
        let mut next = self.next;
        while let Ok(header) = RecordHeader::parse(recent.bytes.get(at..)?) {
            if header.end() > self.next {
                let from = *start.get_or_insert(at);
                next = header.end();
                if at.saturating_add(header.total()).saturating_sub(from) >= max_bytes {
                    at = at.saturating_add(header.total());
                    break;
                }
            }
            at = at.saturating_add(header.total());
            if next >= recent.end {
                break;
            }
        }
        let start = start?;
        let bytes = recent.bytes.slice(start..at.min(recent.bytes.len()));
        Some(Block::records_in(bytes, recent.bytes.len().saturating_sub(start), self.next, next))
    }

    /// Reads from a file at the cursor and keeps the cursor.
    fn read(&mut self, mut cursor: Cursor, max_bytes: usize) -> Result<Option<Block>, ReadError> {
        let mut want = max_bytes;
        loop {
            let size = want.min(cursor.room());
            let mut buffer = self.buffer(size);
            let read = cursor
                .view
                .file
                .0
                .read_at(cursor.offset, &mut buffer)
                .at("read", &cursor.view.name())?;
            buffer.truncate(read);
            let walk = cursor.walk(&buffer, self.next);
            cursor.go_to(&walk);
            if let Some((start, left)) = walk.start {
                buffer.truncate(walk.at);
                let bytes = buffer.freeze();
                self.last = Some(bytes.clone());
                self.at = Some(cursor);
                return Ok(Some(Block::records_in(
                    bytes.slice(start..),
                    left,
                    self.next,
                    walk.next,
                )));
            }
            self.last = Some(buffer.freeze());
            match walk.stop {
                // A file that ends before its data does is damaged like one with other bytes there.
                Stop::More(need) if read < size || need.saturating_sub(walk.at) > cursor.room() => {
                    return self.around(cursor, &Stop::Chain);
                }
                Stop::More(need) => want = max_bytes.max(need.saturating_sub(walk.at)),
                Stop::End => return Ok(self.past_data(&cursor)),
                bad @ (Stop::Jump(_) | Stop::Payload { .. } | Stop::Batch | Stop::Chain) => {
                    return self.around(cursor, &bad);
                }
            }
        }
    }

    /// The data ended before the segment's positions did.
    fn past_data(&mut self, cursor: &Cursor) -> Option<Block> {
        self.at = None;
        let end = cursor.view.end;
        if self.next >= end {
            return None;
        }
        let kind = if cursor.view.jumps { GapKind::Removed } else { GapKind::Damaged };
        if kind == GapKind::Damaged {
            self.report(cursor, end);
        }
        Some(Block::gap_of(self.next, end, kind))
    }

    /// log §11: reads go round a bad place, by what can still be believed.
    fn around(&mut self, mut cursor: Cursor, stop: &Stop) -> Result<Option<Block>, ReadError> {
        let mut kind = GapKind::Damaged;
        let to = match stop {
            Stop::Jump(to) => {
                kind = if cursor.view.jumps { GapKind::Removed } else { kind };
                *to
            }
            Stop::Payload { end, bytes } => {
                cursor.skip(*bytes);
                *end
            }
            Stop::Batch => {
                cursor.skip(cursor.left);
                cursor.batch_end
            }
            Stop::Chain | Stop::End | Stop::More(_) => self.next_mark(&mut cursor)?,
        };
        let block = (to > self.next).then(|| Block::gap_of(self.next, to, kind));
        if block.is_some() && kind == GapKind::Damaged {
            self.report(&cursor, to);
        }
        self.at = Some(cursor);
        Ok(block)
    }

    fn next_mark(&self, cursor: &mut Cursor) -> Result<u64, ReadError> {
        let found = match &cursor.segment {
            Some(segment) => segment.mark_after(&cursor.view, cursor.offset)?,
            None => lock(&self.shared.index).open.as_ref().and_then(|open| {
                open.marks.iter().find(|mark| u64::from(mark.offset) > cursor.offset).copied()
            }),
        };
        let end = Mark { position: cursor.view.end, time_ms: 0, offset: u32::MAX };
        let mark = found.unwrap_or(end);
        cursor.offset = u64::from(mark.offset).min(cursor.view.data_end);
        cursor.left = 0;
        Ok(mark.position.min(cursor.view.end))
    }

    fn report(&self, cursor: &Cursor, to: u64) {
        self.shared.damaged(Damage {
            kind: DamageKind::Records,
            file: cursor.view.name(),
            from: self.next.into(),
            to: to.into(),
            accepted: false,
        });
    }

    fn buffer(&mut self, size: usize) -> BytesMut {
        let mut buffer =
            self.last.take().and_then(|last| last.try_into_mut().ok()).unwrap_or_default();
        buffer.resize(size, 0);
        buffer
    }
}

impl Cursor {
    /// Goes on where it was in the same file, or begins at the mark.
    fn go_on(before: Option<Self>, view: View, segment: Option<Arc<Segment>>, mark: Mark) -> Self {
        match before {
            Some(cursor) if cursor.view.salt == view.salt => Self { view, segment, ..cursor },
            Some(_) | None => Self {
                view,
                segment,
                offset: u64::from(mark.offset),
                left: 0,
                batch_end: mark.position,
            },
        }
    }

    /// Bytes of data from here on.
    fn room(&self) -> usize {
        narrow(self.view.data_end.saturating_sub(self.offset))
    }

    fn skip(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(wide(bytes));
        self.left = self.left.saturating_sub(bytes);
    }

    fn go_to(&mut self, walk: &Walk) {
        self.offset = self.offset.saturating_add(wide(walk.at));
        (self.left, self.batch_end) = (walk.left, walk.batch_end);
    }

    /// Verifies `bytes`, which stand at the cursor, record by record. `from` is the position wanted.
    fn walk(&self, bytes: &[u8], from: u64) -> Walk {
        let (left, batch_end) = (self.left, self.batch_end);
        let mut walk = Walk { start: None, at: 0, left, batch_end, next: from, stop: Stop::End };
        loop {
            let stop = if walk.left < RecordHeader::MIN {
                self.batch(bytes, &mut walk)
            } else {
                self.record(bytes, &mut walk)
            };
            if let Some(stop) = stop {
                walk.stop = stop;
                return walk;
            }
        }
    }

    /// Goes over the padding and the header of the next batch.
    fn batch(&self, bytes: &[u8], walk: &mut Walk) -> Option<Stop> {
        let at = walk.at.saturating_add(walk.left);
        let offset = self.offset.saturating_add(wide(at));
        if offset >= self.view.data_end {
            return Some(Stop::End);
        }
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.len() < batch::BYTES {
            return Some(Stop::More(at.saturating_add(batch::BYTES)));
        }
        let Some((header, _)) = Batch::decode(rest, &self.view.salt, offset) else {
            return Some(Stop::Chain);
        };
        walk.at = at.saturating_add(batch::BYTES);
        walk.left = (header.length as usize).saturating_sub(batch::BYTES);
        walk.batch_end = header.end;
        None
    }

    fn record(&self, bytes: &[u8], walk: &mut Walk) -> Option<Stop> {
        let rest = bytes.get(walk.at..).unwrap_or_default();
        let header = match RecordHeader::decode(rest, self.view.seed) {
            Ok(header) => header,
            Err(RecordError::Short(n)) if n <= walk.left => {
                return Some(Stop::More(walk.at.saturating_add(n)));
            }
            Err(RecordError::Short(_) | RecordError::Header) => return Some(Stop::Batch),
        };
        if header.position >= self.view.end {
            // log §3: a segment ends where the next begins, whatever stands behind.
            return Some(Stop::End);
        }
        let total = header.total();
        if total > walk.left || header.end() > walk.batch_end {
            return Some(Stop::Batch);
        }
        if rest.len() < total {
            return Some(Stop::More(walk.at.saturating_add(total)));
        }
        if header.end() > walk.next {
            // A record is believed only with its payload.
            if !header.payload_holds(rest) {
                return Some(Stop::Payload { end: header.end(), bytes: total });
            }
            if header.position > walk.next {
                return Some(Stop::Jump(header.position));
            }
            walk.start.get_or_insert((walk.at, walk.left));
            walk.next = header.end();
        }
        walk.at = walk.at.saturating_add(total);
        walk.left = walk.left.saturating_sub(total);
        None
    }
}
