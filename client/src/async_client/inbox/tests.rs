//! Facts about going on after a reconnect, and about credit.

use std::task::{Context, Poll, Waker};

use spile_protocol::code::Code;
use spile_protocol::id;
use spile_protocol::message::{Extras, Lengths};

use super::*;

/// A delivery of `count` events of one byte from `position` on, whose versions are their positions.
fn deliver(inbox: &mut Inbox, worker: &str, position: u64, count: u32) {
    let payload = vec![7; usize::try_from(count).unwrap()];
    let deliver = Deliver {
        subscription: SubscriptionId(0),
        key: Some("k"),
        topic: Some("t"),
        kind: None,
        worker: Some(worker),
        attempt: 1,
        version: Version(position),
        position: id::Position(position),
        time: Millis(5),
        lengths: Lengths::same(count, 1),
        extras: Extras::default(),
        payload: &payload,
    };
    inbox.delivered(&deliver, &mut Vec::new());
}

fn open(inbox: &mut Inbox) {
    let window = (inbox.interest.events, inbox.interest.bytes);
    inbox.opened(window, Millis(1_000), &mut Vec::new());
}

fn opened(interest: Interest) -> Inbox {
    let mut inbox = Inbox::new(interest);
    open(&mut inbox);
    inbox
}

fn take(inbox: &mut Inbox) -> Option<(u64, usize)> {
    match inbox.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(block))) => Some((block.position.number.0, block.len())),
        Poll::Ready(Some(Err(error))) => panic!("{error}"),
        Poll::Ready(None) | Poll::Pending => None,
    }
}

fn begins(inbox: &Inbox) -> From {
    let Source::Filter { from, .. } = &inbox.interest.source else { panic!("{inbox:?}") };
    from.clone()
}

#[test]
fn after_a_reconnect_it_goes_on_behind_what_was_received_of_each_worker() {
    let mut inbox = opened(Interest::filter("#").from(From::Start));
    deliver(&mut inbox, "a", 1, 3);
    inbox.reconnected();
    let next = Position { worker: "a".into(), number: id::Position(4) };
    assert_eq!(begins(&inbox), From::Positions(vec![next]));
    // A worker nobody had heard of: from the beginning, without what was seen.
    assert!(inbox.falls_back());
    assert_eq!(begins(&inbox), From::Start);
    assert!(!inbox.falls_back(), "there is nothing earlier");
    open(&mut inbox);
    deliver(&mut inbox, "a", 1, 2);
    deliver(&mut inbox, "a", 3, 3);
    deliver(&mut inbox, "b", 1, 1);
    let taken: Vec<_> = std::iter::from_fn(|| take(&mut inbox)).collect();
    assert_eq!(taken, [(1, 3), (4, 2), (1, 1)]);
}

#[test]
fn a_subscription_from_the_end_goes_on_from_when_it_was_opened() {
    let mut inbox = opened(Interest::filter("#"));
    inbox.reconnected();
    assert_eq!(begins(&inbox), From::Time(Millis(1_000)));
}

#[test]
fn a_stream_goes_on_behind_its_last_version() {
    let mut inbox = opened(Interest::stream("k", Version(5)));
    deliver(&mut inbox, "a", 5, 2);
    inbox.reconnected();
    let Source::Stream { from, .. } = inbox.interest.source else { panic!() };
    assert_eq!(from, Version(7));
}

#[test]
fn credit_is_given_back_for_what_was_taken_when_that_is_half_of_the_window() {
    let mut inbox = opened(Interest::filter("#").window(10, 1 << 20));
    for position in [1, 3, 5, 7] {
        deliver(&mut inbox, "a", position, 2);
    }
    assert_eq!(inbox.due(), None, "nothing was taken");
    take(&mut inbox);
    take(&mut inbox);
    assert_eq!(inbox.due(), None, "four events are less than half");
    take(&mut inbox);
    assert_eq!(inbox.due(), Some(3));
    assert_eq!(inbox.due(), None, "once");
}

#[test]
fn what_came_on_the_connection_before_holds_no_credit_of_the_new_one() {
    let mut inbox = opened(Interest::filter("#").from(From::Start).window(4, 1 << 20));
    deliver(&mut inbox, "a", 1, 2);
    inbox.reconnected();
    open(&mut inbox);
    // Seen already: behind the one that waits, so its credit goes with the next that is taken.
    deliver(&mut inbox, "a", 1, 2);
    deliver(&mut inbox, "a", 3, 2);
    assert_eq!((take(&mut inbox), inbox.due()), (Some((1, 2)), Some(1)));
    assert_eq!((take(&mut inbox), inbox.due()), (Some((3, 2)), Some(2)));
}

#[test]
fn why_it_ended_is_told_once_behind_what_waits() {
    let mut inbox = opened(Interest::filter("#"));
    deliver(&mut inbox, "a", 1, 1);
    let why = super::super::error::Refusal::of(Code::GONE);
    inbox.ended(Some(why.into()), &mut Vec::new());
    assert_eq!(take(&mut inbox), Some((1, 1)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(inbox.poll_next(&mut cx), Poll::Ready(Some(Err(Error::Refused(_))))));
    assert!(matches!(inbox.poll_next(&mut cx), Poll::Ready(None)));
}

/// Takes six deliveries of an event each, with so many more that wait; says behind which of them credit is given back.
fn given_back(window: u32, waits: u64) -> Vec<u64> {
    let mut inbox = opened(Interest::filter("#").from(From::Start).window(window, 8 << 20));
    (1..=waits).for_each(|position| deliver(&mut inbox, "a", position, 1));
    let gives = |taken: &u64| {
        deliver(&mut inbox, "a", waits + taken, 1);
        assert_eq!(take(&mut inbox), Some((*taken, 1)));
        inbox.due().is_some()
    };
    (1..=6).filter(gives).collect()
}

/// A block of eight never comes while one event is in flight, and half of the window would never be taken. spec §8.3.6
#[test]
fn a_small_window_is_given_back_whenever_nothing_waits() {
    assert_eq!(given_back(8, 0), [1, 2, 3, 4, 5, 6]);
    assert_eq!(given_back(8, 1), [4], "one waits, and is taken before anybody waits for more");
    assert_eq!(given_back(16_384, 0), []);
}
