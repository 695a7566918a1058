//! Receipts of events that were stored before a lane was opened again, read back from its stream. spec §5.1.3

use std::collections::VecDeque;

use spile_protocol::{id::Number, limits::VOIDS, message::Receipt};

use crate::{
    answers::receipt,
    desk::{Identity, Lane},
    limits::{READ_BYTES, RECEIPT_VERSIONS},
    record::{self, Names, Tail},
    worker::Worker,
};

/// What became of the lane's numbers from `first` to `last`, as far as they were stored and not too long ago. All of it is
/// durable.
pub(crate) fn stored(
    worker: &Worker,
    who: &Identity,
    lane: &Lane,
    (first, last): (Number, Number),
) -> Vec<Receipt> {
    if !who.receipts || first > last {
        return Vec::new();
    }
    let window = u64::try_from(VOIDS).unwrap_or(u64::MAX);
    let first = first.0.max(last.0.saturating_sub(window - 1));
    // With nobody else in the stream its numbers are so far back; with others, farther.
    let mut back = last.0 - first + 1;
    loop {
        let (found, reached) = read_back(worker, who, lane, (first, last.0), back);
        if reached || back >= RECEIPT_VERSIONS {
            return found;
        }
        back = back.saturating_mul(8).min(RECEIPT_VERSIONS);
    }
}

/// Reads the stream's last `back` versions; says whether that reached far enough.
fn read_back(
    worker: &Worker,
    who: &Identity,
    lane: &Lane,
    (first, last): (u64, u64),
    back: u64,
) -> (Vec<Receipt>, bool) {
    let Some(seen) = worker.core().see(lane.at.stream).filter(|seen| seen.id != 0) else {
        return (Vec::new(), true);
    };
    let from = seen.durable_version.saturating_sub(back - 1).max(1);
    let mut reached = from == 1;
    let mut found = Vec::new();
    let mut reader = worker.log.read_stream(seen.id, seen.position, from);
    let mut records = VecDeque::new();
    while reader.next(READ_BYTES, &mut records).unwrap_or(false) {
        for one in records.drain(..) {
            let Ok((prefix, tail)) = record::split(&one.head) else { continue };
            let (Ok(names), Ok(tail)) =
                (Names::parse(prefix), Tail::parse(one.kind, tail, &one.payload))
            else {
                continue;
            };
            let ours = names.run == who.run && names.role == who.role;
            if !ours || names.principal != who.principal || tail.number.0 == 0 {
                continue;
            }
            reached |= tail.number.0 <= first;
            let end = tail.number.0.saturating_add(u64::from(one.positions));
            if tail.number.0 <= last && end > first {
                let position = one.position.get();
                found.push(receipt(tail.number.0, one.positions, one.version, position));
            }
        }
    }
    (found, reached)
}
