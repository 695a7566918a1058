//! One session's part in a group: what it was handed and has not settled, within its window. spec §8.1 source 2, §8.3
//!
//! The invariant: a settlement is answered once its record is durable, in the order in which they came; one for a delivery
//! that has ended, or of an epoch that is over, is answered *seen* (spec §8.3.5).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use spile_protocol::{
    code::Code,
    id::SubscriptionId,
    limits,
    message::{Outcome, Scope},
};

use crate::{
    answers::Sink,
    bell::Bell,
    desk::Identity,
    groups::{
        keys::Out,
        live::{Live, Seat, Stored},
        outcome::Failed,
        shared::Shared,
        view::Name,
    },
    joined::Joined,
    limits::GROUP_SETTLES,
    said::Said,
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
pub(super) struct Given {
    pub(super) stream: u64,
    pub(super) events: u32,
    pub(super) bytes: u32,
    pub(super) left: u32,
}

/// One member.
pub(crate) struct Member {
    pub(super) joins: Joins,
    pub(super) number: u64,
    pub(crate) name: Arc<Name>,
    pub(crate) shared: Arc<Shared>,
    pub(super) given: BTreeMap<u64, Given>,
    pub(super) delivered: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) spelling: Spelling,
    pub(super) joined: Joined,
    pub(super) answer: Option<Window>,
    pub(super) settles: VecDeque<Settling>,
    /// What comes next is larger than what its window has left: it waits for a settlement of its own.
    pub(super) starved: bool,
    /// The turn of the group it looked at last.
    pub(super) stamp: u64,
    /// While the group changes: the end of the log that was looked at.
    pub(super) looked: u64,
    pub(super) ending: bool,
    pub(super) over: Option<Said>,
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

    pub(super) fn has_credit(&self, events: u32, bytes: usize) -> bool {
        let Window { events: most_events, bytes: most_bytes } = self.joins.window;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        // spec §10.7: none at all is not its turn.
        let turn = most_events > 0;
        (turn && self.given.is_empty())
            || (self.given.len() < limits::DELIVERIES
                && self.events + u64::from(events) <= u64::from(most_events)
                && self.bytes.saturating_add(bytes) <= u64::from(most_bytes))
    }

    pub(super) fn hungry(&self) -> bool {
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

    pub(super) fn fault(&self, code: Code, detail: &str) -> Said {
        Said::fault(code, Scope::Subscription(self.joins.id), detail)
    }

    pub(super) fn sit(&self, live: &mut Live, who: &Identity) {
        let hungry = self.hungry();
        let seat = live.members.entry(self.number).or_insert_with(|| {
            let principal = format!("{}/{}", who.role.name(), who.principal);
            Seat { principal, edge: who.edge.clone(), in_flight: 0, hungry }
        });
        seat.hungry = hungry;
    }

    /// What became due, and what the member said; all of it in one record.
    fn tend(&mut self, live: &mut Live, turn: Turn<'_>, settled: &mut Vec<Settled>) {
        let Turn { worker, now_ms, .. } = turn;
        live.expire(now_ms);
        let settles = std::mem::take(&mut self.settles);
        let judged: Vec<_> = settles.into_iter().map(|one| self.judge(live, one, turn)).collect();
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
    fn judge(&mut self, live: &mut Live, one: Settling, turn: Turn<'_>) -> (bool, Said) {
        let now_ms = turn.now_ms;
        let Settling { delivery, outcome, events, reason } = one;
        let said = Said::Settled { subscription: self.joins.id, delivery, outcome, events };
        let Some((given, events)) = self.count_off(delivery, outcome, events) else {
            return (false, said);
        };
        let out = live.out(given.stream, self.number, delivery);
        let Some(out) = out else { return (false, said) };
        if let Some(trace) = out.trace {
            let (group, who) = (&*self.name.1, &*turn.who.principal);
            let Out { version, position, attempt, .. } = out;
            tracing::debug!(%trace, group, who, version, position, attempt, events, ?outcome, "settled");
        }
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
}
