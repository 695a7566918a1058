//! Retention and rewriting: sealed segments go once nothing in them is wanted, and shrink once little is.
//!
//! Nothing is removed before a synced snapshot is past it, and what is removed was named in the watermark's floor first. A
//! segment with damage is left as it is.

use std::ops::Range;
use std::sync::Arc;

use crate::block::GapKind;
use crate::build::{Builder, MakeError, Seal};
use crate::copy::{Copied, Source, copy};
use crate::error::{At, DiskError, KeepError};
use crate::format::footer::{GapRow, Trailer};
use crate::format::header::{Header, REWRITTEN};
use crate::format::record::RecordHeader;
use crate::format::wide;
use crate::limits::HEADER_PAGE;
use crate::reader::Reader;
use crate::scan::Window;
use crate::segment::{Lookup, Segment, View};
use crate::shared::Shared;
use crate::snapshot::positions;
use crate::writer::discard;
use crate::{Position, Record, lock};

/// What may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retain {
    /// Only segments that end at or before this: the slowest group's place, unless its rule says otherwise.
    pub before: Position,
    /// Segments whose newest record is older than this time.
    pub older_than_ms: Option<u64>,
    /// The oldest segments beyond this many bytes in all.
    pub bytes_max: Option<u64>,
    /// A segment whose wanted records take at most this part of its bytes is rewritten; 0 rewrites none.
    pub rewrite_percent: u64,
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments that were removed.
    pub removed: Vec<Range<Position>>,
    /// Segments that were rewritten.
    pub rewritten: Vec<Range<Position>>,
    /// Segments that are damaged and were left.
    pub damaged: Vec<Range<Position>>,
    /// Bytes that are free now.
    pub freed_bytes: u64,
    /// It could not come down to `bytes_max`: something is still wanted, or waits for a snapshot.
    pub over_limit: bool,
}

/// What became of one sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thinned {
    /// It is gone; so many bytes are free.
    Removed(u64),
    /// It was rewritten with what is wanted of it; so many bytes are free.
    Rewritten(u64),
    /// It stays as it is: so many of its bytes are wanted, or wait for what is before.
    Kept(u64),
    /// It is damaged.
    Damaged,
    /// There is no such segment now, or not both snapshots are past it.
    Waits,
    /// The owner was not sure any more.
    Unsure,
}

/// A sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its positions.
    pub range: Range<Position>,
    /// Bytes of its file.
    pub bytes: u64,
    /// The time of its first record.
    pub first_ms: u64,
    /// The time of its last record.
    pub last_ms: u64,
}

impl Segment {
    pub(crate) fn info(&self) -> SegmentInfo {
        let range = self.base.into()..self.end.into();
        let (first_ms, last_ms) = (self.first_time, self.last_time);
        SegmentInfo { range, bytes: self.file_bytes, first_ms, last_ms }
    }
}

/// What is wanted of a segment.
struct Survey {
    wanted_bytes: u64,
    data_bytes: u64,
    damaged: bool,
}

impl Shared {
    pub(crate) fn retain(
        self: &Arc<Self>,
        rule: &Retain,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Retained, KeepError> {
        let _one_at_a_time = lock(&self.keeping);
        let mut done = Retained::default();
        self.tend_sealing();
        let limit = self.snapshot_floor()?.min(rule.before.get());
        let segments = lock(&self.index).sealed.clone();
        let mut bytes = lock(&self.index).file_bytes();
        let mut first = true;
        for segment in segments {
            let old = rule.older_than_ms.is_some_and(|time| segment.last_time < time);
            let spare = rule.bytes_max.is_some_and(|max| bytes > max);
            let waits = segment.lost || matches!(segment.lookup, Lookup::Memory { .. });
            if segment.end > limit || !(old || spare) || waits {
                first = false;
                continue;
            }
            let freed = self.retain_one(&segment, first, rule, wanted, &mut done)?;
            first &= freed == segment.file_bytes;
            bytes = bytes.saturating_sub(freed);
            done.freed_bytes = done.freed_bytes.saturating_add(freed);
        }
        done.over_limit = rule.bytes_max.is_some_and(|max| bytes > max);
        Ok(done)
    }

    /// log §12: no segment goes before every snapshot that is kept is past it: the older one must be enough to start from, too.
    fn snapshot_floor(&self) -> Result<u64, DiskError> {
        Ok(positions(&*self.disk)?.into_iter().min().unwrap_or(0))
    }

    /// Removes or rewrites one segment; says how many bytes that freed.
    fn retain_one(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        first: bool,
        rule: &Retain,
        wanted: &mut dyn FnMut(&Record) -> bool,
        done: &mut Retained,
    ) -> Result<u64, KeepError> {
        let range = Position::new(segment.base)..Position::new(segment.end);
        let survey = self.survey(segment, wanted)?;
        if survey.damaged {
            done.damaged.push(range);
            return Ok(0);
        }
        if survey.wanted_bytes == 0 && first {
            self.remove(segment)?;
            done.removed.push(range);
            return Ok(segment.file_bytes);
        }
        let part = survey.wanted_bytes.saturating_mul(100);
        let little = rule.rewrite_percent > 0
            && part <= survey.data_bytes.saturating_mul(rule.rewrite_percent);
        if !little || survey.data_bytes == 0 {
            return Ok(0);
        }
        let freed = self.rewrite_segment(segment, wanted, &mut || true)?.unwrap_or(0);
        done.rewritten.push(range);
        Ok(freed)
    }

    /// Removes or rewrites the sealed segment that holds `position`, where both snapshots are past it (log §12.2).
    pub(crate) fn thin(
        self: &Arc<Self>,
        position: Position,
        rewrite_percent: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
        sure: &mut dyn FnMut() -> bool,
    ) -> Result<Thinned, KeepError> {
        let _one_at_a_time = lock(&self.keeping);
        self.tend_sealing();
        let limit = self.snapshot_floor()?;
        let (segment, first) = {
            let index = lock(&self.index);
            let first = index.sealed.first().map(|first| first.id);
            (index.sealed_at(position.get()), first)
        };
        let ready = |segment: &Arc<Segment>| {
            let waits = segment.lost || matches!(segment.lookup, Lookup::Memory { .. });
            segment.end <= limit && !waits
        };
        let Some(segment) = segment.filter(ready) else { return Ok(Thinned::Waits) };
        let Survey { wanted_bytes, data_bytes, damaged } = self.survey(&segment, wanted)?;
        if damaged {
            return Ok(Thinned::Damaged);
        }
        if wanted_bytes == 0 && first == Some(segment.id) {
            if !sure() {
                return Ok(Thinned::Unsure);
            }
            self.remove(&segment)?;
            return Ok(Thinned::Removed(segment.file_bytes));
        }
        let part = wanted_bytes.saturating_mul(100);
        if data_bytes == 0 || part > data_bytes.saturating_mul(rewrite_percent) {
            return Ok(Thinned::Kept(wanted_bytes));
        }
        let freed = self.rewrite_segment(&segment, wanted, sure)?;
        Ok(freed.map_or(Thinned::Unsure, Thinned::Rewritten))
    }

    /// Reads a segment through once.
    fn survey(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Survey, KeepError> {
        let data_bytes = segment.data_end.saturating_sub(HEADER_PAGE);
        let mut survey = Survey { wanted_bytes: 0, data_bytes, damaged: false };
        let mut reader = Reader::new(self.clone(), segment.base.into());
        while reader.position().get() < segment.end
            && let Some(block) =
                reader.next(1 << 20).map_err(|crate::ReadError::Disk(error)| error)?
        {
            survey.damaged |= block.gap().is_some_and(|gap| {
                gap.kind == GapKind::Damaged
                    && !lock(&self.accepted).covers(gap.range.start.get(), gap.range.end.get())
            });
            for record in block.records().take_while(|record| record.position.get() < segment.end) {
                if wanted(&record) {
                    let bytes = RecordHeader::fixed(record.stream != 0)
                        + record.head.len()
                        + record.payload.len();
                    survey.wanted_bytes = survey.wanted_bytes.saturating_add(wide(bytes));
                }
            }
        }
        Ok(survey)
    }

    /// Removes the first segment: the floor says so before.
    fn remove(&self, segment: &Arc<Segment>) -> Result<(), KeepError> {
        if !self.write_watermark(Some(segment.end)) {
            return Err(KeepError::Poisoned { name: "watermark".to_owned() });
        }
        lock(&self.index).sealed.retain(|other| other.id != segment.id);
        let name = segment.name();
        self.disk.remove(&name).at("remove", &name)?;
        self.sync_folder(&name)
    }

    pub(crate) fn rewrite(
        self: &Arc<Self>,
        position: Position,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<Option<u64>, KeepError> {
        let _one_at_a_time = lock(&self.keeping);
        self.tend_sealing();
        let segment = lock(&self.index).sealed_at(position.get());
        match segment {
            Some(segment) if !segment.lost && !matches!(segment.lookup, Lookup::Memory { .. }) => {
                self.rewrite_segment(&segment, wanted, &mut || true)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// log §12: the same segment with its wanted records alone: complete and synced beside the old one, then in its place, if
    /// its owner is still sure: how many bytes that freed.
    fn rewrite_segment(
        &self,
        segment: &Arc<Segment>,
        wanted: &mut dyn FnMut(&Record) -> bool,
        sure: &mut dyn FnMut() -> bool,
    ) -> Result<Option<u64>, KeepError> {
        let name = segment.name();
        let damaged = || KeepError::Damaged { name: name.clone(), at: segment.base.into() };
        let Lookup::Footer(old) = &segment.lookup else { return Err(damaged()) };
        if !self.is_whole(segment)? {
            return Err(damaged());
        }
        let view = segment.view(&*self.disk)?;
        let tmp = format!("{name}.tmp");
        let made = self.make_rewritten(segment, old, &view, &tmp, wanted);
        let (trailer, build) = made.map_err(|error| match error {
            MakeError::Disk(error) => KeepError::Disk(error),
            MakeError::Sync(error) => {
                self.poison(&error);
                KeepError::Poisoned { name: error.name }
            }
        })?;
        if !sure() {
            discard(&*self.disk, &tmp).map_err(DiskError::from)?;
            return Ok(None);
        }
        self.disk.rename(&tmp, &name).at("rename", &tmp)?;
        self.sync_folder(&name)?;
        let new = Segment::footed(&build, trailer, &build.file);
        let freed = segment.file_bytes.saturating_sub(new.file_bytes);
        lock(&self.index).replace(Arc::new(new));
        Ok(Some(freed))
    }

    fn is_whole(&self, segment: &Arc<Segment>) -> Result<bool, KeepError> {
        let Lookup::Footer(trailer) = &segment.lookup else { return Ok(false) };
        let view = segment.view(&*self.disk)?;
        Ok(segment.bad_section(&view, trailer)?.is_none()
            && crate::offline::check_records(segment, &view)?.is_empty())
    }

    fn make_rewritten(
        &self,
        segment: &Segment,
        old: &Trailer,
        view: &View,
        tmp: &str,
        wanted: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<(Trailer, Builder), MakeError> {
        let header = self.header_of(segment, view)?;
        discard(&*self.disk, tmp)?;
        let mut build = Builder::create(&*self.disk, tmp, header)?;
        let mut source = Source {
            window: Window::new(&*view.file.0, segment.name())?,
            name: segment.name(),
            salt: segment.salt,
            seed: segment.seed,
            from: HEADER_PAGE,
            to: segment.data_end,
        };
        let copied = copy(&mut source, &mut build, |header, bytes| wanted(&header.slice(bytes)))?;
        let Copied { marks, entries, mut gaps } = copied;
        if build.end < old.end {
            gaps.push(GapRow { from: build.end, to: old.end, damaged: false });
        }
        (build.first_time, build.last_time) = (old.first_time, old.last_time);
        build.disk_file().sync().at("sync", tmp).map_err(MakeError::Sync)?;
        let seal = Seal {
            name: tmp.to_owned(),
            end: old.end,
            marks: &marks,
            entries: &entries,
            gaps: &gaps,
            kept_hash: Some(old.kept_hash),
        };
        let trailer = build.seal(seal)?;
        Ok((trailer, build))
    }

    /// The header of the rewritten segment: another salt, the same place in the log.
    fn header_of(&self, segment: &Segment, view: &View) -> Result<Header, DiskError> {
        let name = segment.name();
        let mut page = [0_u8; 4096];
        crate::disk::read_exact(&*view.file.0, 0, &mut page).at("read", &name)?;
        let (old, _) = Header::decode_page(&page).map_err(|_| DiskError {
            op: "read the header of",
            name: name.clone(),
            source: std::io::Error::other("it is damaged"),
        })?;
        let salt = self.disk.random().at("take random bytes for", &name)?;
        Ok(Header { flags: old.flags | REWRITTEN, salt, ..old })
    }
}
