//! The read cache: values of kept topics that a worker has told, so that who asks again need not ask the worker.
//!
//! Here: what is kept, for how long, and what makes it go. Who may ask, and which GETs may be answered from here, is the
//! route's. The invariants (spec §9.1.2, §10.8.2): nothing is told that a worker did not say within the age, whose change
//! a worker has told, or whose end has come; the answer to a question older than such a word is not kept; nothing above the caps is held, the
//! oldest goes first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spile_protocol::{id::Mark, time::Instant};

use crate::limits::{CACHE_ASKED, CACHE_BYTES, CACHE_ENTRIES, CACHE_VALUE};
use crate::metrics::Counter;

/// Which value: tenant, key and topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'n> {
    /// In which tenant.
    pub tenant: &'n str,
    /// Under which key.
    pub key: &'n str,
    /// Of which topic.
    pub topic: &'n str,
}

impl Name<'_> {
    fn mark(&self) -> Mark {
        Mark::of(self.tenant, self.key, self.topic)
    }

    /// As it is kept: a zero byte is in no name.
    fn spelled(&self) -> Box<str> {
        let Self { tenant, key, topic } = self;
        format!("{tenant}\0{key}\0{topic}").into()
    }

    fn is(&self, spelled: &str) -> bool {
        let mut parts = spelled.splitn(3, '\0');
        [self.tenant, self.key, self.topic].into_iter().all(|name| parts.next() == Some(name))
    }
}

/// A value as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its version.
    pub version: u64,
    /// The VALUE that told it, as a frame.
    pub frame: Box<[u8]>,
    /// When its time is over, by this edge's clock.
    pub ends: Option<Instant>,
}

impl Kept {
    /// As a VALUE says it now: how long until it ends, 0 where it does not.
    #[must_use]
    pub fn left_ms(&self, now: Instant) -> u64 {
        let left_ms =
            |ends: Instant| u64::try_from(ends.since(now).as_millis()).unwrap_or(u64::MAX);
        self.ends.map_or(0, |ends| left_ms(ends).max(1))
    }
}

/// What is counted, and what is held now.
#[derive(Debug, Default)]
pub struct Counts {
    /// GETs answered from here.
    pub hits: Counter,
    /// GETs that might have been, and went to the worker.
    pub misses: Counter,
    /// Values let go because their worker said that they changed.
    pub changed: Counter,
    /// Values let go for others, at a cap.
    pub evicted: Counter,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    /// How many values are held.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// What they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Hits of all that might have been one, in thousandths; `None` before the first.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        let [hits, misses] = [&self.hits, &self.misses].map(|counter| {
            // Exact up to 2^32; above it a rate needs no more digits.
            u32::try_from(counter.get()).map_or(f64::from(u32::MAX), f64::from)
        });
        (hits + misses > 0.0).then(|| (hits / (hits + misses) * 1_000.0).round() / 1_000.0)
    }
}

/// What may be held.
#[derive(Clone, Copy, Debug)]
struct Caps {
    entries: usize,
    bytes: usize,
    asked: usize,
}

const CAPS: Caps = Caps { entries: CACHE_ENTRIES, bytes: CACHE_BYTES, asked: CACHE_ASKED };

/// The cache of an edge.
#[derive(Debug)]
pub struct Cache {
    age: Duration,
    caps: Caps,
    /// What it counts.
    pub counts: Counts,
    inner: Mutex<Inner>,
}

/// A part of what a worker has: values of one mark. They go together.
type Part = (usize, Mark);

#[derive(Debug, Default)]
struct Inner {
    parts: HashMap<Part, Vec<Entry>>,
    /// The oldest first, by number.
    order: BTreeMap<u64, Part>,
    bytes: usize,
    /// Questions on their way whose answers may be kept, by number.
    asked: HashMap<u64, Part>,
    numbers: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    name: Box<str>,
    until: Instant,
    bytes: usize,
    kept: Arc<Kept>,
}

/// About what an entry takes beside its name and frame.
const OVERHEAD: usize = 160;

/// A question on its way: its answer is kept, unless a change is told first.
#[derive(Debug)]
pub struct Asked {
    cache: Arc<Cache>,
    number: u64,
    part: Part,
    name: Box<str>,
    at: Instant,
}

impl Cache {
    /// Keeps what it is told for `age`; zero: nothing.
    #[must_use]
    pub fn new(age: Duration) -> Arc<Self> {
        Self::capped(age, CAPS)
    }

    fn capped(age: Duration, caps: Caps) -> Arc<Self> {
        Arc::new(Self { age, caps, counts: Counts::default(), inner: Mutex::default() })
    }

    /// Does it keep anything?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.age > Duration::ZERO
    }

    /// What the worker at `place` said of a value, where it is above `newer_than` and young enough.
    pub fn get(
        &self,
        now: Instant,
        place: usize,
        name: Name<'_>,
        newer_than: u64,
    ) -> Option<Arc<Kept>> {
        if !self.is_on() {
            return None;
        }
        let found = self.lock().find(now, (place, name.mark()), name);
        let found = found.filter(|kept| kept.version > newer_than);
        if found.is_some() {
            self.counts.hits.add(1)
        } else {
            self.counts.misses.add(1)
        }
        found
    }

    /// The worker at `place` is asked for a value. `None`: the answer is not kept; too many are on their way.
    #[must_use]
    pub fn ask(self: &Arc<Self>, now: Instant, place: usize, name: Name<'_>) -> Option<Asked> {
        let mut inner = self.lock();
        if !self.is_on() || inner.asked.len() >= self.caps.asked {
            return None;
        }
        let part = (place, name.mark());
        let number = inner.number();
        inner.asked.insert(number, part);
        drop(inner);
        // It is as it was when it was asked for, or later: its age counts from here, and what is left of it.
        Some(Asked { cache: Arc::clone(self), number, part, name: name.spelled(), at: now })
    }

    /// The worker at `place` says that values with these marks have changed.
    pub fn changed(&self, place: usize, marks: impl IntoIterator<Item = Mark>) {
        let marks: HashSet<_> = marks.into_iter().map(|mark| (place, mark)).collect();
        let mut inner = self.lock();
        inner.asked.retain(|_, part| !marks.contains(part));
        let gone: usize = marks.iter().map(|part| inner.drop_part(part)).sum();
        self.counts.changed.add(u64::try_from(gone).unwrap_or(u64::MAX));
        self.note(&inner);
    }

    /// What changed at the worker at `place` was not told for a while: nothing of it is known any more.
    pub fn forget(&self, place: usize) {
        let mut inner = self.lock();
        inner.asked.retain(|_, part| part.0 != place);
        let parts: Vec<_> = inner.parts.keys().filter(|part| part.0 == place).copied().collect();
        for part in &parts {
            inner.drop_part(part);
        }
        self.note(&inner);
    }

    fn keep(&self, asked: &Asked, kept: Kept) {
        let bytes = kept.frame.len() + asked.name.len() + OVERHEAD;
        if kept.frame.len() > CACHE_VALUE {
            return;
        }
        let mut inner = self.lock();
        if !inner.asked.contains_key(&asked.number) {
            return;
        }
        let until = asked.at.after(self.age);
        let until = kept.ends.map_or(until, |ends| ends.min(until));
        inner.put(asked, until, Arc::new(kept), bytes);
        let mut evicted = 0;
        while inner.order.len() > self.caps.entries || inner.bytes > self.caps.bytes {
            evicted += 1;
            if !inner.drop_oldest() {
                break;
            }
        }
        self.counts.evicted.add(evicted);
        self.note(&inner);
    }

    fn note(&self, inner: &Inner) {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.counts.entries.store(wide(inner.order.len()), Relaxed);
        self.counts.bytes.store(wide(inner.bytes), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn find(&self, now: Instant, part: Part, name: Name<'_>) -> Option<Arc<Kept>> {
        let entry = self.parts.get(&part)?.iter().find(|entry| name.is(&entry.name))?;
        (now < entry.until).then(|| Arc::clone(&entry.kept))
    }

    fn put(&mut self, asked: &Asked, until: Instant, kept: Arc<Kept>, bytes: usize) {
        let entries = self.parts.entry(asked.part).or_default();
        if let Some(at) = entries.iter().position(|entry| entry.name == asked.name) {
            // Two were asked at once and answered one behind the other.
            let older = entries.get(at).is_some_and(|old| old.kept.version > kept.version);
            if older {
                return;
            }
            let old = entries.swap_remove(at);
            self.order.remove(&old.number);
            self.bytes = self.bytes.saturating_sub(old.bytes);
        }
        let (number, name) = (asked.number, asked.name.clone());
        entries.push(Entry { number, name, until, bytes, kept });
        self.order.insert(number, asked.part);
        self.bytes += bytes;
    }

    /// Lets go of all of a part: how many.
    fn drop_part(&mut self, part: &Part) -> usize {
        let entries = self.parts.remove(part).unwrap_or_default();
        for entry in &entries {
            self.order.remove(&entry.number);
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
        entries.len()
    }

    /// Lets go of what was asked for first; false where there is nothing.
    fn drop_oldest(&mut self) -> bool {
        let Some((number, part)) = self.order.pop_first() else { return false };
        let Some(entries) = self.parts.get_mut(&part) else { return true };
        if let Some(at) = entries.iter().position(|entry| entry.number == number) {
            self.bytes = self.bytes.saturating_sub(entries.swap_remove(at).bytes);
        }
        if entries.is_empty() {
            self.parts.remove(&part);
        }
        true
    }
}

impl Asked {
    /// The answer came; `left_ms` as a VALUE says it.
    pub fn keep(&self, version: u64, left_ms: u64, frame: Box<[u8]>) {
        let ends = (left_ms > 0).then(|| self.at.after(Duration::from_millis(left_ms)));
        self.cache.keep(self, Kept { version, frame, ends });
    }

    /// Whom it was asked of.
    #[must_use]
    pub const fn place(&self) -> usize {
        self.part.0
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.cache.lock().asked.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
