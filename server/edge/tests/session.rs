//! A connection from its first byte to its last, over a pipe in memory and against a worker that does as it is told.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't go on ends")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what a test does not expect is shown as it is"
)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spile_edge::auth::{Channel, Identity, Presented};
use spile_edge::half_open::{Caps, HalfOpen};
use spile_edge::metrics::Counter;
use spile_edge::registry::{Entry, Registry};
use spile_edge::session::Connection;
use spile_edge::signal::Signal;
use spile_edge::upstream::{Away, Input, Port, Ready, Upstream, Workers};
use spile_edge::{Edge, Parts};
use spile_protocol::{
    code::Code,
    crc, frame,
    id::{
        LaneId, LinkSessionId, Number, Position, Role, RouteId, Run, Slot, SubscriptionId, Version,
    },
    limits,
    message::{
        Ack, Attach, Auth, Bind, Credit, Deliver, Detach, Durability, End, Event, Extras, Fault,
        From, Hello, Lane, LaneAnswer, Lengths, List, Message, Outcome, Proof, Scope, Sender,
        Settle, Source, Subscribe, deliver::Kind,
    },
    session::{Transmit, edge::Config, key},
    time::Millis,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

/// A worker: what it was told, and what it has to say.
#[derive(Default)]
struct Desk {
    heard: Vec<String>,
    takes: usize,
    says: VecDeque<Vec<u8>>,
    away: bool,
    waker: Option<Waker>,
}

#[derive(Clone)]
struct Fake(&'static str, Arc<Mutex<Desk>>);

impl Fake {
    fn new(name: &'static str) -> Self {
        Self(name, Arc::default())
    }
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.1.lock().unwrap()
    }
    fn say(&self, message: &Message<'_>) {
        let mut frame = Vec::new();
        frame.put(message, crc::of(message.payload())).unwrap();
        let mut desk = self.desk();
        desk.says.push_back(frame);
        if let Some(waker) = desk.waker.take() {
            waker.wake();
        }
    }
    fn leave(&self) {
        let mut desk = self.desk();
        desk.away = true;
        if let Some(waker) = desk.waker.take() {
            waker.wake();
        }
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
}

impl Port for Fake {
    fn take<'b>(&mut self, _: Millis, inputs: &mut dyn Iterator<Item = Input<'b>>) {
        let mut desk = self.desk();
        desk.takes += 1;
        for Input { message, number, payload_crc } in inputs {
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

fn shown(message: &Message<'_>, number: Number) -> String {
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
        Message::End(_) => "end".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Knows one device by its key.
struct Known;

const KEY: [u8; 32] = [9; 32];
const EXPORTER: [u8; 32] = [7; 32];

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
struct Client {
    stream: DuplexStream,
    got: Vec<u8>,
    signal: Arc<Signal>,
    edge: Arc<Edge>,
    task: tokio::task::JoinSet<()>,
}

fn workers(fakes: &[Fake]) -> Workers {
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
    fn connect(fakes: &[Fake], identity: Option<(&str, Role)>, pipe: usize) -> Self {
        let edge = Edge::new(Parts {
            session: Config::default(),
            tenants: vec!["main".to_owned()],
            sessions: 10,
            registry: Arc::new(Known),
            workers: workers(fakes),
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

    async fn send(&mut self, messages: &[Message<'_>]) {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.put(message, crc::of(message.payload())).unwrap();
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next message, as `read` sees it; `None` where the server has closed.
    async fn next<T>(&mut self, read: impl FnOnce(&Message<'_>) -> T) -> Option<T> {
        loop {
            if let Some((whole, used)) = frame::decode(&self.got, limits::FRAME_MAX).unwrap() {
                let seen = read(&Message::decode(&whole, Sender::Server).unwrap());
                self.got.drain(..used);
                return Some(seen);
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part).await.unwrap() {
                0 => return None,
                n => self.got.extend_from_slice(&part[..n]),
            }
        }
    }

    async fn shown(&mut self) -> String {
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
            Message::End(_) => "end".to_owned(),
            other => format!("{other:?}"),
        })
        .await
        .unwrap_or_else(|| "closed".to_owned())
    }

    async fn welcome(fakes: &[Fake], name: &str, role: Role) -> Self {
        let mut client = Self::connect(fakes, Some((name, role)), 1 << 20);
        client.send(&[hello(), Message::Auth(Auth { proof: Proof::Certificate })]).await;
        assert_eq!(client.shown().await, format!("welcome {name}"));
        client
    }
}

fn hello() -> Message<'static> {
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

fn lane(lane: u32, key: Option<&str>) -> Message<'_> {
    Message::Lane(Lane { lane: LaneId(lane), first_unacked: Number(1), key, urgent: false })
}

fn bind(route: u32, lane: u32, topic: &str) -> Message<'_> {
    let (route, lane) = (RouteId(route), LaneId(lane));
    Message::Bind(Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" })
}

fn event(route: u32, payload: &[u8]) -> Message<'_> {
    Message::Event(Event { route: RouteId(route), extras: Extras::default(), payload })
}

fn opened(lane: u32, last: u64) -> Message<'static> {
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

fn stored(lane: u32, last: u64) -> Message<'static> {
    let (lane, last) = (LaneId(lane), Number(last));
    Message::Ack(Ack::Spelled {
        durability: Durability::Stored,
        lane,
        last,
        receipts: List::default(),
    })
}

fn subscribe(source: Source<'_>, events: u32) -> Message<'_> {
    Message::Subscribe(Subscribe {
        subscription: SubscriptionId(0),
        source,
        events,
        bytes: 1000,
        live: true,
    })
}

fn everything(from: From<'_>) -> Source<'_> {
    Source::Filter { filter: "#", key: None, from }
}

fn deliver<'a>(key: Option<&'a str>, version: u64) -> Message<'a> {
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
fn key_on(worker: u8) -> String {
    (0..).map(|n| format!("k{n}")).find(|key| Slot::of("main", key).0 % 2 == worker).unwrap()
}

#[tokio::test]
async fn a_whole_first_flight_is_one_turn() {
    let fake = Fake::new("w");
    let mut client = Client::connect(std::slice::from_ref(&fake), None, 1 << 16);
    let signed = key::Signed { tenant: "main", device: "d1", binding: key::Binding::Tls(EXPORTER) };
    let proof = Proof::DeviceKey {
        tenant: "main",
        device: "d1",
        nonce: [0; 16],
        proof: key::prove(&KEY, &signed),
    };
    let auth = Message::Auth(Auth { proof });
    client
        .send(&[hello(), auth, lane(0, None), bind(0, 0, "t"), event(0, b"a"), event(0, b"bb")])
        .await;
    assert_eq!(client.shown().await, "welcome d1");
    fake.say(&opened(0, 0));
    fake.say(&stored(0, 2));
    assert_eq!(client.shown().await, "lane 0 Some(Number(0))");
    assert_eq!(client.shown().await, "Step { durability: Stored, step: 2 }");
    let want =
        ["attach d1 device", "lane 0 None", "bind 0 t", "event 1 1 bytes", "event 2 2 bytes"];
    assert_eq!(fake.desk().heard, want);
    let metrics = &client.edge.metrics;
    assert_eq!(
        (metrics.events.get(), metrics.event_bytes.get(), metrics.sessions.get()),
        (2, 3, 1)
    );
}

#[tokio::test]
async fn many_frames_of_one_read_reach_the_worker_in_one_call() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None), bind(0, 0, "t")]).await;
    fake.say(&opened(0, 0));
    client.shown().await;
    let before = fake.desk().takes;
    let many = vec![event(0, &[5; 40]); 1000];
    client.send(&many).await;
    fake.say(&stored(0, 1000));
    assert_eq!(
        client.shown().await,
        "Spelled { durability: Stored, lane: LaneId(0), last: Number(1000), receipts: [] }"
    );
    assert_eq!(fake.desk().takes, before + 1);
}

#[tokio::test]
async fn who_is_not_known_is_told_and_cut() {
    let mut client = Client::connect(&[Fake::new("w")], None, 1 << 16);
    client.send(&[hello(), Message::Auth(Auth { proof: Proof::Token("a.b.c") })]).await;
    assert_eq!(client.shown().await, "fault unauthenticated Session 0");
    assert_eq!(client.shown().await, "closed");
    drop(client.stream);
    client.task.join_next().await.unwrap().unwrap();
    assert_eq!(client.edge.metrics.refused.get(), 1);
}

#[tokio::test]
async fn what_the_policy_denies_is_answered_and_the_rest_goes_on() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None), lane(1, Some("other"))]).await;
    assert!(client.shown().await.starts_with("fault forbidden Lane { lane: LaneId(1)"));
    fake.say(&opened(0, 0));
    client.shown().await;
    client
        .send(&[bind(0, 0, "$audit/x"), event(0, b"a"), subscribe(everything(From::Start), 9)])
        .await;
    assert_eq!(client.shown().await, "fault forbidden Route(RouteId(0)) 0");
    assert_eq!(client.shown().await, "fault forbidden Subscription(SubscriptionId(0)) 0");
    client.send(&[bind(1, 0, "t"), event(1, b"bb")]).await;
    fake.say(&stored(0, 2));
    assert!(
        client
            .shown()
            .await
            .starts_with("fault forbidden Number { lane: LaneId(0), number: Number(1), count: 1")
    );
    assert_eq!(client.shown().await, "Step { durability: Stored, step: 2 }");
    let want = [
        "attach d1 device",
        "lane 0 None",
        "bind 0 $audit/x",
        "void 1+1 forbidden",
        "bind 1 t",
        "event 2 2 bytes",
    ];
    assert_eq!(fake.desk().heard, want);
}

#[tokio::test]
async fn a_worker_that_goes_away_closes_its_lanes_and_is_told_the_binds_again() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None), bind(0, 0, "t"), event(0, b"a")]).await;
    fake.say(&opened(0, 0));
    client.shown().await;
    fake.leave();
    let closed = "fault unavailable Lane { lane: LaneId(0), expected: Number(1) } 77";
    assert_eq!(client.shown().await, closed);
    client.send(&[event(0, b"dropped"), lane(0, None)]).await;
    assert_eq!(client.shown().await, closed);
    fake.desk().away = false;
    fake.desk().heard.clear();
    client.send(&[lane(0, None), event(0, b"a")]).await;
    fake.say(&opened(0, 0));
    assert_eq!(client.shown().await, "lane 0 Some(Number(0))");
    let want = ["attach d1 device", "lane 0 None", "bind 0 t", "event 1 1 bytes"];
    assert_eq!(fake.desk().heard, want);
}

#[tokio::test]
async fn a_session_another_replaced_is_told_so() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None)]).await;
    fake.say(&Message::Detach(Detach { session: LinkSessionId(0), code: Code::REPLACED }));
    assert_eq!(client.shown().await, "goaway replaced");
    assert_eq!(client.shown().await, "closed");
}

#[tokio::test]
async fn whoever_is_told_to_go_hears_why() {
    for (code, want) in [(Code::REVOKED, "goaway revoked"), (Code::SHUTDOWN, "goaway shutdown")] {
        let mut client = Client::welcome(&[Fake::new("w")], "d1", Role::Device).await;
        client.signal.end(code);
        assert_eq!(client.shown().await, want);
        assert_eq!(client.shown().await, "closed");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_cut_in_time() {
    let mut client = Client::connect(&[Fake::new("w")], None, 1 << 16);
    let begin = client.edge.clock.now();
    assert_eq!(client.shown().await, "fault deadline Session 0");
    let took = client.edge.clock.now().since(begin);
    assert!((29..32).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_crawls_is_cut_in_time() {
    let mut client = Client::welcome(&[Fake::new("w")], "d1", Role::Device).await;
    let mut frame = Vec::new();
    frame.put(&lane(1, Some("a key that is longer than the time allows")), 0).unwrap();
    let begin = client.edge.clock.now();
    for byte in frame {
        if client.stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(client.shown().await, "fault deadline Session 0");
    assert!(client.edge.clock.now().since(begin).as_secs() < 60);
}

#[tokio::test]
async fn garbage_and_what_is_too_long_end_the_session_with_their_code() {
    let mut damaged = Vec::new();
    damaged.put(&lane(0, None), 0).unwrap();
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    for (bytes, want) in [
        (damaged, "fault damaged Session 0"),
        (vec![10, 0xff, 0xff, 0xff, 0xff, 0x0f], "fault too-large Session 0"),
        (vec![10, 0x80, 0x00], "fault malformed Session 0"),
    ] {
        let mut client = Client::welcome(&[Fake::new("w")], "d1", Role::Device).await;
        client.stream.write_all(&bytes).await.unwrap();
        assert_eq!(client.shown().await, want);
        assert_eq!(client.shown().await, "closed");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_does_not_stop_what_it_sends() {
    let fake = Fake::new("w");
    let mut client = Client::connect(std::slice::from_ref(&fake), Some(("ada", Role::User)), 4096);
    client.send(&[hello(), Message::Auth(Auth { proof: Proof::Certificate })]).await;
    client
        .send(&[lane(1, Some("k")), bind(0, 1, "t"), subscribe(everything(From::Start), 4000)])
        .await;
    for version in 1..=400 {
        fake.say(&deliver(Some("k"), version));
    }
    for _ in 0..500 {
        client.send(&[event(0, &[1; 100])]).await;
    }
    fake.say(&opened(1, 0));
    while fake.desk().heard.len() < 504 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.shown().await, "welcome ada");
}

#[tokio::test]
async fn lanes_go_to_the_worker_of_their_key() {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    let mut client = Client::welcome(&[a.clone(), b.clone()], "ada", Role::User).await;
    let (even, odd) = (key_on(0), key_on(1));
    client
        .send(&[lane(1, Some(&even)), lane(2, Some(&odd)), bind(1, 1, "t"), bind(2, 2, "t")])
        .await;
    client.send(&[event(1, b"a"), event(1, b"a"), event(2, b"bb")]).await;
    a.say(&opened(1, 0));
    client.shown().await;
    b.leave();
    assert!(client.shown().await.starts_with("fault unavailable Lane { lane: LaneId(2)"));
    a.say(&stored(1, 2));
    assert!(client.shown().await.starts_with("Spelled"));
    let lane = |n: u32, key: &str| format!("lane {n} {:?}", Some(key));
    assert_eq!(
        a.desk().heard,
        ["attach ada user", &lane(1, &even), "bind 1 t", "event 1 1 bytes", "event 2 1 bytes"]
    );
    assert_eq!(b.desk().heard, ["attach ada user", &lane(2, &odd), "bind 2 t", "event 1 2 bytes"]);
}

#[tokio::test]
async fn a_subscription_on_two_workers_is_one_under_one_credit() {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    let mut client = Client::welcome(&[a.clone(), b.clone()], "ada", Role::User).await;
    client.send(&[subscribe(everything(From::Start), 3)]).await;
    for fake in [&a, &b] {
        fake.say(&Message::Credit(Credit {
            subscription: Some(SubscriptionId(0)),
            events: 1,
            bytes: 500,
            chunk_bytes: None,
        }));
    }
    assert_eq!(client.shown().await, "credit 2 1000");
    a.say(&deliver(Some("ka"), 1));
    assert_eq!(client.shown().await, r#"deliver Some("a") Some("ka") 1 Some("t")"#);
    b.say(&deliver(Some("kb"), 1));
    assert_eq!(client.shown().await, r#"deliver Some("b") Some("kb") 1 None"#);
    // One more than the client's credit: it is held back until the client settles.
    a.say(&deliver(None, 2));
    let settle = Settle {
        subscription: SubscriptionId(0),
        delivery: 2,
        outcome: Outcome::Seen,
        events: 0,
        reason: "",
    };
    client.send(&[Message::Settle(settle)]).await;
    assert_eq!(client.shown().await, r#"deliver Some("a") Some("ka") 2 None"#);
    client.send(&[Message::Settle(Settle { delivery: 3, ..settle })]).await;
    for fake in [&b, &a] {
        fake.say(&Message::End(End { subscription: SubscriptionId(0) }));
    }
    assert_eq!(client.shown().await, "end");
    assert_eq!(
        a.desk().heard,
        ["attach ada user", "subscribe 1 events", "settle 1 Seen", "settle 2 Seen"]
    );
    assert_eq!(b.desk().heard, ["attach ada user", "subscribe 1 events", "settle 1 Seen"]);
}

#[tokio::test]
async fn deliveries_above_the_clients_credit_wait_and_keep_their_order() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "ada", Role::User).await;
    client.send(&[subscribe(everything(From::Start), 2)]).await;
    let (subscription, chunk_bytes) = (Some(SubscriptionId(0)), None);
    fake.say(&Message::Credit(Credit { subscription, events: 2, bytes: 1_000, chunk_bytes }));
    assert_eq!(client.shown().await, "credit 2 1000");
    for version in 1..=4 {
        fake.say(&deliver(Some("k"), version));
    }
    fake.say(&Message::End(End { subscription: SubscriptionId(0) }));
    fake.say(&Message::Reply(spile_protocol::message::Body {
        fields: spile_protocol::message::Reply {
            request: spile_protocol::id::RequestId(7),
            code: Code(0),
            more: false,
            content_type: "",
            detail: "",
        },
        payload: b"",
    }));
    for (settled, version) in [(0, 1), (0, 2), (1, 3), (2, 4)] {
        if settled > 0 {
            let settle = Settle {
                subscription: SubscriptionId(0),
                delivery: settled,
                outcome: Outcome::Seen,
                events: 0,
                reason: "",
            };
            client.send(&[Message::Settle(settle)]).await;
        }
        let shown = client.shown().await;
        assert!(shown.contains(&format!(" {version} ")), "{version}: {shown}");
    }
    assert_eq!(client.shown().await, "end");
}

#[tokio::test]
async fn positions_must_name_every_worker_and_each_hears_its_own() {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    for (named, want) in
        [(&["a", "b"][..], None), (&["a"], Some("invalid")), (&["a", "b", "c"], Some("invalid"))]
    {
        let mut client = Client::welcome(&[a.clone(), b.clone()], "ada", Role::User).await;
        let mut room = [0; 128];
        let at = |(&worker, position)| spile_protocol::message::At {
            worker,
            position: Position(position),
        };
        let positions = List::encode(named.iter().zip(5..).map(at), &mut room).unwrap();
        client.send(&[subscribe(everything(From::Positions(positions)), 100)]).await;
        if let Some(code) = want {
            assert_eq!(
                client.shown().await,
                format!("fault {code} Subscription(SubscriptionId(0)) 0")
            );
            continue;
        }
        let fault = Fault {
            code: Code::NOT_FOUND,
            scope: Scope::Subscription(SubscriptionId(0)),
            retry: false,
            retry_after_ms: 0,
            detail: "",
        };
        a.say(&Message::Fault(fault));
        assert_eq!(client.shown().await, "fault not-found Subscription(SubscriptionId(0)) 0");
        drop(client);
    }
    assert_eq!(a.desk().heard[1], "subscribe 50 events from a:5");
    assert_eq!(b.desk().heard[1..], ["subscribe 50 events from b:6", "end"]);
}
