//! A lane at the client: each row of spec §17.2, told as a story of one lane with two events. A row whose words are others than
//! here, or that nobody tells, is a failure.

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RouteId, Run, Version},
    message::{Extras, Fault, LaneAnswer, Message, Scope, Sender, Welcome},
    session::device::{Channel, Config, Credential, Device, Event, Growable},
    time::Instant,
};

use crate::frames::{WELCOME, ack, answer, bytes, said};
use crate::table::Spec;

const EVENT_BYTES: usize = 3;

struct Client {
    now: Instant,
    device: Device<Growable, &'static str>,
    /// The numbers that were told as refused.
    refused: Vec<u64>,
}

impl Client {
    /// Connected and let in, with credit for so many events; lane 0 is wanted, two events wait on it.
    fn with_credit(credit_events: u32) -> Self {
        let mut client = Self::new();
        assert_eq!(client.connects(), ["HELLO", "AUTH", "LANE", "BIND"]);
        client.hear(&Message::Welcome(Welcome { credit_events, ..WELCOME }));
        client.publish();
        client.publish();
        client
    }

    fn new() -> Self {
        let config = Config::new(Run([1; 8]), Credential::Certificate, "");
        let mut device = Device::new(config, Growable::new(64, 1 << 16));
        device.open_lane(None, Number(1), false).unwrap();
        device.bind(LaneId(0), "t", "", 0, "").unwrap();
        Self { now: Instant(1), device, refused: Vec::new() }
    }

    fn connects(&mut self) -> Vec<String> {
        self.device.connected(self.now, Channel::Tls(None), [1; 16]);
        self.say()
    }

    fn publish(&mut self) {
        let payload = [7; EVENT_BYTES];
        self.device.publish(self.now, RouteId(0), Extras::default(), &payload).unwrap();
    }

    fn say(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        self.device.poll_transmit(self.now, &mut out);
        said(&out, Sender::Client).said
    }

    /// What is said to a message.
    fn hear(&mut self, message: &Message<'_>) -> Vec<String> {
        let bytes = bytes(message);
        let mut rest = &bytes[..];
        while let Some(event) = self.device.handle_input(self.now, &mut rest) {
            if let Event::Refused { number, .. } = event {
                self.refused.push(number.0);
            }
        }
        assert_eq!(self.device.close_reason(), None, "{message:?}");
        self.say()
    }

    /// Events in flight, and the first that has no outcome.
    fn stands(&self) -> (u32, u64) {
        (self.device.in_flight().events, self.device.first_unacked(LaneId(0)).unwrap().0)
    }

    fn refused(&mut self, scope: Scope, retry_after_ms: u32) -> Vec<String> {
        let retry = retry_after_ms > 0;
        let code = Code::UNAVAILABLE;
        self.hear(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail: "" }))
    }
}

/// A lane in `state`, both its events in flight.
fn lane(state: &str) -> Client {
    let mut client = Client::with_credit(10);
    assert_eq!(client.say(), ["EVENT", "EVENT"]);
    if state == "Open" {
        assert!(client.hear(&answer(0, 0)).is_empty());
    }
    assert_eq!(client.stands(), (2, 1));
    client
}

fn nothing() -> Vec<String> {
    Vec::new()
}

/// Does what a row says of one of its states.
fn tell(state: &str, row: &[String]) {
    let row: Vec<_> = row[1..].iter().map(String::as_str).collect();
    match (state, &row[..]) {
        ("Closed", ["wanted, session Greeting or Open", "LANE", "Opening"]) => {
            let mut client = Client::with_credit(10); // There it went out in Greeting.
            client.say();
            client.device.open_lane(Some("other"), Number(1), false).unwrap();
            assert_eq!(client.say(), ["LANE"]);
            assert_eq!(client.say(), nothing(), "once");
        }
        ("Opening", ["event", "sent at once, within the credit", "Opening"]) => {
            let mut client = Client::with_credit(1);
            assert_eq!(client.say(), ["EVENT"]);
            assert_eq!(client.stands(), (1, 1));
            assert_eq!(client.hear(&answer(0, 1)), ["EVENT"]);
        }
        ("Opening", ["LANE answer with `last`", "settles through it", "Open"]) => {
            let mut client = lane(state);
            assert_eq!(client.hear(&answer(0, 1)), nothing());
            assert_eq!(client.stands(), (1, 2));
        }
        ("Opening", ["LANE answer without `last`", "", "Opening"]) => {
            let mut client = lane(state);
            let Message::LaneAnswer(told) = answer(0, 0) else { unreachable!() };
            let unknown = Message::LaneAnswer(LaneAnswer { last: None, ..told });
            assert_eq!(client.hear(&unknown), nothing());
            assert_eq!(client.stands(), (2, 1));
            client.hear(&answer(0, 2));
            assert_eq!(client.stands(), (0, 3), "it was Opening still");
        }
        (_, ["FAULT lane", "in flight leaves the credit", "Closed, till `retry_after_ms`"]) => {
            let mut client = lane(state);
            let expected = Number(1);
            assert_eq!(client.refused(Scope::Lane { lane: LaneId(0), expected }, 250), nothing());
            assert_eq!(client.stands(), (0, 1));
            // Then, or somewhat later, so that not all come back at once.
            let again = client.device.poll_timeout().unwrap().0;
            assert!((250_000..500_000).contains(&(again - client.now.0)), "{again}");
            client.now = Instant(again - 1);
            client.device.handle_timeout(client.now);
            assert_eq!(client.say(), nothing());
            client.now = Instant(again);
            client.device.handle_timeout(client.now);
            assert_eq!(client.say(), ["LANE", "EVENT", "EVENT"]);
            assert_eq!(client.stands(), (2, 1));
        }
        ("Open", ["ACK", "settles through it", "Open"]) => {
            let mut client = lane(state);
            assert_eq!(client.hear(&ack(0, 1)), nothing());
            assert_eq!(client.stands(), (1, 2));
            client.publish();
            assert_eq!(client.say(), ["EVENT"], "it is Open still");
        }
        (
            "Open",
            [
                "FAULT number",
                "has its outcome; leaves the credit with the ACK that passes it",
                "Open",
            ],
        ) => {
            let mut client = lane(state);
            let (lane, version) = (LaneId(0), Version(0));
            let number = Scope::Number { lane, number: Number(1), count: 1, version };
            assert_eq!(client.refused(number, 0), nothing());
            assert_eq!((client.stands(), &client.refused[..]), ((2, 1), &[1][..]));
            assert_eq!(client.hear(&ack(0, 2)), nothing());
            assert_eq!(client.stands(), (0, 3));
        }
        ("any", ["connection lost", "", "Closed"]) => {
            for state in ["Opening", "Open"] {
                let mut client = lane(state);
                client.device.disconnected();
                assert_eq!((client.say(), client.stands()), (nothing(), (0, 1)));
                let greeting = client.connects();
                assert_eq!(greeting[..4], ["HELLO", "AUTH", "LANE", "BIND"], "it is wanted anew");
            }
        }
        other => panic!("nobody knows how that goes: {other:?}"),
    }
}

#[test]
fn a_lane_at_the_client_does_what_its_table_says() {
    let mut told = 0;
    for row in Spec::read().rows("17.2") {
        for state in row[0].split(", ") {
            tell(state, &row);
            told += 1;
        }
    }
    assert_eq!(told, 9, "rows are gone, or new");
}
