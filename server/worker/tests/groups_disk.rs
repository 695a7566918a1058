//! Groups on a disk that is driven by hand: what waits for it, what goes on when it is full, and who sleeps meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use serde_json::json;
use spile_log::disk::sim::{Fault, FaultKind};
use spile_log::{Log, Options, SimDisk};
use spile_protocol::{
    code::Code,
    message::{Outcome, Source},
};
use spile_worker::{Config, EventLog, TimeOfDay, Worker};
use support::{Client, Delivered, Told, config};

/// Keys a group may have something outstanding of.
const FEW_KEYS: usize = 5;

struct World {
    disk: SimDisk,
    log: Log,
    clock: Arc<AtomicU64>,
    worker: Arc<Worker>,
}

impl World {
    fn new(more: &serde_json::Value) -> Self {
        let disk = SimDisk::new(1);
        let options = Options {
            reserve_bytes: 256 << 10,
            free_bytes_low: 0,
            inline: true,
            // What is read comes from the disk.
            recent_bytes: 0,
            prefill: false,
            ..Options::default()
        };
        let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
        let shared: Arc<dyn EventLog> = Arc::new(log.clone());
        let clock = Arc::new(AtomicU64::new(1_700_000_000_000));
        let (of_day, group_keys) = (TimeOfDay::Set(clock.clone()), FEW_KEYS);
        let config = Config { clock: of_day, group_keys, ..config() };
        let worker = Worker::open(config, shared, None).unwrap();
        let world = Self { disk, log, clock, worker };
        let mut request = json!({ "name": "g", "filter": "t", "from": "start" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut operator = Client::new(&world.worker, "operator", 9);
        operator.call(1, "$group", "create", &request.to_string());
        operator.poll();
        world.pump();
        let told: Vec<_> = (0..5).flat_map(|_| operator.poll().0).collect();
        assert!(matches!(told[..], [Told::Reply { code: Code(0), .. }]), "{told:?}");
        world
    }

    fn pump(&self) {
        while self.log.pump() {}
    }

    fn publish(&self, key: &str, count: u64) {
        let mut client = Client::new(&self.worker, key, 1);
        client.ready_to_publish(1);
        for number in 1..=count {
            client.event(0, number, b"x");
        }
        self.pump();
    }

    fn join(&self, events: u32) -> Client {
        let mut member = Client::new(&self.worker, "m", 7);
        let source = Source::Group { name: "g", max_events: 1, max_bytes: 0 };
        member.subscribe(1, source, events, true);
        member
    }
}

fn events(member: &mut Client) -> Vec<Delivered> {
    let told = member.poll().0.into_iter().filter_map(|told| match told {
        Told::Event(event) => Some(event),
        _ => None,
    });
    told.collect()
}

/// It has nothing to do, and says so: a look finds nothing, and it sleeps.
fn sleeps(member: &mut Client) {
    let mut looks = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while member.session.poll_ready(&mut cx) != Poll::Pending {
        let (told, _) = member.poll();
        looks += 1;
        assert!(looks < 8, "it does not sleep: {told:?}");
    }
}

#[tokio::test]
async fn a_keys_next_event_waits_until_what_was_settled_is_on_disk() {
    let world = World::new(&json!({}));
    world.publish("a", 2);
    let mut member = world.join(10);
    assert_eq!(events(&mut member).len(), 1);
    member.settle_as(1, 1, Outcome::Done, 0);
    for _ in 0..3 {
        assert_eq!(member.poll().0, [], "neither an answer nor the next");
    }
    sleeps(&mut member);
    world.pump();
    let (told, _) = member.poll();
    let [Told::Settled { outcome: Outcome::Done, .. }] = told[..1] else { panic!("{told:?}") };
    let next = told.iter().any(|told| matches!(told, Told::Event(event) if event.version == 2));
    assert!(next || events(&mut member)[0].version == 2);
}

#[tokio::test]
async fn what_could_not_be_read_is_not_taken_for_looked_at() {
    let world = World::new(&json!({}));
    world.publish("a", 3);
    let (at, kind) = (world.disk.operations() + 1, FaultKind::Error);
    world.disk.set_fault(Some(Fault { at, sticky: true, kind }));
    let sum = world.worker.groups_measured().sum;
    assert!(sum.unread >= 3 && sum.lag == 0, "{sum:?}");
    world.disk.set_fault(None);
    let sum = world.worker.groups_measured().sum;
    assert_eq!((sum.unread, sum.lag), (0, 3), "{sum:?}");
}

#[tokio::test]
async fn what_was_settled_is_kept_when_the_disk_is_full() {
    let world = World::new(&json!({}));
    world.publish("a", 2);
    let mut member = world.join(10);
    assert_eq!(events(&mut member).len(), 1);
    let used: usize = world.disk.files().iter().map(|(_, content)| content.len()).sum();
    world.disk.set_capacity(used as u64);
    let mut client = Client::new(&world.worker, "b", 1);
    client.ready_to_publish(1);
    client.event(0, 1, &[0; 4000]);
    world.pump();
    let (told, _) = client.poll();
    let full = |told: &Told| matches!(told, Told::Closed { code: Code::DISK_FULL, .. });
    assert!(told.iter().any(full), "{told:?}");
    member.poll();
    member.settle_as(1, 1, Outcome::Done, 0);
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(member.poll().0);
        world.pump();
    }
    let done = |told: &Told| matches!(told, Told::Settled { outcome: Outcome::Done, .. });
    assert!(told.iter().any(done), "{told:?}");
}

#[tokio::test]
async fn a_member_with_nothing_to_do_sleeps() {
    let world = World::new(
        &json!({ "on_dead": "hold", "backoff_min_ms": 60_000, "backoff_max_ms": 60_000 }),
    );
    let mut member = world.join(2);
    member.poll();
    sleeps(&mut member);
    // With its window full, and more behind it.
    for key in ["a", "b", "c"] {
        world.publish(key, 3);
    }
    assert_eq!(events(&mut member).len(), 2);
    sleeps(&mut member);
    // One waits for a retry, one is held.
    member.settle_as(1, 1, Outcome::Retry { after_ms: 50_000 }, 0);
    member.settle_as(1, 2, Outcome::Reject, 0);
    let next = events(&mut member);
    world.pump();
    assert_eq!(next.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["c"]);
    sleeps(&mut member);
    world.clock.fetch_add(50_000, Ordering::AcqRel);
    let again = events(&mut member);
    // What it had at hand was out for too long meanwhile: that comes again too.
    assert!(again.iter().any(|event| event.key == "a" && event.attempt == 2), "{again:?}");
}

#[tokio::test]
async fn at_the_cap_of_keys_a_group_reads_no_further_until_some_are_done() {
    let world = World::new(&json!({}));
    for key in 0..8 {
        world.publish(&format!("k{key}"), 1);
    }
    let mut member = world.join(100);
    let first = events(&mut member);
    assert_eq!(first.len(), FEW_KEYS, "{first:?}");
    for event in &first {
        member.settle_as(1, event.delivery, Outcome::Retry { after_ms: 1000 }, 0);
    }
    assert_eq!(events(&mut member), []);
    world.pump();
    assert_eq!(events(&mut member), []);
    sleeps(&mut member);
    let mut operator = Client::new(&world.worker, "operator", 9);
    operator.call(1, "$group", "show", r#"{"name":"g"}"#);
    let told: Vec<_> = (0..5).flat_map(|_| operator.poll().0).collect();
    let [Told::Reply { payload, .. }] = &told[..] else { panic!("{told:?}") };
    let shown: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!((&shown["full"], &shown["waiting"]), (&json!(true), &json!(8)), "{shown}");
    let measured = world.worker.groups_measured();
    assert_eq!((measured.sum.full, measured.each[0].full, measured.sum.waiting), (1, 1, 8));
    world.clock.fetch_add(1000, Ordering::AcqRel);
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..20 {
        for event in events(&mut member) {
            member.settle_as(1, event.delivery, Outcome::Done, 0);
            keys.insert(event.key);
        }
        world.pump();
    }
    assert_eq!(keys.len(), 8, "{keys:?}");
}
