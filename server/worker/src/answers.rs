//! What a session will be told, in order, each once what it rests on is durable.
//!
//! One queue a session, not one an event: events that follow each other on a lane are one entry. The invariant: positions
//! in the queue never fall, so that the front is always the next that can be said.

use std::collections::VecDeque;

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, Position, RequestId, Version},
    message::{
        Ack, Durability, Fault, LaneAnswer, List, Message, OpenUpload, Receipt, Refused, Scope,
    },
};

use crate::{
    limits::{LIST_BYTES, RECEIPTS_OF_ACK, UPLOADS_TOLD},
    record::VoidTail,
    said::Said,
};

/// How messages leave: the message, and its payload's CRC.
pub type Sink<'s> = dyn FnMut(&Message<'_>, u32) + 's;

/// What is said.
#[derive(Debug)]
pub(crate) enum What {
    /// Numbers were stored.
    Stored { receipt: Receipt, wanted: bool },
    /// Numbers were stored or refused before: the lane's last number then.
    Seen(Number),
    /// Numbers were refused for good.
    Refused(VoidTail),
    /// The lane is open.
    Opened { first: Number, last: Number, refused: Vec<VoidTail> },
    /// The lane is closed.
    Closed { code: Code, expected: Number, retry_after_ms: u32 },
    /// Something that is not about a lane.
    Said(Box<Said>),
}

/// Something to be said, once the log is durable up to `gate`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) gate: u64,
    pub(crate) lane: LaneId,
    pub(crate) what: What,
}

/// What a lane was not told yet, of what is durable.
#[derive(Debug)]
struct Due {
    lane: LaneId,
    last: Number,
    receipts: Vec<Receipt>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    queue: VecDeque<Answer>,
    due: Vec<Due>,
}

impl Answers {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events that were stored and not acknowledged.
    pub(crate) fn in_flight(&self) -> u64 {
        let count = |answer: &Answer| match &answer.what {
            What::Stored { receipt, .. } => u64::from(receipt.count),
            What::Seen(_)
            | What::Refused(_)
            | What::Opened { .. }
            | What::Closed { .. }
            | What::Said(_) => 0,
        };
        self.queue.iter().map(count).sum()
    }

    /// May the front be said, when the log is durable up to `end`?
    pub(crate) fn ready(&self, end: u64) -> bool {
        self.queue.front().is_some_and(|answer| answer.gate <= end)
    }

    /// Up to where the log must be durable for the front to be said.
    pub(crate) fn gate(&self) -> Option<u64> {
        self.queue.front().map(|answer| answer.gate)
    }

    pub(crate) fn push(&mut self, gate: u64, lane: LaneId, what: What) {
        let gate = self.queue.back().map_or(gate, |last| last.gate.max(gate));
        self.queue.push_back(Answer { gate, lane, what });
    }

    /// Events were put in the call; with the ones before them they are one entry where they follow them.
    #[inline]
    pub(crate) fn stored(&mut self, gate: u64, lane: LaneId, receipt: Receipt, wanted: bool) {
        if let Some(Answer {
            gate: until,
            lane: of,
            what: What::Stored { receipt: run, wanted: all },
        }) = self.queue.back_mut()
            && *of == lane
            && *all == wanted
            && follows(run, &receipt)
        {
            (*until, run.count) = (gate, run.count.saturating_add(receipt.count));
            return;
        }
        self.push(gate, lane, What::Stored { receipt, wanted });
    }

    /// Takes out what rests on positions beyond `end`.
    pub(crate) fn lose(&mut self, end: u64) -> Vec<Answer> {
        let kept = self.queue.iter().take_while(|answer| answer.gate <= end).count();
        self.queue.drain(kept..).collect()
    }

    /// Says what rests on positions before `end`, as long as `room` bytes of frames last; the first goes however little
    /// room there is. How many bytes were said.
    pub(crate) fn emit(
        &mut self,
        end: u64,
        room: usize,
        to: Hearer<'_>,
        sink: &mut Sink<'_>,
    ) -> usize {
        let mut said = 0;
        while let Some(size) =
            self.queue.front().filter(|answer| answer.gate <= end).map(|answer| size(&answer.what))
            && (said == 0 || said + size <= room)
            && let Some(Answer { lane, what, .. }) = self.queue.pop_front()
        {
            said += size;
            self.one(lane, what, to, sink);
        }
        self.flush(sink);
        said
    }

    fn one(&mut self, lane: LaneId, what: What, to: Hearer<'_>, sink: &mut Sink<'_>) {
        match what {
            What::Stored { receipt, wanted } => {
                let last = Number(receipt.number.0.saturating_add(u64::from(receipt.count) - 1));
                self.note(lane, last, Some(receipt).filter(|_| wanted), sink);
            }
            What::Seen(last) => self.note(lane, last, None, sink),
            What::Refused(void) => {
                // spec §5.6.5: no ACK passes a refused number whose FAULT was not said.
                refuse(lane, &void, sink);
                self.note(lane, last_of(&void), None, sink);
            }
            What::Opened { first, last, refused } => {
                self.flush(sink);
                if let Some(last) = opened(lane, (first, last), &refused, to, sink) {
                    self.note(lane, last, None, sink);
                }
            }
            What::Closed { code, expected, retry_after_ms } => {
                self.flush(sink);
                let scope = Scope::Lane { lane, expected };
                fault(
                    &Fault { code, scope, retry: code.retry(), retry_after_ms, detail: "" },
                    sink,
                );
            }
            What::Said(message) => {
                self.flush(sink);
                message.say(sink);
            }
        }
    }

    fn note(&mut self, lane: LaneId, last: Number, receipt: Option<Receipt>, sink: &mut Sink<'_>) {
        let at = self.due.iter().position(|due| due.lane == lane);
        let due = match at.and_then(|at| self.due.get_mut(at)) {
            Some(due) => due,
            None => {
                self.due.push(Due { lane, last, receipts: Vec::new() });
                let Some(due) = self.due.last_mut() else { return };
                due
            }
        };
        due.last = due.last.max(last);
        due.receipts.extend(receipt);
        if due.receipts.len() >= RECEIPTS_OF_ACK {
            ack(due, sink);
        }
    }

    /// Says the acks that are due.
    fn flush(&mut self, sink: &mut Sink<'_>) {
        self.due.iter_mut().for_each(|due| ack(due, sink));
        self.due.clear();
    }
}

/// Who hears it, as far as that changes what is said.
#[derive(Clone, Copy)]
pub(crate) struct Hearer<'a> {
    /// The worker's name, as it is told.
    pub(crate) worker: &'a str,
    /// The longest frame body it takes.
    pub(crate) frame_max: usize,
    /// What of a lane's numbers was stored before it was opened again.
    pub(crate) stored: &'a dyn Fn(LaneId, Number, Number) -> Vec<Receipt>,
    /// How far its inbox is worked off.
    pub(crate) inbox: &'a dyn Fn() -> Version,
    /// What it has open.
    pub(crate) uploads: &'a dyn Fn() -> Vec<OpenUpload>,
}

/// About how many bytes of frames it takes to say it.
fn size(what: &What) -> usize {
    match what {
        What::Stored { wanted: false, .. } | What::Seen(_) => 20,
        What::Stored { wanted: true, .. } | What::Refused(_) | What::Closed { .. } => 48,
        What::Opened { refused, .. } => 128 + refused.len() * REFUSED_BYTES,
        What::Said(said) => said.size(),
    }
}

/// The most one receipt takes in a list.
const RECEIPT_BYTES: usize = 36;
/// The most one refused run takes in a list.
const REFUSED_BYTES: usize = 18;

fn last_of(void: &VoidTail) -> Number {
    Number(void.number.0.saturating_add(u64::from(void.count)).saturating_sub(1))
}

/// Receipts that follow each other as one.
fn coalesced(each: Vec<Receipt>) -> Vec<Receipt> {
    let mut runs: Vec<Receipt> = Vec::new();
    for next in each {
        match runs.last_mut() {
            Some(run) if follows(run, &next) => run.count = run.count.saturating_add(next.count),
            Some(_) | None => runs.push(next),
        }
    }
    runs
}

fn follows(run: &Receipt, next: &Receipt) -> bool {
    let count = u64::from(run.count);
    run.number.0.checked_add(count) == Some(next.number.0)
        && run.version.0.checked_add(count) == Some(next.version.0)
        && run.position.0.checked_add(count) == Some(next.position.0)
        && run.count <= u32::MAX / 2
}

fn ack(due: &mut Due, sink: &mut Sink<'_>) {
    let mut buffer = [0; 48 * RECEIPTS_OF_ACK];
    let receipts = List::encode(due.receipts.drain(..), &mut buffer).unwrap_or_default();
    let (durability, lane, last) = (Durability::Stored, due.lane, due.last);
    sink(&Message::Ack(Ack::Spelled { durability, lane, last, receipts }), 0);
}

fn fault(fault: &Fault<'_>, sink: &mut Sink<'_>) {
    sink(&Message::Fault(*fault), 0);
}

fn refuse(lane: LaneId, void: &VoidTail, sink: &mut Sink<'_>) {
    let VoidTail { number, count, code, version } = *void;
    let scope = Scope::Number { lane, number, count, version };
    fault(&Fault { code, scope, retry: false, retry_after_ms: 0, detail: "" }, sink);
}

/// Says that the lane is open, and what was refused on it. spec §5.1.3: what does not fit the client's frame follows as
/// FAULTs, and the ACK behind them, whose number is given back.
fn opened(
    lane: LaneId,
    (first, last): (Number, Number),
    refused: &[VoidTail],
    to: Hearer<'_>,
    sink: &mut Sink<'_>,
) -> Option<Number> {
    let mut buffer = [0; LIST_BYTES];
    let room = LIST_BYTES.min(to.frame_max.saturating_sub(128));
    let (named, later) = refused.split_at_checked(room / REFUSED_BYTES).unwrap_or((refused, &[]));
    let each = |&VoidTail { number, count, code, .. }: &VoidTail| Refused { number, count, code };
    let list = List::encode(named.iter().map(each), &mut buffer).unwrap_or_default();
    let told = later.first().map_or(last, |void| Number(void.number.0.saturating_sub(1)));
    let receipts = coalesced((to.stored)(lane, first, told));
    let mut more = [0; LIST_BYTES];
    let left = room.saturating_sub(named.len() * REFUSED_BYTES) / RECEIPT_BYTES;
    let newest = receipts.len().saturating_sub(left);
    let receipts = List::encode(receipts.into_iter().skip(newest), &mut more).unwrap_or_default();
    let mut open = [0; 32 * UPLOADS_TOLD];
    let uploads = if lane == LaneId(0) { (to.uploads)() } else { Vec::new() };
    let uploads = List::encode(uploads, &mut open).unwrap_or_default();
    let answer = LaneAnswer {
        lane,
        last: Some(told),
        worker: to.worker,
        refused: list,
        receipts,
        uploads,
        inbox: if lane == LaneId(0) { (to.inbox)() } else { Version(0) },
    };
    sink(&Message::LaneAnswer(answer), 0);
    later.iter().for_each(|void| refuse(lane, void, sink));
    Some(last).filter(|_| !later.is_empty())
}

/// Numbers of a lane from `number` on, as they will be stored.
pub(crate) fn receipt(number: u64, count: u32, version: u64, position: u64) -> Receipt {
    Receipt {
        number: Number(number),
        count,
        version: Version(version),
        position: Position(position),
    }
}

/// What a lost answer was about: a request that must be told, or a lane that is closed.
pub(crate) fn request_of(answer: &Answer) -> Option<RequestId> {
    match &answer.what {
        What::Said(said) => said.request(),
        What::Stored { .. }
        | What::Seen(_)
        | What::Refused(_)
        | What::Opened { .. }
        | What::Closed { .. } => None,
    }
}
