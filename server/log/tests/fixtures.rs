//! Logs of each released format, which must open for ever with the same records.
//!
//! `SPILE_LOG_WRITE_FIXTURES=1 cargo test -p spile-log --test fixtures` writes those of a new format; released ones are never
//! written again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails may stop")]

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use spile_log::{Append, Log, NEW_STREAM, Options, Position, Retain, SimDisk, StreamItem};

const FORMATS: [&str; 1] = ["format-1"];

fn folder(format: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format)
}

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        reserve_bytes: 0,
        free_bytes_low: 0,
        prefill: false,
        inline: true,
        ..Options::default()
    }
}

/// Everything the format has: streams, blocks of several positions, large payloads, a rewritten segment, a snapshot, damage that
/// was accepted, an open segment.
fn make() -> SimDisk {
    let disk = SimDisk::new(1);
    let (log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    let mut ends = [(0_u64, 0_u64, 0_u64); 3];
    for n in 0..66_u64 {
        let end = &mut ends[usize::try_from(n % 3).unwrap()];
        let positions = 1 + u32::try_from(n % 4).unwrap();
        let size = [10, 300, 1500][usize::try_from(n % 3).unwrap()];
        let payload = Bytes::from(format!("{n:05}").repeat(size / 5));
        let stream = if end.0 == 0 { NEW_STREAM } else { end.0 };
        let alone = n % 11 == 10;
        let append = Append {
            kind: 1 + u8::try_from(n % 5).unwrap(),
            positions,
            time_ms: 1_000 + n * 10,
            stream: if alone { 0 } else { stream },
            version: if alone { 0 } else { end.2 + 1 },
            prev: if alone { 0 } else { end.1 },
            head: Bytes::from(format!("head {n}")),
            payload_crc: crc32fast::hash(&payload),
            payload,
        };
        let at = log.append(1, &mut vec![append]).unwrap().start.get();
        if !alone {
            *end = (if end.0 == 0 { at } else { end.0 }, at, end.2 + u64::from(positions));
        }
        if n % 2 == 1 {
            log.pump();
            log.tend();
        }
    }
    let mut snapshot = log.snapshot(log.durable().borrow().end).unwrap();
    snapshot.write(b"what views were").unwrap();
    snapshot.finish().unwrap();
    let rule = Retain {
        before: log.next(),
        older_than_ms: Some(1_300),
        bytes_max: None,
        rewrite_percent: 90,
    };
    let done = log.retain(&rule, &mut |record| record.position.get() % 4 == 2).unwrap();
    assert!(!done.rewritten.is_empty());
    log.close();
    // A payload rots in a sealed segment, and an operator accepts it.
    let name =
        disk.files().into_iter().filter(|(name, _)| name.ends_with(".segment")).nth(1).unwrap().0;
    disk.rot(&name, 4096 + 64 + 150, 4);
    let (log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    let mut reader = log.read(Position::FIRST);
    while reader.next(4096).unwrap().is_some() {}
    let damage = log.health().damages.first().cloned().unwrap();
    log.accept(damage.from..damage.to).unwrap();
    log.close();
    disk
}

/// Every record and gap, a line each.
fn listing(log: &Log) -> String {
    let mut out = String::new();
    let mut reader = log.read(Position::FIRST);
    let mut streams = std::collections::BTreeMap::new();
    while let Some(block) = reader.next(5000).unwrap() {
        if let Some(gap) = block.gap() {
            writeln!(out, "gap {}..{} {:?}", gap.range.start, gap.range.end, gap.kind).unwrap();
        }
        for r in block.records() {
            writeln!(
                out,
                "{} +{} kind {} time {} stream {} version {} prev {} head {:?} payload {} {:08x}",
                r.position,
                r.positions,
                r.kind,
                r.time_ms,
                r.stream,
                r.version,
                r.prev,
                r.head,
                r.payload.len(),
                r.payload_crc
            )
            .unwrap();
            assert_eq!(crc32fast::hash(&r.payload), r.payload_crc);
            if r.stream != 0 {
                streams.insert(r.stream, r.position);
            }
        }
    }
    for (stream, last) in streams {
        let mut reader = log.read_stream(stream, last, 0);
        write!(out, "stream {stream}:").unwrap();
        while let Some(item) = reader.next(4096).unwrap() {
            match item {
                StreamItem::Records(records) => {
                    records.iter().for_each(|r| write!(out, " {}", r.version).unwrap())
                }
                StreamItem::Gap(gap) => write!(out, " gap {:?}", gap.kind).unwrap(),
            }
        }
        out.push('\n');
    }
    let snapshot = log.newest_snapshot().unwrap().unwrap();
    writeln!(out, "snapshot {}", snapshot.position()).unwrap();
    out
}

#[test]
fn released_formats_open_for_ever() {
    if std::env::var("SPILE_LOG_WRITE_FIXTURES").is_ok() {
        write_newest();
    }
    for format in FORMATS {
        let disk = SimDisk::new(9);
        let mut expected = None;
        for entry in std::fs::read_dir(folder(format)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match name.as_str() {
                "expected.txt" => expected = Some(std::fs::read_to_string(path).unwrap()),
                _ => disk.put(&name, std::fs::read(path).unwrap()),
            }
        }
        let report = spile_log::verify(&disk).unwrap();
        assert!(
            report.is_good() && report.damages.len() == 1 && report.torn.is_none(),
            "{report:?}"
        );
        let (log, recovered) = Log::open(Arc::new(disk), options()).unwrap();
        assert_eq!((recovered.unproven, recovered.waiting), (0, None));
        assert_eq!(listing(&log), expected.unwrap(), "{format}");
        assert!(log.health().is_good(), "{:?}", log.health());
    }
}

/// A segment of a later format is refused by name.
#[test]
fn a_later_format_is_refused() {
    let disk = make();
    let (name, mut bytes) =
        disk.files().into_iter().find(|(name, _)| name.ends_with(".segment")).unwrap();
    for at in [0, 2048] {
        bytes[at + 8] = 2;
        let check = crc32fast::hash(&bytes[at..at + 252]).to_le_bytes();
        bytes[at + 252..at + 256].copy_from_slice(&check);
    }
    disk.put(&name, bytes);
    let before = disk.files();
    let error = Log::open(Arc::new(disk.clone()), options()).unwrap_err();
    assert!(matches!(error, spile_log::OpenError::Version { version: 2, .. }), "{error}");
    assert!(disk.files() == before, "nothing is touched");
}

fn write_newest() {
    let disk = make();
    let folder = folder(FORMATS.last().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in disk.files() {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let (log, _) = Log::open(Arc::new(disk.kill()), options()).unwrap();
    std::fs::write(folder.join("expected.txt"), listing(&log)).unwrap();
}
