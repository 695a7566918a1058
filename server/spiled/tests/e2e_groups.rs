//! kill -9 of the server while groups settle and while dead letters are replayed, and of consumers while they hold deliveries:
//! no event is lost, each key keeps its order, and nothing comes again whose settlement was answered.
//!
//! `SPILE_KILLS` says how often (5; 10 while letters are replayed), `SPILE_SEED` repeats the moments and decisions of an earlier run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

#[path = "commands/spile.rs"]
mod commands;
mod e2e;
mod replayed;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commands::{run, spile};
use e2e::port::Port;
use e2e::{Server, all_in_one};
use replayed::Replayed;
use rustix::process::Signal;
use serde_json::{Value, json};
use spile_client::{Client, Consume, Event, GroupDelivery, Settled};
use tempfile::TempDir;
use tokio::task::JoinSet;

const KEYS: u64 = 12;
const MEMBERS: u64 = 4;
/// Whatever takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Events of each key: as many as last until the last kill.
fn each() -> u64 {
    24 * number("SPILE_KILLS", 5)
}

fn seed() -> u64 {
    let seed = number("SPILE_SEED", u64::from(std::process::id()) << 20 | 1);
    println!("SPILE_SEED={seed}");
    seed
}

/// xorshift: the moments and decisions of a run, from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// What the members know together.
#[derive(Default)]
struct Ledger {
    keys: HashMap<String, Known>,
    too_late: u64,
    unknown: u64,
}

/// Of one key: versions through which settling was answered, and through which it was asked.
#[derive(Default)]
struct Known {
    answered: u64,
    asked: u64,
    /// The versions whose settlement was answered.
    done: HashSet<u64>,
}

impl Ledger {
    fn known(&mut self, key: &str) -> &mut Known {
        self.keys.entry(key.to_owned()).or_default()
    }

    fn delivered(&mut self, delivery: &GroupDelivery) {
        let (key, version) = (delivery.key.to_string(), delivery.version.0);
        let Known { answered, asked, .. } = *self.known(&key);
        assert!(version > answered, "{key} {version} comes again, {answered} was answered");
        assert!(version <= asked + 1, "{key} {version} comes, {asked} was the last that was asked");
        for (at, payload) in (version..).zip(delivery.payloads()) {
            assert_eq!(payload, at.to_string().as_bytes(), "{key} {at}");
        }
    }

    fn all_asked(&self) -> bool {
        let whole = |key: u64| self.keys.get(&format!("k{key}")).is_some_and(|k| k.asked == each());
        (0..KEYS).all(whole)
    }
}

fn operator(server: &Server, data: &Path) -> spile_client::Builder {
    let dev = data.join("dev");
    Client::builder()
        .url(&format!("spile://{}", server.edge()))
        .ca(dev.join("ca.pem"))
        .cert(dev.join("operator.pem"))
        .client_key(dev.join("operator.key"))
}

async fn ask(client: &Client, service: &str, method: &str, request: Value) -> Option<Value> {
    let payload = request.to_string().into_bytes();
    let reply = client.call(service, method, payload, Duration::from_secs(5)).await.ok()?;
    Some(serde_json::from_slice(&reply.payload).unwrap())
}

/// Takes deliveries and settles them, whole, in parts, or for a retry, until it is ended.
async fn member(client: Client, ledger: Arc<Mutex<Ledger>>, mut dice: Dice) {
    let options = Consume::default().batch(8, 1 << 20).window(32, 1 << 20);
    let mut deliveries = client.consume("g", options).await.unwrap();
    while let Some(delivery) = deliveries.next().await {
        let mut delivery = delivery.unwrap();
        ledger.lock().unwrap().delivered(&delivery);
        let key = delivery.key.to_string();
        while !delivery.is_empty() {
            if dice.below(10) == 0 {
                // It comes again; that it was asked for changes nothing of what is done.
                let _settled = delivery.retry(None, "the dice").await;
                break;
            }
            let count = usize::try_from(dice.below(3)).unwrap() + 1;
            let first = delivery.version.0;
            let through = first + u64::try_from(count.min(delivery.len())).unwrap() - 1;
            {
                let mut ledger = ledger.lock().unwrap();
                let known = ledger.known(&key);
                known.asked = known.asked.max(through);
            }
            let settled = delivery.done_first(count).await;
            let mut ledger = ledger.lock().unwrap();
            match settled {
                Ok(Settled::Durable) => {
                    let known = ledger.known(&key);
                    // The next of the key may be with another, and answered, before this line.
                    known.answered = known.answered.max(through);
                    for version in first..=through {
                        assert!(known.done.insert(version), "{key} {version} was done twice");
                    }
                }
                Ok(Settled::TooLate) => ledger.too_late += 1,
                Err(_) => ledger.unknown += 1,
            }
            if settled != Ok(Settled::Durable) {
                break;
            }
        }
    }
}

async fn publish(client: Client) {
    let keys: Vec<_> = (0..KEYS).map(|key| Arc::<str>::from(format!("k{key}"))).collect();
    let events = (1..=each()).flat_map(|n| {
        let event = move |key: &Arc<str>| Event::new("t/x", n.to_string()).key(Arc::clone(key));
        keys.iter().map(event).collect::<Vec<_>>()
    });
    let mut acked = client.publish_all(events);
    while let Some(receipt) = acked.next().await {
        receipt.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_groups_settle_loses_nothing_and_brings_nothing_settled_again() {
    let (mut dice, kills) = (Dice(seed()), number("SPILE_KILLS", 5));
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let port = Port::kept();
    let mut server = Server::start(&mut port.all_in_one(&data), &log);
    let prepared = operator(&server, &data).prepare().unwrap();
    let client = prepared.connect().await.unwrap();
    let definition = json!({
        "name": "g", "filter": "t/#", "max_attempts": 1_000, "backoff_min_ms": 5,
        "backoff_max_ms": 50,
    });
    ask(&client, "$group", "create", definition).await.unwrap();

    let ledger = Arc::<Mutex<Ledger>>::default();
    let mut members = JoinSet::new();
    for _ in 0..MEMBERS {
        let one = prepared.connect().await.unwrap();
        members.spawn(member(one, Arc::clone(&ledger), Dice(dice.below(u64::MAX) | 1)));
    }
    let mut publishing = JoinSet::new();
    publishing.spawn(publish(prepared.connect().await.unwrap()));
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_micros(dice.below(300_000))).await;
        server.end(Signal::KILL);
        server = Server::start(&mut port.all_in_one(&data), &log);
    }
    let whole = async {
        publishing.join_next().await.unwrap().unwrap();
        loop {
            // What was asked and not answered is either done or comes again: then nothing is left.
            let shown = ask(&client, "$group", "show", json!({ "name": "g" })).await;
            let none = |field| shown.as_ref().is_some_and(|shown| shown[field] == 0);
            if none("lag") && none("in_flight") && none("waiting") {
                break;
            }
            if let Some(Err(failed)) = members.try_join_next() {
                panic!("a member: {failed}");
            }
            tokio::task::yield_now().await;
        }
    };
    let whole = tokio::time::timeout(PATIENCE, whole).await;
    let Ledger { too_late, unknown, .. } = *ledger.lock().unwrap();
    println!("{kills} kills, {too_late} settlements too late, of {unknown} nothing is known");
    whole.unwrap();
    assert!(ledger.lock().unwrap().all_asked(), "every event was done once");
    let shown = ask(&client, "$group", "show", json!({ "name": "g" })).await.unwrap();
    assert_eq!(shown["dead"], 0, "{shown}");
    if let Some(Err(failed)) = members.try_join_next() {
        panic!("a member: {failed}");
    }
}

/// One life of the server: its members, who fail some of what they get, and who has the dead letters replayed.
async fn live(
    prepared: &spile_client::Prepared,
    ledger: &Arc<Mutex<Replayed>>,
    dice: &mut Dice,
) -> JoinSet<()> {
    let mut life = JoinSet::new();
    for _ in 0..MEMBERS {
        let one = prepared.connect().await.unwrap();
        life.spawn(replayed::member(one, Arc::clone(ledger), Dice(dice.below(u64::MAX) | 1)));
    }
    life.spawn(replayed::replay(prepared.connect().await.unwrap()));
    life
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_dead_letters_are_replayed_gives_each_one_outcome_and_none_beside_its_key()
 {
    let (mut dice, kills) = (Dice(seed()), number("SPILE_KILLS", 10));
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let port = Port::kept();
    let mut server = Server::start(&mut port.all_in_one(&data), &log);
    let prepared = operator(&server, &data).prepare().unwrap();
    let client = prepared.connect().await.unwrap();
    let definition = json!({
        "name": "g", "filter": "t/#", "max_attempts": 1_000, "backoff_min_ms": 5,
        "backoff_max_ms": 50,
    });
    ask(&client, "$group", "create", definition).await.unwrap();

    let ledger = Arc::<Mutex<Replayed>>::default();
    let (mut out, mut failed) = (0, 0);
    for life in 0..=kills {
        ledger.lock().unwrap().begin(life == kills);
        replayed::publish(&client, life).await;
        let mut members = live(&prepared, &ledger, &mut dice).await;
        let whole = async {
            if life < kills {
                // After so many letters that were replayed, and while one is out: each kill meets one.
                let some = 1 + dice.below(24);
                let met = || {
                    let ledger = ledger.lock().unwrap();
                    ledger.again >= some && ledger.letters_out() > 0
                };
                replayed::until(&mut members, met).await;
                out += ledger.lock().unwrap().letters_out();
                tokio::time::sleep(Duration::from_micros(dice.below(2_000))).await;
            } else {
                replayed::until(&mut members, || ledger.lock().unwrap().all_done(life)).await;
                replayed::until_nothing_is_left(&client, &mut members).await;
            }
        };
        tokio::time::timeout(PATIENCE, whole).await.unwrap();
        if life < kills {
            server.end(Signal::KILL);
            members.shutdown().await;
            failed = ledger.lock().unwrap().failed();
            server = Server::start(&mut port.all_in_one(&data), &log);
        }
    }
    println!("{kills} kills met {out} replayed letters; {failed} of the events were letters once");
    let shown = ask(&client, "$group", "show", json!({ "name": "g" })).await.unwrap();
    assert_eq!((&shown["dead"], &shown["settled"]), (&json!(0), &shown["produced"]), "{shown}");
    assert_eq!(shown["produced"], replayed::published(kills), "{shown}");
    drop(server);
}

/// The lines of a file; one that was cut off by a kill does not count.
fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .map(str::to_owned)
        .collect()
}

/// Events without an outcome, when nobody is a member any more who might settle some.
fn left(folder: &Path) -> u64 {
    loop {
        let shown = run(folder, &["--json", "group", "show", "g"]);
        let shown: Value = serde_json::from_str(shown.out.trim()).unwrap();
        if shown["members"] == json!([]) {
            return shown["lag"].as_u64().unwrap();
        }
    }
}

#[test]
fn a_consumer_killed_while_it_holds_deliveries_loses_nothing_and_what_it_told_as_done_is_done() {
    const SOME: u64 = 25;
    let (mut dice, kills) = (Dice(seed()), number("SPILE_KILLS", 5));
    let root = TempDir::new().unwrap();
    let folder = root.path();
    let data = folder.join("spile-data");
    let _server = Server::start(&mut all_in_one(&data), &folder.join("log"));
    let made = run(
        folder,
        &[
            "group",
            "create",
            "g",
            "--filter",
            "t/#",
            "--max-attempts",
            "1000",
            "--backoff",
            "1ms..5ms",
        ],
    );
    assert_eq!(made.code, 0, "{}{}", made.out, made.err);
    for key in ["a", "b", "c", "d"] {
        let events: String = (1..=SOME).map(|n| format!("{n}\n")).collect();
        std::fs::write(folder.join("events"), events).unwrap();
        let words = ["--quiet", "publish", "t/x", "--key", key, "--lines", "--file", "events"];
        assert_eq!(run(folder, &words).code, 0);
    }
    // Each life writes what was begun, and its results, under its own number.
    for life in 0..=kills {
        let command = format!("echo $SPILE_KEY $SPILE_VERSION >> begun-{life}");
        let results = std::fs::File::create(folder.join(format!("told-{life}"))).unwrap();
        let mut consume = spile(folder);
        consume.args(["--json", "consume", "g", "--batch", "3", "--parallel", "3"]);
        if life == kills {
            consume.args(["--count", &left(folder).to_string()]);
        }
        let mut child = consume
            .args(["--exec", &command])
            .stdout(results)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if life < kills {
            std::thread::sleep(Duration::from_micros(100_000 + dice.below(400_000)));
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            assert!(child.wait().unwrap().success());
        }
    }
    let (mut begun, mut done) = (HashMap::<String, u64>::new(), HashMap::new());
    for life in 0..=kills {
        for line in lines(&folder.join(format!("begun-{life}"))) {
            let (key, version) = line.split_once(' ').unwrap();
            let version: u64 = version.parse().unwrap();
            let last = begun.entry(key.to_owned()).or_default();
            assert!(version <= *last + 1, "{key} {version} is begun behind {last}, life {life}");
            let told = done.get(&(key.to_owned(), version));
            assert_eq!(told, None, "{key} {version} was told as done and comes in life {life}");
            *last = version.max(*last);
        }
        for line in lines(&folder.join(format!("told-{life}"))) {
            let row: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(row["outcome"], "done", "{row}");
            let event = (row["key"].as_str().unwrap().to_owned(), row["version"].as_u64().unwrap());
            assert_eq!(done.insert(event, life), None, "told twice: {row}");
        }
    }
    for key in ["a", "b", "c", "d"] {
        assert_eq!(begun.get(key), Some(&SOME), "{key}");
    }
}
