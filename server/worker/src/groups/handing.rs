//! How a member is handed events: which key is next, how much of it goes at once, and the DELIVER that says it.
//! A part of [`Member`].
//!
//! The invariant: what is delivered and not settled never passes the member's window, but for a single delivery that is
//! larger than it; and of one key no second delivery is out.

use spile_log::{ReadError, Record};
use spile_protocol::{
    code::Code,
    id::{Position, Version},
    message::{Deliver, Extras, Lengths, Message, Trace},
    time::Millis,
};

use crate::{
    answers::Sink,
    block::{how_many, part, place},
    groups::{
        keys::Out,
        live::Live,
        member::{Given, Member, Turn},
    },
    joined::{Joined, Most},
    limits::{GROUP_TURN, LENGTHS_BYTES},
    record::{self, Tail},
    said::Said,
    subscription::Window,
};

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
    pub(super) fn hand_out(
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
    ) -> Result<Handed, ReadError> {
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
