//! Events that wait to go out together, a BATCH a lane.
//!
//! Nothing waits for more to come: what is here when the driver writes goes. So a lone event goes alone and at once, and
//! a flood goes in blocks. Invariants: what waits of a lane is of one route and says nothing beyond its payloads; all of
//! it is bounded, and behind everything the machine has of its lane.

use spile_protocol::id::RouteId;
use spile_protocol::limits;
use spile_protocol::message::{Extras, Lengths};
use spile_protocol::session::device::{Device, Refusal, Storage};
use spile_protocol::time::Instant;

use super::Way;

/// A batch is at most so long: two of them are written while a third is filled.
const BATCH_BYTES: usize = 96 * 1024;
/// All that waits, over all lanes. At the cap it goes to the machine's window, whose own cap makes callers wait.
const BYTES: usize = 1 << 20;
/// What of a frame is not payload or lengths, with room to spare.
const AROUND: usize = 32;
/// The most a length takes in a batch.
const LENGTH: usize = 3;

/// The events of one lane.
#[derive(Debug, Default)]
struct Gather {
    route: RouteId,
    payload: Vec<u8>,
    lengths: Vec<usize>,
}

/// The events of all lanes.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    lanes: Vec<Gather>,
    /// The lanes that have some, in the order they began.
    filled: Vec<usize>,
    bytes: usize,
    /// Where spelled lengths are written.
    room: Vec<u8>,
}

impl Gathered {
    pub(super) const fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Does the lane have some?
    pub(super) fn has(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(|gather| !gather.lengths.is_empty())
    }

    /// Would an event of that length go in, where frames are at most so long?
    pub(super) fn takes(&self, way: Way, length: usize, frame_max: usize) -> bool {
        let Some(gather) = self.lanes.get(way.lane).filter(|gather| !gather.lengths.is_empty())
        else {
            return self.bytes < BYTES;
        };
        let payload = gather.payload.len() + length;
        gather.route == way.route
            && gather.lengths.len() < limits::BATCH_EVENTS as usize
            && payload <= BATCH_BYTES
            && payload + AROUND + LENGTH * (gather.lengths.len() + 1) <= frame_max
            && self.bytes < BYTES
    }

    /// Puts one in.
    pub(super) fn push(&mut self, way: Way, payload: &[u8]) {
        if self.lanes.len() <= way.lane {
            self.lanes.resize_with(way.lane + 1, Gather::default);
        }
        let Some(gather) = self.lanes.get_mut(way.lane) else { return };
        if gather.lengths.is_empty() {
            gather.route = way.route;
            self.filled.push(way.lane);
        }
        gather.payload.extend_from_slice(payload);
        gather.lengths.push(payload.len());
        self.bytes += payload.len();
    }

    /// Hands what waits of a lane to the machine; on an error it stays here.
    pub(super) fn flush<S: Storage, T: AsRef<str>>(
        &mut self,
        now: Instant,
        lane: usize,
        device: &mut Device<S, T>,
    ) -> Result<(), Refusal> {
        let Some(gather) = self.lanes.get_mut(lane).filter(|gather| !gather.lengths.is_empty())
        else {
            return Ok(());
        };
        let (extras, payload) = (Extras::default(), gather.payload.as_slice());
        if gather.lengths.len() == 1 {
            device.publish(now, gather.route, extras, payload)?;
        } else {
            self.room.resize(gather.lengths.len() * 5, 0);
            let lengths = Lengths::encode(gather.lengths.iter().copied(), &mut self.room)?;
            device.publish_batch(now, gather.route, lengths, extras, payload)?;
        }
        self.bytes -= gather.payload.len();
        gather.payload.clear();
        gather.lengths.clear();
        self.filled.retain(|filled| *filled != lane);
        Ok(())
    }

    /// The lane that began first.
    pub(super) fn first(&self) -> Option<usize> {
        self.filled.first().copied()
    }

    /// Nobody waits for a lane's any more: how many there were.
    pub(super) fn drop_lane(&mut self, lane: usize) -> usize {
        self.filled.retain(|filled| *filled != lane);
        let Some(gather) = self.lanes.get_mut(lane) else { return 0 };
        self.bytes -= gather.payload.len();
        gather.payload.clear();
        let dropped = gather.lengths.len();
        gather.lengths.clear();
        dropped
    }

    /// Nobody waits for any of them any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn way(lane: usize, route: u32) -> Way {
        Way { lane, route: RouteId(route) }
    }

    #[test]
    fn a_batch_is_of_one_route_and_bounded() {
        let (a, b) = (way(0, 0), way(0, 1));
        let mut gathered = Gathered::default();
        assert!(gathered.takes(a, BATCH_BYTES * 2, 1 << 20), "a lone event may be long");
        gathered.push(a, &[7; 100]);
        assert!(gathered.takes(a, 100, 1 << 20));
        assert!(!gathered.takes(b, 100, 1 << 20), "another route of the lane comes behind");
        assert!(gathered.takes(way(1, 2), 100, 1 << 20), "another lane is its own batch");
        assert!(!gathered.takes(a, BATCH_BYTES, 1 << 20) && !gathered.takes(a, 400, 512));
        while gathered.takes(a, 0, 1 << 20) {
            gathered.push(a, &[]);
        }
        assert_eq!(gathered.lanes[0].lengths.len(), 1024);
    }

    #[test]
    fn all_lanes_together_are_bounded() {
        let mut gathered = Gathered::default();
        let mut lane = 0;
        while gathered.takes(way(lane, 0), BATCH_BYTES, 1 << 20) {
            gathered.push(way(lane, 0), &vec![0; BATCH_BYTES]);
            lane += 1;
        }
        assert!(gathered.bytes >= BYTES && gathered.bytes <= BYTES + BATCH_BYTES);
    }
}
