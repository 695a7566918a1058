//! Who may name whom inside a crate, where the design draws it: read from the sources.

use super::SourceFile;

/// In files whose path begins so, and with none of `but`, these words are not said.
struct Rule {
    within: &'static str,
    but: &'static [&'static str],
    never: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        within: "protocol/src/",
        but: &["protocol/src/session"],
        never: &["crate::session"],
        why: "sessions are built on messages and frames, not the other way",
    },
    Rule {
        within: "protocol/src/",
        but: &[
            "protocol/src/session",
            "protocol/src/message",
            "protocol/src/frame.rs",
            "protocol/src/codec.rs",
        ],
        never: &["use crate::message", "use crate::frame", "message::", "frame::"],
        why: "limits, names, codes, time and sums know nothing of what is made of them",
    },
    Rule {
        within: "protocol/src/message",
        but: &[],
        never: &["crate::codec", "tokio"],
        why: "what a device builds knows no runtime",
    },
    Rule {
        within: "",
        but: &["server/worker/src/views.rs", "server/worker/tests/", "server/spiled/tests/tidy/"],
        never: &["sled::"],
        why: "sled is behind one file",
    },
    Rule {
        within: "server/edge/src/policy",
        but: &[],
        never: &["crate::session", "crate::route", "tokio"],
        why: "a policy decides and does nothing",
    },
];

/// What a line says, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    let mut complaints = Vec::new();
    for rule in RULES {
        let inside = |file: &&SourceFile| {
            file.path.starts_with(rule.within)
                && !rule.but.iter().any(|but| file.path.starts_with(but))
        };
        for file in files.iter().filter(|file| file.path.ends_with(".rs")).filter(inside) {
            for (n, line) in (1..).zip(file.text.lines()) {
                // Attributes name what serializes a field; that is no import.
                let said = rule.never.iter().find(|word| code(line).contains(*word));
                if let Some(word) = said.filter(|_| !line.contains("serialize_with")) {
                    complaints.push(format!(
                        "{}:{n}: names {word}, but {}; move it",
                        file.path, rule.why
                    ));
                }
            }
        }
    }
    complaints
}

#[test]
fn an_arrow_inside_a_crate_the_wrong_way_is_found() {
    for (path, line, found) in [
        ("protocol/src/frame.rs", "use crate::session::edge;", 1),
        ("protocol/src/frame.rs", "use crate::{crc, message};", 0),
        ("protocol/src/session/edge.rs", "use crate::session::key;", 0),
        ("protocol/src/varint.rs", "use crate::message::Fields;", 1),
        ("protocol/src/varint.rs", "// crate::message::Fields reads with it", 0),
        ("server/worker/src/core.rs", "let tree = sled::open(path);", 1),
        ("server/worker/src/views.rs", "let tree = sled::open(path);", 0),
        ("server/edge/src/policy/rules.rs", "use tokio::net::TcpStream;", 1),
    ] {
        assert_eq!(complaints(&[SourceFile::sample(path, line)]).len(), found, "{path}: {line}");
    }
}
