//! Writing the footer of a segment that is not written any more, off the path of acknowledgements.
//!
//! At most one segment waits for its footer. Until it has it, its index stays in memory and readers use that.

use std::sync::{Arc, Mutex};

use crate::build::{Builder, MakeError, Seal};
use crate::error::DiskError;
use crate::format::crc;
use crate::format::footer::{Mark, Trailer};
use crate::lock;
use crate::queue::Entry;
use crate::segment::{Index, Lookup, Open, OpenFile, Segment};
use crate::shared::Shared;
use crate::writer::Refused;

/// A segment that waits for its footer.
#[derive(Debug)]
pub(crate) struct Sealing {
    build: Builder,
    marks: Arc<Vec<Mark>>,
    entries: Arc<Vec<Entry>>,
}

impl Shared {
    /// Shows readers the next segment, and puts the one before where its footer is written.
    pub(crate) fn turn_to(&self, next: &Builder, old: Builder) {
        let sealing = lock(&self.index).turn_to(next, old);
        *lock(&self.sealing) = sealing;
        lock(&self.queue).seed = next.seed;
        self.keeper.wake();
    }

    /// Writes the footer that waits, if one does.
    pub(crate) fn finish_sealing(&self) -> Result<(), Refused> {
        let mut waiting = lock(&self.sealing);
        let Some(sealing) = waiting.as_ref() else { return Ok(()) };
        let Sealing { build, marks, entries } = sealing;
        let (name, end) = (build.name(), build.end);
        // log §6: the footer comes after all it covers is synced, and every batch was.
        let trailer = build.seal(Seal { name, end, marks, entries, gaps: &[], kept_hash: None })?;
        let segment = Segment::footed(build, trailer, &build.file);
        lock(&self.index).replace(Arc::new(segment));
        let done = waiting.take();
        // Memory that is warm already serves the segment after the next, unless a reader still looks into it.
        if let Some(Ok(mut entries)) = done.map(|done| Arc::try_unwrap(done.entries)) {
            entries.clear();
            lock(&self.index).spare_entries = entries;
        }
        Ok(())
    }

    /// The same off the path of acknowledgements: for want of room it waits, a failed sync ends the log.
    pub(crate) fn tend_sealing(&self) {
        match self.finish_sealing() {
            Ok(()) => {}
            Err(Refused::Full(error)) => {
                self.health_note(|health| health.full = Some(error.to_string()))
            }
            Err(Refused::Poisoned(error)) => self.poison(&error),
        }
    }
}

impl Index {
    fn turn_to(&mut self, next: &Builder, old: Builder) -> Option<Sealing> {
        let spare = std::mem::take(&mut self.spare_entries);
        let open = self.open.replace(Open::of(next, Vec::new(), spare))?;
        let (marks, entries) = (Arc::new(open.marks), open.entries);
        let lookup = Lookup::Memory { marks: marks.clone(), entries: entries.clone() };
        self.sealed.push(Arc::new(Segment::of(&old, lookup, &open.file)));
        Some(Sealing { build: old, marks, entries })
    }
}

impl Segment {
    /// What a builder wrote, with its index in memory.
    fn of(build: &Builder, lookup: Lookup, file: &Arc<OpenFile>) -> Self {
        Self {
            id: build.header.id,
            base: build.header.base,
            end: build.end,
            data_end: build.offset,
            first_time: build.first_time,
            last_time: build.last_time,
            salt: build.header.salt,
            seed: crc(&[&build.header.salt]),
            flags: build.header.flags,
            file_bytes: build.offset,
            lookup,
            lost: false,
            file: Mutex::new(Arc::downgrade(file)),
        }
    }

    /// What was just sealed.
    pub(crate) fn footed(build: &Builder, trailer: Trailer, file: &Arc<OpenFile>) -> Self {
        let (end, file_bytes) = (trailer.end, trailer.file_bytes());
        Self { end, file_bytes, ..Self::of(build, Lookup::Footer(trailer), file) }
    }
}

impl From<Refused> for DiskError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full(error) | Refused::Poisoned(error) => error,
        }
    }
}

impl From<DiskError> for Refused {
    fn from(error: DiskError) -> Self {
        MakeError::Disk(error).into()
    }
}
