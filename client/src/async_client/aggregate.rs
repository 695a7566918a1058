//! Aggregates: a key's stream folded into a state, and events appended only to the state they were decided on.
//!
//! The invariant: what [`Aggregate::decide`] appends has an expected version, that of the state its closure saw; where another
//! writer was faster nothing is stored, the newer events are folded in, and it is decided anew.

use std::fmt;
use std::sync::Arc;

use spile_protocol::code::Code;
use spile_protocol::id::{self, Version};
use spile_protocol::message::Expect;

use super::event::{Delivery, Event, Receipt};
use super::inbox::Interest;
use super::{Client, Error};

/// How often it is decided anew, where nothing else is said.
const ATTEMPTS: u32 = 32;

/// A key's stream, folded.
pub struct Aggregate<T, F> {
    client: Client,
    key: Arc<str>,
    state: T,
    fold: F,
    version: Version,
    attempts: u32,
}

impl<T: fmt::Debug, F> fmt::Debug for Aggregate<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, state, version, .. } = self;
        f.debug_struct("Aggregate")
            .field("key", key)
            .field("state", state)
            .field("version", version)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Loads a key's stream: `fold` puts each of its events, in order, into the state, which begins as `empty`.
    ///
    /// ```no_run
    /// # async fn example(client: spile_client::Client) -> Result<(), spile_client::Error> {
    /// use spile_client::Event;
    ///
    /// let mut stock = client.aggregate("shelf-7", 0_i64, |stock, event| *stock += amount(&event.payload)).await?;
    /// // One is taken only where one is left, whoever else takes at the same time.
    /// let taken = stock.decide(|stock| (*stock > 0).then(|| Event::new("shelf/moved", "-1"))).await?;
    /// # fn amount(_: &[u8]) -> i64 { 0 }
    /// # drop(taken);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The key is not one, the server refused, or the client is closed.
    pub async fn aggregate<T, F: FnMut(&mut T, &Delivery)>(
        &self,
        key: &str,
        empty: T,
        fold: F,
    ) -> Result<Aggregate<T, F>, Error> {
        id::key(key).map_err(|why| Error::setup("key", format!("{key:?}: {why}"), "correct it"))?;
        let mut aggregate = Aggregate {
            client: self.clone(),
            key: key.into(),
            state: empty,
            fold,
            version: Version(0),
            attempts: ATTEMPTS,
        };
        aggregate.refresh().await?;
        Ok(aggregate)
    }
}

impl<T, F: FnMut(&mut T, &Delivery)> Aggregate<T, F> {
    /// Decides anew at most so often; then the refusal of the last attempt is the answer.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..self }
    }

    /// The state, as of [`Self::version`].
    pub const fn state(&self) -> &T {
        &self.state
    }

    /// The version of the last event in the state.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Folds in what was stored since.
    ///
    /// # Errors
    /// The server refused, or the client is closed; what was folded in by then stays.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        let next = Version(self.version.0.saturating_add(1));
        let interest = Interest::stream(Arc::clone(&self.key), next).live(false);
        let mut events = self.client.subscribe(interest).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            (self.fold)(&mut self.state, &event);
            self.version = event.version;
        }
        Ok(())
    }

    /// Asks `decide` for the event to append to the state as it is, and appends it under this key if that is still the
    /// newest; else folds in what is newer and asks again. `None`: there is nothing to append, and nothing was.
    ///
    /// Where the server had forgotten this client's run while the event was in flight, it may be stored already when it is
    /// asked again: the state then holds it.
    ///
    /// # Errors
    /// The server refused, also where others were faster each time (400 stale-version), or the client is closed.
    pub async fn decide(
        &mut self,
        mut decide: impl FnMut(&T) -> Option<Event>,
    ) -> Result<Option<Receipt>, Error> {
        let mut left = self.attempts;
        loop {
            let Some(event) = decide(&self.state) else { return Ok(None) };
            let event = event.key(Arc::clone(&self.key)).expect(Expect::Version(self.version));
            left -= 1;
            match self.client.publish(event).await {
                Ok(receipt) => {
                    self.refresh().await?;
                    return Ok(Some(receipt));
                }
                Err(error) if error.code() == Some(Code::STALE_VERSION) && left > 0 => {
                    self.refresh().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
