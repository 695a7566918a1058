//! A group on a worker whose disk loses power, is killed and fills up, with members that come, go, are slow and fail,
//! against a small model of what was told.
//!
//! `SPILE_SEED=7 cargo test -p spile-worker --test groups_model` replays one seed; `SPILE_SEEDS=5000` runs many.
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

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use spile_log::{
    Log, Options, SimDisk,
    disk::sim::{Choose, Random},
};
use spile_protocol::{
    code::Code,
    message::{Outcome, Source},
};
use spile_worker::{Config, EventLog, TimeOfDay, Worker};
use support::{Client, Delivered, Shelf, Told, config};

const KEYS: usize = 5;
const STEPS: usize = 400;
const SETTLE_WITHIN_MS: u64 = 1000;
const MAX_ATTEMPTS: u32 = 3;

/// An event that was stored.
#[derive(Clone, Debug)]
struct Stored {
    key: usize,
    version: u64,
    matches: bool,
}

/// A delivery that a member has, as far as the model knows.
#[derive(Clone, Debug)]
struct Held {
    key: usize,
    /// Positions that are not settled.
    left: Vec<u64>,
    deadline: u64,
    epoch: u64,
    replay: bool,
}

/// What a member said, and was not answered.
#[derive(Clone, Debug)]
struct SaidTo {
    delivery: u64,
    outcome: Outcome,
    positions: Vec<u64>,
    /// The delivery had not ended when it was said, nor when that was looked at.
    live: bool,
    looked: bool,
    deadline: u64,
    epoch: u64,
}

struct Member {
    client: Client,
    held: BTreeMap<u64, Held>,
    said: Vec<SaidTo>,
}

struct World {
    random: Random,
    clock: Arc<AtomicU64>,
    disk: SimDisk,
    log: Log,
    shelf: Shelf,
    worker: Arc<Worker>,
    holds: bool,
    group_keys: usize,
    members: Vec<Option<Member>>,
    names: u8,
    numbers: Vec<u64>,
    publisher: Client,
    /// By position.
    events: BTreeMap<u64, Stored>,
    start: u64,
    epoch: u64,
    /// Told to be done in this epoch; and said to be, and not known.
    done: HashSet<u64>,
    maybe: HashSet<u64>,
    dropped: HashSet<u64>,
    replayed: HashSet<u64>,
    /// Something was refused for want of room: what was live may have ended.
    shaken: bool,
}

fn begin(
    disk: &SimDisk,
    shelf: &Shelf,
    clock: &Arc<AtomicU64>,
    group_keys: usize,
) -> (Log, Arc<Worker>) {
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
    let config = Config { clock: TimeOfDay::Set(clock.clone()), group_keys, ..config() };
    (log, Worker::open_with(config, shared, Box::new(shelf.clone())).unwrap())
}

fn publisher(worker: &Arc<Worker>, numbers: &[u64]) -> Client {
    let mut client = Client::with(worker, "publisher", 1, true);
    for (lane, next) in (0..).zip(numbers) {
        client.lane(lane, Some(&format!("k{lane}")), *next);
        client.bind(2 * lane, lane, "t/a");
        client.bind(2 * lane + 1, lane, "other");
    }
    while client.poll().0.iter().any(|told| matches!(told, Told::Opened { .. })) {}
    client
}

fn key_of(event: &Delivered) -> usize {
    event.key[1..].parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clock = Arc::new(AtomicU64::new(1_700_000_000_000));
        let (disk, shelf) = (SimDisk::new(random.choose(u64::MAX)), Shelf::default());
        // With few, the floor passes keys that are behind, and the group reads no further now and then.
        let holds = random.choose(3) == 0;
        let few = [2, 4, 1000][usize::try_from(random.choose(3)).unwrap()];
        // Keys that are held stay: with few allowed, others would wait for an operator.
        let group_keys = if holds { 1000 } else { few };
        let (log, worker) = begin(&disk, &shelf, &clock, group_keys);
        let numbers = vec![1; KEYS];
        let publisher = publisher(&worker, &numbers);
        let mut world = Self {
            holds,
            random,
            group_keys,
            clock,
            disk,
            log,
            shelf,
            worker,
            members: (0..3).map(|_| None).collect(),
            names: 0,
            numbers,
            publisher,
            events: BTreeMap::new(),
            start: 0,
            epoch: 1,
            done: HashSet::new(),
            maybe: HashSet::new(),
            dropped: HashSet::new(),
            replayed: HashSet::new(),
            shaken: false,
        };
        (0..world.random.choose(3)).for_each(|_| world.publish());
        let (code, shown) = world.ask(
            "$group",
            "create",
            &json!({
                "name": "g", "filter": "t/#", "from": "start", "max_attempts": MAX_ATTEMPTS,
                "backoff_min_ms": 100, "backoff_max_ms": 400, "settle_within_ms": SETTLE_WITHIN_MS,
                "on_dead": if world.holds { "hold" } else { "skip" },
            }),
        );
        assert_eq!(code, Code(0), "{shown}");
        world
    }

    fn roll(&mut self, n: u64) -> usize {
        usize::try_from(self.random.choose(n)).unwrap()
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    fn settle_disk(&mut self) {
        self.disk.set_capacity(u64::MAX);
        self.log.tend();
        while self.log.pump() {}
    }

    fn ask(&mut self, service: &str, method: &str, request: &Value) -> (Code, Value) {
        self.settle_disk();
        let mut client = Client::new(&self.worker, "operator", 200);
        client.call(1, service, method, &request.to_string());
        for _ in 0..10_000 {
            for told in client.poll().0 {
                if let Told::Reply { code, payload, detail } = told {
                    let value = serde_json::from_slice(&payload).unwrap_or(Value::from(detail));
                    return (code, value);
                }
            }
            while self.log.pump() {}
        }
        panic!("{service} {method} is not answered");
    }

    fn publish(&mut self) {
        self.settle_disk();
        let (key, count, matches) = (self.roll(KEYS as u64), 1 + self.roll(4), self.roll(5) > 0);
        let (lane, first) = (u32::try_from(key).unwrap(), self.numbers[key]);
        let route = 2 * lane + u32::from(!matches);
        let single = self.roll(2) == 0;
        let payload = |n: u64| format!("k{key} {}", first + n);
        let payloads: Vec<String> = (0..count as u64).map(payload).collect();
        if single {
            for (n, payload) in (first..).zip(&payloads) {
                self.publisher.event(route, n, payload.as_bytes());
            }
        } else {
            let payloads: Vec<&[u8]> = payloads.iter().map(String::as_bytes).collect();
            self.publisher.batch(route, first, &payloads, None);
        }
        self.numbers[key] += count as u64;
        let mut stored = 0;
        while stored < count {
            while self.log.pump() {}
            for told in self.publisher.poll().0 {
                let Told::Ack { receipts, .. } = told else { panic!("{told:?}") };
                for (_, many, version, position) in receipts {
                    for n in 0..u64::from(many) {
                        let event = Stored { key, version: version + n, matches };
                        self.events.insert(position + n, event);
                        stored += 1;
                    }
                }
            }
        }
    }

    fn join(&mut self, at: usize) {
        self.names = self.names.wrapping_add(1) % 100;
        let mut client = Client::new(&self.worker, "member", self.names);
        let max_events = [1, 1, 3, 100][self.roll(4)];
        let events = [1, 3, 50][self.roll(3)];
        let source = Source::Group { name: "g", max_events, max_bytes: 1000 };
        client.subscribe(1, source, events, true);
        self.members[at] = Some(Member { client, held: BTreeMap::new(), said: Vec::new() });
    }

    /// A member is gone, without a word or with one.
    fn gone(&mut self, at: usize) {
        let Some(member) = self.members[at].take() else { return };
        self.unanswered(&member);
    }

    fn unanswered(&mut self, member: &Member) {
        for said in member.said.iter().filter(|said| said.epoch == self.epoch) {
            self.maybe.extend(&said.positions);
        }
    }

    fn poll(&mut self, at: usize) {
        let Some(mut member) = self.members[at].take() else { return };
        for said in member.said.iter_mut().filter(|said| !said.looked) {
            said.looked = true;
            said.live &= said.deadline > self.now() && said.epoch == self.epoch;
        }
        let (told, _) = member.client.poll();
        let mut deliveries: BTreeMap<u64, Vec<Delivered>> = BTreeMap::new();
        let mut over = false;
        for told in told {
            match told {
                Told::Event(event) => deliveries.entry(event.delivery).or_default().push(event),
                Told::Settled { delivery, outcome, .. } => {
                    self.answered(&mut member, delivery, outcome);
                }
                Told::Credit { .. } => {}
                Told::End(_) => over = true,
                other => panic!("{other:?}"),
            }
        }
        for (delivery, events) in deliveries {
            let held = self.delivered(&member, &events);
            member.held.insert(delivery, held);
        }
        if over {
            self.unanswered(&member);
        } else {
            self.members[at] = Some(member);
        }
    }

    fn answered(&mut self, member: &mut Member, delivery: u64, outcome: Outcome) {
        let at = member.said.iter().position(|said| said.delivery == delivery).unwrap();
        let said = member.said.remove(at);
        if outcome == Outcome::Seen {
            assert!(!said.live || self.shaken, "{said:?} did not count");
            return;
        }
        assert_eq!(outcome, said.outcome);
        if outcome == Outcome::Done && said.epoch == self.epoch {
            for position in said.positions {
                self.maybe.remove(&position);
                self.replayed.remove(&position);
                assert!(self.done.insert(position), "{position} was done twice");
            }
        }
    }

    /// May this go out now?
    fn delivered(&mut self, member: &Member, events: &[Delivered]) -> Held {
        let first = &events[0];
        let key = key_of(first);
        let replay = self.replayed.contains(&first.position);
        let now = self.now();
        for other in self.members.iter().flatten().chain([member]) {
            let beside = other.held.values().find(|held| {
                held.key == key
                    && held.deadline > now
                    && held.epoch == self.epoch
                    && !held.left.is_empty()
            });
            assert!(beside.is_none() || self.shaken, "{first:?} beside {beside:?}");
        }
        let letters = self.letters();
        for (n, event) in (0..).zip(events) {
            let stored = self.events.get(&event.position).unwrap();
            assert!(
                stored.matches && stored.key == key && stored.version == event.version,
                "{event:?}"
            );
            assert_eq!(event.payload, format!("k{key} {}", event.version));
            assert_eq!((event.position, event.version), (first.position + n, first.version + n));
            assert!(!self.done.contains(&event.position), "{event:?} was done");
            assert!(!self.dropped.contains(&event.position), "{event:?} was dropped");
            assert_eq!(letters.contains(&event.position), replay, "{event:?}: {letters:?}");
            assert!(event.position >= self.start || replay, "{event:?} before {}", self.start);
        }
        assert!(events.len() == 1 || first.attempt == 1, "a retry goes alone: {events:?}");
        assert!(first.attempt <= MAX_ATTEMPTS || replay, "{first:?}");
        // What was said may count already, before whoever said it looks.
        let said: HashSet<u64> = self
            .members
            .iter()
            .flatten()
            .chain([member])
            .flat_map(|member| &member.said)
            .filter(|said| said.epoch == self.epoch)
            .flat_map(|said| said.positions.clone())
            .collect();
        if !replay {
            for (position, earlier) in self.events.range(self.start..first.position) {
                let of = earlier.key == key && earlier.matches;
                let settled = self.done.contains(position)
                    || self.maybe.contains(position)
                    || said.contains(position);
                let dead = letters.contains(position) || self.dropped.contains(position);
                assert!(!of || settled || dead, "{first:?} before {position}");
                let held = of && self.holds && letters.contains(position);
                assert!(!held, "{first:?} goes, and {position} holds its key");
            }
        }
        Held {
            key,
            left: events.iter().map(|event| event.position).collect(),
            deadline: now + SETTLE_WITHIN_MS,
            epoch: self.epoch,
            replay,
        }
    }

    fn letters(&mut self) -> BTreeSet<u64> {
        let (code, page) = self.ask_quietly("$dlq", "ls", &json!({ "group": "g", "limit": 1000 }));
        assert_eq!(code, Code(0), "{page}");
        assert!(page.get("next").is_none(), "more than a page");
        let position = |letter: &Value| {
            letter["position"].as_str().unwrap().strip_prefix("w:").unwrap().parse().unwrap()
        };
        page["letters"].as_array().unwrap().iter().map(position).collect()
    }

    /// Without moving the log on.
    fn ask_quietly(&mut self, service: &str, method: &str, request: &Value) -> (Code, Value) {
        let mut client = Client::new(&self.worker, "operator", 201);
        client.call(1, service, method, &request.to_string());
        for told in client.poll().0 {
            if let Told::Reply { code, payload, .. } = told {
                return (code, serde_json::from_slice(&payload).unwrap_or_default());
            }
        }
        panic!("{service} {method} is not answered");
    }

    fn settle(&mut self, at: usize) {
        let roll = self.roll(10);
        let pick = self.roll(8);
        let (now, epoch) = (self.now(), self.epoch);
        let part = u32::from(self.roll(3) == 0);
        let Some(member) = &mut self.members[at] else { return };
        let open: Vec<u64> = member.held.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let delivery = open[pick % open.len()];
        let outcome = match roll {
            0..6 => Outcome::Done,
            6 => Outcome::Retry { after_ms: 0 },
            7 => Outcome::Retry { after_ms: 50 },
            8 => Outcome::Reject,
            _ => Outcome::Done,
        };
        let held = member.held.get_mut(&delivery).unwrap();
        let (live, deadline) = (held.deadline > now && held.epoch == epoch, held.deadline);
        let part = if matches!(outcome, Outcome::Retry { .. }) { 0 } else { part };
        let count = if part == 0 { held.left.len() } else { 1 };
        let positions: Vec<u64> = held.left.drain(..count).collect();
        // The rest of a delivery goes back where its key is held.
        let goes_back = self.holds && outcome == Outcome::Reject && !held.replay;
        if held.left.is_empty() || goes_back {
            member.held.remove(&delivery);
        }
        member.client.settle_as(1, delivery, outcome, part);
        member.said.push(SaidTo {
            delivery,
            outcome,
            positions,
            live,
            looked: false,
            deadline,
            epoch,
        });
    }

    fn seek(&mut self) {
        let positions: Vec<u64> = self.events.keys().copied().collect();
        let to = match self.roll(4) {
            0 => "start".to_owned(),
            1 => "end".to_owned(),
            _ if positions.is_empty() => "start".to_owned(),
            _ => format!("w:{}", positions[self.roll(positions.len() as u64)]),
        };
        let (code, sought) = self.ask("$group", "seek", &json!({ "name": "g", "to": to }));
        assert_eq!(code, Code(0), "{sought}");
        self.epoch = sought["epoch"].as_u64().unwrap();
        self.start = match to.as_str() {
            "start" => 0,
            "end" => u64::MAX,
            at => at.strip_prefix("w:").unwrap().parse().unwrap(),
        };
        if self.start == u64::MAX {
            self.start = self.events.last_key_value().map_or(0, |(position, _)| position + 1);
        }
        for set in [&mut self.done, &mut self.maybe, &mut self.dropped, &mut self.replayed] {
            let start = self.start;
            set.retain(|&position| position < start);
        }
        self.maybe.clear();
    }

    fn replay(&mut self) {
        self.settle_disk();
        let letters: Vec<u64> = self.letters().into_iter().collect();
        if letters.is_empty() {
            return;
        }
        let position = letters[self.roll(letters.len() as u64)];
        let request = json!({ "group": "g", "positions": [format!("w:{position}")] });
        if self.roll(3) == 0 {
            let (code, dropped) = self.ask("$dlq", "drop", &request);
            assert_eq!((code, &dropped["dropped"]), (Code(0), &json!(1)), "{dropped}");
            self.replayed.remove(&position);
            self.dropped.insert(position);
            for member in self.members.iter_mut().flatten() {
                member.held.retain(|_, held| !(held.replay && held.left.contains(&position)));
                // What was said of it and not looked at does not count.
                let of = |said: &&mut SaidTo| said.positions.contains(&position);
                member.said.iter_mut().filter(of).for_each(|said| said.live = false);
            }
        } else {
            let (code, replayed) = self.ask("$dlq", "replay", &request);
            assert_eq!(code, Code(0), "{replayed}");
            self.replayed.insert(position);
        }
    }

    fn snapshot(&mut self) {
        if snapped::take(&self.worker, &self.disk, &mut self.random) {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.disk.set_capacity(u64::MAX);
        for at in 0..self.members.len() {
            self.gone(at);
        }
        self.disk = if self.roll(2) == 0 {
            self.disk.kill()
        } else {
            self.disk.power_loss(&mut self.random)
        };
        let (log, worker) = begin(&self.disk, &self.shelf, &self.clock, self.group_keys);
        self.publisher = publisher(&worker, &self.numbers);
        (self.log, self.worker) = (log, worker);
        self.shaken = false;
    }

    fn step(&mut self) {
        let at = self.roll(3);
        match self.roll(100) {
            0..20 => self.publish(),
            20..45 => self.poll(at),
            45..65 => self.settle(at),
            65..75 => drop(self.log.pump()),
            75..83 => {
                let ms = [10, 100, 300, 1100][self.roll(4)];
                self.clock.fetch_add(ms, Ordering::AcqRel);
            }
            83..88 => {
                self.gone(at);
                self.join(at);
            }
            88..90 => self.gone(at),
            90..91 => {
                if let Some(member) = &mut self.members[at] {
                    // What it has goes to others when that is heard.
                    member.client.end(1);
                    member.held.clear();
                }
            }
            91..94 => self.replay(),
            94..95 => self.seek(),
            95..96 => self.worker.checkpoint(),
            96..97 => self.snapshot(),
            97..98 => {
                let used: usize = self.disk.files().iter().map(|(_, content)| content.len()).sum();
                let room = self.random.choose(2048);
                self.disk.set_capacity(used as u64 + room);
                self.shaken = true;
            }
            _ => self.restart(),
        }
    }

    /// Everything is worked off.
    fn finish(&mut self) {
        for at in 0..self.members.len() {
            self.gone(at);
        }
        self.shaken = false;
        self.join(0);
        for _ in 0..10_000 {
            self.settle_disk();
            self.clock.fetch_add(150, Ordering::AcqRel);
            self.poll(0);
            let member = self.members[0].as_mut().unwrap();
            let open: Vec<(u64, Held)> = std::mem::take(&mut member.held).into_iter().collect();
            let (idle, epoch) = (open.is_empty() && member.said.is_empty(), self.epoch);
            for (delivery, held) in open {
                let (outcome, positions) = (Outcome::Done, held.left);
                member.client.settle_as(1, delivery, outcome, 0);
                // It may be late: the clock has moved on.
                member.said.push(SaidTo {
                    delivery,
                    outcome,
                    positions,
                    live: false,
                    looked: false,
                    deadline: 0,
                    epoch,
                });
            }
            // Late or not, it is looked at before the clock moves.
            self.poll(0);
            if idle {
                return;
            }
        }
        panic!("not everything is worked off");
    }

    fn check(&mut self) {
        let (code, shown) = self.ask("$group", "show", &json!({ "name": "g" }));
        assert_eq!(code, Code(0), "{shown}");
        let letters = self.letters();
        let count = |field: &str| shown[field].as_u64().unwrap();
        let waiting = |maybe: &HashSet<u64>| {
            let waits = |(position, event): &(&u64, &Stored)| {
                let held = self.holds
                    && letters.iter().any(|letter| {
                        let dead = &self.events[letter];
                        dead.key == event.key && (letter < position || *letter < self.start)
                    });
                let settled = self.done.contains(position) || maybe.contains(position);
                let dead = letters.contains(position) || self.dropped.contains(position);
                event.matches && held && !settled && !dead
            };
            self.events.range(self.start..).filter(waits).count() as u64
        };
        // What was said, and not answered before a crash, may have counted.
        let may_wait = waiting(&self.maybe)..=waiting(&HashSet::new());
        assert_eq!(count("in_flight"), 0, "{shown}");
        assert!(may_wait.contains(&count("waiting")), "{may_wait:?}: {shown}");
        assert_eq!(count("dead"), letters.len() as u64, "{shown}");
        let sum = count("settled") + count("dropped") + count("dead") + count("waiting");
        assert_eq!(count("produced"), sum, "{shown}");
        let matching = self.events.range(self.start..).filter(|(_, event)| event.matches).count();
        assert!(count("produced") >= matching as u64, "{shown}: {matching} match");
        let both: Vec<_> = letters.iter().filter(|letter| self.done.contains(letter)).collect();
        assert!(both.is_empty(), "done and dead: {both:?}");
        self.check_views();
    }

    fn check_views(&mut self) {
        self.members.iter_mut().for_each(|member| *member = None);
        self.settle_disk();
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

fn run(seed: u64) {
    println!("SPILE_SEED={seed}");
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    world.check();
}

#[test]
fn whatever_happens_every_event_has_one_outcome_in_order() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SPILE_SEED") {
        return run(seed);
    }
    for seed in 0..number("SPILE_SEEDS").unwrap_or(60) {
        run(seed);
    }
}
