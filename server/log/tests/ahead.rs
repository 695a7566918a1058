//! The next segment's file is there, filled with zeros, before a log that grows fast begins it.
#![allow(clippy::unwrap_used, reason = "a test that fails may stop")]

mod plain;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spile_log::disk::sim::{Fault, FaultKind};
use spile_log::{Disk, DiskFile, Log, Options, RealDisk, SimDisk, State};

const SEGMENT: u64 = 64 << 10;
const AHEAD: &str = "ahead.tmp";

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT,
        reserve_bytes: 0,
        free_bytes_low: 0,
        inline: true,
        ..Options::default()
    }
}

fn open(disk: &SimDisk, options: Options) -> Log {
    Log::open(Arc::new(disk.clone()), options).unwrap().0
}

fn put(log: &Log, bytes: usize) {
    let record = plain::record(1, Bytes::from(vec![7; bytes]));
    let generation = log.durable().borrow().generation;
    log.append(generation, &mut vec![record]).unwrap();
    log.pump();
}

fn bytes_of(disk: &SimDisk, name: &str) -> Option<usize> {
    disk.files().into_iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.len())
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.files().into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(".segment")).collect()
}

#[test]
fn a_log_that_grows_fast_begins_its_next_segment_in_zeros() {
    let disk = SimDisk::new(1);
    let log = open(&disk, options());
    put(&log, 100);
    log.tend();
    assert_eq!(bytes_of(&disk, AHEAD), None, "it grew by less than a part of a segment");
    put(&log, 17 << 10);
    log.tend();
    assert_eq!(bytes_of(&disk, AHEAD), None, "and by so much that all would be written twice");
    put(&log, 2000);
    log.tend();
    let zeros = bytes_of(&disk, AHEAD).unwrap();
    assert!(zeros as u64 > SEGMENT, "{zeros}");
    while segments(&disk).len() == 1 {
        put(&log, 3000);
    }
    assert_eq!(bytes_of(&disk, AHEAD), None, "it is the segment now");
    let second = segments(&disk).pop().unwrap();
    assert_eq!(bytes_of(&disk, &second), Some(zeros));
    // Nothing of it grows: each batch is one write and one sync.
    for _ in 0..15 {
        let before = disk.operations();
        put(&log, 3000);
        assert_eq!((disk.operations() - before, bytes_of(&disk, &second)), (2, Some(zeros)));
    }
    let end = log.durable().borrow().end;
    drop(log);
    let (log, recovered) = Log::open(Arc::new(disk.kill()), options()).unwrap();
    assert!(recovered.damages.is_empty() && recovered.torn.is_none(), "{recovered:?}");
    assert_eq!(log.durable().borrow().end, end);
}

#[test]
fn a_segment_that_would_grow_ends_where_the_next_is_there() {
    let disk = SimDisk::new(1);
    // More than is filled while the disk is idle.
    let log = open(&disk, Options { segment_bytes: 4 << 20, ..options() });
    put(&log, 100 << 10);
    log.tend();
    assert!(bytes_of(&disk, AHEAD).is_some());
    for _ in 0..3 {
        put(&log, 100 << 10);
    }
    assert_eq!(segments(&disk).len(), 2);
    assert_eq!(bytes_of(&disk, AHEAD), None);
    for _ in 0..8 {
        put(&log, 100 << 10);
    }
    assert_eq!(segments(&disk).len(), 2, "there was no other");
}

#[test]
fn its_room_is_given_up_before_the_log_takes_less() {
    const KEPT: u64 = 4 << 10;
    let disk = SimDisk::new(1);
    let log = open(&disk, Options { free_bytes_low: KEPT, ..options() });
    let used = || disk.files().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    put(&log, 100);
    log.tend();
    disk.set_capacity(used() + KEPT + SEGMENT * 2);
    put(&log, 3000);
    log.tend();
    assert_eq!(bytes_of(&disk, AHEAD), None, "there is no room for two segments more");
    disk.set_capacity(used() + KEPT + SEGMENT * 2 + 1);
    put(&log, 3000);
    log.tend();
    assert!(bytes_of(&disk, AHEAD).is_some());
    disk.set_capacity(used() + KEPT - 1);
    log.tend();
    assert_eq!(bytes_of(&disk, AHEAD), None);
    log.tend();
    assert_eq!(log.durable().borrow().state, State::Running, "that is room enough");
}

#[test]
fn a_sync_of_it_that_fails_ends_the_log() {
    let mut failed = 0;
    for at in 1..200 {
        let disk = SimDisk::new(1);
        let log = open(&disk, options());
        put(&log, 3000);
        let before = disk.operations();
        let kind = FaultKind::LostSync;
        disk.set_fault(Some(Fault { at: before + at, sticky: false, kind }));
        log.tend();
        if disk.operations() < before + at {
            break;
        }
        let state = log.durable().borrow().state;
        failed += usize::from(state == State::Poisoned && bytes_of(&disk, AHEAD).is_some());
    }
    assert!(failed >= 8, "{failed} slices");
}

#[test]
fn a_log_that_is_closed_leaves_none_and_one_that_is_killed_leaves_it_to_the_next_start() {
    let disk = SimDisk::new(1);
    let log = open(&disk, options());
    put(&log, 3000);
    log.tend();
    let killed = disk.kill();
    log.close();
    assert_eq!(bytes_of(&disk, AHEAD), None);
    assert!(bytes_of(&killed, AHEAD).is_some());
    let _log = open(&killed, options());
    assert_eq!(bytes_of(&killed, AHEAD), None);
}

/// With its own threads, on a real disk.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test has a clock")]
fn the_keeper_fills_it_while_events_come() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let options = Options { inline: false, ..options() };
    let (log, _) = Log::open(Arc::new(disk), options).unwrap();
    let zeros = SEGMENT + SEGMENT / 64;
    let is_filled = || {
        std::fs::read_dir(folder.path()).unwrap().any(|entry| {
            // A name that is gone by now was renamed.
            entry.unwrap().metadata().is_ok_and(|found| found.len() == zeros)
        })
    };
    while !is_filled() {
        put(&log, 2000);
        // The keeper looks each second.
        let put = Instant::now();
        while !is_filled() && put.elapsed() < Duration::from_secs(2) {
            std::thread::yield_now();
        }
    }
    log.close();
}

/// A disk on which the last step of beginning a segment takes so long that the keeper looks meanwhile.
#[derive(Debug)]
struct Slow {
    disk: RealDisk,
    folder: PathBuf,
    /// The keeper has begun another file ahead while a segment was begun.
    met: AtomicBool,
}

impl Slow {
    /// Which file is made ahead, and how long it is.
    fn ahead(&self) -> Option<(u64, u64)> {
        let found = std::fs::metadata(self.folder.join(AHEAD)).ok()?;
        Some((found.ino(), found.len()))
    }
}

impl Disk for Slow {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }
    #[expect(clippy::disallowed_methods, reason = "a test has a clock")]
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let of = |file: Option<(u64, u64)>| file.map(|(of, _)| of);
        let (before, begun) = (of(self.ahead()), Instant::now());
        // The keeper looks each second.
        while to.ends_with(".segment") && begun.elapsed() < Duration::from_secs(2) {
            if of(self.ahead()).is_some_and(|now| before != Some(now)) {
                self.met.store(true, Ordering::Relaxed);
                break;
            }
            std::thread::yield_now();
        }
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    fn total_bytes(&self) -> io::Result<u64> {
        self.disk.total_bytes()
    }
    fn passed(&self) -> Duration {
        self.disk.passed()
    }
    fn random(&self) -> io::Result<[u8; 32]> {
        self.disk.random()
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has a clock")]
fn a_segment_that_is_begun_and_the_next_file_ahead_never_share_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let path = folder.path().to_owned();
    let slow = Arc::new(Slow { disk, folder: path, met: AtomicBool::new(false) });
    let options = Options { inline: false, segment_bytes: 4 << 20, ..options() };
    let (log, _) = Log::open(slow.clone(), options.clone()).unwrap();
    while !slow.met.load(Ordering::Relaxed) {
        // As much as makes it grow out of its zeros, and not as fast as the disk.
        for _ in 0..3 {
            put(&log, 100 << 10);
        }
        let (next, begun) = (log.next(), Instant::now());
        let is_filled = || slow.ahead().is_some_and(|(_, bytes)| bytes > options.segment_bytes);
        while log.durable().borrow().end < next
            || (!is_filled() && begun.elapsed() < Duration::from_secs(2))
        {
            std::thread::yield_now();
        }
    }
    put(&log, 1000);
    log.close();
    let end = log.next();
    drop(log);
    let disk = RealDisk::open(folder.path()).unwrap();
    let (log, recovered) = Log::open(Arc::new(disk), options).unwrap();
    assert_eq!(log.durable().borrow().end, end, "{recovered:?}");
}
