//! One subscription on every worker, merged under one credit.
//!
//! Each worker delivers within its share of the client's credit and counts its own deliveries; the client sees one row
//! of deliveries, 1, 2, 3 …, and what it settles is mapped back (`sent`). Order holds for each key, since a key lives on
//! one worker, and none between keys. A worker that is away is out; it joins when it is back and goes on where it was
//! (spec §8.1.4). Invariants: the shares of those that are in never sum to more than the client's credit, one delivery a
//! worker besides; what is held back never passes the shares; each SETTLE of a group is answered once.

use std::collections::VecDeque;

use spile_protocol::{
    code::Code,
    id::SubscriptionId,
    limits::WORKERS,
    message::{Credit, Deliver, Fault, From, Full, Message, Outcome, Settle, Source, Subscribe},
    session::edge::{Session, Told},
    time::{Instant, Millis},
};

use super::part::{Asked, Part, State};
use super::sent::Sent;
use super::{lines, park_frame, tables::Heard, unpark};
use crate::buffers::Turn;
use crate::limits::{AWAY_RETRY_MS, TURN, TURN_MOST, UNANSWERED};
use crate::upstream::{Away, Workers};

/// How a message goes to one worker.
pub(super) type Send<'f> = dyn FnMut(usize, &Message<'_>) -> Result<(), Away> + 'f;

/// A merged subscription.
#[derive(Debug)]
pub(super) struct Merge {
    id: SubscriptionId,
    asked: Asked,
    credit: (u32, u32),
    parts: Vec<Part>,
    sent: Sent,
    /// What the client's credit does not allow yet.
    held: VecDeque<(usize, Box<[u8]>)>,
    /// The client waits for the CREDIT that says what is kept.
    unanswered: bool,
    /// What the client was told last to be kept, since the subscription is made.
    told: Option<(u32, u32)>,
    /// The shares changed since the workers heard of theirs.
    respread: bool,
    /// Whose turn it is, where there are turns.
    turn: usize,
    /// When others have it, since nothing is delivered, and how long they had not.
    rest: Option<(Instant, std::time::Duration)>,
    /// The client said END.
    ending: bool,
    over: bool,
}

impl Merge {
    /// `None` where a worker is not named that has to be.
    pub(super) fn new(subscribe: &Subscribe<'_>, workers: &Workers, wall: Millis) -> Option<Self> {
        if let Source::Filter { from: From::Positions(named), .. } = subscribe.source {
            let is_named = |name: &str| named.iter().any(|at| at.worker == name);
            if !workers.iter().all(|worker| is_named(worker.name())) {
                return None;
            }
        }
        Some(Self {
            id: subscribe.subscription,
            asked: Asked::of(subscribe, wall),
            credit: (subscribe.events, subscribe.bytes),
            parts: workers
                .iter()
                .map(|worker| Part::new(worker.name(), &subscribe.source))
                .collect(),
            sent: Sent::default(),
            held: VecDeque::new(),
            unanswered: true,
            told: None,
            respread: false,
            turn: 0,
            rest: None,
            ending: false,
            over: false,
        })
    }

    /// The workers it is open at.
    pub(super) fn places(&self) -> Vec<usize> {
        let open = self.parts.iter().zip(0..).filter(|(part, _)| part.is_in());
        open.map(|(_, place)| place).collect()
    }

    /// Has the client heard that it ended?
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    fn count_in(&self) -> usize {
        self.parts.iter().filter(|part| part.is_in()).count()
    }

    /// Does a group's consumer take less than one delivery a worker? What is handed out must not wait here, since its time
    /// runs: workers have their turns (spec §10.7).
    fn takes_turns(&self) -> bool {
        let events = usize::try_from(self.credit.0).unwrap_or(usize::MAX);
        self.asked.is_group() && events < self.count_in()
    }

    /// What a worker is to keep.
    fn share_of(&self, place: usize) -> (u32, u32) {
        if !self.takes_turns() {
            return self.share();
        }
        let count = self.count_in().max(1);
        let before = self.parts.iter().take(place).filter(|part| part.is_in()).count();
        let turns = usize::try_from(self.credit.0).unwrap_or(usize::MAX);
        let has_turn = (before + count - self.turn % count) % count < turns;
        (u32::from(has_turn), self.credit.1 / self.credit.0.max(1))
    }

    /// The next ones have their turn, and hear so before anything else.
    fn next_turn(&mut self, send: &mut Send<'_>) {
        self.turn = self.turn.wrapping_add(1);
        self.tell_shares(send);
    }

    /// A worker's share of the client's credit; where there is less than one each, what is too much is held back here.
    fn share(&self) -> (u32, u32) {
        let count = u32::try_from(self.count_in()).unwrap_or(1).max(1);
        let (events, bytes) = self.credit;
        ((events / count).max(1), (bytes / count).max(1))
    }

    /// Subscribes at every worker. The others' events come where one is away; false where all are.
    pub(super) fn begin(&mut self, send: &mut Send<'_>) -> bool {
        // As many as there are: those that turn out to be away leave their share to the others.
        self.parts.iter_mut().for_each(|part| part.state = State::In);
        for place in 0..self.parts.len() {
            self.subscribe_at(place, send);
        }
        self.respread = self.count_in() < self.parts.len();
        self.count_in() > 0
    }

    fn subscribe_at(&mut self, place: usize, send: &mut Send<'_>) {
        let share = self.share_of(place);
        let (id, asked) = (self.id, &self.asked);
        let Some(part) = self.parts.get_mut(place) else { return };
        let mut room = [0; 128];
        let subscribe = asked.at(id, part, share, &mut room);
        if send(place, &Message::Subscribe(subscribe)).is_err() {
            part.state = State::Out { again: None };
        }
    }

    /// Is it to be subscribed at a worker, where that is there?
    pub(super) fn waits(&self, place: usize, now: Instant) -> bool {
        let out = self.parts.get(place).map(|part| &part.state);
        let again = matches!(out, Some(State::Out { again }) if again.is_none_or(|at| at <= now));
        again && !self.ending && !self.over
    }

    /// When a worker is asked again that did not know the group.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let rest = self.rest.map(|(at, _)| at);
        self.parts.iter().filter_map(Part::again).chain(rest).filter(|at| *at > now).min()
    }

    /// A worker came back: it goes on where it was.
    pub(super) fn join(&mut self, place: usize, send: &mut Send<'_>) {
        if let Some(part) = self.parts.get_mut(place) {
            part.state = State::In;
        }
        self.subscribe_at(place, send);
        self.respread = true;
    }

    /// A worker is away. What it had handed out has ended, and what was not answered did not count as far as is known;
    /// true where the subscription was not made yet and nobody is left to make it.
    pub(super) fn lose(&mut self, place: usize) -> bool {
        let Some(part) = self.parts.get_mut(place).filter(|part| part.is_in()) else {
            return false;
        };
        part.state = if self.ending { State::Ended } else { State::Out { again: None } };
        self.sent.lose(place);
        if self.asked.is_group() {
            self.held.retain(|(at, _)| *at != place);
        }
        self.respread = true;
        self.told.is_none() && !self.ending && self.count_in() == 0
    }

    /// Tells the workers their shares, where those changed.
    pub(super) fn tend(&mut self, now: Instant, send: &mut Send<'_>) {
        if self.takes_turns() && !self.ending && !self.over {
            self.look_for_work(now, send);
        }
        if std::mem::take(&mut self.respread) && !self.ending && !self.over {
            self.tell_shares(send);
        }
    }

    /// Where those whose turn it is have nothing to deliver, the others are asked, less and less often.
    fn look_for_work(&mut self, now: Instant, send: &mut Send<'_>) {
        let idle = self.sent.len() == 0 && self.held.is_empty();
        match self.rest {
            Some((at, wait)) if idle && at <= now => {
                let wait = (wait * 2).min(TURN_MOST);
                self.rest = Some((now.after(wait), wait));
                self.next_turn(send);
            }
            Some(_) if idle => {}
            Some(_) => self.rest = None,
            None if idle => self.rest = Some((now.after(TURN), TURN)),
            None => {}
        }
    }

    fn tell_shares(&mut self, send: &mut Send<'_>) {
        let shares: Vec<_> = (0..self.parts.len()).map(|place| self.share_of(place)).collect();
        let told = self.parts.iter_mut().zip(shares).enumerate();
        for (place, (part, share)) in told.filter(|(_, (part, _))| part.is_in()) {
            let ((events, bytes), subscription) = (share, Some(self.id));
            let credit = Message::Credit(Credit { subscription, events, bytes, chunk_bytes: None });
            // One that is gone is found to be so in its turn.
            if part.share != share && send(place, &credit).is_ok() {
                part.share = share;
            }
        }
    }

    /// Passes on what the client says of it, to each worker its part.
    pub(super) fn send(&mut self, message: &Message<'_>, send: &mut Send<'_>) {
        if let Message::Settle(settle) = message {
            self.settle(settle, send);
        } else if let Message::Credit(credit) = message {
            self.credit = (credit.events, credit.bytes);
            self.unanswered = true;
            self.tell_shares(send);
        } else if let Message::End(_) = message {
            self.ending = true;
            for (place, part) in self.parts.iter_mut().enumerate() {
                if !part.is_in() || send(place, message).is_err() {
                    part.state = State::Ended;
                }
            }
        }
    }

    fn settle(&mut self, settle: &Settle<'_>, send: &mut Send<'_>) {
        if settle.outcome == Outcome::Seen {
            return self.seen(settle, send);
        }
        if self.takes_turns() && self.sent.finishes(settle) {
            // Before the settlement, which frees the credit of the one whose turn it was.
            self.next_turn(send);
        }
        if let Some((place, delivery)) = self.sent.settle(settle)
            && send(place, &Message::Settle(Settle { delivery, ..*settle })).is_err()
        {
            self.sent.lose(place);
        }
    }

    /// SEEN counts for all up to it: each worker hears of its own last one.
    fn seen(&mut self, settle: &Settle<'_>, send: &mut Send<'_>) {
        let mut last = [None; WORKERS];
        self.sent.seen(settle.delivery, |place, own| {
            if let Some(last) = last.get_mut(place) {
                *last = Some(own);
            }
        });
        for (place, own) in last.into_iter().enumerate() {
            let Some(delivery) = own else { continue };
            // One that is gone has nothing in flight any more.
            send(place, &Message::Settle(Settle { delivery, ..*settle })).ok();
        }
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
            return self.deliver(place, deliver, payload_crc, machine, now, out);
        }
        if let Message::Settle(settle) = message {
            return self.settled(place, settle, machine, now, out);
        }
        if let Message::Fault(fault) = message {
            return self.faulted(place, fault, machine, now, out);
        }
        let Some(part) = self.parts.get_mut(place) else { return Ok(Heard::default()) };
        if let Message::Credit(credit) = message {
            part.keeps(credit);
        } else if let Message::End(_) = message {
            part.state = State::Ended;
            self.respread = true;
        }
        let delivered = self.speak(machine, now, out);
        Ok(Heard { delivered, over: None })
    }

    /// A fault of one worker's part is one of the whole: the others hear that it is over. But of a group a worker may not
    /// have heard yet that others know, or it can't serve it for a while: it is asked again.
    fn faulted(
        &mut self,
        place: usize,
        fault: &Fault<'_>,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        let others = self.parts.iter().enumerate().any(|(at, part)| at != place && part.is_in());
        let passes = fault.code == Code::NOT_FOUND || fault.retry;
        if self.asked.is_group() && passes && others && !self.ending {
            let wait = fault.retry_after_ms.max(AWAY_RETRY_MS);
            let wait = std::time::Duration::from_millis(u64::from(wait));
            if let Some(part) = self.parts.get_mut(place) {
                part.state = State::Out { again: Some(now.after(wait)) };
            }
            self.sent.lose(place);
            self.held.retain(|(at, _)| *at != place);
            self.respread = true;
            let delivered = self.speak(machine, now, out);
            return Ok(Heard { delivered, over: None });
        }
        let told = machine.handle_downstream(now, &Message::Fault(*fault), 0, out)?;
        if let Some(part) = self.parts.get_mut(place) {
            part.state = State::Ended;
        }
        Ok(Heard { delivered: 0, over: (told == Told::Said).then_some(self.id) })
    }

    fn settled(
        &mut self,
        place: usize,
        settle: &Settle<'_>,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        let number = self.sent.number_of(place, settle.delivery);
        let Some(delivery) = number else { return Ok(Heard::default()) };
        let answer = Message::Settle(Settle { delivery, ..*settle });
        // Said or not: the client needs no other answer.
        let _told: Told = machine.handle_downstream(now, &answer, 0, out)?;
        self.sent.answered(delivery);
        Ok(Heard::default())
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
        let waits = !self.held.is_empty() || self.unanswered || self.sent.len() >= UNANSWERED;
        let Some(part) = self.parts.get_mut(place) else { return Ok(Heard::default()) };
        let events = deliver.lengths.count();
        let message = Message::Deliver(part.spell(deliver));
        let told = if waits {
            Told::NoCredit
        } else {
            machine.handle_downstream(now, &message, payload_crc, out)?
        };
        lines::delivered(told, &message);
        if told == Told::NoCredit {
            let frame = park_frame(&message, payload_crc);
            self.held.extend(frame.map(|frame| (place, frame)));
        }
        let next = deliver.position.0.saturating_add(u64::from(events));
        part.next = Some(next);
        Ok(self.told(place, told, events))
    }

    fn told(&mut self, place: usize, told: Told, events: u32) -> Heard {
        match told {
            Told::Delivered(_) => {
                let own = self.parts.get_mut(place).map_or(0, Part::deliver);
                self.sent.push(place, own, events);
                Heard { delivered: u64::from(events), over: None }
            }
            Told::TooLong => Heard { delivered: 0, over: Some(self.id) },
            Told::Said | Told::Dropped | Told::NoCredit => Heard::default(),
        }
    }

    /// Says what the client may hear now: what is kept of its credit, what did not count, what was held back, and the end.
    /// How many events it was.
    pub(super) fn speak(&mut self, machine: &mut Session, now: Instant, out: &mut Turn<'_>) -> u64 {
        if self.over || self.say_credit(machine, now, out).is_err() {
            return 0;
        }
        if self.say_uncounted(machine, now, out).is_err() {
            return 0;
        }
        let delivered = self.say_held(machine, now, out);
        // An END that finds no room is said in the next turn.
        self.say_end(machine, now, out).map_or(delivered, |()| delivered)
    }

    /// spec §8.1.1: once all that are there have said what they keep.
    fn say_credit(
        &mut self,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<(), Full> {
        let known = self.parts.iter().all(Part::has_answered);
        if self.ending || !known || self.count_in() == 0 {
            return Ok(());
        }
        let kept = self.parts.iter().filter_map(Part::window);
        let (events, bytes) = kept.fold((0_u32, 0_u32), |(events, bytes), (more, most)| {
            (events.saturating_add(more), bytes.saturating_add(most))
        });
        let (events, bytes) = (events.min(self.credit.0), bytes.min(self.credit.1));
        // Workers answer with what they were told last, which may come later: more than was said is said.
        let grown = self.told.is_some_and(|(told, most)| events > told || bytes > most);
        if !self.unanswered && !grown {
            return Ok(());
        }
        let subscription = Some(self.id);
        let credit = Message::Credit(Credit { subscription, events, bytes, chunk_bytes: None });
        let _told: Told = machine.handle_downstream(now, &credit, 0, out)?;
        (self.unanswered, self.told) = (false, Some((events, bytes)));
        Ok(())
    }

    /// spec §8.3.5: what was settled of deliveries that have ended did not count.
    fn say_uncounted(
        &mut self,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<(), Full> {
        while let Some(delivery) = self.sent.uncounted() {
            let (subscription, outcome) = (self.id, Outcome::Seen);
            let answer = Settle { subscription, delivery, outcome, events: 0, reason: "" };
            let _told: Told = machine.handle_downstream(now, &Message::Settle(answer), 0, out)?;
            self.sent.told_uncounted();
        }
        Ok(())
    }

    /// It ends when every worker's part has, and nothing is held back.
    fn say_end(
        &mut self,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<(), Full> {
        let ended = self.parts.iter().all(|part| matches!(part.state, State::Ended));
        if (self.held.is_empty() || self.ending) && !self.over && ended {
            let end = Message::End(spile_protocol::message::End { subscription: self.id });
            self.over = machine.handle_downstream(now, &end, 0, out)? != Told::NoCredit;
        }
        Ok(())
    }

    /// Says what is held back, as far as the client's credit goes: how many events.
    fn say_held(&mut self, machine: &mut Session, now: Instant, out: &mut Turn<'_>) -> u64 {
        let mut delivered = 0;
        while self.sent.len() < UNANSWERED
            && let Some((place, frame)) = self.held.pop_front()
        {
            let told = unpark(&frame).map(|(message, payload_crc)| {
                let events = super::tables::events_of(&message);
                let events = u32::try_from(events).unwrap_or(u32::MAX);
                let told = machine.handle_downstream(now, &message, payload_crc, out);
                told.iter().for_each(|told| lines::delivered(*told, &message));
                (told, events)
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
        delivered
    }
}
