//! Lanes, numbers, credit and acks of a publisher.

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RouteId, Version},
    message::{
        Ack, Bind, Durability, Event, Extras, Fault, Happened, Lane, Lengths, List, Message, Scope,
    },
    session::{Amount, edge::Config},
};

use crate::talk::{Talk, has};

const LANE: LaneId = LaneId(0);

fn event(route: RouteId, number: Option<u64>) -> Message<'static> {
    let extras = Extras { number: number.map(Number), ..Extras::default() };
    Message::Event(Event { route, extras, payload: b"21.5" })
}

const fn lane(lane: u32, first: u64, key: Option<&str>) -> Message<'_> {
    Message::Lane(Lane { lane: LaneId(lane), first_unacked: Number(first), key, urgent: false })
}

const fn bind(route: u32, lane: u32, topic: &str) -> Message<'_> {
    let (content_type, schema, encoding) = ("", 0, "");
    Message::Bind(Bind {
        route: RouteId(route),
        lane: LaneId(lane),
        topic,
        content_type,
        schema,
        encoding,
    })
}

#[test]
fn numbers_are_implied_by_order_and_spelled_to_skip() {
    let (mut talk, route) = Talk::open(Config::default());
    for (spelled, want) in [(None, 1), (None, 2), (Some(7), 7), (None, 8)] {
        let heard = talk.say(&event(route, spelled));
        assert!(has(&heard, &format!("first: Number({want})")), "{heard:?}");
    }
    talk.say(&event(route, Some(8)));
    assert_eq!(talk.closed(), Some(Code::UNEXPECTED));
}

#[test]
fn a_lone_ack_of_lane_0_takes_seven_bytes_and_a_long_one_is_spelled() {
    let (mut talk, route) = Talk::open(Config::default());
    for _ in 0..200 {
        talk.publish(route, b"x");
    }
    talk.up();
    for (last, bytes) in [(1, 7), (64, 7), (128, 10), (200, 10)] {
        let ack = Ack::Spelled {
            durability: Durability::Stored,
            lane: LANE,
            last: Number(last),
            receipts: List::default(),
        };
        let before = talk.down.len();
        let _told = talk.tell(&Message::Ack(ack));
        assert_eq!(talk.down.len() - before, bytes, "through {last}");
    }
    talk.down();
    assert!(talk.device.is_settled());
}

#[test]
fn an_ack_that_says_nothing_new_is_not_said() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"x");
    talk.up();
    assert!(has(&talk.ack(LANE, 1), "Acked"));
    assert!(talk.ack(LANE, 1).is_empty());
}

#[test]
fn no_ack_passes_a_void_whose_fault_has_not_gone_out() {
    let (mut talk, _) = Talk::open(Config::default());
    let denied = talk.device.bind(LANE, "secret", "", 0, "").unwrap();
    talk.up();
    talk.edge.deny_route(denied, Code::FORBIDDEN);
    talk.publish(denied, b"no");
    let heard = talk.up();
    assert!(has(&heard, "Void") && !has(&heard, "Event"), "{heard:?}");
    // The worker logged the VOID and only acks: the session says the fault first.
    let heard = talk.ack(LANE, 1);
    let at = |words: &str| heard.iter().position(|line| line.contains(words)).unwrap();
    assert!(at("Refused") < at("Acked"), "{heard:?}");
    // Where the worker names it, it is said once.
    talk.publish(denied, b"no");
    talk.up();
    let scope = Scope::Number { lane: LANE, number: Number(2), count: 1, version: Version(0) };
    let fault = Fault { code: Code::FORBIDDEN, scope, retry: false, retry_after_ms: 0, detail: "" };
    let _told = talk.tell(&Message::Fault(fault));
    let heard = talk.ack(LANE, 2);
    assert_eq!(heard.iter().filter(|line| line.contains("Refused")).count(), 1, "{heard:?}");
}

#[test]
fn what_is_too_long_or_too_old_is_refused_for_good_and_the_lane_goes_on() {
    let (mut talk, route) = Talk::open(Config { payload_max: 10, ..Config::default() });
    let long = Message::Event(Event { route, extras: Extras::default(), payload: &[7; 11] });
    assert!(has(&talk.say(&long), "code: Code(102)"));
    let old = Extras { happened: Some(Happened::Ago(11)), ttl_ms: Some(10), ..Extras::default() };
    let old = Message::Event(Event { route, extras: old, payload: b"x" });
    assert!(has(&talk.say(&old), "first: Number(2), count: 1, code: Code(405)"));
    assert!(has(&talk.say(&event(route, None)), "first: Number(3)"));
    assert_eq!(talk.closed(), None);
}

#[test]
fn events_on_a_closed_lane_leave_the_credit_and_are_dropped_until_a_new_lane() {
    let credit = Amount { events: 2, bytes: 1000 };
    let (mut talk, route) = Talk::open(Config { credit, ..Config::default() });
    talk.say(&event(route, None));
    talk.say(&event(route, None));
    talk.edge.close_lane(LANE, Code::UNAVAILABLE, Some(100));
    assert_eq!(talk.edge.in_flight(), Amount::default());
    for _ in 0..10 {
        assert!(talk.say(&event(route, None)).is_empty());
    }
    assert!(
        talk.ack(LANE, 2).iter().all(|line| !line.contains("Acked")),
        "an ack of a closed lane"
    );
    assert!(has(&talk.say(&lane(0, 1, None)), "Lane"));
    assert!(has(&talk.say(&event(route, None)), "first: Number(1)"));
    assert_eq!(talk.closed(), None);
}

#[test]
fn a_device_opens_a_closed_lane_again_and_sends_from_what_is_not_acked() {
    let (mut talk, route) = Talk::open(Config::default());
    for _ in 0..3 {
        talk.publish(route, b"x");
    }
    talk.up();
    talk.ack(LANE, 1);
    talk.edge.close_lane(LANE, Code::UNAVAILABLE, Some(100));
    assert!(has(&talk.down(), "LaneClosed"));
    talk.device.handle_timeout(talk.now);
    assert!(talk.up().is_empty(), "not before its time");
    let at = talk.device.poll_timeout().unwrap();
    assert!(at >= talk.now.after(std::time::Duration::from_millis(100)));
    talk.now = at;
    talk.device.handle_timeout(at);
    let heard = talk.up();
    assert!(
        has(&heard, "first_unacked: Number(2)") && has(&heard, "first: Number(3)"),
        "{heard:?}"
    );
}

#[test]
fn a_client_that_sends_more_than_its_credit_is_told_and_cut() {
    let credit = Amount { events: 600, bytes: 4200 };
    let (mut talk, route) = Talk::open(Config { credit, ..Config::default() });
    for number in 1..=600 {
        talk.say(&event(route, None));
        assert_eq!(talk.closed(), None, "{number}");
    }
    talk.say(&event(route, None));
    assert_eq!(talk.closed(), Some(Code::TOO_FAST));
}

#[test]
fn a_lower_credit_holds_the_client_and_what_it_sent_before_it_heard_is_taken() {
    let credit = Amount { events: 600, bytes: 100_000 };
    let (mut talk, route) = Talk::open(Config { credit, ..Config::default() });
    talk.edge.set_credit(Amount { events: 1, bytes: 10 }, None);
    for _ in 0..600 {
        talk.say(&event(route, None));
    }
    assert_eq!(talk.closed(), None);
    talk.ack(LANE, 600);
    let (mut talk, route) = Talk::open(Config { credit, ..Config::default() });
    talk.edge.set_credit(Amount { events: 1, bytes: 10 }, None);
    talk.down();
    for _ in 0..5 {
        talk.publish(route, b"x");
    }
    assert_eq!(talk.up().len(), 1);
}

#[test]
fn one_event_goes_whatever_the_credit() {
    let credit = Amount { events: 0, bytes: 0 };
    let (mut talk, route) = Talk::open(Config { credit, ..Config::default() });
    for number in 1..=5 {
        talk.publish(route, &[7; 5000]);
        assert_eq!(talk.up().len(), 1);
        assert!(talk.up().is_empty());
        talk.ack(LANE, number);
    }
    assert!(talk.device.is_settled());
}

#[test]
fn lanes_are_opened_as_the_spec_says() {
    for (messages, want) in [
        (vec![lane(0, 1, Some("a"))], "Code(403)"),
        (vec![lane(1, 1, None)], "Code(403)"),
        (vec![lane(1, 1, Some("a\nb"))], "Code(403)"),
        (vec![lane(1, 1, Some("a")), lane(2, 1, Some("a"))], "Code(406)"),
        (vec![lane(1, 1, Some("d1"))], "Code(406)"),
        (vec![lane(1024, 1, Some("a"))], "Code(301)"),
    ] {
        let (mut talk, _) = Talk::open(Config::default());
        for message in &messages {
            talk.say(message);
        }
        let mut out = Vec::new();
        talk.edge.poll_transmit(talk.now, &mut out);
        let (frame, _) = spile_protocol::frame::decode(&out, 4096).unwrap().unwrap();
        let said = Message::decode(&frame, spile_protocol::message::Sender::Server).unwrap();
        assert!(format!("{said:?}").contains(want), "{messages:?}: {said:?}");
        assert_eq!(talk.closed(), None);
    }
    for (message, want) in [
        (lane(1, 0, Some("a")), Code::MALFORMED),
        (bind(0, 7, "a"), Code::UNKNOWN_LANE),
        (event(RouteId(9), None), Code::UNKNOWN_LANE),
    ] {
        let (mut talk, _) = Talk::open(Config::default());
        talk.say(&message);
        assert_eq!(talk.closed(), Some(want), "{message:?}");
    }
}

#[test]
fn a_lane_takes_another_key_only_while_nothing_is_in_flight_on_it() {
    let (mut talk, _) = Talk::open(Config::default());
    for message in
        [lane(1, 1, Some("a")), bind(1, 1, "t"), lane(1, 1, Some("b")), event(RouteId(1), None)]
    {
        talk.say(&message);
    }
    assert_eq!(talk.closed(), None);
    talk.say(&lane(1, 2, Some("b")));
    assert_eq!((talk.closed(), talk.edge.in_flight().events), (None, 0));
    talk.say(&event(RouteId(1), None));
    talk.say(&lane(1, 1, Some("c")));
    assert_eq!(talk.closed(), Some(Code::UNEXPECTED));
}

#[test]
fn a_run_the_server_does_not_know_is_given_up_and_what_is_in_flight_numbered_anew() {
    let (mut talk, route) = Talk::open(Config::default());
    for _ in 0..5 {
        talk.publish(route, b"x");
    }
    talk.up();
    talk.ack(LANE, 2);
    let scope = Scope::Lane { lane: LANE, expected: Number(1) };
    let fault =
        Fault { code: Code::UNKNOWN_RUN, scope, retry: false, retry_after_ms: 0, detail: "" };
    let _told = talk.tell(&Message::Fault(fault));
    assert!(has(&talk.down(), "UnknownRun"));
    assert!(talk.up().is_empty());
    talk.device.disconnected();
    let mut moved = Vec::new();
    talk.device
        .renew(spile_protocol::id::Run([2; 8]), |_, old, new, _| moved.push((old.0, new.0)))
        .unwrap();
    assert_eq!(moved, [(3, 1), (4, 2), (5, 3)]);
    assert_eq!(talk.publish(route, b"y"), Number(4));
}

#[test]
fn what_is_in_flight_on_a_lane_closed_for_good_can_be_given_up() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"x");
    assert_eq!(
        talk.device.abandon_lane(LANE),
        Err(spile_protocol::session::device::Refusal::InUse)
    );
    talk.up();
    talk.edge.close_lane(LANE, Code::FORBIDDEN, None);
    assert!(has(&talk.down(), "retry_after_ms: None"));
    talk.after(std::time::Duration::from_secs(50));
    talk.device.handle_timeout(talk.now);
    assert!(talk.up().is_empty() && !talk.device.is_settled());
    talk.device.abandon_lane(LANE).unwrap();
    assert!(talk.device.is_settled());
    // Its number is not given again.
    assert_eq!(talk.publish(route, b"y"), Number(2));
    talk.device.reopen_lane(LANE).unwrap();
    assert!(has(&talk.up(), "first_unacked: Number(2)"));
}

#[test]
fn a_frame_the_server_does_not_take_is_not_published() {
    let (mut talk, route) = Talk::open(Config { frame_max: 1024, ..Config::default() });
    let refused = |talk: &mut Talk, length| {
        talk.device.publish(talk.now, route, Extras::default(), &vec![7; length])
    };
    assert!(refused(&mut talk, 1024).is_err() && refused(&mut talk, 1010).is_err());
    assert_eq!(refused(&mut talk, 990), Ok(Number(1)));
    assert!(has(&talk.up(), "Event"));
    assert_eq!(talk.closed(), None);
    // What was published for a server that takes more ends the next session at once, for good.
    let (mut talk, route) = Talk::open(Config::default());
    talk.device.disconnected();
    talk.publish(route, &[7; 5000]);
    let small = Config { frame_max: 1024, ..Config::default() };
    talk = Talk {
        device: talk.device,
        ..Talk::new(
            crate::talk::device(),
            small,
            spile_protocol::session::device::Channel::Tls(None),
        )
    };
    talk.device.connected(talk.now, spile_protocol::session::device::Channel::Tls(None), [1; 16]);
    talk.up();
    assert!(has(&talk.down(), "Closed { code: Code(102), retry_after_ms: None"));
}

#[test]
fn in_a_run_that_is_lost_no_lane_sends() {
    let (mut talk, _) = Talk::open(Config::default());
    let other = talk.device.open_lane(Some("line 7"), Number(1), false).unwrap();
    let route = talk.device.bind(other, "t", "", 0, "").unwrap();
    talk.both();
    talk.answer_lane(other, 0);
    let scope = Scope::Lane { lane: LANE, expected: Number(1) };
    let fault =
        Fault { code: Code::UNKNOWN_RUN, scope, retry: false, retry_after_ms: 0, detail: "" };
    let _told = talk.tell(&Message::Fault(fault));
    assert!(has(&talk.down(), "UnknownRun"));
    talk.publish(route, b"x");
    assert!(talk.up().is_empty());
}

#[test]
fn an_age_grows_while_the_event_waits() {
    let (mut talk, route) = Talk::open(Config::default());
    let extras = Extras { happened: Some(Happened::Ago(5)), ..Extras::default() };
    talk.device.publish(talk.now, route, extras, b"x").unwrap();
    talk.after(std::time::Duration::from_millis(40));
    assert!(has(&talk.up(), "Ago(45)"));
}

#[test]
fn an_urgent_lane_goes_first() {
    let (mut talk, route) = Talk::open(Config::default());
    let urgent = talk.device.open_lane(Some("alarm"), Number(1), true).unwrap();
    let alarm = talk.device.bind(urgent, "t", "", 0, "").unwrap();
    talk.both();
    talk.answer_lane(urgent, 0);
    for _ in 0..3 {
        talk.publish(route, b"x");
    }
    talk.publish(alarm, b"fire");
    let heard = talk.up();
    assert!(heard[0].contains("lane: LaneId(1)"), "{heard:?}");
    assert_eq!(heard.len(), 4);
}

#[test]
fn what_is_over_says_nothing_more() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.publish(route, b"x");
    talk.up();
    talk.edge.refuse(Code::REVOKED, "");
    assert!(has(&talk.down(), "Closed { code: Code(201)"));
    let _told = talk.edge.close_reason();
    assert!(talk.ack(LANE, 1).is_empty());
    assert!(talk.down.is_empty());
}

#[test]
fn more_stored_than_was_published_is_not_taken_for_an_ack() {
    let (mut talk, route) = Talk::open(Config::default());
    talk.device.disconnected();
    talk.publish(route, b"new");
    talk = Talk {
        device: talk.device,
        ..Talk::new(
            crate::talk::device(),
            Config::default(),
            spile_protocol::session::device::Channel::Tls(None),
        )
    };
    talk.device.connected(talk.now, spile_protocol::session::device::Channel::Tls(None), [1; 16]);
    talk.both();
    let heard = talk.answer_lane(LANE, 7);
    assert!(has(&heard, "UnknownRun") && !talk.device.is_settled(), "{heard:?}");
}

#[test]
fn a_batch_goes_as_one_and_is_acknowledged_as_one() {
    let (mut talk, route) = Talk::open(Config::default());
    let mut room = [0; 16];
    let lengths = Lengths::encode([1, 2, 3].into_iter(), &mut room).unwrap();
    assert_eq!(
        talk.device.publish_batch(talk.now, route, lengths, Extras::default(), b"abbccc"),
        Ok(Number(1))
    );
    assert_eq!(talk.publish(route, b"x"), Number(4));
    talk.up();
    assert_eq!(talk.edge.in_flight(), Amount { events: 4, bytes: 7 });
    talk.ack(LANE, 2);
    assert_eq!(talk.edge.in_flight(), talk.device.in_flight());
    assert_eq!(talk.edge.in_flight(), Amount { events: 4, bytes: 7 });
    talk.ack(LANE, 4);
    assert!(talk.device.is_settled());
}

#[test]
fn a_stream_cut_at_every_byte_means_the_same() {
    let (mut whole, mut bytewise) = (Vec::new(), Vec::new());
    for split in [false, true] {
        let heard = if split { &mut bytewise } else { &mut whole };
        let mut device = crate::talk::device();
        let lane = device.open_lane(None, Number(1), false).unwrap();
        let route = device.bind(lane, "t", "", 0, "").unwrap();
        for length in 0..40 {
            device
                .publish(
                    spile_protocol::time::Instant(0),
                    route,
                    Extras::default(),
                    &vec![7; length * 5],
                )
                .unwrap();
        }
        let tls = spile_protocol::session::device::Channel::Tls(None);
        let mut talk = Talk::new(device, Config::default(), tls);
        for _ in 0..3 {
            let mut flight = std::mem::take(&mut talk.up);
            talk.device.poll_transmit(talk.now, &mut flight);
            if split {
                for byte in flight {
                    talk.up.push(byte);
                    heard.extend(talk.carry_up());
                }
            } else {
                talk.up = flight;
                heard.extend(talk.carry_up());
            }
            talk.edge.poll_transmit(talk.now, &mut talk.down);
            let down = std::mem::take(&mut talk.down);
            let pieces: Vec<&[u8]> = if split { down.chunks(1).collect() } else { vec![&down[..]] };
            for piece in pieces {
                talk.down.extend_from_slice(piece);
                heard.extend(talk.down());
            }
        }
        assert_eq!(talk.edge.in_flight().events, 40);
    }
    assert_eq!(whole, bytewise);
    assert!(whole.len() > 43);
}
