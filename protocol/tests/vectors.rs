//! spec/vectors: frames as hexadecimal digits with what they mean, or the exact error.
//!
//! Every file is read, decoded, compared, encoded again and compared. The files are written from the tables beside this
//! file by `SPILE_WRITE_VECTORS=1 cargo test -p spile-protocol --test vectors`; without it a difference is a failure, so
//! that no layout changes unseen. A vector of a release is never changed or removed: it decodes for ever.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

#[path = "vectors/set.rs"]
mod set;
#[path = "vectors/valid.rs"]
mod valid;
#[path = "vectors/wrong.rs"]
mod wrong;

use std::path::PathBuf;

use serde_json::Value;
use set::{Set, bytes, outcome, sender};

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
    set.cut();
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
