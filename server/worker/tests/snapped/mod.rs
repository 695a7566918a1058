//! Snapshots in tests: made while the power may go, and a log that is read as if it had none.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{ops::Range, sync::Arc};

use spile_log::{
    Append, AppendError, Durable, Health, KeepError, Listener, Log, ReadError, Record, SegmentInfo,
    SimDisk, Thinned,
    disk::sim::{Choose, Random},
};
use spile_worker::{
    EventLog, Worker,
    log::{Held, PutPieces, Read},
};
use tokio::sync::watch;

/// A log whose snapshots are not looked at.
struct Alone(Log);

/// The log alone: its snapshots are not looked at.
pub fn alone(log: &Log) -> Arc<dyn EventLog> {
    Arc::new(Alone(log.clone()))
}

impl EventLog for Alone {
    fn append(
        &self,
        generation: u64,
        records: &mut Vec<Append>,
        reserved: bool,
    ) -> Result<Range<u64>, AppendError> {
        EventLog::append(&self.0, generation, records, reserved)
    }
    fn durable(&self) -> watch::Receiver<Durable> {
        self.0.durable()
    }
    fn listen(&self, listener: Listener) {
        self.0.listen(listener);
    }
    fn read(&self, from: u64) -> Box<dyn Read> {
        EventLog::read(&self.0, from)
    }
    fn read_stream(&self, stream: u64, last: u64, version: u64) -> Box<dyn Read> {
        EventLog::read_stream(&self.0, stream, last, version)
    }
    fn position_at(&self, time_ms: u64) -> Result<u64, ReadError> {
        EventLog::position_at(&self.0, time_ms)
    }
    fn start(&self) -> u64 {
        EventLog::start(&self.0)
    }
    fn health(&self) -> Health {
        self.0.health()
    }
    fn thin(
        &self,
        position: u64,
        rewrite_percent: u64,
        wanted: &mut dyn FnMut(&Record) -> bool,
        sure: &mut dyn FnMut() -> bool,
    ) -> Result<Thinned, KeepError> {
        EventLog::thin(&self.0, position, rewrite_percent, wanted, sure)
    }
    fn sealed(&self) -> Vec<SegmentInfo> {
        self.0.sealed()
    }
    fn snapshots(&self) -> Result<Vec<u64>, KeepError> {
        Ok(Vec::new())
    }
    fn newest_snapshot(&self) -> Result<Option<Held>, KeepError> {
        Ok(None)
    }
    fn begin_snapshot(&self, position: u64) -> Result<Box<dyn PutPieces>, KeepError> {
        self.0.begin_snapshot(position)
    }
}

/// The views are the same; else this says which rows are not.
pub fn same(views: &str, wanted: &str, what: &str) {
    let lacks = |one: &str, of: &str| -> Vec<String> {
        let other: std::collections::HashSet<&str> = of.lines().collect();
        one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    let (more, less) = (lacks(views, wanted), lacks(wanted, views));
    assert!(views == wanted, "{what}: has {more:#?}, lacks {less:#?}");
}

/// Makes snapshots until the newest holds all.
pub fn all(worker: &Worker) {
    while worker.snapshot().unwrap().is_some() {}
}

/// Makes a snapshot or several, and sometimes the power goes meanwhile: then this says so.
pub fn take(worker: &Worker, disk: &SimDisk, random: &mut Random) -> bool {
    if random.choose(2) == 0 {
        disk.cut_power_at(disk.operations() + 1 + random.choose(60));
    }
    let mut made = worker.snapshot();
    for _ in 0..random.choose(20) {
        if matches!(made, Ok(Some(_))) {
            made = worker.snapshot();
        }
    }
    let off = disk.is_off();
    disk.cut_power_at(u64::MAX);
    if let Err(why) = made {
        // A full disk takes none; the next one does.
        let full = ["no space", "only a part"].map(|text| why.to_string().contains(text));
        assert!(off || full.contains(&true), "{why}");
    }
    off
}

/// Retention, and sometimes the power goes meanwhile: then this says so.
pub fn retain(worker: &Worker, disk: &SimDisk, random: &mut Random) -> bool {
    if random.choose(3) == 0 {
        disk.cut_power_at(disk.operations() + 1 + random.choose(60));
    }
    worker.retain();
    let off = disk.is_off();
    disk.cut_power_at(u64::MAX);
    off
}
