//! Who may come: changed by call, told when it is durable and kept by those who follow, and there again after a restart.
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

use serde_json::json;
use spile_protocol::code::Code;
use spile_worker::{Config, Worker};
use support::{Client, Told, config, log, open};

const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OK: Code = Code(0);

fn add(device: &str) -> String {
    json!({ "id": device, "key_hash": HASH }).to_string()
}

#[tokio::test]
async fn devices_are_added_shown_listed_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut operator = Client::new(&worker, "op", 1);
    for device in ["pump-1", "pump-2", "pump-3"] {
        let (code, said) = operator.reply("$device", "add", &add(device)).await;
        assert_eq!((code, &said["device"], &said["state"]), (OK, &json!(device), &json!("active")));
    }
    let (code, said) = operator.reply("$device", "ls", r#"{"limit":2}"#).await;
    assert_eq!((code, said["devices"].as_array().unwrap().len()), (OK, 2));
    assert_eq!(said["next"], "pump-2");
    let (_, said) = operator.reply("$device", "ls", r#"{"after":"pump-2"}"#).await;
    assert_eq!((&said["devices"][0]["device"], said.get("next")), (&json!("pump-3"), None));
    let (code, said) = operator.reply("$device", "revoke", r#"{"id":"pump-2"}"#).await;
    assert_eq!((code, &said["state"]), (OK, &json!("revoked")));
    let (_, said) = operator.reply("$device", "show", r#"{"id":"pump-2"}"#).await;
    assert_eq!(
        (&said["state"], &said["role"], &said["key"]),
        (&json!("revoked"), &json!("device"), &json!(true))
    );
    assert!(!said.to_string().contains("0011"), "a hash is never shown: {said}");
    drop(operator);
    drop(worker);
    let worker = open(folder.path());
    let pump = worker.registered("main", "pump-2").unwrap();
    assert_eq!((pump.revoked, pump.key_hash.map(|hash| hash[1])), (true, Some(0x11)));
    assert!(!worker.registered("main", "pump-1").unwrap().revoked);
}

#[tokio::test]
async fn a_change_that_is_not_right_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut operator = Client::new(&worker, "op", 1);
    operator.reply("$device", "add", &add("pump")).await;
    for (method, payload, code) in [
        ("add", r#"{"id":"pump"}"#.to_owned(), Code::EXISTS),
        ("add", r#"{"id":"pump","tenant":"other"}"#.to_owned(), Code::FORBIDDEN),
        ("add", add("a b"), Code::INVALID),
        ("add", r#"{"id":"x","key_hash":"12"}"#.to_owned(), Code::INVALID),
        ("add", r#"{"id":"x","role":"edge"}"#.to_owned(), Code::INVALID),
        ("add", r#"{"devcie":"x"}"#.to_owned(), Code::INVALID),
        ("add", "{".to_owned(), Code::INVALID),
        ("revoke", r#"{"id":"x"}"#.to_owned(), Code::NOT_FOUND),
        ("show", r#"{"id":"x","ids":[]}"#.to_owned(), Code::INVALID),
        ("kick", r#"{"id":"x","tenant":"other"}"#.to_owned(), Code::FORBIDDEN),
        ("dance", String::new(), Code::NOT_FOUND),
    ] {
        assert_eq!(operator.reply("$device", method, &payload).await.0, code, "{method} {payload}");
    }
    // Of who is not registered a worker says so by saying nothing of it: another may know a session.
    let (code, said) = operator.reply("$device", "show", r#"{"id":"x"}"#).await;
    assert!(code == OK && said.get("device").is_none() && said["sessions"][0].is_null(), "{said}");
    // The same again is answered as the first was.
    assert_eq!(operator.reply("$device", "add", &add("pump")).await.0, OK);
    assert_eq!(worker.status().end, 2);
    // Who was revoked may be added again, and who is there replaced.
    operator.reply("$device", "revoke", r#"{"id":"pump"}"#).await;
    assert_eq!(operator.reply("$device", "add", &add("pump")).await.0, OK);
    let replace = json!({ "id": "pump", "replace": true, "expires_ms": 5 }).to_string();
    let (code, said) = operator.reply("$device", "add", &replace).await;
    assert_eq!((code, &said["state"], &said["key"]), (OK, &json!("expired"), &json!(false)));
}

#[tokio::test]
async fn who_follows_hears_all_then_each_change_and_its_confirmation_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut operator = Client::new(&worker, "op", 1);
    operator.reply("$device", "add", &add("pump-1")).await;
    let mut follower = worker.follow_registry("edge-1").unwrap();
    let copy = follower.next().await;
    assert_eq!((copy.whole, copy.devices.len()), (true, 1));
    assert!(follower.poll().is_none());
    follower.confirm(copy.upto);
    operator.call(1, "$device", "revoke", r#"{"id":"pump-1"}"#);
    let copy = follower.next().await;
    assert_eq!((copy.whole, copy.devices.len(), copy.devices[0].revoked), (false, 1, true));
    // It is durable, but the edge has not kept it.
    assert_eq!(operator.poll().0, []);
    follower.confirm(copy.upto);
    let told = operator.told(1).await;
    let Some(Told::Reply { payload, .. }) = told.first() else { panic!("{told:?}") };
    let said: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!((&said["confirmed"], &said["missing"]), (&json!(["edge-1"]), &json!([])));
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_confirm_is_named_after_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let _follower = worker.follow_registry("edge-1").unwrap();
    let mut operator = Client::new(&worker, "op", 1);
    operator.call(1, "$device", "add", &add("pump-1"));
    // The disk's time is real, the clock's is not: it jumps as soon as nobody has anything else to wait for.
    worker.durable().wait_for(|durable| durable.end.get() >= 2).await.unwrap();
    let told = operator.told(1).await;
    let Some(Told::Reply { code, payload, .. }) = told.first() else { panic!("{told:?}") };
    let said: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!((*code, &said["confirmed"], &said["missing"]), (OK, &json!([]), &json!(["edge-1"])));
}

#[tokio::test]
async fn a_worker_without_the_slot_has_no_registry() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { slots: [0; 32], ..config() };
    let worker = Worker::open(config, std::sync::Arc::new(log(folder.path())), None).unwrap();
    assert!(worker.follow_registry("edge").is_none());
    let mut operator = Client::new(&worker, "op", 1);
    assert_eq!(operator.reply("$device", "add", &add("x")).await.0, Code::NOT_FOUND);
}

#[tokio::test]
async fn status_says_how_the_worker_is() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    client.event(0, 1, b"12345");
    client.acked(0, 1).await;
    let (code, said) = client.reply("$status", "get", "").await;
    assert_eq!(code, OK);
    for (field, want) in [
        ("name", json!("w")),
        ("slots", json!(256)),
        ("healthy", json!(true)),
        ("start", json!(1)),
        ("end", json!(2)),
        ("events", json!(1)),
        ("bytes", json!(5)),
        ("sessions", json!(1)),
        ("streams", json!(1)),
    ] {
        assert_eq!(said[field], want, "{field}");
    }
    client.call(9, "nobody", "x", "");
    let told = client.told(1).await;
    assert!(matches!(told[..], [Told::Fault { code: Code::NOT_FOUND, .. }]), "{told:?}");
}
