//! Who may come: devices and other principals, as events of the key `$registry` on the worker that holds its slot.
//!
//! Here is what is registered, as far as it is durable, and what is on its way there. Nobody is told of an entry before
//! the log is durable past it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use spile_protocol::id::Role;

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
type Name = (String, String);

/// What is registered.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// As far as it is durable.
    devices: BTreeMap<Name, Device>,
    /// On its way to the disk: the position behind each, and what it will be.
    coming: VecDeque<(u64, Device)>,
    /// The position behind the last record that changed `devices`.
    upto: u64,
    /// What changed since the last checkpoint.
    dirty: Vec<Name>,
}

fn name(device: &Device) -> Name {
    (device.tenant.clone(), device.principal.clone())
}

impl Registered {
    /// What stands in the log.
    pub(crate) fn apply(&mut self, end: u64, device: Device) {
        self.upto = end;
        self.dirty.push(name(&device));
        self.devices.insert(name(&device), device);
    }

    /// It was appended, and counts once the log is durable up to `end`.
    pub(crate) fn put(&mut self, end: u64, device: Device) {
        self.coming.push_back((end, device));
    }

    pub(crate) fn settle(&mut self, durable: u64) {
        while let Some((end, device)) = self.coming.pop_front_if(|coming| coming.0 <= durable) {
            self.apply(end, device);
        }
    }

    pub(crate) fn cut(&mut self, end: u64) {
        while self.coming.pop_back_if(|coming| coming.0 > end).is_some() {}
    }

    /// As it will be when all that is on its way is durable.
    pub(crate) fn newest(&self, tenant: &str, principal: &str) -> Option<&Device> {
        let of = |device: &Device| device.tenant == tenant && device.principal == principal;
        let coming = self.coming.iter().rev().map(|(_, device)| device).find(|device| of(device));
        coming.or_else(|| self.get(tenant, principal))
    }

    pub(crate) fn get(&self, tenant: &str, principal: &str) -> Option<&Device> {
        self.devices.get(&(tenant.to_owned(), principal.to_owned()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.devices.len() + self.coming.len()
    }

    pub(crate) fn upto(&self) -> u64 {
        self.upto
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
        names.iter().filter_map(|name| self.devices.get(name).cloned()).collect()
    }

    /// What a checkpoint wrote.
    pub(crate) fn load(&mut self, device: Device) {
        self.devices.insert(name(&device), device);
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
