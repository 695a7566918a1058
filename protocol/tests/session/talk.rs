//! A device and an edge's session without a network between: what one says the other hears at once. The test is the
//! worker.

use std::time::Duration;

use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, Number, RouteId, Run, Version},
    message::{Ack, Durability, Extras, LaneAnswer, List, Message},
    session::{
        Transmit,
        device::{self, Channel, Credential, Device, Growable},
        edge::{self, Admission, Input, Session, Told},
    },
    time::{Instant, Millis},
};

pub type Machine = Device<Growable, &'static str>;

pub fn device() -> Machine {
    device_of(Credential::Certificate)
}

pub fn device_of(credential: Credential<&'static str>) -> Machine {
    Device::new(
        device::Config::new(Run([1; 8]), credential, "test/1"),
        Growable::new(4096, 4 << 20),
    )
}

/// What came out of one end, in words: a test compares a few of them.
pub type Heard = Vec<String>;

pub struct Talk {
    pub now: Instant,
    pub device: Machine,
    pub edge: Session,
    pub up: Vec<u8>,
    pub down: Vec<u8>,
}

impl Talk {
    /// A device that was let in, with lane 0 open and a route on it.
    pub fn open(config: edge::Config) -> (Self, RouteId) {
        let mut talk = Self::new(device(), config, Channel::Tls(None));
        let lane = talk.device.open_lane(None, Number(1), false).unwrap();
        let route = talk.device.bind(lane, "telemetry/temp", "", 0, "").unwrap();
        talk.both();
        talk.answer_lane(lane, 0);
        (talk, route)
    }

    pub fn new(mut device: Machine, config: edge::Config, channel: Channel) -> Self {
        let now = Instant(1_000_000);
        device.connected(now, channel, [1; 16]);
        Self { now, device, edge: Session::new(now, config), up: Vec::new(), down: Vec::new() }
    }

    pub fn after(&mut self, after: Duration) {
        self.now = self.now.after(after);
    }

    /// What the device says, to the edge. Whoever asks is let in.
    pub fn up(&mut self) -> Heard {
        self.device.poll_transmit(self.now, &mut self.up);
        self.carry_up()
    }

    /// What a client that keeps no rules says.
    pub fn say(&mut self, message: &Message<'_>) -> Heard {
        self.up.put(message, crc::of(message.payload())).unwrap();
        self.carry_up()
    }

    pub fn verb<T>(&mut self, verb: impl FnOnce(&mut Machine, &mut Vec<u8>) -> T) -> T {
        verb(&mut self.device, &mut self.up)
    }

    pub fn carry_up(&mut self) -> Heard {
        let up = std::mem::take(&mut self.up);
        let mut bytes = &up[..];
        let mut heard = Vec::new();
        while let Some(input) = self.edge.handle_input(self.now, &mut bytes) {
            if let Input::Authenticate(_) = input {
                let admission =
                    Admission { tenant: "main".into(), principal: "d1".into(), proof: None };
                self.edge.admit(self.now, Millis(5), admission);
            }
            heard.push(format!("{input:?}"));
        }
        self.up = bytes.to_vec();
        heard
    }

    /// What the edge says, to the device.
    pub fn down(&mut self) -> Heard {
        self.edge.poll_transmit(self.now, &mut self.down);
        let down = std::mem::take(&mut self.down);
        let mut bytes = &down[..];
        let mut heard = Vec::new();
        while let Some(event) = self.device.handle_input(self.now, &mut bytes) {
            heard.push(format!("{event:?}"));
        }
        self.down = bytes.to_vec();
        heard
    }

    pub fn both(&mut self) -> (Heard, Heard) {
        (self.up(), self.down())
    }

    /// The worker says.
    pub fn tell(&mut self, message: &Message<'_>) -> Told {
        self.edge
            .handle_downstream(self.now, message, crc::of(message.payload()), &mut self.down)
            .unwrap()
    }

    pub fn answer_lane(&mut self, lane: LaneId, last: u64) -> Heard {
        self.tell_all(&Message::LaneAnswer(LaneAnswer {
            lane,
            last: Some(Number(last)),
            worker: "w1",
            refused: List::default(),
            receipts: List::default(),
            uploads: List::default(),
            inbox: Version(0),
        }))
    }

    pub fn ack(&mut self, lane: LaneId, last: u64) -> Heard {
        let (durability, last, receipts) = (Durability::Stored, Number(last), List::default());
        self.tell_all(&Message::Ack(Ack::Spelled { durability, lane, last, receipts }))
    }

    fn tell_all(&mut self, message: &Message<'_>) -> Heard {
        let _told: Told = self.tell(message);
        self.down()
    }

    pub fn publish(&mut self, route: RouteId, payload: &[u8]) -> Number {
        self.device.publish(self.now, route, Extras::default(), payload).unwrap()
    }

    pub fn closed(&self) -> Option<Code> {
        self.edge.close_reason()
    }
}

pub fn has(heard: &Heard, words: &str) -> bool {
    heard.iter().any(|line| line.contains(words))
}
