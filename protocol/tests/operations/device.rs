//! Any sequence of operations on a device's session, against a model of a server that numbers what arrives, and of what
//! the device must keep: what is published leaves when it is acknowledged, what goes out is what was published under that
//! number, and never more than the credit.

use std::collections::{BTreeMap, BTreeSet};

use spile_protocol::{
    code::Code,
    crc, frame,
    id::{LaneId, Number, RouteId, Run, Version},
    limits,
    message::{
        Ack, Credit, Durability, Extras, Fault, GoAway, LaneAnswer, Lengths, List, Message, Ping,
        Scope, Sender, Welcome,
    },
    session::{
        Amount, Limited, Transmit,
        device::{Channel, Config, Credential, Device, Event, Fixed, Refusal},
    },
    time::Instant,
};

use crate::bytes::Choices;

type Machine = Device<Fixed<3, 4, 24, 2000, 1, 1>, &'static str>;

/// One lane as the server of this connection sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    open: bool,
    answered: bool,
    next: u64,
    /// The base of short acks.
    told: u64,
}

struct Model {
    now: Instant,
    device: Machine,
    runs: u64,
    /// What each number of the run was given for, a lane: first number → payloads.
    given: BTreeMap<(u32, u64), Vec<u64>>,
    /// The last number of a lane that was acknowledged.
    acked: BTreeMap<u32, u64>,
    next: BTreeMap<u32, u64>,
    id: u64,
    welcomed: bool,
    early: usize,
    credit: Amount,
    lanes: [Seen; 3],
    /// In flight as the server sees it: lane, last number, amount.
    flight: Vec<(u32, u64, Amount)>,
    over: bool,
    lost: bool,
}

pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let mut model = Model::new();
    for _ in 0..2000 {
        let Some(operation) = choices.next() else { break };
        model.step(operation, &mut choices);
    }
}

fn route_lane(route: u32) -> u32 {
    route % 3
}

impl Model {
    fn new() -> Self {
        let config = Config::new(Run([0; 8]), Credential::Certificate, "m");
        let mut device = Device::new(config, Fixed::new());
        for (lane, key) in [None, Some("a"), Some("b")].into_iter().enumerate() {
            device.open_lane(key, Number(1), lane == 2).unwrap();
        }
        for route in 0..4 {
            device.bind(LaneId(route_lane(route)), "t", "", 0, "").unwrap();
        }
        assert_eq!(device.bind(LaneId(0), "t", "", 0, ""), Err(Refusal::TooMany("routes")));
        Self {
            now: Instant(1),
            device,
            runs: 0,
            given: BTreeMap::new(),
            acked: BTreeMap::new(),
            next: (0..3).map(|lane| (lane, 1)).collect(),
            id: 1,
            welcomed: false,
            early: 0,
            credit: Amount::default(),
            lanes: [Seen::default(); 3],
            flight: Vec::new(),
            over: true,
            lost: false,
        }
    }

    fn step(&mut self, operation: u8, choices: &mut Choices<'_>) {
        if self.over || self.lost {
            self.reconnect();
        }
        match operation % 16 {
            0..=3 => self.publish(choices),
            4 => self.publish_batch(choices),
            5..=7 => self.transmit(choices),
            8 if !self.welcomed => self.welcome(choices),
            8 | 9 => self.ack(choices),
            10 => self.answer(choices),
            11 => self.fault(choices),
            12 => self.credit(choices),
            13 => self.pass_time(choices),
            14 => self.goodbye(choices),
            _ => self.garbage(choices),
        }
        assert_eq!(self.device.is_settled(), self.kept().next().is_none());
    }

    /// Frames that are not wholly acknowledged: lane, first number.
    fn kept(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.given.iter().filter_map(|(&(lane, first), ids)| {
            let last = first + u64::try_from(ids.len()).unwrap() - 1;
            (last > self.acked.get(&lane).copied().unwrap_or(0)).then_some((lane, first))
        })
    }

    fn reconnect(&mut self) {
        self.device.disconnected();
        if self.lost {
            self.renew();
        }
        self.device.connected(self.now, Channel::Tls(None), [1; 16]);
        (self.welcomed, self.early, self.over) = (false, 0, false);
        (self.lanes, self.flight) = ([Seen::default(); 3], Vec::new());
        self.credit = Amount { events: limits::CREDIT_EVENTS, bytes: limits::CREDIT_BYTES };
    }

    fn renew(&mut self) {
        let kept: BTreeSet<_> = self.kept().collect();
        let old = std::mem::take(&mut self.given);
        self.runs += 1;
        let mut new = BTreeMap::new();
        self.device
            .renew(Run(self.runs.to_le_bytes()), |lane, first, now, count| {
                let ids = old[&(lane.0, first.0)].clone();
                assert!(kept.contains(&(lane.0, first.0)));
                assert_eq!(ids.len(), usize::try_from(count).unwrap());
                new.insert((lane.0, now.0), ids);
            })
            .unwrap();
        assert_eq!(new.len(), kept.len());
        self.given = new;
        self.acked.clear();
        for lane in 0..3 {
            let mine = self.given.iter().filter(|((of, _), _)| *of == lane);
            let count: usize = mine.map(|(_, ids)| ids.len()).sum();
            self.next.insert(lane, u64::try_from(count).unwrap() + 1);
        }
        self.lost = false;
    }

    fn published(&mut self, route: u32, result: Result<Number, Refusal>, ids: Vec<u64>) {
        match result {
            Ok(number) => {
                let lane = route_lane(route);
                let next = self.next.get_mut(&lane).unwrap();
                assert_eq!(number.0, *next);
                *next += u64::try_from(ids.len()).unwrap();
                self.given.insert((lane, number.0), ids);
            }
            Err(Refusal::Busy) => {
                assert!(self.kept().next().is_some(), "busy with nothing in flight")
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn publish(&mut self, choices: &mut Choices<'_>) {
        let route = u32::from(choices.below(4));
        self.id += 1;
        let mut payload = self.id.to_le_bytes().to_vec();
        payload.resize(8 + usize::from(choices.next().unwrap_or(0)), 7);
        let result = self.device.publish(self.now, RouteId(route), Extras::default(), &payload);
        self.published(route, result, vec![self.id]);
    }

    fn publish_batch(&mut self, choices: &mut Choices<'_>) {
        let route = u32::from(choices.below(4));
        let count = 1 + u64::from(choices.below(9));
        let ids: Vec<u64> = (self.id + 1..=self.id + count).collect();
        self.id += count;
        let payload: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let lengths = Lengths::same(u32::try_from(count).unwrap(), 8);
        let result = self.device.publish_batch(
            self.now,
            RouteId(route),
            lengths,
            Extras::default(),
            &payload,
        );
        self.published(route, result, ids);
    }

    /// Takes what the device says, as the server.
    fn transmit(&mut self, choices: &mut Choices<'_>) {
        let mut out = Vec::new();
        let room = usize::from(choices.next().unwrap_or(0)) * 8 + 300;
        self.device.poll_transmit(self.now, &mut Limited::new(&mut out, room));
        if !self.welcomed {
            self.early += out.len();
            assert!(self.early <= 2048, "{} bytes before WELCOME", self.early);
        }
        let mut rest = &out[..];
        while let Some((frame, used)) = frame::decode(rest, 1 << 20).unwrap() {
            rest = &rest[used..];
            self.heard(&Message::decode(&frame, Sender::Client).unwrap());
        }
        assert!(rest.is_empty());
    }

    fn heard(&mut self, message: &Message<'_>) {
        match message {
            Message::Lane(lane) => {
                let (id, first) = (lane.lane.0, lane.first_unacked.0);
                let seen = &mut self.lanes[usize::try_from(id).unwrap()];
                assert!(!seen.open, "LANE on an open lane");
                *seen = Seen { open: true, answered: false, next: first, told: first - 1 };
                let acked = self.acked.get(&id).copied().unwrap_or(0);
                assert!(first <= acked + 1, "it skips what is not acknowledged");
            }
            Message::Event(event) => self.came(event.route, event.extras.number, event.payload, 1),
            Message::Batch(batch) => {
                self.came(batch.route, batch.extras.number, batch.payload, batch.lengths.count());
            }
            _ => {}
        }
    }

    fn came(&mut self, route: RouteId, number: Option<Number>, payload: &[u8], count: u32) {
        let lane = route_lane(route.0);
        let seen = &mut self.lanes[usize::try_from(lane).unwrap()];
        assert!(seen.open, "an event on a closed lane");
        let first = number.map_or(seen.next, |number| number.0);
        seen.next = first + u64::from(count);
        let ids = self
            .given
            .get(&(lane, first))
            .unwrap_or_else(|| panic!("{lane} {first} was never given"));
        assert_eq!(
            u64::from_le_bytes(*payload.first_chunk().unwrap()),
            ids[0],
            "new taken for old"
        );
        assert_eq!(ids.len(), usize::try_from(count).unwrap(), "other bounds");
        let idle = self.flight.is_empty();
        let last = first + u64::from(count) - 1;
        self.flight.push((
            lane,
            last,
            Amount { events: count, bytes: u32::try_from(payload.len()).unwrap() },
        ));
        let (events, bytes) = self
            .flight
            .iter()
            .fold((0, 0), |sum, (_, _, more)| (sum.0 + more.events, sum.1 + more.bytes));
        let fair = idle || (events <= self.credit.events && bytes <= self.credit.bytes);
        assert!(fair, "{events} events, {bytes} bytes in flight above {:?}", self.credit);
    }

    /// Says something as the server; what came of it.
    fn say(&mut self, message: &Message<'_>) -> Option<String> {
        let mut bytes = Vec::new();
        bytes.put(message, crc::of(message.payload())).unwrap();
        self.give(&bytes)
    }

    fn give(&mut self, bytes: &[u8]) -> Option<String> {
        let mut rest = bytes;
        let mut last = None;
        while let Some(event) = self.device.handle_input(self.now, &mut rest) {
            match event {
                Event::UnknownRun(_) => self.lost = true,
                Event::Closed { .. } => self.over = true,
                _ => {}
            }
            last = Some(format!("{event:?}"));
        }
        last
    }

    fn welcome(&mut self, choices: &mut Choices<'_>) {
        // Everything of the greeting has been said when the server answers it.
        self.transmit(&mut Choices(&[255]));
        self.credit = Amount {
            events: u32::from(choices.below(20)),
            bytes: u32::from(choices.below(250)) * 4,
        };
        let welcome = Welcome {
            version: 1,
            server_time_ms: 1,
            frame_max: 4096,
            credit_events: self.credit.events,
            credit_bytes: self.credit.bytes,
            idle_timeout_s: 0,
            principal: "d1",
            tenant: "main",
            proof: &[],
            lanes: 4,
            routes: 4,
            payload_max: 1000,
            software: "",
            session: 1,
            edge: "e",
            chunk_bytes: 0,
        };
        self.say(&Message::Welcome(welcome));
        self.welcomed = true;
    }

    /// Everything of a lane through `last` has ended, as both sides know.
    fn settle(&mut self, lane: u32, last: u64) {
        let acked = self.acked.entry(lane).or_default();
        *acked = (*acked).max(last);
        self.flight.retain(|&(of, end, _)| of != lane || end > last);
        let seen = &mut self.lanes[usize::try_from(lane).unwrap()];
        seen.told = seen.told.max(last);
    }

    fn ack(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(3));
        let seen = self.lanes[usize::try_from(id).unwrap()];
        if !self.welcomed || !seen.answered {
            return;
        }
        let step = 1 + u64::from(choices.below(10));
        let last = seen.told + step;
        let short = id == 0 && choices.below(2) == 0;
        let durability = Durability::Stored;
        let ack = if short {
            Ack::Step { durability, step: u8::try_from(step).unwrap() }
        } else {
            Ack::Spelled {
                durability,
                lane: LaneId(id),
                last: Number(last),
                receipts: List::default(),
            }
        };
        let published = last < self.next[&id];
        let came = self.say(&Message::Ack(ack)).unwrap();
        if published {
            assert!(
                came.contains("Acked") && came.contains(&format!("through: Number({last})")),
                "{came}"
            );
            self.settle(id, last);
        } else {
            assert_eq!(self.device.close_reason(), Some(Code::UNEXPECTED));
        }
    }

    fn answer(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(3));
        let seen = self.lanes[usize::try_from(id).unwrap()];
        if !self.welcomed || !seen.open {
            return;
        }
        let from = self.acked.get(&id).copied().unwrap_or(0);
        let last = (choices.below(4) > 0).then(|| from + u64::from(choices.below(8)));
        let answer = LaneAnswer {
            lane: LaneId(id),
            last: last.map(Number),
            worker: "w",
            refused: List::default(),
            receipts: List::default(),
            uploads: List::default(),
            inbox: Version(0),
        };
        let came = self.say(&Message::LaneAnswer(answer)).unwrap();
        match last {
            Some(last) if last >= self.next[&id] => assert!(came.contains("UnknownRun"), "{came}"),
            Some(last) => self.settle(id, last),
            None => {}
        }
        self.lanes[usize::try_from(id).unwrap()].answered = true;
    }

    fn fault(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(3));
        if !self.welcomed || !self.lanes[usize::try_from(id).unwrap()].open {
            return;
        }
        let expected = self.acked.get(&id).copied().unwrap_or(0) + u64::from(choices.below(3));
        let scope = Scope::Lane { lane: LaneId(id), expected: Number(expected) };
        let (code, retry, retry_after_ms, detail) = (Code::UNAVAILABLE, true, 10, "");
        self.say(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail }));
        self.flight.retain(|&(of, _, _)| of != id);
        self.lanes[usize::try_from(id).unwrap()] = Seen::default();
    }

    fn credit(&mut self, choices: &mut Choices<'_>) {
        if !self.welcomed {
            return;
        }
        self.credit = Amount {
            events: u32::from(choices.below(20)),
            bytes: u32::from(choices.below(250)) * 4,
        };
        let Amount { events, bytes } = self.credit;
        self.say(&Message::Credit(Credit { subscription: None, events, bytes, chunk_bytes: None }));
    }

    fn pass_time(&mut self, choices: &mut Choices<'_>) {
        self.now = Instant(self.now.0 + u64::from(choices.next().unwrap_or(0)) * 100_000);
        if self.device.poll_timeout().is_some_and(|at| at <= self.now) {
            self.device.handle_timeout(self.now);
        }
        self.over |= self.device.is_closed();
    }

    fn goodbye(&mut self, choices: &mut Choices<'_>) {
        match choices.below(6) {
            0 => self.over = true,
            1 if self.welcomed => {
                let goaway = GoAway { code: Code::SHUTDOWN, retry_after_ms: 1, detail: "" };
                assert!(self.say(&Message::GoAway(goaway)).is_some());
                self.over = true;
            }
            _ if self.welcomed => {
                assert_eq!(self.say(&Message::Ping(Ping { number: 7, answer: false })), None);
            }
            _ => {}
        }
    }

    fn garbage(&mut self, choices: &mut Choices<'_>) {
        let length = usize::from(choices.below(20)).min(choices.0.len());
        let (bytes, rest) = choices.0.split_at(length);
        choices.0 = rest;
        self.give(bytes);
        // Half a frame may be left in a driver's buffer: this connection is over.
        self.over = true;
    }
}
