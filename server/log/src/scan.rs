//! Walks a segment batch by batch and says what is good, what is damaged and what was torn.
//!
//! Records are reached only by a chain of lengths from a batch header whose salted tag is right: they are never looked for
//! (log §10). Nothing here writes.

use std::sync::Arc;

use bytes::BufMut;

use crate::disk::DiskFile;
use crate::error::{At, DiskError};
use crate::format::batch::{self, Batch};
use crate::format::footer::Mark;
use crate::format::header::Header;
use crate::format::record::{RecordError, RecordHeader};
use crate::format::{crc, narrow, narrow32, wide};
use crate::limits::{HEADER_PAGE, MARK_EVERY};
use crate::planted::Slips;
use crate::queue::Entry;
use crate::segment::{OpenFile, file_name};

const WINDOW: usize = 1 << 20;

/// A part of a file in memory; it moves forward with what is asked for.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    name: String,
    pub(crate) file_bytes: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, name: String) -> Result<Self, DiskError> {
        let file_bytes = file.bytes().at("measure", &name)?;
        Ok(Self { file, name, file_bytes, at: 0, bytes: Vec::new() })
    }

    /// What the file has at `offset`: `len` bytes, or fewer at its end.
    pub(crate) fn get(&mut self, offset: u64, len: usize) -> Result<&[u8], DiskError> {
        let want = wide(len).min(self.file_bytes.saturating_sub(offset));
        let have = self.at.saturating_add(wide(self.bytes.len()));
        if offset < self.at || offset.saturating_add(want) > have {
            let size = wide(len.max(WINDOW)).min(self.file_bytes.saturating_sub(offset));
            self.bytes.resize(narrow(size), 0);
            self.at = offset;
            let read = self.file.read_at(offset, &mut self.bytes).at("read", &self.name)?;
            self.bytes.truncate(read);
        }
        let from = narrow(offset.saturating_sub(self.at)).min(self.bytes.len());
        let to = from.saturating_add(len).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }
}

/// What a walk over one segment found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Where the last batch that counts ends.
    pub(crate) data_end: u64,
    /// One past its last position.
    pub(crate) end: u64,
    /// What is proven synced, from what this segment says.
    pub(crate) proven: u64,
    pub(crate) prev_tag: u64,
    pub(crate) hash: blake3::Hasher,
    pub(crate) records: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) marks: Vec<Mark>,
    pub(crate) entries: Vec<Entry>,
    /// Positions below what was proven that can't be read.
    pub(crate) holes: Vec<(u64, u64)>,
    /// Bytes behind the data that are not ours to read: from, to.
    pub(crate) torn: Option<(u64, u64)>,
}

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The first position of the next segment: this one ends there, whatever stands behind.
    pub(crate) limit: Option<u64>,
    /// What is proven from elsewhere.
    pub(crate) proven: u64,
    /// Positions may jump.
    pub(crate) jumps: bool,
    /// Another segment follows, whose base can't be read: all of this one was synced.
    pub(crate) followed: bool,
    pub(crate) slips: Slips,
}

/// One batch.
struct Walked {
    header: Batch,
    tag: u64,
    crcs: Vec<u8>,
    entries: Vec<Entry>,
    holes: Vec<(u64, u64)>,
    records: u64,
    last_time: u64,
}

/// Walks one segment.
pub(crate) struct Scanner<'a> {
    window: Window<'a>,
    header: &'a Header,
    seed: u32,
    bounds: Bounds,
    scan: Scan,
    marked: u64,
    /// The next batch must name the tag before it.
    chained: bool,
    /// What all tags behind the first bad place prove, and the last byte: looked for once.
    rest: Option<(u64, u64)>,
    visit: Option<Visit<'a>>,
}

/// Called for each record whose header is right: its offset, and whether its payload is.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&RecordHeader, u64, bool);

/// Walks the segment in `file`.
pub(crate) fn scan(
    file: &Arc<OpenFile>,
    header: &Header,
    bounds: Bounds,
) -> Result<Scan, DiskError> {
    scan_with(file, header, bounds, None)
}

/// The same, and shows each record.
pub(crate) fn scan_with<'a>(
    file: &'a Arc<OpenFile>,
    header: &'a Header,
    bounds: Bounds,
    visit: Option<Visit<'a>>,
) -> Result<Scan, DiskError> {
    let window = Window::new(&*file.0, file_name(header.id))?;
    let scan = Scan {
        data_end: HEADER_PAGE,
        end: header.base,
        proven: bounds.limit.unwrap_or(0).max(bounds.proven).max(header.base),
        prev_tag: 0,
        hash: blake3::Hasher::new(),
        records: 0,
        first_time: header.time_floor,
        last_time: header.time_floor,
        marks: Vec::new(),
        entries: Vec::new(),
        holes: Vec::new(),
        torn: None,
    };
    let seed = crc(&[&header.salt]);
    Scanner { window, header, seed, bounds, scan, marked: 0, chained: true, rest: None, visit }
        .run()
}

impl Scanner<'_> {
    fn run(mut self) -> Result<Scan, DiskError> {
        let mut offset = HEADER_PAGE;
        while self.bounds.limit.is_none_or(|limit| self.scan.end < limit) {
            match self.walk(offset)? {
                Some(walked) if walked.holes.is_empty() => offset = self.take(offset, walked),
                bad => match self.judge(offset, bad)? {
                    Some(next) => offset = next,
                    None => break,
                },
            }
        }
        self.close_hole();
        Ok(self.scan)
    }

    /// A proven end that no batch reached is a hole too.
    fn close_hole(&mut self) {
        let proven = self.bounds.limit.unwrap_or(self.scan.proven);
        if self.bounds.limit.is_some_and(|limit| self.scan.end > limit) {
            // log §3: a segment ends where the next begins, whatever stands behind.
            self.scan.end = proven;
            self.scan.holes.iter_mut().for_each(|hole| hole.1 = hole.1.min(proven));
            self.scan.holes.retain(|hole| hole.0 < proven);
        }
        if self.scan.end < proven {
            if !self.bounds.jumps {
                self.hole(self.scan.end, proven);
            }
            self.scan.end = proven;
        }
    }

    fn hole(&mut self, from: u64, to: u64) {
        match self.scan.holes.last_mut() {
            Some(last) if last.1 >= from => last.1 = last.1.max(to),
            Some(_) | None => self.scan.holes.push((from, to)),
        }
        // What is behind a hole must be found without what is in it.
        self.marked = 0;
    }

    /// Takes a batch into the result, and says where the next begins.
    fn take(&mut self, offset: u64, walked: Walked) -> u64 {
        let Walked { header, tag, crcs, entries, holes, records, last_time } = walked;
        if header.base > self.scan.end && !self.bounds.jumps {
            self.hole(self.scan.end, header.base);
        }
        if self.marked == 0 || offset.saturating_sub(self.marked) >= MARK_EVERY {
            self.scan.marks.push(Mark {
                position: header.base,
                time_ms: header.time_ms,
                offset: narrow32(offset),
            });
            self.marked = offset;
        }
        for (from, to) in holes {
            self.hole(from, to);
        }
        if self.scan.records == 0 {
            self.scan.first_time = header.time_ms;
        }
        self.scan.hash.update(&crcs);
        self.scan.entries.extend(entries);
        self.scan.records = self.scan.records.saturating_add(records);
        self.scan.last_time = last_time.max(self.scan.last_time);
        self.scan.proven = self.scan.proven.max(header.synced_upto);
        self.scan.prev_tag = tag;
        self.scan.end = header.end;
        self.scan.data_end = offset.saturating_add(u64::from(header.length));
        self.chained = true;
        self.scan.data_end
    }

    /// log §10: damage below what is proven, torn above. Says where the walk goes on, if it does.
    fn judge(&mut self, offset: u64, bad: Option<Walked>) -> Result<Option<u64>, DiskError> {
        let place = self.scan.end;
        let found = self.find_tags(offset)?;
        self.scan.proven = self.scan.proven.max(found.proven);
        if self.bounds.slips.scans_for_records()
            && let Some(next) = found.guess
        {
            self.chained = false;
            return Ok(Some(next));
        }
        let unproven = place >= self.scan.proven && !self.bounds.followed;
        if unproven || self.bounds.slips.cuts_anywhere() {
            self.scan.proven = self.scan.proven.min(place);
            if found.last_byte > offset {
                self.scan.torn = Some((offset, found.last_byte));
            }
            return Ok(None);
        }
        self.chained = false;
        if let Some(walked) = bad {
            return Ok(Some(self.take(offset, walked)));
        }
        if found.next.is_none() && found.last_byte > offset {
            self.scan.torn = Some((offset, found.last_byte));
        }
        Ok(found.next)
    }

    /// Looks behind a bad place for batch headers, which alone can prove that it was synced, and for the last byte that is
    /// not zero.
    fn find_tags(&mut self, offset: u64) -> Result<Found, DiskError> {
        let mut found = Found { proven: 0, next: None, guess: None, last_byte: offset };
        let mut at = offset;
        while at < self.window.file_bytes {
            let bytes = self.window.get(at, WINDOW)?;
            let len = wide(bytes.len());
            if len == 0 {
                break;
            }
            if let Some(n) = bytes.iter().rposition(|b| *b != 0) {
                found.last_byte = at.saturating_add(wide(n)).saturating_add(1);
                let magic = batch::MAGIC.to_le_bytes();
                let hits: Vec<u64> = (0_u64..)
                    .zip(bytes.chunks_exact(8))
                    .filter(|(_, chunk)| chunk.starts_with(&magic))
                    .map(|(n, _)| at.saturating_add(n.saturating_mul(batch::ALIGN)))
                    .collect();
                hits.into_iter().try_for_each(|hit| self.look_at(hit, offset, &mut found))?;
            }
            if self.rest.is_some() && found.next.is_some() {
                break;
            }
            at = at.saturating_add(len);
        }
        (found.proven, found.last_byte) = *self.rest.get_or_insert((found.proven, found.last_byte));
        Ok(found)
    }

    fn look_at(&mut self, hit: u64, bad: u64, found: &mut Found) -> Result<(), DiskError> {
        let bytes = self.window.get(hit, batch::BYTES)?;
        let looks =
            Batch::hint(bytes).is_some_and(|(base, end)| base == self.scan.end && end > base);
        if looks && hit > bad && self.bounds.slips.scans_for_records() {
            found.guess.get_or_insert(hit);
        }
        let Some((header, _)) = Batch::decode(bytes, &self.header.salt, hit) else { return Ok(()) };
        found.proven = found.proven.max(header.synced_upto);
        let within = self.bounds.limit.is_none_or(|limit| header.base < limit);
        if hit > bad && within && header.base >= self.scan.end && found.next.is_none() {
            found.next = Some(hit);
        }
        Ok(())
    }

    /// The batch at `offset`: `None` when its header is not right, otherwise with the holes in it.
    fn walk(&mut self, offset: u64) -> Result<Option<Walked>, DiskError> {
        let bytes = self.window.get(offset, batch::BYTES)?;
        let decoded = match Batch::decode(bytes, &self.header.salt, offset) {
            None if self.bounds.slips.scans_for_records() => Batch::unchecked(bytes),
            other => other,
        };
        let Some((header, tag)) = decoded else { return Ok(None) };
        let follows = header.base == self.scan.end
            || ((self.bounds.jumps || !self.chained) && header.base > self.scan.end);
        let chains = !self.chained || header.prev_tag == self.scan.prev_tag;
        if !follows || !chains {
            return Ok(None);
        }
        self.records(offset, header, tag).map(Some)
    }

    fn records(&mut self, offset: u64, header: Batch, tag: u64) -> Result<Walked, DiskError> {
        let mut walked = Walked {
            header,
            tag,
            crcs: Vec::new(),
            entries: Vec::new(),
            holes: Vec::new(),
            records: 0,
            last_time: header.time_ms,
        };
        let to = offset.saturating_add(u64::from(header.length));
        let mut at = offset.saturating_add(wide(batch::BYTES));
        let mut expected = header.base;
        for _ in 0..header.records {
            match self.record(at, to, expected)? {
                Some((record, whole)) => {
                    walked.record(&record, at, whole);
                    if let Some(visit) = &mut self.visit {
                        visit(&record, at, whole);
                    }
                    if record.position > expected && !self.bounds.jumps {
                        walked.holes.push((expected, record.position));
                    }
                    expected = record.end();
                    at = at.saturating_add(wide(record.total()));
                }
                None => break,
            }
        }
        if expected < header.end {
            walked.holes.push((expected, header.end));
        } else if walked.holes.is_empty()
            && crc(&[&walked.crcs]) != header.body_crc
            && !self.bounds.slips.scans_for_records()
        {
            walked.holes.push((header.base, header.end));
        } else if walked.holes.is_empty() && !self.padded(at, to)? {
            // The padding is part of the batch: a byte of it that is not zero was not written by us.
            walked.holes.push((header.end, header.end));
        }
        Ok(walked)
    }

    fn padded(&mut self, at: u64, to: u64) -> Result<bool, DiskError> {
        let len = narrow(to.saturating_sub(at));
        if len >= 8 {
            return Ok(false);
        }
        let bytes = self.window.get(at, len)?;
        Ok(bytes.len() == len && bytes.iter().all(|b| *b == 0))
    }

    /// The record at `at`, and whether its payload is whole; `None` if its header is not right.
    fn record(
        &mut self,
        at: u64,
        to: u64,
        expected: u64,
    ) -> Result<Option<(RecordHeader, bool)>, DiskError> {
        let room = narrow(to.saturating_sub(at));
        let mut want = RecordHeader::MIN.max(4096).min(room);
        loop {
            let seed = self.seed;
            let bytes = self.window.get(at, want)?;
            let decoded = if self.bounds.slips.scans_for_records() {
                RecordHeader::parse(bytes)
            } else {
                RecordHeader::decode(bytes, seed)
            };
            match decoded {
                Ok(header) if header.position < expected || header.total() > room => {
                    return Ok(None);
                }
                Ok(header) if bytes.len() < header.total() && want < header.total() => {
                    want = header.total()
                }
                Ok(header) => {
                    let whole = header.payload_holds(bytes);
                    return Ok(Some((header, whole)));
                }
                Err(RecordError::Short(need)) if want < need && need <= room => want = need,
                Err(RecordError::Short(_) | RecordError::Header) => return Ok(None),
            }
        }
    }
}

/// What stands behind a bad place.
struct Found {
    proven: u64,
    next: Option<u64>,
    /// Something that looks like a batch: never believed, but by mistake.
    guess: Option<u64>,
    last_byte: u64,
}

impl Walked {
    fn record(&mut self, record: &RecordHeader, at: u64, whole: bool) {
        self.crcs.put_u32_le(record.header_crc);
        self.crcs.put_u32_le(record.payload_crc);
        self.records = self.records.saturating_add(1);
        self.last_time = record.time_ms;
        if !whole {
            self.holes.push((record.position, record.end()));
        } else if record.stream != 0 {
            let RecordHeader { position, stream, version, prev, .. } = *record;
            self.entries.push(Entry { position, stream, version, prev, offset: narrow32(at) });
        }
    }
}
