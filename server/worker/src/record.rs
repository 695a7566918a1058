//! What the worker writes into the log: kinds, and the layout of a record's head. `spec/record.md` draws the same bytes.
//!
//! A head is a prefix that is the same for all records of a route, made once when the route is bound, and a tail that is
//! each record's own. Equal prefixes are equal bytes, so that a reader compares them before it looks inside. Decoding is
//! total.

use bytes::{BufMut, BytesMut};
use spile_protocol::{
    code::Code,
    id::{Number, Role, RouteId, Run, Version},
    message::{Batch, DecodeError, Event, Extras, Fields, Full, Lengths, Writer, deliver::Kind},
    varint,
};

use crate::uploads::form::Place;

/// Kinds, as they stand in a log record. 0 is the log's own; none is ever reused. record §2
pub mod kind {
    /// One event.
    pub const EVENT: u8 = 1;
    /// Events of one key in one block; takes as many positions.
    pub const BATCH: u8 = 2;
    /// Numbers that were refused for good; in no stream.
    pub const VOID: u8 = 3;
    /// A durable group, as it is known here; in no stream.
    pub const GROUP: u8 = 4;
    /// What a group's members settled; in no stream.
    pub const SETTLED: u8 = 5;
    /// How far a principal has worked off its inbox; in no stream.
    pub const CURSOR: u8 = 6;
    /// An upload was opened; in no stream. record §11
    pub const UPLOAD: u8 = 7;
    /// An upload was sealed: read like an EVENT. record §11
    pub const BLOB: u8 = 8;
    /// An upload or a blob is forgotten; in no stream. record §11
    pub const FREED: u8 = 9;
}

/// The layout this build writes. record §3
const FORM: u8 = 1;
/// What stands before the names: prefix length, form, role, run, trace base, schema, six lengths.
const FIXED: usize = 2 + 1 + 1 + 8 + 8 + 4 + 6;

/// Who published, under what names. record §3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// As what.
    pub role: Role,
    /// The run it numbers in.
    pub run: Run,
    /// The first half of trace ids that were made, not given.
    pub trace_base: [u8; 8],
    /// In which tenant.
    pub tenant: &'a str,
    /// Who.
    pub principal: &'a str,
    /// Whose order it keeps.
    pub key: &'a str,
    /// What it is about; empty in a VOID.
    pub topic: &'a str,
    /// What the payload is.
    pub kind: Kind<'a>,
}

fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn role_byte(role: Role) -> u8 {
    short(Role::ALL.iter().position(|&known| known == role).unwrap_or_default())
}

impl<'a> Names<'a> {
    fn texts(&self) -> [&'a str; 6] {
        let Kind { content_type, encoding, .. } = self.kind;
        [self.tenant, self.principal, self.key, self.topic, content_type, encoding]
    }

    /// The prefix. Names are checked where they come in: none is longer than 255 bytes.
    #[must_use]
    pub fn prefix(&self) -> Vec<u8> {
        let length = FIXED + self.texts().iter().map(|text| text.len()).sum::<usize>();
        let mut out = Vec::with_capacity(length);
        out.put_u16_le(u16::try_from(length).unwrap_or(u16::MAX));
        out.put_u8(FORM);
        out.put_u8(role_byte(self.role));
        out.put_slice(&self.run.0);
        out.put_slice(&self.trace_base);
        out.put_u32_le(self.kind.schema);
        self.texts().iter().for_each(|text| out.put_u8(short(text.len())));
        self.texts().iter().for_each(|text| out.put_slice(text.as_bytes()));
        out
    }

    /// Reads a prefix.
    pub fn parse(prefix: &'a [u8]) -> Result<Self, DecodeError> {
        let bad = DecodeError::malformed("a record's names");
        let mut fields = Fields::new(prefix.get(2..).ok_or(bad)?);
        if fields.byte("a record's form")? != FORM {
            return Err(bad);
        }
        let role = usize::from(fields.byte("a record's role")?);
        let role = Role::ALL.get(role).copied().ok_or(bad)?;
        let run = Run(fields.array("a record's run")?);
        let trace_base = fields.array("a record's trace")?;
        let schema = u32::from_le_bytes(fields.array("a record's schema")?);
        let lengths: [u8; 6] = fields.array("a record's lengths")?;
        let mut rest = fields.rest();
        let mut text = |length: u8| {
            let (text, behind) = rest.split_at_checked(usize::from(length)).ok_or(bad)?;
            rest = behind;
            std::str::from_utf8(text).map_err(|_| bad)
        };
        let [tenant, principal, key, topic, content_type, encoding] = lengths;
        Ok(Self {
            role,
            run,
            trace_base,
            tenant: text(tenant)?,
            principal: text(principal)?,
            key: text(key)?,
            topic: text(topic)?,
            kind: Kind { content_type: text(content_type)?, schema, encoding: text(encoding)? },
        })
    }
}

/// Cuts a head into its prefix and its tail.
#[inline]
pub fn split(head: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let bad = DecodeError::malformed("a record's head");
    let length = head.first_chunk::<2>().copied().map(u16::from_le_bytes).ok_or(bad)?;
    head.split_at_checked(usize::from(length)).filter(|_| usize::from(length) >= FIXED).ok_or(bad)
}

/// The most a tail takes: a BATCH of 1024 spelled lengths, headers, and what else may be spelled.
pub const TAIL_BYTES: usize = 8 * 1024;

pub(crate) fn put_varint(out: &mut BytesMut, value: u64) {
    let mut bytes = [0; varint::MAX_BYTES];
    if let Some(encoded) = varint::encode(value, &mut bytes).and_then(|used| bytes.get(..used)) {
        out.put_slice(encoded);
    }
}

/// What of the extras stands in a record: the number in full, never what was only said to the worker. record §4
fn kept(extras: Extras<'_>, number: Number) -> Extras<'_> {
    Extras { number: Some(number), expect: None, receipt: false, ..extras }
}

/// Writes the tail of an EVENT. record §4
#[inline]
pub fn put_event(
    out: &mut BytesMut,
    time_ms: u64,
    number: Number,
    extras: &Extras<'_>,
) -> Result<(), Full> {
    put_varint(out, time_ms);
    if extras.is_empty() {
        // What the general way below writes, without its buffer: route 0, the mask of a number, the number.
        out.put_slice(&[0, 1]);
        put_varint(out, number.0);
        return Ok(());
    }
    let event = Event { route: RouteId(0), extras: kept(*extras, number), payload: &[] };
    put_header(out, |writer| event.encode(writer))
}

/// Writes the tail of a BATCH. record §5
pub fn put_batch(
    out: &mut BytesMut,
    time_ms: u64,
    number: Number,
    lengths: Lengths<'_>,
    extras: &Extras<'_>,
) -> Result<(), Full> {
    put_varint(out, time_ms);
    let batch = Batch { route: RouteId(0), lengths, extras: kept(*extras, number), payload: &[] };
    put_header(out, |writer| batch.encode(writer))
}

/// Most tails are short: clearing the longest's room for each would cost more than the rest.
fn put_header(
    out: &mut BytesMut,
    encode: impl Fn(&mut Writer<'_>) -> Result<(), Full>,
) -> Result<(), Full> {
    put_header_in(&mut [0; 128], out, &encode)
        .or_else(|Full| put_header_in(&mut [0; TAIL_BYTES], out, &encode))
}

fn put_header_in(
    buffer: &mut [u8],
    out: &mut BytesMut,
    encode: &impl Fn(&mut Writer<'_>) -> Result<(), Full>,
) -> Result<(), Full> {
    let mut writer = Writer::new(buffer);
    encode(&mut writer)?;
    let used = writer.len();
    out.put_slice(buffer.get(..used).ok_or(Full)?);
    Ok(())
}

/// Writes the tail of a record that is in no stream: when it was put.
pub fn put_beside(out: &mut BytesMut, time_ms: u64) {
    put_varint(out, time_ms);
}

/// Numbers that were refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoidTail {
    /// The first number.
    pub number: Number,
    /// How many.
    pub count: u32,
    /// Why.
    pub code: Code,
    /// The stream's version then, where the code is about it.
    pub version: Version,
}

/// Writes the tail of a VOID. record §6
pub fn put_void(out: &mut BytesMut, time_ms: u64, void: &VoidTail) {
    let VoidTail { number, count, code, version } = *void;
    for value in [time_ms, number.0, u64::from(count), u64::from(code.0), version.0] {
        put_varint(out, value);
    }
}

/// What a record's tail says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail<'a> {
    /// When the edge accepted it.
    pub time_ms: u64,
    /// The first event's number; 0 for what the worker itself published.
    pub number: Number,
    /// Where one payload ends and the next begins; `None` in a VOID.
    pub lengths: Option<Lengths<'a>>,
    /// As they were published, without number, expectation and wish for a receipt.
    pub extras: Extras<'a>,
    /// In a VOID.
    pub void: Option<VoidTail>,
}

impl<'a> Tail<'a> {
    /// Reads the tail of a record of `kind`; `payload` is what stands behind it.
    #[inline]
    pub fn parse(kind: u8, tail: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut tail = tail;
        if kind == kind::BLOB {
            Place::take(&mut tail)?;
        }
        let mut fields = Fields::new(tail);
        let time_ms = fields.varint("a record's time")?;
        match kind {
            kind::EVENT | kind::BLOB => Self::event(time_ms, fields.rest(), payload),
            kind::BATCH => Self::batch(time_ms, fields.rest(), payload),
            kind::VOID => Self::void(time_ms, &mut fields),
            kind::UPLOAD | kind::FREED => Ok(Self::beside(time_ms)),
            _ => Err(DecodeError { code: Code::UNKNOWN_KIND, what: "a record's kind" }),
        }
    }

    /// Of a record that is in no producer's order and no stream.
    fn beside(time_ms: u64) -> Self {
        let (number, extras) = (Number(0), Extras::default());
        Self { time_ms, number, lengths: None, extras, void: None }
    }

    fn event(time_ms: u64, header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let too_large = DecodeError::too_large("a record's payload");
        let length = u32::try_from(payload.len()).map_err(|_| too_large)?;
        let extras = Event::decode(true, header, payload)?.extras;
        Self::of(time_ms, Lengths::one(length), extras)
    }

    fn batch(time_ms: u64, header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let batch = Batch::decode(true, header, payload)?;
        Self::of(time_ms, batch.lengths, batch.extras)
    }

    fn of(time_ms: u64, lengths: Lengths<'a>, extras: Extras<'a>) -> Result<Self, DecodeError> {
        let number = extras.number.ok_or(DecodeError::malformed("a record's number"))?;
        let extras = Extras { number: None, ..extras };
        Ok(Self { time_ms, number, lengths: Some(lengths), extras, void: None })
    }

    fn void(time_ms: u64, fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let number = Number(fields.varint("a VOID's number")?);
        let count = fields.varint32("a VOID's count")?;
        let bad = DecodeError::malformed("a VOID's code");
        let code = Code(u16::try_from(fields.varint("a VOID's code")?).map_err(|_| bad)?);
        let version = Version(fields.varint("a VOID's version")?);
        let void = Some(VoidTail { number, count, code, version });
        Ok(Self { time_ms, number, lengths: None, extras: Extras::default(), void })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spile_protocol::message::Headers;

    const NAMES: Names<'_> = Names {
        role: Role::Device,
        run: Run([7; 8]),
        trace_base: [9; 8],
        tenant: "main",
        principal: "sensor-1",
        key: "sensor-1",
        topic: "telemetry/temp",
        kind: Kind { content_type: "text/plain", schema: 70_000, encoding: "zstd" },
    };

    #[test]
    fn a_prefix_is_read_as_it_was_written() {
        let mut head = NAMES.prefix();
        head.extend_from_slice(b"tail");
        let (prefix, tail) = split(&head).unwrap();
        assert_eq!((Names::parse(prefix), tail), (Ok(NAMES), &b"tail"[..]));
        for cut in 0..prefix.len() {
            assert!(Names::parse(&prefix[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_extras_is_written_as_the_general_way_would() {
        for number in [0, 1, 127, 128, u64::MAX] {
            let mut short = BytesMut::new();
            put_event(&mut short, 1_700_000_000_000, Number(number), &Extras::default()).unwrap();
            let mut long = BytesMut::new();
            let event = Event {
                route: RouteId(0),
                extras: kept(Extras::default(), Number(number)),
                payload: &[],
            };
            put_varint(&mut long, 1_700_000_000_000);
            put_header(&mut long, |writer| event.encode(writer)).unwrap();
            assert_eq!(short, long);
        }
    }

    #[test]
    fn tails_are_read_as_they_were_written() {
        let mut buffer = [0; 64];
        let extras = Extras {
            ttl_ms: Some(5),
            receipt: true,
            expect: Some(spile_protocol::message::Expect::Exists),
            headers: Headers::encode([("a", &b"b"[..])].into_iter(), &mut buffer).unwrap(),
            ..Extras::default()
        };
        let kept = Extras { receipt: false, expect: None, ..extras };
        let mut out = BytesMut::new();
        put_event(&mut out, 11, Number(3), &extras).unwrap();
        let tail = Tail::parse(kind::EVENT, &out, b"xyz").unwrap();
        assert_eq!((tail.time_ms, tail.number, tail.extras), (11, Number(3), kept));
        let mut spelled = [0; 16];
        let lengths = Lengths::encode([1, 2].into_iter(), &mut spelled).unwrap();
        out.clear();
        put_batch(&mut out, 11, Number(4), lengths, &extras).unwrap();
        let tail = Tail::parse(kind::BATCH, &out, b"xyz").unwrap();
        assert_eq!((tail.number, tail.lengths, tail.extras), (Number(4), Some(lengths), kept));
        let void =
            VoidTail { number: Number(9), count: 2, code: Code::FORBIDDEN, version: Version(1) };
        out.clear();
        put_void(&mut out, 11, &void);
        assert_eq!(Tail::parse(kind::VOID, &out, b"").unwrap().void, Some(void));
        for cut in 0..out.len() {
            assert!(Tail::parse(kind::VOID, &out[..cut], b"").is_err(), "cut at {cut}");
        }
    }
}
