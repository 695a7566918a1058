//! Chunks over a link, from an edge's machine, to a worker whose disk takes none of them for a while.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends on what it did not expect"
)]

mod support;

use std::{collections::HashMap, sync::Arc, time::Duration};

use spile_log::{Log, Options, RealDisk};
use spile_protocol::{
    crc,
    id::{LaneId, LinkSessionId, Number, Role, RouteId, Run},
    limits::CHUNK_MAX,
    message::{Ack, Bind, Chunk, Event, Extras, Lane, List, Message, Open},
    session::link::{Config as LinkConfig, Edge as Machine, EdgeInput, Refusal},
    time::{Instant, Millis},
};
use spile_worker::{
    Logs, Worker, attach_of,
    links::{self, Edge},
};
use support::NOW;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
/// What the worker lets wait for its disk.
const ALL: usize = 32 << 20;

/// A worker, and its chunk log: nothing of that is written but by `pump`.
fn held(folder: &std::path::Path) -> (Arc<Worker>, Log) {
    let [events, chunks] = ["events", "chunks"].map(|name| folder.join(name));
    for folder in [&events, &chunks] {
        std::fs::create_dir(folder).unwrap();
    }
    let disk = Arc::new(RealDisk::open(&chunks).unwrap());
    let options = Options {
        inline: true,
        prefill: false,
        reserve_bytes: 0,
        free_bytes_low: 0,
        queue_bytes: 2 * ALL,
        ..Options::default()
    };
    let chunks = Log::open(disk, options).unwrap().0;
    let logs = Logs::new(Arc::new(support::log(&events)), Arc::new(chunks.clone()));
    (Worker::open(support::config(), logs, None).unwrap(), chunks)
}

/// An edge's end.
struct End {
    machine: Machine,
    stream: DuplexStream,
    input: Vec<u8>,
    out: Vec<u8>,
    acked: HashMap<LinkSessionId, u64>,
    stored: HashMap<LinkSessionId, u64>,
    sent: HashMap<LinkSessionId, u64>,
}

impl End {
    async fn up(worker: &Arc<Worker>, name: &str) -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let edge = Edge { name: name.to_owned(), tenants: None };
        #[expect(clippy::disallowed_methods, reason = "it ends with its pipe")]
        tokio::spawn(links::serve(worker.clone(), edge, theirs, CancellationToken::new()));
        let machine = Machine::new(Instant(0), NOW, LinkConfig::new(name.into(), [0xff; 32]));
        let (input, out) = (Vec::new(), Vec::new());
        let (acked, stored, sent) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut end = Self { machine, stream: ours, input, out, acked, stored, sent };
        end.until(|end| end.machine.is_open()).await;
        end
    }

    /// Moves bytes until that is so, and all is said.
    async fn until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let mut part = vec![0; 64 * 1024];
        loop {
            self.machine.poll_transmit(&mut self.out);
            let said = std::mem::take(&mut self.out);
            let mut unsaid = &said[..];
            while !unsaid.is_empty() || !enough(self) {
                let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
                let moved = async {
                    tokio::select! {
                        written = writer.write(unsaid), if !unsaid.is_empty() => (0, written.unwrap()),
                        read = reader.read(&mut part) => (read.unwrap(), 0),
                    }
                };
                let moved = timeout(PATIENCE, moved).await;
                let (read, written) = moved.expect("the worker stands still");
                unsaid = &unsaid[written..];
                self.input.extend_from_slice(&part[..read]);
                self.hear();
            }
            if self.out.is_empty() {
                return;
            }
        }
    }

    fn hear(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some(next) = self.machine.handle_input(Instant(0), &mut rest) {
            match next {
                EdgeInput::Message { session, message: Message::Ack(ack), .. } => {
                    let Ack::Spelled { last, .. } = ack else { panic!("{ack:?}") };
                    self.acked.insert(session, last.0);
                }
                EdgeInput::Message { session, message: Message::Opened(opened), .. } => {
                    self.stored.insert(session, opened.stored_offset);
                }
                EdgeInput::Message { message: Message::LaneAnswer(_), .. }
                | EdgeInput::Ready(_)
                | EdgeInput::Registry(_) => {}
                other => panic!("{other:?}"),
            }
        }
        self.input = rest.to_vec();
    }

    fn say(&mut self, session: LinkSessionId, message: &Message<'_>) -> Result<(), Refusal> {
        let (number, time) = match message {
            Message::Event(_) => (Number(1), NOW),
            _ => (Number(0), Millis(0)),
        };
        let crc = crc::of(message.payload());
        self.machine.send(session, number, time, message, crc, &mut self.out)
    }

    fn attach(&mut self, principal: &str) -> LinkSessionId {
        let attach = attach_of("main", Role::Device, principal, Run([1; 8]));
        self.machine.attach(&attach, &mut self.out).unwrap()
    }

    fn uploader(&mut self, principal: &str, size: usize) -> LinkSessionId {
        let session = self.attach(principal);
        let (id, size) = ([1; 16], size as u64);
        let (key, name, content_type, meta) = (None, "", "", List::default());
        let open = Open { upload: 1, id, size, key, name, content_type, meta };
        self.say(session, &Message::Open(open)).unwrap();
        session
    }

    /// The next chunk of its upload; false: there is no credit.
    fn chunk(&mut self, session: LinkSessionId) -> bool {
        let offset = self.sent.get(&session).copied().unwrap_or_default();
        let payload = vec![7; CHUNK_MAX];
        match self.say(session, &Message::Chunk(Chunk { upload: 1, offset, payload: &payload })) {
            Ok(()) => self.sent.insert(session, offset + CHUNK_MAX as u64),
            Err(Refusal::NoCredit) => return false,
            Err(other) => panic!("{other}"),
        };
        true
    }

    /// Chunks of all, in turns, as far as there is credit: how many bytes.
    fn chunks(&mut self, sessions: &[LinkSessionId]) -> usize {
        let mut bytes = 0;
        for &session in sessions.iter().cycle() {
            if !self.chunk(session) {
                return bytes;
            }
            bytes += CHUNK_MAX;
        }
        bytes
    }

    /// How many bytes of chunks may go. They are on their way from then on, and never come.
    fn credit(&mut self, session: LinkSessionId) -> usize {
        let said = self.out.len();
        let bytes = self.chunks(&[session]);
        self.out.truncate(said);
        bytes
    }

    async fn event(&mut self, session: LinkSessionId) {
        let lane = Lane { lane: LaneId(0), first_unacked: Number(1), key: None, urgent: false };
        self.say(session, &Message::Lane(lane)).unwrap();
        let (route, lane, topic) = (RouteId(0), LaneId(0), "t");
        let bind = Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" };
        self.say(session, &Message::Bind(bind)).unwrap();
        let event = Event { route, extras: Extras::default(), payload: b"21.5" };
        self.say(session, &Message::Event(event)).unwrap();
        self.until(|end| end.acked.contains_key(&session)).await;
    }
}

#[tokio::test]
async fn events_pass_all_the_chunks_that_wait_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (worker, chunks) = held(folder.path());
    let mut end = End::up(&worker, "edge-1").await;
    let uploaders: Vec<_> = (0..40).map(|n| end.uploader(&format!("up-{n}"), 1 << 30)).collect();
    assert_eq!(end.chunks(&uploaders), ALL, "one link has all of it");
    for n in 0..3 {
        let session = end.attach(&format!("sensor-{n}"));
        end.event(session).await;
    }
    // All of it has come, and nobody was told that any is stored.
    assert_eq!(worker.counters.chunk_bytes.get(), ALL as u64);
    assert!(end.stored.values().all(|&stored| stored == 0), "{:?}", end.stored);
    while chunks.pump() {}
    let sent = end.sent.clone();
    end.until(|end| sent.iter().all(|(session, sent)| end.stored.get(session) == Some(sent))).await;
    assert_eq!(end.chunks(&uploaders), ALL, "all of it is free again");
}

#[tokio::test]
async fn links_share_what_may_wait_and_get_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let (worker, _chunks) = held(folder.path());
    let mut one = End::up(&worker, "edge-1").await;
    let mut two = End::up(&worker, "edge-2").await;
    let first = one.uploader("up-1", 1 << 30);
    let second = two.uploader("up-2", 1 << 30);
    // Behind its ACK the first has heard that there are two.
    one.event(first).await;
    assert_eq!((one.credit(first), two.credit(second)), (ALL / 2, ALL / 2));
    drop(two);
    // The first hears of it by itself.
    let (mut more, mut sensors) = (0, 0);
    while more < ALL / 2 {
        sensors += 1;
        let sensor = one.attach(&format!("sensor-{sensors}"));
        one.event(sensor).await;
        more += one.credit(first);
    }
    assert_eq!(more, ALL / 2);
}
