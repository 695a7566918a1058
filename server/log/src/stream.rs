//! Reads one stream in order without touching the records of others.
//!
//! A walk back from the stream's last record finds the segments that hold it: memory for the open one, the footer's table for
//! sealed ones (which also names the stream's record before that segment), links from record to record where there is no footer
//! that can be believed. Then the records are read forward, one exact read each.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::block::{Gap, GapKind};
use crate::error::{At, ReadError};
use crate::format::footer::{EntryRow, Row, StreamRow, Trailer};
use crate::format::record::{Record, RecordError, RecordHeader};
use crate::format::{narrow, narrow32};
use crate::health::{Damage, DamageKind};
use crate::limits::BLOCK_BYTES_MAX;
use crate::reader::Reader;
use crate::segment::{Lookup, Place, Segment, View};
use crate::shared::Shared;
use crate::{Position, lock};

/// Records looked up by links, kept at once. Farther back the walk is done again when the nearer ones were read.
const LINKS_MAX: usize = 1 << 16;

/// Some records of a stream, or why one is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// The next records.
    Records(Vec<Record>),
    /// Records of the stream somewhere in these positions can't be read.
    Gap(Gap),
}

/// Where records of the stream are, oldest last.
#[derive(Debug)]
enum Stretch {
    /// In a sealed segment, by its footer.
    Footer { segment: Arc<Segment>, row: StreamRow },
    /// One by one: position and, where known, the place.
    Each(VecDeque<u64>),
    /// Not there.
    Gap(Gap),
}

/// Reads one stream.
#[derive(Debug)]
pub struct StreamReader {
    shared: Arc<Shared>,
    stream: u64,
    last: u64,
    from_version: u64,
    stretches: Option<Vec<Stretch>>,
    entries: VecDeque<EntryRow>,
    /// The footer whose entries are being read: next entry, one past the last.
    footer: Option<(Arc<Segment>, View, u32, u32)>,
}

impl StreamReader {
    pub(crate) fn new(shared: Arc<Shared>, stream: u64, last: Position, from_version: u64) -> Self {
        let last = last.get();
        Self {
            shared,
            stream,
            last,
            from_version,
            stretches: None,
            entries: VecDeque::new(),
            footer: None,
        }
    }

    /// The next records, about `max_bytes` of them and at least one; `None` behind the last.
    pub fn next(&mut self, max_bytes: usize) -> Result<Option<StreamItem>, ReadError> {
        if self.stretches.is_none() {
            self.stretches = Some(self.walk_back()?);
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes.clamp(1, BLOCK_BYTES_MAX) {
            match self.one()? {
                Some(Ok(record)) => {
                    bytes = bytes.saturating_add(record.payload.len()).saturating_add(64);
                    records.push(record);
                }
                Some(Err(gap)) if records.is_empty() => return Ok(Some(StreamItem::Gap(gap))),
                Some(Err(gap)) => {
                    self.stretches.get_or_insert_default().push(Stretch::Gap(gap));
                    break;
                }
                None => break,
            }
        }
        Ok(if records.is_empty() { None } else { Some(StreamItem::Records(records)) })
    }

    /// The next record, or the next gap.
    fn one(&mut self) -> Result<Option<Result<Record, Gap>>, ReadError> {
        loop {
            if let Some(gap) = self.pending_gap() {
                return Ok(Some(Err(gap)));
            }
            if let Some(found) = self.next_entry()? {
                match found {
                    Ok(record) if self.wants(&record) => return Ok(Some(Ok(record))),
                    Ok(_) => continue,
                    Err(gap) => return Ok(Some(Err(gap))),
                }
            }
            let Some(stretch) = self.stretches.as_mut().and_then(Vec::pop) else { return Ok(None) };
            match stretch {
                Stretch::Gap(gap) => return Ok(Some(Err(gap))),
                Stretch::Footer { segment, row } => self.enter(segment, &row)?,
                Stretch::Each(mut positions) => {
                    let Some(position) = positions.pop_front() else { continue };
                    self.stretches.get_or_insert_default().push(Stretch::Each(positions));
                    match self.at(position)? {
                        Ok(record) if self.wants(&record) => return Ok(Some(Ok(record))),
                        Ok(_) => {}
                        Err(gap) => return Ok(Some(Err(gap))),
                    }
                }
            }
        }
    }

    /// A gap found while a footer was at work is told before the footer goes on.
    fn pending_gap(&mut self) -> Option<Gap> {
        self.footer.as_ref()?;
        match self.stretches.as_mut()?.pop_if(|stretch| matches!(stretch, Stretch::Gap(_)))? {
            Stretch::Gap(gap) => Some(gap),
            Stretch::Footer { .. } | Stretch::Each(_) => None,
        }
    }

    fn wants(&self, record: &Record) -> bool {
        let versions_end = record.version.saturating_add(u64::from(record.positions));
        record.stream == self.stream
            && versions_end > self.from_version
            && record.position.get() <= self.last
    }

    /// The segment as it is now, and its file. One that was rewritten since it was found has another file under its name.
    /// The file is opened before the index is asked: while a segment is rewritten its old file is held open.
    fn now(&self, segment: Arc<Segment>) -> Result<(Arc<Segment>, View), ReadError> {
        let mut segment = segment;
        loop {
            let view = segment.view(&*self.shared.disk)?;
            match lock(&self.shared.index).sealed_at(segment.base) {
                Some(current) if current.salt != segment.salt => segment = current,
                Some(_) | None => return Ok((segment, view)),
            }
        }
    }

    fn enter(&mut self, found: Arc<Segment>, row: &StreamRow) -> Result<(), ReadError> {
        let (segment, view) = self.now(found.clone())?;
        let mut row = *row;
        if segment.salt != found.salt {
            let Lookup::Footer(trailer) = &segment.lookup else { return Ok(()) };
            let (moved, _) =
                segment.search::<StreamRow>(&view, trailer, |row| row.stream <= self.stream)?;
            // Nothing of the stream was wanted any more.
            let Some(moved) = moved.filter(|row| row.stream == self.stream) else { return Ok(()) };
            row = moved;
        }
        let row = &row;
        let end = row.first_entry.saturating_add(row.entries);
        let Lookup::Footer(trailer) = &segment.lookup else { return Ok(()) };
        let first = self.first_wanted(&segment, &view, trailer, row)?;
        self.entries.clear();
        self.footer = Some((segment, view, first, end));
        Ok(())
    }

    /// The first entry of the run whose successor is past `from_version`: by binary search over the versions.
    fn first_wanted(
        &self,
        segment: &Segment,
        view: &View,
        trailer: &Trailer,
        row: &StreamRow,
    ) -> Result<u32, ReadError> {
        let (mut low, mut high) = (row.first_entry, row.first_entry.saturating_add(row.entries));
        while low.saturating_add(1) < high {
            let middle = low + (high - low) / 2;
            let entry = entries_from(segment, view, trailer, middle)?
                .and_then(|rows| rows.first().copied());
            if entry.is_some_and(|entry| entry.version <= self.from_version) {
                low = middle
            } else {
                high = middle
            }
        }
        Ok(low)
    }

    /// The next record of the footer at work.
    fn next_entry(&mut self) -> Result<Option<Result<Record, Gap>>, ReadError> {
        let Some((segment, view, next, end)) = self.footer.as_mut() else { return Ok(None) };
        if self.entries.is_empty() && next < end {
            let Lookup::Footer(trailer) = &segment.lookup else { return Ok(None) };
            let rows = entries_from(segment, view, trailer, *next)?;
            let wanted = end.saturating_sub(*next) as usize;
            let Some(rows) = rows.filter(|rows| !rows.is_empty()) else {
                // A damaged page: which records it named can't be told.
                let gap = damaged(segment.base, segment.end);
                self.footer = None;
                return Ok(Some(Err(gap)));
            };
            *next = next.saturating_add(narrow32(rows.len().min(wanted) as u64));
            self.entries.extend(rows.into_iter().take(wanted));
        }
        let Some(entry) = self.entries.pop_front() else {
            self.footer = None;
            return Ok(None);
        };
        let view = view.clone();
        let found = read_at(&view, u64::from(entry.offset), entry.position)?;
        Ok(Some(found.map_or_else(|| Err(self.report(&view, entry.position)), Ok)))
    }

    fn report(&self, view: &View, position: u64) -> Gap {
        let (from, to) = (Position::new(position), Position::new(position).plus(1));
        let file = view.name();
        self.shared.damaged(Damage { kind: DamageKind::Records, file, from, to, accepted: false });
        damaged(position, position.saturating_add(1))
    }

    /// The record at exactly this position, by a reader that starts there.
    fn at(&self, position: u64) -> Result<Result<Record, Gap>, ReadError> {
        let known = lock(&self.shared.index).entry(position);
        if let Some((view, entry)) = known
            && let Some(record) = read_at(&view, u64::from(entry.offset), position)?
        {
            return Ok(Ok(record));
        }
        let mut reader = Reader::new(self.shared.clone(), position.into());
        match reader.next(4096)? {
            Some(block) => match (block.gap(), block.records().next()) {
                (Some(gap), _) => Ok(Err(gap.clone())),
                (None, Some(record)) if record.position.get() == position => Ok(Ok(record)),
                (None, Some(_) | None) => Ok(Err(damaged(position, position.saturating_add(1)))),
            },
            None => Ok(Err(damaged(position, position.saturating_add(1)))),
        }
    }

    /// From the last record back to the first one wanted.
    fn walk_back(&self) -> Result<Vec<Stretch>, ReadError> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut position = self.last;
        while position != 0 {
            let place = lock(&self.shared.index).find_file(position);
            position = match place {
                Place::End | Place::Recent(_) | Place::Nowhere(_) => {
                    self.nowhere(position, &mut stretches);
                    0
                }
                Place::Open(..) => self.back_in_memory(position, &mut stretches)?,
                Place::Sealed(segment) if matches!(segment.lookup, Lookup::Memory { .. }) => {
                    self.back_in_memory(position, &mut stretches)?
                }
                Place::Sealed(segment) => self.back_in(&segment, position, &mut stretches)?,
            };
        }
        Ok(stretches)
    }

    /// The record before is gone. That was on purpose if it is below the first segment.
    fn nowhere(&self, position: u64, stretches: &mut Vec<Stretch>) {
        let (start, end) = {
            let index = lock(&self.shared.index);
            (index.start(), index.durable_end)
        };
        if position >= end {
            return;
        }
        let lost = position >= start
            && matches!(lock(&self.shared.index).find_file(position), Place::Nowhere(_));
        let kind = if lost { GapKind::Damaged } else { GapKind::Removed };
        let range = Position::new(position)..Position::new(position).plus(1);
        stretches.push(Stretch::Gap(Gap { range, kind }));
    }

    /// Follows the links of the indexes in memory; gives the position to go on from, 0 when that was all.
    fn back_in_memory(&self, from: u64, stretches: &mut Vec<Stretch>) -> Result<u64, ReadError> {
        let mut positions = VecDeque::new();
        let mut position = from;
        {
            let index = lock(&self.shared.index);
            while let Some((_, entry)) = index.entry(position) {
                positions.push_front(position);
                let enough = entry.version <= self.from_version || entry.stream != self.stream;
                position = if enough { 0 } else { entry.prev };
                if position == 0 {
                    break;
                }
            }
        }
        if positions.is_empty() {
            return self.back_by_record(position, stretches);
        }
        stretches.push(Stretch::Each(positions));
        Ok(position)
    }

    fn back_in(
        &self,
        segment: &Arc<Segment>,
        position: u64,
        stretches: &mut Vec<Stretch>,
    ) -> Result<u64, ReadError> {
        if segment.lost {
            stretches.push(Stretch::Gap(damaged(segment.base, segment.end)));
            return Ok(0);
        }
        let (segment, view) = self.now(segment.clone())?;
        let Lookup::Footer(trailer) = &segment.lookup else {
            return self.back_by_record(position, stretches);
        };
        let (row, sound) =
            segment.search::<StreamRow>(&view, trailer, |row| row.stream <= self.stream)?;
        match row.filter(|row| row.stream == self.stream) {
            Some(row) => {
                let enough = row.first_version <= self.from_version;
                stretches.push(Stretch::Footer { segment: segment.clone(), row });
                match row.prev {
                    _ if enough => Ok(0),
                    // The record before was left out of this very segment.
                    inside if inside >= segment.base => self.back_beyond(segment.base, stretches),
                    before => Ok(before),
                }
            }
            None if view.jumps && sound => {
                self.nowhere(position, stretches);
                self.back_beyond(segment.base, stretches)
            }
            // The table is damaged.
            None => self.back_by_record(position, stretches),
        }
    }

    /// The link back was left out by a rewriting: the stream is looked for in the segments before, newest first.
    fn back_beyond(&self, base: u64, stretches: &mut Vec<Stretch>) -> Result<u64, ReadError> {
        let mut base = base;
        loop {
            let Some(segment) = lock(&self.shared.index).sealed_before(base) else { return Ok(0) };
            base = segment.base;
            let Lookup::Footer(trailer) = &segment.lookup else {
                stretches.push(Stretch::Gap(damaged(segment.base, segment.end)));
                continue;
            };
            let view = segment.view(&*self.shared.disk)?;
            let (row, _) =
                segment.search::<StreamRow>(&view, trailer, |row| row.stream <= self.stream)?;
            if row.is_some_and(|row| row.stream == self.stream) {
                return Ok(base);
            }
        }
    }

    /// One link, read from the record itself.
    fn back_by_record(
        &self,
        position: u64,
        stretches: &mut Vec<Stretch>,
    ) -> Result<u64, ReadError> {
        match self.at(position)? {
            Ok(record) => {
                match stretches.last_mut() {
                    Some(Stretch::Each(positions)) if positions.len() < LINKS_MAX => {
                        positions.push_front(position)
                    }
                    Some(_) | None => stretches.push(Stretch::Each(VecDeque::from([position]))),
                }
                let enough = record.version <= self.from_version || record.stream != self.stream;
                Ok(if enough { 0 } else { record.prev })
            }
            Err(gap) => {
                stretches.push(Stretch::Gap(gap));
                Ok(0)
            }
        }
    }
}

fn damaged(from: u64, to: u64) -> Gap {
    Gap { range: from.into()..to.into(), kind: GapKind::Damaged }
}

/// Rows of the entries from number `n` to the end of its page; `None` when the page is damaged.
fn entries_from(
    segment: &Segment,
    view: &View,
    trailer: &Trailer,
    n: u32,
) -> Result<Option<Vec<EntryRow>>, ReadError> {
    let per_page = narrow32(EntryRow::PER_PAGE as u64);
    let rows = segment.rows::<EntryRow>(view, trailer, n / per_page)?;
    Ok(rows.map(|rows| rows.into_iter().skip((n % per_page) as usize).collect()))
}

/// The record at `offset`, if it is whole and has this position.
fn read_at(view: &View, offset: u64, position: u64) -> Result<Option<Record>, ReadError> {
    let room = narrow(view.data_end.saturating_sub(offset));
    let mut want = 4096.min(room);
    loop {
        let mut bytes = BytesMut::zeroed(want);
        let read = view.file.0.read_at(offset, &mut bytes).at("read", &view.name())?;
        bytes.truncate(read);
        match RecordHeader::decode(&bytes, view.seed) {
            Ok(header) if header.position != position || header.total() > room => return Ok(None),
            Ok(header) if bytes.len() < header.total() && want < header.total() => {
                want = header.total()
            }
            Ok(header) if header.payload_holds(&bytes) => {
                // Its own buffer, so that a small record does not pin a page.
                let bytes = Bytes::copy_from_slice(bytes.get(..header.total()).unwrap_or_default());
                return Ok(Some(header.slice(&bytes)));
            }
            Err(RecordError::Short(need)) if want < need && need <= room => want = need,
            Ok(_) | Err(RecordError::Short(_) | RecordError::Header) => return Ok(None),
        }
    }
}
