//! Every crash point of small workloads, and at each point every combination of what survives, up to a bound.
//!
//! A workload has up to three batches. At each operation the power goes; names and each unsynced sector then survive or not, on
//! their own, in every combination as long as these are at most `COMBINATIONS`, otherwise the first so many and as many random
//! ones. After some of them recovery is cut at each of its own operations.

use std::sync::Arc;

use spile_log::disk::sim::{Choose, EveryChoice, Random};
use spile_log::{Log, Options, SimDisk};

use crate::oracle::{Oracle, record};
use crate::run::options;

const COMBINATIONS: usize = 96;

/// What a workload does, step by step.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Records of so many bytes each, in one batch.
    Batch(&'static [usize]),
    Tend,
    Snapshot,
    /// Removes or rewrites what it can; every third record is wanted.
    Retain,
    Close,
}

const WORKLOADS: [&[Step]; 9] = [
    &[Step::Batch(&[10])],
    &[Step::Batch(&[10]), Step::Batch(&[600])],
    &[Step::Batch(&[10, 300]), Step::Tend, Step::Batch(&[2000])],
    &[Step::Batch(&[700]), Step::Batch(&[10]), Step::Batch(&[700])],
    &[Step::Batch(&[10]), Step::Close, Step::Batch(&[10])],
    &[Step::Batch(&[13000]), Step::Batch(&[10]), Step::Batch(&[10])],
    &[Step::Batch(&[13000, 10, 10]), Step::Batch(&[10]), Step::Tend, Step::Snapshot, Step::Retain],
    &[
        Step::Batch(&[6000, 7000, 10, 10]),
        Step::Batch(&[10]),
        Step::Snapshot,
        Step::Retain,
        Step::Batch(&[10]),
    ],
    &[
        Step::Batch(&[3000]),
        Step::Tend,
        Step::Batch(&[13000]),
        Step::Batch(&[10]),
        Step::Batch(&[10]),
    ],
];

/// Runs a workload until it ends or the power goes.
fn work(disk: &SimDisk, options: &Options, steps: &[Step], oracle: &mut Oracle) {
    let Ok((mut log, _)) = Log::open(Arc::new(disk.clone()), options.clone()) else { return };
    for step in steps {
        match step {
            Step::Batch(sizes) => {
                let ids: Vec<(u64, u32)> = sizes.iter().map(|_| (oracle.id(), 1)).collect();
                let mut records = ids
                    .iter()
                    .zip(*sizes)
                    .map(|((id, n), bytes)| record(*id, *bytes, *n))
                    .collect();
                if let Ok(range) = log.append(1, &mut records) {
                    oracle.appended(range.start, &ids, 1);
                }
                log.pump();
            }
            Step::Tend => log.tend(),
            Step::Snapshot => {
                let end = log.durable().borrow().end;
                if let Ok(mut writer) = log.snapshot(end)
                    && writer.write(b"views").is_ok()
                {
                    drop(writer.finish());
                }
            }
            Step::Retain => {
                let rule = spile_log::Retain {
                    before: log.next(),
                    older_than_ms: Some(u64::MAX),
                    bytes_max: None,
                    rewrite_percent: 90,
                };
                let mut asked = Vec::new();
                drop(log.retain(&rule, &mut |r| {
                    asked.push(r.position.get());
                    r.position.get() % 3 == 0
                }));
                asked.into_iter().filter(|at| at % 3 != 0).for_each(|at| oracle.removed(at));
            }
            Step::Close => {
                log.close();
                match Log::open(Arc::new(disk.clone()), options.clone()) {
                    Ok((again, _)) => log = again,
                    Err(_) => return,
                }
            }
        }
        oracle.heard(*log.durable().borrow()).unwrap();
        if disk.is_off() {
            return;
        }
    }
}

/// Opens and checks; nothing rotted, so nothing may be damaged.
fn check(disk: &SimDisk, options: &Options, oracle: &Oracle, what: &str) {
    let mut oracle = oracle.clone();
    oracle.stopped();
    let (log, recovered) = Log::open(Arc::new(disk.clone()), options.clone())
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(recovered.damages.is_empty() && recovered.waiting.is_none(), "{what}: {recovered:?}");
    oracle.check(&log, 4096, &|_| false).unwrap_or_else(|text| panic!("{what}: {text}"));
    // And it goes on.
    let id = oracle.id();
    let range = log.append(1, &mut vec![record(id, 10, 1)]).unwrap();
    assert!(range.start.get() >= oracle.end(), "{what}: a position is used twice");
    oracle.appended(range.start, &[(id, 1)], 1);
    log.pump();
    oracle.heard(*log.durable().borrow()).unwrap();
    oracle.check(&log, 1 << 20, &|_| false).unwrap_or_else(|text| panic!("{what}, then: {text}"));
}

/// Calls `each` with the disk after each combination of survivors, up to the bound.
fn survivors(disk: &SimDisk, seed: u64, mut each: impl FnMut(SimDisk, usize)) {
    let mut every = EveryChoice::default();
    for n in 0..COMBINATIONS {
        each(disk.power_loss(&mut every), n);
        if !every.next_combination() {
            return;
        }
    }
    let mut random = Random::new(seed);
    for n in COMBINATIONS..COMBINATIONS * 2 {
        each(disk.power_loss(&mut random), n);
    }
}

/// Recovery of `disk`, cut at each of its operations.
fn cut_recovery(
    disk: &SimDisk,
    options: &Options,
    oracle: &Oracle,
    random: &mut Random,
    what: &str,
) {
    for operation in 1.. {
        // A fresh copy of the disk for each cut.
        let copy = disk.kill();
        copy.cut_power_at(copy.operations() + operation);
        let opened = Log::open(Arc::new(copy.clone()), options.clone());
        if opened.is_ok() && !copy.is_off() {
            return;
        }
        for _ in 0..2 {
            let after = copy.power_loss(random);
            check(&after, options, oracle, &format!("{what}, recovery cut at {operation}"));
        }
        check(&copy.kill(), options, oracle, &format!("{what}, recovery killed at {operation}"));
    }
}

fn every_point(prefill: bool, number: usize) {
    let steps = WORKLOADS[number];
    let options = Options { prefill, ..options(None) };
    for operation in 1.. {
        let disk = SimDisk::new(7);
        disk.cut_power_at(operation);
        let mut oracle = Oracle::default();
        work(&disk, &options, steps, &mut oracle);
        let done = !disk.is_off();
        let mut random = Random::new(operation);
        survivors(&disk, operation, |after, n| {
            let what =
                format!("workload {number}, prefill {prefill}, cut at {operation}, survivors {n}");
            if n % 32 == usize::try_from(random.choose(32)).unwrap() {
                cut_recovery(&after, &options, &oracle, &mut random, &what);
            }
            check(&after, &options, &oracle, &what);
        });
        let what = format!("workload {number}, prefill {prefill}, killed at {operation}");
        let killed = disk.kill();
        cut_recovery(&killed, &options, &oracle, &mut random, &what);
        check(&killed, &options, &oracle, &what);
        if done {
            return;
        }
    }
}

#[test]
fn every_crash_point_of_small_workloads() {
    for number in 0..WORKLOADS.len() {
        every_point(false, number);
    }
}

#[test]
fn every_crash_point_with_zeros_ahead() {
    for number in [2, 3, 8] {
        every_point(true, number);
    }
}
