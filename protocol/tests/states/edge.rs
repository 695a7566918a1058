//! An edge's session in each state: lane 0 with one event in flight, a route that is refused, a lane that is closed, a
//! group's subscription with one delivery, an upload, questions both ways.

use std::time::Duration;

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RouteId},
    limits,
    message::{
        Abort, Auth, End, Event, Extras, From, Happened, Hello, Lane, Message, Outcome, Proof,
        Scope, Sender, Source,
    },
    session::{
        Amount,
        edge::{Admission, Config, Input as Taken, Session},
    },
    time::{Instant, Millis},
};

use crate::{
    Came, World,
    frames::{
        GROUP, HELLO, ack, answer, bad, batch, bind, bytes, call, challenge, chunk, credit,
        deliver, event, fault, get, goaway, lane, opened, opening, ping, reply, said, seal, settle,
        subscribe, usual,
    },
    table::Input,
};

const DRAIN: Duration = Duration::from_secs(limits::DRAIN_S as u64);

struct Server {
    now: Instant,
    session: Session,
}

/// A session in `state`, where `input` comes next.
pub fn begin(state: &str, input: &Input) -> Box<dyn World> {
    let config = Config {
        nonce: (input.what == "plain").then_some([2; 16]),
        frame_max: 4096,
        payload_max: 64,
        credit: Amount { events: 100, bytes: 10_000 },
        chunk_bytes: 100,
        ..Config::default()
    };
    let now = Instant(1);
    let mut server = Server { now, session: Session::new(now, config) };
    server.go_to(state, &input.what);
    Box::new(server)
}

impl Server {
    fn go_to(&mut self, state: &str, what: &str) {
        if state == "Greeting" {
            return;
        }
        self.hear(&Message::Hello(HELLO));
        if state == "Proving" {
            return;
        }
        self.hear(&Message::Auth(Auth { proof: Proof::Certificate }));
        if state == "Deciding" {
            return;
        }
        let admission = Admission { principal: "d1".into(), ..Admission::default() };
        self.session.admit(self.now, Millis(1), admission);
        self.flight();
        match state {
            "Draining" if what.ends_with("the client began") => drop(self.hear(&goaway())),
            "Draining" => {
                if !what.ends_with("the server began") {
                    self.open();
                }
                self.session.goaway(self.now, Code::SHUTDOWN, 0, DRAIN);
            }
            _ => self.open(),
        }
        if state == "Closed" {
            self.session.refuse(Code::REVOKED, "");
        }
        self.say();
    }

    /// One event in flight on lane 0.
    fn flight(&mut self) {
        for message in [lane(0, None), bind(0, 0), event(0, Extras::default())] {
            self.hear(&message);
        }
        self.tell(&answer(0, 0));
    }

    fn open(&mut self) {
        for message in [
            lane(2, Some("closed")),
            bind(2, 2),
            bind(3, 0),
            subscribe(1, GROUP),
            Message::Open(opening(1)),
            get(90),
        ] {
            self.hear(&message);
        }
        self.session.close_lane(LaneId(2), Code::UNAVAILABLE, Some(5));
        self.session.deny_route(RouteId(3), Code::FORBIDDEN);
        for message in [credit(Some(1)), deliver(1), opened(1), call(7)] {
            self.tell(&message);
        }
    }

    fn say(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.poll_transmit(self.now, &mut out);
        out
    }

    fn hear(&mut self, message: &Message<'_>) -> Came {
        self.read(&bytes(message))
    }

    fn take(&mut self, bytes: &[u8]) -> Came {
        let (mut rest, mut came) = (bytes, Came::default());
        while let Some(input) = self.session.handle_input(self.now, &mut rest) {
            came.handed |= !matches!(input, Taken::Closed(_));
        }
        came.read = rest.len() < bytes.len();
        came
    }

    fn read(&mut self, bytes: &[u8]) -> Came {
        let Came { handed, read, .. } = self.take(bytes);
        Came { handed, read, ..said(&self.say(), Sender::Server) }
    }

    fn tell(&mut self, message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let crc = spile_protocol::crc::of(message.payload());
        let _told = self.session.handle_downstream(self.now, message, crc, &mut out).unwrap();
        out
    }

    fn time(&mut self) {
        self.now = self.session.poll_timeout().unwrap();
        self.session.handle_timeout(self.now);
    }

    /// The same again and again, each with its number, until it is answered or ends the session.
    fn flood(&mut self, from: u32, most: u32, make: impl Fn(u32) -> Message<'static>) -> Came {
        for number in from..=from + most {
            let came = self.take(&bytes(&make(number)));
            if self.session.wants_transmit() {
                return Came {
                    handed: came.handed,
                    read: true,
                    ..said(&self.say(), Sender::Server)
                };
            }
        }
        panic!("{most} of them are taken");
    }

    fn message(kind: &str, what: &str) -> Vec<Message<'static>> {
        let none = Extras::default();
        let old = Extras { happened: Some(Happened::Ago(9)), ttl_ms: Some(8), ..none };
        vec![match (kind, what) {
            ("HELLO", "plain") => Message::Hello(HELLO),
            ("HELLO", "no version in common") => {
                Message::Hello(Hello { version: 9, oldest: 8, ..HELLO })
            }
            ("HELLO", "a field out of range") => Message::Hello(Hello { frame_max: 511, ..HELLO }),
            ("AUTH", "challenge") => challenge(),
            ("EVENT", "on a lane that is closed") => event(2, none),
            ("EVENT", "on a route the policy refused") => event(3, none),
            ("EVENT", "longer than payload_max") => {
                Message::Event(Event { route: RouteId(0), extras: none, payload: &[7; 65] })
            }
            ("EVENT", "older than its ttl") => event(0, old),
            ("EVENT", "on a route never bound") => event(9, none),
            ("EVENT", "of number 0") => event(0, Extras { number: Some(Number(0)), ..none }),
            ("EVENT", "whose number goes back") => {
                event(0, Extras { number: Some(Number(1)), ..none })
            }
            ("BATCH", "on a route never bound") => batch(9, 2),
            ("BATCH", "above the credit") => batch(0, 1024),
            ("BIND", "to a lane never opened") => bind(1, 9),
            ("BIND", "above the most") => bind(limits::ROUTES, 0),
            ("LANE", "with first_unacked 0") => Message::Lane(Lane {
                lane: LaneId(1),
                first_unacked: Number(0),
                key: Some("k"),
                urgent: false,
            }),
            ("LANE", "of another key while something is in flight") => lane(0, Some("k")),
            ("LANE", "above the most") => lane(limits::LANES, Some("k")),
            ("LANE", "of a key that another carries") => lane(1, Some("d1")),
            ("SUBSCRIBE", "with a filter that is none") => {
                subscribe(2, Source::Filter { filter: "a//b", key: None, from: From::Start })
            }
            ("SUBSCRIBE", "of a number in use") => subscribe(1, GROUP),
            ("GET", "of a number in use") => get(90),
            ("CALL", "of a number in use") => call(90),
            ("CHUNK", "at another offset") => chunk(1, 5, b"x"),
            ("CHUNK", "empty") => chunk(1, 0, b""),
            ("CHUNK", "above the credit") => {
                return vec![chunk(1, 0, &[7; 60]), chunk(1, 60, &[7; 60])];
            }
            ("CHUNK", "behind SEAL") => return vec![seal(1), chunk(1, 0, b"x")],
            ("SEAL", "behind SEAL") => return vec![seal(1), seal(1)],
            ("CHUNK", "of an upload not open") => chunk(9, 0, b"x"),
            ("SEAL", "of an upload not open") => seal(9),
            ("ABORT", "of an upload not open") => Message::Abort(Abort { upload: 9 }),
            ("SETTLE", "of a delivery never handed out") => settle(1, 2, Outcome::Done),
            ("SETTLE", "seen of a group's") => settle(1, 1, Outcome::Seen),
            ("SETTLE", "of a subscription not open") => settle(9, 1, Outcome::Done),
            ("CREDIT", "without a subscription") => credit(None),
            ("CREDIT", "of a subscription not open") => credit(Some(9)),
            ("END", "of a subscription not open") => end(9),
            ("REPLY", "to no call") => reply(9),
            ("PING", "an answer") => ping(true),
            (kind, "") => usual(kind, Sender::Client),
            other => panic!("nobody knows what {other:?} is"),
        }]
    }

    fn comes(&mut self, kind: &str, what: &str) -> Came {
        match (kind, what) {
            ("EVENT", "above the credit") => self.flood(1, 1000, |_| event(0, Extras::default())),
            ("OPEN", "above the most") => {
                self.flood(10, u32::try_from(limits::UPLOADS).unwrap(), |number| {
                    Message::Open(opening(number))
                })
            }
            ("SUBSCRIBE", "above the most") => {
                self.flood(10, limits::SUBSCRIPTIONS, |number| subscribe(number, GROUP))
            }
            ("GET", "above the most") => {
                self.flood(10, u32::try_from(limits::REQUESTS).unwrap(), get)
            }
            // Answers, since a question would be answered too.
            ("PING", "above the budget") => self.flood(1, limits::PING_BURST, |_| ping(true)),
            ("END", "above the budget") => self.flood(9, limits::CHEAP_BURST, end),
            _ => {
                let (last, before) = Self::message(kind, what)
                    .split_last()
                    .map(|(last, before)| (*last, before.to_vec()))
                    .unwrap();
                for message in &before {
                    self.take(&bytes(message));
                }
                self.hear(&last)
            }
        }
    }

    fn worker_says(&mut self, kind: &str) -> Came {
        let message = match kind {
            "CREDIT" => credit(Some(1)),
            "FAULT" => fault(Scope::Lane { lane: LaneId(0), expected: Number(1) }, true),
            kind => usual(kind, Sender::Server),
        };
        let out = self.tell(&message);
        said(&out, Sender::Server)
    }

    fn happens(&mut self, what: &str) {
        match what {
            "the deadline of 12.2" => {
                assert_eq!(self.session.poll_timeout(), Some(Instant(30_000_001)));
                self.time();
            }
            "more than 4,096 bytes" => drop(self.take(&[0; 4097])),
            "admitted" => self.session.admit(self.now, Millis(1), Admission::default()),
            "refused" => self.session.refuse(Code::UNAUTHENTICATED, ""),
            "the key's worker goes away, nothing spools" => {
                self.session.close_lane(LaneId(0), Code::UNAVAILABLE, Some(5));
            }
            "the server goes away" => self.session.goaway(self.now, Code::SHUTDOWN, 0, DRAIN),
            "another session took over" => {
                self.session.goaway(self.now, Code::REPLACED, 0, Duration::ZERO);
            }
            "the principal is revoked" => self.session.refuse(Code::REVOKED, ""),
            "10 s, the client began" | "10 s, the server began" => {
                assert_eq!(self.session.poll_timeout(), Some(self.now.after(DRAIN)));
                self.time();
            }
            "the keep-alive passes" => self.time(),
            "a frame is not whole in time" => {
                let whole = bytes(&ping(false));
                self.take(&whole[..3]);
                self.time();
            }
            other => panic!("nobody knows what {other:?} is"),
        }
    }
}

fn end(number: u32) -> Message<'static> {
    Message::End(End { subscription: spile_protocol::id::SubscriptionId(number) })
}

impl World for Server {
    fn state(&self) -> &'static str {
        self.session.state()
    }

    fn act(&mut self, input: &Input) -> Came {
        if let Some(bytes) = bad(&input.what) {
            return self.read(&bytes);
        }
        match (&input.kind, &*input.what) {
            (Some(kind), _) if input.from_worker => self.worker_says(kind),
            (Some(kind), what) => self.comes(kind, what),
            (None, "all is answered, the client began" | "all is answered, the server began") => {
                let out = [self.tell(&ack(0, 1)), self.say()].concat();
                let out = said(&out, Sender::Server);
                assert_eq!(out.said.first().map(String::as_str), Some("ACK"));
                Came { said: out.said[1..].to_vec(), ..out }
            }
            (None, "the keep-alive passes twice") => {
                self.time();
                let asked = self.say();
                self.time();
                said(&[asked, self.say()].concat(), Sender::Server)
            }
            (None, what) => {
                self.happens(what);
                said(&self.say(), Sender::Server)
            }
        }
    }
}
