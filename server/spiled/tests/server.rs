//! The real binary: started, asked, signalled, and given what it must refuse.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "e2e/port.rs"]
#[allow(unreachable_pub, reason = "others share it")]
mod port;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use port::Port;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn spiled() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spiled"));
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPILED_")) {
        command.env_remove(name);
    }
    command
}

fn all_in_one(data: &Path) -> Command {
    let mut command = spiled();
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(data);
    command
}

/// Runs a command to its end; one that serves instead of ending is killed, and its test fails.
fn done(command: &mut Command) -> (i32, String, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let (ended, watch) = sync_channel(1);
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(Duration::from_secs(20)).is_err() {
            kill_process(pid, Signal::KILL).unwrap();
        }
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    ended.send(()).unwrap_or_default();
    watchdog.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(stdout), text(stderr));
    (status.code().unwrap_or_else(|| panic!("it did not end: {out}{err}")), out, err)
}

/// A server that is ready; killed when a test fails before it ends it.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    ready: String,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        out.read_line(&mut ready).unwrap();
        let mut server = Self { child, out, ready };
        if !server.ready.starts_with("spiled ready ") {
            let mut why = String::new();
            server.child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("not ready: {why}");
        }
        server
    }

    fn said(&self, key: &str) -> &str {
        let start = format!("{key}=");
        self.ready.split_whitespace().find_map(|word| word.strip_prefix(&start)).unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.said("admin")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends it, and gives its code, the rest of its stdout, and its stderr.
    fn end(mut self, signal: Signal) -> (i32, String, String) {
        self.signal(signal);
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let code = self.child.wait().unwrap().code();
        (code.unwrap_or_else(|| panic!("killed: {err}")), out, err)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

#[test]
fn a_first_start_makes_everything_and_says_where_it_is() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&mut all_in_one(&data));
    assert_eq!(server.said("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(Path::new(server.said("data")), fs::canonicalize(&data).unwrap());
    for principal in ["operator", "device"] {
        let context = fs::read_to_string(data.join(format!("dev/{principal}.toml"))).unwrap();
        let context: toml::Table = context.parse().unwrap();
        assert_eq!(context["url"].as_str().unwrap(), format!("spile://{}", server.said("edge")));
        for file in ["ca", "cert", "client_key"] {
            let path = context[file].as_str().unwrap();
            assert!(fs::read_to_string(path).unwrap().starts_with("-----BEGIN"), "{path}");
        }
    }
    assert!(server.get("/livez").starts_with("HTTP/1.1 200 "));
    assert!(server.get("/readyz").starts_with("HTTP/1.1 200 "));
    assert!(server.get("/metrics").contains("spiled_ready 1"));
    assert!(server.get("/health").contains("\"phase\":\"serving\""));
    let (code, out, err) = server.end(Signal::TERM);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("dev/operator.toml") && err.contains("publish telemetry/temp"), "{err}");
}

#[test]
fn a_second_start_keeps_certificates_and_renews_contexts() {
    let folder = TempDir::new().unwrap();
    let cert = folder.path().join("dev/device.pem");
    // Kept when the first has ended, so that the next start gets another.
    let port = Port::kept();
    let server = Server::start(&mut port.all_in_one(folder.path()));
    let (before, address) = (fs::read(&cert).unwrap(), server.said("edge").to_owned());
    assert_eq!(server.end(Signal::INT).0, 0);
    let server = Server::start(&mut all_in_one(folder.path()));
    assert_ne!(server.said("edge"), address);
    assert_eq!(fs::read(&cert).unwrap(), before);
    let context = fs::read_to_string(folder.path().join("dev/device.toml")).unwrap();
    assert!(context.contains(server.said("edge")), "{context}");
}

/// How many files a folder holds, at any depth.
fn count(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

#[test]
fn a_first_start_killed_after_any_file_is_completed_by_the_next() {
    let whole = TempDir::new().unwrap();
    assert_eq!(Server::start(&mut all_in_one(whole.path())).end(Signal::TERM).0, 0);
    let files = count(whole.path());
    assert!(files >= 13, "{files}");
    for n in 1..files {
        let folder = TempDir::new().unwrap();
        let mut child =
            all_in_one(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while count(folder.path()) < n {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let server = Server::start(&mut all_in_one(folder.path()));
        assert!(server.get("/readyz").starts_with("HTTP/1.1 200 "));
        // A temporary file of the killed one may be left; the next write of that name takes it over.
        assert!(count(folder.path()) >= files, "after {n} files");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_told_once_and_in_one_line() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let (code, _, err) = done(&mut all_in_one(&folder.path().join("file/data")));
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    assert_eq!(err.matches("name another folder").count(), 1, "{err}");
}

#[test]
fn two_servers_never_share_a_folder() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&mut all_in_one(folder.path()));
    let (code, out, err) = done(&mut all_in_one(folder.path()));
    assert_eq!((code, out.as_str()), (1, ""));
    let holder = format!("process {} has it; end that process", server.child.id());
    assert!(err.contains(&holder) && err.lines().count() == 1, "{err}");
}

#[test]
fn a_hangup_reloads_and_the_server_stays() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&mut all_in_one(folder.path()));
    fs::write(folder.path().join("certs/edge.pem"), "broken").unwrap();
    server.signal(Signal::HUP);
    let failed = "\"status\":\"yellow\",\"detail\":\"reload failed, the old stays";
    wait_for(&server, &format!("\"name\":\"certificate:edge\",{failed}"));
    fs::remove_file(folder.path().join("certs/edge.pem")).unwrap();
    let made = spiled::certs::deployment::local(
        folder.path(),
        "local",
        "main",
        spiled::clock::unix_seconds(),
    );
    made.unwrap();
    server.signal(Signal::HUP);
    wait_for(&server, "\"name\":\"certificate:edge\",\"status\":\"green\"");
    assert_eq!(server.end(Signal::TERM).0, 0);
}

/// Asks for health until it says so; what never comes fails the test.
fn wait_for(server: &Server, fact: &str) {
    let mut said = String::new();
    for _ in 0..20_000 {
        said = server.get("/health");
        if said.contains(fact) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{fact} never came: {said}");
}

#[test]
fn an_edge_and_a_worker_start_as_certs_made_them() {
    let folder = TempDir::new().unwrap();
    let deploy = folder.path().join("deploy");
    let mut certs = spiled();
    certs.arg("certs").arg(&deploy).args(["--edge", "e1", "--worker", "a", "--worker", "b"]);
    let (code, out, err) = done(&mut certs);
    assert_eq!((code, out.lines().count()), (0, 4), "{err}");
    for (role, node) in [("edge", "edge-e1"), ("worker", "worker-a"), ("worker", "worker-b")] {
        let config = deploy.join(node).join("spiled.toml");
        let (code, out, err) = done(spiled().arg("check-config").arg(&config));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(&format!("role = \"{role}\"")), "{out}");
        let mut command = spiled();
        command.arg(role).arg("--config").arg(&config);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"]);
        let server = Server::start(&mut command);
        assert!(server.said(role).starts_with("127.0.0.1:"));
        assert!(deploy.join(node).join("data/format").exists());
        let (code, _, err) = server.end(Signal::TERM);
        assert_eq!(code, 0);
        for line in err.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
        }
    }
}

#[test]
fn every_mistake_is_told_and_usage_ends_with_2() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.toml");
    fs::write(&file, "nmae = \"x\"\n[listen]\naddress = \"here\"\n").unwrap();
    let (code, out, err) = done(spiled().arg("check-config").arg(&file));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("spiled: config: 2 mistakes\nline 1: nmae: "), "{err}");
    let (code, _, again) = done(spiled().arg("--config").arg(&file));
    assert_eq!((code, again), (2, err), "a start says the same");
    for arguments in [
        vec!["edge"],
        vec!["worker"],
        vec!["nonsense"],
        vec!["--listen", "here"],
        vec!["--config", "/gone.toml"],
        vec!["certs", "x"],
        vec!["certs", "x", "--edge", "a/b"],
        vec!["certs", "x", "--edge", "a", "--edge", "a"],
        vec!["check-config"],
    ] {
        let (code, out, err) = done(spiled().args(&arguments).current_dir(folder.path()));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn the_environment_is_heard_and_its_mistakes_told() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("spiled.toml");
    fs::write(&file, "").unwrap();
    let (code, out, _) =
        done(spiled().arg("check-config").arg(&file).env("SPILED_LISTEN", "127.0.0.1:9"));
    assert_eq!(code, 0);
    assert!(out.contains("address = \"127.0.0.1:9\""), "{out}");
    let (code, _, err) = done(spiled().arg("check-config").arg(&file).env("SPILED_DATE", "x"));
    assert_eq!(code, 2);
    assert!(
        err.contains("SPILED_DATE: no key has this variable; did you mean SPILED_DATA?"),
        "{err}"
    );
}

#[test]
fn a_folder_of_others_and_a_taken_address_are_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("thesis.odt"), "").unwrap();
    let (code, _, err) = done(&mut all_in_one(folder.path()));
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    assert!(err.contains("thesis.odt") && err.contains("--data"), "{err}");

    let data = folder.path().join("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = spiled();
    command.args(["--listen", &address, "--admin", "127.0.0.1:0", "--data"]).arg(&data);
    let (code, out, err) = done(&mut command);
    assert_eq!((code, out.as_str()), (1, ""));
    let said = format!("edge: listen on {address}: ");
    assert!(err.contains(&said) && err.contains("name another with --listen"), "{err}");
}

#[test]
fn a_full_stdout_is_a_failure_that_says_so() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("spiled.toml");
    fs::write(&file, "").unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = spiled().arg("check-config").arg(&file).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("spiled: stdout: write: "), "{err}");
}

/// Keys are laid out by slots: a folder of other slots, or of another worker, would answer for keys it never had.
#[test]
fn a_folder_of_other_slots_does_not_start() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&mut all_in_one(&data));
    server.end(Signal::TERM);
    let record = data.join("worker");
    let name = fs::read_to_string(&record).unwrap();
    let name = name.strip_suffix(" 0-255\n").unwrap();
    fs::write(&record, format!("{name} 0-127\n")).unwrap();
    let (code, out, err) = done(&mut all_in_one(&data));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("with slots 0-127") && err.contains("moving slots is not offered"),
        "{err}"
    );
}
