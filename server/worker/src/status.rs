//! Counters, ready for whoever exports them, and what a worker says of itself.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use spile_protocol::time::Instant;

pub use crate::groups::{GroupMeasured, GroupsMeasured};
use crate::rates::{Counts, Rates};
pub use crate::services::{CALL_CLASSES, CALL_SECONDS, CallsMeasured, CallsStatus, OpenBreaker};
pub use crate::uploads::status::FilesStatus;

/// A number that many threads count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts up.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts down: a gauge.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions attached now.
    pub sessions: Counter,
    /// Events handed to the log.
    pub events: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// Numbers refused for good.
    pub voids: Counter,
    /// Numbers that came again.
    pub duplicates: Counter,
    /// Calls the log did not take.
    pub refused_calls: Counter,
    /// Events delivered.
    pub delivered_events: Counter,
    /// Their payload bytes.
    pub delivered_bytes: Counter,
    /// Links that are up.
    pub links: Counter,
    /// Events of groups handed out again.
    pub redelivered: Counter,
    /// Events of groups that were done.
    pub settled: Counter,
    /// Events of groups that died.
    pub died: Counter,
    /// Uploads sealed.
    pub sealed: Counter,
    /// Bytes of chunks handed to the chunk log.
    pub chunk_bytes: Counter,
    /// Bytes of blobs that were read.
    pub read_bytes: Counter,
    /// GETs that found something.
    pub found: Counter,
    /// GETs that found nothing, or nothing that is new enough.
    pub missed: Counter,
    /// Messages for inboxes handed to the log.
    pub inbox: Counter,
    /// Messages of inboxes that were done.
    pub inbox_settled: Counter,
    /// Dead letters that were sent out again.
    pub replayed: Counter,
    /// Dead letters that were dropped.
    pub dropped: Counter,
    rates: Mutex<Rates>,
}

/// What one call counted: added at once.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) bytes: usize,
    pub(crate) voids: u64,
    pub(crate) duplicates: u64,
    pub(crate) inbox: u64,
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Counters {
    /// Looks at what was counted, for the rates: once a second.
    pub(crate) fn look(&self, now: Instant) {
        self.rates().look(now, self.paced());
    }

    /// Events, their bytes and events delivered, in tenths a second; `None` in the first second.
    pub(crate) fn tenths(&self, now: Instant) -> Option<Counts> {
        self.rates().tenths(now, self.paced())
    }

    fn paced(&self) -> Counts {
        [self.events.get(), self.bytes.get(), self.delivered_events.get()]
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, tally: &Tally) {
        for (counter, n) in [
            (&self.events, tally.events),
            (&self.bytes, wide(tally.bytes)),
            (&self.voids, tally.voids),
            (&self.duplicates, tally.duplicates),
            (&self.inbox, tally.inbox),
        ] {
            if n > 0 {
                counter.add(n);
            }
        }
    }

    pub(crate) fn looked_up(&self, found: bool) {
        if found { &self.found } else { &self.missed }.add(1);
    }

    pub(crate) fn delivered(&self, events: u32, bytes: usize) {
        self.delivered_events.add(u64::from(events));
        self.delivered_bytes.add(wide(bytes));
    }
}

/// Microseconds, as milliseconds with a fraction.
fn millis<S: serde::Serializer>(micros: &Option<u64>, out: S) -> Result<S::Ok, S::Error> {
    let micros = micros.map(|micros| u32::try_from(micros).unwrap_or(u32::MAX));
    micros.map(|micros| f64::from(micros) / 1_000.0).serialize(out)
}

/// Tenths, as a number with a fraction.
fn tenths<S: serde::Serializer>(tenths: &Option<u64>, out: S) -> Result<S::Ok, S::Error> {
    let tenths = tenths.map(|tenths| u32::try_from(tenths).unwrap_or(u32::MAX));
    tenths.map(|tenths| f64::from(tenths) / 10.0).serialize(out)
}

/// How far a group is behind on this worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Whose it is.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// Its events that are neither settled nor dead, as far as the log was looked at for it.
    pub lag: u64,
    /// Positions that were not looked at for it: without a member nobody does.
    pub unread: u64,
}

/// Until a disk is full, in hours: so much is free, and so much an hour is written. `None` where it is not filling.
pub(crate) fn hours_left(free: Option<u64>, bytes_per_hour: Option<u64>) -> Option<u64> {
    free?.checked_div(bytes_per_hour?)
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its name: the first half of its positions.
    #[serde(rename = "name")]
    pub worker: String,
    /// How many slots it holds.
    pub slots: u32,
    /// Nothing is wrong with its log that nobody accepted.
    pub healthy: bool,
    /// What is wrong, in words; empty where nothing is.
    pub wrong: Vec<String>,
    /// The first position that is kept.
    pub start: u64,
    /// One past the last position on disk.
    pub end: u64,
    /// Streams that have events.
    pub streams: usize,
    /// Runs that are remembered.
    pub runs: usize,
    /// Principals in the registry.
    pub devices: usize,
    /// Values that are kept.
    pub values: usize,
    /// GETs that found something since the start.
    pub found: u64,
    /// GETs that found nothing, or nothing new enough.
    pub missed: u64,
    /// Sessions attached.
    pub sessions: u64,
    /// Links that are up.
    pub links: u64,
    /// Events taken since the start.
    pub events: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Numbers refused for good since the start.
    pub voids: u64,
    /// Numbers that came again since the start.
    pub duplicates: u64,
    /// Events delivered since the start.
    pub delivered: u64,
    /// Their payload bytes.
    pub delivered_bytes: u64,
    /// Events taken a second, over the last ten, in tenths; absent in the first.
    #[serde(serialize_with = "tenths", skip_serializing_if = "Option::is_none")]
    pub events_per_s: Option<u64>,
    /// Their payload bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Events delivered a second, in tenths.
    #[serde(serialize_with = "tenths", skip_serializing_if = "Option::is_none")]
    pub delivered_per_s: Option<u64>,
    /// Durable groups.
    pub groups: usize,
    /// Their events handed out and not settled.
    pub in_flight: u64,
    /// Their dead letters.
    pub dead: usize,
    /// Their events that are neither settled nor dead, as far as the log was looked at.
    pub lag: u64,
    /// Positions that were not looked at, of all of them.
    pub unread: u64,
    /// Those that are furthest behind, the furthest first.
    pub lags: Vec<Lag>,
    /// Their events handed out again since the start.
    pub redelivered: u64,
    /// Their events that were done since the start.
    pub settled: u64,
    /// Their events that died since the start.
    pub died: u64,
    /// Commits of the log, each one write and one sync, since the start.
    pub commits: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Bytes in them.
    pub log_bytes: u64,
    /// Bytes that wait for the disk.
    pub waiting_bytes: usize,
    /// Checkpoints of the views written since the start.
    pub checkpoints: u64,
    /// Snapshots of the views made since the start.
    pub snapshots: u64,
    /// Up to where the newest holds; 0 for none.
    pub snapshot: u64,
    /// Segments that retention removed since the start.
    pub segments_removed: u64,
    /// Those it rewrote with what is wanted of them.
    pub segments_rewritten: u64,
    /// Bytes that gave back.
    pub freed_bytes: u64,
    /// Uploads sealed since the start.
    pub sealed: u64,
    /// Bytes of chunks taken since the start.
    pub chunk_bytes: u64,
    /// Bytes of blobs read since the start.
    pub read_bytes: u64,
    /// Bytes free on the disk of its log; absent before it looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Bytes of that disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
    /// What half of the syncs of the last minute did not pass; absent where there was none.
    #[serde(rename = "sync_p50_ms", serialize_with = "millis")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_p50_us: Option<u64>,
    /// The same for 99 of 100.
    #[serde(rename = "sync_p99_ms", serialize_with = "millis")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_p99_us: Option<u64>,
    /// Until the disk is full at the rate of the last hour; absent where it is not filling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours_left: Option<u64>,
    /// How calls go.
    #[serde(flatten)]
    pub calls: CallsStatus,
    /// How uploads go.
    #[serde(flatten)]
    pub files: FilesStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_fill_has_no_end() {
        for (free, rate, want) in [
            (Some(100), Some(7), Some(14)),
            (Some(100), Some(0), None),
            (Some(100), None, None),
            (None, Some(7), None),
        ] {
            assert_eq!(hours_left(free, rate), want);
        }
    }
}
