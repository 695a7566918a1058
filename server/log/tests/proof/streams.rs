//! Streams beside the random operations: a stream read by itself has the records that the whole log has of it.

use std::collections::BTreeMap;

use spile_log::disk::sim::{Choose, Random};
use spile_log::{Append, GapKind, Log, NEW_STREAM, Position, StreamItem};

const STREAMS: usize = 4;

/// The last position and the next version of each stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(BTreeMap<u64, (u64, u64)>);

/// (stream, position, version) of every record of a stream.
type Found = Vec<(u64, u64, u64)>;

fn whole(log: &Log) -> Result<Found, String> {
    let mut reader = log.read(Position::FIRST);
    let mut found = Vec::new();
    while let Some(block) = reader.next(1 << 16).map_err(|error| error.to_string())? {
        let of = block.records().filter(|record| record.stream != 0);
        found.extend(of.map(|record| (record.stream, record.position.get(), record.version)));
    }
    Ok(found)
}

impl Streams {
    /// From what is stored, as a worker does after a start or a cut.
    pub(crate) fn rebuilt(log: &Log) -> Self {
        let mut streams = BTreeMap::new();
        for (stream, position, version) in whole(log).unwrap_or_default() {
            streams.insert(stream, (position, version + 1));
        }
        Self(streams)
    }

    /// Puts a record that will be at `position` into a stream, now and then.
    pub(crate) fn join(&mut self, append: &mut Append, position: u64, random: &mut Random) {
        if random.choose(2) == 0 {
            return;
        }
        let n = usize::try_from(random.choose(4)).unwrap_or(0);
        let known = self.0.iter().nth(n).map(|(stream, last)| (*stream, *last));
        let (stream, (prev, version)) = match known {
            Some(known) => known,
            None if self.0.len() < STREAMS => (position, (0, 1)),
            None => return,
        };
        append.stream = if prev == 0 { NEW_STREAM } else { stream };
        (append.prev, append.version) = (prev, version);
        self.0.insert(stream, (position, version + 1));
    }

    /// Reads each stream by itself, from some version on.
    pub(crate) fn check(&self, log: &Log, random: &mut Random) -> Result<(), String> {
        let all = whole(log)?;
        let mut lasts = BTreeMap::new();
        all.iter().for_each(|(stream, position, version)| {
            lasts.insert(*stream, (*position, *version));
        });
        for (stream, (last, newest)) in lasts {
            let from = if random.choose(2) == 0 { 0 } else { 1 + random.choose(newest) };
            let want: Vec<(u64, u64)> = all
                .iter()
                .filter(|(of, _, version)| *of == stream && *version >= from)
                .map(|(_, position, version)| (*position, *version))
                .collect();
            let mut got = Vec::new();
            let mut reader = log.read_stream(stream, last.into(), from);
            while let Some(item) = reader.next(500).map_err(|error| error.to_string())? {
                match item {
                    StreamItem::Gap(gap) if gap.kind == GapKind::Removed => {}
                    StreamItem::Gap(gap) => return Err(format!("stream {stream}: {gap:?}")),
                    StreamItem::Records(records) => {
                        // A record of several versions may begin before the one asked for.
                        let of = records.iter().filter(|record| record.version >= from);
                        got.extend(of.map(|record| (record.position.get(), record.version)));
                    }
                }
            }
            if got != want {
                return Err(format!(
                    "stream {stream} to {last} from version {from}: {got:?} and not {want:?}"
                ));
            }
        }
        Ok(())
    }
}
