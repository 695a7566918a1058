//! Who may come, as the registry says: what an edge knows of principals, in memory, and how it hears of changes.
//!
//! The registry's truth is in a worker's log. All-in-one hands its own copy in; an edge of a split deployment keeps a
//! [`struct@Copy`] that the link to the worker of `$registry` feeds, and its bytes on disk ([`image`]), for a start while that
//! worker is away. With it come the definitions of groups, which the edge passes on to the other workers. Invariants:
//! nobody is authenticated from anything else; where a copy is kept on disk, what is not synced there is not confirmed.

pub mod image;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use spile_protocol::{id::Role, message, time::Millis};
use tokio::sync::watch;

/// What is known of a principal.
#[derive(Clone, core::marker::Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As what it may come.
    pub role: Role,
    /// SHA-256 of its device key; `None` where it has none.
    pub key_hash: Option<[u8; 32]>,
    /// It may not come any more.
    pub revoked: bool,
    /// Until when it may come, in milliseconds since 1970; 0 for ever.
    pub expires_ms: u64,
}

impl Entry {
    /// Is it still before the end?
    #[must_use]
    pub const fn lasts(&self, now: Millis) -> bool {
        self.expires_ms == 0 || now.0 < self.expires_ms
    }
}

/// What authentication asks.
pub trait Registry: Send + Sync {
    /// What is known of `principal` in `tenant`.
    fn lookup(&self, tenant: &str, principal: &str) -> Option<Entry>;
    /// Has there been word from the registry's worker recently enough to trust this?
    fn is_fresh(&self, now: Millis) -> bool;
    /// Counts up with each change, so that live sessions can be looked at again.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// What a part of the registry is.
#[derive(Clone, core::marker::Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The position of the last record it rests on.
    pub upto: u64,
    /// It begins a whole copy; else it changes the one before.
    pub whole: bool,
    /// More follows before the copy is complete.
    pub more: bool,
}

/// A durable group's definition, as the registry's worker has it. What is in it is the workers'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id: a name that comes back has another.
    pub id: u64,
    /// Counted up by each seek.
    pub epoch: u32,
    /// Is it gone?
    pub removed: bool,
    /// What it delivers and how.
    pub definition: Box<[u8]>,
}

/// A copy that a link feeds.
#[derive(Debug)]
pub struct Copy {
    entries: RwLock<Entries>,
    changes: watch::Sender<u64>,
    max_age_ms: u64,
    /// Somebody keeps it on disk, and confirms what is synced.
    kept: AtomicBool,
}

/// By tenant and name.
type Known = HashMap<(Box<str>, Box<str>), Entry>;
/// The same, of groups.
type Groups = BTreeMap<(Box<str>, Box<str>), Group>;

#[derive(Debug, Default)]
struct Entries {
    heard: Option<Millis>,
    upto: u64,
    known: Known,
    groups: Groups,
    /// A whole copy on its way: it takes the place of what is known when it is complete.
    coming: Option<(Known, Groups)>,
}

impl Copy {
    /// An empty copy, which is not fresh until it is fed. What is older than `max_age_ms` is not trusted.
    #[must_use]
    pub fn new(max_age_ms: u64) -> Self {
        let (entries, changes) = (RwLock::default(), watch::Sender::new(0));
        Self { entries, changes, max_age_ms, kept: AtomicBool::new(false) }
    }

    /// Somebody keeps it on disk from now on: only what is synced there is confirmed, and not by the link.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Does somebody keep it on disk?
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// When there was word of the registry's worker last.
    #[must_use]
    pub fn heard_at(&self) -> Option<Millis> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).heard
    }

    /// Gives `tell` all groups in parts, as REGISTRY messages: a whole copy, up to a position. Nothing before there is a
    /// copy.
    pub fn tell_groups(&self, mut tell: impl FnMut(&message::Registry<'_>)) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if entries.heard.is_some() {
            image::say_groups(entries.upto, &entries.groups, true, &mut tell);
        }
    }

    /// What it is on disk, with the position it goes up to and when there was word last; nothing before there is a copy.
    #[must_use]
    pub fn image(&self) -> Option<(Vec<u8>, u64, Millis)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let heard = entries.heard?;
        Some((
            image::encode(heard, entries.upto, &entries.known, &entries.groups),
            entries.upto,
            heard,
        ))
    }

    /// Takes what stood on disk, where there is nothing newer.
    ///
    /// # Errors
    /// It is damaged: nothing of it is taken.
    pub fn restore(&self, bytes: &[u8]) -> Result<(), image::Damaged> {
        let image::Image { heard, upto, known, groups } = image::decode(bytes)?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.heard.is_none() {
            *entries = Entries { heard: Some(heard), upto, known, groups, coming: None };
        }
        Ok(())
    }

    /// The position of the last record this rests on, once a whole copy is there.
    #[must_use]
    pub fn upto(&self) -> Option<u64> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.heard.map(|_| entries.upto)
    }

    /// Takes what the registry's worker says over a link; true when the copy is complete up to what it said.
    pub fn apply(&self, now: Millis, said: &message::Registry<'_>) -> bool {
        let named = |entry: message::Entry<'_>| {
            (Box::from(entry.tenant), Box::from(entry.principal), Entry::from(&entry))
        };
        let grouped = |group: message::Group<'_>| {
            (Box::from(group.tenant), Box::from(group.name), Group::from(&group))
        };
        let part = Part { upto: said.upto, whole: said.whole, more: said.more };
        self.learn(now, part, said.entries.iter().map(named), said.groups.iter().map(grouped))
    }

    /// Takes a part of what is registered; true when the copy is complete up to what it says.
    pub fn learn(
        &self,
        now: Millis,
        part: Part,
        named: impl Iterator<Item = (Box<str>, Box<str>, Entry)>,
        grouped: impl Iterator<Item = (Box<str>, Box<str>, Group)>,
    ) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if part.whole {
            entries.coming = Some((Known::new(), Groups::new()));
        }
        let Entries { known, groups, coming, .. } = &mut *entries;
        let (known, groups) = match coming {
            Some((known, groups)) => (known, groups),
            None => (known, groups),
        };
        known.extend(named.map(|(tenant, principal, entry)| ((tenant, principal), entry)));
        groups.extend(grouped.map(|(tenant, name, group)| ((tenant, name), group)));
        if part.more {
            return false;
        }
        if let Some((known, groups)) = entries.coming.take() {
            (entries.known, entries.groups) = (known, groups);
        }
        (entries.upto, entries.heard) = (part.upto, Some(now));
        drop(entries);
        self.changes.send_modify(|changes| *changes += 1);
        true
    }

    /// The link is alive, so that what is known is still the newest.
    pub fn heard(&self, now: Millis) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(heard) = &mut entries.heard {
            *heard = now.max(*heard);
        }
    }
}

impl From<&message::Entry<'_>> for Entry {
    fn from(entry: &message::Entry<'_>) -> Self {
        let &message::Entry { role, key_hash, revoked, expires_ms, .. } = entry;
        Self { role, key_hash, revoked, expires_ms }
    }
}

impl From<&message::Group<'_>> for Group {
    fn from(group: &message::Group<'_>) -> Self {
        let &message::Group { id, epoch, removed, definition, .. } = group;
        Self { id, epoch, removed, definition: definition.into() }
    }
}

impl Registry for Copy {
    fn lookup(&self, tenant: &str, principal: &str) -> Option<Entry> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.known.get(&(Box::from(tenant), Box::from(principal))).copied()
    }

    fn is_fresh(&self, now: Millis) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.heard.is_some_and(|heard| now.0.saturating_sub(heard.0) <= self.max_age_ms)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spile_protocol::message::List;

    fn say(copy: &Copy, whole: bool, more: bool, upto: u64, names: &[(&str, bool)]) -> bool {
        let mut room = [0; 512];
        let entries = names.iter().map(|&(principal, revoked)| message::Entry {
            tenant: "main",
            principal,
            role: Role::Device,
            key_hash: None,
            revoked,
            expires_ms: 0,
            later: &[],
        });
        let entries = List::encode(entries, &mut room).unwrap();
        copy.apply(
            Millis(1_000),
            &message::Registry { upto, whole, entries, more, groups: List::default() },
        )
    }

    #[test]
    fn a_whole_copy_takes_the_others_place_only_when_it_is_complete() {
        let copy = Copy::new(10);
        assert!(!copy.is_fresh(Millis(1_000)));
        assert!(say(&copy, true, false, 1, &[("a", false), ("b", false)]));
        assert!(!say(&copy, true, true, 5, &[("a", true)]));
        assert_eq!(copy.lookup("main", "a").map(|entry| entry.revoked), Some(false));
        assert!(say(&copy, false, false, 5, &[("c", false)]));
        assert_eq!(copy.lookup("main", "a").map(|entry| entry.revoked), Some(true));
        assert_eq!(copy.lookup("main", "b"), None);
        assert_eq!(copy.upto(), Some(5));
    }

    #[test]
    fn groups_are_passed_on_whole_and_a_removed_one_says_so() {
        let copy = Copy::new(10);
        let mut room = [0; 512];
        let group = |name, removed| message::Group {
            tenant: "main",
            name,
            id: 7,
            epoch: 2,
            removed,
            definition: b"{}",
            later: &[],
        };
        let said = |groups, whole, upto| message::Registry {
            upto,
            whole,
            entries: List::default(),
            more: false,
            groups,
        };
        copy.tell_groups(|_| panic!("there is nothing to tell yet"));
        let groups = List::encode([group("a", false), group("b", false)], &mut room).unwrap();
        assert!(copy.apply(Millis(1), &said(groups, true, 4)));
        let mut room = [0; 512];
        let groups = List::encode([group("b", true)], &mut room).unwrap();
        assert!(copy.apply(Millis(1), &said(groups, false, 9)));
        let mut told = Vec::new();
        copy.tell_groups(|said| {
            assert_eq!((said.upto, said.whole, said.more), (9, true, false));
            told.extend(said.groups.iter().map(|group| (group.name.to_owned(), group.removed)));
        });
        assert_eq!(told, [("a".to_owned(), false), ("b".to_owned(), true)]);
    }

    #[test]
    fn a_change_is_told_and_an_old_copy_is_not_trusted() {
        let copy = Copy::new(10);
        let changes = copy.changes();
        assert!(say(&copy, true, false, 1, &[("a", false)]));
        assert!(changes.has_changed().unwrap());
        assert!(say(&copy, false, false, 2, &[("a", true)]));
        assert_eq!(copy.lookup("main", "a").map(|entry| entry.revoked), Some(true));
        assert!(copy.lookup("other", "a").is_none());
        assert!(copy.is_fresh(Millis(1_010)) && !copy.is_fresh(Millis(1_011)));
        copy.heard(Millis(1_005));
        assert!(copy.is_fresh(Millis(1_015)));
    }
}
