//! What the threats share: a server with a normal publisher on it, and what must be true of both when an attack is over.
//!
//! Not here: the attacks. Invariant: [`Arena::over`] is how each of them ends, so that none passes with a server that is
//! not ready, a publisher that stands still, or memory that grew past its cap.

pub mod beside;
mod credentials;
mod frames;
pub mod wire;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tempfile::TempDir;

use self::beside::Beside;
use crate::e2e::{Gone, Raw, Server, all_in_one, tls};

/// How much an attack may add to what the server has in memory, in KiB. What is in it, for a debug build: a thousand
/// connections in their handshake at 16 KiB, windows of deliveries that nobody takes, what the publisher beside stored.
const GROWTH: u64 = 64 * 1024;
/// The same with four thousand connections.
const GROWTH_FULL: u64 = 128 * 1024;

/// Events that must be acknowledged to the publisher while an attack goes on.
const ALIVE: u64 = 50;

pub struct Arena {
    pub server: Server,
    log: Log,
    folder: TempDir,
    beside: Beside,
    /// What the server had in memory before, in KiB.
    before: u64,
    runs: AtomicU64,
}

/// What the server logged: shown when the test fails.
struct Log(PathBuf);

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = std::fs::read_to_string(&self.0).unwrap_or_default();
            let lines: Vec<_> = said.lines().rev().take(30).collect();
            println!("the end of the server's log:");
            lines.iter().rev().for_each(|line| println!("{line}"));
        }
    }
}

impl Arena {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A server with these variables, and somebody who publishes.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        let mut command = all_in_one(&data);
        command.envs(variables.iter().copied());
        let log = Log(folder.path().join("log"));
        let server = Server::start(&mut command, &log.0);
        let beside = Beside::start(server.edge(), tls(&data.join("dev"), Some("device")));
        beside.goes_on(ALIVE);
        let before = server.resident();
        Self { server, log, folder, beside, before, runs: AtomicU64::new(1) }
    }

    pub fn edge(&self) -> SocketAddr {
        self.server.edge()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn dev(&self) -> PathBuf {
        self.data().join("dev")
    }

    /// A run that no other session of the test has: none of them takes another's place.
    pub fn run(&self) -> [u8; 8] {
        self.runs.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }

    /// A session that is let in.
    pub fn session(&self, principal: &str) -> Raw {
        Raw::hello(self.edge(), &tls(&self.dev(), Some(principal)), self.run()).unwrap()
    }

    /// A connection through TLS, and no word yet.
    pub fn connection(&self, principal: Option<&str>) -> Raw {
        Raw::connect(self.edge(), &tls(&self.dev(), principal)).unwrap()
    }

    /// A TCP connection, and no byte yet.
    pub fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.edge()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// The server is well in the middle of it: it is ready, lets others in, and its publisher goes on.
    pub fn is_unharmed(&self, what: &str) {
        self.beside.goes_on(ALIVE);
        assert!(self.server.get("/readyz").starts_with("HTTP/1.1 200"), "{what}: not ready");
        let mut other = self.session("operator");
        assert_eq!(other.open(0, None, 1), Ok(0), "{what}: another session");
        let now = self.server.resident();
        println!("{what}: {now} KiB resident, {} before", self.before);
        let growth = if full() { GROWTH_FULL } else { GROWTH };
        assert!(now < self.before + growth, "{what}: {now} KiB, {} before", self.before);
    }

    /// The attack is over: nothing came of it.
    pub fn over(self, what: &str) {
        self.is_unharmed(what);
        let Self { server, log, folder, beside, .. } = self;
        let operator = tls(&folder.path().join("data/dev"), Some("operator"));
        beside.end(server.edge(), &operator);
        let said = std::fs::read_to_string(&log.0).unwrap();
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert_eq!(server.end(Signal::TERM).code(), Some(0), "{what}");
    }
}

/// Is it the full size that is asked for?
pub fn full() -> bool {
    std::env::var("SPILE_FULL").is_ok_and(|value| value == "1")
}

/// Makes room for this many connections, here and in the servers to be started.
pub fn files(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        assert!(
            maximum.is_none_or(|most| most >= wanted),
            "raise the limit of open files: {maximum:?}"
        );
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

/// Everything that is said until the connection ends.
pub fn last_words(raw: &mut Raw) -> Vec<String> {
    let mut words = Vec::new();
    while words.last().is_none_or(|word| word != "closed") {
        words.push(raw.shown());
    }
    words
}

/// What comes on a bare connection until it ends; `None` where it lasts longer than that.
pub fn rest(socket: &mut TcpStream, patience: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(patience)).unwrap();
    let (mut got, mut part) = (Vec::new(), [0; 1024]);
    loop {
        match socket.read(&mut part) {
            Ok(0) => return Some(got),
            Ok(n) => got.extend_from_slice(&part[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return None;
            }
            // Cut with something of ours unread.
            Err(_) => return Some(got),
        }
    }
}

/// Is nothing said and nothing ended at the moment?
pub fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false).unwrap();
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A session is still there: it answers a PING.
pub fn lives(raw: &mut Raw, what: &str) {
    use spile_protocol::message::{Message, Ping};
    raw.send(&[Message::Ping(Ping { number: 77, answer: false })]).unwrap();
    let answer = raw.next(|message| {
        matches!(message, Message::Ping(Ping { number: 77, answer: true }))
            .then_some(())
            .ok_or_else(|| format!("{message:?}"))
    });
    assert_eq!(answer, Ok::<_, Gone>(Ok(())), "{what}");
}
