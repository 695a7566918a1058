//! Finds the first record at or after a time: times never go back, so segments, marks and records are searched in order.

use std::sync::Arc;

use crate::error::ReadError;
use crate::reader::Reader;
use crate::segment::{Index, Segment};
use crate::shared::Shared;
use crate::{Position, lock};

/// Where the search starts to read.
enum Start {
    At(u64),
    In(Arc<Segment>),
}

fn start(index: &Index, time_ms: u64) -> Start {
    let n = index.sealed.partition_point(|segment| segment.last_time < time_ms);
    match (index.sealed.get(n), &index.open) {
        (Some(segment), _) => Start::In(segment.clone()),
        (None, Some(open)) => {
            // The mark before may still hold records of the same time.
            Start::At(index.open_mark(open, |mark| mark.time_ms < time_ms).position)
        }
        (None, None) => Start::At(index.durable_end),
    }
}

/// The first record at or after `time_ms`; the durable end if there is none.
pub(crate) fn position_at(shared: &Arc<Shared>, time_ms: u64) -> Result<Position, ReadError> {
    let found = start(&lock(&shared.index), time_ms);
    let from = match found {
        Start::At(position) => position,
        Start::In(segment) if segment.lost => segment.base,
        Start::In(segment) => {
            let view = segment.view(&*shared.disk)?;
            segment.mark(&view, |mark| mark.time_ms < time_ms)?.position
        }
    };
    let mut reader = Reader::new(shared.clone(), from.into());
    while let Some(block) = reader.next(1 << 16)? {
        if let Some(record) = block.records().find(|record| record.time_ms >= time_ms) {
            return Ok(record.position);
        }
    }
    Ok(reader.position())
}
