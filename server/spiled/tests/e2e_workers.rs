//! One edge and two workers, the real binaries: what concerns both, and what goes on while one is away.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "a test has a clock, fails by panicking, and shows what it did not expect"
)]

mod e2e;

use std::collections::HashMap;
use std::net::SocketAddr;

use e2e::split::{Running, Split, home};
use e2e::{Raw, acked, bind, event, tls};
use rustix::process::Signal;
use serde_json::{Value, json};
use spile_protocol::{
    code::Code,
    id::{RequestId, SubscriptionId},
    message::{
        Body, From, Message, Outcome, Settle, Source, Subscribe,
        request::{self, Listing},
    },
    session::key,
};

const KEY: [u8; 32] = [9; 32];

fn edge(running: &Running) -> SocketAddr {
    running["edge-e1"].edge()
}

/// Asks until the answer is as it is wanted: a link that was cut is up again after a moment.
fn until<T>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let begun = std::time::Instant::now();
    loop {
        let answer = ask();
        if wanted(&answer) || begun.elapsed().as_secs() > 20 {
            assert!(wanted(&answer), "it did not come");
            return answer;
        }
        std::thread::yield_now();
    }
}

/// Keys on `worker-a` and on `worker-b`.
fn keys() -> [String; 2] {
    ["worker-a", "worker-b"]
        .map(|node| (0..).map(|n| format!("k{n}")).find(|key| home(key) == node).unwrap())
}

#[test]
fn the_status_names_every_worker_and_is_partial_while_one_is_away() {
    let (split, mut running) = Split::started();
    let mut operator = operator(&split, &running, 1);
    let mut ask = || operator.call("$status", "get", &Value::Null).unwrap();
    let both = until(&mut ask, |status| {
        let looked = |worker: &Value| worker.get("disk_free_bytes").is_some();
        status.get("partial").is_none() && status["workers"].as_array().unwrap().iter().all(looked)
    });
    assert_eq!(both["healthy"], true, "{both}");
    assert_eq!(both["edge"]["name"], "e1");
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        assert_eq!(both["workers"][at]["name"], name);
        assert_eq!(both["workers"][at]["reachable"], true);
        assert_eq!(both["workers"][at]["slots"], 128);
        for field in ["end", "disk_free_bytes", "disk_total_bytes"] {
            assert!(both["workers"][at][field].as_u64() > Some(0), "{field}: {both}");
        }
    }
    // What was stored was synced, and that took its time.
    let [a, _] = keys();
    publish(&split, &running, &a, 1);
    let synced = ask();
    let times = ["sync_p50_ms", "sync_p99_ms"].map(|field| synced["workers"][0][field].as_f64());
    assert!(times[0] > Some(0.0) && times[0] <= times[1], "{synced}");
    running.remove("worker-b").unwrap().end(Signal::KILL);
    let one = until(&mut ask, |status| status["partial"] == true);
    assert_eq!((&one["healthy"], &one["workers"][0]["reachable"]), (&json!(false), &json!(true)));
    assert_eq!(one["workers"][1]["name"], "b");
    assert_eq!(one["workers"][1]["reachable"], false);
    assert!(one["wrong"][0].as_str().unwrap().contains("worker b"), "{one}");
    running.insert("worker-b".to_owned(), split.start("worker", "worker-b"));
    until(&mut ask, |status| status["healthy"] == true);
}

fn subscribe(from: From<'_>) -> Message<'_> {
    Message::Subscribe(Subscribe {
        subscription: SubscriptionId(0),
        source: Source::Filter { filter: "t/#", key: None, from },
        events: 1 << 10,
        bytes: 1 << 20,
        live: true,
    })
}

/// Publishes a key's next event in a session of its own, until it is acknowledged; its payload is its number.
fn publish(split: &Split, running: &Running, key: &str, number: u64) {
    let once = || {
        let mut raw = Raw::hello(edge(running), &split.operator(), [8; 8]).ok()?;
        if raw.open(1, Some(key), number).ok()? >= number {
            return Some(());
        }
        raw.send(&[bind(1, 1, "t/x"), event(1, number.to_string().as_bytes())]).ok()?;
        raw.next(|message| acked(message).map(drop)).ok()?
    };
    until(once, Option::is_some);
}

/// A session of the operator's, once the edge knows who may come.
fn operator(split: &Split, running: &Running, run: u8) -> Raw {
    until(|| Raw::hello(edge(running), &split.operator(), [run; 8]), Result::is_ok).unwrap()
}

#[test]
fn a_subscription_goes_on_where_it_was_when_a_worker_is_back() {
    let (split, mut running) = Split::started();
    let mut reader = operator(&split, &running, 2);
    let [a, b] = keys();
    publish(&split, &running, &a, 1);
    publish(&split, &running, &b, 1);
    reader.send(&[subscribe(From::Start)]).unwrap();
    let mut last: HashMap<String, u64> = HashMap::new();
    let (mut key, mut deliveries) = (String::new(), 0_u64);
    let mut hear = |reader: &mut Raw, name: &str, number: u64| {
        while last.get(name).copied().unwrap_or_default() < number {
            let delivered = reader
                .next(|message| match message {
                    Message::Deliver(deliver) => {
                        if let Some(named) = deliver.key {
                            named.clone_into(&mut key);
                        }
                        let known = last.entry(key.clone()).or_default();
                        for payload in deliver.lengths.split(deliver.payload) {
                            *known += 1;
                            let text = known.to_string();
                            assert_eq!(std::str::from_utf8(payload).unwrap(), text, "{key}");
                        }
                        true
                    }
                    Message::Credit(_) => false,
                    other => panic!("{other:?}"),
                })
                .unwrap();
            if delivered {
                deliveries += 1;
                let (subscription, outcome) = (SubscriptionId(0), Outcome::Seen);
                let seen =
                    Settle { subscription, delivery: deliveries, outcome, events: 0, reason: "" };
                reader.send(&[Message::Settle(seen)]).unwrap();
            }
        }
    };
    hear(&mut reader, &a, 1);
    hear(&mut reader, &b, 1);
    for round in 2..5 {
        running.remove("worker-b").unwrap().end(Signal::KILL);
        // The others' events come meanwhile.
        publish(&split, &running, &a, round);
        hear(&mut reader, &a, round);
        running.insert("worker-b".to_owned(), split.start("worker", "worker-b"));
        publish(&split, &running, &b, round);
        hear(&mut reader, &b, round);
    }
}

/// A page of the state of keys that begin with `k`: the keys, the cursor, and whether it is all there is.
fn page(raw: &mut Raw, after: &str, limit: u32) -> Result<(Vec<String>, String, bool), String> {
    let (request, listing, prefix) = (RequestId(5), Listing::State, "k");
    let list = request::List { request, listing, prefix, after, limit };
    raw.send(&[Message::List(list)]).map_err(|_| "closed")?;
    let mut keys = Vec::new();
    loop {
        let end = raw
            .next(|message| match message {
                Message::Value(value) => {
                    if !value.fields.absent {
                        keys.push(value.fields.key.to_owned());
                    }
                    let end = (value.fields.cursor.to_owned(), !value.fields.partial);
                    Ok((!value.fields.more).then_some(end))
                }
                other => Err(format!("{other:?}")),
            })
            .map_err(|_gone| "closed")??;
        if let Some((cursor, whole)) = end {
            return Ok((keys, cursor, whole));
        }
    }
}

#[test]
fn a_listing_is_one_whichever_worker_has_what_of_it() {
    let (split, mut running) = Split::started();
    let mut publisher = operator(&split, &running, 1);
    let mut reader = operator(&split, &running, 2);
    let all: Vec<String> = (10..50).map(|n| format!("k{n}")).collect();
    let mut lane = 0;
    for key in &all {
        lane += 1;
        until(|| publisher.open(lane, Some(key), 1), Result::is_ok).unwrap();
        publisher.send(&[bind(lane, lane, "state/x"), event(lane, b"21.5")]).unwrap();
        assert!(publisher.next(|message| acked(message).is_some()).unwrap());
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let (keys, next, whole) = page(&mut reader, &cursor, 7).unwrap();
        assert!(whole && keys.len() <= 7, "{keys:?}");
        found.extend(keys);
        if next.is_empty() {
            break;
        }
        cursor = next;
    }
    assert_eq!(found, all);
    drop(publisher);
    running.remove("worker-b").unwrap().end(Signal::KILL);
    let (keys, cursor, whole) =
        until(|| page(&mut reader, "", 100).unwrap(), |(_, _, whole)| !whole);
    let left: Vec<_> = all.into_iter().filter(|key| home(key) == "worker-a").collect();
    assert_eq!((keys, cursor.as_str(), whole), (left, "", false));
}

fn add(operator: &mut Raw, device: &str) -> Result<Value, String> {
    let hash: String = key::hash(&KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    operator.call("$device", "add", &json!({"id": device, "key_hash": hash}))
}

#[test]
fn a_revoked_device_is_cut_over_a_link_and_the_operator_hears_which_edges_know() {
    let (split, running) = Split::started();
    let mut operator = operator(&split, &running, 1);
    let added = until(|| add(&mut operator, "pump-7"), Result::is_ok).unwrap();
    assert_eq!((&added["confirmed"], &added["missing"]), (&json!(["e1"]), &json!([])), "{added}");
    let plain = tls(&split.of("operator"), None);
    let (mut device, heard) =
        Raw::with_key(edge(&running), &plain, ("pump-7", &KEY), [3; 8]).unwrap();
    assert_eq!(heard, "welcome pump-7");
    let revoked = operator.call("$device", "revoke", &json!({"id": "pump-7"})).unwrap();
    assert_eq!(revoked["confirmed"], json!(["e1"]), "{revoked}");
    let said = device.shown();
    assert!(said.contains("revoked"), "{said}");
    let (_, heard) = Raw::with_key(edge(&running), &plain, ("pump-7", &KEY), [4; 8]).unwrap();
    assert_eq!(heard, "fault revoked");
}

#[test]
fn an_edge_that_restarts_lets_in_whom_it_knew_while_the_registrys_worker_is_away() {
    let (split, mut running) = Split::started();
    let mut operator = operator(&split, &running, 1);
    until(|| add(&mut operator, "pump-7"), Result::is_ok).unwrap();
    until(|| add(&mut operator, "pump-8"), Result::is_ok).unwrap();
    operator.call("$device", "revoke", &json!({"id": "pump-8"})).unwrap();
    running.remove(home("$registry")).unwrap().end(Signal::KILL);
    let restart = |running: &mut Running| {
        running.remove("edge-e1").unwrap().end(Signal::KILL);
        running.insert("edge-e1".to_owned(), split.start("edge", "edge-e1"));
    };
    restart(&mut running);
    let plain = tls(&split.of("operator"), None);
    let come = |running: &Running, device: &str| {
        Raw::with_key(edge(running), &plain, (device, &KEY), [3; 8]).unwrap().1
    };
    // Confirmed was synced: what was revoked stays so.
    assert_eq!(come(&running, "pump-7"), "welcome pump-7");
    assert_eq!(come(&running, "pump-8"), "fault revoked");
    // A damaged copy is none, and that is said.
    let file = split.of("edge-e1").join("data/registry");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    restart(&mut running);
    assert_eq!(come(&running, "pump-7"), "fault unavailable");
    assert!(running["edge-e1"].get("/health").contains("damaged"));
    let home = home("$registry");
    running.insert(home.to_owned(), split.start("worker", home));
    until(|| come(&running, "pump-7"), |heard| heard == "welcome pump-7");
}

/// Answers calls with who asked, until it is dropped.
fn serve(raw: &mut Raw, service: &str) {
    let serve = request::Serve { request: RequestId(3), service, window: 4 };
    raw.send(&[Message::Serve(serve)]).unwrap();
    let answered = raw.next(|message| match message {
        Message::Reply(reply) => reply.fields.code.0,
        other => panic!("{other:?}"),
    });
    assert_eq!(answered, Ok(0));
}

/// Answers one call: its caller as a JSON string.
fn answer(raw: &mut Raw) {
    let (request, caller) = raw
        .next(|message| match message {
            Message::Call(call) => (call.fields.request, call.fields.caller.to_owned()),
            other => panic!("{other:?}"),
        })
        .unwrap();
    let (code, more, content_type, detail) = (Code(0), false, "application/json", "");
    let fields = request::Reply { request, code, more, content_type, detail };
    let payload = json!(caller).to_string().into_bytes();
    raw.send(&[Message::Reply(Body { fields, payload: &payload })]).unwrap();
}

#[test]
fn a_service_on_another_worker_is_called_and_is_there_again_when_that_is_back() {
    let (split, mut running) = Split::started();
    let service = (0..).map(|n| format!("svc{n}")).find(|name| home(name) == "worker-b").unwrap();
    let mut server = operator(&split, &running, 2);
    let mut caller = operator(&split, &running, 1);
    until(|| caller.call(&service, "who", &Value::Null), |got| got == &Err("not-found".to_owned()))
        .unwrap_err();
    serve(&mut server, &service);
    let mut ask = |running: &Running| {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                // Until its worker is back, and has heard again of who serves.
                until(
                    || {
                        let mut raw = operator(&split, running, 4);
                        raw.call(&service, "who", &Value::Null)
                    },
                    Result::is_ok,
                )
            });
            answer(&mut server);
            asking.join().unwrap()
        })
    };
    assert_eq!(ask(&running), Ok(json!("operator/operator")));
    running.remove("worker-b").unwrap().end(Signal::KILL);
    running.insert("worker-b".to_owned(), split.start("worker", "worker-b"));
    assert_eq!(ask(&running), Ok(json!("operator/operator")));
    let listed = caller.call("$service", "ls", &json!({})).unwrap();
    assert_eq!(listed["services"][0]["service"], json!(service), "{listed}");
}
