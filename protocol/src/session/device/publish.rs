//! Lanes, routes and events: what is kept over connections. spec §5.

use super::{
    Device, Flight, LaneSlot, Refusal, RouteSlot, State, Storage, Table,
    outbox::{New, NotPut},
    slot,
    storage::{self, LaneState, Progress, Text},
};
use crate::{
    crc,
    id::{self, LaneId, Number, RouteId, Run},
    limits,
    message::{Batch, Event, Extras, Happened, Lengths, Message},
    time::Instant,
};

impl<S: Storage, T: AsRef<str>> Device<S, T> {
    /// Opens a lane for `key`, `None` for the client's own name; the first one opened is lane 0 and has none. `first` is
    /// the number of the first event that will be published on it: 1 in a new run, else what was kept beside the outbox.
    pub fn open_lane(
        &mut self,
        key: Option<&str>,
        first: Number,
        urgent: bool,
    ) -> Result<LaneId, Refusal> {
        let id = LaneId(u32::try_from(self.lanes).unwrap_or(u32::MAX));
        let slot = lane(id, key, first, urgent)?;
        if self.storage.lanes().len() <= self.lanes && !self.storage.grow(Table::Lanes, 1) {
            return Err(Refusal::TooMany("lanes"));
        }
        let parts = self.storage.parts();
        *parts.lanes.get_mut(self.lanes).ok_or(Refusal::TooMany("lanes"))? = slot;
        self.lanes += 1;
        self.wanted = true;
        self.urgent |= urgent;
        Ok(id)
    }

    /// Gives a lane another key; its routes stay and mean the new one. Only while nothing is in flight on it.
    pub fn rekey_lane(
        &mut self,
        id: LaneId,
        key: Option<&str>,
        first: Number,
    ) -> Result<(), Refusal> {
        let parts = self.storage.parts();
        let old = slot(parts.lanes, id.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?;
        if old.head != storage::NONE {
            return Err(Refusal::InUse);
        }
        *old = lane(id, key, first, old.urgent)?;
        self.wanted = true;
        Ok(())
    }

    /// Opens a lane again that [`super::Event::LaneClosed`] said is not to be tried again by itself.
    pub fn reopen_lane(&mut self, id: LaneId) -> Result<(), Refusal> {
        let parts = self.storage.parts();
        let lane = slot(parts.lanes, id.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?;
        match lane.state {
            LaneState::Closed { .. } => lane.state = LaneState::Wanted,
            LaneState::Wanted | LaneState::Opening | LaneState::Open => {}
        }
        self.wanted = true;
        Ok(())
    }

    /// Gives up what is in flight on a lane that was closed for good: it leaves the window, and it is not known whether
    /// any of it was stored. Its numbers are not given again, so the key goes on only in a new run: a server that does not
    /// have them answers the next LANE so that [`super::Event::UnknownRun`] comes.
    pub fn abandon_lane(&mut self, id: LaneId) -> Result<(), Refusal> {
        let parts = self.storage.parts();
        let lane = slot(parts.lanes, id.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?;
        match lane.state {
            LaneState::Closed { until: None } => {}
            LaneState::Closed { until: Some(_) }
            | LaneState::Wanted
            | LaneState::Opening
            | LaneState::Open => {
                return Err(Refusal::InUse);
            }
        }
        let (at, last) = (usize::try_from(id.0).unwrap_or(usize::MAX), Number(lane.next.0 - 1));
        self.outbox.ack(&mut self.storage.parts(), at, last, &mut self.window);
        Ok(())
    }

    /// Binds a route to a lane, a topic, and what the payloads are.
    pub fn bind(
        &mut self,
        lane: LaneId,
        topic: &str,
        content_type: &str,
        schema: u32,
        encoding: &str,
    ) -> Result<RouteId, Refusal> {
        if slot(self.storage.parts().lanes, lane.0, self.lanes).is_none() {
            return Err(Refusal::Unknown("the lane"));
        }
        let topic =
            id::topic(topic).ok().and_then(Text::new).ok_or(Refusal::Invalid("the topic"))?;
        let content_type = Text::new(content_type).ok_or(Refusal::Invalid("the content type"))?;
        let encoding = Text::new(encoding).ok_or(Refusal::Invalid("the encoding"))?;
        if self.storage.parts().routes.len() <= self.routes && !self.storage.grow(Table::Routes, 1)
        {
            return Err(Refusal::TooMany("routes"));
        }
        let parts = self.storage.parts();
        let new = RouteSlot { lane, topic, content_type, encoding, schema, told: false };
        *parts.routes.get_mut(self.routes).ok_or(Refusal::TooMany("routes"))? = new;
        let id = RouteId(u32::try_from(self.routes).unwrap_or(u32::MAX));
        self.routes += 1;
        self.untold = true;
        Ok(id)
    }

    /// Publishes one event: its number. It is kept until it is stored or refused. The machine spells numbers itself:
    /// `extras.number` is not looked at.
    pub fn publish(
        &mut self,
        now: Instant,
        route: RouteId,
        extras: Extras<'_>,
        payload: &[u8],
    ) -> Result<Number, Refusal> {
        let extras = Extras { number: None, ..extras };
        let message = Message::Event(Event { route, extras, payload });
        self.put(now, route, 1, payload, &extras, &message, payload.len())
    }

    /// Publishes several events of one route under one checksum: the first one's number. They stay one block.
    pub fn publish_batch(
        &mut self,
        now: Instant,
        route: RouteId,
        lengths: Lengths<'_>,
        extras: Extras<'_>,
        payload: &[u8],
    ) -> Result<Number, Refusal> {
        let whole = u64::try_from(payload.len()).is_ok_and(|length| length == lengths.total());
        if !whole || !(1..=limits::BATCH_EVENTS).contains(&lengths.count()) {
            return Err(Refusal::Invalid("the batch's lengths"));
        }
        let extras = Extras { number: None, ..extras };
        let longest = lengths.iter().max().unwrap_or_default();
        let message = Message::Batch(Batch { route, lengths, extras, payload });
        self.put(now, route, lengths.count(), payload, &extras, &message, longest)
    }

    #[expect(clippy::too_many_arguments, reason = "what an event and a batch have in common")]
    fn put(
        &mut self,
        now: Instant,
        route: RouteId,
        count: u32,
        payload: &[u8],
        extras: &Extras<'_>,
        message: &Message<'_>,
        longest: usize,
    ) -> Result<Number, Refusal> {
        if u32::try_from(longest).map_or(true, |longest| longest > self.payload_max) {
            return Err(Refusal::TooLarge);
        }
        let parts = self.storage.parts();
        let bound =
            slot(parts.routes, route.0, self.routes).ok_or(Refusal::Unknown("the route"))?.lane;
        let first =
            slot(parts.lanes, bound.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?.next;
        let next = first.0.checked_add(u64::from(count)).ok_or(Refusal::TooMany("numbers"))?;
        let entry = Flight {
            lane: bound.0,
            route: route.0,
            first,
            count,
            payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            born: now,
            aged: matches!(extras.happened, Some(Happened::Ago(_))),
            progress: Progress::Unsent,
            ..Flight::default()
        };
        let (payload_crc, longest) = (crc::of(payload), self.server_frame_max);
        self.push(New { entry, payload_crc, longest }, message)?;
        if let Some(lane) = slot(self.storage.parts().lanes, bound.0, self.lanes) {
            lane.next = Number(next);
        }
        Ok(first)
    }

    /// Puts it into the window, which is tidied or grows where it must.
    fn push(&mut self, new: New, message: &Message<'_>) -> Result<(), Refusal> {
        if self.try_push(new, message)? {
            return Ok(());
        }
        if self.outbox.compact(&mut self.storage.parts()) && self.try_push(new, message)? {
            return Ok(());
        }
        // Which table is full is not said: both get room where they can.
        let (flights, bytes) = self.outbox.wants(&self.storage.parts(), message);
        let grew = (flights && self.storage.grow(Table::Flights, 1))
            | (bytes > 0 && self.storage.grow(Table::Window, bytes));
        if grew && self.try_push(new, message)? {
            return Ok(());
        }
        Err(if self.outbox.live() == 0 { Refusal::TooLarge } else { Refusal::Busy })
    }

    fn try_push(&mut self, new: New, message: &Message<'_>) -> Result<bool, Refusal> {
        match self.outbox.push(&mut self.storage.parts(), new, message) {
            Ok(()) => Ok(true),
            Err(NotPut::Full) => Ok(false),
            Err(NotPut::TooLarge) => Err(Refusal::TooLarge),
        }
    }

    /// Takes a new run, after [`super::Event::UnknownRun`] and without a connection: everything in flight is numbered anew, and
    /// may come twice. `told` hears lane, old first number, new first number and how many of each event or batch.
    pub fn renew(
        &mut self,
        run: Run,
        mut told: impl FnMut(LaneId, Number, Number, u32),
    ) -> Result<(), Refusal> {
        if self.state != State::Idle {
            return Err(Refusal::InUse);
        }
        self.abandoned = self.config.run;
        self.config.run = run;
        self.lost = false;
        self.outbox.renumber(&mut self.storage.parts(), |entry, new| {
            told(LaneId(entry.lane), entry.first, new, entry.count);
        });
        Ok(())
    }
}

/// A lane that waits to be opened. spec §5.1.1
fn lane(id: LaneId, key: Option<&str>, first: Number, urgent: bool) -> Result<LaneSlot, Refusal> {
    if key.is_none() != (id == LaneId(0)) || first == Number(0) {
        return Err(Refusal::Invalid("the lane"));
    }
    let key = match key {
        Some(key) => {
            Some(id::key(key).ok().and_then(Text::new).ok_or(Refusal::Invalid("the key"))?)
        }
        None => None,
    };
    let acked = Number(first.0 - 1);
    Ok(LaneSlot { key, urgent, next: first, wire_next: first, acked, ..LaneSlot::default() })
}
