//! How a session is told from outside to go: one code, set once, and the task that waits for it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU16, Ordering},
};
use std::task::{Context, Poll, Waker};

use spile_protocol::code::Code;

/// Shared between a session's task and those who may end it. The first code counts.
#[derive(Debug, Default)]
pub struct Signal {
    code: AtomicU16,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// Ends the session with `code`.
    pub fn end(&self, code: Code) {
        let first = self.code.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok()
            && let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waker.wake();
        }
    }

    /// Why the session must end, if it must.
    #[must_use]
    pub fn ended(&self) -> Option<Code> {
        match self.code.load(Ordering::Acquire) {
            0 => None,
            code => Some(Code(code)),
        }
    }

    /// Ready when the session must end.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Code> {
        if let Some(code) = self.ended() {
            return Poll::Ready(code);
        }
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        // The code may have come between the look and the waker.
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_code_wakes_and_counts() {
        let signal = std::sync::Arc::new(Signal::default());
        let waits = tokio::task::JoinSet::from_iter([{
            let signal = std::sync::Arc::clone(&signal);
            async move { std::future::poll_fn(|cx| signal.poll_ended(cx)).await }
        }]);
        tokio::task::yield_now().await;
        signal.end(Code::REVOKED);
        signal.end(Code::SHUTDOWN);
        assert_eq!(waits.join_all().await, [Code::REVOKED]);
    }
}
