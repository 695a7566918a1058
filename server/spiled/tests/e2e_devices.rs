//! Operators' eyes on devices, the real binaries: who is here, through which edge, and that who is kicked goes everywhere
//! and may come back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a test has a clock, and fails by panicking"
)]
#![allow(dead_code, reason = "what is shared is used in part")]

mod e2e;

use std::time::Instant;

use e2e::split::{Running, Split};
use e2e::{Raw, Server, acked, all_in_one, bind, event, tls};
use rustix::process::Signal;
use serde_json::{Value, json};
use spile_protocol::session::key;

const KEY: [u8; 32] = [9; 32];

/// Time for a call to an edge that is silent: the worker gives that up after 5 s, and is waited for half of this.
const PATIENT_MS: u32 = 40_000;

/// Asks until the answer is as it is wanted.
fn until<T: std::fmt::Debug>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if wanted(&answer) || begun.elapsed().as_secs() > 20 {
            assert!(wanted(&answer), "it did not come: {answer:?}");
            return answer;
        }
        std::thread::yield_now();
    }
}

fn add(operator: &mut Raw) {
    let hash: String = key::hash(&KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    let added = json!({"id": "pump-7", "key_hash": hash});
    until(|| operator.call("$device", "add", &added), Result::is_ok).unwrap();
}

fn device(split: &Split, running: &Running, edge: &str, run: u8) -> Raw {
    let plain = tls(&split.of("operator"), None);
    let who = ("pump-7", &KEY);
    let (raw, heard) = Raw::with_key(running[edge].edge(), &plain, who, [run; 8]).unwrap();
    assert_eq!(heard, "welcome pump-7");
    raw
}

fn show(operator: &mut Raw) -> Value {
    operator.call_within(PATIENT_MS, ("$device", "show"), &json!({"id": "pump-7"})).unwrap()
}

fn kick(operator: &mut Raw) -> Value {
    operator.call_within(PATIENT_MS, ("$device", "kick"), &json!({"id": "pump-7"})).unwrap()
}

/// Edge and run of each session that is shown, in order.
fn sessions(shown: &Value) -> Vec<(String, String)> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let all = shown["sessions"].as_array().unwrap().iter();
    let mut found: Vec<_> = all.map(|one| (text(one, "edge"), text(one, "run"))).collect();
    found.sort();
    found
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(edge, run)| ((*edge).to_owned(), run.repeat(8))).collect()
}

#[test]
fn a_devices_sessions_on_all_edges_are_shown_and_kicked_and_may_come_back() {
    let (split, running) = Split::with_edges(&["e1", "e2"], |_, _| {});
    let mut operator = Raw::hello(running["edge-e1"].edge(), &split.operator(), [1; 8]).unwrap();
    add(&mut operator);
    let before = show(&mut operator);
    assert_eq!((&before["state"], &before["edge"]), (&json!("active"), &Value::Null), "{before}");
    assert_eq!((&before["sessions"], &before["last_seen_ms"]), (&json!([]), &Value::Null));
    // One that publishes, and one that does nothing at all, through the other edge.
    let mut busy = device(&split, &running, "edge-e1", 3);
    let mut idle = device(&split, &running, "edge-e2", 4);
    busy.open(0, None, 1).unwrap();
    busy.send(&[bind(0, 0, "t/x"), event(0, b"21.5")]).unwrap();
    busy.next(acked).unwrap().unwrap();
    let want = pairs(&[("e1", "03"), ("e2", "04")]);
    let shown = until(|| show(&mut operator), |shown| sessions(shown) == want);
    for one in shown["sessions"].as_array().unwrap() {
        assert!(one["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
        assert!(one["since_ms"].as_u64() > Some(1_700_000_000_000), "{shown}");
        assert_eq!((&one["in_flight"], &one["role"]), (&json!(0), &json!("device")));
    }
    assert_eq!(shown["lanes"], json!([{"key": "pump-7", "run": "03".repeat(8), "last": 1}]));
    assert!(shown["last_seen_ms"].as_u64() > Some(1_700_000_000_000), "{shown}");
    let kicked = kick(&mut operator);
    let want = json!({
        "device": "pump-7", "sessions": 2, "confirmed": ["e1", "e2"], "missing": [],
    });
    assert_eq!(kicked, want);
    for raw in [&mut busy, &mut idle] {
        assert_eq!(raw.shown(), "goaway shutdown");
    }
    until(|| show(&mut operator), |shown| sessions(shown).is_empty());
    let _back = device(&split, &running, "edge-e2", 3);
    let want = pairs(&[("e2", "03")]);
    let shown = until(|| show(&mut operator), |shown| sessions(shown) == want);
    assert_eq!(shown["edge"], "e2");
    // Another's act is not done half, and nobody else may ask.
    let wrong = json!({"id": "pump-7", "ids": ["pump-8"]});
    assert_eq!(operator.call("$device", "kick", &wrong), Err("invalid".to_owned()));
    assert_eq!(sessions(&show(&mut operator)), want);
    let nobody = json!({"id": "nobody"});
    assert_eq!(operator.call("$device", "show", &nobody), Err("not-found".to_owned()));
    assert_eq!(operator.call("$device", "kick", &nobody), Err("not-found".to_owned()));
    let mut other = device(&split, &running, "edge-e1", 5);
    assert_eq!(
        other.call("$device", "kick", &json!({"id": "pump-7"})),
        Err("forbidden".to_owned())
    );
}

#[test]
fn an_edge_that_does_not_answer_is_missing_from_a_kick_and_its_session_goes_when_it_does() {
    let (split, running) = Split::with_edges(&["e1", "e2"], |_, _| {});
    let mut operator = Raw::hello(running["edge-e1"].edge(), &split.operator(), [1; 8]).unwrap();
    add(&mut operator);
    let mut idle = device(&split, &running, "edge-e2", 4);
    until(|| show(&mut operator), |shown| sessions(shown).len() == 1);
    running["edge-e2"].stop();
    let kicked = kick(&mut operator);
    running["edge-e2"].signal(Signal::CONT);
    let want = json!({ "device": "pump-7", "sessions": 1, "confirmed": [], "missing": ["e2"] });
    assert_eq!(kicked, want);
    assert_eq!(idle.shown(), "goaway shutdown");
}

fn debug(operator: &mut Raw, for_ms: u64) -> Result<Value, String> {
    let asked = json!({"id": "pump-7", "for_ms": for_ms});
    operator.call_within(PATIENT_MS, ("$device", "debug"), &asked)
}

/// Lines of a node's log about frames of that kind.
fn frames(running: &Running, node: &str, kind: &str) -> Vec<String> {
    let log = std::fs::read_to_string(&running[node].log).unwrap();
    let kind = format!("\"kind\":\"{kind}\"");
    log.lines().filter(|line| line.contains(&kind)).map(str::to_owned).collect()
}

#[test]
fn a_debugged_devices_frames_are_in_the_log_of_each_of_its_edges_without_payloads() {
    let (split, running) = Split::with_edges(&["e1", "e2"], |_, _| {});
    let mut operator = Raw::hello(running["edge-e1"].edge(), &split.operator(), [1; 8]).unwrap();
    add(&mut operator);
    let idle = debug(&mut operator, 600_000).unwrap();
    assert_eq!((&idle["confirmed"], &idle["missing"]), (&json!(["e1"]), &json!([])), "{idle}");
    let _here = device(&split, &running, "edge-e1", 3);
    let mut there = device(&split, &running, "edge-e2", 4);
    until(|| show(&mut operator), |shown| sessions(shown).len() == 2);
    let both = debug(&mut operator, 600_000).unwrap();
    assert_eq!((&both["confirmed"], &both["missing"]), (&json!(["e1", "e2"]), &json!([])));
    assert!(both["until_ms"].as_u64() > Some(1_700_000_000_000), "{both}");
    assert!(!frames(&running, "edge-e1", "WELCOME").is_empty(), "it was asked for before it came");
    there.open(0, None, 1).unwrap();
    there.send(&[bind(0, 0, "t/secret"), event(0, b"very secret")]).unwrap();
    there.next(acked).unwrap().unwrap();
    let event_lines = until(|| frames(&running, "edge-e2", "EVENT"), |lines| lines.len() == 1);
    for part in ["\"lane\":0", "\"number\":1", "\"payload\":11", "\"way\":\"in\"", "pump-7"] {
        assert!(event_lines[0].contains(part), "{part} in {event_lines:?}");
    }
    until(|| frames(&running, "edge-e2", "ACK"), |lines| lines.len() == 1);
    let log = std::fs::read_to_string(&running["edge-e2"].log).unwrap();
    assert!(!log.contains("secret"), "{log}");
    // What it is told is known at the other edge too, and in the log with its code.
    assert!(there.open(1, Some("another's"), 1).is_err());
    let shown = until(|| show(&mut operator), |shown| !shown["last_fault"].is_null());
    let fault = &shown["last_fault"];
    assert_eq!((&fault["edge"], &fault["code"]), (&json!("e2"), &json!(202)), "{shown}");
    assert_eq!(fault["name"], "forbidden");
    let faults = until(|| frames(&running, "edge-e2", "FAULT"), |lines| lines.len() == 1);
    assert!(faults[0].contains("202 forbidden") && faults[0].contains("\"lane\":1"), "{faults:?}");
    // It ends when it is asked to, and is no business of others.
    debug(&mut operator, 0).unwrap();
    there.send(&[event(0, b"21.5")]).unwrap();
    there.next(acked).unwrap().unwrap();
    assert_eq!(frames(&running, "edge-e2", "EVENT").len(), 1);
    assert_eq!(debug(&mut operator, 86_400_001), Err("invalid".to_owned()));
    assert_eq!(debug(&mut there, 1_000), Err("forbidden".to_owned()));
    let nobody = json!({"id": "nobody", "for_ms": 1_000});
    assert_eq!(operator.call("$device", "debug", &nobody), Err("not-found".to_owned()));
}

#[test]
fn an_edge_that_does_not_answer_is_missing_from_a_debug_and_makes_what_is_shown_partial() {
    let (split, running) = Split::with_edges(&["e1", "e2"], |_, _| {});
    let mut operator = Raw::hello(running["edge-e1"].edge(), &split.operator(), [1; 8]).unwrap();
    add(&mut operator);
    let _idle = device(&split, &running, "edge-e2", 4);
    until(|| show(&mut operator), |shown| sessions(shown).len() == 1);
    running["edge-e2"].stop();
    let (shown, debugged) = (show(&mut operator), debug(&mut operator, 1_000).unwrap());
    running["edge-e2"].signal(Signal::CONT);
    assert_eq!((&shown["partial"], sessions(&shown).len()), (&json!(true), 1), "{shown}");
    assert_eq!(debugged["missing"], json!(["e2"]), "{debugged}");
}

#[test]
fn in_one_process_a_device_is_shown_and_kicked() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&mut all_in_one(&data), &folder.path().join("log"));
    let dev = data.join("dev");
    let as_operator = tls(&dev, Some("operator"));
    let mut operator = Raw::hello(server.edge(), &as_operator, [1; 8]).unwrap();
    add(&mut operator);
    let plain = tls(&dev, None);
    let come = |run| Raw::with_key(server.edge(), &plain, ("pump-7", &KEY), [run; 8]).unwrap();
    let (mut first, heard) = come(3);
    assert_eq!(heard, "welcome pump-7");
    let (mut second, _) = come(4);
    let shown = show(&mut operator);
    assert_eq!(sessions(&shown), pairs(&[("local", "03"), ("local", "04")]), "{shown}");
    let kicked = kick(&mut operator);
    assert_eq!((&kicked["sessions"], &kicked["confirmed"]), (&json!(2), &json!(["local"])));
    for raw in [&mut first, &mut second] {
        assert_eq!(raw.shown(), "goaway shutdown");
    }
    assert_eq!(come(3).1, "welcome pump-7");
}
