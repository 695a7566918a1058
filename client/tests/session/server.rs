//! A small server for these tests: an edge's session over plain TCP, and a worker's decisions in memory. Its log survives
//! its connections; it cuts them, holds its acks back, and forgets runs when it is told to.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use spile_protocol::code::Code;
use spile_protocol::id::{LaneId, Number, Position, RouteId, Run, Version};
use spile_protocol::message::{
    Ack, Auth, Body, Credit, Deliver, Durability, End, Expect, Extras, Fault, From, LaneAnswer,
    Lengths, List, Message, Outcome, Proof, Receipt, Reply, Scope, Sender, Source, Subscribe,
};
use spile_protocol::session::Amount;
use spile_protocol::session::edge::{Admission, Config, Input, Session, Told};
use spile_protocol::session::key::{self, Binding, Signed};
use spile_protocol::session::producer::{Decision, decide};
use spile_protocol::time::{Instant, Millis};
use spile_protocol::{crc, frame, limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answers;
use super::handing::Member;
use super::receiving::{self, Numbers};
use super::world::{Stored, World};

pub const DEVICE: &str = "tester";
pub const KEY: [u8; 32] = [7; 32];

pub struct Server {
    pub world: Arc<World>,
    pub url: String,
    tasks: JoinSet<()>,
}

impl Server {
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same over TLS, as who `acceptor` says.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(Some(acceptor)).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "spile" } else { "spile+insecure" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let world = Arc::<World>::default();
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&world);
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (world, tls) = (Arc::clone(&shared), tls.clone());
                sessions.spawn(async move {
                    let Some(tls) = tls else {
                        return Connection::new(world, None).serve(tcp).await;
                    };
                    // Who does not trust us goes away.
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    let exporter = stream.get_ref().1.export_keying_material(
                        [0; 32],
                        key::EXPORTER_LABEL,
                        None,
                    );
                    Connection::new(world, Some(exporter.unwrap())).serve(stream).await;
                });
            }
        });
        Self { world, url, tasks }
    }

    pub fn client(&self) -> spile_client::Builder {
        spile_client::Client::builder().url(&self.url).device_key(DEVICE, KEY)
    }

    pub fn stop(&mut self) {
        self.tasks.abort_all();
        self.world.cut();
    }
}

impl Drop for Server {
    /// Whatever a test is about: no byte was sent again that was told as stored.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let receiving = self.world.receiving.lock().unwrap();
            assert!(receiving.again.is_empty(), "told, sent from: {:?}", receiving.again);
        }
    }
}

/// A subscription and how far it is.
struct Following {
    id: spile_protocol::id::SubscriptionId,
    filter: Option<String>,
    key: Option<String>,
    next: usize,
    live: bool,
}

pub struct Connection {
    pub world: Arc<World>,
    pub session: Session,
    pub member: Option<Member>,
    lanes: HashMap<LaneId, String>,
    routes: HashMap<RouteId, (LaneId, String)>,
    uploads: Numbers,
    following: Vec<Following>,
    out: Vec<u8>,
    begun: tokio::time::Instant,
    exporter: Option<[u8; 32]>,
}

impl Connection {
    fn new(world: Arc<World>, exporter: Option<[u8; 32]>) -> Self {
        world.connections.fetch_add(1, Ordering::Relaxed);
        let credit = Amount { events: 100, bytes: 1 << 20 };
        let config =
            Config { nonce: exporter.is_none().then_some([3; 16]), credit, ..Config::default() };
        Self {
            session: Session::new(Instant(0), config),
            lanes: HashMap::new(),
            routes: HashMap::new(),
            uploads: Numbers::new(),
            following: Vec::new(),
            member: None,
            out: Vec::new(),
            begun: now(),
            exporter,
            world,
        }
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.begun.elapsed().as_micros()).unwrap())
    }

    async fn serve(mut self, mut tcp: impl AsyncRead + AsyncWrite + Unpin) {
        let world = Arc::clone(&self.world);
        let cuts = world.cuts.load(Ordering::Relaxed);
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        let mut looked = 0;
        loop {
            let cut = world.cut.notified();
            if world.cuts.load(Ordering::Relaxed) != cuts {
                return;
            }
            let changed = world.changed.notified();
            self.follow();
            self.hand_out();
            self.session.poll_transmit(self.now(), &mut self.out);
            let written = tcp.write_all(&self.out).await.and(tcp.flush().await);
            if written.is_err() || self.session.is_closed() {
                return;
            }
            self.out.clear();
            tokio::select! {
                () = cut => return,
                () = changed => {}
                read = tcp.read(&mut buffer) => match read {
                    Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
                    _ => return,
                }
            }
            looked += self.look(&bytes[looked..]);
            let mut rest = bytes.as_slice();
            let now = self.now();
            while let Some(input) = self.session.handle_input(now, &mut rest) {
                self.happened(input);
            }
            let used = bytes.len() - rest.len();
            bytes.drain(..used);
            looked = looked.saturating_sub(used);
        }
    }

    /// Looks at frames as they come, before the session judges them: how many bytes those are.
    fn look(&self, bytes: &[u8]) -> usize {
        let mut looked = 0;
        while let Ok(Some((frame, length))) = frame::decode(&bytes[looked..], limits::FRAME_MAX) {
            if let Ok(Message::Chunk(chunk)) = Message::decode(&frame, Sender::Client) {
                receiving::look(&self.world, &self.uploads, &chunk);
            }
            looked += length;
        }
        looked
    }

    fn happened(&mut self, input: Input<'_>) {
        match input {
            Input::Authenticate(auth) => self.authenticate(auth),
            Input::Upstream { lane, first, message, .. } => self.upstream(lane, first, &message),
            Input::Leaving(_) | Input::Closed(_) => {}
            Input::Void { .. } => panic!("nothing is refused by this edge: {input:?}"),
        }
    }

    fn authenticate(&mut self, auth: Auth<'_>) {
        let Proof::DeviceKey { tenant, device, nonce, proof } = auth.proof else {
            panic!("{auth:?}")
        };
        let nonces = Binding::Nonces { client: nonce, server: [3; 16] };
        let binding = self.exporter.map_or(nonces, Binding::Tls);
        let signed = Signed { tenant, device, binding };
        match key::verify(&key::hash(&KEY), &proof, &signed) {
            Some(proof) => {
                let admission = Admission {
                    tenant: self.world.tenant.lock().unwrap().clone().unwrap_or(tenant.to_owned()),
                    principal: device.to_owned(),
                    proof: Some(proof),
                };
                self.session.admit(self.now(), Millis(1_000), admission);
            }
            None => self.session.refuse(Code::UNAUTHENTICATED, "the credential is not known"),
        }
    }

    pub fn say(&mut self, message: &Message<'_>) {
        let crc = crc::of(message.payload());
        let told = self.session.handle_downstream(self.now(), message, crc, &mut self.out);
        assert!(!matches!(told.unwrap(), Told::TooLong | Told::NoCredit), "{message:?}");
    }

    fn upstream(&mut self, lane: LaneId, first: Number, message: &Message<'_>) {
        let world = Arc::clone(&self.world);
        match message {
            Message::Lane(asked) => {
                let key = asked.key.unwrap_or(DEVICE).to_owned();
                self.lanes.insert(lane, key.clone());
                if key == "away" && self.world.away.load(Ordering::Relaxed) {
                    return self.close_for_a_while(lane, first);
                }
                if key == "forbidden" && !self.world.allows_all.load(Ordering::Relaxed) {
                    let scope = Scope::Lane { lane, expected: first };
                    return self.say(&Message::Fault(Fault {
                        code: Code::FORBIDDEN,
                        scope,
                        retry: false,
                        retry_after_ms: 0,
                        detail: "not yours",
                    }));
                }
                self.answer_lane(lane, first);
            }
            Message::Bind(bind) => {
                self.routes.insert(bind.route, (bind.lane, bind.topic.to_owned()));
            }
            Message::Event(event) => self.take(event.route, first, &[event.payload], &event.extras),
            Message::Batch(batch) => {
                self.world.batches.fetch_add(1, Ordering::Relaxed);
                let payloads: Vec<_> = batch.lengths.split(batch.payload).collect();
                self.take(batch.route, first, &payloads, &batch.extras);
            }
            Message::Subscribe(subscribe) => self.subscribe(subscribe),
            Message::Settle(settle) if settle.outcome == Outcome::Seen => {}
            Message::Settle(settle) => self.settle(settle),
            Message::End(end) => {
                self.following.retain(|following| following.id != end.subscription);
                self.leave(end.subscription);
                self.say(&Message::End(*end));
            }
            Message::List(list) if list.prefix == "fatal" => {
                self.session.refuse(Code::TOO_LARGE, "list.prefix");
            }
            Message::Call(Body { fields, .. }) if fields.service == "silent" => {}
            Message::Call(Body { fields, payload }) => {
                let code = if fields.service == "$echo" { Code(0) } else { Code::NOT_FOUND };
                let fields = Reply {
                    request: fields.request,
                    code,
                    more: false,
                    content_type: "",
                    detail: "",
                };
                self.say(&Message::Reply(Body { fields, payload }));
            }
            Message::Get(get) => answers::get(&world, get, &mut |message| self.say(message)),
            Message::List(list) => answers::list(&world, list, &mut |message| self.say(message)),
            Message::Open(_) | Message::Chunk(_) | Message::Seal(_) | Message::Abort(_) => {
                self.receive(message);
            }
            other => panic!("not of these tests: {other:?}"),
        }
    }

    fn receive(&mut self, message: &Message<'_>) {
        let (world, mut numbers) = (Arc::clone(&self.world), std::mem::take(&mut self.uploads));
        let say = &mut |message: &Message<'_>| self.say(message);
        match message {
            Message::Open(open) => receiving::open(&world, &mut numbers, open, say),
            Message::Chunk(chunk) => receiving::chunk(&world, &mut numbers, chunk, say),
            Message::Seal(seal) => receiving::seal(&world, &mut numbers, seal, say),
            Message::Abort(abort) => receiving::abort(&world, &mut numbers, *abort, say),
            other => panic!("not of an upload: {other:?}"),
        }
        self.uploads = numbers;
    }

    fn close_for_a_while(&mut self, lane: LaneId, expected: Number) {
        self.say(&Message::Fault(Fault {
            code: Code::UNAVAILABLE,
            scope: Scope::Lane { lane, expected },
            retry: true,
            retry_after_ms: 20,
            detail: "its worker is away",
        }));
    }

    fn run(&self) -> Run {
        self.session.greeting().run
    }

    fn answer_lane(&mut self, lane: LaneId, first: Number) {
        let id = (self.run(), self.lanes[&lane].clone());
        let (last, receipts) = {
            let lanes = self.world.lanes.lock().unwrap();
            let known = lanes.get(&id);
            let receipts: Vec<_> = known
                .iter()
                .flat_map(|lane| &lane.receipts)
                .filter(|run| run.number >= first)
                .copied()
                .collect();
            (known.map_or(0, |lane| lane.last), receipts)
        };
        let mut room = vec![0; 64 * receipts.len()];
        let receipts = List::encode(receipts, &mut room).unwrap();
        let answer = LaneAnswer {
            lane,
            last: Some(Number(last)),
            worker: "w",
            refused: List::default(),
            receipts,
            uploads: List::default(),
            inbox: Version(0),
        };
        self.say(&Message::LaneAnswer(answer));
    }

    fn take(&mut self, route: RouteId, first: Number, payloads: &[&[u8]], extras: &Extras<'_>) {
        let (lane, topic) = self.routes[&route].clone();
        let key = self.lanes[&lane].clone();
        let id = (self.run(), key.clone());
        let known = self.world.lanes.lock().unwrap().get(&id).map(|lane| Number(lane.last));
        let known_run = self.world.lanes.lock().unwrap().keys().any(|(run, _)| *run == id.0);
        let skip = match decide(known, first, u32::try_from(payloads.len()).unwrap(), known_run) {
            Decision::Take { skip } => skip as usize,
            Decision::Duplicate => return self.ack(lane, &id, known.unwrap()),
            Decision::UnknownRun => {
                let scope = Scope::Lane { lane, expected: Number(1) };
                return self.say(&Message::Fault(Fault {
                    code: Code::UNKNOWN_RUN,
                    scope,
                    retry: false,
                    retry_after_ms: 0,
                    detail: "",
                }));
            }
            Decision::Gap { expected } => {
                let scope = Scope::Lane { lane, expected };
                return self.say(&Message::Fault(Fault {
                    code: Code::OUT_OF_ORDER,
                    scope,
                    retry: true,
                    retry_after_ms: 0,
                    detail: "",
                }));
            }
            Decision::Malformed => panic!("{key} {first:?}"),
        };
        let stale = matches!(extras.expect, Some(Expect::Version(Version(wanted))) if wanted != self.world.version(&key));
        let mut last = first.0 + skip as u64 - 1;
        for payload in &payloads[skip..] {
            last += 1;
            let mut lanes = self.world.lanes.lock().unwrap();
            let known = lanes.entry(id.clone()).or_default();
            known.last = last;
            if stale {
                let version = Version(self.world.version(&key));
                let scope = Scope::Number { lane, number: Number(last), count: 1, version };
                drop(lanes);
                self.say(&Message::Fault(Fault {
                    code: Code::STALE_VERSION,
                    scope,
                    retry: false,
                    retry_after_ms: 0,
                    detail: "",
                }));
                continue;
            }
            let (version, position) = self.world.store(&key, &topic, payload);
            known.receipts.push(Receipt {
                number: Number(last),
                count: 1,
                version: Version(version),
                position: Position(position),
            });
        }
        self.world.changed.notify_waiters();
        self.ack(lane, &id, Number(last));
        self.follow();
    }

    fn ack(&mut self, lane: LaneId, id: &(Run, String), last: Number) {
        if self.world.silent.load(Ordering::Relaxed) {
            return;
        }
        let receipts: Vec<_> = self.world.lanes.lock().unwrap()[id].receipts.clone();
        let receipts: Vec<_> = receipts.into_iter().rev().take(1024).rev().collect();
        let mut room = vec![0; 64 * receipts.len()];
        let receipts = List::encode(receipts, &mut room).unwrap();
        self.say(&Message::Ack(Ack::Spelled {
            durability: Durability::Stored,
            lane,
            last,
            receipts,
        }));
    }

    fn subscribe(&mut self, subscribe: &Subscribe<'_>) {
        if matches!(subscribe.source, Source::Group { .. }) {
            return self.join(subscribe);
        }
        let (filter, key, next) = match subscribe.source {
            Source::Filter { filter, key, from } => {
                let next = match from {
                    From::Start => 0,
                    From::End => {
                        let end = self.world.log().len();
                        self.world.subscribed_at.store(end, Ordering::Relaxed);
                        end
                    }
                    From::Positions(list) => {
                        let own = list.iter().find(|at| at.worker == "w");
                        usize::try_from(own.unwrap().position.0).unwrap() - 1
                    }
                    // Every event of these tests is of one moment, and a subscription's beginning is later.
                    From::Time(_) => self.world.subscribed_at.load(Ordering::Relaxed),
                };
                (Some(filter.to_owned()), key.map(str::to_owned), next)
            }
            Source::Stream { key, from } => {
                let log = self.world.log();
                let skip = log.iter().position(|event| event.key == key && event.version >= from.0);
                (None, Some(key.to_owned()), skip.unwrap_or(log.len()))
            }
            other => panic!("not of these tests: {other:?}"),
        };
        let id = subscribe.subscription;
        self.following.push(Following { id, filter, key, next, live: subscribe.live });
        let (events, bytes) = (subscribe.events, subscribe.bytes);
        self.say(&Message::Credit(Credit {
            subscription: Some(id),
            events,
            bytes,
            chunk_bytes: None,
        }));
        self.follow();
    }

    /// Delivers what there is credit for.
    fn follow(&mut self) {
        if self.following.is_empty() {
            return;
        }
        let log = self.world.log();
        for mut following in std::mem::take(&mut self.following) {
            let mut over = false;
            while let Some(event) = log.get(following.next) {
                let wanted = following
                    .filter
                    .as_ref()
                    .is_none_or(|filter| spile_protocol::id::matches(filter, &event.topic))
                    && following.key.as_ref().is_none_or(|key| *key == event.key);
                let room = self.session.delivery_room(following.id);
                if wanted && room.is_none_or(|room| room.events == 0) {
                    break;
                }
                following.next += 1;
                if wanted {
                    let position = Position(following.next as u64);
                    self.deliver(following.id, event, position);
                }
            }
            if !following.live && following.next == log.len() {
                self.say(&Message::End(End { subscription: following.id }));
                over = true;
            }
            if !over {
                self.following.push(following);
            }
        }
    }

    fn deliver(
        &mut self,
        subscription: spile_protocol::id::SubscriptionId,
        event: &Stored,
        position: Position,
    ) {
        let deliver = Deliver {
            subscription,
            key: Some(&event.key),
            topic: Some(&event.topic),
            kind: None,
            worker: Some("w"),
            attempt: 1,
            version: Version(event.version),
            position,
            time: Millis(5),
            lengths: Lengths::one(u32::try_from(event.payload.len()).unwrap()),
            extras: Extras::default(),
            payload: &event.payload,
        };
        self.say(&Message::Deliver(deliver));
    }
}

#[expect(clippy::disallowed_methods, reason = "this server's driver reads the clock")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// No test waits longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
