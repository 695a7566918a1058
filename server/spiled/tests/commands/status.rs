//! `spile status`: how fast it goes and who is behind, as scripts, people and Prometheus read it.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;

use serde_json::{Value, json};

use crate::e2e::{Server, all_in_one};
use crate::groups::{create, publish, show, told};
use crate::spile::run;
use crate::started;
use rustix::process::Signal;

fn status(folder: &Path) -> Value {
    told(folder, &["status"]).remove(0)
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[test]
fn it_tells_how_much_comes_and_goes_a_second() {
    let (folder, server) = started();
    let folder = folder.path();
    create(folder, &[]);
    // In its first second it does not know, and on a slow machine ten seconds are over before it is asked.
    let moving = (0..100).map(|_| {
        publish(folder, "k", 5);
        told(folder, &["consume", "g", "--count", "5"]);
        status(folder)
    });
    let fields = ["events_per_s", "bytes_per_s", "delivered_per_s"];
    let goes = |of: &Value| fields.iter().all(|field| of[*field].as_f64() > Some(0.0));
    let told = moving.into_iter().find(goes).unwrap();
    for field in fields {
        assert_eq!(told[field], told["workers"][0][field], "of one worker: {told}");
        // For people, each has its line.
        let shown = run(folder, &["status"]).out;
        assert!(shown.lines().any(|line| line.starts_with(field)), "{field}: {shown}");
    }
    // A rate is not more than all there was.
    assert!(told["events_per_s"].as_f64() <= told["workers"][0]["events"].as_f64(), "{told}");
    for counter in ["spile_worker_event_bytes_total", "spile_worker_delivered_bytes_total"] {
        assert!(server.metric(counter) > 0, "{counter}");
    }
}

#[test]
fn it_tells_which_groups_are_behind_and_by_how_much() {
    let (folder, server) = started();
    let (folder, log) = (folder.path(), server.log.clone());
    create(folder, &[]);
    told(folder, &["group", "create", "idle", "--filter", "u/#"]);
    publish(folder, "k", 40);
    told(folder, &["consume", "g", "--count", "10"]);
    // Counted to the log's end, as far as nothing is written meanwhile.
    let shown = show(folder);
    assert_eq!(number(&shown, "lag"), 30, "{shown}");
    told(folder, &["group", "show", "idle"]);
    let known = status(folder);
    assert_eq!((&known["lag"], &known["unread"]), (&json!(30), &json!(0)), "{known}");
    let row = json!([{"tenant": "main", "name": "g", "lag": 30, "unread": 0}]);
    assert_eq!(known["lags"], row, "{known}");
    assert_eq!(server.metric("spile_worker_lag"), 30);
    let human = run(folder, &["status"]).out;
    let line = human.lines().find(|line| line.starts_with("lags.g.lag ")).unwrap();
    assert!(line.ends_with(" 30"), "{line}");
    // Nobody takes more: what comes is not looked at, and that is told.
    publish(folder, "l", 7);
    let known = status(folder);
    assert_eq!((number(&known, "lag"), number(&known, "unread")), (30, 14), "{known}");
    // A scrape looks on by itself, so that a lag grows without a member; the next status knows.
    assert_eq!((server.metric("spile_worker_lag"), server.metric("spile_worker_unread")), (37, 0));
    assert_eq!(number(&status(folder), "lag"), 37);
    // So it is when nobody has looked since the start.
    server.end(Signal::KILL);
    let _server = Server::start(&mut all_in_one(&folder.join("spile-data")), &log);
    let known = status(folder);
    let g = known["lags"].as_array().unwrap().iter().find(|of| of["name"] == "g").unwrap();
    assert!(number(g, "lag") + number(g, "unread") >= 37, "{known}");
    assert_eq!(number(&show(folder), "lag"), 37);
}
