//! A subscription, as callers see it: blocks, or events one by one.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Error;
use super::client::Handle;
use super::event::{Block, Deliveries, Delivery};
use super::inbox::Interest;

/// Events as they come. Dropped, it ends.
#[derive(Debug)]
pub struct Subscription {
    handle: Arc<Handle>,
    number: usize,
    begun: Option<Deliveries>,
}

impl Subscription {
    pub(super) async fn open(handle: &Arc<Handle>, interest: Interest) -> Result<Self, Error> {
        let number = handle.shared.with(|state| state.subscribe(interest))?;
        // From here on a drop ends it, also while it waits.
        let this = Self { handle: Arc::clone(handle), number, begun: None };
        poll_fn(|cx| this.handle.shared.with(|state| state.poll_subscribed(number, cx))).await?;
        Ok(this)
    }

    /// The next consecutive events of one key, as they came; `None` when it is over. Not to be mixed with
    /// [`Self::next`] before that has told all events of a block.
    pub async fn next_block(&mut self) -> Option<Result<Block, Error>> {
        poll_fn(|cx| self.poll_block(cx)).await
    }

    /// The next event; `None` when it is over.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        super::client::next(self).await
    }

    /// Would the next be there at once?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let number = self.number;
        self.begun.is_some() || self.handle.shared.with(|state| state.is_ready(number))
    }

    fn poll_block(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Block, Error>>> {
        let number = self.number;
        self.handle.shared.with(|state| state.poll_block(number, cx))
    }
}

impl Stream for Subscription {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(delivery) = self.begun.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(Ok(delivery)));
            }
            self.begun = None;
            match self.poll_block(cx) {
                Poll::Ready(Some(Ok(block))) => self.begun = Some(block.deliveries()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.unsubscribe(number));
    }
}
