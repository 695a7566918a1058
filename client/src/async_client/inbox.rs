//! What subscriptions have received and nobody has taken yet, and how to go on after a reconnect.
//!
//! Invariant: what waits here is within the window that was agreed; credit is given back only for what was taken.
//! After a reconnect each event comes once: what was seen already is left out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use spile_protocol::id::{self, SubscriptionId, Version};
use spile_protocol::limits;
use spile_protocol::message::{self, At, Deliver, Full, Headers, List, Subscribe};
use spile_protocol::time::Millis;

use super::event::{Block, Facts, From, Kind, Lengths, Taken};
use super::outbox::register;
use super::{Error, Position};

/// Events in flight of a subscription that says nothing.
const EVENTS: u32 = 16_384;
/// Bytes in flight of one.
const BYTES: u32 = 8 << 20;

/// Deliveries that may be unsettled, whatever their credit. spec §12.3
const DELIVERIES: u64 = limits::DELIVERIES as u64;

/// The most bytes of one delivery.
const BLOCK_BYTES: usize = limits::FRAME_MAX as usize;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    pub(super) source: Source,
    pub(super) events: u32,
    pub(super) bytes: u32,
    pub(super) live: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Filter { filter: Arc<str>, key: Option<Arc<str>>, from: From },
    Stream { key: Arc<str>, from: Version },
}

impl Interest {
    /// Every event whose topic falls under the filter, from now on.
    pub fn filter(filter: impl Into<Arc<str>>) -> Self {
        Self::of(Source::Filter { filter: filter.into(), key: None, from: From::End })
    }

    /// One key's events in order, from that version on.
    pub fn stream(key: impl Into<Arc<str>>, from: Version) -> Self {
        Self::of(Source::Stream { key: key.into(), from })
    }

    const fn of(source: Source) -> Self {
        Self { source, events: EVENTS, bytes: BYTES, live: true }
    }

    /// Where to begin; a stream has its version.
    #[must_use]
    pub fn from(mut self, begin: From) -> Self {
        if let Source::Filter { from, .. } = &mut self.source {
            *from = begin;
        }
        self
    }

    /// Only this key's events; a stream has its own.
    #[must_use]
    pub fn key(mut self, only: impl Into<Arc<str>>) -> Self {
        if let Source::Filter { key, .. } = &mut self.source {
            *key = Some(only.into());
        }
        self
    }

    /// Checks the names.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |what, name: &str, why: id::NameError| {
            Error::setup(what, format!("{name:?}: {why}"), "correct it")
        };
        let key = match &self.source {
            Source::Stream { key, .. } => Some(key),
            Source::Filter { filter, key, .. } => {
                id::filter(filter).map_err(|why| wrong("filter", filter, why))?;
                key.as_ref()
            }
        };
        key.map_or(Ok(()), |key| id::key(key).map(|_| ()).map_err(|why| wrong("key", key, why)))
    }

    /// As it is said; positions are written into `room`.
    pub(super) fn subscribe<'a>(
        &'a self,
        subscription: SubscriptionId,
        room: &'a mut [u8],
    ) -> Result<Subscribe<'a>, Full> {
        let source = match &self.source {
            Source::Stream { key, from } => message::Source::Stream { key, from: *from },
            Source::Filter { filter, key, from } => message::Source::Filter {
                filter,
                key: key.as_deref(),
                from: match from {
                    From::Start => message::From::Start,
                    From::End => message::From::End,
                    From::Time(time) => message::From::Time(time.0),
                    From::Positions(positions) => {
                        let at = |at: &'a Position| At { worker: &at.worker, position: at.number };
                        message::From::Positions(List::encode(positions.iter().map(at), room)?)
                    }
                },
            },
        };
        let (events, bytes, live) = (self.events, self.bytes, self.live);
        Ok(Subscribe { subscription, source, events, bytes, live })
    }

    /// How much may be under way and not taken yet. The server may agree to less.
    #[must_use]
    pub fn window(mut self, events: u32, bytes: u32) -> Self {
        (self.events, self.bytes) = (events, bytes);
        self
    }

    /// Go on with what is stored later; else it ends when it has caught up.
    #[must_use]
    pub fn live(mut self, live: bool) -> Self {
        self.live = live;
        self
    }
}

/// How far a subscription is with its server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// SUBSCRIBE is on its way.
    Opening,
    /// Deliveries come.
    Open,
    /// Nobody takes what comes; the server's END is awaited.
    Leaving,
    /// Nothing more comes.
    Ended(Option<Error>),
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) interest: Interest,
    state: State,
    /// The names a delivery leaves out are those of the one before.
    last: Names,
    queue: VecDeque<Block>,
    /// The events and bytes the server agreed to.
    window: (u32, u32),
    /// Deliveries of this connection through which credit was given back.
    settled: u64,
    /// What was taken since.
    unsettled: Taken,
    /// Where it began, for a server that has a worker we never heard of.
    begun: Option<From>,
    /// The next position wanted of each worker, once it was heard of.
    next: HashMap<Arc<str>, id::Position>,
    next_version: Option<Version>,
    waker: Option<Waker>,
}

/// The names of a subscription's last delivery.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    key: Arc<str>,
    topic: Arc<str>,
    kind: Arc<Kind>,
    worker: Arc<str>,
}

impl Names {
    pub(super) fn update(&mut self, deliver: &Deliver<'_>) {
        for (name, told) in [
            (&mut self.key, deliver.key),
            (&mut self.topic, deliver.topic),
            (&mut self.worker, deliver.worker),
        ] {
            if let Some(told) = told
                && **name != *told
            {
                *name = told.into();
            }
        }
        if let Some(kind) = deliver.kind
            && !same(&self.kind, &kind)
        {
            self.kind = Arc::new(Kind {
                content_type: kind.content_type.into(),
                schema: kind.schema,
                encoding: kind.encoding.into(),
            });
        }
    }
}

impl Inbox {
    pub(super) fn new(interest: Interest) -> Self {
        let begun = match &interest.source {
            Source::Filter { from, .. } => Some(from.clone()),
            Source::Stream { .. } => None,
        };
        Self {
            window: (interest.events, interest.bytes),
            interest,
            state: State::Opening,
            last: Names::default(),
            queue: VecDeque::new(),
            settled: 0,
            unsettled: Taken::default(),
            begun,
            next: HashMap::new(),
            next_version: None,
            waker: None,
        }
    }

    /// The server agreed to a window.
    pub(super) fn opened(
        &mut self,
        window: (u32, u32),
        servers_now: Millis,
        wake: &mut Vec<Waker>,
    ) {
        if !matches!(self.state, State::Opening | State::Open) {
            return;
        }
        if self.begun == Some(From::End) {
            // What is stored while we are away would be behind another end.
            self.begun = Some(From::Time(servers_now));
        }
        self.state = State::Open;
        self.window = window;
        wake.extend(self.waker.take());
    }

    /// Nothing more comes.
    pub(super) fn ended(&mut self, why: Option<Error>, wake: &mut Vec<Waker>) {
        self.state = State::Ended(why);
        wake.extend(self.waker.take());
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Nobody takes what comes any more.
    pub(super) fn leave(&mut self) {
        self.state = State::Leaving;
        self.queue.clear();
    }

    pub(super) const fn has_left(&self) -> bool {
        matches!(self.state, State::Leaving)
    }

    /// Goes on from where it began instead of from positions; `false` where it does so already.
    pub(super) fn falls_back(&mut self) -> bool {
        let Source::Filter { from, .. } = &mut self.interest.source else { return false };
        match &self.begun {
            Some(begun) if from != begun => {
                from.clone_from(begun);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The connection is new: deliveries count from 1, and what is asked for goes on behind what was received.
    pub(super) fn reconnected(&mut self) {
        self.last = Names::default();
        // What still waits in the queue holds no credit of the new connection.
        (self.settled, self.unsettled) = (0, Taken::default());
        for block in &mut self.queue {
            block.old = true;
        }
        if let (Source::Stream { from, .. }, Some(next)) =
            (&mut self.interest.source, self.next_version)
        {
            *from = next;
        }
        if let (Source::Filter { from, .. }, Some(begun)) = (&mut self.interest.source, &self.begun)
        {
            *from = if self.next.is_empty() {
                begun.clone()
            } else {
                From::Positions(positions(&self.next))
            };
        }
    }

    /// A delivery came.
    pub(super) fn delivered(&mut self, deliver: &Deliver<'_>, wake: &mut Vec<Waker>) {
        if self.state != State::Open {
            return;
        }
        self.last.update(deliver);
        let mut block = block(deliver, &self.last);
        self.leave_out_what_was_seen(&mut block);
        if block.is_empty() {
            // Nobody will take it; what is behind it is taken later, and frees its credit too.
            self.skipped(deliver);
            return;
        }
        self.went_on(&block);
        self.queue.push_back(block);
        wake.extend(self.waker.take());
    }

    /// A block that was seen already counts as taken when nothing waits before it.
    fn skipped(&mut self, deliver: &Deliver<'_>) {
        let events = deliver.lengths.count();
        let taken = Taken { deliveries: 1, events, bytes: deliver.payload.len() };
        match self.queue.back_mut() {
            Some(last) => last.behind.add(taken),
            None => self.unsettled.add(taken),
        }
    }

    /// After a reconnect that could only begin earlier than where we were.
    fn leave_out_what_was_seen(&self, block: &mut Block) {
        let wanted = match &self.interest.source {
            Source::Stream { .. } => {
                self.next_version.map(|next| next.0.saturating_sub(block.version.0))
            }
            Source::Filter { .. } => {
                let next = self.next.get(&block.position.worker);
                next.map(|next| next.0.saturating_sub(block.position.number.0))
            }
        };
        if let Some(seen) = wanted.filter(|seen| *seen > 0) {
            block.skip(usize::try_from(seen).unwrap_or(usize::MAX));
        }
    }

    fn went_on(&mut self, block: &Block) {
        let count = u64::try_from(block.len()).unwrap_or(u64::MAX);
        match &self.interest.source {
            Source::Stream { .. } => {
                self.next_version = Some(Version(block.version.0.saturating_add(count)));
            }
            Source::Filter { .. } => {
                let next = id::Position(block.position.number.0.saturating_add(count));
                match self.next.get_mut(&block.position.worker) {
                    Some(place) => *place = next,
                    None => {
                        self.next.insert(Arc::clone(&block.position.worker), next);
                    }
                }
            }
        }
    }

    /// A caller takes the next block.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Block, Error>>> {
        if let Some(block) = self.queue.pop_front() {
            if !block.old {
                let events = u32::try_from(block.len()).unwrap_or(u32::MAX);
                self.unsettled.add(Taken { deliveries: 1, events, bytes: block.bytes().len() });
            }
            self.unsettled.add(block.behind);
            return Poll::Ready(Some(Ok(block)));
        }
        match &mut self.state {
            State::Ended(why) => Poll::Ready(why.take().map(Err)),
            State::Leaving => Poll::Ready(None),
            State::Opening | State::Open => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
        }
    }

    /// Waits until the server agreed or refused.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.state {
            State::Opening => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
            State::Open | State::Leaving | State::Ended(None) => Poll::Ready(Ok(())),
            State::Ended(Some(why)) => Poll::Ready(Err(why.clone())),
        }
    }

    /// Does something wait to be taken?
    pub(super) fn is_ready(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Is credit to be given back? When half of the window was taken: not for every delivery, since each costs a frame. With
    /// a small window as soon as nothing waits: a larger block than what is left comes only when nothing is in flight.
    /// spec §8.3.6
    pub(super) fn is_due(&self) -> bool {
        let Taken { deliveries, events, bytes } = self.unsettled;
        let window_bytes = usize::try_from(self.window.1).unwrap_or(usize::MAX);
        let half = events >= self.window.0 / 2
            || bytes >= window_bytes / 2
            || deliveries >= DELIVERIES / 2;
        let narrow = self.window.0.saturating_sub(events) < limits::BATCH_EVENTS
            || window_bytes.saturating_sub(bytes) < BLOCK_BYTES;
        let due = half || (narrow && self.queue.is_empty());
        self.state == State::Open && deliveries > 0 && due
    }

    /// The delivery through which credit is to be given back.
    pub(super) fn due(&mut self) -> Option<u64> {
        if !self.is_due() {
            return None;
        }
        self.settled += std::mem::take(&mut self.unsettled).deliveries;
        Some(self.settled)
    }
}

fn same(known: &Kind, told: &message::deliver::Kind<'_>) -> bool {
    *known.content_type == *told.content_type
        && known.schema == told.schema
        && *known.encoding == *told.encoding
}

fn positions(next: &HashMap<Arc<str>, id::Position>) -> Vec<Position> {
    let place = |(worker, number): (&Arc<str>, &id::Position)| Position {
        worker: Arc::clone(worker),
        number: *number,
    };
    next.iter().map(place).collect()
}

/// A delivery in memory of its own.
pub(super) fn block(deliver: &Deliver<'_>, names: &Names) -> Block {
    Block {
        position: Position { worker: Arc::clone(&names.worker), number: deliver.position },
        key: Arc::clone(&names.key),
        version: deliver.version,
        topic: Arc::clone(&names.topic),
        time: deliver.time,
        trace: deliver.extras.trace,
        kind: Arc::clone(&names.kind),
        facts: facts(&deliver.extras),
        lengths: lengths(&deliver.lengths),
        payload: Bytes::copy_from_slice(deliver.payload),
        old: false,
        behind: Taken::default(),
    }
}

fn lengths(lengths: &message::Lengths<'_>) -> Lengths {
    let count = usize::try_from(lengths.count()).unwrap_or(usize::MAX);
    let first = lengths.iter().next().unwrap_or(0);
    if lengths.iter().all(|length| length == first) {
        Lengths::Same { count, length: first }
    } else {
        Lengths::Each(lengths.iter().collect())
    }
}

fn facts(extras: &message::Extras<'_>) -> Option<Arc<Facts>> {
    if extras.happened.is_none() && extras.ttl_ms.is_none() && extras.headers.is_empty() {
        return None;
    }
    Some(Arc::new(Facts {
        happened: extras.happened,
        ttl_ms: extras.ttl_ms,
        headers: headers(&extras.headers),
    }))
}

fn headers(headers: &Headers<'_>) -> Vec<(String, Bytes)> {
    headers.iter().map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value))).collect()
}

/// Which number a subscription has on the wire: twice its place, since memberships of groups have the odd ones.
pub(super) fn on_the_wire(place: usize) -> SubscriptionId {
    SubscriptionId(u32::try_from(place).unwrap_or(u32::MAX).saturating_mul(2))
}

#[cfg(test)]
mod tests;
