//! Calls: a question, and the parts of its answer put together.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use spile_protocol::code::Code;

use super::Error;
use super::client::Handle;
use super::error::Refusal;
use super::outbox::register;

/// The longest answer that is put together: larger things are blobs.
const ANSWER: usize = 16 << 20;

/// A service's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What the payload is; empty for not said.
    pub content_type: String,
    /// The payload.
    pub payload: Bytes,
}

/// A call that is under way.
#[derive(Debug, Default)]
pub(super) struct Asked {
    parts: BytesMut,
    content_type: String,
    outcome: Option<Result<(), Error>>,
    waker: Option<Waker>,
    forgotten: bool,
}

impl Asked {
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
            return self.failed(Refusal::of(code).detail(detail).into(), wake);
        }
        if self.forgotten {
            return;
        }
        if self.parts.len() + payload.len() > ANSWER {
            let refusal = Refusal::of(Code::TOO_LARGE).detail("the answer is longer than 16 MiB");
            return self.failed(refusal.into(), wake);
        }
        self.parts.extend_from_slice(payload);
        content_type.clone_into(&mut self.content_type);
        if !more {
            self.outcome.get_or_insert(Ok(()));
            wake.extend(self.waker.take());
        }
    }

    /// No answer comes.
    pub(super) fn failed(&mut self, why: Error, wake: &mut Vec<Waker>) {
        self.outcome.get_or_insert(Err(why));
        wake.extend(self.waker.take());
    }

    /// Nobody waits any more: may its number be used again, since no answer is to come?
    pub(super) const fn forget(&mut self) -> bool {
        self.forgotten = true;
        self.outcome.is_some()
    }

    pub(super) const fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Error>> {
        match &self.outcome {
            None => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
            Some(Err(why)) => Poll::Ready(Err(why.clone())),
            Some(Ok(())) => Poll::Ready(Ok(Reply {
                content_type: std::mem::take(&mut self.content_type),
                payload: std::mem::take(&mut self.parts).freeze(),
            })),
        }
    }
}

/// Forgets the question when nobody waits for its answer any more.
struct Question<'a> {
    handle: &'a Arc<Handle>,
    number: usize,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.forget_call(number));
    }
}

pub(super) async fn call(
    handle: &Arc<Handle>,
    service: &str,
    method: &str,
    payload: &[u8],
    wait: Duration,
) -> Result<Reply, Error> {
    let number = handle.shared.with(|state| state.call(service, method, payload, wait))?;
    let question = Question { handle, number };
    let answer = poll_fn(|cx| {
        question.handle.shared.with(|state| match state.asked(number) {
            Some(asked) => asked.poll(cx),
            None => Poll::Ready(Err(Error::Closed)),
        })
    });
    tokio::time::timeout(wait, answer)
        .await
        .unwrap_or_else(|_| Err(Refusal::of(Code::TIMED_OUT).into()))
}
