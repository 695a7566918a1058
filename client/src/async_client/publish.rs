//! Publishing, as callers see it: one event, many, or a counted flood. No task and no channel an event.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::Error;
use super::client::{Client, Handle};
use super::event::{Event, Kind, Receipt};
use super::outbox::{Outcomes, Who};
use super::state::Way;

/// Events of [`PublishAll`] that are under way at once.
const AT_ONCE: usize = 4096;

/// An event on its way: yields its receipt. Dropped, the event is stored all the same.
#[derive(Debug)]
#[must_use = "its outcome is known only when it is awaited"]
pub struct Pending {
    handle: Arc<Handle>,
    key: Option<Arc<str>>,
    topic: Arc<str>,
    state: Sent,
}

#[derive(Debug)]
enum Sent {
    Slot(usize),
    Failed(Error),
    Told,
}

impl Pending {
    pub(super) async fn send(handle: &Arc<Handle>, event: Event) -> Self {
        let sent = poll_fn(|cx| handle.shared.with(|state| state.poll_send(cx, &event))).await;
        let state = sent.map_or_else(Sent::Failed, Sent::Slot);
        Self { handle: Arc::clone(handle), key: event.key, topic: event.topic, state }
    }

    fn receipt(&self, outcome: super::outbox::Outcome) -> Receipt {
        let key = self.key.clone();
        Receipt {
            key: key.unwrap_or_else(|| self.handle.shared.principal()),
            topic: Arc::clone(&self.topic),
            number: outcome.number,
            version: outcome.version,
            position: outcome.position,
            durability: outcome.durability,
            maybe_twice: outcome.maybe_twice,
        }
    }
}

impl Future for Pending {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match std::mem::replace(&mut self.state, Sent::Told) {
            Sent::Slot(slot) => {
                match self.handle.shared.with(|state| state.outbox.poll_slot(slot, cx)) {
                    Poll::Pending => {
                        self.state = Sent::Slot(slot);
                        return Poll::Pending;
                    }
                    Poll::Ready(outcome) => outcome,
                }
            }
            Sent::Failed(error) => Err(error),
            Sent::Told => Err(Error::Closed),
        };
        Poll::Ready(outcome.map(|outcome| self.receipt(outcome)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Sent::Slot(slot) = self.state {
            self.handle.shared.with(|state| state.outbox.abandon(slot));
        }
    }
}

/// An iterator as a stream: all of it is there.
#[derive(Debug)]
pub struct Given<I>(pub(super) I);

impl<I: Iterator + Unpin> Stream for Given<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

/// Publishes what it is given; yields receipts in the same order. Made by [`Client::publish_all`].
#[derive(Debug)]
pub struct PublishAll<S> {
    client: Client,
    /// `None` when it has given all.
    events: Option<S>,
    /// Given, waits for credit.
    next: Option<Event>,
    pending: VecDeque<Pending>,
}

impl<S: Stream<Item = Event> + Unpin> PublishAll<S> {
    pub(super) const fn new(client: Client, events: S) -> Self {
        Self { client, events: Some(events), next: None, pending: VecDeque::new() }
    }

    /// The next receipt; `None` when all were told.
    pub async fn next(&mut self) -> Option<Result<Receipt, Error>> {
        super::client::next(self).await
    }

    /// Sends as much as is given and credit allows.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while self.pending.len() < AT_ONCE {
            let Some(event) = self.next.take().or_else(|| self.given(cx)) else { return };
            match self.client.handle.shared.with(|state| state.poll_send(cx, &event)) {
                Poll::Pending => {
                    self.next = Some(event);
                    return;
                }
                Poll::Ready(sent) => self.pending.push_back(Pending {
                    handle: Arc::clone(&self.client.handle),
                    key: event.key,
                    topic: event.topic,
                    state: sent.map_or_else(Sent::Failed, Sent::Slot),
                }),
            }
        }
    }

    fn given(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        match Pin::new(self.events.as_mut()?).poll_next(cx) {
            Poll::Ready(Some(event)) => Some(event),
            Poll::Ready(None) => {
                self.events = None;
                None
            }
            Poll::Pending => None,
        }
    }
}

impl<S: Stream<Item = Event> + Unpin> Stream for PublishAll<S> {
    type Item = Result<Receipt, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Refilled when half has ended, so that what goes out goes in batches.
        if self.pending.len() <= AT_ONCE / 2 {
            self.fill(cx);
        }
        let Some(oldest) = self.pending.front_mut() else {
            let over = self.next.is_none() && self.events.is_none();
            return if over { Poll::Ready(None) } else { Poll::Pending };
        };
        let outcome = ready!(Pin::new(oldest).poll(cx));
        self.pending.pop_front();
        Poll::Ready(Some(outcome))
    }
}

/// Publishes many events of one topic and key, and counts. Made by [`Client::producer`].
#[derive(Debug)]
pub struct Producer {
    handle: Arc<Handle>,
    way: Way,
    number: usize,
    in_flight: u64,
}

impl Producer {
    pub(super) fn new(
        handle: &Arc<Handle>,
        key: Option<&str>,
        topic: &str,
        kind: &Kind,
    ) -> Result<Self, Error> {
        let (key, topic): (Option<Arc<str>>, Arc<str>) = (key.map(Into::into), topic.into());
        handle.shared.with(|state| {
            let way = state.way(key.as_ref(), &topic, kind)?;
            state.hold(way);
            let number = state.outbox.producer();
            Ok(Self { handle: Arc::clone(handle), way, number, in_flight: 0 })
        })
    }

    /// Sends `payload` up to `count` times, as far as there is credit: how often it was sent. Waits for credit only
    /// where nothing of ours is under way, since else [`Self::outcomes`] is what to wait for.
    ///
    /// # Errors
    /// The client is closed, or the payload is too long.
    pub async fn fill(&mut self, payload: &[u8], count: u64) -> Result<u64, Error> {
        if count == 0 {
            return Ok(0);
        }
        let sent = poll_fn(|cx| -> Poll<Result<u64, Error>> {
            self.handle.shared.with(|state| {
                let sent = state.fill(self.way, Who::Producer(self.number), payload, count)?;
                if sent == 0 && self.in_flight == 0 {
                    state.outbox.wait_for_room(cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(sent))
            })
        });
        let sent = sent.await?;
        self.in_flight += sent;
        Ok(sent)
    }

    /// Sends one event, when there is credit for it.
    ///
    /// # Errors
    /// The client is closed, or the payload is too long.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        let sent = poll_fn(|cx| -> Poll<Result<(), Error>> {
            self.handle.shared.with(|state| {
                if state.fill(self.way, Who::Producer(self.number), payload, 1)? == 0 {
                    state.outbox.wait_for_room(cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(()))
            })
        });
        sent.await?;
        self.in_flight += 1;
        Ok(())
    }

    /// What became of events since it was asked last; waits until something did. With nothing under way: nothing.
    ///
    /// # Errors
    /// The client ended, or does not know what became of them.
    pub async fn outcomes(&mut self) -> Result<Outcomes, Error> {
        if self.in_flight == 0 {
            return Ok(Outcomes::default());
        }
        let number = self.number;
        let outcomes =
            poll_fn(|cx| self.handle.shared.with(|state| state.outbox.poll_outcomes(number, cx)))
                .await;
        let outcomes = outcomes.inspect_err(|_| self.in_flight = 0)?;
        self.in_flight -= outcomes.stored + outcomes.spooled + outcomes.refused;
        Ok(outcomes)
    }

    /// How many are under way.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.in_flight
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.outbox.forget(number));
    }
}
