//! Lone events that follow each other, joined into one delivery: what a device published one by one costs its consumer
//! as little as a batch.
//!
//! Joined are records of one prefix (one key, one topic, one run) at consecutive positions and versions, accepted in the
//! same millisecond, that spell nothing but their consecutive numbers: then all that a DELIVER says once holds for each
//! (spec §8.2). The invariant: the block's CRC is put together from those of the records, each its device's own, and is
//! never made from the bytes that were read.

use std::collections::VecDeque;

use bytes::BytesMut;
use spile_log::Record;
use spile_protocol::{crc, id::Number, limits, message::Extras};

use crate::{
    limits::JOINED_BYTES,
    record::{self, Tail, kind},
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
    /// The tail the next record must have.
    tail: BytesMut,
}

impl Joined {
    /// Takes from the front of `records` what continues `first`; false where nothing does.
    pub(crate) fn take(
        &mut self,
        first: &Record,
        tail: &Tail<'_>,
        records: &mut VecDeque<Record>,
        most: Most,
    ) -> bool {
        if first.kind != kind::EVENT || !tail.extras.is_empty() || tail.number.0 == 0 {
            return false;
        }
        let most = Most {
            events: most.events.min(limits::BATCH_EVENTS),
            bytes: most.bytes.min(JOINED_BYTES),
            ..most
        };
        let next = records.front();
        let fits = |next: &Record| first.payload.len() + next.payload.len() <= most.bytes;
        // Nothing is copied where nothing follows.
        self.lengths.clear();
        self.lengths.push(first.payload.len());
        if !next.is_some_and(|next| fits(next) && self.continues(first, tail, next)) {
            return false;
        }
        self.begin(first);
        while self.count() < most.events
            && let Some(next) = records.front()
            && self.payload.len() + next.payload.len() <= most.bytes
            && next.position.get() < most.until
            && self.continues(first, tail, next)
        {
            self.add(next);
            records.pop_front();
        }
        self.lengths.len() > 1
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.lengths.len()).unwrap_or(u32::MAX)
    }

    fn begin(&mut self, first: &Record) {
        self.payload.clear();
        self.lengths.clear();
        self.payload_crc = 0;
        self.add(first);
    }

    fn add(&mut self, record: &Record) {
        self.payload.extend_from_slice(&record.payload);
        self.lengths.push(record.payload.len());
        self.payload_crc = crc::join(self.payload_crc, record.payload_crc, record.payload.len());
    }

    fn continues(&mut self, first: &Record, tail: &Tail<'_>, next: &Record) -> bool {
        let behind = u64::from(self.count());
        if next.kind != kind::EVENT
            || next.position.get() != first.position.get().saturating_add(behind)
            || next.version != first.version.saturating_add(behind)
        {
            return false;
        }
        let Ok((prefix, _)) = record::split(&first.head) else { return false };
        let Some((begin, end)) = next.head.split_at_checked(prefix.len()) else { return false };
        let number = Number(tail.number.0.saturating_add(behind));
        self.tail.clear();
        let written =
            record::put_event(&mut self.tail, tail.time_ms, number, &Extras::default()).is_ok();
        written && *self.tail == *end && begin == prefix
    }
}
