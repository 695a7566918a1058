//! Both ways at once through pipes that hold little: a device publishes and consumes, and everything ends. Reading never
//! stops because writing blocks, and no two windows wait for each other.

use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, Number, Position, RouteId, Run, SubscriptionId, Version},
    message::{
        Ack, Credit, Deliver, Durability, Extras, From, LaneAnswer, Lengths, List, Message,
        Outcome, Settle, Source, Subscribe,
    },
    session::{
        Amount, Limited,
        device::{Channel, Config, Credential, Device, Event, Growable},
        edge::{self, Admission, Input, Session, Told},
    },
    time::{Instant, Millis},
};

use crate::seed::Seed;

const SUBSCRIPTION: SubscriptionId = SubscriptionId(0);
const NOW: Instant = Instant(1);

/// One direction: what is written and not read, at most `cap` bytes and a frame.
struct Pipe {
    bytes: Vec<u8>,
    cap: usize,
    read: Vec<u8>,
}

impl Pipe {
    fn new(cap: usize) -> Self {
        Self { bytes: Vec::new(), cap, read: Vec::new() }
    }

    fn write(&mut self) -> Limited<'_, Vec<u8>> {
        let room = self.cap.saturating_sub(self.bytes.len());
        Limited::new(&mut self.bytes, room)
    }

    fn flow(&mut self, seed: &mut Seed) {
        let some = seed.below(100).min(self.bytes.len());
        self.read.extend(self.bytes.drain(..some));
    }
}

struct Both {
    device: Device<Growable, &'static str>,
    session: Session,
    up: Pipe,
    down: Pipe,
    group: bool,
    subscribed: bool,
    credited: bool,
    lane: bool,
    answered: bool,
    taken: u64,
    acked: u64,
    delivered: u64,
    to_settle: Vec<u64>,
    settled: u64,
}

fn amount(seed: &mut Seed) -> Amount {
    let small = |seed: &mut Seed, most| u32::try_from(seed.below(most)).unwrap();
    Amount { events: small(seed, 6), bytes: small(seed, 300) }
}

pub fn run(seed: &mut Seed) {
    let credit = amount(seed);
    let window = amount(seed);
    let config = edge::Config { credit, ..edge::Config::default() };
    let mut device = Device::new(
        Config::new(Run([1; 8]), Credential::Certificate, "both"),
        Growable::new(50, 4000),
    );
    let lane = device.open_lane(None, Number(1), false).unwrap();
    let route = device.bind(lane, "t", "", 0, "").unwrap();
    device.connected(NOW, Channel::Tls(None), [1; 16]);
    let mut both = Both {
        device,
        session: Session::new(NOW, config),
        up: Pipe::new(40 + seed.below(400)),
        down: Pipe::new(40 + seed.below(400)),
        group: seed.once_in(2),
        subscribed: false,
        credited: false,
        lane: false,
        answered: false,
        taken: 0,
        acked: 0,
        delivered: 0,
        to_settle: Vec::new(),
        settled: 0,
    };
    let (events, deliveries) = (60, 60);
    let mut published = 0;
    for _ in 0..100_000 {
        if published < events
            && both.device.publish(NOW, route, Extras::default(), &[7; 30]).is_ok()
        {
            published += 1;
        }
        both.turn(seed, window, route, deliveries);
        if both.acked == events && both.settled == deliveries && both.device.is_settled() {
            return;
        }
    }
    panic!(
        "it stands still: {} of {events} acked, {} of {deliveries} settled",
        both.acked, both.settled
    );
}

impl Both {
    fn turn(&mut self, seed: &mut Seed, window: Amount, route: RouteId, deliveries: u64) {
        self.device.poll_transmit(NOW, &mut self.up.write());
        self.consume(window);
        self.up.flow(seed);
        self.edge_reads(route);
        self.session.poll_transmit(NOW, &mut self.down.write());
        self.worker(window, deliveries);
        self.down.flow(seed);
        self.device_reads();
    }

    fn consume(&mut self, window: Amount) {
        if !self.device.is_open() {
            return;
        }
        if !self.subscribed {
            let group = Source::Group { name: "g", max_events: 3, max_bytes: 100 };
            let filter = Source::Filter { filter: "#", key: None, from: From::Start };
            let source = if self.group { group } else { filter };
            let Amount { events, bytes } = window;
            let subscribe =
                Subscribe { subscription: SUBSCRIPTION, source, events, bytes, live: true };
            self.subscribed = self.device.subscribe(&subscribe, &mut self.up.write()).is_ok();
        }
        let Some(&delivery) = self.to_settle.first() else { return };
        let outcome = if self.group { Outcome::Done } else { Outcome::Seen };
        let settle =
            Settle { subscription: SUBSCRIPTION, delivery, outcome, events: 0, reason: "" };
        if self.device.settle(&settle, &mut self.up.write()).is_ok() {
            self.to_settle.remove(0);
        }
    }

    fn edge_reads(&mut self, route: RouteId) {
        let mut bytes = &self.up.read[..];
        while let Some(input) = self.session.handle_input(NOW, &mut bytes) {
            match input {
                Input::Authenticate(_) => self.session.admit(NOW, Millis(1), Admission::default()),
                Input::Upstream { first, message, .. } => match message {
                    Message::Event(event) => {
                        assert_eq!((event.route, first.0), (route, self.taken + 1));
                        self.taken = first.0;
                    }
                    Message::Lane(_) => self.lane = true,
                    Message::Settle(settle) => {
                        assert!(settle.delivery > self.settled, "settled twice");
                        self.settled = settle.delivery;
                    }
                    _ => {}
                },
                other => panic!("{other:?}"),
            }
        }
        self.up.read = bytes.to_vec();
    }

    fn say(&mut self, message: &Message<'_>) -> Option<Told> {
        let crc = crc::of(message.payload());
        self.session.handle_downstream(NOW, message, crc, &mut self.down.write()).ok()
    }

    /// Says what there is to say, as far as there is room; what does not fit is said again next time.
    fn worker(&mut self, window: Amount, deliveries: u64) {
        if self.lane && !self.answered {
            let answer = LaneAnswer {
                lane: LaneId(0),
                last: Some(Number(0)),
                worker: "w",
                refused: List::default(),
                receipts: List::default(),
                uploads: List::default(),
                inbox: Version(0),
            };
            self.answered = self.say(&Message::LaneAnswer(answer)).is_some();
        }
        if self.answered && self.taken > self.acked {
            let (durability, last, receipts) =
                (Durability::Stored, Number(self.taken), List::default());
            let ack = Ack::Spelled { durability, lane: LaneId(0), last, receipts };
            if self.say(&Message::Ack(ack)).is_some() {
                self.acked = self.taken;
            }
        }
        if !self.credited {
            let Amount { events, bytes } = window;
            let credit =
                Credit { subscription: Some(SUBSCRIPTION), events, bytes, chunk_bytes: None };
            self.credited = self.say(&Message::Credit(credit)) == Some(Told::Said);
        }
        if self.credited && self.delivered < deliveries {
            let version = Version(self.delivered + 1);
            let deliver = Deliver {
                subscription: SUBSCRIPTION,
                key: Some("k"),
                topic: Some("t"),
                kind: None,
                worker: Some("w"),
                attempt: 1,
                version,
                position: Position(version.0),
                time: Millis(1),
                lengths: Lengths::one(25),
                extras: Extras::default(),
                payload: &[7; 25],
            };
            if let Some(Told::Delivered(_)) = self.say(&Message::Deliver(deliver)) {
                self.delivered += 1;
            }
        }
    }

    fn device_reads(&mut self) {
        let mut bytes = &self.down.read[..];
        while let Some(event) = self.device.handle_input(NOW, &mut bytes) {
            match event {
                Event::Deliver { delivery, .. } => self.to_settle.push(delivery),
                Event::Closed { code, .. } => panic!("{code} {:?}", Code(0)),
                _ => {}
            }
        }
        self.down.read = bytes.to_vec();
    }
}
