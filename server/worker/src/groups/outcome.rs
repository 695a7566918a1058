//! What becomes of a delivery: done, dead, or handed out again. spec §8.3
//!
//! Each changes the reading state at once and puts what it was into the next record; the key is free when that is durable.
//! Only the first event of a delivery that fails is counted against: those behind it were not tried.

use spile_protocol::message::Trace;

use crate::groups::{
    backoff::{Jitter, wait_ms},
    keys::{At, Out, Replay},
    live::Live,
    record::{Entry, Letter, Retry},
};

/// Why an event is not done, and when it may come again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed<'a> {
    /// After so many milliseconds; 0: by the group's backoff; `None`: at once.
    pub(crate) after_ms: Option<u64>,
    pub(crate) reason: &'a str,
}

impl Live {
    /// The delivery, where the member still has it.
    pub(crate) fn out(&self, stream: u64, member: u64, delivery: u64) -> Option<Out> {
        match self.keys.get(stream)?.at {
            At::Out(out) if (out.member, out.delivery) == (member, delivery) => Some(out),
            At::Out(_) | At::Free | At::Settling => None,
        }
    }

    /// The first `events` of a delivery are done.
    pub(crate) fn done(&mut self, stream: u64, out: Out, events: u32) {
        if out.replay {
            self.end_replay(stream, out.position, true);
            self.pending.push(Entry::Done { position: out.position });
            self.tally.0 += 1;
            return self.released(stream, out);
        }
        self.pass(stream, out, events, events == out.left);
        self.note(stream, events);
    }

    /// The first `events` of a delivery are dead.
    pub(crate) fn reject(&mut self, stream: u64, out: Out, events: u32, now_ms: u64, reason: &str) {
        self.dead(stream, out, events, (now_ms, reason), events == out.left);
    }

    fn dead(
        &mut self,
        stream: u64,
        out: Out,
        events: u32,
        (time_ms, reason): (u64, &str),
        ends: bool,
    ) {
        if out.replay {
            return self.dead_again(stream, out, (time_ms, reason));
        }
        for n in 0..u64::from(events) {
            let (version, position) = (out.version + n, out.position + n);
            let attempts = if n == 0 { out.attempt } else { 1 };
            let reason = reason.to_owned();
            let letter = Letter { stream, version, attempts, time_ms, reason, replay: None };
            self.tell_dead(&letter, position, out.trace.map(|trace| trace.nth(narrow(n))));
            self.pending.push(Entry::Dead { position, letter });
        }
        self.letters += usize::try_from(events).unwrap_or(usize::MAX);
        let holds = self.of.as_ref().is_some_and(|of| of.holds);
        if holds {
            self.keys.change(stream, |key| key.held = key.held.saturating_add(events));
        }
        // A key that is held gets nothing done behind what is dead.
        self.pass(stream, out, events, ends || holds);
        self.note(stream, 0);
    }

    fn dead_again(&mut self, stream: u64, out: Out, (time_ms, reason): (u64, &str)) {
        let attempts = self.end_replay(stream, out.position, false).saturating_add(out.attempt);
        let (version, reason) = (out.version, reason.to_owned());
        let letter = Letter { stream, version, attempts, time_ms, reason, replay: None };
        self.tell_dead(&letter, out.position, out.trace);
        self.pending.push(Entry::Dead { position: out.position, letter });
        self.settle(stream, out);
    }

    fn tell_dead(&mut self, letter: &Letter, position: u64, trace: Option<Trace>) {
        self.tally.1 += 1;
        let Some(of) = &self.of else { return };
        let trace = trace.map(tracing::field::display);
        let Letter { attempts, reason, .. } = letter;
        tracing::info!(
            group = of.name.1,
            tenant = of.name.0,
            position,
            attempts,
            reason,
            trace,
            "an event is dead"
        );
    }

    /// A delivery failed at its first event: it goes out again, or is dead where it went out often enough.
    pub(crate) fn fail(&mut self, stream: u64, out: Out, now_ms: u64, failed: Failed<'_>) {
        let Some(of) = &self.of else { return };
        let Failed { after_ms, reason } = failed;
        if out.attempt >= of.definition.max_attempts {
            return self.dead(stream, out, 1, (now_ms, reason), true);
        }
        let backoff = (of.definition.backoff_min_ms, of.definition.backoff_max_ms);
        let jitter = self.jitter.get_or_insert_with(|| Jitter::new(of.id));
        let wait = match after_ms {
            None => 0,
            Some(0) => wait_ms(jitter, out.attempt, backoff),
            Some(after_ms) => after_ms,
        };
        let due_ms = now_ms.saturating_add(wait);
        self.again(stream, out, Retry { attempt: out.attempt + 1, due_ms });
    }

    /// A delivery ends, and its first event goes out again.
    fn again(&mut self, stream: u64, out: Out, retry: Retry) {
        if out.replay {
            return self.replay_later(stream, out, retry);
        }
        self.keys.change(stream, |key| {
            (key.next, key.from) = (out.version, out.position);
            (key.attempt, key.retry_ms) = (retry.attempt, Some(retry.due_ms));
        });
        self.settle(stream, out);
        self.note(stream, 0);
    }

    fn replay_later(&mut self, stream: u64, out: Out, retry: Retry) {
        self.keys.change(stream, |key| {
            let of = key.replays.iter_mut().find(|replay| replay.position == out.position);
            if let Some(replay) = of {
                (replay.retry, replay.due) = (retry, false);
            }
        });
        self.pending.push(Entry::Replay { position: out.position, replay: retry });
        self.settle(stream, out);
    }

    /// Deliveries whose time is over end.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(stream) = self.keys.late(now_ms) {
            let Some(At::Out(out)) = self.keys.get(stream).map(|key| key.at) else { return };
            let failed = Failed { after_ms: None, reason: "not settled in time" };
            self.fail(stream, out, now_ms, failed);
        }
    }

    /// A member is gone: what it had ends. One that said goodbye gives it back, and that was no attempt. spec §8.3.4
    pub(crate) fn leave(&mut self, member: u64, now_ms: u64, goodbye: bool) {
        for stream in self.keys.held_by(member) {
            let Some(At::Out(out)) = self.keys.get(stream).map(|key| key.at) else { continue };
            if goodbye {
                self.again(stream, out, Retry { attempt: out.attempt, due_ms: now_ms });
            } else {
                let failed = Failed { after_ms: None, reason: "its member was lost" };
                self.fail(stream, out, now_ms, failed);
            }
        }
        self.members.remove(&member);
    }

    /// A dead letter goes out again when its key is free.
    pub(crate) fn replay(&mut self, position: u64, letter: &Letter, due_ms: u64) {
        let retry = Retry { attempt: 1, due_ms };
        let (version, attempts) = (letter.version, letter.attempts);
        let replay = Replay { position, version, attempts, retry, due: false };
        self.keys.change(letter.stream, |key| {
            // admin §7.1: several of one key go in the order of their positions.
            let at = key.replays.partition_point(|other| other.position < position);
            key.replays.insert(at, replay);
        });
        self.pending.push(Entry::Replay { position, replay: retry });
    }

    /// A dead letter is dropped. One that is out as a replay is so no more: what its member says of it does not count.
    pub(crate) fn drop_letter(&mut self, position: u64, stream: u64) {
        let out = self.keys.get(stream).and_then(|key| match key.at {
            At::Out(out) if out.replay && out.position == position => Some(out),
            At::Out(_) | At::Free | At::Settling => None,
        });
        self.end_replay(stream, position, true);
        self.pending.push(Entry::Dropped { position });
        match out {
            Some(out) => self.released(stream, out),
            None => self.unheld(stream),
        }
    }

    /// A dead letter is not on its way any more; `gone`: nor is it a dead letter. How often it was tried before.
    fn end_replay(&mut self, stream: u64, position: u64, gone: bool) -> u32 {
        let held = u32::from(gone && self.of.as_ref().is_some_and(|of| of.holds));
        self.letters -= usize::from(gone && self.letters > 0);
        self.keys.change(stream, |key| {
            key.held = key.held.saturating_sub(held);
            let of = key.replays.iter().position(|replay| replay.position == position);
            // The others keep their order.
            of.map_or(0, |at| key.replays.remove(at).attempts)
        })
    }

    fn released(&mut self, stream: u64, out: Out) {
        self.settle(stream, out);
        self.unheld(stream);
    }

    /// A key that was held may go on: its mark says so.
    fn unheld(&mut self, stream: u64) {
        let holds = self.of.as_ref().is_some_and(|of| of.holds);
        if holds && self.keys.get(stream).is_some_and(|key| key.held == 0) {
            self.note(stream, 0);
        }
    }

    /// The first events of a delivery are behind it; `ends`: what is left of it goes back.
    fn pass(&mut self, stream: u64, out: Out, events: u32, ends: bool) {
        let passed = u64::from(events);
        let (version, position) = (out.version + passed, out.position + passed);
        self.keys.change(stream, |key| {
            (key.next, key.from, key.attempt, key.retry_ms) = (version, position, 1, None);
            if !ends {
                let left = out.left - events;
                let trace = out.trace.map(|trace| trace.nth(events));
                key.at = At::Out(Out { version, position, left, attempt: 1, trace, ..out });
            }
        });
        if ends {
            self.settle(stream, out);
        } else {
            self.count_off(out.member, events);
        }
    }

    /// Nothing of the key is out; it is free when the next record is durable.
    fn settle(&mut self, stream: u64, out: Out) {
        self.keys.change(stream, |key| key.at = At::Settling);
        self.touched.push(stream);
        self.count_off(out.member, out.left);
    }

    fn count_off(&mut self, member: u64, events: u32) {
        if let Some(seat) = self.members.get_mut(&member) {
            seat.in_flight = seat.in_flight.saturating_sub(u64::from(events));
        }
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
