//! What is registered, on a link: the registry's worker tells it, the others hear of its groups and say when they have
//! them. spec §10.5

use spile_protocol::message::{Entry, Group, List, Registry};

use crate::{
    groups::{definition::Defined, heard},
    limits::{GROUPS_OF_FRAME, REGISTRY_ENTRIES},
    registry::{Copy, Device},
    worker::Worker,
};

/// Says a part of the registry, in as many messages as it takes; the last has no `more`. spec §10.5.1
pub(super) fn say(copy: &Copy, mut say: impl FnMut(&Registry<'_>)) {
    let upto = copy.upto;
    let mut whole = copy.whole;
    let mut parts = copy.devices.chunks(REGISTRY_ENTRIES).peekable();
    while let Some(part) = parts.next() {
        let mut room = vec![0; part.len() * 256];
        let entries = List::encode(part.iter().map(entry), &mut room).unwrap_or_default();
        let more = parts.peek().is_some() || !copy.groups.is_empty();
        say(&Registry { upto, whole, entries, more, groups: List::default() });
        if !more {
            return;
        }
        whole = false;
    }
    let mut parts = copy.groups.chunks(GROUPS_OF_FRAME).peekable();
    loop {
        let part = parts.next().unwrap_or_default();
        let more = parts.peek().is_some();
        let written: Vec<_> = part.iter().filter_map(written).collect();
        let length: usize = written.iter().map(|(_, text)| 160 + text.len()).sum();
        let mut room = vec![0; length];
        let listed = written.iter().map(|(defined, definition)| group(defined, definition));
        let groups = List::encode(listed, &mut room).unwrap_or_default();
        say(&Registry { upto, whole, entries: List::default(), more, groups });
        whole = false;
        if !more {
            return;
        }
    }
}

fn entry(device: &Device) -> Entry<'_> {
    Entry {
        tenant: &device.tenant,
        principal: &device.principal,
        role: device.role,
        key_hash: device.key_hash,
        revoked: device.revoked,
        expires_ms: device.expires_ms,
        later: &[],
    }
}

/// A group with its definition as text, which one that was read from text always has.
fn written(defined: &Defined) -> Option<(&Defined, Vec<u8>)> {
    Some((defined, serde_json::to_vec(&defined.definition).ok()?))
}

fn group<'a>(defined: &'a Defined, definition: &'a [u8]) -> Group<'a> {
    let &Defined { ref tenant, ref name, id, epoch, removed, .. } = defined;
    Group { tenant, name, id, epoch, removed, definition, later: &[] }
}

/// Groups that were heard of and are on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Defining {
    /// Up to where the log must be durable before that is said.
    gate: u64,
    /// Up to where the registry was heard.
    upto: Option<u64>,
    /// Something of the copy was not taken: it is not confirmed.
    refused: bool,
}

impl Defining {
    /// spec §10.5.2: what an edge tells of groups.
    pub(super) fn hear(&mut self, worker: &Worker, said: &Registry<'_>) {
        if said.whole {
            self.refused = false;
        }
        match worker.define_groups(said.groups.iter().filter_map(|group| heard(&group))) {
            Ok(gate) => self.gate = self.gate.max(gate),
            Err(code) => {
                tracing::warn!(%code, "groups an edge told of are not stored; they are with its next copy");
                self.refused = true;
            }
        }
        if !said.more && !self.refused {
            self.upto = Some(said.upto);
        }
    }

    /// Is something not said yet that waits for the disk?
    pub(super) const fn waits(&self) -> bool {
        self.upto.is_some()
    }

    /// What can be said, when the log is durable up to `end`.
    pub(super) fn known(&mut self, end: u64) -> Option<Registry<'static>> {
        let upto = self.upto.filter(|_| end >= self.gate)?;
        self.upto = None;
        let (entries, groups) = (List::default(), List::default());
        Some(Registry { upto, whole: false, entries, more: false, groups })
    }
}
