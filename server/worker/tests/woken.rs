//! Who sleeps until its events are on disk is woken when they are, or when that will never be, and not otherwise.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use spile_log::{
    Log, Options, SimDisk,
    disk::sim::{Fault, FaultKind},
};
use spile_protocol::code::Code;
use spile_worker::{EventLog, Worker};
use support::{Client, Told, config};

/// Counts how often a task was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A session and its task, which sleeps where it may.
struct Sleeper {
    client: Client,
    woken: Arc<Count>,
}

impl Sleeper {
    fn new(worker: &Arc<Worker>, name: &str) -> Self {
        let mut client = Client::new(worker, name, 1);
        client.lane(0, None, 1);
        client.bind(0, 0, "t");
        Self { client, woken: Arc::default() }
    }

    /// Takes what there is until it would have to wait: what it was told.
    fn rest(&mut self) -> Vec<Told> {
        let (mut told, waker) = (Vec::new(), Waker::from(self.woken.clone()));
        loop {
            told.extend(self.client.poll().0);
            if self.client.session.poll_ready(&mut Context::from_waker(&waker)) == Poll::Pending {
                self.woken.0.store(0, Ordering::Relaxed);
                return told;
            }
        }
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

struct World {
    disk: SimDisk,
    log: Log,
    worker: Arc<Worker>,
}

fn world() -> World {
    let disk = SimDisk::new(1);
    let options = Options {
        reserve_bytes: 16 << 10,
        free_bytes_low: 0,
        inline: true,
        prefill: false,
        ..Options::default()
    };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    let shared: Arc<dyn EventLog> = Arc::new(log.clone());
    World { disk, log, worker: Worker::open(config(), shared, None).unwrap() }
}

/// Three sessions whose lanes are open, asleep.
fn three(world: &World) -> [Sleeper; 3] {
    let mut all = ["a", "b", "c"].map(|name| Sleeper::new(&world.worker, name));
    all.iter_mut().for_each(|one| drop(one.rest()));
    while world.log.pump() {}
    all.iter_mut().for_each(|one| drop(one.rest()));
    all
}

#[test]
fn those_whose_events_are_stored_are_woken_once_and_no_others() {
    let world = world();
    let [mut first, mut second, third] = three(&world);
    for number in 1..=5 {
        for one in [&mut first, &mut second] {
            one.client.event(0, number, b"x");
            assert_eq!(one.rest(), []);
            // Looking again while it waits changes nothing.
            assert_eq!(one.rest(), []);
        }
        while world.log.pump() {}
        assert_eq!([first.woken(), second.woken(), third.woken()], [1, 1, 0], "{number}");
        for one in [&mut first, &mut second] {
            assert_eq!(one.rest(), [Told::Ack { lane: 0, last: number, receipts: vec![] }]);
        }
    }
}

#[test]
fn who_is_stored_before_it_falls_asleep_does_not() {
    let world = world();
    let [mut one, ..] = three(&world);
    one.client.event(0, 1, b"x");
    while world.log.pump() {}
    assert_eq!(one.rest(), [Told::Ack { lane: 0, last: 1, receipts: vec![] }]);
}

#[test]
fn all_are_woken_where_the_disk_is_full_or_fails() {
    let full = Code::DISK_FULL;
    for (kind, code) in [(FaultKind::Full, full), (FaultKind::Error, Code::UNKNOWN_OUTCOME)] {
        let world = world();
        let mut all = three(&world);
        for one in &mut all {
            one.client.event(0, 1, b"x");
            assert_eq!(one.rest(), []);
        }
        world.disk.set_fault(Some(Fault { at: world.disk.operations() + 1, sticky: false, kind }));
        world.log.pump();
        for mut one in all {
            assert_eq!(one.woken(), 1, "{kind:?}");
            let told = one.rest();
            let closed =
                matches!(told[..], [Told::Closed { lane: 0, code: why, .. }] if why == code);
            assert!(closed, "{kind:?} {told:?}");
        }
    }
}
