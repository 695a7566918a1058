//! What groups have not settled, as retention asks for it; and the fence between retention and groups that are sent back.
//!
//! The invariant: what a copy says is settled was settled for good, but by a group that is made or sent back to before the
//! fence: then either the fence says so before anything is removed, or it was removed first.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use crate::groups::{
    definition::{Behind, Definition},
    record::GroupTail,
    view::{Group, Groups, Name},
};

/// A group's, within one segment.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    pub(crate) tenant: String,
    pub(crate) filter: String,
    start: u64,
    floor: u64,
    /// Keys that may have unsettled events below the floor: from where on.
    open: HashMap<u64, u64>,
    letters: HashSet<u64>,
    /// It lets go of what it has not settled.
    lost: bool,
}

impl Unsettled {
    fn of(name: &Name, group: &Group, segment: &Range<u64>, full: bool) -> Self {
        let open = group.marks.iter().filter(|(_, mark)| mark.open && mark.at < segment.end);
        Self {
            tenant: name.0.clone(),
            filter: group.definition.filter.clone(),
            start: group.start,
            floor: group.floor,
            open: open.map(|(&stream, mark)| (stream, mark.at)).collect(),
            letters: group.letters.range(segment.clone()).map(|(&at, _)| at).collect(),
            lost: full && group.definition.behind == Behind::Drop,
        }
    }

    /// One that is made, or sent elsewhere, and not durable yet.
    fn coming(name: &Name, tail: &GroupTail, definition: &Definition) -> Self {
        Self {
            tenant: name.0.clone(),
            filter: definition.filter.clone(),
            start: tail.start,
            floor: tail.start,
            ..Self::default()
        }
    }

    /// Does it want the record of that stream at these positions, whose topic it has?
    pub(crate) fn wants(&self, stream: u64, at: Range<u64>) -> bool {
        let from = self.open.get(&stream).map_or(self.floor, |&open| open.min(self.floor));
        let waits = !self.lost && at.end > from.max(self.start);
        waits || self.letters.iter().any(|letter| at.contains(letter))
    }
}

impl Groups {
    /// What is not settled of a segment, durable or on its way. `full`: the disk is.
    pub(crate) fn unsettled(&self, segment: &Range<u64>, full: bool) -> Vec<Unsettled> {
        let live = self.iter().filter(|(_, group)| !group.removed);
        let durable = live.map(|(name, group)| Unsettled::of(name, group, segment, full));
        let coming = self.coming_groups().filter(|(_, tail, _)| !tail.removed);
        let coming = coming.map(|(name, tail, of)| Unsettled::coming(name, tail, of));
        durable.chain(coming).collect()
    }

    /// Is this GROUP what is known of a group there is?
    pub(crate) fn rests_on(&self, tenant: &str, name: &str, tail: &[u8]) -> bool {
        let Ok(tail) = GroupTail::read(tail) else { return true };
        let group = self.get(&(tenant.to_owned(), name.to_owned()));
        let there = group.filter(|group| !group.removed);
        there.is_some_and(|group| group.order() == (tail.id, tail.epoch, tail.removed))
    }
}

/// While a segment is looked at: did a group come that may want it?
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// Positions before this are looked at; 0 for none.
    upto: u64,
    passed: bool,
}

impl Fence {
    /// A segment that ends here is looked at from now on.
    pub(crate) fn raise(&mut self, upto: u64) {
        *self = Self { upto, passed: false };
    }

    /// A group begins here.
    pub(super) fn pass(&mut self, start: u64) {
        self.passed |= start < self.upto;
    }

    /// Nothing came since the fence was raised: what is removed now was removed before whatever comes.
    pub(crate) fn lower(&mut self) -> bool {
        !std::mem::take(self).passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsettled_is_wanted_and_so_are_letters() {
        let one = Unsettled {
            start: 5,
            floor: 50,
            open: HashMap::from([(7, 20)]),
            letters: HashSet::from([11]),
            ..Unsettled::default()
        };
        assert!(one.wants(1, 50..51) && one.wants(1, 48..51) && !one.wants(1, 49..50));
        assert!(one.wants(7, 20..21) && !one.wants(7, 19..20), "a key that waits");
        assert!(one.wants(1, 10..13) && !one.wants(1, 12..13), "a letter within a block");
        let new = Unsettled { start: 60, ..one };
        assert!(!new.wants(1, 59..60), "before its start");
        let lost = Unsettled { lost: true, ..new };
        assert!(!lost.wants(1, 70..71) && lost.wants(1, 11..12), "but for its letters");
    }

    #[test]
    fn the_fence_knows_who_came_before_it() {
        let mut fence = Fence::default();
        fence.raise(10);
        fence.pass(10);
        assert!(fence.lower());
        fence.raise(10);
        fence.pass(9);
        assert!(!fence.lower());
        fence.pass(1);
        assert!(fence.lower(), "nothing is looked at");
    }
}
