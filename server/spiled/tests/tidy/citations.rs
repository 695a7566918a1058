//! Citations: `spec §4.2`, `log §3`, `record §2`, `admin §1` stand in spec/protocol.md, log.md, record.md, admin.md.

use std::collections::BTreeSet;

use super::SourceFile;

const CITED: &[(&str, &str)] = &[
    ("spec", "spec/protocol.md"),
    ("log", "spec/log.md"),
    ("record", "spec/record.md"),
    ("admin", "spec/admin.md"),
];

pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (word, document) in CITED {
        let text = files.iter().find(|file| file.path == *document).map(|file| &file.text);
        let clauses = text.map(|text| clauses(text)).unwrap_or_default();
        // This folder's own samples cite what does not exist.
        for file in files.iter().filter(|file| !file.path.contains("tests/tidy/")) {
            for (line, clause) in citations(&file.text, word) {
                if !clauses.contains(&clause) {
                    let path = &file.path;
                    complaints.push(format!(
                        "{path}:{line}: cites {word} §{clause}, and {document} has none; cite a clause that exists"
                    ));
                }
            }
        }
    }
    complaints
}

/// The numbers with which clauses and headings begin: `## 4 Frames`, `4.2. A sender MUST …`, `**4.2** …`, `- 4.2 …`.
fn clauses(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| number(line.trim_start_matches(['#', '*', '-', '|', '>', '§', ' '])))
        .collect()
}

fn citations(text: &str, word: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let mut before = "";
        for part in line.split('§') {
            let cites = before.trim_end().ends_with(word) && !is_longer_word(before, word);
            if let Some(clause) = number(part).filter(|_| cites) {
                found.push((n + 1, clause));
            }
            before = part;
        }
    }
    found
}

/// Whether the word before `§` only ends like the one that is meant: `catalog`, `mylog`.
fn is_longer_word(before: &str, word: &str) -> bool {
    let rest = before.trim_end().strip_suffix(word).unwrap_or_default();
    rest.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The number a text begins with: `4`, `4.2`, `4.2.1`; a closing dot is not part of it.
fn number(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text.split_at(end).0.trim_matches('.');
    (!number.is_empty()).then(|| number.to_owned())
}

#[test]
fn a_citation_of_what_does_not_exist_is_found() {
    let spec =
        || SourceFile::sample("spec/protocol.md", "## 4 Frames\n\n4.2. A sender MUST\n**4.3** x\n");
    for (text, found) in [
        ("// spec §4.2: a lower sequence is acked again", 0),
        ("// spec §4: x, spec §4.3.", 0),
        ("// spec §4.9: x", 1),
        ("// spec §4.2.1", 1),
        ("// spec §5, spec §6", 2),
        ("// RFC 5077 §4", 0),
        ("// log §3", 1),
        ("// the catalog §3", 0),
        ("// record §2", 1),
        ("// admin §1.1", 1),
    ] {
        let files = [spec(), SourceFile::sample("protocol/src/lib.rs", text)];
        assert_eq!(complaints(&files).len(), found, "{text}");
    }
    let files = [spec(), SourceFile::sample("a.rs", "\n// spec §9")];
    assert!(complaints(&files)[0].starts_with("a.rs:2: "));
    assert_eq!(complaints(&[SourceFile::sample("a.rs", "// spec §4")]).len(), 1, "no document");
}
