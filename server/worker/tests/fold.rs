//! State is the fold of the log, whatever happens: publishes with and without an end, blocks, removals, kills, power losses,
//! checkpoints and restarts. What a GET says is what folding the records that are durable gives.
//!
//! `SPILE_SEED=n cargo test -p spile-worker --test fold` replays one seed; `SPILE_SEEDS=5000` runs many.
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

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use spile_log::{
    Log, Options, SimDisk,
    disk::sim::{Choose, Random},
};
use spile_protocol::{
    crc,
    id::{Number, RouteId},
    message::{Batch, Event, Extras, Lengths, Message},
    time::Millis,
};
use spile_worker::{EventLog, Worker};
use support::{Client, Delivered, Kept, NOW, Shelf, Told, config};

const KEYS: [&str; 3] = ["a", "ab", "b"];
const TOPICS: [&str; 4] = ["state/x", "state/xy", "state/y", "telemetry/t"];

struct World {
    random: Random,
    disk: SimDisk,
    log: Log,
    shelf: Shelf,
    worker: Arc<Worker>,
    run: u8,
    publisher: Client,
    numbers: [u64; 3],
    now: Millis,
    /// When each position's event was accepted, and its time to live, by position; later ones replace what was cut.
    facts: BTreeMap<Vec<u8>, (u64, Option<u64>)>,
    published: u64,
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

fn publisher(worker: &Arc<Worker>, run: u8) -> Client {
    let mut client = Client::new(worker, "p", run);
    for (lane, key) in (0..).zip(KEYS) {
        client.lane(lane, Some(key), 1);
        for (topic, name) in (0..).zip(TOPICS) {
            client.bind(lane * 4 + topic, lane, name);
        }
    }
    client
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (disk, shelf) = (SimDisk::new(random.choose(u64::MAX)), Shelf::default());
        let (log, worker) = start(&disk, &shelf);
        let publisher = publisher(&worker, 1);
        let (numbers, facts) = ([0; 3], BTreeMap::new());
        Self {
            random,
            disk,
            log,
            shelf,
            worker,
            run: 1,
            publisher,
            numbers,
            now: NOW,
            facts,
            published: 0,
        }
    }

    fn roll(&mut self, n: u64) -> usize {
        usize::try_from(self.random.choose(n)).unwrap()
    }

    fn step(&mut self) {
        match self.roll(100) {
            0..50 => self.publish(),
            50..70 => drop(self.log.pump()),
            70..80 => self.now.0 += self.random.choose(40),
            80..90 => self.check(),
            90..92 => self.worker.checkpoint(),
            92..93 => self.snapshot(),
            93..96 => self.fill_the_disk(),
            _ => self.restart(),
        }
    }

    /// A payload names its event, so that the log can be folded by who reads only payloads.
    fn payload(&mut self, ttl_ms: Option<u64>) -> Vec<u8> {
        if self.roll(6) == 0 {
            return Vec::new();
        }
        self.published += 1;
        let payload = format!("{}", self.published).into_bytes();
        self.facts.insert(payload.clone(), (self.now.0, ttl_ms));
        payload
    }

    fn publish(&mut self) {
        let (lane, topic) = (self.roll(3), self.roll(4));
        let ttl_ms = (self.roll(3) == 0).then(|| self.random.choose(60));
        let count = 1 + self.roll(3);
        let payloads: Vec<_> = (0..count).map(|_| self.payload(ttl_ms)).collect();
        let route = RouteId(u32::try_from(lane * 4 + topic).unwrap());
        let extras = Extras { ttl_ms, ..Extras::default() };
        let payload = Bytes::from(payloads.concat());
        let number = Number(self.numbers[lane] + 1);
        self.numbers[lane] += payloads.len() as u64;
        let mut spelled = [0; 64];
        let lengths = Lengths::encode(payloads.iter().map(Vec::len), &mut spelled).unwrap();
        let message = if count == 1 {
            Message::Event(Event { route, extras, payload: &payload })
        } else {
            Message::Batch(Batch { route, lengths, extras, payload: &payload })
        };
        let crc = crc::of(&payload);
        self.publisher.session.intake().message(self.now, number, &message, &payload, crc);
    }

    /// What is published on a full disk is cut off again; whoever published comes back as another.
    fn fill_the_disk(&mut self) {
        let used: usize = self.disk.files().iter().map(|(_, content)| content.len()).sum();
        let room = self.random.choose(2048);
        self.disk.set_capacity(used as u64 + room);
        for _ in 0..self.random.choose(30) {
            self.publish();
            if self.random.choose(3) == 0 {
                self.log.pump();
            }
        }
        while self.log.pump() {}
        self.check();
        self.disk.set_capacity(u64::MAX);
        self.log.tend();
        self.come_back();
    }

    fn come_back(&mut self) {
        self.run = self.run.wrapping_add(1);
        self.publisher = publisher(&self.worker, self.run);
        self.numbers = [0; 3];
    }

    fn snapshot(&mut self) {
        if snapped::take(&self.worker, &self.disk, &mut self.random) {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.disk.set_capacity(u64::MAX);
        self.disk = if self.roll(2) == 0 {
            self.disk.kill()
        } else {
            self.disk.power_loss(&mut self.random)
        };
        let (log, worker) = start(&self.disk, &self.shelf);
        (self.log, self.worker) = (log, worker);
        self.come_back();
    }

    /// Everything that is durable, in order.
    fn durable(&self) -> Vec<Delivered> {
        let mut reader = Client::new(&self.worker, "reader", 0);
        reader.subscribe_from(1, "#", 1);
        let mut all = Vec::new();
        loop {
            let events: Vec<_> = reader
                .poll()
                .0
                .into_iter()
                .filter_map(|told| if let Told::Event(event) = told { Some(event) } else { None })
                .collect();
            if events.is_empty() {
                return all;
            }
            all.extend(events);
            reader.settle_all(1);
        }
    }

    fn check(&mut self) {
        let mut fold: BTreeMap<(String, String), (u64, u64, Bytes)> = BTreeMap::new();
        for event in self.durable() {
            let name = (event.key, event.topic);
            if !name.1.starts_with("state/") {
                continue;
            }
            if event.payload.is_empty() {
                fold.remove(&name);
            } else {
                fold.insert(name, (event.version, event.position, event.payload));
            }
        }
        fold.retain(|_, (_, _, payload)| {
            let (time_ms, ttl_ms) = self.facts[&payload[..]];
            ttl_ms.is_none_or(|ttl_ms| time_ms + ttl_ms > self.now.0)
        });
        let mut reader = Client::new(&self.worker, "reader", 0);
        for key in KEYS {
            for topic in TOPICS {
                reader.get_when(key, topic, (0, 0, 0), self.now);
                let told = reader.poll().0.remove(0);
                let want = fold.get(&(key.to_owned(), topic.to_owned()));
                match (&told, want) {
                    (Told::Version(0), None) => {}
                    (Told::Value(kept), Some(want)) => {
                        assert_eq!(
                            (kept.version, kept.position, kept.payload.clone()),
                            *want,
                            "{kept:?}"
                        );
                    }
                    other => panic!("{key} {topic}: {other:?}"),
                }
            }
        }
        let listed = self.list(&mut reader);
        let all = listed.iter().map(|kept| (kept.key.clone(), kept.topic.clone()));
        assert!(all.eq(fold.keys().cloned()), "{listed:?}");
    }

    fn list(&mut self, reader: &mut Client) -> Vec<Kept> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let limit = 1 + u32::try_from(self.random.choose(5)).unwrap();
            reader.list_at("", &after, limit, self.now);
            after.clear();
            for told in reader.poll().0 {
                let Told::Value(kept) = told else { return all };
                after.clone_from(&kept.cursor);
                all.push(kept);
            }
            if after.is_empty() {
                return all;
            }
        }
    }

    fn finish(&mut self) {
        while self.log.pump() {}
        self.check();
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
    for _ in 0..steps {
        world.step();
    }
    world.finish();
}

#[test]
fn whatever_happens_state_is_the_fold_of_the_log() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SPILE_SEED") {
        return run(seed, 300);
    }
    for seed in 0..number("SPILE_SEEDS").unwrap_or(30) {
        run(seed, 300);
    }
}
