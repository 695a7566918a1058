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

/// An argument that has no room in its message is the caller's to mend: nothing is sent, and the session goes on.
#[tokio::test]
async fn what_is_longer_than_its_field_is_told_before_it_is_sent() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let text = |bytes: usize| "x".repeat(bytes);
    let name = |bytes| Event::new("t", "x").content_type(text(bytes));
    let asked = |method: usize, content_type: usize| {
        client.ask("$echo", &text(method)).content_type(&text(content_type)).send()
    };
    let told = [
        ("prefix", 256, patient(client.page(Listing::Blobs, &text(257), "", 1)).await.err()),
        (
            "prefix",
            256,
            patient(client.list(Listing::State, &text(5_000)).next()).await.and_then(Result::err),
        ),
        ("cursor", 512, patient(client.page(Listing::Blobs, "", &text(513), 1)).await.err()),
        ("blob", 64, client.get_blob(&text(65), 0, 1).err()),
        ("blob", 64, patient(client.blob(&text(130))).await.err()),
        ("blob", 64, patient(client.download(&text(130), ..)).await.err()),
        ("method", 64, patient(asked(65, 0)).await.err()),
        ("content type", 64, patient(asked(1, 65)).await.err()),
        ("content type", 64, patient(client.publish(name(65))).await.err()),
        (
            "token",
            1_536,
            server.client().url("spile://localhost:1").token(&text(1_537)).prepare().err(),
        ),
        ("software", 64, server.client().software(&text(65)).prepare().err()),
    ];
    for (what, most, error) in told {
        let error = error.unwrap_or_else(|| panic!("{what} is taken"));
        let Error::Setup { what: named, why, .. } = &error else { panic!("{what}: {error}") };
        assert!(*named == what && why.ends_with(&format!("; {most} is the most")), "{error}");
        assert_eq!((error.code(), error.retry_after()), (Some(Code::INVALID), None));
    }
    // At the limit all of them are asked, and answered on the same connection.
    assert!(patient(client.page(Listing::State, &text(256), &text(512), 1)).await.is_ok());
    assert!(patient(client.get_blob(&text(64), 0, 1).unwrap().next()).await.unwrap().is_err());
    assert!(patient(asked(64, 64)).await.is_ok());
    assert!(patient(client.publish(name(64))).await.is_ok());
    assert_eq!(server.world.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_look_up_hears_why_the_server_ended_the_session() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let call = client.ask("silent", "m").parts();
    let error = patient(client.list(Listing::State, "fatal").next()).await.unwrap().unwrap_err();
    assert_eq!((refused(&error), error.retry_after()), (Code::TOO_LARGE, None));
    assert!(error.to_string().contains("list.prefix"), "{error}");
    // Of a call it is still not known whether it was done.
    let error = patient(call.unwrap().next()).await.unwrap().unwrap_err();
    assert_eq!(refused(&error), Code::UNKNOWN_OUTCOME);
    assert!(error.to_string().contains("list.prefix (102 too-large)"), "{error}");
}
