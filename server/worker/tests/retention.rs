//! What readers are told of a log that begins later than it once did.
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

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use spile_log::{Log, Options, SimDisk, State};
use spile_protocol::{
    code::Code,
    id::{SubscriptionId, Version},
    message::{From, Outcome, Scope, Source},
};
use spile_worker::{Config, EventLog, Rule, TimeOfDay, Worker};
use support::{Client, NOW, Told, config};

/// A worker of which nearly nothing is kept: of key `a` the first events are gone, of `once` all.
struct Thinned {
    disk: SimDisk,
    clock: Arc<AtomicU64>,
    log: Log,
    worker: Arc<Worker>,
    numbers: [u64; 2],
}

fn rule(filter: &str, max_age_ms: Option<u64>, max_bytes: Option<u64>) -> Rule {
    Rule { filter: filter.to_owned(), max_age_ms, max_bytes }
}

fn begin(disk: &SimDisk, clock: &Arc<AtomicU64>, rules: &[Rule]) -> (Log, Arc<Worker>) {
    begin_within(disk, clock, rules, 0)
}

fn begin_within(
    disk: &SimDisk,
    clock: &Arc<AtomicU64>,
    rules: &[Rule],
    bytes_max: u64,
) -> (Log, Arc<Worker>) {
    let options = Options {
        bytes_max,
        segment_bytes: 64 << 10,
        prefill: false,
        reserve_bytes: 0,
        free_bytes_low: bytes_max / 10,
        inline: true,
        ..Options::default()
    };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    let shared: Arc<dyn EventLog> = Arc::new(log.clone());
    let clock = TimeOfDay::Set(clock.clone());
    let config = Config { retention: rules.to_vec(), clock, snapshot_rows: 1000, ..config() };
    (log, Worker::open(config, shared, None).unwrap())
}

impl Thinned {
    fn new(rules: &[Rule]) -> Self {
        let disk = SimDisk::new(1);
        let clock = Arc::new(AtomicU64::new(NOW.0 + 1000));
        let (log, worker) = begin(&disk, &clock, rules);
        Self { disk, clock, log, worker, numbers: [1; 2] }
    }

    fn publish(&mut self, lane: usize, topic: &str, events: u64) {
        let mut client = Client::new(&self.worker, "p", 1);
        let id = u32::try_from(lane).unwrap();
        client.lane(id, Some(["a", "once"][lane]), self.numbers[lane]);
        client.bind(id, id, topic);
        for _ in 0..events {
            client.event(id, self.numbers[lane], &[7; 4000]);
            self.numbers[lane] += 1;
            while self.log.pump() {}
            client.poll();
        }
    }

    fn retain(&mut self) {
        snapped::all(&self.worker);
        self.publish(0, "t", 1);
        snapped::all(&self.worker);
        self.worker.retain();
    }

    fn by_age() -> Self {
        let mut thinned = Self::new(&[rule("t", Some(0), None)]);
        thinned.publish(1, "t", 3);
        thinned.publish(0, "t", 60);
        thinned.retain();
        assert!(thinned.log.start().get() > 4, "{:?}", thinned.worker.retained());
        thinned
    }
}

fn fault(code: Code) -> Told {
    Told::Fault { code, scope: Scope::Subscription(SubscriptionId(1)) }
}

/// Versions that are told until nothing more is.
fn versions(client: &mut Client) -> Vec<u64> {
    let mut versions = Vec::new();
    loop {
        let (told, _) = client.poll();
        let events = told.iter().filter_map(|told| match told {
            Told::Event(event) => Some(event.version),
            _ => None,
        });
        let before = versions.len();
        versions.extend(events);
        if versions.len() == before {
            return versions;
        }
        client.settle_all(1);
    }
}

#[test]
fn from_before_the_floor_is_gone_and_the_start_is_the_floor() {
    let thinned = Thinned::by_age();
    let start = thinned.log.start().get();
    let mut client = Client::new(&thinned.worker, "r", 1);
    client.subscribe_from(1, "#", start - 1);
    assert_eq!(client.poll().0, [fault(Code::GONE)]);
    client.subscribe_from(1, "#", start);
    let from_floor = versions(&mut client);
    let mut client = Client::new(&thinned.worker, "r", 2);
    client.subscribe(1, Source::Filter { filter: "#", key: None, from: From::Start }, 1000, true);
    assert_eq!(versions(&mut client), from_floor);
    assert!(from_floor[0] > 1 && from_floor.last() == Some(&61), "{from_floor:?}");
}

#[tokio::test]
async fn a_stream_says_that_its_beginning_is_gone() {
    let mut thinned = Thinned::by_age();
    let stream = |thinned: &Thinned, run, key, from| {
        let mut client = Client::new(&thinned.worker, "r", run);
        client.subscribe(1, Source::Stream { key, from: Version(from) }, 1000, true);
        client
    };
    let mut whole = stream(&thinned, 1, "a", 1);
    assert!(whole.poll().0.contains(&fault(Code::GONE)));
    let kept = versions(&mut stream(&thinned, 2, "a", 0));
    assert!(kept[0] > 1 && kept.last() == Some(&61), "{kept:?}");
    assert_eq!(versions(&mut stream(&thinned, 3, "a", kept[0])), kept);
    let mut before = stream(&thinned, 4, "a", kept[0] - 1);
    assert!(before.poll().0.contains(&fault(Code::GONE)));
    // Of this one nothing is left: its next event comes, with the version it has to have.
    let mut all = stream(&thinned, 5, "once", 1);
    assert!(all.poll().0.contains(&fault(Code::GONE)));
    let mut rest = stream(&thinned, 6, "once", 0);
    assert!(versions(&mut rest).is_empty());
    thinned.publish(1, "t", 1);
    assert_eq!(rest.events(1).await[0].version, 4);
    // Its producer's numbers go on as if all were there.
    let mut client = Client::new(&thinned.worker, "p", 1);
    client.lane(1, Some("once"), 5);
    assert_eq!(client.poll().0, [Told::Opened { lane: 1, last: 4, refused: vec![] }]);
}

#[test]
fn versions_and_positions_do_not_go_back_over_a_restart() {
    let mut thinned = Thinned::by_age();
    let end = thinned.worker.status().end;
    let dump = thinned.worker.dump();
    thinned.disk = thinned.disk.kill();
    let rules = [rule("t", Some(0), None)];
    (thinned.log, thinned.worker) = begin(&thinned.disk, &thinned.clock, &rules);
    assert_eq!(thinned.worker.dump(), dump);
    thinned.publish(1, "t", 1);
    assert!(thinned.worker.status().end > end);
    let mut client = Client::new(&thinned.worker, "r", 1);
    client.subscribe(1, Source::Stream { key: "once", from: Version(0) }, 10, true);
    assert_eq!(versions(&mut client), [4]);
}

#[test]
fn what_no_rule_matches_is_kept_and_without_rules_everything_is() {
    for rules in [vec![], vec![rule("other/#", Some(0), Some(1))], vec![rule("t", None, None)]] {
        let mut kept = Thinned::new(&rules);
        kept.publish(0, "t", 60);
        kept.retain();
        assert_eq!(kept.log.start().get(), 1, "{rules:?}");
        assert_eq!(kept.worker.retained().freed.get(), 0);
    }
}

#[test]
fn an_age_is_waited_for() {
    let mut young = Thinned::new(&[rule("t", Some(60_000), None)]);
    young.publish(0, "t", 60);
    young.retain();
    assert_eq!(young.log.start().get(), 1);
    young.clock.fetch_add(60_000, Ordering::AcqRel);
    young.retain();
    assert!(young.log.start().get() > 1);
}

#[test]
fn the_newest_bytes_of_a_topic_are_kept() {
    let most = 100_000;
    let mut some = Thinned::new(&[rule("t", None, Some(most))]);
    some.publish(0, "t", 120);
    some.retain();
    let left = some.log.health().segment_bytes;
    assert!((most..most + 2 * 80_000).contains(&left), "{left} are left");
}

#[test]
fn the_log_is_not_thinned_before_two_snapshots_are_past_it() {
    let mut kept = Thinned::new(&[rule("t", Some(0), None)]);
    kept.publish(0, "t", 60);
    kept.worker.retain();
    assert_eq!(kept.log.start().get(), 1, "there is no snapshot");
    kept.retain();
    assert!(kept.log.start().get() > 1);
}

/// A worker whose log has reached its limit, with a group that has settled nothing.
struct Full(Thinned);

impl Full {
    fn new(behind: &str) -> Self {
        let rules = [rule("t", Some(0), None)];
        let disk = SimDisk::new(1);
        let clock = Arc::new(AtomicU64::new(NOW.0 + 1000));
        let (log, worker) = begin_within(&disk, &clock, &rules, 300_000);
        let mut full = Self(Thinned { disk, clock, log, worker, numbers: [1; 2] });
        let request = format!(r#"{{"name":"g","filter":"t","behind":"{behind}"}}"#);
        full.ask("$group", "create", &request);
        full.0.publish(0, "t", 50);
        snapped::all(&full.0.worker);
        full.0.publish(0, "t", 40);
        snapped::all(&full.0.worker);
        full.0.log.tend();
        assert_eq!(full.state(), State::Full);
        full.0.clock.fetch_add(1000, Ordering::AcqRel);
        full
    }

    fn state(&self) -> State {
        self.0.log.durable().borrow().state
    }

    fn ask(&mut self, service: &str, method: &str, request: &str) {
        let mut client = Client::new(&self.0.worker, "operator", 9);
        client.call(1, service, method, request);
        for _ in 0..1000 {
            while self.0.log.pump() {}
            if let Some(told) = client.poll().0.pop() {
                assert!(matches!(told, Told::Reply { code: Code(0), .. }), "{told:?}");
                return;
            }
        }
        panic!("{service} {method} is not answered");
    }

    /// What the group's member is handed, until there is nothing more.
    fn consume(&mut self) -> Vec<u64> {
        let mut member = Client::new(&self.0.worker, "m", 1);
        let source = Source::Group { name: "g", max_events: 10, max_bytes: 1 << 20 };
        member.subscribe(1, source, 10, true);
        let (mut versions, mut idle) = (Vec::new(), 0);
        while idle < 3 {
            let mut deliveries = std::collections::BTreeSet::new();
            for told in member.poll().0 {
                if let Told::Event(event) = told {
                    versions.push(event.version);
                    deliveries.insert(event.delivery);
                }
            }
            idle = if deliveries.is_empty() { idle + 1 } else { 0 };
            deliveries.iter().for_each(|&it| member.settle_as(1, it, Outcome::Done, 0));
            member.poll();
            while self.0.log.pump() {}
        }
        versions
    }
}

#[test]
fn at_the_limit_events_are_refused_rather_than_a_group_s_dropped() {
    let mut full = Full::new("refuse");
    full.0.worker.retain();
    full.0.log.tend();
    assert_eq!((full.state(), full.0.log.start().get()), (State::Full, 1));
    let end = full.0.worker.status().end;
    full.0.publish(1, "t", 1);
    assert_eq!(full.0.worker.status().end, end, "it was refused");
    // The group gets all of its events; then they go, and there is room.
    assert_eq!(full.consume(), (1..=90).collect::<Vec<_>>());
    full.0.clock.fetch_add(60_000, Ordering::AcqRel);
    snapped::all(&full.0.worker);
    full.0.worker.retain();
    full.0.log.tend();
    assert_eq!(full.state(), State::Running, "{:?}", full.0.worker.retained());
}

#[test]
fn a_group_that_allows_it_lets_go_of_its_events_at_the_limit() {
    let mut full = Full::new("drop");
    full.0.worker.retain();
    full.0.log.tend();
    let left = (full.0.worker.retained(), full.0.log.sealed());
    assert_eq!(full.state(), State::Running, "{left:?}");
    full.0.publish(0, "t", 1);
    let versions = full.consume();
    assert!(versions[0] > 1 && versions.last() == Some(&91), "{versions:?}");
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    // Not at the limit it keeps what it has not settled.
    full.0.publish(0, "t", 20);
    snapped::all(&full.0.worker);
    full.0.publish(0, "t", 1);
    snapped::all(&full.0.worker);
    let freed = full.0.worker.retained().freed.get();
    full.0.clock.fetch_add(3_700_000, Ordering::AcqRel);
    full.0.worker.retain();
    assert!(full.0.worker.retained().freed.get() > freed, "what it has settled goes");
    assert_eq!(full.consume(), (92..=112).collect::<Vec<_>>());
}
