//! Where files may be touched, and what every source begins with.

use super::SourceFile;

/// Who may use `std::fs`, and why; a path that ends in `/` is a folder.
const MAY_TOUCH_FILES: &[&str] = &[
    // The disk itself.
    "server/log/src/disk.rs",
    "server/log/src/disk/",
    // sled writes its own folder; one that it can't open is renamed aside.
    "server/worker/src/views.rs",
    // The server's configuration, certificates and data folder.
    "server/spiled/src/config.rs",
    "server/spiled/src/config/check.rs",
    "server/spiled/src/certs/pair.rs",
    "server/spiled/src/data.rs",
    "server/spiled/src/data/tenure.rs",
    "server/spiled/src/durable.rs",
    // What is uploaded is read, off the runtime.
    "client/src/async_client/upload/source.rs",
    // The command line reads and writes what it is told to.
    "client/cli/src/",
    // What measures needs a disk to compare with, and none of it is in a server.
    "benches/",
    "fuzz/",
    // An example reads the context it is given.
    "examples/src/",
];

const MAIN: &str = "server/spiled/src/main.rs";
const MAIN_LINES: usize = 60;

pub(crate) fn complaints(sources: &[SourceFile]) -> Vec<String> {
    sources
        .iter()
        .filter(|file| file.path.contains("/src/") && !may_touch_files(&file.path))
        .flat_map(|file| {
            file_uses(&file.text).into_iter().map(|line| {
                let path = &file.path;
                format!(
                    "{path}:{line}: touches files; go through the disk, or list it with a reason"
                )
            })
        })
        .collect()
}

fn may_touch_files(path: &str) -> bool {
    MAY_TOUCH_FILES
        .iter()
        .any(|may| if may.ends_with('/') { path.starts_with(may) } else { path == *may })
}

/// Lines, from 1, of code that names `std::fs` or `tokio::fs`; comments and unit tests aside.
fn file_uses(text: &str) -> Vec<usize> {
    let code: Vec<&str> = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let mut found = Vec::new();
    let mut group = None;
    for (n, line) in code.iter().enumerate() {
        let squeezed: String = line.split_whitespace().collect();
        if squeezed.contains("std::{") || squeezed.contains("tokio::{") {
            group = Some(n);
        }
        let in_group = group.is_some() && words(line).any(|word| word == "fs");
        if squeezed.contains("std::fs") || squeezed.contains("tokio::fs") || in_group {
            found.push(n + 1);
        }
        if line.contains(';') {
            group = None;
        }
    }
    found
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

pub(crate) fn without_head(sources: &[SourceFile]) -> Vec<String> {
    sources
        .iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| {
            format!("{}:1: no `//!` head; say what lives here and what does not", file.path)
        })
        .collect()
}

pub(crate) fn long_main(sources: &[SourceFile]) -> Vec<String> {
    let main = sources.iter().find(|file| file.path == MAIN);
    let Some(main) = main else { return vec![format!("{MAIN}: missing")] };
    match main.text.lines().count() {
        lines if lines < MAIN_LINES => Vec::new(),
        lines => {
            vec![format!("{MAIN}: {lines} lines; keep it under {MAIN_LINES}, logic elsewhere")]
        }
    }
}

#[test]
fn touching_files_elsewhere_is_found() {
    for (path, text, fails) in [
        ("server/edge/src/lib.rs", "use std::fs;\n", true),
        ("server/edge/src/lib.rs", "use std::fs::File;\n", true),
        ("server/edge/src/lib.rs", "fn f() { std::fs::read(p) }\n", true),
        ("server/edge/src/lib.rs", "use tokio::fs::File;\n", true),
        ("server/edge/src/lib.rs", "use std::{fs, io};\n", true),
        ("server/edge/src/lib.rs", "use std::{\n    fs::File,\n    io,\n};\n", true),
        ("server/edge/src/lib.rs", "use std::{io, net};\nlet fs = 1;\n", false),
        ("server/edge/src/lib.rs", "// std::fs is not for here\n", false),
        ("server/edge/src/lib.rs", "#[cfg(test)]\nmod tests { use std::fs; }\n", false),
        ("server/log/src/writer.rs", "use std::fs;\n", true),
        ("server/log/src/disk.rs", "use std::fs;\n", false),
        ("server/log/src/disk/real.rs", "use std::fs;\n", false),
        ("server/log/src/disk_cache.rs", "use std::fs;\n", true),
        ("server/edge/tests/x.rs", "use std::fs;\n", false),
    ] {
        let found = complaints(&[SourceFile::sample(path, text)]);
        assert_eq!(!found.is_empty(), fails, "{path}\n{text}");
    }
    let found = complaints(&[SourceFile::sample("server/edge/src/a.rs", "\n\nuse std::fs;")]);
    assert!(found[0].starts_with("server/edge/src/a.rs:3: "), "{found:?}");
}

#[test]
fn a_source_without_a_head_is_found() {
    assert_eq!(without_head(&[SourceFile::sample("a.rs", "use x;\n//! late\n")]).len(), 1);
    assert!(without_head(&[SourceFile::sample("a.rs", "//! What lives here.\n")]).is_empty());
}

#[test]
fn a_long_main_is_found() {
    let long = "x\n".repeat(MAIN_LINES);
    assert_eq!(long_main(&[SourceFile::sample(MAIN, &long)]).len(), 1);
    assert_eq!(long_main(&[SourceFile::sample(MAIN, &long[2..])]).len(), 0);
    assert_eq!(long_main(&[SourceFile::sample("client/cli/src/main.rs", "")]).len(), 1);
}
