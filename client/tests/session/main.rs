//! The client against a server that cuts, forgets and refuses: what was acknowledged is stored once, in order, and
//! everyone who waits hears.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test may fail"
)]

mod answers;
mod downloads;
mod groups;
mod handing;
mod lookups;
mod receiving;
mod server;
mod tls;
mod uploads;
mod world;

use std::sync::atomic::Ordering;

use server::{KEY, PATIENCE, Server};
use spile_client::{Client, Durability, Error, Event, Expect, From, Interest, Kind};
use spile_protocol::code::{Class, Code};
use spile_protocol::id::Version;
use tokio::time::timeout;

async fn patient<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap()
}

async fn connected(server: &Server) -> Client {
    patient(server.client().connect()).await.unwrap()
}

fn refused(error: &Error) -> Code {
    match error {
        Error::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

fn numbered(count: usize) -> impl Iterator<Item = Event> {
    (0..count).map(|n| Event::new("t/n", n.to_string()).key("k"))
}

#[tokio::test]
async fn a_published_event_is_stored_before_its_receipt_and_the_receipt_names_its_place() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for n in 1..=3_u64 {
        let receipt = patient(client.publish(Event::new("t/a", "21.5"))).await.unwrap();
        assert_eq!(
            (&*receipt.key, receipt.number.0, receipt.version),
            ("tester", n, Some(Version(n)))
        );
        assert_eq!(receipt.position.unwrap().to_string(), format!("w:{n}"));
        assert_eq!(receipt.durability, Durability::Stored);
        assert_eq!(server.world.log().len(), n as usize);
    }
    patient(client.close()).await;
    assert!(client.is_closed());
}

#[tokio::test]
async fn an_event_may_be_as_long_as_the_server_takes() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for length in [100 << 10, 128 << 10, 200 << 10, 256 << 10] {
        let long = Event::new("t/a", vec![b'x'; length]);
        let receipts = patient(async {
            tokio::join!(client.publish(long), client.publish(Event::new("t/b", "short")))
        });
        let (long, short) = receipts.await;
        assert!(long.is_ok() && short.is_ok(), "{length}");
    }
    assert_eq!(server.world.log().len(), 8);
}

#[tokio::test]
async fn a_flood_goes_in_batches_and_its_receipts_come_in_order() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let mut all = client.publish_all(numbered(10_000));
    let mut next = 0;
    while let Some(receipt) = patient(all.next()).await {
        next += 1;
        assert_eq!(receipt.unwrap().number.0, next);
    }
    assert_eq!(next, 10_000);
    let log = server.world.log();
    assert!(log.iter().enumerate().all(|(n, event)| event.payload == n.to_string().as_bytes()));
    let batches = server.world.batches.load(Ordering::Relaxed);
    assert!((1..2_000).contains(&batches), "{batches}");
}

#[tokio::test]
async fn what_was_stored_and_not_acknowledged_when_the_connection_broke_is_not_stored_again() {
    let server = Server::start().await;
    let client = connected(&server).await;
    server.world.silent.store(true, Ordering::Relaxed);
    let mut all = client.publish_all(numbered(500));
    // The first receipt is asked for, so that everything is sent; it can only come on another connection.
    let first = tokio::select! {
        first = all.next() => first,
        () = async {
            patient(server.world.stored(500)).await;
            server.world.silent.store(false, Ordering::Relaxed);
            server.world.cut();
            std::future::pending::<()>().await;
        } => None,
    };
    assert_eq!(first.unwrap().unwrap().number.0, 1);
    let mut told = 1;
    while let Some(receipt) = patient(all.next()).await {
        told += 1;
        let receipt = receipt.unwrap();
        assert_eq!((receipt.number.0, receipt.version), (told, Some(Version(told))));
        assert!(!receipt.maybe_twice);
    }
    assert_eq!((told, server.world.log().len()), (500, 500));
    assert_eq!(server.world.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn cut_again_and_again_every_event_is_stored_once_and_in_order_and_received_once() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let mut events =
        patient(client.subscribe(Interest::filter("t/#").from(From::Start).window(64, 1 << 20)))
            .await
            .unwrap();
    let reader = async {
        for n in 0..5_000_u64 {
            let event = patient(events.next()).await.unwrap().unwrap();
            assert_eq!(event.position.number.0, n + 1);
            assert_eq!(event.payload, n.to_string().as_bytes());
        }
    };
    let writer = async {
        let mut all = client.publish_all(numbered(5_000));
        let mut told = 0_usize;
        while let Some(receipt) = patient(all.next()).await {
            assert_eq!(receipt.unwrap().number.0, told as u64 + 1);
            told += 1;
            if told % 500 == 250 {
                server.world.cut();
            }
        }
        told
    };
    let (told, ()) = tokio::join!(writer, reader);
    assert_eq!((told, server.world.log().len()), (5_000, 5_000));
    assert!(server.world.connections.load(Ordering::Relaxed) > 5);
}

#[tokio::test]
async fn a_run_the_server_has_forgotten_is_replaced_and_what_was_in_flight_may_come_twice() {
    let server = Server::start().await;
    let client = connected(&server).await;
    patient(client.publish(Event::new("t/a", "1"))).await.unwrap();
    server.world.silent.store(true, Ordering::Relaxed);
    let pending = patient(client.send(Event::new("t/a", "2"))).await;
    patient(server.world.stored(2)).await;
    server.world.forget_runs();
    server.world.silent.store(false, Ordering::Relaxed);
    server.world.cut();
    let receipt = patient(pending).await.unwrap();
    assert!(receipt.maybe_twice);
    let after = patient(client.publish(Event::new("t/a", "3"))).await.unwrap();
    assert!(!after.maybe_twice);
    let payloads: Vec<_> = server.world.log().into_iter().map(|event| event.payload).collect();
    assert_eq!(payloads, [b"1", b"2", b"2", b"3"]);
}

#[tokio::test]
async fn a_stale_expected_version_is_refused_with_the_streams_and_later_events_go_on() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let event = || Event::new("t/a", "x").key("k");
    patient(client.publish(event().expect(Expect::Version(Version(0))))).await.unwrap();
    let error =
        patient(client.publish(event().expect(Expect::Version(Version(0))))).await.unwrap_err();
    assert_eq!(refused(&error), Code::STALE_VERSION);
    assert_eq!(error.retry_after(), None);
    assert!(error.to_string().contains("at version 1"), "{error}");
    let receipt =
        patient(client.publish(event().expect(Expect::Version(Version(1))))).await.unwrap();
    assert_eq!((receipt.number.0, receipt.version), (3, Some(Version(2))));
}

#[tokio::test]
async fn a_key_that_is_not_ours_is_refused_and_other_keys_go_on() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for _ in 0..2 {
        let error =
            patient(client.publish(Event::new("t/a", "x").key("forbidden"))).await.unwrap_err();
        assert_eq!((refused(&error), error.class()), (Code::FORBIDDEN, Class::YourRight));
    }
    patient(client.publish(Event::new("t/a", "x").key("mine"))).await.unwrap();
    patient(client.close()).await;
}

#[tokio::test]
async fn what_was_refused_with_its_lane_is_not_sent_again_when_the_key_is_allowed_later() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let events = (0..20).map(|n| Event::new("t/a", format!("refused {n}")).key("forbidden"));
    let mut refusals = client.publish_all(events);
    while let Some(outcome) = patient(refusals.next()).await {
        assert_eq!(refused(&outcome.unwrap_err()), Code::FORBIDDEN);
    }
    server.world.allows_all.store(true, Ordering::Relaxed);
    server.world.cut();
    // It comes back, and whoever was told of a refusal may publish again.
    patient(client.publish(Event::new("t/a", "mine"))).await.unwrap();
    while patient(client.publish(Event::new("t/a", "again").key("forbidden"))).await.is_err() {}
    let stored = server.world.log();
    let payloads: Vec<_> = stored.iter().map(|event| event.payload.as_slice()).collect();
    assert_eq!(payloads, [&b"mine"[..], b"again"]);
    patient(client.close()).await;
}

#[tokio::test]
async fn a_wrong_key_and_a_server_that_is_not_there_are_told_apart_at_once() {
    let mut server = Server::start().await;
    let error = patient(server.client().device_key("tester", [8; 32]).connect()).await.unwrap_err();
    assert_eq!(refused(&error), Code::UNAUTHENTICATED);
    let client = connected(&server).await;
    server.stop();
    let error = patient(server.client().connect()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    drop(client);
    let _: [u8; 32] = KEY;
}

fn other_tenant(error: &Error) -> (&str, &str) {
    match error {
        Error::OtherTenant { asked, given } => (asked, given),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_server_that_has_us_in_another_tenant_is_left_before_anything_is_sent() {
    let server = Server::start().await;
    let asked = patient(server.client().tenant("north").connect()).await.unwrap();
    assert_eq!(&*asked.session().tenant, "north");
    *server.world.tenant.lock().unwrap() = Some("south".to_owned());
    let error = patient(server.client().tenant("north").connect()).await.unwrap_err();
    assert_eq!(other_tenant(&error), ("north", "south"));
    assert_eq!((error.class(), error.retry_after()), (Class::YourRight, None));
    assert!(server.world.lanes.lock().unwrap().is_empty());
    // Who asked for none takes what the server says.
    let any = patient(server.client().connect()).await.unwrap();
    assert_eq!(&*any.session().tenant, "south");
}

#[tokio::test]
async fn a_client_stays_in_its_first_tenant_when_it_comes_back() {
    let server = Server::start().await;
    let client = connected(&server).await;
    server.world.silent.store(true, Ordering::Relaxed);
    let pending = patient(client.send(Event::new("t/a", "1"))).await;
    patient(server.world.stored(1)).await;
    *server.world.tenant.lock().unwrap() = Some("south".to_owned());
    server.world.silent.store(false, Ordering::Relaxed);
    server.world.cut();
    let error = patient(pending).await.unwrap_err();
    assert_eq!(other_tenant(&error), ("main", "south"));
    assert!(client.is_closed());
}

#[tokio::test]
async fn without_reconnecting_everyone_who_waits_hears_that_it_is_over() {
    let server = Server::start().await;
    let client = patient(server.client().reconnect(false).connect()).await.unwrap();
    server.world.silent.store(true, Ordering::Relaxed);
    let mut events = patient(client.subscribe_to("#", From::End)).await.unwrap();
    let pending = patient(client.send(Event::new("t/a", "1"))).await;
    patient(server.world.stored(1)).await;
    server.world.cut();
    assert!(matches!(patient(pending).await, Err(Error::Unreachable { .. })));
    while let Some(event) = patient(events.next()).await {
        if let Err(error) = event {
            assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        }
    }
    assert!(client.is_closed());
    assert!(patient(client.publish(Event::new("t/a", "2"))).await.is_err());
}

#[tokio::test]
async fn what_is_stored_while_a_subscriber_from_the_end_is_away_is_not_missed() {
    let server = Server::start().await;
    let (reader, writer) = (connected(&server).await, connected(&server).await);
    patient(writer.publish(Event::new("t/a", "before"))).await.unwrap();
    let mut events = patient(reader.subscribe_to("t/#", From::End)).await.unwrap();
    server.world.cut();
    // Both are cut; whichever comes back first, this is stored behind the subscription's beginning.
    patient(writer.publish(Event::new("t/a", "while away"))).await.unwrap();
    assert_eq!(patient(events.next()).await.unwrap().unwrap().payload, "while away");
}

#[tokio::test]
async fn a_client_that_is_closed_while_it_comes_back_ends_at_once() {
    let mut server = Server::start().await;
    let client = connected(&server).await;
    let pending = {
        server.world.silent.store(true, Ordering::Relaxed);
        patient(client.send(Event::new("t/a", "1"))).await
    };
    patient(server.world.stored(1)).await;
    server.stop();
    patient(client.close()).await;
    assert!(patient(pending).await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_not_live_ends_with_its_last_event() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for n in 0..5 {
        patient(client.publish(Event::new("t/a", n.to_string()).key(["a", "b"][n % 2])))
            .await
            .unwrap();
    }
    let mut stream =
        patient(client.subscribe(Interest::stream("a", Version(2)).live(false))).await.unwrap();
    let mut versions = Vec::new();
    while let Some(event) = patient(stream.next()).await {
        let event = event.unwrap();
        versions.push((event.version.0, event.payload));
    }
    assert_eq!(versions, [(2, "2".into()), (3, "4".into())]);
}

#[tokio::test]
async fn more_keys_than_lanes_take_turns_and_their_numbers_go_on() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for round in 1..=2_u64 {
        for key in 0..400 {
            let event = Event::new("t/a", "x").key(format!("key-{key}"));
            let receipt = patient(client.publish(event)).await.unwrap();
            assert_eq!((receipt.number.0, receipt.version), (round, Some(Version(round))), "{key}");
        }
    }
}

#[tokio::test]
async fn a_producer_counts_what_became_of_its_events() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let mut producer = client.producer(Some("k"), "t/n", Kind::default()).unwrap();
    let (mut sent, mut stored) = (0, 0);
    while sent < 5_000 || producer.in_flight() > 0 {
        sent += patient(producer.fill(b"payload", 5_000 - sent)).await.unwrap();
        stored += patient(producer.outcomes()).await.unwrap().stored;
    }
    assert_eq!((sent, stored, server.world.log().len()), (5_000, 5_000, 5_000));
}

#[tokio::test]
async fn a_call_is_answered_or_refused() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let reply = patient(client.call("$echo", "say", "hello", PATIENCE)).await.unwrap();
    assert_eq!(reply.payload, "hello");
    let error = patient(client.call("$nobody", "say", "hello", PATIENCE)).await.unwrap_err();
    assert_eq!(refused(&error), Code::NOT_FOUND);
}

#[tokio::test]
async fn names_that_are_none_are_told_before_anything_is_sent() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for event in [Event::new("a//b", "x"), Event::new("a/#", "x"), Event::new("a", "x").key("")] {
        assert!(matches!(patient(client.publish(event)).await, Err(Error::Setup { .. })));
    }
    assert!(matches!(
        patient(client.subscribe_to("a/#/b", From::End)).await,
        Err(Error::Setup { .. })
    ));
    let long = vec![0_u8; 300 * 1024];
    let error = patient(client.publish(Event::new("a", long))).await.unwrap_err();
    assert_eq!(refused(&error), Code::TOO_LARGE);
    assert!(server.world.log().is_empty());
}

/// Gives one event each time it is asked for the second time: the first time it is still to come.
struct Slow {
    left: u32,
    asked: bool,
}

impl futures_core::Stream for Slow {
    type Item = Event;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Event>> {
        self.asked = !self.asked;
        if self.asked {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        let Some(left) = self.left.checked_sub(1) else { return std::task::Poll::Ready(None) };
        self.left = left;
        std::task::Poll::Ready(Some(Event::new("t/a", left.to_string())))
    }
}

#[tokio::test]
async fn a_stream_whose_events_are_still_to_come_is_published_as_they_do() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let mut all = client.publish_stream(Slow { left: 50, asked: false });
    let mut told = 0;
    while let Some(receipt) = patient(all.next()).await {
        receipt.unwrap();
        told += 1;
    }
    assert_eq!((told, server.world.log().len()), (50, 50));
}

#[tokio::test]
async fn a_consumer_of_single_events_never_stands_still_at_the_cap_of_deliveries() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let mut all = client.publish_all(numbered(9_000));
    let mut events = patient(client.subscribe_to("t/#", From::Start)).await.unwrap();
    let writer = async { while patient(all.next()).await.is_some() {} };
    let reader = async {
        for n in 1..=9_000 {
            assert_eq!(patient(events.next()).await.unwrap().unwrap().version, Version(n));
        }
    };
    tokio::join!(writer, reader);
    assert_eq!(server.world.connections.load(Ordering::Relaxed), 1, "nobody was cut on the way");
}

#[tokio::test]
async fn a_key_whose_worker_is_away_waits_and_other_keys_flow_on() {
    let server = Server::start().await;
    let client = connected(&server).await;
    server.world.away.store(true, Ordering::Relaxed);
    // More than all lanes together may have waiting: what waits of one key is bounded by itself.
    let event = |n: u32| Event::new("t/a", vec![0; 16 * 1024]).key("away").schema(n % 2);
    let mut all = client.publish_all((0..1_000).map(event));
    let waiting = async {
        let mut told = 0;
        while let Some(receipt) = all.next().await {
            receipt.unwrap();
            told += 1;
        }
        told
    };
    let others = async {
        for _ in 0..50 {
            patient(client.publish(Event::new("t/b", "x").key("here"))).await.unwrap();
        }
        server.world.away.store(false, Ordering::Relaxed);
    };
    let (told, ()) = patient(async { tokio::join!(waiting, others) }).await;
    assert_eq!((told, server.world.log().len()), (1_000, 1_050));
}

#[tokio::test]
async fn who_loses_patience_can_say_why_events_wait() {
    let server = Server::start().await;
    let client = connected(&server).await;
    assert_eq!(client.held_up(), None);
    server.world.away.store(true, Ordering::Relaxed);
    let waiting = client.publish(Event::new("t/a", "x").key("away"));
    let seen = async {
        let why = loop {
            match client.held_up() {
                Some(why) => break why,
                None => tokio::task::yield_now().await,
            }
        };
        server.world.away.store(false, Ordering::Relaxed);
        why
    };
    let (stored, why) = patient(async { tokio::join!(waiting, seen) }).await;
    assert!(matches!(&why, Error::Refused(why) if why.code == Code::UNAVAILABLE), "{why:?}");
    assert_eq!((stored.unwrap().key.as_ref(), client.held_up()), ("away", None));
}
