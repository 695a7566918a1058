//! The `spile` command where no server is needed: help, codes, completions, usage errors, nobody there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tokio::net::TcpSocket;

fn spile(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spile"))
        .args(args)
        .current_dir(folder)
        .env_remove("SPILE_CONTEXT")
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// One line on stderr in the contract's form, nothing on stdout, that exit.
fn refused(args: &[&str], exit: i32, code: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = spile(folder.path(), args);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with("spile: "), "{line}");
    assert!(line.contains(&format!("({code}); ")), "{line}");
    assert!(output.stdout.is_empty());
    line
}

/// Credentials that can be read; whom they convince is no matter here.
fn context(folder: &Path, url: &str) {
    let file = folder.join("c.toml");
    std::fs::write(folder.join("key"), "07".repeat(32)).unwrap();
    let text = format!("url = {url:?}\nprincipal = \"d\"\ndevice_key = \"key\"\n");
    std::fs::write(file, text).unwrap();
}

/// An address at which nobody listens, and that nobody else is given as long as this is kept.
fn nobody() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket
}

#[test]
fn what_can_not_be_meant_is_a_usage_error() {
    refused(&[], 2, "usage");
    refused(&["nonsense"], 2, "usage");
    refused(&["publish"], 2, "usage");
    refused(&["publish", "t", "d", "--expect", "old"], 2, "usage");
    refused(&["subscribe", "#", "--from", "middle"], 2, "usage");
    refused(&["stream", "k", "--from", "0"], 2, "usage");
    refused(&["status", "--timeout", "5"], 2, "usage");
    refused(&["status", "--url", "http://h"], 2, "usage");
    refused(&["device", "add", "d"], 2, "usage");
    refused(&["group", "create", "g"], 2, "usage");
    refused(&["group", "create", "g", "--filter", "a/#/b"], 2, "usage");
    refused(&["consume", "a b"], 2, "usage");
    refused(&["consume", "g", "--exec", "a", "--pipe", "b"], 2, "usage");
    refused(&["consume", "g", "--exec", ""], 2, "usage");
    refused(&["consume", "g", "--pipe", " "], 2, "usage");
    refused(&["serve", "s", "--exec", ""], 2, "usage");
    refused(&["serve", "s", "--exec", "./no-such-program"], 1, "child");
    refused(&["dlq", "replay", "g"], 2, "usage");
    refused(&["dlq", "show", "g", "five"], 2, "usage");
    refused(&["bench", "publish", "--size", "1TiB", "--url", "spile://h"], 2, "usage");
}

#[test]
fn without_a_context_the_way_to_one_is_told() {
    let line = refused(&["status"], 2, "context");
    assert!(line.contains("operator.toml") && line.contains("start `spiled`"), "{line}");
    refused(&["status", "--context", "/nowhere.toml"], 2, "context");
}

#[test]
fn nobody_there_is_5_and_with_json_an_object_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = nobody();
    let port = nobody.local_addr().unwrap().port();
    context(folder.path(), &format!("spile+insecure://127.0.0.1:{port}"));
    for command in [&["publish", "t", "d"][..], &["subscribe", "#"], &["status"], &["device", "ls"]]
    {
        let args = [command, &["--context", "./c.toml", "--json"]].concat();
        let output = spile(folder.path(), &args);
        assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], "unreachable");
        assert_eq!(object["error"]["class"], "our side");
        assert!(object["error"]["message"].as_str().unwrap().contains("127.0.0.1"));
        assert!(object["error"].as_object().unwrap().contains_key("retry_after_ms"));
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    context(folder.path(), &format!("spile+insecure://127.0.0.1:{port}"));
    let args = ["publish", "t", "d", "--context", "./c.toml", "--timeout", "200ms"];
    let output = spile(folder.path(), &args);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("no answer within 200ms"));
}

#[test]
fn doctor_says_how_far_it_gets() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = nobody();
    let port = nobody.local_addr().unwrap().port();
    context(folder.path(), &format!("spile+insecure://127.0.0.1:{port}"));
    let output = spile(folder.path(), &["doctor", "--json", "--context", "./c.toml"]);
    assert_eq!(output.status.code(), Some(5));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| (line["check"].as_str(), line["ok"].as_bool())).collect();
    assert_eq!(told, [(Some("name"), Some(true)), (Some("tcp"), Some(false))]);
    assert!(lines[1]["remedy"].as_str().unwrap().contains("start `spiled`"));
}

#[test]
fn codes_are_explained_by_name_and_number() {
    let folder = tempfile::tempdir().unwrap();
    for code in ["forbidden", "202", "(forbidden)"] {
        let output = spile(folder.path(), &["errors", code]);
        assert_eq!(output.status.code(), Some(0));
        let told = text(&output.stdout);
        assert!(told.contains("202 forbidden") && told.contains("remedy:"), "{told}");
    }
    let output = spile(folder.path(), &["errors", "unreachable", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["code"], "unreachable");
    assert!(object["cause"].is_string() && object["remedy"].is_string());
    refused(&["errors", "no-such-code"], 4, "not-found");
}

#[test]
fn help_version_and_completions_go_to_stdout() {
    let folder = tempfile::tempdir().unwrap();
    for (args, want) in [
        (&["help"][..], "spile publish telemetry/temp"),
        (&["--help"], "Exit: 0 done"),
        (&["help", "consume"], "done KEY VERSION, retry KEY VERSION or reject KEY VERSION"),
        (&["help", "publish"], "seq 1000 | spile publish"),
        (&["device", "add", "--help"], "--device-key --out"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["completions", "bash"], "_spile"),
        (&["completions", "zsh"], "#compdef spile"),
    ] {
        let output = spile(folder.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).contains(want), "{args:?}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_spile"))
        .args(["completions", "bash"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn a_context_is_chosen_shown_and_used() {
    let folder = tempfile::tempdir().unwrap();
    context(folder.path(), "spile://one");
    assert_eq!(spile(folder.path(), &["context", "show"]).status.code(), Some(2));
    assert_eq!(spile(folder.path(), &["context", "use", "./nothing.toml"]).status.code(), Some(4));
    assert_eq!(spile(folder.path(), &["context", "use", "./c.toml"]).status.code(), Some(0));
    let shown = spile(folder.path(), &["context", "show", "--json"]);
    let object: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (object["url"].as_str(), object["principal"].as_str()),
        (Some("spile://one"), Some("d"))
    );
    // What is named goes before what was chosen.
    std::fs::write(folder.path().join("other.toml"), "url = \"spile://two\"\n").unwrap();
    let shown = spile(folder.path(), &["context", "show", "--context", "./other.toml"]);
    assert!(text(&shown.stdout).contains("spile://two"));
}

#[test]
fn destroying_without_a_person_needs_a_yes() {
    let folder = tempfile::tempdir().unwrap();
    context(folder.path(), "spile+insecure://127.0.0.1:1");
    for words in
        [&["device", "revoke", "d"][..], &["group", "rm", "g"], &["dlq", "drop", "g", "--all"]]
    {
        let output = spile(folder.path(), &[words, &["--context", "./c.toml"]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains("say --yes"));
    }
}
