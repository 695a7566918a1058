//! Uploads behind an edge with two workers, the real binaries: each lies with its key's worker, and goes on when that was
//! killed in the middle of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]
#![allow(dead_code, reason = "what is shared is used in part")]

mod e2e;
#[path = "commands/spile.rs"]
mod spile;
mod uploads;

use std::process::{Child, Stdio};

use e2e::split::{Running, Split};
use rustix::process::Signal;
use serde_json::Value;
use spile::ran;
use spile_protocol::{id::Slot, limits};
use uploads::content;

/// A key whose slot the worker has.
fn key_of(worker: &str) -> String {
    let low = worker == "worker-a";
    (0..).map(|n| format!("k{n}")).find(|key| (Slot::of("main", key).0 < 128) == low).unwrap()
}

struct Operator<'a> {
    split: &'a Split,
    url: String,
}

impl<'a> Operator<'a> {
    fn new(split: &'a Split, running: &Running) -> Self {
        Self { split, url: format!("spile://{}", running["edge-e1"].edge()) }
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let folder = self.split.of("operator");
        let mut command = spile::spile(&folder);
        command.arg("--context").arg(folder.join("operator.toml")).args(["--url", &self.url]);
        command.args(["--json", "--timeout", "60s"]).args(words);
        command
    }

    fn all(&self, words: &[&str]) -> Vec<Value> {
        let ran = ran(self.command(words).output().unwrap());
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn begin(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.split.of("operator").join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.split.of("operator").join(name)).unwrap()
    }
}

#[test]
fn uploads_lie_with_their_keys_worker_and_go_on_when_it_was_killed() {
    let (split, mut running) = Split::started();
    let operator = Operator::new(&split, &running);
    let keys = ["worker-a", "worker-b"].map(key_of);
    for (n, key) in keys.iter().enumerate() {
        operator.write("small", &content(300_000, n));
        let up = operator.all(&["upload", "small", "--key", key]);
        operator.all(&["download", up[0]["blob"].as_str().unwrap(), "-o", "back"]);
        assert_eq!(operator.read("back"), content(300_000, n));
    }
    assert_eq!(operator.all(&["blob", "ls"]).len(), 2, "both workers are asked");
    let bytes = content(64 << 20, 9);
    operator.write("big", &bytes);
    let mut child = operator.begin(&["upload", "big", "--key", &keys[1]]);
    let mut killed = 0_u64;
    for part in 1..=3_u64 {
        let far = (64 << 20) * part / 5;
        loop {
            let done = child.try_wait().unwrap().is_some();
            let stored = operator
                .all(&["upload", "ls"])
                .first()
                .map(|one| one["stored_offset"].as_u64().unwrap());
            if done || stored >= Some(far) {
                break;
            }
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        running.remove("worker-b").unwrap().end(Signal::KILL);
        killed += 1;
        // The other worker's keys flow on.
        operator.write("small", &content(1_000, usize::try_from(part).unwrap() + 100));
        operator.all(&["upload", "small", "--key", &keys[0]]);
        running.insert("worker-b".to_owned(), split.start("worker", "worker-b"));
    }
    assert!(killed > 0, "it was done before it could be killed");
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let up: Value = serde_json::from_str(ran.out.trim()).unwrap();
    let again = up["sent"].as_u64().unwrap() - (64 << 20);
    assert!(
        again <= killed * u64::from(limits::CREDIT_CHUNK_BYTES),
        "{again} after {killed} kills"
    );
    operator.all(&["download", up["blob"].as_str().unwrap(), "-o", "back"]);
    assert!(operator.read("back") == bytes);
    let big = operator.all(&["blob", "ls", "big"]);
    assert_eq!(big.len(), 1, "sealed once: {big:?}");
}
