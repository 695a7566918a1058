//! How far streams are that a group has marks of, when it begins: found by going through all streams there are, a slice at a
//! time, since nothing is looked up by a stream's id anywhere else.
//!
//! The invariant: the core is locked for no more than [`GROUP_STREAMS_AT_ONCE`] streams, however many there are. What is found is
//! durable, and no older than the view that the group began with: streams only grow.

use std::collections::HashMap;

use crate::{core::Core, limits::GROUP_STREAMS_AT_ONCE, worker::Worker};

/// A stream's last version, and the position of its record.
pub(crate) type Latest = (u64, u64);

/// The last durable version of each of these streams.
pub(crate) fn of(worker: &Worker, wanted: impl Iterator<Item = u64>) -> HashMap<u64, Latest> {
    let mut latest: HashMap<u64, Latest> = wanted.map(|stream| (stream, (0, 0))).collect();
    let (mut left, mut from) = (latest.len(), 0);
    while left > 0 {
        let mut core = worker.core();
        core.look();
        let end = core.tables.streams.places();
        if from >= end {
            break;
        }
        let to = end.min(from + GROUP_STREAMS_AT_ONCE);
        left -= slice(&core, (from, to), &mut latest);
        from = to;
    }
    latest
}

/// Looks at the streams in these places: how many of the wanted ones are there.
fn slice(core: &Core, (from, to): (usize, usize), latest: &mut HashMap<u64, Latest>) -> usize {
    let mut found = 0;
    for stream in core.tables.streams.slice(from, to) {
        if let Some(known) = latest.get_mut(&stream.id) {
            *known = (stream.version, stream.position);
            found += 1;
        }
    }
    if found == 0 {
        return 0;
    }
    // What was appended and is not durable is taken back: the oldest change says how the stream was. Of streams in other
    // slices this is right, too, or is found anew.
    for before in core.before.iter().rev() {
        if let Some(known) = latest.get_mut(&before.id) {
            *known = (before.version, before.position);
        }
    }
    found
}
