//! One session's part in a group: what it was handed and has not settled, within its window. spec §8.1 source 2, §8.3
//!
//! The invariant: a settlement is answered once its record is durable, in the order in which they came; one for a delivery
//! that has ended, or of an epoch that is over, is answered *seen* (spec §8.3.5).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use spile_log::Record;
use spile_protocol::{
    code::Code,
    id::{Position, SubscriptionId, Version},
    limits,
    message::{Deliver, Extras, Lengths, Message, Outcome, Scope, Trace},
    time::Millis,
};

use crate::{
    answers::Sink,
    bell::Bell,
    block::{how_many, part, place},
    groups::{
        keys::Out,
        live::{Live, Seat, Stored},
        outcome::Failed,
        shared::Shared,
        view::Name,
    },
    joined::{Joined, Most},
    limits::{GROUP_SETTLES, GROUP_TURN},
    record::{self, Tail},
    said::Said,
    session::Identity,
    spelling::Spelling,
    subscription::Window,
    worker::Worker,
};

/// What a member says of a delivery.
#[derive(Clone, Debug)]
pub(crate) struct Settling {
    pub(crate) delivery: u64,
    pub(crate) outcome: Outcome,
    pub(crate) events: u32,
    pub(crate) reason: String,
}

/// What is asked for.
pub(crate) struct Joins {
    pub(crate) id: SubscriptionId,
    pub(crate) window: Window,
    pub(crate) max_events: u32,
    pub(crate) max_bytes: u32,
    pub(crate) live: bool,
}

/// A delivery that it was handed.
#[derive(Clone, Copy, Debug)]
struct Given {
    stream: u64,
    events: u32,
    bytes: u32,
    left: u32,
}

/// One member.
pub(crate) struct Member {
    joins: Joins,
    number: u64,
    pub(crate) name: Arc<Name>,
    pub(crate) shared: Arc<Shared>,
    given: BTreeMap<u64, Given>,
    delivered: u64,
    events: u64,
    bytes: u64,
    spelling: Spelling,
    joined: Joined,
    answer: Option<Window>,
    settles: VecDeque<Settling>,
    /// What comes next is larger than what its window has left: it waits for a settlement of its own.
    starved: bool,
    /// The turn of the group it looked at last.
    stamp: u64,
    /// While the group changes: the end of the log that was looked at.
    looked: u64,
    ending: bool,
    over: Option<Said>,
}

/// What it has to say of settlements.
pub(crate) struct Settled {
    pub(crate) stored: Stored,
    pub(crate) said: Said,
}

/// When and where a poll happens.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) who: &'a Identity,
    pub(crate) now_ms: u64,
    pub(crate) end: u64,
    pub(crate) room: usize,
}

/// What handing out came to.
enum Handed {
    /// So many bytes were said.
    Bytes(usize),
    /// It has nothing more, or is dead.
    Nothing,
    NoCredit,
    NoRoom,
}

/// Which event, and how it goes out.
pub(crate) struct Going {
    pub(crate) stream: u64,
    pub(crate) record: Record,
    /// Events of the record that do not go.
    pub(crate) skip: u32,
    pub(crate) attempt: u32,
    /// How often it was handed out before, as a dead letter that goes out again.
    pub(crate) before: u32,
    pub(crate) replay: bool,
}

impl Going {
    /// As a delivery of one event.
    pub(crate) fn out(&self, (member, delivery): (u64, u64)) -> Out {
        let skipped = u64::from(self.skip);
        Out {
            member,
            delivery,
            version: self.record.version.saturating_add(skipped),
            position: self.record.position.get().saturating_add(skipped),
            left: 1,
            attempt: self.attempt,
            deadline_ms: 0,
            replay: self.replay,
            trace: None,
        }
    }
}

impl Member {
    pub(crate) fn new(
        joins: Joins,
        number: u64,
        name: Arc<Name>,
        shared: Arc<Shared>,
        bell: Arc<Bell>,
    ) -> Self {
        shared.join(number, bell);
        Self {
            answer: Some(joins.window),
            joins,
            number,
            name,
            shared,
            given: BTreeMap::new(),
            delivered: 0,
            events: 0,
            bytes: 0,
            spelling: Spelling::default(),
            joined: Joined::default(),
            settles: VecDeque::new(),
            starved: false,
            stamp: 0,
            looked: 0,
            ending: false,
            over: None,
        }
    }

    pub(crate) fn id(&self) -> SubscriptionId {
        self.joins.id
    }

    pub(crate) fn over(&self) -> Option<&Said> {
        self.over.as_ref()
    }

    /// Its session says what became of a delivery. At the cap it settles too fast: false.
    #[must_use]
    pub(crate) fn settle(&mut self, settling: Settling) -> bool {
        let fits = self.settles.len() < GROUP_SETTLES;
        if fits {
            self.settles.push_back(settling);
        }
        fits
    }

    pub(crate) fn set_window(&mut self, window: Window) {
        (self.joins.window, self.answer, self.starved) = (window, Some(window), false);
    }

    pub(crate) fn end(&mut self) {
        self.ending = true;
    }

    fn has_credit(&self, events: u32, bytes: usize) -> bool {
        let Window { events: most_events, bytes: most_bytes } = self.joins.window;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.given.is_empty()
            || (self.given.len() < limits::DELIVERIES
                && self.events + u64::from(events) <= u64::from(most_events)
                && self.bytes.saturating_add(bytes) <= u64::from(most_bytes))
    }

    fn hungry(&self) -> bool {
        !self.starved && !self.ending && self.has_credit(1, 1)
    }

    /// Is there anything a poll would do, when the log is durable up to `end`?
    pub(crate) fn ready(&self, end: u64, has_room: bool) -> bool {
        let shared = &self.shared;
        if self.over.is_some() || self.answer.is_some() || self.ending {
            return true;
        }
        if shared.is_changing() {
            return end > self.looked;
        }
        let more =
            shared.ready.load(Ordering::Acquire) > 0 || end > shared.at_end.load(Ordering::Acquire);
        shared.stamp() != self.stamp
            || (has_room && !self.settles.is_empty())
            || shared.gate.load(Ordering::Acquire) <= end
            || (more && self.hungry())
    }

    /// Does it wait for the log to move?
    pub(crate) fn waits_for_disk(&self) -> bool {
        let shared = &self.shared;
        self.hungry()
            || shared.is_changing()
            || !self.settles.is_empty()
            || shared.gate.load(Ordering::Acquire) != u64::MAX
    }

    /// When something of the group is due.
    pub(crate) fn due_ms(&self) -> u64 {
        self.shared.due.load(Ordering::Acquire)
    }

    /// It leaves: what it had ends, and goes to others.
    pub(crate) fn leave(&self, worker: &Worker, now_ms: u64) {
        self.shared.leave(self.number);
        let mut live = self.shared.live();
        if live.follow(worker, &self.name, &self.shared) && live.members.contains_key(&self.number)
        {
            live.leave(self.number, now_ms, self.ending);
            // Where the log does not take it, all begins again: the same deliveries end.
            if let Err(code) = live.record(worker, &self.shared, now_ms) {
                tracing::warn!(group = self.name.1, %code, "that a member left is not stored");
            }
            live.hint(&self.shared);
        } else {
            live.members.remove(&self.number);
        }
        drop(live);
        self.shared.ring_others(self.number);
    }

    /// Takes what it said, and hands out what there is within its window and the room behind what was `said`. Says whether
    /// there is more for which there was no room.
    pub(crate) fn poll(
        &mut self,
        turn: Turn<'_>,
        settled: &mut Vec<Settled>,
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        // spec §8.1.1: deliveries come only behind the answer.
        if let Some(Window { events, bytes }) = self.answer.take() {
            let answer = Said::Credit { subscription: self.joins.id, events, bytes };
            *said += answer.size();
            answer.say(sink);
        }
        if self.shared.is_changing() {
            self.looked = turn.end;
            turn.worker.core().look();
        }
        let shared = self.shared.clone();
        let mut live = shared.live();
        if !live.follow(turn.worker, &self.name, &shared) {
            self.over = Some(self.fault(Code::NOT_FOUND, "the group was removed"));
            return false;
        }
        self.stamp = live.stamp();
        live.keys.free(turn.end);
        live.keys.wake(turn.now_ms);
        if !shared.is_changing() && turn.worker.has_room() {
            self.tend(&mut live, turn, settled);
        }
        if self.ending {
            self.over = Some(Said::End(self.joins.id));
        }
        let more = self.over.is_none()
            && !shared.is_changing()
            && self.hand_out(&mut live, turn, said, sink);
        self.sit(&mut live, turn.who);
        live.hint(&shared);
        let left = live.keys.ready() > 0 && live.others_hungry(self.number);
        drop(live);
        if left {
            shared.ring_others(self.number);
        }
        more
    }

    fn fault(&self, code: Code, detail: &str) -> Said {
        Said::fault(code, Scope::Subscription(self.joins.id), detail)
    }

    fn sit(&self, live: &mut Live, who: &Identity) {
        let hungry = self.hungry();
        let seat = live.members.entry(self.number).or_insert_with(|| {
            let principal = format!("{}/{}", who.role.name(), who.principal);
            Seat { principal, in_flight: 0, hungry }
        });
        seat.hungry = hungry;
    }

    /// What became due, and what the member said; all of it in one record.
    fn tend(&mut self, live: &mut Live, turn: Turn<'_>, settled: &mut Vec<Settled>) {
        let Turn { worker, now_ms, .. } = turn;
        live.expire(now_ms);
        let settles = std::mem::take(&mut self.settles);
        let judged: Vec<_> = settles.into_iter().map(|one| self.judge(live, one, now_ms)).collect();
        let gate = live.record(worker, &self.shared, now_ms);
        if let Err(code) = gate {
            tracing::warn!(group = self.name.1, %code, "what was settled is not stored; it comes again");
        }
        settled.extend(judged.into_iter().map(|(counts, said)| match gate {
            Ok(Some(stored)) if counts => Settled { stored, said },
            Ok(_) | Err(_) => Settled { stored: Stored::default(), said: said.into_lost() },
        }));
    }

    /// Does what it said count?
    fn judge(&mut self, live: &mut Live, one: Settling, now_ms: u64) -> (bool, Said) {
        let Settling { delivery, outcome, events, reason } = one;
        let said = Said::Settled { subscription: self.joins.id, delivery, outcome, events };
        let Some((given, events)) = self.count_off(delivery, outcome, events) else {
            return (false, said);
        };
        let out = live.out(given.stream, self.number, delivery);
        let Some(out) = out else { return (false, said) };
        match outcome {
            Outcome::Done => live.done(given.stream, out, events),
            Outcome::Reject => live.reject(given.stream, out, events, now_ms, &reason),
            Outcome::Retry { after_ms } => {
                let failed = Failed { after_ms: Some(after_ms), reason: &reason };
                live.fail(given.stream, out, now_ms, failed);
            }
            Outcome::Seen => return (false, said),
        }
        (true, said)
    }

    /// So many of a delivery's events are settled, as far as its window goes.
    fn count_off(&mut self, delivery: u64, outcome: Outcome, events: u32) -> Option<(Given, u32)> {
        self.starved = false;
        let given = self.given.get_mut(&delivery)?;
        let all = events == 0 || matches!(outcome, Outcome::Retry { .. });
        let events = if all { given.left } else { events.min(given.left) };
        given.left -= events;
        let copy = *given;
        if given.left == 0 {
            self.given.remove(&delivery);
            self.events -= u64::from(copy.events);
            self.bytes -= u64::from(copy.bytes);
        }
        Some((copy, events))
    }

    fn hand_out(
        &mut self,
        live: &mut Live,
        turn: Turn<'_>,
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        let mut handed = 0;
        let mut more = false;
        while self.hungry() {
            if handed >= GROUP_TURN && live.others_hungry(self.number) {
                more = true;
                break;
            }
            let Some(stream) = live.keys.pop() else {
                match live.read_on(turn.worker, turn.end) {
                    Ok(Some(more_now)) if more_now => continue,
                    Ok(Some(_)) => more = true,
                    Ok(None) => self.caught_up(),
                    Err(_) => {
                        self.over = Some(self.fault(Code::CORRUPT, "the log can't be read"));
                    }
                }
                break;
            };
            let left = if *said == 0 { usize::MAX } else { turn.room.saturating_sub(*said) };
            match self.hand(live, turn, stream, left, sink) {
                Ok(Handed::Bytes(bytes)) => (*said, handed) = (*said + bytes, handed + 1),
                Ok(Handed::Nothing) => {}
                Ok(Handed::NoCredit) => {
                    live.keys.unpop(stream);
                    self.starved = true;
                }
                Ok(Handed::NoRoom) => {
                    live.keys.unpop(stream);
                    more = true;
                    break;
                }
                Err(_) => {
                    live.keys.unpop(stream);
                    self.over = Some(self.fault(Code::CORRUPT, "the log can't be read"));
                    break;
                }
            }
        }
        // What can't be delivered is dead, and how far the log was read is kept now and then.
        if let Err(code) = live.record(turn.worker, &self.shared, turn.now_ms) {
            tracing::warn!(group = self.name.1, %code, "how far it is is not stored");
        }
        more
    }

    /// Nothing can go now. One that asked only for what there was ends with its last delivery.
    fn caught_up(&mut self) {
        self.joined = Joined::default();
        if !self.joins.live && self.given.is_empty() {
            self.ending = true;
            self.over = Some(Said::End(self.joins.id));
        }
    }

    /// Hands out the next of a key.
    fn hand(
        &mut self,
        live: &mut Live,
        turn: Turn<'_>,
        stream: u64,
        room: usize,
        sink: &mut Sink<'_>,
    ) -> Result<Handed, spile_log::ReadError> {
        let Some(going) = live.next_of(turn.worker, stream)? else { return Ok(Handed::Nothing) };
        let handed = self.deliver(live, turn, &going, room, sink);
        let handed = handed.unwrap_or_else(|reason| {
            live.dead_at_once(stream, &going, turn.now_ms, reason);
            Handed::Nothing
        });
        if !going.replay && !matches!(handed, Handed::Bytes(_) | Handed::Nothing) {
            live.cursor.give_back(going.record);
        }
        Ok(handed)
    }

    fn deliver(
        &mut self,
        live: &mut Live,
        turn: Turn<'_>,
        going: &Going,
        room: usize,
        sink: &mut Sink<'_>,
    ) -> Result<Handed, &'static str> {
        const DAMAGED: &str = "the event can't be read";
        let Going { record, skip, .. } = going;
        let (prefix, tail) = record::split(&record.head).map_err(|_| DAMAGED)?;
        if !self.spelling.look(record, prefix, |_| true) {
            return Err(DAMAGED);
        }
        let header = FIXED_HEADER + self.spelling.bytes() + tail.len();
        let tail = Tail::parse(record.kind, tail, &record.payload).map_err(|_| DAMAGED)?;
        let whole = tail.lengths.ok_or(DAMAGED)?;
        let fits = how_many(whole, *skip, turn.who.frame_max.saturating_sub(header));
        if fits == 0 {
            return Err("it is longer than what its member takes");
        }
        let fits = fits.min(self.run_of(whole, going));
        let all = *skip == 0 && fits == whole.count();
        let bytes: usize = whole.iter().skip(place(*skip)).take(place(fits)).sum();
        if !self.has_credit(fits, bytes) {
            return Ok(Handed::NoCredit);
        }
        if header + bytes > room {
            return Ok(Handed::NoRoom);
        }
        let frame = room.min(turn.who.frame_max).saturating_sub(header);
        if all && going.attempt == 1 && !going.replay && self.join(live, record, &tail, frame) {
            return self.say_joined(live, turn, going, (&tail, header), sink);
        }
        let mut spelled = [0; LENGTHS_BYTES];
        let (lengths, payload, payload_crc) =
            part(whole, *skip, fits, record, &mut spelled).ok_or(DAMAGED)?;
        self.say(turn, going, &tail, (lengths, &payload, payload_crc), sink);
        if *skip + fits < record.positions && !going.replay {
            live.cursor.give_back(record.clone());
        }
        self.given(live, turn, going, &tail, (fits, bytes));
        Ok(Handed::Bytes(header + bytes))
    }

    /// How many events go at once: within what the member asked for and its window. A retry goes alone, so that what is
    /// counted against an event is its own.
    fn run_of(&self, whole: Lengths<'_>, going: &Going) -> u32 {
        if going.attempt > 1 || going.replay {
            return 1;
        }
        let Window { events, bytes } = self.joins.window;
        let left = u64::from(bytes).saturating_sub(self.bytes).min(u64::from(self.joins.max_bytes));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let open = u64::from(events).saturating_sub(self.events);
        let open = u32::try_from(open).unwrap_or(u32::MAX).min(self.joins.max_events);
        how_many(whole, going.skip, left).min(open).max(1)
    }

    /// Do lone events behind this one go with it?
    fn join(&mut self, live: &mut Live, record: &Record, tail: &Tail<'_>, room: usize) -> bool {
        let Window { events, bytes } = self.joins.window;
        let events = u64::from(events).saturating_sub(self.events);
        let bytes = u64::from(bytes).saturating_sub(self.bytes);
        let bytes = bytes.min(u64::from(self.joins.max_bytes));
        let most = Most {
            events: u32::try_from(events).unwrap_or(u32::MAX).min(self.joins.max_events),
            bytes: room.saturating_sub(LENGTHS_BYTES).min(usize::try_from(bytes).unwrap_or(0)),
            until: u64::MAX,
        };
        most.events > 1 && self.joined.take(record, tail, live.cursor.behind(record), most)
    }

    fn say_joined(
        &mut self,
        live: &mut Live,
        turn: Turn<'_>,
        going: &Going,
        (tail, header): (&Tail<'_>, usize),
        sink: &mut Sink<'_>,
    ) -> Result<Handed, &'static str> {
        let mut spelled = [0; LENGTHS_BYTES];
        let Joined { lengths, payload, payload_crc, .. } = &self.joined;
        let (lengths, payload_crc) =
            (Lengths::encode(lengths.iter().copied(), &mut spelled), *payload_crc);
        let lengths = lengths.map_err(|_| "its lengths can't be spelled")?;
        self.say(turn, going, tail, (lengths, payload, payload_crc), sink);
        let (events, bytes) = (lengths.count(), payload.len());
        live.joined(&going.record, events);
        self.given(live, turn, going, tail, (events, bytes));
        Ok(Handed::Bytes(header + LENGTHS_BYTES.min(place(events) * 5) + bytes))
    }

    /// It was handed out.
    fn given(
        &mut self,
        live: &mut Live,
        turn: Turn<'_>,
        going: &Going,
        tail: &Tail<'_>,
        (events, bytes): (u32, usize),
    ) {
        let Going { stream, skip, attempt, replay, .. } = going;
        let trace = self.trace(tail, *skip);
        self.spelling.delivered();
        self.delivered += 1;
        let narrow = u32::try_from(bytes).unwrap_or(u32::MAX);
        let given = Given { stream: *stream, events, bytes: narrow, left: events };
        self.given.insert(self.delivered, given);
        self.events += u64::from(events);
        self.bytes += u64::from(narrow);
        let of = (self.number, self.delivered);
        let out = Out { left: events, trace: Some(trace), ..going.out(of) };
        live.hand(*stream, out, turn.now_ms);
        self.sit(live, turn.who);
        if let Some(seat) = live.members.get_mut(&self.number) {
            seat.in_flight += u64::from(events);
        }
        let counters = &turn.worker.counters;
        counters.delivered(events, bytes);
        if *attempt > 1 || *replay {
            counters.redelivered.add(u64::from(events));
        }
    }

    fn trace(&self, tail: &Tail<'_>, skip: u32) -> Trace {
        self.spelling.trace(tail.number, tail.extras.trace).nth(skip)
    }

    fn say(
        &self,
        turn: Turn<'_>,
        going: &Going,
        tail: &Tail<'_>,
        (lengths, payload, payload_crc): (Lengths<'_>, &[u8], u32),
        sink: &mut Sink<'_>,
    ) {
        let Going { record, skip, attempt, before, .. } = going;
        let (spelling, skipped) = (&self.spelling, u64::from(*skip));
        let name = turn.worker.name();
        let deliver = Deliver {
            subscription: self.joins.id,
            key: spelling.key(),
            topic: spelling.topic(),
            kind: spelling.kind(),
            worker: Some(name).filter(|_| spelling.is_first()),
            attempt: attempt.saturating_add(*before),
            version: Version(record.version.saturating_add(skipped)),
            position: Position(record.position.get().saturating_add(skipped)),
            time: Millis(tail.time_ms),
            lengths,
            extras: Extras { trace: Some(self.trace(tail, *skip)), ..tail.extras },
            payload,
        };
        sink(&Message::Deliver(deliver), payload_crc);
    }
}

/// The most a DELIVER takes beside names, lengths, extras and payload; the worker's name is in it.
const FIXED_HEADER: usize = 128;
/// The most the lengths of a block take: 1,024 varints, and how they are spelled.
const LENGTHS_BYTES: usize = 5 * 1024;
