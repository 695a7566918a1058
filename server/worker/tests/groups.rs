//! Durable groups on one worker: created, consumed, settled, retried, dead, sent elsewhere, and found again after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test"
)]

mod support;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use spile_protocol::{
    code::Code,
    id::{Role, Run},
    message::{Outcome, Source},
};
use spile_worker::{Config, TimeOfDay, Worker, attach_of};
use support::{Client, Delivered, NOW, Told, config, log, open};

const RETRY: Outcome = Outcome::Retry { after_ms: 0 };

async fn publish(worker: &Arc<Worker>, key: &str, count: u64) {
    let mut client = Client::new(worker, key, 1);
    client.ready_to_publish(1);
    for number in 1..=count {
        client.event(0, number, format!("{key} {number}").as_bytes());
    }
    client.acked(0, count).await;
}

async fn ask(worker: &Arc<Worker>, service: &str, method: &str, request: Value) -> (Code, Value) {
    Client::new(worker, "operator", 9).reply(service, method, &request.to_string()).await
}

async fn create(worker: &Arc<Worker>, more: Value) {
    let mut request = json!({ "name": "g", "filter": "t/#", "from": "start", "backoff_min_ms": 0, "backoff_max_ms": 0 });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (code, shown) = ask(worker, "$group", "create", request).await;
    assert_eq!(code, Code(0), "{shown}");
    assert_eq!(shown["name"], "g");
}

async fn show(worker: &Arc<Worker>) -> Value {
    let (code, shown) = ask(worker, "$group", "show", json!({ "name": "g" })).await;
    assert_eq!(code, Code(0), "{shown}");
    let count = |field: &str| shown[field].as_u64().unwrap();
    let sum =
        count("settled") + count("dropped") + count("dead") + count("waiting") + count("in_flight");
    assert_eq!(sum, count("produced"), "{shown}");
    shown
}

fn counts<const N: usize>(shown: &Value, fields: [&str; N]) -> [u64; N] {
    fields.map(|field| shown[field].as_u64().unwrap())
}

/// A member, and what it was told.
struct Member {
    client: Client,
    events: VecDeque<Delivered>,
    outcomes: VecDeque<(u64, Outcome)>,
}

impl Member {
    fn join(worker: &Arc<Worker>, who: &str, events: u32, max_events: u32) -> Self {
        let mut client = Client::new(worker, who, 7);
        let source = Source::Group { name: "g", max_events, max_bytes: 1 << 20 };
        client.subscribe(1, source, events, true);
        Self { client, events: VecDeque::new(), outcomes: VecDeque::new() }
    }

    fn take(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Event(event) => self.events.push_back(event),
                Told::Settled { delivery, outcome, .. } => {
                    self.outcomes.push_back((delivery, outcome));
                }
                Told::Credit { .. } => {}
                other => panic!("a member was told {other:?}"),
            }
        }
    }

    async fn next(&mut self) -> Delivered {
        while self.events.is_empty() {
            let told = self.client.told(1).await;
            self.take(told);
        }
        self.events.pop_front().unwrap()
    }

    fn says(&mut self, event: &Delivered, outcome: Outcome, events: u32) {
        self.client.settle_as(1, event.delivery, outcome, events);
    }

    async fn answer(&mut self) -> (u64, Outcome) {
        while self.outcomes.is_empty() {
            let told = self.client.told(1).await;
            self.take(told);
        }
        self.outcomes.pop_front().unwrap()
    }

    async fn settles(&mut self, event: &Delivered, outcome: Outcome) {
        self.says(event, outcome, 0);
        assert_eq!(self.answer().await, (event.delivery, outcome));
    }

    /// What there is to be told now.
    fn idle(&mut self) -> bool {
        let (told, _) = self.client.poll();
        self.take(told);
        self.events.is_empty()
    }
}

fn of(event: &Delivered) -> (&str, u64, u32) {
    (&event.key, event.version, event.attempt)
}

#[tokio::test]
async fn what_is_done_does_not_come_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let worker = open(folder.path());
        create(&worker, json!({ "filter": "t" })).await;
        publish(&worker, "a", 3).await;
        publish(&worker, "b", 2).await;
        let mut member = Member::join(&worker, "m", 10, 1);
        let (first, other) = (member.next().await, member.next().await);
        assert_eq!((of(&first), of(&other)), (("a", 1, 1), ("b", 1, 1)));
        member.settles(&first, Outcome::Done).await;
        assert_eq!(of(&member.next().await), ("a", 2, 1));
        let shown = show(&worker).await;
        assert_eq!(counts(&shown, ["produced", "settled", "in_flight"]), [5, 1, 2]);
    }
    let worker = open(folder.path());
    let mut member = Member::join(&worker, "m", 10, 1);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let event = member.next().await;
        member.settles(&event, Outcome::Done).await;
        seen.push((event.key, event.version));
    }
    seen.sort();
    assert_eq!(seen, [("a".into(), 2), ("a".into(), 3), ("b".into(), 1), ("b".into(), 2)]);
    assert_eq!(counts(&show(&worker).await, ["settled", "lag", "in_flight"]), [5, 0, 0]);
}

#[tokio::test]
async fn a_failing_event_holds_back_its_own_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t", "max_attempts": 3 })).await;
    publish(&worker, "a", 2).await;
    let mut member = Member::join(&worker, "m", 10, 1);
    for attempt in 1..=3 {
        let event = member.next().await;
        assert_eq!(of(&event), ("a", 1, attempt));
        if attempt == 2 {
            publish(&worker, "b", 1).await;
            let other = member.next().await;
            assert_eq!(of(&other), ("b", 1, 1));
            member.settles(&other, Outcome::Done).await;
        }
        member.settles(&event, RETRY).await;
    }
    let behind = member.next().await;
    assert_eq!(of(&behind), ("a", 2, 1));
    member.settles(&behind, Outcome::Reject).await;
    let (code, page) = ask(&worker, "$dlq", "ls", json!({ "group": "g" })).await;
    assert_eq!(code, Code(0), "{page}");
    let letters: Vec<_> = page["letters"].as_array().unwrap().iter().collect();
    let attempts: Vec<_> = letters.iter().map(|it| it["attempts"].as_u64().unwrap()).collect();
    assert_eq!(
        (attempts, &letters[0]["key"], &letters[0]["topic"]),
        (vec![3, 1], &json!("a"), &json!("t"))
    );
    assert_eq!(counts(&show(&worker).await, ["produced", "settled", "dead"]), [3, 1, 2]);
    // A dead letter goes out again, and is done.
    let position = letters[0]["position"].clone();
    let request = json!({ "group": "g", "positions": [position] });
    let (code, replayed) = ask(&worker, "$dlq", "replay", request).await;
    assert_eq!((code, &replayed["replayed"]), (Code(0), &json!(1)), "{replayed}");
    let again = member.next().await;
    assert_eq!(of(&again), ("a", 1, 4));
    assert_eq!(counts(&show(&worker).await, ["dead", "in_flight", "lag"]), [2, 0, 0]);
    member.settles(&again, Outcome::Done).await;
    let (_, dropped) = ask(&worker, "$dlq", "drop", json!({ "group": "g", "all": true })).await;
    assert_eq!(dropped["dropped"], 1);
    assert_eq!(counts(&show(&worker).await, ["settled", "dropped", "dead", "lag"]), [2, 1, 0, 0]);
    assert!(member.idle());
}

#[tokio::test]
async fn a_key_is_held_until_its_dead_letter_is_dropped_where_the_group_says_so() {
    let folder = tempfile::tempdir().unwrap();
    {
        let worker = open(folder.path());
        create(&worker, json!({ "filter": "t", "on_dead": "hold" })).await;
        let mut client = Client::new(&worker, "a", 1);
        client.ready_to_publish(1);
        client.batch(0, 1, &[b"1", b"2", b"3"], None);
        client.acked(0, 3).await;
        let mut member = Member::join(&worker, "m", 10, 10);
        let event = member.next().await;
        assert_eq!((event.version, event.block), (1, 3));
        // The rest of the delivery goes back: nothing behind what is dead is done.
        member.says(&event, Outcome::Reject, 1);
        member.says(&event, Outcome::Done, 0);
        assert_eq!(member.answer().await, (1, Outcome::Reject));
        assert_eq!(member.answer().await, (1, Outcome::Seen));
        publish(&worker, "b", 1).await;
        member.events.clear();
        let other = member.next().await;
        assert_eq!(of(&other), ("b", 1, 1));
        member.settles(&other, Outcome::Done).await;
        assert!(member.idle());
    }
    // So it is after a restart.
    let worker = open(folder.path());
    let mut member = Member::join(&worker, "m", 10, 10);
    publish(&worker, "c", 1).await;
    let other = member.next().await;
    assert_eq!(of(&other), ("c", 1, 1));
    assert!(member.idle());
    assert_eq!(counts(&show(&worker).await, ["dead", "waiting", "in_flight"]), [1, 2, 1]);
    let (code, _) = ask(&worker, "$dlq", "drop", json!({ "group": "g", "all": true })).await;
    assert_eq!(code, Code(0));
    let event = member.next().await;
    assert_eq!((event.key.as_str(), event.version, event.block), ("a", 2, 2));
}

#[tokio::test]
async fn the_status_tells_who_is_behind_to_its_own_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({})).await;
    publish(&worker, "k", 3).await;
    let status = async || ask(&worker, "$status", "get", json!({})).await.1;
    // Nobody has looked: at most so many are there.
    let told = status().await;
    assert_eq!(told["lag"], 0, "{told}");
    let [unread] = counts(&told["lags"][0], ["unread"]);
    assert!(unread >= 3, "{told}");
    assert_eq!(told["unread"], unread, "{told}");
    // One has, and one event is done.
    let mut member = Member::join(&worker, "m", 1, 1);
    let first = member.next().await;
    member.settles(&first, Outcome::Done).await;
    show(&worker).await;
    let told = status().await;
    let row = json!([{ "tenant": "main", "name": "g", "lag": 2, "unread": 0 }]);
    assert_eq!(told["lags"], row, "{told}");
    let attach = attach_of("other", Role::Operator, "ada", Run([5; 8]));
    let elsewhere = Client::of(&worker, &attach).reply("$status", "get", "").await.1;
    assert_eq!(counts(&elsewhere, ["lag"]), [2], "{elsewhere}");
    assert_eq!(elsewhere["lags"], json!([]), "{elsewhere}");
    // Sent to the end, it is behind no more.
    let to = json!({ "name": "g", "to": "end" });
    assert_eq!(ask(&worker, "$group", "seek", to).await.0, Code(0));
    let told = status().await;
    assert_eq!(told["lag"], 0, "counted before: {told}");
    show(&worker).await;
    let told = status().await;
    assert_eq!((&told["lag"], &told["lags"]), (&json!(0), &json!([])), "{told}");
}

#[tokio::test]
async fn a_group_is_sent_elsewhere_and_what_was_settled_before_is_void() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    publish(&worker, "a", 4).await;
    let mut member = Member::join(&worker, "m", 10, 1);
    for version in 1..=3 {
        let event = member.next().await;
        assert_eq!(event.version, version);
        if version < 3 {
            member.settles(&event, Outcome::Done).await;
        }
    }
    let ask_seek = |to: &str, dry_run: bool| {
        ask(&worker, "$group", "seek", json!({ "name": "g", "to": to, "dry_run": dry_run }))
    };
    let (_, dry) = ask_seek("start", true).await;
    assert_eq!((&dry["events"], &dry["epoch"]), (&json!(2), &json!(1)), "{dry}");
    let (_, dry) = ask_seek("end", true).await;
    assert_eq!(dry["events"], 2, "{dry}");
    let (code, sought) = ask_seek("start", false).await;
    assert_eq!((code, &sought["epoch"]), (Code(0), &json!(2)), "{sought}");
    // What it had before is no more: it did not count.
    member.client.settle_as(1, 3, Outcome::Done, 0);
    assert_eq!(member.answer().await, (3, Outcome::Seen));
    let event = member.next().await;
    assert_eq!(of(&event), ("a", 1, 1));
    assert_eq!(counts(&show(&worker).await, ["produced", "settled", "in_flight"]), [4, 0, 1]);
    let (code, _) = ask_seek("end", false).await;
    assert_eq!(code, Code(0));
    assert_eq!(counts(&show(&worker).await, ["produced", "lag"]), [0, 0]);
    let (code, _) = ask_seek("nowhere", false).await;
    assert_eq!(code, Code::INVALID);
}

#[tokio::test]
async fn a_tenants_group_is_told_however_many_of_others_are_further_behind() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let group = |name: &str| json!({ "name": name, "filter": "t", "from": "start" });
    for number in 0..20 {
        let name = format!("g{number}");
        assert_eq!(ask(&worker, "$group", "create", group(&name)).await.0, Code(0));
    }
    let attach = attach_of("north", Role::Operator, "ada", Run([5; 8]));
    let mut north = Client::of(&worker, &attach);
    assert_eq!(north.reply("$group", "create", &group("n").to_string()).await.0, Code(0));
    publish(&worker, "k", 3).await;
    let told = Client::of(&worker, &attach).reply("$status", "get", "").await.1;
    assert_eq!(told["lags"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(
        (&told["lags"][0]["tenant"], &told["lags"][0]["name"]),
        (&json!("north"), &json!("n"))
    );
}

#[tokio::test]
async fn what_is_not_settled_in_time_goes_to_another_without_anybody_asking() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(NOW.0));
    let config = Config { clock: TimeOfDay::Set(clock.clone()), ..config() };
    let worker = Worker::open(config, Arc::new(log(folder.path())), None).unwrap();
    create(&worker, json!({ "filter": "t", "settle_within_ms": 60 })).await;
    let mut slow = Member::join(&worker, "slow", 1, 1);
    publish(&worker, "a", 1).await;
    let first = slow.next().await;
    let mut other = Member::join(&worker, "other", 1, 1);
    // It sleeps when the time passes, and is woken.
    let (again, _) = tokio::join!(other.next(), async { clock.fetch_add(60, Ordering::AcqRel) });
    assert_eq!(of(&again), ("a", 1, 2));
    slow.says(&first, Outcome::Done, 0);
    assert_eq!(slow.answer().await, (1, Outcome::Seen));
    other.settles(&again, Outcome::Done).await;
}

#[tokio::test]
async fn what_a_lost_member_had_goes_to_another_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    let mut lost = Member::join(&worker, "lost", 1, 1);
    publish(&worker, "a", 1).await;
    lost.next().await;
    let mut other = Member::join(&worker, "other", 1, 1);
    assert!(other.idle());
    drop(lost);
    assert_eq!(of(&other.next().await), ("a", 1, 2));
}

#[tokio::test]
async fn members_share_what_there_is_and_a_key_is_with_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    let mut members = [Member::join(&worker, "m1", 100, 1), Member::join(&worker, "m2", 100, 1)];
    members.iter_mut().for_each(|member| assert!(member.idle()));
    for key in 0..100 {
        publish(&worker, &format!("k{key}"), 2).await;
    }
    // Each is polled in turn: neither takes all.
    for _ in 0..20 {
        members.iter_mut().for_each(|member| assert!(!member.idle()));
    }
    let had: Vec<usize> = members.iter().map(|member| member.events.len()).collect();
    assert_eq!(had.iter().sum::<usize>(), 100);
    assert!(had.iter().all(|&had| had >= 30), "{had:?}");
    let keys: std::collections::HashSet<_> =
        members.iter().flat_map(|member| &member.events).map(|event| &event.key).collect();
    assert_eq!(keys.len(), 100);
}

#[tokio::test]
async fn a_hot_key_goes_out_in_whole_runs() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    publish(&worker, "hot", 1000).await;
    let mut member = Member::join(&worker, "m", 500, 64);
    let mut version = 1;
    let mut deliveries = 0;
    while version <= 1000 {
        let event = member.next().await;
        assert_eq!(event.version, version);
        let last = event.delivery;
        version += u64::from(event.block);
        for _ in 1..event.block {
            assert_eq!(member.next().await.delivery, last);
        }
        deliveries += 1;
        member.settles(&event, Outcome::Done).await;
    }
    // As far as they lie beside each other in the log, within what was asked for.
    assert!((16..100).contains(&deliveries), "{deliveries} deliveries");
}

#[tokio::test]
async fn an_event_that_fits_no_frame_of_its_member_is_dead() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event(0, 1, &[b'x'; 4000]);
    client.event(0, 2, b"small");
    client.acked(0, 2).await;
    let mut attach = attach_of("main", Role::Service, "narrow", Run([5; 8]));
    attach.frame_max = 512;
    let mut member = Member::join(&worker, "m", 0, 1);
    member.client.session = worker.attach(&attach);
    member.client.subscribe(1, Source::Group { name: "g", max_events: 1, max_bytes: 0 }, 10, true);
    assert_eq!(of(&member.next().await), ("a", 2, 1));
    let (_, page) = ask(&worker, "$dlq", "ls", json!({ "group": "g" })).await;
    let letter = &page["letters"][0];
    assert_eq!((&letter["version"], &letter["position"]), (&json!(1), &json!("w:3")), "{page}");
    assert!(letter["reason"].as_str().unwrap().contains("longer"), "{letter}");
    let (_, shown) = ask(&worker, "$dlq", "show", json!({ "group": "g", "position": "w:3" })).await;
    assert_eq!(shown["payload"].as_str().unwrap().len(), 4000);
    assert_eq!(shown["trace"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn a_group_is_defined_once_and_goes_with_its_members() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    let before = show(&worker).await;
    create(&worker, json!({ "filter": "t" })).await;
    assert_eq!(show(&worker).await["id"], before["id"], "the same again changes nothing");
    let other = json!({ "name": "g", "filter": "other/#" });
    assert_eq!(ask(&worker, "$group", "create", other).await.0, Code::EXISTS);
    let mut member = Member::join(&worker, "m", 10, 1);
    assert!(member.idle());
    let (code, removed) = ask(&worker, "$group", "rm", json!({ "name": "g" })).await;
    assert_eq!((code, &removed["dead"]), (Code(0), &json!(0)));
    let told = member.client.until(|told| !told.is_empty()).await;
    assert!(matches!(told[0], Told::Fault { code: Code::NOT_FOUND, .. }), "{told:?}");
    assert_eq!(ask(&worker, "$group", "show", json!({ "name": "g" })).await.0, Code::NOT_FOUND);
    let (_, page) = ask(&worker, "$group", "ls", json!({})).await;
    assert_eq!(page["groups"], json!([]));
    create(&worker, json!({ "filter": "t" })).await;
    assert_ne!(show(&worker).await["id"], before["id"]);
    for (service, method, request) in [
        ("$group", "show", json!({ "name": "g", "nmae": 1 })),
        ("$group", "create", json!({ "name": "h" })),
        ("$dlq", "replay", json!({ "group": "g" })),
        ("$dlq", "show", json!({ "group": "g", "position": "5" })),
    ] {
        let (code, _) = ask(&worker, service, method, request.clone()).await;
        assert_eq!(code, Code::INVALID, "{service} {method} {request}");
    }
    let dumped = worker.dump();
    drop((member, worker));
    assert_eq!(open(folder.path()).dump(), dumped);
}

async fn stored(worker: &Arc<Worker>, gate: u64) {
    let mut durable = worker.durable();
    durable.wait_for(|durable| durable.end.get() >= gate).await.unwrap();
}

#[tokio::test]
async fn another_worker_takes_a_definition_once_however_often_it_is_told() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = open(folder.path());
    create(&registry, json!({ "filter": "t" })).await;
    let mut follower = registry.follow_registry("edge").unwrap();
    let groups = follower.poll().unwrap().groups;
    assert_eq!(groups.len(), 1);
    let worker = open(other.path());
    publish(&worker, "a", 2).await;
    let gate = worker.define_groups(groups.clone()).unwrap();
    assert_eq!(worker.define_groups(groups).unwrap(), gate, "nothing more is written");
    stored(&worker, gate).await;
    let mut member = Member::join(&worker, "m", 10, 1);
    assert_eq!(of(&member.next().await), ("a", 1, 1));
    // Sent elsewhere, then removed: each is told.
    let request = json!({ "name": "g", "to": "end" });
    assert_eq!(ask(&registry, "$group", "seek", request).await.0, Code(0));
    let groups = follower.poll().unwrap().groups;
    assert_eq!((groups.len(), groups[0].epoch), (1, 2));
    stored(&worker, worker.define_groups(groups).unwrap()).await;
    assert_eq!(counts(&show(&worker).await, ["epoch", "lag"]), [2, 0]);
    assert_eq!(ask(&registry, "$group", "rm", json!({ "name": "g" })).await.0, Code(0));
    stored(&worker, worker.define_groups(follower.poll().unwrap().groups).unwrap()).await;
    let told = member.client.until(|told| !told.is_empty()).await;
    assert!(matches!(told.last(), Some(Told::Fault { code: Code::NOT_FOUND, .. })), "{told:?}");
}

/// What this process has in memory, whoever asked for it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// `SPILE_FULL=1`: a million events of 100,000 keys. By itself then, since it is the whole process that is measured.
#[tokio::test]
async fn what_waits_takes_memory_by_the_key_and_not_by_the_event() {
    /// Of a key that waits, by the server's own count.
    const BYTES_OF_KEY: u64 = 512;
    /// Of a key in all: its stream, its producer's number, the log's index, what waits, and the test's own table.
    const RESIDENT_OF_KEY: u64 = 1280;
    let full = std::env::var("SPILE_FULL").is_ok();
    let (keys, each) = if full { (100_000, 10) } else { (1000, 10) };
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t" })).await;
    let before = resident();
    let mut client = Client::new(&worker, "p", 1);
    let payloads = vec![&b"x"[..]; usize::try_from(each).unwrap()];
    for key in 0..keys {
        // A run numbers no more than 65,536 keys.
        if key % 50_000 == 0 {
            client = Client::new(&worker, "p", u8::try_from(1 + key / 50_000).unwrap());
        }
        client.lane(0, Some(&format!("k{key}")), 1);
        client.bind(0, 0, "t");
        client.batch(0, 1, &payloads, None);
        if key % 100 == 99 {
            client.acked(0, each).await;
        }
    }
    let published = resident();
    // The first event of each key fails, and waits for an hour.
    let mut member = Member::join(&worker, "m", 4000, 1);
    for _ in 0..keys {
        let event = member.next().await;
        assert_eq!(event.version, 1);
        member.says(&event, Outcome::Retry { after_ms: 3_600_000 }, 0);
    }
    while member.outcomes.len() < usize::try_from(keys).unwrap() {
        let told = member.client.told(1).await;
        member.take(told);
    }
    let shown = show(&worker).await;
    assert_eq!(counts(&shown, ["waiting", "keys", "in_flight"]), [keys * each, keys, 0], "{shown}");
    let [bytes] = counts(&shown, ["keys_bytes"]);
    assert!(bytes < keys * BYTES_OF_KEY, "{bytes} bytes for {keys} keys");
    let waiting = resident();
    println!(
        "result: {keys} keys, {} events: {bytes} bytes by its own count; resident {} KiB before, {} KiB published, {} KiB waiting",
        keys * each,
        before >> 10,
        published >> 10,
        waiting >> 10
    );
    if full {
        let more = waiting.saturating_sub(before);
        assert!(more < keys * RESIDENT_OF_KEY, "{more} bytes more in memory for {keys} keys");
    }
    // The floor went on without them: a start reads nothing of it again.
    assert_ne!(shown["settled_upto"], json!(["w:1"]), "{shown}");
}
