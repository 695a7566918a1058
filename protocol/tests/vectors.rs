//! spec/vectors: frames as hexadecimal digits with what they mean, or the exact error.
//!
//! Every file is read, decoded, compared, encoded again and compared. The files are written from the tables beside this
//! file by `SPILE_WRITE_VECTORS=1 cargo test -p spile-protocol --test vectors`; without it a difference is a failure, so
//! that no layout changes unseen. A vector of a release is never changed or removed: it decodes for ever.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

#[path = "vectors/long.rs"]
mod long;
#[path = "vectors/set.rs"]
mod set;
#[path = "vectors/valid.rs"]
mod valid;
#[path = "vectors/wrong.rs"]
mod wrong;

use std::path::PathBuf;

use serde_json::Value;
use set::{Set, bytes, outcome, sender};
use spile_protocol::limits;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors")
}

fn made() -> Set {
    let mut set = Set::default();
    valid::greeting(&mut set);
    valid::publishing(&mut set);
    valid::uploads(&mut set);
    valid::consuming(&mut set);
    valid::requests(&mut set);
    valid::links(&mut set);
    wrong::frames(&mut set);
    wrong::fields(&mut set);
    wrong::hot(&mut set);
    wrong::limits(&mut set);
    long::long(&mut set);
    long::numbers(&mut set);
    set.cut();
    set.lengthen();
    set
}

#[test]
fn the_files_hold_what_the_tables_say() {
    let write = std::env::var_os("SPILE_WRITE_VECTORS").is_some();
    let files = made().files();
    for (name, text) in &files {
        let path = folder().join(name);
        if write {
            std::fs::write(path, text).unwrap();
        } else {
            let found = std::fs::read_to_string(path).unwrap_or_default();
            assert!(found == *text, "spec/vectors/{name} differs from the tables");
        }
    }
    assert_eq!(files.len(), read().len(), "a file in spec/vectors has no table");
}

#[test]
fn the_seeds_for_fuzzing_are_those_vectors() {
    let write = std::env::var_os("SPILE_WRITE_VECTORS").is_some();
    let seeds = made().seeds();
    assert!(seeds.len() > 60, "{}", seeds.len());
    for (name, bytes) in seeds {
        let path = folder().join("../../fuzz/seeds").join(name);
        if write {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        } else {
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", path.display());
        }
    }
}

fn read() -> Vec<(String, Value)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.push((path.display().to_string(), serde_json::from_str(&text).unwrap()));
        }
    }
    files
}

/// Calls `check` with every case of every file: where it stands, and itself.
fn each(mut check: impl FnMut(&str, &Value)) -> usize {
    let mut count = 0;
    for (file, value) in read() {
        for case in value["cases"].as_array().unwrap() {
            check(&format!("{file}: {}", case["name"]), case);
            count += 1;
        }
    }
    count
}

#[test]
fn every_vector_means_what_it_says() {
    let count = each(|place, case| {
        let frame = bytes(case["hex"].as_str().unwrap());
        let limit = u32::try_from(case["frame_max"].as_u64().unwrap()).unwrap();
        let found = outcome(&frame, limit, sender(case["from"].as_str().unwrap()));
        let found: Value = serde_json::from_str(&format!("{{{found}}}")).unwrap();
        for field in ["message", "error", "incomplete", "again"] {
            assert_eq!(found[field], case[field], "{place}: {field}");
        }
    });
    assert!(count > 500, "{count}");
}

#[test]
fn a_frame_that_is_not_all_there_is_waited_for() {
    each(|place, case| {
        if case["message"].is_null() {
            return;
        }
        let frame = bytes(case["hex"].as_str().unwrap());
        for length in 0..frame.len() {
            let found = spile_protocol::frame::decode(&frame[..length], u32::MAX >> 8);
            assert_eq!(found, Ok(None), "{place}: the first {length} bytes");
        }
    });
}

#[test]
fn one_flipped_bit_is_always_noticed() {
    each(|place, case| {
        let frame = bytes(case["hex"].as_str().unwrap());
        if case["message"].is_null() || frame.len() > 400 {
            return;
        }
        for bit in 0..frame.len() * 8 {
            let mut bent = frame.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            // A bent length may ask for more than there is, or end the frame where its CRC is not.
            let found = spile_protocol::frame::decode(&bent, u32::MAX >> 8);
            assert!(!matches!(found, Ok(Some(_))), "{place}: bit {bit}");
        }
    });
}

/// A field with a limit: the file of its message, its name and perhaps its variant's, and the most bytes.
#[derive(Debug)]
struct Limited {
    file: String,
    variant: String,
    field: String,
    longest: usize,
}

/// Every `≤ n` in the tables of spec/protocol.md, by the headings they stand under.
fn limited() -> Vec<Limited> {
    let spec = std::fs::read_to_string(folder().join("../protocol.md")).unwrap();
    let mut found = Vec::new();
    let (mut files, mut table): (Vec<String>, usize) = (Vec::new(), 0);
    for line in spec.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let names = heading.split_once(' ').map_or("", |(_, names)| names);
            files =
                names.split(" and ").map(|name| name.to_lowercase().replace('_', "-")).collect();
            table = 0;
        } else if line.starts_with("| field | type |") {
            table += 1;
        } else if line.starts_with("| ") && line.contains('≤') {
            let file = match &files[..] {
                [one] if table == 2 => {
                    if one == "lane" {
                        "lane-answer".into()
                    } else {
                        "opened".into()
                    }
                }
                [one] => one.clone(),
                both => both[table - 1].clone(),
            };
            found.extend(of_row(&file, line));
        }
    }
    found
}

/// The limits of one row: `| `field` | `text` ≤ 64 |`, or several fields of an enum's variants.
fn of_row(file: &str, line: &str) -> Vec<Limited> {
    let plain = line.replace('`', "");
    let cells: Vec<_> = plain.trim_matches('|').split('|').map(str::trim).collect();
    let without_number =
        |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit()).trim().to_owned();
    let mut found = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        for variant in cell.split(" · ") {
            let (name, fields) = variant.split_once(": ").unwrap_or((cells[0], variant));
            for field in fields.split(", ") {
                let Some((what, longest)) = field.split_once(" ≤ ") else { continue };
                // §5.7.1 compares numbers.
                let Ok(longest) = longest.parse() else { continue };
                let what = without_number(what);
                let first = what.split(' ').next().unwrap();
                let alone = ["text", "bytes", "list", "option"].contains(&first);
                let named = without_number(cells[at.saturating_sub(1)]);
                found.push(Limited {
                    file: file.to_owned(),
                    variant: without_number(name),
                    field: if alone { named } else { first.to_owned() },
                    longest,
                });
            }
        }
    }
    found
}

#[test]
fn every_field_with_a_limit_is_there_below_it_at_it_and_above() {
    let made = made();
    let has = |file: &str, name: &str| made.outcome_of(file, name);
    let limited = limited();
    assert!(limited.len() > 55, "{} limits in spec/protocol.md: {limited:?}", limited.len());
    let mut missing = Vec::new();
    for Limited { file, variant, field, longest } in &limited {
        let labels = [format!("{variant}'s {field}"), field.clone()];
        let there = labels.iter().any(|label| {
            let of = |length: usize| has(file, &format!("{label} of {length} bytes"));
            of(longest - 1).is_some_and(|outcome| outcome.starts_with("\"message\""))
                && of(*longest).is_some_and(|outcome| outcome.starts_with("\"message\""))
                && of(longest + 1).is_some_and(|outcome| outcome.contains("\"code\":102,"))
        });
        if !there {
            missing.push(format!("{file}: {variant}: {field} ≤ {longest}"));
        }
    }
    assert!(missing.is_empty(), "{} have no vectors:\n{}", missing.len(), missing.join("\n"));
}

#[test]
fn every_count_with_a_limit_is_there_below_it_at_it_and_above() {
    let made = made();
    let counts = [
        ("batch", "N empty events", limits::BATCH_EVENTS),
        ("deliver", "a block of N empty events", limits::BATCH_EVENTS),
        ("event", "N headers", u32::try_from(limits::HEADERS).unwrap()),
        ("event", "headers of N bytes", u32::try_from(limits::HEADERS_BYTES).unwrap()),
        ("value", "fields of N bytes", u32::try_from(limits::BODY_FIELDS).unwrap()),
        ("call", "fields of N bytes", u32::try_from(limits::BODY_FIELDS).unwrap()),
        ("reply", "fields of N bytes", u32::try_from(limits::BODY_FIELDS).unwrap()),
    ];
    for (file, name, most) in counts {
        for (count, taken) in [(most - 1, true), (most, true), (most + 1, false)] {
            let name = name.replace('N', &count.to_string());
            let outcome = made.outcome_of(file, &name).unwrap_or_default();
            let as_it_must = if taken { "\"message\"" } else { "\"error\":{\"code\":102," };
            assert!(outcome.starts_with(as_it_must), "{file}: {name}: {outcome}");
        }
    }
}
