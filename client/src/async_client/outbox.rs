//! Who waits for which number: the way from an ack back to those who published.
//!
//! ```text
//!  send ──▶ Waiting ── ack, refusal, end of the client ──▶ Done ── polled ──▶ free
//!              └──────── dropped ──▶ Abandoned ── ack ────────────────────────▲
//! ```
//!
//! The machine knows frames; this knows callers. Invariant: in a lane the flights are the numbers from `ended + 1` on,
//! in order, without a hole; each ends once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use spile_protocol::id::{self, Number, Version};
use spile_protocol::message::{Durability, Receipt};

use super::error::Refusal;
use super::slab::Slab;
use super::{Error, Position};

/// What an ack says of one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) number: Number,
    pub(super) version: Option<Version>,
    pub(super) position: Option<Position>,
    pub(super) durability: Durability,
    pub(super) maybe_twice: bool,
}

/// Who waits for a run of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// One caller, one number.
    Slot(usize),
    /// One that counts.
    Producer(usize),
}

#[derive(Debug)]
struct Flight {
    who: Who,
    count: u64,
}

#[derive(Debug)]
struct RefusedRun {
    first: u64,
    last: u64,
    refusal: Refusal,
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Done(Result<Outcome, Error>),
    Abandoned,
}

/// What became of what a producer published, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Synced in the worker's log.
    pub stored: u64,
    /// Synced in the edge's log.
    pub spooled: u64,
    /// Refused for good.
    pub refused: u64,
    /// Why, of the last one refused.
    pub refusal: Option<Refusal>,
}

impl Outcomes {
    fn is_empty(&self) -> bool {
        self.stored + self.spooled + self.refused == 0
    }
}

#[derive(Debug, Default)]
struct Counting {
    outcomes: Outcomes,
    failed: Option<Error>,
    waker: Option<Waker>,
    /// Runs of numbers in flight that name it.
    flights: u64,
    /// Nobody looks any more: it goes with the last of them.
    forgotten: bool,
}

/// A lane's numbers that have not ended.
#[derive(Debug, Default)]
struct Lane {
    worker: Arc<str>,
    ended: u64,
    /// Numbers through this one were in flight when the run was lost.
    doubtful: u64,
    flight: VecDeque<Flight>,
    /// How many numbers the flights have together.
    waiting: u64,
    refused: VecDeque<RefusedRun>,
}

/// All lanes, and who waits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lanes: Vec<Lane>,
    slots: Slab<Slot>,
    producers: Slab<Counting>,
    waiting_for_room: Vec<Waker>,
    in_flight: u64,
}

/// What of a run of numbers is the same.
#[derive(Debug)]
enum Ended<'a> {
    Acked { receipt: Option<(Version, id::Position)>, durability: Durability },
    Refused(&'a Refusal),
}

impl Outbox {
    /// The lane of that number, made where it is missing: numbers are given out one after the other, below the wire's cap.
    fn lane(&mut self, lane: usize) -> Option<&mut Lane> {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        self.lanes.get_mut(lane)
    }

    /// A caller that waits for one number: where it finds its outcome.
    pub(super) fn slot(&mut self) -> usize {
        self.slots.insert(Slot::Waiting(None))
    }

    /// One that counts.
    pub(super) fn producer(&mut self) -> usize {
        self.producers.insert(Counting::default())
    }

    /// The next numbers of a lane were given out.
    pub(super) fn sent(&mut self, lane: usize, who: Who, count: u64) {
        self.in_flight += count;
        let Some(lane) = self.lane(lane) else { return };
        lane.waiting += count;
        match lane.flight.back_mut() {
            Some(last) if last.who == who => last.count += count,
            Some(_) | None => {
                lane.flight.push_back(Flight { who, count });
                if let Who::Producer(producer) = who
                    && let Some(counting) = self.producers.get_mut(producer)
                {
                    counting.flights += 1;
                }
            }
        }
    }

    /// The lane's worker, as its answer named it.
    pub(super) fn opened(&mut self, lane: usize, worker: &str) {
        if let Some(lane) = self.lane(lane)
            && *lane.worker != *worker
            && !worker.is_empty()
        {
            lane.worker = worker.into();
        }
    }

    /// Numbers were refused for good; they end with the ack that passes them.
    pub(super) fn refused(&mut self, lane: usize, first: Number, count: u64, refusal: Refusal) {
        let Some(lane) = self.lane(lane) else { return };
        let last = first.0.saturating_add(count.saturating_sub(1));
        if last > lane.ended {
            lane.refused.push_back(RefusedRun { first: first.0, last, refusal });
        }
    }

    /// Everything through a number has ended.
    pub(super) fn acked(
        &mut self,
        lane: usize,
        through: Number,
        durability: Durability,
        receipts: impl Iterator<Item = Receipt>,
        wake: &mut Vec<Waker>,
    ) {
        let mut receipts = receipts.peekable();
        while let Some((who, first, limit)) = self.oldest(lane, through) {
            while receipts.next_if(|run| run_end(run) < first).is_some() {}
            let (count, receipt) = covered(receipts.peek(), first, limit);
            let (count, refusal) = self.refusal(lane, first, count);
            match &refusal {
                Some(refusal) => self.end(lane, who, first, count, &Ended::Refused(refusal), wake),
                None => {
                    self.end(lane, who, first, count, &Ended::Acked { receipt, durability }, wake)
                }
            }
        }
        wake.append(&mut self.waiting_for_room);
    }

    /// The oldest flight of a lane that an ack through that number ends: who, its first number, how many.
    fn oldest(&mut self, lane: usize, through: Number) -> Option<(Who, u64, u64)> {
        let lane = self.lanes.get(lane)?;
        let flight = lane.flight.front()?;
        let acked = through.0.checked_sub(lane.ended).filter(|acked| *acked > 0)?;
        Some((flight.who, lane.ended + 1, flight.count.min(acked)))
    }

    /// How many numbers from `first` on share one fate, and the refusal where that is it.
    fn refusal(&mut self, lane: usize, first: u64, count: u64) -> (u64, Option<Refusal>) {
        let Some(lane) = self.lanes.get_mut(lane) else { return (count, None) };
        while lane.refused.front().is_some_and(|run| run.last < first) {
            lane.refused.pop_front();
        }
        match lane.refused.front() {
            Some(run) if run.first <= first => {
                (count.min(run.last - first + 1), Some(run.refusal.clone()))
            }
            Some(run) => (count.min(run.first - first), None),
            None => (count, None),
        }
    }

    fn end(
        &mut self,
        lane: usize,
        who: Who,
        first: u64,
        count: u64,
        ended: &Ended<'_>,
        wake: &mut Vec<Waker>,
    ) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        lane.ended += count;
        lane.waiting -= count.min(lane.waiting);
        self.in_flight -= count.min(self.in_flight);
        let whole = lane.flight.front_mut().is_some_and(|flight| {
            flight.count -= count.min(flight.count);
            flight.count == 0
        });
        if whole {
            lane.flight.pop_front();
        }
        match who {
            Who::Slot(slot) => {
                let outcome = outcome(&lane.worker, first, first <= lane.doubtful, ended);
                self.settle(slot, outcome, wake);
            }
            Who::Producer(producer) => {
                self.count(producer, count, ended, wake);
                if whole {
                    self.flight_ended(producer);
                }
            }
        }
    }

    fn settle(&mut self, slot: usize, outcome: Result<Outcome, Error>, wake: &mut Vec<Waker>) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        match std::mem::replace(place, Slot::Done(outcome)) {
            Slot::Waiting(waker) => wake.extend(waker),
            Slot::Done(_) => {}
            Slot::Abandoned => {
                self.slots.remove(slot);
            }
        }
    }

    fn count(&mut self, producer: usize, count: u64, ended: &Ended<'_>, wake: &mut Vec<Waker>) {
        let Some(counting) = self.producers.get_mut(producer) else { return };
        match ended {
            Ended::Acked { durability: Durability::Spooled, .. } => {
                counting.outcomes.spooled += count
            }
            Ended::Acked { durability: Durability::Stored | Durability::Replicated, .. } => {
                counting.outcomes.stored += count;
            }
            Ended::Refused(refusal) => {
                counting.outcomes.refused += count;
                counting.outcomes.refusal = Some((*refusal).clone());
            }
        }
        wake.extend(counting.waker.take());
    }

    fn flight_ended(&mut self, producer: usize) {
        let Some(counting) = self.producers.get_mut(producer) else { return };
        counting.flights -= counting.flights.min(1);
        if counting.forgotten && counting.flights == 0 {
            self.producers.remove(producer);
        }
    }

    /// Nobody will ever hear of what is in flight: everyone who waits is told why.
    pub(super) fn fail(&mut self, error: &Error, wake: &mut Vec<Waker>) {
        for lane in 0..self.lanes.len() {
            self.fail_lane(lane, 0, error, wake);
        }
        wake.append(&mut self.waiting_for_room);
    }

    /// The same for one lane. Its numbers end, but for the last `unused` ones, which the machine never gave out.
    pub(super) fn fail_lane(
        &mut self,
        lane: usize,
        unused: u64,
        error: &Error,
        wake: &mut Vec<Waker>,
    ) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let given = std::mem::take(&mut lane.waiting);
        lane.ended += given.saturating_sub(unused);
        for flight in std::mem::take(&mut lane.flight) {
            self.in_flight -= flight.count.min(self.in_flight);
            match flight.who {
                Who::Slot(slot) => self.settle(slot, Err(error.clone()), wake),
                Who::Producer(producer) => {
                    if let Some(counting) = self.producers.get_mut(producer) {
                        counting.failed = Some(error.clone());
                        wake.extend(counting.waker.take());
                    }
                    self.flight_ended(producer);
                }
            }
        }
    }

    /// A caller looks for its outcome; once found the place is free.
    pub(super) fn poll_slot(
        &mut self,
        slot: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Outcome, Error>> {
        match self.slots.get_mut(slot) {
            Some(Slot::Waiting(waker)) => {
                register(waker, cx);
                Poll::Pending
            }
            Some(Slot::Done(_)) => match self.slots.remove(slot) {
                Some(Slot::Done(outcome)) => Poll::Ready(outcome),
                Some(Slot::Waiting(_) | Slot::Abandoned) | None => Poll::Ready(Err(Error::Closed)),
            },
            Some(Slot::Abandoned) | None => Poll::Ready(Err(Error::Closed)),
        }
    }

    /// A caller went away; the event is on its way all the same.
    pub(super) fn abandon(&mut self, slot: usize) {
        match self.slots.get_mut(slot) {
            Some(place @ Slot::Waiting(_)) => *place = Slot::Abandoned,
            Some(Slot::Done(_)) => {
                self.slots.remove(slot);
            }
            Some(Slot::Abandoned) | None => {}
        }
    }

    /// A producer takes what was counted since it looked last.
    pub(super) fn poll_outcomes(
        &mut self,
        producer: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Outcomes, Error>> {
        let Some(counting) = self.producers.get_mut(producer) else {
            return Poll::Ready(Err(Error::Closed));
        };
        if !counting.outcomes.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut counting.outcomes)));
        }
        if let Some(error) = counting.failed.take() {
            return Poll::Ready(Err(error));
        }
        register(&mut counting.waker, cx);
        Poll::Pending
    }

    /// A producer went away; acks of what it sent go nowhere.
    pub(super) fn forget(&mut self, producer: usize) {
        let Some(counting) = self.producers.get_mut(producer) else { return };
        counting.forgotten = true;
        if counting.flights == 0 {
            self.producers.remove(producer);
        }
    }

    /// Somebody waits until more may be sent.
    pub(super) fn wait_for_room(&mut self, cx: &mut Context<'_>) {
        if !self.waiting_for_room.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting_for_room.push(cx.waker().clone());
        }
    }

    /// More may be sent.
    pub(super) fn room(&mut self, wake: &mut Vec<Waker>) {
        wake.append(&mut self.waiting_for_room);
    }

    /// How many of a lane's have not.
    pub(super) fn in_flight_of(&self, lane: usize) -> u64 {
        self.lanes.get(lane).map_or(0, |lane| lane.waiting)
    }

    /// The last number of a lane that has ended.
    pub(super) fn ended(&self, lane: usize) -> u64 {
        self.lanes.get(lane).map_or(0, |lane| lane.ended)
    }

    /// Has a lane nothing in flight?
    pub(super) fn is_idle(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_none_or(|lane| lane.flight.is_empty())
    }

    /// The run is a new one: what is in flight is numbered anew from 1 on, and may come twice. spec §5.7.3
    pub(super) fn renumber(&mut self) {
        for lane in &mut self.lanes {
            lane.ended = 0;
            lane.doubtful = lane.waiting;
            lane.refused.clear();
        }
    }

    /// The lane carries another key; only while nothing of it is in flight.
    pub(super) fn rekey(&mut self, lane: usize, ended: u64) {
        if let Some(lane) = self.lane(lane) {
            *lane = Lane { ended, ..Lane::default() };
        }
    }
}

/// Keeps who is to be woken.
pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

fn run_end(run: &Receipt) -> u64 {
    run.number.0.saturating_add(u64::from(run.count).saturating_sub(1))
}

/// How many of `limit` numbers from `first` on one receipt covers, or none does, and the first one's version and place.
fn covered(
    run: Option<&Receipt>,
    first: u64,
    limit: u64,
) -> (u64, Option<(Version, id::Position)>) {
    match run {
        Some(run) if run.number.0 <= first => {
            let past = first - run.number.0;
            let version = Version(run.version.0.saturating_add(past));
            let position = id::Position(run.position.0.saturating_add(past));
            (limit.min(run_end(run) - first + 1), Some((version, position)))
        }
        Some(run) => (limit.min(run.number.0 - first), None),
        None => (limit, None),
    }
}

fn outcome(
    worker: &Arc<str>,
    number: u64,
    maybe_twice: bool,
    ended: &Ended<'_>,
) -> Result<Outcome, Error> {
    match ended {
        Ended::Acked { receipt, durability } => Ok(Outcome {
            number: Number(number),
            version: receipt.map(|(version, _)| version),
            position: receipt.map(|(_, number)| Position { worker: Arc::clone(worker), number }),
            durability: *durability,
            maybe_twice,
        }),
        Ended::Refused(refusal) => Err(Error::Refused((*refusal).clone())),
    }
}

#[cfg(test)]
mod tests;
