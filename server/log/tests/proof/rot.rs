//! Bits that turn over: each is found, and told as damage where it was proven synced, as a torn tail only where it was not.

use std::sync::Arc;

use spile_log::disk::sim::{Fault, FaultKind};
use spile_log::{Damage, DamageKind, Log, Position, State};

use crate::run::Run;

/// Turns one bit of one segment file over: of a closed log, in which all is proven, or of one that was killed, in which what was
/// not proven may be taken for torn.
pub(crate) fn one_bit(run: &mut Run) -> Result<(), String> {
    let closed = run.roll(2) == 0;
    if let Some(log) = run.log.take().filter(|_| closed) {
        log.close();
        run.oracle.heard(*log.durable().borrow())?;
    }
    run.disk = run.disk.kill();
    let files: Vec<_> =
        run.disk.files().into_iter().filter(|(name, _)| name.ends_with(".segment")).collect();
    let (name, bytes) = &files[usize::try_from(run.roll(files.len() as u64)).unwrap_or(0)];
    let at = run.roll(bytes.len() as u64);
    let mask = 1_u8 << run.roll(8);
    run.disk.rot(name, at, mask);
    reopen(run)
        .map_err(|text| format!("bit {mask:#x} of byte {at} of {} in {name}: {text}", bytes.len()))
}

/// Opens after rot: nothing wrong is read, what can't be read is named, and writing goes on once that was accepted.
pub(crate) fn reopen(run: &mut Run) -> Result<(), String> {
    run.oracle.stopped();
    let opened = Log::open(Arc::new(run.disk.clone()), run.options.clone());
    let (log, recovered) = opened.map_err(|error| error.to_string())?;
    run.oracle.not_proven(recovered.watermark.get());
    run.oracle.check(&log, 4096, &|_| true)?;
    let named = log.health().damages;
    if let Some(range) = recovered.waiting {
        if log.durable().borrow().state != State::Damaged {
            return Err("damage waits, and the log does not".to_owned());
        }
        run.log = Some(log.clone());
        if run.append(1) {
            return Err("a log with damage takes records before it was accepted".to_owned());
        }
        log.accept(range).map_err(|error| error.to_string())?;
    }
    if log.durable().borrow().state != State::Running {
        return Err(format!("the log does not go on: {:?}", log.health()));
    }
    let lost =
        |at: u64| named.iter().any(|d| d.from <= Position::new(at) && Position::new(at) < d.to);
    run.oracle.check(&log, 4096, &lost).map_err(|text| format!("{text}; named was {named:?}"))?;
    run.log = Some(log);
    run.generation = 1;
    run.faulty = false;
    if !run.append(2) {
        return Err("nothing can be appended any more".to_owned());
    }
    run.pump()?;
    let log = run.log.take().ok_or("the log ended")?;
    run.oracle.check(&log, 4096, &lost)
}

/// A log of some segments, closed: all of it is proven. The last segment is open.
fn closed() -> Run {
    let mut run = Run::new(5, None).unwrap();
    run.options.prefill = false;
    for _ in 0..24 {
        run.append(3);
        run.pump().unwrap();
    }
    let log = run.log.take().unwrap();
    log.close();
    run.oracle.heard(*log.durable().borrow()).unwrap();
    run
}

/// The same log on another disk.
fn copy(run: &Run) -> Run {
    Run {
        disk: run.disk.kill(),
        log: None,
        oracle: run.oracle.clone(),
        streams: run.streams.clone(),
        random: run.random.clone(),
        generation: 1,
        options: run.options.clone(),
        faulty: false,
        lead: spile_log::Lead::default(),
    }
}

fn segments(run: &Run) -> Vec<(String, Vec<u8>)> {
    run.disk.files().into_iter().filter(|(name, _)| name.ends_with(".segment")).collect()
}

/// Damages that `verify` finds after a byte turned over; the folder is unchanged by that.
fn verified(run: &Run) -> Vec<Damage> {
    let before = run.disk.files();
    let report = spile_log::verify(&run.disk).unwrap();
    assert!(run.disk.files() == before, "verify changed something");
    assert_eq!(report.torn, None, "all is proven, nothing is torn");
    report.damages
}

/// Turns bits over and wants damage of one of these kinds, found by `verify` and honoured by a start.
fn rots(run: &Run, name: &str, at: u64, mask: u8, kinds: &[DamageKind], loses: bool) {
    let what = format!("{mask:#x} at {at} of {name}");
    let mut run = copy(run);
    assert!(run.disk.rot(name, at, mask), "{what}");
    let found = verified(&run);
    assert!(found.iter().any(|d| kinds.contains(&d.kind)), "{what} is not found: {found:?}");
    assert_eq!(found.iter().any(Damage::loses), loses, "{what}: {found:?}");
    reopen(&mut run).unwrap_or_else(|text| panic!("{what}: {text}"));
}

#[test]
fn every_byte_of_headers_and_footers_is_watched() {
    let run = closed();
    let files = segments(&run);
    assert!(files.len() > 2, "{}", files.len());
    let stride = if full() { 1 } else { 13 };
    let (name, bytes) = files.first().unwrap();
    let all = bytes.len() as u64;
    let data_end = data_end(bytes);
    for at in (0..4096).step_by(stride) {
        rots(&run, name, at, 1 << (at % 8), &[DamageKind::Header], false);
        rots(&run, &files.last().unwrap().0, at, 1 << (at % 8), &[DamageKind::Header], false);
    }
    for at in (data_end.div_ceil(4096) * 4096..all).step_by(stride) {
        rots(&run, name, at, 1 << (at % 8), &[DamageKind::Footer], false);
    }
    for at in (0..36).chain(4096..4132) {
        rots(&run, "watermark", at, 4, &[DamageKind::Watermark], false);
    }
}

/// Where the data of a sealed segment ends, from its trailer.
fn data_end(file: &[u8]) -> u64 {
    let trailer = &file[file.len() - 4096..];
    u64::from_le_bytes(trailer[32..40].try_into().unwrap())
}

/// Offsets of batches and of records in a segment's data.
fn places(file: &[u8], end: usize) -> (Vec<usize>, Vec<(usize, usize)>) {
    let number = |at: usize, n: usize| {
        file[at..at + n].iter().rev().fold(0_usize, |sum, b| sum << 8 | usize::from(*b))
    };
    let (mut batches, mut records) = (Vec::new(), Vec::new());
    let mut at = 4096;
    while at < end && file[at..at + 4] == *b"SPB\x01" {
        batches.push(at);
        let next = at + number(at + 4, 4);
        let mut record = at + 64;
        for _ in 0..number(at + 40, 4) {
            let fixed = if file[record + 15] == 0 { 36 } else { 60 };
            let total = fixed + number(record + 12, 2) + number(record + 8, 4);
            records.push((record, total));
            record += total;
        }
        at = next;
    }
    (batches, records)
}

fn full() -> bool {
    std::env::var("SPILE_LOG_FULL").is_ok()
}

#[test]
fn every_byte_of_batch_and_record_headers_is_watched() {
    let run = closed();
    let files = segments(&run);
    let stride = if full() { 1 } else { 5 };
    for (name, bytes) in [files.first().unwrap(), files.last().unwrap()] {
        let sealed = name == &files.first().unwrap().0;
        let end = if sealed { usize::try_from(data_end(bytes)).unwrap() } else { bytes.len() };
        let (batches, records) = places(bytes, end);
        assert!(!batches.is_empty() && !records.is_empty());
        let in_batches = batches.iter().flat_map(|at| *at..at + 64);
        let in_records = records.iter().flat_map(|(at, _)| *at..at + 44);
        for at in in_batches.chain(in_records).step_by(stride) {
            rots(&run, name, at as u64, 1 << (at % 8), &[DamageKind::Records], true);
        }
    }
}

/// 10,000 by SPILE_LOG_FULL=1.
#[test]
fn random_payload_bits_are_watched() {
    let mut run = closed();
    let files = segments(&run);
    for _ in 0..if full() { 10_000 } else { 400 } {
        let (name, bytes) = &files[usize::try_from(run.roll(files.len() as u64)).unwrap()];
        let sealed = name != &files.last().unwrap().0;
        let end = if sealed { usize::try_from(data_end(bytes)).unwrap() } else { bytes.len() };
        let (_, records) = places(bytes, end);
        let (at, total) = records[usize::try_from(run.roll(records.len() as u64)).unwrap()];
        let byte = at as u64 + 44 + run.roll(total as u64 - 44);
        let mask = 1_u8 << run.roll(8);
        rots(&run, name, byte, mask, &[DamageKind::Records], true);
    }
}

/// The end cut at every byte: torn where nothing proves that more was there, damage where something does.
#[test]
fn a_cut_end_is_torn_or_damage() {
    let stride = if full() { 1 } else { 331 };
    for proven in [false, true] {
        let mut run = Run::new(5, None).unwrap();
        (run.options.prefill, run.options.segment_bytes) = (false, 1 << 20);
        run.kill().unwrap();
        let mut ends = vec![1];
        while run.log.as_ref().unwrap().health().bytes < 66_000 {
            run.append(3);
            run.pump().unwrap();
            ends.push(run.log.as_ref().unwrap().next().get());
        }
        if proven {
            run.log.as_ref().unwrap().tend();
        }
        run.log = None;
        let (name, bytes) = segments(&run).pop().unwrap();
        let len = bytes.len() as u64;
        for cut in (len - (64 << 10)..len).step_by(stride) {
            let mut one = copy(&run);
            one.disk.chop(&name, cut);
            let report = spile_log::verify(&one.disk).unwrap();
            if proven {
                assert!(report.damages.iter().any(Damage::loses), "cut at {cut}: {report:?}");
                reopen(&mut one).unwrap_or_else(|text| panic!("cut at {cut}: {text}"));
                continue;
            }
            assert!(report.damages.is_empty(), "cut at {cut}: {report:?}");
            let (log, recovered) =
                Log::open(Arc::new(one.disk.clone()), one.options.clone()).unwrap();
            assert!(recovered.damages.is_empty(), "cut at {cut}: {recovered:?}");
            let end = recovered.end.get();
            assert!(ends.contains(&end), "cut at {cut}: {end} is not where a batch ended");
            let whole = report.segments.last().unwrap().to;
            assert_eq!(whole, recovered.end);
            // Torn bytes are kept aside, all of them.
            let kept: usize = one
                .disk
                .files()
                .iter()
                .filter(|(name, _)| name.ends_with(".torn"))
                .map(|(_, b)| b.len())
                .sum();
            assert_eq!(kept as u64, recovered.torn.map_or(0, |torn| torn.bytes));
            drop(log);
        }
    }
}

#[test]
fn rebuild_mends_what_follows_from_whole_records() {
    let run = closed();
    let (name, bytes) = segments(&run).first().unwrap().clone();
    for (at, kind) in [
        (100, DamageKind::Header),
        (bytes.len() as u64 - 4000, DamageKind::Footer),
        (data_end(&bytes).div_ceil(4096) * 4096 + 40, DamageKind::Footer),
    ] {
        let mut run = copy(&run);
        run.disk.rot(&name, at, 1);
        assert_eq!(verified(&run).first().map(|d| d.kind), Some(kind));
        assert_eq!(spile_log::rebuild(&run.disk).unwrap(), vec![name.clone()]);
        assert!(verified(&run).is_empty());
        run.open().unwrap();
    }
}

#[test]
fn dump_shows_every_record_once() {
    let run = closed();
    let mut shown = Vec::new();
    let all = Position::new(1)..Position::new(u64::MAX);
    let report = spile_log::dump(&run.disk, all, &mut |line| {
        assert!(line.ok, "{line:?}");
        if line.kind == "record" {
            shown.push(line.position.get());
        }
    })
    .unwrap();
    assert!(shown.is_sorted_by(|a, b| a < b));
    assert_eq!(shown.len() as u64, report.segments.iter().map(|s| s.records).sum::<u64>());
    assert!(run.oracle.stored().iter().all(|at| shown.contains(at)));
}

/// A disk that puts down a wrong bit, or writes to the wrong place, and says that all is well: what was proven is read as it was or
/// named.
#[test]
fn silent_faults_are_found() {
    for kind in [FaultKind::FlippedBit, FaultKind::Misdirected] {
        for at in 1.. {
            let mut run = Run::new(3, None).unwrap();
            let from = run.disk.operations();
            run.disk.set_fault(Some(Fault { at: from + at, sticky: false, kind }));
            for n in 0..10 {
                run.append(3);
                run.pump().unwrap();
                if n % 3 == 2 {
                    run.log.as_ref().unwrap().tend();
                }
            }
            let log = run.log.take().unwrap();
            log.close();
            run.oracle.heard(*log.durable().borrow()).unwrap();
            run.disk.set_fault(None);
            let clean = run.disk.operations() < from + at;
            reopen(&mut run).unwrap_or_else(|text| panic!("{kind:?} at operation {at}: {text}"));
            if clean {
                assert!(at > 30);
                break;
            }
        }
    }
}
