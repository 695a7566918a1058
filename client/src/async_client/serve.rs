//! Serving: calls that come to us, and what we answer.
//!
//! An idle service is an entry in the client's state and no task; each call that is under way is one, as many at once as
//! the window says. Invariant: every call that is begun is answered once, also where its handler fails or is late.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spile_protocol::code::Code;
use spile_protocol::id::RequestId;
use spile_protocol::message::Trace;

use super::Error;
use super::client::Handle;
use super::error::Refusal;
use super::request::Reply;
use super::state::Shared;

/// A call to a service of ours.
#[derive(Debug)]
pub struct Call {
    /// The service, as we registered it.
    pub service: Arc<str>,
    /// What of it.
    pub method: String,
    /// What is asked.
    pub payload: Bytes,
    /// What the payload is; empty for not said.
    pub content_type: String,
    /// Who asks, `ROLE/NAME`, as the server knows it.
    pub caller: String,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// How long the answer is worth waiting for, from when it came; then the handler is dropped.
    pub remaining: Duration,
    pub(super) from: Came,
}

/// Which question of which connection it was.
#[derive(Clone, Debug)]
pub(super) struct Came {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
    pub(super) connection: u64,
    pub(super) request: RequestId,
}

/// Why a service does not do what was asked: its own answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotDone {
    /// A code of spec §11.1. One of the class *our side* says that the service is broken, which counts for its breaker.
    pub code: Code,
    /// For people.
    pub detail: String,
}

impl NotDone {
    /// Says why, in a code and in words.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl<E: std::error::Error> From<E> for NotDone {
    /// What a handler did not expect is its own failure.
    fn from(why: E) -> Self {
        Self::new(Code::INTERNAL, why.to_string())
    }
}

/// What a handler answers.
pub type Answer = Result<Reply, NotDone>;

pub(super) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Makes answers.
#[derive(Clone)]
pub(super) struct Handler(pub(super) Arc<dyn Fn(Call) -> Answering + Send + Sync>);

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

impl Call {
    /// Says a part of the answer now; the handler's own answer is the last part. Waits while much is to be sent.
    ///
    /// # Errors
    /// The connection the call came on is gone, or the part is longer than a frame.
    pub async fn part(&self, part: impl Into<Reply>) -> Result<(), Error> {
        let part = part.into();
        self.from.room().await;
        self.from.shared.with(|state| state.answer_part(&self.from, &part))
    }
}

impl Came {
    async fn room(&self) {
        poll_fn(|cx| self.shared.with(|state| state.poll_said(cx))).await;
    }
}

/// A call that is begun, and how it is answered.
pub(super) struct Begun {
    pub(super) call: Call,
    pub(super) handler: Handler,
    pub(super) over: tokio_util::sync::CancellationToken,
}

impl Begun {
    /// Answers it; at its deadline, or when the client is over, the handler is dropped.
    pub(super) async fn run(self) {
        let Self { call, handler, over } = self;
        let (remaining, from) = (call.remaining, call.from.clone());
        let mut owed = Owed { from: Some(from.clone()) };
        let work = async {
            // The handler's own code runs here, behind no lock.
            let answer = tokio::time::timeout(remaining, (handler.0)(call)).await;
            let late = |_| Err(NotDone::new(Code::TIMED_OUT, "the time of the call is over"));
            let answer = answer.unwrap_or_else(late);
            from.room().await;
            answer
        };
        if let Some(answer) = over.run_until_cancelled(work).await {
            owed.from = None;
            from.shared.with(|state| state.answer(&from, answer));
        }
    }
}

/// An answer that is due, also where the handler panics.
struct Owed {
    from: Option<Came>,
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(from) = self.from.take() {
            let failed = Err(NotDone::new(Code::INTERNAL, "the handler failed"));
            from.shared.with(|state| state.answer(&from, failed));
        }
    }
}

/// A service we serve. Dropped, it is served no more; what is under way is still answered.
#[derive(Debug)]
pub struct Serving {
    handle: Arc<Handle>,
    number: usize,
}

impl Serving {
    pub(super) async fn begin(
        handle: &Arc<Handle>,
        service: &str,
        window: u32,
        handler: Handler,
    ) -> Result<Self, Error> {
        let number = handle.shared.with(|state| state.serve(service, window, handler))?;
        let this = Self { handle: Arc::clone(handle), number };
        poll_fn(|cx| this.handle.shared.with(|state| state.poll_serving(number, cx))).await?;
        Ok(this)
    }

    /// Takes no more calls; done when all that were under way are answered.
    pub async fn stop(self) {
        let number = self.number;
        poll_fn(|cx| self.handle.shared.with(|state| state.poll_stopped(number, cx))).await;
    }

    /// Comes when it is over though nobody stopped it: the server takes it no more after a reconnect, or the client is
    /// closed.
    pub async fn ended(&self) -> Error {
        let number = self.number;
        poll_fn(|cx| self.handle.shared.with(|state| state.poll_serving_over(number, cx))).await
    }

    /// How many calls are under way.
    #[must_use]
    pub fn running(&self) -> u32 {
        let number = self.number;
        self.handle.shared.with(|state| state.running(number))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.stop_serving(number));
    }
}

/// The server does not take what we serve.
pub(super) fn not_taken(code: Code, detail: &str) -> Error {
    Refusal::of(code).detail(detail).into()
}
