//! OPEN, CHUNK, SEAL and ABORT as a session's intake takes them. spec §7.
//!
//! The invariant: bytes are taken only of the upload's newest opening, at the next offset; what is refused says from where
//! to go on.

use bytes::Bytes;
use spile_protocol::{
    code::Code,
    id::{Number, Run},
    limits::CHUNK_MAX,
    message::{Abort, Chunk, Extras, Open, Scope, Seal, deliver::Kind},
    time::Millis,
};

use crate::{
    core::Put,
    intake::Intake,
    limits::{BLOBS, UPLOAD_BYTES},
    record::{self, Names, kind},
    said::Said,
    tables::checked_key,
    uploads::{
        form::{Blake3, Freed, JSON, Metadata, Opened, Place, Sealed, TOPIC, UploadId, blob_id},
        principal_of,
        view::{Change, Upload},
        work::Part,
        writing::{Opening, Sealing, State, Writing},
    },
};

/// Why an upload is not taken.
pub(crate) struct Not(pub(crate) Code, pub(crate) &'static str);

/// Is what was opened before the same as now? spec §7.1.1
fn same(open: &Open<'_>, key: &str, size: u64, was_key: &str, name: &str) -> Result<(), Not> {
    if (open.size, key, open.name) == (size, was_key, name) {
        return Ok(());
    }
    Err(Not(Code::CONFLICT, "the upload was opened with another size, key or name"))
}

impl Intake<'_> {
    pub(crate) fn open_upload(&mut self, now: Millis, open: &Open<'_>) {
        // The number means this opening now.
        self.desk.files.writings.retain(|writing| writing.upload != open.upload);
        if let Err(Not(code, detail)) = self.try_open_upload(now, open) {
            let scope = Scope::Upload { upload: open.upload, expected: 0 };
            let gate = self.core.next;
            self.desk.said(gate, Said::fault(code, scope, detail));
        }
    }

    fn try_open_upload(&mut self, now: Millis, open: &Open<'_>) -> Result<(), Not> {
        if self.core.uploads.chunks.is_none() {
            return Err(Not(Code::NOT_FOUND, "this worker takes no uploads"));
        }
        let key = open.key.unwrap_or(&self.desk.who.principal);
        let key = checked_key(key).map_err(|code| Not(code, "the key is not one"))?.to_owned();
        let called = (self.desk.scoped.clone(), UploadId(open.id));
        let view = &self.core.uploads.view;
        if let Some(&at) = view.open.get(&called) {
            let upload = view.uploads.get(&at).ok_or(Not(Code::INTERNAL, ""))?;
            same(open, &key, upload.size, &upload.key, &upload.name)?;
            return self.open_again(now, open, at);
        }
        if let Some(&at) = view.sealed.get(&called) {
            let blob = view.blobs.get(&at).ok_or(Not(Code::INTERNAL, ""))?;
            same(open, &key, blob.size, &blob.key, &blob.name)?;
            // spec §7.1.2: a client that missed the answer to SEAL learns it.
            let sealed = State::Sealed {
                gate: self.core.next,
                blob: blob_id(&self.desk.who.tenant, &key, at),
                revision: blob.revision,
            };
            let mut writing = Writing::new(open, at, blob.epoch, &self.desk.bell);
            (writing.stored, writing.state) = (blob.size, sealed);
            self.desk.files.writings.push(writing);
            return Ok(());
        }
        self.open_first(now, open, &key)
    }

    fn open_first(&mut self, now: Millis, open: &Open<'_>, key: &str) -> Result<(), Not> {
        if open.size > self.worker.config.upload_bytes.min(UPLOAD_BYTES) {
            return Err(Not(Code::TOO_LARGE, "the upload is larger than any may be"));
        }
        if open.name.chars().any(char::is_control) {
            return Err(Not(Code::INVALID, "the name has control characters"));
        }
        if !self.core.uploads.may_open(&self.desk.scoped) {
            return Err(Not(Code::TOO_MANY, "too many uploads are open; finish or abort some"));
        }
        let mut meta = Metadata::new();
        for one in open.meta.iter() {
            if meta.insert(one.name.to_owned(), one.value.to_owned()).is_some() {
                return Err(Not(Code::INVALID, "a name stands twice in the metadata"));
            }
        }
        let opened = Opened {
            first: None,
            epoch: 1,
            id: UploadId(open.id),
            from: self.core.uploads.look(),
            mark: self.core.uploads.next_mark(),
            size: open.size,
            name: open.name.to_owned(),
            content_type: open.content_type.to_owned(),
            meta,
        };
        let at = self.put_opened(now, key, opened)?;
        self.begin_writing(open, at)
    }

    /// spec §7.1.1: the newest OPEN writes.
    fn open_again(&mut self, now: Millis, open: &Open<'_>, at: u64) -> Result<(), Not> {
        let upload = self.core.uploads.upload(at).ok_or(Not(Code::INTERNAL, ""))?;
        let key = upload.key.clone();
        let opened = Opened {
            first: Some(at),
            epoch: upload.epoch.saturating_add(1),
            id: upload.id,
            from: upload.from,
            mark: upload.mark,
            size: upload.size,
            name: upload.name.to_string(),
            content_type: upload.content_type.clone(),
            meta: upload.meta.clone(),
        };
        self.put_opened(now, &key, opened)?;
        self.begin_writing(open, at)
    }

    fn put_opened(&mut self, now: Millis, key: &str, opened: Opened) -> Result<u64, Not> {
        let payload = json(&opened)?;
        let time_ms = self.core.tables.time_ms;
        let at = self.put_beside(now, kind::UPLOAD, key, payload);
        let (who, key) = (self.desk.scoped.clone(), key.into());
        let change = Change::Opened { at, who, key, time_ms: now.0, opened };
        self.core.uploads.put(at, time_ms, change);
        Ok(at)
    }

    /// Puts a record that is in no stream.
    fn put_beside(&mut self, now: Millis, kind: u8, key: &str, payload: Bytes) -> u64 {
        let names = Kind { content_type: JSON, ..Kind::default() };
        let prefix = self.desk.who.prefix(key, "", names);
        self.core.put_alone(now.0, kind, &prefix, payload)
    }

    /// The session writes the upload from now on.
    fn begin_writing(&mut self, open: &Open<'_>, at: u64) -> Result<(), Not> {
        let gate = self.core.next;
        let upload = self.core.uploads.upload(at).ok_or(Not(Code::INTERNAL, ""))?;
        let trace = self.desk.who.sealing(&upload.key);
        tracing::debug!(%trace, upload = ?upload.id, who = self.desk.who.principal, epoch = upload.epoch, "an upload is opened");
        let mut writing = Writing::new(open, at, upload.epoch, &self.desk.bell);
        upload.work.take_over(writing.seat.clone(), gate);
        writing.stored = upload.work.taken().offset;
        writing.next = writing.stored;
        writing.opening = Some(Opening { gate, chunks: upload.work.gate() });
        writing.hash = upload.work.hash.clone();
        self.desk.files.begin(&self.core.uploads);
        self.desk.files.writings.push(writing);
        Ok(())
    }

    pub(crate) fn chunk(&mut self, now: Millis, chunk: &Chunk<'_>, payload: &Bytes, crc: u32) {
        let files = &mut self.desk.files;
        // spec §7.2.1: what comes behind a fault is dropped until a new OPEN.
        let Some(writing) = files.taking(chunk.upload) else { return };
        let uploads = &mut self.core.uploads;
        let taken = uploads.view.uploads.get(&writing.at).map(|upload| upload.work.taken().offset);
        let end = chunk.offset.checked_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        let refused = if taken != Some(chunk.offset) {
            Some(Code::OUT_OF_ORDER)
        } else if payload.len() > CHUNK_MAX {
            Some(Code::TOO_LARGE)
        } else if payload.is_empty() || end.is_none_or(|end| end > writing.size) {
            Some(Code::INVALID)
        } else {
            None
        };
        if let Some(code) = refused {
            return writing.fail(code, self.core.next);
        }
        let Some(gate) = uploads.take(now.0, writing.at, payload.clone(), crc) else { return };
        self.worker.counters.chunk_bytes.add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        writing.took(gate, end.unwrap_or(u64::MAX), uploads.call_from());
        let hash = writing.hash.clone();
        files.unhashed.push((hash, chunk.offset, payload.clone()));
        if self.core.uploads.gathered() > crate::limits::CALL_BYTES {
            self.commit_chunks();
        }
    }

    /// Hands the chunks of this read to the log.
    pub(crate) fn commit_chunks(&mut self) {
        if let Err((from, code)) = self.core.uploads.commit() {
            let gate = self.core.next;
            self.desk.files.lose_chunks(from, gate, code);
        }
    }

    pub(crate) fn seal(&mut self, now: Millis, seal: Seal) {
        let Some(writing) = self.desk.files.taking(seal.upload) else { return };
        let Some(upload) = self.core.uploads.view.uploads.get(&writing.at) else { return };
        if (seal.size, upload.work.taken().offset) == (upload.size, upload.size) {
            writing.state = State::Sealing(Sealing { now, blake3: Blake3(seal.blake3) });
            return;
        }
        let at = writing.at;
        self.mismatch(now, seal.upload, at);
    }

    /// spec §7.3.1: the upload is forgotten.
    fn mismatch(&mut self, now: Millis, upload: u32, at: u64) {
        let freed = self.free(now, Freed::upload(at, Code::MISMATCH));
        let gate = self.core.next;
        if let Some(writing) = self.desk.files.writing(upload) {
            writing.fail(freed.err().unwrap_or(Code::MISMATCH), gate);
        }
    }

    /// spec §7.3.1: all of it is durable, and hashed: it is what was announced, or forgotten.
    pub(crate) fn seal_whole(&mut self, upload: u32, sealing: Sealing, hash: [u8; 32]) {
        let Some(writing) = self.desk.files.writing(upload) else { return };
        let at = writing.at;
        if sealing.blake3 != Blake3(hash) {
            return self.mismatch(sealing.now, upload, at);
        }
        let state = match self.put_sealed(sealing, at) {
            Ok((blob, revision)) => State::Sealed { gate: self.core.next, blob, revision },
            Err(Not(code, _)) => {
                let gate = self.core.next;
                if let Some(writing) = self.desk.files.writing(upload) {
                    writing.fail(code, gate);
                }
                return;
            }
        };
        if let Some(writing) = self.desk.files.writing(upload) {
            writing.state = state;
        }
    }

    fn put_sealed(&mut self, sealing: Sealing, at: u64) -> Result<(String, u64), Not> {
        if self.core.uploads.view.blobs.len() >= BLOBS {
            return Err(Not(Code::TOO_MANY, "too many blobs are kept"));
        }
        let core = &mut *self.core;
        let upload = core.uploads.upload(at).ok_or(Not(Code::NOT_FOUND, ""))?;
        let Part { stream, last, .. } = upload.work.stored;
        let place = Place { upload: at, stream, last };
        let key = upload.key.clone();
        let upload = core.uploads.view.uploads.get(&at).ok_or(Not(Code::NOT_FOUND, ""))?;
        let revision = core.uploads.view.next_revision(upload);
        let sealed = sealed(&self.desk.who.tenant, upload, core.next, revision, sealing.blake3);
        let blob = sealed.blob.clone();
        let payload = json(&sealed)?;
        let payload_crc = spile_protocol::crc::of(&payload);
        let who = &self.desk.who;
        let names = Names {
            role: who.role,
            run: Run([0; 8]),
            trace_base: who.trace_base,
            tenant: &who.tenant,
            principal: &who.principal,
            key: &key,
            topic: TOPIC,
            kind: Kind { content_type: JSON, ..Kind::default() },
        };
        let now_ms = sealing.now.0;
        core.heads.extend_from_slice(&names.prefix());
        place.put(&mut core.heads);
        let written = record::put_event(&mut core.heads, now_ms, Number(0), &Extras::default());
        let head = core.heads.split().freeze();
        written.map_err(|_| Not(Code::INTERNAL, "a head that is too long"))?;
        let stream = core.tables.stream(&who.tenant, &key).map_err(|code| Not(code, ""))?;
        let put =
            Put { kind: kind::BLOB, positions: 1, time_ms: now_ms, head, payload, payload_crc };
        let time_ms = core.tables.time_ms;
        let placed = core.put_own(stream, put).ok_or(Not(Code::INTERNAL, "the stream is gone"))?;
        let (at, version) = (placed.position, placed.version);
        tracing::debug!(trace = %who.sealing(&key), position = at, version, blob, "an upload is sealed");
        let change = Change::Sealed { at, version, time_ms: now_ms, place, sealed };
        core.uploads.put(at, time_ms, change);
        self.worker.counters.sealed.add(1);
        Ok((blob, revision))
    }

    pub(crate) fn abort(&mut self, now: Millis, abort: Abort) {
        let number = abort.upload;
        let Some(writing) = self.desk.files.abortable(number) else {
            self.desk.files.forget_failed(number);
            let scope = Scope::Upload { upload: number, expected: 0 };
            let gate = self.core.next;
            return self.desk.said(gate, Said::fault(Code::NOT_FOUND, scope, "no such upload"));
        };
        let at = writing.at;
        let freed = self.free(now, Freed::upload(at, Code(0)));
        let gate = self.core.next;
        if let Some(writing) = self.desk.files.writing(number) {
            match freed {
                Ok(()) => {
                    writing.state = State::Aborting { gate };
                    self.core.uploads.counted.aborted += 1;
                }
                Err(code) => writing.fail(code, gate),
            }
        }
    }

    /// Puts a FREED. There is room in reserve for it: a full disk is what it helps.
    pub(crate) fn free(&mut self, now: Millis, freed: Freed) -> Result<(), Code> {
        let payload = json(&freed).map_err(|Not(code, _)| code)?;
        self.commit();
        let time_ms = self.core.tables.time_ms;
        let at = self.put_beside(now, kind::FREED, "", payload);
        self.core.uploads.put(at, time_ms, Change::Freed(freed));
        self.core.commit(true).map_err(|refusal| {
            self.lose(refusal);
            refusal.code
        })
    }
}

fn sealed(tenant: &str, upload: &Upload, at: u64, revision: u64, blake3: Blake3) -> Sealed {
    Sealed {
        blob: blob_id(tenant, &upload.key, at),
        key: upload.key.to_string(),
        name: upload.name.to_string(),
        revision,
        size: upload.size,
        blake3,
        content_type: upload.content_type.clone(),
        meta: upload.meta.clone(),
        device: principal_of(&upload.who).to_owned(),
    }
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<Bytes, Not> {
    let bytes =
        serde_json::to_vec(value).map_err(|_| Not(Code::INTERNAL, "it can't be written"))?;
    Ok(Bytes::from(bytes))
}
