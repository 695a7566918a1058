//! The read cache of edges, the real binaries: what was told is told again without asking the worker, until its worker says
//! that it changed, through whichever edge; and never longer than its age, whatever becomes of workers and links.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking, and has a clock"
)]
#![allow(dead_code, reason = "what is shared is used in part")]

mod e2e;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::split::{Running, Split};
use e2e::{Server, all_in_one};
use rustix::process::Signal;
use serde_json::Value;
use spile_client::{Client, Event, Fresh};
use spile_protocol::{
    code::Code,
    id::{Slot, Version},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// So short that its end is waited for.
const AGE: Duration = Duration::from_secs(4);
/// So long that only a worker's word ends it within a test's patience.
const LONG: &str = "[state]\ncache_max_age = \"60s\"";
const TOPIC: &str = "state/mode";

async fn patient<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

async fn client(edge: SocketAddr, credentials: &Path) -> Client {
    let connect = Client::builder()
        .url(&format!("spile://{edge}"))
        .ca(credentials.join("ca.pem"))
        .cert(credentials.join("operator.pem"))
        .client_key(credentials.join("operator.key"))
        .connect();
    patient(connect).await.unwrap()
}

async fn at(split: &Split, running: &Running, edge: &str) -> Client {
    client(running[edge].edge(), &split.of("operator")).await
}

/// A key on `worker-a`.
fn key() -> String {
    (0..).map(|n| format!("k{n}")).find(|key| Slot::of("main", key).0 < 128).unwrap()
}

async fn put(client: &Client, key: &str, payload: &str) -> Version {
    let event = Event::new(TOPIC, payload.to_owned()).key(key.to_owned());
    patient(client.publish(event)).await.unwrap().version.unwrap()
}

async fn get(client: &Client, key: &str) -> Result<String, Code> {
    match patient(client.get_state(key, TOPIC, Fresh::default())).await {
        Ok(found) => Ok(String::from_utf8(found.unwrap().payload.to_vec()).unwrap()),
        Err(error) => Err(error.code().unwrap()),
    }
}

/// Asks until it is answered so.
async fn until(client: &Client, key: &str, want: Result<&str, Code>) {
    let asking = async {
        while get(client, key).await.as_deref().map_err(|code| *code) != want {
            tokio::task::yield_now().await;
        }
    };
    patient(asking).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_get_asks_no_worker_and_a_change_through_another_edge_is_heard() {
    let (split, running) = Split::with_edges(&["e1", "e2"], long);
    let reader = at(&split, &running, "edge-e1").await;
    let writer = at(&split, &running, "edge-e2").await;
    let key = key();
    let asked = || running["worker-a"].metric("spile_worker_found_total");
    let cached = |what: &str| running["edge-e1"].metric(&format!("spile_edge_cache_{what}"));
    for round in 1..=20 {
        let payload = format!("mode {round}");
        put(&writer, &key, &payload).await;
        // Only the worker's word ends what is kept for a minute.
        until(&reader, &key, Ok(&payload)).await;
        let (before, hits) = (asked(), cached("hits_total"));
        assert_eq!(get(&reader, &key).await, Ok(payload));
        assert_eq!((asked(), cached("hits_total")), (before, hits + 1));
    }
    assert_eq!((cached("changed_total"), cached("entries")), (19, 1));
    // A version that is named is always the worker's word.
    let fresh = Fresh { at_least: Version(20), ..Fresh::default() };
    for _ in 0..3 {
        let before = asked();
        let found = patient(reader.get_state(&key, TOPIC, fresh)).await.unwrap().unwrap();
        assert_eq!((found.version, asked()), (Version(20), before + 1));
    }
    // What was removed is gone, and absence is asked for each time.
    let event = Event::new(TOPIC, "").key(key.clone());
    patient(writer.publish(event)).await.unwrap();
    let gone = async || patient(reader.get_state(&key, TOPIC, Fresh::default())).await.unwrap();
    let begun = Instant::now();
    while gone().await.is_some() {
        assert!(begun.elapsed() < PATIENCE);
    }
    let missed = || running["worker-a"].metric("spile_worker_missed_total");
    let before = missed();
    assert!(gone().await.is_none());
    assert_eq!((missed(), cached("entries")), (before + 1, 0));
    let status = patient(reader.call("$status", "get", "", PATIENCE)).await.unwrap();
    let status: Value = serde_json::from_slice(&status.payload).unwrap();
    let edge = &status["edge"];
    let [hits, misses] = ["cache_hits", "cache_misses"].map(|field| edge[field].as_f64().unwrap());
    let rate = edge["cache_hit_rate"].as_f64().unwrap();
    assert!(hits >= 20.0 && (rate - hits / (hits + misses)).abs() < 0.001, "{status}");
}

fn long(split: &Split, node: &str) {
    if node.starts_with("edge") {
        split.add(node, LONG);
    }
}

/// Old answers after `filled`, until there is a fault: none of them was asked for when the age was over.
async fn ages(reader: &Client, key: &str, old: &str, filled: Instant) -> usize {
    let mut answers = 0;
    loop {
        let begun = Instant::now();
        match get(reader, key).await {
            Ok(found) => {
                assert_eq!(found, old);
                assert!(begun < filled + AGE, "told {:?} after it was asked for", begun - filled);
                answers += 1;
            }
            Err(code) => {
                assert_eq!(code, Code::UNAVAILABLE);
                return answers;
            }
        }
        tokio::task::yield_now().await;
    }
}

fn short(split: &Split, node: &str) {
    if !node.starts_with("edge") {
        return;
    }
    split.add(node, &format!("[state]\ncache_max_age = \"{}s\"", AGE.as_secs()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_worker_is_away_the_old_value_is_told_until_its_age_is_over() {
    let (split, mut running) = Split::with_edges(&["e1"], short);
    let reader = at(&split, &running, "edge-e1").await;
    let writer = at(&split, &running, "edge-e1").await;
    let key = key();
    put(&writer, &key, "one").await;
    until(&reader, &key, Ok("one")).await;
    running.remove("worker-a").unwrap().end(Signal::KILL);
    assert!(ages(&reader, &key, "one", Instant::now()).await > 0);
    running.insert("worker-a".to_owned(), split.start("worker", "worker-a"));
    until(&reader, &key, Ok("one")).await;
    put(&writer, &key, "two").await;
    until(&reader, &key, Ok("two")).await;
}

/// A wire that can be cut and mended.
struct Wire {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let wire = Self { address, cut: Arc::clone(&cut), ends: Arc::clone(&ends) };
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(far) else { continue };
                let mut ends = ends.lock().unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        _ = std::io::copy(&mut from, &mut to);
                        _ = to.shutdown(Shutdown::Both);
                    });
                }
                ends.extend([near, far]);
            }
        });
        wire
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for end in self.ends.lock().unwrap().drain(..) {
            _ = end.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_cut_off_tells_nothing_older_than_the_age_and_forgets_when_it_is_back() {
    let wire = Mutex::new(None);
    let (split, running) = Split::with_edges(&["e1", "e2"], |split, node| {
        long(split, node);
        if node == "edge-e1" {
            let text = std::fs::read_to_string(split.of(node).join("spiled.toml")).unwrap();
            let named = text.split_once("name = \"a\"").unwrap().1;
            let address = named.split_once("address = \"").unwrap().1.split('"').next().unwrap();
            let to = Wire::to(address.parse().unwrap());
            split.edit(node, address, &to.address.to_string());
            split.edit(node, LONG, &format!("[state]\ncache_max_age = \"{}s\"", AGE.as_secs()));
            *wire.lock().unwrap() = Some(to);
        }
    });
    let wire = wire.into_inner().unwrap().unwrap();
    let reader = at(&split, &running, "edge-e1").await;
    let writer = at(&split, &running, "edge-e2").await;
    let key = key();
    for round in 0..2 {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        put(&writer, &key, &old).await;
        until(&reader, &key, Ok(&old)).await;
        wire.cut();
        let filled = Instant::now();
        assert_eq!(get(&reader, &key).await.as_ref(), Ok(&old));
        put(&writer, &key, &new).await;
        ages(&reader, &key, &old, filled).await;
        wire.mend();
        until(&reader, &key, Ok(&new)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_one_process_a_change_is_heard_and_a_session_never_reads_its_own_key_old() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = all_in_one(&data);
    command.env("SPILED_STATE_CACHE_MAX_AGE", "60s");
    let server = Server::start(&mut command, &folder.path().join("log"));
    let reader = client(server.edge(), &data.join("dev")).await;
    let writer = client(server.edge(), &data.join("dev")).await;
    for round in 0..50 {
        let payload = format!("mode {round}");
        put(&writer, "k", &payload).await;
        assert_eq!(get(&writer, "k").await.as_ref(), Ok(&payload), "its own");
        until(&reader, "k", Ok(&payload)).await;
        let hits = || server.metric("spile_edge_cache_hits_total");
        let before = hits();
        let told = async {
            // An answer that was on its way when the change was told is not kept: then the next one is.
            while hits() == before {
                assert_eq!(get(&reader, "k").await.as_ref(), Ok(&payload));
            }
        };
        patient(told).await;
    }
}

/// Puts it with a time to live, and reads it until an edge has told it by itself, unless its time is over first.
async fn told_twice(
    reader: &Client,
    writer: &Client,
    key: &str,
    ttl: Duration,
    edge: &Server,
) -> bool {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap();
    let event = Event::new(TOPIC, "ends").key(key.to_owned()).ttl_ms(ttl_ms);
    patient(writer.publish(event)).await.unwrap();
    let hits = || edge.metric("spile_edge_cache_hits_total");
    let before = hits();
    while hits() == before {
        let found = patient(reader.get_state(key, TOPIC, Fresh::default())).await.unwrap();
        if found.is_none_or(|found| found.payload != "ends") {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_not_told_past_its_end_however_long_it_may_be_kept() {
    let (split, mut running) = Split::with_edges(&["e1", "e2"], long);
    let reader = at(&split, &running, "edge-e1").await;
    let writer = at(&split, &running, "edge-e2").await;
    let key = key();
    let mut ttl = Duration::from_millis(300);
    // On a busy machine it may end before it was read twice.
    while !told_twice(&reader, &writer, &key, ttl, &running["edge-e1"]).await {
        ttl *= 2;
    }
    // The edge may keep it for a minute, and the test has no patience for that.
    let gone = async {
        while patient(reader.get_state(&key, TOPIC, Fresh::default())).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    patient(gone).await;
    // With the worker away too: then nobody knows.
    while !told_twice(&reader, &writer, &key, ttl, &running["edge-e1"]).await {
        ttl *= 2;
    }
    running.remove("worker-a").unwrap().end(Signal::KILL);
    until(&reader, &key, Err(Code::UNAVAILABLE)).await;
}
