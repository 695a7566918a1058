//! Aggregates through the real server: writers that race lose nothing, and each append was decided on the newest state.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod e2e;

use std::path::Path;

use e2e::{Server, all_in_one};
use spile_client::{Aggregate, Client, Delivery, Event, Interest};
use spile_protocol::{code::Code, id::Version};
use tempfile::TempDir;

const KEY: &str = "shelf-7";
const MOST: u64 = 60;

async fn client(server: &Server, dev: &Path) -> Client {
    Client::builder()
        .url(&format!("spile://{}", server.edge()))
        .ca(dev.join("ca.pem"))
        .cert(dev.join("operator.pem"))
        .client_key(dev.join("operator.key"))
        .connect()
        .await
        .unwrap()
}

/// How much there was, and how often it was taken: an event says how much its writer saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shelf {
    taken: u64,
}

fn fold(shelf: &mut Shelf, event: &Delivery) {
    let saw: u64 = std::str::from_utf8(&event.payload).unwrap().parse().unwrap();
    assert_eq!(saw, shelf.taken, "version {} was decided on an older state", event.version);
    shelf.taken += 1;
}

type Taking = Aggregate<Shelf, fn(&mut Shelf, &Delivery)>;

async fn load(client: &Client) -> Taking {
    let fold: fn(&mut Shelf, &Delivery) = fold;
    client.aggregate(KEY, Shelf::default(), fold).await.unwrap().attempts(1_000)
}

/// Takes one after the other while there is any left: how many.
async fn take(mut shelf: Taking) -> u64 {
    let mut taken = 0;
    let decide = |shelf: &Shelf| {
        (shelf.taken < MOST).then(|| Event::new("shelf/taken", shelf.taken.to_string()))
    };
    while let Some(receipt) = shelf.decide(decide).await.unwrap() {
        taken += 1;
        assert!(receipt.version.unwrap() <= shelf.version());
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_race_lose_nothing_and_each_decides_on_the_newest_state() {
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let server = Server::start(&mut all_in_one(&data), &log);
    let dev = data.join("dev");
    let (one, two) = (client(&server, &dev).await, client(&server, &dev).await);
    let (a, b) = (load(&one).await, load(&two).await);
    let (a, b) = tokio::join!(take(a), take(b));
    assert_eq!(a + b, MOST, "each append was told to one writer, once");
    // Folded anew by who saw none of it.
    let third = client(&server, &dev).await;
    let all = load(&third).await;
    assert_eq!((all.state().taken, all.version()), (MOST, Version(MOST)));
    let mut events = third.subscribe(Interest::stream(KEY, Version(1)).live(false)).await.unwrap();
    let mut stored = 0;
    while let Some(event) = events.next().await {
        event.unwrap();
        stored += 1;
    }
    assert_eq!(stored, MOST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_too_late_is_told_when_no_attempt_is_left_and_nothing_is_stored() {
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let server = Server::start(&mut all_in_one(&data), &log);
    let client = client(&server, &data.join("dev")).await;
    let mut mine = load(&client).await.attempts(1);
    client.publish(Event::new("shelf/taken", "0").key(KEY)).await.unwrap();
    let append = |shelf: &Shelf| Some(Event::new("shelf/taken", shelf.taken.to_string()));
    let error = mine.decide(append).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::STALE_VERSION));
    assert_eq!(mine.version(), Version(0));
    mine.refresh().await.unwrap();
    assert_eq!((mine.version(), mine.state().taken), (Version(1), 1));
    let nothing = mine.decide(|_| None).await.unwrap();
    assert!(nothing.is_none() && mine.version() == Version(1));
    mine.decide(append).await.unwrap().unwrap();
    assert_eq!(mine.state().taken, 2);
}
