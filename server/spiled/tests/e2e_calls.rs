//! Calls with the real binaries: answered, late, refused, and what becomes of them when who serves is killed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test has a clock and fails by panicking"
)]

mod e2e;
#[path = "commands/spile.rs"]
mod spile;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::Server;
use e2e::port::Port;
use e2e::split::Split;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use spile::{Ran, ran, run};
use tempfile::TempDir;

/// Whatever takes longer fails its test.
const PATIENCE: Duration = Duration::from_secs(30);

fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !fact() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::yield_now();
    }
}

/// A folder with a server that always listens at the same place, and its data in `spile-data`.
struct Place {
    folder: TempDir,
    port: Port,
}

impl Place {
    fn started() -> (Self, Server) {
        let place = Self { folder: TempDir::new().unwrap(), port: Port::kept() };
        let server = place.start();
        (place, server)
    }

    fn start(&self) -> Server {
        let mut command = self.port.all_in_one(&self.path().join("spile-data"));
        // As long as it may be: what is under way at its end is answered on a busy machine too.
        command.env("SPILED_LIMITS_DRAIN", "9s");
        Server::start(&mut command, &self.path().join("log"))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(self.path(), words)
    }

    /// Runs a command that must be done: its objects.
    fn json(&self, words: &[&str]) -> Vec<Value> {
        let ran = self.run(&[&["--json"], words].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The code of a command that fails, and how it ends.
    fn refused(&self, words: &[&str]) -> (String, i32) {
        let ran = self.run(&[&["--json"], words].concat());
        let told: Value = serde_json::from_str(ran.out.trim())
            .unwrap_or_else(|_| panic!("{words:?}: {}{}", ran.out, ran.err));
        (told["error"]["code"].as_str().unwrap().to_owned(), ran.code)
    }

    /// Serves until it is ended; it does when this is back.
    fn serve(&self, words: &[&str]) -> Serve {
        Serve::start(spile::spile(self.path()).args(["--json"]).args(words))
    }

    fn service(&self, name: &str) -> Option<Value> {
        self.json(&["service", "ls"]).into_iter().find(|service| service["service"] == name)
    }
}

/// `spile serve`, killed when the test is done with it.
struct Serve {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Serve {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut serve = Self { stderr: BufReader::new(child.stderr.take().unwrap()), child };
        let line = serve.line();
        assert!(line.contains("serving"), "{line}");
        serve
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end: its exit code, and what it printed.
    fn ended(&mut self) -> (Option<i32>, Vec<Value>) {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, out.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Runs a command beside the test.
fn beside(place: &Place, words: &[&str]) -> std::thread::JoinHandle<Ran> {
    let mut command = spile::spile(place.path());
    command.args(["--json"]).args(words);
    std::thread::spawn(move || ran(command.output().unwrap()))
}

fn told(ran: &Ran) -> Value {
    serde_json::from_str(ran.out.trim()).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.err))
}

/// Says in a file that it has begun, and goes on when there is another; where its parent was killed it ends with the folder.
const WAITS: &str = "touch begun-$SPILE_METHOD; while [ -e begun-$SPILE_METHOD ] && [ ! -e go ]; do sleep 0.02; done; echo done";

#[test]
fn a_call_is_answered_with_what_the_command_prints() {
    let (place, server) = Place::started();
    assert_eq!(place.refused(&["call", "jobs", "start"]), ("not-found".to_owned(), 4));
    let exec = "echo \"$SPILE_SERVICE $SPILE_METHOD $SPILE_CALLER $SPILE_TRACE\"; cat; [ $SPILE_REMAINING_MS -gt 0 ]";
    let mut serve = place.serve(&["serve", "jobs", "--exec", exec, "--parallel", "4"]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answered = &place.json(&["call", "jobs", "start", "the payload", "--trace", trace])[0];
    assert_eq!((&answered["service"], &answered["method"]), (&"jobs".into(), &"start".into()));
    assert_eq!(answered["status"], "done");
    let payload = format!("jobs start operator/operator {trace}\nthe payload");
    assert_eq!(answered["payload"], payload.as_str());
    assert!(answered["took_ms"].is_u64());
    // An answer longer than a frame comes in parts, whole.
    std::fs::write(place.file("big"), vec![b'x'; 1 << 20]).unwrap();
    let mut big = place.serve(&["serve", "big", "--exec", "cat big"]);
    let whole = &place.json(&["call", "big", "get"])[0]["payload"];
    assert_eq!(whole.as_str().unwrap().len(), 1 << 20);
    let parts = place.json(&["call", "big", "get", "--parts"]);
    assert!(parts.len() > 1 && parts.last().unwrap()["status"] == "done");
    assert!(parts[..parts.len() - 1].iter().all(|part| part["status"] == "more"));
    // Who serves what, and what was counted.
    let listed = place.service("jobs").unwrap();
    assert_eq!((&listed["breaker"], &listed["calls"]), (&"closed".into(), &1.into()));
    let member = &listed["members"][0];
    assert_eq!((&member["principal"], &member["window"]), (&"operator/operator".into(), &4.into()));
    assert_eq!(server.metric("spile_worker_services"), 2);
    assert_eq!(server.metric("spile_worker_calls_total"), 4);
    assert_eq!(server.metric("spile_worker_calls_refused_total"), 1);
    for serve in [&mut serve, &mut big] {
        serve.signal(Signal::INT);
        let (code, rows) = serve.ended();
        assert_eq!(code, Some(0));
        assert!(rows.iter().all(|row| row["outcome"] == "done"), "{rows:?}");
    }
    assert_eq!(place.service("jobs"), None, "who is gone serves nothing");
}

#[test]
fn how_the_command_ends_says_what_is_answered() {
    let (place, _server) = Place::started();
    let exec = "echo working >&2; echo \"no such $SPILE_METHOD\" >&2; exit $SPILE_METHOD";
    let _serve = place.serve(&["serve", "jobs", "--exec", exec]);
    for (exit, code, ends) in [
        ("65", "invalid", 2),
        ("66", "not-found", 4),
        ("75", "busy", 1),
        ("77", "forbidden", 3),
        ("1", "internal", 1),
    ] {
        let ran = place.run(&["call", "jobs", exit]);
        assert_eq!(ran.code, ends, "{}", ran.err);
        assert!(ran.err.contains(&format!("no such {exit}")), "{}", ran.err);
        assert!(ran.err.contains(code), "{}", ran.err);
    }
}

#[test]
fn at_the_deadline_the_caller_hears_so_and_the_command_is_killed() {
    let (place, _server) = Place::started();
    let exec = "echo $$ > pid; exec sleep 1000";
    let mut serve = place.serve(&["serve", "jobs", "--exec", exec]);
    let begun = Instant::now();
    let called = beside(&place, &["call", "jobs", "x", "--timeout", "3s"]);
    let pid = || std::fs::read_to_string(place.file("pid")).ok()?.trim().parse::<u32>().ok();
    until("its begin", || pid().is_some());
    let called = called.join().unwrap();
    assert_eq!((&told(&called)["error"]["code"], called.code), (&"timed-out".into(), 5));
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let process = format!("/proc/{}", pid().unwrap());
    until("its end", || !Path::new(&process).exists());
    // Its place is free again.
    until("a free place", || place.service("jobs").unwrap()["in_flight"] == 0);
    serve.signal(Signal::INT);
    let (code, rows) = serve.ended();
    assert_eq!((code, &rows[0]["outcome"]), (Some(0), &"timed-out".into()));
}

#[test]
fn a_member_that_is_killed_leaves_its_calls_to_others_or_to_doubt() {
    let (place, _server) = Place::started();
    let first = place.serve(&["serve", "jobs", "--exec", WAITS, "--parallel", "2"]);
    let once = beside(&place, &["call", "jobs", "once", "--timeout", "30s"]);
    let twice = beside(&place, &["call", "jobs", "twice", "--idempotent", "--timeout", "30s"]);
    until("both", || ["begun-once", "begun-twice"].iter().all(|name| place.file(name).exists()));
    let _second = place.serve(&["serve", "jobs", "--exec", "echo second"]);
    first.signal(Signal::KILL);
    let once = once.join().unwrap();
    assert_eq!((&told(&once)["error"]["code"], once.code), (&"unknown-outcome".into(), 1));
    assert_eq!(told(&once)["error"]["retry_after_ms"], Value::Null, "not as it is");
    let twice = twice.join().unwrap();
    assert_eq!(told(&twice)["payload"], "second\n");
    // What the killed one has left behind ends.
    std::fs::write(place.file("go"), "").unwrap();
}

#[test]
fn a_breaker_opens_shows_in_health_and_closes_on_a_probe() {
    let (place, server) = Place::started();
    let exec = "test -e well || { echo ill >&2; exit 1; }; echo well";
    let _serve = place.serve(&["serve", "jobs", "--exec", exec]);
    for _ in 0..5 {
        assert_eq!(place.refused(&["call", "jobs", "x"]), ("internal".to_owned(), 1));
    }
    // It may be half-open by the time the command is there: then the probe fails, and it is open for longer.
    until("an open breaker", || place.refused(&["call", "jobs", "x"]).0 == "breaker-open");
    let ran = place.run(&["--json", "call", "jobs", "x"]);
    if told(&ran)["error"]["code"] == "breaker-open" {
        assert!(told(&ran)["error"]["retry_after_ms"].as_u64().unwrap() > 0);
        assert_eq!(ran.code, 5);
    }
    assert_ne!(place.service("jobs").unwrap()["breaker"], "closed");
    assert!(place.service("jobs").unwrap()["failed"].as_u64().unwrap() >= 5);
    until("the fact", || server.get("/health").contains("main/jobs"));
    assert!(server.get("/health").contains(r#""status":"yellow""#));
    assert_eq!(server.metric("spiled_ready"), 1, "a service that fails is not the bus's fault");
    assert_eq!(server.metric("spile_worker_breakers_open"), 1);
    let status = &place.json(&["status"])[0];
    assert_eq!(status["workers"][0]["breakers"][0]["service"], "jobs");
    std::fs::write(place.file("well"), "").unwrap();
    until("the probe", || place.run(&["call", "jobs", "x"]).code == 0);
    assert_eq!(place.service("jobs").unwrap()["breaker"], "closed");
    until("no fact", || !server.get("/health").contains("main/jobs"));
    assert_eq!(place.run(&["call", "jobs", "x"]).out, "well\n");
}

#[test]
fn a_device_serves_itself_and_an_operator_calls_it() {
    let (place, _server) = Place::started();
    let device = "spile-data/dev/device.toml";
    let words = [
        "--context",
        device,
        "serve",
        "device/device",
        "--exec",
        "echo $SPILE_METHOD by $SPILE_CALLER",
    ];
    let _serve = place.serve(&words);
    let answered = &place.json(&["call", "device/device", "restart"])[0];
    assert_eq!(answered["payload"], "restart by operator/operator\n");
    // Nobody else is that device, and it is nobody else.
    let forbidden = ("forbidden".to_owned(), 3);
    assert_eq!(place.refused(&["serve", "device/device", "--exec", "cat"]), forbidden);
    for service in ["device/other", "jobs", "$status"] {
        let words = ["--context", device, "serve", service, "--exec", "cat"];
        assert_eq!(place.refused(&words), forbidden, "{service}");
    }
    assert_eq!(place.refused(&["--context", device, "call", "$status", "get"]), forbidden);
}

#[test]
fn who_serves_finishes_what_runs_and_takes_no_more() {
    let (place, _server) = Place::started();
    let mut serve = place.serve(&["serve", "jobs", "--exec", WAITS, "--parallel", "2"]);
    let under_way = beside(&place, &["call", "jobs", "x", "--timeout", "30s"]);
    until("its begin", || place.file("begun-x").exists());
    serve.signal(Signal::INT);
    let line = serve.line();
    assert!(line.contains("waiting for 1"), "{line}");
    until("no more", || place.refused(&["call", "jobs", "y"]).0 == "not-found");
    std::fs::write(place.file("go"), "").unwrap();
    assert_eq!(told(&under_way.join().unwrap())["payload"], "done\n");
    let (code, rows) = serve.ended();
    assert_eq!((code, rows.len(), &rows[0]["outcome"]), (Some(0), 1, &"done".into()));
    assert!(!place.file("begun-y").exists());
}

#[test]
fn a_server_that_is_told_to_end_waits_for_the_answer_to_a_call() {
    let (place, server) = Place::started();
    let _serve = place.serve(&["serve", "jobs", "--exec", WAITS]);
    let under_way = beside(&place, &["call", "jobs", "x", "--timeout", "30s"]);
    until("its begin", || place.file("begun-x").exists());
    server.signal(Signal::TERM);
    until("the drain", || server.get("/health").contains(r#""phase":"draining""#));
    std::fs::write(place.file("go"), "").unwrap();
    assert_eq!(told(&under_way.join().unwrap())["payload"], "done\n");
}

#[test]
fn a_service_is_served_again_when_the_server_is_back() {
    let (place, server) = Place::started();
    let _serve = place.serve(&["serve", "jobs", "--exec", "echo here"]);
    assert_eq!(place.run(&["call", "jobs", "x"]).out, "here\n");
    server.end(Signal::KILL);
    let _server = place.start();
    until("it again", || place.run(&["call", "jobs", "x"]).out == "here\n");
}

#[test]
fn services_on_two_workers_are_one_row_of_calls_to_who_serves() {
    let (split, mut running) = Split::started();
    let context = split.of("operator").join("context.toml");
    let edge = running["edge-e1"].edge();
    let of = |name: &str| split.of("operator").join(name).display().to_string();
    let text = format!(
        "url = \"spile://localhost:{}\"\nca = {:?}\ncert = {:?}\nclient_key = {:?}\n",
        edge.port(),
        of("ca.pem"),
        of("operator.pem"),
        of("operator.key")
    );
    std::fs::write(&context, text).unwrap();
    let context = context.display().to_string();
    let folder = TempDir::new().unwrap();
    let spile = |words: &[&str]| run(folder.path(), &[&["--context", &context], words].concat());
    // Names on both workers' slots.
    let slot = |name: &str| spile_protocol::id::Slot::of("main", name).0 < 128;
    let on = |low: bool| (0..).map(|n| format!("s{n}")).find(|name| slot(name) == low).unwrap();
    let mut serving = Vec::new();
    let services = [on(true), on(false)];
    until("both links", || services.iter().all(|service| spile(&["call", service, "x"]).code == 4));
    for service in &services {
        let mut command = spile::spile(folder.path());
        command.args([
            "--context",
            &context,
            "serve",
            service,
            "--exec",
            "echo $SPILE_SERVICE; cat",
        ]);
        serving.push(Serve::start(&mut command));
    }
    for service in &services {
        let ran = spile(&["call", service, "x", "payload"]);
        assert_eq!(ran.out, format!("{service}\npayload\n"), "{}", ran.err);
    }
    let listed = spile(&["--json", "service", "ls"]).out;
    for service in &services {
        assert!(listed.contains(&format!("\"service\":\"{service}\"")), "{listed}");
    }
    assert!(listed.contains(r#""edge":"e1""#), "{listed}");
    // The worker is killed under a call: it may have been done, and must not be done twice.
    let waits = "touch begun; until [ -e go ]; do sleep 0.02; done";
    let mut command = spile::spile(folder.path());
    command.args(["--context", &context, "serve", &services[0], "--exec", waits]);
    drop(serving.remove(0));
    serving.push(Serve::start(&mut command));
    let mut command = spile::spile(folder.path());
    command.args(["--context", &context, "--json", "call", &services[0], "x", "--timeout", "30s"]);
    let under_way = std::thread::spawn(move || ran(command.output().unwrap()));
    until("its begin", || folder.path().join("begun").exists());
    running.remove("worker-a").unwrap().end(Signal::KILL);
    let under_way = under_way.join().unwrap();
    assert_eq!(told(&under_way)["error"]["code"], "unknown-outcome");
    assert_eq!(told(&under_way)["error"]["retry_after_ms"], Value::Null);
    // One that went nowhere was not done.
    let refused = spile(&["--json", "call", &services[0], "x"]);
    assert_eq!((&told(&refused)["error"]["code"], refused.code), (&"unavailable".into(), 5));
    assert_eq!(spile(&["call", &services[1], "x"]).code, 0, "the other's services go on");
    // When it is back the service is there again, and who serves has done nothing for it.
    std::fs::write(folder.path().join("go"), "").unwrap();
    running.insert("worker-a".to_owned(), split.start("worker", "worker-a"));
    until("it again", || spile(&["call", &services[0], "x"]).code == 0);
}
