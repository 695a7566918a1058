//! Uploads by hand: the messages, and what a server answers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use spile_protocol::message::{Chunk, List, Message, Open, Scope, Seal};

use crate::e2e::{self, Raw};

/// A chunk of these tests.
const CHUNK: usize = 64 * 1024;
/// Chunks under way: within the credit.
const WINDOW: u64 = 8 * CHUNK as u64;

/// Bytes that differ with the seed and everywhere.
pub(crate) fn content(size: usize, seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn open(upload: u32, id: u8, size: u64) -> Message<'static> {
    Message::Open(Open {
        upload,
        id: [id; 16],
        size,
        key: None,
        name: "raw",
        content_type: "",
        meta: List::default(),
    })
}

pub(crate) fn chunk(upload: u32, offset: u64, payload: &[u8]) -> Message<'_> {
    Message::Chunk(Chunk { upload, offset, payload })
}

pub(crate) fn seal(upload: u32, size: u64, blake3: [u8; 32]) -> Message<'static> {
    Message::Seal(Seal { upload, size, blake3 })
}

/// What a server says of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Opened { upload: u32, stored: u64, blob: String },
    Fault { upload: u32, code: &'static str, expected: u64 },
    Other(String),
}

pub(crate) fn told(raw: &mut Raw) -> Told {
    let told = raw.next(|message| match message {
        Message::Opened(opened) => Told::Opened {
            upload: opened.upload,
            stored: opened.stored_offset,
            blob: opened.blob.to_owned(),
        },
        Message::Fault(fault) => match fault.scope {
            Scope::Upload { upload, expected } => {
                Told::Fault { upload, code: fault.code.name(), expected }
            }
            _ => Told::Other(format!("{fault:?}")),
        },
        other => Told::Other(format!("{other:?}")),
    });
    told.unwrap_or_else(|e2e::Gone| panic!("the session ended"))
}

/// Sends from an offset on until so much was said to be stored, or all was sent: what was said last.
pub(crate) fn send_until(
    raw: &mut Raw,
    upload: u32,
    bytes: &[u8],
    from: u64,
    goal: u64,
) -> (u64, u64) {
    let (mut stored, mut at) = (from, from);
    let size = bytes.len() as u64;
    while stored < goal {
        while at < size && at - stored < WINDOW {
            let begin = usize::try_from(at).unwrap();
            let end = (begin + CHUNK).min(bytes.len());
            raw.send(&[chunk(upload, at, &bytes[begin..end])]).unwrap();
            at = end as u64;
        }
        match told(raw) {
            Told::Opened { upload: of, stored: now, .. } if of == upload => {
                assert!(now >= stored && now <= at, "{now} is not from {stored} to {at}");
                stored = now;
            }
            other => panic!("{other:?}"),
        }
    }
    (stored, at)
}

/// Sends the rest and seals it: the blob.
pub(crate) fn send_all(raw: &mut Raw, upload: u32, bytes: &[u8], from: u64) -> String {
    let size = bytes.len() as u64;
    send_until(raw, upload, bytes, from, size);
    raw.send(&[seal(upload, size, *blake3::hash(bytes).as_bytes())]).unwrap();
    loop {
        match told(raw) {
            Told::Opened { blob, .. } if blob.is_empty() => {}
            Told::Opened { blob, .. } => return blob,
            other => panic!("{other:?}"),
        }
    }
}
