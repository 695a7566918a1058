//! Copies records from one segment into another at their positions: what recovery could not prove, what rewriting keeps.

use bytes::Bytes;

use crate::build::{Builder, MakeError, copy_record};
use crate::error::DiskError;
use crate::format::batch::{self, Batch};
use crate::format::footer::{GapRow, Mark};
use crate::format::record::{RecordError, RecordHeader};
use crate::format::{Salt, wide};
use crate::planted::Slips;
use crate::queue::{Entry, Pending};
use crate::scan::Window;

const BATCH_BYTES: usize = 1 << 20;

/// Records between two offsets of a segment that was found whole.
pub(crate) struct Source<'a> {
    pub(crate) window: Window<'a>,
    pub(crate) name: String,
    pub(crate) salt: Salt,
    pub(crate) seed: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What was copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) marks: Vec<Mark>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) gaps: Vec<GapRow>,
}

impl Source<'_> {
    /// Calls `each` for every record; a record that is not as it was found is an error.
    pub(crate) fn for_each<E: From<DiskError>>(
        &mut self,
        mut each: impl FnMut(&RecordHeader, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut offset = self.from;
        while offset < self.to {
            let bytes = self.window.get(offset, batch::BYTES)?;
            let (header, _) =
                Batch::decode(bytes, &self.salt, offset).ok_or_else(|| self.changed())?;
            let mut at = offset.saturating_add(wide(batch::BYTES));
            for _ in 0..header.records {
                let (record, bytes) = self.record(at)?;
                at = at.saturating_add(wide(record.total()));
                each(&record, bytes)?;
            }
            offset = offset.saturating_add(u64::from(header.length));
        }
        Ok(())
    }

    fn record(&mut self, at: u64) -> Result<(RecordHeader, Bytes), DiskError> {
        let mut want = 4096;
        loop {
            let bytes = self.window.get(at, want)?;
            match RecordHeader::decode(bytes, self.seed) {
                Ok(header) if bytes.len() < header.total() && want < header.total() => {
                    want = header.total()
                }
                Ok(header) if header.payload_holds(bytes) => {
                    let whole = bytes.get(..header.total()).unwrap_or_default();
                    return Ok((header, Bytes::copy_from_slice(whole)));
                }
                Err(RecordError::Short(need)) if want < need => want = need,
                Ok(_) | Err(RecordError::Short(_) | RecordError::Header) => {
                    return Err(self.changed());
                }
            }
        }
    }

    fn changed(&self) -> DiskError {
        DiskError {
            op: "read again",
            name: self.name.clone(),
            source: std::io::Error::other("it is not what was read before"),
        }
    }
}

/// Copies the records that `wanted` holds for into `build`, and notes the positions between them.
pub(crate) fn copy(
    source: &mut Source<'_>,
    build: &mut Builder,
    mut wanted: impl FnMut(&RecordHeader, &Bytes) -> bool,
) -> Result<Copied, MakeError> {
    let mut copied = Copied::default();
    let mut batch = Pending::default();
    let mut end = build.end;
    source.for_each(|header, bytes| {
        if !wanted(header, &bytes) {
            return Ok(());
        }
        if header.position > end {
            copied.gaps.push(GapRow { from: end, to: header.position, damaged: false });
            flush(build, &mut batch, &mut copied)?;
        }
        if batch.is_empty() {
            batch.start(header.position, build.seed);
        }
        copy_record(&mut batch, header, &bytes);
        end = header.end();
        if batch.total() < BATCH_BYTES { Ok(()) } else { flush(build, &mut batch, &mut copied) }
    })?;
    flush(build, &mut batch, &mut copied)?;
    Ok(copied)
}

fn flush(build: &mut Builder, batch: &mut Pending, copied: &mut Copied) -> Result<(), MakeError> {
    if batch.is_empty() {
        return Ok(());
    }
    // The file is seen only once it is synced whole: so each batch may say that all before it is.
    let tag = build.finish(batch, batch.base);
    build.write(batch, Slips::default(), (usize::MAX, &mut || Ok(())))?;
    let added = build.advance(batch, tag);
    copied.marks.extend(added.mark);
    copied.entries.extend(added.entries);
    batch.clear();
    Ok(())
}

impl From<DiskError> for MakeError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
