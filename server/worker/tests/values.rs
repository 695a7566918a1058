//! State: GET and LIST say the latest event of a kept topic, no earlier than it is durable, and wait as they are asked to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends on what it did not expect"
)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use spile_log::{Log, Options, SimDisk};
use spile_protocol::{
    code::Code,
    crc,
    id::{Number, RequestId, RouteId},
    message::{Event, Extras, Message, Scope},
    time::Millis,
};
use spile_worker::{Config, Worker};
use support::{Client, Kept, NOW, Told, config, log, open};

/// One value, or none.
async fn value(client: &mut Client, key: &str, topic: &str) -> Option<Kept> {
    client.get(key, topic);
    one(client).await
}

async fn one(client: &mut Client) -> Option<Kept> {
    match client.told(1).await.remove(0) {
        Told::Value(kept) => Some(kept),
        Told::Version(0) => None,
        other => panic!("{other:?}"),
    }
}

fn publisher(worker: &Arc<Worker>, topics: &[&str]) -> Client {
    let mut client = Client::new(worker, "d", 1);
    client.lane(0, None, 1);
    for (route, topic) in (0..).zip(topics) {
        client.bind(route, 0, topic);
    }
    client
}

fn lasting(client: &mut Client, number: u64, ttl_ms: u64, payload: &[u8]) {
    let extras = Extras { ttl_ms: Some(ttl_ms), ..Extras::default() };
    client.say(number, &Message::Event(Event { route: RouteId(0), extras, payload }));
}

#[tokio::test]
async fn the_latest_event_is_the_value_and_an_empty_payload_removes_it() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = publisher(&worker, &["state/a", "telemetry/a", "state/b"]);
    client.event(0, 1, b"one");
    client.event(1, 2, b"not kept");
    client.batch(2, 3, &[b"x", b"", b"last"], None);
    client.event(0, 6, b"two");
    client.acked(0, 6).await;
    let kept = value(&mut client, "d", "state/a").await.unwrap();
    assert_eq!((kept.version, &kept.payload[..], kept.position), (6, &b"two"[..], 6));
    assert_eq!(kept.left_ms, 0, "it has no end");
    let kept = value(&mut client, "d", "state/b").await.unwrap();
    assert_eq!((kept.version, &kept.payload[..], &*kept.topic), (5, &b"last"[..], "state/b"));
    assert_eq!(value(&mut client, "d", "telemetry/a").await, None);
    assert_eq!(value(&mut client, "nobody", "state/a").await, None);
    client.event(0, 7, b"");
    client.batch(2, 8, &[b"y", b""], None);
    client.acked(0, 9).await;
    assert_eq!(value(&mut client, "d", "state/a").await, None);
    assert_eq!(value(&mut client, "d", "state/b").await, None);
    let status = worker.status();
    assert_eq!((status.values, status.found, status.missed), (0, 2, 4));
}

#[tokio::test]
async fn a_lane_that_means_another_key_changes_that_keys_value() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = publisher(&worker, &["state/a"]);
    client.event(0, 1, b"own");
    client.acked(0, 1).await;
    client.lane(0, Some("other"), 1);
    client.event(0, 1, b"others");
    client.acked(0, 1).await;
    assert_eq!(value(&mut client, "d", "state/a").await.unwrap().payload, "own");
    assert_eq!(value(&mut client, "other", "state/a").await.unwrap().payload, "others");
}

#[tokio::test]
async fn a_value_ends_with_its_ttl_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = publisher(&worker, &["state/a"]);
    lasting(&mut client, 1, 1_000, b"short");
    client.acked(0, 1).await;
    for worker in [Some(worker), None] {
        // Once as it was taken, once from the log.
        let worker = worker.unwrap_or_else(|| open(folder.path()));
        let mut client = Client::new(&worker, "reader", 2);
        for (after, left_ms) in [(0, 1_000), (999, 1)] {
            client.get_when("d", "state/a", (0, 0, 0), Millis(NOW.0 + after));
            let kept = one(&mut client).await.unwrap();
            assert_eq!((&kept.payload[..], kept.left_ms), (&b"short"[..], left_ms));
        }
        client.list_at("d", "", 9, Millis(NOW.0 + 400));
        assert_eq!(one(&mut client).await.unwrap().left_ms, 600);
        client.get_when("d", "state/a", (0, 0, 0), Millis(NOW.0 + 1_000));
        assert_eq!(one(&mut client).await, None);
        drop(client);
    }
}

#[tokio::test]
async fn what_expired_is_swept_from_memory_and_checkpoint_when_time_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = publisher(&worker, &["state/a", "telemetry/t"]);
    lasting(&mut client, 1, 1_000, b"short");
    client.acked(0, 1).await;
    worker.checkpoint();
    assert!(worker.dump().contains("state/a") && worker.status().values == 1);
    let later = Event { route: RouteId(1), extras: Extras::default(), payload: b"later" };
    let payload = Bytes::from_static(b"later");
    let crc = crc::of(&payload);
    let (now, message) = (Millis(NOW.0 + 1_000), Message::Event(later));
    client.session.intake().message(now, Number(2), &message, &payload, crc);
    client.acked(0, 2).await;
    assert!(!worker.dump().contains("state/a"));
    assert_eq!(worker.status().values, 0);
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let options =
        Options { inline: true, reserve_bytes: 0, free_bytes_low: 0, ..Options::default() };
    let (log, _) = Log::open(Arc::new(SimDisk::new(1)), options).unwrap();
    let worker = Worker::open(config(), Arc::new(log.clone()), None).unwrap();
    let mut client = publisher(&worker, &["state/a"]);
    let mut reader = Client::new(&worker, "reader", 2);
    client.event(0, 1, b"one");
    reader.get("d", "state/a");
    assert_eq!(reader.poll().0, [Told::Version(0)]);
    while log.pump() {}
    reader.get("d", "state/a");
    let (told, _) = reader.poll();
    assert!(matches!(&told[..], [Told::Value(kept)] if kept.payload == "one"), "{told:?}");
}

#[tokio::test]
async fn a_look_up_waits_for_the_version_it_names_and_says_when_it_did_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = publisher(&worker, &["state/a"]);
    let mut reader = Client::new(&worker, "reader", 2);
    reader.get_when("d", "state/a", (0, 2, 30_000), NOW);
    client.event(0, 1, b"one");
    client.acked(0, 1).await;
    assert_eq!(reader.poll().0, []);
    client.event(0, 2, b"two");
    assert_eq!(one(&mut reader).await.unwrap().payload, "two");
    for wait_ms in [0, 1] {
        reader.get_when("d", "state/a", (0, 3, wait_ms), NOW);
        let scope = Scope::Request(RequestId(1));
        assert_eq!(reader.told(1).await, [Told::Fault { code: Code::TIMED_OUT, scope }]);
    }
}

#[tokio::test]
async fn a_look_up_waits_for_something_newer_or_hears_that_there_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = publisher(&worker, &["state/a", "telemetry/t"]);
    let mut reader = Client::new(&worker, "reader", 2);
    // Nothing is there yet: the first value is waited for.
    reader.get_when("d", "state/a", (0, 0, 30_000), NOW);
    client.event(1, 1, b"of another topic");
    client.acked(0, 1).await;
    assert_eq!(reader.poll().0, []);
    client.event(0, 2, b"one");
    assert_eq!(one(&mut reader).await.unwrap().version, 2);
    reader.get_when("d", "state/a", (2, 0, 1), NOW);
    assert_eq!(one(&mut reader).await, None);
    reader.get_when("d", "state/a", (2, 0, 30_000), NOW);
    assert_eq!(reader.poll().0, []);
    client.event(0, 3, b"two");
    assert_eq!(one(&mut reader).await.unwrap().payload, "two");
    // Who leaves while it waits holds nothing back.
    reader.get_when("no-such-key", "state/a", (0, 0, 30_000), NOW);
    let streams = worker.status().streams;
    drop(reader);
    assert_eq!(worker.status().streams, streams - 1);
}

#[tokio::test]
async fn a_listing_comes_in_pages_that_end_early_where_values_are_large() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "d", 1);
    let large = vec![b'x'; 100 * 1024];
    for (lane, key) in (0..).zip(["a-2", "a-1", "b"]) {
        client.lane(lane, Some(key), 1);
        client.bind(2 * lane, lane, "state/x");
        client.bind(2 * lane + 1, lane, "state/y");
        client.event(2 * lane, 1, &large);
        client.event(2 * lane + 1, 2, &large);
    }
    client.all_acked(&[(0, 2), (1, 2), (2, 2)]).await;
    let want = [("a-1", "state/x"), ("a-1", "state/y"), ("a-2", "state/x"), ("a-2", "state/y")];
    for (limit, sizes) in [(100, vec![3, 1]), (1, vec![1; 4]), (2, vec![2, 2])] {
        let (mut all, mut pages, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            client.list("a-", &after, limit);
            let last = |told: &[Told]| matches!(told.last(), Some(Told::Value(one)) if !one.more);
            let page = client.until(last).await;
            pages.push(page.len());
            for told in page {
                let Told::Value(kept) = told else { panic!("{told:?}") };
                assert_eq!(kept.payload.len(), large.len());
                after.clone_from(&kept.cursor);
                all.push((kept.key, kept.topic));
            }
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(pages, sizes);
        assert!(all.iter().map(|(key, topic)| (&**key, &**topic)).eq(want), "{all:?}");
    }
    client.list("none", "", 10);
    assert_eq!(client.told(1).await, [Told::Version(0)]);
}

#[tokio::test]
async fn other_kept_topics_make_the_views_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, views) = (folder.path().join("log"), folder.path().join("views"));
    let start = |keep: &str| {
        let config = Config { keep: vec![keep.to_owned()], ..config() };
        Worker::open(config, Arc::new(log(&logs)), Some(&views)).unwrap()
    };
    let worker = start("state/#");
    let mut client = publisher(&worker, &["state/a", "settings/a"]);
    client.event(0, 1, b"state");
    client.event(1, 2, b"settings");
    client.acked(0, 2).await;
    worker.checkpoint();
    drop((client, worker));
    let worker = start("settings/+");
    let mut client = Client::new(&worker, "d", 2);
    assert_eq!(value(&mut client, "d", "state/a").await, None);
    assert_eq!(value(&mut client, "d", "settings/a").await.unwrap().payload, "settings");
}
