//! What is durable of every group: a fold of GROUP and SETTLED records, in the order of the log. record §9.4
//!
//! The invariant: applying the same records gives the same view, whoever applies them and when. What was appended and is
//! not durable waits in `coming`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use spile_log::Record;
use spile_protocol::message::DecodeError;

use crate::{
    groups::{
        definition::Definition,
        record::{Entry, GroupTail, Letter, Mark, SettledTail},
        shared::Shared,
        unsettled::Fence,
    },
    limits::LAGS_TOLD,
    record::{self, Names, kind},
    status::Lag,
};

/// Tenant and name.
pub(crate) type Name = (String, String);

/// A group as far as it is durable.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    pub(crate) epoch: u32,
    pub(crate) removed: bool,
    pub(crate) definition: Arc<Definition>,
    /// The first position it delivers.
    pub(crate) start: u64,
    pub(crate) floor: u64,
    /// Events that match between start and floor.
    pub(crate) passed: u64,
    /// Events that were done in this epoch.
    pub(crate) settled: u64,
    /// Dead letters that were dropped in this epoch.
    pub(crate) dropped: u64,
    /// Dead letters of earlier epochs, from below the start, that were there when this one began.
    pub(crate) carried: u64,
    /// How far keys are, that are not just settled up to the floor.
    pub(crate) marks: HashMap<u64, Mark>,
    /// Those of `marks` that go when the floor reaches them.
    closed: BTreeSet<(u64, u64)>,
    pub(crate) letters: BTreeMap<u64, Letter>,
    pub(crate) shared: Arc<Shared>,
    pub(super) dirty: Dirty,
}

/// What of a group changed since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) head: bool,
    /// All its rows are others.
    pub(super) whole: bool,
    pub(super) marks: HashSet<u64>,
    pub(super) letters: HashSet<u64>,
}

/// A record that is on its way to the disk.
#[derive(Debug)]
enum Coming {
    Group(GroupTail, Arc<Definition>),
    Settled(SettledTail, Vec<Entry>),
}

/// All groups of a worker.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    of: BTreeMap<Arc<Name>, Group>,
    /// The position behind each record.
    coming: VecDeque<(u64, Arc<Name>, Coming)>,
    /// What retention looks at.
    pub(crate) fence: Fence,
}

impl Groups {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<Name>, &Group)> {
        self.of.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<Name>, &mut Group)> {
        self.of.iter_mut()
    }

    /// The group of that name, removed or not.
    pub(crate) fn get(&self, name: &Name) -> Option<&Group> {
        self.of.get(name)
    }

    /// The group of that name, where there is one.
    pub(crate) fn find(&self, tenant: &str, name: &str) -> Option<(&Arc<Name>, &Group)> {
        let name = (tenant.to_owned(), name.to_owned());
        self.of.get_key_value(&name).filter(|(_, group)| !group.removed)
    }

    /// How new what is known of a group is, durable or on its way.
    pub(crate) fn newest(&self, name: &Name) -> Option<(u64, u32, bool)> {
        let coming = self.coming.iter().rev().find_map(|(_, of, coming)| match coming {
            Coming::Group(tail, _) if **of == *name => Some((tail.id, tail.epoch, tail.removed)),
            Coming::Group(..) | Coming::Settled(..) => None,
        });
        coming.or_else(|| self.get(name).map(Group::order))
    }

    /// A GROUP was appended.
    pub(crate) fn put_group(&mut self, end: u64, name: Name, tail: GroupTail, of: Arc<Definition>) {
        if let Some(group) = self.of.get(&name) {
            group.shared.change();
        }
        self.fence.pass(tail.start);
        self.coming.push_back((end, Arc::new(name), Coming::Group(tail, of)));
    }

    /// A SETTLED was appended.
    pub(crate) fn put_settled(
        &mut self,
        end: u64,
        name: Arc<Name>,
        tail: SettledTail,
        entries: Vec<Entry>,
    ) {
        self.coming.push_back((end, name, Coming::Settled(tail, entries)));
    }

    /// Definitions that were appended and are not durable.
    pub(super) fn coming_groups(&self) -> impl Iterator<Item = (&Name, &GroupTail, &Definition)> {
        self.coming.iter().filter_map(|(_, name, coming)| match coming {
            Coming::Group(tail, of) => Some((&**name, tail, &**of)),
            Coming::Settled(..) => None,
        })
    }

    /// What lies before `durable` counts.
    pub(crate) fn settle(&mut self, durable: u64) {
        while let Some((_, name, coming)) = self.coming.pop_front_if(|coming| coming.0 <= durable) {
            match coming {
                Coming::Group(tail, definition) => self.apply_group(name, tail, definition),
                Coming::Settled(tail, entries) => self.apply_settled(&name, tail, entries),
            }
        }
    }

    /// What lies beyond `end` never was: who rests on it begins again.
    pub(crate) fn cut(&mut self, end: u64) {
        while let Some((_, name, _)) = self.coming.pop_back_if(|coming| coming.0 > end) {
            if let Some(group) = self.of.get(&name) {
                group.shared.turn();
            }
        }
    }

    /// A record of the log.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), DecodeError> {
        let (prefix, tail) = record::split(&record.head)?;
        let names = Names::parse(prefix)?;
        let name = Arc::new((names.tenant.to_owned(), names.key.to_owned()));
        if record.kind == kind::GROUP {
            let tail = GroupTail::read(tail)?;
            let definition = serde_json::from_slice(&record.payload);
            let definition =
                definition.map_err(|_| DecodeError::malformed("a GROUP's definition"))?;
            self.apply_group(name, tail, Arc::new(definition));
        } else {
            let tail = SettledTail::read(tail)?;
            self.apply_settled(&name, tail, Entry::all(&record.payload)?);
        }
        Ok(())
    }

    fn apply_group(&mut self, name: Arc<Name>, tail: GroupTail, definition: Arc<Definition>) {
        match self.of.get_mut(&name) {
            Some(group) => group.renew(&tail, definition),
            None => {
                self.of.insert(name, Group::new(&tail, definition));
            }
        }
    }

    fn apply_settled(&mut self, name: &Arc<Name>, tail: SettledTail, entries: Vec<Entry>) {
        // record §9.4: what was settled in an earlier epoch is void.
        let of = |group: &&mut Group| group.order() == (tail.id, tail.epoch, false);
        if let Some(group) = self.of.get_mut(name).filter(of) {
            group.apply(&tail, entries);
        }
    }

    /// A group out of a checkpoint.
    pub(super) fn load(&mut self, name: Name, group: Group) {
        self.of.insert(Arc::new(name), group);
    }

    pub(super) fn loaded(&mut self, name: &Name) -> Option<&mut Group> {
        self.of.get_mut(name)
    }

    /// Events handed out, dead letters, and groups that are not removed.
    pub(crate) fn counts(&self) -> (usize, u64, usize) {
        let live = self.of.values().filter(|group| !group.removed);
        live.fold((0, 0, 0), |(groups, in_flight, dead), group| {
            let out = group.shared.in_flight.load(Ordering::Relaxed);
            (groups + 1, in_flight + out, dead + group.letters.len())
        })
    }

    /// How far all are behind, what was not looked at for them, and who is furthest behind, of this tenant or of all; `end`: of
    /// the log.
    pub(crate) fn lags(&self, end: u64, of: Option<&str>) -> (u64, u64, Vec<Lag>) {
        let live = self.of.iter().filter(|(_, group)| !group.removed);
        let mut behind: Vec<_> = live.map(|(name, group)| (group.lag(end), name)).collect();
        let sums = |(lag, unread): (u64, u64), &((of, not), _): &((u64, u64), _)| {
            (lag.saturating_add(of), unread.saturating_add(not))
        };
        let (lag, unread) = behind.iter().fold((0, 0), sums);
        behind.sort_by_key(|&((lag, unread), _)| Reverse(lag.saturating_add(unread)));
        behind.retain(|&(lag, name)| lag != (0, 0) && of.is_none_or(|tenant| name.0 == tenant));
        let told = behind.into_iter().take(LAGS_TOLD);
        let told = told.map(|((lag, unread), name)| {
            let (tenant, name) = Name::clone(name);
            Lag { tenant, name, lag, unread }
        });
        (lag, unread, told.collect())
    }

    /// Rows that a checkpoint would write.
    pub(crate) fn dirty(&self) -> usize {
        let rows = |group: &Group| {
            let Dirty { head, marks, letters, .. } = &group.dirty;
            usize::from(*head) + marks.len() + letters.len()
        };
        self.of.values().map(rows).sum()
    }
}

impl Group {
    /// Its events that are neither settled nor dead, as far as they were counted, and positions from there to the end.
    fn lag(&self, end: u64) -> (u64, u64) {
        let Shared { produced, counted_to, counted_stamp, .. } = &*self.shared;
        let counted = counted_stamp.load(Ordering::Acquire) == self.shared.stamp();
        // Nobody looked since the start, or since it was sent elsewhere: what is known is what the view says.
        let (produced, upto) = if counted {
            (produced.load(Ordering::Acquire), counted_to.load(Ordering::Acquire))
        } else {
            (self.passed, self.floor)
        };
        let dead = u64::try_from(self.letters.len()).unwrap_or(u64::MAX);
        let over = self.settled.saturating_add(self.dropped).saturating_add(dead);
        (produced.saturating_add(self.carried).saturating_sub(over), end.saturating_sub(upto))
    }

    pub(super) fn new(tail: &GroupTail, definition: Arc<Definition>) -> Self {
        let GroupTail { id, epoch, removed, start, .. } = *tail;
        Self {
            id,
            epoch,
            removed,
            definition,
            start,
            floor: start,
            passed: 0,
            settled: 0,
            dropped: 0,
            carried: 0,
            marks: HashMap::new(),
            closed: BTreeSet::new(),
            letters: BTreeMap::new(),
            shared: Shared::new(),
            dirty: Dirty { head: true, whole: true, ..Dirty::default() },
        }
    }

    pub(crate) fn order(&self) -> (u64, u32, bool) {
        (self.id, self.epoch, self.removed)
    }

    /// Another definition, where it is a newer one: everything begins again from its start.
    fn renew(&mut self, tail: &GroupTail, definition: Arc<Definition>) {
        if (tail.id, tail.epoch, tail.removed) > self.order() {
            // Dead letters from below the new start do not come again: they stay. record §9.4
            let mut letters = std::mem::take(&mut self.letters);
            drop(letters.split_off(&tail.start));
            if tail.id != self.id || tail.removed {
                letters.clear();
            }
            let shared = self.shared.clone();
            let carried = u64::try_from(letters.len()).unwrap_or(u64::MAX);
            *self = Self { letters, carried, shared, ..Self::new(tail, definition) };
        }
        self.shared.turn();
    }

    fn apply(&mut self, tail: &SettledTail, entries: Vec<Entry>) {
        self.dirty.head = true;
        entries.into_iter().for_each(|entry| self.one(entry));
        if tail.floor > self.floor {
            (self.floor, self.passed) = (tail.floor, tail.passed);
        }
        while let Some(&(at, stream)) = self.closed.first().filter(|(at, _)| *at <= self.floor) {
            self.closed.remove(&(at, stream));
            self.marks.remove(&stream);
            self.dirty.marks.insert(stream);
        }
    }

    fn one(&mut self, entry: Entry) {
        match entry {
            Entry::Key { stream, mark, events } => {
                self.settled = self.settled.saturating_add(u64::from(events));
                self.dirty.marks.insert(stream);
                self.put_mark(stream, mark);
            }
            Entry::Dead { position, letter } => {
                self.dirty.letters.insert(position);
                self.letters.insert(position, letter);
            }
            Entry::Replay { position, replay } => {
                self.dirty.letters.insert(position);
                if let Some(letter) = self.letters.get_mut(&position) {
                    letter.replay = Some(replay);
                }
            }
            Entry::Done { position } => {
                self.dirty.letters.insert(position);
                self.settled += u64::from(self.letters.remove(&position).is_some());
            }
            Entry::Dropped { position } => {
                self.dirty.letters.insert(position);
                self.dropped += u64::from(self.letters.remove(&position).is_some());
            }
        }
    }

    pub(super) fn put_mark(&mut self, stream: u64, mark: Mark) {
        if let Some(old) = self.marks.insert(stream, mark).filter(|old| !old.open) {
            self.closed.remove(&(old.at, stream));
        }
        if !mark.open {
            self.closed.insert((mark.at, stream));
        }
    }

    /// Does a dead letter hold its key back?
    pub(crate) fn holds(&self) -> bool {
        self.definition.on_dead == crate::groups::definition::OnDead::Hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 10;

    fn named() -> Name {
        ("main".to_owned(), "g".to_owned())
    }

    fn group(groups: &mut Groups, (id, epoch, removed): (u64, u32, bool), start: u64) {
        let definition = serde_json::from_str(r#"{"name":"g","filter":"t"}"#).unwrap();
        let tail = GroupTail { time_ms: 1, id, epoch, removed, start };
        groups.put_group(END, named(), tail, Arc::new(definition));
        groups.settle(END);
    }

    fn settled(groups: &mut Groups, epoch: u32, floor: u64, entries: Vec<Entry>) {
        let tail = SettledTail { time_ms: 1, id: 5, epoch, floor, passed: floor };
        groups.put_settled(END, Arc::new(named()), tail, entries);
        groups.settle(END);
    }

    fn mark(at: u64, open: bool) -> Entry {
        let mark = Mark { version: at, at, open, retry: None };
        Entry::Key { stream: at, mark, events: 1 }
    }

    fn dead(position: u64) -> Entry {
        let (reason, replay) = (String::new(), None);
        let letter = Letter { stream: 1, version: 1, attempts: 1, time_ms: 1, reason, replay };
        Entry::Dead { position, letter }
    }

    #[test]
    fn what_was_settled_in_another_epoch_is_void() {
        let mut groups = Groups::default();
        group(&mut groups, (5, 1, false), 1);
        settled(&mut groups, 1, 40, vec![mark(50, false), dead(3), dead(60)]);
        group(&mut groups, (5, 2, false), 20);
        for epoch in [1, 3] {
            settled(&mut groups, epoch, 90, vec![mark(99, false), dead(7)]);
        }
        // An older definition, told again, changes nothing.
        group(&mut groups, (5, 1, false), 1);
        let group = groups.get(&named()).unwrap();
        assert_eq!((group.epoch, group.start, group.floor, group.settled), (2, 20, 20, 0));
        assert!(group.marks.is_empty());
        // What is dead from below the new start stays, the rest comes again.
        assert_eq!((group.letters.keys().collect::<Vec<_>>(), group.carried), (vec![&3], 1));
    }

    #[test]
    fn the_floor_takes_marks_with_it_but_for_open_ones() {
        let mut groups = Groups::default();
        group(&mut groups, (5, 1, false), 1);
        settled(&mut groups, 1, 40, vec![mark(50, false), mark(51, true), mark(60, false)]);
        settled(&mut groups, 1, 50, vec![]);
        // A lower floor than is known is none.
        settled(&mut groups, 1, 45, vec![]);
        let marks = |groups: &Groups| {
            let mut marks: Vec<_> = groups.get(&named()).unwrap().marks.keys().copied().collect();
            marks.sort_unstable();
            marks
        };
        assert_eq!((marks(&groups), groups.get(&named()).unwrap().floor), (vec![51, 60], 50));
        settled(&mut groups, 1, 70, vec![]);
        assert_eq!(marks(&groups), [51]);
    }

    #[test]
    fn a_group_that_is_removed_settles_nothing_and_keeps_nothing() {
        let mut groups = Groups::default();
        group(&mut groups, (5, 1, false), 1);
        settled(&mut groups, 1, 40, vec![dead(3), mark(50, true)]);
        group(&mut groups, (5, 2, true), 1);
        settled(&mut groups, 2, 90, vec![dead(4)]);
        assert!(groups.find("main", "g").is_none());
        let group = groups.get(&named()).unwrap();
        assert!(group.letters.is_empty() && group.marks.is_empty());
    }

    #[test]
    fn what_is_cut_off_was_never_there() {
        let mut groups = Groups::default();
        group(&mut groups, (5, 1, false), 1);
        let shared = groups.get(&named()).unwrap().shared.clone();
        let stamp = shared.stamp();
        let tail = SettledTail { time_ms: 1, id: 5, epoch: 1, floor: 40, passed: 4 };
        groups.put_settled(END + 1, Arc::new(named()), tail, vec![dead(3)]);
        groups.cut(END);
        groups.settle(END + 1);
        let group = groups.get(&named()).unwrap();
        assert!(group.letters.is_empty() && group.floor == 1);
        assert!(shared.stamp() != stamp, "who rests on it begins again");
    }
}
