//! Reads a blob for a session that asked: GET of a range, verified against what its device summed. spec §9.1
//!
//! The invariant: what is said are bytes of the blob in order, each of a record whose CRC held; where one is missing or
//! damaged the request fails.

use std::collections::VecDeque;

use spile_log::Record;
use spile_protocol::{
    code::Code,
    crc,
    id::RequestId,
    message::{Body, List, Message, Meta, Scope, Value},
};

use crate::{
    answers::Sink,
    intake::Intake,
    limits::{BLOB_VALUE_BYTES, DOWNLOADS, READ_BYTES},
    log::Read,
    said::Said,
    uploads::{
        form::{Blake3, Metadata, parse_blob_id},
        principal_of,
        view::{Blob, tenant_of},
    },
};

/// What a VALUE says of a blob.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) content_type: String,
    pub(crate) principal: String,
    pub(crate) meta: Metadata,
    pub(crate) version: u64,
    pub(crate) position: u64,
    pub(crate) time_ms: u64,
    pub(crate) size: u64,
    pub(crate) stored_offset: u64,
    pub(crate) revision: u64,
    pub(crate) blake3: Option<Blake3>,
}

impl Told {
    pub(crate) fn blob(id: String, position: u64, blob: &Blob) -> Self {
        Self {
            id,
            name: blob.name.to_string(),
            key: blob.key.to_string(),
            content_type: blob.content_type.clone(),
            principal: principal_of(&blob.who).to_owned(),
            meta: blob.meta.clone(),
            version: blob.version,
            position,
            time_ms: blob.time_ms,
            size: blob.size,
            stored_offset: blob.size,
            revision: blob.revision,
            blake3: Some(blob.blake3),
        }
    }

    /// About how many bytes of a frame it takes.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.name, &self.key, &self.content_type, &self.principal];
        let meta: usize = self.meta.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        160 + meta + texts.iter().map(|text| text.len()).sum::<usize>()
    }

    /// Calls `with` with the VALUE that says it.
    pub(crate) fn value(
        &self,
        (request, worker): (RequestId, &str),
        more: bool,
        cursor: &str,
        with: impl FnOnce(Value<'_>),
    ) {
        let mut room = [0; spile_protocol::limits::META_BYTES];
        let meta = self.meta.iter().map(|(name, value)| Meta { name, value });
        let meta = List::encode(meta, &mut room).unwrap_or_default();
        with(Value {
            request,
            more,
            name: &self.name,
            key: &self.key,
            version: spile_protocol::id::Version(self.version),
            position: Some(spile_protocol::id::Position(self.position)),
            time_ms: self.time_ms,
            content_type: &self.content_type,
            size: self.size,
            worker,
            cursor,
            principal: &self.principal,
            stored_offset: self.stored_offset,
            revision: self.revision,
            blake3: self.blake3.map(|hash| hash.0),
            meta,
            id: &self.id,
            ..Value::default()
        });
    }
}

/// A GET of a blob that is being answered.
pub(crate) struct Download {
    request: RequestId,
    /// It is answered once the event log is durable up to here.
    pub(crate) gate: u64,
    told: Told,
    /// The next byte, and one past the last.
    at: u64,
    end: u64,
    /// The first VALUE was said.
    begun: bool,
    reader: Option<Box<dyn Read>>,
    records: VecDeque<Record>,
}

impl Intake<'_> {
    pub(crate) fn get_blob(&mut self, request: RequestId, blob: &str, offset: u64, length: u32) {
        let gate = self.core.next;
        match self.download(request, blob, offset, length) {
            Ok(download) => self.desk.files.downloads.push(download),
            Err((code, detail)) => self.desk.refuse(gate, request, code, detail),
        }
    }

    fn download(
        &mut self,
        request: RequestId,
        blob: &str,
        offset: u64,
        length: u32,
    ) -> Result<Download, (Code, &'static str)> {
        if self.desk.files.downloads.len() >= DOWNLOADS {
            return Err((Code::BUSY, "too many blobs are read at once"));
        }
        let unknown = (Code::NOT_FOUND, "there is no such blob");
        let (at, known) = self.core.uploads.find(&self.desk.who.tenant, blob).ok_or(unknown)?;
        if offset > known.size {
            return Err((Code::INVALID, "the offset is past the blob's end"));
        }
        let left = known.size - offset;
        let wanted = if length == 0 { left } else { left.min(u64::from(length)) };
        let place = known.place;
        let told = Told::blob(blob.to_owned(), at, known);
        let chunks = self.core.uploads.chunks.as_ref().filter(|_| wanted > 0);
        let reader = chunks.map(|chunks| {
            chunks.log.read_stream(place.stream, place.last, offset.saturating_add(1))
        });
        Ok(Download {
            request,
            gate: self.core.next,
            told,
            at: offset,
            end: offset.saturating_add(wanted),
            begun: false,
            reader,
            records: VecDeque::new(),
        })
    }
}

impl crate::uploads::Uploads {
    /// The blob of that id in the tenant, and its position.
    pub(crate) fn find(&self, tenant: &str, blob: &str) -> Option<(u64, &Blob)> {
        let (slot, at) = parse_blob_id(blob)?;
        let known = self.view.blobs.get(&at)?;
        let right = tenant_of(&known.who) == tenant
            && spile_protocol::id::Slot::of(tenant, &known.key).0 == slot;
        right.then_some((at, known))
    }
}

/// What came of a step.
enum Step {
    Said(usize),
    NoRoom,
    Failed,
}

impl Download {
    /// Says what there is room for. True: that was all of it. `None`: there is more.
    pub(crate) fn poll(
        &mut self,
        worker: &str,
        frame_max: usize,
        room: usize,
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        while !self.begun || self.at < self.end {
            match self.step(worker, frame_max, room, *said, sink) {
                Step::Said(bytes) => *said += bytes,
                Step::NoRoom => return false,
                Step::Failed => {
                    let scope = Scope::Request(self.request);
                    let said = Said::fault(Code::CORRUPT, scope, "bytes of the blob can't be read");
                    said.say(sink);
                    return true;
                }
            }
        }
        true
    }

    fn step(
        &mut self,
        worker: &str,
        frame_max: usize,
        room: usize,
        said: usize,
        sink: &mut Sink<'_>,
    ) -> Step {
        let header = if self.begun { 64 } else { 64 + self.told.bytes() };
        let most = frame_max.saturating_sub(header).clamp(1, BLOB_VALUE_BYTES);
        let payload = if self.at < self.end {
            let Some(record) = self.front() else { return Step::Failed };
            let Some(part) = part(&record, self.at, self.end, most) else { return Step::Failed };
            part
        } else {
            (bytes::Bytes::new(), 0)
        };
        let (payload, payload_crc) = payload;
        let size = header + payload.len();
        if said > 0 && said + size > room {
            return Step::NoRoom;
        }
        self.at = self.at.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        let more = self.at < self.end;
        let request = self.request;
        if std::mem::replace(&mut self.begun, true) {
            let fields = Value { request, more, ..Value::default() };
            sink(&Message::Value(Body { fields, payload: &payload }), payload_crc);
        } else {
            self.told.value((request, worker), more, "", |fields| {
                sink(&Message::Value(Body { fields, payload: &payload }), payload_crc);
            });
        }
        Step::Said(size)
    }

    /// The record that holds the next byte.
    fn front(&mut self) -> Option<Record> {
        loop {
            while let Some(record) = self.records.front() {
                if record.version > self.at {
                    return Some(record.clone());
                }
                self.records.pop_front();
            }
            let reader = self.reader.as_mut()?;
            match reader.next(READ_BYTES, &mut self.records) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    tracing::error!(%error, "a blob can't be read");
                    return None;
                }
            }
        }
    }
}

/// Bytes of a chunk from `at` on, at most `most` and not past `end`, and their CRC: the device's where it is all of it.
fn part(record: &Record, at: u64, end: u64, most: usize) -> Option<(bytes::Bytes, u32)> {
    let length = record.payload.len();
    let begin = record.version.checked_sub(u64::try_from(length).ok()?)?;
    // A chunk before this one is missing.
    let skip = usize::try_from(at.checked_sub(begin)?).ok()?;
    let wanted = usize::try_from(end.min(record.version).checked_sub(at)?).ok()?.min(most);
    if skip == 0 && wanted == length {
        return Some((record.payload.clone(), record.payload_crc));
    }
    let part = record.payload.slice(skip..skip.checked_add(wanted)?);
    let payload_crc = crc::of(&part);
    Some((part, payload_crc))
}
