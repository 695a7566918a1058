//! The log on a real folder, with its threads: append, wait, read, start again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails may stop"
)]

use std::sync::Arc;

use bytes::Bytes;
use spile_log::{
    Append, Block, Durable, Log, NEW_STREAM, Options, Position, RealDisk, State, in_this_call,
};

fn record(payload: &[u8]) -> Append {
    Append {
        kind: 1,
        positions: 1,
        time_ms: 5,
        stream: 0,
        version: 0,
        prev: 0,
        head: Bytes::from_static(b"head"),
        payload: Bytes::copy_from_slice(payload),
        payload_crc: crc32fast::hash(payload),
    }
}

fn open(path: &std::path::Path, options: Options) -> (Log, spile_log::Recovered) {
    Log::open(Arc::new(RealDisk::open(path).unwrap()), options).unwrap()
}

fn options() -> Options {
    Options { reserve_bytes: 1 << 16, free_bytes_low: 0, ..Options::default() }
}

fn wait(log: &Log, end: Position) -> Durable {
    let mut durable = log.durable();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        *durable.wait_for(|d| d.end >= end || d.state != State::Running).await.unwrap()
    })
}

fn payloads(log: &Log, from: u64, max: usize) -> Vec<(u64, Bytes)> {
    let mut reader = log.read(from.into());
    let mut all = Vec::new();
    while let Some(block) = reader.next(max).unwrap() {
        assert_eq!(block.gap(), None);
        all.extend(block.records().map(|r| (r.position.get(), r.payload)));
    }
    all
}

#[test]
fn what_was_stored_is_read_back_by_this_start_and_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let want: Vec<Vec<u8>> =
        (0..300_usize).map(|n| vec![u8::try_from(n % 251).unwrap(); n * 17]).collect();
    {
        let (log, recovered) = open(folder.path(), options());
        assert_eq!(recovered.end, Position::FIRST);
        for some in want.chunks(7) {
            let mut records = some.iter().map(|p| record(p)).collect();
            let range = log.append(1, &mut records).unwrap();
            assert!(records.is_empty());
            wait(&log, range.end);
        }
        check(&log, &want);
    }
    let (log, recovered) = open(folder.path(), options());
    assert_eq!(recovered.end.get(), 301);
    assert!(recovered.damages.is_empty(), "{recovered:?}");
    check(&log, &want);
    log.close();
    let (log, recovered) = open(folder.path(), options());
    assert_eq!(recovered.unproven, 0);
    check(&log, &want);
}

fn check(log: &Log, want: &[Vec<u8>]) {
    for (from, max) in [(1, 1), (1, 1 << 20), (150, 5000), (300, 1)] {
        let got = payloads(log, from, max);
        let expected: Vec<_> = (from..)
            .zip(want.iter().skip(usize::try_from(from).unwrap() - 1))
            .map(|(n, p)| (n, Bytes::from(p.clone())))
            .collect();
        assert_eq!(got.len(), expected.len());
        assert!(got == expected);
    }
}

#[test]
fn records_are_looked_at_where_they_lie_and_passed_or_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path(), options());
    let want: Vec<Vec<u8>> = (1..=40_u8).map(|n| vec![n; usize::from(n) * 9]).collect();
    for some in want.chunks(3) {
        let range = log.append(1, &mut some.iter().map(|p| record(p)).collect()).unwrap();
        wait(&log, range.end);
    }
    // From within: what stands before is not seen. Every batch is gone into, every third record is taken, others passed.
    for from in [1, 2, 20, 40] {
        let mut reader = log.read(from.into());
        let mut next = from;
        while let Some(block) = reader.next(2_000).unwrap() {
            let (mut records, end) = (block.records(), block.next());
            while !records.is_empty() {
                assert_eq!(records.end(), Some(end));
                let mut seen = 0;
                let passed = records.pass_if(|record| {
                    seen = record.position.get();
                    assert_eq!((record.head, record.kind), (&b"head"[..], 1));
                    assert_eq!(record.payload_crc, crc32fast::hash(record.payload));
                    assert_eq!(record.payload, want[usize::try_from(seen).unwrap() - 1]);
                    seen % 3 != 0
                });
                assert_eq!((seen, passed), (next, next % 3 != 0));
                if !passed {
                    assert_eq!(records.next().unwrap().position.get(), next);
                }
                next += 1;
            }
            assert!(!records.pass_if(|_| true) && records.next().is_none());
            assert_eq!((records.end(), end.get()), (None, next));
        }
        assert_eq!(next, 41);
    }
}

#[test]
fn segments_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 16 << 10, ..options() };
    let want: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; 1500]).collect();
    let (log, _) = open(folder.path(), options.clone());
    for payload in &want {
        let range = log.append(1, &mut vec![record(payload)]).unwrap();
        wait(&log, range.end);
    }
    check(&log, &want);
    let segments = log.health().segments;
    assert!(segments > 10, "{segments}");
    drop(log);
    let (log, recovered) = open(folder.path(), options);
    assert!(recovered.damages.is_empty(), "{recovered:?}");
    check(&log, &want);
}

#[test]
fn a_batch_takes_several_positions_and_streams_name_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path(), options());
    let first = Append { positions: 10, stream: NEW_STREAM, version: 1, ..record(b"ten") };
    let second =
        Append { stream: in_this_call(0), version: 11, prev: in_this_call(0), ..record(b"one") };
    let range = log.append(1, &mut vec![first, second]).unwrap();
    assert_eq!((range.start.get(), range.end.get()), (1, 12));
    wait(&log, range.end);
    let block: Block = log.read(Position::FIRST).next(1 << 16).unwrap().unwrap();
    let records: Vec<_> = block.records().collect();
    assert_eq!((records[0].stream, records[0].positions), (1, 10));
    assert_eq!((records[1].stream, records[1].prev, records[1].position.get()), (1, 1, 11));
    assert_eq!(records[1].head, &b"head"[..]);
}

/// Two streams, interleaved over many small segments; `last[n]` is where each ended.
fn two_streams(log: &Log, count: u64) -> [(u64, u64); 2] {
    let mut ends = [(0, 0); 2];
    for version in 1..=count {
        for end in &mut ends {
            let fresh = end.0 == 0;
            let stream = if fresh { NEW_STREAM } else { end.0 };
            let payload = format!("{}-{version}", if fresh { 0 } else { end.0 }).repeat(60);
            let time_ms = version * 10;
            let append =
                Append { stream, version, prev: end.1, time_ms, ..record(payload.as_bytes()) };
            let range = log.append(1, &mut vec![append]).unwrap();
            let position = range.start.get();
            *end = (if fresh { position } else { end.0 }, position);
            wait(log, range.end);
        }
    }
    ends
}

fn versions(log: &Log, stream: u64, last: u64, from: u64) -> Vec<u64> {
    let mut reader = log.read_stream(stream, last.into(), from);
    let mut got = Vec::new();
    while let Some(item) = reader.next(2000).unwrap() {
        match item {
            spile_log::StreamItem::Records(records) => {
                got.extend(records.iter().map(|r| r.version))
            }
            spile_log::StreamItem::Gap(gap) => panic!("{gap:?}"),
        }
    }
    got
}

#[test]
fn a_stream_is_read_without_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 16 << 10, ..options() };
    let (log, _) = open(folder.path(), options.clone());
    let ends = two_streams(&log, 150);
    let check = |log: &Log| {
        for (stream, last) in ends {
            for from in [0, 1, 2, 77, 149, 150, 151] {
                let want: Vec<u64> = (from.max(1)..=150).collect();
                // The record at `last` is read in any case to see that there is nothing to give.
                assert_eq!(versions(log, stream, last, from), want, "from {from}");
            }
        }
    };
    assert!(log.health().segments > 4);
    check(&log);
    drop(log);
    let (log, _) = open(folder.path(), options);
    check(&log);
    for time in [0, 10, 11, 500, 1500] {
        let want = log.read(Position::FIRST);
        let found = log.position_at(time).unwrap();
        assert_eq!(found.get(), time.div_ceil(10).max(1) * 2 - 1, "at {time}, {want:?}");
    }
    assert_eq!(log.position_at(1501).unwrap(), log.next());
}

#[test]
fn retention_waits_for_a_snapshot_and_leaves_what_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 16 << 10, ..options() };
    let (log, _) = open(folder.path(), options.clone());
    let ends = two_streams(&log, 150);
    let rule = spile_log::Retain {
        before: log.next(),
        older_than_ms: Some(1000),
        bytes_max: None,
        rewrite_percent: 50,
    };
    let none = log.retain(&rule, &mut |_| false).unwrap();
    assert_eq!(none, spile_log::Retained::default(), "there is no snapshot yet");
    let mut snapshot = log.snapshot(log.durable().borrow().end).unwrap();
    snapshot.write(b"views").unwrap();
    snapshot.finish().unwrap();
    // One record of the first stream is wanted in the middle.
    let wanted = ends[0].0 + 2 * 40;
    let done = log.retain(&rule, &mut |r| r.position.get() == wanted).unwrap();
    assert!(!done.removed.is_empty() && !done.rewritten.is_empty(), "{done:?}");
    let check = |log: &Log| {
        let mut reader = log.read(Position::FIRST);
        let mut seen = Vec::new();
        while let Some(block) = reader.next(5000).unwrap() {
            assert!(
                block.gap().is_none_or(|gap| gap.kind == spile_log::GapKind::Removed),
                "{block:?}"
            );
            seen.extend(block.records().map(|r| r.position.get()));
        }
        assert!(seen.contains(&wanted));
        assert!(seen.is_sorted() && seen.last() == Some(&300));
        let first_whole = seen.iter().copied().find(|p| *p > wanted + 2).unwrap();
        assert_eq!(seen.iter().filter(|p| **p >= first_whole).count() as u64, 301 - first_whole);
        assert!(log.health().is_good(), "{:?}", log.health());
        assert_eq!(log.newest_snapshot().unwrap().unwrap().read().unwrap().unwrap(), &b"views"[..]);
    };
    check(&log);
    drop(log);
    let (log, recovered) = open(folder.path(), options);
    assert!(recovered.damages.is_empty(), "{recovered:?}");
    check(&log);
}

#[test]
fn many_read_while_one_writes() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 << 10, recent_bytes: 16 << 10, ..options() };
    let (log, _) = open(folder.path(), options);
    const COUNT: u64 = 3000;
    let read = |log: Log, max: usize| {
        move || {
            let mut reader = log.read(Position::FIRST);
            let mut durable = log.durable();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut told = |end: u64| {
                let told = durable.wait_for(|durable| durable.end.get() >= end);
                runtime.block_on(async { told.await.map(drop) }).unwrap();
            };
            let mut at = 1;
            while at <= COUNT {
                match reader.next(max).unwrap() {
                    Some(block) => {
                        assert_eq!(block.gap(), None);
                        for record in block.records() {
                            assert_eq!((record.position.get(), record.version), (at, at));
                            assert_eq!(record.payload, at.to_le_bytes().repeat(20));
                            at += 1;
                        }
                        // Readers are told of a sync before those who wait for it: what was read is told as durable by then or soon.
                        told(block.next().get());
                    }
                    None => told(at + 1),
                }
            }
        }
    };
    let mut readers: Vec<_> = [1, 5000, 1 << 20]
        .into_iter()
        .map(|max| std::thread::spawn(read(log.clone(), max)))
        .collect();
    // One follows the stream, again and again.
    let follower = log.clone();
    readers.push(std::thread::spawn(move || {
        let mut end = 1;
        while end < COUNT {
            end = follower.durable().borrow().end.get();
            let from = end.saturating_sub(500).max(1);
            let want: Vec<u64> = (from..end).collect();
            assert_eq!(versions(&follower, 1, end - 1, from), want);
        }
    }));
    for n in 1..=COUNT {
        let append = Append {
            stream: if n == 1 { NEW_STREAM } else { 1 },
            version: n,
            prev: n - 1,
            ..record(&n.to_le_bytes().repeat(20))
        };
        let range = log.append(1, &mut vec![append]).unwrap();
        if n % 50 == 0 {
            wait(&log, range.end);
        }
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn a_snapshot_that_was_given_up_is_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path(), options());
    let end = log.append(1, &mut (0..9).map(|_| record(b"x")).collect()).unwrap().end;
    wait(&log, end);
    for position in [3, 4, 5] {
        log.snapshot(Position::new(position)).unwrap().write(b"some of it").unwrap();
    }
    let mut whole = log.snapshot(Position::new(6)).unwrap();
    whole.write(b"all of it").unwrap();
    whole.finish().unwrap();
    let names = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let snapshots: Vec<&String> = names.iter().filter(|name| name.contains("snapshot")).collect();
    assert_eq!(snapshots, ["00000000000000000006.snapshot"]);
}
