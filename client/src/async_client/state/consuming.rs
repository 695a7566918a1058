//! Memberships of groups: what was handed out, and what became of it.
//!
//! On the wire a plain subscription has an even number and a membership an odd one: twice its place, and one more.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use spile_protocol::code::Code;
use spile_protocol::id::SubscriptionId;
use spile_protocol::limits;
use spile_protocol::message::{self, Deliver, Outcome};
use spile_protocol::session::Amount;
use spile_protocol::session::device::Refusal as Machine;
use spile_protocol::time::Instant;

use super::super::Error;
use super::super::consume::{Consume, Settled, Tally};
use super::super::error::Refusal;
use super::super::handed::{Handed, Run};
use super::{Phase, State};

/// A group that can't be served is not asked for again sooner: each time costs a frame.
const REJOIN: Duration = Duration::from_millis(100);

/// Which events of which delivery.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Part {
    /// The opening of the subscription it came on.
    pub(in super::super) opening: u64,
    /// The delivery's number.
    pub(in super::super) delivery: u64,
    /// How many, from the first unsettled; 0: all.
    pub(in super::super) events: u32,
}

/// The place of the membership that has this number on the wire; `None`: a plain subscription has it.
pub(super) fn member(id: SubscriptionId) -> Option<usize> {
    (id.0 % 2 == 1).then(|| usize::try_from(id.0 / 2).unwrap_or(usize::MAX))
}

fn on_the_wire(place: usize) -> SubscriptionId {
    let place = u32::try_from(place).unwrap_or(u32::MAX / 2);
    SubscriptionId(place.saturating_mul(2) | 1)
}

/// What callers do.
impl State {
    pub(in super::super) fn consume(
        &mut self,
        group: Option<Arc<str>>,
        options: Consume,
    ) -> Result<usize, Error> {
        self.check()?;
        let handed = Handed::new(group, options, self.next_opening());
        handed.check()?;
        let number = self.groups.insert(handed);
        if self.phase == Phase::Open {
            self.join(number);
        }
        Ok(number)
    }

    fn next_opening(&mut self) -> u64 {
        self.openings += 1;
        self.openings
    }

    /// SUBSCRIBE goes out; where it can't, the membership is over.
    fn join(&mut self, number: usize) {
        let Some(handed) = self.groups.get_mut(number) else { return };
        let subscribe = handed.subscribe(on_the_wire(number));
        let asked = self.device.subscribe(&subscribe, &mut self.said);
        self.dirty = true;
        let Err(why) = asked else { return };
        // A session that is going away is asked again when there is another.
        if !matches!(why, Machine::Leaving | Machine::NotConnected) {
            let many = matches!(why, Machine::TooMany(_));
            let code = if many { Code::TOO_MANY } else { Code::INVALID };
            let refusal = Refusal::of(code).detail(&why.to_string());
            handed.ended(Some(refusal.into()), &mut self.settles, &mut self.wake);
        }
    }

    pub(in super::super) fn poll_member(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let handed = self.groups.get_mut(number);
        handed.map_or(Poll::Ready(Err(Error::Closed)), |handed| handed.poll_open(cx))
    }

    pub(in super::super) fn poll_handed(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Run, Error>>> {
        self.groups.get_mut(number).map_or(Poll::Ready(None), |handed| handed.poll_next(cx))
    }

    pub(in super::super) fn is_handed(&self, number: usize) -> bool {
        self.groups.get(number).is_some_and(Handed::is_ready)
    }

    pub(in super::super) fn tally(&self, number: usize) -> Tally {
        self.groups.get(number).map_or_else(Tally::default, |handed| handed.tally)
    }

    pub(in super::super) fn set_window(&mut self, number: usize, events: u32, bytes: u32) {
        let Some(handed) = self.groups.get_mut(number) else { return };
        handed.options = handed.options.window(events, bytes);
        let window = Amount { events, bytes };
        // Where it is not open now, the next SUBSCRIBE says it.
        self.dirty |= self.device.set_window(on_the_wire(number), window, &mut self.said).is_ok();
    }

    /// Sends a settlement: where its answer will be, or the answer, where it is known without asking.
    pub(in super::super) fn settle(
        &mut self,
        number: usize,
        part: Part,
        outcome: Outcome,
        reason: &str,
    ) -> Result<usize, Result<Settled, Error>> {
        if let Err(why) = self.check() {
            return Err(Err(why));
        }
        let handed = self.groups.get_mut(number);
        // What another connection handed out has ended with it. spec §8.3.4
        let Some(handed) = handed.filter(|handed| handed.opening == part.opening) else {
            return Err(Ok(Settled::TooLate));
        };
        let settle = message::Settle {
            subscription: on_the_wire(number),
            delivery: part.delivery,
            outcome,
            events: part.events,
            reason: cut(reason),
        };
        if self.device.settle(&settle, &mut self.said).is_err() {
            handed.tally.too_late += 1;
            return Err(Ok(Settled::TooLate));
        }
        self.dirty = true;
        if !handed.answers(outcome) {
            return Err(Ok(Settled::Durable));
        }
        let slot = self.settles.begin();
        handed.sent(part.delivery, slot);
        Ok(slot)
    }

    pub(in super::super) fn poll_settling(
        &mut self,
        slot: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<Settled, Error>> {
        self.settles.poll(slot, cx)
    }

    pub(in super::super) fn forget_settling(&mut self, slot: usize) {
        self.settles.forget(slot);
    }

    pub(in super::super) fn poll_settled(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        self.groups.get_mut(number).map_or(Poll::Ready(()), |handed| handed.poll_idle(cx))
    }

    /// Nobody takes what comes any more.
    pub(in super::super) fn leave_group(&mut self, number: usize) {
        let Some(handed) = self.groups.get_mut(number) else { return };
        let told =
            !handed.is_over() && self.device.end(on_the_wire(number), &mut self.said).is_ok();
        if told {
            // Its number is free when the server has answered.
            handed.leave();
            self.dirty = true;
        } else {
            self.forget_group(number);
        }
    }

    fn forget_group(&mut self, number: usize) {
        if let Some(mut handed) = self.groups.remove(number) {
            handed.ended(None, &mut self.settles, &mut self.wake);
        }
    }
}

/// What the server says, and what the connection does.
impl State {
    pub(super) fn joined(&mut self, number: usize) {
        if let Some(handed) = self.groups.get_mut(number) {
            handed.opened(&mut self.wake);
        }
    }

    pub(super) fn handed(&mut self, number: usize, delivery: u64, deliver: &Deliver<'_>) {
        if let Some(handed) = self.groups.get_mut(number) {
            handed.delivered(delivery, deliver, &mut self.wake);
        }
    }

    pub(super) fn settled(&mut self, settle: &message::Settle<'_>) {
        let handed = member(settle.subscription).and_then(|number| self.groups.get_mut(number));
        if let Some(handed) = handed {
            handed.answered(settle, &mut self.settles, &mut self.wake);
        }
    }

    pub(super) fn membership_ended(&mut self, number: usize, why: Option<Refusal>) {
        let Some(handed) = self.groups.get_mut(number) else { return };
        if handed.has_left() {
            return self.forget_group(number);
        }
        let after = why.as_ref().and_then(|why| why.retry_after);
        self.openings += 1;
        let again = after.is_some_and(|after| {
            let until = self.now.after(after.max(REJOIN));
            handed.suspended(until, self.openings, &mut self.settles, &mut self.wake)
        });
        if !again {
            handed.ended(why.map(Error::from), &mut self.settles, &mut self.wake);
        }
    }

    /// When a membership is to be asked for again.
    pub(super) fn groups_due(&self) -> Option<Instant> {
        self.groups.iter().filter_map(|(_, handed)| handed.due()).min()
    }

    /// Asks again for what was away long enough.
    pub(super) fn rejoin_due(&mut self) {
        if self.groups_due().is_none_or(|due| due > self.now) {
            return;
        }
        let mut due = Vec::new();
        for (number, handed) in self.groups.iter_mut() {
            if handed.due().is_some_and(|due| due <= self.now) {
                handed.asked_again();
                due.push(number);
            }
        }
        due.into_iter().for_each(|number| self.join(number));
    }

    pub(super) fn rejoin_groups(&mut self) {
        let waiting: Vec<_> = self
            .groups
            .iter_mut()
            .filter(|(_, handed)| !handed.is_over())
            .map(|(number, _)| number)
            .collect();
        waiting.into_iter().for_each(|number| self.join(number));
    }

    /// The connection is gone: who left already needs no answer any more.
    pub(super) fn suspend_groups(&mut self) {
        let mut left = Vec::new();
        for (number, handed) in self.groups.iter_mut() {
            if handed.has_left() {
                left.push(number);
            } else if !handed.is_over() {
                self.openings += 1;
                handed.reconnected(self.openings, &mut self.settles, &mut self.wake);
            }
        }
        left.into_iter().for_each(|number| self.forget_group(number));
    }

    pub(super) fn end_groups(&mut self, why: &Error) {
        for (_, handed) in self.groups.iter_mut() {
            if !handed.is_over() {
                handed.ended(Some(why.clone()), &mut self.settles, &mut self.wake);
            }
        }
    }
}

/// As much of a reason as fits, whole characters. spec §8.3
fn cut(reason: &str) -> &str {
    let end = reason.floor_char_boundary(limits::DETAIL_BYTES);
    reason.get(..end).unwrap_or_default()
}
