//! Extras: what an event says beyond its route and payload. spec §5.5.

use serde::{Deserialize, Serialize};

use super::field::{self, DecodeError, Fields, Full, Writer};
use crate::{
    id::{Number, Version},
    limits,
    time::Millis,
};

/// What must be true of the stream for the event to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Expect {
    /// The stream has at least one event.
    Exists,
    /// The stream's last version is this one; 0: it has none.
    Version(Version),
}

/// A W3C trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Trace {
    /// The trace id.
    #[serde(serialize_with = "field::hex")]
    pub id: [u8; 16],
    /// The parent span; zeros where the edge made the id (spec §5.5.5).
    #[serde(serialize_with = "field::hex")]
    pub span: [u8; 8],
    /// Its flags.
    pub flags: u8,
}

/// When the event happened, as its device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Happened {
    /// At this time of the device's clock.
    At(Millis),
    /// So many milliseconds before it was sent: for a device without a clock.
    Ago(u64),
}

/// What may be spelled with an event. All of it is optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extras<'a> {
    /// The event's number, where it is not the next one of its lane.
    pub number: Option<Number>,
    /// When it happened.
    pub happened: Option<Happened>,
    /// After how many milliseconds it is worth nothing.
    pub ttl_ms: Option<u64>,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// What must be true of the stream.
    pub expect: Option<Expect>,
    /// Names and values.
    pub headers: Headers<'a>,
    /// A receipt is wanted for this event, where the session has short acks.
    pub receipt: bool,
}

const NUMBER: u64 = 1;
const TIME: u64 = 1 << 1;
const AGE: u64 = 1 << 2;
const TTL: u64 = 1 << 3;
const TRACE: u64 = 1 << 4;
const EXPECT: u64 = 1 << 5;
const HEADERS: u64 = 1 << 6;
const RECEIPT: u64 = 1 << 7;

/// What a trace takes: id, span, flags.
const TRACE_BYTES: usize = 16 + 8 + 1;

impl<'a> Extras<'a> {
    /// Is nothing spelled?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mask() == 0
    }

    fn mask(&self) -> u64 {
        let bit = |there: bool, bit: u64| if there { bit } else { 0 };
        bit(self.number.is_some(), NUMBER)
            | bit(matches!(self.happened, Some(Happened::At(_))), TIME)
            | bit(matches!(self.happened, Some(Happened::Ago(_))), AGE)
            | bit(self.ttl_ms.is_some(), TTL)
            | bit(self.trace.is_some(), TRACE)
            | bit(self.expect.is_some(), EXPECT)
            | bit(!self.headers.is_empty(), HEADERS)
            | bit(self.receipt, RECEIPT)
    }

    /// Reads what the mask says is there; nothing where the frame's tag says that nothing is `spelled`.
    pub(super) fn read(spelled: bool, fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        if !spelled {
            return Ok(Self::default());
        }
        let mask = fields.varint("Extras.mask")?;
        let known = mask != 0 && mask < RECEIPT << 1 && mask & (TIME | AGE) != TIME | AGE;
        if !known {
            return Err(DecodeError::malformed("Extras.mask"));
        }
        let has = |bit: u64| mask & bit != 0;
        Ok(Self {
            number: has(NUMBER).then(|| fields.varint("Extras.number").map(Number)).transpose()?,
            happened: if has(TIME) {
                Some(Happened::At(Millis(fields.varint("Extras.time")?)))
            } else if has(AGE) {
                Some(Happened::Ago(fields.varint("Extras.age")?))
            } else {
                None
            },
            ttl_ms: has(TTL).then(|| fields.varint("Extras.ttl")).transpose()?,
            trace: has(TRACE).then(|| Trace::read(fields)).transpose()?,
            expect: has(EXPECT).then(|| Expect::read(fields)).transpose()?,
            headers: if has(HEADERS) { Headers::read(fields)? } else { Headers::default() },
            receipt: has(RECEIPT),
        })
    }

    /// Goes past them, whatever they hold.
    pub(super) fn skip(spelled: bool, fields: &mut Fields<'_>) -> Option<()> {
        if !spelled {
            return Some(());
        }
        let mask = fields.varint("").ok()?;
        let has = |bits: u64| mask & bits;
        fields.skip_varints(has(NUMBER | TIME | AGE | TTL).count_ones())?;
        if has(TRACE) != 0 {
            fields.skip(TRACE_BYTES)?;
        }
        fields.skip_varints(has(EXPECT).count_ones())?;
        if has(HEADERS) == 0 { Some(()) } else { fields.skip_bytes() }
    }

    /// Writes mask and fields; nothing where nothing is spelled.
    pub(super) fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        let mask = self.mask();
        if mask == 0 {
            return Ok(());
        }
        out.varint(mask)?;
        if let Some(Number(number)) = self.number {
            out.varint(number)?;
        }
        if let Some(Happened::At(Millis(n)) | Happened::Ago(n)) = self.happened {
            out.varint(n)?;
        }
        if let Some(ttl_ms) = self.ttl_ms {
            out.varint(ttl_ms)?;
        }
        if let Some(Trace { id, span, flags }) = self.trace {
            out.raw(&id)?;
            out.raw(&span)?;
            out.raw(&[flags])?;
        }
        if let Some(expect) = self.expect {
            expect.write(out)?;
        }
        if self.headers.is_empty() { Ok(()) } else { out.bytes(self.headers.bytes) }
    }
}

/// The id, as people read it: 32 hexadecimal digits.
impl core::fmt::Display for Trace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.id))
    }
}

impl Trace {
    /// The trace of an event that came without one: the session's base, CRC-32 of the key, the number's lower half.
    /// Its span is zeros, which says that it was made.
    #[must_use]
    pub fn made(base: [u8; 8], key_crc: u32, number: Number) -> Self {
        let [_, _, _, _, low @ ..] = number.0.to_be_bytes();
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(base.iter().chain(&key_crc.to_be_bytes()).chain(&low)) {
            *to = *from;
        }
        Self { id, span: [0; 8], flags: 0 }
    }

    /// The trace of the event `index` behind the one this was given for: the same, unless it was made.
    #[must_use]
    pub fn nth(self, index: u32) -> Self {
        if self.span != [0; 8] {
            return self;
        }
        let low = u128::from_be_bytes(self.id);
        // spec §5.5.5: only the lower 32 bits count, and wrap.
        let [.., a, b, c, d] = self.id;
        let next = u32::from_be_bytes([a, b, c, d]).wrapping_add(index);
        let id = (low & !u128::from(u32::MAX)) | u128::from(next);
        Self { id: id.to_be_bytes(), ..self }
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let what = "Extras.trace";
        Ok(Self { id: fields.array(what)?, span: fields.array(what)?, flags: fields.byte(what)? })
    }
}

impl Expect {
    fn read(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let value = fields.varint("Extras.expect")?;
        Ok(value.checked_sub(1).map_or(Self::Exists, |version| Self::Version(Version(version))))
    }

    fn write(self, out: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::Exists => out.varint(0),
            Self::Version(Version(version)) => out.varint(version.checked_add(1).ok_or(Full)?),
        }
    }
}

/// Up to 8 names and values in 512 bytes, as they stand on the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
}

impl core::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Header<'a> {
            name: &'a str,
            #[serde(serialize_with = "field::hex")]
            value: &'a [u8],
        }
        serializer.collect_seq(self.iter().map(|(name, value)| Header { name, value }))
    }
}

impl<'a> Headers<'a> {
    /// Writes `headers` into `out`, as they will be sent.
    pub fn encode(
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        out: &'a mut [u8],
    ) -> Result<Self, Full> {
        let mut writer = Writer::new(out);
        for (count, (name, value)) in headers.enumerate() {
            if count >= limits::HEADERS {
                return Err(Full);
            }
            if name.is_empty() {
                return Err(Full);
            }
            writer.bytes(name.as_bytes())?;
            writer.bytes(value)?;
        }
        let used = writer.len();
        if used > limits::HEADERS_BYTES {
            Err(Full)
        } else {
            Ok(Self { bytes: out.get(..used).ok_or(Full)? })
        }
    }

    /// Headers as they stand on the wire or in the log, checked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::HEADERS_BYTES {
            return Err(DecodeError::too_large("Extras.headers"));
        }
        let mut fields = Fields::new(bytes);
        let mut count = 0;
        while !fields.is_empty() {
            if fields.text("Extras.headers", limits::HEADERS_BYTES)?.is_empty() {
                return Err(DecodeError::malformed("Extras.headers"));
            }
            fields.bytes("Extras.headers", limits::HEADERS_BYTES)?;
            count += 1;
        }
        if count > limits::HEADERS {
            Err(DecodeError::too_large("Extras.headers"))
        } else {
            Ok(Self { bytes })
        }
    }

    fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let bytes = fields.bytes("Extras.headers", limits::HEADERS_BYTES)?;
        if bytes.is_empty() {
            Err(DecodeError::malformed("Extras.headers"))
        } else {
            Self::parse(bytes)
        }
    }

    /// Are there none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// As they stand on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut fields = Fields::new(self.bytes);
        core::iter::from_fn(move || {
            let name = fields.text("Extras.headers", limits::HEADERS_BYTES).ok()?;
            let value = fields.bytes("Extras.headers", limits::HEADERS_BYTES).ok()?;
            Some((name, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_traces_of_one_session_differ_by_key_and_number() {
        let made = Trace::made([1; 8], 7, Number(0x1_ffff_ffff));
        assert_eq!(made.id, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 7, 255, 255, 255, 255]);
        assert_eq!(made.nth(1), Trace::made([1; 8], 7, Number(0x2_0000_0000)));
        assert_ne!(made, Trace::made([1; 8], 8, Number(0x1_ffff_ffff)));
        let given = Trace { span: [9; 8], ..made };
        assert_eq!(given.nth(5), given);
    }
}
