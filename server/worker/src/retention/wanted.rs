//! Is a record wanted? Retention keeps its topic, or something rests on it. record §12
//!
//! The invariant: what is not wanted rests in no view as it is durable, and nothing that comes later can rest on it but a
//! group that is made or sent back to it: that is what the fence is for.

use std::ops::Range;

use spile_log::Record;
use spile_protocol::id::{self, Role};

use super::rules::{Line, Rule, rule_of};
use crate::{
    core::Core,
    groups::{
        definition::{self, Defined},
        unsettled::Unsettled,
    },
    inbox,
    keeper::Kept,
    record::{self, Names, Tail, kind},
    registry::{Device, KEY, TENANT, TOPIC},
    tables::{principal, scoped},
    uploads::form::Opened,
    values::named,
};

/// What the names of a record come to: looked at once for equal prefixes.
#[derive(Default)]
struct Looked {
    prefix: Vec<u8>,
    /// It is the registry's: what is registered now is kept whatever its age.
    registry: bool,
    rule: Option<usize>,
    /// Groups whose filter matches.
    groups: Vec<usize>,
    /// The name of its value, where it is kept.
    value: Option<String>,
    inbox: bool,
}

/// What is wanted of one segment.
pub(super) struct Wanted<'w> {
    kept: &'w Kept,
    rules: &'w [Rule],
    lines: &'w [Line],
    groups: Vec<Unsettled>,
    now_ms: u64,
    looked: Looked,
}

impl<'w> Wanted<'w> {
    /// As the views are now. `full`: the disk is; then groups that allow it lose what they have not settled.
    pub(super) fn of(
        kept: &'w Kept,
        (rules, lines): (&'w [Rule], &'w [Line]),
        segment: &Range<u64>,
        (now_ms, full): (u64, bool),
    ) -> Self {
        let mut core = kept.core();
        core.look();
        let groups = core.groups.unsettled(segment, full);
        core.groups.fence.raise(segment.end);
        drop(core);
        Self { kept, rules, lines, groups, now_ms, looked: Looked::default() }
    }

    pub(super) fn wants(&mut self, record: &Record) -> bool {
        // What can't be read is not thrown away.
        self.look(record).unwrap_or(true)
    }

    fn look(&mut self, record: &Record) -> Option<bool> {
        let (prefix, tail) = record::split(&record.head).ok()?;
        let names = Names::parse(prefix).ok()?;
        match record.kind {
            kind::EVENT | kind::BATCH | kind::BLOB => {
                if *self.looked.prefix != *prefix {
                    self.looked = self.look_at(prefix, &names);
                }
                Some(self.wants_event(record, &names))
            }
            // A snapshot holds what they say, all of it.
            kind::SETTLED | kind::CURSOR | kind::FREED => Some(false),
            kind::VOID => {
                let void = Tail::parse(record.kind, tail, &record.payload).ok()?.void?;
                Some(self.kept.core().remembers(&names, void.number.0))
            }
            kind::GROUP => {
                let core = self.kept.core();
                Some(core.groups.rests_on(names.tenant, names.key, tail))
            }
            kind::UPLOAD => {
                let opened: Opened = serde_json::from_slice(&record.payload).ok()?;
                let at = opened.first.unwrap_or(record.position.get());
                let mut core = self.kept.core();
                Some(core.uploads.durably(|uploads| uploads.view.uploads.contains_key(&at)))
            }
            _ => Some(true),
        }
    }

    fn look_at(&self, prefix: &[u8], names: &Names<'_>) -> Looked {
        let of = |group: &Unsettled| {
            group.tenant == names.tenant && id::matches(&group.filter, names.topic)
        };
        let groups = self.groups.iter().enumerate().filter(|(_, group)| of(group));
        let core = self.kept.core();
        Looked {
            prefix: prefix.to_vec(),
            registry: (names.tenant, names.key) == (TENANT, KEY),
            rule: rule_of(self.rules, names.topic),
            groups: groups.map(|(n, _)| n).collect(),
            value: core
                .values
                .name(names.tenant, names.key, names.topic)
                .map(|_| named(names.tenant, names.key, names.topic)),
            inbox: id::matches(inbox::FILTER, names.topic),
        }
    }

    fn wants_event(&self, record: &Record, names: &Names<'_>) -> bool {
        let (at, end) = (record.position.get(), record.end().get());
        let Looked { registry, rule, groups, value, inbox, .. } = &self.looked;
        if *registry {
            return self.kept.core().is_registered(record, names);
        }
        let line = rule.and_then(|rule| self.lines.get(rule));
        let kept = line.is_none_or(|line| line.keeps(record.time_ms, end));
        let mut groups = groups.iter().filter_map(|&group| self.groups.get(group));
        kept || groups.any(|group| group.wants(record.stream, at..end))
            || self.rests(record, names, (value.as_deref(), *inbox))
    }

    /// Does a value, an inbox or a blob rest on it?
    fn rests(
        &self,
        record: &Record,
        names: &Names<'_>,
        (value, inbox): (Option<&str>, bool),
    ) -> bool {
        let (at, end) = (record.position.get(), record.end().get());
        if value.is_none() && !inbox && record.kind != kind::BLOB {
            return false;
        }
        let mut core = self.kept.core();
        let value = value.and_then(|name| core.values.get(name, self.now_ms));
        if value.is_some_and(|value| (at..end).contains(&value.position)) {
            return true;
        }
        let last = record.version.saturating_add(u64::from(record.positions)).saturating_sub(1);
        if inbox && core.is_unread(names.tenant, names.key, last) {
            return true;
        }
        record.kind == kind::BLOB
            && core.uploads.durably(|uploads| uploads.view.blobs.contains_key(&at))
    }
}

impl Core {
    /// Is it what the registry holds of its subject? A group that was removed is none.
    fn is_registered(&self, record: &Record, names: &Names<'_>) -> bool {
        match names.topic {
            definition::TOPIC => {
                serde_json::from_slice::<Defined>(&record.payload).is_ok_and(|it| {
                    let newest =
                        self.registered.newest_group(&(it.tenant.clone(), it.name.clone()));
                    !it.removed && newest == Some(&it)
                })
            }
            TOPIC => serde_json::from_slice::<Device>(&record.payload)
                .is_ok_and(|it| self.registered.get(&it.tenant, &it.principal) == Some(&it)),
            _ => true,
        }
    }

    /// Does a producer remember that this number was refused?
    fn remembers(&self, names: &Names<'_>, number: u64) -> bool {
        let tables = &self.tables;
        let who = principal(names.tenant, names.role, names.principal);
        let runs = tables.principals.get(who.as_str()).into_iter().flatten();
        let mut runs = runs.filter_map(|&ix| tables.runs.get(ix));
        let run = runs.find(|entry| entry.run == names.run);
        let stream = tables.names.get(scoped(names.tenant, names.key).as_str());
        let producer = stream.zip(run).and_then(|(stream, run)| run.keys.get(stream));
        let producer = producer.and_then(|&ix| tables.producers.get(ix));
        producer.is_some_and(|it| it.voids.iter().any(|void| void.number.0 == number))
    }

    /// Has anybody whose inbox the key is not read this version? Where nobody ever read, nobody has.
    fn is_unread(&self, tenant: &str, key: &str, version: u64) -> bool {
        let cursors = Role::ALL.map(|role| self.cursors.get(&principal(tenant, role, key)));
        let read = cursors.into_iter().filter(|&cursor| cursor > 0).min();
        read.is_none_or(|read| read < version)
    }
}
