//! Inboxes: a principal's own events under `inbox/#`, behind a cursor that only *done* moves, and only when it is durable.
//!
//! `SPILE_SEED=n cargo test -p spile-worker --test inbox` replays one seed; `SPILE_SEEDS=5000` runs many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends on what it did not expect"
)]

mod snapped;
mod support;

use std::sync::Arc;

use spile_log::{
    Log, Options, SimDisk,
    disk::sim::{Choose, Random},
};
use spile_protocol::{
    code::Code,
    id::SubscriptionId,
    message::{Outcome, Scope, Source},
};
use spile_worker::{EventLog, Worker};
use support::{Client, Shelf, Told, config, log, open};

/// Somebody who sends to the inbox of `pump`: lane 1, topics `inbox/set`, `inbox/ask`, and one that is none.
fn sender(worker: &Arc<Worker>, run: u8) -> Client {
    let mut client = Client::new(worker, "office", run);
    client.lane(0, Some("pump"), 1);
    for (route, topic) in (0..).zip(["inbox/set", "inbox/ask", "telemetry/t"]) {
        client.bind(route, 0, topic);
    }
    client
}

fn reader(worker: &Arc<Worker>, run: u8) -> Client {
    let mut client = Client::new(worker, "pump", run);
    client.subscribe(1, Source::Inbox, 100, true);
    client
}

/// Versions of the next deliveries; a delivery is one event here.
async fn versions(client: &mut Client, count: usize) -> Vec<u64> {
    let mut versions = Vec::new();
    while versions.len() < count {
        let is_event = |told: &[Told]| told.iter().any(|told| matches!(told, Told::Event(_)));
        for told in client.until(is_event).await {
            if let Told::Event(event) = told {
                versions.push(event.version);
            }
        }
    }
    versions
}

async fn done(client: &mut Client, delivery: u64, events: u32) -> Outcome {
    client.settle_as(1, delivery, Outcome::Done, events);
    match client.told(1).await[..] {
        [Told::Settled { subscription: 1, delivery: of, outcome }] if of == delivery => outcome,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_done_does_not_come_again_and_the_own_lane_says_how_far_that_is() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut office = sender(&worker, 1);
    for (number, route) in (1..).zip([0, 2, 1, 0]) {
        office.event(route, number, b"do it");
    }
    office.acked(0, 4).await;
    let mut pump = reader(&worker, 1);
    // Telemetry of the same key is no message.
    assert_eq!(versions(&mut pump, 3).await, [1, 3, 4]);
    assert_eq!(done(&mut pump, 2, 0).await, Outcome::Done);
    drop(pump);
    let mut pump = reader(&worker, 2);
    assert_eq!(versions(&mut pump, 1).await, [4]);
    pump.lane(0, None, 1);
    pump.told(1).await;
    assert_eq!(pump.inbox, 3);
    let before = worker.dump();
    assert!(before.contains("device/pump"), "{before}");
    drop((office, pump, worker));
    let worker = open(folder.path());
    assert_eq!(worker.dump(), before);
    assert_eq!(versions(&mut reader(&worker, 3), 1).await, [4]);
}

#[tokio::test]
async fn only_done_moves_the_cursor_and_a_block_may_be_done_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut office = sender(&worker, 1);
    office.batch(0, 1, &[b"1", b"2", b"3"], None);
    office.acked(0, 3).await;
    let mut pump = reader(&worker, 1);
    versions(&mut pump, 3).await;
    for outcome in [Outcome::Reject, Outcome::Retry { after_ms: 0 }, Outcome::Seen] {
        pump.settle_as(1, 1, outcome, 0);
    }
    assert_eq!(versions(&mut reader(&worker, 2), 3).await, [1, 2, 3]);
    let mut pump = reader(&worker, 3);
    versions(&mut pump, 3).await;
    assert_eq!(done(&mut pump, 1, 2).await, Outcome::Done);
    assert_eq!(versions(&mut reader(&worker, 4), 1).await, [3]);
    let mut pump = reader(&worker, 5);
    versions(&mut pump, 1).await;
    assert_eq!(done(&mut pump, 1, 9).await, Outcome::Done);
    // Nothing is left of it.
    assert_eq!(done(&mut pump, 1, 0).await, Outcome::Seen);
}

#[tokio::test]
async fn credit_comes_back_with_any_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut office = sender(&worker, 1);
    for number in 1..=8 {
        // Of two topics in turn, so that they are not joined.
        office.event(u32::try_from(number % 2).unwrap(), number, b"x");
    }
    office.acked(0, 8).await;
    let mut pump = Client::new(&worker, "pump", 1);
    pump.subscribe(1, Source::Inbox, 2, true);
    assert_eq!(versions(&mut pump, 2).await, [1, 2]);
    // The second first: its credit is free, though the first is still open.
    pump.settle_as(1, 2, Outcome::Reject, 0);
    assert_eq!(versions(&mut pump, 1).await, [3]);
    pump.settle_as(1, 1, Outcome::Retry { after_ms: 5 }, 0);
    assert_eq!(versions(&mut pump, 1).await, [4]);
    pump.settle(1, 4);
    assert_eq!(versions(&mut pump, 2).await, [5, 6]);
}

#[tokio::test]
async fn the_newest_reader_wins_and_the_older_hears_it() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut office = sender(&worker, 1);
    office.event(0, 1, b"x");
    office.acked(0, 1).await;
    let (mut older, mut other) = (reader(&worker, 1), Client::new(&worker, "valve", 1));
    other.subscribe(1, Source::Inbox, 100, true);
    assert_eq!(versions(&mut older, 1).await, [1]);
    let mut newer = reader(&worker, 2);
    let scope = Scope::Subscription(SubscriptionId(1));
    assert_eq!(older.told(1).await, [Told::Fault { code: Code::REPLACED, scope }]);
    assert_eq!(versions(&mut newer, 1).await, [1]);
    // Another principal's inbox is its own.
    assert_eq!(other.poll().0, [Told::Credit { subscription: 1, events: 100 }]);
}

struct World {
    random: Random,
    disk: SimDisk,
    log: Log,
    shelf: Shelf,
    worker: Arc<Worker>,
    office: Client,
    pump: Client,
    run: u8,
    sent: u64,
    /// Versions of the deliveries of this subscription: first and count.
    handed: Vec<(u64, u64)>,
    asked: std::collections::HashMap<u64, u64>,
    /// The cursor that was answered.
    answered: u64,
    /// The farthest that was ever settled, answered or not.
    settled: u64,
    /// Where the next delivery must not be beyond.
    next: u64,
}

fn start(disk: &SimDisk, shelf: &Shelf) -> (Log, Arc<Worker>) {
    let options = Options {
        segment_bytes: 32 << 10,
        reserve_bytes: 0,
        free_bytes_low: 0,
        recent_bytes: 4 << 10,
        inline: true,
        ..Options::default()
    };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    let shared: Arc<dyn EventLog> = Arc::new(log.clone());
    (log, Worker::open_with(config(), shared, Box::new(shelf.clone())).unwrap())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(random.choose(u64::MAX));
        let shelf = Shelf::default();
        let (log, worker) = start(&disk, &shelf);
        let (office, pump) = (sender(&worker, 1), reader(&worker, 1));
        let (handed, asked) = (Vec::new(), std::collections::HashMap::new());
        Self {
            random,
            disk,
            log,
            shelf,
            worker,
            office,
            pump,
            run: 1,
            sent: 0,
            handed,
            asked,
            answered: 0,
            settled: 0,
            next: 0,
        }
    }

    fn step(&mut self) {
        match self.random.choose(100) {
            0..30 => {
                self.sent += 1;
                let route = u32::try_from(self.random.choose(2)).unwrap();
                if self.random.choose(3) == 0 {
                    self.office.batch(route, self.sent, &[b"a", b"b"], None);
                    self.sent += 1;
                } else {
                    self.office.event(route, self.sent, b"x");
                }
            }
            30..50 => drop(self.log.pump()),
            50..70 => self.poll(),
            70..90 => self.settle(),
            90..93 => self.again(),
            93..95 => self.worker.checkpoint(),
            95..96 => self.snapshot(),
            _ => self.restart(),
        }
    }

    fn poll(&mut self) {
        let (told, _) = self.pump.poll();
        let mut block = 0;
        for told in told {
            match told {
                Told::Event(event) => {
                    assert!(
                        event.version > self.answered,
                        "{} was done: {}",
                        event.version,
                        self.answered
                    );
                    // Nothing between what was handed out before and this is left out: all of the key is inbox here.
                    assert!(event.version <= self.next, "{} before {}", event.version, self.next);
                    self.next = event.version + 1;
                    if block == 0 {
                        self.handed.push((event.version, u64::from(event.block)));
                        block = event.block;
                    }
                    block -= 1;
                }
                Told::Settled { delivery, outcome, .. } => {
                    let asked = self.asked.remove(&delivery).unwrap();
                    if outcome == Outcome::Done {
                        self.answered = self.answered.max(asked);
                    }
                }
                Told::Credit { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn settle(&mut self) {
        let Some(last) = u64::try_from(self.handed.len()).ok().filter(|&last| last > 0) else {
            return;
        };
        let delivery = 1 + self.random.choose(last);
        let outcome = match self.random.choose(4) {
            0 => Outcome::Reject,
            _ => Outcome::Done,
        };
        if outcome == Outcome::Done && !self.asked.contains_key(&delivery) {
            let (version, events) = self.handed[usize::try_from(delivery - 1).unwrap()];
            self.settled = self.settled.max(version + events - 1);
            self.asked.insert(delivery, version + events - 1);
            self.pump.settle_as(1, delivery, outcome, 0);
        }
    }

    /// Another subscription takes over; what was not answered may come again.
    fn again(&mut self) {
        self.run = self.run.wrapping_add(1);
        self.pump = reader(&self.worker, self.run);
        // What was settled and not answered may be done, or come again.
        self.next = 1 + self.answered.max(self.settled);
        self.handed.clear();
        self.asked.clear();
    }

    fn snapshot(&mut self) {
        if snapped::take(&self.worker, &self.disk, &mut self.random) {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.disk = if self.random.choose(2) == 0 {
            self.disk.kill()
        } else {
            self.disk.power_loss(&mut self.random)
        };
        (self.log, self.worker) = start(&self.disk, &self.shelf);
        self.run = self.run.wrapping_add(1);
        self.office = sender(&self.worker, self.run);
        self.sent = 0;
        self.again();
    }

    fn finish(&mut self) {
        while self.log.pump() {}
        self.poll();
        let mut own = Client::new(&self.worker, "pump", 250);
        own.lane(0, None, 1);
        own.poll();
        assert!(own.inbox >= self.answered, "{} < {}", own.inbox, self.answered);
        self.again();
        self.answered = own.inbox;
        self.poll();
        let mut last = Client::new(&self.worker, "reader", 1);
        last.subscribe_from(1, "inbox/#", 1);
        let mut stored = 0;
        loop {
            let (told, _) = last.poll();
            let versions = told.iter().filter_map(|told| match told {
                Told::Event(event) => Some(event.version),
                _ => None,
            });
            let Some(newest) = versions.max() else { break };
            stored = newest;
            last.settle_all(1);
        }
        let handed =
            self.handed.last().map_or(self.answered, |(version, events)| version + events - 1);
        assert_eq!(handed, stored, "all that is stored and not done was handed out");
        let before = self.worker.dump();
        let log: Arc<dyn EventLog> = Arc::new(self.log.clone());
        let anew = Worker::open(config(), snapped::alone(&self.log), None).unwrap();
        assert_eq!(anew.dump(), before, "from the log alone");
        snapped::all(&self.worker);
        let anew = Worker::open(config(), log.clone(), None).unwrap();
        assert_eq!(anew.dump(), before, "from the newest snapshot");
        let kept = Worker::open_with(config(), log, Box::new(self.shelf.clone())).unwrap();
        assert_eq!(kept.dump(), before, "from the last checkpoint");
    }
}

fn run(seed: u64, steps: usize) {
    println!("SPILE_SEED={seed}");
    let mut world = World::new(seed);
    world.next = 1;
    for _ in 0..steps {
        world.step();
    }
    world.finish();
}

#[test]
fn whatever_happens_nothing_is_skipped_and_nothing_done_comes_again() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SPILE_SEED") {
        return run(seed, 300);
    }
    for seed in 0..number("SPILE_SEEDS").unwrap_or(60) {
        run(seed, 300);
    }
}

#[test]
fn done_is_not_answered_before_it_is_durable() {
    let (log, worker) = start(&SimDisk::new(7), &Shelf::default());
    let mut office = sender(&worker, 1);
    office.event(0, 1, b"x");
    while log.pump() {}
    let mut pump = reader(&worker, 1);
    assert!(matches!(pump.poll().0[..], [Told::Credit { .. }, Told::Event(_)]));
    pump.settle_as(1, 1, Outcome::Done, 0);
    assert_eq!(pump.poll().0, []);
    // Who comes meanwhile gets it again: it is not known to be done.
    let mut other = reader(&worker, 2);
    assert!(matches!(other.poll().0[..], [Told::Credit { .. }, Told::Event(_)]));
    while log.pump() {}
    assert!(matches!(pump.poll().0[0], Told::Settled { outcome: Outcome::Done, .. }));
}

#[tokio::test]
async fn a_cursor_is_kept_by_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let log = Arc::new(log(&folder.path().join("log")));
        Worker::open(config(), log, Some(&folder.path().join("views"))).unwrap()
    };
    let worker = start();
    let mut office = sender(&worker, 1);
    office.event(0, 1, b"x");
    office.event(1, 2, b"y");
    office.acked(0, 2).await;
    let mut pump = reader(&worker, 1);
    versions(&mut pump, 2).await;
    assert_eq!(done(&mut pump, 1, 0).await, Outcome::Done);
    worker.checkpoint();
    drop((office, pump, worker));
    assert_eq!(versions(&mut reader(&start(), 2), 1).await, [2]);
}
