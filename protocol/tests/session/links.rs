//! The two ends of a link.

use std::time::Duration;

use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, LinkSessionId, Number, Role, RouteId, Run},
    limits,
    message::{
        Abort, Ack, Attach, Chunk, Durability, Event, Extras, Fault, List, Message, Open, Opened,
        Registry, Scope, Void,
    },
    session::{
        Amount,
        link::{Config, Edge, EdgeInput, Refusal, Worker, WorkerInput},
    },
    time::{Instant, Millis},
};

use crate::talk::{Heard, has};

struct Pair {
    now: Instant,
    edge: Edge,
    worker: Worker,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Pair {
    fn new(edge_slots: [u8; 32], worker_slots: [u8; 32]) -> Self {
        let now = Instant(1);
        let edge = Edge::new(now, Millis(1), Config::new("edge-1".into(), edge_slots));
        let worker = Worker::new(now, Millis(2), Config::new("w1".into(), worker_slots));
        Self { now, edge, worker, up: Vec::new(), down: Vec::new() }
    }

    fn open() -> Self {
        let mut pair = Self::new([255; 32], [255; 32]);
        let (up, down) = (pair.up(), pair.down());
        assert!(has(&up, "edge-1") && has(&down, "w1"));
        assert!(pair.edge.is_open() && pair.worker.is_open());
        pair
    }

    fn up(&mut self) -> Heard {
        self.edge.poll_transmit(&mut self.up);
        let up = std::mem::take(&mut self.up);
        let mut bytes = &up[..];
        let mut heard = Vec::new();
        while let Some(input) = self.worker.handle_input(self.now, &mut bytes) {
            if let WorkerInput::Detached { session, .. } = input {
                self.worker.detached(session, &mut self.down).unwrap();
            }
            heard.push(format!("{input:?}"));
        }
        heard
    }

    fn down(&mut self) -> Heard {
        self.worker.poll_transmit(&mut self.down);
        let down = std::mem::take(&mut self.down);
        let mut bytes = &down[..];
        let mut heard = Vec::new();
        while let Some(input) = self.edge.handle_input(self.now, &mut bytes) {
            if let EdgeInput::Detached { session, .. } = input {
                self.edge.detached(session, &mut self.up).unwrap();
            }
            heard.push(format!("{input:?}"));
        }
        heard
    }

    fn attach(&mut self) -> Result<LinkSessionId, Refusal> {
        self.edge.attach(
            &Attach {
                session: LinkSessionId(0),
                tenant: "main",
                role: Role::Device,
                principal: "d1",
                run: Run([1; 8]),
                receipts: false,
                trace_base: [0; 8],
                peer: "",
                frame_max: 4096,
                abandoned: Run([0; 8]),
            },
            &mut self.up,
        )
    }

    fn send(&mut self, session: LinkSessionId) -> Result<(), Refusal> {
        let event = Message::Event(Event {
            route: RouteId(3),
            extras: Extras::default(),
            payload: b"21.5",
        });
        self.edge.send(session, Number(7), Millis(9), &event, crc::of(b"21.5"), &mut self.up)
    }
}

#[test]
fn what_a_session_says_arrives_as_it_was() {
    let mut pair = Pair::open();
    let session = pair.attach().unwrap();
    pair.send(session).unwrap();
    let heard = pair.up();
    assert!(
        has(&heard, "Attached") && has(&heard, "number: Number(7), time: Millis(9)"),
        "{heard:?}"
    );
    assert!(has(&heard, &format!("payload_crc: {}", crc::of(b"21.5"))));
    let ack = Ack::Spelled {
        durability: Durability::Stored,
        lane: LaneId(0),
        last: Number(7),
        receipts: List::default(),
    };
    pair.worker.send(session, &Message::Ack(ack), 0, &mut pair.down).unwrap();
    assert!(has(&pair.down(), "last: Number(7)"));
    let void = Void {
        session,
        lane: LaneId(0),
        number: Number(8),
        count: 1,
        code: Code::FORBIDDEN,
        time_ms: 1,
    };
    pair.edge.void(&void, &mut pair.up).unwrap();
    assert!(has(&pair.up(), "Void"));
}

#[test]
fn sides_that_disagree_about_slots_carry_nothing() {
    let mut pair = Pair::new([255; 32], [254; 32]);
    assert!(has(&pair.up(), "Closed(Code(406))"));
    assert!(has(&pair.down(), "Closed(Code(406))"));
    assert_eq!(pair.attach(), Err(Refusal::NotOpen));
}

#[test]
fn a_number_is_free_when_both_have_said_detach() {
    let mut pair = Pair::open();
    let session = pair.attach().unwrap();
    pair.up();
    pair.edge.detach(session, Code(0), &mut pair.up).unwrap();
    assert_eq!(pair.send(session), Err(Refusal::NotAttached));
    // What the worker said before it heard goes nowhere, and the number is not given to another.
    pair.worker.send(session, &Message::Fault(fault()), 0, &mut pair.down).unwrap();
    assert!(pair.down().is_empty());
    let other = pair.attach().unwrap();
    assert_ne!(other, session);
    assert!(has(&pair.up(), "Detached"));
    pair.down();
    assert_eq!((pair.edge.sessions(), pair.worker.sessions()), (1, 1));
    // Crossing: both say it at once, nobody answers.
    pair.edge.detach(other, Code(0), &mut pair.up).unwrap();
    pair.worker.detach(other, Code::REPLACED, &mut pair.down).unwrap();
    assert!(pair.up().is_empty() && pair.down().is_empty());
    assert_eq!((pair.edge.sessions(), pair.worker.sessions()), (0, 0));
    assert!(!pair.edge.is_attached(other) && pair.attach().is_ok());
}

fn fault() -> spile_protocol::message::Fault<'static> {
    let scope = spile_protocol::message::Scope::Session;
    spile_protocol::message::Fault {
        code: Code::BUSY,
        scope,
        retry: true,
        retry_after_ms: 0,
        detail: "",
    }
}

#[test]
fn a_link_takes_so_many_sessions() {
    let mut pair = Pair::open();
    for _ in 0..limits::LINK_SESSIONS {
        pair.attach().unwrap();
    }
    pair.up();
    assert_eq!(pair.attach(), Err(Refusal::TooMany));
    // A number that only one side gave up is not free.
    pair.edge.detach(LinkSessionId(7), Code(0), &mut pair.up).unwrap();
    assert_eq!(pair.attach(), Err(Refusal::TooMany));
    pair.up();
    pair.down();
    assert_eq!(pair.attach(), Ok(LinkSessionId(7)));
}

#[test]
fn silence_ends_a_link_after_twice_its_keep_alive() {
    let mut pair = Pair::open();
    for _ in 0..5 {
        pair.now = pair.now.after(Duration::from_secs(5));
        pair.edge.handle_timeout(pair.now);
        pair.worker.handle_timeout(pair.now);
        pair.up();
        pair.down();
        pair.up();
    }
    assert!(pair.edge.is_open() && pair.worker.is_open());
    for _ in 0..2 {
        pair.now = pair.now.after(Duration::from_secs(5));
        pair.worker.handle_timeout(pair.now);
    }
    assert_eq!(pair.worker.close_reason(), Some(Code::DEADLINE));
}

#[test]
fn a_greeting_that_does_not_come_ends() {
    let mut pair = Pair::new([0; 32], [0; 32]);
    let at = pair.worker.poll_timeout().unwrap();
    pair.worker.handle_timeout(at);
    assert_eq!(pair.worker.close_reason(), Some(Code::DEADLINE));
}

#[test]
fn the_links_credit_bounds_all_sessions_and_lets_one_always_go() {
    let mut pair = Pair::open();
    let credit = Amount { events: 10, bytes: 100 };
    pair.worker.set_credit(credit, &mut pair.down).unwrap();
    pair.down();
    assert!(pair.edge.has_room());
    pair.edge.account(Amount::default(), Amount { events: 6, bytes: 1 });
    assert!(pair.edge.has_room());
    pair.edge.account(Amount::default(), Amount { events: 4, bytes: 1 });
    assert!(!pair.edge.has_room());
    pair.edge.account(Amount { events: 6, bytes: 1 }, Amount::default());
    assert!(pair.edge.has_room());
    pair.worker.set_credit(Amount::default(), &mut pair.down).unwrap();
    pair.down();
    assert!(!pair.edge.has_room());
    pair.edge.account(Amount { events: 4, bytes: 1 }, Amount::default());
    assert!(pair.edge.has_room(), "with nothing in flight one frame may always go");
}

/// An upload's chunk over the link, of so many bytes from an offset on.
fn chunk(pair: &mut Pair, session: LinkSessionId, at: u64, bytes: usize) -> Result<(), Refusal> {
    let payload = vec![7; bytes];
    let chunk = Message::Chunk(Chunk { upload: 3, offset: at, payload: &payload });
    let crc = crc::of(&payload);
    pair.edge.send(session, Number(0), Millis(0), &chunk, crc, &mut pair.up)
}

fn open_upload(pair: &mut Pair, session: LinkSessionId) {
    let (key, name, content_type, meta) = (None, "", "", List::default());
    let open = Open { upload: 3, id: [1; 16], size: 1 << 20, key, name, content_type, meta };
    pair.edge.send(session, Number(0), Millis(0), &Message::Open(open), 0, &mut pair.up).unwrap();
    pair.up();
}

fn answer(pair: &mut Pair, session: LinkSessionId, message: &Message<'_>) {
    pair.worker.send(session, message, 0, &mut pair.down).unwrap();
    pair.down();
}

fn stored(stored_offset: u64, blob: &str) -> Message<'_> {
    Message::Opened(Opened { upload: 3, stored_offset, epoch: 1, blob, revision: 0 })
}

#[test]
fn chunks_have_a_credit_of_their_own_that_the_worker_says_and_its_answers_free() {
    let mut pair = Pair::new([255; 32], [255; 32]);
    // Before the greeting it is said there.
    pair.worker.set_chunk_credit(100, &mut pair.down).unwrap();
    pair.up();
    pair.down();
    let (one, two) = (pair.attach().unwrap(), pair.attach().unwrap());
    pair.up();
    for session in [one, two] {
        open_upload(&mut pair, session);
    }
    assert_eq!(chunk(&mut pair, one, 0, 60), Ok(()));
    assert_eq!(chunk(&mut pair, two, 0, 41), Err(Refusal::NoCredit));
    assert_eq!(chunk(&mut pair, two, 0, 40), Ok(()));
    assert_eq!(chunk(&mut pair, one, 60, 1), Err(Refusal::NoCredit), "another's counts too");
    let event =
        Message::Event(Event { route: RouteId(0), extras: Extras::default(), payload: b"x" });
    let said = pair.edge.send(one, Number(1), Millis(1), &event, 0, &mut pair.up);
    assert_eq!((said, pair.edge.has_room()), (Ok(()), true), "events pass");
    answer(&mut pair, one, &stored(50, ""));
    answer(&mut pair, one, &stored(50, ""));
    assert_eq!(chunk(&mut pair, two, 40, 51), Err(Refusal::NoCredit));
    assert_eq!(chunk(&mut pair, two, 40, 50), Ok(()));
    pair.worker.set_chunk_credit(150, &mut pair.down).unwrap();
    pair.down();
    assert_eq!(chunk(&mut pair, one, 60, 51), Err(Refusal::NoCredit));
    assert_eq!(chunk(&mut pair, one, 60, 50), Ok(()));
}

type End<'e> = &'e dyn Fn(&mut Pair, LinkSessionId);

#[test]
fn whatever_becomes_of_an_upload_its_chunks_leave_the_links_credit() {
    let scope = Scope::Upload { upload: 3, expected: 0 };
    let (code, detail) = (Code::BUSY, "");
    let fault = Message::Fault(Fault { code, scope, retry: true, retry_after_ms: 0, detail });
    let ends: [(&str, End<'_>); 6] = [
        ("sealed", &|pair, session| answer(pair, session, &stored(100, "00-1"))),
        ("failed", &|pair, session| answer(pair, session, &fault)),
        ("aborted", &|pair, session| answer(pair, session, &Message::Abort(Abort { upload: 3 }))),
        ("opened again", &|pair, session| {
            open_upload(pair, session);
            answer(pair, session, &stored(100, ""));
        }),
        ("detached", &|pair, session| {
            pair.edge.detach(session, Code(0), &mut pair.up).unwrap();
        }),
        ("let go", &|pair, session| {
            pair.worker.detach(session, Code::REPLACED, &mut pair.down).unwrap();
            pair.down();
        }),
    ];
    for (what, end) in ends {
        let mut pair = Pair::open();
        pair.worker.set_chunk_credit(100, &mut pair.down).unwrap();
        pair.down();
        let (one, two) = (pair.attach().unwrap(), pair.attach().unwrap());
        pair.up();
        open_upload(&mut pair, one);
        open_upload(&mut pair, two);
        assert_eq!(chunk(&mut pair, one, 0, 99), Ok(()));
        assert_eq!(chunk(&mut pair, two, 0, 2), Err(Refusal::NoCredit));
        end(&mut pair, one);
        assert_eq!(chunk(&mut pair, two, 0, 2), Ok(()), "{what}");
        assert_eq!(chunk(&mut pair, two, 2, 99), Err(Refusal::NoCredit), "{what}: once");
        assert_eq!(chunk(&mut pair, two, 2, 98), Ok(()), "{what}: all of it");
    }
}

#[test]
fn a_chunk_larger_than_the_links_credit_goes_alone() {
    let mut pair = Pair::open();
    pair.worker.set_chunk_credit(0, &mut pair.down).unwrap();
    pair.down();
    let session = pair.attach().unwrap();
    pair.up();
    open_upload(&mut pair, session);
    assert_eq!(chunk(&mut pair, session, 0, 10), Ok(()));
    assert_eq!(chunk(&mut pair, session, 10, 1), Err(Refusal::NoCredit));
    answer(&mut pair, session, &stored(10, ""));
    assert_eq!(chunk(&mut pair, session, 10, 1), Ok(()));
}

#[test]
fn the_registry_travels_both_ways() {
    let mut pair = Pair::open();
    let registry = Registry {
        upto: 7,
        whole: true,
        entries: List::default(),
        more: false,
        groups: List::default(),
    };
    pair.worker.registry(&registry, &mut pair.down).unwrap();
    assert!(has(&pair.down(), "upto: 7"));
    pair.edge.registry(&registry, &mut pair.up).unwrap();
    assert!(has(&pair.up(), "upto: 7"));
}
