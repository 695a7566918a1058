//! DELIVER: events on their way to a consumer; hot, a fixed layout. spec §8.2.
//!
//! Key, topic, type and worker are spelled where they differ from the subscription's last delivery, so that a run of one
//! key is as short as an event.

use serde::Serialize;

use super::{
    event::Lengths,
    extras::Extras,
    field::{self, DecodeError, Fields, Full, Writer},
};
use crate::{
    id::{Position, SubscriptionId, Version},
    limits,
    time::Millis,
};

/// What a payload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind<'a> {
    /// Its content type; empty for not said.
    pub content_type: &'a str,
    /// Its schema number; 0 for none.
    pub schema: u32,
    /// How it is encoded; empty for not at all.
    pub encoding: &'a str,
}

/// One event, or consecutive events of one key in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Deliver<'a> {
    /// Which subscription.
    pub subscription: SubscriptionId,
    /// The key, where it is another than the last delivery's.
    pub key: Option<&'a str>,
    /// The topic, where it is another.
    pub topic: Option<&'a str>,
    /// The type, where it is another.
    pub kind: Option<Kind<'a>>,
    /// The worker, where it is another.
    pub worker: Option<&'a str>,
    /// The attempt, for a group; from 1, and not spelled when it is 1.
    pub attempt: u32,
    /// The first event's version; each next one has one more.
    pub version: Version,
    /// The first event's position; each next one has one more.
    pub position: Position,
    /// When the edge accepted them.
    pub time: Millis,
    /// Where one payload ends and the next begins.
    pub lengths: Lengths<'a>,
    /// Device time, ttl, trace, headers, as they were published; number, expect and receipt are never set.
    pub extras: Extras<'a>,
    /// The payloads, one after the other: the bytes the device summed.
    #[serde(serialize_with = "field::hex")]
    pub payload: &'a [u8],
}

const KEY: u8 = 1;
const TOPIC: u8 = 1 << 1;
const KIND: u8 = 1 << 2;
const WORKER: u8 = 1 << 3;
const ATTEMPT: u8 = 1 << 4;
const BLOCK: u8 = 1 << 5;
const UNKNOWN: u8 = 0xc0;

impl<'a> Deliver<'a> {
    /// Reads the header; `payload` is what follows it.
    pub fn decode(spelled: bool, header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let mut deliver = Self::read(spelled, &mut fields)?;
        deliver.payload = payload;
        fields.end("Deliver")?;
        let length =
            u32::try_from(payload.len()).map_err(|_| DecodeError::too_large("Deliver.payload"))?;
        if deliver.lengths.count() == 0 {
            deliver.lengths = Lengths::one(length);
        }
        if deliver.lengths.total() == u64::from(length) {
            Ok(deliver)
        } else {
            Err(DecodeError::malformed("Deliver.lengths"))
        }
    }

    fn read(spelled: bool, fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let subscription = SubscriptionId(fields.varint32("Deliver.subscription")?);
        let flags = fields.byte("Deliver.flags")?;
        if flags & UNKNOWN != 0 {
            return Err(DecodeError::malformed("Deliver.flags"));
        }
        let has = |bit: u8| flags & bit != 0;
        let deliver = Self {
            subscription,
            key: has(KEY).then(|| fields.text("Deliver.key", limits::KEY_BYTES)).transpose()?,
            topic: has(TOPIC)
                .then(|| fields.text("Deliver.topic", limits::TOPIC_BYTES))
                .transpose()?,
            kind: has(KIND).then(|| Kind::read(fields)).transpose()?,
            worker: has(WORKER)
                .then(|| fields.text("Deliver.worker", limits::NAME_BYTES))
                .transpose()?,
            attempt: if has(ATTEMPT) { fields.varint32("Deliver.attempt")? } else { 1 },
            version: Version(fields.varint("Deliver.version")?),
            position: Position(fields.varint("Deliver.position")?),
            time: Millis(fields.varint("Deliver.time")?),
            lengths: if has(BLOCK) { Lengths::read(fields)? } else { Lengths::same(0, 0) },
            extras: Extras::read(spelled, fields)?,
            payload: &[],
        };
        // spec §8.2.2: what has a default is not spelled.
        if has(ATTEMPT) && deliver.attempt == 1 || has(BLOCK) && deliver.lengths.count() == 1 {
            return Err(DecodeError::malformed("Deliver.flags"));
        }
        // spec §5.5.2: these are between a producer and the bus.
        let Extras { number, expect, receipt, .. } = deliver.extras;
        if number.is_some() || expect.is_some() || receipt {
            return Err(DecodeError::malformed("Deliver.extras"));
        }
        Ok(deliver)
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        let bit = |there: bool, bit: u8| if there { bit } else { 0 };
        let flags = bit(self.key.is_some(), KEY)
            | bit(self.topic.is_some(), TOPIC)
            | bit(self.kind.is_some(), KIND)
            | bit(self.worker.is_some(), WORKER)
            | bit(self.attempt != 1, ATTEMPT)
            | bit(self.lengths.count() > 1, BLOCK);
        out.varint(u64::from(self.subscription.0))?;
        out.raw(&[flags])?;
        for text in [self.key, self.topic].into_iter().flatten() {
            out.bytes(text.as_bytes())?;
        }
        if let Some(kind) = self.kind {
            kind.write(out)?;
        }
        if let Some(worker) = self.worker {
            out.bytes(worker.as_bytes())?;
        }
        if self.attempt != 1 {
            out.varint(u64::from(self.attempt))?;
        }
        out.varint(self.version.0)?;
        out.varint(self.position.0)?;
        out.varint(self.time.0)?;
        if self.lengths.count() > 1 {
            self.lengths.write(out)?;
        }
        self.extras.write(out)
    }

    /// Where the header ends in `body`.
    pub(super) fn header_length(spelled: bool, body: &'a [u8]) -> Option<usize> {
        let mut fields = Fields::new(body);
        fields.skip_varints(1)?;
        let flags = fields.byte("").ok()?;
        let has = |bits: u8| flags & bits;
        for _ in 0..has(KEY | TOPIC).count_ones() {
            fields.skip_bytes()?;
        }
        if has(KIND) != 0 {
            fields.skip_bytes()?;
            fields.skip_varints(1)?;
            fields.skip_bytes()?;
        }
        if has(WORKER) != 0 {
            fields.skip_bytes()?;
        }
        fields.skip_varints(3 + has(ATTEMPT).count_ones())?;
        if has(BLOCK) != 0 {
            Lengths::skip(&mut fields)?;
        }
        Extras::skip(spelled, &mut fields)?;
        Some(body.len() - fields.rest().len())
    }
}

impl<'a> Kind<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            content_type: fields.text("Deliver.content_type", limits::CONTENT_TYPE_BYTES)?,
            schema: fields.varint32("Deliver.schema")?,
            encoding: fields.text("Deliver.encoding", limits::CONTENT_TYPE_BYTES)?,
        })
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.bytes(self.content_type.as_bytes())?;
        out.varint(u64::from(self.schema))?;
        out.bytes(self.encoding.as_bytes())
    }
}
