//! Facts about being a member of a group: settling, giving back, and what a cut connection means for both.

use std::sync::atomic::Ordering;
use std::time::Duration;

use spile_client::{Client, Consume, Consumer, Event, GroupDelivery, Settled, Tally};
use spile_protocol::code::Code;

use super::server::Server;
use super::{connected, patient, refused};

async fn published(client: &Client, key: &str, count: u64) {
    for n in 1..=count {
        let event = Event::new("t/x", n.to_string()).key(key);
        patient(client.publish(event)).await.unwrap();
    }
}

async fn next(deliveries: &mut Consumer) -> GroupDelivery {
    patient(deliveries.next()).await.unwrap().unwrap()
}

async fn member(server: &Server) -> (Client, Consumer) {
    let client = connected(server).await;
    let deliveries = patient(client.consume("g", Consume::default())).await.unwrap();
    (client, deliveries)
}

#[tokio::test]
async fn each_key_comes_in_order_and_a_settlement_is_told_when_it_counts() {
    let server = Server::start().await;
    let (client, mut deliveries) = member(&server).await;
    published(&client, "k", 3).await;
    for version in 1..=3 {
        let delivery = next(&mut deliveries).await;
        assert_eq!((delivery.version.0, delivery.attempt(), delivery.len()), (version, 1, 1));
        assert_eq!(delivery.first().unwrap().payload, version.to_string());
        assert!(!deliveries.is_ready(), "the key is busy");
        assert_eq!(patient(delivery.done()).await, Ok(Settled::Durable));
    }
    let tally = patient(deliveries.close()).await;
    assert_eq!(tally, Tally { durable: 3, ..Tally::default() });
}

#[tokio::test]
async fn what_is_retried_comes_again_and_what_is_rejected_does_not() {
    let server = Server::start().await;
    let (client, mut deliveries) = member(&server).await;
    published(&client, "k", 2).await;
    let delivery = next(&mut deliveries).await;
    patient(delivery.retry(Some(Duration::ZERO), "not now")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.version.0, delivery.attempt()), (1, 2));
    // Longer than the wire takes; whole characters are kept.
    patient(delivery.reject(&"ä".repeat(200))).await.unwrap();
    assert_eq!(next(&mut deliveries).await.version.0, 2);
    let dead = server.world.group.lock().unwrap().dead.clone();
    assert_eq!(dead, [("k".to_owned(), 1, "ä".repeat(128))]);
}

#[tokio::test]
async fn what_is_dropped_unsettled_is_given_back_unless_that_is_not_wanted() {
    let server = Server::start().await;
    let (client, mut deliveries) = member(&server).await;
    published(&client, "k", 1).await;
    drop(next(&mut deliveries).await);
    assert_eq!(next(&mut deliveries).await.attempt(), 2);
    patient(deliveries.close()).await;
    let kept = Consume::default().give_back(false);
    let mut deliveries = patient(client.consume("g", kept)).await.unwrap();
    drop(next(&mut deliveries).await);
    patient(deliveries.settled()).await;
    assert_eq!(deliveries.tally(), Tally::default(), "nothing was said of it");
}

#[tokio::test]
async fn with_the_connection_goes_what_it_handed_out_and_what_was_not_answered() {
    let server = Server::start().await;
    let (client, mut deliveries) = member(&server).await;
    published(&client, "a", 1).await;
    published(&client, "b", 1).await;
    let (first, second) = (next(&mut deliveries).await, next(&mut deliveries).await);
    server.world.silent.store(true, Ordering::Relaxed);
    let settling = second.done();
    patient(server.world.settled("b", 1)).await;
    server.world.silent.store(false, Ordering::Relaxed);
    server.world.cut();
    // It counted, and nobody can know: the answer went with the connection.
    assert_eq!(refused(&patient(settling).await.unwrap_err()), Code::UNKNOWN_OUTCOME);
    let again = next(&mut deliveries).await;
    assert_eq!((&*again.key, again.version.0, again.attempt()), ("a", 1, 2));
    // Both are the first delivery of their connection.
    assert_eq!(patient(first.done()).await, Ok(Settled::TooLate), "it is another delivery's now");
    assert_eq!(patient(again.done()).await, Ok(Settled::Durable));
    let tally = patient(deliveries.close()).await;
    assert_eq!((tally.durable, tally.unknown), (1, 1));
}

#[tokio::test]
async fn a_group_that_is_away_for_a_while_is_joined_again() {
    let server = Server::start().await;
    let (client, mut deliveries) = member(&server).await;
    published(&client, "k", 1).await;
    let first = next(&mut deliveries).await;
    server.world.sends_away.store(true, Ordering::Relaxed);
    server.world.changed.notify_waiters();
    let again = next(&mut deliveries).await;
    assert_eq!((again.version.0, again.attempt()), (1, 2));
    assert_eq!(patient(first.done()).await, Ok(Settled::TooLate));
    assert_eq!(patient(again.done()).await, Ok(Settled::Durable));
}
