//! Uploads and blobs: files on their way, and what they are sealed into. spec §7.
//!
//! Here is what the worker's core knows of them, under its lock; [`writing`] is a session's side, [`read`] and [`list`] answer
//! what is asked, [`hashing`] reads back what was not hashed as it came, [`free`] gives space back. Bytes are in the chunk log,
//! all else in the event log. The invariant: what was changed by records that are not durable stands in `pending`, oldest
//! first, and can be taken back.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use spile_log::Record;
use spile_protocol::{code::Code, message::OpenUpload};

use crate::{
    limits::{CHUNK_CHECKPOINT_BYTES, UPLOADS, UPLOADS_OF_PRINCIPAL, UPLOADS_TOLD},
    record::{self, Names, kind},
};

pub(crate) mod chunks;
pub(crate) mod form;
pub(crate) mod free;
pub(crate) mod hashing;
pub(crate) mod list;
pub(crate) mod operators;
pub(crate) mod read;
pub(crate) mod rows;
pub(crate) mod status;
pub(crate) mod take;
pub(crate) mod view;
pub(crate) mod work;
pub(crate) mod writing;

use chunks::Chunks;
use form::{ChunkOf, Freed, Opened, Place, Sealed, UploadId, parse_chunk_head};
use view::{Change, Undo, Upload, View};

/// A change that is not durable yet.
#[derive(Debug)]
struct Pending {
    /// The position of its record.
    at: u64,
    /// The time of the last record before it.
    time_ms: u64,
    undo: Undo,
}

/// Uploads and blobs.
#[derive(Default)]
pub(crate) struct Uploads {
    pub(crate) view: View,
    /// Where the bytes go; `None`: this worker takes no uploads.
    pub(crate) chunks: Option<Chunks>,
    pending: VecDeque<Pending>,
    /// Uploads with chunks that are not durable.
    flying: BTreeSet<u64>,
    /// Uploads that took chunks in the call at work.
    touched: Vec<u64>,
    /// How many marks were given since the start.
    marks: u64,
    /// Bytes of chunks since the last checkpoint.
    since_checkpoint: usize,
    /// What was thought to be wanted of segments of chunks that were rewritten.
    pub(crate) tried: HashMap<u64, u64>,
    /// Something was freed since space was last given back.
    pub(crate) freed: bool,
    pub(crate) counted: Counted,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Uploads that were forgotten since their client or an operator said so.
    pub(crate) aborted: u64,
    /// Those that nobody went on with for too long.
    pub(crate) expired: u64,
}

impl std::fmt::Debug for Uploads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (uploads, blobs) = (self.view.uploads.len(), self.view.blobs.len());
        f.debug_struct("Uploads").field("uploads", &uploads).field("blobs", &blobs).finish()
    }
}

impl Uploads {
    /// Applies a change whose record was put at `at`, behind the time `time_ms`.
    pub(crate) fn put(&mut self, at: u64, time_ms: u64, change: Change) {
        self.freed |= matches!(change, Change::Freed(_));
        let undo = self.view.apply(change);
        self.pending.push_back(Pending { at, time_ms, undo });
    }

    /// The event log is durable up to `end`.
    pub(crate) fn settle(&mut self, end: u64) {
        while self.pending.pop_front_if(|pending| pending.at < end).is_some() {}
    }

    /// The event log was cut back to `end`: the time of the last record before it, where something was taken back.
    pub(crate) fn cut(&mut self, end: u64) -> Option<u64> {
        let mut time_ms = None;
        while let Some(pending) = self.pending.pop_back_if(|pending| pending.at >= end) {
            self.view.undo(pending.undo);
            time_ms = Some(pending.time_ms);
        }
        time_ms
    }

    /// The first position that is not durable, and the time before it, where there is one.
    pub(crate) fn first_pending(&self) -> Option<(u64, u64)> {
        self.pending.front().map(|pending| (pending.at, pending.time_ms))
    }

    /// What the chunk log has on disk now; where it was cut back, what was beyond is forgotten.
    pub(crate) fn look(&mut self) -> u64 {
        let Some(chunks) = &mut self.chunks else { return 0 };
        let (end, cut) = chunks.look();
        if cut {
            for at in std::mem::take(&mut self.flying) {
                if let Some(upload) = self.view.uploads.get_mut(&at) {
                    upload.work.cut(end);
                }
            }
            // What was freed may come back.
            for pending in &mut self.pending {
                if let Some(upload) = pending.undo.upload_mut() {
                    upload.work.cut(end);
                }
            }
        }
        end
    }

    /// A mark that no upload had since the start.
    pub(crate) fn next_mark(&mut self) -> u64 {
        self.marks = self.marks.wrapping_add(1);
        self.marks
    }

    /// Where the call at work begins in the chunk log.
    pub(crate) fn call_from(&self) -> u64 {
        self.chunks.as_ref().map_or(0, |chunks| chunks.call_from)
    }

    /// The places of what may come back.
    pub(crate) fn pending_keeps(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.pending.iter().filter_map(|pending| pending.undo.keeps())
    }

    /// What a principal has open, as far as it is durable: each with the bytes that are stored. spec §5.1.3
    pub(crate) fn open_of(&mut self, who: &Arc<str>) -> Vec<OpenUpload> {
        if self.view.open_of(who) == 0 {
            return Vec::new();
        }
        let [first, last] = [0, 0xff].map(|byte| (who.clone(), UploadId([byte; 16])));
        self.durably(|uploads| {
            let open = uploads.view.open.range(first..=last).take(UPLOADS_TOLD);
            let open: Vec<_> = open.map(|((_, id), &at)| (id.0, at)).collect();
            let told = open.into_iter().filter_map(|(id, at)| {
                Some(OpenUpload { id, stored_offset: uploads.upload(at)?.work.stored.offset })
            });
            told.collect()
        })
    }

    /// May the principal open one more?
    pub(crate) fn may_open(&self, who: &str) -> bool {
        self.view.uploads.len() < UPLOADS && self.view.open_of(who) < UPLOADS_OF_PRINCIPAL
    }

    /// An open upload, with what of it is durable.
    pub(crate) fn upload(&mut self, at: u64) -> Option<&mut Upload> {
        let end = self.look();
        let upload = self.view.uploads.get_mut(&at)?;
        upload.work.settle(end);
        Some(upload)
    }

    /// Takes a chunk of an upload that is open: the position behind it. The offset is the next one.
    pub(crate) fn take(
        &mut self,
        now_ms: u64,
        at: u64,
        payload: Bytes,
        payload_crc: u32,
    ) -> Option<u64> {
        let upload = self.view.uploads.get_mut(&at)?;
        let chunks = self.chunks.as_mut()?;
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        self.since_checkpoint = self.since_checkpoint.saturating_add(payload.len());
        let from = chunks.call_from;
        let behind = upload.work.taken();
        let of = ChunkOf { upload: at, mark: upload.mark, offset: behind.offset };
        let position = chunks.put(now_ms, of, behind, payload, payload_crc);
        upload.work.put(from, position, bytes);
        upload.work.active_ms = now_ms;
        self.flying.insert(at);
        self.touched.push(at);
        self.view.dirty_uploads.insert(at);
        Some(position.saturating_add(1))
    }

    /// Hands the chunks of the call to the log. Where it takes none of them: from where on they are gone, and why.
    pub(crate) fn commit(&mut self) -> Result<(), (u64, Code)> {
        let touched = std::mem::take(&mut self.touched);
        let Some(chunks) = &mut self.chunks else { return Ok(()) };
        let committed = chunks.commit();
        if let Err((from, _)) = committed {
            for at in touched {
                if let Some(upload) = self.view.uploads.get_mut(&at) {
                    upload.work.take_back(from);
                }
            }
        }
        committed
    }

    /// Bytes of chunks gathered in the call.
    pub(crate) fn gathered(&self) -> usize {
        self.chunks.as_ref().map_or(0, Chunks::gathered)
    }

    /// How many rows the next checkpoint has, counting bulk so that a start reads little of it.
    pub(crate) fn changed(&self) -> usize {
        let rows = self.view.dirty_uploads.len() + self.view.dirty_blobs.len();
        let bulk = self.since_checkpoint / CHUNK_CHECKPOINT_BYTES;
        if bulk > 0 { rows.saturating_add(crate::limits::CHECKPOINT_ROWS) } else { rows }
    }

    /// Calls `with` while all that is not durable is taken back.
    pub(crate) fn durably<T>(&mut self, with: impl FnOnce(&mut Self) -> T) -> T {
        let mut pending = std::mem::take(&mut self.pending);
        // Twice taken back is as it was.
        for one in pending.iter_mut().rev() {
            one.undo = self.view.undo(std::mem::replace(&mut one.undo, Undo::Nothing));
        }
        let done = with(self);
        for one in &mut pending {
            one.undo = self.view.undo(std::mem::replace(&mut one.undo, Undo::Nothing));
        }
        self.pending = pending;
        done
    }

    /// What a record of the event log changes.
    pub(crate) fn apply(&mut self, record: &Record, names: &Names<'_>, time_ms: u64) -> Option<()> {
        let change = change_of(record, names, time_ms)?;
        // Nobody takes it back: it is durable.
        self.view.apply(change);
        Some(())
    }

    /// What a record of the chunk log adds to an upload that is open.
    pub(crate) fn apply_chunk(&mut self, record: &Record) -> Option<()> {
        let ChunkOf { upload: at, mark, offset } = parse_chunk_head(&record.head).ok()?;
        let position = record.position.get();
        let Some(upload) = self.view.uploads.get_mut(&at) else { return Some(()) };
        let stored = &mut upload.work.stored;
        let begins = record.stream == position && offset == 0;
        let follows = record.stream == stored.stream && offset == stored.offset;
        // record §11.7: chunks of an upload of that position that was lost are not this one's.
        let its = mark == upload.mark && position >= upload.from;
        if its && position > stored.last && (begins || follows) {
            upload.work.active_ms = record.time_ms;
            let (stream, last) = (record.stream, position);
            *stored = work::Part { offset: record.version, stream, last };
            self.view.dirty_uploads.insert(at);
        }
        Some(())
    }
}

fn change_of(record: &Record, names: &Names<'_>, time_ms: u64) -> Option<Change> {
    let at = record.position.get();
    match record.kind {
        kind::UPLOAD => {
            let opened: Opened = serde_json::from_slice(&record.payload).ok()?;
            let who = crate::tables::principal(names.tenant, names.role, names.principal);
            Some(Change::Opened { at, who: who.into(), key: names.key.into(), time_ms, opened })
        }
        kind::BLOB => {
            let sealed: Sealed = serde_json::from_slice(&record.payload).ok()?;
            let version = record.version;
            let (_, mut tail) = record::split(&record.head).ok()?;
            let place = Place::take(&mut tail).ok()?;
            Some(Change::Sealed { at, version, time_ms, place, sealed })
        }
        kind::FREED => {
            let freed: Freed = serde_json::from_slice(&record.payload).ok()?;
            Some(Change::Freed(freed))
        }
        _ => None,
    }
}

/// The two halves of a principal within its tenant, as operators write it: `ROLE/NAME`.
pub(crate) fn principal_of(who: &Arc<str>) -> &str {
    crate::tables::Tables::halves(who).1
}
