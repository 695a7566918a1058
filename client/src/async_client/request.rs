//! Calls: a question, and its answer, whole or part by part.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use spile_protocol::code::Code;
use spile_protocol::message::Trace;
use tokio::time::Sleep;

use super::Error;
use super::client::Handle;
use super::error::Refusal;
use super::outbox::register;

/// The longest answer that waits to be taken: larger things are blobs.
const ANSWER: usize = 16 << 20;
/// How long an answer is worth waiting for where nothing is said.
const WITHIN: Duration = Duration::from_secs(10);

/// A service's answer, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What the payload is; empty for not said.
    pub content_type: String,
    /// The payload.
    pub payload: Bytes,
}

impl Reply {
    /// Says what the payload is.
    #[must_use]
    pub fn content_type(self, content_type: &str) -> Self {
        Self { content_type: content_type.to_owned(), ..self }
    }
}

impl<T: Into<Bytes>> From<T> for Reply {
    fn from(payload: T) -> Self {
        Self { content_type: String::new(), payload: payload.into() }
    }
}

/// A call that is to be made.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before `send` or `parts`"]
pub struct Ask {
    handle: Arc<Handle>,
    pub(super) service: String,
    pub(super) method: String,
    pub(super) payload: Bytes,
    pub(super) content_type: String,
    pub(super) idempotent: bool,
    pub(super) trace: Option<Trace>,
    pub(super) within: Duration,
}

impl Ask {
    pub(super) fn new(handle: &Arc<Handle>, service: &str, method: &str) -> Self {
        Self {
            handle: Arc::clone(handle),
            service: service.to_owned(),
            method: method.to_owned(),
            payload: Bytes::new(),
            content_type: String::new(),
            idempotent: false,
            trace: None,
            within: WITHIN,
        }
    }

    /// What is asked.
    pub fn payload(self, payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    /// What the payload is.
    pub fn content_type(self, content_type: &str) -> Self {
        Self { content_type: content_type.to_owned(), ..self }
    }

    /// It may be done twice: where it is not known whether it was done, another member is asked.
    pub fn idempotent(self, idempotent: bool) -> Self {
        Self { idempotent, ..self }
    }

    /// The trace it belongs to.
    pub fn trace(self, trace: Trace) -> Self {
        Self { trace: Some(trace), ..self }
    }

    /// How long the answer is worth waiting for: 10 seconds where nothing is said.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// The service said no, nobody answered in time, or it is not known whether it was done:
    /// [`Error::retry_after`] says whether the same may be asked again.
    pub async fn send(self) -> Result<Reply, Error> {
        let mut parts = self.parts()?;
        let (mut content_type, mut whole) = (String::new(), BytesMut::new());
        let mut first = None;
        while let Some(part) = parts.next().await {
            let part = part?;
            content_type = part.content_type;
            match &first {
                // Mostly there is one: it is not copied.
                None => first = Some(part.payload),
                Some(_) if whole.len() + part.payload.len() > ANSWER => {
                    let refusal = Refusal::of(Code::TOO_LARGE);
                    return Err(refusal.detail("the answer is longer than 16 MiB").into());
                }
                Some(_) => whole.extend_from_slice(&part.payload),
            }
        }
        let first = first.unwrap_or_default();
        if whole.is_empty() {
            return Ok(Reply { content_type, payload: first });
        }
        let mut joined = BytesMut::with_capacity(first.len() + whole.len());
        joined.extend_from_slice(&first);
        joined.extend_from_slice(&whole);
        Ok(Reply { content_type, payload: joined.freeze() })
    }

    /// Asks; the parts of the answer come as the service says them.
    ///
    /// # Errors
    /// It was not asked: a name is not one, or there is no connection.
    pub fn parts(self) -> Result<Parts, Error> {
        let number = self.handle.shared.with(|state| state.call(&self))?;
        let timer = Box::pin(tokio::time::sleep(self.within));
        let (handle, idempotent) = (self.handle, self.idempotent);
        Ok(Parts { handle, number, timer, idempotent, over: false })
    }
}

/// An answer as it comes. Dropped, the rest is not waited for.
#[derive(Debug)]
pub struct Parts {
    handle: Arc<Handle>,
    number: usize,
    timer: std::pin::Pin<Box<Sleep>>,
    idempotent: bool,
    over: bool,
}

impl Parts {
    /// The next part; `None` behind the last.
    pub async fn next(&mut self) -> Option<Result<Reply, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Has all of the answer come that there is?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let number = self.number;
        self.handle.shared.with(|state| state.asked(number).is_some_and(|asked| asked.is_whole()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Reply, Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let number = self.number;
        let next = self.handle.shared.with(|state| match state.asked(number) {
            Some(asked) => asked.poll(cx),
            None => Poll::Ready(Some(Err(Error::Closed))),
        });
        let next = match next {
            Poll::Pending if std::future::Future::poll(self.timer.as_mut(), cx).is_ready() => {
                Poll::Ready(Some(Err(not_done(Code::TIMED_OUT, self.idempotent).into())))
            }
            ready @ Poll::Ready(_) => ready,
            Poll::Pending => Poll::Pending,
        };
        self.over = matches!(next, Poll::Ready(None | Some(Err(_))));
        next
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.forget_call(number));
    }
}

/// Why a call was not done, and whether the same may be asked again.
fn not_done(code: Code, idempotent: bool) -> Refusal {
    Refusal::of(code).after_ms(code.retry_of_call(idempotent), 0)
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct Asked {
    parts: VecDeque<Reply>,
    bytes: usize,
    idempotent: bool,
    outcome: Option<Result<(), Error>>,
    waker: Option<Waker>,
    forgotten: bool,
}

impl Asked {
    pub(super) const fn new(idempotent: bool) -> Self {
        Self {
            parts: VecDeque::new(),
            bytes: 0,
            idempotent,
            outcome: None,
            waker: None,
            forgotten: false,
        }
    }

    /// A part of the answer came.
    pub(super) fn answered(
        &mut self,
        code: Code,
        detail: &str,
        (content_type, payload): (&str, &[u8]),
        more: bool,
        wake: &mut Vec<Waker>,
    ) {
        if code != Code(0) {
            let refusal = not_done(code, self.idempotent).detail(detail);
            return self.failed(refusal.into(), wake);
        }
        if self.forgotten || self.outcome.is_some() {
            return;
        }
        if self.bytes + payload.len() > ANSWER {
            let refusal = Refusal::of(Code::TOO_LARGE).detail("the answer is longer than 16 MiB");
            return self.failed(refusal.into(), wake);
        }
        if !payload.is_empty() || !more {
            self.bytes += payload.len();
            let (content_type, payload) =
                (content_type.to_owned(), Bytes::copy_from_slice(payload));
            self.parts.push_back(Reply { content_type, payload });
        }
        if !more {
            self.outcome = Some(Ok(()));
        }
        wake.extend(self.waker.take());
    }

    /// No answer comes.
    pub(super) fn failed(&mut self, why: Error, wake: &mut Vec<Waker>) {
        self.outcome.get_or_insert(Err(why));
        wake.extend(self.waker.take());
    }

    /// The connection is gone, and with it the answer.
    pub(super) fn cut(&mut self, why: &str, wake: &mut Vec<Waker>) {
        let refusal = not_done(Code::UNKNOWN_OUTCOME, self.idempotent).detail(why);
        self.failed(refusal.into(), wake);
    }

    /// Nobody waits any more: may its number be used again, since no answer is to come?
    pub(super) fn forget(&mut self) -> bool {
        self.forgotten = true;
        self.parts = VecDeque::new();
        self.outcome.is_some()
    }

    /// Does somebody wait for an answer that may still come?
    pub(super) const fn is_awaited(&self) -> bool {
        self.outcome.is_none() && !self.forgotten
    }

    pub(super) const fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    fn is_whole(&self) -> bool {
        self.parts.is_empty() && self.outcome == Some(Ok(()))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Reply, Error>>> {
        if let Some(part) = self.parts.pop_front() {
            self.bytes -= part.payload.len();
            return Poll::Ready(Some(Ok(part)));
        }
        match &self.outcome {
            None => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
            Some(Err(why)) => Poll::Ready(Some(Err(why.clone()))),
            Some(Ok(())) => Poll::Ready(None),
        }
    }
}
