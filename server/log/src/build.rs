//! What a segment gathers while it is written: its end, hash, marks and index; and how it is sealed.
//!
//! The writer, recovery's copy and rewriting put batches down through here, so that there is one way to write a segment.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, DiskFile, short_write, write_whole};
use crate::error::{At, DiskError};
use crate::format::batch::Batch;
use crate::format::footer::{EntryRow, GapRow, Mark, StreamRow, Trailer, encode_rows, pages_at};
use crate::format::header::Header;
use crate::format::record::RecordHeader;
use crate::format::{Hash, Salt, crc, narrow32, wide};
use crate::limits::{HEADER_PAGE, IOVECS_MAX, MARK_EVERY};
use crate::planted::Slips;
use crate::queue::{Entry, Pending};
use crate::segment::{OpenFile, file_name};

/// Bytes of a footer that are written and synced at once.
const SLICE: usize = 1 << 20;

/// A segment file that batches can be added to.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) header: Header,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) seed: u32,
    /// Where the next batch goes.
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) prev_tag: u64,
    pub(crate) hash: blake3::Hasher,
    pub(crate) records: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) marked: u64,
}

/// What a batch added to the index of its segment.
#[derive(Debug, Default)]
pub(crate) struct Added {
    pub(crate) mark: Option<Mark>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) bytes: u64,
}

/// Why a segment could not be made; the file may be left, under its `.tmp` name or its own.
#[derive(Debug)]
pub(crate) enum MakeError {
    /// Nothing is known to be wrong with what was there.
    Disk(DiskError),
    /// A sync failed.
    Sync(DiskError),
}

impl From<MakeError> for DiskError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Disk(error) | MakeError::Sync(error) => error,
        }
    }
}

impl Builder {
    /// Starts a file under `name`: header written, nothing synced.
    pub(crate) fn create(disk: &dyn Disk, name: &str, header: Header) -> Result<Self, DiskError> {
        Self::begin(disk.create(name).at("create", name)?, name, header)
    }

    /// The same in a file of zeros, or without anything.
    pub(crate) fn begin(
        file: Arc<dyn DiskFile>,
        name: &str,
        header: Header,
    ) -> Result<Self, DiskError> {
        write_whole(&*file, 0, &header.encode_page()).at("write the header of", name)?;
        let (base, time) = (header.base, header.time_floor);
        Ok(Self {
            seed: crc(&[&header.salt]),
            header,
            file: Arc::new(OpenFile(file)),
            offset: HEADER_PAGE,
            end: base,
            prev_tag: 0,
            hash: blake3::Hasher::new(),
            records: 0,
            first_time: time,
            last_time: time,
            marked: 0,
        })
    }

    pub(crate) fn disk_file(&self) -> &dyn DiskFile {
        &*self.file.0
    }

    pub(crate) fn name(&self) -> String {
        file_name(self.header.id)
    }

    pub(crate) fn salt(&self) -> &Salt {
        &self.header.salt
    }

    /// The batch header for what `batch` holds, put into its first bytes. The buffer is padded.
    pub(crate) fn finish(&self, batch: &mut Pending, synced_upto: u64) -> u64 {
        let padded = batch.padded();
        let padding = padded.saturating_sub(batch.total());
        batch.bytes.resize(batch.bytes.len().saturating_add(padding), 0);
        let header = Batch {
            length: narrow32(wide(padded)),
            base: batch.base,
            end: batch.end,
            synced_upto,
            prev_tag: self.prev_tag,
            records: batch.records,
            body_crc: crc(&[&batch.crcs]),
            time_ms: batch.first_time,
        };
        let (bytes, tag) = header.encode(self.salt(), self.offset);
        if let Some(front) = batch.bytes.first_chunk_mut() {
            *front = bytes;
        }
        tag
    }

    /// Writes the batch at the end, with `between` after each slice of it but the last. Nothing of the builder changes:
    /// [`Builder::advance`] does that.
    pub(crate) fn write(
        &self,
        batch: &Pending,
        slips: Slips,
        (slice, between): (usize, &mut dyn FnMut() -> Result<(), MakeError>),
    ) -> Result<(), MakeError> {
        let mut parts = Vec::with_capacity(batch.large.len().saturating_mul(2).saturating_add(1));
        let mut from = 0;
        for (at, payload) in &batch.large {
            parts.push(batch.bytes.get(from..*at).unwrap_or_default());
            parts.push(payload);
            from = *at;
        }
        parts.push(batch.bytes.get(from..).unwrap_or_default());
        let (mut offset, mut rest) = (self.offset, parts.as_slice());
        while let Some((some, later)) = rest.split_at_checked(first_slice(rest, slice)) {
            let wanted = self.write_some(offset, some, slips);
            let wanted = wanted.at("write", &self.name()).map_err(MakeError::Disk)?;
            if later.is_empty() {
                break;
            }
            between()?;
            offset = offset.saturating_add(wide(wanted));
            rest = later;
        }
        Ok(())
    }

    /// One write: how many bytes.
    fn write_some(&self, offset: u64, parts: &[&[u8]], slips: Slips) -> io::Result<usize> {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        // log §9: a short write is not continued; the batch is refused whole.
        if self.disk_file().write_at(offset, &slices)? != wanted && !slips.ignores_short_writes() {
            return Err(short_write());
        }
        Ok(wanted)
    }

    /// Takes a written batch into end, hash and index.
    pub(crate) fn advance(&mut self, batch: &mut Pending, tag: u64) -> Added {
        let offset = narrow32(self.offset);
        let mut entries = std::mem::take(&mut batch.entries);
        entries.iter_mut().for_each(|entry| entry.offset = entry.offset.saturating_add(offset));
        let mark = self.offset.saturating_sub(self.marked) >= MARK_EVERY || self.marked == 0;
        let mark = mark.then_some(Mark { position: batch.base, time_ms: batch.first_time, offset });
        if mark.is_some() {
            self.marked = self.offset;
        }
        if self.records == 0 {
            self.first_time = batch.first_time;
        }
        self.hash.update(&batch.crcs);
        self.records = self.records.saturating_add(u64::from(batch.records));
        self.last_time = batch.last_time;
        self.end = batch.end;
        self.prev_tag = tag;
        let bytes = wide(batch.padded());
        self.offset = self.offset.saturating_add(bytes);
        Added { mark, entries, bytes }
    }

    /// BLAKE3 over the CRCs so far.
    pub(crate) fn digest(&self) -> Hash {
        *self.hash.finalize().as_bytes()
    }

    /// Cuts what stands behind the data, writes the footer and syncs. All data must be synced before.
    pub(crate) fn seal(&self, seal: Seal<'_>) -> Result<Trailer, MakeError> {
        let name = &seal.name;
        let file = self.disk_file();
        file.truncate(self.offset).at("cut", name).map_err(MakeError::Disk)?;
        let mut pages = BytesMut::new();
        let (streams, entries) = stream_rows(seal.entries);
        let pages_of = [
            encode_rows(seal.marks, self.seed, &mut pages),
            encode_rows(&streams, self.seed, &mut pages),
            encode_rows(&entries, self.seed, &mut pages),
            encode_rows(seal.gaps, self.seed, &mut pages),
        ];
        let hash = self.digest();
        let trailer = Trailer {
            id: self.header.id,
            base: self.header.base,
            end: seal.end,
            data_end: self.offset,
            first_time: self.first_time,
            last_time: self.last_time,
            records: self.records,
            hash,
            kept_hash: seal.kept_hash.unwrap_or(hash),
            pages: pages_of,
        };
        let mut at = pages_at(self.offset);
        let last = trailer.encode(self.seed);
        // In slices, so that a commit of the next segment never waits for the whole of it; and the trailer by itself, so that one
        // that is on disk proves that the pages are.
        for slice in pages.chunks(SLICE).chain([&*last]) {
            write_whole(file, at, slice)
                .at("write the footer of", name)
                .map_err(MakeError::Disk)?;
            file.sync().at("sync", name).map_err(MakeError::Sync)?;
            at = at.saturating_add(wide(slice.len()));
        }
        Ok(trailer)
    }
}

/// How many of the parts are written at once: at least one, then as many as a slice and a call hold.
fn first_slice(parts: &[&[u8]], slice: usize) -> usize {
    let mut bytes = 0_usize;
    let fits = |part: &&&[u8]| {
        let fits = bytes == 0 || bytes.saturating_add(part.len()) <= slice;
        bytes = bytes.saturating_add(part.len());
        fits
    };
    parts.iter().take(IOVECS_MAX).take_while(fits).count()
}

/// What a seal needs beside the builder.
pub(crate) struct Seal<'a> {
    pub(crate) name: String,
    pub(crate) end: u64,
    pub(crate) marks: &'a [Mark],
    pub(crate) entries: &'a [Entry],
    pub(crate) gaps: &'a [GapRow],
    pub(crate) kept_hash: Option<Hash>,
}

/// The index of a segment by stream: streams in order of their ids, each with its entries in order.
fn stream_rows(entries: &[Entry]) -> (Vec<StreamRow>, Vec<EntryRow>) {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    // The sort is stable: within a stream they stay in order.
    sorted.sort_by_key(|entry| entry.stream);
    let mut streams = Vec::new();
    let mut rows = Vec::with_capacity(sorted.len());
    for run in sorted.chunk_by(|a, b| a.stream == b.stream) {
        let Some(first) = run.first() else { continue };
        streams.push(StreamRow {
            stream: first.stream,
            first_version: first.version,
            prev: first.prev,
            first_entry: narrow32(wide(rows.len())),
            entries: narrow32(wide(run.len())),
        });
        rows.extend(run.iter().map(|e| EntryRow {
            version: e.version,
            position: e.position,
            offset: e.offset,
        }));
    }
    (streams, rows)
}

/// Copies a record into a batch that is being built elsewhere, at the same position.
pub(crate) fn copy_record(into: &mut Pending, header: &RecordHeader, record: &Bytes) {
    let fixed = RecordHeader::fixed(header.stream != 0);
    let head = record.get(fixed..header.payload_at()).unwrap_or_default();
    let payload = record.slice(header.payload_at().min(record.len())..);
    into.push(header, head, payload);
}

#[cfg(test)]
mod tests {
    use super::first_slice;

    #[test]
    fn a_slice_is_as_much_as_fits_and_one_part_at_least() {
        let parts = [&[0_u8; 64][..], &[0; 900], &[], &[0; 2000], &[0; 10]];
        for (from, slice, count) in
            [(0, 1000, 3), (0, 10, 1), (1, 900, 2), (3, 1000, 1), (3, 2010, 2), (5, 9, 0)]
        {
            assert_eq!(first_slice(&parts[from..], slice), count, "{from} {slice}");
        }
        let many = vec![&[0_u8; 1][..]; 600];
        assert_eq!(first_slice(&many, 1 << 20), 512);
    }
}
