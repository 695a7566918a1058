//! What strangers, broken devices and attackers do, against the real binary: each is cut or refused in time and told
//! why, and a normal publisher beside them does not notice.
//!
//! Who connects and says nothing or little is here, and who never reads; what is said is [`threats`]' `frames`, who may
//! come is its `credentials`. `SPILE_FULL=1` takes 5,000 connections instead of 1,100, and waits for the 30 s of
//! AUTH too.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, and shows what it saw"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect is shown as it is")]

mod e2e;
mod threats;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::{bind, event, hello};
use spile_protocol::id::SubscriptionId;
use spile_protocol::limits;
use spile_protocol::message::{Auth, From, Message, Proof, Source, Subscribe};
use threats::{Arena, files, full, is_open, last_words, rest, wire};

/// What a cut that is due now may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Connections that drip a byte a second.
const DRIPPING: usize = 64;

fn clock() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a deadline of the server is what is measured")]
    Instant::now()
}

/// Drips a ClientHello, a byte a second on each, until the first is cut: after how long.
fn drip(sockets: &mut [TcpStream], from: Instant) -> Duration {
    for byte in wire::client_hello_of_tls12() {
        for socket in &mut *sockets {
            // Who is cut already can't be written to; who was cut when is read below.
            socket.write_all(&[byte]).unwrap_or_default();
        }
        if rest(&mut sockets[0], Duration::from_secs(1)).is_some() {
            break;
        }
    }
    from.elapsed()
}

/// `count` that are silent and some that drip; `cap` of them may be there at once.
fn crowd(arena: &Arena, count: usize, cap: usize) {
    let first = clock();
    let mut silent: Vec<_> = (1..count - DRIPPING).map(|_| arena.socket()).collect();
    let from = clock();
    silent.push(arena.socket());
    let mut dripping: Vec<_> = (0..DRIPPING).map(|_| arena.socket()).collect();
    let metric = |name: &str| usize::try_from(arena.server.metric(name)).unwrap();
    // All of them, and the publisher.
    while metric("spile_edge_connections_total") < count + 1 {}
    assert!(metric("spile_edge_half_open") <= cap);
    // On a machine so slow that the deadline is over, who is cut does not tell the cap from the deadline.
    let cap_alone = first.elapsed() < hello_deadline();
    let (too_many, rest_of_them) = silent.split_at_mut(count - cap);
    for socket in too_many {
        let cut = rest(socket, AT_ONCE);
        assert!(cut.is_some(), "one above the cap is cut");
        assert!(!cap_alone || cut == Some(Vec::new()), "one above the cap is cut at once");
    }
    // Some of those below were pushed out by the sessions of who looks whether the server is well.
    arena.is_unharmed("a crowd that says nothing");
    let open = is_open(rest_of_them.last().unwrap());
    assert!(open || from.elapsed() >= hello_deadline(), "cut before its time");
    let cut = drip(&mut dripping, from);
    assert!(cut + Duration::from_millis(500) > hello_deadline(), "cut after {cut:?} only");
    assert!(cut < hello_deadline() + AT_ONCE, "cut after {cut:?}");
    for socket in rest_of_them.iter_mut().chain(&mut dripping) {
        assert!(rest(socket, AT_ONCE).is_some(), "a connection without a ClientHello stays");
    }
    assert!(from.elapsed() < hello_deadline() + 2 * AT_ONCE);
}

fn hello_deadline() -> Duration {
    Duration::from_secs(u64::from(limits::CLIENT_HELLO_S))
}

/// A module behind NB-IoT takes longer for its ClientHello than anybody else may.
#[test]
fn a_slow_listener_waits_longer_and_not_for_ever() {
    let arena = Arena::with(&[("SPILED_LISTEN_SLOW", "true")]);
    let from = clock();
    let mut silent = arena.socket();
    let slow = Duration::from_secs(u64::from(limits::SLOW_CLIENT_HELLO_S));
    assert!(
        rest(&mut silent, hello_deadline() + Duration::from_secs(2)).is_none(),
        "cut too early"
    );
    assert!(rest(&mut silent, slow + AT_ONCE).is_some(), "a silent connection stays");
    assert!(from.elapsed() + Duration::from_millis(500) > slow);
    arena.over("a slow listener");
}

#[test]
fn a_crowd_that_says_nothing_or_a_byte_a_second_is_cut() {
    let (count, cap) =
        if full() { (5_000, limits::HALF_OPEN) } else { (1_100, limits::HALF_OPEN_ADDRESS) };
    files(u64::try_from(count).unwrap() + 256);
    let address = cap.to_string();
    // All of them come from one address: its share is all there is, where the cap of all is looked at.
    let arena = Arena::with(&[("SPILED_LIMITS_HALF_OPEN_PER_ADDRESS", &address)]);
    crowd(&arena, count, usize::try_from(cap).unwrap());
    arena.over("after the crowd");
}

#[test]
fn who_never_reads_costs_a_bounded_memory() {
    const LARGE: usize = 200 * 1024;
    let arena = Arena::new();
    let mut publisher = arena.session("operator");
    assert_eq!(publisher.open(1, Some("large"), 1), Ok(0));
    publisher.send(&[bind(0, 1, "large/t")]).unwrap();
    for seed in 1..=100 {
        publisher.send(&[event(0, &wire::garbage(seed, LARGE))]).unwrap();
        assert!(publisher.shown().contains("Spelled"));
    }
    let mut readers: Vec<_> = (0..4).map(|_| arena.session("operator")).collect();
    for reader in &mut readers {
        for subscription in 0..limits::SUBSCRIPTIONS {
            reader.send(&[everything(subscription)]).unwrap();
        }
    }
    arena.is_unharmed("64 subscriptions each, and nothing read");
    // What waits for them is given back with them.
    for reader in &mut readers {
        assert!(reader.shown().starts_with("Credit"), "it was cut");
    }
    drop(readers);
    arena.over("after those who never read");
}

/// All there is and all that comes, with a window nobody needs.
fn everything(subscription: u32) -> Message<'static> {
    let source = Source::Filter { filter: "#", key: None, from: From::Start };
    let (subscription, events, bytes) = (SubscriptionId(subscription), u32::MAX, u32::MAX);
    Message::Subscribe(Subscribe { subscription, source, events, bytes, live: true })
}

/// The short form is over with the frame's deadline, before that of AUTH: that this one is kept too is
/// `who_says_nothing_is_cut_in_time` of the edge's own tests, where nobody waits for the clock.
#[test]
fn a_frame_without_an_end_and_tls_without_auth_are_told_their_deadline() {
    let arena = Arena::new();
    let from = clock();
    let mut silent = arena.connection(Some("device"));
    let mut half = arena.session("operator");
    half.stream.write_all(&wire::head(10, 100)).unwrap();
    assert_eq!(last_words(&mut half), ["fault deadline Session", "closed"]);
    let frame = Duration::from_secs(u64::from(limits::FRAME_S));
    assert!(from.elapsed() >= frame && from.elapsed() < frame + AT_ONCE, "{:?}", from.elapsed());
    let auth = Duration::from_secs(u64::from(limits::AUTH_S));
    let waits = hears_nothing(&mut silent);
    assert!(waits || from.elapsed() >= auth, "cut before its time, after {:?}", from.elapsed());
    if full() {
        silent.stream.sock.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(last_words(&mut silent), ["fault deadline Session", "closed"]);
        assert!(from.elapsed() >= auth && from.elapsed() < auth + AT_ONCE, "{:?}", from.elapsed());
    }
    drop(silent);
    arena.over("after those who took too long");
}

/// Is nothing said to it at the moment, and is it not cut?
fn hears_nothing(raw: &mut e2e::Raw) -> bool {
    raw.stream.sock.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let waits = |kind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut);
    raw.stream.read(&mut [0]).is_err_and(|error| waits(error.kind()))
}

#[test]
fn garbage_before_tls_is_cut_at_once() {
    let arena = Arena::new();
    let plain = wire::encoded(&[hello([1; 8]), Message::Auth(Auth { proof: Proof::Certificate })]);
    // A handshake message that says it has 16 MiB, in whole records.
    let endless: Vec<u8> =
        std::iter::once([&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[7; 0x3ffc]].concat())
            .chain((0..63).map(|_| [&[22, 3, 1, 0x40, 0][..], &[7; 0x4000]].concat()))
            .flatten()
            .collect();
    let mut attacks = vec![
        ("frames without TLS".to_owned(), plain),
        ("HTTP".to_owned(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a record longer than any".to_owned(), vec![22, 3, 1, 0xff, 0xff, 1, 0, 0, 0]),
        ("a ClientHello of 16 MiB".to_owned(), endless),
    ];
    attacks.extend((1..=64).map(|seed| {
        // The first bytes of garbage may be the beginning of a long record; as a record's kind they never are.
        let mut bytes = wire::garbage(seed, 600);
        bytes[0] |= 0x80;
        (format!("garbage {seed}"), bytes)
    }));
    for (what, bytes) in attacks {
        let mut socket = arena.socket();
        // It may be cut while it still writes.
        socket.write_all(&bytes).unwrap_or_default();
        let answer = rest(&mut socket, AT_ONCE).unwrap_or_else(|| panic!("{what} is not cut"));
        assert!(answer.is_empty() || answer[0] == 21, "{what}: answered with no alert: {answer:?}");
    }
    arena.over("after garbage before TLS");
}

#[test]
fn garbage_inside_tls_is_told_and_cut() {
    let arena = Arena::new();
    let yours = ["malformed", "damaged", "too-large", "unknown-kind", "unexpected"];
    for seed in 1..=32 {
        let mut raw = arena.connection(Some("device"));
        let mut bytes = wire::garbage(seed, 4_096);
        if seed % 2 == 0 {
            // Behind a session that was let in, with all that a frame may take.
            raw = arena.session("device");
            bytes = wire::garbage(seed, 300_000);
        }
        raw.stream.write_all(&bytes).unwrap_or_default();
        let words = last_words(&mut raw);
        let told = yours.iter().any(|code| words[0] == format!("fault {code} Session"));
        assert!(told && words.len() == 2, "seed {seed}: {words:?}");
    }
    for seed in 1..=8 {
        let mut raw = arena.session("device");
        let mut record = wire::garbage(seed, 100);
        record[..5].copy_from_slice(&[23, 3, 3, 0, 95]);
        raw.stream.sock.write_all(&record).unwrap();
        raw.stream.sock.set_read_timeout(Some(AT_ONCE)).unwrap();
        let ended = raw.stream.read(&mut [0; 64]);
        let why = ended.as_ref().map_err(ToString::to_string);
        assert!(matches!(&why, Err(text) if text.contains("BadRecordMac")), "{why:?}");
    }
    arena.over("after garbage inside TLS");
}
