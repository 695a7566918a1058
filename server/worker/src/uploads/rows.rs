//! Uploads and blobs as rows of a checkpoint, and back. record §8.1
//!
//! The invariant: a row of an upload holds what the chunk log had of it up to the position in the row `u`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spile_protocol::{message::Fields, varint};

use crate::{
    checkpoint::{BadRow, Row},
    uploads::{
        Uploads,
        form::{Blake3, Metadata, Place, Sealed, UploadId},
        view::{Blob, Upload, tenant_of},
        work::{Part, Work},
    },
};

/// What begins an upload's row; alone, it is that of the chunk log's position.
pub(crate) const UPLOAD: u8 = b'u';
/// What begins a blob's row.
pub(crate) const BLOB: u8 = b'b';
/// Behind it in the key: how far a name is counted. No position begins so.
pub(crate) const NAME: u8 = 0xff;

#[derive(Serialize, Deserialize)]
struct UploadRow {
    who: String,
    id: UploadId,
    key: String,
    name: String,
    #[serde(rename = "type")]
    content_type: String,
    meta: Metadata,
    size: u64,
    epoch: u32,
    from: u64,
    mark: u64,
    time_ms: u64,
    stored: Part,
}

#[derive(Serialize, Deserialize)]
struct BlobRow {
    who: String,
    id: UploadId,
    epoch: u32,
    key: String,
    name: String,
    #[serde(rename = "type")]
    content_type: String,
    meta: Metadata,
    size: u64,
    blake3: Blake3,
    revision: u64,
    version: u64,
    time_ms: u64,
    upload: u64,
    stream: u64,
    last: u64,
}

/// Rows to be written, and those to be removed.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) removed: Vec<Vec<u8>>,
}

fn key(kind: u8, at: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&at.to_be_bytes());
    key
}

fn name_key((tenant, name, key): &(Arc<str>, Arc<str>, Arc<str>)) -> Vec<u8> {
    let mut row = vec![BLOB, NAME];
    row.extend_from_slice(&name_of(tenant, name, key));
    row
}

fn name_of(tenant: &str, name: &str, key: &str) -> Vec<u8> {
    format!("{tenant}\0{name}\0{key}\0").into_bytes()
}

/// What a blob's revision is counted under, as it stands in the key of such a row: out of the blob's row.
pub(crate) fn blob_name(value: &[u8]) -> Option<Vec<u8>> {
    let row: BlobRow = serde_json::from_slice(value).ok()?;
    Some(name_of(tenant_of(&row.who), &row.name, &row.key))
}

/// The same out of a BLOB's payload.
pub(crate) fn sealed_name(tenant: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let sealed: Sealed = serde_json::from_slice(payload).ok()?;
    Some(name_of(tenant, &sealed.name, &sealed.key))
}

fn number(value: u64) -> Vec<u8> {
    let mut bytes = [0; varint::MAX_BYTES];
    let used = varint::encode(value, &mut bytes).unwrap_or_default();
    bytes.get(..used).unwrap_or_default().to_vec()
}

fn upload_row(upload: &Upload) -> Vec<u8> {
    let row = UploadRow {
        who: upload.who.to_string(),
        id: upload.id,
        key: upload.key.to_string(),
        name: upload.name.to_string(),
        content_type: upload.content_type.clone(),
        meta: upload.meta.clone(),
        size: upload.size,
        epoch: upload.epoch,
        from: upload.from,
        mark: upload.mark,
        time_ms: upload.time_ms,
        stored: upload.work.stored,
    };
    serde_json::to_vec(&row).unwrap_or_default()
}

fn blob_row(blob: &Blob) -> Vec<u8> {
    let Place { upload, stream, last } = blob.place;
    let row = BlobRow {
        who: blob.who.to_string(),
        id: blob.id,
        epoch: blob.epoch,
        key: blob.key.to_string(),
        name: blob.name.to_string(),
        content_type: blob.content_type.clone(),
        meta: blob.meta.clone(),
        size: blob.size,
        blake3: blob.blake3,
        revision: blob.revision,
        version: blob.version,
        time_ms: blob.time_ms,
        upload,
        stream,
        last,
    };
    serde_json::to_vec(&row).unwrap_or_default()
}

impl Uploads {
    /// What changed since the last time, as far as it is durable.
    pub(crate) fn rows_changed(&mut self) -> Rows {
        if self.chunks.is_none() && self.view.is_clean() {
            return Rows::default();
        }
        let end = self.look();
        self.since_checkpoint = 0;
        self.durably(|uploads| {
            let mut rows = Rows::default();
            for at in std::mem::take(&mut uploads.view.dirty_uploads) {
                match uploads.upload(at).map(|upload| (upload_row(upload), upload.work.gate())) {
                    Some((row, flying)) => {
                        rows.rows.push((key(UPLOAD, at), row));
                        if flying != 0 {
                            uploads.view.dirty_uploads.insert(at);
                        }
                    }
                    None => rows.removed.push(key(UPLOAD, at)),
                }
            }
            for at in std::mem::take(&mut uploads.view.dirty_blobs) {
                match uploads.view.blobs.get(&at) {
                    Some(blob) => rows.rows.push((key(BLOB, at), blob_row(blob))),
                    None => rows.removed.push(key(BLOB, at)),
                }
            }
            for name in std::mem::take(&mut uploads.view.dirty_names) {
                match uploads.view.counted(&name) {
                    Some(last) => rows.rows.push((name_key(&name), number(last))),
                    None => rows.removed.push(name_key(&name)),
                }
            }
            rows.rows.push((vec![UPLOAD], number(end)));
            rows
        })
    }

    /// All that is durable.
    pub(crate) fn rows(&mut self) -> Vec<Row> {
        let end = self.look();
        let chunks = self.chunks.is_some();
        self.durably(|uploads| {
            let mut rows = Vec::new();
            for (&at, upload) in &mut uploads.view.uploads {
                upload.work.settle(end);
                rows.push((key(UPLOAD, at), upload_row(upload)));
            }
            let blobs = uploads.view.blobs.iter();
            rows.extend(blobs.map(|(&at, blob)| (key(BLOB, at), blob_row(blob))));
            let names = uploads.view.names_ahead().into_iter();
            rows.extend(names.map(|(name, last)| (name_key(&name), number(last))));
            if chunks {
                rows.push((vec![UPLOAD], number(end)));
            }
            rows
        })
    }

    /// Puts a row back. Gives the chunk log's position, where it is that row. Rows of names come behind those of blobs.
    pub(crate) fn load(&mut self, row: &[u8], value: &[u8]) -> Result<Option<u64>, BadRow> {
        let (&kind, rest) = row.split_first().ok_or(BadRow)?;
        if let (BLOB, [NAME, name @ ..]) = (kind, rest) {
            let name = std::str::from_utf8(name).map_err(|_| BadRow)?;
            let mut parts = name.split('\0').map(Arc::<str>::from);
            let mut part = || parts.next().ok_or(BadRow);
            let name = (part()?, part()?, part()?);
            self.view.count_to(&name, Fields::new(value).varint("revision")?);
            return Ok(None);
        }
        if rest.is_empty() && kind == UPLOAD {
            return Ok(Some(Fields::new(value).varint("position")?));
        }
        let at = u64::from_be_bytes(rest.try_into().map_err(|_| BadRow)?);
        match kind {
            UPLOAD => self.load_upload(at, value),
            BLOB => self.load_blob(at, value),
            _ => Err(BadRow),
        }
        .map(|()| None)
    }

    fn load_upload(&mut self, at: u64, value: &[u8]) -> Result<(), BadRow> {
        let row: UploadRow = serde_json::from_slice(value).map_err(|_| BadRow)?;
        let upload = Upload {
            who: row.who.into(),
            id: row.id,
            key: row.key.into(),
            name: row.name.into(),
            content_type: row.content_type,
            meta: row.meta,
            size: row.size,
            epoch: row.epoch,
            from: row.from,
            mark: row.mark,
            time_ms: row.time_ms,
            work: Work { stored: row.stored, ..Work::default() },
        };
        self.view.put_upload(at, upload);
        Ok(())
    }

    fn load_blob(&mut self, at: u64, value: &[u8]) -> Result<(), BadRow> {
        let row: BlobRow = serde_json::from_slice(value).map_err(|_| BadRow)?;
        let blob = Blob {
            who: row.who.into(),
            id: row.id,
            epoch: row.epoch,
            key: row.key.into(),
            name: row.name.into(),
            content_type: row.content_type,
            meta: row.meta,
            size: row.size,
            blake3: row.blake3,
            revision: row.revision,
            version: row.version,
            time_ms: row.time_ms,
            place: Place { upload: row.upload, stream: row.stream, last: row.last },
        };
        self.view.put_blob(at, blob);
        Ok(())
    }
}
