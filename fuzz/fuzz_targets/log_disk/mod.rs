//! A small log on a simulated disk, and what must hold of it whatever was done to its bytes.

use std::sync::Arc;

use bytes::Bytes;
use spile_log::{Append, Log, NEW_STREAM, Options, Position, SimDisk, State, in_this_call};

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        queue_bytes: 64 << 10,
        reserve_bytes: 0,
        free_bytes_low: 0,
        prefill: false,
        inline: true,
        ..Options::default()
    }
}

fn record(n: u64) -> Append {
    let payload = Bytes::from(n.to_le_bytes().repeat(100));
    Append {
        kind: 1,
        positions: 1,
        time_ms: n,
        stream: 0,
        version: 0,
        prev: 0,
        head: Bytes::new(),
        payload_crc: crc(&payload),
        payload,
    }
}

/// CRC-32, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    })
}

/// Three segments of records whose payload is their position.
pub(crate) fn filled() -> SimDisk {
    use std::sync::OnceLock;
    static FILLED: OnceLock<SimDisk> = OnceLock::new();
    FILLED.get_or_init(fill).kill()
}

fn fill() -> SimDisk {
    let disk = SimDisk::new(1);
    let (log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    for _ in 0..15 {
        let n = log.next().get();
        let first = Append { stream: NEW_STREAM, version: 1, ..record(n) };
        let second =
            Append { stream: in_this_call(0), version: 2, prev: in_this_call(0), ..record(n + 1) };
        log.append(1, &mut vec![first, second, record(n + 2)]).unwrap();
        log.pump();
        log.tend();
    }
    log.close();
    disk
}

#[allow(dead_code, reason = "one of the targets does not need it")]
pub(crate) fn last_segment(disk: &SimDisk) -> (String, Vec<u8>) {
    disk.files().into_iter().rfind(|(name, _)| name.ends_with(".segment")).unwrap()
}

/// Six bytes are one step: which file, what to do, where (3) and with which value.
#[allow(dead_code, reason = "one of the targets does not need it")]
pub(crate) fn damage(disk: &SimDisk, data: &[u8]) {
    for step in data.chunks_exact(6) {
        let [file, how, a, b, c, value] = step else { continue };
        let files = disk.files();
        let Some((name, bytes)) = files.get(usize::from(*file) % files.len().max(1)) else {
            continue;
        };
        let place = u32::from_le_bytes([*a, *b, *c, 0]) as usize % (bytes.len() + 1);
        let mut bytes = bytes.clone();
        match how % 4 {
            0 => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= value),
            1 => bytes.truncate(place),
            2 => bytes.extend(std::iter::repeat_n(*value, usize::from(*how) * 16)),
            _ => bytes.iter_mut().skip(place).take(usize::from(*value)).for_each(|byte| *byte = 0),
        }
        disk.put(name, bytes);
    }
}

/// What is read: positions and payloads that agree, in order, or gaps.
fn read(log: &Log) -> Vec<u64> {
    let mut reader = log.read(Position::FIRST);
    let mut seen = Vec::new();
    let mut at = 1;
    while let Some(block) = reader.next(4096).unwrap() {
        if let Some(gap) = block.gap() {
            assert!(gap.range.start.get() == at && gap.range.end.get() > at, "{gap:?} at {at}");
            at = gap.range.end.get();
            continue;
        }
        for record in block.records() {
            let own = record.position.get().to_le_bytes();
            assert!(
                record.position.get() == at && record.payload.starts_with(&own),
                "{record:?} at {at}"
            );
            seen.push(at);
            at += 1;
        }
    }
    assert_eq!(at, log.durable().borrow().end.get());
    seen
}

/// Verifies, opens, reads, accepts, appends, and opens again.
pub(crate) fn opens(disk: &SimDisk) {
    spile_log::verify(disk).unwrap();
    // A header of a later format can't be made by chance: both copies have a check.
    let (log, recovered) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    let before = read(&log);
    for stream in 1..50 {
        let mut reader = log.read_stream(stream, (stream + 1).into(), 0);
        while reader.next(4096).unwrap().is_some() {}
    }
    if let Some(range) = recovered.waiting {
        assert_eq!(log.durable().borrow().state, State::Damaged);
        log.accept(range).unwrap();
    }
    let after = read(&log);
    assert!(before.iter().all(|at| after.contains(at)), "accepting lost something");
    let next = log.next().get();
    log.append(1, &mut vec![record(next)]).unwrap();
    log.pump();
    log.close();
    let (log, again) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    assert_eq!(again.waiting, None);
    let last = read(&log);
    assert!(after.iter().all(|at| last.contains(at)) && last.last() == Some(&next), "{last:?}");
}
