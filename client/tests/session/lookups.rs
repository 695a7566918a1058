//! Look-ups: what is there, what is not, and what becomes of one whose connection breaks.

use std::sync::atomic::Ordering;

use spile_client::{Client, Error, Event, Fresh, Listing};
use spile_protocol::code::Code;
use spile_protocol::id::Version;

use super::server::Server;
use super::{connected, patient, refused};

async fn put(client: &Client, key: &str, topic: &str, payload: &'static str) {
    patient(client.publish(Event::new(topic.to_owned(), payload).key(key.to_owned())))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_latest_value_and_the_last_version_are_found_or_there_is_none() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for payload in ["1", "2"] {
        put(&client, "k", "state/a", payload).await;
    }
    let found = patient(client.get_state("k", "state/a", Fresh::default())).await.unwrap().unwrap();
    assert_eq!((&*found.key, &*found.name, found.version), ("k", "state/a", Version(2)));
    assert_eq!((found.payload, found.position.unwrap().to_string()), ("2".into(), "w:2".into()));
    assert_eq!(patient(client.get_state("k", "state/b", Fresh::default())).await.unwrap(), None);
    let version = |key| client.get_version(key, Fresh::default());
    assert_eq!(patient(version("k")).await.unwrap(), Some(Version(2)));
    assert_eq!(patient(version("nobody")).await.unwrap(), None);
    assert!(matches!(patient(version("a\nb")).await, Err(Error::Setup { .. })));
}

#[tokio::test]
async fn a_blob_comes_in_parts_and_one_that_is_not_there_is_refused() {
    let server = Server::start().await;
    let client = connected(&server).await;
    put(&client, "k", "photos/a", "0123456789").await;
    let mut parts = client.get_blob("0", 2, 7).unwrap();
    let mut got = Vec::new();
    while let Some(part) = patient(parts.next()).await {
        let part = part.unwrap();
        assert_eq!((part.size, &*part.name), (10, "photos/a"));
        got.extend_from_slice(&part.payload);
    }
    assert_eq!(got, b"2345678");
    let mut none = client.get_blob("7", 0, 1).unwrap();
    assert_eq!(refused(&patient(none.next()).await.unwrap().unwrap_err()), Code::NOT_FOUND);
    assert!(patient(none.next()).await.is_none(), "why it ended is told once");
    assert!(client.get_blob("0", 0, 0).is_err());
}

#[tokio::test]
async fn a_listing_is_asked_for_page_by_page_and_says_where_something_is_missing() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for key in ["b-1", "a-2", "a-1", "a-4", "a-3", "a-5", "a-6", "a-7"] {
        put(&client, key, "state/x", "v").await;
    }
    let mut all = client.list(Listing::State, "a-");
    let mut keys = Vec::new();
    while let Some(found) = patient(all.next()).await {
        keys.push(found.unwrap().key);
    }
    assert_eq!(keys, ["a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7"]);
    assert!(!all.is_partial());
    let page = patient(client.page(Listing::State, "none", "", 5)).await.unwrap();
    assert_eq!(page, spile_client::Page::default());
    put(&client, "away", "state/x", "v").await;
    let mut partial = client.list(Listing::State, "away");
    while patient(partial.next()).await.is_some() {}
    assert!(partial.is_partial());
}

#[tokio::test]
async fn a_look_up_whose_connection_breaks_may_be_tried_again_and_one_nobody_waits_for_is_let_go() {
    let server = Server::start().await;
    let client = connected(&server).await;
    put(&client, "k", "state/a", "1").await;
    server.world.silent.store(true, Ordering::Relaxed);
    let dropped = client.get_blob("0", 0, 1).unwrap();
    let asked = client.get_blob("0", 0, 1);
    drop(dropped);
    server.world.cut();
    let error = patient(asked.unwrap().next()).await.unwrap().unwrap_err();
    assert_eq!((refused(&error), error.retry_after().is_some()), (Code::UNAVAILABLE, true));
    server.world.silent.store(false, Ordering::Relaxed);
    // Away for a moment: it is tried until the client is back.
    let found = loop {
        match patient(client.get_state("k", "state/a", Fresh::default())).await {
            Ok(found) => break found.unwrap(),
            Err(error) => assert!(error.retry_after().is_some(), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(found.payload, "1");
}
