//! `spiled log`: a folder nobody has open is looked at, and what is corrupt is found.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use spile_log::{Append, Log, Options, RealDisk};
use spiled::data::DataFolder;
use tempfile::TempDir;

/// Its CRC-32 is known to everybody.
const PAYLOAD: &[u8] = b"123456789";
const PAYLOAD_CRC: u32 = 0xcbf4_3926;

fn log(arguments: &[&str], data: &Path) -> (i32, Vec<Value>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_spiled"))
        .args(["log", arguments[0]])
        .arg(data)
        .args(&arguments[1..])
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let lines = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code().unwrap(), lines, String::from_utf8(output.stderr).unwrap())
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["kind"].as_str().unwrap()).collect()
}

/// A data folder whose event log has 100 records, stored and closed.
fn written(folder: &TempDir) -> PathBuf {
    let data = folder.path().join("data");
    drop(DataFolder::open(&data).unwrap());
    let disk = Arc::new(RealDisk::open(data.join("events")).unwrap());
    let (log, recovered) = Log::open(disk, Options::default()).unwrap();
    let record = Append {
        kind: 1,
        positions: 1,
        time_ms: 5,
        stream: 0,
        version: 0,
        prev: 0,
        head: Bytes::new(),
        payload: Bytes::from_static(PAYLOAD),
        payload_crc: PAYLOAD_CRC,
    };
    let mut records = vec![record; 100];
    log.append(recovered.generation, &mut records).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        log.durable().wait_for(|durable| durable.end.get() == 101).await.unwrap();
    });
    log.close();
    data
}

fn segment(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("events")).unwrap().map(|entry| entry.unwrap().path());
    files
        .max_by_key(|path| fs::read(path).unwrap().windows(9).filter(|w| *w == PAYLOAD).count())
        .unwrap()
}

#[test]
fn a_sound_log_is_verified_dumped_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let data = written(&folder);
    let before = fs::read(segment(&data)).unwrap();
    let (code, lines, err) = log(&["verify"], &data);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!lines.is_empty() && lines.iter().all(|line| line["ok"] == true), "{lines:?}");
    for field in ["log", "segment", "position", "kind", "ok", "detail"] {
        assert!(lines.iter().all(|line| line.get(field).is_some()), "{field}: {lines:?}");
    }
    let (code, lines, _) = log(&["dump"], &data);
    let records = kinds(&lines).into_iter().filter(|kind| *kind == "record").count();
    assert_eq!((code, records), (0, 100));
    let (code, lines, _) = log(&["dump", "--from", "7", "--to", "9"], &data);
    let positions: Vec<u64> = lines.iter().map(|line| line["position"].as_u64().unwrap()).collect();
    assert_eq!((code, positions), (0, vec![7, 8]));
    assert_eq!(fs::read(segment(&data)).unwrap(), before);
}

#[test]
fn a_flipped_byte_is_found_and_ends_with_6() {
    let folder = TempDir::new().unwrap();
    let data = written(&folder);
    let file = segment(&data);
    let mut bytes = fs::read(&file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - 9).filter(|n| &bytes[*n..n + 9] == PAYLOAD).collect();
    bytes[places[50]] ^= 1;
    fs::write(&file, bytes).unwrap();
    // Without a watermark the end of an open segment proves nothing; the log's close wrote one.
    for command in ["verify", "rebuild", "dump"] {
        let (code, lines, err) = log(&[command], &data);
        assert_eq!(code, 6, "{command}: {lines:?} {err}");
        assert!(err.contains("events: found corrupt") && err.lines().count() == 1, "{err}");
        let damage = lines.iter().find(|line| line["kind"] == "damage").unwrap();
        assert_eq!(damage["ok"], false);
        assert!(damage["position"].as_u64().unwrap() <= 51, "{damage}");
    }
}

#[test]
fn what_is_missing_or_in_use_is_not_looked_at() {
    let folder = TempDir::new().unwrap();
    for gone in [folder.path().join("gone"), folder.path().to_owned()] {
        let (code, lines, err) = log(&["verify"], &gone);
        assert_eq!((code, lines.len()), (4, 0), "{err}");
        assert!(err.contains("no spile data folder there"), "{err}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    }
    let data = written(&folder);
    let _server = DataFolder::open(&data).unwrap();
    let (code, lines, err) = log(&["rebuild"], &data);
    assert_eq!((code, lines.len()), (1, 0));
    assert!(err.contains("has it; end that process"), "{err}");
}
