//! Look-ups: kept values, versions of streams, bytes of blobs, and listings page by page. spec §9.1 to §9.3
//!
//! Here is what was asked and what has come of the answer; how it goes over the wire is `state/looking`. Invariants: a
//! look-up changes nothing, so one that fails may be tried again; what has come and nobody took yet is bounded by what
//! was asked for.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use spile_protocol::id::{self, RequestId, Version};
use spile_protocol::limits;
use spile_protocol::message::request::{Get, List, Target};
use spile_protocol::message::{Message, Value};
use spile_protocol::time::Millis;

use super::client::Handle;
use super::outbox::register;
use super::{Client, Error, Position};

pub use spile_protocol::message::request::Listing;

/// The most bytes of a blob that are asked for at once: they wait here until they are taken.
pub const PIECE: u32 = 4 << 20;
/// The most entries of a page. spec §9.3
pub const PAGE: u32 = 1_000;

/// One VALUE: a kept value, a part of a blob, or an entry of a listing. What does not apply is empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The topic, a blob's or an upload's name, or the service.
    pub name: String,
    /// The key it belongs to.
    pub key: String,
    /// The version it is.
    pub version: Version,
    /// Its place.
    pub position: Option<Position>,
    /// When the edge accepted it.
    pub time: Millis,
    /// What the payload is.
    pub content_type: String,
    /// A worker was away: this is what the others have.
    pub partial: bool,
    /// A blob's or an upload's whole size.
    pub size: u64,
    /// Who sent it, `ROLE/NAME`.
    pub principal: String,
    /// Of an upload under way: bytes that are stored.
    pub stored_offset: u64,
    /// Of a blob, or how many members a service has.
    pub revision: u64,
    /// A blob's hash.
    pub blake3: Option<[u8; 32]>,
    /// More about a blob.
    pub meta: Vec<(String, String)>,
    /// A blob's id, or an upload's: 32 hexadecimal digits.
    pub id: String,
    /// The value, or the part of a blob.
    pub payload: Bytes,
}

/// How new an answer has to be, and how long it may be waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Only from a view that holds this version of the stream: what was read back is then what was written.
    pub at_least: Version,
    /// Nothing but a version above this one; else nothing is found.
    pub newer_than: Version,
    /// How long the server waits for either.
    pub wait: Duration,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, in order.
    pub entries: Vec<Found>,
    /// What the next page begins after; empty: this was the last.
    pub cursor: String,
    /// A worker was away: what it has is missing.
    pub partial: bool,
}

/// What has come of an answer.
#[derive(Debug, Default)]
pub(super) struct Looked {
    found: VecDeque<Found>,
    /// What the next page begins after, and whether a worker was away.
    cursor: String,
    partial: bool,
    over: Option<Result<(), Error>>,
    waker: Option<Waker>,
    forgotten: bool,
}

impl Looked {
    pub(super) fn came(&mut self, value: &Value<'_>, payload: &[u8], wake: &mut Vec<Waker>) {
        self.partial |= value.partial;
        if !value.more {
            self.cursor.clear();
            self.cursor.push_str(value.cursor);
            self.over.get_or_insert(Ok(()));
        }
        if !value.absent && !self.forgotten {
            self.found.push_back(found(value, payload));
        }
        wake.extend(self.waker.take());
    }

    /// No more comes.
    pub(super) fn failed(&mut self, why: Error, wake: &mut Vec<Waker>) {
        self.over.get_or_insert(Err(why));
        wake.extend(self.waker.take());
    }

    /// Nobody waits any more: may its number be used again, since no answer is to come?
    pub(super) fn forget(&mut self) -> bool {
        self.forgotten = true;
        self.found.clear();
        self.over.is_some()
    }

    pub(super) const fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Found, Error>>> {
        if let Some(found) = self.found.pop_front() {
            return Poll::Ready(Some(Ok(found)));
        }
        match self.over.as_mut() {
            None => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
            // Why it ended is told once.
            Some(over) => Poll::Ready(std::mem::replace(over, Ok(())).err().map(Err)),
        }
    }
}

fn found(value: &Value<'_>, payload: &[u8]) -> Found {
    let place = |number| Position { worker: Arc::from(value.worker), number };
    Found {
        name: value.name.to_owned(),
        key: value.key.to_owned(),
        version: value.version,
        position: value.position.map(place),
        time: Millis(value.time_ms),
        content_type: value.content_type.to_owned(),
        partial: value.partial,
        size: value.size,
        principal: value.principal.to_owned(),
        stored_offset: value.stored_offset,
        revision: value.revision,
        blake3: value.blake3,
        meta: value.meta.iter().map(|one| (one.name.to_owned(), one.value.to_owned())).collect(),
        id: value.id.to_owned(),
        payload: Bytes::copy_from_slice(payload),
    }
}

/// The parts of one answer, as they come. Dropped, what still comes is let go.
#[derive(Debug)]
pub struct Values {
    handle: Arc<Handle>,
    number: usize,
}

impl Values {
    fn ask<'m>(
        handle: &Arc<Handle>,
        message: impl FnOnce(RequestId) -> Message<'m>,
    ) -> Result<Self, Error> {
        let number = handle.shared.with(|state| state.look(message))?;
        Ok(Self { handle: Arc::clone(handle), number })
    }

    /// The next part; `None` when that was all.
    pub async fn next(&mut self) -> Option<Result<Found, Error>> {
        poll_fn(|cx| {
            self.handle.shared.with(|state| match state.looked(self.number) {
                Some(looked) => looked.poll(cx),
                None => Poll::Ready(Some(Err(Error::Closed))),
            })
        })
        .await
    }

    /// Once it is over: what the next page begins after, and whether a worker was away.
    fn ended(&self) -> (String, bool) {
        self.handle.shared.with(|state| match state.looked(self.number) {
            Some(looked) => (std::mem::take(&mut looked.cursor), looked.partial),
            None => (String::new(), false),
        })
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.forget_look(number));
    }
}

fn wrong(what: &'static str, name: &str, why: impl std::fmt::Display) -> Error {
    Error::setup(what, format!("{name:?}: {why}"), "correct it")
}

fn get(request: RequestId, target: Target<'_>, fresh: Fresh) -> Message<'_> {
    let wait_ms = u32::try_from(fresh.wait.as_millis()).unwrap_or(u32::MAX);
    let Fresh { newer_than, at_least, .. } = fresh;
    Message::Get(Get { request, target, newer_than, at_least, wait_ms })
}

/// Look-ups. One that was under way when the connection broke fails with a refusal that may be tried again.
impl Client {
    /// The latest event of a kept topic under a key; `None` where there is none, or none that is new enough.
    ///
    /// # Errors
    /// A name is not one, the server refused, or what was asked for did not come in time (507 timed-out).
    pub async fn get_state(
        &self,
        key: &str,
        topic: &str,
        fresh: Fresh,
    ) -> Result<Option<Found>, Error> {
        id::key(key).map_err(|why| wrong("key", key, why))?;
        id::topic(topic).map_err(|why| wrong("topic", topic, why))?;
        let target = Target::State { key, topic };
        let mut values = Values::ask(&self.handle, |request| get(request, target, fresh))?;
        values.next().await.transpose()
    }

    /// The last version of a key's stream; `None` where it has no event.
    ///
    /// # Errors
    /// The key is not one, the server refused, or what was asked for did not come in time (507 timed-out).
    pub async fn get_version(&self, key: &str, fresh: Fresh) -> Result<Option<Version>, Error> {
        id::key(key).map_err(|why| wrong("key", key, why))?;
        let target = Target::Stream { key };
        let mut values = Values::ask(&self.handle, |request| get(request, target, fresh))?;
        Ok(values.next().await.transpose()?.map(|found| found.version))
    }

    /// Bytes of a sealed upload from an offset on, at most `length` of them and at most [`PIECE`], in parts as they come.
    /// Each says the blob's whole size. Who reads a large blob asks for one piece after the other.
    ///
    /// # Errors
    /// The length is none, the blob's id too long, or the client is closed; what the server refuses comes in place of a part.
    pub fn get_blob(&self, blob: &str, offset: u64, length: u32) -> Result<Values, Error> {
        if length == 0 || length > PIECE {
            return Err(wrong("length", &length.to_string(), "from 1 to 4 MiB can be asked for"));
        }
        Error::unless_it_fits("blob", blob, limits::NAME_BYTES)?;
        let target = Target::Blob { blob, offset, length };
        Values::ask(&self.handle, |request| get(request, target, Fresh::default()))
    }

    /// One page of a listing: entries whose name (for state: whose key) begins with `prefix`, behind the cursor of the
    /// page before (empty: from the beginning), at most `limit` of them and at most [`PAGE`].
    ///
    /// # Errors
    /// The prefix or the cursor is too long, the server refused, or the client is closed.
    pub async fn page(
        &self,
        listing: Listing,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Page, Error> {
        Error::unless_it_fits("prefix", prefix, limits::BLOB_NAME_BYTES)?;
        Error::unless_it_fits("cursor", after, limits::CURSOR_BYTES)?;
        let list = |request| Message::List(List { request, listing, prefix, after, limit });
        let mut values = Values::ask(&self.handle, list)?;
        let mut entries = Vec::new();
        while let Some(found) = values.next().await.transpose()? {
            entries.push(found);
        }
        let (cursor, partial) = values.ended();
        Ok(Page { entries, cursor, partial })
    }

    /// A whole listing, asked for page by page as it is taken.
    #[must_use]
    pub fn list(&self, listing: Listing, prefix: &str) -> Listed {
        let page = VecDeque::new();
        let (prefix, after) = (prefix.to_owned(), Some(String::new()));
        Listed { client: self.clone(), listing, prefix, page, after, partial: false }
    }
}

/// A listing that is under way.
#[derive(Debug)]
pub struct Listed {
    client: Client,
    listing: Listing,
    prefix: String,
    page: VecDeque<Found>,
    /// What the next page begins after; `None` behind the last.
    after: Option<String>,
    partial: bool,
}

impl Listed {
    /// The next entry; `None` when that was all.
    pub async fn next(&mut self) -> Option<Result<Found, Error>> {
        loop {
            if let Some(found) = self.page.pop_front() {
                return Some(Ok(found));
            }
            let after = self.after.take()?;
            match self.client.page(self.listing, &self.prefix, &after, PAGE).await {
                Err(why) => return Some(Err(why)),
                Ok(page) => {
                    self.partial |= page.partial;
                    self.after = Some(page.cursor).filter(|cursor| !cursor.is_empty());
                    self.page.extend(page.entries);
                }
            }
        }
    }

    /// Was a worker away, so that what it has is missing?
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.partial
    }
}
