//! OPEN, CHUNK, SEAL and ABORT: a file on its way. spec §7.

use serde::{Deserialize, Serialize};

use super::field::{self, DecodeError, Fields, Full, List, Writer, fields};
use crate::limits;

/// A name and a value of an upload's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
}

fields! {
    /// From the client: I will send this file, or go on with it.
    Open<'a> {
        /// The session's number for it.
        upload: u32,
        /// The client's id for it, the same when it goes on.
        #[serde(serialize_with = "field::hex")]
        id: [u8; 16],
        /// Bytes of the whole.
        size: u64,
        ;
        /// Under which key; `None` for the client's own id.
        key: Option<&'a str> [limits::KEY_BYTES] = None,
        /// Its name; revisions count under key and name.
        name: &'a str [limits::BLOB_NAME_BYTES] = "",
        /// What it is.
        content_type: &'a str [limits::CONTENT_TYPE_BYTES] = "",
        /// More about it.
        meta: List<'a, Meta<'a>> [limits::META_BYTES] = List::default(),
    }
}

fields! {
    /// From the server: the upload is open in this epoch; go on at the offset. The answer to OPEN, and the ack of CHUNK.
    Opened<'a> {
        /// The session's number for it.
        upload: u32,
        /// Bytes that are stored: the offset of the next chunk.
        stored_offset: u64,
        ;
        /// Counted up each time the upload is opened; the newest one writes.
        epoch: u32 = 0,
        /// Set when it is sealed: its blob's id.
        blob: &'a str [limits::NAME_BYTES] = "",
        /// Set when it is sealed: its revision.
        revision: u64 = 0,
    }
}

/// A part of an upload; hot, a fixed layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Chunk<'a> {
    /// The session's number for the upload.
    pub upload: u32,
    /// Where the part begins.
    pub offset: u64,
    /// The part.
    #[serde(serialize_with = "field::hex")]
    pub payload: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads the header; `payload` is what follows it.
    pub fn decode(header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let (upload, offset) = (fields.varint32("Chunk.upload")?, fields.varint("Chunk.offset")?);
        fields.end("Chunk")?;
        Ok(Self { upload, offset, payload })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.varint(u64::from(self.upload))?;
        out.varint(self.offset)
    }

    /// Where the header ends in `body`.
    pub(super) fn header_length(body: &[u8]) -> Option<usize> {
        let mut fields = Fields::new(body);
        fields.skip_varints(2)?;
        Some(body.len() - fields.rest().len())
    }
}

fields! {
    /// From the client: that was all, and this is its hash.
    Seal {
        /// The session's number for the upload.
        upload: u32,
        /// Bytes of the whole.
        size: u64,
        /// BLAKE3 of the whole.
        #[serde(serialize_with = "field::hex")]
        blake3: [u8; 32],
        ;
    }
}

fields! {
    /// From the client: forget the upload and what was sent of it. From the server: that is done.
    Abort {
        /// The session's number for the upload.
        upload: u32,
        ;
    }
}
