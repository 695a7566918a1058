//! What is published and what is received, in the caller's own memory.
//!
//! Names are shared (`Arc<str>`), payloads are [`Bytes`]: receiving a run of one key's events allocates nothing an event.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use spile_protocol::id::{self, Number, Version};
use spile_protocol::message::{Durability, Expect, Happened, Trace};
use spile_protocol::time::Millis;

/// A record's place: `WORKER:N`. Comparable within a worker only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The worker.
    pub worker: Arc<str>,
    /// The place in its log.
    pub number: id::Position,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.worker, self.number)
    }
}

/// What a payload is. The bus never looks inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Its content type; empty for not said.
    pub content_type: Arc<str>,
    /// Its schema number; 0 for none.
    pub schema: u32,
    /// How it is encoded (`zstd`); empty for not at all.
    pub encoding: Arc<str>,
}

/// An event to be published.
#[derive(Clone, Debug)]
pub struct Event {
    pub(super) key: Option<Arc<str>>,
    pub(super) topic: Arc<str>,
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
    pub(super) more: More,
}

/// What an event may say beyond its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct More {
    pub(super) happened: Option<Happened>,
    pub(super) ttl_ms: Option<u64>,
    pub(super) trace: Option<Trace>,
    pub(super) expect: Option<Expect>,
    pub(super) headers: Vec<(String, Bytes)>,
}

impl More {
    pub(super) fn is_empty(&self) -> bool {
        self.happened.is_none()
            && self.ttl_ms.is_none()
            && self.trace.is_none()
            && self.expect.is_none()
            && self.headers.is_empty()
    }
}

impl Event {
    /// An event about `topic`, under the client's own key.
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self {
            key: None,
            topic: topic.into(),
            kind: Kind::default(),
            payload: payload.into(),
            more: More::default(),
        }
    }

    /// Under this key instead: whose order it keeps.
    #[must_use]
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// What the payload is.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Arc<str>>) -> Self {
        self.kind.content_type = content_type.into();
        self
    }

    /// The payload's schema number.
    #[must_use]
    pub fn schema(mut self, schema: u32) -> Self {
        self.kind.schema = schema;
        self
    }

    /// How the payload is encoded.
    #[must_use]
    pub fn encoding(mut self, encoding: impl Into<Arc<str>>) -> Self {
        self.kind.encoding = encoding.into();
        self
    }

    /// When it happened, by the clock of who saw it.
    #[must_use]
    pub fn device_time(mut self, time: Millis) -> Self {
        self.more.happened = Some(Happened::At(time));
        self
    }

    /// After how many milliseconds it is worth nothing.
    #[must_use]
    pub fn ttl_ms(mut self, millis: u64) -> Self {
        self.more.ttl_ms = Some(millis);
        self
    }

    /// The trace it belongs to.
    #[must_use]
    pub fn trace(mut self, trace: Trace) -> Self {
        self.more.trace = Some(trace);
        self
    }

    /// What must be true of the stream for it to be taken.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.more.expect = Some(expect);
        self
    }

    /// One more header; at most 8, in 512 bytes.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.more.headers.push((name.into(), value.into()));
        self
    }
}

/// What an acknowledgement says of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The key it was published under.
    pub key: Arc<str>,
    /// What it is about.
    pub topic: Arc<str>,
    /// Its number in its lane.
    pub number: Number,
    /// Its version in the key's stream; `None` when spooled.
    pub version: Option<Version>,
    /// Its place; `None` when spooled.
    pub position: Option<Position>,
    /// How far the promise goes.
    pub durability: Durability,
    /// The server had forgotten the run while this was in flight: it may be stored twice.
    pub maybe_twice: bool,
}

/// Where a subscription by filter begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first event that is kept.
    Start,
    /// With what is stored from now on.
    End,
    /// At a time.
    Time(Millis),
    /// At a position of each worker; a worker that is not named is refused.
    Positions(Vec<Position>),
}

/// What is told of events beside their payloads; shared by a run of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// When it happened, as its device says.
    pub happened: Option<Happened>,
    /// After how many milliseconds it is worth nothing.
    pub ttl_ms: Option<u64>,
    /// Names and values.
    pub headers: Vec<(String, Bytes)>,
}

/// One event, received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its place.
    pub position: Position,
    /// Whose order it keeps.
    pub key: Arc<str>,
    /// Its number in the key's stream.
    pub version: Version,
    /// What it is about.
    pub topic: Arc<str>,
    /// When the edge accepted it.
    pub time: Millis,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// What the payload is.
    pub kind: Arc<Kind>,
    /// What else is told; `None` for nothing.
    pub facts: Option<Arc<Facts>>,
    /// The bytes its device summed.
    pub payload: Bytes,
}

/// Consecutive events of one key, as they came: one frame, checked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first event's place; each next one has one more.
    pub position: Position,
    /// Whose order they keep.
    pub key: Arc<str>,
    /// The first event's version; each next one has one more.
    pub version: Version,
    /// What they are about.
    pub topic: Arc<str>,
    /// When the edge accepted them.
    pub time: Millis,
    /// The first event's trace; see [`Trace::nth`] for the others'.
    pub trace: Option<Trace>,
    /// What the payloads are.
    pub kind: Arc<Kind>,
    /// What else is told; `None` for nothing.
    pub facts: Option<Arc<Facts>>,
    pub(super) lengths: Lengths,
    pub(super) payload: Bytes,
    /// It came on a connection that is gone: it holds no credit.
    pub(super) old: bool,
    /// What came behind it and nobody will take: its credit goes with this one's.
    pub(super) behind: Taken,
}

/// What was taken of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) deliveries: u64,
    pub(super) events: u32,
    pub(super) bytes: usize,
}

impl Taken {
    pub(super) fn add(&mut self, other: Self) {
        self.deliveries += other.deliveries;
        self.events = self.events.saturating_add(other.events);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// How a block's payloads are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lengths {
    Same { count: usize, length: usize },
    Each(Box<[usize]>),
}

impl Lengths {
    fn count(&self) -> usize {
        match self {
            Self::Same { count, .. } => *count,
            Self::Each(each) => each.len(),
        }
    }

    fn get(&self, index: usize) -> Option<usize> {
        match self {
            Self::Same { count, length } => (index < *count).then_some(*length),
            Self::Each(each) => each.get(index).copied(),
        }
    }
}

impl Block {
    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.count()
    }

    /// Are there none? There is always one at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All payloads, one after the other.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.payload
    }

    /// Each payload, borrowed.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let mut rest: &[u8] = &self.payload;
        (0..self.len()).map_while(move |index| {
            let (payload, behind) = rest.split_at_checked(self.lengths.get(index)?)?;
            rest = behind;
            Some(payload)
        })
    }

    /// Each event, as if it had come alone.
    pub fn deliveries(self) -> Deliveries {
        Deliveries { block: self, index: 0 }
    }

    /// Leaves out the first `count` events, which were seen already.
    pub(super) fn skip(&mut self, count: usize) {
        let count = count.min(self.len());
        let bytes = (0..count).filter_map(|index| self.lengths.get(index)).sum::<usize>();
        let step = u64::try_from(count).unwrap_or(u64::MAX);
        self.payload = self.payload.slice(bytes.min(self.payload.len())..);
        self.version = Version(self.version.0.saturating_add(step));
        self.trace = self.trace.map(|trace| trace.nth(u32::try_from(step).unwrap_or(u32::MAX)));
        self.position.number = id::Position(self.position.number.0.saturating_add(step));
        match &mut self.lengths {
            Lengths::Same { count: all, .. } => *all -= count,
            Lengths::Each(each) => *each = each.iter().skip(count).copied().collect(),
        }
    }
}

/// The events of a [`Block`], one after the other.
#[derive(Debug)]
pub struct Deliveries {
    block: Block,
    index: usize,
}

impl Iterator for Deliveries {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        let length = self.block.lengths.get(self.index)?;
        let (block, step) = (&mut self.block, u64::try_from(self.index).ok()?);
        if length > block.payload.len() {
            return None;
        }
        self.index += 1;
        let number = id::Position(block.position.number.0.saturating_add(step));
        Some(Delivery {
            position: Position { worker: Arc::clone(&block.position.worker), number },
            key: Arc::clone(&block.key),
            version: Version(block.version.0.saturating_add(step)),
            topic: Arc::clone(&block.topic),
            time: block.time,
            trace: block.trace.map(|trace| trace.nth(u32::try_from(step).unwrap_or(u32::MAX))),
            kind: Arc::clone(&block.kind),
            facts: block.facts.clone(),
            payload: block.payload.split_to(length),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lengths: Lengths) -> Block {
        Block {
            position: Position { worker: "a".into(), number: id::Position(10) },
            key: "k".into(),
            version: Version(3),
            topic: "t".into(),
            time: Millis(5),
            trace: None,
            kind: Arc::default(),
            facts: None,
            lengths,
            payload: Bytes::from_static(b"aabbcc"),
            old: false,
            behind: Taken::default(),
        }
    }

    #[test]
    fn a_block_falls_into_its_events() {
        for lengths in
            [Lengths::Same { count: 3, length: 2 }, Lengths::Each([2, 2, 2].to_vec().into())]
        {
            let block = block(lengths);
            assert_eq!(block.payloads().collect::<Vec<_>>(), [b"aa", b"bb", b"cc"]);
            let events: Vec<_> = block.deliveries().collect();
            let told: Vec<_> = events
                .iter()
                .map(|event| (event.position.to_string(), event.version.0, &*event.payload))
                .collect();
            assert_eq!(
                told,
                [
                    ("a:10".to_owned(), 3, &b"aa"[..]),
                    ("a:11".to_owned(), 4, b"bb"),
                    ("a:12".to_owned(), 5, b"cc")
                ]
            );
        }
    }

    #[test]
    fn what_was_seen_is_left_out() {
        for lengths in
            [Lengths::Same { count: 3, length: 2 }, Lengths::Each([2, 2, 2].to_vec().into())]
        {
            let mut block = block(lengths);
            block.skip(2);
            assert_eq!((block.len(), block.version.0, block.position.number.0), (1, 5, 12));
            assert_eq!(block.payloads().collect::<Vec<_>>(), [b"cc"]);
            block.skip(9);
            assert!(block.is_empty());
        }
    }
}
