//! The window: events and batches from when they are published until they are stored or refused, whatever connections
//! come and go between.
//!
//! Frames lie one after the other in the window's bytes, entries in the order they were published, and each lane's
//! entries are linked. What is done in the middle leaves a hole; holes are closed by moving what lives together, when
//! there is no room behind and enough to gain. The invariant: a lane's live entries have consecutive numbers, the first
//! of them the first that is not known to be stored or refused (or the batch that holds it).

use super::storage::{Flight, LaneSlot, NONE, Parts, Progress};
use crate::{
    frame,
    id::Number,
    message::{Full, Message},
    session::{
        Cursor, Transmit,
        window::{Amount, Window},
    },
};

/// Below so many bytes moving everything together costs less than thinking about it.
const SMALL: usize = 64 * 1024;

/// Where the entries are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outbox {
    /// Entries from here …
    begin: usize,
    /// … to here, done ones among them.
    end: usize,
    /// Where the next frame goes.
    tail: usize,
    live: usize,
    live_bytes: usize,
    /// Entries before this one have been sent, or are of lanes that cannot send now.
    cursor: usize,
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn small(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(NONE)
}

/// What is published, beside its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    pub(super) entry: Flight,
    pub(super) payload_crc: u32,
    /// The longest frame body the server takes.
    pub(super) longest: u32,
}

/// Why something did not go into the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotPut {
    /// The table or the bytes have no room.
    Full,
    /// Its frame is longer than the server takes.
    TooLarge,
}

/// The longest frame kept for a server that takes such bodies: a number and an age may be spelled later.
fn longest_frame(body: u32) -> u32 {
    const SPELLED: usize = 2 + 10 + 10;
    body.saturating_add(small(frame::CRC_BYTES)).saturating_sub(small(SPELLED))
}

impl Outbox {
    /// Is something kept that is longer than a server takes?
    pub(super) fn holds_longer(&self, parts: &Parts<'_>, longest: u32) -> bool {
        let kept = parts.flights.get(self.begin..self.end).unwrap_or_default();
        let live = |entry: &&Flight| entry.progress != Progress::Done;
        kept.iter().filter(live).any(|entry| entry.length > longest_frame(longest))
    }

    /// Entries that are not stored or refused.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// Puts a message at the end. `Full`: the table or the bytes have no room; [`Outbox::compact`], or grow.
    pub(super) fn push(
        &mut self,
        parts: &mut Parts<'_>,
        new: New,
        message: &Message<'_>,
    ) -> Result<(), NotPut> {
        let entry = parts.flights.get_mut(self.end).ok_or(NotPut::Full)?;
        let mut cursor = Cursor::new(parts.window.get_mut(self.tail..).ok_or(NotPut::Full)?);
        cursor.put(message, new.payload_crc).map_err(|Full| NotPut::Full)?;
        let length = cursor.len();
        if small(length) > longest_frame(new.longest) {
            return Err(NotPut::TooLarge);
        }
        *entry = Flight { at: small(self.tail), length: small(length), next: NONE, ..new.entry };
        let at = small(self.end);
        if let Some(lane) = parts.lanes.get_mut(index(new.entry.lane)) {
            link(lane, parts.flights, at);
        }
        self.end += 1;
        self.tail += length;
        self.live += 1;
        self.live_bytes += length;
        Ok(())
    }

    /// What is missing for a message that did not fit: an entry, and how many bytes.
    pub(super) fn wants(&self, parts: &Parts<'_>, message: &Message<'_>) -> (bool, usize) {
        // Kind, length, checksum, route, lengths and extras at their longest: growing a little more costs nothing.
        const HEAD: usize = 6 * 1024;
        let wanted = message.payload().len() + HEAD;
        (self.end >= parts.flights.len(), wanted.saturating_sub(parts.window.len() - self.tail))
    }

    /// Moves what lives together; says whether that made room worth its cost.
    pub(super) fn compact(&mut self, parts: &mut Parts<'_>) -> bool {
        let dead_bytes = self.tail - self.live_bytes;
        let dead = self.end - self.live;
        let gains = |dead: usize, all: usize| dead > 0 && (all <= SMALL || dead >= all / 4);
        if !gains(dead_bytes, parts.window.len()) && !gains(dead, parts.flights.len()) {
            return false;
        }
        for lane in parts.lanes.iter_mut() {
            (lane.head, lane.tail, lane.unsent) = (NONE, NONE, NONE);
        }
        let (mut to, mut tail, mut cursor) = (0, 0, 0);
        for from in self.begin..self.end {
            let Some(&entry) =
                parts.flights.get(from).filter(|entry| entry.progress != Progress::Done)
            else {
                continue;
            };
            let at = index(entry.at);
            parts.window.copy_within(at..at + index(entry.length), tail);
            if let Some(place) = parts.flights.get_mut(to) {
                *place = Flight { at: small(tail), next: NONE, ..entry };
            }
            if let Some(lane) = parts.lanes.get_mut(index(entry.lane)) {
                link(lane, parts.flights, small(to));
            }
            if from < self.cursor {
                cursor = to + 1;
            }
            to += 1;
            tail += index(entry.length);
        }
        (self.begin, self.end, self.tail, self.cursor) = (0, to, tail, cursor);
        true
    }

    /// Everything of a lane through `last` is stored or refused: its entries are done and leave the credit.
    pub(super) fn ack(
        &mut self,
        parts: &mut Parts<'_>,
        lane: usize,
        last: Number,
        window: &mut Window,
    ) {
        let Some(slot) = parts.lanes.get_mut(lane) else { return };
        slot.acked = slot.acked.max(last);
        while let Some(entry) =
            parts.flights.get_mut(index(slot.head)).filter(|entry| entry.last() <= last)
        {
            if entry.progress == Progress::Sent {
                window.release(entry.amount());
            }
            if slot.unsent == slot.head {
                slot.unsent = entry.next;
            }
            entry.progress = Progress::Done;
            self.live -= 1;
            self.live_bytes -= index(entry.length);
            slot.head = entry.next;
        }
        if slot.head == NONE {
            slot.tail = NONE;
        }
        self.forget_done(parts);
    }

    fn forget_done(&mut self, parts: &Parts<'_>) {
        if self.live == 0 {
            *self = Self::default();
            return;
        }
        while self.begin < self.end
            && parts.flights.get(self.begin).is_some_and(|entry| entry.progress == Progress::Done)
        {
            self.begin += 1;
        }
        self.cursor = self.cursor.max(self.begin);
    }

    /// What was sent of a lane is not in flight any more: it leaves the credit, and goes out again when the lane is open.
    pub(super) fn unsend(&mut self, parts: &mut Parts<'_>, lane: usize, window: &mut Window) {
        let Some(slot) = parts.lanes.get_mut(lane) else { return };
        let mut at = slot.head;
        while let Some(entry) = parts.flights.get_mut(index(at)) {
            if entry.progress == Progress::Sent {
                entry.progress = Progress::Unsent;
                window.release(entry.amount());
            }
            at = entry.next;
        }
        slot.unsent = slot.head;
    }

    /// Something can be sent that could not: all entries are looked at again.
    pub(super) const fn rewind(&mut self) {
        self.cursor = self.begin;
    }

    /// The next entry that may be sent: of an urgent lane first, then in the order they were published.
    pub(super) fn next(
        &mut self,
        parts: &Parts<'_>,
        urgent: bool,
        sends: impl Fn(&LaneSlot, &Flight) -> bool,
    ) -> Option<usize> {
        let can = |at: usize| {
            let entry = parts.flights.get(at)?;
            let lane = parts.lanes.get(index(entry.lane))?;
            (entry.progress == Progress::Unsent && sends(lane, entry)).then_some(at)
        };
        let waits = |lane: &&LaneSlot| lane.urgent && lane.unsent != NONE;
        if urgent {
            let first = parts.lanes.iter().filter(waits).find_map(|lane| can(index(lane.unsent)));
            if first.is_some() {
                return first;
            }
        }
        while self.cursor < self.end {
            if let Some(at) = can(self.cursor) {
                return Some(at);
            }
            self.cursor += 1;
        }
        None
    }

    /// The entry at `at` went out.
    pub(super) fn sent(&mut self, parts: &mut Parts<'_>, at: usize) {
        let Some(entry) = parts.flights.get_mut(at) else { return };
        entry.progress = Progress::Sent;
        if let Some(lane) = parts.lanes.get_mut(index(entry.lane)) {
            lane.unsent = entry.next;
            lane.wire_next = Number(entry.last().0.saturating_add(1));
        }
        if at == self.cursor {
            self.cursor += 1;
        }
    }

    /// Gives everything that lives new numbers from 1 on; says old and new of each.
    pub(super) fn renumber(
        &mut self,
        parts: &mut Parts<'_>,
        mut told: impl FnMut(&Flight, Number),
    ) {
        for lane in parts.lanes.iter_mut() {
            let mut next = Number(1);
            let mut at = lane.head;
            while let Some(entry) = parts.flights.get_mut(index(at)) {
                told(entry, next);
                entry.first = next;
                next = Number(entry.last().0 + 1);
                at = entry.next;
            }
            (lane.acked, lane.next) = (Number(0), next);
        }
    }
}

/// Puts the entry at `at` behind its lane's others.
fn link(lane: &mut LaneSlot, flights: &mut [Flight], at: u32) {
    match flights.get_mut(index(lane.tail)) {
        Some(last) => last.next = at,
        None => lane.head = at,
    }
    lane.tail = at;
    let unsent = flights.get(index(at)).is_some_and(|entry| entry.progress == Progress::Unsent);
    if unsent && lane.unsent == NONE {
        lane.unsent = at;
    }
}

impl Flight {
    /// What it takes of the credit.
    pub(super) const fn amount(&self) -> Amount {
        Amount { events: self.count, bytes: self.payload }
    }
}
