//! One subscription on every worker, merged under one credit.
//!
//! Each worker delivers within its share of the client's credit and counts its own deliveries; the client sees one row
//! of deliveries, 1, 2, 3 …, and what it settles is mapped back. Order holds for each key, since a key lives on one
//! worker, and none between keys. Invariant: what is held back never passes the shares, one delivery a worker besides.

use std::collections::VecDeque;

use spile_protocol::{
    code::Code,
    id::SubscriptionId,
    limits::WORKERS,
    message::{
        At, Credit, Deliver, End, From, Full, List, Message, Outcome, Settle, Source, Subscribe,
        deliver::Kind,
    },
    session::edge::{Session, Told},
    time::Instant,
};

use super::{park_frame, tables::Heard, unpark};
use crate::buffers::Turn;
use crate::upstream::{Away, Workers};

/// How a message goes to one worker.
type Send<'f> = dyn FnMut(usize, &Message<'_>) -> Result<(), Away> + 'f;

/// A delivery that the client has not settled.
#[derive(Clone, Copy, Debug)]
struct Sent {
    place: usize,
    /// Its number at that worker.
    own: u64,
    settled: bool,
}

/// What one worker has to do with it.
#[derive(Debug, Default)]
struct Part {
    name: Box<str>,
    answered: Option<(u32, u32)>,
    ended: bool,
    delivered: u64,
    seen: u64,
    key: Box<str>,
    topic: Box<str>,
    content_type: Box<str>,
    schema: u32,
    encoding: Box<str>,
}

/// A merged subscription.
#[derive(Debug)]
pub(super) struct Merge {
    id: SubscriptionId,
    asked: (u32, u32),
    parts: Vec<Part>,
    /// Deliveries from `base` on, in the order the client got them.
    sent: VecDeque<Sent>,
    base: u64,
    /// What the client's credit does not allow yet.
    held: VecDeque<(usize, Box<[u8]>)>,
    over: bool,
}

impl Merge {
    /// Refused where a worker is not named that has to be, or one is that is none.
    pub(super) fn new(subscribe: &Subscribe<'_>, workers: &Workers) -> Result<Self, Code> {
        if let Source::Filter { from: From::Positions(named), .. } = subscribe.source {
            let is_named = |name: &str| named.iter().any(|at| at.worker == name);
            let is_worker = |name: &str| workers.iter().any(|worker| worker.name() == name);
            if !workers.iter().all(|worker| is_named(worker.name()))
                || !named.iter().all(|at| is_worker(at.worker))
            {
                return Err(Code::INVALID);
            }
        }
        let part = |name: &str| Part { name: Box::from(name), ..Part::default() };
        Ok(Self {
            id: subscribe.subscription,
            asked: (subscribe.events, subscribe.bytes),
            parts: workers.iter().map(|worker| part(worker.name())).collect(),
            sent: VecDeque::new(),
            base: 1,
            held: VecDeque::new(),
            over: false,
        })
    }

    /// How many workers it is on.
    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    /// Has the client heard that it ended?
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// A worker's share of the client's credit; where there is less than one each, what is too much is held back here.
    fn share(&self) -> (u32, u32) {
        let count = u32::try_from(self.parts.len()).unwrap_or(1).max(1);
        let (events, bytes) = self.asked;
        ((events / count).max(1), (bytes / count).max(1))
    }

    /// Passes on what the client says of it, to each worker its part.
    pub(super) fn send(&mut self, message: &Message<'_>, send: &mut Send<'_>) -> Result<(), Away> {
        if let Message::Subscribe(subscribe) = message {
            self.subscribe(subscribe, send)
        } else if let Message::Settle(settle) = message {
            self.settle(settle, send)
        } else if let Message::Credit(credit) = message {
            self.asked = (credit.events, credit.bytes);
            let (events, bytes) = self.share();
            self.to_live(&Message::Credit(Credit { events, bytes, ..*credit }), send)
        } else {
            self.to_live(message, send)
        }
    }

    fn to_live(&self, message: &Message<'_>, send: &mut Send<'_>) -> Result<(), Away> {
        let mut live = self.parts.iter().enumerate().filter(|(_, part)| !part.ended);
        live.try_for_each(|(place, _)| send(place, message))
    }

    fn subscribe(&self, subscribe: &Subscribe<'_>, send: &mut Send<'_>) -> Result<(), Away> {
        let (events, bytes) = self.share();
        for (place, part) in self.parts.iter().enumerate() {
            let mut room = [0; 128];
            let mut subscribe = Subscribe { events, bytes, ..*subscribe };
            if let Source::Filter { filter, key, from: From::Positions(named) } = subscribe.source {
                let own = named.iter().filter(|at: &At<'_>| at.worker == &*part.name);
                // One name and one number fit; a worker that gets none refuses the subscription.
                let own = List::encode(own, &mut room).unwrap_or_default();
                subscribe.source = Source::Filter { filter, key, from: From::Positions(own) };
            }
            send(place, &Message::Subscribe(subscribe))?;
        }
        Ok(())
    }

    fn settle(&mut self, settle: &Settle<'_>, send: &mut Send<'_>) -> Result<(), Away> {
        if settle.outcome == Outcome::Seen {
            return self.seen(settle, send);
        }
        let at = settle.delivery.checked_sub(self.base).and_then(|at| usize::try_from(at).ok());
        let Some(sent) = at.and_then(|at| self.sent.get_mut(at)) else { return Ok(()) };
        sent.settled |= settle.events == 0;
        let (place, delivery) = (sent.place, sent.own);
        while self.sent.front().is_some_and(|sent| sent.settled) {
            self.pop();
        }
        send(place, &Message::Settle(Settle { delivery, ..*settle }))
    }

    /// SEEN counts for all up to it: each worker hears of its own last one.
    fn seen(&mut self, settle: &Settle<'_>, send: &mut Send<'_>) -> Result<(), Away> {
        let mut touched = [false; WORKERS];
        while self.base <= settle.delivery {
            let Some(sent) = self.pop() else { break };
            if let (Some(part), Some(touched)) =
                (self.parts.get_mut(sent.place), touched.get_mut(sent.place))
            {
                (part.seen, *touched) = (sent.own, true);
            }
        }
        let parts = self.parts.iter().enumerate().zip(touched).filter(|(_, touched)| *touched);
        for ((place, part), _) in parts {
            send(place, &Message::Settle(Settle { delivery: part.seen, ..*settle }))?;
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Sent> {
        let sent = self.sent.pop_front()?;
        self.base += 1;
        Some(sent)
    }

    /// Passes on what a worker says of it.
    pub(super) fn hear(
        &mut self,
        place: usize,
        message: &Message<'_>,
        payload_crc: u32,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        if let Message::Deliver(deliver) = message {
            self.deliver(place, deliver, payload_crc, machine, now, out)
        } else if let Message::Credit(credit) = message {
            self.credit(place, credit, machine, now, out)
        } else if let Message::End(_) = message {
            if let Some(part) = self.parts.get_mut(place) {
                part.ended = true;
            }
            self.end(machine, now, out)
        } else if let Message::Settle(settle) = message {
            let number = self.number_of(place, settle.delivery);
            let Some(delivery) = number else { return Ok(Heard::default()) };
            let settle = Message::Settle(Settle { delivery, ..*settle });
            machine.handle_downstream(now, &settle, 0, out).map(|_told| Heard::default())
        } else {
            // A fault of one worker's part is one of the whole: the others hear that it is over.
            let told = machine.handle_downstream(now, message, payload_crc, out)?;
            let over = (told == Told::Said).then_some(self.id);
            Ok(Heard { delivered: 0, over })
        }
    }

    fn deliver(
        &mut self,
        place: usize,
        deliver: &Deliver<'_>,
        payload_crc: u32,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        let Some(part) = self.parts.get_mut(place) else { return Ok(Heard::default()) };
        let events = u64::from(deliver.lengths.count());
        let message = Message::Deliver(part.spell(deliver));
        let waits = !self.held.is_empty();
        let told = if waits {
            Told::NoCredit
        } else {
            machine.handle_downstream(now, &message, payload_crc, out)?
        };
        if told == Told::NoCredit {
            let frame = park_frame(&message, payload_crc);
            self.held.extend(frame.map(|frame| (place, frame)));
        }
        Ok(self.told(place, told, events))
    }

    fn told(&mut self, place: usize, told: Told, events: u64) -> Heard {
        match told {
            Told::Delivered(_) => {
                if let Some(part) = self.parts.get_mut(place) {
                    part.delivered += 1;
                    self.sent.push_back(Sent { place, own: part.delivered, settled: false });
                }
                Heard { delivered: events, over: None }
            }
            Told::TooLong => Heard { delivered: 0, over: Some(self.id) },
            Told::Said | Told::Dropped | Told::NoCredit => Heard::default(),
        }
    }

    fn credit(
        &mut self,
        place: usize,
        credit: &Credit,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        if let Some(part) = self.parts.get_mut(place) {
            part.answered = Some((credit.events, credit.bytes));
        }
        let sum = self.parts.iter().try_fold((0_u32, 0_u32), |(events, bytes), part| {
            let (more_events, more_bytes) = part.answered?;
            Some((events.saturating_add(more_events), bytes.saturating_add(more_bytes)))
        });
        if let Some((events, bytes)) = sum {
            let (events, bytes) = (events.min(self.asked.0), bytes.min(self.asked.1));
            let credit = Message::Credit(Credit { events, bytes, ..*credit });
            return machine.handle_downstream(now, &credit, 0, out).map(|_told| Heard::default());
        }
        Ok(Heard::default())
    }

    /// It ends when every worker's part has, and nothing is held back.
    fn end(
        &mut self,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        if self.held.is_empty() && !self.over && self.parts.iter().all(|part| part.ended) {
            let end = Message::End(End { subscription: self.id });
            self.over = machine.handle_downstream(now, &end, 0, out)? != Told::NoCredit;
        }
        Ok(Heard::default())
    }

    /// Says what is held back, as far as the client's credit goes: how many events.
    pub(super) fn say_held(
        &mut self,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> u64 {
        let mut delivered = 0;
        while let Some((place, frame)) = self.held.pop_front() {
            let told = unpark(&frame).map(|(message, payload_crc)| {
                (
                    machine.handle_downstream(now, &message, payload_crc, out),
                    super::tables::events_of(&message),
                )
            });
            match told {
                Some((Ok(Told::NoCredit) | Err(Full), _)) => {
                    self.held.push_front((place, frame));
                    return delivered;
                }
                Some((Ok(told), events)) => delivered += self.told(place, told, events).delivered,
                None => {}
            }
        }
        // An END that finds no room is said in the next turn.
        self.end(machine, now, out).map_or(delivered, |_heard| delivered)
    }

    fn number_of(&self, place: usize, own: u64) -> Option<u64> {
        let at = self.sent.iter().position(|sent| sent.place == place && sent.own == own)?;
        Some(self.base + u64::try_from(at).ok()?)
    }
}

impl Part {
    /// The delivery with all that the worker has spelled before: the client's last one may be another worker's.
    fn spell<'a>(&'a mut self, deliver: &Deliver<'a>) -> Deliver<'a> {
        let keep = |old: &mut Box<str>, new: Option<&str>| {
            if let Some(new) = new.filter(|&new| new != &**old) {
                *old = Box::from(new);
            }
        };
        keep(&mut self.key, deliver.key);
        keep(&mut self.topic, deliver.topic);
        keep(&mut self.content_type, deliver.kind.map(|kind| kind.content_type));
        keep(&mut self.encoding, deliver.kind.map(|kind| kind.encoding));
        self.schema = deliver.kind.map_or(self.schema, |kind| kind.schema);
        let kind = Kind {
            content_type: &self.content_type,
            schema: self.schema,
            encoding: &self.encoding,
        };
        Deliver {
            key: Some(&self.key),
            topic: Some(&self.topic),
            kind: Some(kind),
            worker: Some(&self.name),
            ..*deliver
        }
    }
}
