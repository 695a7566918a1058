//! How a session that sleeps is woken: rung by whoever has something for it, heard by its own task.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    task::{Context, Waker},
};

use spile_protocol::code::Code;

/// One session's bell. Ringing twice before it is heard is ringing once.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    /// The position at which [`Tide`](crate::tide::Tide) rings it; 0 for none.
    pub(crate) awaits: AtomicU64,
    gone: AtomicU16,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// There is something for the session.
    pub(crate) fn ring(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The session must go; the first reason counts.
    pub(crate) fn send_away(&self, code: Code) {
        if self.gone.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.ring();
        }
    }

    /// Why the session must go.
    #[must_use]
    pub(crate) fn gone(&self) -> Option<Code> {
        Some(self.gone.load(Ordering::Acquire)).filter(|&code| code != 0).map(Code)
    }

    #[cfg(test)]
    pub(crate) fn take_rung(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Was it rung since this was last asked? Where not, whoever asks is woken when it is.
    pub(crate) fn heard(&self, cx: &mut Context<'_>) -> bool {
        if self.rung.swap(false, Ordering::AcqRel) {
            return true;
        }
        {
            let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *waker {
                Some(known) if known.will_wake(cx.waker()) => {}
                other => *other = Some(cx.waker().clone()),
            }
        }
        // Rung between the two looks: the waker may not have been there yet.
        self.rung.swap(false, Ordering::AcqRel)
    }
}
