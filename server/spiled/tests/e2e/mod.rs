//! What the end-to-end tests share: a server that is the real binary, and a client that speaks frames by hand.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect is shown as it is")]

pub mod calls;
pub mod port;
pub mod split;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use spile_protocol::{
    crc, frame,
    id::{LaneId, Number, RouteId, Run, SubscriptionId},
    limits,
    message::{
        Ack, Auth, Bind, Event, Extras, From, Hello, Lane, Message, Outcome, Proof, Sender, Settle,
        Source, Subscribe,
    },
    session::Transmit,
};

/// Whatever hangs longer than this fails its test.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server, started and ready; killed when the test is done with it.
pub struct Server {
    child: Child,
    ready: String,
    /// What it logged.
    pub log: PathBuf,
}

pub fn spiled() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spiled"));
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPILED_")) {
        command.env_remove(name);
    }
    command
}

/// An all-in-one on free ports.
pub fn all_in_one(data: &Path) -> Command {
    let mut command = spiled();
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(data);
    command
}

impl Server {
    /// Starts it and waits until it is ready; its log goes to a file, so that it never waits for a reader.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let err = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(err).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let server = Self { child, ready, log: log.to_owned() };
        let said = || std::fs::read_to_string(log).unwrap();
        assert!(server.ready.starts_with("spiled ready "), "not ready: {}", said());
        server
    }

    pub fn said(&self, key: &str) -> &str {
        let start = format!("{key}=");
        self.ready.split_whitespace().find_map(|word| word.strip_prefix(&start)).unwrap()
    }

    pub fn edge(&self) -> SocketAddr {
        self.said("edge").parse().unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops it where it is, until it is told to go on. A signal takes its time: this waits until no thread of it runs.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let (_, stopped) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(stopped.stopped(), "{stopped:?}");
    }

    /// Ends it and waits for its end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }

    /// The answer of the admin listener.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.said("admin")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// One of its counters.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// How much memory it has, in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
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

/// How a client speaks TLS: with whose certificate, if any.
pub fn tls(dev: &Path, principal: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dev.join("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(spiled::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match principal {
        Some(principal) => {
            let chain =
                vec![CertificateDer::from_pem_file(dev.join(format!("{principal}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(dev.join(format!("{principal}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"spile/1".to_vec()];
    Arc::new(config)
}

/// A client that speaks frames by hand.
pub struct Raw {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    got: Vec<u8>,
    at: usize,
}

/// Nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Raw {
    /// Connects and is through TLS.
    pub fn connect(address: SocketAddr, tls: &Arc<ClientConfig>) -> std::io::Result<Self> {
        let mut tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection =
            ClientConnection::new(Arc::clone(tls), name).map_err(std::io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        Ok(Self { stream: StreamOwned::new(connection, tcp), got: Vec::new(), at: 0 })
    }

    /// Connects and says who it is; `run` is what it numbers in.
    pub fn hello(
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        run: [u8; 8],
    ) -> std::io::Result<Self> {
        let mut raw = Self::connect(address, tls)?;
        raw.send(&[hello(run), Message::Auth(Auth { proof: Proof::Certificate })])?;
        match raw.next(|message| {
            matches!(message, Message::Welcome(_))
                .then_some(())
                .ok_or_else(|| format!("{message:?}"))
        }) {
            Ok(Ok(())) => Ok(raw),
            Ok(Err(other)) => Err(std::io::Error::other(other)),
            Err(Gone) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    pub fn send(&mut self, messages: &[Message<'_>]) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.put(message, crc::of(message.payload())).unwrap();
        }
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }

    /// The next message, as `read` sees it.
    pub fn next<T>(&mut self, read: impl FnOnce(&Message<'_>) -> T) -> Result<T, Gone> {
        loop {
            let rest = &self.got[self.at..];
            if let Some((whole, used)) = frame::decode(rest, limits::FRAME_MAX).unwrap() {
                let seen = read(&Message::decode(&whole, Sender::Server).unwrap());
                self.at += used;
                return Ok(seen);
            }
            self.got.drain(..std::mem::take(&mut self.at));
            let mut part = [0; 16 * 1024];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(Gone),
                Ok(n) => self.got.extend_from_slice(&part[..n]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    panic!("nothing came for {PATIENCE:?}");
                }
                Err(_) => return Err(Gone),
            }
        }
    }

    /// The next message as text, or `closed`.
    pub fn shown(&mut self) -> String {
        let shown = self.next(|message| match message {
            Message::Fault(fault) => format!("fault {} {:?}", fault.code.name(), fault.scope),
            Message::GoAway(goaway) => format!("goaway {}", goaway.code.name()),
            Message::LaneAnswer(answer) => {
                format!("lane {} {:?}", answer.lane, answer.last.map(|last| last.0))
            }
            other => format!("{other:?}"),
        });
        shown.unwrap_or_else(|Gone| "closed".to_owned())
    }

    /// Opens a lane: the last number the server has of it.
    pub fn open(
        &mut self,
        lane: u32,
        key: Option<&str>,
        first_unacked: u64,
    ) -> Result<u64, String> {
        let first_unacked = Number(first_unacked);
        let message = Message::Lane(Lane { lane: LaneId(lane), first_unacked, key, urgent: false });
        self.send(&[message]).map_err(|_| "closed".to_owned())?;
        self.next(|message| match message {
            Message::LaneAnswer(answer) => Ok(answer.last.unwrap_or_default().0),
            other => Err(format!("{other:?}")),
        })
        .unwrap_or_else(|Gone| Err("closed".to_owned()))
    }
}

pub fn hello(run: [u8; 8]) -> Message<'static> {
    Message::Hello(Hello {
        version: 1,
        oldest: 1,
        frame_max: limits::FRAME_DEFAULT,
        run: Run(run),
        receipts: false,
        keep_alive_s: 0,
        software: "e2e",
        abandoned: Run::default(),
    })
}

pub fn bind(route: u32, lane: u32, topic: &str) -> Message<'_> {
    let (route, lane) = (RouteId(route), LaneId(lane));
    Message::Bind(Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" })
}

pub fn event(route: u32, payload: &[u8]) -> Message<'_> {
    Message::Event(Event { route: RouteId(route), extras: Extras::default(), payload })
}

/// All that is kept under a filter, and no more.
pub fn catch_up(filter: &str) -> Message<'_> {
    let source = Source::Filter { filter, key: None, from: From::Start };
    let (subscription, events, bytes) = (SubscriptionId(0), 1 << 16, 1 << 24);
    Message::Subscribe(Subscribe { subscription, source, events, bytes, live: false })
}

/// All deliveries up to this one were received.
pub fn seen(delivery: u64) -> Message<'static> {
    let (subscription, outcome) = (SubscriptionId(0), Outcome::Seen);
    Message::Settle(Settle { subscription, delivery, outcome, events: 0, reason: "" })
}

/// An ACK as a lane and how far it goes: the last number, or so many past lane 0's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    Step(u64),
    Through(u32, u64),
}

impl Acked {
    /// How far it goes; a step is of lane 0.
    pub fn last(self) -> u64 {
        match self {
            Self::Step(step) => step,
            Self::Through(_, last) => last,
        }
    }
}

pub fn acked(message: &Message<'_>) -> Option<Acked> {
    match message {
        Message::Ack(Ack::Step { step, .. }) => Some(Acked::Step(u64::from(*step))),
        Message::Ack(Ack::Spelled { lane, last, .. }) => Some(Acked::Through(lane.0, last.0)),
        _ => None,
    }
}
