//! The real server with rules that keep next to nothing: its folder shrinks, a kill and a start without views change nothing,
//! and a group that was behind all the while gets every event.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

mod e2e;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use e2e::{Server, all_in_one};
use rustix::process::Signal;
use serde_json::{Value, json};
use spile_client::{Client, Consume, Event, Interest};
use spile_protocol::{code::Code, id::Version};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// Events that may go, each of 8 KiB, and those of the group.
const MANY: u64 = 2000;
const FEW: u64 = 40;

const RULES: &str = r#"
[durability]
segment = "1MiB"
[retention]
every = "1s"
[[retention.rules]]
filter = "t/#"
max_age = "0s"
[[retention.rules]]
filter = "slow/#"
max_age = "0s"
"#;

async fn patient<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

fn start(folder: &Path) -> Server {
    let config = folder.join("spiled.toml");
    std::fs::write(&config, RULES).unwrap();
    let mut command = all_in_one(&folder.join("data"));
    Server::start(command.arg("--config").arg(config), &folder.join("log"))
}

async fn client(server: &Server, folder: &Path) -> Client {
    let dev = folder.join("data").join("dev");
    let connect = Client::builder()
        .url(&format!("spile://{}", server.edge()))
        .ca(dev.join("ca.pem"))
        .cert(dev.join("operator.pem"))
        .client_key(dev.join("operator.key"))
        .connect();
    patient(connect).await.unwrap()
}

async fn ask(client: &Client, service: &str, method: &str, request: Value) -> Value {
    let payload = request.to_string().into_bytes();
    let reply = patient(client.call(service, method, payload, PATIENCE)).await.unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

async fn publish(client: &Client, topic: &'static str, key: &'static str, from: u64, count: u64) {
    let payload = Bytes::from(vec![7; 8 << 10]);
    let events = (from..from + count).map(move |_| Event::new(topic, payload.clone()).key(key));
    let mut acked = client.publish_all(events);
    while let Some(receipt) = patient(acked.next()).await {
        receipt.unwrap();
    }
}

/// Bytes of the event log's segments.
fn segments(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder.join("data").join("events")).unwrap();
    let files = files.map(|file| file.unwrap());
    let segments = files.filter(|file| file.path().extension().is_some_and(|it| it == "segment"));
    segments.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folder_shrinks_and_a_group_that_was_behind_gets_everything() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path());
    let operator = client(&server, folder.path()).await;
    ask(&operator, "$group", "create", json!({ "name": "g", "filter": "slow/#" })).await;
    publish(&operator, "slow/x", "s", 1, FEW / 2).await;
    publish(&operator, "t/x", "a", 1, MANY).await;
    publish(&operator, "slow/x", "s", 1, FEW / 2).await;
    let whole = MANY * (8 << 10);
    // Each look makes a snapshot where something is new; both must be past a segment before it goes.
    let shrinks = async {
        while segments(folder.path()) > whole / 4 {
            publish(&operator, "t/x", "b", 1, 1).await;
        }
    };
    patient(shrinks).await;
    assert!(server.metric("spile_worker_freed_bytes_total") > whole / 2);
    assert!(server.metric("spile_worker_segments_rewritten_total") > 0);
    let shown = ask(&operator, "$retention", "show", json!({})).await;
    assert_eq!(shown["rules"][0]["filter"], "t/#");
    assert_eq!(shown["kept"][0]["worker"], "local");

    server.end(Signal::KILL);
    std::fs::remove_dir_all(folder.path().join("data").join("views")).unwrap();
    let server = start(folder.path());
    let operator = client(&server, folder.path()).await;
    // What is gone is told, and the number of the next event is the next.
    let why = match patient(operator.subscribe(Interest::stream("a", Version(1)))).await {
        Ok(mut gone) => patient(gone.next()).await.unwrap().unwrap_err(),
        Err(why) => why,
    };
    assert_eq!(why.code(), Some(Code::GONE), "{why}");
    let event = Event::new("t/x", "next").key("a");
    let receipt = patient(operator.publish(event)).await.unwrap();
    assert_eq!(receipt.version, Some(Version(MANY + 1)));

    let mut deliveries = operator.consume("g", Consume::default()).await.unwrap();
    let mut next = 1;
    while next <= FEW {
        let mut delivery = patient(deliveries.next()).await.unwrap().unwrap();
        assert_eq!(delivery.version, Version(next), "in order, without a gap");
        next += u64::try_from(delivery.len()).unwrap();
        let all = delivery.len();
        patient(delivery.done_first(all)).await.unwrap();
    }
}
