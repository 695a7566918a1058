//! Durable groups as people and scripts use them: `group`, `consume` by exec, pipe and plain, `dlq`.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::spile::{Ran, ran, run, spile};
use crate::{check, started, until};

/// One object a line.
fn objects(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs it with --json; it must end with 0.
pub(crate) fn told(folder: &Path, words: &[&str]) -> Vec<Value> {
    let ran = run(folder, &[&["--json"], words].concat());
    assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
    objects(&ran)
}

/// Publishes 1, 2, 3 … under a key.
pub(crate) fn publish(folder: &Path, key: &str, count: u32) {
    let mut publish = spile(folder);
    publish.args(["--quiet", "publish", "t/x", "--key", key, "--lines"]);
    let mut child = publish.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines: String = (1..=count).map(|n| format!("{n}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A group whose retries do not wait long.
pub(crate) fn create(folder: &Path, more: &[&str]) {
    let words = ["group", "create", "g", "--filter", "t/#", "--backoff", "1ms..5ms"];
    told(folder, &[&words, more].concat());
}

pub(crate) fn show(folder: &Path) -> Value {
    told(folder, &["group", "show", "g"]).remove(0)
}

/// Of each: key, version, attempt and outcome.
pub(crate) fn outcomes(rows: &[Value]) -> Vec<(&str, u64, u64, &str)> {
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
    rows.iter()
        .map(|row| {
            let (key, outcome) = (row["key"].as_str().unwrap(), row["outcome"].as_str().unwrap());
            (key, number(row, "version"), number(row, "attempt"), outcome)
        })
        .collect()
}

#[test]
fn a_group_goes_on_where_it_ended_and_tells_the_contracts_fields() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 3);
    create(folder, &[]);
    let taken = told(folder, &["consume", "g", "--count", "2"]);
    assert_eq!(outcomes(&taken), [("k", 1, 1, "done"), ("k", 2, 1, "done")]);
    for field in ["group", "position", "topic", "payload", "time"] {
        assert!(!taken[0][field].is_null(), "{field} in {}", taken[0]);
    }
    // What a command was handed beyond its count goes back, and that was no attempt.
    publish(folder, "k", 2);
    let taken = told(folder, &["consume", "g", "--count", "3"]);
    assert_eq!(outcomes(&taken), [("k", 3, 1, "done"), ("k", 4, 1, "done"), ("k", 5, 1, "done")]);
    assert!(told(folder, &["consume", "g", "--wait", "200ms"]).is_empty());
    let shown = show(folder);
    for field in [
        "name",
        "filter",
        "settled_upto",
        "lag",
        "in_flight",
        "waiting",
        "dead",
        "members",
        "epoch",
    ] {
        assert!(!shown[field].is_null(), "{field} in {shown}");
    }
    assert_eq!((&shown["lag"], &shown["dead"]), (&Value::from(0), &Value::from(0)));
    let listed = told(folder, &["group", "ls"]);
    assert_eq!((listed.len(), &listed[0]["name"]), (1, &Value::from("g")));
}

#[test]
fn each_end_of_a_groups_command_has_its_exit_code_and_its_line() {
    let (folder, _server) = started();
    check(
        folder.path(),
        &[
            (&["group", "create", "g", "--filter", "t/#"], 0, "t/#"),
            (&["group", "create", "g", "--filter", "t/#"], 0, "t/#"),
            (&["group", "create", "g", "--filter", "u/#"], 1, "(exists); "),
            (&["group", "create", "h", "--filter", "t/#/x"], 2, "wildcard"),
            (&["group", "show", "nobody"], 4, "(not-found); "),
            (&["group", "seek", "nobody", "--to", "start"], 4, "(not-found); "),
            (&["consume", "nobody"], 4, "(not-found); "),
            (&["consume", "g", "--exec", "a", "--pipe", "b"], 2, "--pipe"),
            (&["dlq", "ls", "nobody"], 4, "(not-found); "),
            (&["dlq", "show", "g", "local:999"], 4, "(not-found); "),
            (&["dlq", "drop", "g", "--all"], 2, "say --yes"),
            (&["group", "rm", "g"], 2, "say --yes"),
            (&["group", "rm", "g", "--yes"], 0, "g"),
            (&["consume", "g"], 4, "(not-found); "),
            (&["--context", "spile-data/dev/device.toml", "consume", "g"], 3, "(forbidden); "),
        ],
    );
}

#[test]
fn a_place_of_no_worker_is_refused_and_nothing_is_done() {
    const TWICE: &str = r#"{"name":"g","to":"local:1,local:2"}"#;
    const EARLY: &str = r#"{"name":"h","filter":"t/#","from":-5}"#;
    const BOTH: &str = r#"{"group":"g","all":true,"positions":["local:1"]}"#;
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 1);
    create(folder, &[]);
    let before = show(folder);
    let foo = "foo is no worker here; there is local (invalid); ";
    check(
        folder,
        &[
            (&["group", "seek", "g", "--to", "foo:1"], 2, foo),
            (&["group", "seek", "g", "--to", "local:1,foo:1"], 2, foo),
            (&["group", "seek", "g", "--to", "foo:1", "--dry-run"], 2, foo),
            (&["group", "create", "h", "--filter", "t/#", "--from", "foo:1"], 2, foo),
            (&["call", "$group", "seek", TWICE], 2, "local is named twice"),
            (&["call", "$group", "create", EARLY], 2, "start, end, WORKER:N or milliseconds"),
            (&["group", "show", "h"], 4, "(not-found); "),
            (
                &["subscribe", "t/#", "--from", "foo:1"],
                2,
                "no worker here, or of one twice (invalid); ",
            ),
            (
                &["subscribe", "t/#", "--from", "local:1,foo:1"],
                2,
                "no worker here, or of one twice (invalid); ",
            ),
            (
                &["subscribe", "t/#", "--key", "k", "--from", "local:1,foo:1"],
                2,
                "no worker here, or of one twice (invalid); ",
            ),
            (&["call", "$dlq", "replay", BOTH], 2, "not both"),
            (&["call", "$dlq", "drop", BOTH], 2, "not both"),
        ],
    );
    assert_eq!(show(folder), before);
}

#[test]
fn quiet_says_nothing_of_what_went_well() {
    let (folder, _server) = started();
    let folder = folder.path();
    std::fs::write(folder.join("file"), "x").unwrap();
    create(folder, &[]);
    let quietly = |words: &[&str]| run(folder, &[&["--quiet"], words].concat());
    let consume = ["consume", "g", "--count", "1", "--exec"];
    let done = [&consume[..], &["true"]].concat();
    let failed = [&consume[..], &["false"]].concat();
    for words in [&["publish", "t/x", "1"][..], &done, &["upload", "file"]] {
        let ran = quietly(words);
        assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "", ""), "{words:?}");
    }
    // What did not go well is told, and so is what was asked for.
    assert_eq!(quietly(&["publish", "t/x", "2"]).code, 0);
    let ran = quietly(&failed);
    assert!(ran.code == 0 && ran.out.contains("attempt 1 retry"), "{}{}", ran.out, ran.err);
    let ran = quietly(&["consume", "g", "--count", "1"]);
    assert!(ran.code == 0 && ran.out.ends_with("attempt 2 2\n"), "{}{}", ran.out, ran.err);
    assert_eq!(told(folder, &["--quiet", "publish", "t/x", "3"]).len(), 1, "scripts hear all");
}

#[test]
fn exec_gives_a_child_the_payload_and_what_it_is_about() {
    let (folder, _server) = started();
    let folder = folder.path();
    assert_eq!(run(folder, &["publish", "t/x", "21.5", "--key", "line 7"]).code, 0);
    create(folder, &[]);
    let command = "cat > payload; env | grep ^SPILE_ | sort > names; echo said";
    let ran = run(folder, &["--json", "consume", "g", "--count", "1", "--exec", command]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows = objects(&ran);
    assert_eq!(outcomes(&rows), [("line 7", 1, 1, "done")]);
    assert!(ran.err.contains("said"), "with --json a child's words are no results: {}", ran.err);
    assert_eq!(std::fs::read(folder.join("payload")).unwrap(), b"21.5");
    let names = std::fs::read_to_string(folder.join("names")).unwrap();
    let position = rows[0]["position"].as_str().unwrap();
    for line in [
        "SPILE_ATTEMPT=1",
        "SPILE_KEY=line 7",
        &format!("SPILE_POSITION={position}"),
        "SPILE_TOPIC=t/x",
        "SPILE_VERSION=1",
    ] {
        assert!(names.lines().any(|named| named == line), "{line} in {names}");
    }
    let trace = names.lines().find_map(|line| line.strip_prefix("SPILE_TRACE=")).unwrap();
    assert_eq!(trace.len(), 32, "{names}");
}

#[test]
fn what_fails_is_tried_again_and_then_a_dead_letter_that_can_be_replayed_or_dropped() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 3);
    create(folder, &["--max-attempts", "3"]);
    let rows =
        told(folder, &["consume", "g", "--count", "5", "--exec", "test $SPILE_VERSION != 2"]);
    assert_eq!(
        outcomes(&rows),
        [
            ("k", 1, 1, "done"),
            ("k", 2, 1, "retry"),
            ("k", 2, 2, "retry"),
            ("k", 2, 3, "retry"),
            ("k", 3, 1, "done")
        ]
    );
    let letters = told(folder, &["dlq", "ls", "g"]);
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    for field in ["group", "position", "key", "topic", "attempts", "reason", "time"] {
        assert!(!letter[field].is_null(), "{field} in {letter}");
    }
    assert_eq!((&letter["key"], &letter["attempts"]), (&Value::from("k"), &Value::from(3)));
    assert!(letter["reason"].as_str().unwrap().contains("test $SPILE_VERSION"), "{letter}");
    let position = letter["position"].as_str().unwrap();
    let letter = told(folder, &["dlq", "show", "g", position]).remove(0);
    assert_eq!(letter["payload"], "2");
    assert_eq!(show(folder)["dead"], 1);

    let counted = told(folder, &["dlq", "replay", "g", "--all", "--dry-run"]).remove(0);
    assert_eq!(counted["replayed"], 1);
    assert!(told(folder, &["consume", "g", "--wait", "200ms"]).is_empty(), "only counted");
    told(folder, &["dlq", "replay", "g", position]);
    let rows = told(folder, &["consume", "g", "--count", "1"]);
    assert_eq!((rows[0]["version"].as_u64(), &rows[0]["payload"]), (Some(2), &Value::from("2")));
    assert!(told(folder, &["dlq", "ls", "g"]).is_empty());

    publish(folder, "k", 1);
    let rows = told(folder, &["consume", "g", "--count", "1", "--exec", "exit 65"]);
    assert_eq!(outcomes(&rows), [("k", 4, 1, "reject")], "dead at once");
    assert_eq!(told(folder, &["dlq", "ls", "g"]).len(), 1);
    let counted = told(folder, &["dlq", "drop", "g", "--all", "--dry-run"]).remove(0);
    assert_eq!((&counted["dropped"], &show(folder)["dead"]), (&Value::from(1), &Value::from(1)));
    let dropped = told(folder, &["dlq", "drop", "g", "--all", "--yes"]).remove(0);
    assert_eq!(dropped["dropped"], 1);
    assert!(told(folder, &["dlq", "ls", "g"]).is_empty());
    assert_eq!(show(folder)["dead"], 0);
}

#[test]
fn an_event_that_fails_holds_back_its_own_key_only() {
    let (folder, _server) = started();
    let folder = folder.path();
    for key in ["poison", "a", "b"] {
        publish(folder, key, 2);
    }
    told(folder, &["group", "create", "g", "--filter", "t/#", "--backoff", "1h..1h"]);
    let rows =
        told(folder, &["consume", "g", "--count", "5", "--exec", "test $SPILE_KEY != poison"]);
    let mut rows = outcomes(&rows);
    rows.sort_unstable();
    assert_eq!(
        rows,
        [
            ("a", 1, 1, "done"),
            ("a", 2, 1, "done"),
            ("b", 1, 1, "done"),
            ("b", 2, 1, "done"),
            ("poison", 1, 1, "retry")
        ]
    );
    let shown = show(folder);
    assert_eq!((&shown["lag"], &shown["settled"]), (&Value::from(2), &Value::from(4)), "{shown}");
}

#[test]
fn a_command_that_is_not_there_takes_nothing() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 1);
    create(folder, &[]);
    for flag in ["--exec", "--pipe"] {
        for command in ["./no-such-program", "no-such-program --x"] {
            let ran = run(folder, &["consume", "g", "--wait", "1m", flag, command]);
            assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
            assert!(ran.err.starts_with("spile: run ") && ran.err.lines().count() == 1);
            assert!(ran.err.contains("no-such-program\" that") && ran.err.contains("(child); "));
            assert!(ran.out.is_empty(), "{}", ran.out);
        }
        let ran = run(folder, &["consume", "g", "--wait", "1m", flag, " "]);
        assert_eq!((ran.code, ran.err.contains("(usage); ")), (2, true), "{}", ran.err);
    }
    let rows = told(folder, &["consume", "g", "--count", "1"]);
    assert_eq!(outcomes(&rows), [("k", 1, 1, "done")], "it was no attempt");
}

#[test]
fn keys_are_worked_on_in_parallel_and_each_keeps_its_order() {
    let (folder, _server) = started();
    let folder = folder.path();
    for key in ["a", "b"] {
        publish(folder, key, 20);
    }
    create(folder, &[]);
    // Neither first event is done before both have begun.
    let meet = "touch met-$SPILE_KEY; until [ -e met-a ] && [ -e met-b ]; do :; done";
    let command = format!("{meet}; echo $SPILE_VERSION >> order-$SPILE_KEY");
    let rows = told(
        folder,
        &["consume", "g", "--count", "40", "--parallel", "2", "--batch", "4", "--exec", &command],
    );
    assert_eq!(rows.len(), 40);
    for key in ["a", "b"] {
        let order = std::fs::read_to_string(folder.join(format!("order-{key}"))).unwrap();
        let want: String = (1..=20).map(|n| format!("{n}\n")).collect();
        assert_eq!(order, want, "{key}");
    }
}

#[test]
fn a_piped_child_answers_event_by_event() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "line 7", 3);
    publish(folder, "b", 3);
    create(folder, &["--max-attempts", "2"]);
    // Rejects version 2, retries version 3 once, and keeps what it was told.
    let script = r#"tee told | sed -u -n \
        -e 's/.*"key":"\([^"]*\)","version":2,.*/reject \1 2/p; t' \
        -e 's/.*"attempt":1,.*"key":"\([^"]*\)","version":3,.*/retry \1 3/p; t' \
        -e 's/.*"key":"\([^"]*\)","version":\([0-9]*\),.*/done \1 \2/p'"#;
    let args = ["consume", "g", "--count", "8", "--parallel", "4", "--batch", "3"];
    let rows = told(folder, &[&args[..], &["--pipe", script]].concat());
    let rows = outcomes(&rows);
    for key in ["line 7", "b"] {
        let of_key: Vec<_> = rows.iter().filter(|row| row.0 == key).copied().collect();
        assert_eq!(
            of_key,
            [(key, 1, 1, "done"), (key, 2, 1, "reject"), (key, 3, 1, "retry"), (key, 3, 2, "done")]
        );
    }
    let line = std::fs::read_to_string(folder.join("told")).unwrap();
    let first: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    for field in ["group", "position", "key", "version", "attempt", "topic", "time", "payload"] {
        assert!(!first[field].is_null(), "{field} in {first}");
    }
    assert_eq!(told(folder, &["dlq", "ls", "g"]).len(), 2);
}

#[test]
fn a_tool_that_is_missing_for_one_event_stops_no_other_key() {
    for missing in ["no-such-tool", "exit 126"] {
        let (folder, _server) = started();
        let folder = folder.path();
        for key in ["poison", "a", "b"] {
            publish(folder, key, 2);
        }
        create(folder, &["--max-attempts", "2"]);
        let command = format!("if test $SPILE_KEY = poison; then {missing}; fi");
        let ran =
            run(folder, &["--json", "consume", "g", "--count", "8", "--exec", command.as_str()]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        let rows = objects(&ran);
        let mut rows = outcomes(&rows);
        rows.sort_unstable();
        assert_eq!(
            rows,
            [
                ("a", 1, 1, "done"),
                ("a", 2, 1, "done"),
                ("b", 1, 1, "done"),
                ("b", 2, 1, "done"),
                ("poison", 1, 1, "retry"),
                ("poison", 1, 2, "retry"),
                ("poison", 2, 1, "retry"),
                ("poison", 2, 2, "retry")
            ]
        );
        let notices = ran.err.lines().filter(|line| line.starts_with("spile: the shell ")).count();
        assert_eq!(notices, 1, "{}", ran.err);
        let letters = told(folder, &["dlq", "ls", "g"]);
        let told = |letter: &Value| letter["reason"].as_str().unwrap().contains("could not run");
        assert!(letters.len() == 2 && letters.iter().all(told), "{letters:?}");
    }
}

#[test]
fn a_piped_child_that_dies_or_says_nonsense_ends_it_and_nothing_is_lost() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 1);
    create(folder, &["--max-attempts", "9"]);
    for (script, part) in [
        ("head -n 1 > /dev/null; exit 3", "exit status: 3"),
        ("sed -u 's/.*/maybe k 1/'", "maybe k 1"),
        ("sed -u 's/.*/done k 7/'", "no such event"),
        ("exit 0", "exit status: 0"),
    ] {
        let ran = run(folder, &["consume", "g", "--wait", "1m", "--pipe", script]);
        assert_eq!(ran.code, 1, "{script}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(part) && ran.err.contains("(child); "), "{script}: {}", ran.err);
    }
    let rows = told(folder, &["consume", "g", "--count", "1"]);
    let (key, version, attempt, outcome) = outcomes(&rows)[0];
    assert_eq!((key, version, outcome), ("k", 1, "done"));
    assert!(attempt > 1, "what it held was tried again");
}

#[test]
fn a_group_that_is_sought_begins_again_there() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 5);
    create(folder, &[]);
    let first = told(folder, &["consume", "g", "--count", "5"]);
    let epoch = show(folder)["epoch"].as_u64().unwrap();
    let counted = told(folder, &["group", "seek", "g", "--to", "start", "--dry-run"]).remove(0);
    assert_eq!(counted["events"], 5);
    assert_eq!(show(folder)["epoch"], epoch, "only counted");
    assert!(told(folder, &["consume", "g", "--wait", "200ms"]).is_empty());
    let place = first[3]["position"].as_str().unwrap();
    let sought = told(folder, &["group", "seek", "g", "--to", place]).remove(0);
    assert_eq!(sought["epoch"], epoch + 1);
    let again = told(folder, &["consume", "g", "--count", "2"]);
    assert_eq!(outcomes(&again), [("k", 4, 1, "done"), ("k", 5, 1, "done")]);
    publish(folder, "k", 3);
    told(folder, &["group", "seek", "g", "--to", "end"]);
    assert!(told(folder, &["consume", "g", "--wait", "200ms"]).is_empty(), "they were skipped");
    assert_eq!(show(folder)["lag"], 0);
}

#[test]
fn ctrl_c_settles_what_is_finished_and_leaves_the_rest() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 2);
    create(folder, &[]);
    // The second is never done.
    let command = "test $SPILE_VERSION = 1 || { touch begun; exec tail -f /dev/null; }";
    let mut consume = spile(folder);
    consume.args(["--json", "consume", "g", "--exec", command]);
    let mut child = consume.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert!(line.contains("\"done\""), "{line}");
    while !folder.join("begun").exists() {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 0, "{}", ended.err);
    let rows = told(folder, &["consume", "g", "--count", "1"]);
    assert_eq!(outcomes(&rows), [("k", 2, 1, "done")], "left, and not tried");
}

/// Runs on in the background of its shell, and says as whom.
const GRANDCHILD: &str = "tail -f /dev/null > /dev/null 2>&1 & echo $! > grandchild.new; mv grandchild.new grandchild; wait";

/// The process that wrote its number there, once it did.
pub(crate) fn grandchild(folder: &Path) -> u32 {
    let text = || std::fs::read_to_string(folder.join("grandchild")).ok();
    until("the grandchild", text).trim().parse().unwrap()
}

/// Waits until a process is no more, or only its number is.
pub(crate) fn is_gone(process: u32) {
    let stat = format!("/proc/{process}/stat");
    let gone = |text: String| text.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"));
    until(&format!("the end of process {process}"), || {
        std::fs::read_to_string(&stat).map_or(true, gone).then_some(())
    });
}

#[test]
fn ending_early_ends_a_child_and_all_it_started() {
    let (folder, _server) = started();
    let folder = folder.path();
    publish(folder, "k", 1);
    create(folder, &[]);
    for kind in ["--exec", "--pipe"] {
        let mut consume = spile(folder);
        consume.args(["--timeout", "3s", "consume", "g", kind, GRANDCHILD]);
        let mut child = consume.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let process = grandchild(folder);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{kind}");
        is_gone(process);
        std::fs::remove_file(folder.join("grandchild")).unwrap();
    }
}

#[test]
fn a_call_whose_time_is_over_has_no_child_and_no_grandchild_any_more() {
    let (folder, _server) = started();
    let folder = folder.path();
    let mut serve = spile(folder);
    serve.args(["serve", "jobs", "--exec", GRANDCHILD]).stdout(Stdio::null());
    let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("serving"), "{line}");
    let (called, process) = std::thread::scope(|scope| {
        let called = scope.spawn(|| run(folder, &["call", "jobs", "x", "--timeout", "3s"]));
        let process = grandchild(folder);
        (called.join().unwrap(), process)
    });
    assert_eq!(called.code, 5, "{}", called.err);
    is_gone(process);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}
