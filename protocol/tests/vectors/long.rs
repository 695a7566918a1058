//! Fields with a limit: one byte below it, at it, and one above, for each field that `wrong` does not have yet; counts and
//! numbers at the ends of their ranges; and a tail of a later version behind every message that may have one.

use spile_protocol::{
    code::Code,
    frame,
    id::{LaneId, LinkSessionId, Position, RequestId, Role, Run, SubscriptionId, Version},
    limits,
    message::{
        At, Attach, Body, Call, Deliver, Extras, Fault, From, Get, LaneAnswer, Lengths, LinkHello,
        List, Listing, Message, Meta, Open, Opened, Outcome, Reply, Scope, Sender, Serve, Settle,
        Source, Subscribe, Target, Value, Welcome, deliver::Kind, kind, request,
    },
    time::Millis,
};

use super::{
    set::{LIMIT, Set, encoded, framed},
    valid::WELCOME,
};

const C: Sender = Sender::Client;
const S: Sender = Sender::Server;

/// A message with a text of that length in one field.
type Make = fn(&str) -> Vec<u8>;

pub(crate) fn long(set: &mut Set) {
    greeting(set);
    uploads(set);
    consuming(set);
    requests(set);
    values(set);
    links(set);
    counts(set);
    bodies(set);
}

fn each(set: &mut Set, file: &'static str, from: Sender, fields: &[(&str, usize, Make)]) {
    for &(field, longest, make) in fields {
        for length in [longest - 1, longest, longest + 1] {
            let frame = make(&"x".repeat(length));
            set.frame(file, &format!("{field} of {length} bytes"), from, LIMIT, frame);
        }
    }
}

fn greeting(set: &mut Set) {
    fn with(welcome: Welcome<'_>) -> Vec<u8> {
        encoded(&Message::Welcome(welcome))
    }
    each(
        set,
        "welcome",
        S,
        &[
            ("principal", limits::NAME_BYTES, |x| with(Welcome { principal: x, ..WELCOME })),
            ("tenant", limits::TENANT_BYTES, |x| with(Welcome { tenant: x, ..WELCOME })),
            ("proof", limits::PROOF_BYTES, |x| with(Welcome { proof: x.as_bytes(), ..WELCOME })),
            ("software", limits::SOFTWARE_BYTES, |x| with(Welcome { software: x, ..WELCOME })),
            ("edge", limits::NAME_BYTES, |x| with(Welcome { edge: x, ..WELCOME })),
        ],
    );
    let fault: Make = |detail| {
        let (code, scope) = (Code::BUSY, Scope::Session);
        encoded(&Message::Fault(Fault { code, scope, retry: true, retry_after_ms: 5, detail }))
    };
    each(set, "fault", S, &[("detail", limits::DETAIL_BYTES, fault)]);
    let answer: Make = |worker| {
        encoded(&Message::LaneAnswer(LaneAnswer {
            lane: LaneId(0),
            last: None,
            worker,
            refused: List::default(),
            receipts: List::default(),
            uploads: List::default(),
            inbox: Version(0),
        }))
    };
    each(set, "lane-answer", S, &[("worker", limits::NAME_BYTES, answer)]);
}

/// One pair of metadata that takes as many bytes as the text has.
fn with_meta(text: &str, make: impl FnOnce(List<'_, Meta<'_>>) -> Vec<u8>) -> Vec<u8> {
    let (mut room, value) = ([0; 1024], &text[4..]);
    let meta = List::encode([Meta { name: "m", value }], &mut room).unwrap();
    make(meta)
}

fn uploads(set: &mut Set) {
    fn base<'a>() -> Open<'a> {
        let meta = List::default();
        Open { upload: 1, id: [7; 16], size: 1, key: None, name: "", content_type: "", meta }
    }
    each(
        set,
        "open",
        C,
        &[
            ("key", limits::KEY_BYTES, |x| {
                encoded(&Message::Open(Open { key: Some(x), ..base() }))
            }),
            ("content_type", limits::CONTENT_TYPE_BYTES, |x| {
                encoded(&Message::Open(Open { content_type: x, ..base() }))
            }),
            ("meta", limits::META_BYTES, |x| {
                with_meta(x, |meta| encoded(&Message::Open(Open { meta, ..base() })))
            }),
        ],
    );
    let opened: Make = |blob| {
        let opened = Opened { upload: 1, stored_offset: 1, epoch: 1, blob, revision: 1 };
        encoded(&Message::Opened(opened))
    };
    each(set, "opened", S, &[("blob", limits::NAME_BYTES, opened)]);
}

fn consuming(set: &mut Set) {
    fn from(source: Source<'_>) -> Vec<u8> {
        let subscription = SubscriptionId(1);
        let subscribe = Subscribe { subscription, source, events: 1, bytes: 1, live: true };
        encoded(&Message::Subscribe(subscribe))
    }
    let positions: Make = |text| {
        let (mut room, worker) = ([0; 4096], &text[3..]);
        let at = At { worker, position: Position(1) };
        let at = From::Positions(List::encode([at], &mut room).unwrap());
        from(Source::Filter { filter: "t", key: None, from: at })
    };
    each(
        set,
        "subscribe",
        C,
        &[
            ("filter's filter", limits::TOPIC_BYTES, |filter| {
                from(Source::Filter { filter, key: None, from: From::Start })
            }),
            ("filter's key", limits::KEY_BYTES, |key| {
                from(Source::Filter { filter: "t", key: Some(key), from: From::Start })
            }),
            ("positions", limits::POSITIONS_BYTES, positions),
        ],
    );
    deliveries(set);
    let settle: Make = |reason| {
        let (subscription, outcome) = (SubscriptionId(1), Outcome::Reject);
        encoded(&Message::Settle(Settle { subscription, delivery: 1, outcome, events: 0, reason }))
    };
    each(set, "settle", C, &[("reason", limits::DETAIL_BYTES, settle)]);
}

fn delivery<'a>() -> Deliver<'a> {
    Deliver {
        subscription: SubscriptionId(1),
        key: None,
        topic: None,
        kind: None,
        worker: None,
        attempt: 1,
        version: Version(1),
        position: Position(1),
        time: Millis(1),
        lengths: Lengths::one(1),
        extras: Extras::default(),
        payload: b"x",
    }
}

fn deliveries(set: &mut Set) {
    fn with(deliver: Deliver<'_>) -> Vec<u8> {
        encoded(&Message::Deliver(deliver))
    }
    each(
        set,
        "deliver",
        S,
        &[
            ("key", limits::KEY_BYTES, |x| with(Deliver { key: Some(x), ..delivery() })),
            ("topic", limits::TOPIC_BYTES, |x| with(Deliver { topic: Some(x), ..delivery() })),
            ("content_type", limits::CONTENT_TYPE_BYTES, |content_type| {
                let kind = Some(Kind { content_type, schema: 1, encoding: "" });
                with(Deliver { kind, ..delivery() })
            }),
            ("encoding", limits::CONTENT_TYPE_BYTES, |encoding| {
                let kind = Some(Kind { content_type: "", schema: 1, encoding });
                with(Deliver { kind, ..delivery() })
            }),
            ("worker", limits::NAME_BYTES, |x| with(Deliver { worker: Some(x), ..delivery() })),
        ],
    );
}

fn requests(set: &mut Set) {
    fn get(target: Target<'_>) -> Vec<u8> {
        let (newer_than, at_least) = (Version(0), Version(0));
        let request = RequestId(1);
        encoded(&Message::Get(Get { request, target, newer_than, at_least, wait_ms: 0 }))
    }
    fn list(prefix: &str, after: &str) -> Vec<u8> {
        let (request, listing) = (RequestId(1), Listing::State);
        encoded(&Message::List(request::List { request, listing, prefix, after, limit: 1 }))
    }
    each(
        set,
        "get",
        C,
        &[
            ("state's key", limits::KEY_BYTES, |key| get(Target::State { key, topic: "t" })),
            ("state's topic", limits::TOPIC_BYTES, |topic| get(Target::State { key: "k", topic })),
            ("blob's blob", limits::NAME_BYTES, |blob| {
                get(Target::Blob { blob, offset: 0, length: 1 })
            }),
            ("stream's key", limits::KEY_BYTES, |key| get(Target::Stream { key })),
        ],
    );
    each(
        set,
        "list",
        C,
        &[
            ("prefix", limits::BLOB_NAME_BYTES, |x| list(x, "")),
            ("after", limits::CURSOR_BYTES, |x| list("", x)),
        ],
    );
    each(
        set,
        "call",
        C,
        &[
            ("content_type", limits::CONTENT_TYPE_BYTES, |x| call(x, "")),
            ("caller", limits::PRINCIPAL_BYTES, |x| call("", x)),
        ],
    );
    each(
        set,
        "reply",
        C,
        &[
            ("content_type", limits::CONTENT_TYPE_BYTES, |x| reply(x, "")),
            ("detail", limits::DETAIL_BYTES, |x| reply("", x)),
        ],
    );
    let serve: Make =
        |service| encoded(&Message::Serve(Serve { request: RequestId(1), service, window: 1 }));
    each(set, "serve", C, &[("service", limits::PRINCIPAL_BYTES, serve)]);
}

fn call(content_type: &str, caller: &str) -> Vec<u8> {
    let fields = Call {
        request: RequestId(1),
        service: "s",
        method: "m",
        remaining_ms: 1,
        idempotent: false,
        content_type,
        caller,
        trace: None,
    };
    encoded(&Message::Call(Body { fields, payload: &[] }))
}

fn reply(content_type: &str, detail: &str) -> Vec<u8> {
    let fields =
        Reply { request: RequestId(1), code: Code::BUSY, more: false, content_type, detail };
    encoded(&Message::Reply(Body { fields, payload: &[] }))
}

fn values(set: &mut Set) {
    fn with(fields: Value<'_>) -> Vec<u8> {
        encoded(&Message::Value(Body { fields, payload: &[] }))
    }
    fn base<'a>() -> Value<'a> {
        Value { request: RequestId(1), ..Value::default() }
    }
    each(
        set,
        "value",
        S,
        &[
            ("name", limits::BLOB_NAME_BYTES, |x| with(Value { name: x, ..base() })),
            ("key", limits::KEY_BYTES, |x| with(Value { key: x, ..base() })),
            ("content_type", limits::CONTENT_TYPE_BYTES, |x| {
                with(Value { content_type: x, ..base() })
            }),
            ("worker", limits::NAME_BYTES, |x| with(Value { worker: x, ..base() })),
            ("cursor", limits::CURSOR_BYTES, |x| with(Value { cursor: x, ..base() })),
            ("principal", limits::PRINCIPAL_BYTES, |x| with(Value { principal: x, ..base() })),
            ("meta", limits::META_BYTES, |x| with_meta(x, |meta| with(Value { meta, ..base() }))),
            ("id", limits::NAME_BYTES, |x| with(Value { id: x, ..base() })),
        ],
    );
}

fn links(set: &mut Set) {
    fn attach(tenant: &str, principal: &str, peer: &str) -> Vec<u8> {
        encoded(&Message::Attach(Attach {
            session: LinkSessionId(1),
            tenant,
            role: Role::Device,
            principal,
            run: Run([1; 8]),
            receipts: false,
            trace_base: [2; 8],
            peer,
            frame_max: 512,
            abandoned: Run([0; 8]),
        }))
    }
    fn hello(name: &str, software: &str) -> Vec<u8> {
        encoded(&Message::LinkHello(LinkHello {
            version: 1,
            name,
            slots: [0xff; 32],
            time_ms: 0,
            next: 0,
            oldest: 1,
            credit_events: 1,
            credit_bytes: 1,
            keep_alive_s: 5,
            software,
            chunk_bytes: 1,
        }))
    }
    each(
        set,
        "attach",
        C,
        &[
            ("tenant", limits::TENANT_BYTES, |x| attach(x, "d1", "")),
            ("principal", limits::NAME_BYTES, |x| attach("main", x, "")),
            ("peer", limits::PEER_BYTES, |x| attach("main", "d1", x)),
        ],
    );
    each(
        set,
        "link-hello",
        C,
        &[
            ("name", limits::NAME_BYTES, |x| hello(x, "")),
            ("software", limits::SOFTWARE_BYTES, |x| hello("edge-1", x)),
        ],
    );
}

fn counts(set: &mut Set) {
    let few = framed(kind::BATCH, &[0, 0xff, 7, 1], &[]);
    set.frame("batch", "1023 empty events", C, LIMIT, few);
    for count in [1023_u32, 1024, 1025] {
        let deliver = Deliver { lengths: Lengths::same(count, 0), payload: &[], ..delivery() };
        let frame = encoded(&Message::Deliver(deliver));
        set.frame("deliver", &format!("a block of {count} empty events"), S, LIMIT, frame);
    }
    let pairs = [1, b'n', 1, b'v'].repeat(7);
    let header = [&[0, 0x40, 28], &pairs[..]].concat();
    set.frame("event", "7 headers", C, LIMIT, framed(kind::EVENT | frame::EXTRAS, &header, b"x"));
}

/// Fields of a message with a payload, spelled to the last and filled up with those of a later version.
fn bodies(set: &mut Set) {
    for (file, from, kind, fields) in [
        ("value", S, kind::VALUE, value_fields()),
        ("call", C, kind::CALL, vec![1, 1, b's', 1, b'm', 1, 0, 0, 0, 0]),
        ("reply", C, kind::REPLY, vec![1, 0, 0, 0, 0]),
    ] {
        for length in [2047_usize, 2048, 2049] {
            let mut header = vec![u8::try_from(length & 0x7f).unwrap() | 0x80];
            header.push(u8::try_from(length >> 7).unwrap());
            header.extend_from_slice(&fields);
            header.resize(2 + length, 0xee);
            let frame = framed(kind, &header, b"21.5");
            set.frame(file, &format!("fields of {length} bytes"), from, LIMIT, frame);
        }
    }
}

fn value_fields() -> Vec<u8> {
    let fields = Value { request: RequestId(1), ..Value::default() };
    let frame = encoded(&Message::Value(Body { fields, payload: &[] }));
    let (frame, _) = frame::decode(&frame, LIMIT).unwrap().unwrap();
    frame.header[1..].to_vec()
}

/// Numbers at the ends of their ranges.
pub(crate) fn numbers(set: &mut Set) {
    let hello = |version: &[u8]| [version, &[1, 0x80, 4], &[5; 8]].concat();
    let seal = |size: &[u8]| [&[1], size, &[7; 32]].concat();
    let event = |number: &[u8]| [&[0, 1], number].concat();
    let spelled = kind::EVENT | frame::EXTRAS;
    let most = [0xff; 9];
    for (file, name, tag, header) in [
        ("hello", "the greatest version", kind::HELLO, hello(&[0xff, 0xff, 3])),
        ("hello", "a version above 16 bits", kind::HELLO, hello(&[0x80, 0x80, 4])),
        ("hello", "a version of four bytes", kind::HELLO, hello(&[0x80, 0x80, 0x80, 1])),
        ("bind", "the greatest schema", kind::BIND, bind(&[0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("bind", "a schema above 32 bits", kind::BIND, bind(&[0xff, 0xff, 0xff, 0xff, 0x1f])),
        ("bind", "a schema of six bytes", kind::BIND, bind(&[0x80, 0x80, 0x80, 0x80, 0x80, 1])),
        ("seal", "the greatest size", kind::SEAL, seal(&[&most[..], &[1]].concat())),
        ("seal", "a size above 64 bits", kind::SEAL, seal(&[&most[..], &[2]].concat())),
        ("seal", "a size of eleven bytes", kind::SEAL, seal(&[&[0x80; 10][..], &[1]].concat())),
        ("event", "the greatest number", spelled, event(&[&most[..], &[1]].concat())),
        ("event", "a number above 64 bits", spelled, event(&[&most[..], &[2]].concat())),
        ("event", "a number of eleven bytes", spelled, event(&[&[0x80; 10][..], &[1]].concat())),
    ] {
        set.frame(file, name, C, LIMIT, framed(tag, &header, &[]));
    }
    let fault = |code: &[u8]| [code, &[0]].concat();
    for (name, code) in
        [("the greatest code", &[0xff, 0xff, 3]), ("a code above 16 bits", &[0x80, 0x80, 4])]
    {
        set.frame("fault", name, S, LIMIT, framed(kind::FAULT, &fault(code), &[]));
    }
    let ack = [&[2, 0], &most[..], &[2]].concat();
    let ack = framed(kind::ACK | frame::EXTRAS, &ack, &[]);
    set.frame("ack", "spelled, a number above 64 bits", S, LIMIT, ack);
    let chunk = framed(kind::CHUNK, &[&[1], &most[..], &[2]].concat(), &[]);
    set.frame("chunk", "an offset above 64 bits", C, LIMIT, chunk);
    let envelope = [&[7], &most[..], &[2, 0, kind::EVENT, 0]].concat();
    set.frame(
        "envelope",
        "a number above 64 bits",
        C,
        LIMIT,
        framed(kind::ENVELOPE, &envelope, &[]),
    );
    let version = [&[1, 0], &most[..], &[2, 1, 1]].concat();
    set.frame("deliver", "a version above 64 bits", S, LIMIT, framed(kind::DELIVER, &version, &[]));
}

fn bind(schema: &[u8]) -> Vec<u8> {
    [&[0, 0, 1, b't', 0], schema, &[0]].concat()
}
