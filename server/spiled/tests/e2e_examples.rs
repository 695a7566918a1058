//! The programs in examples/, each run as a reader would with the real server: what they print, and what is stored then.
//!
//! The sink into Postgres needs one: `.ci/steps/40-postgres.sh` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

#[path = "commands/spile.rs"]
mod commands;
mod e2e;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use commands::{Ran, ran, run};
use e2e::{Server, all_in_one};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Where the examples are, built first where a test run of one crate has not built them.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let spiled = Path::new(env!("CARGO_BIN_EXE_spiled"));
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--package", "spile-examples", "--examples"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if spiled.components().any(|part| part.as_os_str() == "release") {
            build.arg("--release");
        }
        // Also where they are there: they may be of yesterday's sources.
        assert!(build.status().unwrap().success(), "cargo build --package spile-examples");
        spiled.with_file_name("examples")
    })
}

/// A folder with a server that has its data in `spile-data`, where the examples look for it.
fn started() -> (TempDir, Server) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("spile-data");
    let server = Server::start(&mut all_in_one(&data), &folder.path().join("log"));
    (folder, server)
}

fn example(folder: &Path, name: &str, words: &[&str]) -> Command {
    let mut command = Command::new(built().join(name));
    command.current_dir(folder).args(words).stdin(Stdio::null()).env_remove("SPILE_CONTEXT");
    command
}

/// Runs one that must be done: what it printed.
fn printed(command: &mut Command) -> String {
    let Ran { code, out, err } = ran(command.output().unwrap());
    assert_eq!(code, 0, "{command:?}: {out}{err}");
    out
}

/// Runs a command that must be done: its objects.
fn all(folder: &Path, words: &[&str]) -> Vec<Value> {
    let ran = run(folder, &[&["--json"], words].concat());
    assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One in the background; killed where the test ends before it.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn begin(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "it printed no more");
        line.trim_end().to_owned()
    }

    /// Ctrl-C, and it ends well.
    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

#[test]
fn every_example_is_run_here_or_by_the_step_with_postgres() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/examples");
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, ["consumer", "jobs", "postgres_sink", "sensor", "shelf", "uploader"]);
}

#[test]
fn sensor_publishes_its_readings_and_says_that_each_is_stored() {
    let (folder, _server) = started();
    let folder = folder.path();
    let mut sensor = example(folder, "sensor", &[]);
    let out = printed(sensor.env("SENSOR_COUNT", "3").env("SENSOR_EVERY_MS", "1"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, "publishing as operator"), "{out}");
    assert!(lines[1..].iter().all(|line| line.starts_with("stored ")), "{out}");
    let events = all(folder, &["stream", "operator", "--from", "1", "--count", "3"]);
    let readings: Vec<_> = events.iter().map(|event| event["payload"].as_str().unwrap()).collect();
    assert_eq!(readings, ["20.0", "20.1", "20.2"]);
    assert!(events.iter().all(|event| event["topic"] == "telemetry/temp"), "{events:?}");
}

#[test]
fn uploader_sends_a_file_once_and_forgets_its_id_when_it_is_sealed() {
    let (folder, _server) = started();
    let folder = folder.path();
    let bytes: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(folder.join("trace.bin"), &bytes).unwrap();
    let out = printed(example(folder, "uploader", &["trace.bin"]).env("UPLOADER_KEY", "oven-7"));
    assert!(out.contains("revision 1: 1600000 bytes, 1600000 sent, went on at 0"), "{out}");
    let blobs = all(folder, &["blob", "ls", "trace"]);
    assert_eq!((blobs.len(), &blobs[0]["key"]), (1, &Value::from("oven-7")), "{blobs:?}");
    let blob = blobs[0]["blob"].as_str().unwrap();
    assert!(out.contains(blob), "{out}");
    all(folder, &["download", blob, "-o", "back"]);
    assert!(std::fs::read(folder.join("back")).unwrap() == bytes);
    assert!(!folder.join("trace.bin.upload").exists(), "its id is of no use any more");
}

#[test]
fn consumer_keeps_order_retries_what_may_be_well_later_and_rejects_what_never_is() {
    let (folder, _server) = started();
    let folder = folder.path();
    let made = ["group", "create", "temps", "--filter", "telemetry/#", "--max-attempts", "2"];
    all(folder, &[&made[..], &["--backoff", "1ms..1ms"]].concat());
    for (key, values) in [("a", ["1", "2", "3"]), ("b", ["broken", "5", "NaN"])] {
        for value in values {
            all(folder, &["publish", "telemetry/t", value, "--key", key]);
        }
    }
    let mut consumer = Running::begin(example(folder, "consumer", &["temps"]));
    let mut lines: Vec<String> = (0..4).map(|_| consumer.line()).collect();
    lines.sort();
    assert_eq!(lines, ["a 1 1", "a 2 2", "a 3 3", "b 2 5"]);
    let letters = loop {
        let letters = all(folder, &["dlq", "ls", "temps"]);
        if letters.len() == 2 {
            break letters;
        }
    };
    consumer.stop();
    let told = |letter: &Value| (letter["version"].as_u64(), letter["attempts"].as_u64());
    let told: Vec<_> = letters.iter().map(told).collect();
    assert_eq!(told, [(Some(1), Some(1)), (Some(3), Some(2))], "{letters:?}");
    assert!(letters[0]["reason"].as_str().unwrap().contains("is no number"), "{letters:?}");
    let shown = all(folder, &["group", "show", "temps"]);
    assert_eq!((&shown[0]["lag"], &shown[0]["dead"]), (&0.into(), &2.into()), "{shown:?}");
}

#[test]
fn jobs_are_begun_once_whoever_asks_twice_and_their_status_is_followed() {
    let (folder, _server) = started();
    let folder = folder.path();
    let mut serves = example(folder, "jobs", &["serve"]);
    serves.env("JOBS_STEP_MS", "1");
    let mut serves = Running::begin(serves);
    assert_eq!(serves.line(), "serving jobs");
    for asked in ["starts", "is begun already"] {
        let out = printed(&mut example(folder, "jobs", &["start", "report"]));
        let wanted = "follow job-report\n1 begun\n2 25 %\n3 50 %\n4 75 %\n5 done\n";
        assert_eq!(out, wanted, "the second hears the same");
        let line = serves.line();
        assert!(line.contains("job-report") && line.contains(asked), "{line}");
    }
    serves.stop();
    // Nobody serves any more.
    let late = ran(example(folder, "jobs", &["start", "other"]).output().unwrap());
    assert!(late.code != 0 && late.err.contains("not-found"), "{}{}", late.out, late.err);
}

#[test]
fn shelf_is_never_taken_from_when_it_is_empty() {
    let (folder, _server) = started();
    let folder = folder.path();
    let shelf = |words: &[&str]| {
        let out = printed(&mut example(folder, "shelf", &[&["shelf-7"], words].concat()));
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let put = shelf(&["put", "2"]);
    assert_eq!(put[0], "0 on shelf-7 at version 0");
    assert!(put[1].starts_with("2 now; stored at "), "{put:?}");
    assert!(shelf(&["take"])[1].starts_with("1 now; "));
    assert!(shelf(&["take"])[1].starts_with("0 now; "));
    assert_eq!(shelf(&["take"]), ["0 on shelf-7 at version 3", "shelf-7 is empty"]);
    let stream = all(folder, &["stream", "shelf-7", "--from", "1", "--count", "3"]);
    let moves: Vec<_> = stream.iter().map(|event| event["payload"].as_str().unwrap()).collect();
    assert_eq!(moves, ["2", "-1", "-1"]);
}
