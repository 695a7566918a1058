//! Any sequence of operations on an edge's session, against a model that keeps everything in lists and counts anew each
//! time: which events get which numbers, what is in flight, what a client is told and in which order.

use std::collections::BTreeMap;

use spile_protocol::{
    code::Code,
    crc, frame,
    id::{LaneId, Number, RequestId, RouteId, Run, SubscriptionId, Version},
    message::{
        Abort, Ack, Auth, Batch, Bind, Chunk, Durability, End, Event, Extras, Fault, GoAway, Hello,
        Lane, LaneAnswer, Lengths, List, Listing, Message, Open, Opened, Outcome, Ping, Proof,
        Scope, Seal, Sender, Settle, Source, Subscribe, request,
    },
    session::{
        Amount, Transmit,
        edge::{Admission, Config, Input, Session, Told},
    },
    time::{Instant, Millis},
};

use crate::bytes::Choices;

const OWN: &str = "d1";
const KEYS: [Option<&str>; 5] = [None, Some("a"), Some("b"), Some("c"), Some(OWN)];
const PAYLOADS: [&[u8]; 3] = [&[], b"21.5", &[7; 900]];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Closed,
}

#[derive(Debug)]
struct MLane {
    phase: Phase,
    key: Option<&'static str>,
    next: u64,
    acked: u64,
    /// Last number and amount of what is in flight.
    sent: Vec<(u64, Amount)>,
    voids: Vec<(u64, u32)>,
    /// What the client knows: short acks count from it.
    heard: u64,
}

struct Model {
    now: Instant,
    session: Session,
    lanes: BTreeMap<u32, MLane>,
    routes: BTreeMap<u32, (u32, bool)>,
    ceiling: Amount,
    /// The client has said goodbye: nothing new is taken.
    leaving: bool,
    out: Vec<u8>,
}

/// What the session is expected to make of a message.
#[derive(Debug, PartialEq, Eq)]
enum Want {
    Upstream(u64),
    Void(u64, u32),
    Nothing,
    Closed(Code),
}

/// How many operations the session lived through.
pub fn run(data: &[u8]) -> usize {
    let mut choices = Choices(data);
    let mut model = Model::new();
    for step in 0..2000 {
        let Some(operation) = choices.next() else { return step };
        model.step(operation, &mut choices);
        if !model.session.is_closed() {
            model.check();
        }
        if model.session.is_closed() {
            model.stays_closed();
            return step;
        }
    }
    2000
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::default(), |sum, more| Amount {
        events: sum.events + more.events,
        bytes: sum.bytes + more.bytes,
    })
}

impl Model {
    fn new() -> Self {
        let credit = Amount { events: 600, bytes: 4096 };
        let config = Config { credit, payload_max: 500, ..Config::default() };
        let mut session = Session::new(Instant(0), config);
        let hello = Hello {
            version: 1,
            oldest: 1,
            frame_max: 4096,
            run: Run([1; 8]),
            receipts: false,
            keep_alive_s: 10,
            software: "",
            abandoned: Run([0; 8]),
        };
        let mut bytes = Vec::new();
        bytes.put(&Message::Hello(hello), 0).unwrap();
        bytes.put(&Message::Auth(Auth { proof: Proof::Certificate }), 0).unwrap();
        let mut rest = &bytes[..];
        assert!(matches!(
            session.handle_input(Instant(0), &mut rest),
            Some(Input::Authenticate(_))
        ));
        session.admit(
            Instant(0),
            Millis(1),
            Admission { principal: OWN.into(), ..Admission::default() },
        );
        let (lanes, routes) = (BTreeMap::new(), BTreeMap::new());
        let (ceiling, out) = (credit, Vec::new());
        let mut model =
            Self { now: Instant(0), session, lanes, routes, ceiling, leaving: false, out };
        for id in 0..3 {
            model.open(id, 1, KEYS[usize::try_from(id).unwrap()]);
            model.route(id, id, false);
        }
        model.route(3, 0, true);
        model
    }

    fn step(&mut self, operation: u8, choices: &mut Choices<'_>) {
        match operation % 16 {
            0..=3 => self.event(choices),
            4 => self.batch(choices),
            5 => self.lane(choices),
            6 => self.bind(choices),
            7 | 8 => self.ack(choices),
            9 => self.answer(choices),
            10 => self.fault(choices),
            11 => self.close_lane(choices),
            12 => self.credit(choices),
            13 if choices.below(4) == 0 => self.other(choices),
            14 => self.pass_time(choices),
            15 if choices.below(24) == 0 => self.garbage(choices),
            _ => self.event(choices),
        }
    }

    /// Gives the session one message and compares what it makes of it.
    fn say(&mut self, message: &Message<'_>, want: &Want) {
        let mut bytes = Vec::new();
        bytes.put(message, crc::of(message.payload())).unwrap();
        let mut rest = &bytes[..];
        let got = match self.session.handle_input(self.now, &mut rest) {
            None => Want::Nothing,
            Some(Input::Upstream { first, message: came, payload_crc, .. }) => {
                assert_eq!((came, payload_crc), (*message, crc::of(message.payload())));
                Want::Upstream(first.0)
            }
            Some(Input::Void { first, count, .. }) => Want::Void(first.0, count),
            Some(Input::Closed(code)) => Want::Closed(code),
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!(got, *want, "{message:?}");
        assert!(rest.is_empty());
    }

    fn in_flight(&self) -> Amount {
        sum(self.lanes.values().flat_map(|lane| lane.sent.iter().map(|sent| sent.1)))
    }

    /// What an event or a batch is expected to become.
    fn numbered(
        &mut self,
        route: u32,
        spelled: Option<u64>,
        amount: Amount,
        longest: usize,
    ) -> Want {
        let flight = self.in_flight();
        if self.leaving {
            return Want::Nothing;
        }
        let Some(&(id, denied)) = self.routes.get(&route) else {
            return Want::Closed(Code::UNKNOWN_LANE);
        };
        let lane = self.lanes.get_mut(&id).unwrap();
        if lane.phase == Phase::Closed {
            return Want::Nothing;
        }
        let first = spelled.unwrap_or(lane.next);
        if first == 0 {
            return Want::Closed(Code::MALFORMED); // spec §5.7.1
        }
        if first < lane.next {
            return Want::Closed(Code::UNEXPECTED);
        }
        let last = first + u64::from(amount.events) - 1;
        if last > lane.acked {
            let after = sum([flight, amount].into_iter());
            let over = after.events > self.ceiling.events || after.bytes > self.ceiling.bytes;
            if over && flight != Amount::default() {
                return Want::Closed(Code::TOO_FAST);
            }
            lane.sent.push((last, amount));
        }
        lane.next = last + 1;
        if denied || longest > 500 {
            let unsaid: Vec<u64> = (first..=last).filter(|&number| number > lane.acked).collect();
            if let Some(&begin) = unsaid.first() {
                lane.voids.push((begin, u32::try_from(unsaid.len()).unwrap()));
            }
            return Want::Void(first, amount.events);
        }
        Want::Upstream(first)
    }

    fn spelled(&self, route: u32, choices: &mut Choices<'_>) -> Option<u64> {
        let lane = self.routes.get(&route).and_then(|(lane, _)| self.lanes.get(lane))?;
        match choices.below(64) {
            0..8 => Some(lane.next + u64::from(choices.below(4))),
            8 => Some(lane.next.saturating_sub(1)),
            _ => None,
        }
    }

    fn event(&mut self, choices: &mut Choices<'_>) {
        let route = some_route(choices);
        let number = self.spelled(route, choices);
        let payload = choices.pick(&PAYLOADS);
        let amount = Amount { events: 1, bytes: u32::try_from(payload.len()).unwrap() };
        let want = self.numbered(route, number, amount, payload.len());
        let extras = Extras { number: number.map(Number), ..Extras::default() };
        self.say(&Message::Event(Event { route: RouteId(route), extras, payload }), &want);
    }

    fn batch(&mut self, choices: &mut Choices<'_>) {
        let route = some_route(choices);
        let number = self.spelled(route, choices);
        let (count, each) = choices.pick(&[(1_u32, 5_u32), (3, 0), (300, 0), (4, 400), (2, 501)]);
        let payload = vec![7; usize::try_from(count * each).unwrap()];
        let amount = Amount { events: count, bytes: count * each };
        let want = self.numbered(route, number, amount, usize::try_from(each).unwrap());
        let extras = Extras { number: number.map(Number), ..Extras::default() };
        let lengths = Lengths::same(count, each);
        self.say(
            &Message::Batch(Batch { route: RouteId(route), lengths, extras, payload: &payload }),
            &want,
        );
    }

    fn lane(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(4));
        let first = match choices.below(40) {
            0 => 0,
            more => u64::from(more % 6) + 1,
        };
        let same = choices.below(4) > 0;
        let key = if same { KEYS[usize::try_from(id).unwrap()] } else { choices.pick(&KEYS) };
        self.open(id, first, key);
    }

    fn open(&mut self, id: u32, first: u64, key: Option<&'static str>) {
        let name = |key: Option<&'static str>| key.unwrap_or(OWN);
        let want = if self.leaving {
            Want::Nothing
        } else if first == 0 {
            Want::Closed(Code::MALFORMED)
        } else if self.lanes.get(&id).is_some_and(|lane| !lane.sent.is_empty() && lane.key != key) {
            Want::Closed(Code::UNEXPECTED)
        } else {
            let taken = self.lanes.iter().any(|(&other, lane)| {
                other != id && lane.phase != Phase::Closed && name(lane.key) == name(key)
            });
            if taken || key.is_none() != (id == 0) {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.close();
                }
                Want::Nothing
            } else {
                let (phase, sent, voids) = (Phase::Opening, Vec::new(), Vec::new());
                let (acked, heard) = (first - 1, first - 1);
                self.lanes.insert(id, MLane { phase, key, next: first, acked, sent, voids, heard });
                Want::Upstream(first)
            }
        };
        let message = Lane { lane: LaneId(id), first_unacked: Number(first), key, urgent: false };
        self.say(&Message::Lane(message), &want);
    }

    fn bind(&mut self, choices: &mut Choices<'_>) {
        let lane = if choices.below(20) == 0 { 3 } else { u32::from(choices.below(3)) };
        self.route(u32::from(choices.below(4)), lane, choices.below(3) == 0);
    }

    fn route(&mut self, route: u32, lane: u32, denied: bool) {
        let (topic, content_type, schema, encoding) = ("t", "", 0, "");
        let message = Bind {
            route: RouteId(route),
            lane: LaneId(lane),
            topic,
            content_type,
            schema,
            encoding,
        };
        let known = self.lanes.contains_key(&lane);
        let want = match (self.leaving, known) {
            (true, _) => Want::Nothing,
            (false, true) => Want::Upstream(0),
            (false, false) => Want::Closed(Code::UNKNOWN_LANE),
        };
        self.say(&Message::Bind(message), &want);
        if want == Want::Upstream(0) {
            self.routes.insert(route, (lane, denied));
            if denied {
                self.session.deny_route(RouteId(route), Code::FORBIDDEN);
            }
        }
    }

    /// Gives the session what a worker says, and what the client hears of it.
    fn tell(&mut self, message: &Message<'_>) -> (Told, Vec<String>) {
        self.session.poll_transmit(self.now, &mut self.out);
        self.drain();
        let told = self.session.handle_downstream(self.now, message, 0, &mut self.out).unwrap();
        (told, self.drain())
    }

    /// What went out, decoded as a client would; short acks are added up.
    fn drain(&mut self) -> Vec<String> {
        let out = std::mem::take(&mut self.out);
        let mut rest = &out[..];
        let mut heard = Vec::new();
        while let Some((frame, used)) = frame::decode(rest, 1 << 20).unwrap() {
            rest = &rest[used..];
            let message = Message::decode(&frame, Sender::Server).unwrap();
            match message {
                Message::Ack(Ack::Step { step, .. }) => {
                    let lane = self.lanes.get_mut(&0).unwrap();
                    lane.heard += u64::from(step);
                    heard.push(format!("ack 0 {}", lane.heard));
                }
                Message::Ack(Ack::Spelled { lane, last, .. }) => {
                    self.lanes.get_mut(&lane.0).unwrap().heard = last.0;
                    heard.push(format!("ack {lane} {last}"));
                }
                Message::Fault(Fault {
                    scope: Scope::Number { lane, number, count, .. }, ..
                }) => {
                    heard.push(format!("void {lane} {number} {count}"));
                }
                other => heard.push(format!("{other:?}")),
            }
        }
        assert!(rest.is_empty(), "half a frame");
        heard
    }

    fn ack(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(4));
        let last = self.somewhere(id, choices);
        let (durability, lane, receipts) = (Durability::Stored, LaneId(id), List::default());
        let message = Message::Ack(Ack::Spelled { durability, lane, last: Number(last), receipts });
        let mut want = Vec::new();
        if let Some(lane) =
            self.lanes.get_mut(&id).filter(|lane| lane.phase == Phase::Open && last > lane.acked)
        {
            let passed = lane.voids.iter().filter(|(first, _)| *first <= last);
            want.extend(passed.map(|(first, count)| format!("void {id} {first} {count}")));
            want.push(format!("ack {id} {last}"));
            lane.voids.retain(|(first, _)| *first > last);
            lane.settle(last);
        }
        assert_eq!(self.tell(&message).1, want, "{message:?}");
    }

    /// A number near what the lane is about.
    fn somewhere(&self, id: u32, choices: &mut Choices<'_>) -> u64 {
        let (from, to) = self.lanes.get(&id).map_or((0, 3), |lane| (lane.acked, lane.next + 1));
        from + u64::from(choices.next().unwrap_or(0)) % (to.saturating_sub(from) + 1)
    }

    fn answer(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(4));
        let last = (choices.below(3) > 0).then(|| self.somewhere(id, choices));
        let answer = LaneAnswer {
            lane: LaneId(id),
            last: last.map(Number),
            worker: "w",
            refused: List::default(),
            receipts: List::default(),
            uploads: List::default(),
            inbox: Version(0),
        };
        let said = match self.lanes.get_mut(&id).filter(|lane| lane.phase != Phase::Closed) {
            Some(lane) => {
                lane.phase = Phase::Open;
                if let Some(last) = last {
                    lane.voids.retain(|(first, _)| *first > last);
                    lane.heard = lane.heard.max(last);
                    lane.settle(last);
                }
                1
            }
            None => 0,
        };
        assert_eq!(self.tell(&Message::LaneAnswer(answer)).1.len(), said);
    }

    fn fault(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(4));
        let number = self.somewhere(id, choices);
        let lane = LaneId(id);
        let (code, retry, retry_after_ms, detail) = (Code::BUSY, true, 0, "");
        if choices.below(2) == 0 {
            let scope = Scope::Lane { lane, expected: Number(number) };
            let _told =
                self.tell(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail }));
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.close();
            }
        } else {
            let count = u32::from(choices.below(3));
            let scope = Scope::Number { lane, number: Number(number), count, version: Version(0) };
            let _told =
                self.tell(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail }));
            if let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.phase == Phase::Open) {
                lane.voids
                    .retain(|(first, _)| *first < number || *first - number >= u64::from(count));
            }
        }
    }

    fn close_lane(&mut self, choices: &mut Choices<'_>) {
        let id = u32::from(choices.below(4));
        self.session.close_lane(LaneId(id), Code::UNAVAILABLE, Some(5));
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.close();
        }
    }

    fn credit(&mut self, choices: &mut Choices<'_>) {
        let credit = choices.pick(&[(1_u32, 1_u32), (600, 8000), (2000, 4096)]);
        let credit = Amount { events: credit.0, bytes: credit.1 };
        self.session.set_credit(credit, None);
        self.ceiling.events = self.ceiling.events.max(credit.events);
        self.ceiling.bytes = self.ceiling.bytes.max(credit.bytes);
    }

    /// What has no model: nothing panics, and what goes out can be read.
    fn other(&mut self, choices: &mut Choices<'_>) {
        let (subscription, upload) =
            (SubscriptionId(u32::from(choices.below(3))), u32::from(choices.below(3)));
        let request = RequestId(u32::from(choices.below(3)));
        let outcome = choices.pick(&[Outcome::Seen, Outcome::Done, Outcome::Retry { after_ms: 1 }]);
        let source = choices.pick(&[Source::Inbox, Source::Stream { key: "a", from: Version(1) }]);
        let delivery = u64::from(choices.below(3));
        let (key, name, content_type, meta) = (None, "", "", List::default());
        let up = [
            Message::Ping(Ping { number: 1, answer: false }),
            Message::Subscribe(Subscribe { subscription, source, events: 2, bytes: 9, live: true }),
            Message::Settle(Settle { subscription, delivery, outcome, events: 1, reason: "" }),
            Message::End(End { subscription }),
            Message::Open(Open { upload, id: [0; 16], size: 10, key, name, content_type, meta }),
            Message::Chunk(Chunk { upload, offset: delivery, payload: b"xyz" }),
            Message::Seal(Seal { upload, size: 3 * delivery, blake3: [0; 32] }),
            Message::Abort(Abort { upload }),
            Message::List(request::List {
                request,
                listing: Listing::Blobs,
                prefix: "",
                after: "",
                limit: 1,
            }),
            Message::GoAway(GoAway { code: Code(0), retry_after_ms: 0, detail: "" }),
        ];
        let down = [
            Message::Opened(Opened {
                upload,
                stored_offset: delivery * 3,
                epoch: 1,
                blob: "",
                revision: 0,
            }),
            Message::Opened(Opened { upload, stored_offset: 9, epoch: 1, blob: "b", revision: 1 }),
            Message::End(End { subscription }),
            Message::Abort(Abort { upload }),
            Message::Settle(Settle { subscription, delivery, outcome, events: 1, reason: "" }),
        ];
        let at = usize::from(choices.below(15));
        if let Some(message) = up.get(at) {
            let mut bytes = Vec::new();
            bytes.put(message, crc::of(message.payload())).unwrap();
            let mut rest = &bytes[..];
            while self.session.handle_input(self.now, &mut rest).is_some() {}
            self.leaving |= matches!(message, Message::GoAway(_));
        } else if let Some(message) = down.get(at - up.len()) {
            let _told = self.tell(message);
        }
    }

    fn pass_time(&mut self, choices: &mut Choices<'_>) {
        self.now = Instant(self.now.0 + u64::from(choices.next().unwrap_or(0)) * 50_000);
        if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
            self.session.handle_timeout(self.now);
        }
    }

    fn garbage(&mut self, choices: &mut Choices<'_>) {
        let length = usize::from(choices.below(20)).min(choices.0.len());
        let (bytes, rest) = choices.0.split_at(length);
        choices.0 = rest;
        let mut bytes = bytes;
        while self.session.handle_input(self.now, &mut bytes).is_some() {}
    }

    fn check(&mut self) {
        assert_eq!(self.session.in_flight(), self.in_flight());
        self.session.poll_transmit(self.now, &mut self.out);
        self.drain();
        assert!(!self.session.wants_transmit() || self.session.is_closed());
    }

    /// What is over stays over: it takes nothing and says one last thing at most.
    fn stays_closed(&mut self) {
        let reason = self.session.close_reason();
        self.session.poll_transmit(self.now, &mut self.out);
        self.drain();
        let mut bytes = Vec::new();
        bytes.put(&Message::Ping(Ping { number: 1, answer: false }), 0).unwrap();
        assert_eq!(self.session.handle_input(self.now, &mut &bytes[..]), None);
        self.session.handle_timeout(self.now);
        let end = Message::End(End { subscription: SubscriptionId(0) });
        let (told, said) = self.tell(&end);
        assert_eq!((told, said.len()), (Told::Dropped, 0));
        assert_eq!((self.session.close_reason(), self.session.poll_timeout()), (reason, None));
    }
}

/// Mostly one that is bound.
fn some_route(choices: &mut Choices<'_>) -> u32 {
    match choices.below(120) {
        0 => 4,
        other => u32::from(other % 4),
    }
}

impl MLane {
    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.sent.clear();
        self.voids.clear();
    }

    fn settle(&mut self, last: u64) {
        self.acked = self.acked.max(last);
        let acked = self.acked;
        self.sent.retain(|(last, _)| *last > acked);
    }
}
