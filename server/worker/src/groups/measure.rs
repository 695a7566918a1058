//! How far groups are, as metrics tell it: asked for when somebody looks, from numbers that are kept anyway.
//!
//! Where members of a group are behind, or it has none, the log is read on here, so that its lag is told all the same; a
//! bounded part of it each time, and what was not looked at yet is told as unread. Nothing rests on it.

use std::sync::Arc;

use crate::{
    groups::{
        calls::shown,
        jobs::Count,
        view::{Group, Name},
    },
    limits::{GROUPS_TOLD, MEASURE_READS},
    worker::Worker,
};

/// How far a group is, or all of them are together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMeasured {
    /// Whose it is; empty in the sum.
    pub tenant: String,
    /// What it is called; empty in the sum.
    pub name: String,
    /// Events that match and have no outcome yet, as far as the log was looked at.
    pub lag: u64,
    /// Those of them that no member has.
    pub waiting: u64,
    /// Events that members have.
    pub in_flight: u64,
    /// Dead letters.
    pub dead: u64,
    /// Positions of the log that were not looked at yet.
    pub unread: u64,
    /// It looks at no further keys until some are done; in the sum, how many do.
    pub full: u64,
}

/// How far all groups are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupsMeasured {
    /// All groups together.
    pub sum: GroupMeasured,
    /// The first [`GROUPS_TOLD`] of them, by tenant and name.
    pub each: Vec<GroupMeasured>,
}

impl GroupMeasured {
    fn add(&mut self, other: &Self) {
        let Self { tenant: _, name: _, lag, waiting, in_flight, dead, unread, full } = self;
        for (sum, more) in [
            (lag, other.lag),
            (waiting, other.waiting),
            (in_flight, other.in_flight),
            (dead, other.dead),
            (unread, other.unread),
            (full, other.full),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// How far the groups are.
pub(crate) fn measured(worker: &Worker) -> GroupsMeasured {
    let names: Vec<Arc<Name>> = {
        let mut core = worker.core();
        core.look();
        let there = |(_, group): &(&Arc<Name>, &Group)| !group.removed;
        core.groups.iter().filter(there).map(|(name, _)| Arc::clone(name)).collect()
    };
    let (mut measured, mut reads) = (GroupsMeasured::default(), MEASURE_READS);
    for (name, left) in names.iter().zip((1..=names.len()).rev()) {
        // Each has its share, so that one far behind does not take those of all behind it.
        let share = reads.div_ceil(left);
        let mut own = share;
        let one = measure(worker, name, &mut own);
        reads -= share - own;
        let Some(one) = one else { continue };
        measured.sum.add(&one);
        if measured.each.len() < GROUPS_TOLD {
            measured.each.push(one);
        }
    }
    measured
}

fn measure(worker: &Worker, name: &Name, reads: &mut usize) -> Option<GroupMeasured> {
    let unread = look_on(worker, name, reads)?;
    Some(GroupMeasured { unread, ..shown(worker, name)?.measured(name) })
}

/// Counts on what nobody read yet, as far as reads are left: how many positions are not looked at then.
fn look_on(worker: &Worker, name: &Name, reads: &mut usize) -> Option<u64> {
    let end = worker.durable().borrow().end.get();
    let (filter, shared) = {
        let core = worker.core();
        let (_, group) = core.groups.find(&name.0, &name.1)?;
        (group.definition.filter.clone(), Arc::clone(&group.shared))
    };
    let (stamp, known, from) = {
        let mut live = shared.live();
        live.follow(worker, name, &shared);
        (live.stamp(), live.produced(), live.counted_to())
    };
    let mut count = Count::of(worker, name, &filter, (from, end));
    while *reads > 0 && count.from < end {
        *reads -= 1;
        match count.step() {
            Ok(true) => count.from = end,
            Ok(false) => {}
            // It is not looked at; the log's own health tells why.
            Err(_) => break,
        }
    }
    let mut live = shared.live();
    live.note_counted(stamp, known.saturating_add(count.events), count.from);
    live.hint(&shared);
    Some(end.saturating_sub(count.from))
}
