//! The real `/metrics`: each family is there, is the one that docs/metrics.md names, and moves when what it counts happens.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]
#![allow(dead_code, reason = "what is shared is used in part")]

#[path = "commands/spile.rs"]
mod commands;
mod e2e;
mod uploads;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use commands::run;
use e2e::{Raw, Server, all_in_one, tls};
use spile_client::{Call, Client, Consume, Reply};
use spile_protocol::message::{Abort, Message};
use tempfile::TempDir;
use uploads::{Told, chunk, content, open, told};

/// What a scrape said: each line's series and its number, and the kind of each family.
struct Scrape {
    series: BTreeMap<String, f64>,
    families: BTreeMap<String, String>,
}

impl Scrape {
    fn of(server: &Server) -> Self {
        let answer = server.get("/metrics");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let (mut series, mut families) = (BTreeMap::new(), BTreeMap::new());
        for line in body.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                families.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                series.insert(name.to_owned(), value.parse().unwrap());
            }
        }
        Self { series, families }
    }

    fn get(&self, name: &str) -> f64 {
        *self.series.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.series.keys()))
    }

    /// Each of these is what it should be.
    fn says(&self, wanted: &[(&str, f64)]) {
        for (name, wanted) in wanted {
            let found = self.get(name);
            assert!((found - wanted).abs() < 1e-9, "{name} is {found}, not {wanted}");
        }
    }
}

/// Runs a command that must be done.
fn done(folder: &Path, words: &[&str]) {
    let ran = run(folder, words);
    assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
}

fn started() -> (TempDir, Server) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("spile-data");
    let server = Server::start(&mut all_in_one(&data), &folder.path().join("log"));
    (folder, server)
}

async fn client(server: &Server, folder: &Path) -> Client {
    let dev = folder.join("spile-data/dev");
    let builder = Client::builder()
        .url(&format!("spile://{}", server.edge()))
        .ca(dev.join("ca.pem"))
        .cert(dev.join("operator.pem"))
        .client_key(dev.join("operator.key"));
    builder.connect().await.unwrap()
}

/// The families that the page lists: name and kind.
fn listed() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        let kind = cells.next()?.to_owned();
        assert!(!cells.next()?.trim_end_matches(" |").is_empty(), "{name}: what is it?");
        Some((name, kind))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn the_page_lists_every_family_and_no_other() {
    let (_folder, server) = started();
    let families = Scrape::of(&server).families;
    assert!(families.len() > 50, "{families:?}");
    assert_eq!(families, listed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_told_in_sum_and_each_and_dead_letters_as_they_are_replayed_and_dropped() {
    let (folder, server) = started();
    let folder = folder.path();
    done(folder, &["group", "create", "g", "--filter", "t/#"]);
    done(folder, &["group", "create", "none", "--filter", "other"]);
    for key in ["a", "a", "b"] {
        done(folder, &["publish", "t/x", "1", "--key", key]);
    }
    // Nobody reads it: that it lags is told all the same.
    Scrape::of(&server).says(&[
        ("spile_worker_groups", 2.0),
        ("spile_worker_lag", 3.0),
        ("spile_worker_waiting", 3.0),
        ("spile_worker_unread", 0.0),
        ("spile_worker_full", 0.0),
        ("spile_worker_group_lag{tenant=\"main\",group=\"g\"}", 3.0),
        ("spile_worker_group_waiting{tenant=\"main\",group=\"g\"}", 3.0),
        ("spile_worker_group_lag{tenant=\"main\",group=\"none\"}", 0.0),
        ("spile_worker_group_full{tenant=\"main\",group=\"g\"}", 0.0),
    ]);
    let client = client(&server, folder).await;
    let mut member = client.consume("g", Consume::default().window(1, 1 << 20)).await.unwrap();
    let mut delivery = member.next().await.unwrap().unwrap();
    Scrape::of(&server).says(&[
        ("spile_worker_in_flight", 1.0),
        ("spile_worker_waiting", 2.0),
        ("spile_worker_group_in_flight{tenant=\"main\",group=\"g\"}", 1.0),
        ("spile_worker_group_waiting{tenant=\"main\",group=\"g\"}", 2.0),
    ]);
    delivery.reject_first(1, "no").await.unwrap();
    for _ in 0..2 {
        member.next().await.unwrap().unwrap().done().await.unwrap();
    }
    Scrape::of(&server).says(&[
        ("spile_worker_lag", 0.0),
        ("spile_worker_dead", 1.0),
        ("spile_worker_group_dead{tenant=\"main\",group=\"g\"}", 1.0),
        ("spile_worker_died_total", 1.0),
        ("spile_worker_settled_total", 2.0),
        ("spile_worker_replayed_total", 0.0),
    ]);
    done(folder, &["dlq", "replay", "g", "--all"]);
    member.next().await.unwrap().unwrap().reject("no").await.unwrap();
    done(folder, &["dlq", "drop", "g", "--all", "--yes"]);
    Scrape::of(&server).says(&[
        ("spile_worker_replayed_total", 1.0),
        ("spile_worker_dropped_total", 1.0),
        ("spile_worker_died_total", 2.0),
        ("spile_worker_dead", 0.0),
    ]);
    done(folder, &["group", "rm", "none", "--yes"]);
    let gone = Scrape::of(&server);
    assert!(!gone.series.keys().any(|series| series.contains("none")), "a group that is removed");
}

#[test]
fn uploads_are_told_as_they_are_taken_sealed_read_and_given_up() {
    let (folder, server) = started();
    let folder = folder.path();
    std::fs::write(folder.join("f"), content(3_000, 1)).unwrap();
    let up = run(folder, &["--json", "upload", "f"]);
    let up: serde_json::Value = serde_json::from_str(up.out.trim()).unwrap();
    done(folder, &["download", up["blob"].as_str().unwrap(), "-o", "back"]);
    let dev = folder.join("spile-data/dev");
    let mut raw = Raw::hello(server.edge(), &tls(&dev, Some("operator")), [1; 8]).unwrap();
    raw.send(&[open(1, 7, 3_000), chunk(1, 0, &[1; 1_000])]).unwrap();
    while !matches!(told(&mut raw), Told::Opened { upload: 1, stored: 1_000, .. }) {}
    let scrape = Scrape::of(&server);
    scrape.says(&[
        ("spile_worker_open_uploads", 1.0),
        ("spile_worker_blobs", 1.0),
        ("spile_worker_sealed_total", 1.0),
        ("spile_worker_chunk_bytes_total", 4_000.0),
        ("spile_worker_chunk_waiting_bytes", 0.0),
        ("spile_worker_aborted_total", 0.0),
        ("spile_worker_expired_total", 0.0),
    ]);
    assert!(scrape.get("spile_worker_chunk_log_bytes") >= 4_000.0);
    assert!(scrape.get("spile_worker_read_bytes_total") >= 3_000.0);
    raw.send(&[Message::Abort(Abort { upload: 1 })]).unwrap();
    while !matches!(told(&mut raw), Told::Other(other) if other.contains("Abort")) {}
    Scrape::of(&server)
        .says(&[("spile_worker_open_uploads", 0.0), ("spile_worker_aborted_total", 1.0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_told_by_their_time_and_by_whose_fault_it_was() {
    let (folder, server) = started();
    let client = client(&server, folder.path()).await;
    let echo = |call: Call| async move { Ok(Reply::from(call.payload)) };
    let serving = client.serve("echo", 4, echo).await.unwrap();
    for _ in 0..3 {
        client.call("echo", "say", "x", Duration::from_secs(5)).await.unwrap();
    }
    client.call("nobody", "say", "x", Duration::from_secs(5)).await.unwrap_err();
    let scrape = Scrape::of(&server);
    scrape.says(&[
        ("spile_worker_calls_total", 4.0),
        ("spile_worker_call_seconds_count", 3.0),
        ("spile_worker_call_seconds_bucket{le=\"+Inf\"}", 3.0),
        ("spile_worker_call_faults_total{class=\"your request\"}", 1.0),
        ("spile_worker_call_faults_total{class=\"our side\"}", 0.0),
        ("spile_worker_calls_retried_total", 0.0),
    ]);
    assert!(scrape.get("spile_worker_call_seconds_sum") > 0.0);
    serving.stop().await;
}

#[test]
fn messages_of_inboxes_are_told_as_they_are_stored_and_done() {
    let (folder, server) = started();
    let folder = folder.path();
    for n in ["1", "2", "3"] {
        done(folder, &["publish", "inbox/do", n, "--key", "device"]);
    }
    // What is beside the inbox in the same stream is none of it.
    done(folder, &["publish", "telemetry/t", "1", "--key", "device"]);
    let stored = ("spile_worker_inbox_stored_total", 3.0);
    Scrape::of(&server).says(&[stored, ("spile_worker_inbox_settled_total", 0.0)]);
    let device = ["--context", "spile-data/dev/device.toml"];
    done(folder, &[&device[..], &["inbox", "--count", "2"]].concat());
    Scrape::of(&server).says(&[stored, ("spile_worker_inbox_settled_total", 2.0)]);
}
