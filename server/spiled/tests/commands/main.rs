//! The commands as people type them, with the real binaries: what they print, how they end, the README's tour, and the
//! commands of docs/patterns.md.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod credentials;
#[path = "../e2e/mod.rs"]
mod e2e;
mod groups;
mod letters;
mod named;
mod patterns;
mod spile;
mod state;
mod status;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use e2e::{Server, all_in_one};
use rustix::process::Signal;
use spile::{ran, run};
use tempfile::TempDir;

/// Whatever takes longer fails its test.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
#[expect(clippy::disallowed_methods, reason = "a test has a clock")]
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::yield_now();
    }
}

/// A folder with a server that has its data in `spile-data`, as after `cargo run`.
fn started() -> (TempDir, Server) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("spile-data");
    let server = Server::start(&mut all_in_one(&data), &folder.path().join("log"));
    (folder, server)
}

/// The lines of the README's tour, without the alias that stands for the binary.
fn tour() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, block) = readme.split_once("```sh tour\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().filter(|line| !line.starts_with("alias ")).map(str::to_owned).collect()
}

/// Is nothing bad of doctor's checks, or only this machine's disk, which may be slow or nearly full?
fn is_well(checks: &str) -> bool {
    checks.lines().all(|line| {
        let check: serde_json::Value = serde_json::from_str(line).unwrap();
        let is = |field: &str, value: serde_json::Value| check.get(field) == Some(&value);
        is("ok", true.into()) || is("check", "disk".into()) || is("check", "sync".into())
    })
}

#[test]
fn every_line_of_the_readmes_tour_works_as_it_stands() {
    let (folder, _server) = started();
    let lines = tour();
    assert!(lines.len() > 10);
    for line in lines {
        let doctor = line == "spile doctor";
        let json = if doctor { " --json" } else { "" };
        let script = format!("spile() {{ \"$SPILE\" \"$@\"; }}\nset -o pipefail\n{line}{json}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).env("SPILE", spile::binary()).current_dir(folder.path());
        let ran = ran(bash.stdin(Stdio::null()).output().unwrap());
        let well = ran.code == 0 || doctor && ran.code == 1 && is_well(&ran.out);
        assert!(well, "{line}: {}\n{}{}", ran.code, ran.out, ran.err);
        assert!(line.contains("--quiet") || !ran.out.is_empty(), "{line} printed nothing");
    }
}

#[test]
fn every_test_the_readme_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut named = 0;
    for line in readme.lines() {
        let Some((_, test)) = line.split_once(" --test ") else { continue };
        let name = test.split(['`', ' ']).next().unwrap();
        let there =
            ["server/spiled", "server/log", "server/worker", "protocol"].iter().any(|room| {
                let tests = root.join(room).join("tests");
                tests.join(format!("{name}.rs")).exists()
                    || tests.join(name).join("main.rs").exists()
            });
        assert!(there, "no test {name}");
        named += 1;
    }
    assert!(named > 3);
}

/// What a command is, how it ends, and a part of what it prints on stdout or stderr.
type Case<'c> = (&'c [&'c str], i32, &'c str);

fn check(folder: &Path, cases: &[Case<'_>]) {
    for (words, code, part) in cases {
        let ran = run(folder, words);
        let said = format!("{}{}", ran.out, ran.err);
        assert_eq!(ran.code, *code, "spile {words:?}: {said}");
        assert!(said.contains(part), "spile {words:?} says no {part:?}: {said}");
    }
}

#[test]
fn each_end_of_a_command_has_its_exit_code_and_its_line() {
    let (folder, _server) = started();
    check(
        folder.path(),
        &[
            (&["publish", "telemetry/temp", "21.5", "--key", "a"], 0, "version 1"),
            (&["publish", "telemetry/temp", "21.5", "--key", "a", "--expect", "1"], 0, "version 2"),
            (
                &["publish", "telemetry/temp", "x", "--key", "a", "--expect", "7"],
                1,
                "(stale-version); ",
            ),
            (
                &["publish", "telemetry/temp", "x", "--key", "a", "--expect", "new"],
                1,
                "is at version 2",
            ),
            (
                &["publish", "telemetry/temp", "x", "--key", "b", "--expect", "exists"],
                1,
                "stale-version",
            ),
            (&["publish", "telemetry//temp", "x"], 2, "empty level"),
            (&["publish"], 2, "TOPIC"),
            (&["stream", "a"], 0, "21.5"),
            (
                &["subscribe", "telemetry/#", "--from", "nowhere:1", "--count", "1"],
                2,
                "of no worker here",
            ),
            (&["subscribe", "a/#/b"], 2, "wildcard"),
            (&["--context", "spile-data/dev/device.toml", "publish", "t", "x"], 0, "version 1"),
            (
                &["--context", "spile-data/dev/device.toml", "publish", "t", "x", "--key", "a"],
                3,
                "(forbidden); ",
            ),
            (&["--context", "spile-data/dev/device.toml", "subscribe", "#"], 3, "(forbidden); "),
            (&["--context", "spile-data/dev/device.toml", "status"], 3, "(forbidden); "),
            (&["device", "show", "nobody"], 4, "(not-found); "),
            (&["device", "kick", "nobody"], 4, "(not-found); "),
            (&["context", "use", "nosuch"], 4, "(not-found); "),
            (&["errors", "stale-version"], 0, "400"),
            (&["errors", "no-such-code"], 4, "no-such-code"),
            (&["--url", "spile://127.0.0.1:9", "--timeout", "2s", "status"], 5, "127.0.0.1:9"),
            (&["--context", "missing.toml", "status"], 2, "missing.toml"),
        ],
    );
}

#[test]
fn a_name_over_its_limit_is_a_usage_error_that_names_the_limit() {
    let (folder, _server) = started();
    let long = |bytes: usize| "x".repeat(bytes);
    for (words, bytes, told) in [
        (&["blob", "ls"][..], 300, "prefix: it has 300 bytes; 256 is the most"),
        (&["state", "ls"], 5_000, "prefix: it has 5000 bytes; 256 is the most"),
        (&["blob", "show"], 130, "blob: it has 130 bytes; 64 is the most"),
        (&["download"], 130, "blob: it has 130 bytes; 64 is the most"),
        (&["call", "s"], 65, "method: it has 65 bytes; 64 is the most"),
    ] {
        let ran = run(folder.path(), &[words, &[&long(bytes)]].concat());
        assert_eq!(ran.code, 2, "{words:?}: {}{}", ran.out, ran.err);
        let told = format!("{told} (usage); ");
        assert!(ran.err.lines().count() == 1 && ran.err.contains(&told), "{words:?}: {}", ran.err);
    }
    for (words, bytes) in [(["blob", "ls"], 256), (["state", "ls"], 256)] {
        assert_eq!(run(folder.path(), &[&words[..], &[&long(bytes)]].concat()).code, 0);
    }
}

#[test]
fn with_json_an_error_is_an_object_on_stdout_too() {
    let (folder, _server) = started();
    let ran = run(folder.path(), &["--json", "publish", "t", "x", "--key", "k", "--expect", "9"]);
    assert_eq!(ran.code, 1);
    let error: serde_json::Value = serde_json::from_str(ran.out.trim()).unwrap();
    assert_eq!(error["error"]["code"], "stale-version");
    assert_eq!(error["error"]["class"], "your request");
    assert!(error["error"]["retry_after_ms"].is_null());
    assert!(ran.err.starts_with("spile: "), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn lines_are_acked_in_order_and_json_has_the_contracts_fields() {
    let (folder, _server) = started();
    let mut publish = spile::spile(folder.path());
    publish.args(["--json", "publish", "t/x", "--key", "k", "--lines"]);
    let mut child = publish.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = (1..=500).map(|n| format!("{n}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let published = ran(child.wait_with_output().unwrap());
    assert_eq!(published.code, 0, "{}", published.err);
    let acks: Vec<serde_json::Value> =
        published.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(acks.len(), 500);
    for (version, ack) in (1..).zip(&acks) {
        assert_eq!(ack["version"], version);
        assert_eq!(ack["durability"], "stored");
        for field in ["key", "topic", "number", "position"] {
            assert!(!ack[field].is_null(), "{field} in {ack}");
        }
    }
    let read = run(folder.path(), &["--json", "stream", "k", "--from", "499"]);
    let events: Vec<serde_json::Value> =
        read.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["payload"], "500");
    assert_eq!(events[1]["position"], acks[499]["position"]);
    for field in [
        "key",
        "version",
        "topic",
        "time",
        "device_time",
        "content_type",
        "schema",
        "headers",
        "trace",
    ] {
        assert!(events[1].get(field).is_some(), "{field} in {}", events[1]);
    }
}

#[test]
fn a_revoked_device_is_refused() {
    let (folder, _server) = started();
    let folder = folder.path();
    let publish = ["--context", "s/sensor-1.toml", "publish", "t", "x"];
    for (words, code) in [
        (&["device", "add", "sensor-1", "--device-key", "--out", "s"][..], 0),
        (&publish[..], 0),
        (&["device", "revoke", "sensor-1", "--yes"][..], 0),
        (&publish[..], 3),
    ] {
        let ran = run(folder, words);
        assert_eq!(ran.code, code, "{words:?}: {}{}", ran.out, ran.err);
    }
}

#[test]
fn a_device_that_listens_is_shown_and_kicked_and_comes_back() {
    let (folder, server) = started();
    let folder = folder.path();
    let added = run(folder, &["device", "add", "sensor-1", "--device-key", "--out", "s"]);
    assert_eq!(added.code, 0, "{}", added.err);
    let mut inbox = spile::spile(folder);
    inbox.args(["--context", "s/sensor-1.toml", "--json", "inbox", "--count", "2"]);
    let mut child = inbox.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    // It is there, for it takes what comes; and again after it was kicked.
    for round in ["one", "two"] {
        assert_eq!(run(folder, &["publish", "inbox/do", round, "--key", "sensor-1"]).code, 0);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert!(line.contains(round), "{line}");
        if round == "two" {
            break;
        }
        // A kick before it is done would bring it again.
        let done = || server.metric("spile_worker_inbox_settled_total") == 1;
        until("its settlement", || done().then_some(()));
        let shown = run(folder, &["--json", "device", "show", "sensor-1"]);
        let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
        let session = &shown["sessions"][0];
        assert_eq!(
            (&session["edge"], &shown["edge"]),
            (&"local".into(), &"local".into()),
            "{shown}"
        );
        let text = run(folder, &["device", "show", "sensor-1"]).out;
        let run_of = format!("run={}", session["run"].as_str().unwrap());
        let told = text.lines().find(|line| line.starts_with("session ")).unwrap();
        assert!(told.contains("edge=local") && told.contains(&run_of), "{text}");
        let kicked = run(folder, &["--json", "device", "kick", "sensor-1"]);
        let kicked: serde_json::Value = serde_json::from_str(&kicked.out).unwrap();
        assert_eq!((&kicked["sessions"], &kicked["confirmed"][0]), (&1.into(), &"local".into()));
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let kick = ["--context", "s/sensor-1.toml", "device", "kick", "sensor-1"];
    assert_eq!(run(folder, &kick).code, 3);
    assert_eq!(run(folder, &["device", "kick", "no/name"]).code, 2);
}

#[test]
fn devices_are_listed_and_shown_with_the_contracts_fields_and_debugged() {
    let (folder, server) = started();
    let folder = folder.path();
    check(folder, &[(&["device", "add", "sensor-1", "--device-key", "--out", "s"], 0, "sensor-1")]);
    let device = ["--context", "s/sensor-1.toml"];
    let json = |words: &[&str]| -> serde_json::Value {
        let ran = run(folder, &[&["--json"], words].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        serde_json::from_str(ran.out.lines().find(|line| line.contains("sensor-1")).unwrap())
            .unwrap()
    };
    let before = json(&["device", "show", "sensor-1"]);
    for field in ["last_seen", "edge", "last_fault", "throttled_until", "spooled"] {
        assert_eq!(before.get(field), Some(&serde_json::Value::Null), "{field} in {before}");
    }
    assert_eq!(json(&["device", "debug", "sensor-1", "--for", "5m"])["confirmed"][0], "local");
    check(
        folder,
        &[
            (&[&device[..], &["publish", "t", "payload-21.5"]].concat(), 0, "version 1"),
            (&[&device[..], &["publish", "t", "x", "--key", "a"]].concat(), 3, "(forbidden); "),
        ],
    );
    let log = fs::read_to_string(&server.log).unwrap();
    assert!(log.contains("\"kind\":\"EVENT\"") && !log.contains("payload-21.5"), "{log}");
    let shown = json(&["device", "show", "sensor-1"]);
    assert!(shown["last_seen"].as_str().unwrap().ends_with('Z'), "{shown}");
    assert_eq!(shown["last_fault"]["name"], "forbidden", "{shown}");
    assert!(shown["last_fault"]["time"].as_str().unwrap().ends_with('Z'), "{shown}");
    for field in ["device", "role", "tenant", "state", "sessions", "lanes", "open_uploads"] {
        assert!(shown.get(field).is_some(), "{field} in {shown}");
    }
    let listed = json(&["device", "ls"]);
    assert_eq!(listed["last_seen"], shown["last_seen"], "{listed}");
    assert_eq!((&listed["sessions"], &listed["edge"]), (&0.into(), &serde_json::Value::Null));
    check(
        folder,
        &[
            (&["device", "debug", "nobody"], 4, "(not-found); "),
            (&["device", "debug", "sensor-1", "--for", "2d"], 2, "(invalid); "),
            (&[&device[..], &["device", "debug", "sensor-1"]].concat(), 3, "(forbidden); "),
        ],
    );
}

#[test]
fn what_is_not_offered_yet_says_so() {
    let (folder, _server) = started();
    check(
        folder.path(),
        &[
            (
                &["device", "quota", "d", "--events-per-s", "5"],
                2,
                "quotas are not offered yet (usage); ",
            ),
            (&["device", "quota", "--help"], 2, "quotas are not offered yet (usage); "),
            (&["device", "add", "d", "--token"], 2, "tokens (JWT) are not offered yet (usage); "),
            (&["--token", "f", "status"], 2, "tokens (JWT) are not offered yet (usage); "),
        ],
    );
}

#[test]
fn a_subscriber_ends_by_ctrl_c_with_what_it_has_printed() {
    let (folder, _server) = started();
    assert_eq!(run(folder.path(), &["publish", "t", "one"]).code, 0);
    let mut subscribe = spile::spile(folder.path());
    subscribe.args(["--json", "subscribe", "#", "--from", "start"]);
    let mut child = subscribe.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.contains("one"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn two_publishers_with_one_credential_have_a_run_each() {
    let (folder, _server) = started();
    let publishers = ["a", "b"];
    let children = publishers.map(|publisher| {
        let mut publish = spile::spile(folder.path());
        publish.args(["publish", "t", "--key", "shared", "--lines", "--quiet"]);
        let mut child = publish.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines: String = (0..200).map(|n| format!("{publisher} {n}\n")).collect();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let read = run(folder.path(), &["--json", "stream", "shared"]);
    let events: Vec<serde_json::Value> =
        read.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let versions: Vec<_> = events.iter().map(|event| event["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, (1..=400).collect::<Vec<_>>());
    for publisher in publishers {
        let payloads = events.iter().map(|event| event["payload"].as_str().unwrap());
        let own: Vec<_> = payloads.filter(|payload| payload.starts_with(publisher)).collect();
        let sent: Vec<_> = (0..200).map(|n| format!("{publisher} {n}")).collect();
        assert_eq!(own, sent, "each once, in its publisher's order");
    }
}
