//! A message of each kind as it usually is, in a session with lane 0, route 0, subscription 1, upload 1, and on a link with
//! session 0; and frames that are none.

use std::sync::OnceLock;

use spile_protocol::{
    code::Code,
    crc, frame,
    frame::Tag,
    id::{
        LaneId, LinkSessionId, Number, Position, RequestId, Role, RouteId, Run, SubscriptionId,
        Version,
    },
    message::{
        Abort, Ack, Attach, Auth, Batch, Bind, Body, Call, Changed, Chunk, Credit, Deliver, Detach,
        Durability, End, Envelope, Event, Extras, Fault, Get, GoAway, Hello, Lane, LaneAnswer,
        Lengths, LinkHello, List, Listing, Message, Open, Opened, Outcome, Ping, Proof, Registry,
        Reply, Scope, Seal, Sender, Serve, Settle, Source, Subscribe, Target, Value, Void, Welcome,
        kind, request,
    },
    session::Transmit,
    time::Millis,
    varint,
};

use crate::{Came, table::Spec};

pub const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);
pub const SESSION: LinkSessionId = LinkSessionId(0);

pub const HELLO: Hello<'static> = Hello {
    version: 1,
    oldest: 1,
    frame_max: 4096,
    run: Run([1; 8]),
    receipts: false,
    keep_alive_s: 60,
    software: "",
    abandoned: Run([0; 8]),
};

pub const WELCOME: Welcome<'static> = Welcome {
    version: 1,
    server_time_ms: 1,
    frame_max: 4096,
    credit_events: 100,
    credit_bytes: 10_000,
    idle_timeout_s: 0,
    principal: "d1",
    tenant: "main",
    proof: &[],
    lanes: 64,
    routes: 64,
    payload_max: 4096,
    software: "",
    session: 1,
    edge: "e",
    chunk_bytes: 1000,
};

pub const LINK_HELLO: LinkHello<'static> = LinkHello {
    version: 1,
    name: "other",
    slots: [255; 32],
    time_ms: 1,
    next: 0,
    oldest: 1,
    credit_events: 100,
    credit_bytes: 10_000,
    keep_alive_s: 5,
    software: "",
    chunk_bytes: 1 << 20,
};

pub const ATTACH: Attach<'static> = Attach {
    session: LinkSessionId(5),
    tenant: "main",
    role: Role::Device,
    principal: "d1",
    run: Run([1; 8]),
    receipts: false,
    trace_base: [0; 8],
    peer: "",
    frame_max: 4096,
    abandoned: Run([0; 8]),
};

pub const VOID: Void = Void {
    session: SESSION,
    lane: LaneId(0),
    number: Number(1),
    count: 1,
    code: Code::FORBIDDEN,
    time_ms: 1,
};

pub const ENVELOPE: Envelope<'static> = Envelope {
    session: SESSION,
    number: Number(1),
    time_ms: 1,
    tag: Tag(kind::EVENT),
    header: &[0],
    payload: b"x",
};

pub fn answer(lane: u32, last: u64) -> Message<'static> {
    Message::LaneAnswer(LaneAnswer {
        lane: LaneId(lane),
        last: Some(Number(last)),
        worker: "w1",
        refused: List::default(),
        receipts: List::default(),
        uploads: List::default(),
        inbox: Version(0),
    })
}

pub fn opening(upload: u32) -> Open<'static> {
    let meta = List::default();
    Open { upload, id: [7; 16], size: 1000, key: None, name: "", content_type: "", meta }
}

pub fn bytes(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    out.put(message, crc::of(message.payload())).unwrap();
    out
}

/// A frame around any header, with the right checksum.
pub fn framed(tag: u8, header: &[u8]) -> Vec<u8> {
    let mut length = [0; varint::MAX_BYTES];
    let used = varint::encode(header.len() as u64, &mut length).unwrap();
    let head = [&[tag], &length[..used], header].concat();
    [&head[..], &crc::of(&head).to_le_bytes()].concat()
}

/// What is no message, by the tables' words for it.
pub fn bad(what: &str) -> Option<Vec<u8>> {
    let ping = bytes(&Message::Ping(Ping { number: 1, answer: false }));
    Some(match what {
        "any frame" => ping,
        "a frame malformed" => framed(kind::PING, &[5]),
        "a frame damaged" => [&ping[..ping.len() - 1], &[!ping[ping.len() - 1]]].concat(),
        "a frame too long" => vec![kind::PING, 0xff, 0xff, 0xff, 0xff, 0x0f],
        "a frame longer than 2,048" => vec![kind::AUTH, 0x81, 0x10],
        "a kind not known" => framed(63, &[1, 2, 3]),
        "a kind not known, with bit 7" => framed(63 | frame::SKIPPABLE, &[1, 2, 3]),
        _ => return None,
    })
}

pub fn fault(scope: Scope, retry: bool) -> Message<'static> {
    Message::Fault(Fault { code: Code::UNAVAILABLE, scope, retry, retry_after_ms: 5, detail: "" })
}

pub fn event(route: u32, extras: Extras<'_>) -> Message<'_> {
    Message::Event(Event { route: RouteId(route), extras, payload: b"x" })
}

pub fn ack(lane: u32, last: u64) -> Message<'static> {
    Message::Ack(Ack::Spelled {
        durability: Durability::Stored,
        lane: LaneId(lane),
        last: Number(last),
        receipts: List::default(),
    })
}

pub fn lane(lane: u32, key: Option<&str>) -> Message<'_> {
    Message::Lane(Lane { lane: LaneId(lane), first_unacked: Number(1), key, urgent: false })
}

pub fn bind(route: u32, lane: u32) -> Message<'static> {
    Message::Bind(Bind {
        route: RouteId(route),
        lane: LaneId(lane),
        topic: "t",
        content_type: "",
        schema: 0,
        encoding: "",
    })
}

pub fn subscribe(subscription: u32, source: Source<'_>) -> Message<'_> {
    let subscription = SubscriptionId(subscription);
    Message::Subscribe(Subscribe { subscription, source, events: 9, bytes: 900, live: true })
}

pub const GROUP: Source<'static> = Source::Group { name: "g", max_events: 1, max_bytes: 1 };

pub fn settle(subscription: u32, delivery: u64, outcome: Outcome) -> Message<'static> {
    let subscription = SubscriptionId(subscription);
    Message::Settle(Settle { subscription, delivery, outcome, events: 0, reason: "" })
}

pub fn credit(subscription: Option<u32>) -> Message<'static> {
    let subscription = subscription.map(SubscriptionId);
    Message::Credit(Credit { subscription, events: 9, bytes: 900, chunk_bytes: None })
}

pub fn deliver(subscription: u32) -> Message<'static> {
    Message::Deliver(Deliver {
        subscription: SubscriptionId(subscription),
        key: Some("k"),
        topic: Some("t"),
        kind: None,
        worker: Some("w1"),
        attempt: 1,
        version: Version(1),
        position: Position(1),
        time: Millis(1),
        lengths: Lengths::one(1),
        extras: Extras::default(),
        payload: b"x",
    })
}

pub fn get(request: u32) -> Message<'static> {
    Message::Get(Get {
        request: RequestId(request),
        target: Target::Stream { key: "k" },
        newer_than: Version(0),
        at_least: Version(0),
        wait_ms: 0,
    })
}

pub fn call(request: u32) -> Message<'static> {
    let fields = Call {
        request: RequestId(request),
        service: "s",
        method: "m",
        remaining_ms: 1000,
        idempotent: false,
        content_type: "",
        caller: "",
        trace: None,
    };
    Message::Call(Body { fields, payload: &[] })
}

pub fn reply(request: u32) -> Message<'static> {
    let request = RequestId(request);
    let fields = Reply { request, code: Code(0), more: false, content_type: "", detail: "" };
    Message::Reply(Body { fields, payload: &[] })
}

pub fn value(request: u32) -> Message<'static> {
    let fields = Value { request: RequestId(request), absent: true, ..Value::default() };
    Message::Value(Body { fields, payload: &[] })
}

pub fn chunk(upload: u32, offset: u64, payload: &[u8]) -> Message<'_> {
    Message::Chunk(Chunk { upload, offset, payload })
}

pub fn seal(upload: u32) -> Message<'static> {
    Message::Seal(Seal { upload, size: 1000, blake3: [0; 32] })
}

pub fn opened(upload: u32) -> Message<'static> {
    let opened = Opened { upload, stored_offset: 0, epoch: 1, blob: "", revision: 0 };
    Message::Opened(opened)
}

pub fn goaway() -> Message<'static> {
    Message::GoAway(GoAway { code: Code::SHUTDOWN, retry_after_ms: 0, detail: "" })
}

pub fn ping(answer: bool) -> Message<'static> {
    Message::Ping(Ping { number: 1, answer })
}

pub fn detach(session: u32) -> Message<'static> {
    Message::Detach(Detach { session: LinkSessionId(session), code: Code(0) })
}

pub fn challenge() -> Message<'static> {
    Message::Auth(Auth { proof: Proof::Challenge { nonce: [2; 16] } })
}

/// A message of the kind as it usually is.
pub fn usual(kind: &str, sender: Sender) -> Message<'static> {
    let server = sender == Sender::Server;
    match kind {
        "HELLO" => Message::Hello(HELLO),
        "WELCOME" => Message::Welcome(WELCOME),
        "AUTH" if server => challenge(),
        "AUTH" => Message::Auth(Auth { proof: Proof::Certificate }),
        "PING" => ping(false),
        "GOAWAY" => goaway(),
        "FAULT" => fault(Scope::Session, false),
        "LANE" if server => answer(0, 0),
        "LANE" => lane(1, Some("k")),
        "BIND" => bind(1, 0),
        "EVENT" => event(0, Extras::default()),
        "BATCH" => batch(0, 2),
        "ACK" => ack(0, 1),
        "CREDIT" if server => credit(None),
        "CREDIT" => credit(Some(1)),
        "OPEN" if server => opened(1),
        "OPEN" => Message::Open(opening(2)),
        "CHUNK" => chunk(1, 0, b"x"),
        "SEAL" => seal(1),
        "ABORT" => Message::Abort(Abort { upload: 1 }),
        "SUBSCRIBE" => subscribe(2, GROUP),
        "DELIVER" => deliver(1),
        "SETTLE" => settle(1, 1, Outcome::Done),
        "END" => Message::End(End { subscription: SUBSCRIPTION }),
        "GET" => get(1),
        "VALUE" => value(90),
        "LIST" => Message::List(request::List {
            request: RequestId(2),
            listing: Listing::State,
            prefix: "",
            after: "",
            limit: 1,
        }),
        "CALL" if server => call(8),
        "CALL" => call(3),
        "REPLY" if server => reply(90),
        "REPLY" => reply(7),
        "SERVE" => Message::Serve(Serve { request: RequestId(4), service: "s", window: 1 }),
        "ATTACH" => Message::Attach(ATTACH),
        "DETACH" => detach(0),
        "ENVELOPE" if server => {
            let (tag, header) = (Tag(kind::ACK | frame::EXTRAS), &[2, 0, 1][..]);
            Message::Envelope(Envelope { tag, header, payload: &[], ..ENVELOPE })
        }
        "ENVELOPE" => Message::Envelope(ENVELOPE),
        "REGISTRY" => Message::Registry(Registry {
            upto: 1,
            whole: true,
            entries: List::default(),
            more: false,
            groups: List::default(),
        }),
        "VOID" => Message::Void(VOID),
        "LINK_HELLO" => Message::LinkHello(LINK_HELLO),
        "CHANGED" => Message::Changed(Changed { marks: List::default() }),
        other => panic!("no message of the kind {other}"),
    }
}

pub fn batch(route: u32, count: u32) -> Message<'static> {
    let (route, lengths) = (RouteId(route), Lengths::same(count, 0));
    Message::Batch(Batch { route, lengths, extras: Extras::default(), payload: &[] })
}

/// What a machine said.
pub fn said(out: &[u8], from: Sender) -> Came {
    static SPEC: OnceLock<Spec> = OnceLock::new();
    let spec = SPEC.get_or_init(Spec::read);
    let (mut rest, mut came) = (out, Came::default());
    while let Some((frame, used)) = frame::decode(rest, 1 << 21).unwrap() {
        rest = &rest[used..];
        came.said.push(spec.kind(frame.tag.kind()).to_owned());
        match Message::decode(&frame, from).unwrap() {
            Message::Fault(Fault { code, scope: Scope::Session, .. })
            | Message::GoAway(GoAway { code, .. }) => came.told = Some(code.0),
            _ => {}
        }
    }
    assert!(rest.is_empty());
    came
}
