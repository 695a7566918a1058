//! Records that were read ahead of where they are wanted, oldest first: some made, and behind them a block of the log in
//! which they lie still.
//!
//! Making a [`Record`] counts references to its block, for each of its parts; most of those that follow each other are
//! looked at once and copied. The invariant: nothing overtakes, whichever way records came in.

use std::collections::VecDeque;

use spile_log::{Position, Record, RecordRef, Records};

use crate::limits::READ_BYTES;

/// So many records are counted one by one; more are taken for a whole read.
const FEW: usize = 64;

/// What was read ahead.
#[derive(Debug, Default)]
pub struct Unread {
    made: VecDeque<Record>,
    block: Records,
}

impl Unread {
    pub(crate) fn is_empty(&self) -> bool {
        self.made.is_empty() && self.block.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Position and version of the next one.
    pub(crate) fn front(&mut self) -> Option<(u64, u64)> {
        let mut front = None;
        self.pass_if(|record| {
            front = Some((record.position.get(), record.version));
            false
        });
        front
    }

    /// About how many bytes it holds: a block keeps its whole buffer, and so do many records.
    pub(crate) fn bytes(&self) -> usize {
        let few = self.made.iter().take(FEW).map(|record| record.payload.len()).sum();
        let made = if self.made.len() > FEW { READ_BYTES.max(few) } else { few };
        made + self.block.bytes()
    }

    /// Where it ends, if anything was read.
    pub(crate) fn end(&self) -> Option<Position> {
        match self.block.end() {
            None => self.made.back().map(Record::end),
            end => end,
        }
    }

    /// A block behind all there is.
    pub fn push_block(&mut self, block: Records) {
        let before = std::mem::replace(&mut self.block, block);
        self.made.extend(before);
    }

    /// All of it as records: those that are read one by one go behind.
    pub fn made(&mut self) -> &mut VecDeque<Record> {
        self.push_block(Records::default());
        &mut self.made
    }

    /// One that was taken was not used up.
    pub(crate) fn push_front(&mut self, record: Record) {
        self.made.push_front(record);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Record> {
        self.made.pop_front().or_else(|| self.block.next())
    }

    /// Goes past the next one if it is `wanted`, who sees it where it lies; says whether it did.
    #[inline]
    pub(crate) fn pass_if(&mut self, wanted: impl FnOnce(&RecordRef<'_>) -> bool) -> bool {
        match self.made.front() {
            None => self.block.pass_if(wanted),
            Some(front) => wanted(&RecordRef::from(front)) && self.made.pop_front().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use spile_log::{Append, Log, Options, SimDisk};

    use super::*;

    /// A log of so many records, of which three or four are read at once.
    fn log_of(count: usize) -> Log {
        let options =
            Options { inline: true, prefill: false, free_bytes_low: 0, ..Options::default() };
        let (log, _) = Log::open(Arc::new(SimDisk::new(1)), options).unwrap();
        let payload = Bytes::from(vec![7; 1200]);
        let record = Append {
            kind: 1,
            positions: 1,
            time_ms: 1,
            stream: 0,
            version: 0,
            prev: 0,
            head: Bytes::new(),
            payload_crc: spile_protocol::crc::of(&payload),
            payload,
        };
        log.append(1, &mut vec![record; count]).unwrap();
        while log.pump() {}
        log
    }

    /// Takes the next in one of the ways there are; where it stood.
    fn take(unread: &mut Unread, way: u64) -> Option<u64> {
        let mut seen = None;
        let mut look = |record: &RecordRef<'_>, goes: bool| {
            seen = Some(record.position.get());
            goes
        };
        match way % 3 {
            0 => return unread.pop_front().map(|record| record.position.get()),
            1 => assert_eq!(unread.pass_if(|record| look(record, true)), seen.is_some()),
            _ => {
                let record = unread.pop_front()?;
                unread.push_front(record);
                assert!(!unread.pass_if(|record| look(record, false)), "it stays");
                let stayed = unread.pop_front().map(|record| record.position.get());
                assert_eq!(stayed, seen);
            }
        }
        seen
    }

    #[test]
    fn nothing_overtakes_whichever_way_it_came_and_goes() {
        let log = log_of(90);
        let (mut reader, mut unread, mut next) = (log.read(Position::FIRST), Unread::default(), 1);
        for turn in 0_u64.. {
            // Up to four blocks, some of them made into records, and then a few are taken or all.
            for some in 0..=turn % 4 {
                let Some(block) = reader.next(4096).unwrap() else { break };
                if (turn + some) % 3 == 0 {
                    unread.made().extend(block.records());
                } else {
                    unread.push_block(block.records());
                }
                assert_eq!(unread.end(), Some(block.next()));
            }
            let few = if turn % 3 == 2 { u64::MAX } else { 5 };
            for _ in 0..few {
                let Some(taken) = take(&mut unread, turn + next) else { break };
                assert_eq!(taken, next);
                next += 1;
            }
            if next == 91 {
                break;
            }
        }
        assert_eq!((unread.end(), unread.is_empty()), (None, true));
    }
}
