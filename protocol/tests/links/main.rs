//! The two ends of a link against each other, in virtual time, under seeds: sessions that come and go from both sides over
//! a pipe that delays, splits at every byte and is cut. What one side says of a session arrives at the other for the same
//! session, once and in order, and a link that nobody disturbs never ends.
//!
//! `SPILE_SEED=N cargo test -p spile-protocol --test links` replays a seed, `SPILE_SEEDS=20000` runs more.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail"
)]

#[path = "../pair/seed.rs"]
mod seed;

use std::collections::HashMap;
use std::time::Duration;

use seed::{Seed, each_seed};
use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, LinkSessionId, Number, RequestId, Role, RouteId, Run},
    limits,
    message::{Attach, Body, Event, Extras, Message, Reply, Void},
    session::link::{Config, Edge, EdgeInput, Refusal, Worker, WorkerInput},
    time::{Instant, Millis},
};

const STEPS: usize = 600;
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
struct Life {
    said: [u64; 2],
    heard: [u64; 2],
    /// A side has ended it: what the other says then may go nowhere.
    ended: bool,
}

const UP: usize = 0;
const DOWN: usize = 1;

struct World {
    now: Instant,
    edge: Edge,
    worker: Worker,
    up: Pipe,
    down: Pipe,
    lives: Vec<Life>,
    /// Which life a number means, as each end sees it.
    at_edge: HashMap<u32, usize>,
    at_worker: HashMap<u32, usize>,
    /// Sessions that only take up numbers.
    bystanders: usize,
    leaving: bool,
}

fn ends(now: Instant) -> (Edge, Worker) {
    let config = |name: &str| Config::new(name.into(), [255; 32]);
    (
        Edge::new(now, Millis(now.0), config("edge-1")),
        Worker::new(now, Millis(now.0), config("worker-1")),
    )
}

impl World {
    fn new() -> Self {
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
            leaving: false,
        }
    }

    /// A link with few numbers left.
    fn crowded() -> Self {
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

    fn step(&mut self, seed: &mut Seed) {
        match seed.below(10) {
            0 | 1 => self.attach(),
            2 => self.end_from_edge(seed),
            3 => self.end_from_worker(seed),
            4..=6 => self.say_up(seed),
            _ => self.say_down(seed),
        }
        self.pass(seed.below(400));
        let (up, down) = (seed.below(600), seed.below(600));
        self.move_bytes(up, down);
    }

    /// Time passes, and what is due is said.
    fn pass(&mut self, ms: usize) {
        self.now = self.now.after(Duration::from_millis(u64::try_from(ms).unwrap()));
        self.edge.handle_timeout(self.now);
        self.worker.handle_timeout(self.now);
        self.edge.poll_transmit(&mut self.up.under_way);
        self.worker.poll_transmit(&mut self.down.under_way);
    }

    fn move_bytes(&mut self, up: usize, down: usize) {
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

    fn pick(of: &HashMap<u32, usize>, seed: &mut Seed) -> Option<(LinkSessionId, usize)> {
        let mut numbers: Vec<_> = of.iter().map(|(&number, &life)| (number, life)).collect();
        numbers.sort_unstable();
        let (number, life) = *numbers.get(seed.below(numbers.len()))?;
        Some((LinkSessionId(number), life))
    }

    fn end_from_edge(&mut self, seed: &mut Seed) {
        let Some((session, life)) = Self::pick(&self.at_edge, seed) else { return };
        self.edge.detach(session, Code(0), &mut self.up.under_way).unwrap();
        self.at_edge.remove(&session.0);
        self.lives[life].ended = true;
    }

    fn end_from_worker(&mut self, seed: &mut Seed) {
        let Some((session, life)) = Self::pick(&self.at_worker, seed) else { return };
        self.worker.detach(session, Code::REPLACED, &mut self.down.under_way).unwrap();
        self.at_worker.remove(&session.0);
        self.lives[life].ended = true;
    }

    fn say_up(&mut self, seed: &mut Seed) {
        let Some((session, life)) = Self::pick(&self.at_edge, seed) else { return };
        self.lives[life].said[UP] += 1;
        let number = Number(self.lives[life].said[UP]);
        // A VOID stands in the order of the session's envelopes (spec §10.4.1).
        if seed.once_in(4) {
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
        let payload = vec![7; seed.below(300)];
        let event = Message::Event(Event {
            route: RouteId(u32::try_from(life).unwrap()),
            extras: Extras::default(),
            payload: &payload,
        });
        let crc = crc::of(&payload);
        let up = &mut self.up.under_way;
        self.edge.send(session, number, Millis(self.now.0), &event, crc, up).unwrap();
    }

    fn say_down(&mut self, seed: &mut Seed) {
        let Some((session, life)) = Self::pick(&self.at_worker, seed) else { return };
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
                WorkerInput::Registry(_) => panic!("nobody said anything of the registry"),
                WorkerInput::Closed(code) => panic!("the worker's end is over: {code}"),
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
                EdgeInput::Registry(_) | EdgeInput::Changed(_) => {
                    panic!("nobody said such a thing")
                }
                EdgeInput::Closed(code) => panic!("the edge's end is over: {code}"),
            }
        }
        self.down.arrived = bytes.to_vec();
    }

    /// Everything under way arrives; nothing is said but what is due.
    fn calm(&mut self) {
        for _ in 0..20 {
            self.pass(10);
            self.move_bytes(usize::MAX, usize::MAX);
        }
    }

    /// The connection is gone, with what was under way; the next one begins with nothing attached.
    fn cut(&mut self, seed: &mut Seed) {
        let (up, down) = (seed.below(2000), seed.below(2000));
        self.move_bytes(up, down);
        for &life in self.at_edge.values().chain(self.at_worker.values()) {
            self.lives[life].ended = true;
        }
        (self.edge, self.worker) = ends(self.now);
        (self.up, self.down) = (Pipe::default(), Pipe::default());
        self.at_edge.clear();
        self.at_worker.clear();
    }

    fn check(&self) {
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

#[test]
fn what_is_said_of_a_session_arrives_there_once_and_in_order() {
    each_seed(60, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS {
            world.step(seed);
        }
        world.calm();
        world.check();
        let heard: u64 = world.lives.iter().flat_map(|life| life.heard).sum();
        assert!(heard > 100, "little was said: {heard}");
    });
}

#[test]
fn a_link_that_is_cut_begins_anew_with_nobody_attached() {
    each_seed(60, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS {
            world.step(seed);
            if seed.once_in(50) {
                world.cut(seed);
            }
        }
        world.calm();
        world.check();
    });
}

#[test]
fn who_says_goodbye_still_answers_what_is_in_flight() {
    each_seed(60, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS / 4 {
            world.step(seed);
        }
        world.calm();
        world.leaving = true;
        if seed.once_in(2) {
            world.edge.goaway(Code::SHUTDOWN);
        } else {
            world.worker.goaway(Code::SHUTDOWN);
        }
        for _ in 0..STEPS / 4 {
            match seed.below(4) {
                0 => world.say_up(seed),
                1 => world.say_down(seed),
                2 => world.end_from_edge(seed),
                _ => world.end_from_worker(seed),
            }
            world.pass(seed.below(100));
            let (up, down) = (seed.below(600), seed.below(600));
            world.move_bytes(up, down);
        }
        world.calm();
        world.check();
        assert_eq!(world.edge.attach(&attach("late"), &mut Vec::new()), Err(Refusal::NotOpen));
    });
}

#[test]
fn a_number_is_one_session_until_both_sides_let_go_of_it() {
    each_seed(2, |seed| {
        let mut world = World::crowded();
        for _ in 0..2 * STEPS {
            world.step(seed);
        }
        world.calm();
        world.check();
        assert!(world.lives.len() > 20, "few numbers came free: {}", world.lives.len());
    });
}

fn attach(principal: &str) -> Attach<'_> {
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

#[test]
fn a_pipe_that_stands_still_ends_the_link_after_two_keep_alives() {
    each_seed(20, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS / 4 {
            world.step(seed);
        }
        world.calm();
        // Both were heard within the last keep-alive: who is silent for longer was asked.
        let keep_alive = Duration::from_secs(u64::from(limits::LINK_KEEP_ALIVE_S));
        let (early, late) = (keep_alive, 2 * keep_alive + Duration::from_secs(1));
        let since = world.now;
        while world.now < since.after(late) {
            let over = world.edge.close_reason().or(world.worker.close_reason());
            assert!(over.is_none() || world.now > since.after(early), "{over:?} too early");
            world.pass(seed.below(900) + 100);
        }
        assert_eq!(world.edge.close_reason(), Some(Code::DEADLINE));
        assert_eq!(world.worker.close_reason(), Some(Code::DEADLINE));
    });
}
