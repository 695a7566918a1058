//! Facts about the way from an ack back to those who published.

use spile_protocol::code::Code;

use super::*;

fn receipt(number: u64, count: u32, version: u64, position: u64) -> Receipt {
    Receipt {
        number: Number(number),
        count,
        version: Version(version),
        position: id::Position(position),
    }
}

fn poll(outbox: &mut Outbox, slot: usize) -> Poll<Result<Outcome, Error>> {
    outbox.poll_slot(slot, &mut Context::from_waker(Waker::noop()))
}

fn versions(outbox: &mut Outbox, slots: &[usize]) -> Vec<Option<u64>> {
    let version = |poll| match poll {
        Poll::Ready(Ok(Outcome { version, .. })) => version.map(|version: Version| version.0),
        other @ (Poll::Ready(Err(_)) | Poll::Pending) => panic!("{other:?}"),
    };
    slots.iter().map(|&slot| version(poll(outbox, slot))).collect()
}

#[test]
fn each_number_finds_its_receipt_and_its_refusal() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let slots: Vec<_> = (0..6).map(|_| outbox.slot()).collect();
    for &slot in &slots {
        outbox.sent(0, Who::Slot(slot), 1);
    }
    outbox.opened(0, "a");
    outbox.refused(0, Number(3), 1, Refusal::of(Code::STALE_VERSION));
    assert!(poll(&mut outbox, slots[0]).is_pending());
    let receipts = [receipt(1, 2, 10, 100), receipt(4, 2, 12, 110)];
    outbox.acked(0, Number(5), Durability::Stored, receipts.into_iter(), &mut wake);
    assert_eq!(wake.len(), 1, "only the one that was polled waits");
    assert_eq!(versions(&mut outbox, &[slots[1]]), [Some(11)]);
    let Poll::Ready(Err(Error::Refused(refusal))) = poll(&mut outbox, slots[2]) else { panic!() };
    assert_eq!(refusal.code, Code::STALE_VERSION);
    let Poll::Ready(Ok(fifth)) = poll(&mut outbox, slots[4]) else { panic!() };
    assert_eq!(fifth.position.unwrap().to_string(), "a:111");
    assert!(poll(&mut outbox, slots[5]).is_pending());
    assert_eq!(outbox.in_flight, 1);
}

#[test]
fn an_ack_without_receipts_has_no_versions_and_a_second_one_changes_nothing() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let slot = outbox.slot();
    outbox.sent(3, Who::Slot(slot), 1);
    for _ in 0..2 {
        outbox.acked(3, Number(1), Durability::Spooled, std::iter::empty(), &mut wake);
    }
    let Poll::Ready(Ok(outcome)) = poll(&mut outbox, slot) else { panic!() };
    assert_eq!((outcome.version, outcome.durability), (None, Durability::Spooled));
    assert!(outbox.is_idle(3));
}

#[test]
fn a_producer_counts_across_refusals() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let producer = outbox.producer();
    outbox.sent(0, Who::Producer(producer), 60);
    outbox.sent(0, Who::Producer(producer), 40);
    outbox.refused(0, Number(11), 5, Refusal::of(Code::TOO_LARGE));
    outbox.acked(0, Number(50), Durability::Stored, std::iter::empty(), &mut wake);
    outbox.acked(0, Number(100), Durability::Spooled, std::iter::empty(), &mut wake);
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(outcomes)) = outbox.poll_outcomes(producer, &mut cx) else { panic!() };
    assert_eq!((outcomes.stored, outcomes.spooled, outcomes.refused), (45, 50, 5));
    assert!(outbox.poll_outcomes(producer, &mut cx).is_pending());
}

#[test]
fn in_a_new_run_what_was_in_flight_is_numbered_from_1_and_may_come_twice() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let slots: Vec<_> = (0..4).map(|_| outbox.slot()).collect();
    for &slot in slots.iter().take(3) {
        outbox.sent(0, Who::Slot(slot), 1);
    }
    outbox.acked(0, Number(1), Durability::Stored, std::iter::empty(), &mut wake);
    outbox.renumber();
    outbox.sent(0, Who::Slot(slots[3]), 1);
    outbox.acked(0, Number(3), Durability::Stored, std::iter::empty(), &mut wake);
    let told: Vec<_> = slots
        .iter()
        .map(|&slot| match poll(&mut outbox, slot) {
            Poll::Ready(Ok(outcome)) => (outcome.number.0, outcome.maybe_twice),
            other @ (Poll::Ready(Err(_)) | Poll::Pending) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(1, false), (1, true), (2, true), (3, false)]);
}

#[test]
fn who_went_away_leaves_nothing_behind() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let slot = outbox.slot();
    outbox.sent(0, Who::Slot(slot), 1);
    outbox.abandon(slot);
    outbox.acked(0, Number(1), Durability::Stored, std::iter::empty(), &mut wake);
    assert_eq!(outbox.slot(), slot, "the place is free again");
}

#[test]
fn a_producers_place_is_free_once_its_last_number_ended() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let producer = outbox.producer();
    outbox.sent(0, Who::Producer(producer), 2);
    outbox.forget(producer);
    outbox.acked(0, Number(1), Durability::Stored, std::iter::empty(), &mut wake);
    assert_ne!(outbox.producer(), producer);
    outbox.acked(0, Number(2), Durability::Stored, std::iter::empty(), &mut wake);
    assert_eq!(outbox.producer(), producer);
}

#[test]
fn a_lane_that_failed_goes_on_behind_the_numbers_that_were_given_out() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let slots: Vec<_> = (0..4).map(|_| outbox.slot()).collect();
    for &slot in slots.iter().take(3) {
        outbox.sent(2, Who::Slot(slot), 1);
    }
    // Two were given to the machine, the third waited to be.
    outbox.fail_lane(2, 1, &Error::Closed, &mut wake);
    outbox.sent(2, Who::Slot(slots[3]), 1);
    outbox.acked(2, Number(2), Durability::Stored, std::iter::empty(), &mut wake);
    assert!(poll(&mut outbox, slots[3]).is_pending(), "that was about those that failed");
    outbox.acked(2, Number(3), Durability::Stored, std::iter::empty(), &mut wake);
    assert!(poll(&mut outbox, slots[3]).is_ready());
}

#[test]
fn when_all_fails_everyone_hears_it_once() {
    let (mut outbox, mut wake) = (Outbox::default(), Vec::new());
    let (slot, producer) = (outbox.slot(), outbox.producer());
    outbox.sent(0, Who::Slot(slot), 1);
    outbox.sent(1, Who::Producer(producer), 5);
    outbox.fail(&Error::Closed, &mut wake);
    assert_eq!(poll(&mut outbox, slot), Poll::Ready(Err(Error::Closed)));
    let mut cx = Context::from_waker(Waker::noop());
    let failed = outbox.poll_outcomes(producer, &mut cx);
    assert_eq!(failed, Poll::Ready(Err(Error::Closed)));
    assert_eq!(outbox.in_flight, 0);
}
