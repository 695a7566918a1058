//! The fault sweep: the nth operation fails, n = 1, 2, …, until a run is clean; once and from there on, and inside recovery.

use std::sync::Arc;

use spile_log::disk::sim::{Choose, Fault, FaultKind, Random};
use spile_log::{Log, SimDisk, State};

use crate::run::{Run, options};

const KINDS: [FaultKind; 4] =
    [FaultKind::Error, FaultKind::Full, FaultKind::Short, FaultKind::LostSync];

/// The same steps every time: batches, segments, snapshot, retention, a restart.
fn workload(run: &mut Run) -> Result<(), String> {
    for step in 0..12 {
        if run.log.is_none() {
            run.kill()?;
        }
        run.append(1 + step % 3);
        run.pump()?;
        if step % 4 == 3 {
            run.step()?;
        }
        if step % 5 == 4
            && let Some(log) = &run.log
        {
            log.tend();
        }
    }
    run.check()
}

fn sweep(kind: FaultKind, sticky: bool) {
    for at in 1.. {
        let what = format!("{kind:?}, sticky {sticky}, at operation {at}");
        let fail = |text: String| -> ! { panic!("{what}: {text}") };
        let mut run = Run::new(99, None).unwrap_or_else(|text| fail(text));
        let from = run.disk.operations();
        run.set_fault(from + at, kind, sticky);
        workload(&mut run).unwrap_or_else(|text| fail(text));
        let clean = run.disk.operations() < from + at;
        // First as a killed process finds it, then as a power cut leaves it.
        run.kill().unwrap_or_else(|text| fail(text));
        run.append(2);
        run.pump().unwrap_or_else(|text| fail(text));
        run.lose_power().unwrap_or_else(|text| fail(text));
        if clean {
            assert!(at > 20, "{what}: a clean run after so few operations proves nothing");
            return;
        }
    }
}

#[test]
fn the_nth_operation_fails_once() {
    KINDS.into_iter().for_each(|kind| sweep(kind, false));
}

#[test]
fn the_nth_operation_and_all_after_it_fail() {
    KINDS.into_iter().for_each(|kind| sweep(kind, true));
}

#[test]
fn the_nth_operation_of_recovery_fails() {
    for kind in KINDS {
        for seed in 0..6 {
            for at in 1.. {
                let what = format!("{kind:?}, seed {seed}, at operation {at} of recovery");
                let mut run = Run::new(seed, None).unwrap();
                for _ in 0..8 {
                    run.append(3);
                    run.pump().unwrap();
                }
                run.log = None;
                let mut random = Random::new(seed);
                run.disk = if random.choose(2) == 0 {
                    run.disk.kill()
                } else {
                    run.disk.power_loss(&mut random)
                };
                let from = run.disk.operations();
                run.set_fault(from + at, kind, seed % 2 == 0);
                run.open().unwrap_or_else(|text| panic!("{what}: {text}"));
                let clean = run.disk.operations() < from + at;
                run.kill().unwrap_or_else(|text| panic!("{what}: {text}"));
                run.lose_power().unwrap_or_else(|text| panic!("{what}: {text}"));
                if clean {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_disk_is_refused_and_left_again() {
    let disk = SimDisk::new(1);
    let options = spile_log::Options { reserve_bytes: 8192, free_bytes_low: 1024, ..options(None) };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    let mut oracle = crate::oracle::Oracle::default();
    let put =
        |oracle: &mut crate::oracle::Oracle, generation: u64, bytes: usize, reserved: bool| {
            let id = oracle.id();
            let mut records = vec![crate::oracle::record(id, bytes, 1)];
            let took = match reserved {
                true => log.append_reserved(generation, &mut records),
                false => log.append(generation, &mut records),
            };
            took.map(|range| oracle.appended(range.start, &[(id, 1)], generation))
        };
    put(&mut oracle, 1, 100, false).unwrap();
    log.pump();
    oracle.heard(*log.durable().borrow()).unwrap();
    let used: u64 = disk.files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    disk.set_capacity(used + 600);
    put(&mut oracle, 1, 5000, false).unwrap();
    log.pump();
    let durable = *log.durable().borrow();
    assert_eq!((durable.end.get(), durable.generation, durable.state), (2, 2, State::Full));
    oracle.heard(durable).unwrap();
    let stale = put(&mut oracle, 1, 10, false).unwrap_err();
    assert_eq!(stale, spile_log::AppendError::Stale { generation: 2, end: 2.into() });
    assert_eq!(put(&mut oracle, 2, 10, false).unwrap_err(), spile_log::AppendError::Full);
    // The reserve is for these.
    put(&mut oracle, 2, 3000, true).unwrap();
    log.pump();
    let durable = *log.durable().borrow();
    assert_eq!((durable.end.get(), durable.state), (3, State::Full));
    oracle.heard(durable).unwrap();
    log.tend();
    assert_eq!(log.durable().borrow().state, State::Full, "there is no room yet");
    disk.set_capacity(1 << 20);
    log.tend();
    assert_eq!(log.durable().borrow().state, State::Running);
    put(&mut oracle, 2, 5000, false).unwrap();
    log.pump();
    oracle.heard(*log.durable().borrow()).unwrap();
    oracle.check(&log, 4096, &|_| false).unwrap();
    assert_eq!(log.next().get(), 4);
}

#[test]
fn after_a_failed_sync_nothing_is_taken_and_nothing_was_promised() {
    let disk = SimDisk::new(1);
    let (log, _) = Log::open(Arc::new(disk.clone()), options(None)).unwrap();
    let append = |n| log.append(1, &mut vec![crate::oracle::record(n, 10, 1)]);
    append(1).unwrap();
    disk.set_fault(Some(Fault {
        at: disk.operations() + 2,
        sticky: false,
        kind: FaultKind::LostSync,
    }));
    log.pump();
    let durable = *log.durable().borrow();
    assert_eq!((durable.end.get(), durable.state), (1, State::Poisoned));
    assert_eq!(append(2).unwrap_err(), spile_log::AppendError::Poisoned);
    assert!(log.read(1.into()).next(4096).unwrap().is_none());
    assert!(log.health().poisoned.is_some());
}

#[test]
fn a_stalled_disk_holds_back_promises_and_nothing_else() {
    let disk = SimDisk::new(1);
    let options = spile_log::Options { inline: false, prefill: false, ..options(None) };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    let append = |n| log.append(1, &mut vec![crate::oracle::record(n, 10, 1)]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut durable = log.durable();
    append(1);
    runtime.block_on(async { durable.wait_for(|d| d.end.get() == 2).await.map(|_| ()) }).unwrap();
    disk.set_stalled(true);
    append(2);
    append(3);
    assert_eq!(log.next().get(), 4);
    assert_eq!(log.durable().borrow().end.get(), 2);
    assert_eq!(log.read(1.into()).next(4096).unwrap().unwrap().next().get(), 2);
    disk.set_stalled(false);
    runtime.block_on(async { durable.wait_for(|d| d.end.get() == 4).await.map(|_| ()) }).unwrap();
}

/// What is appended while the writer begins a segment was encoded under the old segment's salt, and goes into the new one.
#[test]
fn appends_during_a_change_of_segments_are_whole() {
    let disk = SimDisk::new(1);
    let options = spile_log::Options { inline: false, prefill: false, ..options(None) };
    let (log, _) = Log::open(Arc::new(disk.clone()), options.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut durable = log.durable();
    let mut oracle = crate::oracle::Oracle::default();
    let mut append = |bytes| {
        let id = oracle.id();
        let range = log.append(1, &mut vec![crate::oracle::record(id, bytes, 1)]).unwrap();
        oracle.appended(range.start, &[(id, 1)], 1);
    };
    append(17_000);
    runtime.block_on(async { durable.wait_for(|d| d.end.get() == 2).await.map(|_| ()) }).unwrap();
    disk.set_stalled(true);
    append(100);
    // The writer has taken it once nothing waits: it is at the new segment's first sync then, or will be.
    while log.health().waiting_bytes > 0 {
        std::thread::yield_now();
    }
    append(200);
    append(3000);
    disk.set_stalled(false);
    runtime.block_on(async { durable.wait_for(|d| d.end.get() == 5).await.map(|_| ()) }).unwrap();
    oracle.heard(*log.durable().borrow()).unwrap();
    assert_eq!(log.health().segments, 2);
    log.close();
    let (log, recovered) = Log::open(Arc::new(disk.kill()), options).unwrap();
    assert!(recovered.damages.is_empty(), "{recovered:?}");
    oracle.check(&log, 4096, &|_| false).unwrap();
}
