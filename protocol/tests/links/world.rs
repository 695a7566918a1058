//! Two ends of a link and the pipe between them, and the model: sessions by the lives they lead, what each side said of one
//! and what the other heard, who is there as each side sees it, and what stands bare on the link.

use std::collections::HashMap;
use std::time::Duration;

use spile_protocol::{
    code::Code,
    crc, frame,
    id::{LaneId, LinkSessionId, Mark, Number, RequestId, Role, RouteId, Run},
    limits,
    message::{
        Attach, Body, Changed, Event, Extras, Fault, List, Message, Registry, Reply, Scope, Sender,
        Void,
    },
    session::{
        Amount,
        link::{Config, Edge, EdgeInput, Refusal, Worker, WorkerInput},
    },
    time::{Instant, Millis},
    varint,
};

/// Where choices come from: a seed, or a fuzzer's bytes.
pub trait Choose {
    /// A number in 0..n; 0 where there is nothing to choose from.
    fn below(&mut self, n: usize) -> usize;

    /// Once in `n` times.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Numbers that are left on a link that is nearly full: they are used again and again.
const LEFT: u32 = 4;

/// One way of the pipe: what was said and has not arrived, and what has and is not a whole frame yet.
#[derive(Debug, Default)]
struct Pipe {
    under_way: Vec<u8>,
    arrived: Vec<u8>,
}

impl Pipe {
    fn arrive(&mut self, bytes: usize) {
        let bytes = bytes.min(self.under_way.len());
        self.arrived.extend(self.under_way.drain(..bytes));
    }
}

/// A session from its ATTACH to its end: what each side said of it, and what the other heard.
#[derive(Debug, Default)]
pub struct Life {
    pub said: [u64; 2],
    pub heard: [u64; 2],
    /// A side has ended it: what the other says then may go nowhere.
    ended: bool,
}

/// How much was said, and heard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    said: u64,
    heard: u64,
}

impl Told {
    /// Before the greeting nothing goes.
    fn say(&mut self, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.said += 1,
            Err(why) => assert_eq!(why, Refusal::NotOpen),
        }
    }

    fn hear(&mut self, number: u64) {
        self.heard += 1;
        assert_eq!(number, self.heard, "lost, doubled or out of order");
        assert!(self.heard <= self.said);
    }
}

const UP: usize = 0;
const DOWN: usize = 1;

pub struct World {
    pub now: Instant,
    pub edge: Edge,
    pub worker: Worker,
    up: Pipe,
    down: Pipe,
    pub lives: Vec<Life>,
    /// Which life a number means, as each end sees it.
    at_edge: HashMap<u32, usize>,
    at_worker: HashMap<u32, usize>,
    /// Sessions that only take up numbers.
    bystanders: usize,
    /// What stands bare on the link, counted: REGISTRY each way, CHANGED.
    registries: [Told; 2],
    changes: Told,
    /// The link's credit as the worker said it last, and what the edge's sessions have in flight.
    credit: Amount,
    flight: Amount,
    /// May an end give the other up, because the pipe may stand still?
    pub may_end: bool,
    pub leaving: bool,
}

fn ends(now: Instant) -> (Edge, Worker) {
    let config = |name: &str| Config::new(name.into(), [255; 32]);
    (
        Edge::new(now, Millis(now.0), config("edge-1")),
        Worker::new(now, Millis(now.0), config("worker-1")),
    )
}

impl World {
    pub fn new() -> Self {
        let now = Instant(1);
        let (edge, worker) = ends(now);
        Self {
            now,
            edge,
            worker,
            up: Pipe::default(),
            down: Pipe::default(),
            lives: Vec::new(),
            at_edge: HashMap::new(),
            at_worker: HashMap::new(),
            bystanders: 0,
            registries: [Told::default(); 2],
            changes: Told::default(),
            credit: Amount { events: limits::CREDIT_LINK_EVENTS, bytes: limits::CREDIT_LINK_BYTES },
            flight: Amount::default(),
            may_end: false,
            leaving: false,
        }
    }

    /// A link with few numbers left.
    pub fn crowded() -> Self {
        let mut world = Self::new();
        world.calm();
        for number in LEFT..limits::LINK_SESSIONS {
            let attach = attach("nobody");
            world.edge.attach(&attach, &mut world.up.under_way).unwrap();
            if number % 1024 == 0 {
                world.move_bytes(usize::MAX, usize::MAX);
            }
        }
        world.calm();
        world.bystanders = world.worker.sessions();
        world
    }

    pub fn step(&mut self, choose: &mut impl Choose) {
        match choose.below(12) {
            0 | 1 => self.attach(),
            2 => self.end_from_edge(choose),
            3 => self.end_from_worker(choose),
            4..=6 => self.say_up(choose),
            7 => self.say_bare(choose),
            8 => self.account(choose),
            _ => self.say_down(choose),
        }
        self.pass(choose.below(400));
        let (up, down) = (choose.below(600), choose.below(600));
        self.move_bytes(up, down);
    }

    /// Time passes, and what is due is said.
    pub fn pass(&mut self, ms: usize) {
        self.now = self.now.after(Duration::from_millis(u64::try_from(ms).unwrap()));
        self.edge.handle_timeout(self.now);
        self.worker.handle_timeout(self.now);
        self.edge.poll_transmit(&mut self.up.under_way);
        self.worker.poll_transmit(&mut self.down.under_way);
    }

    pub fn move_bytes(&mut self, up: usize, down: usize) {
        self.up.arrive(up);
        self.down.arrive(down);
        self.worker_hears();
        self.edge_hears();
    }

    fn attach(&mut self) {
        let life = self.lives.len();
        let name = format!("life-{life}");
        let attach = attach(&name);
        match self.edge.attach(&attach, &mut self.up.under_way) {
            Ok(session) => {
                assert!(self.at_edge.insert(session.0, life).is_none(), "{session:?} is in use");
                self.lives.push(Life::default());
            }
            Err(Refusal::NotOpen) => assert!(!self.edge.is_open()),
            Err(Refusal::TooMany) => assert!(self.bystanders > 0),
            Err(other) => panic!("{other}"),
        }
    }

    fn pick(of: &HashMap<u32, usize>, choose: &mut impl Choose) -> Option<(LinkSessionId, usize)> {
        let mut numbers: Vec<_> = of.iter().map(|(&number, &life)| (number, life)).collect();
        numbers.sort_unstable();
        let (number, life) = *numbers.get(choose.below(numbers.len()))?;
        Some((LinkSessionId(number), life))
    }

    pub fn end_from_edge(&mut self, choose: &mut impl Choose) {
        let Some((session, life)) = Self::pick(&self.at_edge, choose) else { return };
        self.edge.detach(session, Code(0), &mut self.up.under_way).unwrap();
        self.at_edge.remove(&session.0);
        self.lives[life].ended = true;
    }

    pub fn end_from_worker(&mut self, choose: &mut impl Choose) {
        let Some((session, life)) = Self::pick(&self.at_worker, choose) else { return };
        self.worker.detach(session, Code::REPLACED, &mut self.down.under_way).unwrap();
        self.at_worker.remove(&session.0);
        self.lives[life].ended = true;
    }

    pub fn say_up(&mut self, choose: &mut impl Choose) {
        let Some((session, life)) = Self::pick(&self.at_edge, choose) else { return };
        self.lives[life].said[UP] += 1;
        let number = Number(self.lives[life].said[UP]);
        // A VOID stands in the order of the session's envelopes (spec §10.4.1).
        if choose.once_in(4) {
            let void = Void {
                session,
                lane: LaneId(u32::try_from(life).unwrap()),
                number,
                count: 1,
                code: Code::FORBIDDEN,
                time_ms: 1,
            };
            return self.edge.void(&void, &mut self.up.under_way).unwrap();
        }
        let payload = vec![7; choose.below(300)];
        let event = Message::Event(Event {
            route: RouteId(u32::try_from(life).unwrap()),
            extras: Extras::default(),
            payload: &payload,
        });
        let crc = crc::of(&payload);
        let up = &mut self.up.under_way;
        self.edge.send(session, number, Millis(self.now.0), &event, crc, up).unwrap();
    }

    pub fn say_down(&mut self, choose: &mut impl Choose) {
        let Some((session, life)) = Self::pick(&self.at_worker, choose) else { return };
        self.lives[life].said[DOWN] += 1;
        let payload = format!("{life} {}", self.lives[life].said[DOWN]);
        let fields = Reply {
            request: RequestId(1),
            code: Code(0),
            more: true,
            content_type: "",
            detail: "",
        };
        let reply = Message::Reply(Body { fields, payload: payload.as_bytes() });
        let down = &mut self.down.under_way;
        self.worker.send(session, &reply, crc::of(payload.as_bytes()), down).unwrap();
    }

    /// What stands bare on the link: the registry both ways, what changed, and the link's credit.
    fn say_bare(&mut self, choose: &mut impl Choose) {
        let registry = |upto| Registry {
            upto,
            whole: false,
            entries: List::default(),
            more: false,
            groups: List::default(),
        };
        let (up, down) = (&mut self.up.under_way, &mut self.down.under_way);
        match choose.below(4) {
            0 => {
                let number = self.registries[UP].said + 1;
                self.registries[UP].say(self.edge.registry(&registry(number), up));
            }
            1 => {
                let number = self.registries[DOWN].said + 1;
                self.registries[DOWN].say(self.worker.registry(&registry(number), down));
            }
            2 => {
                let mut room = [0; 8];
                let marks = List::encode([mark(self.changes.said + 1)], &mut room).unwrap();
                self.changes.say(self.worker.changed(&Changed { marks }, down));
            }
            _ => {
                let events = u32::try_from(choose.below(4)).unwrap();
                let credit = Amount { events, bytes: 1000 * events };
                if self.worker.set_credit(credit, down).is_ok() {
                    self.credit = credit;
                }
            }
        }
    }

    /// Sessions of the edge's have more or less in flight.
    fn account(&mut self, choose: &mut impl Choose) {
        let events = u32::try_from(choose.below(4)).unwrap();
        let now = Amount { events, bytes: 700 * events };
        self.edge.account(self.flight, now);
        self.flight = now;
    }

    fn over(&self, code: Code) {
        let silent = self.may_end && code == Code::DEADLINE;
        assert!(silent, "an end of an undisturbed link is over: {code}");
    }

    /// Is either end over?
    pub fn is_over(&self) -> bool {
        self.edge.close_reason().or(self.worker.close_reason()).is_some()
    }

    /// A stranger speaks in one end's place: whatever the other hears, it says why it goes, and keeps its bounds.
    pub fn intrude(&mut self, choose: &mut impl Choose) {
        let to_worker = choose.once_in(2);
        let header: Vec<u8> =
            (0..choose.below(40)).map(|_| u8::try_from(choose.below(256)).unwrap()).collect();
        let tag = u8::try_from(choose.below(256)).unwrap();
        let bytes = if choose.once_in(4) { header } else { framed(tag, &header) };
        let (mut rest, mut out) = (&bytes[..], Vec::new());
        let over = if to_worker {
            while self.worker.handle_input(self.now, &mut rest).is_some() {}
            self.worker.poll_transmit(&mut out);
            assert!(self.worker.sessions() <= self.bystanders + self.at_worker.len() + 1);
            self.worker.close_reason()
        } else {
            while self.edge.handle_input(self.now, &mut rest).is_some() {}
            self.edge.poll_transmit(&mut out);
            self.edge.close_reason()
        };
        let told = over.is_some_and(|code| says_why(&out, code));
        // Who was told to go, by FAULT or in a greeting by GOAWAY, says nothing more.
        let was_told = matches!(tag & 0x3f, 5 | 6) && !bytes.is_empty();
        assert!(over.is_none() || told || was_told, "{over:?} and not a word: {bytes:?}");
    }

    fn worker_hears(&mut self) {
        let arrived = std::mem::take(&mut self.up.arrived);
        let mut bytes = &arrived[..];
        while let Some(input) = self.worker.handle_input(self.now, &mut bytes) {
            match input {
                WorkerInput::Ready(peer) => assert_eq!(peer.name, "edge-1"),
                WorkerInput::Attached(attach) if attach.principal == "nobody" => {}
                WorkerInput::Attached(attach) => {
                    let life = attach.principal.strip_prefix("life-").unwrap().parse().unwrap();
                    assert!(self.at_worker.insert(attach.session.0, life).is_none());
                }
                WorkerInput::Message { session, number, message, payload_crc, .. } => {
                    let Message::Event(event) = message else { panic!("{message:?}") };
                    assert_eq!(payload_crc, crc::of(event.payload));
                    let life = self.at_worker[&session.0];
                    assert_eq!(usize::try_from(event.route.0).unwrap(), life, "another session's");
                    heard(&mut self.lives, life, UP, number.0);
                }
                WorkerInput::Void(void) => {
                    let life = self.at_worker[&void.session.0];
                    assert_eq!(usize::try_from(void.lane.0).unwrap(), life, "another session's");
                    heard(&mut self.lives, life, UP, void.number.0);
                }
                WorkerInput::Detached { session, .. } => {
                    self.worker.detached(session, &mut self.down.under_way).unwrap();
                    self.at_worker.remove(&session.0).unwrap();
                }
                WorkerInput::Leaving(code) => assert!(self.leaving && code == Code::SHUTDOWN),
                WorkerInput::Registry(registry) => self.registries[UP].hear(registry.upto),
                WorkerInput::Closed(code) => self.over(code),
            }
        }
        self.up.arrived = bytes.to_vec();
    }

    fn edge_hears(&mut self) {
        let arrived = std::mem::take(&mut self.down.arrived);
        let mut bytes = &arrived[..];
        while let Some(input) = self.edge.handle_input(self.now, &mut bytes) {
            match input {
                EdgeInput::Ready(peer) => assert_eq!(peer.name, "worker-1"),
                EdgeInput::Message { session, message, payload_crc } => {
                    let Message::Reply(body) = message else { panic!("{message:?}") };
                    assert_eq!(payload_crc, crc::of(body.payload));
                    let text = std::str::from_utf8(body.payload).unwrap();
                    let (life, number) = text.split_once(' ').unwrap();
                    let life: usize = life.parse().unwrap();
                    assert_eq!(self.at_edge[&session.0], life, "another session's");
                    heard(&mut self.lives, life, DOWN, number.parse().unwrap());
                }
                EdgeInput::Detached { session, .. } => {
                    self.edge.detached(session, &mut self.up.under_way).unwrap();
                    self.at_edge.remove(&session.0).unwrap();
                }
                EdgeInput::Leaving(code) => assert!(self.leaving && code == Code::SHUTDOWN),
                EdgeInput::Registry(registry) => self.registries[DOWN].hear(registry.upto),
                EdgeInput::Changed(changed) => {
                    let number = self.changes.heard + 1;
                    assert!(changed.marks.iter().eq([mark(number)]), "{changed:?}: {number}");
                    self.changes.hear(number);
                }
                EdgeInput::Closed(code) => self.over(code),
            }
        }
        self.down.arrived = bytes.to_vec();
    }

    /// Everything under way arrives; nothing is said but what is due.
    pub fn calm(&mut self) {
        for _ in 0..20 {
            self.pass(10);
            self.move_bytes(usize::MAX, usize::MAX);
        }
    }

    /// The connection is gone, with what was under way; the next one begins with nothing attached.
    pub fn cut(&mut self, choose: &mut impl Choose) {
        let (up, down) = (choose.below(2000), choose.below(2000));
        self.move_bytes(up, down);
        for &life in self.at_edge.values().chain(self.at_worker.values()) {
            self.lives[life].ended = true;
        }
        (self.edge, self.worker) = ends(self.now);
        (self.up, self.down) = (Pipe::default(), Pipe::default());
        self.at_edge.clear();
        self.at_worker.clear();
        self.registries = [Told::default(); 2];
        self.changes = Told::default();
        let (events, bytes) = (limits::CREDIT_LINK_EVENTS, limits::CREDIT_LINK_BYTES);
        (self.credit, self.flight) = (Amount { events, bytes }, Amount::default());
        self.leaving = false;
    }

    /// When all has arrived.
    pub fn check(&self) {
        for told in [&self.registries[..], &[self.changes]].concat() {
            assert_eq!(told.said, told.heard);
        }
        let Amount { events, bytes } = self.flight;
        let within = events < self.credit.events && bytes < self.credit.bytes;
        assert_eq!(self.edge.has_room(), within || (events, bytes) == (0, 0));
        assert_eq!(self.at_edge, self.at_worker, "the ends disagree about who is there");
        assert_eq!(self.edge.sessions(), self.bystanders + self.at_edge.len());
        assert_eq!(self.worker.sessions(), self.bystanders + self.at_worker.len());
        for (at, life) in self.lives.iter().enumerate() {
            assert!(life.ended || life.said == life.heard, "life {at}: {life:?}");
        }
    }
}

/// What is heard of a session is what was said next of it.
fn heard(lives: &mut [Life], life: usize, way: usize, number: u64) {
    let life = &mut lives[life];
    assert_eq!(number, life.heard[way] + 1, "lost, doubled or out of order: {life:?}");
    assert!(number <= life.said[way]);
    life.heard[way] = number;
}

pub fn attach(principal: &str) -> Attach<'_> {
    Attach {
        session: LinkSessionId(0),
        tenant: "main",
        role: Role::Device,
        principal,
        run: Run([0; 8]),
        receipts: false,
        trace_base: [0; 8],
        peer: "",
        frame_max: 4096,
        abandoned: Run([0; 8]),
    }
}

/// Bytes as choices, two where one does not reach; 0 when they are over.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first)
    }
}

impl Choose for Bytes<'_> {
    fn below(&mut self, n: usize) -> usize {
        let number = if n > 256 { 256 * self.next() + self.next() } else { self.next() };
        number % n.max(1)
    }
}

/// Any sequence of operations, as the bytes choose them: how many there were.
pub fn run(data: &[u8]) -> usize {
    let choose = &mut Bytes(data);
    let mut world = World::new();
    world.may_end = true;
    let mut done = 0;
    while !choose.0.is_empty() && done < 2000 {
        done += 1;
        match choose.below(32) {
            0 => world.cut(choose),
            1 => {
                world.intrude(choose);
                world.cut(choose);
            }
            2 => world.pass(choose.below(256) * 50),
            3 => {
                world.leaving = true;
                let either = choose.once_in(2);
                if either {
                    world.edge.goaway(Code::SHUTDOWN)
                } else {
                    world.worker.goaway(Code::SHUTDOWN)
                }
            }
            4 => {
                world.calm();
                if !world.is_over() {
                    world.check();
                }
            }
            _ => world.step(choose),
        }
        if world.is_over() {
            world.cut(choose);
        }
    }
    world.calm();
    if !world.is_over() {
        world.check();
    }
    done
}

fn mark(number: u64) -> Mark {
    Mark(u16::try_from(number & 0xffff).unwrap())
}

fn framed(tag: u8, header: &[u8]) -> Vec<u8> {
    let mut length = [0; varint::MAX_BYTES];
    let used = varint::encode(u64::try_from(header.len()).unwrap(), &mut length).unwrap();
    let head = [&[tag], &length[..used], header].concat();
    [&head[..], &crc::of(&head).to_le_bytes()].concat()
}

/// Is the last that was said a FAULT for the session with that code?
fn says_why(out: &[u8], code: Code) -> bool {
    let (mut rest, mut last) = (out, None);
    while let Some((frame, used)) = frame::decode(rest, limits::FRAME_LINK).unwrap() {
        rest = &rest[used..];
        last = match Message::decode(&frame, Sender::Server).unwrap() {
            Message::Fault(Fault { code, scope: Scope::Session, .. }) => Some(code),
            _ => None,
        };
    }
    last == Some(code)
}
