//! Whose turn it is: the sessions of a link that may have something to say, in the order they were woken.
//!
//! A link has up to 65,536 sessions; waking one costs its place in a queue, not a look at all others.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    woken: VecDeque<Arc<Turn>>,
    task: Option<Waker>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's place.
struct Turn {
    session: u32,
    waits: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        if self.waits.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.shared.clone();
        let mut queue = shared.queue();
        queue.woken.push_back(self);
        let task = queue.task.take();
        drop(queue);
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// The queue of a link.
#[derive(Default)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
    of: HashMap<u32, Arc<Turn>>,
}

impl Turns {
    /// The session may have something to say.
    pub(crate) fn add(&mut self, session: u32) {
        let Self { shared, of } = self;
        let turn = of.entry(session).or_insert_with(|| {
            let shared = shared.clone();
            Arc::new(Turn { session, waits: AtomicBool::new(false), shared })
        });
        turn.clone().wake();
    }

    /// The session is no more.
    pub(crate) fn remove(&mut self, session: u32) {
        self.of.remove(&session);
    }

    /// How many wait for their turn.
    pub(crate) fn len(&self) -> usize {
        self.shared.queue().woken.len()
    }

    /// Whose turn it is.
    pub(crate) fn next(&mut self) -> Option<u32> {
        loop {
            let turn = self.shared.queue().woken.pop_front()?;
            turn.waits.store(false, Ordering::Release);
            // One that was removed, or whose number is another session's now, has no turn.
            if self.of.get(&turn.session).is_some_and(|known| Arc::ptr_eq(known, &turn)) {
                return Some(turn.session);
            }
        }
    }

    /// Asks `ready` with a waker that gives the session its turn.
    pub(crate) fn wait(
        &self,
        session: u32,
        ready: impl FnOnce(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<()> {
        let Some(turn) = self.of.get(&session) else { return Poll::Pending };
        ready(&mut Context::from_waker(&Waker::from(turn.clone())))
    }

    /// Waits until it is somebody's turn.
    pub(crate) async fn ready(&self) {
        poll_fn(|cx| {
            let mut queue = self.shared.queue();
            if queue.woken.is_empty() {
                queue.task = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_the_order_of_waking_and_once() {
        let mut turns = Turns::default();
        for session in [3, 1, 3, 2, 1] {
            turns.add(session);
        }
        turns.remove(1);
        assert_eq!((turns.next(), turns.next(), turns.next()), (Some(3), Some(2), None));
        turns.add(3);
        turns.remove(3);
        // A new session of the same number does not inherit the turn.
        turns.add(3);
        assert_eq!((turns.next(), turns.next()), (Some(3), None));
    }

    #[test]
    fn a_session_that_waits_is_woken_alone() {
        let mut turns = Turns::default();
        turns.add(1);
        turns.add(2);
        assert_eq!((turns.next(), turns.next()), (Some(1), Some(2)));
        let mut waker = None;
        let waited = turns.wait(2, |cx| {
            waker = Some(cx.waker().clone());
            Poll::Pending
        });
        assert!(waited.is_pending() && turns.len() == 0);
        waker.unwrap().wake();
        assert_eq!((turns.next(), turns.next()), (Some(2), None));
    }
}
