//! What a copy of the registry is on disk (spec/edge.md §1): the frames that would tell it over a link, between a head that
//! says when there was word of it and a CRC over all.
//!
//! Pure: bytes in, bytes out; whoever has a disk writes them. Invariant: bytes that are not whole and right are none.

use std::collections::{BTreeMap, HashMap};

use spile_protocol::{
    crc, frame,
    limits::FRAME_LINK,
    message::{self, List, Message, Sender},
    session::Transmit,
    time::Millis,
};

use super::{Entry, Group, Groups, Known};

/// What an image begins with.
const HEAD: &[u8; 16] = b"spile registry 1";
/// Head, time and CRC.
const AROUND: usize = HEAD.len() + 8 + 4;
/// Entries of one frame; a frame holds the longest.
const OF_FRAME: usize = 256;
/// Groups of one frame.
const GROUPS_OF_FRAME: usize = 32;
/// The most an entry takes: names, a hash, a time.
const ENTRY_BYTES: usize = 256;
/// The most a group takes, besides its definition.
const GROUP_BYTES: usize = 160;

/// An image that is not whole or not right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the registry's copy is damaged: {0}; it is made anew when the registry's worker is there")]
pub struct Damaged(&'static str);

/// What was in an image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) heard: Millis,
    pub(super) upto: u64,
    pub(super) known: Known,
    pub(super) groups: Groups,
}

pub(super) fn encode(heard: Millis, upto: u64, known: &Known, groups: &Groups) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    bytes.extend_from_slice(&heard.0.to_le_bytes());
    let mut say = |said: &message::Registry<'_>| {
        // A buffer that grows takes every frame.
        bytes.put(&Message::Registry(*said), 0).unwrap_or_default();
    };
    let all: Vec<_> = known.iter().collect();
    let mut first = true;
    for part in all.chunks(OF_FRAME) {
        let mut room = vec![0; part.len() * ENTRY_BYTES];
        let entries = part.iter().map(|((tenant, principal), entry)| {
            let &Entry { role, key_hash, revoked, expires_ms } = *entry;
            message::Entry { tenant, principal, role, key_hash, revoked, expires_ms, later: &[] }
        });
        let entries = List::encode(entries, &mut room).unwrap_or_default();
        let whole = std::mem::take(&mut first);
        say(&message::Registry { upto, whole, entries, more: true, groups: List::default() });
    }
    say_groups(upto, groups, first, &mut say);
    let sum = crc::of(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Says all groups in parts; the last has no `more`.
pub(super) fn say_groups(
    upto: u64,
    groups: &BTreeMap<(Box<str>, Box<str>), Group>,
    whole: bool,
    say: &mut dyn FnMut(&message::Registry<'_>),
) {
    let all: Vec<_> = groups.iter().collect();
    let mut parts = all.chunks(GROUPS_OF_FRAME).peekable();
    let mut whole = whole;
    loop {
        let part = parts.next().unwrap_or_default();
        let length: usize =
            part.iter().map(|(_, group)| GROUP_BYTES + group.definition.len()).sum();
        let mut room = vec![0; length];
        let listed = part.iter().map(|((tenant, name), group)| {
            let Group { id, epoch, removed, definition } = group;
            let (id, epoch, removed) = (*id, *epoch, *removed);
            message::Group { tenant, name, id, epoch, removed, definition, later: &[] }
        });
        let groups = List::encode(listed, &mut room).unwrap_or_default();
        let (more, entries) = (parts.peek().is_some(), List::default());
        say(&message::Registry { upto, whole, entries, more, groups });
        whole = false;
        if !more {
            return;
        }
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Image, Damaged> {
    if bytes.len() < AROUND {
        return Err(Damaged("it is too short"));
    }
    let (body, sum) = bytes.split_at(bytes.len() - 4);
    if crc::of(body).to_le_bytes() != sum {
        return Err(Damaged("its checksum is wrong"));
    }
    let rest = body.strip_prefix(HEAD.as_slice()).ok_or(Damaged("it is of another form"))?;
    let (heard, mut frames) = rest.split_first_chunk().ok_or(Damaged("it is too short"))?;
    let (mut known, mut groups) = (HashMap::new(), BTreeMap::new());
    let mut complete = None;
    while !frames.is_empty() {
        let frame = frame::decode(frames, FRAME_LINK).ok().flatten();
        let (frame, used) = frame.ok_or(Damaged("a frame is not whole"))?;
        let Ok(Message::Registry(said)) = Message::decode(&frame, Sender::Server) else {
            return Err(Damaged("a frame is no registry's"));
        };
        known.extend(said.entries.iter().map(|entry| {
            ((Box::from(entry.tenant), Box::from(entry.principal)), Entry::from(&entry))
        }));
        groups.extend(
            said.groups.iter().map(|group| {
                ((Box::from(group.tenant), Box::from(group.name)), Group::from(&group))
            }),
        );
        complete = (!said.more).then_some(said.upto);
        frames = frames.get(used..).unwrap_or_default();
    }
    let upto = complete.ok_or(Damaged("its end is missing"))?;
    Ok(Image { heard: Millis(u64::from_le_bytes(*heard)), upto, known, groups })
}

#[cfg(test)]
mod tests {
    use super::super::{Copy, Part, Registry as _};
    use super::*;
    use spile_protocol::id::Role;

    /// A copy of so many principals and groups.
    fn copy(count: u32) -> Copy {
        let copy = Copy::new(1_000);
        let named = (0..count).map(|n| {
            let entry = Entry {
                role: Role::Device,
                key_hash: Some([7; 32]),
                revoked: n % 2 == 1,
                expires_ms: u64::MAX,
            };
            (Box::from("main"), format!("device-{n}").into(), entry)
        });
        let grouped = (0..count).map(|n| {
            let definition = vec![b'x'; 900].into();
            let group = Group { id: u64::MAX, epoch: n, removed: false, definition };
            (Box::from("main"), format!("group-{n}").into(), group)
        });
        copy.learn(Millis(5_000), Part { upto: 77, whole: true, more: false }, named, grouped);
        copy
    }

    #[test]
    fn what_was_kept_is_there_again_with_its_age() {
        for count in [0, 1, 300] {
            let (bytes, upto, heard) = copy(count).image().unwrap();
            assert_eq!((upto, heard), (77, Millis(5_000)));
            let again = Copy::new(1_000);
            again.restore(&bytes).unwrap();
            assert_eq!(again.upto(), Some(77));
            assert_eq!(again.lookup("main", "device-1"), copy(count).lookup("main", "device-1"));
            assert!(again.is_fresh(Millis(6_000)) && !again.is_fresh(Millis(6_001)));
            let groups = |of: &Copy| {
                let mut names = Vec::new();
                of.tell_groups(|said| names.extend(said.groups.iter().map(|group| group.epoch)));
                names
            };
            assert_eq!(groups(&again), groups(&copy(count)), "{count}");
        }
    }

    #[test]
    fn a_damaged_image_is_none() {
        let (bytes, ..) = copy(2).image().unwrap();
        for cut in 0..bytes.len() {
            let again = Copy::new(1_000);
            assert!(again.restore(&bytes[..cut]).is_err(), "cut to {cut}");
            assert_eq!(again.upto(), None);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Copy::new(1_000).restore(&bad).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn what_the_link_said_is_newer_than_the_disk() {
        let (bytes, ..) = copy(2).image().unwrap();
        let newer = copy(3);
        newer.restore(&bytes).unwrap();
        assert!(newer.lookup("main", "device-2").is_some());
    }
}
