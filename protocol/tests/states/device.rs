//! A device's machine in each state: lane 0 with one event in flight, a subscription and an upload.

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RouteId, Run},
    message::{Abort, End, Extras, Message, Scope, Sender, Welcome},
    session::{
        Amount,
        device::{Channel, Config, Credential, Device, Event, Growable},
        key::{self, Binding, Signed},
    },
    time::Instant,
};

use crate::{
    Came, World,
    frames::{
        GROUP, SUBSCRIPTION, WELCOME, ack, answer, bad, bytes, challenge, credit, deliver, fault,
        goaway, opened, opening, ping, said, subscribe, usual,
    },
    table::Input,
};

const KEY: [u8; 32] = [9; 32];
const NONCE: [u8; 16] = [1; 16];

struct Client {
    now: Instant,
    device: Device<Growable, &'static str>,
    channel: Channel,
}

/// A client in `state`, where `input` comes next.
pub fn begin(state: &str, input: &Input) -> Box<dyn World> {
    let plain = state == "Challenged" || input.what.contains("plain");
    let by_key = plain || input.what == "proof wrong";
    let key = Credential::Key { tenant: "main", device: "d1", key: KEY };
    let credential = if by_key { key } else { Credential::Certificate };
    let channel = match (plain, by_key) {
        (true, _) => Channel::Plain,
        (false, true) => Channel::Tls(Some([3; 32])),
        (false, false) => Channel::Tls(None),
    };
    let config = Config { frame_max: 4096, ..Config::new(Run([1; 8]), credential, "") };
    let mut device = Device::new(config, Growable::new(64, 1 << 16));
    device.open_lane(None, Number(1), false).unwrap();
    device.bind(LaneId(0), "t", "", 0, "").unwrap();
    device.publish(Instant(1), RouteId(0), Extras::default(), &[7; 600]).unwrap();
    let mut client = Client { now: Instant(1), device, channel };
    client.go_to(state);
    Box::new(client)
}

impl Client {
    fn go_to(&mut self, state: &str) {
        if state == "Idle" {
            return;
        }
        self.device.connected(self.now, self.channel, NONCE);
        self.say();
        match state {
            "Greeting" => {}
            "Challenged" => {
                self.hear(&bytes(&challenge()));
            }
            _ => self.open(),
        }
        match state {
            "Draining" => drop(self.hear(&bytes(&goaway()))),
            "Closed" => drop(self.hear(&bytes(&fault(Scope::Session, false)))),
            _ => {}
        }
        self.say();
    }

    fn open(&mut self) {
        let mut out = Vec::new();
        self.hear(&bytes(&Message::Welcome(WELCOME)));
        let Message::Subscribe(subscribe) = subscribe(SUBSCRIPTION.0, GROUP) else { panic!() };
        self.device.subscribe(&subscribe, &mut out).unwrap();
        self.device.open_upload(&opening(1), &mut out).unwrap();
        for message in [answer(0, 0), credit(Some(1)), opened(1)] {
            self.hear(&bytes(&message));
        }
    }

    /// Everything that is due, as it goes out.
    fn say(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.device.poll_transmit(self.now, &mut out);
        out
    }

    fn hear(&mut self, bytes: &[u8]) -> Came {
        let (mut rest, mut handed) = (bytes, false);
        while let Some(event) = self.device.handle_input(self.now, &mut rest) {
            handed |= !matches!(event, Event::Closed { .. });
        }
        let read = rest.len() < bytes.len();
        Came { handed, read, ..said(&self.say(), Sender::Client) }
    }

    fn time(&mut self) {
        self.now = self.device.poll_timeout().unwrap();
        self.device.handle_timeout(self.now);
    }

    fn proof(&self) -> [u8; 32] {
        let binding = Binding::Nonces { client: NONCE, server: [2; 16] };
        let signed = Signed { tenant: "main", device: "d1", binding };
        key::verify(&key::hash(&KEY), &key::prove(&KEY, &signed), &signed).unwrap()
    }

    fn welcome(&self, what: &str) -> Vec<u8> {
        let right =
            if self.device.state() == "Challenged" { self.proof().to_vec() } else { vec![] };
        let (proof, frame_max) = match what {
            "" => (right, 4096),
            "proof wrong" => (vec![8; 32], 4096),
            "a frame_max below what is in flight" => (right, 512),
            other => panic!("WELCOME, {other}"),
        };
        bytes(&Message::Welcome(Welcome { frame_max, proof: &proof, ..WELCOME }))
    }

    fn message(&self, kind: &str, what: &str) -> Vec<u8> {
        let expected = Number(1);
        let lane = Scope::Lane { lane: LaneId(0), expected };
        bytes(&match (kind, what) {
            ("WELCOME", what) => return self.welcome(what),
            ("AUTH", "challenge, plain, with a device key" | "challenge, with TLS") => challenge(),
            ("ACK", "of a lane never opened") => ack(9, 1),
            ("ACK", "past what was sent") => ack(0, 2),
            ("ACK", "again") => ack(0, 1),
            ("LANE", "of a lane never opened") => answer(9, 0),
            ("LANE", "with more stored than was given") => answer(0, 5),
            ("CREDIT", "of a subscription") => credit(Some(1)),
            ("DELIVER", "of a subscription never made") => deliver(9),
            ("OPEN", "of an upload never opened") => opened(9),
            ("ABORT", "of an upload never opened") => Message::Abort(Abort { upload: 9 }),
            ("END", "of a subscription never made") => {
                Message::End(End { subscription: spile_protocol::id::SubscriptionId(9) })
            }
            ("PING", "an answer") => ping(true),
            ("FAULT", "session") => fault(Scope::Session, false),
            ("FAULT", "lane" | "lane, to be retried") => fault(lane, true),
            ("FAULT", "lane, not to be retried") => fault(lane, false),
            ("FAULT", "number") => {
                let version = spile_protocol::id::Version(0);
                fault(Scope::Number { lane: LaneId(0), number: expected, count: 1, version }, false)
            }
            ("FAULT", "route") => fault(Scope::Route(RouteId(0)), false),
            ("FAULT", "subscription") => fault(Scope::Subscription(SUBSCRIPTION), false),
            ("FAULT", "request") => fault(Scope::Request(spile_protocol::id::RequestId(1)), false),
            ("FAULT", "upload") => fault(Scope::Upload { upload: 1, expected: 0 }, false),
            (kind, "") => usual(kind, Sender::Server),
            other => panic!("nobody knows what {other:?} is"),
        })
    }

    fn happens(&mut self, what: &str) {
        match what {
            "connected, with TLS" | "connected, plain, with a device key" => {
                self.device.connected(self.now, self.channel, NONCE);
            }
            "the greeting's deadline" => {
                assert_eq!(self.device.poll_timeout(), Some(Instant(30_000_001)));
                self.time();
                assert_eq!(self.device.close_reason(), Some(Code::DEADLINE));
            }
            "the keep-alive passes" => self.time(),
            "the keep-alive passes twice" => {
                self.time();
                self.time();
            }
            "the user closes, something in flight" => {
                assert_ne!(self.device.in_flight(), Amount::default());
                self.device.close();
            }
            "the user closes, nothing in flight" => {
                self.hear(&bytes(&ack(0, 1)));
                self.device.close();
            }
            "the connection is lost" => self.device.disconnected(),
            other => panic!("nobody knows what {other:?} is"),
        }
    }
}

impl World for Client {
    fn state(&self) -> &'static str {
        self.device.state()
    }

    fn act(&mut self, input: &Input) -> Came {
        if let Some(bytes) = bad(&input.what) {
            return self.hear(&bytes);
        }
        match &input.kind {
            Some(kind) => {
                let bytes = self.message(kind, &input.what);
                if input.what == "again" {
                    self.hear(&bytes);
                }
                self.hear(&bytes)
            }
            None => {
                self.happens(&input.what);
                said(&self.say(), Sender::Client)
            }
        }
    }
}
