//! What a session does of its own accord: it joins workers that are back, tells shares that changed, and answers what its
//! time is over for.
//!
//! Invariant: whatever waits for a worker wakes the task when that worker is back, and costs nothing until then.

use std::task::Context;
use std::time::Duration;

use serde_json::{Map, Value};
use spile_protocol::{
    crc,
    id::Number,
    message::{Body, Message},
    session::edge::Session,
    time::{Instant, Millis},
};

use super::{Route, port_at};
use crate::Edge;
use crate::buffers::Turn;
use crate::limits::AWAY_RETRY_MS;
use crate::upstream::{Back, Input};

/// Until when a worker is not tried again.
pub(super) enum Waiting {
    /// Until it is back.
    Back(Back),
    /// It was back and did not take the session: a little later.
    Until(Instant),
}

impl core::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Back(_) => f.write_str("Back"),
            Self::Until(at) => f.debug_tuple("Until").field(at).finish(),
        }
    }
}

impl Route {
    /// When something of the session's requests and subscriptions is due. What was due before is done in this turn, as far
    /// as the client reads.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let until = self.back.iter().flatten().filter_map(|waiting| match waiting {
            Waiting::Until(at) => Some(*at),
            Waiting::Back(_) => None,
        });
        self.tables.due(now).chain(until).filter(|at| *at > now).min()
    }

    /// Joins workers that are back, and tells all workers what they have to know.
    pub(super) fn tend(&mut self, (now, wall): (Instant, Millis), cx: &mut Context<'_>) {
        // What a worker said before it went away is heard first.
        if self.waiting.is_empty() {
            let places = 0..self.edge.workers.count();
            // spec §10.2.2: it is known there whatever the session does.
            let missing =
                self.home.filter(|&home| self.ports.get(home).is_none_or(Option::is_none));
            let waits = |&place: &usize| self.tables.waits(place, now) || missing == Some(place);
            for place in places.filter(waits).collect::<Vec<_>>() {
                if self.is_there(place, now, cx) {
                    self.join(place, wall);
                }
            }
        }
        let Self { edge, who, ports, tables, .. } = self;
        let mut send = |place, message: &Message<'_>, crc| {
            let input =
                Input { message: *message, number: Number(0), payload_crc: crc, block: None };
            port_at(ports, &edge.workers, who, place)?.take(wall, &mut std::iter::once(input));
            Ok(())
        };
        for (place, fields) in tables.served.take_refused() {
            let reply = Message::Reply(Body { fields, payload: &[] });
            // Where it is gone, so is its call.
            send(place, &reply, crc::of(&[])).ok();
        }
        for merge in tables.merges() {
            merge.tend(now, &mut |place, message| send(place, message, 0));
        }
    }

    /// Is there a port at the worker, now perhaps?
    fn is_there(&mut self, place: usize, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.back.len() <= place {
            self.back.resize_with(place + 1, || None);
        }
        let Some(waiting) = self.back.get_mut(place) else { return false };
        if self.ports.get(place).is_some_and(Option::is_some) {
            *waiting = None;
            return true;
        }
        let ready = match waiting {
            None => {
                // It has just gone, or was not there: wait until it is.
                let Some(worker) = self.edge.workers.get(place) else { return false };
                let mut back = worker.back();
                let ready = back.as_mut().poll(cx).is_ready();
                *waiting = Some(Waiting::Back(back));
                ready
            }
            Some(Waiting::Back(back)) => back.as_mut().poll(cx).is_ready(),
            Some(Waiting::Until(at)) => *at <= now,
        };
        if !ready {
            return false;
        }
        let attached = port_at(&mut self.ports, &self.edge.workers, &self.who, place).is_ok();
        let later = now.after(Duration::from_millis(u64::from(AWAY_RETRY_MS)));
        *waiting = (!attached).then_some(Waiting::Until(later));
        attached
    }

    fn join(&mut self, place: usize, wall: Millis) {
        let now = Instant(u64::MAX);
        let Self { edge, who, ports, tables, .. } = self;
        let mut send = |at, message: &Message<'_>| {
            let input = Input { message: *message, number: Number(0), payload_crc: 0, block: None };
            port_at(ports, &edge.workers, who, at)?.take(wall, &mut std::iter::once(input));
            Ok(())
        };
        tables.served.serve_again(place, |message| {
            // One that is gone again is found to be so in its turn.
            send(place, message).ok();
        });
        for merge in tables.merges().filter(|merge| merge.waits(place, now)) {
            merge.join(place, &mut send);
        }
    }

    /// Answers what several workers were asked, as far as they have, or its time is over.
    pub(super) fn answer(&mut self, machine: &mut Session, now: Instant, out: &mut Turn<'_>) {
        let Self { edge, tables, .. } = self;
        tables.finish(now, &edge.workers, || own_part(edge, now));
        tables.say_answers(machine, now, out);
        tables.cached.say(machine, now, out);
    }
}

/// The edge's own part of `$status` (admin §2.1).
fn own_part(edge: &Edge, now: Instant) -> Map<String, Value> {
    let metrics = &edge.metrics;
    let cache = &edge.cache.counts;
    let faults: u64 = metrics.faults().map(|(_, count)| count).sum();
    let mut part = Map::from_iter([
        ("name".to_owned(), Value::from(&*edge.session.edge)),
        ("uptime_ms".to_owned(), Value::from(now.0 / 1_000)),
        ("sessions".to_owned(), Value::from(metrics.sessions.get())),
        ("half_open".to_owned(), Value::from(metrics.half_open.get())),
        ("events".to_owned(), Value::from(metrics.events.get())),
        ("bytes".to_owned(), Value::from(metrics.event_bytes.get())),
        ("voids".to_owned(), Value::from(metrics.denied.get())),
        ("faults".to_owned(), Value::from(faults)),
        ("cache_hits".to_owned(), Value::from(cache.hits.get())),
        ("cache_misses".to_owned(), Value::from(cache.misses.get())),
        ("cache_changed".to_owned(), Value::from(cache.changed.get())),
        ("cache_entries".to_owned(), Value::from(cache.entries())),
        ("cache_bytes".to_owned(), Value::from(cache.bytes())),
    ]);
    part.extend(cache.hit_rate().map(|rate| ("cache_hit_rate".to_owned(), Value::from(rate))));
    part
}
