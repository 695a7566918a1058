//! Lone events that follow each other, joined into one delivery: what a device published one by one costs its consumer
//! as little as a batch.
//!
//! Joined are records of one prefix (one key, one topic, one run) at consecutive positions and versions, accepted in the
//! same millisecond, that spell nothing but their consecutive numbers: then all that a DELIVER says once holds for each
//! (spec §8.2). The invariant: the block's CRC is put together from those of the records, each its device's own, and is
//! never made from the bytes that were read.

use bytes::BytesMut;
use spile_log::{Record, RecordRef};
use spile_protocol::{crc, id::Number, limits, message::Extras};

use crate::{
    limits::JOINED_BYTES,
    record::{self, Tail, kind},
    unread::Unread,
};

/// How much may go in one delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub(crate) events: u32,
    pub(crate) bytes: usize,
    /// No event at or behind this position.
    pub(crate) until: u64,
}

/// A run of lone events.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) payload: Vec<u8>,
    pub(crate) lengths: Vec<usize>,
    pub(crate) payload_crc: u32,
    /// Of all payloads, copied or not.
    bytes: usize,
    joiner: crc::Joiner,
    /// The tail the next record must have.
    tail: BytesMut,
}

impl Joined {
    /// Takes from the front of `records` what continues `first`; false where nothing does.
    pub(crate) fn take(
        &mut self,
        first: &Record,
        tail: &Tail<'_>,
        records: &mut Unread,
        most: Most,
    ) -> bool {
        if first.kind != kind::EVENT || !tail.extras.is_empty() || tail.number.0 == 0 {
            return false;
        }
        let Ok((prefix, _)) = record::split(&first.head) else { return false };
        let most = Most {
            events: most.events.min(limits::BATCH_EVENTS),
            bytes: most.bytes.min(JOINED_BYTES),
            ..most
        };
        self.begin(first);
        while records.pass_if(|next| {
            let goes = self.has_room(most, next) && self.continues((first, prefix, tail), next);
            if goes {
                self.add(first, next);
            }
            goes
        }) {}
        self.lengths.len() > 1
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.lengths.len()).unwrap_or(u32::MAX)
    }

    /// Nothing is copied where nothing follows.
    fn begin(&mut self, first: &Record) {
        self.payload.clear();
        self.lengths.clear();
        self.lengths.push(first.payload.len());
        (self.bytes, self.payload_crc) = (first.payload.len(), first.payload_crc);
    }

    fn add(&mut self, first: &Record, next: &RecordRef<'_>) {
        if self.lengths.len() == 1 {
            self.payload.extend_from_slice(&first.payload);
        }
        self.payload.extend_from_slice(next.payload);
        self.lengths.push(next.payload.len());
        self.bytes += next.payload.len();
        self.payload_crc = self.joiner.join(self.payload_crc, next.payload_crc, next.payload.len());
    }

    fn has_room(&self, most: Most, next: &RecordRef<'_>) -> bool {
        self.count() < most.events
            && next.payload.len() <= most.bytes.saturating_sub(self.bytes)
            && next.position.get() < most.until
    }

    fn continues(
        &mut self,
        (first, prefix, tail): (&Record, &[u8], &Tail<'_>),
        next: &RecordRef<'_>,
    ) -> bool {
        let behind = u64::from(self.count());
        if next.kind != kind::EVENT
            || next.position.get() != first.position.get().saturating_add(behind)
            || next.version != first.version.saturating_add(behind)
        {
            return false;
        }
        let Some((begin, end)) = next.head.split_at_checked(prefix.len()) else { return false };
        let number = Number(tail.number.0.saturating_add(behind));
        self.tail.clear();
        let written =
            record::put_event(&mut self.tail, tail.time_ms, number, &Extras::default()).is_ok();
        written && *self.tail == *end && begin == prefix
    }
}
