//! What is known of each segment, and where in it a position is.
//!
//! The index names every segment in order; the open one is the last. Readers look here first, under a short lock, and read
//! files without it. The invariant: nothing at or beyond `durable_end` can be found here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use crate::build::Builder;
use crate::disk::{Disk, DiskFile, read_exact};
use crate::error::{At, DiskError};
use crate::format::footer::{
    EntryRow, GapRow, Mark, PAGE, Row, Section, StreamRow, Trailer, decode_rows,
};
use crate::format::header::{Header, REWRITTEN};
use crate::format::{Salt, crc};
use crate::limits::HEADER_PAGE;
use crate::lock;
use crate::queue::Entry;

/// The file of segment `id`.
pub(crate) fn file_name(id: u64) -> String {
    format!("{id:020}.segment")
}

/// The id in a segment's file name.
pub(crate) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

/// How a position is found in a sealed segment.
#[derive(Clone, Debug)]
pub(crate) enum Lookup {
    /// By the pages of its footer.
    Footer(Trailer),
    /// Its footer is being written: by what was in memory while it was open.
    Memory { marks: Arc<Vec<Mark>>, entries: Arc<Vec<Entry>> },
    /// It has no footer that can be believed: by what a scan found.
    Scanned { marks: Arc<Vec<Mark>> },
}

/// One segment that is not written any more.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) data_end: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) salt: Salt,
    pub(crate) seed: u32,
    pub(crate) flags: u32,
    pub(crate) file_bytes: u64,
    pub(crate) lookup: Lookup,
    /// Its header can't be read: all of it is a hole.
    pub(crate) lost: bool,
    pub(crate) file: Mutex<Weak<OpenFile>>,
}

/// A file that readers share.
#[derive(Debug)]
pub(crate) struct OpenFile(pub(crate) Arc<dyn DiskFile>);

/// What a reader needs of a segment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) id: u64,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) salt: Salt,
    pub(crate) seed: u32,
    pub(crate) end: u64,
    pub(crate) data_end: u64,
    pub(crate) jumps: bool,
    pub(crate) sealed: bool,
}

impl View {
    pub(crate) fn name(&self) -> String {
        file_name(self.id)
    }
}

impl Segment {
    pub(crate) fn name(&self) -> String {
        file_name(self.id)
    }

    pub(crate) fn view(&self, disk: &dyn Disk) -> Result<View, DiskError> {
        let mut shared = lock(&self.file);
        let file = match shared.upgrade() {
            Some(file) => file,
            None => {
                let file = Arc::new(OpenFile(disk.open(&self.name()).at("open", &self.name())?));
                *shared = Arc::downgrade(&file);
                file
            }
        };
        Ok(self.view_of(file))
    }

    fn view_of(&self, file: Arc<OpenFile>) -> View {
        View {
            id: self.id,
            file,
            salt: self.salt,
            seed: self.seed,
            end: self.end,
            data_end: self.data_end,
            jumps: self.flags & REWRITTEN != 0,
            sealed: true,
        }
    }

    /// The last mark for which `before` holds, or the start of the data.
    pub(crate) fn mark(
        &self,
        view: &View,
        before: impl Fn(&Mark) -> bool,
    ) -> Result<Mark, DiskError> {
        let start = Mark { position: self.base, time_ms: 0, offset: first_offset() };
        let found = match &self.lookup {
            Lookup::Scanned { marks } | Lookup::Memory { marks, .. } => last_where(marks, before),
            Lookup::Footer(trailer) => self.search(view, trailer, before)?.0,
        };
        Ok(found.unwrap_or(start))
    }

    /// The first mark behind `offset`.
    pub(crate) fn mark_after(&self, view: &View, offset: u64) -> Result<Option<Mark>, DiskError> {
        let before = |mark: &Mark| u64::from(mark.offset) <= offset;
        match &self.lookup {
            Lookup::Scanned { marks } | Lookup::Memory { marks, .. } => {
                Ok(marks.get(marks.partition_point(before)).copied())
            }
            Lookup::Footer(trailer) => {
                for number in 0..trailer.page_count(Section::Marks) {
                    let rows = self.rows::<Mark>(view, trailer, number)?.unwrap_or_default();
                    if let Some(mark) = rows.into_iter().find(|mark| !before(mark)) {
                        return Ok(Some(mark));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The last row for which `before` holds, by binary search over the pages, and whether no page on the way was damaged.
    /// With a damaged one the row found is a good one, but there may be a later.
    pub(crate) fn search<R: Row>(
        &self,
        view: &View,
        trailer: &Trailer,
        before: impl Fn(&R) -> bool,
    ) -> Result<(Option<R>, bool), DiskError> {
        let (mut low, mut high) = (0, trailer.page_count(R::SECTION));
        let (mut best, mut sound) = (None, true);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.rows::<R>(view, trailer, middle)? {
                Some(rows) if rows.first().is_some_and(&before) => {
                    best = last_where(&rows, &before);
                    low = middle + 1;
                }
                other => {
                    sound &= other.is_some();
                    high = middle;
                }
            }
        }
        Ok((best, sound))
    }

    /// One page of rows; `None` when the page is damaged.
    pub(crate) fn rows<R: Row>(
        &self,
        view: &View,
        trailer: &Trailer,
        number: u32,
    ) -> Result<Option<Vec<R>>, DiskError> {
        let Some(at) = trailer.page_at(R::SECTION, number) else { return Ok(None) };
        let mut page = [0_u8; PAGE];
        read_exact(&*view.file.0, at, &mut page).at("read the footer of", &self.name())?;
        Ok(decode_rows(&page, self.seed, number))
    }

    /// Whether a page of its footer is damaged, and which section.
    pub(crate) fn bad_section(
        &self,
        view: &View,
        trailer: &Trailer,
    ) -> Result<Option<Section>, DiskError> {
        for section in Section::ALL {
            for number in 0..trailer.page_count(section) {
                let mut page = [0_u8; PAGE];
                let at = trailer.page_at(section, number).unwrap_or(u64::MAX);
                read_exact(&*view.file.0, at, &mut page).at("read the footer of", &self.name())?;
                let good = match section {
                    Section::Marks => decode_rows::<Mark>(&page, self.seed, number).is_some(),
                    Section::Streams => {
                        decode_rows::<StreamRow>(&page, self.seed, number).is_some()
                    }
                    Section::Entries => decode_rows::<EntryRow>(&page, self.seed, number).is_some(),
                    Section::Gaps => decode_rows::<GapRow>(&page, self.seed, number).is_some(),
                };
                if !good {
                    return Ok(Some(section));
                }
            }
        }
        Ok(None)
    }
}

fn entry_in(entries: &[Entry], position: u64) -> Option<Entry> {
    let n = entries.partition_point(|entry| entry.position < position);
    entries.get(n).filter(|entry| entry.position == position).copied()
}

/// Where the first batch of a segment begins.
pub(crate) fn first_offset() -> u32 {
    crate::format::narrow32(HEADER_PAGE)
}

/// The last of a sorted run for which `before` holds.
pub(crate) fn last_where<T: Copy>(sorted: &[T], before: impl Fn(&T) -> bool) -> Option<T> {
    let n = sorted.partition_point(before);
    n.checked_sub(1).and_then(|n| sorted.get(n)).copied()
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) header: Header,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) data_end: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) marks: Vec<Mark>,
    /// Shared with the writer alone, while it seals: nothing is added then.
    pub(crate) entries: Arc<Vec<Entry>>,
}

impl Open {
    /// The open segment as a builder left it.
    pub(crate) fn of(build: &Builder, marks: Vec<Mark>, entries: Vec<Entry>) -> Self {
        Self {
            header: build.header.clone(),
            file: build.file.clone(),
            data_end: build.offset,
            first_time: build.first_time,
            last_time: build.last_time,
            marks,
            entries: Arc::new(entries),
        }
    }

    pub(crate) fn seed(&self) -> u32 {
        crc(&[&self.header.salt])
    }
}

/// A batch that is kept in memory for readers close behind the end.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) bytes: Bytes,
}

/// All segments, and the last batches.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) sealed: Vec<Arc<Segment>>,
    pub(crate) open: Option<Open>,
    pub(crate) durable_end: u64,
    pub(crate) last_time: u64,
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) recent_bytes: usize,
    /// The index of an earlier segment, emptied.
    pub(crate) spare_entries: Vec<Entry>,
}

/// Where a position is.
pub(crate) enum Place {
    /// At or beyond the durable end.
    End,
    /// In memory.
    Recent(Recent),
    /// In the open segment; the nearest mark before it.
    Open(View, Mark),
    /// In a sealed one.
    Sealed(Arc<Segment>),
    /// In none: the next position there is.
    Nowhere(u64),
}

impl Index {
    /// The first position that is still here.
    pub(crate) fn start(&self) -> u64 {
        let open = self.open.as_ref().map(|open| open.header.base);
        self.sealed.first().map(|segment| segment.base).or(open).unwrap_or(self.durable_end)
    }

    /// Bytes of all its files.
    pub(crate) fn file_bytes(&self) -> u64 {
        let open = self.open.as_ref().map(|open| open.data_end);
        self.sealed.iter().map(|segment| segment.file_bytes).chain(open).sum()
    }

    pub(crate) fn find(&self, position: u64) -> Place {
        if position >= self.durable_end {
            return Place::End;
        }
        match self.recent(position) {
            Some(recent) => Place::Recent(recent),
            None => self.find_file(position),
        }
    }

    /// The same, in files only.
    pub(crate) fn find_file(&self, position: u64) -> Place {
        if position >= self.durable_end {
            return Place::End;
        }
        match &self.open {
            Some(open) if position >= open.header.base => {
                Place::Open(self.view(open), self.open_mark(open, |mark| mark.position <= position))
            }
            Some(_) | None => self.find_sealed(position),
        }
    }

    /// What memory knows of the record of a stream at exactly this position: in the open segment, or in the one before while its
    /// footer is being written.
    pub(crate) fn entry(&self, position: u64) -> Option<(View, Entry)> {
        if let Some(open) = self.open.as_ref().filter(|open| open.header.base <= position) {
            return entry_in(&open.entries, position).map(|entry| (self.view(open), entry));
        }
        let segment = self.sealed.last()?;
        let Lookup::Memory { entries, .. } = &segment.lookup else { return None };
        let file = lock(&segment.file).upgrade()?;
        entry_in(entries, position).map(|entry| (segment.view_of(file), entry))
    }

    /// The newest sealed segment before this base.
    pub(crate) fn sealed_before(&self, base: u64) -> Option<Arc<Segment>> {
        let n = self.sealed.partition_point(|segment| segment.base < base);
        n.checked_sub(1).and_then(|n| self.sealed.get(n)).cloned()
    }

    /// The sealed segment that holds this position.
    pub(crate) fn sealed_at(&self, position: u64) -> Option<Arc<Segment>> {
        let n = self.sealed.partition_point(|segment| segment.end <= position);
        self.sealed.get(n).filter(|segment| segment.base <= position).cloned()
    }

    /// Puts a rewritten segment in the place of the old one.
    pub(crate) fn replace(&mut self, new: Arc<Segment>) {
        if let Some(old) = self.sealed.iter_mut().find(|old| old.id == new.id) {
            *old = new;
        }
    }

    fn find_sealed(&self, position: u64) -> Place {
        let n = self.sealed.partition_point(|segment| segment.end <= position);
        match self.sealed.get(n) {
            Some(segment) if segment.base <= position => Place::Sealed(segment.clone()),
            Some(segment) => Place::Nowhere(segment.base),
            None => {
                Place::Nowhere(self.open.as_ref().map_or(self.durable_end, |open| open.header.base))
            }
        }
    }

    fn recent(&self, position: u64) -> Option<Recent> {
        if self.recent.front()?.base > position {
            return None;
        }
        let n = self.recent.partition_point(|recent| recent.end <= position);
        self.recent.get(n).filter(|recent| recent.base <= position).cloned()
    }

    /// The open segment as a reader sees it: up to the durable end.
    pub(crate) fn view(&self, open: &Open) -> View {
        View {
            id: open.header.id,
            file: open.file.clone(),
            salt: open.header.salt,
            seed: open.seed(),
            end: self.durable_end,
            data_end: open.data_end,
            jumps: false,
            sealed: false,
        }
    }

    pub(crate) fn open_mark(&self, open: &Open, before: impl Fn(&Mark) -> bool) -> Mark {
        let start = Mark { position: open.header.base, time_ms: 0, offset: first_offset() };
        last_where(&open.marks, before).unwrap_or(start)
    }

    /// Keeps a batch for readers that follow, within `limit` bytes, and gives back a buffer that nobody reads any more.
    pub(crate) fn remember(&mut self, recent: Recent, limit: usize) -> Option<Bytes> {
        self.recent_bytes = self.recent_bytes.saturating_add(recent.bytes.len());
        self.recent.push_back(recent);
        let mut freed = None;
        while self.recent_bytes > limit
            && let Some(old) = self.recent.pop_front()
        {
            self.recent_bytes = self.recent_bytes.saturating_sub(old.bytes.len());
            freed = Some(old.bytes);
        }
        freed
    }

    /// Forgets the batches in memory: they must follow each other.
    pub(crate) fn forget_recent(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
    }
}
