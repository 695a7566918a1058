//! The narrow path, with the real binary: a publish is stored, survives, and reaches who subscribes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

mod e2e;

use e2e::{Acked, Raw, Server, acked, all_in_one, bind, catch_up, event, tls};
use rustix::process::Signal;
use spile_protocol::message::Message;
use tempfile::TempDir;

/// All that is stored under a filter: key, version, payload.
fn read_all(server: &Server, dev: &std::path::Path, filter: &str) -> Vec<(String, u64, String)> {
    let mut raw = Raw::hello(server.edge(), &tls(dev, Some("operator")), [2; 8]).unwrap();
    raw.send(&[catch_up(filter)]).unwrap();
    let (mut events, mut key) = (Vec::new(), String::new());
    loop {
        let more = raw.next(|message| match message {
            Message::Deliver(deliver) => {
                key = deliver.key.map_or_else(|| key.clone(), str::to_owned);
                for (at, payload) in (0..).zip(deliver.lengths.split(deliver.payload)) {
                    let payload = String::from_utf8(payload.to_vec()).unwrap();
                    events.push((key.clone(), deliver.version.0 + at, payload));
                }
                true
            }
            Message::Credit(_) => true,
            Message::End(_) => false,
            other => panic!("{other:?}"),
        });
        if !more.unwrap() {
            return events;
        }
    }
}

#[test]
fn what_was_acked_is_there_for_a_subscriber_and_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let dev = data.join("dev");
    let server = Server::start(&mut all_in_one(&data), &log);
    let mut device = Raw::hello(server.edge(), &tls(&dev, Some("device")), [1; 8]).unwrap();
    assert_eq!(device.open(0, None, 1), Ok(0));
    device.send(&[bind(0, 0, "telemetry/temp"), event(0, b"21.5"), event(0, b"21.6")]).unwrap();
    let mut last = 0;
    while last < 2 {
        match device.next(acked).unwrap() {
            Some(Acked::Step(step)) => last += step,
            other => panic!("{other:?}"),
        }
    }
    let want =
        [("device".to_owned(), 1, "21.5".to_owned()), ("device".to_owned(), 2, "21.6".to_owned())];
    assert_eq!(read_all(&server, &dev, "telemetry/#"), want);
    assert!(server.metric("spile_edge_events_total") == 2);
    assert_eq!(server.end(Signal::TERM).code(), Some(0));
    let server = Server::start(&mut all_in_one(&data), &log);
    assert_eq!(read_all(&server, &dev, "#"), want);
    let mut device = Raw::hello(server.edge(), &tls(&dev, Some("device")), [1; 8]).unwrap();
    assert_eq!(device.open(0, None, 1), Ok(2), "the run's last number is remembered");
}
