//! Where a subscription reads: the log from a position on, or one stream from a version on, and how far it is.
//!
//! Not here: what is wanted of it, and deliveries. The invariant: what is read is durable, comes in order, and from where the
//! last of it ended.

use spile_protocol::code::Code;

use crate::{
    limits::READ_BYTES, log::Read, slab::Ix, tables::Stream, unread::Unread, worker::Worker,
};

/// What is read.
pub(crate) enum Source {
    /// The log, from a position on.
    Log { from: u64, reader: Box<dyn Read>, at_end: u64 },
    /// One stream, from a version on.
    Stream { stream: Ix<Stream>, state: Following, from: u64 },
}

/// How far the reading of a stream is.
pub(crate) enum Following {
    /// There may be more: look.
    Look,
    /// Up to a record that is durable, and the version it ends with.
    Reading(Box<dyn Read>, u64),
    /// The next is on its way to the disk; it is there when the log is durable up to here.
    Coming(u64),
    /// The bell rings when there is a next one.
    Sleeping,
}

/// What became of reading on.
pub(crate) enum Refill {
    /// There may be more to be looked at.
    More,
    /// There is nothing more now.
    Nothing,
    /// All that is durable was read.
    AtEnd,
    /// Versions that should have come are not kept: the first that is.
    Gone(u64),
    /// It can't be read.
    Failed(Code, &'static str),
}

impl Source {
    pub(crate) fn stream(&self) -> Option<Ix<Stream>> {
        match self {
            Self::Log { .. } => None,
            Self::Stream { stream, .. } => Some(*stream),
        }
    }

    /// Is there more to read, when the log is durable up to `end`?
    pub(crate) fn has_more(&self, end: u64) -> bool {
        match self {
            Self::Log { at_end, .. } => end > *at_end,
            Self::Stream { state, .. } => match state {
                Following::Look | Following::Reading(..) => true,
                Following::Coming(gate) => end >= *gate,
                Following::Sleeping => false,
            },
        }
    }

    /// The bell rang: there may be a next record of the stream.
    pub(crate) fn wake(&mut self) {
        if let Self::Stream { state: state @ Following::Sleeping, .. } = self {
            *state = Following::Look;
        }
    }

    /// The position all events before which were read.
    pub(crate) fn position(&self) -> u64 {
        match self {
            Self::Log { from, .. } => *from,
            Self::Stream { .. } => 0,
        }
    }

    /// What was read from this record on is read again.
    pub(crate) fn go_back(&mut self, worker: &Worker, (position, version): (u64, u64)) {
        match self {
            Self::Log { reader, from, at_end } => {
                (*from, *at_end) = (position, 0);
                *reader = worker.log.read(position);
            }
            Self::Stream { state, from, .. } => {
                (*from, *state) = (version, Following::Look);
            }
        }
    }

    /// Reads on, up to the durable `end`. `whole`: the first version must be there, where it was stored.
    pub(crate) fn refill(
        &mut self,
        worker: &Worker,
        end: u64,
        records: &mut Unread,
        whole: &mut bool,
    ) -> Refill {
        match self {
            Self::Log { at_end, .. } if end <= *at_end => Refill::Nothing,
            Self::Log { reader, from, at_end } => match reader.read_ahead(READ_BYTES, records) {
                Ok(true) => {
                    if let Some(end) = records.end() {
                        *from = end.get();
                    }
                    Refill::More
                }
                Ok(false) => {
                    (*at_end, *from) = (end, end.max(*from));
                    Refill::AtEnd
                }
                Err(error) => {
                    tracing::error!(%error, "a subscription can't read");
                    Refill::Failed(Code::CORRUPT, "the log can't be read")
                }
            },
            Self::Stream { stream, state, from } => match state {
                Following::Sleeping => Refill::Nothing,
                Following::Coming(gate) if end < *gate => Refill::Nothing,
                Following::Coming(_) | Following::Look => look(worker, *stream, state, *from),
                Following::Reading(reader, upto) => {
                    let (read, upto) = (reader.next(READ_BYTES, records.made()), *upto);
                    match read {
                        // A gap was told: what is behind it comes.
                        Ok(true) if records.made().is_empty() => Refill::More,
                        Ok(more) => {
                            let missing = took(records, more, (from, upto));
                            if !more {
                                *state = Following::Look;
                            }
                            // spec §8.1.3
                            let whole = std::mem::take(whole);
                            missing.filter(|_| whole).map_or(Refill::More, Refill::Gone)
                        }
                        Err(error) => {
                            tracing::error!(%error, "a subscription can't read its stream");
                            Refill::Failed(Code::CORRUPT, "the stream can't be read")
                        }
                    }
                }
            },
        }
    }
}

/// What is there of the stream from version `from` on?
fn look(worker: &Worker, stream: Ix<Stream>, state: &mut Following, from: u64) -> Refill {
    let Some(seen) = worker.core().see(stream) else {
        return Refill::Failed(Code::INTERNAL, "the stream is gone");
    };
    if seen.durable_version >= from {
        let reader = worker.log.read_stream(seen.id, seen.position, from);
        *state = Following::Reading(reader, seen.durable_version);
        return Refill::More;
    }
    *state = if seen.version >= from { Following::Coming(seen.next) } else { Following::Sleeping };
    Refill::AtEnd
}

/// Goes on behind what was read, or behind `upto` where there was no more: then what was not read up to there is not kept.
/// The first version there is, where some before it are missing.
fn took(records: &mut Unread, more: bool, (from, upto): (&mut u64, u64)) -> Option<u64> {
    let read = records.made();
    let first = read.front().filter(|_| more).map_or(u64::MAX, |first| first.version);
    let missing = *from <= upto && *from < first;
    match read.back().filter(|_| more) {
        Some(last) => *from = last.version.saturating_add(u64::from(last.positions)),
        None => *from = upto.saturating_add(1).max(*from),
    }
    missing.then_some(first)
}
