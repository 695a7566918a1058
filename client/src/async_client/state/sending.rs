//! Publishing: which lane and route an event takes, and when there is room for it.
//!
//! Keys have lanes of their own, up to a cap; beyond it a lane with nothing in flight takes the new key, and what its old
//! key has come to is kept, since numbers of a key go on through a run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::{Context, Poll};

use spile_protocol::code::Code;
use spile_protocol::id::{self, LaneId, Number, RouteId};
use spile_protocol::limits;
use spile_protocol::message::{Extras, Headers};
use spile_protocol::session::device;

use super::super::Error;
use super::super::error::Refusal;
use super::super::event::{Event, Kind};
use super::super::outbox::Who;
use super::{Numbers, State};

/// Lanes this client opens: a quarter of what a session may, so that each can have four routes.
const LANES: usize = limits::LANES as usize / 4;
/// Keys of one run whose numbers are kept without a lane. At the cap: TOO_MANY; a new client has a new run.
const RETIRED: usize = 65_536;

/// What a lane may have waiting. At the cap publishing to its key waits; other keys flow on.
struct Share {
    events: u64,
    bytes: u64,
}

/// Half of what the machine keeps of all lanes.
const OPEN: Share = Share { events: 32_768, bytes: 4 << 20 };
/// While the server has not answered for the lane, or its worker is away: an eighth.
const AWAY: Share = Share { events: 1_024, bytes: 1 << 20 };

/// The lane and route of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Way {
    pub(in super::super) lane: usize,
    pub(in super::super) route: RouteId,
}

/// All lanes and routes that were opened.
#[derive(Debug, Default)]
pub(super) struct Ways {
    lanes: Numbers,
    keys: Vec<Arc<str>>,
    routes: HashMap<(usize, Arc<str>, Kind), RouteId>,
    /// What keys without a lane have come to.
    retired: HashMap<Arc<str>, u64>,
    /// Lanes the server does not open, and why.
    refused: HashMap<usize, Refusal>,
    /// Lanes that were answered, and whose workers are there.
    open: HashSet<usize>,
    /// Lanes that a producer holds: they keep their key.
    held: HashSet<usize>,
    /// Where the search for an idle lane goes on.
    next: usize,
}

impl Ways {
    /// A new run: every key begins at 1.
    pub(super) fn renewed(&mut self) {
        self.retired.clear();
    }

    pub(super) fn refuse(&mut self, lane: usize, why: Refusal) {
        self.refused.insert(lane, why);
    }

    /// The lane is answered; `here`: so is its worker.
    pub(super) fn reopened(&mut self, lane: usize, here: bool) {
        self.refused.remove(&lane);
        if here {
            self.open.insert(lane);
        } else {
            self.open.remove(&lane);
        }
    }

    /// The lane is closed for a while.
    pub(super) fn closed(&mut self, lane: usize) {
        self.open.remove(&lane);
    }
}

fn refusal(why: device::Refusal) -> Error {
    use device::Refusal as Machine;
    let code = match why {
        Machine::TooMany(_) => Code::TOO_MANY,
        Machine::TooLarge => Code::TOO_LARGE,
        Machine::Invalid(_) | Machine::Unknown(_) => Code::INVALID,
        Machine::Busy | Machine::InUse => Code::BUSY,
        Machine::NotConnected | Machine::Leaving => Code::SHUTDOWN,
    };
    Refusal::of(code).detail(&why.to_string()).into()
}

impl State {
    /// The lane and route of a key (`None`: our own), a topic and a kind; opened where it is new.
    pub(in super::super) fn way(
        &mut self,
        key: Option<&Arc<str>>,
        topic: &Arc<str>,
        kind: &Kind,
    ) -> Result<Way, Error> {
        self.check()?;
        let lane = self.lane(key)?;
        if let Some(why) = self.ways.refused.get(&lane) {
            return Err(why.clone().into());
        }
        let wanted = (lane, Arc::clone(topic), kind.clone());
        if let Some(&route) = self.ways.routes.get(&wanted) {
            return Ok(Way { lane, route });
        }
        id::topic(topic).map_err(|why| {
            Error::setup("topic", format!("{topic:?}: {why}"), "correct the topic")
        })?;
        Error::unless_it_fits("content type", &kind.content_type, limits::CONTENT_TYPE_BYTES)?;
        Error::unless_it_fits("encoding", &kind.encoding, limits::CONTENT_TYPE_BYTES)?;
        let id = LaneId(u32::try_from(lane).unwrap_or(u32::MAX));
        let route = self
            .device
            .bind(id, topic, &kind.content_type, kind.schema, &kind.encoding)
            .map_err(refusal)?;
        self.ways.routes.insert(wanted, route);
        Ok(Way { lane, route })
    }

    /// A producer keeps its way: its lane is not given to another key.
    pub(in super::super) fn hold(&mut self, way: Way) {
        self.ways.held.insert(way.lane);
    }

    fn lane(&mut self, key: Option<&Arc<str>>) -> Result<usize, Error> {
        if self.ways.keys.is_empty() {
            // The first lane is our own, whoever asks.
            self.device.open_lane(None, Number(1), false).map_err(refusal)?;
            self.ways.keys.push(Arc::default());
        }
        // spec §5.1.1: no two lanes carry the same key, and lane 0 carries our name.
        let own = Arc::clone(&self.session.principal);
        let Some(key) = key.filter(|key| **key != own) else { return Ok(0) };
        if let Some(&lane) = self.ways.lanes.get(key) {
            return Ok(lane);
        }
        id::key(key)
            .map_err(|why| Error::setup("key", format!("{key:?}: {why}"), "correct the key"))?;
        let lane =
            if self.ways.keys.len() < LANES { self.new_lane(key)? } else { self.idle_lane(key)? };
        self.ways.lanes.insert(Arc::clone(key), lane);
        Ok(lane)
    }

    fn new_lane(&mut self, key: &Arc<str>) -> Result<usize, Error> {
        self.device.open_lane(Some(key), Number(1), false).map_err(refusal)?;
        self.ways.keys.push(Arc::clone(key));
        Ok(self.ways.keys.len() - 1)
    }

    /// A lane with nothing in flight takes the key.
    fn idle_lane(&mut self, key: &Arc<str>) -> Result<usize, Error> {
        let lanes = self.ways.keys.len();
        let begin = self.ways.next;
        let found = (begin..begin + lanes).map(|at| at % lanes).find(|lane| {
            *lane != 0 && !self.ways.held.contains(lane) && self.outbox.is_idle(*lane)
        });
        let too_many = |what: &str| Error::from(Refusal::of(Code::TOO_MANY).detail(what));
        let lane =
            found.ok_or_else(|| too_many("more keys are in flight than a session has lanes"))?;
        if self.ways.retired.len() >= RETIRED {
            return Err(too_many("more keys than one run keeps numbers of; make a new client"));
        }
        let (ended, begun) =
            (self.outbox.ended(lane), self.ways.retired.get(key).copied().unwrap_or(0));
        let id = LaneId(u32::try_from(lane).unwrap_or(u32::MAX));
        self.device.rekey_lane(id, Some(key), Number(begun + 1)).map_err(refusal)?;
        self.ways.retired.remove(key);
        if let Some(old) = self.ways.keys.get_mut(lane) {
            self.ways.lanes.remove(old);
            self.ways.retired.insert(std::mem::replace(old, Arc::clone(key)), ended);
        }
        self.outbox.rekey(lane, begun);
        self.ways.refused.remove(&lane);
        self.ways.next = lane + 1;
        Ok(lane)
    }

    /// Takes an event when there is room for it: where its outcome will be.
    pub(in super::super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        event: &Event,
    ) -> Poll<Result<usize, Error>> {
        let taken = self.way(event.key.as_ref(), &event.topic, &event.kind).and_then(|way| {
            self.check_length(event.payload.len())?;
            let taken = if event.more.is_empty() {
                self.take_plain(way, &event.payload)?
            } else {
                self.take_spelled(way, event)?
            };
            Ok(taken.then_some(way))
        });
        match taken {
            Err(why) => Poll::Ready(Err(why)),
            Ok(None) => {
                self.outbox.wait_for_room(cx);
                Poll::Pending
            }
            Ok(Some(way)) => {
                let slot = self.outbox.slot();
                self.outbox.sent(way.lane, Who::Slot(slot), 1);
                self.dirty = true;
                Poll::Ready(Ok(slot))
            }
        }
    }

    /// Takes the same payload up to `count` times: how often there was room.
    pub(in super::super) fn fill(
        &mut self,
        way: Way,
        who: Who,
        payload: &[u8],
        count: u64,
    ) -> Result<u64, Error> {
        self.check()?;
        self.check_length(payload.len())?;
        if let Some(why) = self.ways.refused.get(&way.lane) {
            return Err(why.clone().into());
        }
        let mut taken = 0;
        while taken < count && self.take_plain(way, payload)? {
            taken += 1;
        }
        if taken > 0 {
            self.outbox.sent(way.lane, who, taken);
            self.dirty = true;
        }
        Ok(taken)
    }

    fn check_length(&self, length: usize) -> Result<(), Error> {
        if length <= self.payload_max {
            return Ok(());
        }
        let told = format!("the payload has {length} bytes, the server takes {}", self.payload_max);
        Err(Refusal::of(Code::TOO_LARGE).detail(&told).into())
    }

    /// May the lane have more waiting? One key must not fill what all share, least of all while its worker is away.
    fn has_share(&self, lane: usize, length: usize) -> bool {
        let share = if self.ways.open.contains(&lane) { OPEN } else { AWAY };
        // What waits is taken to be as long as what comes: events of a key mostly are.
        let waiting = self.outbox.in_flight_of(lane);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        waiting < share.events && waiting.saturating_mul(length) < share.bytes
    }

    fn take_plain(&mut self, way: Way, payload: &[u8]) -> Result<bool, Error> {
        if !self.has_share(way.lane, payload.len()) {
            return Ok(false);
        }
        if !self.gathered.takes(way, payload.len(), self.frame_max) {
            // Another route of the lane, or a full batch: it goes first.
            let waiting =
                if self.gathered.has(way.lane) { Some(way.lane) } else { self.gathered.first() };
            if !self.flushed(waiting)? || !self.gathered.takes(way, payload.len(), self.frame_max) {
                return Ok(false);
            }
        }
        self.gathered.push(way, payload);
        Ok(true)
    }

    fn take_spelled(&mut self, way: Way, event: &Event) -> Result<bool, Error> {
        if !self.has_share(way.lane, event.payload.len()) || !self.flushed(Some(way.lane))? {
            return Ok(false);
        }
        // From here on its age grows.
        self.tick();
        let mut room = [0; limits::HEADERS_BYTES];
        let headers =
            event.more.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref()));
        let headers = Headers::encode(headers, &mut room).map_err(|_| {
            Error::setup(
                "headers",
                "more than 8, or more than 512 bytes, or one without a name",
                "send fewer",
            )
        })?;
        let extras = Extras {
            number: None,
            happened: event.more.happened,
            ttl_ms: event.more.ttl_ms,
            trace: event.more.trace,
            expect: event.more.expect,
            headers,
            receipt: false,
        };
        match self.device.publish(self.now, way.route, extras, &event.payload) {
            Ok(_) => Ok(true),
            Err(device::Refusal::Busy) => Ok(false),
            Err(why) => Err(refusal(why)),
        }
    }

    /// Is nothing of the lane gathered any more?
    fn flushed(&mut self, lane: Option<usize>) -> Result<bool, Error> {
        let Some(lane) = lane else { return Ok(true) };
        match self.gathered.flush(self.now, lane, &mut self.device) {
            Ok(()) => Ok(true),
            Err(device::Refusal::Busy) => Ok(false),
            Err(why) => Err(refusal(why)),
        }
    }

    /// What was gathered goes to the machine while it has credit to send it: until then more can join it.
    pub(super) fn send_what_was_gathered(&mut self) {
        let mut flushed = false;
        while let Some(lane) = self.gathered.first() {
            let (in_flight, (events, bytes)) = (self.device.in_flight(), self.credit);
            let credit = in_flight.events < events && in_flight.bytes < bytes;
            let kept = !credit || !matches!(self.flushed(Some(lane)), Ok(true));
            if kept {
                break;
            }
            flushed = true;
        }
        if flushed {
            self.outbox.room(&mut self.wake);
        }
    }
}
