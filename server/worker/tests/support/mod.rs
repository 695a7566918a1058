//! A worker on a real log in a temporary folder, and a client that speaks to it in messages.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use spile_log::{Log, Options, RealDisk};
use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, Number, Role, RouteId, Run, SubscriptionId, Version},
    message::{
        Ack, At, Attach, Batch, Bind, Body, Call, End, Event, Expect, Extras, From, Get, Lane,
        Lengths, List, Message, Outcome, Scope, Settle, Source, Subscribe, Target,
        request::{self, Listing},
    },
    time::Millis,
};
use spile_worker::{
    Config, Polled, Session, Worker, attach_of,
    views::{Views, ViewsError},
};

pub const NOW: Millis = Millis(1_700_000_000_000);
pub const ROOM: usize = 1 << 20;

/// A log in a folder.
pub fn log(folder: &Path) -> Log {
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    Log::open(disk, Options { reserve_bytes: 0, free_bytes_low: 0, ..Options::default() })
        .unwrap()
        .0
}

pub fn config() -> Config {
    // Few rows at once, so that what there is takes several.
    Config { name: "w".to_owned(), snapshot_rows: 5, ..Config::default() }
}

pub fn open(folder: &Path) -> Arc<Worker> {
    Worker::open(config(), Arc::new(log(folder)), None).unwrap()
}

/// What a session was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Opened {
        lane: u32,
        last: u64,
        refused: Vec<(u64, u32, Code)>,
    },
    Ack {
        lane: u32,
        last: u64,
        receipts: Vec<(u64, u32, u64, u64)>,
    },
    Refused {
        lane: u32,
        number: u64,
        count: u32,
        code: Code,
        version: u64,
    },
    Closed {
        lane: u32,
        code: Code,
        expected: u64,
    },
    Fault {
        code: Code,
        scope: Scope,
    },
    Credit {
        subscription: u32,
        events: u32,
    },
    End(u32),
    Settled {
        subscription: u32,
        delivery: u64,
        outcome: Outcome,
    },
    Event(Delivered),
    Version(u64),
    Value(Kept),
    Reply {
        code: Code,
        detail: String,
        payload: Bytes,
    },
    /// A call to be answered.
    Call(Called),
}

/// One VALUE of a kept topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub key: String,
    pub topic: String,
    pub version: u64,
    pub position: u64,
    pub payload: Bytes,
    pub more: bool,
    pub cursor: String,
    pub left_ms: u64,
}

/// A call to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    pub request: u32,
    pub service: String,
    pub method: String,
    pub caller: String,
    pub remaining_ms: u32,
}

/// One event of a delivery, with the names the delivery left out filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub subscription: u32,
    pub key: String,
    pub topic: String,
    pub version: u64,
    pub position: u64,
    pub payload: Bytes,
    /// How many events the delivery had.
    pub block: u32,
    /// Which delivery of the session, and which attempt it is.
    pub delivery: u64,
    pub attempt: u32,
}

pub struct Client {
    pub session: Session,
    key: String,
    topic: String,
    deliveries: u64,
    /// The cursor its own lane's answer told.
    pub inbox: u64,
}

impl Client {
    pub fn new(worker: &Arc<Worker>, principal: &str, run: u8) -> Self {
        Self::with(worker, principal, run, false)
    }

    pub fn with(worker: &Arc<Worker>, principal: &str, run: u8, receipts: bool) -> Self {
        let mut attach = attach_of("main", Role::Device, principal, Run([run; 8]));
        attach.receipts = receipts;
        attach.trace_base = [3; 8];
        Self::of(worker, &attach)
    }

    pub fn of(worker: &Arc<Worker>, attach: &Attach<'_>) -> Self {
        let session = worker.attach(attach);
        Self { session, key: String::new(), topic: String::new(), deliveries: 0, inbox: 0 }
    }

    pub fn say(&mut self, number: u64, message: &Message<'_>) {
        let payload = Bytes::copy_from_slice(message.payload());
        let crc = crc::of(&payload);
        self.session.intake().message(NOW, Number(number), message, &payload, crc);
    }

    pub fn lane(&mut self, lane: u32, key: Option<&str>, first_unacked: u64) {
        let message =
            Lane { lane: LaneId(lane), first_unacked: Number(first_unacked), key, urgent: false };
        self.say(0, &Message::Lane(message));
    }

    pub fn bind(&mut self, route: u32, lane: u32, topic: &str) {
        let (route, lane) = (RouteId(route), LaneId(lane));
        self.say(
            0,
            &Message::Bind(Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" }),
        );
    }

    pub fn event(&mut self, route: u32, number: u64, payload: &[u8]) {
        self.event_if(route, number, payload, None);
    }

    pub fn event_if(&mut self, route: u32, number: u64, payload: &[u8], expect: Option<Expect>) {
        let extras = Extras { expect, ..Extras::default() };
        self.say(number, &Message::Event(Event { route: RouteId(route), extras, payload }));
    }

    /// Lone events of one read: route, number, payload. They reach the log together, so no reader sees some of them.
    pub fn events_at_once(&mut self, events: &[(u32, u64, &[u8])]) {
        let mut intake = self.session.intake();
        for &(route, number, payload) in events {
            let route = RouteId(route);
            let message = Message::Event(Event { route, extras: Extras::default(), payload });
            let payload = Bytes::copy_from_slice(payload);
            intake.message(NOW, Number(number), &message, &payload, crc::of(&payload));
        }
    }

    pub fn batch(&mut self, route: u32, number: u64, payloads: &[&[u8]], expect: Option<Expect>) {
        let mut spelled = [0; 4096];
        let lengths = Lengths::encode(payloads.iter().map(|p| p.len()), &mut spelled).unwrap();
        let extras = Extras { expect, ..Extras::default() };
        let payload = &payloads.concat();
        self.say(
            number,
            &Message::Batch(Batch { route: RouteId(route), lengths, extras, payload }),
        );
    }

    /// Lane 0 on one's own key, route 0 on `t`.
    pub fn ready_to_publish(&mut self, first_unacked: u64) {
        self.lane(0, None, first_unacked);
        self.bind(0, 0, "t");
    }

    pub fn subscribe(&mut self, id: u32, source: Source<'_>, events: u32, live: bool) {
        let subscription = SubscriptionId(id);
        let subscribe = Subscribe { subscription, source, events, bytes: 1 << 20, live };
        self.say(0, &Message::Subscribe(subscribe));
    }

    pub fn subscribe_from(&mut self, id: u32, filter: &str, position: u64) {
        let mut buffer = [0; 64];
        let at = At { worker: "w", position: spile_protocol::id::Position(position) };
        let from = From::Positions(List::encode([at], &mut buffer).unwrap());
        self.subscribe(id, Source::Filter { filter, key: None, from }, 1000, true);
    }

    pub fn get(&mut self, key: &str, topic: &str) {
        self.get_when(key, topic, (0, 0, 0), NOW);
    }

    /// (newer_than, at_least, wait_ms), and the time it is asked.
    pub fn get_when(&mut self, key: &str, topic: &str, when: (u64, u64, u32), now: Millis) {
        let (newer_than, at_least, wait_ms) = when;
        let get = Get {
            request: spile_protocol::id::RequestId(1),
            target: Target::State { key, topic },
            newer_than: Version(newer_than),
            at_least: Version(at_least),
            wait_ms,
        };
        let message = Message::Get(get);
        self.session.intake().message(now, Number(0), &message, &Bytes::new(), 0);
    }

    pub fn list(&mut self, prefix: &str, after: &str, limit: u32) {
        self.list_at(prefix, after, limit, NOW);
    }

    pub fn list_at(&mut self, prefix: &str, after: &str, limit: u32, now: Millis) {
        let (request, listing) = (spile_protocol::id::RequestId(1), Listing::State);
        let message = Message::List(request::List { request, listing, prefix, after, limit });
        self.session.intake().message(now, Number(0), &message, &Bytes::new(), 0);
    }

    pub fn call(&mut self, request: u32, service: &str, method: &str, payload: &str) {
        let fields = Call {
            request: spile_protocol::id::RequestId(request),
            service,
            method,
            remaining_ms: 1000,
            idempotent: false,
            content_type: "",
            caller: "",
            trace: None,
        };
        self.say(0, &Message::Call(Body { fields, payload: payload.as_bytes() }));
    }

    /// Calls, and waits for the reply: its code, and its payload as JSON.
    pub async fn reply(
        &mut self,
        service: &str,
        method: &str,
        payload: &str,
    ) -> (Code, serde_json::Value) {
        self.call(1, service, method, payload);
        let told = self.told(1).await;
        match &told[..] {
            [Told::Reply { code, payload, .. }] => {
                (*code, serde_json::from_slice(payload).unwrap_or_default())
            }
            other => panic!("no reply: {other:?}"),
        }
    }

    pub fn settle(&mut self, subscription: u32, delivery: u64) {
        self.settle_as(subscription, delivery, Outcome::Seen, 0);
    }

    pub fn settle_as(&mut self, subscription: u32, delivery: u64, outcome: Outcome, events: u32) {
        let subscription = SubscriptionId(subscription);
        self.say(
            0,
            &Message::Settle(Settle { subscription, delivery, outcome, events, reason: "" }),
        );
    }

    pub fn end(&mut self, subscription: u32) {
        let subscription = SubscriptionId(subscription);
        self.say(0, &Message::End(End { subscription }));
    }

    /// Frees the credit of all that was delivered on the one subscription there is.
    pub fn settle_all(&mut self, subscription: u32) {
        let deliveries = self.deliveries;
        self.settle(subscription, deliveries);
    }

    /// What may be said now.
    pub fn poll(&mut self) -> (Vec<Told>, Polled) {
        let mut told = Vec::new();
        let Self { session, key, topic, deliveries, inbox } = self;
        let polled = session.poll(ROOM, &mut |message, payload_crc| {
            assert_eq!(crc::of(message.payload()), payload_crc, "{message:?}");
            // What is said can be sent.
            let mut frame = vec![0; 1 << 20];
            message.encode(&mut frame).unwrap();
            if let Message::LaneAnswer(answer) = message
                && answer.lane == LaneId(0)
            {
                *inbox = answer.inbox.0;
            }
            take(message, (key, topic, deliveries), &mut told);
        });
        (told, polled)
    }

    /// Waits until so much was told that `enough` says so.
    pub async fn until(&mut self, mut enough: impl FnMut(&[Told]) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let (told, polled) = self.poll();
            told.into_iter().for_each(|told| push(&mut all, told));
            if enough(&all) {
                return all;
            }
            match polled {
                Polled::Gone(code) => panic!("gone: {code}, told {all:?}"),
                Polled::More => {}
                Polled::Idle => {
                    let ready = self.session.ready();
                    let waited =
                        tokio::time::timeout(std::time::Duration::from_secs(20), ready).await;
                    assert!(waited.is_ok(), "nothing more is told; so far: {all:?}");
                }
            }
        }
    }

    /// Waits for so many things to be told.
    pub async fn told(&mut self, count: usize) -> Vec<Told> {
        self.until(|told| told.len() >= count).await
    }

    /// Waits until each of the lanes is acked up to its number.
    pub async fn all_acked(&mut self, lanes: &[(u32, u64)]) {
        let acked = |told: &[Told], lane: u32, last: u64| {
            let is = |told: &Told| matches!(told, Told::Ack { lane: of, last: to, .. } if *of == lane && *to >= last);
            told.iter().any(is)
        };
        self.until(|told| lanes.iter().all(|&(lane, last)| acked(told, lane, last))).await;
    }

    /// Waits until a lane is acked up to `last`.
    pub async fn acked(&mut self, lane: u32, last: u64) -> Vec<Told> {
        let acked = |told: &Told| matches!(told, Told::Ack { lane: of, last: to, .. } if *of == lane && *to >= last);
        self.until(|told| told.iter().any(acked)).await
    }

    /// Waits for so many events.
    pub async fn events(&mut self, count: usize) -> Vec<Delivered> {
        let mut settled = 0;
        let mut events = Vec::new();
        while events.len() < count {
            let told =
                self.until(|told| told.iter().any(|told| matches!(told, Told::Event(_)))).await;
            for told in told {
                if let Told::Event(event) = told {
                    settled = settled.max(event.subscription);
                    events.push(event);
                }
            }
            self.settle_all(settled);
        }
        events
    }
}

/// Acks of one lane that follow each other are one: how they were cut is a matter of time.
fn push(all: &mut Vec<Told>, told: Told) {
    if let (
        Some(Told::Ack { lane, last, receipts }),
        Told::Ack { lane: new_lane, last: new_last, receipts: new_receipts },
    ) = (all.last_mut(), &told)
        && lane == new_lane
    {
        *last = (*last).max(*new_last);
        receipts.extend(new_receipts);
        return;
    }
    all.push(told);
}

fn take(
    message: &Message<'_>,
    (key, topic, deliveries): (&mut String, &mut String, &mut u64),
    told: &mut Vec<Told>,
) {
    match *message {
        Message::LaneAnswer(answer) => told.push(Told::Opened {
            lane: answer.lane.0,
            last: answer.last.unwrap().0,
            refused: answer.refused.iter().map(|r| (r.number.0, r.count, r.code)).collect(),
        }),
        Message::Ack(Ack::Spelled { lane, last, receipts, .. }) => told.push(Told::Ack {
            lane: lane.0,
            last: last.0,
            receipts: receipts
                .iter()
                .map(|r| (r.number.0, r.count, r.version.0, r.position.0))
                .collect(),
        }),
        Message::Fault(fault) => told.push(match fault.scope {
            Scope::Number { lane, number, count, version: Version(version) } => {
                Told::Refused { lane: lane.0, number: number.0, count, code: fault.code, version }
            }
            Scope::Lane { lane, expected } => {
                Told::Closed { lane: lane.0, code: fault.code, expected: expected.0 }
            }
            scope => Told::Fault { code: fault.code, scope },
        }),
        Message::Credit(credit) => told.push(Told::Credit {
            subscription: credit.subscription.unwrap().0,
            events: credit.events,
        }),
        Message::End(end) => told.push(Told::End(end.subscription.0)),
        Message::Settle(settle) => told.push(Told::Settled {
            subscription: settle.subscription.0,
            delivery: settle.delivery,
            outcome: settle.outcome,
        }),
        Message::Value(Body { fields, .. }) if fields.name.is_empty() => {
            assert_eq!(fields.absent, fields.version.0 == 0);
            told.push(Told::Version(fields.version.0));
        }
        Message::Value(Body { fields, payload }) => told.push(Told::Value(Kept {
            key: fields.key.to_owned(),
            topic: fields.name.to_owned(),
            version: fields.version.0,
            position: fields.position.unwrap().0,
            payload: Bytes::copy_from_slice(payload),
            more: fields.more,
            cursor: fields.cursor.to_owned(),
            left_ms: fields.left_ms,
        })),
        Message::Reply(body) => told.push(Told::Reply {
            code: body.fields.code,
            detail: body.fields.detail.to_owned(),
            payload: Bytes::copy_from_slice(body.payload),
        }),
        Message::Call(body) => told.push(Told::Call(Called {
            request: body.fields.request.0,
            service: body.fields.service.to_owned(),
            method: body.fields.method.to_owned(),
            caller: body.fields.caller.to_owned(),
            remaining_ms: body.fields.remaining_ms,
        })),
        Message::Deliver(deliver) => {
            *deliveries += 1;
            if let Some(new) = deliver.key {
                new.clone_into(key);
            }
            if let Some(new) = deliver.topic {
                new.clone_into(topic);
            }
            let parts = deliver.lengths.split(deliver.payload);
            for (n, payload) in (0..).zip(parts) {
                told.push(Told::Event(Delivered {
                    subscription: deliver.subscription.0,
                    key: key.clone(),
                    topic: topic.clone(),
                    version: deliver.version.0 + n,
                    position: deliver.position.0 + n,
                    payload: Bytes::copy_from_slice(payload),
                    block: deliver.lengths.count(),
                    delivery: *deliveries,
                    attempt: deliver.attempt,
                }));
            }
        }
        other => panic!("a worker said {other:?}"),
    }
}

/// A store of checkpoints in memory.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<(Rows, u64)>>);

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

impl Shelf {
    /// Another store that holds the same.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }
}

impl Views for Shelf {
    fn load(&self, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<u64, ViewsError> {
        let shelf = self.0.lock().unwrap();
        let good = shelf.0.iter().all(|(key, value)| each(key, value));
        if good { Ok(shelf.1) } else { Err(ViewsError::Row) }
    }

    fn store(
        &mut self,
        removed: &[Vec<u8>],
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        applied: u64,
    ) -> Result<(), ViewsError> {
        let mut shelf = self.0.lock().unwrap();
        shelf.0.retain(|key, _| !removed.iter().any(|prefix| key.starts_with(prefix)));
        shelf.0.extend(rows);
        shelf.1 = applied;
        Ok(())
    }
}
