//! Who may come: devices and other principals, as events of the key `$registry` on the worker that holds its slot.
//!
//! Here is what is registered, as far as it is durable, and what is on its way there. Nobody is told of an entry before
//! the log is durable past it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use spile_log::Durable;
use spile_protocol::id::Role;
use tokio::sync::watch;

use crate::{
    checkpoint::Row,
    groups::{
        definition::Defined,
        {defined_key, defined_row},
    },
    limits::GROUPS_KNOWN,
    worker::Worker,
};

/// The key whose events the registry is.
pub const KEY: &str = "$registry";
/// The topic of its events.
pub const TOPIC: &str = "$registry/principal";
/// The tenant it stands in.
pub const TENANT: &str = "main";

/// One principal that may come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// In which tenant.
    pub tenant: String,
    /// Who.
    pub principal: String,
    /// As what.
    #[serde(with = "role")]
    pub role: Role,
    /// SHA-256 of the device key, where it has one.
    #[serde(with = "hash", default)]
    pub key_hash: Option<[u8; 32]>,
    /// It may not come any more.
    #[serde(default)]
    pub revoked: bool,
    /// Until when it may come, in milliseconds since 1970; 0 for ever.
    #[serde(default)]
    pub expires_ms: u64,
}

mod role {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use spile_protocol::id::Role;

    pub(super) fn serialize<S: Serializer>(role: &Role, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(role.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        let name = String::deserialize(from)?;
        Role::find(&name).ok_or_else(|| D::Error::custom("a role that is not one"))
    }
}

mod hash {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        hash: &Option<[u8; 32]>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => out.serialize_str(&super::hex(hash)),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let bad = || D::Error::custom("a hash that is not 64 hexadecimal digits");
        text.map(|text| super::unhex(&text).ok_or_else(bad)).transpose()
    }
}

/// Hexadecimal digits of a hash.
#[must_use]
pub fn hex(hash: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String can't fail.
        if write!(text, "{byte:02x}").is_err() {
            text.clear();
        }
        text
    })
}

/// The hash of 64 hexadecimal digits.
#[must_use]
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// Tenant and name.
pub(crate) type Name = (String, String);

/// What is registered.
#[derive(Debug)]
pub(crate) struct Registered {
    /// As far as it is durable: each with the position behind the record that says so.
    devices: BTreeMap<Name, (u64, Device)>,
    /// On its way to the disk: the position behind each, and what it will be.
    coming: VecDeque<(u64, Device)>,
    /// Groups as they are defined, in the same way; removed ones too.
    groups: BTreeMap<Name, (u64, Defined)>,
    groups_coming: VecDeque<(u64, Defined)>,
    /// The position behind the last record that changed any of it.
    upto: u64,
    /// What changed since the last checkpoint.
    dirty: Vec<Name>,
    groups_dirty: Vec<Name>,
    /// The position behind the last record that was put: who follows waits for the log to be durable up to it.
    put: watch::Sender<u64>,
    /// Who follows, and up to where each has it.
    followers: Vec<Follows>,
}

/// One that follows the registry.
#[derive(Debug)]
struct Follows {
    number: u64,
    edge: String,
    upto: u64,
}

impl Default for Registered {
    fn default() -> Self {
        Self {
            devices: BTreeMap::new(),
            coming: VecDeque::new(),
            groups: BTreeMap::new(),
            groups_coming: VecDeque::new(),
            upto: 0,
            dirty: Vec::new(),
            groups_dirty: Vec::new(),
            put: watch::Sender::new(0),
            followers: Vec::new(),
        }
    }
}

fn name(device: &Device) -> Name {
    (device.tenant.clone(), device.principal.clone())
}

impl Registered {
    /// What stands in the log.
    pub(crate) fn apply(&mut self, end: u64, device: Device) {
        self.upto = end;
        self.dirty.push(name(&device));
        self.devices.insert(name(&device), (end, device));
    }

    /// It was appended, and counts once the log is durable up to `end`.
    pub(crate) fn put(&mut self, end: u64, device: Device) {
        self.coming.push_back((end, device));
        self.put.send_replace(end);
    }

    pub(crate) fn settle(&mut self, durable: u64) {
        while let Some((end, device)) = self.coming.pop_front_if(|coming| coming.0 <= durable) {
            self.apply(end, device);
        }
        while let Some((end, group)) = self.groups_coming.pop_front_if(|coming| coming.0 <= durable)
        {
            self.apply_group(end, group);
        }
    }

    pub(crate) fn cut(&mut self, end: u64) {
        while self.coming.pop_back_if(|coming| coming.0 > end).is_some() {}
        while self.groups_coming.pop_back_if(|coming| coming.0 > end).is_some() {}
    }

    /// As it will be when all that is on its way is durable.
    pub(crate) fn newest(&self, tenant: &str, principal: &str) -> Option<&Device> {
        let of = |device: &Device| device.tenant == tenant && device.principal == principal;
        let coming = self.coming.iter().rev().map(|(_, device)| device).find(|device| of(device));
        coming.or_else(|| self.get(tenant, principal))
    }

    pub(crate) fn get(&self, tenant: &str, principal: &str) -> Option<&Device> {
        self.devices.get(&(tenant.to_owned(), principal.to_owned())).map(|(_, device)| device)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.values().map(|(_, device)| device)
    }

    /// Devices of a tenant behind a name, in order.
    pub(crate) fn page<'r>(
        &'r self,
        tenant: &'r str,
        after: &str,
    ) -> impl Iterator<Item = &'r Device> {
        let begin = (Bound::Excluded((tenant.to_owned(), after.to_owned())), Bound::Unbounded);
        let behind = self.devices.range(begin).map(|(_, (_, device))| device);
        behind.take_while(move |device| device.tenant == tenant)
    }

    /// What changed behind a position.
    fn since(&self, seen: u64) -> Vec<Device> {
        let changed = self.devices.values().filter(|(end, _)| *end > seen);
        changed.map(|(_, device)| device.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.devices.len() + self.coming.len()
    }

    /// The position behind the newest record, durable or not.
    pub(crate) fn latest(&self) -> u64 {
        let device = self.coming.back().map_or(self.upto, |coming| coming.0);
        self.groups_coming.back().map_or(device, |coming| coming.0.max(device))
    }

    /// A group's definition, as it stands in the log.
    pub(crate) fn apply_group(&mut self, end: u64, defined: Defined) {
        self.upto = self.upto.max(end);
        let name = (defined.tenant.clone(), defined.name.clone());
        self.groups_dirty.push(name.clone());
        self.groups.insert(name, (end, defined));
        // At the cap the removed group that is gone longest is forgotten: edges that were away so long keep it.
        while self.groups.len() > GROUPS_KNOWN
            && let Some(oldest) = self.oldest_removed()
        {
            self.groups.remove(&oldest);
            self.groups_dirty.push(oldest);
        }
    }

    fn oldest_removed(&self) -> Option<Name> {
        let removed = self.groups.iter().filter(|(_, (_, defined))| defined.removed);
        removed.min_by_key(|(_, (end, _))| *end).map(|(name, _)| name.clone())
    }

    /// It was appended, and counts once the log is durable up to `end`.
    pub(crate) fn put_group(&mut self, end: u64, defined: Defined) {
        self.groups_coming.push_back((end, defined));
        self.put.send_replace(end);
    }

    /// A group as it will be when all that is on its way is durable.
    pub(crate) fn newest_group(&self, name: &Name) -> Option<&Defined> {
        let of = |defined: &Defined| defined.tenant == name.0 && defined.name == name.1;
        let coming = self.groups_coming.iter().rev().map(|(_, it)| it).find(|it| of(it));
        coming.or_else(|| self.groups.get(name).map(|(_, defined)| defined))
    }

    /// Groups that are not removed.
    pub(crate) fn groups(&self) -> usize {
        let live = self.groups.values().filter(|(_, defined)| !defined.removed);
        live.count() + self.groups_coming.len()
    }

    fn groups_since(&self, seen: Option<u64>) -> Vec<Defined> {
        let changed = self.groups.values().filter(|(end, _)| seen.is_none_or(|seen| *end > seen));
        changed.map(|(_, defined)| defined.clone()).collect()
    }

    /// All definitions of groups, as rows.
    pub(crate) fn group_rows(&self) -> Vec<Row> {
        self.groups.values().filter_map(|(end, defined)| defined_row(*end, defined)).collect()
    }

    /// Those that changed since the last checkpoint; and the keys of those that are no more.
    pub(crate) fn take_group_rows(&mut self) -> (Vec<Vec<u8>>, Vec<Row>) {
        let mut names = std::mem::take(&mut self.groups_dirty);
        names.sort_unstable();
        names.dedup();
        let gone = names.iter().filter(|name| !self.groups.contains_key(*name)).map(defined_key);
        let of = |name| self.groups.get(name).and_then(|(end, it)| defined_row(*end, it));
        (gone.collect(), names.iter().filter_map(of).collect())
    }

    /// What a checkpoint wrote.
    pub(crate) fn load_group(&mut self, end: u64, defined: Defined) {
        self.groups.insert((defined.tenant.clone(), defined.name.clone()), (end, defined));
    }

    /// All that was loaded rests on positions before this one.
    pub(crate) fn loaded(&mut self, upto: u64) {
        self.upto = upto;
    }

    /// What a checkpoint has to write.
    pub(crate) fn take_dirty(&mut self) -> Vec<Device> {
        let mut names = std::mem::take(&mut self.dirty);
        names.sort_unstable();
        names.dedup();
        names.iter().filter_map(|name| self.devices.get(name)).map(|(_, it)| it.clone()).collect()
    }

    /// What a checkpoint wrote.
    pub(crate) fn load(&mut self, device: Device) {
        self.devices.insert(name(&device), (0, device));
    }

    /// Edges that follow: those that have it up to `end`, and those that have not.
    pub(crate) fn confirmed(&self, end: u64) -> (Vec<String>, Vec<String>) {
        let (have, lack): (Vec<_>, Vec<_>) = self.followers.iter().partition(|one| one.upto >= end);
        let names = |of: Vec<&Follows>| of.into_iter().map(|one| one.edge.clone()).collect();
        (names(have), names(lack))
    }
}

/// A part of the registry, for one that keeps a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The position behind the last record it rests on: to be confirmed when the copy is kept.
    pub upto: u64,
    /// Is it all there is; else it changes the copy before.
    pub whole: bool,
    /// What changed, or all.
    pub devices: Vec<Device>,
    /// The same of groups; removed ones say so.
    pub groups: Vec<Defined>,
}

/// Follows the registry: whole first, then what changes, as it becomes durable.
pub struct Follower {
    worker: Arc<Worker>,
    number: u64,
    /// Up to where it was told; `None` before the whole copy.
    told: Option<u64>,
    put: watch::Receiver<u64>,
    durable: watch::Receiver<Durable>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Follower {
    pub(crate) fn new(worker: Arc<Worker>, number: u64, edge: &str) -> Self {
        let durable = worker.durable();
        let mut core = worker.core();
        let put = core.registered.put.subscribe();
        core.registered.followers.push(Follows { number, edge: edge.to_owned(), upto: 0 });
        drop(core);
        Self { worker, number, told: None, put, durable }
    }

    /// What there is to tell now.
    pub fn poll(&mut self) -> Option<Copy> {
        let mut core = self.worker.core();
        core.look();
        let registered = &core.registered;
        let upto = registered.upto;
        let devices = match self.told {
            None => registered.iter().cloned().collect(),
            Some(told) if upto > told => registered.since(told),
            Some(_) => return None,
        };
        let groups = registered.groups_since(self.told);
        let whole = self.told.replace(upto).is_none();
        Some(Copy { upto, whole, devices, groups })
    }

    /// The whole copy first, then each change when it is durable. Nothing is lost when the wait is dropped.
    pub async fn next(&mut self) -> Copy {
        loop {
            let put = *self.put.borrow_and_update();
            let durable = self.durable.borrow_and_update().end.get();
            if let Some(copy) = self.poll() {
                return copy;
            }
            let gone =
                if put > durable { self.durable.changed().await } else { self.put.changed().await };
            if gone.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The copy is kept up to here, so that who changed the registry is told.
    pub fn confirm(&self, upto: u64) {
        let mut core = self.worker.core();
        let waiting = core.registered.followers.iter_mut().find(|one| one.number == self.number);
        if let Some(one) = waiting {
            one.upto = one.upto.max(upto);
        }
        core.ring_confirmers();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut core = self.worker.core();
        core.registered.followers.retain(|one| one.number != self.number);
        core.ring_confirmers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_was_written() {
        let device = Device {
            tenant: "main".into(),
            principal: "pump-7".into(),
            role: Role::Device,
            key_hash: Some([0xab; 32]),
            revoked: true,
            expires_ms: 5,
        };
        let text = serde_json::to_string(&device).unwrap();
        assert_eq!(serde_json::from_str::<Device>(&text).unwrap(), device);
        for bad in
            [text.replace("ab", "zz"), text.replace("device\"", "king\""), text.replace("abab", "")]
        {
            assert!(serde_json::from_str::<Device>(&bad).is_err(), "{bad}");
        }
    }
}
