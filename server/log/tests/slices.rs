//! A log of bulk beside another: it is synced in slices while the other is at work, durable as a whole, and leaves the room
//! on the disk that the other keeps.
#![allow(clippy::unwrap_used, reason = "a test that fails may stop")]

mod plain;

use std::sync::Arc;

use bytes::Bytes;
use spile_log::{Append, AppendError, Disk, Lead, Log, Options, SimDisk, State};

fn record(position: u64) -> Append {
    plain::record(position, Bytes::from(vec![7; 2000]))
}

/// What a batch of eight records costs the disk: operations.
fn batch(disk: &SimDisk, log: &Log) -> u64 {
    let (end, before) = (log.next().get(), disk.operations());
    log.append(1, &mut (end..end + 8).map(record).collect()).unwrap();
    assert!(log.pump() && !log.pump());
    assert_eq!(log.durable().borrow().end.get(), end + 8);
    disk.operations() - before
}

#[test]
fn bulk_is_synced_in_slices_while_the_other_log_is_at_work() {
    let (disk, lead) = (SimDisk::new(1), Lead::with_slices(4400));
    let options = Options {
        prefill: false,
        reserve_bytes: 0,
        free_bytes_low: 0,
        inline: true,
        follows: Some(lead.clone()),
        ..Options::default()
    };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    // As many writes as there are slices, and one sync.
    let idle = batch(&disk, &log);
    assert!(idle > 3, "{idle}");
    lead.begins();
    assert_eq!(batch(&disk, &log), 2 * (idle - 1), "a sync behind each write");
    lead.ends(std::time::Duration::ZERO);
    assert_eq!(batch(&disk, &log), idle);
    lead.begins();
    lead.ends(std::time::Duration::ZERO);
    assert_eq!(batch(&disk, &log), idle + 1, "it was at work since, and is no more");
    assert_eq!(batch(&disk, &log), idle);
}

#[test]
fn who_leads_is_at_work_with_each_of_its_batches() {
    let lead = Lead::with_slices(1 << 20);
    let open = |disk: &SimDisk, options: Options| {
        let options = Options { inline: true, reserve_bytes: 0, free_bytes_low: 0, ..options };
        Log::open(Arc::new(disk.clone()), Options { prefill: false, ..options }).unwrap().0
    };
    let (events, chunks) = (SimDisk::new(1), SimDisk::new(2));
    let first = open(&events, Options { leads: Some(lead.clone()), ..Options::default() });
    let second = open(&chunks, Options { follows: Some(lead), ..Options::default() });
    let big = |_: u64| plain::record(1, Bytes::from(vec![1; 900 << 10]));
    let both = || {
        let before = chunks.operations();
        second.append(1, &mut (0..3).map(big).collect()).unwrap();
        assert!(second.pump());
        chunks.operations() - before
    };
    let alone = both();
    batch(&events, &first);
    assert_eq!(both(), alone + 1);
    assert_eq!(both(), alone);
}

#[test]
fn bulk_ends_before_the_room_that_is_kept_and_goes_on_when_there_is_more() {
    const KEPT: u64 = 64 << 10;
    for ahead_bytes in [1, 8 << 10, 1 << 20] {
        let disk = SimDisk::new(1);
        disk.set_capacity(256 << 10);
        let options = Options {
            prefill: false,
            reserve_bytes: 0,
            free_bytes_low: KEPT,
            ahead_bytes,
            inline: true,
            ..Options::default()
        };
        let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
        let mut stored = 0;
        while log.durable().borrow().state == State::Running {
            assert!(stored < 200, "it took all there is");
            log.append(1, &mut vec![record(stored)]).unwrap();
            assert!(log.pump());
            stored = log.durable().borrow().end.get();
            assert!(disk.free_bytes().unwrap() >= KEPT, "{ahead_bytes}");
        }
        assert!(stored > 70, "{ahead_bytes}: full with {stored}");
        let generation = log.durable().borrow().generation;
        let refused = log.append(generation, &mut vec![record(1)]);
        assert_eq!(refused.unwrap_err(), AppendError::Full);
        disk.set_capacity(512 << 10);
        log.tend();
        log.append(generation, &mut vec![record(1)]).unwrap();
        assert!(log.pump());
        assert_eq!(log.durable().borrow().end.get(), stored + 1);
    }
}
