//! EVENT and BATCH: hot, fixed layouts. spec §5.3, §5.4.

use serde::Serialize;

use super::{
    extras::Extras,
    field::{self, DecodeError, Fields, Full, Writer},
};
use crate::{id::RouteId, limits, varint};

/// One event on a bound route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event<'a> {
    /// Lane, topic, content type, schema.
    pub route: RouteId,
    /// What order does not imply.
    pub extras: Extras<'a>,
    /// The bytes the device summed.
    #[serde(serialize_with = "field::hex")]
    pub payload: &'a [u8],
}

/// Events of one lane under one checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Batch<'a> {
    /// Lane, topic, content type, schema of all.
    pub route: RouteId,
    /// Where one payload ends and the next begins.
    pub lengths: Lengths<'a>,
    /// What order does not imply: number and expected version are the first event's, the rest is every event's.
    pub extras: Extras<'a>,
    /// The payloads, one after the other.
    #[serde(serialize_with = "field::hex")]
    pub payload: &'a [u8],
}

/// How a block of payloads is divided: all of one length, or each length spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths<'a> {
    count: u32,
    shape: Shape<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape<'a> {
    Same(u32),
    Each(&'a [u8]),
}

impl Serialize for Lengths<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'a> Lengths<'a> {
    /// One payload of `length` bytes.
    #[must_use]
    pub const fn one(length: u32) -> Self {
        Self::same(1, length)
    }

    /// `count` payloads of `length` bytes each.
    #[must_use]
    pub const fn same(count: u32, length: u32) -> Self {
        Self { count, shape: Shape::Same(length) }
    }

    /// Writes the lengths of `payloads` into `out`, as they will be sent.
    pub fn encode(payloads: impl Iterator<Item = usize>, out: &'a mut [u8]) -> Result<Self, Full> {
        let mut writer = Writer::new(out);
        let (mut count, mut first, mut same) = (0_u32, 0_u32, true);
        for length in payloads {
            let length = u32::try_from(length).map_err(|_| Full)?;
            if count == 0 {
                first = length;
            }
            same &= length == first;
            count = count.checked_add(1).ok_or(Full)?;
            writer.varint(u64::from(length))?;
        }
        let used = writer.len();
        let each = out.get(..used).ok_or(Full)?;
        Ok(Self { count, shape: if same { Shape::Same(first) } else { Shape::Each(each) } })
    }

    /// How many payloads.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The length of each.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (mut fields, same) = match self.shape {
            Shape::Same(length) => (Fields::new(&[]), usize::try_from(length).ok()),
            Shape::Each(bytes) => (Fields::new(bytes), None),
        };
        (0..self.count).map_while(move |_| {
            same.or_else(|| {
                fields.varint32("length").ok().and_then(|length| usize::try_from(length).ok())
            })
        })
    }

    /// All lengths together.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self.shape {
            Shape::Same(length) => u64::from(self.count) * u64::from(length),
            Shape::Each(_) => {
                self.iter().map(|length| u64::try_from(length).unwrap_or(u64::MAX)).sum()
            }
        }
    }

    /// Reads count, shape and, where they are spelled, the lengths.
    pub(super) fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let count = fields.varint32("Batch.count")?;
        if count == 0 {
            return Err(DecodeError::malformed("Batch.count"));
        }
        if count > limits::BATCH_EVENTS {
            return Err(DecodeError::too_large("Batch.count"));
        }
        if let Some(length) = fields.varint32("Batch.shape")?.checked_sub(1) {
            return Ok(Self::same(count, length));
        }
        let before = fields.rest();
        for _ in 0..count {
            fields.varint32("Batch.lengths")?;
        }
        let each = before.get(..before.len() - fields.rest().len()).unwrap_or_default();
        Ok(Self { count, shape: Shape::Each(each) })
    }

    /// Goes past them.
    pub(super) fn skip(fields: &mut Fields<'_>) -> Option<()> {
        let count = fields.varint32("").ok()?;
        let shape = fields.varint("").ok()?;
        if shape == 0 { fields.skip_varints(count) } else { Some(()) }
    }

    /// Writes count, shape and, where they differ, the lengths.
    pub(super) fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.varint(u64::from(self.count))?;
        match self.shape {
            Shape::Same(length) => out.varint(u64::from(length) + 1),
            Shape::Each(bytes) => {
                out.varint(0)?;
                out.raw(bytes)
            }
        }
    }

    /// Cuts `payload` into its parts, as far as it goes.
    pub fn split(&self, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = payload;
        self.iter().map_while(move |length| {
            let (part, behind) = rest.split_at_checked(length)?;
            rest = behind;
            Some(part)
        })
    }
}

impl<'a> Event<'a> {
    /// Reads the header; `payload` is what follows it.
    pub fn decode(spelled: bool, header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let route = RouteId(fields.varint32("Event.route")?);
        let extras = Extras::read(spelled, &mut fields)?;
        fields.end("Event")?;
        Ok(Self { route, extras, payload })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.varint(u64::from(self.route.0))?;
        self.extras.write(out)
    }

    /// Where the header ends in `body`.
    pub(super) fn header_length(spelled: bool, body: &[u8]) -> Option<usize> {
        let mut fields = Fields::new(body);
        fields.skip_varints(1)?;
        Extras::skip(spelled, &mut fields)?;
        Some(body.len() - fields.rest().len())
    }
}

impl<'a> Batch<'a> {
    /// Reads the header; `payload` is what follows it, and must be as long as the lengths say.
    pub fn decode(spelled: bool, header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let route = RouteId(fields.varint32("Batch.route")?);
        let lengths = Lengths::read(&mut fields)?;
        let extras = Extras::read(spelled, &mut fields)?;
        fields.end("Batch")?;
        if Ok(lengths.total()) != u64::try_from(payload.len()) {
            return Err(DecodeError::malformed("Batch.lengths"));
        }
        Ok(Self { route, lengths, extras, payload })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.varint(u64::from(self.route.0))?;
        self.lengths.write(out)?;
        self.extras.write(out)
    }

    /// Where the header ends in `body`.
    pub(super) fn header_length(spelled: bool, body: &[u8]) -> Option<usize> {
        let mut fields = Fields::new(body);
        fields.skip_varints(1)?;
        Lengths::skip(&mut fields)?;
        Extras::skip(spelled, &mut fields)?;
        Some(body.len() - fields.rest().len())
    }
}

/// How many bytes of header an event on `route` without extras has.
#[must_use]
pub const fn bare_header(route: RouteId) -> usize {
    varint::len(route.0 as u64)
}
