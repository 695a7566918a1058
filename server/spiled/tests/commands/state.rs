//! `spile state`, `spile inbox` and `spile trace` with the real binaries: what they print and how they end.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::{
    check,
    e2e::{Server, all_in_one},
    spile::run,
    started,
};

const DEVICE: &str = "spile-data/dev/device.toml";

/// What was printed with `--json`, an object a line.
fn json(folder: &Path, words: &[&str]) -> Vec<Value> {
    let words: Vec<&str> = std::iter::once("--json").chain(words.iter().copied()).collect();
    let ran = run(folder, &words);
    assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn field<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn state_is_read_back_after_a_restart_too_and_what_is_not_there_is_not_found() {
    let (folder, server) = started();
    let at = folder.path();
    check(
        at,
        &[
            (&["publish", "state/mode", "on", "--key", "pump-1"], 0, "version 1"),
            (&["publish", "state/mode", "off", "--key", "pump-1"], 0, "version 2"),
            (&["publish", "state/speed", "7", "--key", "pump-10"], 0, "version 1"),
            (&["publish", "state/once", "x", "--key", "pump-2", "--ttl", "1ms"], 0, "version 1"),
            (&["state", "get", "pump-1", "state/mode"], 0, "off"),
            (&["state", "get", "pump-1", "state/mode", "--at-least", "2"], 0, "off"),
            (
                &["state", "get", "pump-1", "state/mode", "--at-least", "3", "--wait", "10ms"],
                5,
                "timed-out",
            ),
            (&["state", "get", "pump-1", "state/mode", "--newer-than", "2"], 4, "newer than"),
            (&["state", "get", "pump-1", "state/none"], 4, "no value is kept"),
            (&["state", "get", "pump-2", "state/once"], 4, "(not-found); "),
            (&["state", "get", "pump-1", "state//none"], 2, "empty level"),
            // A device reads what is kept under its own key, and nobody else's.
            (&["--context", DEVICE, "publish", "state/own", "mine"], 0, "version 1"),
            (&["--context", DEVICE, "state", "get", "device", "state/own"], 0, "mine"),
            (&["--context", DEVICE, "state", "get", "pump-1", "state/mode"], 3, "(forbidden); "),
            (&["--context", DEVICE, "state", "ls"], 3, "(forbidden); "),
            (&["publish", "state/own", "", "--key", "device"], 0, "version 2"),
        ],
    );
    let got = json(at, &["state", "get", "pump-1", "state/mode"]);
    let [value] = &got[..] else { panic!("{got:?}") };
    let text = |name| field(value, name);
    assert_eq!((text("key"), text("topic"), text("payload")), ("pump-1", "state/mode", "off"));
    assert_eq!(
        (value.get("version").unwrap(), text("principal")),
        (&Value::from(2), "operator/operator")
    );
    assert!(text("position").contains(':') && text("time").ends_with('Z'), "{value}");
    let keys = |words: &[&str]| -> Vec<String> {
        json(at, words).iter().map(|value| field(value, "key").to_owned()).collect()
    };
    assert_eq!(keys(&["state", "ls"]), ["pump-1", "pump-10"]);
    assert_eq!(keys(&["state", "ls", "pump-1"]), ["pump-1"]);
    assert_eq!(keys(&["state", "ls", "--prefix", "pump-1"]), ["pump-1", "pump-10"]);
    // What expired may be there until it is swept.
    assert!((2..=3).contains(&server.metric("spile_worker_values")));
    assert!(server.metric("spile_worker_found_total") >= 3);
    assert!(server.metric("spile_worker_missed_total") >= 4);
    assert_eq!(server.end(Signal::TERM).code(), Some(0));
    let data = at.join("spile-data");
    let _server = Server::start(&mut all_in_one(&data), &at.join("log"));
    assert_eq!(keys(&["state", "ls"]), ["pump-1", "pump-10"]);
    check(at, &[(&["publish", "state/mode", "", "--key", "pump-1"], 0, "version 3")]);
    assert_eq!(keys(&["state", "ls"]), ["pump-10"]);
}

#[test]
fn a_device_reads_its_inbox_once_and_what_was_only_looked_at_again() {
    let (folder, _server) = started();
    let at = folder.path();
    for (topic, payload) in [("inbox/set", "21.5"), ("telemetry/t", "x"), ("inbox/set", "22.0")] {
        let ran = run(at, &["publish", topic, payload, "--key", "device"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let read = |more: &[&str]| -> Vec<(String, String)> {
        let words = ["--context", DEVICE, "inbox"];
        let words: Vec<&str> = words.iter().chain(more).copied().collect();
        let both = |value: &Value| {
            (field(value, "payload").to_owned(), field(value, "outcome").to_owned())
        };
        json(at, &words).iter().map(both).collect()
    };
    let of = |payload: &str, outcome: &str| (payload.to_owned(), outcome.to_owned());
    assert_eq!(read(&["--peek", "--count", "2"]), [of("21.5", "unread"), of("22.0", "unread")]);
    assert_eq!(read(&["--count", "1"]), [of("21.5", "done")]);
    assert_eq!(read(&["--count", "1"]), [of("22.0", "done")]);
    assert_eq!(read(&["--wait", "300ms"]), []);
}

#[test]
fn a_trace_is_told_from_the_edge_to_the_value_it_became() {
    let (folder, _server) = started();
    let at = folder.path();
    check(at, &[(&["publish", "state/mode", "on", "--key", "pump-1"], 0, "version 1")]);
    let event = json(at, &["stream", "pump-1"]).remove(0);
    let trace = field(&event, "trace").to_owned();
    assert_eq!(trace.len(), 32);
    let steps = json(at, &["trace", &trace]);
    let told: Vec<_> = steps.iter().map(|step| field(step, "what")).collect();
    let [accepted, stored, latest] = told[..] else { panic!("{told:?}") };
    assert_eq!(accepted, "state/mode of pump-1 accepted from operator/operator");
    assert!(stored.ends_with("as version 1 of pump-1"), "{stored}");
    assert_eq!(latest, "is the latest value of state/mode of pump-1");
    assert_eq!(field(&steps[0], "where"), "edge");
    check(
        at,
        &[
            (&["trace", "abababababababababababababababab"], 4, "nothing of this trace"),
            (&["trace", "ab"], 2, "32 hexadecimal digits"),
        ],
    );
}
