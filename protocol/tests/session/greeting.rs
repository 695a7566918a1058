//! Greetings, proofs, deadlines, silence, goodbyes.

use std::time::Duration;

use spile_protocol::{
    code::Code,
    id::Run,
    limits,
    message::{Auth, GoAway, Hello, Message, Ping, Proof, Welcome},
    session::{
        Transmit,
        device::{Channel, Credential},
        edge::{Admission, Config, Input, Session},
        key::{self, Binding, Signed},
    },
    time::{Instant, Millis},
};

use crate::talk::{Talk, device, device_of, has};

const HELLO: Hello<'static> = Hello {
    version: 1,
    oldest: 1,
    frame_max: 4096,
    run: Run([1; 8]),
    receipts: false,
    keep_alive_s: 10,
    software: "test/1",
    abandoned: Run([0; 8]),
};

fn session() -> Session {
    Session::new(Instant(0), Config::default())
}

fn give(session: &mut Session, messages: &[Message<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.put(message, 0).unwrap();
    }
    let mut rest = &bytes[..];
    while session.handle_input(Instant(0), &mut rest).is_some() {}
    rest.to_vec()
}

const CERTIFICATE: Message<'static> = Message::Auth(Auth { proof: Proof::Certificate });

#[test]
fn a_hello_that_cannot_be_agreed_to_is_refused() {
    for (hello, want) in [
        (Hello { version: 0, oldest: 0, ..HELLO }, Some(Code::VERSION)),
        (Hello { version: 9, oldest: 2, ..HELLO }, Some(Code::VERSION)),
        (Hello { version: 1, oldest: 2, ..HELLO }, Some(Code::INVALID)),
        (Hello { version: 9, oldest: 1, ..HELLO }, None),
        (Hello { frame_max: limits::FRAME_MIN - 1, ..HELLO }, Some(Code::INVALID)),
        (Hello { frame_max: limits::FRAME_MIN, ..HELLO }, None),
        (Hello { frame_max: limits::FRAME_MAX, ..HELLO }, None),
        (Hello { frame_max: limits::FRAME_MAX + 1, ..HELLO }, Some(Code::INVALID)),
        (Hello { keep_alive_s: 86_400, ..HELLO }, None),
        (Hello { keep_alive_s: 86_401, ..HELLO }, Some(Code::INVALID)),
        (Hello { keep_alive_s: 0, ..HELLO }, None),
    ] {
        let mut session = session();
        give(&mut session, &[Message::Hello(hello)]);
        assert_eq!(session.close_reason(), want, "{hello:?}");
    }
}

#[test]
fn messages_out_of_turn_end_a_greeting() {
    let ping = Message::Ping(Ping { number: 1, answer: false });
    let hello = Message::Hello(HELLO);
    let challenge = Message::Auth(Auth { proof: Proof::Challenge { nonce: [0; 16] } });
    for messages in [
        vec![ping],
        vec![hello, ping],
        vec![hello, hello],
        vec![CERTIFICATE],
        vec![hello, challenge],
    ] {
        let mut session = session();
        give(&mut session, &messages);
        assert_eq!(session.close_reason(), Some(Code::UNEXPECTED), "{messages:?}");
    }
}

#[test]
fn nothing_behind_auth_is_decoded_before_it_is_decided() {
    let mut session = session();
    let rest = give(&mut session, &[Message::Hello(HELLO), CERTIFICATE]);
    assert!(rest.is_empty());
    // Not even what is no frame at all.
    let nonsense = [0xff; 64];
    let mut bytes = &nonsense[..];
    assert_eq!(session.handle_input(Instant(1), &mut bytes), None);
    assert_eq!(bytes.len(), 64);
    session.admit(Instant(2), Millis(1), Admission::default());
    assert!(matches!(session.handle_input(Instant(3), &mut bytes), Some(Input::Closed(_))));
}

#[test]
fn a_first_flight_is_kept_up_to_its_cap() {
    for (kept, want) in
        [(limits::FIRST_FLIGHT_KEPT, None), (limits::FIRST_FLIGHT_KEPT + 1, Some(Code::TOO_LARGE))]
    {
        let mut session = session();
        give(&mut session, &[Message::Hello(HELLO), CERTIFICATE]);
        let flight = vec![0; kept];
        session.handle_input(Instant(1), &mut &flight[..]);
        assert_eq!(session.close_reason(), want);
    }
}

#[test]
fn before_auth_a_frame_is_short() {
    let token = "x".repeat(1500);
    let mut session = session();
    give(
        &mut session,
        &[Message::Hello(HELLO), Message::Auth(Auth { proof: Proof::Token(&token) })],
    );
    assert_eq!(session.close_reason(), None);
    let mut session = self::session();
    // A declared length is refused before its body is there.
    let mut bytes = &[1_u8, 0x81, 0x10][..];
    assert_eq!(session.handle_input(Instant(0), &mut bytes), Some(Input::Closed(Code::TOO_LARGE)));
}

#[test]
fn a_device_says_at_most_2_kib_before_it_is_welcomed_and_the_rest_after() {
    let mut device = device();
    for at in 0..100 {
        let key = format!("key {at}");
        let key = (at > 0).then_some(&key[..]);
        let lane = device.open_lane(key, spile_protocol::id::Number(1), false).unwrap();
        let route = device.bind(lane, "telemetry/temp", "", 0, "").unwrap();
        device
            .publish(Instant(0), route, spile_protocol::message::Extras::default(), &[7; 20])
            .unwrap();
    }
    let mut talk = Talk::new(device, Config::default(), Channel::Tls(None));
    let mut flight = Vec::new();
    talk.device.poll_transmit(talk.now, &mut flight);
    assert!((1500..=2048).contains(&flight.len()), "{}", flight.len());
    let mut talk = Talk {
        device: talk.device,
        ..Talk::new(self::device(), Config::default(), Channel::Tls(None))
    };
    talk.device.connected(talk.now, Channel::Tls(None), [1; 16]);
    talk.both();
    talk.up();
    assert_eq!(talk.edge.in_flight().events, 100);
}

#[test]
fn a_device_key_is_proven_both_ways_with_and_without_tls() {
    let key = [9; 32];
    let credential = Credential::Key { tenant: "main", device: "d1", key };
    for channel in [Channel::Tls(Some([3; 32])), Channel::Plain] {
        for (stored, honest, want) in [
            (key::hash(&key), true, None),
            (key::hash(&[8; 32]), true, Some(Code::UNAUTHENTICATED)),
            (key::hash(&key), false, Some(Code::UNAUTHENTICATED)),
        ] {
            let mut device = device_of(credential.clone());
            let nonce = (channel == Channel::Plain).then_some([2; 16]);
            let mut edge = Session::new(Instant(0), Config { nonce, ..Config::default() });
            device.connected(Instant(0), channel, [1; 16]);
            for _ in 0..3 {
                let (mut up, mut down) = (Vec::new(), Vec::new());
                device.poll_transmit(Instant(0), &mut up);
                let mut bytes = &up[..];
                while let Some(input) = edge.handle_input(Instant(0), &mut bytes) {
                    let Input::Authenticate(Auth {
                        proof: Proof::DeviceKey { tenant, device, nonce, proof },
                    }) = input
                    else {
                        continue;
                    };
                    let binding = match (channel, edge.nonce()) {
                        (Channel::Plain, Some(server)) => Binding::Nonces { client: nonce, server },
                        _ => Binding::Tls([3; 32]),
                    };
                    match key::verify(&stored, &proof, &Signed { tenant, device, binding }) {
                        Some(proof) => {
                            let proof = if honest { proof } else { [0; 32] };
                            let admission =
                                Admission { proof: Some(proof), ..Admission::default() };
                            edge.admit(Instant(0), Millis(1), admission);
                        }
                        None => edge.refuse(Code::UNAUTHENTICATED, ""),
                    }
                }
                edge.poll_transmit(Instant(0), &mut down);
                let mut bytes = &down[..];
                while device.handle_input(Instant(0), &mut bytes).is_some() {}
            }
            assert_eq!(device.close_reason(), want, "{channel:?}");
            assert_eq!(device.is_open(), want.is_none());
        }
    }
}

#[test]
fn who_is_late_is_told_and_cut() {
    let mut session = session();
    let deadline = session.poll_timeout().unwrap();
    assert_eq!(deadline, Instant(30_000_000));
    session.handle_timeout(Instant(29_999_999));
    assert!(!session.is_closed());
    session.handle_timeout(deadline);
    assert_eq!(session.close_reason(), Some(Code::DEADLINE));
    let mut out = Vec::new();
    session.poll_transmit(deadline, &mut out);
    assert!(!out.is_empty());
}

#[test]
fn a_frame_has_ten_seconds_and_its_length_at_256_bytes_a_second() {
    let (mut talk, _) = Talk::open(Config::default());
    // An event of 2,560 bytes, of which a byte comes now and then.
    let mut frame = Vec::new();
    let payload = [7; 2553];
    frame
        .put(
            &Message::Event(spile_protocol::message::Event {
                route: spile_protocol::id::RouteId(0),
                extras: spile_protocol::message::Extras::default(),
                payload: &payload,
            }),
            0,
        )
        .unwrap();
    let begun = talk.now;
    for cut in 1..10 {
        talk.after(Duration::from_secs(1));
        talk.edge.handle_input(talk.now, &mut &frame[..cut]);
    }
    let deadline = talk.edge.poll_timeout().unwrap();
    assert_eq!(deadline, begun.after(Duration::from_secs(1 + 10 + 10)));
    talk.edge.handle_timeout(deadline);
    assert_eq!(talk.closed(), Some(Code::DEADLINE));
}

#[test]
fn silence_is_asked_about_after_the_keep_alive_and_ends_after_twice_that() {
    for keep_alive_s in [1, 60, 86_400] {
        let mut session = session();
        give(&mut session, &[Message::Hello(Hello { keep_alive_s, ..HELLO }), CERTIFICATE]);
        session.admit(Instant(0), Millis(1), Admission::default());
        let seconds = |s: u64| Instant(s * 1_000_000);
        let mut out = Vec::new();
        session.poll_transmit(Instant(0), &mut out);
        let k = u64::from(keep_alive_s);
        assert_eq!(session.poll_timeout(), Some(seconds(k)));
        session.handle_timeout(seconds(k));
        assert!(session.wants_transmit());
        assert_eq!(session.poll_timeout(), Some(seconds(2 * k)));
        session.handle_timeout(seconds(2 * k));
        assert_eq!(session.close_reason(), Some(Code::DEADLINE));
    }
    let mut session = session();
    give(&mut session, &[Message::Hello(Hello { keep_alive_s: 0, ..HELLO }), CERTIFICATE]);
    session.admit(Instant(0), Millis(1), Admission::default());
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn who_is_not_read_is_not_silent() {
    let seconds = |s: u64| Instant(s * 1_000_000);
    let mut session = session();
    give(&mut session, &[Message::Hello(Hello { keep_alive_s: 1, ..HELLO }), CERTIFICATE]);
    session.admit(Instant(0), Millis(1), Admission::default());
    for second in 1..100 {
        session.not_read(seconds(second));
        session.handle_timeout(seconds(second));
        assert_eq!(session.close_reason(), None, "{second}");
    }
    // Nor is a frame late whose rest may be here for long; what was left of its time begins when it is read again.
    session.handle_input(seconds(99), &mut &[200, 1, 0][..]);
    let deadline = session.poll_timeout().unwrap();
    session.not_read(seconds(500));
    assert_eq!(session.poll_timeout().unwrap().since(seconds(500)), deadline.since(seconds(99)));
    session.handle_timeout(seconds(500));
    assert_eq!(session.close_reason(), None);
    session.handle_timeout(seconds(600));
    assert_eq!(session.close_reason(), Some(Code::DEADLINE));
}

#[test]
fn an_answered_ping_keeps_both_alive() {
    let (mut talk, _) = Talk::open(Config::default());
    for _ in 0..10 {
        talk.after(Duration::from_secs(60));
        talk.device.handle_timeout(talk.now);
        talk.edge.handle_timeout(talk.now);
        talk.both();
        talk.both();
    }
    assert!(talk.device.is_open() && talk.closed().is_none());
    // And without the other, not.
    for _ in 0..2 {
        talk.after(Duration::from_secs(60));
        talk.device.handle_timeout(talk.now);
    }
    assert_eq!(talk.device.close_reason(), Some(Code::DEADLINE));
}

#[test]
fn a_server_that_goes_away_answers_what_is_in_flight_first() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"before");
    talk.up();
    talk.edge.goaway(talk.now, Code::SHUTDOWN, 5000, Duration::from_secs(10));
    assert!(has(&talk.down(), "GoAway"));
    assert_eq!(talk.closed(), None);
    // Nothing new goes, and what was on its way is not taken.
    talk.publish(route, b"after");
    assert!(talk.up().is_empty());
    assert!(has(&talk.ack(spile_protocol::id::LaneId(0), 1), "Acked"));
    assert_eq!(talk.closed(), Some(Code::SHUTDOWN));
    assert!(!talk.device.is_settled());
}

#[test]
fn a_server_that_goes_away_does_not_wait_for_ever() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"before");
    talk.up();
    talk.edge.goaway(talk.now, Code::SHUTDOWN, 0, Duration::from_secs(10));
    talk.down();
    let deadline = talk.edge.poll_timeout().unwrap();
    assert_eq!(deadline, talk.now.after(Duration::from_secs(10)));
    talk.edge.handle_timeout(deadline);
    assert_eq!(talk.closed(), Some(Code::SHUTDOWN));
}

#[test]
fn a_client_that_leaves_hears_the_same_code_back_when_all_is_answered() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"last words");
    talk.device.close();
    assert!(!has(&talk.up(), "Leaving"));
    talk.ack(spile_protocol::id::LaneId(0), 1);
    assert!(has(&talk.up(), "Leaving"));
    let heard = talk.down();
    assert!(has(&heard, "Closed { code: Code(0)"), "{heard:?}");
    assert_eq!((talk.closed(), talk.device.close_reason()), (Some(Code(0)), Some(Code(0))));
}

#[test]
fn a_goaway_from_a_client_with_work_in_flight_is_answered_when_that_is() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"x");
    talk.up();
    talk.say(&Message::GoAway(GoAway { code: Code::SHUTDOWN, retry_after_ms: 0, detail: "" }));
    talk.edge.poll_transmit(talk.now, &mut Vec::new());
    assert_eq!(talk.closed(), None);
    talk.ack(spile_protocol::id::LaneId(0), 1);
    assert_eq!(talk.closed(), Some(Code::SHUTDOWN));
}

#[test]
fn a_welcome_from_a_client_is_unexpected() {
    let (mut talk, _) = Talk::open(Config::default());
    let mut bytes = Vec::new();
    let welcome = Welcome {
        version: 1,
        server_time_ms: 0,
        frame_max: 1024,
        credit_events: 1,
        credit_bytes: 1,
        idle_timeout_s: 0,
        principal: "",
        tenant: "",
        proof: &[],
        lanes: 1,
        routes: 1,
        payload_max: 1,
        software: "",
        session: 0,
        edge: "",
        chunk_bytes: 0,
    };
    bytes.put(&Message::Welcome(welcome), 0).unwrap();
    talk.edge.handle_input(talk.now, &mut &bytes[..]);
    assert_eq!(talk.closed(), Some(Code::UNEXPECTED));
}
