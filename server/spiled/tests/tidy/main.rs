//! What no compiler keeps: who may import whom, who may touch files, that citations and drawings are where they belong.
//!
//! Each rule is a function from text to complaints, so that each is shown here to fail on a bad sample; then all of them
//! read the repository. A complaint says file, line, what, and what to do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrows;
mod citations;
mod drawings;
mod modules;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository: its path from the root, and its text.
struct SourceFile {
    path: String,
    text: String,
}

impl SourceFile {
    fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every file that ends so, but for what is built, fetched or not ours.
fn files(ends: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    gather(&root(), &root(), ends, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn gather(root: &Path, folder: &Path, ends: &[&str], found: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts" | "spile-data") {
                gather(root, &path, ends, found);
            }
        } else if ends.iter().any(|end| name.ends_with(end)) {
            // Another's editor may move a file away between listing and reading it.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.push(SourceFile { path, text });
        }
    }
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn arrows_inside_crates_are_as_the_design_draws_them() {
    none(modules::complaints(&files(&[".rs"])));
}

#[test]
fn arrows_between_crates_are_as_the_design_draws_them() {
    let manifests = files(&["Cargo.toml"]);
    assert!(manifests.len() >= 9, "the workspace is read");
    none(arrows::complaints(&manifests));
}

#[test]
fn every_crate_keeps_the_workspaces_lints() {
    none(arrows::without_lints(&files(&["Cargo.toml"])));
}

#[test]
fn files_are_touched_only_where_the_design_says() {
    none(sources::complaints(&files(&[".rs"])));
}

#[test]
fn every_source_says_what_lives_there() {
    none(sources::without_head(&files(&[".rs"])));
}

#[test]
fn the_servers_main_is_short() {
    none(sources::long_main(&files(&["main.rs"])));
}

#[test]
fn every_citation_stands_in_the_specification() {
    none(citations::complaints(&files(&[".rs", ".md"])));
}

#[test]
fn wire_layouts_are_drawn_in_the_specification_only() {
    none(drawings::complaints(&files(&[".rs", ".md"])));
}
