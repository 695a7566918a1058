//! What one session has for another: calls for who serves, answers for who asked.
//!
//! One mailbox a session that calls or serves, behind its bell; a session that does neither has none. Invariant: its
//! bytes are bounded, and what it can't take is told to whoever brought it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use spile_protocol::{code::Code, id::RequestId};

use crate::{
    bell::Bell,
    limits::{MAILBOX_BYTES, MAILBOX_LETTERS},
};

/// Something one session has for another.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A call to be answered: its number.
    Call(u32),
    /// An answer, or a part of one.
    Reply(Box<Answer>),
    /// No answer comes.
    Fault { request: RequestId, code: Code, retry: bool, retry_after_ms: u32, detail: String },
}

/// An answer as the service gave it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) request: RequestId,
    pub(crate) code: Code,
    pub(crate) more: bool,
    pub(crate) content_type: Box<str>,
    pub(crate) detail: Box<str>,
    pub(crate) payload: Bytes,
    /// As it came: it is continued, not made again.
    pub(crate) payload_crc: u32,
}

impl Letter {
    /// About how many bytes of frames it takes to say it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Call(_) => 64,
            Self::Reply(answer) => {
                96 + answer.content_type.len() + answer.detail.len() + answer.payload.len()
            }
            Self::Fault { detail, .. } => 64 + detail.len(),
        }
    }
}

#[derive(Debug, Default)]
struct Letters {
    queue: VecDeque<Letter>,
    bytes: usize,
}

/// A session's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    bell: Arc<Bell>,
    letters: Mutex<Letters>,
    /// Calls handed to the session that it has not answered, of all services.
    pub(crate) serving: AtomicU32,
}

impl Mailbox {
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        Self { bell, letters: Mutex::default(), serving: AtomicU32::new(0) }
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a letter in, and rings; a part of an answer that does not fit comes back.
    pub(crate) fn put(&self, letter: Letter) -> Result<(), Letter> {
        let mut letters = self.letters();
        let is_answer = matches!(letter, Letter::Reply(_));
        let full = letters.queue.len() >= MAILBOX_LETTERS
            || letters.bytes.saturating_add(letter.size()) > MAILBOX_BYTES;
        // Calls and faults are bounded by windows and by open requests; one answer always goes.
        if is_answer && full && !letters.queue.is_empty() {
            return Err(letter);
        }
        letters.bytes = letters.bytes.saturating_add(letter.size());
        letters.queue.push_back(letter);
        drop(letters);
        self.bell.ring();
        Ok(())
    }

    /// The next letter.
    pub(crate) fn take(&self) -> Option<Letter> {
        let mut letters = self.letters();
        let letter = letters.queue.pop_front()?;
        letters.bytes = letters.bytes.saturating_sub(letter.size());
        if letters.queue.is_empty() {
            // A session that is idle holds no buffer.
            *letters = Letters::default();
        }
        Some(letter)
    }

    /// How long the next one is; nothing where there is none.
    pub(crate) fn next_size(&self) -> Option<usize> {
        self.letters().queue.front().map(Letter::size)
    }

    /// Must the session go? Then it takes no calls.
    pub(crate) fn is_gone(&self) -> bool {
        self.bell.gone().is_some()
    }

    pub(crate) fn serves(&self) -> u32 {
        self.serving.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Letter {
        let (request, code) = (RequestId(1), Code(0));
        let (content_type, detail) = (Box::default(), Box::default());
        let (payload, payload_crc) = (Bytes::from(vec![0; bytes]), 0);
        let answer =
            Answer { request, code, more: true, content_type, detail, payload, payload_crc };
        Letter::Reply(Box::new(answer))
    }

    #[test]
    fn what_waits_is_bounded_and_one_answer_always_goes() {
        let mail = Mailbox::new(Arc::default());
        assert!(mail.put(answer(MAILBOX_BYTES * 2)).is_ok(), "one goes, however long");
        assert!(mail.put(answer(1)).is_err());
        let fault = Letter::Fault {
            request: RequestId(1),
            code: Code::BUSY,
            retry: true,
            retry_after_ms: 0,
            detail: String::new(),
        };
        assert!(mail.put(fault).is_ok(), "that it failed can always be said");
        assert!(mail.take().is_some() && mail.take().is_some() && mail.take().is_none());
        assert!((0..MAILBOX_LETTERS).all(|_| mail.put(answer(0)).is_ok()));
        assert!(mail.put(answer(0)).is_err());
    }
}
