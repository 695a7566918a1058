//! What is refused, and what is taken although it is not as this version would send it.

use spile_protocol::{
    frame,
    id::{LaneId, Number, RequestId, RouteId, SubscriptionId, Version},
    limits,
    message::{
        Auth, Bind, Body, Call, GoAway, Hello, Lane, Message, Open, Proof, Sender, Source,
        Subscribe, kind,
    },
};

use super::{
    set::{LIMIT, Set, encoded, framed},
    valid::HELLO,
};

const C: Sender = Sender::Client;
const S: Sender = Sender::Server;

/// The header of a message as this version sends it.
fn header(message: &Message<'_>) -> Vec<u8> {
    let frame = encoded(message);
    frame::decode(&frame, u32::MAX >> 8).unwrap().unwrap().0.header.to_vec()
}

pub(crate) fn frames(set: &mut Set) {
    let mut add =
        |name: &str, limit: u32, frame: Vec<u8>| set.frame("frame", name, C, limit, frame);
    for (name, body) in [
        ("one byte below the limit", 511),
        ("at the limit", 512),
        ("one byte above the limit", 513),
    ] {
        let payload = vec![7; body - 1];
        add(name, 512, framed(kind::EVENT, &[0], &payload));
    }
    add("above the limit, and nothing behind it", 512, vec![kind::EVENT, 0x81, 0x04]);
    add("the length 2^32 - 1", LIMIT, vec![kind::EVENT, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    add("the length 2^35 - 1", LIMIT, vec![kind::EVENT, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    add("a length of six bytes", LIMIT, vec![kind::EVENT, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    add("an overlong length", LIMIT, vec![kind::EVENT, 0x81, 0x00]);
    add("an overlong length of zero", LIMIT, vec![kind::EVENT, 0x80, 0x00]);
    add("no bytes", LIMIT, Vec::new());
    add("a kind alone", LIMIT, vec![kind::EVENT]);
    add("a length cut off", LIMIT, vec![kind::EVENT, 0x81]);
    let ping = framed(kind::PING, &[5, 0], &[]);
    for (name, at) in [("kind", 0), ("header", 2), ("checksum", 4), ("checksum's end", 7)] {
        let mut bent = ping.clone();
        bent[at] ^= 0x20;
        add(&format!("a bit of the {name} flipped"), LIMIT, bent);
    }
    let mut turned = ping.clone();
    turned[4..].reverse();
    add("the checksum big-endian", LIMIT, turned);
    add("a checksum over header before payload", LIMIT, other_order());
    for (name, tag) in [
        ("an unknown kind", 63),
        ("an unknown kind that may be skipped", 63 | frame::SKIPPABLE),
        (
            "an unknown kind that may be skipped, in a second form",
            63 | frame::SKIPPABLE | frame::EXTRAS,
        ),
        ("the kind 0", 0),
        ("a known kind that may be skipped", kind::PING | frame::SKIPPABLE),
        ("a kind without a second form, in one", kind::PING | frame::EXTRAS),
    ] {
        add(name, LIMIT, framed(tag, &[5, 0], &[]));
    }
    add("a chunk in a second form", LIMIT, framed(kind::CHUNK | frame::EXTRAS, &[1, 0], b"x"));
}

/// As a naive sender would sum it: in the order of the wire.
fn other_order() -> Vec<u8> {
    let mut bytes = framed(kind::EVENT, &[0], b"21.5");
    let end = bytes.len() - 4;
    let sum = spile_protocol::crc::of(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&sum);
    bytes
}

pub(crate) fn fields(set: &mut Set) {
    let hello = header(&Message::Hello(HELLO));
    let mut newer = header(&Message::Hello(Hello { version: 9, oldest: 1, ..HELLO }));
    newer.extend_from_slice(&[0x03, b'n', b'e', b'w', 0xff, 0xff]);
    let newer = framed(kind::HELLO, &newer, &[]);
    set.frame(
        "hello",
        "from a newer peer, with fields this version does not know",
        C,
        LIMIT,
        newer,
    );
    let short = framed(kind::HELLO, &hello[..12], &[]);
    set.frame("hello", "from an older peer, without the tail", C, LIMIT, short);
    for (file, name, from, tag, header) in [
        ("lane", "an overlong number", C, kind::LANE, &[0x80, 0x00, 0x01][..]),
        ("lane", "a lane above 32 bits", C, kind::LANE, &[0x80, 0x80, 0x80, 0x80, 0x10, 0x01]),
        ("lane", "an absent flag of 2", C, kind::LANE, &[0, 1, 2]),
        ("lane", "a boolean of 2", C, kind::LANE, &[0, 1, 0, 2]),
        ("lane", "a key that is not UTF-8", C, kind::LANE, &[1, 1, 1, 2, 0xc3, 0x28]),
        ("lane", "an overlong length of the key", C, kind::LANE, &[1, 1, 1, 0x81, 0x00, b'a']),
        ("lane", "a missing tail", C, kind::LANE, &[1, 1]),
        ("lane", "half a tail", C, kind::LANE, &[1, 1, 1, 1, b'a']),
        ("lane", "an unknown tail", C, kind::LANE, &[1, 1, 1, 1, b'a', 1, 0xde, 0xad]),
        ("lane-answer", "a list whose item is cut off", S, kind::LANE, &[1, 0, 0, 2, 5, 1]),
        ("lane-answer", "a list longer than the message", S, kind::LANE, &[1, 0, 0, 9, 5, 1, 100]),
        ("auth", "an unknown proof", C, kind::AUTH, &[4]),
        ("auth", "an overlong variant", C, kind::AUTH, &[0x80, 0x00]),
        ("subscribe", "an unknown source", C, kind::SUBSCRIBE, &[1, 4, 1, 1]),
        ("call", "fields shorter than they are", C, kind::CALL, &[2, 9, 1]),
        ("call", "fields longer than the message", C, kind::CALL, &[9, 9, 1]),
        ("reply", "bytes behind the fields are the payload", S, kind::REPLY, &[2, 9, 0]),
        ("reply", "an unknown tail", S, kind::REPLY, &[8, 9, 0, 0, 0, 0, 1, 2, 3]),
    ] {
        let payload: &[u8] = if name.starts_with("bytes behind") { b"paid" } else { &[] };
        set.frame(file, name, from, LIMIT, framed(tag, header, payload));
    }
}

pub(crate) fn hot(set: &mut Set) {
    let spelled = |kind: u8| kind | frame::EXTRAS;
    for (file, name, from, tag, header, payload) in [
        ("event", "an overlong route", C, kind::EVENT, &[0x80, 0x00][..], &b""[..]),
        ("event", "a route above 32 bits", C, kind::EVENT, &[0x80, 0x80, 0x80, 0x80, 0x10], b"x"),
        ("event", "no extras where some are announced", C, spelled(kind::EVENT), &[0, 0], b"x"),
        ("event", "an unknown bit of the extras", C, spelled(kind::EVENT), &[0, 0x80, 0x02], b"x"),
        ("event", "device time and age", C, spelled(kind::EVENT), &[0, 6, 1, 1], b"x"),
        ("event", "headers of no bytes", C, spelled(kind::EVENT), &[0, 0x40, 0], b"x"),
        (
            "event",
            "a header without a name",
            C,
            spelled(kind::EVENT),
            &[0, 0x40, 3, 0, 1, b'v'],
            b"x",
        ),
        (
            "event",
            "a header without a value",
            C,
            spelled(kind::EVENT),
            &[0, 0x40, 2, 1, b'n'],
            b"x",
        ),
        ("batch", "no events", C, kind::BATCH, &[0, 0, 1], b""),
        ("batch", "lengths that do not add up", C, kind::BATCH, &[0, 2, 0, 1, 2], b"abcd"),
        ("batch", "one length that does not add up", C, kind::BATCH, &[0, 3, 3], b"abcd"),
        ("batch", "fewer lengths than events", C, kind::BATCH, &[0, 3, 0, 1, 1], b""),
        ("batch", "all of one length, each spelled", C, kind::BATCH, &[0, 2, 0, 2, 2], b"abcd"),
        ("ack", "no durability", S, kind::ACK, &[0x04], b""),
        ("ack", "a step of 0", S, kind::ACK, &[0x02], b""),
        ("ack", "bytes behind a step", S, kind::ACK, &[0x06, 0], b""),
        ("ack", "spelled, with a step", S, spelled(kind::ACK), &[0x06, 0, 1], b""),
        ("ack", "spelled, no receipts spelled", S, spelled(kind::ACK), &[0x02, 0, 1, 0], b""),
        (
            "ack",
            "spelled, bytes behind the receipts",
            S,
            spelled(kind::ACK),
            &[0x02, 0, 9, 4, 1, 1, 1, 1, 0],
            b"",
        ),
        ("chunk", "an overlong offset", C, kind::CHUNK, &[1, 0x80, 0x00], b""),
        ("deliver", "an unknown flag", S, kind::DELIVER, &[1, 0x40, 1, 1, 1], b"x"),
        ("deliver", "an attempt of 1 spelled", S, kind::DELIVER, &[1, 0x10, 1, 1, 1, 1], b"x"),
        ("deliver", "a block of one", S, kind::DELIVER, &[1, 0x20, 1, 1, 1, 1, 2], b"x"),
        (
            "deliver",
            "a number in the extras",
            S,
            spelled(kind::DELIVER),
            &[1, 0, 1, 1, 1, 1, 5],
            b"x",
        ),
        (
            "deliver",
            "a receipt in the extras",
            S,
            spelled(kind::DELIVER),
            &[1, 0, 1, 1, 1, 0x80, 0x01],
            b"x",
        ),
        (
            "envelope",
            "an envelope inside",
            C,
            kind::ENVELOPE,
            &[7, 0, 0, kind::ENVELOPE, 7, 0, 0, 10, 0],
            b"",
        ),
        ("envelope", "a greeting inside", C, kind::ENVELOPE, &[7, 0, 0, kind::HELLO], b""),
        (
            "envelope",
            "a link's kind inside",
            C,
            kind::ENVELOPE,
            &[7, 0, 0, kind::DETACH, 7, 0],
            b"",
        ),
        (
            "envelope",
            "a kind that may be skipped inside",
            C,
            kind::ENVELOPE,
            &[7, 0, 0, kind::EVENT | 0x80, 0],
            b"x",
        ),
    ] {
        set.frame(file, name, from, LIMIT, framed(tag, header, payload));
    }
    many(set);
}

fn many(set: &mut Set) {
    for count in [1024_u32, 1025] {
        let low = u8::try_from(count & 0x7f).unwrap() | 0x80;
        let frame = framed(kind::BATCH, &[0, low, 8, 1], &[]);
        set.frame("batch", &format!("{count} empty events"), C, LIMIT, frame);
    }
    for count in [8_usize, 9] {
        let pairs = [1, b'n', 1, b'v'].repeat(count);
        let length = [u8::try_from(pairs.len()).unwrap()];
        let header = [&[0, 0x40], &length[..], &pairs].concat();
        let frame = framed(kind::EVENT | frame::EXTRAS, &header, b"x");
        set.frame("event", &format!("{count} headers"), C, LIMIT, frame);
    }
    for total in [511_usize, 512, 513] {
        let value = vec![b'v'; total - 4];
        let pair = [&[1, b'n'], &length(value.len())[..], &value].concat();
        let header = [&[0, 0x40], &length(pair.len())[..], &pair].concat();
        let frame = framed(kind::EVENT | frame::EXTRAS, &header, b"x");
        set.frame("event", &format!("headers of {total} bytes"), C, LIMIT, frame);
    }
}

/// A length of two bytes.
fn length(length: usize) -> [u8; 2] {
    [u8::try_from(length & 0x7f).unwrap() | 0x80, u8::try_from(length >> 7).unwrap()]
}

/// Texts at their limits: one byte below, at it, one above.
pub(crate) fn limits(set: &mut Set) {
    for (file, field, longest, make) in [
        (
            "hello",
            "software",
            limits::SOFTWARE_BYTES,
            (|text| encoded(&Message::Hello(Hello { software: text, ..HELLO })))
                as fn(&str) -> Vec<u8>,
        ),
        ("lane", "key", limits::KEY_BYTES, |text| {
            encoded(&Message::Lane(Lane {
                lane: LaneId(1),
                first_unacked: Number(1),
                key: Some(text),
                urgent: false,
            }))
        }),
        ("bind", "topic", limits::TOPIC_BYTES, |text| {
            encoded(&Message::Bind(Bind { topic: text, ..BIND }))
        }),
        ("bind", "content_type", limits::CONTENT_TYPE_BYTES, |text| {
            encoded(&Message::Bind(Bind { content_type: text, ..BIND }))
        }),
        ("bind", "encoding", limits::CONTENT_TYPE_BYTES, |text| {
            encoded(&Message::Bind(Bind { encoding: text, ..BIND }))
        }),
        ("auth", "token", limits::TOKEN_BYTES, |text| {
            encoded(&Message::Auth(Auth { proof: Proof::Token(text) }))
        }),
        ("auth", "device", limits::NAME_BYTES, |text| {
            let proof =
                Proof::DeviceKey { tenant: "main", device: text, nonce: [1; 16], proof: [2; 32] };
            encoded(&Message::Auth(Auth { proof }))
        }),
        ("auth", "tenant", limits::TENANT_BYTES, |text| {
            let proof =
                Proof::DeviceKey { tenant: text, device: "d1", nonce: [1; 16], proof: [2; 32] };
            encoded(&Message::Auth(Auth { proof }))
        }),
        ("goaway", "detail", limits::DETAIL_BYTES, |text| {
            encoded(&Message::GoAway(GoAway {
                code: spile_protocol::code::Code::SHUTDOWN,
                retry_after_ms: 0,
                detail: text,
            }))
        }),
        ("open", "name", limits::BLOB_NAME_BYTES, |text| {
            let meta = spile_protocol::message::List::default();
            encoded(&Message::Open(Open {
                upload: 1,
                id: [7; 16],
                size: 1,
                key: None,
                name: text,
                content_type: "",
                meta,
            }))
        }),
        ("subscribe", "stream's key", limits::KEY_BYTES, |text| {
            subscribe(Source::Stream { key: text, from: Version(1) })
        }),
        ("subscribe", "group's name", limits::NAME_BYTES, |text| {
            subscribe(Source::Group { name: text, max_events: 1, max_bytes: 1 })
        }),
        ("call", "method", limits::NAME_BYTES, |text| call("s", text)),
        ("call", "service", limits::PRINCIPAL_BYTES, |text| call(text, "m")),
    ] {
        for length in [longest - 1, longest, longest + 1] {
            let frame = make(&"x".repeat(length));
            set.frame(file, &format!("{field} of {length} bytes"), C, LIMIT, frame);
        }
    }
}

const BIND: Bind<'static> = Bind {
    route: RouteId(0),
    lane: LaneId(0),
    topic: "t",
    content_type: "",
    schema: 0,
    encoding: "",
};

fn subscribe(source: Source<'_>) -> Vec<u8> {
    let subscription = SubscriptionId(1);
    encoded(&Message::Subscribe(Subscribe {
        subscription,
        source,
        events: 1,
        bytes: 1,
        live: true,
    }))
}

fn call(service: &str, method: &str) -> Vec<u8> {
    let fields = Call {
        request: RequestId(1),
        service,
        method,
        remaining_ms: 1,
        idempotent: false,
        content_type: "",
        caller: "",
        trace: None,
    };
    encoded(&Message::Call(Body { fields, payload: &[] }))
}
