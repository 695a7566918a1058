//! Every event that matches is delivered once and in order, whether it was stored before or comes later.
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

use std::{collections::HashMap, sync::Arc};

use spile_protocol::{
    code::Code,
    frame,
    id::{Role, Run, SubscriptionId, Version},
    limits,
    message::{Deliver, From, Message, Scope, Source, deliver::Kind},
};
use spile_worker::{Polled, Worker, attach_of};
use support::{Client, ROOM, Told, open};

fn filter(filter: &str) -> Source<'_> {
    Source::Filter { filter, key: None, from: From::Start }
}

/// Publishes `count` events, `text` and its number, one by one, and waits for their acks.
async fn publish(worker: &Arc<Worker>, principal: &str, topic: &str, count: u64) {
    let mut client = Client::new(worker, principal, 1);
    client.lane(0, None, 1);
    client.bind(0, 0, topic);
    for number in 1..=count {
        client.event(0, number, format!("{principal} {number}").as_bytes());
    }
    client.acked(0, count).await;
}

#[tokio::test]
async fn a_filter_takes_its_topics_and_tenant_only() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    publish(&worker, "a", "x/1", 2).await;
    publish(&worker, "b", "y/1", 2).await;
    publish(&worker, "c", "x/2/z", 2).await;
    let mut consumer = Client::new(&worker, "reader", 1);
    consumer.subscribe(7, filter("x/#"), 100, false);
    let told = consumer.until(|told| told.contains(&Told::End(7))).await;
    assert_eq!(told.first(), Some(&Told::Credit { subscription: 7, events: 100 }));
    let events = told.iter().filter_map(|told| match told {
        Told::Event(event) => Some((event.key.as_str(), event.topic.as_str(), event.version)),
        _ => None,
    });
    let want = [("a", "x/1", 1), ("a", "x/1", 2), ("c", "x/2/z", 1), ("c", "x/2/z", 2)];
    assert_eq!(events.collect::<Vec<_>>(), want);
}

#[tokio::test]
async fn another_tenants_events_are_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    publish(&worker, "a", "x", 1).await;
    let attach = spile_worker::attach_of(
        "other",
        spile_protocol::id::Role::Service,
        "reader",
        spile_protocol::id::Run([1; 8]),
    );
    let mut session = worker.attach(&attach);
    for source in [filter("#"), Source::Stream { key: "a", from: Version(1) }] {
        let subscribe = spile_protocol::message::Subscribe {
            subscription: SubscriptionId(1),
            source,
            events: 10,
            bytes: 1000,
            live: false,
        };
        let message = spile_protocol::message::Message::Subscribe(subscribe);
        let number = spile_protocol::id::Number(0);
        session.intake().message(support::NOW, number, &message, &bytes::Bytes::new(), 0);
        let mut kinds = Vec::new();
        session.poll(support::ROOM, &mut |message, _| kinds.push(message.tag().kind()));
        use spile_protocol::message::kind::{CREDIT, END};
        assert_eq!(kinds, [CREDIT, END]);
    }
}

#[tokio::test]
async fn credit_bounds_what_is_in_flight_and_seen_frees_it() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    let events: Vec<(u32, u64, &[u8])> = (1..=10).map(|number| (0, number, &b"x"[..])).collect();
    client.events_at_once(&events);
    client.acked(0, 10).await;
    let mut consumer = Client::new(&worker, "reader", 1);
    consumer.subscribe(1, filter("t"), 3, true);
    let count = |told: Vec<Told>| told.iter().filter(|told| matches!(told, Told::Event(_))).count();
    // Each window goes as one delivery.
    assert_eq!(count(consumer.poll().0), 3);
    assert_eq!(count(consumer.poll().0), 0);
    consumer.settle(1, 1);
    assert_eq!(count(consumer.poll().0), 3);
    consumer.settle(1, 1);
    assert_eq!(count(consumer.poll().0), 0);
    consumer.settle(1, 100);
    assert_eq!(count(consumer.poll().0), 3);
}

/// So many wait that what they read passes the cap of what may be held: some read again, and none misses or repeats any.
#[tokio::test]
async fn many_that_wait_let_go_of_what_they_read_and_miss_nothing() {
    const EVENTS: u64 = 4;
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    for number in 1..=EVENTS {
        client.event(0, number, &vec![u8::try_from(number).unwrap(); 200 << 10]);
    }
    client.acked(0, EVENTS).await;
    let mut consumers: Vec<_> = (1..=3).map(|run| Client::new(&worker, "reader", run)).collect();
    for consumer in &mut consumers {
        for id in 0..limits::SUBSCRIPTIONS {
            let stream = Source::Stream { key: "a", from: Version(1) };
            consumer.subscribe(id, if id % 2 == 0 { stream } else { filter("#") }, 1, true);
        }
    }
    const { assert!(3 * 64 * (200 << 10) > spile_worker::limits::AHEAD_BYTES) };
    for version in 1..=EVENTS {
        for consumer in &mut consumers {
            let mut got = HashMap::new();
            while got.len() < limits::SUBSCRIPTIONS as usize {
                for told in consumer.poll().0 {
                    let Told::Event(event) = told else { continue };
                    let byte = u8::try_from(version).unwrap();
                    assert_eq!((event.version, event.payload.first()), (version, Some(&byte)));
                    assert!(got.insert(event.subscription, ()).is_none(), "twice: {version}");
                }
            }
        }
        for consumer in &mut consumers {
            (0..limits::SUBSCRIPTIONS).for_each(|id| consumer.settle(id, version));
        }
    }
}

/// What was published one by one under one name goes as one delivery where nothing else came between.
#[tokio::test]
async fn lone_events_that_follow_each_other_are_joined_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.lane(1, Some("other"), 1);
    client.bind(1, 1, "t");
    client.bind(2, 0, "u");
    client.events_at_once(&[
        (0, 1, b"a1"),
        (0, 2, b"a2"),
        (0, 3, b"a3"),
        (1, 1, b"o1"),
        (0, 4, b"a4"),
        (2, 5, b"u5"),
    ]);
    client.batch(0, 6, &[b"a6", b"a7"], None);
    client.events_at_once(&[(0, 8, b"a8"), (0, 9, b"")]);
    client.acked(0, 9).await;
    let mut consumer = Client::new(&worker, "reader", 1);
    consumer.subscribe(1, filter("#"), 100, true);
    let events = consumer.events(10).await;
    let got: Vec<_> = events
        .iter()
        .map(|event| (&*event.payload, event.version, event.position, event.block))
        .collect();
    let want: [(&[u8], u64, u64, u32); 10] = [
        (b"a1", 1, 1, 3),
        (b"a2", 2, 2, 3),
        (b"a3", 3, 3, 3),
        (b"o1", 1, 4, 1),
        (b"a4", 4, 5, 1),
        (b"u5", 5, 6, 1),
        (b"a6", 6, 7, 2),
        (b"a7", 7, 8, 2),
        (b"a8", 8, 9, 2),
        (b"", 9, 10, 2),
    ];
    assert_eq!(got, want);
    // One stream's reader sees the same, and one that begins inside begins there.
    consumer.subscribe(2, Source::Stream { key: "a", from: Version(2) }, 100, true);
    let events = consumer.events(8).await;
    let got: Vec<_> = events.iter().map(|event| (event.version, event.block)).collect();
    assert_eq!(got, [(2, 2), (3, 2), (4, 1), (5, 1), (6, 2), (7, 2), (8, 2), (9, 2)]);
}

#[tokio::test]
async fn a_block_stays_a_block_unless_the_start_lies_inside() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event(0, 1, b"0");
    client.batch(0, 2, &[b"1", b"22", b"333"], None);
    client.acked(0, 4).await;
    let mut consumer = Client::new(&worker, "reader", 1);
    // A window smaller than the block lets it through alone.
    consumer.subscribe(1, filter("t"), 1, true);
    let events = consumer.events(4).await;
    assert_eq!(events.iter().map(|event| event.block).collect::<Vec<_>>(), [1, 3, 3, 3]);
    consumer.subscribe_from(2, "t", 3);
    let events = consumer.events(2).await;
    let got: Vec<_> =
        events.iter().map(|event| (event.position, &*event.payload, event.block)).collect();
    assert_eq!(got, [(3, &b"22"[..], 2), (4, b"333", 2)]);
    consumer.subscribe(3, Source::Stream { key: "a", from: Version(4) }, 10, true);
    let events = consumer.events(1).await;
    assert_eq!((events[0].version, &*events[0].payload), (4, &b"333"[..]));
}

#[tokio::test]
async fn a_block_is_cut_to_the_frames_a_client_takes() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    let payload: &[u8] = &[7; 100];
    client.batch(0, 1, &[payload; 20], None);
    client.acked(0, 20).await;
    let mut attach = spile_worker::attach_of(
        "main",
        spile_protocol::id::Role::Device,
        "small",
        spile_protocol::id::Run([1; 8]),
    );
    attach.frame_max = 512;
    let mut session = worker.attach(&attach);
    let subscribe = spile_protocol::message::Subscribe {
        subscription: SubscriptionId(1),
        source: Source::Stream { key: "a", from: Version(1) },
        events: 100,
        bytes: 1 << 20,
        live: false,
    };
    let message = spile_protocol::message::Message::Subscribe(subscribe);
    let number = spile_protocol::id::Number(0);
    session.intake().message(support::NOW, number, &message, &bytes::Bytes::new(), 0);
    let mut versions = Vec::new();
    session.poll(support::ROOM, &mut |message, payload_crc| {
        let mut frame = vec![0; 1 << 16];
        let length = message.encode(&mut frame).unwrap();
        assert!(length <= 512 + 6, "{length}");
        assert_eq!(spile_protocol::crc::of(message.payload()), payload_crc);
        if let spile_protocol::message::Message::Deliver(deliver) = message {
            versions.extend((0..u64::from(deliver.lengths.count())).map(|n| deliver.version.0 + n));
        }
    });
    assert_eq!(versions, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn from_end_begins_with_what_is_stored_later() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    publish(&worker, "a", "x", 3).await;
    let mut consumer = Client::new(&worker, "reader", 1);
    consumer.subscribe(1, Source::Filter { filter: "x", key: None, from: From::End }, 100, true);
    consumer.subscribe(
        2,
        Source::Filter { filter: "x", key: Some("b"), from: From::End },
        100,
        true,
    );
    consumer.told(2).await;
    publish(&worker, "b", "x", 2).await;
    let mut events = consumer.events(4).await;
    events.sort_by_key(|event| (event.subscription, event.version));
    let got: Vec<_> = events
        .iter()
        .map(|event| (event.subscription, event.key.as_str(), event.version))
        .collect();
    assert_eq!(got, [(1, "b", 1), (1, "b", 2), (2, "b", 1), (2, "b", 2)]);
}

#[tokio::test]
async fn a_stream_that_is_not_there_yet_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut consumer = Client::new(&worker, "reader", 1);
    consumer.subscribe(1, Source::Stream { key: "a", from: Version(1) }, 100, true);
    let (told, polled) = consumer.poll();
    assert_eq!((told.len(), polled), (1, Polled::Idle));
    let both = tokio::join!(consumer.events(50), publish(&worker, "a", "x", 50));
    let versions: Vec<_> = both.0.iter().map(|event| event.version).collect();
    assert_eq!(versions, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_can_not_be_subscribed_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    let fault = |id, code| Told::Fault { code, scope: Scope::Subscription(SubscriptionId(id)) };
    client.subscribe(1, filter("a//b"), 1, true);
    client.subscribe(2, Source::Stream { key: "", from: Version(1) }, 1, true);
    client.subscribe(3, Source::Group { name: "g", max_events: 1, max_bytes: 1 }, 1, true);
    client.subscribe(4, filter("#"), 1, true);
    client.subscribe(4, filter("#"), 1, true);
    client.ready_to_publish(1);
    let want = [
        fault(1, Code::INVALID),
        fault(2, Code::INVALID),
        fault(3, Code::NOT_FOUND),
        fault(4, Code::CONFLICT),
        Told::Opened { lane: 0, last: 0, refused: vec![] },
        Told::Credit { subscription: 4, events: 1 },
    ];
    assert_eq!(client.told(6).await, want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catching_up_and_following_leaves_no_gap_and_doubles_nothing() {
    const EACH: u64 = 400;
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    publish(&worker, "p0", "t/0", EACH).await;
    let mut tasks = tokio::task::JoinSet::new();
    for publisher in 1..=3_u64 {
        let worker = worker.clone();
        tasks.spawn(async move {
            publish(&worker, &format!("p{publisher}"), &format!("t/{publisher}"), EACH).await;
        });
    }
    for reader in 0..4 {
        let worker = worker.clone();
        tasks.spawn(async move {
            let mut consumer = Client::new(&worker, &format!("reader{reader}"), 1);
            consumer.subscribe(1, filter("t/#"), 64, true);
            let events = consumer.events(4 * usize::try_from(EACH).unwrap()).await;
            let mut versions: HashMap<String, u64> = HashMap::new();
            let mut position = 0;
            for event in events {
                assert!(event.position > position, "{event:?} behind {position}");
                position = event.position;
                let version = versions.entry(event.key.clone()).or_default();
                *version += 1;
                assert_eq!(event.version, *version);
                assert_eq!(event.payload, format!("{} {version}", event.key));
            }
        });
    }
    for reader in 0..2 {
        let worker = worker.clone();
        tasks.spawn(async move {
            let mut consumer = Client::new(&worker, &format!("follower{reader}"), 1);
            consumer.subscribe(1, Source::Stream { key: "p2", from: Version(1) }, 64, true);
            let events = consumer.events(usize::try_from(EACH).unwrap()).await;
            assert!(events.iter().zip(1..).all(|(event, version)| event.version == version));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_stream_and_a_filter_are_followed_event_by_event() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut stream = Client::new(&worker, "stream", 1);
    stream.subscribe(1, Source::Stream { key: "a", from: Version(1) }, 2, true);
    let mut all = Client::new(&worker, "all", 1);
    all.subscribe(1, filter("#"), 2, true);
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    for number in 1..=20 {
        client.event(0, number, b"x");
        assert_eq!(stream.events(1).await[0].version, number);
        assert_eq!(all.events(1).await[0].position, number);
    }
}

/// What comes of the filter or the group, with all names spelled in each delivery as an edge that merges may have to: how
/// long the frames' bodies are, and how many events came.
async fn spelled_in_full(worker: &Arc<Worker>, source: Source<'_>, count: u32) -> Vec<usize> {
    let mut attach = attach_of("main", Role::Service, "narrow", Run([5; 8]));
    attach.frame_max = NARROW;
    let mut client = Client::of(worker, &attach);
    client.subscribe(1, source, 1 << 16, true);
    let (mut key, mut topic) = (String::new(), String::new());
    let (mut bodies, mut events) = (Vec::new(), 0);
    while events < count {
        let mut deliveries = 0;
        let polled = client.session.poll(ROOM, &mut |message, _| {
            let Message::Deliver(deliver) = message else { return };
            deliver.key.into_iter().for_each(|new| new.clone_into(&mut key));
            deliver.topic.into_iter().for_each(|new| new.clone_into(&mut topic));
            events += deliver.lengths.count();
            deliveries += 1;
            let full = Deliver {
                key: Some(&key),
                topic: Some(&topic),
                kind: Some(Kind::default()),
                worker: Some("w"),
                ..*deliver
            };
            let mut room = [0; 4096];
            let written = Message::Deliver(full).encode(&mut room).unwrap();
            let (frame, _) = frame::decode(&room[..written], 4096).unwrap().unwrap();
            bodies.push(frame.header.len() + frame.payload.len());
        });
        assert!(!matches!(polled, Polled::Gone(_)), "{polled:?}");
        if deliveries == 0 {
            client.session.ready().await;
        }
    }
    bodies
}

const NARROW: u32 = 1024;

#[tokio::test]
async fn deliveries_fit_the_clients_frame_also_where_an_edge_spells_all_names_again() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (key, topic) = ("k".repeat(120), "t".repeat(120));
    let mut client = Client::new(&worker, "a", 1);
    client.lane(0, Some(&key), 1);
    client.bind(0, 0, &topic);
    let block = [&[b'x'; 20][..]; 60];
    for n in 0..3_u64 {
        client.batch(0, 1 + n * 60, &block, None);
    }
    client.acked(0, 180).await;
    let group = format!("{{\"name\":\"g\",\"filter\":\"{topic}\"}}");
    assert_eq!(client.reply("$group", "create", &group).await.0, Code(0));
    let filter = Source::Filter { filter: &topic, key: None, from: From::Start };
    for source in [filter, Source::Group { name: "g", max_events: 1000, max_bytes: 1 << 20 }] {
        // A group's key has one delivery out.
        let count = if source == filter { 180 } else { 1 };
        let bodies = spelled_in_full(&worker, source, count).await;
        assert!(bodies.iter().all(|&body| body <= 1024), "{bodies:?}");
        assert!(bodies[0] > 800, "and takes what there is: {bodies:?}");
    }
}
