//! The log on a real folder, with its threads: append, wait, read, start again.

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
