//! Deliveries of a merged subscription that the client got: which worker's each is, what of it is not settled, and which
//! settlements are not answered.
//!
//! The client's numbers are one row from 1 on; each worker numbers its own. Invariant: a group's delivery stays until it is
//! settled whole and every SETTLE of it was answered, by its worker or, where that is gone, by the edge with *seen*.

use std::collections::VecDeque;

use spile_protocol::message::{Outcome, Settle};

use crate::limits::UNANSWERED;

#[derive(Clone, Copy, Debug)]
struct One {
    place: usize,
    /// Its number at that worker.
    own: u64,
    /// Events that are not settled.
    left: u32,
    /// SETTLEs that were not answered.
    unanswered: u32,
    /// The worker has ended it, or is gone.
    ended: bool,
}

/// What was delivered, from `base` on.
#[derive(Debug)]
pub(super) struct Sent {
    base: u64,
    all: VecDeque<One>,
    /// Deliveries whose settlement did not count, and the client has not heard so.
    uncounted: VecDeque<u64>,
}

impl Default for Sent {
    fn default() -> Self {
        Self { base: 1, all: VecDeque::new(), uncounted: VecDeque::new() }
    }
}

impl Sent {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The client got a delivery.
    pub(super) fn push(&mut self, place: usize, own: u64, events: u32) {
        self.all.push_back(One { place, own, left: events, unanswered: 0, ended: false });
    }

    fn at(&mut self, delivery: u64) -> Option<&mut One> {
        let at = usize::try_from(delivery.checked_sub(self.base)?).ok()?;
        self.all.get_mut(at)
    }

    /// A settlement: whose delivery it is about, and its number there. `None`: it did not count, and the client will hear.
    pub(super) fn settle(&mut self, settle: &Settle<'_>) -> Option<(usize, u64)> {
        // spec §8.3.2: retry always settles all that is left.
        let all = settle.events == 0 || matches!(settle.outcome, Outcome::Retry { .. });
        let Some(one) = self.at(settle.delivery) else {
            self.did_not_count(settle.delivery);
            return None;
        };
        let counts = one.left > 0 && !one.ended;
        one.left = if all { 0 } else { one.left.saturating_sub(settle.events) };
        if counts {
            one.unanswered += 1;
            return Some((one.place, one.own));
        }
        self.did_not_count(settle.delivery);
        None
    }

    /// Is nothing left of the delivery behind this settlement?
    pub(super) fn finishes(&mut self, settle: &Settle<'_>) -> bool {
        let all = settle.events == 0 || matches!(settle.outcome, Outcome::Retry { .. });
        self.at(settle.delivery).is_some_and(|one| all || one.left <= settle.events)
    }

    fn did_not_count(&mut self, delivery: u64) {
        // Who settles so often what has ended, and never reads, hears of the first ones only.
        if self.uncounted.len() < UNANSWERED {
            self.uncounted.push_back(delivery);
        }
        self.forget();
    }

    /// All through `delivery` were seen: `tell` hears the last of each worker's, the highest last.
    pub(super) fn seen(&mut self, delivery: u64, mut tell: impl FnMut(usize, u64)) {
        while self.base <= delivery {
            let Some(one) = self.all.pop_front() else { break };
            self.base += 1;
            if !one.ended {
                tell(one.place, one.own);
            }
        }
    }

    /// The client's number of a worker's delivery.
    pub(super) fn number_of(&self, place: usize, own: u64) -> Option<u64> {
        let same = |one: &One| !one.ended && one.place == place && one.own == own;
        let at = self.all.iter().position(same)?;
        Some(self.base + u64::try_from(at).ok()?)
    }

    /// A settlement was answered.
    pub(super) fn answered(&mut self, delivery: u64) {
        if let Some(one) = self.at(delivery) {
            one.unanswered = one.unanswered.saturating_sub(1);
        }
        self.forget();
    }

    /// A worker is gone: what it handed out has ended. Of what was settled and not answered nothing is known.
    pub(super) fn lose(&mut self, place: usize) {
        let mut lost = Vec::new();
        for (one, number) in self.all.iter_mut().zip(self.base..) {
            if one.place == place && !one.ended {
                one.ended = true;
                lost.extend((0..std::mem::take(&mut one.unanswered)).map(|_| number));
            }
        }
        lost.into_iter().for_each(|number| self.did_not_count(number));
    }

    /// The first settlement the client has to hear of that it did not count.
    pub(super) fn uncounted(&self) -> Option<u64> {
        self.uncounted.front().copied()
    }

    pub(super) fn told_uncounted(&mut self) {
        self.uncounted.pop_front();
    }

    fn forget(&mut self) {
        while self.all.front().is_some_and(|one| one.left == 0 && one.unanswered == 0) {
            self.all.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spile_protocol::id::SubscriptionId;

    fn settle(delivery: u64, outcome: Outcome, events: u32) -> Settle<'static> {
        Settle { subscription: SubscriptionId(1), delivery, outcome, events, reason: "" }
    }

    const RETRY: Outcome = Outcome::Retry { after_ms: 0 };

    #[test]
    fn a_delivery_stays_until_all_of_it_is_settled_and_answered() {
        let mut sent = Sent::default();
        sent.push(0, 1, 3);
        sent.push(1, 1, 1);
        assert_eq!(sent.settle(&settle(2, Outcome::Done, 0)), Some((1, 1)));
        assert_eq!(sent.settle(&settle(1, Outcome::Done, 1)), Some((0, 1)));
        assert_eq!(sent.settle(&settle(1, RETRY, 0)), Some((0, 1)));
        assert_eq!(sent.settle(&settle(1, Outcome::Done, 0)), None, "nothing of it is left");
        assert_eq!(sent.uncounted(), Some(1));
        assert_eq!((sent.number_of(0, 1), sent.number_of(1, 1)), (Some(1), Some(2)));
        sent.answered(1);
        assert_eq!(sent.number_of(0, 1), Some(1));
        sent.answered(1);
        assert_eq!(sent.number_of(0, 1), None);
        sent.answered(2);
        assert_eq!(sent.len(), 0);
    }

    #[test]
    fn what_a_worker_that_is_gone_handed_out_does_not_count() {
        let mut sent = Sent::default();
        sent.push(0, 1, 1);
        sent.push(1, 1, 1);
        sent.settle(&settle(1, Outcome::Done, 0));
        sent.lose(0);
        assert_eq!(sent.uncounted(), Some(1));
        sent.told_uncounted();
        assert_eq!((sent.uncounted(), sent.len()), (None, 1));
        sent.lose(1);
        assert_eq!(sent.settle(&settle(2, RETRY, 0)), None, "it has ended");
        assert_eq!((sent.uncounted(), sent.len()), (Some(2), 0));
        // The same worker is back and counts from 1 again.
        sent.push(0, 1, 1);
        assert_eq!(sent.number_of(0, 1), Some(3));
        assert_eq!(sent.settle(&settle(3, Outcome::Done, 0)), Some((0, 1)));
    }

    #[test]
    fn each_worker_hears_of_its_last_one_that_was_seen() {
        let mut sent = Sent::default();
        for (place, own) in [(0, 1), (1, 1), (0, 2), (0, 3)] {
            sent.push(place, own, 1);
        }
        let mut last = [0; 2];
        sent.seen(3, |place, own| last[place] = own);
        assert_eq!((last, sent.len()), ([2, 1], 1));
    }
}
