//! A link over pipes in memory, against a worker's end that is the real machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect is shown as it is")]

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use spile_edge::cache::{Cache, Name};
use spile_edge::clock::Clock;
use spile_edge::limits::LINK_BULK;
use spile_edge::link::{Condition, Connector, Link, Registered, run};
use spile_edge::metrics::Metrics;
use spile_edge::registry::{Copy, Registry as _};
use spile_edge::upstream::{Away, Input, Port, Ready, Upstream};
use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, LinkSessionId, Mark, Number, Role, RouteId, Run},
    message::{
        Attach, Changed, Chunk, Entry, Event, Extras, Lane, LaneAnswer, List, Message, Open,
        Opened, Registry, Seal, Void,
    },
    session::{
        Amount,
        link::{Config, Worker, WorkerInput},
    },
    time::{Instant, Millis},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SLOTS: [u8; 32] = [0xff; 32];
/// Two chunks.
const CHUNK_CREDIT: u32 = 2 * CHUNK;
const CHUNK: u32 = 256 * 1024;

/// The worker's end of one connection.
struct Far {
    stream: DuplexStream,
    machine: Worker,
    got: Vec<u8>,
    out: Vec<u8>,
    clock: Clock,
}

impl Far {
    fn new(stream: DuplexStream, name: &str, slots: [u8; 32], credit: Amount) -> Self {
        let clock = Clock::start();
        let chunk_bytes = CHUNK_CREDIT;
        let config = Config { credit, chunk_bytes, ..Config::new(Arc::from(name), slots) };
        let machine = Worker::new(clock.now(), clock.wall(), config);
        Self { stream, machine, got: Vec::new(), out: Vec::new(), clock }
    }

    async fn flush(&mut self) {
        self.machine.poll_transmit(&mut self.out);
        // The edge may have gone meanwhile; then there is nobody to tell.
        self.stream.write_all(&self.out).await.unwrap_or_default();
        self.out.clear();
    }

    /// The next thing the edge says, as text.
    async fn next(&mut self) -> String {
        loop {
            let mut rest = &*self.got;
            let now = self.clock.now();
            let seen = self.machine.handle_input(now, &mut rest).map(|input| shown(&input));
            let left = rest.len();
            self.got.drain(..self.got.len() - left);
            self.flush().await;
            if let Some(seen) = seen {
                return seen;
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part).await.unwrap() {
                0 => return "gone".to_owned(),
                n => self.got.extend_from_slice(part.get(..n).unwrap()),
            }
        }
    }

    async fn say(&mut self, session: u32, message: &Message<'_>) {
        let session = LinkSessionId(session);
        self.machine.send(session, message, crc::of(message.payload()), &mut self.out).unwrap();
        self.flush().await;
    }
}

fn shown(input: &WorkerInput<'_>) -> String {
    match input {
        WorkerInput::Ready(peer) => format!("ready {}", peer.name),
        WorkerInput::Attached(attach) => {
            format!("attached {} {}", attach.session, attach.principal)
        }
        WorkerInput::Message { session, number, message, payload_crc, .. } => {
            assert_eq!(*payload_crc, crc::of(message.payload()));
            format!("{session}: {number} {} bytes", message.payload().len())
        }
        WorkerInput::Void(void) => format!("{}: void {}", void.session, void.number),
        WorkerInput::Detached { session, .. } => format!("detached {session}"),
        WorkerInput::Registry(registry) => format!("registry {}", registry.upto),
        WorkerInput::Leaving(code) | WorkerInput::Closed(code) => format!("over {}", code.name()),
    }
}

/// Gives each attempt a pipe, and its other end to the test.
struct Pipes(mpsc::Sender<DuplexStream>);

impl Connector for Pipes {
    type Stream = DuplexStream;
    async fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(1 << 16);
        self.0.send(far).await.map_err(io::Error::other)?;
        Ok(near)
    }
}

struct Setup {
    link: Arc<Link>,
    far: mpsc::Receiver<DuplexStream>,
    metrics: Arc<Metrics>,
    copy: Arc<Copy>,
    _tasks: JoinSet<()>,
}

fn setup() -> Setup {
    let (pipes, far) = mpsc::channel(1);
    let copy = Arc::new(Copy::new(1_000_000));
    let link = Link::new("w".to_owned(), SLOTS, Registered::Feeds(Arc::clone(&copy)));
    let metrics = Arc::<Metrics>::default();
    let mut tasks = JoinSet::new();
    let config = Config::new(Arc::from("edge"), [0; 32]);
    let of_task = (Clock::start(), Arc::clone(&metrics));
    tasks.spawn(run(Arc::clone(&link), Pipes(pipes), config, of_task, 7, CancellationToken::new()));
    Setup { link, far, metrics, copy, _tasks: tasks }
}

impl Setup {
    async fn accept(&mut self) -> Far {
        let credit = Amount { events: 2, bytes: 1_000 };
        let mut far = Far::new(self.far.recv().await.unwrap(), "w", SLOTS, credit);
        assert_eq!(far.next().await, "ready edge");
        let mut condition = self.link.condition();
        condition.wait_for(|condition| *condition == Condition::Up).await.unwrap();
        far
    }

    fn attach(&self) -> Result<Box<dyn Port>, Away> {
        self.link.attach(&Attach {
            session: LinkSessionId(0),
            tenant: "main",
            role: Role::Device,
            principal: "d1",
            run: Run([1; 8]),
            receipts: false,
            trace_base: [2; 8],
            peer: "",
            frame_max: 65_536,
            abandoned: Run::default(),
        })
    }
}

fn input(message: Message<'_>, number: u64) -> Input<'_> {
    Input { message, number: Number(number), payload_crc: crc::of(message.payload()), block: None }
}

fn event() -> Message<'static> {
    Message::Event(Event { route: RouteId(0), extras: Extras::default(), payload: b"21.5" })
}

fn lane() -> Message<'static> {
    Message::Lane(Lane { lane: LaneId(0), first_unacked: Number(1), key: None, urgent: false })
}

fn opened(last: u64) -> Message<'static> {
    Message::LaneAnswer(LaneAnswer {
        lane: LaneId(0),
        last: Some(Number(last)),
        worker: "w",
        refused: List::default(),
        receipts: List::default(),
        uploads: List::default(),
        inbox: spile_protocol::id::Version(0),
    })
}

/// What the port says next: a lane's last number, or how the worker is.
async fn hear(port: &mut Box<dyn Port>) -> String {
    match poll_fn(|cx| port.poll_ready(cx)).await {
        Ready::Away(_) => "away".to_owned(),
        Ready::Some => {
            let said = Mutex::new(Vec::new());
            port.poll(4096, &mut |message, _| {
                let text = match message {
                    Message::LaneAnswer(answer) => {
                        format!("lane {:?}", answer.last.map(|last| last.0))
                    }
                    Message::Detach(detach) => format!("detach {}", detach.code.name()),
                    other => format!("{:?}", other.tag()),
                };
                said.lock().unwrap().push(text);
            });
            said.into_inner().unwrap().join(",")
        }
    }
}

#[tokio::test]
async fn what_a_session_says_and_hears_passes_the_link() {
    let mut setup = setup();
    assert!(setup.attach().is_err(), "not up yet");
    let mut far = setup.accept().await;
    assert_eq!(setup.metrics.links.get(), 1);
    let mut port = setup.attach().unwrap();
    let void = Message::Void(Void {
        session: LinkSessionId(0),
        lane: LaneId(0),
        number: Number(2),
        count: 1,
        code: Code::FORBIDDEN,
        time_ms: 5,
    });
    port.take(Millis(5), &mut [input(lane(), 1), input(event(), 1), input(void, 2)].into_iter());
    assert_eq!(far.next().await, "attached 0 d1");
    assert_eq!(far.next().await, "0: 1 0 bytes");
    assert_eq!(far.next().await, "0: 1 4 bytes");
    assert_eq!(far.next().await, "0: void 2");
    far.say(0, &opened(7)).await;
    assert_eq!(hear(&mut port).await, "lane Some(7)");
    drop(port);
    assert_eq!(far.next().await, "detached 0");
}

#[tokio::test]
async fn two_sessions_do_not_hear_each_other_and_a_number_is_not_mixed_up() {
    let mut setup = setup();
    let mut far = setup.accept().await;
    let (mut one, mut two) = (setup.attach().unwrap(), setup.attach().unwrap());
    assert_eq!(far.next().await, "attached 0 d1");
    assert_eq!(far.next().await, "attached 1 d1");
    far.say(1, &opened(2)).await;
    far.say(0, &opened(1)).await;
    assert_eq!(
        (hear(&mut one).await, hear(&mut two).await),
        ("lane Some(1)".to_owned(), "lane Some(2)".to_owned())
    );
    // The worker ends the first: what it still says goes nowhere, and its end is not another's.
    far.machine.detach(LinkSessionId(0), Code::REPLACED, &mut far.out).unwrap();
    far.flush().await;
    assert_eq!(hear(&mut one).await, "detach replaced");
    one.take(Millis(5), &mut [input(event(), 1)].into_iter());
    drop(one);
    two.take(Millis(5), &mut [input(event(), 9)].into_iter());
    assert_eq!(far.next().await, "1: 9 4 bytes");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_gone_kills_its_ports_and_comes_back() {
    let mut setup = setup();
    let far = setup.accept().await;
    let mut port = setup.attach().unwrap();
    drop(far);
    assert_eq!(hear(&mut port).await, "away");
    assert!(port.has_room());
    let mut far = setup.accept().await;
    port.take(Millis(5), &mut [input(event(), 1)].into_iter());
    let mut second = setup.attach().unwrap();
    second.take(Millis(5), &mut [input(lane(), 1)].into_iter());
    assert_eq!(far.next().await, "attached 0 d1");
    assert_eq!(far.next().await, "0: 1 0 bytes");
    drop(port);
    second.take(Millis(5), &mut [input(event(), 3)].into_iter());
    assert_eq!(far.next().await, "0: 3 4 bytes");
    assert_eq!(setup.metrics.links.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_goes_when_the_worker_says_it_changed_and_when_a_new_link_is_open() {
    let mut setup = setup();
    let cache = Cache::new(Duration::from_secs(60));
    setup.link.tells(Arc::clone(&cache), 3);
    let mut far = setup.accept().await;
    let keep = |place, key| {
        let name = Name { tenant: "main", key, topic: "state/a" };
        cache.ask(Instant(0), place, name).unwrap().keep(1, 0, Box::from([0]));
    };
    keep(3, "a");
    keep(3, "b");
    // Another worker's, which this one has no word on.
    keep(4, "a");
    let mut room = [0; 8];
    let marks = List::encode([Mark::of("main", "a", "state/a")], &mut room).unwrap();
    let mut port = setup.attach().unwrap();
    assert_eq!(far.next().await, "attached 0 d1");
    far.machine.changed(&Changed { marks }, &mut far.out).unwrap();
    // What comes behind it has passed it.
    far.say(0, &opened(0)).await;
    assert_eq!(hear(&mut port).await, "lane Some(0)");
    assert_eq!((cache.counts.changed.get(), cache.counts.entries()), (1, 2));
    drop(far);
    assert_eq!(hear(&mut port).await, "away");
    assert_eq!(cache.counts.entries(), 2, "told until its age is over");
    let _far = setup.accept().await;
    assert_eq!(cache.counts.entries(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_other_slots_or_another_name_carries_nothing() {
    let credit = Amount { events: 2, bytes: 1_000 };
    for (name, slots) in [("w", [0x0f; 32]), ("other", SLOTS)] {
        let mut setup = setup();
        let mut far = Far::new(setup.far.recv().await.unwrap(), name, slots, credit);
        while !far.next().await.starts_with(['o', 'g']) {}
        let mut condition = setup.link.condition();
        let is_conflict = |condition: &Condition| matches!(condition, Condition::Away(why) if why.contains("conflict"));
        condition.wait_for(is_conflict).await.unwrap();
        assert!(setup.attach().is_err());
    }
}

#[tokio::test]
async fn the_links_credit_holds_all_sessions_back_and_lets_them_go_on() {
    let mut setup = setup();
    let _far = setup.accept().await;
    let (mut one, mut two) = (setup.attach().unwrap(), setup.attach().unwrap());
    one.in_flight(Amount { events: 2, bytes: 8 });
    assert!(!one.has_room() && !two.has_room());
    let waits = poll_fn(|cx| match two.poll_ready(cx) {
        Poll::Pending if two.has_room() => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
        Poll::Ready(_) => panic!("nothing was said"),
    });
    let ((), ()) = tokio::join!(waits, async {
        tokio::task::yield_now().await;
        one.in_flight(Amount { events: 1, bytes: 4 });
    });
}

fn open(upload: u32) -> Message<'static> {
    let (key, name, content_type, meta) = (None, "", "", List::default());
    Message::Open(Open { upload, id: [1; 16], size: 1 << 30, key, name, content_type, meta })
}

fn chunk(payload: &[u8], number: u64) -> Message<'_> {
    Message::Chunk(Chunk { upload: 1, offset: number * u64::from(CHUNK), payload })
}

fn stored(chunks: u64) -> Message<'static> {
    let stored_offset = chunks * u64::from(CHUNK);
    Message::Opened(Opened { upload: 1, stored_offset, epoch: 1, blob: "", revision: 0 })
}

fn seal() -> Message<'static> {
    Message::Seal(Seal { upload: 1, size: 0, blake3: [0; 32] })
}

#[tokio::test]
async fn chunks_wait_for_the_links_credit_in_turns_and_all_else_passes_them() {
    let mut setup = setup();
    let mut far = setup.accept().await;
    let (mut one, mut two) = (setup.attach().unwrap(), setup.attach().unwrap());
    let payload = vec![7; usize::try_from(CHUNK).unwrap()];
    let of_one = [open(1), chunk(&payload, 0), chunk(&payload, 1), seal(), open(2)];
    one.take(Millis(5), &mut of_one.into_iter().map(|message| input(message, 0)));
    let of_two = [open(1), chunk(&payload, 0), chunk(&payload, 1)];
    two.take(Millis(5), &mut of_two.into_iter().map(|message| input(message, 0)));
    one.take(Millis(5), &mut [input(event(), 1)].into_iter());
    let mut got = Vec::new();
    while got.len() < 7 {
        got.push(far.next().await);
    }
    let whole = format!("0 {CHUNK} bytes");
    let [of_one, of_two] = ["0", "1"].map(|of| format!("{of}: {whole}"));
    let small = ["attached 0 d1", "attached 1 d1", "0: 0 0 bytes", "1: 0 0 bytes", "0: 1 4 bytes"];
    assert_eq!(got[..5], small, "what is no chunk comes first");
    assert_eq!(got[5..], [&*of_one, &*of_two], "one chunk each");
    // There is credit for no more, and nothing else holds anybody back.
    two.take(Millis(5), &mut [input(event(), 1)].into_iter());
    assert_eq!(far.next().await, "1: 1 4 bytes");
    assert!(one.has_room() && two.has_room());
    far.say(1, &stored(1)).await;
    assert_eq!(far.next().await, of_one);
    // What is behind a chunk in its session comes behind it.
    assert_eq!([far.next().await, far.next().await], ["0: 0 0 bytes", "0: 0 0 bytes"]);
    // A session that is gone gives back what it had, and takes with it what waited.
    drop(one);
    assert_eq!(far.next().await, "detached 0");
    assert_eq!(far.next().await, of_two);
}

#[tokio::test]
async fn a_session_reads_no_more_while_too_many_chunks_wait_and_its_own_do() {
    let mut setup = setup();
    let mut far = setup.accept().await;
    let (mut one, mut two) = (setup.attach().unwrap(), setup.attach().unwrap());
    let mut three = setup.attach().unwrap();
    let payload = vec![7; usize::try_from(CHUNK).unwrap()];
    for port in [&mut one, &mut two] {
        port.take(Millis(5), &mut [input(open(1), 0)].into_iter());
    }
    two.take(Millis(5), &mut [input(chunk(&payload, 0), 0)].into_iter());
    let mut taken = 0;
    while one.has_room() && taken < 100 {
        one.take(Millis(5), &mut [input(chunk(&payload, taken), 0)].into_iter());
        taken += 1;
    }
    assert_eq!(taken, u64::try_from(LINK_BULK).unwrap() / u64::from(CHUNK) - 1);
    assert!(!two.has_room(), "its own waits too");
    three.take(Millis(5), &mut [input(event(), 1)].into_iter());
    assert!(three.has_room(), "it has none that waits");
    for small in ["attached 0 d1", "attached 1 d1", "attached 2 d1", "0: 0 0 bytes", "1: 0 0 bytes"]
    {
        assert_eq!(far.next().await, small);
    }
    assert_eq!(far.next().await, "2: 1 4 bytes");
    let waits = poll_fn(|cx| match two.poll_ready(cx) {
        Poll::Pending if two.has_room() => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
        Poll::Ready(_) => panic!("nothing was said"),
    });
    // Its only one goes out in the second turn: it is woken.
    let ((), ()) = tokio::join!(waits, async {
        assert_eq!(far.next().await, format!("1: 0 {CHUNK} bytes"));
    });
    for chunks in 1..taken {
        assert_eq!(far.next().await, format!("0: 0 {CHUNK} bytes"));
        far.say(0, &stored(chunks)).await;
    }
    assert_eq!(far.next().await, format!("0: 0 {CHUNK} bytes"));
    assert!(one.has_room());
}

#[tokio::test(start_paused = true)]
async fn chunks_that_waited_for_a_link_that_is_gone_are_gone_and_the_next_begins_afresh() {
    let mut setup = setup();
    let far = setup.accept().await;
    let mut port = setup.attach().unwrap();
    let payload = vec![7; usize::try_from(CHUNK).unwrap()];
    port.take(Millis(5), &mut [input(open(1), 0)].into_iter());
    let mut number = 0;
    while port.has_room() && number < 100 {
        port.take(Millis(5), &mut [input(chunk(&payload, number), 0)].into_iter());
        number += 1;
    }
    drop(far);
    assert_eq!(hear(&mut port).await, "away");
    assert!(port.has_room());
    let mut far = setup.accept().await;
    let mut port = setup.attach().unwrap();
    let again = [open(1), chunk(&payload, 0), chunk(&payload, 1)];
    port.take(Millis(5), &mut again.into_iter().map(|message| input(message, 0)));
    assert_eq!(far.next().await, "attached 0 d1");
    assert_eq!(far.next().await, "0: 0 0 bytes");
    assert_eq!(far.next().await, format!("0: 0 {CHUNK} bytes"));
    assert_eq!(far.next().await, format!("0: 0 {CHUNK} bytes"), "all of the credit is there");
}

#[tokio::test]
async fn what_is_registered_is_learnt_and_confirmed() {
    let mut setup = setup();
    let mut far = setup.accept().await;
    let mut room = [0; 128];
    let entry = Entry {
        tenant: "main",
        principal: "d1",
        role: Role::Device,
        key_hash: None,
        revoked: true,
        expires_ms: 0,
        later: &[],
    };
    let entries = List::encode([entry], &mut room).unwrap();
    let said = Registry { upto: 9, whole: true, entries, more: false, groups: List::default() };
    far.machine.registry(&said, &mut far.out).unwrap();
    far.flush().await;
    assert_eq!(far.next().await, "registry 9");
    assert!(setup.copy.lookup("main", "d1").unwrap().revoked);
}
