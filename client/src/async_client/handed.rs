//! What a durable group has handed to us and nobody has taken yet, and the settlements that are not answered.
//!
//! Invariant: a delivery and its settlements belong to one connection. When that is gone, what waited here was not ours
//! any more: it is dropped, and comes again to whoever is a member then. spec §8.3.4

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use spile_protocol::code::Code;
use spile_protocol::id::{self, SubscriptionId};
use spile_protocol::message::{self, Deliver, Outcome, Subscribe};
use spile_protocol::time::Instant;

use super::Error;
use super::consume::{Consume, Settled, Tally};
use super::error::Refusal;
use super::event::Block;
use super::inbox::{Names, block};
use super::outbox::register;
use super::slab::Slab;

/// One delivery: consecutive events of one key.
#[derive(Debug)]
pub(super) struct Run {
    /// The opening of the subscription it came on.
    pub(super) opening: u64,
    /// Its number in that.
    pub(super) delivery: u64,
    /// How often it was handed out.
    pub(super) attempt: u32,
    /// Dropped unsettled it is given back.
    pub(super) give_back: bool,
    pub(super) block: Block,
}

/// How far a membership is with its server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// SUBSCRIBE is on its way.
    Opening,
    /// Deliveries come.
    Open,
    /// The server can't serve it for a while; it is asked again then.
    Away { until: Instant },
    /// Nobody takes what comes; the server's END is awaited.
    Leaving,
    /// Nothing more comes.
    Ended(Option<Error>),
}

/// One membership of a group.
#[derive(Debug)]
pub(super) struct Handed {
    /// Which group; `None`: our own inbox.
    pub(super) group: Option<Arc<str>>,
    pub(super) options: Consume,
    state: State,
    /// Deliveries came once: from then on only what is final ends it.
    joined: bool,
    /// Which opening this is, of all this client ever made: what came on another is not settled here.
    pub(super) opening: u64,
    /// The names a delivery leaves out are those of the one before.
    last: Names,
    queue: VecDeque<Run>,
    /// By delivery, the settlements on their way, in the order they were sent and will be answered.
    waiting: HashMap<u64, VecDeque<usize>>,
    pub(super) tally: Tally,
    waker: Option<Waker>,
    /// Who waits until everything is answered.
    idle: Option<Waker>,
}

impl Handed {
    pub(super) fn new(group: Option<Arc<str>>, options: Consume, opening: u64) -> Self {
        Self {
            group,
            options,
            state: State::Opening,
            joined: false,
            opening,
            last: Names::default(),
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            tally: Tally::default(),
            waker: None,
            idle: None,
        }
    }

    /// Checks the name.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Some(group) = &self.group else { return Ok(()) };
        id::name(group)
            .map(|_| ())
            .map_err(|why| Error::setup("group", format!("{group:?}: {why}"), "correct the name"))
    }

    /// As it is said.
    pub(super) fn subscribe(&self, subscription: SubscriptionId) -> Subscribe<'_> {
        let Consume { max_events, max_bytes, events, bytes, give_back: _ } = self.options;
        let group = |name| message::Source::Group { name, max_events, max_bytes };
        let source = self.group.as_deref().map_or(message::Source::Inbox, group);
        Subscribe { subscription, source, events, bytes, live: true }
    }

    /// The server agreed.
    pub(super) fn opened(&mut self, wake: &mut Vec<Waker>) {
        if self.state == State::Opening {
            (self.state, self.joined) = (State::Open, true);
            wake.extend(self.waker.take());
        }
    }

    /// Nothing more comes.
    pub(super) fn ended(
        &mut self,
        why: Option<Error>,
        settles: &mut Settles,
        wake: &mut Vec<Waker>,
    ) {
        let unknown = why.clone().unwrap_or_else(|| Refusal::of(Code::UNKNOWN_OUTCOME).into());
        self.unanswered(&unknown, settles, wake);
        self.queue.clear();
        self.state = State::Ended(why);
        wake.extend(self.waker.take());
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Nobody takes what comes any more.
    pub(super) fn leave(&mut self) {
        self.state = State::Leaving;
        self.queue.clear();
    }

    pub(super) const fn has_left(&self) -> bool {
        matches!(self.state, State::Leaving)
    }

    /// The connection is gone: what it handed out is not ours any more, and whether what was settled counted is not known.
    pub(super) fn reconnected(
        &mut self,
        opening: u64,
        settles: &mut Settles,
        wake: &mut Vec<Waker>,
    ) {
        self.unanswered(&Refusal::of(Code::UNKNOWN_OUTCOME).into(), settles, wake);
        self.queue.clear();
        self.last = Names::default();
        self.opening = opening;
        self.state = State::Opening;
    }

    /// The server ended it and says that it may be asked again later; `false` where that is its caller's to decide.
    pub(super) fn suspended(
        &mut self,
        until: Instant,
        opening: u64,
        settles: &mut Settles,
        wake: &mut Vec<Waker>,
    ) -> bool {
        if self.joined {
            self.reconnected(opening, settles, wake);
            self.state = State::Away { until };
        }
        self.joined
    }

    /// When it is to be asked for again.
    pub(super) const fn due(&self) -> Option<Instant> {
        match self.state {
            State::Away { until } => Some(until),
            State::Opening | State::Open | State::Leaving | State::Ended(_) => None,
        }
    }

    /// It is asked for again.
    pub(super) fn asked_again(&mut self) {
        self.state = State::Opening;
    }

    fn unanswered(&mut self, why: &Error, settles: &mut Settles, wake: &mut Vec<Waker>) {
        for slot in self.waiting.drain().flat_map(|(_, slots)| slots) {
            self.tally.under_way = self.tally.under_way.saturating_sub(1);
            self.tally.unknown += 1;
            settles.answer(slot, Err(why.clone()), wake);
        }
        wake.extend(self.idle.take());
    }

    /// A delivery came.
    pub(super) fn delivered(
        &mut self,
        delivery: u64,
        deliver: &Deliver<'_>,
        wake: &mut Vec<Waker>,
    ) {
        if self.state != State::Open {
            return;
        }
        self.last.update(deliver);
        let block = block(deliver, &self.last);
        let (opening, attempt) = (self.opening, deliver.attempt);
        let give_back = self.options.give_back;
        self.queue.push_back(Run { opening, delivery, attempt, give_back, block });
        wake.extend(self.waker.take());
    }

    /// Is that answered? Of an inbox only *done* is. spec §8.3.3
    pub(super) fn answers(&self, outcome: Outcome) -> bool {
        self.group.is_some() || outcome == Outcome::Done
    }

    /// A settlement went out: its answer goes there.
    pub(super) fn sent(&mut self, delivery: u64, slot: usize) {
        self.tally.under_way += 1;
        self.waiting.entry(delivery).or_default().push_back(slot);
    }

    /// A settlement was answered. spec §8.3.3, §8.3.5
    pub(super) fn answered(
        &mut self,
        settle: &message::Settle<'_>,
        settles: &mut Settles,
        wake: &mut Vec<Waker>,
    ) {
        let Some(slots) = self.waiting.get_mut(&settle.delivery) else { return };
        let slot = slots.pop_front();
        if slots.is_empty() {
            self.waiting.remove(&settle.delivery);
        }
        let Some(slot) = slot else { return };
        self.tally.under_way = self.tally.under_way.saturating_sub(1);
        let settled = match settle.outcome {
            Outcome::Seen => Settled::TooLate,
            Outcome::Done | Outcome::Retry { .. } | Outcome::Reject => Settled::Durable,
        };
        match settled {
            Settled::Durable => self.tally.durable += 1,
            Settled::TooLate => self.tally.too_late += 1,
        }
        settles.answer(slot, Ok(settled), wake);
        if self.waiting.is_empty() {
            wake.extend(self.idle.take());
        }
    }

    /// A caller takes the next delivery.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Run, Error>>> {
        if let Some(run) = self.queue.pop_front() {
            return Poll::Ready(Some(Ok(run)));
        }
        match &mut self.state {
            State::Ended(why) => Poll::Ready(why.take().map(Err)),
            State::Leaving => Poll::Ready(None),
            State::Opening | State::Open | State::Away { .. } => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
        }
    }

    /// Waits until the server agreed or refused.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.state {
            State::Opening => {
                register(&mut self.waker, cx);
                Poll::Pending
            }
            State::Open | State::Away { .. } | State::Leaving | State::Ended(None) => {
                Poll::Ready(Ok(()))
            }
            State::Ended(Some(why)) => Poll::Ready(Err(why.clone())),
        }
    }

    /// Waits until nothing that was settled is unanswered.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_empty() {
            return Poll::Ready(());
        }
        register(&mut self.idle, cx);
        Poll::Pending
    }

    /// Does something wait to be taken?
    pub(super) fn is_ready(&self) -> bool {
        !self.queue.is_empty()
    }
}

/// The answers of settlements, each under a number until its caller has it or is gone.
#[derive(Debug, Default)]
pub(super) struct Settles(Slab<Answer>);

/// What a caller waits for.
#[derive(Debug, Default)]
struct Answer {
    answer: Option<Result<Settled, Error>>,
    forgotten: bool,
    waker: Option<Waker>,
}

impl Settles {
    /// A settlement goes out.
    pub(super) fn begin(&mut self) -> usize {
        self.0.insert(Answer::default())
    }

    fn answer(&mut self, slot: usize, answer: Result<Settled, Error>, wake: &mut Vec<Waker>) {
        let Some(waits) = self.0.get_mut(slot) else { return };
        if waits.forgotten {
            self.0.remove(slot);
            return;
        }
        wake.extend(waits.waker.take());
        waits.answer = Some(answer);
    }

    pub(super) fn poll(&mut self, slot: usize, cx: &Context<'_>) -> Poll<Result<Settled, Error>> {
        let Some(waits) = self.0.get_mut(slot) else { return Poll::Ready(Err(Error::Closed)) };
        match &waits.answer {
            Some(answer) => Poll::Ready(answer.clone()),
            None => {
                register(&mut waits.waker, cx);
                Poll::Pending
            }
        }
    }

    /// Nobody waits for it any more; the number stays taken until the answer came.
    pub(super) fn forget(&mut self, slot: usize) {
        let Some(waits) = self.0.get_mut(slot) else { return };
        if waits.answer.is_some() {
            self.0.remove(slot);
        } else {
            waits.forgotten = true;
        }
    }
}

#[cfg(test)]
mod tests;
