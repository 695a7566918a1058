//! GET, LIST, VALUE, CALL, REPLY and SERVE: questions and answers. spec §9.

use serde::{Deserialize, Serialize};

use super::{
    extras::Trace,
    field::{self, Fits, fields},
    upload::Meta,
};
use crate::{
    code::Code,
    id::{Position, RequestId, Version},
    limits,
};

fields! {
    /// From the client: the latest event of a kept topic under a key, or a part of a blob.
    Get<'a> {
        /// The client's number for the question.
        request: RequestId,
        /// What is looked up.
        target: Target<'a> [limits::KEY_BYTES],
        ;
        /// Answer only with a version above this one; 0 for any.
        newer_than: Version = Version(0),
        /// Wait until the worker's view holds this version; 0 for no matter.
        at_least: Version = Version(0),
        /// How long to wait for a version that is not there yet.
        wait_ms: u32 = 0,
    }
}

impl Fits for Target<'_> {
    fn fits(&self, longest: usize) -> bool {
        match self {
            Self::State { key, topic } => {
                key.len() <= longest && topic.len() <= limits::TOPIC_BYTES
            }
            Self::Blob { blob, .. } => blob.len() <= limits::NAME_BYTES,
            Self::Stream { key } => key.len() <= longest,
        }
    }
}

/// What a GET looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target<'a> {
    /// The latest event of a kept topic under a key.
    State {
        /// Whose.
        key: &'a str,
        /// Which topic.
        topic: &'a str,
    },
    /// Bytes of a sealed upload.
    Blob {
        /// Its id.
        blob: &'a str,
        /// The first byte wanted.
        offset: u64,
        /// The most bytes wanted.
        length: u32,
    },
    /// The last version of a stream.
    Stream {
        /// Whose.
        key: &'a str,
    },
}

/// What a LIST lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listing {
    /// Kept values under a key.
    State,
    /// Sealed uploads.
    Blobs,
    /// Uploads under way.
    Uploads,
    /// Services.
    Services,
}

fields! {
    /// From the client: names and what is known of them, a page at a time.
    List<'a> {
        /// The client's number for the question.
        request: RequestId,
        /// Of what.
        listing: Listing,
        /// What names begin with.
        prefix: &'a str [limits::BLOB_NAME_BYTES],
        ;
        /// The last name of the page before; empty for the first page.
        after: &'a str [limits::CURSOR_BYTES] = "",
        /// The most entries of this page.
        limit: u32 = 100,
    }
}

fields! {
    /// From the server: an answer to GET or LIST; the payload is the value.
    #[derive(Default)]
    Value<'a> {
        /// The question's number.
        request: RequestId,
        /// Will another VALUE of the same question follow?
        more: bool,
        ;
        /// The name, in a listing.
        name: &'a str [limits::BLOB_NAME_BYTES] = "",
        /// The key it belongs to.
        key: &'a str [limits::KEY_BYTES] = "",
        /// The version it is.
        version: Version = Version(0),
        /// The position it has.
        position: Option<Position> = None,
        /// When the edge accepted it.
        time_ms: u64 = 0,
        /// What the payload is.
        content_type: &'a str [limits::CONTENT_TYPE_BYTES] = "",
        /// A worker was away: this is what the others have.
        partial: bool = false,
        /// Is there nothing newer, or nothing at all?
        absent: bool = false,
        /// A blob's whole size.
        size: u64 = 0,
        /// The worker that has it: the first half of its position.
        worker: &'a str [limits::NAME_BYTES] = "",
        /// What a next page begins after; empty where there is none.
        cursor: &'a str [limits::CURSOR_BYTES] = "",
        /// Who sent it.
        principal: &'a str [limits::PRINCIPAL_BYTES] = "",
        /// An upload under way: bytes that are stored.
        stored_offset: u64 = 0,
        /// A blob's revision under key and name.
        revision: u64 = 0,
        /// A blob's hash.
        #[serde(serialize_with = "field::hex_option")]
        blake3: Option<[u8; 32]> = None,
        /// More about a blob.
        meta: field::List<'a, Meta<'a>> [limits::META_BYTES] = field::List::default(),
        /// A blob's id, or that of an upload under way: what its client calls it, as 32 hexadecimal digits.
        id: &'a str [limits::NAME_BYTES] = "",
        /// A value that ends: how long after the question that is; 0: it has no end.
        left_ms: u64 = 0,
    }
}

fields! {
    /// Ask a service, or a device, for something; the payload is the request. From a client, and to who serves.
    Call<'a> {
        /// The sender's number for the question.
        request: RequestId,
        /// The service, or `device/ID`; `$` first for what is built in.
        service: &'a str [limits::PRINCIPAL_BYTES],
        /// What of it.
        method: &'a str [limits::NAME_BYTES],
        /// How long an answer is worth waiting for.
        remaining_ms: u32,
        ;
        /// It may be tried again where it is not known whether it was done.
        idempotent: bool = false,
        /// What the payload is.
        content_type: &'a str [limits::CONTENT_TYPE_BYTES] = "",
        /// Who asks, `ROLE/NAME`, as the edge knows it; set by the edge only.
        caller: &'a str [limits::PRINCIPAL_BYTES] = "",
        /// The trace it belongs to; where a client leaves it out the edge makes one.
        trace: Option<Trace> = None,
    }
}

fields! {
    /// The answer; the payload is the reply.
    Reply<'a> {
        /// The question's number.
        request: RequestId,
        /// 0: it was done. Else: why not; the payload may say more.
        code: Code,
        ;
        /// Will another REPLY of the same question follow?
        more: bool = false,
        /// What the payload is.
        content_type: &'a str [limits::CONTENT_TYPE_BYTES] = "",
        /// For people, where the code is not 0.
        detail: &'a str [limits::DETAIL_BYTES] = "",
    }
}

fields! {
    /// From the client: calls to this service may come to this session. Answered by a REPLY without payload, or a FAULT.
    Serve<'a> {
        /// The client's number for the question.
        request: RequestId,
        /// The service.
        service: &'a str [limits::PRINCIPAL_BYTES],
        /// Calls at once; 0 to stop.
        window: u32,
        ;
    }
}
