//! State: the latest event of each kept topic under each key, a view of the log.
//!
//! Here is where the value is, not what it is: payloads are read from the log by position. The invariant: `values` is what
//! the durable records say, in their order; what was appended beyond stands in `coming` and is told to nobody. What
//! expired, by the time of records, may be there or be swept: it is told to nobody either way.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use spile_log::Record;
use spile_protocol::{id, message::Fields};

use crate::{
    changes::Askers,
    checkpoint::{BadRow, Row, text, values as varints},
    limits::VALUES,
    record::{Names, Tail, kind},
    tables::scoped,
};

/// The value has no end.
const NEVER: u64 = u64::MAX;

/// The latest event of a kept topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// Its own position: within a block, not the block's.
    pub(crate) position: u64,
    pub(crate) version: u64,
    /// When it is worth nothing any more, milliseconds since 1970.
    expires_ms: u64,
}

impl Value {
    /// `ttl_ms` counts from when the edge accepted it. spec §5.5
    pub(crate) fn new(position: u64, version: u64, time_ms: u64, ttl_ms: Option<u64>) -> Self {
        let expires_ms = ttl_ms.map_or(NEVER, |ttl_ms| time_ms.saturating_add(ttl_ms));
        Self { position, version, expires_ms }
    }

    fn is_there(&self, now_ms: u64) -> bool {
        self.expires_ms > now_ms
    }

    /// As a VALUE says it: how long after `now_ms` it ends, 0 where it does not. spec §9.2
    pub(crate) fn left_ms(&self, now_ms: u64) -> u64 {
        if self.expires_ms == NEVER { 0 } else { self.expires_ms.saturating_sub(now_ms).max(1) }
    }
}

/// What a record says of a kept topic.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    /// `None`: it is removed. spec §5.3.2
    pub(crate) value: Option<Value>,
    /// The record's time.
    pub(crate) time_ms: u64,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// Topics whose latest event is kept.
    keep: Arc<[String]>,
    /// Tenant, key and topic, in this order, a zero byte (which no name holds) between.
    values: BTreeMap<Arc<str>, Value>,
    /// Those that end, by when.
    expiring: BTreeSet<(u64, Arc<str>)>,
    coming: VecDeque<(u64, Change)>,
    /// What changed since the last checkpoint.
    dirty: HashSet<Arc<str>>,
    /// How many were not kept, at the cap.
    turned_away: u64,
    /// Edges that were told values, and hear of their changes.
    pub(crate) askers: Askers,
}

impl Values {
    pub(crate) fn new(keep: &[String]) -> Self {
        Self { keep: keep.into(), ..Self::default() }
    }

    /// The name of the value that an event under these names changes; `None` where the topic is not kept.
    pub(crate) fn name(&self, tenant: &str, key: &str, topic: &str) -> Option<Arc<str>> {
        let kept = self.keep.iter().any(|filter| id::matches(filter, topic));
        kept.then(|| named(tenant, key, topic).into())
    }

    /// It was appended, and counts once the log is durable up to `end`.
    pub(crate) fn put(&mut self, end: u64, change: Change) {
        self.askers.coming(end, &change.name);
        self.coming.push_back((end, change));
    }

    /// Up to where the log must be durable before all counts that was appended.
    pub(crate) fn coming(&self) -> Option<u64> {
        self.coming.back().map(|(end, _)| *end)
    }

    pub(crate) fn settle(&mut self, durable: u64) {
        while let Some((_, change)) = self.coming.pop_front_if(|coming| coming.0 <= durable) {
            self.apply(change);
        }
    }

    pub(crate) fn cut(&mut self, end: u64) {
        while self.coming.pop_back_if(|coming| coming.0 > end).is_some() {}
    }

    /// What stands in the log. record §10
    pub(crate) fn stored(&mut self, record: &Record, names: &Names<'_>, tail: &Tail<'_>) {
        // What a worker itself publishes is no producer's word.
        if !matches!(record.kind, kind::EVENT | kind::BATCH) || tail.number.0 == 0 {
            return;
        }
        let Some(lengths) = tail.lengths else { return };
        let Some(name) = self.name(names.tenant, names.key, names.topic) else { return };
        let behind = u64::from(record.positions).saturating_sub(1);
        let (position, version) = (record.position.get() + behind, record.version + behind);
        let value = Value::new(position, version, tail.time_ms, tail.extras.ttl_ms);
        let value = Some(value).filter(|_| lengths.iter().last().is_some_and(|length| length > 0));
        self.apply(Change { name, value, time_ms: record.time_ms });
    }

    fn apply(&mut self, change: Change) {
        let Change { name, value, time_ms } = change;
        self.askers.changed(&name);
        let old = self.values.get(&name).copied();
        if let (None, Some(_)) = (old, value)
            && self.values.len() >= VALUES
        {
            // The same records give the same choice: what is there at this time does not depend on when it was swept.
            self.sweep(time_ms);
            if self.values.len() >= VALUES {
                self.turned_away = self.turned_away.saturating_add(1);
                return;
            }
        }
        self.set(&name, old, value);
        self.dirty.insert(name);
    }

    fn set(&mut self, name: &Arc<str>, old: Option<Value>, value: Option<Value>) {
        if let Some(old) = old.filter(|old| old.expires_ms != NEVER) {
            self.expiring.remove(&(old.expires_ms, name.clone()));
        }
        match value {
            Some(value) => {
                if value.expires_ms != NEVER {
                    self.expiring.insert((value.expires_ms, name.clone()));
                }
                self.values.insert(name.clone(), value);
            }
            None => {
                self.values.remove(name);
            }
        }
    }

    /// Takes out what expired, as the time of durable records goes: it changes nothing that could be told.
    pub(crate) fn sweep(&mut self, time_ms: u64) {
        while let Some((expires_ms, name)) = self.expiring.pop_first() {
            if expires_ms > time_ms {
                self.expiring.insert((expires_ms, name));
                return;
            }
            self.values.remove(&name);
            self.dirty.insert(name);
        }
    }

    pub(crate) fn get(&self, name: &str, now_ms: u64) -> Option<Value> {
        self.values.get(name).copied().filter(|value| value.is_there(now_ms))
    }

    /// Values of a tenant whose keys begin with `prefix`, behind (key, topic), in the order of a listing. spec §9.3.2
    pub(crate) fn page<'v>(
        &'v self,
        tenant: &str,
        prefix: &str,
        after: Option<(&str, &str)>,
        now_ms: u64,
    ) -> impl Iterator<Item = (&'v Arc<str>, &'v Value)> + use<'v> {
        let all = scoped(tenant, prefix);
        let behind = after.map(|(key, topic)| named(tenant, key, topic));
        let begin = match behind {
            Some(behind) if behind >= all => Bound::Excluded(behind),
            Some(_) | None => Bound::Included(all.clone()),
        };
        let range =
            self.values.range::<str, _>((begin.as_ref().map(String::as_str), Bound::Unbounded));
        range
            .take_while(move |(name, _)| name.starts_with(&*all))
            .filter(move |(_, value)| value.is_there(now_ms))
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// How many were not kept, since there were too many.
    pub(crate) const fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// How many rows the next checkpoint has of it.
    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
    }

    /// What a checkpoint has to write.
    pub(crate) fn changed_rows(&mut self) -> ValueRows {
        let dirty = std::mem::take(&mut self.dirty);
        let value = |name: Arc<str>| (name.clone(), self.values.get(&name).copied());
        ValueRows { values: dirty.into_iter().map(value).collect(), topics: self.keep.join("\n") }
    }

    /// All of it, for who compares.
    pub(crate) fn all_rows(&self) -> ValueRows {
        let values = self.values.iter().map(|(name, value)| (name.clone(), Some(*value)));
        ValueRows { values: values.collect(), topics: self.keep.join("\n") }
    }

    /// Puts one row back. Rows with other topics than are kept now are not of this view: they are made anew.
    pub(crate) fn load_row(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadRow> {
        let Some(name) = text(name)?.strip_suffix('\0') else {
            let same = name.is_empty() && *value == *self.keep.join("\n").as_bytes();
            return if same { Ok(()) } else { Err(BadRow) };
        };
        let mut fields = Fields::new(value);
        let (position, version) = (fields.varint("position")?, fields.varint("version")?);
        let expires_ms = Some(fields.varint("end")?).filter(|&end| end != 0).unwrap_or(NEVER);
        self.set(&name.into(), None, Some(Value { position, version, expires_ms }));
        Ok(())
    }
}

/// Values as rows of a checkpoint. record §8
#[derive(Debug, Default)]
pub(crate) struct ValueRows {
    /// Each with its value, or without where it is gone.
    values: Vec<(Arc<str>, Option<Value>)>,
    /// Which topics are kept.
    topics: String,
}

fn row_key(kind: u8, name: &str) -> Vec<u8> {
    // The zero byte keeps one name from being the beginning of another: rows are removed by how they begin.
    [&[kind], name.as_bytes(), b"\0"].concat()
}

impl ValueRows {
    pub(crate) fn rows(&self, kind: u8) -> Vec<Row> {
        let there = self.values.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let row = |(name, value): (&Arc<str>, &Value)| {
            let end = if value.expires_ms == NEVER { 0 } else { value.expires_ms };
            (row_key(kind, name), varints(&[value.position, value.version, end]))
        };
        let topics = (vec![kind], self.topics.clone().into_bytes());
        std::iter::once(topics).chain(there.map(row)).collect()
    }

    pub(crate) fn removed(&self, kind: u8) -> Vec<Vec<u8>> {
        let gone = self.values.iter().filter(|(_, value)| value.is_none());
        gone.map(|(name, _)| row_key(kind, name)).collect()
    }
}

/// The name of a value.
pub(crate) fn named(tenant: &str, key: &str, topic: &str) -> String {
    scoped(&scoped(tenant, key), topic)
}

/// Key and topic of a value's name.
pub(crate) fn key_and_topic(name: &str) -> (&str, &str) {
    let (_, rest) = name.split_once('\0').unwrap_or(("", name));
    rest.split_once('\0').unwrap_or((rest, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, version: u64, ttl_ms: Option<u64>) -> Change {
        let value = Some(Value::new(version, version, 0, ttl_ms));
        Change { name: name.into(), value, time_ms: version }
    }

    #[test]
    fn nothing_counts_before_it_is_durable_and_what_was_cut_never_does() {
        let mut values = Values::new(&["state/#".to_owned()]);
        values.put(2, change("a", 1, None));
        values.put(3, change("a", 2, None));
        assert_eq!(values.get("a", 0), None);
        values.settle(2);
        values.cut(2);
        values.settle(9);
        assert_eq!(values.get("a", 0).unwrap().version, 1);
    }

    #[test]
    fn a_value_ends_with_its_time_and_a_newer_one_without_lives_on() {
        let mut values = Values::default();
        for name in ["a", "b"] {
            values.apply(change(name, 1, Some(10)));
        }
        assert!(values.get("a", 9).is_some() && values.get("a", 10).is_none());
        values.apply(change("b", 2, None));
        values.sweep(10);
        assert_eq!((values.len(), values.get("b", 99).unwrap().version), (1, 2));
    }

    #[test]
    fn pages_are_of_one_tenant_and_in_the_order_of_keys_and_topics() {
        let mut values = Values::default();
        let all =
            [("t", "a", "x"), ("t", "a", "y"), ("t", "a-1", "x"), ("t", "b", "x"), ("u", "a", "x")];
        for (tenant, key, topic) in all {
            values.apply(change(&named(tenant, key, topic), 1, None));
        }
        let page = |prefix, after| -> Vec<_> {
            values.page("t", prefix, after, 0).map(|(name, _)| key_and_topic(name)).collect()
        };
        assert_eq!(page("", None), [("a", "x"), ("a", "y"), ("a-1", "x"), ("b", "x")]);
        assert_eq!(page("a", Some(("a", "x"))), [("a", "y"), ("a-1", "x")]);
        assert_eq!(page("a", Some(("", ""))), [("a", "x"), ("a", "y"), ("a-1", "x")]);
        assert_eq!(page("a", Some(("b", "x"))), []);
    }
}
