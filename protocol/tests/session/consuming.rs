//! Subscriptions, settling and requests: the credit of what goes down.

use spile_protocol::{
    code::Code,
    id::{Position, RequestId, SubscriptionId, Version},
    message::{
        Body, Call, Credit, Deliver, End, Extras, Fault, From, Lengths, Message, Outcome, Reply,
        Scope, Settle, Source, Subscribe, deliver::Kind,
    },
    session::{
        Amount,
        device::Refusal,
        edge::{Config, Told},
    },
    time::Millis,
};

use crate::talk::{Talk, has};

const SUBSCRIPTION: SubscriptionId = SubscriptionId(9);

fn deliver(version: u64, payload: &[u8]) -> Message<'_> {
    Message::Deliver(Deliver {
        subscription: SUBSCRIPTION,
        key: Some("pump-7"),
        topic: Some("telemetry/temp"),
        kind: Some(Kind { content_type: "text/plain", schema: 3, encoding: "" }),
        worker: Some("w1"),
        attempt: 1,
        version: Version(version),
        position: Position(version),
        time: Millis(1),
        lengths: Lengths::one(u32::try_from(payload.len()).unwrap()),
        extras: Extras::default(),
        payload,
    })
}

fn block(version: u64, events: u32) -> Message<'static> {
    let payload = &[7; 100][..usize::try_from(events).unwrap()];
    let Message::Deliver(one) = deliver(version, payload) else { panic!("a delivery") };
    Message::Deliver(Deliver { lengths: Lengths::same(events, 1), ..one })
}

const GROUP: Source<'static> = Source::Group { name: "billing", max_events: 10, max_bytes: 1000 };
const FILTER: Source<'static> =
    Source::Filter { filter: "telemetry/#", key: None, from: From::Start };

fn subscribed(source: Source<'_>, events: u32, bytes: u32) -> Talk {
    let (mut talk, _) = Talk::open(Config::default());
    let subscribe = Subscribe { subscription: SUBSCRIPTION, source, events, bytes, live: true };
    talk.verb(|device, out| device.subscribe(&subscribe, out)).unwrap();
    assert!(has(&talk.up(), "Subscribe"));
    // spec §8.1.1: deliveries come behind the answer.
    assert_eq!(talk.tell(&deliver(1, b"x")), Told::NoCredit);
    window(&mut talk, events, bytes);
    talk
}

fn window(talk: &mut Talk, events: u32, bytes: u32) {
    let credit = Credit { subscription: Some(SUBSCRIPTION), events, bytes, chunk_bytes: None };
    assert_eq!(talk.tell(&Message::Credit(credit)), Told::Said);
    assert!(has(&talk.down(), "SubscriptionOpen"));
}

const fn settle(delivery: u64, outcome: Outcome, events: u32) -> Settle<'static> {
    Settle { subscription: SUBSCRIPTION, delivery, outcome, events, reason: "" }
}

#[test]
fn names_are_spelled_once_and_known_to_both() {
    let mut talk = subscribed(FILTER, 10, 1000);
    let mut sizes = Vec::new();
    for version in 1..=2 {
        let before = talk.down.len();
        assert_eq!(talk.tell(&deliver(version, b"21.5")), Told::Delivered(version));
        sizes.push(talk.down.len() - before);
        talk.down();
        let spelled = talk.device.spelled(SUBSCRIPTION).unwrap();
        assert_eq!(
            (spelled.key, spelled.topic, spelled.worker),
            ("pump-7", "telemetry/temp", "w1")
        );
        assert_eq!(spelled.kind, Kind { content_type: "text/plain", schema: 3, encoding: "" });
    }
    assert!(sizes[1] + 30 < sizes[0], "{sizes:?}");
    let Message::Deliver(other) = deliver(3, b"x") else { panic!("a delivery") };
    let _told = talk.tell(&Message::Deliver(Deliver { key: Some("pump-8"), ..other }));
    talk.down();
    assert_eq!(talk.device.spelled(SUBSCRIPTION).unwrap().key, "pump-8");
}

#[test]
fn deliveries_wait_for_credit_and_seen_frees_all_up_to_it() {
    let mut talk = subscribed(FILTER, 3, 1000);
    for version in 1..=3 {
        assert_eq!(talk.tell(&deliver(version, b"x")), Told::Delivered(version));
    }
    assert_eq!(talk.tell(&deliver(4, b"x")), Told::NoCredit);
    talk.down();
    talk.verb(|device, out| device.seen(SUBSCRIPTION, 2, out)).unwrap();
    talk.up();
    assert_eq!(talk.edge.delivery_room(SUBSCRIPTION), Some(Amount { events: 2, bytes: 999 }));
    assert_eq!(talk.tell(&deliver(4, b"x")), Told::Delivered(4));
    assert_eq!(
        talk.verb(|device, out| device.seen(SUBSCRIPTION, 5, out)),
        Err(Refusal::Unknown("the delivery"))
    );
}

/// spec §6.5: who has little credit says it for each delivery, as fast as they come.
#[test]
fn seen_that_frees_something_is_not_budgeted_and_any_other_is() {
    let many = u64::from(spile_protocol::limits::CHEAP_BURST) + 1_000;
    let mut talk = subscribed(FILTER, 1, 1000);
    for version in 1..=many {
        assert_eq!(talk.tell(&deliver(version, b"x")), Told::Delivered(version));
        talk.down();
        talk.verb(|device, out| device.seen(SUBSCRIPTION, version, out)).unwrap();
        talk.up();
    }
    assert_eq!(talk.closed(), None);
    for _ in 0..many {
        talk.verb(|device, out| device.seen(SUBSCRIPTION, many, out)).unwrap();
        talk.up();
        if talk.closed().is_some() {
            break;
        }
    }
    assert_eq!(talk.closed(), Some(Code::TOO_MANY));
}

#[test]
fn a_run_larger_than_the_window_goes_alone() {
    let mut talk = subscribed(GROUP, 3, 10);
    assert_eq!(talk.tell(&block(1, 50)), Told::Delivered(1));
    assert_eq!(talk.tell(&deliver(51, b"x")), Told::NoCredit);
    talk.down();
    talk.verb(|device, out| device.settle(&settle(1, Outcome::Done, 0), out)).unwrap();
    talk.up();
    assert_eq!(talk.tell(&deliver(51, b"x")), Told::Delivered(2));
}

#[test]
fn a_run_is_settled_in_parts_and_free_with_its_last() {
    let mut talk = subscribed(GROUP, 5, 1000);
    assert_eq!(talk.tell(&block(1, 5)), Told::Delivered(1));
    talk.down();
    for (outcome, events, room) in
        [(Outcome::Done, 3, 0), (Outcome::Reject, 1, 0), (Outcome::Retry { after_ms: 0 }, 1, 5)]
    {
        talk.verb(|device, out| device.settle(&settle(1, outcome, events), out)).unwrap();
        assert!(has(&talk.up(), "Settle"));
        assert_eq!(talk.edge.delivery_room(SUBSCRIPTION).unwrap().events, room, "{outcome:?}");
        // That it is durable changes nothing: the credit was free when it was sent.
        let _told = talk.tell(&Message::Settle(settle(1, outcome, events)));
        assert!(has(&talk.down(), "Settled"));
        assert_eq!(talk.edge.delivery_room(SUBSCRIPTION).unwrap().events, room);
    }
}

#[test]
fn a_retry_settles_all_that_is_left_whatever_it_counts() {
    let mut talk = subscribed(GROUP, 5, 1000);
    let _told = talk.tell(&block(1, 5));
    talk.down();
    talk.verb(|device, out| device.settle(&settle(1, Outcome::Retry { after_ms: 9 }, 1), out))
        .unwrap();
    talk.up();
    assert_eq!(talk.edge.delivery_room(SUBSCRIPTION).unwrap().events, 5);
}

#[test]
fn deliveries_are_settled_in_any_order() {
    let mut talk = subscribed(GROUP, 3, 1000);
    for version in 1..=3 {
        let _told = talk.tell(&deliver(version, b"x"));
    }
    talk.down();
    for (delivery, room) in [(2, 1), (3, 2), (3, 2), (1, 3)] {
        talk.verb(|device, out| device.settle(&settle(delivery, Outcome::Done, 0), out)).unwrap();
        talk.up();
        assert_eq!(talk.edge.delivery_room(SUBSCRIPTION).unwrap().events, room, "{delivery}");
    }
}

#[test]
fn settling_what_was_never_delivered_or_in_the_wrong_words_ends_the_session() {
    for (source, settled) in [
        (GROUP, settle(2, Outcome::Done, 0)),
        (GROUP, settle(0, Outcome::Done, 0)),
        (GROUP, settle(1, Outcome::Seen, 0)),
        (FILTER, settle(1, Outcome::Done, 0)),
        (FILTER, settle(2, Outcome::Seen, 0)),
    ] {
        let mut talk = subscribed(source, 3, 1000);
        let _told = talk.tell(&deliver(1, b"x"));
        talk.say(&Message::Settle(settled));
        assert_eq!(talk.closed(), Some(Code::UNEXPECTED), "{settled:?}");
    }
    let mut talk = subscribed(Source::Inbox, 3, 1000);
    let _told = talk.tell(&deliver(1, b"x"));
    talk.say(&Message::Settle(settle(1, Outcome::Seen, 0)));
    talk.say(&Message::Settle(settle(1, Outcome::Done, 0)));
    assert_eq!(talk.closed(), None);
}

#[test]
fn an_ended_subscription_delivers_nothing_and_its_number_is_free_behind_the_servers_end() {
    let mut talk = subscribed(FILTER, 3, 1000);
    talk.verb(|device, out| device.end(SUBSCRIPTION, out)).unwrap();
    assert!(has(&talk.up(), "End"));
    assert_eq!(talk.tell(&deliver(1, b"x")), Told::Dropped);
    let _told = talk.tell(&Message::End(End { subscription: SUBSCRIPTION }));
    assert!(has(&talk.down(), "Ended"));
    let subscribe =
        Subscribe { subscription: SUBSCRIPTION, source: FILTER, events: 1, bytes: 1, live: true };
    talk.verb(|device, out| device.subscribe(&subscribe, out)).unwrap();
    assert!(has(&talk.up(), "Subscribe"));
}

#[test]
fn a_delivery_the_client_cannot_take_ends_its_subscription() {
    let mut config = spile_protocol::session::device::Config::new(
        spile_protocol::id::Run([1; 8]),
        spile_protocol::session::device::Credential::Certificate,
        "test/1",
    );
    config.frame_max = 1024;
    let device = spile_protocol::session::device::Device::new(
        config,
        spile_protocol::session::device::Growable::new(10, 1000),
    );
    let mut talk =
        Talk::new(device, Config::default(), spile_protocol::session::device::Channel::Tls(None));
    talk.both();
    let subscribe = Subscribe {
        subscription: SUBSCRIPTION,
        source: FILTER,
        events: 9,
        bytes: 9999,
        live: true,
    };
    talk.verb(|device, out| device.subscribe(&subscribe, out)).unwrap();
    talk.up();
    window(&mut talk, 9, 9999);
    assert_eq!(talk.tell(&deliver(1, &[7; 900])), Told::Delivered(1), "it fits with its header");
    assert_eq!(talk.tell(&deliver(2, &[7; 1100])), Told::TooLong);
    let heard = talk.down();
    assert!(has(&heard, "Deliver") && has(&heard, "Failed"), "{heard:?}");
}

#[test]
fn a_question_is_answered_once() {
    let (mut talk, _) = Talk::open(Config::default());
    let fields = Call {
        request: RequestId(4),
        service: "echo",
        method: "say",
        remaining_ms: 1000,
        idempotent: false,
        content_type: "",
        caller: "",
        trace: None,
    };
    let call = Message::Call(Body { fields, payload: b"hi" });
    talk.verb(|device, out| device.request(&call, spile_protocol::crc::of(b"hi"), out)).unwrap();
    assert!(has(&talk.up(), "Call"));
    let answer = |more| {
        let fields =
            Reply { request: RequestId(4), code: Code(0), more, content_type: "", detail: "" };
        Message::Reply(Body { fields, payload: b"hi" })
    };
    for (more, told) in [(true, Told::Said), (false, Told::Said), (false, Told::Dropped)] {
        assert_eq!(talk.tell(&answer(more)), told);
    }
    let fault = Fault {
        code: Code::TIMED_OUT,
        scope: Scope::Request(RequestId(4)),
        retry: true,
        retry_after_ms: 0,
        detail: "",
    };
    assert_eq!(talk.tell(&Message::Fault(fault)), Told::Dropped);
}

#[test]
fn a_server_that_goes_away_waits_for_the_answer_to_a_call() {
    let (mut talk, _) = Talk::open(Config::default());
    let fields = Call {
        request: RequestId(1),
        service: "echo",
        method: "say",
        remaining_ms: 1000,
        idempotent: false,
        content_type: "",
        caller: "user/ada",
        trace: None,
    };
    assert_eq!(talk.tell(&Message::Call(Body { fields, payload: b"hi" })), Told::Said);
    talk.edge.goaway(talk.now, Code::SHUTDOWN, 0, std::time::Duration::from_secs(10));
    assert!(has(&talk.down(), "GoAway"));
    assert_eq!(talk.closed(), None, "the call is in flight");
    let fields =
        Reply { request: RequestId(1), code: Code(0), more: false, content_type: "", detail: "" };
    let reply = Message::Reply(Body { fields, payload: b"ho" });
    talk.verb(|device, out| device.reply(&reply, spile_protocol::crc::of(b"ho"), out)).unwrap();
    assert!(has(&talk.up(), "Reply"));
    talk.down();
    assert_eq!(talk.closed(), Some(Code::SHUTDOWN));
}

#[test]
fn a_call_to_a_client_is_answered_once() {
    let (mut talk, _) = Talk::open(Config::default());
    let fields = Call {
        request: RequestId(1),
        service: "echo",
        method: "say",
        remaining_ms: 1000,
        idempotent: false,
        content_type: "",
        caller: "user/ada",
        trace: None,
    };
    assert_eq!(talk.tell(&Message::Call(Body { fields, payload: b"hi" })), Told::Said);
    assert!(has(&talk.down(), "Call"));
    let fields =
        Reply { request: RequestId(1), code: Code(0), more: false, content_type: "", detail: "" };
    let reply = Message::Reply(Body { fields, payload: b"ho" });
    talk.verb(|device, out| device.reply(&reply, spile_protocol::crc::of(b"ho"), out)).unwrap();
    assert!(has(&talk.up(), "Reply"));
    talk.verb(|device, out| device.reply(&reply, spile_protocol::crc::of(b"ho"), out)).unwrap();
    assert!(talk.up().is_empty(), "a second answer goes nowhere");
}
