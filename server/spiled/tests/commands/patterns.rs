//! Every command that docs/patterns.md tells is run as it stands there, where its groups, letters and scripts are.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::spile::{binary, ran, run};
use crate::started;

/// Commands that go on until they are stopped: they are told to end when nothing more comes.
const ENDLESS: [&str; 3] = ["spile consume", "spile subscribe", "spile stream"];
/// Those among them that an event is there for: they are told to end behind it.
const TAKES_ONE: [&str; 2] = ["spile consume makers", "spile consume alerts"];

/// The lines of the page's shell blocks, and what stands as a command in its text, in their order.
fn commands() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/patterns.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    for (n, part) in page.split("```").enumerate() {
        if n % 2 == 1 {
            let block = part.strip_prefix("sh\n").unwrap_or_default();
            found.extend(block.lines().map(str::to_owned));
            continue;
        }
        // In text a command may be broken over two lines.
        let spans = part.split('`').skip(1).step_by(2);
        let commands = spans.filter(|span| span.starts_with("spile "));
        found.extend(commands.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    found
}

/// As it is run: with the place of a letter there is, and an end.
fn as_run(line: &str, letter: &str) -> String {
    let (command, note) = line.split_once(" #").unwrap_or((line, ""));
    assert!(!note.contains("spile "), "a command behind a note is not run: {line}");
    let mut command = command.trim_end().replace("a:1042", letter);
    let among = |some: &[&str]| some.iter().any(|one| command.starts_with(one));
    let end = match (among(&TAKES_ONE), among(&ENDLESS) && !command.contains("--count")) {
        (true, _) => " --count 1",
        (false, true) => " --wait 500ms",
        (false, false) => "",
    };
    command.push_str(end);
    command
}

fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn done(folder: &Path, words: &[&str]) -> String {
    let ran = run(folder, words);
    assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// A folder in which the page's names mean something: the place of a dead letter.
fn prepared(folder: &Path) -> String {
    for (group, filter) in [("billing", "order/#"), ("makers", "jobs/#"), ("alerts", "alert/#")] {
        done(folder, &["group", "create", group, "--filter", filter]);
    }
    for topic in ["order/new", "alert/hot"] {
        done(folder, &["publish", topic, "1", "--key", "KEY"]);
    }
    done(folder, &["consume", "billing", "--count", "1", "--exec", "exit 65"]);
    script(folder, "make.sh", "exit 0");
    script(folder, "mail", "cat >> \"$2.mail\"");
    let letters = done(folder, &["--json", "dlq", "ls", "billing"]);
    let letter: serde_json::Value = serde_json::from_str(letters.trim()).unwrap();
    letter["position"].as_str().unwrap().to_owned()
}

#[test]
fn every_command_of_the_patterns_works_as_it_stands() {
    let (folder, _server) = started();
    let folder = folder.path();
    let letter = prepared(folder);
    let lines = commands();
    assert!(lines.len() > 12, "{lines:?}");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    for line in lines {
        let command = as_run(&line, &letter);
        let script = format!("spile() {{ \"$SPILE\" \"$@\"; }}\nset -o pipefail\n{command}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(folder).env("PATH", &path);
        bash.env("SPILE", binary()).env("SPILE_KEY", "job-17").env_remove("SPILE_CONTEXT");
        let ran = ran(bash.stdin(Stdio::null()).output().unwrap());
        assert_eq!(ran.code, 0, "{line}\n{command}\n{}{}", ran.out, ran.err);
    }
    assert!(folder.join("KEY.mail").exists(), "the alert was mailed");
}

#[test]
fn the_patterns_begin_with_every_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/patterns.md")).unwrap();
    let first = page.split("\n## ").nth(1).unwrap();
    for entry in std::fs::read_dir(root.join("examples/examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(first.contains(&format!("(../examples/examples/{name})")), "{name} is not there");
    }
}
