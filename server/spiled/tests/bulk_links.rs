//! An edge's link and a worker, joined by a pipe: uploaders at full credit over a link whose worker's disk takes nothing for a
//! while, and events beside them. Memory is of the whole process, so this test is alone in its file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use spile_edge::clock::Clock;
use spile_edge::limits::LINK_BULK;
use spile_edge::link::{Condition, Connector, Link, Registered, run};
use spile_edge::metrics::Metrics;
use spile_edge::registry::Copy;
use spile_edge::upstream::{Input, Port, Ready, Upstream};
use spile_log::{Log, Options, RealDisk};
use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, LinkSessionId, Number, Role, RouteId, Run},
    limits::{CHUNK_MAX, CREDIT_CHUNK_BYTES},
    message::{Attach, Bind, Chunk, Event, Extras, Fault, Lane, List, Message, Open, Seal},
    session::link::Config,
    time::Millis,
};
use spile_worker::{Logs, Worker, links};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const UPLOADERS: usize = 96;
const SIZE: usize = 4 << 20;
/// What the worker lets wait for its disk.
const WAITING: usize = 32 << 20;

/// Each attempt is a pipe, whose other end the worker gets.
struct Pipes(mpsc::Sender<DuplexStream>);

impl Connector for Pipes {
    type Stream = DuplexStream;
    async fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.0.send(far).await.map_err(io::Error::other)?;
        Ok(near)
    }
}

/// A worker, and its chunk log: nothing of that is written but by `pump`.
fn worker(folder: &Path) -> (Arc<Worker>, Log) {
    let open = |name: &str, inline| {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let disk = Arc::new(RealDisk::open(&folder).unwrap());
        let queue_bytes = 2 * WAITING;
        Log::open(disk, Options { inline, queue_bytes, reserve_bytes: 0, ..Options::default() })
            .unwrap()
            .0
    };
    let chunks = open("chunks", true);
    let logs = Logs::new(Arc::new(open("events", false)), Arc::new(chunks.clone()));
    let config = spile_worker::Config { name: "w".to_owned(), ..spile_worker::Config::default() };
    (Worker::open(config, logs, None).unwrap(), chunks)
}

async fn up(worker: Arc<Worker>, tasks: &mut JoinSet<()>) -> Arc<Link> {
    let (pipes, mut far) = mpsc::channel(1);
    let registered = Registered::Feeds(Arc::new(Copy::new(1_000_000)));
    let link = Link::new("w".to_owned(), [0xff; 32], registered);
    let config = Config::new(Arc::from("e"), [0; 32]);
    let of_task = (Clock::start(), Arc::<Metrics>::default());
    tasks.spawn(run(Arc::clone(&link), Pipes(pipes), config, of_task, 7, CancellationToken::new()));
    let stream = far.recv().await.unwrap();
    let edge = links::Edge { name: "e".to_owned(), tenants: None };
    tasks.spawn(async move {
        links::serve(worker, edge, stream, CancellationToken::new()).await.unwrap();
    });
    let mut condition = link.condition();
    condition.wait_for(|condition| *condition == Condition::Up).await.unwrap();
    link
}

/// A session, as an edge's has it: it brings nothing more while there is no room.
struct Session {
    port: Box<dyn Port>,
    acked: u64,
    stored: u64,
    sealed: bool,
}

impl Session {
    fn new(link: &Link, principal: &str) -> Self {
        let attach = Attach {
            session: LinkSessionId(0),
            tenant: "main",
            role: Role::Device,
            principal,
            run: Run([1; 8]),
            receipts: false,
            trace_base: [2; 8],
            peer: "",
            frame_max: 300_000,
            abandoned: Run::default(),
        };
        Self { port: link.attach(&attach).unwrap(), acked: 0, stored: 0, sealed: false }
    }

    fn say(&mut self, message: Message<'_>, number: u64, block: Option<&Bytes>) {
        let payload_crc = crc::of(message.payload());
        let input = Input { message, number: Number(number), payload_crc, block };
        self.port.take(Millis(1_700_000_000_000), &mut std::iter::once(input));
    }

    fn heard(&mut self) {
        let Self { port, acked, stored, sealed } = self;
        port.poll(1 << 20, &mut |message, _| {
            if let Message::Ack(spile_protocol::message::Ack::Spelled { last, .. }) = message {
                *acked = last.0;
            } else if let Message::Opened(opened) = message {
                *stored = opened.stored_offset;
                *sealed = !opened.blob.is_empty();
            } else if let Message::Fault(Fault { code, .. }) = message {
                assert_eq!(*code, Code(0), "refused");
            }
        });
    }

    /// Waits until the worker says something, or there is room where there was none.
    async fn wait(&mut self, room: bool) {
        let ready = poll_fn(|cx| match self.port.poll_ready(cx) {
            Poll::Ready(Ready::Some) => Poll::Ready(()),
            Poll::Ready(Ready::Away(_)) => panic!("the link is gone"),
            Poll::Pending if !room && self.port.has_room() => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        });
        tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap();
        self.heard();
    }

    /// One file, with its own credit of chunks and no more.
    async fn upload(mut self, block: Bytes) {
        let (key, name, content_type, meta) = (None, "", "", List::default());
        let size = u64::try_from(SIZE).unwrap();
        let open = Open { upload: 1, id: [1; 16], size, key, name, content_type, meta };
        self.say(Message::Open(open), 0, None);
        let mut sent = 0;
        while self.stored < size {
            let credit = sent - self.stored < u64::from(CREDIT_CHUNK_BYTES);
            if sent < size && credit && self.port.has_room() {
                let chunk = Chunk { upload: 1, offset: sent, payload: &block };
                self.say(Message::Chunk(chunk), 0, Some(&block));
                sent += u64::try_from(CHUNK_MAX).unwrap();
            } else {
                let room = self.port.has_room();
                self.wait(room).await;
            }
        }
        let mut hash = blake3::Hasher::new();
        for _ in 0..SIZE / CHUNK_MAX {
            hash.update(&block);
        }
        let blake3 = *hash.finalize().as_bytes();
        self.say(Message::Seal(Seal { upload: 1, size, blake3 }), 0, None);
        while !self.sealed {
            self.wait(true).await;
        }
    }

    async fn event(&mut self, number: u64) {
        if number == 1 {
            let lane = Lane { lane: LaneId(0), first_unacked: Number(1), key: None, urgent: false };
            self.say(Message::Lane(lane), 0, None);
            let (route, lane, topic) = (RouteId(0), LaneId(0), "t");
            let bind = Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" };
            self.say(Message::Bind(bind), 0, None);
        }
        let event = Event { route: RouteId(0), extras: Extras::default(), payload: b"21.5" };
        self.say(Message::Event(event), number, None);
        while self.acked < number {
            self.wait(true).await;
        }
    }
}

/// What of this process is in memory and not in a file.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_acked_and_memory_is_bounded_while_uploads_wait_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (worker, chunks) = worker(folder.path());
    let (mut serving, mut tasks) = (JoinSet::new(), JoinSet::new());
    let link = up(Arc::clone(&worker), &mut serving).await;
    let before = resident();
    for n in 0..UPLOADERS {
        // Bytes of its own, as a client's are.
        let block = Bytes::from(vec![7; CHUNK_MAX]);
        tasks.spawn(Session::new(&link, &format!("up-{n}")).upload(block));
    }
    let mut sensor = Session::new(&link, "sensor");
    let mut number = 0;
    // All that may wait for the disk does, and events pass.
    while worker.counters.chunk_bytes.get() < u64::try_from(WAITING).unwrap() {
        number += 1;
        sensor.event(number).await;
    }
    for _ in 0..50 {
        number += 1;
        sensor.event(number).await;
    }
    assert_eq!(worker.counters.chunk_bytes.get(), u64::try_from(WAITING).unwrap());
    let (grown, blocks) = (resident().saturating_sub(before), UPLOADERS * CHUNK_MAX);
    let most = WAITING + LINK_BULK + blocks + (16 << 20);
    assert!(grown < most, "{} MiB of {}", grown >> 20, most >> 20);
    assert!(tasks.try_join_next().is_none(), "nothing is stored");
    // The disk is back: all of them end, and what they brought is whole.
    let pump = tokio::task::spawn_blocking(move || {
        while worker.counters.sealed.get() < u64::try_from(UPLOADERS).unwrap() {
            chunks.pump();
        }
    });
    let mut ended = HashSet::new();
    while let Some(done) = tasks.join_next_with_id().await {
        ended.insert(done.unwrap().0);
    }
    pump.await.unwrap();
    assert_eq!(ended.len(), UPLOADERS);
}
