//! Inboxes: how far each principal has worked off its own events under `inbox/#`, and who reads one now.
//!
//! The invariant: a cursor never goes back, and is told and begun at only as far as it is durable; SETTLE *done* is
//! answered when the record that moves the cursor past its delivery is. spec §8.1.6, record §10

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use spile_protocol::{
    code::Code,
    id::{SubscriptionId, Version},
    limits::DELIVERIES,
    message::{Fields, Outcome, Settle, deliver::Kind},
    time::Millis,
};

use crate::{
    bell::Bell,
    checkpoint::{BadRow, Row, text, values as varints},
    core::Core,
    intake::Intake,
    limits::CURSORS,
    record::{self, kind},
    said::Said,
};

/// The topics an inbox holds.
pub(crate) const FILTER: &str = "inbox/#";

/// Cursors of all principals.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    /// By tenant, role and name: the last version of the principal's own stream that is done with.
    at: HashMap<Arc<str>, u64>,
    /// On its way to the disk: the position behind each record.
    coming: VecDeque<(u64, Arc<str>, u64)>,
    /// What changed since the last checkpoint.
    dirty: HashSet<Arc<str>>,
    /// Who reads now.
    readers: HashMap<Arc<str>, Reader>,
    /// Readers that left are swept when there are so many names.
    sweep_at: usize,
}

/// Another subscription took over.
type Replaced = AtomicBool;

#[derive(Debug)]
struct Reader {
    replaced: Weak<Replaced>,
    bell: Arc<Bell>,
}

impl Cursors {
    /// What stands in the log.
    pub(crate) fn apply(&mut self, name: Arc<str>, version: u64) {
        let at = self.at.entry(name.clone()).or_default();
        *at = version.max(*at);
        self.dirty.insert(name);
    }

    /// It was appended, and counts once the log is durable up to `end`.
    fn put(&mut self, end: u64, name: Arc<str>, version: u64) {
        self.coming.push_back((end, name, version));
    }

    pub(crate) fn settle(&mut self, durable: u64) {
        while let Some((_, name, version)) = self.coming.pop_front_if(|one| one.0 <= durable) {
            self.apply(name, version);
        }
    }

    pub(crate) fn cut(&mut self, end: u64) {
        while self.coming.pop_back_if(|coming| coming.0 > end).is_some() {}
    }

    /// As far as it is durable.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.at.get(name).copied().unwrap_or_default()
    }

    /// As it will be when all that is on its way is durable.
    fn newest(&self, name: &str) -> u64 {
        let coming = self.coming.iter().rev().find(|(_, of, _)| **of == *name);
        coming.map_or_else(|| self.get(name), |(_, _, version)| *version)
    }

    fn is_full_for(&self, name: &str) -> bool {
        self.at.len() + self.coming.len() >= CURSORS && !self.at.contains_key(name)
    }

    /// One inbox subscription a principal: the newest wins, the older hears it.
    fn take_over(&mut self, name: &Arc<str>, bell: &Arc<Bell>) -> Arc<Replaced> {
        if self.readers.len() >= self.sweep_at {
            self.readers.retain(|_, reader| reader.replaced.strong_count() > 0);
            self.sweep_at = 64 + 2 * self.readers.len();
        }
        let replaced = Arc::<Replaced>::default();
        let reader = Reader { replaced: Arc::downgrade(&replaced), bell: bell.clone() };
        if let Some(older) = self.readers.insert(name.clone(), reader)
            && let Some(flag) = older.replaced.upgrade()
        {
            flag.store(true, Ordering::Release);
            older.bell.ring();
        }
        replaced
    }

    /// How many rows the next checkpoint has of it.
    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
    }

    /// What a checkpoint has to write.
    pub(crate) fn changed_rows(&mut self) -> CursorRows {
        let dirty = std::mem::take(&mut self.dirty);
        CursorRows(dirty.into_iter().map(|name| (name.clone(), self.get(&name))).collect())
    }

    /// All of it, for who compares.
    pub(crate) fn all_rows(&self) -> CursorRows {
        CursorRows(self.at.iter().map(|(name, at)| (name.clone(), *at)).collect())
    }

    /// Puts one row back.
    pub(crate) fn load_row(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadRow> {
        self.at.insert(text(name)?.into(), Fields::new(value).varint("cursor")?);
        Ok(())
    }
}

/// Cursors as rows of a checkpoint. record §8
#[derive(Debug, Default)]
pub(crate) struct CursorRows(Vec<(Arc<str>, u64)>);

impl CursorRows {
    pub(crate) fn rows(self, kind: u8) -> impl Iterator<Item = Row> {
        let key = move |name: &str| [&[kind], name.as_bytes()].concat();
        self.0.into_iter().map(move |(name, at)| (key(&name), varints(&[at])))
    }
}

/// A subscription's part in its principal's inbox: what was handed out and not settled.
#[derive(Debug)]
pub(crate) struct Member {
    replaced: Arc<Replaced>,
    handed: VecDeque<Handed>,
    /// The number of the last delivery.
    delivered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Handed {
    /// The version of its first event.
    version: u64,
    events: u32,
    settled: u32,
}

impl Member {
    const fn new(replaced: Arc<Replaced>) -> Self {
        Self { replaced, handed: VecDeque::new(), delivered: 0 }
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// A delivery went out. At the cap the oldest is forgotten: its credit was given back long ago.
    pub(crate) fn delivered(&mut self, version: u64, events: u32) {
        if self.handed.len() >= DELIVERIES {
            self.handed.pop_front();
        }
        self.delivered += 1;
        self.handed.push_back(Handed { version, events, settled: 0 });
    }

    fn handed(&mut self, delivery: u64) -> Option<&mut Handed> {
        let back = usize::try_from(self.delivered.checked_sub(delivery)?).ok()?;
        let at = self.handed.len().checked_sub(1)?.checked_sub(back)?;
        self.handed.get_mut(at)
    }

    /// So many events of a delivery are done with (0: all that is left): the version of the last of them, and whether
    /// nothing of the delivery is left. `None` where nothing was.
    fn done(&mut self, delivery: u64, events: u32) -> Option<(u64, bool)> {
        let handed = self.handed(delivery)?;
        let left = handed.events.saturating_sub(handed.settled);
        if left == 0 {
            return None;
        }
        handed.settled += if events == 0 { left } else { events.min(left) };
        let last = handed.version.saturating_add(u64::from(handed.settled)).saturating_sub(1);
        Some((last, handed.settled == handed.events))
    }

    /// How many of those that were handed out lie behind one version, and not behind another.
    fn between(&self, from: u64, through: u64) -> u64 {
        let end = |handed: &Handed| handed.version.saturating_add(u64::from(handed.events));
        let behind = self.handed.iter().rev().take_while(|handed| end(handed) > from + 1);
        let within = |handed: &Handed| {
            let first = handed.version.max(from + 1);
            end(handed).min(through.saturating_add(1)).saturating_sub(first)
        };
        behind.map(within).sum()
    }
}

/// Writes the tail of a CURSOR. record §10.6
fn put_cursor(out: &mut BytesMut, time_ms: u64, version: u64) {
    for value in [time_ms, version] {
        record::put_varint(out, value);
    }
}

/// Reads the tail of a CURSOR: the cursor.
pub(crate) fn parse_cursor(tail: &[u8]) -> Result<u64, spile_protocol::message::DecodeError> {
    let mut fields = Fields::new(tail);
    fields.varint("a cursor's time")?;
    fields.varint("a cursor's version")
}

impl Core {
    /// Puts the record that moves a principal's cursor.
    fn put_own_cursor(
        &mut self,
        name: &Arc<str>,
        prefix: &[u8],
        now: Millis,
        version: u64,
    ) -> Option<()> {
        // The stream rests on it, so that undoing it takes back the time of records.
        let (tenant, _) = crate::tables::Tables::halves(name);
        let (_, principal) = name.rsplit_once('/')?;
        let stream = self.tables.stream(tenant, principal).ok()?;
        self.heads.extend_from_slice(prefix);
        put_cursor(&mut self.heads, now.0, version);
        let head = self.heads.split().freeze();
        self.put_beside(stream, now.0, kind::CURSOR, head)?;
        self.cursors.put(self.next, name.clone(), version);
        Some(())
    }
}

impl Intake<'_> {
    /// The principal's inbox is read by this subscription from now on: its part, and the first version it wants.
    pub(crate) fn enter_inbox(&mut self) -> (Member, u64) {
        self.core.look();
        let from = self.core.cursors.get(&self.desk.scoped).saturating_add(1);
        let replaced = self.core.cursors.take_over(&self.desk.scoped, &self.desk.bell);
        (Member::new(replaced), from)
    }

    /// A SETTLE of an inbox; false where the subscription is none. spec §8.1.6
    pub(crate) fn settle_inbox(&mut self, now: Millis, settle: &Settle<'_>) -> bool {
        let Settle { subscription: id, delivery, outcome, events, .. } = *settle;
        let Some(subscription) = self.desk.subscription(id) else { return false };
        let Some(member) = &mut subscription.inbox else { return false };
        match outcome {
            Outcome::Seen => subscription.seen(delivery),
            // It comes again to the next subscription: the cursor stays before it.
            Outcome::Retry { .. } | Outcome::Reject => subscription.free(delivery),
            Outcome::Done => {
                let done = member.done(delivery, events);
                if done.is_none_or(|(_, whole)| whole) {
                    subscription.free(delivery);
                }
                self.answer_done(now, settle, done.map(|(version, _)| version));
            }
        }
        true
    }

    /// spec §8.3.3: answered with the same when it is durable; spec §8.3.5: *seen* where nothing was left.
    fn answer_done(&mut self, now: Millis, settle: &Settle<'_>, version: Option<u64>) {
        let Settle { subscription, delivery, events, .. } = *settle;
        let outcome = if version.is_some() { Outcome::Done } else { Outcome::Seen };
        let newest = self.core.cursors.newest(&self.desk.scoped);
        if let Some(version) = version.filter(|&version| version > newest) {
            if let Err(code) = self.move_cursor(now, version) {
                return self.fail_inbox(subscription, code);
            }
            let member = self.desk.subscription(subscription).and_then(|one| one.inbox.as_ref());
            let passed = member.map_or(0, |member| member.between(newest, version));
            self.worker.counters.inbox_settled.add(passed);
        }
        let gate = self.core.next;
        self.desk.said(gate, Said::Settled { subscription, delivery, outcome, events });
    }

    fn move_cursor(&mut self, now: Millis, version: u64) -> Result<(), Code> {
        let Self { core, desk, .. } = self;
        if core.cursors.is_full_for(&desk.scoped) {
            return Err(Code::TOO_MANY);
        }
        let name = desk.scoped.clone();
        let prefix = desk.who.prefix(&desk.who.principal, "", Kind::default());
        self.commit();
        self.core.put_own_cursor(&name, &prefix, now, version).ok_or(Code::INTERNAL)?;
        // What was worked off must be settled when the disk is full: there is room in reserve.
        if let Err(refusal) = self.core.commit(true) {
            self.lose(refusal);
            return Err(refusal.code);
        }
        Ok(())
    }

    /// What was settled is not: whoever reads begins again behind the cursor.
    fn fail_inbox(&mut self, id: SubscriptionId, code: Code) {
        if let Some(subscription) = self.desk.subscription(id) {
            subscription.fail(code, "the settlement is not stored; subscribe again");
        }
    }
}

/// The cursor a principal hears when its own lane opens. spec §5.1
pub(crate) fn told(core: &mut Core, name: &str) -> Version {
    core.look();
    Version(core.cursors.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_counts_when_it_is_durable_and_never_goes_back() {
        let mut cursors = Cursors::default();
        for (end, version) in [(2, 5), (3, 7)] {
            cursors.put(end, "a".into(), version);
        }
        assert_eq!((cursors.get("a"), cursors.newest("a")), (0, 7));
        cursors.settle(2);
        cursors.cut(2);
        assert_eq!((cursors.get("a"), cursors.newest("a")), (5, 5));
        cursors.apply("a".into(), 3);
        assert_eq!(cursors.get("a"), 5);
    }

    #[test]
    fn a_delivery_is_settled_in_parts_and_nothing_twice() {
        let mut member = Member::new(Arc::default());
        member.delivered(10, 3);
        member.delivered(20, 1);
        assert_eq!(member.done(1, 2), Some((11, false)));
        assert_eq!(member.done(1, 9), Some((12, true)));
        assert_eq!(member.done(1, 1), None);
        // Versions 10, 11, 12 and 20 were handed out.
        for (from, through, passed) in
            [(0, 12, 3), (0, 11, 2), (10, 12, 2), (12, 20, 1), (0, 20, 4), (20, 20, 0)]
        {
            assert_eq!(member.between(from, through), passed, "{from} {through}");
        }
        assert_eq!(member.done(2, 0), Some((20, true)));
        assert_eq!(member.done(3, 0), None);
    }
}
