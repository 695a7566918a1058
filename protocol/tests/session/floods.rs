//! Floods of what is cheap for a peer: each ends the session, in bounded memory, and what a fair client does never does.

use std::time::Duration;

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RequestId, RouteId, SubscriptionId, Version},
    limits,
    message::{
        Abort, Batch, Bind, Body, Credit, End, Extras, Get, Lane, Lengths, Listing, Message, Open,
        Ping, Seal, Source, Subscribe, Target, Value, request::List,
    },
    session::edge::{Config, Told},
};

use crate::talk::Talk;

/// How many of them are taken before the session ends; at most `most`.
fn flood(most: usize, message: impl Fn(u32) -> Message<'static>) -> (usize, Option<Code>) {
    let (mut talk, _) = Talk::open(Config::default());
    for at in 0..most {
        talk.say(&message(u32::try_from(at).unwrap()));
        if let Some(code) = talk.closed() {
            return (at, Some(code));
        }
    }
    (most, None)
}

fn check(name: &str, most: u32, message: impl Fn(u32) -> Message<'static>) {
    let (taken, code) = flood(20_000, message);
    assert_eq!(code, Some(Code::TOO_MANY), "{name}: {taken} were taken");
    assert!(taken <= usize::try_from(most).unwrap(), "{name}: {taken} were taken");
}

#[test]
fn every_flood_ends() {
    let burst = limits::CHEAP_BURST;
    check("pings", limits::PING_BURST, |number| Message::Ping(Ping { number, answer: false }));
    check("answers nobody asked for", limits::PING_BURST, |number| {
        Message::Ping(Ping { number, answer: true })
    });
    check("lanes", burst, |at| {
        let key = Box::leak(format!("key {at}").into_boxed_str());
        Message::Lane(Lane {
            lane: LaneId(at + 1),
            first_unacked: Number(1),
            key: Some(key),
            urgent: false,
        })
    });
    check("one lane", burst, |_| {
        Message::Lane(Lane {
            lane: LaneId(1),
            first_unacked: Number(1),
            key: Some("a"),
            urgent: false,
        })
    });
    check("binds", burst, |at| {
        let (lane, topic, content_type, schema, encoding) = (LaneId(0), "t", "", 0, "");
        Message::Bind(Bind { route: RouteId(at), lane, topic, content_type, schema, encoding })
    });
    check("opens", burst, |upload| {
        let (key, name, content_type, meta) =
            (None, "", "", spile_protocol::message::List::default());
        Message::Open(Open { upload, id: [0; 16], size: 1, key, name, content_type, meta })
    });
    check("aborts", burst, |upload| Message::Abort(Abort { upload }));
    check("subscriptions", burst, |at| {
        let (subscription, source) = (SubscriptionId(at), Source::Inbox);
        Message::Subscribe(Subscribe { subscription, source, events: 1, bytes: 1, live: true })
    });
    check("ends", burst, |at| Message::End(End { subscription: SubscriptionId(at) }));
    check("credits", burst, |at| {
        let subscription = Some(SubscriptionId(at));
        Message::Credit(Credit { subscription, events: at, bytes: 1, chunk_bytes: None })
    });
    check("lists", burst, |at| {
        let (request, listing, prefix, after, limit) = (RequestId(at), Listing::Blobs, "", "", 1);
        Message::List(List { request, listing, prefix, after, limit })
    });
    check("frames to be skipped", burst, |_| Message::Skipped(60));
}

/// So many are taken, the next one is answered with a fault, and the session goes on.
fn cap(most: usize, message: impl Fn(u32) -> Message<'static>) {
    let (mut talk, _) = Talk::open(Config::default());
    for at in 0..=most {
        let heard = talk.say(&message(u32::try_from(at).unwrap()));
        assert_eq!(heard.is_empty(), at == most, "{at}: {heard:?}");
    }
    assert!(talk.edge.wants_transmit());
    assert_eq!(talk.closed(), None);
}

#[test]
fn every_table_has_its_cap() {
    cap(limits::UPLOADS, |upload| {
        let (key, name, content_type, meta) =
            (None, "", "", spile_protocol::message::List::default());
        Message::Open(Open { upload, id: [0; 16], size: 1, key, name, content_type, meta })
    });
    cap(usize::try_from(limits::SUBSCRIPTIONS).unwrap(), |at| {
        let (subscription, source) = (SubscriptionId(at), Source::Inbox);
        Message::Subscribe(Subscribe { subscription, source, events: 1, bytes: 1, live: true })
    });
    cap(limits::REQUESTS, |at| {
        let (request, listing, prefix, after, limit) = (RequestId(at), Listing::Blobs, "", "", 1);
        Message::List(List { request, listing, prefix, after, limit })
    });
    cap(usize::try_from(limits::ROUTES).unwrap() - 1, |at| {
        let (lane, topic, content_type, schema, encoding) = (LaneId(0), "t", "", 0, "");
        Message::Bind(Bind { route: RouteId(at + 1), lane, topic, content_type, schema, encoding })
    });
}

#[test]
fn who_asks_and_never_reads_ends() {
    let (mut talk, _) = Talk::open(Config::default());
    for at in 0..10_000 {
        talk.after(Duration::from_millis(10));
        let (request, listing, prefix, after, limit) = (RequestId(at), Listing::Blobs, "", "", 1);
        talk.say(&Message::List(List { request, listing, prefix, after, limit }));
    }
    assert_eq!(talk.closed(), Some(Code::TOO_MANY));
}

/// In no time at all: nothing is gained by waiting.
#[test]
fn who_waits_for_each_answer_asks_as_often_as_it_likes() {
    let (mut talk, _) = Talk::open(Config::default());
    for at in 0..3 * limits::CHEAP_BURST {
        let request = RequestId(at);
        let target = Target::State { key: "d1", topic: "state/on" };
        let get = Get { request, target, newer_than: Version(0), at_least: Version(0), wait_ms: 0 };
        talk.say(&Message::Get(get));
        for more in [true, false] {
            let fields = Value { request, more, absent: true, ..Value::default() };
            let told = talk.tell(&Message::Value(Body { fields, payload: &[] }));
            assert_eq!(told, Told::Said, "{at}");
        }
        talk.down.clear();
    }
    assert_eq!(talk.closed(), None);
}

#[test]
fn seals_of_nothing_are_dropped_and_cost_nothing() {
    let (taken, code) =
        flood(5000, |upload| Message::Seal(Seal { upload, size: 1, blake3: [0; 32] }));
    assert!(code.is_none_or(|code| code == Code::TOO_MANY), "{taken} {code:?}");
}

#[test]
fn batches_of_empty_payloads_are_events_like_others() {
    let (taken, code) = flood(20_000, |_| {
        let (lengths, extras, payload) = (Lengths::same(1024, 0), Extras::default(), &[][..]);
        Message::Batch(Batch { route: RouteId(0), lengths, extras, payload })
    });
    assert_eq!(code, Some(Code::TOO_FAST), "{taken}");
    assert!(taken <= 1);
}

#[test]
fn a_fair_client_with_all_its_lanes_and_routes_is_not_a_flood() {
    let (mut talk, _) = Talk::open(Config::default());
    for at in 1..limits::LANES {
        let key = format!("key {at}");
        talk.say(&Message::Lane(Lane {
            lane: LaneId(at),
            first_unacked: Number(1),
            key: Some(&key),
            urgent: false,
        }));
        let (topic, content_type, schema, encoding) = ("t", "", 0, "");
        talk.say(&Message::Bind(Bind {
            route: RouteId(at),
            lane: LaneId(at),
            topic,
            content_type,
            schema,
            encoding,
        }));
    }
    assert_eq!(talk.closed(), None);
}

#[test]
fn a_ping_now_and_then_for_a_day_is_not_a_flood() {
    let (mut talk, _) = Talk::open(Config::default());
    for number in 0..10_000 {
        talk.after(Duration::from_secs(9));
        talk.say(&Message::Ping(Ping { number, answer: false }));
    }
    assert_eq!(talk.closed(), None);
}

#[test]
fn events_pay_for_cheap_frames() {
    // A client that opens a lane anew for each key it publishes under, for ever.
    let (mut talk, _) = Talk::open(Config::default());
    for at in 0..20_000_u64 {
        let key = format!("key {at}");
        let lane = LaneId(1);
        talk.say(&Message::Lane(Lane {
            lane,
            first_unacked: Number(1),
            key: Some(&key),
            urgent: false,
        }));
        let (topic, content_type, schema, encoding) = ("t", "", 0, "");
        if at == 0 {
            talk.say(&Message::Bind(Bind {
                route: RouteId(1),
                lane,
                topic,
                content_type,
                schema,
                encoding,
            }));
        }
        let event = spile_protocol::message::Event {
            route: RouteId(1),
            extras: Extras::default(),
            payload: b"x",
        };
        talk.say(&Message::Event(event));
        let answer = spile_protocol::message::LaneAnswer {
            lane,
            last: Some(Number(0)),
            worker: "",
            refused: spile_protocol::message::List::default(),
            receipts: spile_protocol::message::List::default(),
            uploads: spile_protocol::message::List::default(),
            inbox: spile_protocol::id::Version(0),
        };
        let _told = talk.tell(&Message::LaneAnswer(answer));
        let (durability, last, receipts) = (
            spile_protocol::message::Durability::Stored,
            Number(1),
            spile_protocol::message::List::default(),
        );
        let _told = talk.tell(&Message::Ack(spile_protocol::message::Ack::Spelled {
            durability,
            lane,
            last,
            receipts,
        }));
        talk.down.clear();
        assert_eq!(talk.closed(), None, "{at}");
    }
}
