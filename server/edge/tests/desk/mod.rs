//! A client that speaks frames by hand over a pipe in memory, and workers that do as they are told.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on ends"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect is shown as it is")]

pub use std::collections::VecDeque;
pub use std::net::SocketAddr;
pub use std::sync::{Arc, Mutex, MutexGuard};
pub use std::task::{Context, Poll, Waker};
pub use std::time::Duration;

pub use spile_edge::auth::{Channel, Identity, Presented};
pub use spile_edge::half_open::{Caps, HalfOpen};
pub use spile_edge::metrics::Counter;
pub use spile_edge::registry::{Entry, Registry};
pub use spile_edge::session::Connection;
pub use spile_edge::signal::Signal;
pub use spile_edge::upstream::{Away, Back, Input, Port, Ready, Upstream, Workers};
pub use spile_edge::{Edge, Parts};
pub use spile_protocol::{
    code::Code,
    crc, frame,
    id::{
        LaneId, LinkSessionId, Number, Position, Role, RouteId, Run, Slot, SubscriptionId, Version,
    },
    limits,
    message::{
        Ack, Attach, Auth, Bind, Call, Credit, Deliver, Detach, Durability, End, Event, Extras,
        Fault, From, Hello, Lane, LaneAnswer, Lengths, List, Message, Outcome, Proof, Scope,
        Sender, Settle, Source, Subscribe, deliver::Kind,
    },
    session::{Transmit, edge::Config, key},
    time::Millis,
};
pub use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
pub use tokio::sync::watch;

/// A worker: what it was told, and what it has to say.
#[derive(Default)]
pub struct Desk {
    pub heard: Vec<String>,
    pub takes: usize,
    says: VecDeque<Vec<u8>>,
    pub away: bool,
    /// It takes nothing more.
    pub full: bool,
    /// How often it was asked whether it does.
    pub looks: usize,
    waker: Option<Waker>,
    /// Who waits until it is back.
    waits: Vec<Waker>,
}

#[derive(Clone)]
pub struct Fake(pub &'static str, Arc<Mutex<Desk>>);

impl Fake {
    pub fn new(name: &'static str) -> Self {
        Self(name, Arc::default())
    }
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.1.lock().unwrap()
    }
    pub fn say(&self, message: &Message<'_>) {
        let mut frame = Vec::new();
        frame.put(message, crc::of(message.payload())).unwrap();
        let mut desk = self.desk();
        desk.says.push_back(frame);
        if let Some(waker) = desk.waker.take() {
            waker.wake();
        }
    }
    pub fn leave(&self) {
        let mut desk = self.desk();
        desk.away = true;
        if let Some(waker) = desk.waker.take() {
            waker.wake();
        }
    }
}

impl Fake {
    /// It is back, with nothing of before.
    pub fn come(&self) {
        let mut desk = self.desk();
        desk.away = false;
        desk.says.clear();
        desk.waits.drain(..).for_each(Waker::wake);
    }

    /// It goes away, and whoever waits for it has noticed.
    pub async fn go(&self) {
        self.leave();
        for _ in 0..10_000 {
            if !self.desk().waits.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("nobody waits for {}", self.0);
    }

    /// Waits until it has heard so much.
    pub async fn has_heard(&self, count: usize) {
        self.until(|desk| desk.heard.len() >= count).await;
    }

    /// Waits until the session has taken all it had to say.
    pub async fn has_said_all(&self) {
        self.until(|desk| desk.says.is_empty()).await;
    }

    /// Lets the session work until it is so; no time passes.
    pub async fn until(&self, is: impl Fn(&Desk) -> bool) {
        for _ in 0..10_000 {
            if is(&self.desk()) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{:?}", self.desk().heard);
    }

    /// What it heard since it was asked last.
    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.desk().heard)
    }
}

impl Upstream for Fake {
    fn name(&self) -> &str {
        self.0
    }
    fn attach(&self, attach: &Attach<'_>) -> Result<Box<dyn Port>, Away> {
        if self.desk().away {
            return Err(Away { retry_after_ms: 77 });
        }
        let text = format!("attach {} {}", attach.principal, attach.role.name());
        self.desk().heard.push(text);
        Ok(Box::new(self.clone()))
    }
    fn back(&self) -> Back {
        let fake = self.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            let mut desk = fake.desk();
            if desk.away {
                desk.waits.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        }))
    }
}

impl Port for Fake {
    fn take<'b>(&mut self, _: Millis, inputs: &mut dyn Iterator<Item = Input<'b>>) {
        let mut desk = self.desk();
        desk.takes += 1;
        for Input { message, number, payload_crc, .. } in inputs {
            assert_eq!(payload_crc, crc::of(message.payload()));
            desk.heard.push(shown(&message, number));
        }
    }
    fn poll(&mut self, room: usize, sink: &mut dyn FnMut(&Message<'_>, u32)) {
        let mut room = room;
        loop {
            let next = {
                let mut desk = self.desk();
                if desk.says.front().is_none_or(|frame| frame.len() > room) {
                    return;
                }
                desk.says.pop_front().unwrap()
            };
            room -= next.len();
            let (whole, _) = frame::decode(&next, limits::FRAME_MAX).unwrap().unwrap();
            sink(&Message::decode(&whole, Sender::Server).unwrap(), whole.payload_crc);
        }
    }
    fn has_room(&self) -> bool {
        let mut desk = self.desk();
        desk.looks += 1;
        !desk.full
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        let mut desk = self.desk();
        if desk.away {
            return Poll::Ready(Ready::Away(Away { retry_after_ms: 77 }));
        }
        if desk.says.is_empty() {
            desk.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ready::Some)
    }
}

pub fn shown(message: &Message<'_>, number: Number) -> String {
    match message {
        Message::Lane(lane) => format!("lane {} {:?}", lane.lane, lane.key),
        Message::Bind(bind) => format!("bind {} {}", bind.route, bind.topic),
        Message::Event(event) => format!("event {number} {} bytes", event.payload.len()),
        Message::Void(void) => format!("void {}+{} {}", void.number, void.count, void.code.name()),
        Message::Subscribe(subscribe) => match subscribe.source {
            Source::Filter { from: From::Positions(at), .. } => {
                let at: Vec<_> =
                    at.iter().map(|at| format!("{}:{}", at.worker, at.position)).collect();
                format!("subscribe {} events from {}", subscribe.events, at.join(","))
            }
            _ => format!("subscribe {} events", subscribe.events),
        },
        Message::Settle(settle) => format!("settle {} {:?}", settle.delivery, settle.outcome),
        Message::Call(call) => {
            let Call { request, service, method, caller, remaining_ms, .. } = call.fields;
            let payload = String::from_utf8_lossy(call.payload);
            format!("call {request} {service} {method} by {caller} in {remaining_ms} {payload}")
        }
        Message::Reply(reply) => {
            let (request, code) = (reply.fields.request, reply.fields.code);
            format!("reply {request} {} {}", code.0, String::from_utf8_lossy(reply.payload))
        }
        Message::Serve(serve) => format!("serve {} {}", serve.service, serve.window),
        Message::Credit(credit) => format!("credit {} {}", credit.events, credit.bytes),
        Message::List(list) => format!("list {:?} {:?} {}", list.prefix, list.after, list.limit),
        Message::End(_) => "end".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Knows one device by its key.
pub struct Known;

pub const KEY: [u8; 32] = [9; 32];
pub const EXPORTER: [u8; 32] = [7; 32];

impl Registry for Known {
    fn lookup(&self, _: &str, principal: &str) -> Option<Entry> {
        let key_hash = Some(key::hash(&KEY));
        let entry = Entry { role: Role::Device, key_hash, revoked: false, expires_ms: 0 };
        (principal == "d1").then_some(entry)
    }
    fn is_fresh(&self, _: Millis) -> bool {
        true
    }
    fn changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// A client that speaks frames by hand.
pub struct Client {
    pub stream: DuplexStream,
    pub got: Vec<u8>,
    pub signal: Arc<Signal>,
    pub edge: Arc<Edge>,
    pub task: tokio::task::JoinSet<()>,
}

pub fn workers(fakes: &[Fake]) -> Workers {
    if let [one] = fakes {
        return Workers::one(Arc::new(one.clone()));
    }
    let slots = [[0x55; 32], [0xaa; 32]];
    let all = fakes.iter().zip(slots);
    Workers::new(
        all.map(|(fake, slots)| (Arc::new(fake.clone()) as Arc<dyn Upstream>, slots)).collect(),
    )
    .unwrap()
}

impl Client {
    pub fn connect(fakes: &[Fake], identity: Option<(&str, Role)>, pipe: usize) -> Self {
        let edge = Edge::new(Parts {
            session: Config::default(),
            tenants: vec!["main".to_owned()],
            sessions: 10,
            registry: Arc::new(Known),
            workers: workers(fakes),
            cache_max_age: std::time::Duration::from_secs(5),
            random: [1; 8],
        });
        let (stream, far) = tokio::io::duplex(pipe);
        let identity = identity.map(|(name, role)| Identity {
            tenant: "main".to_owned(),
            role,
            name: name.to_owned(),
            ends_ms: 0,
        });
        let presented = Presented { identity, channel: Channel::Tls(EXPORTER) };
        let signal = Arc::new(Signal::default());
        let half_open = HalfOpen::new(Caps { all: 9, address: 9 }, Arc::default());
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let place = half_open.enter(peer.ip(), Arc::clone(&signal), &Counter::default());
        let place = (place, edge.clock.now());
        let connection =
            Connection::new(Arc::clone(&edge), far, presented, peer, Arc::clone(&signal), place);
        let mut task = tokio::task::JoinSet::new();
        task.spawn(Box::new(connection).run());
        Self { stream, got: Vec::new(), signal, edge, task }
    }

    pub async fn send(&mut self, messages: &[Message<'_>]) {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.put(message, crc::of(message.payload())).unwrap();
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next message, as `read` sees it; `None` where the server has closed.
    pub async fn next<T>(&mut self, read: impl FnOnce(&Message<'_>) -> T) -> Option<T> {
        loop {
            if let Some((whole, used)) = frame::decode(&self.got, limits::FRAME_MAX).unwrap() {
                let seen = read(&Message::decode(&whole, Sender::Server).unwrap());
                self.got.drain(..used);
                return Some(seen);
            }
            let mut part = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(90), self.stream.read(&mut part));
            match read.await.expect("nothing came").unwrap() {
                0 => return None,
                n => self.got.extend_from_slice(&part[..n]),
            }
        }
    }

    pub async fn shown(&mut self) -> String {
        self.next(|message| match message {
            Message::Welcome(welcome) => format!("welcome {}", welcome.principal),
            Message::Fault(fault) => {
                format!("fault {} {:?} {}", fault.code.name(), fault.scope, fault.retry_after_ms)
            }
            Message::Ack(ack) => format!("{ack:?}"),
            Message::LaneAnswer(answer) => format!("lane {} {:?}", answer.lane, answer.last),
            Message::GoAway(goaway) => format!("goaway {}", goaway.code.name()),
            Message::Deliver(d) => {
                format!("deliver {:?} {:?} {} {:?}", d.worker, d.key, d.version, d.topic)
            }
            Message::Credit(credit) => format!("credit {} {}", credit.events, credit.bytes),
            Message::Settle(settle) => format!("settle {} {:?}", settle.delivery, settle.outcome),
            Message::Reply(reply) => {
                let (request, code) = (reply.fields.request, reply.fields.code);
                format!("reply {request} {} {}", code.0, String::from_utf8_lossy(reply.payload))
            }
            Message::Call(call) => format!("call {} {}", call.fields.request, call.fields.caller),
            Message::Value(value) => format!(
                "value {} more {} cursor {:?} partial {}",
                value.fields.key, value.fields.more, value.fields.cursor, value.fields.partial
            ),
            Message::End(_) => "end".to_owned(),
            other => format!("{other:?}"),
        })
        .await
        .unwrap_or_else(|| "closed".to_owned())
    }

    pub async fn welcome(fakes: &[Fake], name: &str, role: Role) -> Self {
        let mut client = Self::connect(fakes, Some((name, role)), 1 << 20);
        client.send(&[hello(), Message::Auth(Auth { proof: Proof::Certificate })]).await;
        assert_eq!(client.shown().await, format!("welcome {name}"));
        client
    }
}

pub fn hello() -> Message<'static> {
    Message::Hello(Hello {
        version: 1,
        oldest: 1,
        frame_max: 65_536,
        run: Run([1; 8]),
        receipts: false,
        keep_alive_s: 0,
        software: "test",
        abandoned: Run::default(),
    })
}

pub fn lane(lane: u32, key: Option<&str>) -> Message<'_> {
    Message::Lane(Lane { lane: LaneId(lane), first_unacked: Number(1), key, urgent: false })
}

pub fn bind(route: u32, lane: u32, topic: &str) -> Message<'_> {
    let (route, lane) = (RouteId(route), LaneId(lane));
    Message::Bind(Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" })
}

pub fn event(route: u32, payload: &[u8]) -> Message<'_> {
    Message::Event(Event { route: RouteId(route), extras: Extras::default(), payload })
}

pub fn opened(lane: u32, last: u64) -> Message<'static> {
    Message::LaneAnswer(LaneAnswer {
        lane: LaneId(lane),
        last: Some(Number(last)),
        worker: "w",
        refused: List::default(),
        receipts: List::default(),
        uploads: List::default(),
        inbox: Version(0),
    })
}

pub fn stored(lane: u32, last: u64) -> Message<'static> {
    let (lane, last) = (LaneId(lane), Number(last));
    Message::Ack(Ack::Spelled {
        durability: Durability::Stored,
        lane,
        last,
        receipts: List::default(),
    })
}

pub fn subscribe(source: Source<'_>, events: u32) -> Message<'_> {
    Message::Subscribe(Subscribe {
        subscription: SubscriptionId(0),
        source,
        events,
        bytes: 1000,
        live: true,
    })
}

pub fn everything(from: From<'_>) -> Source<'_> {
    Source::Filter { filter: "#", key: None, from }
}

pub fn deliver<'a>(key: Option<&'a str>, version: u64) -> Message<'a> {
    Message::Deliver(Deliver {
        subscription: SubscriptionId(0),
        key,
        topic: key.map(|_| "t"),
        kind: key.map(|_| Kind::default()),
        worker: None,
        attempt: 1,
        version: Version(version),
        position: Position(version),
        time: Millis(1),
        lengths: Lengths::one(2),
        extras: Extras::default(),
        payload: b"21",
    })
}

/// A key whose slot is even or odd: on the first or the second of two workers.
pub fn key_on(worker: u8) -> String {
    (0..).map(|n| format!("k{n}")).find(|key| Slot::of("main", key).0 % 2 == worker).unwrap()
}
