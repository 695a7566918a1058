//! What uploads write: the payloads of UPLOAD, BLOB and FREED in the event log, the head of a chunk in the chunk log.
//! `spec/record.md` §11 draws the same. Decoding is total.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use spile_protocol::{code::Code, id::Slot, message::DecodeError, varint};

/// The topic of the event a seal is. record §11.3
pub(crate) const TOPIC: &str = "file.uploaded";
/// What the payloads are.
pub(crate) const JSON: &str = "application/json";
/// The kind of a chunk's record. record §11.6
pub(crate) const CHUNK: u8 = 1;
/// The form of a chunk's head.
const FORM: u8 = 1;

/// More about a blob: names and values, each name once.
pub(crate) type Metadata = BTreeMap<String, String>;

/// What a client calls its upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UploadId(pub(crate) [u8; 16]);

/// BLAKE3 of a whole blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blake3(pub(crate) [u8; 32]);

macro_rules! in_hex {
    ($($name:ident $bytes:literal,)*) => {$(
        impl $name {
            /// As hexadecimal digits.
            pub(crate) fn text(&self) -> String {
                hex(&self.0)
            }

            /// Of hexadecimal digits.
            pub(crate) fn parse(text: &str) -> Option<Self> {
                let mut bytes = [0; $bytes];
                unhex(text, &mut bytes)?;
                Some(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.text())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom("hexadecimal digits"))
            }
        }
    )*};
}
in_hex! { UploadId 16, Blake3 32, }

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let lower = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if text.len() != 2 * bytes.len() || !text.as_bytes().iter().all(lower) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(())
}

/// An upload was opened, for the first time or again: the payload of UPLOAD. record §11.1
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// The position of its first UPLOAD; absent in that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<u64>,
    pub(crate) epoch: u32,
    pub(crate) id: UploadId,
    /// The chunk log was durable up to here: its chunks are not before.
    pub(crate) from: u64,
    /// No other upload of this start of the worker has it, were it one that was lost.
    pub(crate) mark: u64,
    pub(crate) size: u64,
    pub(crate) name: String,
    #[serde(rename = "type", default)]
    pub(crate) content_type: String,
    #[serde(default)]
    pub(crate) meta: Metadata,
}

/// A blob: the payload of BLOB, and the event `file.uploaded` as consumers read it. record §11.3
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    pub(crate) blob: String,
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) size: u64,
    pub(crate) blake3: Blake3,
    #[serde(rename = "type", default)]
    pub(crate) content_type: String,
    #[serde(default)]
    pub(crate) meta: Metadata,
    pub(crate) device: String,
}

/// Something is forgotten: the payload of FREED. record §11.5
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Freed {
    /// The upload, by the position of its first UPLOAD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upload: Option<u64>,
    /// Or the blob, by the position of its BLOB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<u64>,
    /// Why: 0 where it was asked for.
    #[serde(default)]
    pub(crate) code: u16,
}

impl Freed {
    pub(crate) const fn upload(at: u64, code: Code) -> Self {
        Self { upload: Some(at), blob: None, code: code.0 }
    }

    pub(crate) const fn blob(at: u64) -> Self {
        Self { upload: None, blob: Some(at), code: 0 }
    }
}

/// Where the bytes of a blob are in the chunk log: what stands before the tail of the event in a BLOB. record §11.4
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The position of its upload's first UPLOAD.
    pub(crate) upload: u64,
    /// The stream of its chunks; 0 where it is empty.
    pub(crate) stream: u64,
    /// The position of the last of them.
    pub(crate) last: u64,
}

impl Place {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        [self.upload, self.stream, self.last].iter().for_each(|&value| put_varint(out, value));
    }

    /// Cuts it off a BLOB's tail.
    pub(crate) fn take(tail: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut fields = spile_protocol::message::Fields::new(tail);
        let upload = fields.varint("a BLOB's upload")?;
        let stream = fields.varint("a BLOB's stream")?;
        let last = fields.varint("a BLOB's last chunk")?;
        *tail = fields.rest();
        Ok(Self { upload, stream, last })
    }
}

fn put_varint(out: &mut BytesMut, value: u64) {
    let mut bytes = [0; varint::MAX_BYTES];
    if let Some(encoded) = varint::encode(value, &mut bytes).and_then(|used| bytes.get(..used)) {
        out.put_slice(encoded);
    }
}

/// A blob's id: the slot of its key, and the position of its BLOB.
pub(crate) fn blob_id(tenant: &str, key: &str, position: u64) -> String {
    format!("{:02x}-{position:x}", Slot::of(tenant, key).0)
}

/// The slot and the position that a blob's id says.
pub(crate) fn parse_blob_id(blob: &str) -> Option<(u8, u64)> {
    let (slot, position) = blob.split_once('-')?;
    let parsed = (u8::from_str_radix(slot, 16).ok()?, u64::from_str_radix(position, 16).ok()?);
    (blob == format!("{:02x}-{:x}", parsed.0, parsed.1)).then_some(parsed)
}

/// Whose a chunk is, and where in the upload it begins. record §11.6
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkOf {
    pub(crate) upload: u64,
    pub(crate) mark: u64,
    pub(crate) offset: u64,
}

/// The head of a chunk's record.
pub(crate) fn chunk_head(of: ChunkOf) -> Bytes {
    let mut head = BytesMut::with_capacity(1 + 3 * varint::MAX_BYTES);
    head.put_u8(FORM);
    [of.upload, of.mark, of.offset].iter().for_each(|&value| put_varint(&mut head, value));
    head.freeze()
}

/// What a chunk's head says.
pub(crate) fn parse_chunk_head(head: &[u8]) -> Result<ChunkOf, DecodeError> {
    let mut fields = spile_protocol::message::Fields::new(head);
    if fields.byte("a chunk's form")? != FORM {
        return Err(DecodeError::malformed("a chunk's form"));
    }
    let upload = fields.varint("a chunk's upload")?;
    let mark = fields.varint("a chunk's mark")?;
    let offset = fields.varint("a chunk's offset")?;
    if !fields.is_empty() {
        return Err(DecodeError::malformed("a chunk's head"));
    }
    Ok(ChunkOf { upload, mark, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written_and_in_no_other_way() {
        let id = blob_id("main", "pump-7", 0x1a2b);
        assert_eq!(parse_blob_id(&id), Some((Slot::of("main", "pump-7").0, 0x1a2b)));
        for wrong in ["", "05", "05-", "5-1", "05-01", "05-G", "005-1", "+5-1", "05-+1", "05-1 "] {
            assert_eq!(parse_blob_id(wrong), None, "{wrong}");
        }
        let id = UploadId([0xab; 16]);
        assert_eq!(UploadId::parse(&id.text()), Some(id));
        assert_eq!(UploadId::parse(&id.text().to_uppercase()), None);
        assert_eq!(UploadId::parse("ab"), None);
    }

    #[test]
    fn a_chunk_s_head_is_read_as_it_was_written() {
        let of = ChunkOf { upload: 300, mark: 7, offset: 1 << 40 };
        let head = chunk_head(of);
        assert_eq!(parse_chunk_head(&head).ok(), Some(of));
        for cut in 0..head.len() {
            assert!(parse_chunk_head(&head[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_place_is_cut_off_a_tail() {
        let place = Place { upload: 7, stream: 1 << 33, last: u64::MAX };
        let mut out = BytesMut::new();
        place.put(&mut out);
        out.put_slice(b"tail");
        let mut tail = &*out;
        assert_eq!(Place::take(&mut tail).ok(), Some(place));
        assert_eq!(tail, b"tail");
    }
}
