//! Frames that the protocol does not allow, and more of those it does than it allows: the FAULT the spec names comes,
//! then the session ends, or goes on where the spec says so.

use std::io::Write;

use spile_protocol::code::Code;
use spile_protocol::id::{
    LaneId, LinkSessionId, Number, Role, RouteId, Run, SubscriptionId, Version,
};
use spile_protocol::message::kind;
use spile_protocol::message::{
    Attach, Auth, Credit, Detach, End, Envelope, Extras, Hello, Lane, LinkHello, Message, Outcome,
    Ping, Proof, Registry, Settle, Source, Subscribe, Void,
};
use spile_protocol::{frame::Tag, limits};

use super::wire::{damaged, encoded, framed, head, with_payload};
use super::{Arena, last_words, lives};
use crate::e2e::{Raw, bind, event, hello};

const AUTH: Message<'static> = Message::Auth(Auth { proof: Proof::Certificate });
/// A kind nobody has: the last there can be.
const UNKNOWN: u8 = 63;
/// The same, which may be skipped.
const SKIPPED: u8 = 0x80 | UNKNOWN;

fn lane(lane: u32, first_unacked: u64, key: Option<&str>) -> Message<'_> {
    let (lane, first_unacked) = (LaneId(lane), Number(first_unacked));
    Message::Lane(Lane { lane, first_unacked, key, urgent: false })
}

fn ping() -> Message<'static> {
    Message::Ping(Ping { number: 1, answer: false })
}

/// An event that spells its number.
fn numbered(number: u64) -> Message<'static> {
    let extras = Extras { number: Some(Number(number)), ..Extras::default() };
    let Message::Event(event) = event(0, b"x") else { unreachable!() };
    Message::Event(spile_protocol::message::Event { extras, ..event })
}

/// BATCH's header: route 0, count, shape; then that many payload bytes.
fn batch(count: u64, shape: u64, payload: &[u8]) -> Vec<u8> {
    let header = [vec![0], super::wire::varint(count), super::wire::varint(shape)].concat();
    with_payload(kind::BATCH, &header, payload)
}

fn stream(subscription: u32, key: &str) -> Message<'_> {
    let source = Source::Stream { key, from: Version(1) };
    let (subscription, events, bytes) = (SubscriptionId(subscription), 1, 1);
    Message::Subscribe(Subscribe { subscription, source, events, bytes, live: true })
}

/// The session is told `code`, and nothing else, and cut.
fn is_cut(raw: &mut Raw, bytes: &[u8], code: &str, what: &str) {
    // A server that cuts in the middle of it does not take the rest.
    raw.stream.write_all(bytes).unwrap_or_default();
    assert_eq!(last_words(raw), [format!("fault {code} Session"), "closed".to_owned()], "{what}");
}

#[test]
fn a_frame_of_a_wrong_form_ends_the_session_with_its_code() {
    let arena = Arena::new();
    let max = u64::from(limits::FRAME_DEFAULT);
    let known = |message| encoded(&[message]);
    for (what, bytes, code) in [
        ("length 0", framed(kind::PING, &[]), "malformed"),
        ("an event of length 0", framed(kind::EVENT, &[]), "malformed"),
        ("limit + 1, no byte of it", head(SKIPPED, max + 1), "too-large"),
        ("2^32 - 1", head(kind::EVENT, u64::from(u32::MAX)), "too-large"),
        ("2^32", head(kind::EVENT, 1 << 32), "too-large"),
        ("an overlong length", vec![kind::PING, 0x82, 0x00, 1, 0], "malformed"),
        ("a length without an end", vec![kind::PING, 0xff, 0xff, 0xff, 0xff, 0xff], "malformed"),
        ("an overlong field", framed(kind::PING, &[0x81, 0x00, 0]), "malformed"),
        ("a boolean of 2", framed(kind::PING, &[1, 2]), "malformed"),
        ("a turned bit", damaged(known(ping())), "damaged"),
        ("a turned bit in what may be skipped", damaged(framed(SKIPPED, b"later")), "damaged"),
        ("an unknown kind", framed(UNKNOWN, b"later"), "unknown-kind"),
        ("kind 0", framed(0, &[]), "unknown-kind"),
        ("a known kind to be skipped", framed(0x80 | kind::PING, &[1, 0]), "malformed"),
        ("a second form of what has none", framed(0x40 | kind::PING, &[1, 0]), "malformed"),
        ("HELLO again", known(hello([1; 8])), "unexpected"),
        ("AUTH again", known(AUTH), "unexpected"),
        ("an event on no route", known(event(5, b"x")), "unknown-lane"),
        ("a route to no lane", known(bind(0, 9, "a/b")), "unknown-lane"),
        ("a lane from number 0", known(lane(0, 0, None)), "malformed"),
        ("credit for the server", known(credit()), "unexpected"),
    ] {
        is_cut(&mut arena.session("device"), &bytes, code, what);
    }
    arena.over("after frames of a wrong form");
}

fn credit() -> Message<'static> {
    Message::Credit(Credit { subscription: None, events: 9, bytes: 9, chunk_bytes: None })
}

#[test]
fn what_may_be_skipped_is_skipped_up_to_the_limit() {
    let arena = Arena::new();
    let mut raw = arena.session("device");
    for length in [0, 1, 5_000, usize::try_from(limits::FRAME_DEFAULT).unwrap()] {
        raw.stream.write_all(&framed(SKIPPED, &vec![0; length])).unwrap();
        lives(&mut raw, "a frame that may be skipped");
    }
    arena.over("after frames to be skipped");
}

#[test]
fn nothing_but_hello_and_auth_comes_before_authentication() {
    let arena = Arena::new();
    let with = |change: fn(&mut Hello<'_>)| {
        let Message::Hello(mut hello) = hello([1; 8]) else { unreachable!() };
        change(&mut hello);
        encoded(&[Message::Hello(hello)])
    };
    let auth = |proof| encoded(&[hello([1; 8]), Message::Auth(Auth { proof })]);
    let key = |device| Proof::DeviceKey { tenant: "main", device, nonce: [0; 16], proof: [7; 32] };
    for (what, bytes, code) in [
        ("EVENT first", encoded(&[event(0, b"x")]), "unexpected"),
        ("AUTH first", encoded(&[AUTH]), "unexpected"),
        ("PING first", encoded(&[ping()]), "unexpected"),
        ("HELLO twice", encoded(&[hello([1; 8]), hello([1; 8])]), "unexpected"),
        ("EVENT for AUTH", encoded(&[hello([1; 8]), event(0, b"x")]), "unexpected"),
        ("a link's greeting", encoded(&[link_hello()]), "unexpected"),
        ("2,049 bytes, no byte of them", head(kind::HELLO, 2_049), "too-large"),
        ("5 KiB", framed(SKIPPED, &[0; 5 * 1024]), "too-large"),
        ("5 KiB for AUTH", [with(|_| ()), head(kind::AUTH, 5 * 1024)].concat(), "too-large"),
        ("a challenge", auth(Proof::Challenge { nonce: [1; 16] }), "unexpected"),
        ("a token", auth(Proof::Token("a.b.c")), "unauthenticated"),
        ("another's wrong key", auth(key("device-9")), "unauthenticated"),
        ("frames of 511", with(|hello| hello.frame_max = 511), "invalid"),
        ("frames of a mebibyte and one", with(|hello| hello.frame_max = 1_048_577), "invalid"),
        ("no version in common", with(|hello| (hello.version, hello.oldest) = (9, 9)), "version"),
        ("versions upside down", with(|hello| hello.oldest = 2), "invalid"),
    ] {
        let mut raw = arena.connection(Some("device"));
        is_cut(&mut raw, &bytes, code, what);
    }
    // The second AUTH comes in the first flight: who sent it was let in by the first.
    let mut raw = arena.connection(Some("device"));
    welcome_of(&mut raw, &encoded(&[hello([1; 8]), AUTH, AUTH]));
    is_cut(&mut raw, &[], "unexpected", "AUTH twice");
    let mut raw = arena.connection(None);
    is_cut(&mut raw, &auth(Proof::Certificate), "unauthenticated", "no certificate");
    arena.over("after those who were not let in");
}

fn welcome_of(raw: &mut Raw, bytes: &[u8]) -> String {
    raw.stream.write_all(bytes).unwrap();
    let word = raw.shown();
    assert!(word.starts_with("Welcome"), "{word}");
    word
}

#[test]
fn a_hello_with_a_tail_of_later_versions_is_taken_up_to_the_limit() {
    let arena = Arena::new();
    let whole = encoded(&[hello([9; 8])]);
    let mut fields = whole[2..whole.len() - 4].to_vec();
    fields.resize(usize::try_from(limits::FRAME_UNAUTHENTICATED).unwrap(), 0xff);
    let mut raw = arena.connection(Some("device"));
    welcome_of(&mut raw, &[framed(kind::HELLO, &fields), encoded(&[AUTH])].concat());
    lives(&mut raw, "a HELLO of 2,048 bytes");
    arena.over("after a long HELLO");
}

fn link_hello() -> Message<'static> {
    Message::LinkHello(LinkHello {
        version: 1,
        name: "e1",
        slots: [0xff; 32],
        time_ms: 0,
        next: 0,
        oldest: 1,
        credit_events: 1,
        credit_bytes: 1,
        keep_alive_s: 5,
        software: "",
        chunk_bytes: 1,
    })
}

/// What only an edge says to a worker.
fn of_links() -> Vec<Message<'static>> {
    let (session, number) = (LinkSessionId(1), Number(1));
    vec![
        link_hello(),
        Message::Attach(Attach {
            session,
            tenant: "main",
            role: Role::Operator,
            principal: "operator",
            run: Run([1; 8]),
            receipts: false,
            trace_base: [0; 8],
            peer: "",
            frame_max: 4096,
            abandoned: Run::default(),
        }),
        Message::Detach(Detach { session, code: Code(0) }),
        Message::Envelope(Envelope {
            session,
            number,
            time_ms: 1,
            tag: Tag(kind::EVENT),
            header: &[0],
            payload: b"x",
        }),
        Message::Void(Void {
            session,
            lane: LaneId(0),
            number,
            count: 1,
            code: Code::INVALID,
            time_ms: 1,
        }),
        Message::Registry(Registry { upto: 1, whole: true, ..empty_registry() }),
    ]
}

fn empty_registry() -> Registry<'static> {
    use spile_protocol::message::List;
    Registry {
        upto: 0,
        whole: false,
        entries: List::default(),
        more: false,
        groups: List::default(),
    }
}

#[test]
fn what_only_edges_and_servers_say_is_not_taken_from_a_device() {
    let arena = Arena::new();
    for principal in ["device", "operator"] {
        for message in of_links() {
            let what = format!("{message:?} from {principal}");
            is_cut(&mut arena.session(principal), &encoded(&[message]), "unexpected", &what);
        }
    }
    for (kind, body) in [
        (kind::ACK, vec![0b110]),
        (kind::FAULT, vec![100, 0]),
        (kind::DELIVER, vec![0, 0, 1, 1, 1]),
        (kind::WELCOME, vec![1, 0, 0x80, 0x04, 1, 1]),
    ] {
        let what = format!("kind {kind} from a device");
        is_cut(&mut arena.session("device"), &framed(kind, &body), "unexpected", &what);
    }
    arena.over("after messages of others");
}

/// An operator's session with lane 1 open for a key nobody else has, and route 0 bound to it.
fn publisher(arena: &Arena, key: &str) -> Raw {
    let mut raw = arena.session("operator");
    assert_eq!(raw.open(1, Some(key), 1), Ok(0));
    raw.send(&[bind(0, 1, "attack/t")]).unwrap();
    raw
}

#[test]
fn numbers_that_cannot_be_end_the_session_and_gaps_close_the_lane() {
    let arena = Arena::new();
    for (what, bytes, code) in [
        ("number 0", encoded(&[numbered(0)]), "malformed"),
        ("a number past the last", encoded(&[numbered(u64::MAX)]), "malformed"),
        ("a number that goes back", encoded(&[numbered(3), numbered(2)]), "unexpected"),
        ("a batch of none", batch(0, 1, b""), "malformed"),
        ("a batch of 1,025", batch(1_025, 1, b""), "too-large"),
        ("a batch that does not add up", batch(3, 5, b"only nine"), "malformed"),
    ] {
        is_cut(&mut publisher(&arena, what), &bytes, code, what);
    }
    // A gap in a run that is known: the number wanted is named, and from there it goes on.
    let mut raw = publisher(&arena, "gap");
    raw.send(&[event(0, b"1")]).unwrap();
    assert!(raw.shown().starts_with("Ack"));
    raw.send(&[numbered(5)]).unwrap();
    assert_eq!(raw.shown(), "fault out-of-order Lane { lane: LaneId(1), expected: Number(2) }");
    assert_eq!(raw.open(1, Some("gap"), 2), Ok(1));
    raw.send(&[event(0, b"2")]).unwrap();
    assert!(raw.shown().starts_with("Ack"));
    // A run nobody knows does not begin at 5, nor at the last number there is.
    for number in [5, u64::MAX - 1] {
        let mut raw = publisher(&arena, "unknown run");
        raw.send(&[numbered(number)]).unwrap();
        assert_eq!(raw.shown(), "fault unknown-run Lane { lane: LaneId(1), expected: Number(1) }");
        lives(&mut raw, "an unknown run");
    }
    arena.over("after numbers that cannot be");
}

#[test]
fn more_than_the_credit_is_cut_and_all_of_it_is_taken() {
    let arena = Arena::new();
    // The whole credit, many times over, but each time when it is free.
    let mut raw = publisher(&arena, "credit");
    for _ in 0..4 {
        let tiny = batch(1, 1, b"");
        raw.stream
            .write_all(&tiny.repeat(usize::try_from(limits::CREDIT_EVENTS).unwrap()))
            .unwrap();
        let wanted = u64::from(limits::CREDIT_EVENTS);
        until_acked(&mut raw, wanted);
    }
    lives(&mut raw, "1,024 batches of one empty event, four times");
    // In one write, so that no ack can come in between.
    let mut raw = publisher(&arena, "overrun");
    let full = batch(1_024, 1, b"");
    raw.stream.write_all(&full.repeat(2)).unwrap();
    let words = last_words(&mut raw);
    assert_eq!(words[words.len() - 2..], ["fault too-fast Session", "closed"], "{words:?}");
    arena.over("after more than the credit");
}

/// Reads acks until the lane's numbers through the next multiple of `window` are acknowledged.
fn until_acked(raw: &mut Raw, window: u64) {
    loop {
        let last = raw.next(|message| match crate::e2e::acked(message) {
            Some(crate::e2e::Acked::Through(1, last)) => last,
            _ => panic!("{message:?}"),
        });
        if last.unwrap().is_multiple_of(window) {
            return;
        }
    }
}

#[test]
fn floods_of_what_costs_no_credit_are_cut() {
    let arena = Arena::new();
    let many = |message: Message<'_>, times| encoded(&[message]).repeat(times);
    let cheap = usize::try_from(limits::CHEAP_BURST + 4 * limits::CHEAP_PER_S).unwrap();
    let end = Message::End(End { subscription: SubscriptionId(3) });
    for (what, bytes) in [
        ("PINGs", many(ping(), 200)),
        ("answers nobody asked for", many(Message::Ping(Ping { number: 9, answer: true }), 200)),
        ("BINDs", many(bind(1, 1, "attack/t"), cheap)),
        ("LANEs", many(lane(2, 1, Some("flood")), cheap)),
        ("frames to be skipped", framed(SKIPPED, &[]).repeat(cheap)),
        ("settlements of nothing", many(unknown_settle(), cheap)),
        ("ENDs of nothing", many(end, cheap)),
        ("SUBSCRIBEs", (0..8_192).flat_map(|id| encoded(&[stream(id, "nobody")])).collect()),
    ] {
        let mut raw = publisher(&arena, what);
        raw.stream.write_all(&bytes).unwrap_or_default();
        let words = last_words(&mut raw);
        let end = &words[words.len().saturating_sub(2)..];
        assert_eq!(end, ["fault too-many Session", "closed"], "{what}");
    }
    arena.over("after floods");
}

fn unknown_settle() -> Message<'static> {
    let (subscription, outcome) = (SubscriptionId(40), Outcome::Seen);
    Message::Settle(Settle { subscription, delivery: 1, outcome, events: 0, reason: "" })
}

#[test]
fn one_above_a_cap_is_refused_and_the_session_goes_on() {
    let arena = Arena::new();
    let mut raw = publisher(&arena, "caps");
    let says = |raw: &mut Raw, message: Message<'_>, want: &str| {
        raw.send(&[message]).unwrap();
        assert_eq!(raw.shown(), want);
    };
    for subscription in 0..limits::SUBSCRIPTIONS {
        raw.send(&[stream(subscription, "nobody")]).unwrap();
        assert!(raw.shown().starts_with("Credit"));
    }
    says(&mut raw, stream(64, "nobody"), "fault too-many Subscription(SubscriptionId(64))");
    let lanes = limits::LANES;
    let want = |code: &str, lane: u32| {
        format!("fault {code} Lane {{ lane: LaneId({lane}), expected: Number(1) }}")
    };
    says(&mut raw, lane(lanes, 1, Some("one more")), &want("too-many", lanes));
    says(&mut raw, lane(u32::MAX, 1, Some("the last")), &want("too-many", u32::MAX));
    says(&mut raw, lane(2, 1, Some("caps")), &want("conflict", 2));
    says(&mut raw, lane(2, 1, Some("a\u{7}b")), &want("invalid", 2));
    for route in [limits::ROUTES, u32::MAX] {
        let want = format!("fault too-many Route({:?})", RouteId(route));
        says(&mut raw, bind(route, 1, "a/b"), &want);
    }
    says(&mut raw, bind(9, 1, "a//b"), "fault invalid Route(RouteId(9))");
    lives(&mut raw, "one above each cap");
    // All lanes there are.
    for id in 2..lanes {
        let key = format!("lane-{id}");
        assert_eq!(raw.open(id, Some(&key), 1), Ok(0));
    }
    lives(&mut raw, "all lanes");
    // A device has no other's lane.
    let mut device = arena.session("device");
    says(&mut device, lane(1, 1, Some("another")), &want("forbidden", 1));
    lives(&mut device, "another's key");
    arena.over("after one above each cap");
}
