//! Which GETs of a session are answered from the cache, which go to the worker, and what is kept of its answers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that can't go on ends"
)]

mod desk;

use desk::*;
use spile_edge::cache::Name;
use spile_protocol::id::{Mark, RequestId};
use spile_protocol::message::{Body, Get, Target, Value};

const TOPIC: &str = "state/a";
/// What a GET says beside its target: newer_than, at_least, wait_ms.
const PLAIN: (u64, u64, u32) = (0, 0, 0);

fn get(request: u32, key: &str, (newer_than, at_least, wait_ms): (u64, u64, u32)) -> Message<'_> {
    let (request, target) = (RequestId(request), Target::State { key, topic: TOPIC });
    let (newer_than, at_least) = (Version(newer_than), Version(at_least));
    Message::Get(Get { request, target, newer_than, at_least, wait_ms })
}

fn value(request: u32, key: &str, version: u64) -> Value<'_> {
    Value {
        request: RequestId(request),
        more: false,
        name: TOPIC,
        key,
        version: Version(version),
        position: Some(Position(version)),
        time_ms: 7,
        content_type: "text/plain",
        partial: false,
        absent: version == 0,
        size: 0,
        worker: "w",
        cursor: "",
        principal: "device/d1",
        stored_offset: 0,
        revision: 0,
        blake3: None,
        meta: List::default(),
        id: "",
        left_ms: 0,
    }
}

fn told(request: u32, key: &str, version: u64) -> Message<'_> {
    Message::Value(Body { fields: value(request, key, version), payload: b"21.5" })
}

/// Who asked, and what was heard: request, version, and whether it was all as the worker said it.
async fn heard(client: &mut Client) -> (u32, u64) {
    client
        .next(|message| match message {
            Message::Value(Body { fields, payload }) => {
                let (request, version) = (fields.request.0, fields.version.0);
                assert_eq!(*fields, value(request, fields.key, version));
                assert_eq!(*payload, b"21.5");
                (request, version)
            }
            other => panic!("{other:?}"),
        })
        .await
        .unwrap()
}

/// Waits until the worker was asked.
async fn asked(fake: &Fake) {
    for _ in 0..10_000 {
        if fake.desk().heard.iter().any(|one| one.contains("Get")) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the worker was not asked");
}

/// Sends a GET that must go to the worker, which says `version`.
async fn asks(client: &mut Client, fake: &Fake, sent: &Message<'_>, version: u64) {
    let Message::Get(Get { request, target: Target::State { key, .. }, .. }) = sent else {
        panic!("{sent:?}");
    };
    client.send(&[*sent]).await;
    asked(fake).await;
    fake.heard();
    fake.say(&told(request.0, key, version));
    assert_eq!(heard(client).await, (request.0, version));
}

/// Sends a GET that must be answered without the worker.
async fn hits(client: &mut Client, fake: &Fake, sent: &Message<'_>, version: u64) {
    let Message::Get(Get { request, .. }) = sent else { panic!("{sent:?}") };
    client.send(&[*sent]).await;
    assert_eq!(heard(client).await, (request.0, version));
    assert_eq!(fake.heard(), [""; 0], "the worker was asked");
}

async fn one() -> (Fake, Client) {
    let fake = Fake::new("w");
    let client = Client::welcome(std::slice::from_ref(&fake), "ada", Role::Operator).await;
    (fake, client)
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_told_is_told_again_until_its_age_is_over_or_it_changed() {
    let (fake, mut client) = one().await;
    asks(&mut client, &fake, &get(1, "k", PLAIN), 3).await;
    for request in 2..5 {
        hits(&mut client, &fake, &get(request, "k", PLAIN), 3).await;
    }
    // Newer than that was not told; a wait is answered at once where there is something.
    hits(&mut client, &fake, &get(5, "k", (2, 0, 30_000)), 3).await;
    asks(&mut client, &fake, &get(6, "k", (3, 0, 0)), 4).await;
    hits(&mut client, &fake, &get(7, "k", PLAIN), 4).await;
    // Who names a version asks the worker, and so does who wants another key.
    asks(&mut client, &fake, &get(8, "k", (0, 1, 0)), 4).await;
    asks(&mut client, &fake, &get(9, "other", PLAIN), 1).await;
    client.edge.cache.changed(0, [Mark::of("main", "k", TOPIC)]);
    asks(&mut client, &fake, &get(10, "k", PLAIN), 5).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    asks(&mut client, &fake, &get(11, "k", PLAIN), 5).await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_is_asked_for_again_at_its_end_and_told_with_what_is_left() {
    let (fake, mut client) = one().await;
    let mut left = async |request, from_worker: Option<u64>| {
        client.send(&[get(request, "k", PLAIN)]).await;
        if let Some(left_ms) = from_worker {
            asked(&fake).await;
            let fields = Value { left_ms, ..value(request, "k", 3) };
            fake.say(&Message::Value(Body { fields, payload: b"21.5" }));
        }
        let left_ms = |message: &Message<'_>| match message {
            Message::Value(value) => value.fields.left_ms,
            other => panic!("{other:?}"),
        };
        let left_ms = client.next(left_ms).await.unwrap();
        let was_asked = fake.heard().iter().any(|one| one.contains("Get"));
        assert_eq!(was_asked, from_worker.is_some());
        left_ms
    };
    assert_eq!(left(1, Some(300)).await, 300);
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(left(2, None).await, 200);
    tokio::time::advance(Duration::from_millis(200)).await;
    // Its age is not over, its time is.
    assert_eq!(left(3, Some(0)).await, 0);
    assert_eq!(left(4, None).await, 0);
}

#[tokio::test]
async fn absence_is_not_kept() {
    let (fake, mut client) = one().await;
    for request in 1..3 {
        asks(&mut client, &fake, &get(request, "k", PLAIN), 0).await;
    }
    assert_eq!(client.edge.cache.counts.entries(), 0);
}

#[tokio::test]
async fn a_session_asks_the_worker_for_keys_it_publishes_under() {
    let (fake, mut client) = one().await;
    asks(&mut client, &fake, &get(1, "k", PLAIN), 1).await;
    asks(&mut client, &fake, &get(2, "ada", PLAIN), 1).await;
    client.send(&[lane(0, None), lane(1, Some("k"))]).await;
    fake.say(&opened(0, 0));
    fake.say(&opened(1, 0));
    for lane in 0..2 {
        assert_eq!(client.shown().await, format!("lane {lane} Some(Number(0))"));
    }
    fake.heard();
    asks(&mut client, &fake, &get(3, "k", PLAIN), 2).await;
    asks(&mut client, &fake, &get(4, "ada", PLAIN), 2).await;
    client.send(&[lane(1, Some("another"))]).await;
    fake.say(&opened(1, 0));
    assert_eq!(client.shown().await, "lane 1 Some(Number(0))");
    fake.heard();
    hits(&mut client, &fake, &get(5, "k", PLAIN), 2).await;
}

#[tokio::test]
async fn who_may_not_read_hears_so_whatever_is_kept() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d2", Role::Device).await;
    let asked = client.edge.cache.ask(
        client.edge.clock.now(),
        0,
        Name { tenant: "main", key: "k", topic: TOPIC },
    );
    let mut frame = Vec::new();
    frame.put(&told(0, "k", 3), crc::of(b"21.5")).unwrap();
    asked.unwrap().keep(3, 0, frame.into());
    client.send(&[get(1, "k", PLAIN)]).await;
    let refused = client.shown().await;
    assert!(refused.starts_with("fault forbidden Request"), "{refused}");
    assert_eq!(client.edge.cache.counts.hits.get(), 0);
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded_and_all_come_in_the_end() {
    let (fake, mut client) = one().await;
    asks(&mut client, &fake, &get(1, "k", PLAIN), 3).await;
    let many: Vec<_> = (2..60).map(|request| get(request, "k", PLAIN)).collect();
    client.send(&many).await;
    asked(&fake).await;
    // All of one read.
    assert_eq!(fake.heard().len(), 58 - spile_edge::limits::CACHE_WAITING);
    let first = 2 + u32::try_from(spile_edge::limits::CACHE_WAITING).unwrap();
    (first..60).for_each(|request| fake.say(&told(request, "k", 3)));
    let mut came: Vec<u32> = Vec::new();
    for _ in 2..60 {
        came.push(heard(&mut client).await.0);
    }
    came.sort_unstable();
    assert!(came.into_iter().eq(2..60));
}

#[tokio::test]
async fn what_was_asked_of_a_worker_that_went_away_is_not_waited_for() {
    let (fake, mut client) = one().await;
    client.send(&[get(1, "k", PLAIN)]).await;
    asked(&fake).await;
    fake.leave();
    assert!(client.shown().await.starts_with("fault unavailable"));
    fake.come();
    fake.heard();
    asks(&mut client, &fake, &get(1, "k", PLAIN), 4).await;
    hits(&mut client, &fake, &get(2, "k", PLAIN), 4).await;
}

/// Its way out is full of something else meanwhile.
#[tokio::test(start_paused = true)]
async fn what_ends_while_its_answer_waits_is_not_told() {
    for (passes, ended) in [(0, false), (1_000, true)] {
        let fake = Fake::new("w");
        let who = Some(("ada", Role::Operator));
        let mut client = Client::connect(std::slice::from_ref(&fake), who, 4096);
        client.send(&[hello(), Message::Auth(Auth { proof: Proof::Certificate })]).await;
        assert_eq!(client.shown().await, "welcome ada");
        for (request, key, left_ms, payload) in [(1, "k", 1_000, 4), (2, "long", 0, 20_000)] {
            client.send(&[get(request, key, PLAIN)]).await;
            asked(&fake).await;
            fake.heard();
            let fields = Value { left_ms, ..value(request, key, 3) };
            fake.say(&Message::Value(Body { fields, payload: &vec![1; payload] }));
            if key == "k" {
                assert!(client.shown().await.starts_with("value k"));
            }
        }
        fake.has_said_all().await;
        let hits = client.edge.cache.counts.hits.get();
        client.send(&[get(3, "k", PLAIN), get(4, "k", PLAIN)]).await;
        while client.edge.cache.counts.hits.get() < hits + 2 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_millis(passes)).await;
        assert!(client.shown().await.starts_with("value long"));
        for request in [3, 4] {
            let fault = format!("fault busy {:?} 0", Scope::Request(RequestId(request)));
            let told = client.shown().await;
            assert_eq!(told == fault, ended, "{told}");
            assert_eq!(told.starts_with("value k"), !ended, "{told}");
        }
        assert_eq!(fake.heard(), [""; 0], "the worker was asked");
    }
}
