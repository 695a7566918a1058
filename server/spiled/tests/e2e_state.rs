//! State, inbox and traces behind an edge with two workers, the real binaries, one of which is killed: what was acknowledged is
//! there again when it is back, and what was done does not come again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]
#![allow(dead_code, reason = "what is shared is used in part")]

mod e2e;

use std::time::Duration;

use e2e::split::{Running, Split};
use rustix::process::Signal;
use serde_json::{Value, json};
use spile_client::{Client, Consume, Error, Event, Fresh, Listing, Settled};
use spile_protocol::{
    code::Code,
    id::{Slot, Version},
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn patient<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

async fn client(split: &Split, running: &Running) -> Client {
    let folder = split.of("operator");
    let connect = Client::builder()
        .url(&format!("spile://{}", running["edge-e1"].edge()))
        .ca(folder.join("ca.pem"))
        .cert(folder.join("operator.pem"))
        .client_key(folder.join("operator.key"))
        .connect();
    patient(connect).await.unwrap()
}

fn home(key: &str) -> &'static str {
    if Slot::of("main", key).0 < 128 { "worker-a" } else { "worker-b" }
}

/// Keys on each worker, in the order of their names.
fn keys() -> Vec<String> {
    let of = |node: &str| -> Vec<String> {
        (0..).map(|n| format!("k{n}")).filter(|key| home(key) == node).take(3).collect()
    };
    let mut keys = [of("worker-a"), of("worker-b")].concat();
    keys.sort();
    keys
}

async fn put(client: &Client, key: &str, topic: &str, payload: &str) -> Version {
    let event = Event::new(topic.to_owned(), payload.to_owned()).key(key.to_owned());
    patient(client.publish(event)).await.unwrap().version.unwrap()
}

/// Keys of a listing, and whether something is missing.
async fn listed(client: &Client) -> (Vec<String>, bool) {
    let mut all = client.list(Listing::State, "k");
    let mut keys = Vec::new();
    while let Some(found) = patient(all.next()).await {
        keys.push(found.unwrap().key);
    }
    (keys, all.is_partial())
}

async fn call(client: &Client, method: (&str, &str), request: Value) -> Result<Value, Error> {
    let reply = client.call(method.0, method.1, request.to_string(), PATIENCE).await?;
    Ok(serde_json::from_slice(&reply.payload).unwrap())
}

/// Asks until it is answered: a link that was cut is up again after a moment.
async fn until<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    patient(asking).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_one_whichever_worker_has_it_and_there_again_after_a_kill() {
    let (split, mut running) = Split::started();
    let client = client(&split, &running).await;
    let keys = keys();
    for key in &keys {
        put(&client, key, "state/mode", key).await;
    }
    assert_eq!(listed(&client).await, (keys.clone(), false));
    // Waiting goes over a link, too.
    let newer = Fresh { newer_than: Version(1), wait: PATIENCE, ..Fresh::default() };
    let (found, version) = tokio::join!(
        patient(client.get_state(&keys[0], "state/mode", newer)),
        put(&client, &keys[0], "state/mode", "later"),
    );
    let found = found.unwrap().unwrap();
    assert_eq!((found.version, &found.payload[..]), (version, &b"later"[..]));
    let late = Fresh { at_least: Version(9), wait: Duration::from_millis(1), ..Fresh::default() };
    let error = patient(client.get_state(&keys[0], "state/mode", late)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::TIMED_OUT));
    running.remove("worker-b").unwrap().end(Signal::KILL);
    let theirs: Vec<String> = keys.iter().filter(|key| home(key) == "worker-a").cloned().collect();
    let partial = until(async || Some(listed(&client).await).filter(|(_, partial)| *partial)).await;
    assert_eq!(partial.0, theirs);
    running.insert("worker-b".to_owned(), split.start("worker", "worker-b"));
    let whole = until(async || Some(listed(&client).await).filter(|(_, partial)| !partial)).await;
    assert_eq!(whole.0, keys);
    for key in keys.iter().filter(|key| home(key) == "worker-b") {
        let get = || client.get_state(key, "state/mode", Fresh::default());
        let found = until(async || get().await.ok().flatten()).await;
        assert!(found.payload == key.as_str() || found.payload == "later");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_goes_on_behind_what_was_done_when_its_worker_was_killed() {
    let (split, mut running) = Split::started();
    let client = client(&split, &running).await;
    let me = client.session().principal.to_string();
    for payload in ["one", "two", "three"] {
        put(&client, &me, "inbox/do", payload).await;
    }
    let mut inbox = patient(client.inbox(Consume::default())).await.unwrap();
    let mut first = patient(inbox.next()).await.unwrap().unwrap();
    assert_eq!(first.first().unwrap().payload, "one");
    assert_eq!(patient(first.done_first(1)).await.unwrap(), Settled::Durable);
    let node = home(&me);
    running.remove(node).unwrap().end(Signal::KILL);
    running.insert(node.to_owned(), split.start("worker", node));
    drop(first);
    drop(inbox);
    let inbox = async || patient(client.inbox(Consume::default())).await.ok();
    let mut inbox = until(inbox).await;
    let mut left = Vec::new();
    while left.len() < 2 {
        let delivery = patient(inbox.next()).await.unwrap().unwrap();
        left.extend(delivery.events().map(|event| event.payload));
        assert_eq!(patient(delivery.done()).await.unwrap(), Settled::Durable);
    }
    assert_eq!(left, ["two", "three"]);
    // A newer reader takes over, and finds nothing left.
    let mut newer = patient(client.inbox(Consume::default())).await.unwrap();
    let over = patient(inbox.next()).await.unwrap().unwrap_err();
    assert_eq!(over.code(), Some(Code::REPLACED));
    put(&client, &me, "inbox/do", "four").await;
    let last = patient(newer.next()).await.unwrap().unwrap();
    assert_eq!(last.first().unwrap().payload, "four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_put_together_from_all_workers() {
    let (split, running) = Split::started();
    let client = client(&split, &running).await;
    let trace = spile_client::Trace { id: [0xab; 16], span: [1; 8], flags: 1 };
    let keys = keys();
    for key in &keys {
        let event = Event::new("state/mode", "x").key(key.as_str()).trace(trace);
        patient(client.publish(event)).await.unwrap();
    }
    let request = json!({ "id": "ab".repeat(16) });
    let answer = patient(call(&client, ("$trace", "get"), request)).await.unwrap();
    let steps = answer["steps"].as_array().unwrap();
    let stored = |step: &&Value| step["what"].as_str().unwrap().starts_with("stored at");
    let places: Vec<_> = steps.iter().filter(stored).map(|step| &step["where"]).collect();
    assert_eq!(places.len(), keys.len());
    for worker in ["a", "b"] {
        assert_eq!(places.iter().filter(|place| ***place == worker).count(), 3);
    }
    assert!(answer.get("partial").is_none_or(|partial| *partial == false));
    let nobody = patient(call(&client, ("$trace", "get"), json!({ "id": "cd".repeat(16) }))).await;
    assert_eq!(nobody.unwrap_err().code(), Some(Code::NOT_FOUND));
}
