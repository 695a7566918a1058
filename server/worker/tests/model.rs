//! Random clients on a worker whose disk loses power, is killed and fills up, compared with what they were told.
//!
//! `SPILE_SEED=7 cargo test -p spile-worker --test model` replays one seed; `SPILE_SEEDS=5000` runs many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    reason = "a test ends on what it did not expect"
)]

mod snapped;
mod support;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use spile_log::{
    Log, Options, SimDisk,
    disk::sim::{Choose, Random},
};
use spile_protocol::{
    code::Code,
    id::Version,
    message::{Expect, Source},
};
use spile_worker::{EventLog, Polled, Worker};
use support::{Client, Delivered, Shelf, Told, config};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stored,
    Refused,
}

/// What was sent and not settled.
#[derive(Clone, Debug)]
struct Sent {
    first: u64,
    payloads: Vec<String>,
    expect: Option<Expect>,
}

struct Lane {
    key: &'static str,
    next: u64,
    flight: VecDeque<Sent>,
    fates: BTreeMap<u64, Fate>,
}

/// A client that resends until it is told, as a device does.
struct Device {
    name: &'static str,
    run: u8,
    lanes: Vec<Lane>,
    client: Client,
}

impl Device {
    fn new(worker: &Arc<Worker>, name: &'static str, run: u8) -> Self {
        let lanes = [name, "shared"].map(|key| Lane {
            key,
            next: 1,
            flight: VecDeque::new(),
            fates: BTreeMap::new(),
        });
        let client = Client::new(worker, name, run);
        let mut device = Self { name, run, lanes: lanes.into(), client };
        device.connect();
        device
    }

    fn connect(&mut self) {
        for lane in 0..self.lanes.len() {
            self.open(lane);
        }
    }

    fn open(&mut self, at: usize) {
        let (lane, id) = (&self.lanes[at], u32::try_from(at).unwrap());
        let first = lane.flight.front().map_or(lane.next, |sent| sent.first);
        // A batch that is partly stored is resent from its beginning.
        self.client.lane(id, Some(lane.key), first);
        self.client.bind(id, id, "t");
        self.resend(at);
    }

    fn resend(&mut self, at: usize) {
        for sent in self.lanes[at].flight.clone() {
            self.send(at, &sent);
        }
    }

    fn send(&mut self, at: usize, sent: &Sent) {
        let route = u32::try_from(at).unwrap();
        let payloads: Vec<&[u8]> = sent.payloads.iter().map(String::as_bytes).collect();
        match payloads[..] {
            [one] => self.client.event_if(route, sent.first, one, sent.expect),
            _ => self.client.batch(route, sent.first, &payloads, sent.expect),
        }
    }

    fn publish(&mut self, at: usize, count: u64, expect: Option<Expect>) {
        let lane = &mut self.lanes[at];
        let first = lane.next;
        let wants = match expect {
            None => "any".to_owned(),
            Some(Expect::Exists) => "exists".to_owned(),
            Some(Expect::Version(version)) => version.to_string(),
        };
        let payload = |n| {
            format!("{} {} {} {}", self.name, self.run, n, if n == first { &wants } else { "any" })
        };
        let sent = Sent { first, payloads: (first..first + count).map(payload).collect(), expect };
        lane.next += count;
        lane.flight.push_back(sent.clone());
        self.send(at, &sent);
    }

    fn settle(&mut self, at: u32, through: u64) {
        let lane = &mut self.lanes[usize::try_from(at).unwrap()];
        let begin = lane.flight.front().map_or(lane.next, |sent| sent.first);
        assert!(through < lane.next, "acked {through}, which was never sent");
        for number in begin..=through {
            lane.fates.entry(number).or_insert(Fate::Stored);
        }
        let settled = |sent: &Sent| sent.first + sent.payloads.len() as u64 - 1 <= through;
        while lane.flight.front().is_some_and(settled) {
            lane.flight.pop_front();
        }
    }

    fn refuse(&mut self, at: u32, number: u64, count: u32) {
        let lane = &mut self.lanes[usize::try_from(at).unwrap()];
        for number in number..number + u64::from(count) {
            let fate = *lane.fates.entry(number).or_insert(Fate::Refused);
            assert_eq!(
                fate,
                Fate::Refused,
                "{} {}: {number} was acked before",
                self.name,
                lane.key
            );
        }
    }

    fn poll(&mut self) {
        let (told, polled) = self.client.poll();
        assert!(!matches!(polled, Polled::Gone(_)), "{polled:?}");
        for told in told {
            match told {
                Told::Opened { lane, last, refused } => {
                    refused.iter().for_each(|&(number, count, _)| self.refuse(lane, number, count));
                    self.settle(lane, last);
                }
                Told::Ack { lane, last, .. } => self.settle(lane, last),
                Told::Refused { lane, number, count, code, .. } => {
                    assert_eq!(code, Code::STALE_VERSION);
                    self.refuse(lane, number, count);
                }
                Told::Closed { lane, code, .. } => {
                    assert!(code.retry(), "closed: {code}");
                    self.open(usize::try_from(lane).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

struct World {
    random: Random,
    disk: SimDisk,
    log: Log,
    shelf: Shelf,
    worker: Arc<Worker>,
    devices: Vec<Device>,
    reader: Client,
    read: Vec<Delivered>,
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

fn reader(worker: &Arc<Worker>, read: &[Delivered]) -> Client {
    let mut reader = Client::new(worker, "reader", 9);
    reader.subscribe_from(1, "#", read.last().map_or(1, |last| last.position + 1));
    reader
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (disk, shelf) = (SimDisk::new(random.choose(u64::MAX)), Shelf::default());
        let (log, worker) = start(&disk, &shelf);
        let who = [("a", 1), ("a", 2), ("b", 1)];
        let devices = who.map(|(name, run)| Device::new(&worker, name, run)).into();
        let reader = reader(&worker, &[]);
        Self { random, disk, log, shelf, worker, devices, reader, read: Vec::new() }
    }

    fn roll(&mut self, n: u64) -> usize {
        usize::try_from(self.random.choose(n)).unwrap()
    }

    fn step(&mut self) {
        let (device, lane) = (self.roll(3), self.roll(2));
        match self.roll(100) {
            0..45 => {
                let (count, expect) = (1 + self.random.choose(4), self.expect(device, lane));
                self.devices[device].publish(lane, count, expect);
            }
            45..53 => self.devices[device].resend(lane),
            53..70 => drop(self.log.pump()),
            70..85 => self.devices[device].poll(),
            85..92 => self.read(),
            92..93 => self.worker.checkpoint(),
            93..94 => self.snapshot(),
            94..96 => {
                // Another connection of the same run takes over; the older one is not told first.
                let Device { name, run, .. } = self.devices[device];
                let older = std::mem::replace(
                    &mut self.devices[device].client,
                    Client::new(&self.worker, name, run),
                );
                drop(older);
                self.devices[device].connect();
            }
            96..98 => {
                let used: usize = self.disk.files().iter().map(|(_, content)| content.len()).sum();
                let room = self.random.choose(4096);
                self.disk.set_capacity(used as u64 + room);
            }
            _ => self.restart(),
        }
        if self.roll(5) == 0 {
            self.disk.set_capacity(u64::MAX);
            self.log.tend();
        }
    }

    fn expect(&mut self, device: usize, lane: usize) -> Option<Expect> {
        let about = self.devices[device].lanes[lane].next;
        match self.roll(6) {
            0 => Some(Expect::Exists),
            1 => Some(Expect::Version(Version((about + self.random.choose(3)).saturating_sub(2)))),
            _ => None,
        }
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
        for device in &mut self.devices {
            device.client = Client::new(&worker, device.name, device.run);
            device.connect();
        }
        self.reader = reader(&worker, &self.read);
        (self.log, self.worker) = (log, worker);
    }

    fn read(&mut self) {
        for told in self.reader.poll().0 {
            match told {
                Told::Event(event) => self.read.push(event),
                Told::Credit { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        self.reader.settle_all(1);
    }

    fn finish(&mut self) {
        self.disk.set_capacity(u64::MAX);
        for _ in 0..1000 {
            self.log.tend();
            while self.log.pump() {}
            self.devices.iter_mut().for_each(Device::poll);
            self.read();
            let idle = |device: &Device| device.lanes.iter().all(|lane| lane.flight.is_empty());
            if self.devices.iter().all(idle) {
                while self.log.pump() {}
                self.read();
                return;
            }
        }
        panic!("not everything is settled");
    }

    /// What is stored is what was told, once, in order, and as it was expected.
    fn check(&mut self) {
        let mut stored: HashMap<(String, String, String), Vec<u64>> = HashMap::new();
        let mut versions: HashMap<&str, u64> = HashMap::new();
        let mut position = 0;
        for event in &self.read {
            assert!(event.position > position, "{event:?} behind {position}");
            position = event.position;
            let version = versions.entry(&event.key).or_default();
            *version += 1;
            assert_eq!(event.version, *version, "{event:?}");
            let text = std::str::from_utf8(&event.payload).unwrap();
            let [name, run, number, wants]: [&str; 4] =
                text.split(' ').collect::<Vec<_>>().try_into().unwrap();
            match wants {
                "any" => {}
                "exists" => assert!(event.version > 1, "{event:?}"),
                expected => {
                    assert_eq!(expected.parse::<u64>().unwrap() + 1, event.version, "{event:?}")
                }
            }
            let lane = (name.to_owned(), run.to_owned(), event.key.clone());
            stored.entry(lane).or_default().push(number.parse().unwrap());
        }
        for device in &self.devices {
            for lane in &device.lanes {
                let numbers: Vec<u64> = lane.fates.keys().copied().collect();
                assert_eq!(numbers, (1..lane.next).collect::<Vec<_>>(), "every number ends");
                let told = lane.fates.iter().filter(|(_, fate)| **fate == Fate::Stored);
                let told: Vec<u64> = told.map(|(number, _)| *number).collect();
                let name = (device.name.to_owned(), device.run.to_string(), lane.key.to_owned());
                assert_eq!(stored.remove(&name).unwrap_or_default(), told, "{name:?}");
            }
        }
        assert!(stored.is_empty(), "stored, and never sent: {stored:?}");
        self.check_streams(
            &versions.into_iter().map(|(key, last)| (key.to_owned(), last)).collect::<Vec<_>>(),
        );
        self.check_views();
    }

    fn check_streams(&mut self, last: &[(String, u64)]) {
        for (key, last) in last {
            let mut reader = Client::new(&self.worker, "reader", 8);
            let from = 1 + self.random.choose(*last);
            reader.subscribe(1, Source::Stream { key, from: Version(from) }, 1 << 20, false);
            let mut versions = Vec::new();
            loop {
                for told in reader.poll().0 {
                    match told {
                        Told::Event(event) => versions.push(event.version),
                        Told::End(_) => {
                            assert_eq!(versions, (from..=*last).collect::<Vec<_>>());
                            break;
                        }
                        _ => {}
                    }
                }
                if versions.last() == Some(last) {
                    break;
                }
                reader.settle_all(1);
            }
        }
    }

    fn check_views(&self) {
        let before = self.worker.dump();
        let log: Arc<dyn EventLog> = Arc::new(self.log.clone());
        let anew = Worker::open(config(), snapped::alone(&self.log), None).unwrap();
        assert_eq!(anew.dump(), before, "from the log alone");
        snapped::all(&self.worker);
        let anew = Worker::open(config(), log.clone(), None).unwrap();
        assert_eq!(anew.dump(), before, "from the newest snapshot");
        let from_checkpoint =
            Worker::open_with(config(), log, Box::new(self.shelf.clone())).unwrap();
        assert_eq!(from_checkpoint.dump(), before, "from the last checkpoint");
    }
}

fn run(seed: u64, steps: usize) {
    println!("SPILE_SEED={seed}");
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
    world.check();
}

#[test]
fn whatever_happens_every_number_ends_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SPILE_SEED") {
        return run(seed, 300);
    }
    for seed in 0..number("SPILE_SEEDS").unwrap_or(150) {
        run(seed, 300);
    }
}
