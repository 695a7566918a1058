//! What is done with a log that nobody has open, or with one segment of it: check every byte, show every record, write lost
//! footers anew.

use std::ops::Range;

use crate::Position;
use crate::error::DiskError;
use crate::format::footer::Trailer;
use crate::format::header::{Header, REWRITTEN};
use crate::planted::Slips;
use crate::scan::{Bounds, Scan, scan};
use crate::segment::{Lookup, Segment, View};

/// Walks the records of a sealed segment and gives the ranges that are damaged. What its footer says must agree.
pub(crate) fn check_records(
    segment: &Segment,
    view: &View,
) -> Result<Vec<Range<Position>>, DiskError> {
    let header = Header {
        flags: segment.flags,
        id: segment.id,
        base: segment.base,
        time_floor: segment.first_time,
        salt: segment.salt,
        prev_id: 0,
        prev_hash: [0; 32],
    };
    let jumps = segment.flags & REWRITTEN != 0;
    let bounds =
        Bounds { limit: Some(segment.end), proven: segment.end, jumps, slips: Slips::default() };
    let found = scan(&view.file, &header, bounds)?;
    let mut bad: Vec<Range<Position>> =
        found.holes.iter().map(|(a, b)| (*a).into()..(*b).into()).collect();
    if let Lookup::Footer(trailer) = &segment.lookup
        && bad.is_empty()
        && !agrees(&found, trailer)
    {
        bad.push(segment.base.into()..segment.end.into());
    }
    Ok(bad)
}

/// The footer is of these records.
fn agrees(found: &Scan, trailer: &Trailer) -> bool {
    *found.hash.finalize().as_bytes() == trailer.hash && found.records == trailer.records
}
