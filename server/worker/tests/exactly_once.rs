//! Every number is stored once or refused once, in order, whatever is resent, lost or restarted between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    reason = "a test ends on what it did not expect"
)]

mod support;

use spile_protocol::{code::Code, id::Version, message::Expect, message::Source};
use support::{Client, Told, open};

fn opened(last: u64) -> Told {
    Told::Opened { lane: 0, last, refused: vec![] }
}

fn ack(last: u64) -> Told {
    Told::Ack { lane: 0, last, receipts: vec![] }
}

fn closed(code: Code, expected: u64) -> Told {
    Told::Closed { lane: 0, code, expected }
}

#[tokio::test]
async fn events_are_acked_in_order_and_resends_are_acked_again() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event(0, 1, b"one");
    client.batch(0, 2, &[b"two", b"three"], None);
    assert_eq!(client.acked(0, 3).await, [opened(0), ack(3)]);
    client.event(0, 1, b"one");
    client.event(0, 3, b"three");
    assert_eq!(client.acked(0, 3).await, [ack(3)]);
    assert_eq!(worker.status().events, 3);
    assert_eq!(worker.status().duplicates, 2);
}

#[tokio::test]
async fn a_batch_that_is_partly_stored_is_stored_for_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::with(&worker, "a", 1, true);
    client.ready_to_publish(1);
    client.batch(0, 1, &[b"1", b"22"], None);
    client.batch(0, 1, &[b"1", b"22", b"333", b"4"], None);
    let told = client.acked(0, 4).await;
    let Some(Told::Ack { receipts, .. }) = told.last() else { panic!("{told:?}") };
    let each = receipts.iter().flat_map(|&(number, count, version, position)| {
        (0..u64::from(count)).map(move |n| (number + n, version + n, position + n))
    });
    assert_eq!(each.collect::<Vec<_>>(), [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)]);
    client.subscribe(1, Source::Stream { key: "a", from: Version(1) }, 100, true);
    let events = client.events(4).await;
    let payloads: Vec<_> = events.iter().map(|event| &*event.payload).collect();
    assert_eq!(payloads, [&b"1"[..], b"22", b"333", b"4"]);
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_gap_closes_the_lane_and_names_the_number_expected() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event(0, 1, b"1");
    client.event(0, 3, b"3");
    // What follows on a closed lane is dropped.
    client.event(0, 2, b"2");
    let told = client.told(3).await;
    assert_eq!(told, [opened(0), ack(1), closed(Code::OUT_OF_ORDER, 2)]);
    client.lane(0, None, 2);
    client.event(0, 2, b"2");
    assert_eq!(client.acked(0, 2).await, [opened(1), ack(2)]);
}

#[tokio::test]
async fn an_unknown_run_opens_at_one_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.lane(0, None, 5);
    assert_eq!(client.told(1).await, [closed(Code::UNKNOWN_RUN, 1)]);
    let mut client = Client::new(&worker, "a", 2);
    client.ready_to_publish(1);
    client.event(0, 1, b"1");
    assert_eq!(client.acked(0, 1).await, [opened(0), ack(1)]);
}

#[tokio::test]
async fn what_was_acked_is_known_after_a_restart_and_resends_are_not_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    {
        let worker = open(folder.path());
        let mut client = Client::new(&worker, "a", 1);
        client.ready_to_publish(1);
        client.event(0, 1, b"1");
        client.event_if(0, 2, b"2", Some(Expect::Version(Version(7))));
        client.event(0, 3, b"3");
        client.acked(0, 3).await;
    }
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    let refused = vec![(2, 1, Code::STALE_VERSION)];
    assert_eq!(client.told(1).await, [Told::Opened { lane: 0, last: 3, refused }]);
    client.event(0, 2, b"2");
    client.event(0, 4, b"4");
    let told = client.acked(0, 4).await;
    let stale =
        Told::Refused { lane: 0, number: 2, count: 1, code: Code::STALE_VERSION, version: 1 };
    assert!(told.contains(&stale), "{told:?}");
    client.subscribe(1, Source::Stream { key: "a", from: Version(1) }, 100, true);
    let events = client.events(3).await;
    let payloads: Vec<_> = events.iter().map(|event| &*event.payload).collect();
    assert_eq!(payloads, [&b"1"[..], b"3", b"4"]);
}

#[tokio::test]
async fn an_expected_version_is_kept_or_its_numbers_are_void() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    let stale = |number, count, version| Told::Refused {
        lane: 0,
        number,
        count,
        code: Code::STALE_VERSION,
        version,
    };
    client.event_if(0, 1, b"exists?", Some(Expect::Exists));
    client.event_if(0, 2, b"first", Some(Expect::Version(Version(0))));
    client.event_if(0, 3, b"late", Some(Expect::Version(Version(0))));
    client.batch(0, 4, &[b"x", b"y"], Some(Expect::Version(Version(2))));
    client.batch(0, 6, &[b"x", b"y"], Some(Expect::Version(Version(1))));
    client.event_if(0, 8, b"end", Some(Expect::Version(Version(3))));
    let told = client.acked(0, 8).await;
    let faults: Vec<_> =
        told.into_iter().filter(|told| matches!(told, Told::Refused { .. })).collect();
    assert_eq!(faults, [stale(1, 1, 0), stale(3, 1, 1), stale(4, 2, 1)]);
    // A resend hears the same.
    client.batch(0, 4, &[b"x", b"y"], Some(Expect::Version(Version(2))));
    assert_eq!(client.acked(0, 5).await, [stale(4, 2, 1), ack(5)]);
}

#[tokio::test]
async fn what_the_edge_refuses_keeps_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event(0, 1, b"1");
    let lane = spile_protocol::id::LaneId(0);
    let number = spile_protocol::id::Number(2);
    client.session.intake().void(support::NOW, lane, number, 2, Code::FORBIDDEN);
    client.event(0, 4, b"4");
    let void = Told::Refused { lane: 0, number: 2, count: 2, code: Code::FORBIDDEN, version: 0 };
    let told = client.acked(0, 4).await;
    assert!(told.contains(&void), "{told:?}");
}

#[tokio::test]
async fn the_newest_session_of_a_run_stays() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut older = Client::new(&worker, "a", 1);
    older.ready_to_publish(1);
    older.event(0, 1, b"1");
    let mut other_run = Client::new(&worker, "a", 2);
    let mut newer = Client::new(&worker, "a", 1);
    older.session.ready().await;
    assert_eq!(older.poll().1, spile_worker::Polled::Gone(Code::REPLACED));
    // What the older one still says counts no more.
    older.event(0, 2, b"2");
    newer.ready_to_publish(1);
    assert_eq!(newer.told(1).await, [opened(1)]);
    assert_eq!(other_run.poll().1, spile_worker::Polled::Idle);
    drop(older);
    let mut newest = Client::new(&worker, "a", 1);
    newer.session.ready().await;
    assert_eq!(newer.poll().1, spile_worker::Polled::Gone(Code::REPLACED));
    newest.ready_to_publish(2);
    assert_eq!(newest.told(1).await, [opened(1)]);
}

#[tokio::test]
async fn two_lanes_of_one_session_number_for_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.lane(1, Some("other"), 1);
    client.bind(1, 1, "u");
    for number in 1..=3 {
        client.event(0, number, b"0");
        client.event(1, number, b"1");
    }
    let both = |told: &[Told]| {
        let acked = |lane| {
            let is =
                |told: &Told| matches!(told, Told::Ack { lane: of, last: 3, .. } if *of == lane);
            told.iter().any(is)
        };
        acked(0) && acked(1)
    };
    client.until(both).await;
    client.subscribe(1, Source::Stream { key: "other", from: Version(2) }, 100, true);
    let events = client.events(2).await;
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [2, 3]);
    assert!(events.iter().all(|event| event.topic == "u" && event.key == "other"));
}

#[tokio::test]
async fn numbers_of_a_key_that_has_only_voids_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event_if(0, 1, b"1", Some(Expect::Exists));
    client.acked(0, 1).await;
    drop(client);
    let mut client = Client::new(&worker, "a", 1);
    client.lane(0, None, 1);
    let refused = vec![(1, 1, Code::STALE_VERSION)];
    assert_eq!(client.told(1).await, [Told::Opened { lane: 0, last: 1, refused }]);
}

#[tokio::test]
async fn who_hears_that_there_is_no_room_hears_when_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let log: std::sync::Arc<dyn spile_worker::EventLog> =
        std::sync::Arc::new(support::log(folder.path()));
    let config = spile_worker::Config { waiting_bytes: 1, ..support::config() };
    let worker = spile_worker::Worker::open(config, log, None).unwrap();
    let mut client = Client::new(&worker, "a", 1);
    let mut other = Client::new(&worker, "b", 1);
    client.ready_to_publish(1);
    for number in 1..=200 {
        client.event(0, number, b"x");
        // The disk may be quicker than the next line: then there was room all the time.
        while !other.session.has_room() {
            let ready = other.session.ready();
            tokio::time::timeout(std::time::Duration::from_secs(20), ready).await.unwrap();
        }
    }
    client.acked(0, 200).await;
}

#[tokio::test]
async fn a_lane_that_opens_again_gets_the_receipts_it_has_not_heard() {
    let folder = tempfile::tempdir().unwrap();
    {
        let worker = open(folder.path());
        let mut other = Client::new(&worker, "b", 1);
        other.lane(0, Some("shared"), 1);
        other.bind(0, 0, "t");
        let mut client = Client::with(&worker, "a", 1, true);
        client.lane(0, Some("shared"), 1);
        client.bind(0, 0, "t");
        client.event(0, 1, b"1");
        client.batch(0, 2, &[b"2", b"3"], None);
        for number in 1..=20 {
            other.event(0, number, b"x");
        }
        client.event(0, 4, b"4");
        other.acked(0, 20).await;
        client.acked(0, 4).await;
    }
    let worker = open(folder.path());
    let mut client = Client::with(&worker, "a", 1, true);
    client.lane(0, Some("shared"), 2);
    let mut receipts = Vec::new();
    client.session.poll(support::ROOM, &mut |message, _| {
        let spile_protocol::message::Message::LaneAnswer(answer) = message else { panic!() };
        let each = answer.receipts.iter().map(|it| (it.number.0, it.count, it.version.0));
        receipts.extend(each);
    });
    assert_eq!(receipts, [(2, 2, 2), (4, 1, 24)]);
}
