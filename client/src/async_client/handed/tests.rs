//! Facts about settlements and their answers, and about what a lost connection means for both.

use spile_protocol::id::{Position, Version};
use spile_protocol::message::{Extras, Lengths};
use spile_protocol::time::Millis;

use super::*;

fn handed() -> Handed {
    let mut handed = Handed::new(Some("g".into()), Consume::default(), 1);
    handed.opened(&mut Vec::new());
    handed
}

fn deliver(handed: &mut Handed, delivery: u64, version: u64) {
    let deliver = Deliver {
        subscription: SubscriptionId(1),
        key: Some("k"),
        topic: Some("t"),
        kind: None,
        worker: Some("a"),
        attempt: 2,
        version: Version(version),
        position: Position(version),
        time: Millis(5),
        lengths: Lengths::same(2, 1),
        extras: Extras::default(),
        payload: b"xy",
    };
    handed.delivered(delivery, &deliver, &mut Vec::new());
}

fn take(handed: &mut Handed) -> Option<(u64, u64)> {
    match handed.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(run))) => Some((run.opening, run.delivery)),
        Poll::Ready(Some(Err(error))) => panic!("{error}"),
        Poll::Ready(None) | Poll::Pending => None,
    }
}

fn answer(delivery: u64, outcome: Outcome) -> message::Settle<'static> {
    message::Settle { subscription: SubscriptionId(1), delivery, outcome, events: 0, reason: "" }
}

fn told(settles: &mut Settles, slot: usize) -> Option<Result<Settled, Option<Code>>> {
    match settles.poll(slot, &Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer.map_err(|error| error.code())),
        Poll::Pending => None,
    }
}

#[test]
fn settlements_of_one_delivery_are_answered_in_the_order_they_were_sent() {
    let (mut handed, mut settles) = (handed(), Settles::default());
    let slots = [settles.begin(), settles.begin(), settles.begin()];
    handed.sent(1, slots[0]);
    handed.sent(2, slots[1]);
    handed.sent(1, slots[2]);
    assert_eq!(handed.tally.under_way, 3);
    handed.answered(&answer(1, Outcome::Done), &mut settles, &mut Vec::new());
    assert_eq!(told(&mut settles, slots[0]), Some(Ok(Settled::Durable)));
    assert_eq!((told(&mut settles, slots[1]), told(&mut settles, slots[2])), (None, None));
    handed.answered(&answer(1, Outcome::Seen), &mut settles, &mut Vec::new());
    assert_eq!(told(&mut settles, slots[2]), Some(Ok(Settled::TooLate)));
    handed.answered(&answer(2, Outcome::Reject), &mut settles, &mut Vec::new());
    let tally = Tally { under_way: 0, durable: 2, too_late: 1, unknown: 0 };
    assert_eq!(handed.tally, tally);
    // One answer too many is nobody's.
    handed.answered(&answer(2, Outcome::Done), &mut settles, &mut Vec::new());
    assert_eq!(handed.tally, tally);
}

#[test]
fn with_the_connection_goes_what_it_handed_out_and_what_was_not_answered() {
    let (mut handed, mut settles) = (handed(), Settles::default());
    deliver(&mut handed, 1, 1);
    deliver(&mut handed, 2, 3);
    assert_eq!(take(&mut handed), Some((1, 1)));
    let slot = settles.begin();
    handed.sent(1, slot);
    handed.reconnected(7, &mut settles, &mut Vec::new());
    assert_eq!(told(&mut settles, slot), Some(Err(Some(Code::UNKNOWN_OUTCOME))));
    assert_eq!(handed.tally, Tally { unknown: 1, ..Tally::default() });
    assert_eq!(take(&mut handed), None, "what waited comes again, or to another");
    deliver(&mut handed, 1, 3);
    assert_eq!(take(&mut handed), None, "not before the server has agreed");
    handed.opened(&mut Vec::new());
    deliver(&mut handed, 1, 3);
    assert_eq!(take(&mut handed), Some((7, 1)));
}

#[test]
fn nobody_waits_for_an_answer_for_ever() {
    let (mut handed, mut settles) = (handed(), Settles::default());
    let (kept, forgotten) = (settles.begin(), settles.begin());
    handed.sent(1, kept);
    handed.sent(2, forgotten);
    settles.forget(forgotten);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(handed.poll_idle(&mut cx).is_pending());
    let gone: Error = Refusal::of(Code::NOT_FOUND).into();
    handed.ended(Some(gone), &mut settles, &mut Vec::new());
    assert!(handed.poll_idle(&mut cx).is_ready());
    assert_eq!(told(&mut settles, kept), Some(Err(Some(Code::NOT_FOUND))));
    assert_eq!(settles.begin(), forgotten, "its number is free again");
    assert!(matches!(handed.poll_next(&mut cx), Poll::Ready(Some(Err(_)))), "why, once");
    assert!(matches!(handed.poll_next(&mut cx), Poll::Ready(None)));
}

#[test]
fn of_an_inbox_only_done_is_answered_and_of_a_group_every_outcome() {
    let inbox = Handed::new(None, Consume::default(), 1);
    let outcomes = [Outcome::Done, Outcome::Retry { after_ms: 0 }, Outcome::Reject];
    assert_eq!(outcomes.map(|outcome| inbox.answers(outcome)), [true, false, false]);
    assert_eq!(outcomes.map(|outcome| handed().answers(outcome)), [true, true, true]);
    assert!(inbox.check().is_ok(), "it needs no name");
    let source = inbox.subscribe(SubscriptionId(1)).source;
    assert_eq!(source, message::Source::Inbox);
}
