//! What waits for the disk: appends are encoded here, under one short lock, into the bytes of the next batch.
//!
//! Nothing here does I/O. The invariant: the records in `pending` follow each other and `durable_end` without gaps, and
//! everything in it was appended under the current generation.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::AppendError;
use crate::format::record::RecordHeader;
use crate::format::{batch, crc_from, narrow32, wide};
use crate::limits::{CALL_RECORDS_MAX, COPY_BELOW, HEAD_BYTES_MAX};
use crate::{Options, Position, State};

/// As [`Append::stream`]: this record starts a stream, whose id becomes its position.
pub const NEW_STREAM: u64 = u64::MAX;

const IN_THIS_CALL: u64 = 1 << 63;

/// As [`Append::stream`] or [`Append::prev`]: the position of record `index` (from 0, an earlier one) of the same call.
#[must_use]
pub const fn in_this_call(index: u32) -> u64 {
    IN_THIS_CALL | index as u64
}

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Its meaning is the caller's; 0 is the log's own.
    pub kind: u8,
    /// How many positions it takes, 1 or more: a batch of events stays one block.
    pub positions: u32,
    /// The caller's time. The log raises it so that it never goes back.
    pub time_ms: u64,
    /// The id of its stream, [`NEW_STREAM`], [`in_this_call`], or 0 for none.
    pub stream: u64,
    /// Its first version in the stream (0 without one).
    pub version: u64,
    /// The position of the stream's record before it, [`in_this_call`], or 0 for none.
    pub prev: u64,
    /// The caller's header bytes, checked together with the record's own header.
    pub head: Bytes,
    /// The payload. From 1 KiB on it is written from this buffer.
    pub payload: Bytes,
    /// CRC-32 (IEEE) of the payload, as the device took it. It is carried, never taken anew.
    pub payload_crc: u32,
}

/// One record of a stream in a segment that has no footer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) stream: u64,
    pub(crate) version: u64,
    pub(crate) prev: u64,
    /// From the segment's start (in a pending batch: from the batch's).
    pub(crate) offset: u32,
}

/// The bytes of a batch that is being gathered, or written.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Room for the batch header, then record headers and small payloads.
    pub(crate) bytes: BytesMut,
    /// Payloads written from the caller's buffers: each belongs before `bytes[at..]`.
    pub(crate) large: Vec<(usize, Bytes)>,
    pub(crate) large_bytes: usize,
    /// Header and payload CRC of each record: what the batch's and the segment's hash are taken over.
    pub(crate) crcs: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// CRC of the salt that its records are encoded with: that of the segment that was open when it was begun.
    pub(crate) seed: u32,
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) records: u32,
    /// Bytes that came by `append_reserved`.
    pub(crate) reserved: bool,
}

impl Pending {
    /// Bytes of the batch as it will be on disk, without padding.
    pub(crate) fn total(&self) -> usize {
        self.bytes.len().saturating_add(self.large_bytes)
    }

    /// Bytes of the batch with its padding.
    pub(crate) fn padded(&self) -> usize {
        self.total().next_multiple_of(8)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.large.clear();
        self.crcs.clear();
        self.entries.clear();
        (self.large_bytes, self.records, self.reserved) = (0, 0, false);
    }

    pub(crate) fn start(&mut self, base: u64, seed: u32) {
        self.seed = seed;
        self.bytes.put_bytes(0, batch::BYTES);
        (self.base, self.end) = (base, base);
    }

    /// Encodes one record at the end.
    #[inline]
    pub(crate) fn push(&mut self, header: &RecordHeader, head: &[u8], payload: Bytes) {
        let offset = narrow32(wide(self.total()));
        let header_crc = header.encode(self.seed, head, &mut self.bytes);
        self.crcs.put_u32_le(header_crc);
        self.crcs.put_u32_le(header.payload_crc);
        if header.stream != 0 {
            let RecordHeader { position, stream, version, prev, .. } = *header;
            self.entries.push(Entry { position, stream, version, prev, offset });
        }
        if payload.len() < COPY_BELOW {
            self.bytes.put_slice(&payload);
        } else {
            self.large_bytes = self.large_bytes.saturating_add(payload.len());
            self.large.push((self.bytes.len(), payload));
        }
        if self.records == 0 {
            self.first_time = header.time_ms;
        }
        self.end = header.end();
        self.last_time = header.time_ms;
        self.records = self.records.saturating_add(1);
    }

    /// Takes the header CRCs anew: the batch goes to a segment with another salt than it was encoded for.
    pub(crate) fn resalt(&mut self, seed: u32) {
        if self.seed == seed {
            return;
        }
        self.seed = seed;
        let mut rest = self.bytes.get_mut(batch::BYTES..).unwrap_or_default();
        for crcs in self.crcs.chunks_exact_mut(8) {
            let Ok(header) = RecordHeader::parse(rest) else { return };
            let Some(body) = rest.get(4..header.payload_at()) else { return };
            let check = crc_from(seed, &[body]).to_le_bytes();
            for target in [&mut *rest, crcs] {
                if let Some(first) = target.first_chunk_mut() {
                    *first = check;
                }
            }
            let payload = header.payload_len as usize;
            let step =
                header.payload_at().saturating_add(if payload < COPY_BELOW { payload } else { 0 });
            rest = rest.get_mut(step..).unwrap_or_default();
        }
    }
}

/// Appends that wait, and what the next one is measured against.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) pending: Pending,
    /// The other buffer, while the writer does not have it.
    pub(crate) spare: Option<Pending>,
    pub(crate) next: u64,
    pub(crate) durable_end: u64,
    pub(crate) durable_time: u64,
    /// Time of the last record appended: the next is not earlier.
    pub(crate) last_time: u64,
    pub(crate) generation: u64,
    pub(crate) state: State,
    /// CRC of the open segment's salt.
    pub(crate) seed: u32,
    pub(crate) queue_bytes: usize,
    pub(crate) hole: Range<u64>,
    pub(crate) closed: bool,
    /// The writer sleeps and wants to be woken.
    pub(crate) idle: bool,
    /// Positions of the records of the call at work.
    positions: Vec<u64>,
}

/// What a call asks for.
pub(crate) struct Wanted {
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(end: u64, time: u64, seed: u32, options: &Options) -> Self {
        Self {
            pending: Pending::default(),
            spare: Some(Pending::default()),
            next: end,
            durable_end: end,
            durable_time: time,
            last_time: time,
            generation: 1,
            state: State::Running,
            seed,
            queue_bytes: options.queue_bytes,
            hole: 0..0,
            closed: false,
            idle: false,
            positions: Vec::new(),
        }
    }

    /// Checks what does not depend on the log's state, before the lock is taken.
    pub(crate) fn measure(records: &[Append], payload_limit: usize) -> Result<Wanted, AppendError> {
        if records.len() > CALL_RECORDS_MAX {
            return Err(AppendError::TooLarge { bytes: records.len(), limit: CALL_RECORDS_MAX });
        }
        let mut bytes = 0_usize;
        for (index, record) in (0_u64..).zip(records) {
            check(record, index, payload_limit)?;
            bytes += RecordHeader::fixed(true) + record.head.len() + record.payload.len();
        }
        Ok(Wanted { bytes })
    }

    fn admit(&self, generation: u64, wanted: &Wanted, reserved: bool) -> Result<(), AppendError> {
        match self.state {
            State::Poisoned => return Err(AppendError::Poisoned),
            State::Damaged => {
                return Err(AppendError::Damaged {
                    from: self.hole.start.into(),
                    to: self.hole.end.into(),
                });
            }
            State::Running | State::Full => {}
        }
        if self.closed {
            return Err(AppendError::Closed);
        }
        if generation != self.generation {
            return Err(AppendError::Stale {
                generation: self.generation,
                end: self.durable_end.into(),
            });
        }
        if self.state == State::Full && !reserved {
            return Err(AppendError::Full);
        }
        let waiting = self.pending.total();
        if wanted.bytes > self.queue_bytes {
            return Err(AppendError::TooLarge { bytes: wanted.bytes, limit: self.queue_bytes });
        }
        if waiting + wanted.bytes > self.queue_bytes {
            return Err(AppendError::QueueFull { waiting });
        }
        Ok(())
    }

    /// Takes all of `records`, or none.
    pub(crate) fn append(
        &mut self,
        generation: u64,
        records: &mut Vec<Append>,
        wanted: &Wanted,
        reserved: bool,
    ) -> Result<Range<Position>, AppendError> {
        self.admit(generation, wanted, reserved)?;
        let from = self.next;
        if records.is_empty() {
            return Ok(from.into()..from.into());
        }
        if self.pending.is_empty() {
            self.pending.start(from, self.seed);
        }
        self.positions.clear();
        for record in records.drain(..) {
            self.push(record);
        }
        self.pending.reserved |= reserved;
        Ok(from.into()..self.next.into())
    }

    #[inline]
    fn push(&mut self, record: Append) {
        let position = self.next;
        let time_ms = record.time_ms.max(self.last_time);
        self.last_time = time_ms;
        let header = RecordHeader {
            header_crc: 0,
            payload_crc: record.payload_crc,
            payload_len: narrow32(wide(record.payload.len())),
            head_len: u16::try_from(record.head.len()).unwrap_or(u16::MAX),
            kind: record.kind,
            positions: record.positions,
            position,
            time_ms,
            stream: self.resolve(record.stream),
            version: record.version,
            prev: self.resolve(record.prev),
        };
        self.next = header.end();
        self.positions.push(position);
        self.pending.push(&header, &record.head, record.payload);
    }

    #[inline]
    fn resolve(&self, reference: u64) -> u64 {
        match reference {
            NEW_STREAM => self.next,
            of_call if of_call & IN_THIS_CALL != 0 => self
                .positions
                .get(crate::format::narrow(of_call ^ IN_THIS_CALL))
                .copied()
                .unwrap_or(0),
            position => position,
        }
    }

    /// The batch to write now, if anything waits.
    pub(crate) fn take(&mut self) -> Option<Pending> {
        if self.pending.is_empty() {
            return None;
        }
        let other = self.spare.take().unwrap_or_default();
        Some(std::mem::replace(&mut self.pending, other))
    }

    /// The disk took nothing: everything beyond the durable end is gone, and its generation with it.
    pub(crate) fn cut_back(&mut self, state: State) {
        self.pending.clear();
        self.next = self.durable_end;
        self.last_time = self.durable_time;
        self.generation = self.generation.saturating_add(1);
        self.state = state;
    }
}

fn check(record: &Append, index: u64, payload_limit: usize) -> Result<(), AppendError> {
    if record.payload.len() > payload_limit {
        return Err(AppendError::TooLarge { bytes: record.payload.len(), limit: payload_limit });
    }
    if record.head.len() > HEAD_BYTES_MAX {
        return Err(AppendError::TooLarge { bytes: record.head.len(), limit: HEAD_BYTES_MAX });
    }
    if record.kind == 0 {
        return Err(AppendError::Invalid("kind 0 is the log's own"));
    }
    if record.positions == 0 {
        return Err(AppendError::Invalid("it takes no position"));
    }
    let later = |r: u64| r & IN_THIS_CALL != 0 && r ^ IN_THIS_CALL >= index;
    if (record.stream != NEW_STREAM && later(record.stream)) || later(record.prev) {
        return Err(AppendError::Invalid(
            "it refers to a record of the same call that is not before it",
        ));
    }
    if record.stream == 0 && (record.version | record.prev) != 0 {
        return Err(AppendError::Invalid("it has a version but no stream"));
    }
    Ok(())
}
