//! Either end of a link in each state: session 0 is attached, session 1 was ended by this end and the other has not said so.

use spile_protocol::{
    code::Code,
    id::{LaneId, LinkSessionId, Number},
    limits,
    message::{Attach, Envelope, LinkHello, Message, Scope, Sender, Void},
    session::link::{Config, Edge, EdgeInput, Worker, WorkerInput},
    time::{Instant, Millis},
};

use crate::{
    Came, World,
    frames::{
        ATTACH, ENVELOPE, LINK_HELLO, VOID, bad, bytes, credit, detach, fault, goaway, ping, said,
        usual,
    },
    table::Input,
};

enum Machine {
    Edge(Edge),
    Worker(Worker),
}

struct End {
    now: Instant,
    machine: Machine,
}

/// Does the same with either end.
macro_rules! either {
    ($end:expr, $machine:ident => $do:expr) => {
        match &mut $end.machine {
            Machine::Edge($machine) => $do,
            Machine::Worker($machine) => $do,
        }
    };
}

fn config() -> Config {
    Config::new("this".into(), [255; 32])
}

/// An edge's end in `state`.
pub fn edge(state: &str, _: &Input) -> Box<dyn World> {
    let now = Instant(1);
    End { now, machine: Machine::Edge(Edge::new(now, Millis(1), config())) }.begin(state)
}

/// A worker's end in `state`.
pub fn worker(state: &str, _: &Input) -> Box<dyn World> {
    let now = Instant(1);
    End { now, machine: Machine::Worker(Worker::new(now, Millis(1), config())) }.begin(state)
}

impl End {
    fn begin(mut self, state: &str) -> Box<dyn World> {
        if state != "Greeting" {
            self.open();
        }
        match state {
            "Draining" => drop(self.hear(&bytes(&goaway()))),
            "Closed" => drop(self.hear(&bytes(&fault(Scope::Session, false)))),
            _ => {}
        }
        if state != "Greeting" {
            self.say();
        }
        Box::new(self)
    }

    fn open(&mut self) {
        self.say();
        self.hear(&bytes(&Message::LinkHello(LINK_HELLO)));
        let mut out = Vec::new();
        for session in [0, 1].map(LinkSessionId) {
            let attach = Attach { session, ..ATTACH };
            match &mut self.machine {
                Machine::Edge(edge) => assert_eq!(edge.attach(&attach, &mut out), Ok(session)),
                Machine::Worker(_) => drop(self.hear(&bytes(&Message::Attach(attach)))),
            }
        }
        either!(self, machine => machine.detach(LinkSessionId(1), Code(0), &mut out).unwrap());
    }

    /// Who speaks on this end, and who on the other.
    const fn senders(&self) -> (Sender, Sender) {
        match self.machine {
            Machine::Edge(_) => (Sender::Client, Sender::Server),
            Machine::Worker(_) => (Sender::Server, Sender::Client),
        }
    }

    fn say(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        either!(self, machine => machine.poll_transmit(&mut out));
        out
    }

    fn hear(&mut self, bytes: &[u8]) -> Came {
        let (mut rest, mut handed, mut out) = (bytes, false, Vec::new());
        loop {
            // What a driver does with a session that the other end has ended.
            let ended = match &mut self.machine {
                Machine::Edge(edge) => match edge.handle_input(self.now, &mut rest) {
                    None => break,
                    Some(EdgeInput::Closed(_)) => continue,
                    Some(EdgeInput::Detached { session, .. }) => Some(session),
                    Some(_) => None,
                },
                Machine::Worker(worker) => match worker.handle_input(self.now, &mut rest) {
                    None => break,
                    Some(WorkerInput::Closed(_)) => continue,
                    Some(WorkerInput::Detached { session, .. }) => Some(session),
                    Some(_) => None,
                },
            };
            handed = true;
            if let Some(session) = ended {
                either!(self, machine => machine.detached(session, &mut out).unwrap());
                assert!(!either!(self, machine => machine.is_attached(session)));
            }
        }
        let read = rest.len() < bytes.len();
        out.extend(self.say());
        Came { handed, read, ..said(&out, self.senders().0) }
    }

    fn time(&mut self) {
        self.now = either!(self, machine => machine.poll_timeout()).unwrap();
        either!(self, machine => machine.handle_timeout(self.now));
    }

    fn message(&self, kind: &str, what: &str) -> Message<'static> {
        let unknown = LinkSessionId(9);
        match (kind, what) {
            ("LINK_HELLO", "no version in common") => {
                Message::LinkHello(LinkHello { version: 9, oldest: 8, ..LINK_HELLO })
            }
            ("LINK_HELLO", "other slots") => {
                Message::LinkHello(LinkHello { slots: [1; 32], ..LINK_HELLO })
            }
            ("ATTACH", "of a number in use") => {
                Message::Attach(Attach { session: LinkSessionId(0), ..ATTACH })
            }
            ("ATTACH", "above the most") => {
                Message::Attach(Attach { session: LinkSessionId(limits::LINK_SESSIONS), ..ATTACH })
            }
            ("ENVELOPE", "of a session not attached") => {
                Message::Envelope(Envelope { session: unknown, ..ENVELOPE })
            }
            ("ENVELOPE", "around what is no message") => {
                Message::Envelope(Envelope { header: &[], payload: &[], ..ENVELOPE })
            }
            ("DETACH", "of a session that this end has ended") => detach(1),
            ("DETACH", "of a session not attached") => detach(9),
            ("VOID", "of a session not attached") => {
                Message::Void(Void { session: unknown, ..VOID })
            }
            ("CREDIT", "of a subscription") => credit(Some(1)),
            ("PING", "an answer") => ping(true),
            ("FAULT", "session") => fault(Scope::Session, false),
            ("FAULT", "lane") => fault(Scope::Lane { lane: LaneId(0), expected: Number(1) }, true),
            (kind, "") => usual(kind, self.senders().1),
            other => panic!("nobody knows what {other:?} is"),
        }
    }

    fn happens(&mut self, what: &str) {
        match what {
            "connected" => {}
            "10 s" => {
                self.say();
                let at = either!(self, machine => machine.poll_timeout());
                assert_eq!(at, Some(Instant(10_000_001)));
                self.time();
            }
            "this end goes away" => {
                self.say();
                either!(self, machine => machine.goaway(Code::SHUTDOWN));
            }
            "the keep-alive passes" => self.time(),
            "the keep-alive passes twice" => {
                self.time();
                self.time();
            }
            other => panic!("nobody knows what {other:?} is"),
        }
    }
}

impl World for End {
    fn state(&self) -> &'static str {
        match &self.machine {
            Machine::Edge(edge) => edge.state(),
            Machine::Worker(worker) => worker.state(),
        }
    }

    fn act(&mut self, input: &Input) -> Came {
        if input.what == "connected" {
            return said(&self.say(), self.senders().0);
        }
        if self.state() == "Greeting" {
            self.say(); // what is said because it is connected
        }
        if let Some(bytes) = bad(&input.what) {
            return self.hear(&bytes);
        }
        match &input.kind {
            Some(kind) => self.hear(&bytes(&self.message(kind, &input.what))),
            None => {
                self.happens(&input.what);
                let out = self.say();
                said(&out, self.senders().0)
            }
        }
    }
}
