//! A full disk with the real binaries: bulk ends first, then events, and both go on when there is room. design: Durability.
//!
//! The data folder is a small file system in memory that the test mounts, which only root may; anybody else is told that
//! nothing was tested.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stderr,
    reason = "a test fails by panicking, shows what it did not expect, and says where it does nothing"
)]

mod e2e;
#[path = "commands/spile.rs"]
mod spile;
#[allow(dead_code, reason = "each test binary uses its part")]
mod uploads;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Raw, Server, all_in_one, tls};
use serde_json::Value;
use spile::{Ran, ran, run};
use tempfile::TempDir;
use uploads::{Told, chunk, content, open, told};

/// Whatever takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the file system holds: what events and bulk keep free, the reserve, and some 90 MiB.
const SIZE: &str = "size=256m";
/// The first upload, and one that does not fit beside it.
const FITS: usize = 50 << 20;
const DOES_NOT: usize = 80 << 20;

/// A folder whose `spile-data` is a small file system; unmounted in the end.
struct Small(TempDir);

impl Small {
    /// `None`: we may not mount.
    fn new() -> Option<Self> {
        let small = Self(TempDir::new().unwrap());
        std::fs::create_dir(small.data()).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(small.data()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(small)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("spile-data")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn json(&self, words: &[&str]) -> Vec<Value> {
        let ran = run(self.path(), &[&["--json", "--timeout", "30s"], words].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn publish(&self, number: usize) -> u64 {
        let acked = self.json(&["publish", "t", &number.to_string(), "--key", "k"]);
        acked.first().unwrap().get("version").unwrap().as_u64().unwrap()
    }

    fn settle(&self, count: usize) {
        let done = self.json(&["consume", "g", "--count", &count.to_string()]);
        assert_eq!(done.len(), count, "{done:?}");
    }

    /// Takes all that is left.
    fn fill(&self) -> PathBuf {
        let path = self.data().join("filler");
        let mut file = File::create(&path).unwrap();
        for block in [1 << 20, 4096] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("-l").arg(self.data()).status();
        assert!(std::thread::panicking() || ended.unwrap().success());
    }
}

/// Asks again and again until it is so.
#[expect(clippy::disallowed_methods, reason = "a test that waits gives up in the end")]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never came: {what}");
    }
}

/// Does health call this fact so?
fn is(server: &Server, fact: &str, colour: &str) -> bool {
    let health = server.get("/health");
    let body = health.split("\r\n\r\n").nth(1).unwrap();
    let health: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
    let facts = health.get("facts").and_then(Value::as_array).unwrap();
    let of = |one: &Value, field: &str, value: &str| one.get(field).is_some_and(|is| is == value);
    facts.iter().any(|one| of(one, "name", fact) && of(one, "status", colour))
}

#[test]
fn bulk_ends_first_then_events_and_what_was_acknowledged_is_there() {
    let Some(small) = Small::new() else {
        return eprintln!("skipped: only root may mount the small file system this test fills");
    };
    let config = small.path().join("spile.toml");
    std::fs::write(&config, "[durability]\nchunk_segment = \"4MiB\"\n").unwrap();
    let mut command = all_in_one(&small.data());
    let server = Server::start(command.arg("--config").arg(&config), &small.path().join("log"));
    small.json(&["group", "create", "g", "--filter", "t", "--from", "start"]);
    std::fs::write(small.path().join("fits"), content(FITS, 1)).unwrap();
    let fits = small.json(&["upload", "fits", "--key", "files"]);
    let bytes = content(DOES_NOT, 2);
    std::fs::write(small.path().join("does-not"), &bytes).unwrap();
    let mut upload = spile::spile(small.path());
    upload.args(["--json", "--timeout", "120s", "upload", "does-not", "--key", "files"]);
    let upload = upload.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("bulk is full", || is(&server, "chunks", "yellow"));

    // Bulk is refused until there is room …
    let mut raw =
        Raw::hello(server.edge(), &tls(&small.data().join("dev"), Some("operator")), [9; 8])
            .unwrap();
    raw.send(&[open(1, 9, 2_000), chunk(1, 0, &bytes[..2_000])]).unwrap();
    let refused = loop {
        match told(&mut raw) {
            Told::Opened { stored: 0, .. } => {}
            other => break other,
        }
    };
    assert_eq!(refused, Told::Fault { upload: 1, code: "disk-full", expected: 0 });
    // … and events go on.
    assert!(is(&server, "log", "green"));
    for number in 1..=20 {
        assert_eq!(small.publish(number), number as u64);
    }
    small.settle(10);

    // Full to the last byte: events are refused until there is room, what was taken is settled.
    let filler = small.fill();
    until("events are full", || is(&server, "log", "yellow"));
    let refused = run(small.path(), &["--timeout", "2s", "publish", "t", "21", "--key", "k"]);
    assert_eq!(refused.code, 5, "tried again until there was no time left: {}", refused.err);
    assert!(refused.err.contains("disk-full"), "and it says what it waited for: {}", refused.err);
    small.settle(5);

    // There is room for events again, then for bulk: both go on by themselves.
    std::fs::remove_file(filler).unwrap();
    assert_eq!(small.publish(21), 21);
    assert!(is(&server, "chunks", "yellow"));
    let blob = fits.first().unwrap().get("blob").unwrap().as_str().unwrap();
    small.json(&["blob", "rm", blob, "--yes"]);
    let Ran { code, out, err } = ran(upload.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    let up: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(up.get("blake3").unwrap(), &*blake3::hash(&bytes).to_hex());
    small.json(&["download", up.get("blob").unwrap().as_str().unwrap(), "-o", "back"]);
    assert!(std::fs::read(small.path().join("back")).unwrap() == bytes);

    // Also after a kill: every event that was acknowledged, once, and its settlement.
    server.end(rustix::process::Signal::KILL);
    let mut command = all_in_one(&small.data());
    let _server = Server::start(command.arg("--config").arg(&config), &small.path().join("log"));
    let stream = small.json(&["stream", "k", "--from", "1", "--count", "21"]);
    let payloads: Vec<_> = stream.iter().map(|one| one.get("payload").unwrap().clone()).collect();
    assert_eq!(payloads, (1..=21).map(|n| Value::from(n.to_string())).collect::<Vec<_>>());
    let rest = small.json(&["consume", "g", "--count", "6"]);
    let versions: Vec<_> = rest.iter().filter_map(|one| one.get("version")?.as_u64()).collect();
    assert_eq!(versions, (16..=21).collect::<Vec<_>>());
}
