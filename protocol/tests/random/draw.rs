//! Messages made of arbitrary bytes: every kind, every field, within the limits.
//!
//! What fields borrow is written into room that the caller lends: [`ROOM`] bytes are enough for any message.

use spile_protocol::{
    code::Code,
    frame::Tag,
    id::{
        LaneId, LinkSessionId, Mark, Number, Position, RequestId, Role, RouteId, Run,
        SubscriptionId, Version,
    },
    limits,
    message::{
        Abort, Ack, At, Attach, Auth, Batch, Bind, Body, Call, Changed, Chunk, Credit, Deliver,
        Detach, Durability, End, Entry, Envelope, Event, Expect, Extras, Fault, From, Get, GoAway,
        Group, Happened, Headers, Hello, Lane, LaneAnswer, Lengths, LinkHello, List, Listing,
        Message, Meta, Open, OpenUpload, Opened, Outcome, Ping, Proof, Receipt, Refused, Registry,
        Reply, Scope, Seal, Sender, Serve, Settle, Source, Subscribe, Target, Trace, Value, Void,
        Welcome, deliver::Kind, request,
    },
    time::Millis,
};

/// How many kinds of message [`Draw::message`] makes.
pub(crate) const KINDS: u8 = 34;

/// Takes what it needs off the front of arbitrary bytes; zeros when they are used up.
pub(crate) struct Draw<'a> {
    bytes: &'a [u8],
    room: &'a mut [u8],
}

/// The room one message needs at most.
pub(crate) const ROOM: usize = 32 * 1024;

impl<'a> Draw<'a> {
    pub(crate) fn new(bytes: &'a [u8], room: &'a mut [u8]) -> Self {
        Self { bytes, room }
    }

    /// So much of the room.
    fn room(&mut self, length: usize) -> &'a mut [u8] {
        let (front, rest) = std::mem::take(&mut self.room).split_at_mut(length);
        self.room = rest;
        front
    }

    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn up_to(&mut self, most: usize) -> usize {
        usize::from(u16::from_le_bytes(self.array())) % (most + 1)
    }

    /// A number of any magnitude.
    fn u64(&mut self) -> u64 {
        let shift = self.byte() % 64;
        u64::from_le_bytes(self.array()) >> shift
    }

    fn u32(&mut self) -> u32 {
        let shift = self.byte() % 32;
        u32::from_le_bytes(self.array()) >> shift
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array()) >> (self.byte() % 16)
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = self.up_to(most);
        let room = self.room(length);
        room.fill_with(|| self.byte());
        room
    }

    /// Mostly ASCII, with a letter of two bytes where there is room.
    fn text(&mut self, most: usize) -> &'a str {
        let length = self.up_to(most);
        let room = self.room(length);
        room.fill_with(|| self.byte() & 0x7f);
        if let [.., first @ 0x60..=0x7f, second] = room {
            (*first, *second) = (0xc3, 0xa4);
        }
        std::str::from_utf8(room).unwrap()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flag() { Some(make(self)) } else { None }
    }

    fn list<T: serde::Serialize + serde::Deserialize<'a>>(
        &mut self,
        make: impl Fn(&mut Self) -> T,
    ) -> List<'a, T> {
        let items: Vec<T> = (0..self.up_to(3)).map(|_| make(self)).collect();
        List::encode(items, self.room(1024)).unwrap()
    }

    fn metas(&mut self) -> List<'a, Meta<'a>> {
        let items: Vec<_> = (0..self.up_to(3))
            .map(|_| Meta { name: self.text(40), value: self.text(40) })
            .collect();
        List::encode(items, self.room(limits::META_BYTES)).unwrap()
    }

    fn code(&mut self) -> Code {
        Code(self.u16())
    }

    fn number(&mut self) -> Number {
        Number(self.u64())
    }

    fn run(&mut self) -> Run {
        Run(self.array())
    }

    fn headers(&mut self) -> Headers<'a> {
        let pairs: Vec<(&str, &[u8])> = (0..self.up_to(limits::HEADERS))
            .map(|_| (self.text(20), self.bytes(20)))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        Headers::encode(pairs.into_iter(), self.room(limits::HEADERS_BYTES)).unwrap()
    }

    fn trace(&mut self) -> Trace {
        Trace { id: self.array(), span: self.array(), flags: self.byte() }
    }

    /// What a consumer hears too.
    fn told(&mut self) -> Extras<'a> {
        let happened = match self.byte() % 3 {
            0 => None,
            1 => Some(Happened::At(Millis(self.u64()))),
            _ => Some(Happened::Ago(self.u64())),
        };
        Extras {
            happened,
            ttl_ms: self.maybe(Self::u64),
            trace: self.maybe(Self::trace),
            headers: self.headers(),
            ..Extras::default()
        }
    }

    fn extras(&mut self) -> Extras<'a> {
        let expect = match self.byte() % 3 {
            0 => None,
            1 => Some(Expect::Exists),
            _ => Some(Expect::Version(Version(self.u64() >> 1))),
        };
        let number = self.maybe(Self::number);
        Extras { number, expect, receipt: self.flag(), ..self.told() }
    }

    fn lengths(&mut self, least: usize) -> (Lengths<'a>, &'a [u8]) {
        let lengths: Vec<usize> = (0..least + self.up_to(8)).map(|_| self.up_to(20)).collect();
        let payload = self.room(lengths.iter().sum());
        payload.fill_with(|| self.byte());
        let room = self.room(64);
        (Lengths::encode(lengths.into_iter(), room).unwrap(), payload)
    }

    fn scope(&mut self) -> Scope {
        let lane = LaneId(self.u32());
        match self.byte() % 7 {
            0 => Scope::Session,
            1 => Scope::Lane { lane, expected: self.number() },
            2 => {
                let (number, count) = (self.number(), self.u32());
                Scope::Number { lane, number, count, version: Version(self.u64()) }
            }
            3 => Scope::Route(RouteId(self.u32())),
            4 => Scope::Subscription(SubscriptionId(self.u32())),
            5 => Scope::Request(RequestId(self.u32())),
            _ => Scope::Upload { upload: self.u32(), expected: self.u64() },
        }
    }

    fn proof(&mut self) -> Proof<'a> {
        match self.byte() % 4 {
            0 => Proof::Certificate,
            1 => {
                let (tenant, device) =
                    (self.text(limits::TENANT_BYTES), self.text(limits::NAME_BYTES));
                Proof::DeviceKey { tenant, device, nonce: self.array(), proof: self.array() }
            }
            2 => Proof::Token(self.text(limits::TOKEN_BYTES)),
            _ => Proof::Challenge { nonce: self.array() },
        }
    }

    fn source(&mut self) -> Source<'a> {
        match self.byte() % 4 {
            0 => {
                let filter = self.text(limits::TOPIC_BYTES);
                let key = self.maybe(|draw| draw.text(limits::KEY_BYTES));
                Source::Filter { filter, key, from: self.from() }
            }
            1 => Source::Stream { key: self.text(limits::KEY_BYTES), from: Version(self.u64()) },
            2 => {
                let name = self.text(limits::NAME_BYTES);
                Source::Group { name, max_events: self.u32(), max_bytes: self.u32() }
            }
            _ => Source::Inbox,
        }
    }

    fn from(&mut self) -> From<'a> {
        match self.byte() % 4 {
            0 => From::Start,
            1 => From::End,
            2 => From::Time(self.u64()),
            _ => {
                let at: Vec<_> = (0..self.up_to(3))
                    .map(|_| At {
                        worker: self.text(limits::NAME_BYTES),
                        position: Position(self.u64()),
                    })
                    .collect();
                From::Positions(List::encode(at, self.room(512)).unwrap())
            }
        }
    }

    fn receipts(&mut self) -> List<'a, Receipt> {
        self.list(|draw| Receipt {
            number: draw.number(),
            count: draw.u32(),
            version: Version(draw.u64()),
            position: Position(draw.u64()),
        })
    }

    /// A message of that kind, and who sends it.
    pub(crate) fn message(&mut self, kind: u8) -> (Sender, Message<'a>) {
        match kind % KINDS {
            0..=7 => self.greeting(kind % KINDS),
            8..=14 => self.publishing(kind % KINDS),
            15..=19 => self.upload(kind % KINDS),
            20..=23 => self.consuming(kind % KINDS),
            24..=28 => self.request(kind % KINDS),
            _ => self.link(kind % KINDS),
        }
    }

    fn greeting(&mut self, kind: u8) -> (Sender, Message<'a>) {
        let detail = self.text(limits::DETAIL_BYTES);
        match kind {
            0 => (Sender::Client, Message::Hello(self.hello())),
            1 => (Sender::Server, Message::Welcome(self.welcome())),
            2 => (Sender::Client, Message::Auth(Auth { proof: self.proof() })),
            3 => (Sender::Client, Message::Ping(Ping { number: self.u32(), answer: self.flag() })),
            4 => {
                let (code, retry_after_ms) = (self.code(), self.u32());
                (Sender::Server, Message::GoAway(GoAway { code, retry_after_ms, detail }))
            }
            5 => {
                let credit = Credit {
                    subscription: self.maybe(|draw| SubscriptionId(draw.u32())),
                    events: self.u32(),
                    bytes: self.u32(),
                    chunk_bytes: self.maybe(Self::u32),
                };
                (Sender::Server, Message::Credit(credit))
            }
            _ => {
                let (code, scope) = (self.code(), self.scope());
                let (retry, retry_after_ms) = (self.flag(), self.u32());
                (
                    Sender::Server,
                    Message::Fault(Fault { code, scope, retry, retry_after_ms, detail }),
                )
            }
        }
    }

    fn hello(&mut self) -> Hello<'a> {
        Hello {
            version: self.u16(),
            oldest: self.u16(),
            frame_max: self.u32(),
            run: self.run(),
            receipts: self.flag(),
            keep_alive_s: self.u32(),
            software: self.text(limits::SOFTWARE_BYTES),
            abandoned: self.run(),
        }
    }

    fn welcome(&mut self) -> Welcome<'a> {
        Welcome {
            version: self.u16(),
            server_time_ms: self.u64(),
            frame_max: self.u32(),
            credit_events: self.u32(),
            credit_bytes: self.u32(),
            idle_timeout_s: self.u32(),
            principal: self.text(limits::NAME_BYTES),
            tenant: self.text(limits::TENANT_BYTES),
            proof: self.bytes(limits::PROOF_BYTES),
            lanes: self.u32(),
            routes: self.u32(),
            payload_max: self.u32(),
            software: self.text(limits::SOFTWARE_BYTES),
            session: self.u64(),
            edge: self.text(limits::NAME_BYTES),
            chunk_bytes: self.u32(),
        }
    }

    fn publishing(&mut self, kind: u8) -> (Sender, Message<'a>) {
        let (route, lane) = (RouteId(self.u32()), LaneId(self.u32()));
        match kind {
            8 => {
                let first_unacked = self.number();
                let key = self.maybe(|draw| draw.text(limits::KEY_BYTES));
                (
                    Sender::Client,
                    Message::Lane(Lane { lane, first_unacked, key, urgent: self.flag() }),
                )
            }
            9 => (Sender::Server, Message::LaneAnswer(self.lane_answer(lane))),
            10 => {
                let bind = Bind {
                    route,
                    lane,
                    topic: self.text(limits::TOPIC_BYTES),
                    content_type: self.text(limits::CONTENT_TYPE_BYTES),
                    schema: self.u32(),
                    encoding: self.text(limits::CONTENT_TYPE_BYTES),
                };
                (Sender::Client, Message::Bind(bind))
            }
            11 => {
                let extras = self.extras();
                (Sender::Client, Message::Event(Event { route, extras, payload: self.bytes(2000) }))
            }
            12 => {
                let (lengths, payload) = self.lengths(1);
                let extras = self.extras();
                (Sender::Client, Message::Batch(Batch { route, lengths, extras, payload }))
            }
            _ => (Sender::Server, Message::Ack(self.ack(lane))),
        }
    }

    fn lane_answer(&mut self, lane: LaneId) -> LaneAnswer<'a> {
        LaneAnswer {
            lane,
            last: self.maybe(Self::number),
            worker: self.text(limits::NAME_BYTES),
            refused: self.list(|draw| Refused {
                number: draw.number(),
                count: draw.u32(),
                code: draw.code(),
            }),
            receipts: self.receipts(),
            uploads: self.list(|draw| OpenUpload { id: draw.array(), stored_offset: draw.u64() }),
            inbox: Version(self.u64()),
        }
    }

    fn ack(&mut self, lane: LaneId) -> Ack<'a> {
        let durability = match self.byte() % 3 {
            0 => Durability::Spooled,
            1 => Durability::Stored,
            _ => Durability::Replicated,
        };
        if self.flag() {
            return Ack::Step { durability, step: self.byte() % 63 + 1 };
        }
        Ack::Spelled { durability, lane, last: self.number(), receipts: self.receipts() }
    }

    fn upload(&mut self, kind: u8) -> (Sender, Message<'a>) {
        let upload = self.u32();
        match kind {
            15 => {
                let open = Open {
                    upload,
                    id: self.array(),
                    size: self.u64(),
                    key: self.maybe(|draw| draw.text(limits::KEY_BYTES)),
                    name: self.text(limits::BLOB_NAME_BYTES),
                    content_type: self.text(limits::CONTENT_TYPE_BYTES),
                    meta: self.metas(),
                };
                (Sender::Client, Message::Open(open))
            }
            16 => {
                let opened = Opened {
                    upload,
                    stored_offset: self.u64(),
                    epoch: self.u32(),
                    blob: self.text(limits::NAME_BYTES),
                    revision: self.u64(),
                };
                (Sender::Server, Message::Opened(opened))
            }
            17 => {
                let chunk = Chunk { upload, offset: self.u64(), payload: self.bytes(2000) };
                (Sender::Client, Message::Chunk(chunk))
            }
            18 => {
                let seal = Seal { upload, size: self.u64(), blake3: self.array() };
                (Sender::Client, Message::Seal(seal))
            }
            _ => (Sender::Client, Message::Abort(Abort { upload })),
        }
    }

    fn consuming(&mut self, kind: u8) -> (Sender, Message<'a>) {
        let subscription = SubscriptionId(self.u32());
        match kind {
            20 => {
                let (source, events, bytes) = (self.source(), self.u32(), self.u32());
                let subscribe =
                    Subscribe { subscription, source, events, bytes, live: self.flag() };
                (Sender::Client, Message::Subscribe(subscribe))
            }
            21 => (Sender::Server, Message::Deliver(self.deliver(subscription))),
            22 => {
                let delivery = self.u64();
                let outcome = match self.byte() % 4 {
                    0 => Outcome::Seen,
                    1 => Outcome::Done,
                    2 => Outcome::Retry { after_ms: self.u64() },
                    _ => Outcome::Reject,
                };
                let (events, reason) = (self.u32(), self.text(limits::DETAIL_BYTES));
                let settle = Settle { subscription, delivery, outcome, events, reason };
                (Sender::Client, Message::Settle(settle))
            }
            _ => (Sender::Client, Message::End(End { subscription })),
        }
    }

    fn deliver(&mut self, subscription: SubscriptionId) -> Deliver<'a> {
        let (lengths, payload) = self.lengths(1);
        Deliver {
            subscription,
            key: self.maybe(|draw| draw.text(limits::KEY_BYTES)),
            topic: self.maybe(|draw| draw.text(limits::TOPIC_BYTES)),
            kind: self.maybe(|draw| Kind {
                content_type: draw.text(limits::CONTENT_TYPE_BYTES),
                schema: draw.u32(),
                encoding: draw.text(limits::CONTENT_TYPE_BYTES),
            }),
            worker: self.maybe(|draw| draw.text(limits::NAME_BYTES)),
            attempt: self.u32(),
            version: Version(self.u64()),
            position: Position(self.u64()),
            time: Millis(self.u64()),
            lengths,
            extras: self.told(),
            payload,
        }
    }

    fn request(&mut self, kind: u8) -> (Sender, Message<'a>) {
        let request = RequestId(self.u32());
        match kind {
            24 => (Sender::Client, Message::Get(self.get(request))),
            25 => {
                let listing = match self.byte() % 4 {
                    0 => Listing::State,
                    1 => Listing::Blobs,
                    2 => Listing::Uploads,
                    _ => Listing::Services,
                };
                let (prefix, after) =
                    (self.text(limits::BLOB_NAME_BYTES), self.text(limits::CURSOR_BYTES));
                let list = request::List { request, listing, prefix, after, limit: self.u32() };
                (Sender::Client, Message::List(list))
            }
            26 => {
                let fields = self.value(request);
                (Sender::Server, Message::Value(Body { fields, payload: self.bytes(500) }))
            }
            27 => {
                let fields = self.call(request);
                (Sender::Client, Message::Call(Body { fields, payload: self.bytes(500) }))
            }
            _ => {
                let fields = Reply {
                    request,
                    code: self.code(),
                    more: self.flag(),
                    content_type: self.text(limits::CONTENT_TYPE_BYTES),
                    detail: self.text(limits::DETAIL_BYTES),
                };
                (Sender::Server, Message::Reply(Body { fields, payload: self.bytes(500) }))
            }
        }
    }

    fn get(&mut self, request: RequestId) -> Get<'a> {
        let target = match self.byte() % 3 {
            0 => {
                let key = self.text(limits::KEY_BYTES);
                Target::State { key, topic: self.text(limits::TOPIC_BYTES) }
            }
            1 => {
                let blob = self.text(limits::NAME_BYTES);
                Target::Blob { blob, offset: self.u64(), length: self.u32() }
            }
            _ => Target::Stream { key: self.text(limits::KEY_BYTES) },
        };
        let (newer_than, at_least) = (Version(self.u64()), Version(self.u64()));
        Get { request, target, newer_than, at_least, wait_ms: self.u32() }
    }

    fn value(&mut self, request: RequestId) -> Value<'a> {
        Value {
            request,
            more: self.flag(),
            name: self.text(limits::BLOB_NAME_BYTES),
            key: self.text(limits::KEY_BYTES),
            version: Version(self.u64()),
            position: self.maybe(|draw| Position(draw.u64())),
            time_ms: self.u64(),
            content_type: self.text(limits::CONTENT_TYPE_BYTES),
            partial: self.flag(),
            absent: self.flag(),
            size: self.u64(),
            worker: self.text(limits::NAME_BYTES),
            cursor: self.text(limits::CURSOR_BYTES),
            principal: self.text(limits::PRINCIPAL_BYTES),
            stored_offset: self.u64(),
            revision: self.u64(),
            blake3: self.maybe(Self::array),
            meta: self.metas(),
            id: self.text(limits::NAME_BYTES),
            left_ms: self.u64(),
        }
    }

    fn call(&mut self, request: RequestId) -> Call<'a> {
        Call {
            request,
            service: self.text(limits::PRINCIPAL_BYTES),
            method: self.text(limits::NAME_BYTES),
            remaining_ms: self.u32(),
            idempotent: self.flag(),
            content_type: self.text(limits::CONTENT_TYPE_BYTES),
            caller: self.text(limits::PRINCIPAL_BYTES),
            trace: self.maybe(Self::trace),
        }
    }

    fn link(&mut self, kind: u8) -> (Sender, Message<'a>) {
        let session = LinkSessionId(self.u32());
        match kind {
            29 => {
                let (request, service) =
                    (RequestId(self.u32()), self.text(limits::PRINCIPAL_BYTES));
                (Sender::Client, Message::Serve(Serve { request, service, window: self.u32() }))
            }
            30 => (Sender::Client, Message::Attach(self.attach(session))),
            31 => match self.byte() % 2 {
                0 => (Sender::Server, Message::Detach(Detach { session, code: self.code() })),
                _ => {
                    let void = Void {
                        session,
                        lane: LaneId(self.u32()),
                        number: self.number(),
                        count: self.u32(),
                        code: self.code(),
                        time_ms: self.u64(),
                    };
                    (Sender::Client, Message::Void(void))
                }
            },
            32 => (Sender::Client, self.envelope(session)),
            _ => match self.byte() % 3 {
                0 => (Sender::Server, Message::Registry(self.registry())),
                1 => {
                    let marks: Vec<_> = (0..self.up_to(3)).map(|_| Mark(self.u16())).collect();
                    let marks = List::encode(marks, self.room(16)).unwrap();
                    (Sender::Server, Message::Changed(Changed { marks }))
                }
                _ => (Sender::Client, Message::LinkHello(self.link_hello())),
            },
        }
    }

    fn attach(&mut self, session: LinkSessionId) -> Attach<'a> {
        Attach {
            session,
            tenant: self.text(limits::TENANT_BYTES),
            role: Role::ALL[self.up_to(4)],
            principal: self.text(limits::NAME_BYTES),
            run: self.run(),
            receipts: self.flag(),
            trace_base: self.array(),
            peer: self.text(limits::PEER_BYTES),
            frame_max: self.u32(),
            abandoned: self.run(),
        }
    }

    /// An envelope around an event, whose header must end where its own does.
    fn envelope(&mut self, session: LinkSessionId) -> Message<'a> {
        let (number, time_ms) = (self.number(), self.u64());
        let (_, inner) = self.publishing(11);
        let room = self.room(2048);
        let mut writer = spile_protocol::message::Writer::new(room);
        inner.encode_header(&mut writer).unwrap();
        let length = writer.len();
        let tag: Tag = inner.tag();
        let (header, payload) = (&room[..length], inner.payload());
        Message::Envelope(Envelope { session, number, time_ms, tag, header, payload })
    }

    fn registry(&mut self) -> Registry<'a> {
        let entries: Vec<_> = (0..self.up_to(3)).map(|_| self.entry()).collect();
        let groups: Vec<_> = (0..self.up_to(3)).map(|_| self.group()).collect();
        Registry {
            upto: self.u64(),
            whole: self.flag(),
            entries: List::encode(entries, self.room(1024)).unwrap(),
            more: self.flag(),
            groups: List::encode(groups, self.room(1024)).unwrap(),
        }
    }

    fn entry(&mut self) -> Entry<'a> {
        Entry {
            tenant: self.text(limits::TENANT_BYTES),
            principal: self.text(limits::NAME_BYTES),
            role: Role::ALL[self.up_to(4)],
            key_hash: self.maybe(Self::array),
            revoked: self.flag(),
            expires_ms: self.u64(),
            later: self.bytes(20),
        }
    }

    fn group(&mut self) -> Group<'a> {
        Group {
            tenant: self.text(limits::TENANT_BYTES),
            name: self.text(limits::NAME_BYTES),
            id: self.u64(),
            epoch: self.u32(),
            removed: self.flag(),
            definition: self.bytes(60),
            later: self.bytes(20),
        }
    }

    fn link_hello(&mut self) -> LinkHello<'a> {
        LinkHello {
            version: self.u16(),
            name: self.text(limits::NAME_BYTES),
            slots: self.array(),
            time_ms: self.u64(),
            next: self.u64(),
            oldest: self.u16(),
            credit_events: self.u32(),
            credit_bytes: self.u32(),
            keep_alive_s: self.u32(),
            software: self.text(limits::SOFTWARE_BYTES),
            chunk_bytes: self.u32(),
        }
    }
}
