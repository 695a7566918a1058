//! A message of every kind: with everything said (`full`), and as it mostly is.

use spile_protocol::{
    code::Code,
    frame::Tag,
    id::{
        LaneId, LinkSessionId, Mark, Number, Position, RequestId, Role, RouteId, Run,
        SubscriptionId, Version,
    },
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

use super::set::Set;

const C: Sender = Sender::Client;
const S: Sender = Sender::Server;
const RUN: Run = Run([1, 2, 3, 4, 5, 6, 7, 8]);
const NOW: u64 = 1_790_000_000_000;
const TRACE: Trace = Trace { id: [0xab; 16], span: [0xcd; 8], flags: 1 };

pub(crate) const HELLO: Hello<'static> = Hello {
    version: 1,
    oldest: 1,
    frame_max: 512,
    run: RUN,
    receipts: true,
    keep_alive_s: 300,
    software: "probe/2.1",
    abandoned: Run([9; 8]),
};

pub(crate) const WELCOME: Welcome<'static> = Welcome {
    version: 1,
    server_time_ms: NOW,
    frame_max: 278_528,
    credit_events: 1024,
    credit_bytes: 1 << 20,
    idle_timeout_s: 600,
    principal: "pump-7",
    tenant: "main",
    proof: &[0x5a; 32],
    lanes: 64,
    routes: 64,
    payload_max: 65_536,
    software: "spiled/0.1.0",
    session: 42,
    edge: "edge-1",
    chunk_bytes: 524_288,
};

pub(crate) fn greeting(set: &mut Set) {
    set.message("hello", "full", C, &Message::Hello(HELLO));
    for (name, proof) in [
        ("certificate", Proof::Certificate),
        (
            "full",
            Proof::DeviceKey { tenant: "main", device: "d1", nonce: [1; 16], proof: [0xb0; 32] },
        ),
        ("token", Proof::Token("eyJhbGciOiJFZERTQSJ9.e30.c2ln")),
    ] {
        set.message("auth", name, C, &Message::Auth(Auth { proof }));
    }
    let proof = Proof::Challenge { nonce: [2; 16] };
    set.message("auth", "challenge", S, &Message::Auth(Auth { proof }));
    set.message("welcome", "full", S, &Message::Welcome(WELCOME));
    for (name, from, answer) in [("full", C, false), ("answer", S, true)] {
        set.message("ping", name, from, &Message::Ping(Ping { number: 300, answer }));
    }
    let goaway =
        GoAway { code: Code::SHUTDOWN, retry_after_ms: 2500, detail: "a new version is started" };
    set.message("goaway", "full", S, &Message::GoAway(goaway));
    faults(set);
}

fn faults(set: &mut Set) {
    let (lane, number) = (LaneId(3), Number(1000));
    for (name, code, scope) in [
        ("session", Code::MALFORMED, Scope::Session),
        ("full", Code::UNAVAILABLE, Scope::Lane { lane, expected: number }),
        (
            "number",
            Code::STALE_VERSION,
            Scope::Number { lane, number, count: 10, version: Version(41) },
        ),
        ("route", Code::FORBIDDEN, Scope::Route(RouteId(2))),
        ("subscription", Code::NOT_FOUND, Scope::Subscription(SubscriptionId(1))),
        ("request", Code::TIMED_OUT, Scope::Request(RequestId(9))),
        ("upload", Code::OUT_OF_ORDER, Scope::Upload { upload: 1, expected: 262_144 }),
    ] {
        let retry = code.retry();
        let retry_after_ms = if retry { 500 } else { 0 };
        let fault = Fault { code, scope, retry, retry_after_ms, detail: "why" };
        set.message("fault", name, S, &Message::Fault(fault));
    }
}

pub(crate) fn publishing(set: &mut Set) {
    lanes(set);
    events(set);
    batches(set);
    acks(set);
    for (name, from, credit) in [
        (
            "publishing",
            S,
            Credit { subscription: None, events: 2048, bytes: 1 << 21, chunk_bytes: None },
        ),
        (
            "full",
            S,
            Credit { subscription: None, events: 2048, bytes: 1 << 21, chunk_bytes: Some(1 << 20) },
        ),
        (
            "subscription",
            C,
            Credit {
                subscription: Some(SubscriptionId(1)),
                events: 16,
                bytes: 65_536,
                chunk_bytes: None,
            },
        ),
    ] {
        set.message("credit", name, from, &Message::Credit(credit));
    }
}

fn lanes(set: &mut Set) {
    let own = Lane { lane: LaneId(0), first_unacked: Number(1), key: None, urgent: false };
    let full = Lane {
        lane: LaneId(3),
        first_unacked: Number(1000),
        key: Some("line 7 / öven"),
        urgent: true,
    };
    set.message("lane", "own key", C, &Message::Lane(own));
    set.message("lane", "full", C, &Message::Lane(full));
    let (mut one, mut two, mut three) = ([0; 64], [0; 64], [0; 64]);
    let refused = Refused { number: Number(5), count: 1, code: Code::FORBIDDEN };
    let receipt = Receipt {
        number: Number(1),
        count: 4,
        version: Version(17),
        position: Position(1_000_000),
    };
    let upload = OpenUpload { id: [7; 16], stored_offset: 262_144 };
    let full = LaneAnswer {
        lane: LaneId(0),
        last: Some(Number(5)),
        worker: "w1",
        refused: List::encode([refused], &mut one).unwrap(),
        receipts: List::encode([receipt], &mut two).unwrap(),
        uploads: List::encode([upload], &mut three).unwrap(),
        inbox: Version(3),
    };
    set.message("lane-answer", "full", S, &Message::LaneAnswer(full));
    let away = LaneAnswer {
        lane: LaneId(3),
        last: None,
        worker: "",
        refused: List::default(),
        receipts: List::default(),
        uploads: List::default(),
        inbox: Version(0),
    };
    set.message("lane-answer", "worker away", S, &Message::LaneAnswer(away));
    let (route, lane) = (RouteId(0), LaneId(0));
    let bind =
        Bind { route, lane, topic: "telemetry/temp", content_type: "", schema: 0, encoding: "" };
    set.message("bind", "topic only", C, &Message::Bind(bind));
    let full = Bind { content_type: "application/cbor", schema: 300, encoding: "zstd", ..bind };
    set.message("bind", "full", C, &Message::Bind(full));
}

/// Everything an event can spell.
fn spelled(headers: Headers<'_>) -> Extras<'_> {
    Extras {
        number: Some(Number(1000)),
        happened: Some(Happened::At(Millis(NOW - 1500))),
        ttl_ms: Some(60_000),
        trace: Some(TRACE),
        expect: Some(Expect::Version(Version(41))),
        headers,
        receipt: true,
    }
}

fn headers(room: &mut [u8]) -> Headers<'_> {
    let pairs: [(&str, &[u8]); 2] = [("unit", b"C"), ("raw", &[0, 255])];
    Headers::encode(pairs.into_iter(), room).unwrap()
}

fn events(set: &mut Set) {
    let mut room = [0; 64];
    let (route, none) = (RouteId(0), Extras::default());
    for (name, route, extras, payload) in [
        ("32 bytes", route, none, &[7; 32][..]),
        ("empty", route, none, &[]),
        ("greatest route", RouteId(u32::MAX), none, b"x"),
        ("number", route, Extras { number: Some(Number(128)), ..none }, b"21.5"),
        ("age", route, Extras { happened: Some(Happened::Ago(1500)), ..none }, b"21.5"),
        (
            "expects none",
            route,
            Extras { expect: Some(Expect::Version(Version(0))), ..none },
            b"21.5",
        ),
        ("expects some", route, Extras { expect: Some(Expect::Exists), ..none }, b"21.5"),
        ("receipt", route, Extras { receipt: true, ..none }, b"21.5"),
        ("full", RouteId(300), spelled(headers(&mut room)), b"21.5"),
    ] {
        set.message("event", name, C, &Message::Event(Event { route, extras, payload }));
    }
}

fn batches(set: &mut Set) {
    let (mut room, mut lengths) = ([0; 64], [0; 16]);
    let uneven = Lengths::encode([1, 0, 3].into_iter(), &mut lengths).unwrap();
    let (route, none) = (RouteId(0), Extras::default());
    for (name, lengths, extras, payload) in [
        ("ten of one length", Lengths::same(10, 2), none, &[7; 20][..]),
        ("one", Lengths::one(4), none, b"21.5"),
        ("empty ones", Lengths::same(3, 0), none, b""),
        ("full", uneven, spelled(headers(&mut room)), b"abbb"),
    ] {
        set.message("batch", name, C, &Message::Batch(Batch { route, lengths, extras, payload }));
    }
}

fn acks(set: &mut Set) {
    for (name, durability, step) in [
        ("stored", Durability::Stored, 1),
        ("spooled", Durability::Spooled, 2),
        ("replicated, the longest step", Durability::Replicated, 63),
    ] {
        set.message("ack", name, S, &Message::Ack(Ack::Step { durability, step }));
    }
    let mut room = [0; 64];
    let first = Receipt {
        number: Number(1),
        count: 4,
        version: Version(17),
        position: Position(1_000_000),
    };
    let second = Receipt {
        number: Number(6),
        count: 1,
        version: Version(22),
        position: Position(1_000_009),
    };
    let (durability, lane, last) = (Durability::Stored, LaneId(3), Number(1000));
    let none = Ack::Spelled { durability, lane, last, receipts: List::default() };
    set.message("ack", "spelled", S, &Message::Ack(none));
    let receipts = List::encode([first, second], &mut room).unwrap();
    set.message("ack", "full", S, &Message::Ack(Ack::Spelled { durability, lane, last, receipts }));
}

pub(crate) fn uploads(set: &mut Set) {
    let mut room = [0; 64];
    let meta = List::encode([Meta { name: "camera", value: "north" }], &mut room).unwrap();
    let open = Open {
        upload: 1,
        id: [7; 16],
        size: 1 << 20,
        key: Some("line-7"),
        name: "frames/1.jpg",
        content_type: "image/jpeg",
        meta,
    };
    set.message("open", "full", C, &Message::Open(open));
    let short = Open { key: None, name: "", content_type: "", meta: List::default(), ..open };
    set.message("open", "own key", C, &Message::Open(short));
    let opened = Opened { upload: 1, stored_offset: 262_144, epoch: 2, blob: "", revision: 0 };
    set.message("opened", "stored so far", S, &Message::Opened(opened));
    let sealed = Opened { stored_offset: 1 << 20, blob: "b-7f-3", revision: 4, ..opened };
    set.message("opened", "full", S, &Message::Opened(sealed));
    let chunk = Chunk { upload: 1, offset: 262_144, payload: &[7; 16] };
    set.message("chunk", "full", C, &Message::Chunk(chunk));
    set.message(
        "seal",
        "full",
        C,
        &Message::Seal(Seal { upload: 1, size: 1 << 20, blake3: [0xb3; 32] }),
    );
    for (name, from) in [("full", C), ("done", S)] {
        set.message("abort", name, from, &Message::Abort(Abort { upload: 1 }));
    }
}

pub(crate) fn consuming(set: &mut Set) {
    subscriptions(set);
    deliveries(set);
    for (name, from, outcome, events) in [
        ("seen", C, Outcome::Seen, 0),
        ("done", C, Outcome::Done, 3),
        ("done, durable", S, Outcome::Done, 3),
        ("full", C, Outcome::Retry { after_ms: 5000 }, 0),
        ("reject", C, Outcome::Reject, 1),
    ] {
        let reason = if outcome == Outcome::Seen { "" } else { "no such order" };
        let settle =
            Settle { subscription: SubscriptionId(1), delivery: 300, outcome, events, reason };
        set.message("settle", name, from, &Message::Settle(settle));
    }
    for (name, from) in [("full", C), ("over", S)] {
        set.message("end", name, from, &Message::End(End { subscription: SubscriptionId(1) }));
    }
}

fn subscriptions(set: &mut Set) {
    let mut room = [0; 64];
    let at =
        [At { worker: "a", position: Position(5) }, At { worker: "b", position: Position(900) }];
    let positions = From::Positions(List::encode(at, &mut room).unwrap());
    let filter = |from| Source::Filter { filter: "telemetry/#", key: None, from };
    for (name, source, live) in [
        ("from the start", filter(From::Start), true),
        ("from the end", filter(From::End), true),
        ("from a time", filter(From::Time(NOW)), false),
        ("full", Source::Filter { filter: "+/temp", key: Some("pump-7"), from: positions }, true),
        ("stream", Source::Stream { key: "pump-7", from: Version(1) }, true),
        ("group", Source::Group { name: "billing", max_events: 100, max_bytes: 65_536 }, true),
        ("inbox", Source::Inbox, true),
    ] {
        let subscribe = Subscribe {
            subscription: SubscriptionId(1),
            source,
            events: 1000,
            bytes: 1 << 20,
            live,
        };
        set.message("subscribe", name, C, &Message::Subscribe(subscribe));
    }
}

fn deliveries(set: &mut Set) {
    let (mut room, mut lengths) = ([0; 64], [0; 16]);
    let bare = Deliver {
        subscription: SubscriptionId(1),
        key: None,
        topic: None,
        kind: None,
        worker: None,
        attempt: 1,
        version: Version(1000),
        position: Position(1_000_000),
        time: Millis(NOW),
        lengths: Lengths::one(4),
        extras: Extras::default(),
        payload: b"21.5",
    };
    set.message("deliver", "as the one before", S, &Message::Deliver(bare));
    let block = Deliver { lengths: Lengths::same(2, 2), ..bare };
    set.message("deliver", "block", S, &Message::Deliver(block));
    let kind = Kind { content_type: "text/plain", schema: 300, encoding: "zstd" };
    let headers = headers(&mut room);
    let full = Deliver {
        key: Some("pump-7"),
        topic: Some("telemetry/temp"),
        kind: Some(kind),
        worker: Some("w1"),
        attempt: 3,
        lengths: Lengths::encode([1, 3].into_iter(), &mut lengths).unwrap(),
        extras: Extras { number: None, expect: None, receipt: false, ..spelled(headers) },
        ..bare
    };
    set.message("deliver", "full", S, &Message::Deliver(full));
}

pub(crate) fn requests(set: &mut Set) {
    let request = RequestId(9);
    for (name, target) in [
        ("full", Target::State { key: "pump-7", topic: "state/mode" }),
        ("blob", Target::Blob { blob: "b-7f-3", offset: 262_144, length: 0 }),
        ("stream", Target::Stream { key: "pump-7" }),
    ] {
        let get =
            Get { request, target, newer_than: Version(40), at_least: Version(41), wait_ms: 2000 };
        set.message("get", name, C, &Message::Get(get));
    }
    for (name, listing) in [
        ("full", Listing::State),
        ("blobs", Listing::Blobs),
        ("uploads", Listing::Uploads),
        ("services", Listing::Services),
    ] {
        let list = request::List { request, listing, prefix: "pump-", after: "pump-6", limit: 50 };
        set.message("list", name, C, &Message::List(list));
    }
    values(set, request);
    calls(set, request);
}

fn values(set: &mut Set, request: RequestId) {
    let mut room = [0; 64];
    let absent = Value { request, absent: true, ..Value::default() };

    set.message("value", "absent", S, &Message::Value(Body { fields: absent, payload: &[] }));
    let full = Value {
        more: true,
        name: "frames/1.jpg",
        key: "line-7",
        version: Version(17),
        position: Some(Position(1_000_000)),
        time_ms: NOW,
        content_type: "image/jpeg",
        partial: true,
        absent: false,
        size: 1 << 20,
        worker: "w1",
        cursor: "frames/1.jpg",
        principal: "device/pump-7",
        stored_offset: 1 << 20,
        revision: 4,
        blake3: Some([0xb3; 32]),
        meta: List::encode([Meta { name: "camera", value: "north" }], &mut room).unwrap(),
        id: "05-1a2b",
        left_ms: 300,
        ..absent
    };
    set.message("value", "full", S, &Message::Value(Body { fields: full, payload: b"21.5" }));
}

fn calls(set: &mut Set, request: RequestId) {
    let fields = Call {
        request,
        service: "device/pump-7",
        method: "reboot",
        remaining_ms: 30_000,
        idempotent: true,
        content_type: "application/json",
        caller: "operator/ann",
        trace: Some(TRACE),
    };
    for (name, from) in [("full", C), ("to who serves", S)] {
        set.message("call", name, from, &Message::Call(Body { fields, payload: b"{}" }));
    }
    for (name, from, code) in [("full", C, Code::BUSY), ("done", S, Code(0))] {
        let detail = if code == Code(0) { "" } else { "pumping" };
        let fields = Reply { request, code, more: false, content_type: "application/json", detail };
        set.message("reply", name, from, &Message::Reply(Body { fields, payload: b"{}" }));
    }
    let serve = Serve { request, service: "billing", window: 16 };
    set.message("serve", "full", C, &Message::Serve(serve));
}

pub(crate) fn links(set: &mut Set) {
    let session = LinkSessionId(7);
    let hello = LinkHello {
        version: 1,
        name: "edge-1",
        slots: [0xff; 32],
        time_ms: NOW,
        next: 1_000_001,
        oldest: 1,
        credit_events: 4096,
        credit_bytes: 1 << 24,
        keep_alive_s: 5,
        software: "spiled/0.1.0",
        chunk_bytes: 1 << 25,
    };
    set.message("link-hello", "full", C, &Message::LinkHello(hello));
    let attach = Attach {
        session,
        tenant: "main",
        role: Role::Device,
        principal: "pump-7",
        run: RUN,
        receipts: false,
        trace_base: [0x11; 8],
        peer: "192.0.2.7:50123",
        frame_max: 512,
        abandoned: Run([0; 8]),
    };
    set.message("attach", "full", C, &Message::Attach(attach));
    set.message("detach", "full", C, &Message::Detach(Detach { session, code: Code(0) }));
    set.message(
        "detach",
        "replaced",
        S,
        &Message::Detach(Detach { session, code: Code::REPLACED }),
    );
    let (lane, number) = (LaneId(3), Number(1000));
    let void = Void { session, lane, number, count: 10, code: Code::FORBIDDEN, time_ms: NOW };
    set.message("void", "full", C, &Message::Void(void));
    let mut room = [0; 16];
    let marks = List::encode([Mark(7), Mark(0xffff)], &mut room).unwrap();
    set.message("changed", "full", S, &Message::Changed(Changed { marks }));
    envelopes(set, session);
    registry(set);
}

fn envelopes(set: &mut Set, session: LinkSessionId) {
    let event = Envelope {
        session,
        number: Number(1000),
        time_ms: NOW,
        tag: Tag(10),
        header: &[0],
        payload: b"21.5",
    };
    set.message("envelope", "full", C, &Message::Envelope(event));
    let ack = Envelope {
        number: Number(0),
        time_ms: 0,
        tag: Tag(0x4c),
        header: &[2, 3, 0xe8, 7],
        payload: &[],
        ..event
    };
    set.message("envelope", "ack", S, &Message::Envelope(ack));
}

fn registry(set: &mut Set) {
    let (mut one, mut two) = ([0; 128], [0; 128]);
    let entry = Entry {
        tenant: "main",
        principal: "pump-7",
        role: Role::Device,
        key_hash: Some([0x5a; 32]),
        revoked: false,
        expires_ms: NOW,
        later: &[],
    };
    let group = Group {
        tenant: "main",
        name: "billing",
        id: 77,
        epoch: 2,
        removed: false,
        definition: b"{\"filter\":\"#\"}",
        later: &[],
    };
    let full = Registry {
        upto: 1000,
        whole: true,
        entries: List::encode([entry], &mut one).unwrap(),
        more: true,
        groups: List::encode([group], &mut two).unwrap(),
    };
    set.message("registry", "full", S, &Message::Registry(full));
    let has = Registry {
        upto: 1000,
        whole: false,
        entries: List::default(),
        more: false,
        groups: List::default(),
    };
    set.message("registry", "the edge has it", C, &Message::Registry(has));
}
