//! Consuming a durable group: deliveries as they are handed out, and saying what became of each.
//!
//! Delivery is at least once (spec §8.3.4): a settlement counts when its answer says so, and a delivery that was not
//! settled when the connection broke or the group's time was over comes again, perhaps to another member.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use spile_protocol::message::Outcome;

use super::client::{Client, Handle};
use super::event::{Block, Delivery};
use super::handed::Run;
use super::{Error, state::Part};

/// How much a member takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consume {
    pub(super) max_events: u32,
    pub(super) max_bytes: u32,
    pub(super) events: u32,
    pub(super) bytes: u32,
    pub(super) give_back: bool,
}

impl Default for Consume {
    /// Runs of at most 64 events of a key, 256 events and 4 MiB handed to us and not settled.
    fn default() -> Self {
        Self { max_events: 64, max_bytes: 1 << 20, events: 256, bytes: 4 << 20, give_back: true }
    }
}

impl Consume {
    /// The most consecutive events of one key in one delivery, and the most bytes; one event always goes.
    #[must_use]
    pub const fn batch(self, max_events: u32, max_bytes: u32) -> Self {
        Self { max_events, max_bytes, ..self }
    }

    /// How much may be handed to us and not settled. What waits here while others are idle is theirs too late, and its
    /// time runs: a slow member asks for little.
    #[must_use]
    pub const fn window(self, events: u32, bytes: u32) -> Self {
        Self { events, bytes, ..self }
    }

    /// Whether a delivery that is dropped with something unsettled is given back for a retry. If not, it goes back when
    /// the membership ends, or the group's time for it.
    #[must_use]
    pub const fn give_back(self, give_back: bool) -> Self {
        Self { give_back, ..self }
    }
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is on a disk: these events have this outcome for good (or wait for their retry).
    Durable,
    /// The delivery had ended before, by time, a seek or a cut connection: it did not count, and the events come again.
    TooLate,
}

/// What became of all settlements of a [`Consumer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent, not answered.
    pub under_way: u64,
    /// Counted.
    pub durable: u64,
    /// Did not count.
    pub too_late: u64,
    /// The connection broke before the answer: they may have counted.
    pub unknown: u64,
}

/// A membership of a group: a stream of deliveries. Dropped, it ends, and what is not settled goes to others; so keep it
/// until the last delivery is settled, or end with [`Self::close`].
#[derive(Debug)]
pub struct Consumer {
    handle: Arc<Handle>,
    number: usize,
}

impl Client {
    /// Becomes a member of a durable group; done when the server has agreed. After a reconnect it is one again: what the
    /// connection before had handed out is not ours any more.
    ///
    /// ```no_run
    /// # async fn example(client: spile_client::Client) -> Result<(), spile_client::Error> {
    /// # use spile_client::Consume;
    /// # fn bill(_: &[u8]) -> Result<(), &'static str> { Ok(()) }
    /// let mut deliveries = client.consume("billing", Consume::default()).await?;
    /// while let Some(delivery) = deliveries.next().await {
    ///     let mut delivery = delivery?;
    ///     while let Some(event) = delivery.first() {
    ///         // Events of a key are settled in their order; nobody needs to wait for the answer.
    ///         match bill(&event.payload) {
    ///             Ok(()) => delivery.done_first(1),
    ///             Err(why) => {
    ///                 delivery.retry(None, why);
    ///                 break;
    ///             }
    ///         };
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// It refused (there is no such group, or we may not), or the client is closed.
    pub async fn consume(&self, group: &str, options: Consume) -> Result<Consumer, Error> {
        self.member(Some(group.into()), options).await
    }

    /// Reads our own inbox: the events under `inbox/#` of the key that is our name, behind what is done with. *Done* moves
    /// the cursor past its delivery, and past all before it; what is not done comes again to the next reader, with any
    /// other outcome too. The newest reader of a principal wins; an older one ends with a refusal (203 replaced).
    ///
    /// # Errors
    /// We may not, or the client is closed.
    pub async fn inbox(&self, options: Consume) -> Result<Consumer, Error> {
        self.member(None, options).await
    }

    async fn member(&self, group: Option<Arc<str>>, options: Consume) -> Result<Consumer, Error> {
        let number = self.handle.shared.with(|state| state.consume(group, options))?;
        // From here on a drop ends it, also while it waits.
        let consumer = Consumer { handle: Arc::clone(&self.handle), number };
        poll_fn(|cx| consumer.handle.shared.with(|state| state.poll_member(number, cx))).await?;
        Ok(consumer)
    }
}

impl Consumer {
    /// The next delivery; `None` when it is over.
    pub async fn next(&mut self) -> Option<Result<GroupDelivery, Error>> {
        super::client::next(self).await
    }

    /// Would the next be there at once?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.handle.shared.with(|state| state.is_handed(self.number))
    }

    /// What became of what was settled, so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.handle.shared.with(|state| state.tally(self.number))
    }

    /// Takes more or less from here on, here and after a reconnect.
    pub fn set_window(&self, events: u32, bytes: u32) {
        self.handle.shared.with(|state| state.set_window(self.number, events, bytes));
    }

    /// Waits until the server has answered everything that was settled.
    pub async fn settled(&self) {
        poll_fn(|cx| self.handle.shared.with(|state| state.poll_settled(self.number, cx))).await;
    }

    /// Waits as [`Self::settled`], and ends: what became of all.
    pub async fn close(self) -> Tally {
        self.settled().await;
        self.tally()
    }
}

impl Stream for Consumer {
    type Item = Result<GroupDelivery, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.handle.shared.with(|state| state.poll_handed(self.number, cx));
        next.map(|next| {
            Some(next?.map(|run| GroupDelivery {
                handle: Arc::clone(&self.handle),
                number: self.number,
                run,
            }))
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.handle.shared.with(|state| state.leave_group(self.number));
    }
}

/// Consecutive events of one key, handed to us by a group: as a [`Block`], of what is not settled yet.
///
/// No other event of the key is handed to anyone until it is settled. Dropped with something unsettled it is given back,
/// as [`Self::retry`] does by the group's own backoff (but see
/// [`Consume::give_back`]); held for longer than the group's `settle_within` it comes again
/// elsewhere, and what is settled then is [`Settled::TooLate`].
#[derive(Debug)]
pub struct GroupDelivery {
    handle: Arc<Handle>,
    number: usize,
    run: Run,
}

impl Deref for GroupDelivery {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.run.block
    }
}

impl GroupDelivery {
    /// How often it was handed out, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.run.attempt
    }

    /// The first event that is not settled; `None` when all are.
    #[must_use]
    pub fn first(&self) -> Option<Delivery> {
        self.events().next()
    }

    /// The events that are not settled, in order.
    pub fn events(&self) -> impl Iterator<Item = Delivery> + use<> {
        self.run.block.clone().deliveries()
    }

    /// All of it is done, for good.
    pub fn done(mut self) -> Settling {
        self.settle(Outcome::Done, usize::MAX, "")
    }

    /// The first `count` events are done, for good; the others are left.
    pub fn done_first(&mut self, count: usize) -> Settling {
        self.settle(Outcome::Done, count, "")
    }

    /// All of it is tried again, no earlier than `after`; `None`: by the group's own backoff. Why is kept with the dead
    /// letter, where it comes to that.
    pub fn retry(mut self, after: Option<Duration>, reason: &str) -> Settling {
        let millis = after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        // 0 would be the group's own.
        let after_ms = if after.is_some() { millis.max(1) } else { 0 };
        self.settle(Outcome::Retry { after_ms }, usize::MAX, reason)
    }

    /// All of it is dead at once, and why.
    pub fn reject(mut self, reason: &str) -> Settling {
        self.settle(Outcome::Reject, usize::MAX, reason)
    }

    /// The first `count` events are dead at once, and why; the others are left.
    pub fn reject_first(&mut self, count: usize, reason: &str) -> Settling {
        self.settle(Outcome::Reject, count, reason)
    }

    fn settle(&mut self, outcome: Outcome, count: usize, reason: &str) -> Settling {
        let left = self.run.block.len();
        let count = count.min(left);
        let answer = if count == 0 {
            Answer::Known(Ok(Settled::Durable))
        } else {
            // spec §8.3.2: 0 is all that is left.
            let events = if count == left { 0 } else { u32::try_from(count).unwrap_or(u32::MAX) };
            let part = Part { opening: self.run.opening, delivery: self.run.delivery, events };
            let sent =
                self.handle.shared.with(|state| state.settle(self.number, part, outcome, reason));
            match sent {
                Ok(slot) => Answer::Awaited { handle: Arc::clone(&self.handle), slot },
                Err(known) => Answer::Known(known),
            }
        };
        self.run.block.skip(count);
        Settling(answer)
    }
}

impl Drop for GroupDelivery {
    fn drop(&mut self) {
        if self.run.give_back && !self.run.block.is_empty() {
            // Not left to the group's time: until it is settled it holds our credit, also behind that time.
            drop(self.settle(Outcome::Retry { after_ms: 0 }, usize::MAX, "dropped unsettled"));
        }
    }
}

/// A settlement on its way. It was sent already: await it to know whether it counted, or drop it and look at
/// [`Consumer::tally`].
#[derive(Debug)]
pub struct Settling(Answer);

#[derive(Debug)]
enum Answer {
    Known(Result<Settled, Error>),
    Awaited { handle: Arc<Handle>, slot: usize },
}

impl Future for Settling {
    type Output = Result<Settled, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.0 {
            Answer::Known(answer) => Poll::Ready(answer.clone()),
            Answer::Awaited { handle, slot } => {
                handle.shared.with(|state| state.poll_settling(*slot, cx))
            }
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let Answer::Awaited { handle, slot } = &self.0 {
            handle.shared.with(|state| state.forget_settling(*slot));
        }
    }
}
