//! Messages: what a frame can hold, one file a kind or a small family. spec §3 to §10.
//!
//! Hot kinds (EVENT, BATCH, ACK, CHUNK, DELIVER, ENVELOPE) are layouts by hand; all others are fields in postcard's
//! encoding. Decoding is total and strict: what the spec does not allow is a [`DecodeError`], never a guess.

pub mod ack;
pub mod auth;
pub mod credit;
pub mod deliver;
pub mod event;
pub mod extras;
pub mod fault;
mod field;
pub mod hello;
pub mod lane;
pub mod link;
pub mod ping;
pub mod request;
pub mod subscribe;
pub mod upload;

pub(crate) use self::field::hex;
pub use self::{
    ack::{Ack, Durability},
    auth::{Auth, Proof},
    credit::Credit,
    deliver::Deliver,
    event::{Batch, Event, Lengths},
    extras::{Expect, Extras, Happened, Headers, Trace},
    fault::{Fault, Scope},
    field::{DecodeError, Fields, Full, List, Writer},
    hello::{Hello, Welcome},
    lane::{Bind, Lane, LaneAnswer, OpenUpload, Receipt, Refused},
    link::{Attach, Changed, Detach, Entry, Envelope, Group, LinkHello, Registry, Void},
    ping::{GoAway, Ping},
    request::{Call, Get, Listing, Reply, Serve, Target, Value},
    subscribe::{At, End, From, Outcome, Settle, Source, Subscribe},
    upload::{Abort, Chunk, Meta, Open, Opened, Seal},
};
use crate::{
    code::Code,
    frame::{self, Frame, Tag},
    limits,
};

/// The kinds, as they stand in a frame's first byte. Never reused.
pub mod kind {
    #![allow(missing_docs)]
    pub const HELLO: u8 = 1;
    pub const WELCOME: u8 = 2;
    pub const AUTH: u8 = 3;
    pub const PING: u8 = 4;
    pub const GOAWAY: u8 = 5;
    pub const FAULT: u8 = 6;
    pub const LANE: u8 = 8;
    pub const BIND: u8 = 9;
    pub const EVENT: u8 = 10;
    pub const BATCH: u8 = 11;
    pub const ACK: u8 = 12;
    pub const CREDIT: u8 = 13;
    pub const OPEN: u8 = 16;
    pub const CHUNK: u8 = 17;
    pub const SEAL: u8 = 18;
    pub const ABORT: u8 = 19;
    pub const SUBSCRIBE: u8 = 24;
    pub const DELIVER: u8 = 25;
    pub const SETTLE: u8 = 26;
    pub const END: u8 = 27;
    pub const GET: u8 = 32;
    pub const VALUE: u8 = 33;
    pub const LIST: u8 = 34;
    pub const CALL: u8 = 40;
    pub const REPLY: u8 = 41;
    pub const SERVE: u8 = 42;
    pub const ATTACH: u8 = 48;
    pub const DETACH: u8 = 49;
    pub const ENVELOPE: u8 = 50;
    pub const REGISTRY: u8 = 51;
    pub const VOID: u8 = 52;
    pub const LINK_HELLO: u8 = 53;
    pub const CHANGED: u8 = 54;
}

/// Who a frame comes from: some kinds mean another thing in the other direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Who connected; on a link, the edge.
    Client,
    /// Who was connected to; on a link, the worker.
    Server,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident($type:ty) = $kind:ident, $shape:ident;)*) => {
        /// Any message, borrowed from the frame it stands in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        pub enum Message<'a> {
            $($(#[$doc])* $name($type),)*
            /// A kind this build does not know, which the sender says may be skipped.
            Skipped(u8),
        }

        impl<'a> Message<'a> {
            /// The kind and flags of the frame it goes into.
            #[must_use]
            pub fn tag(&self) -> Tag {
                match self {
                    $(Self::$name(message) => Tag(kind::$kind | if shape!(spelled $shape message) { frame::EXTRAS } else { 0 }),)*
                    Self::Skipped(kind) => Tag(kind | frame::SKIPPABLE),
                }
            }

            /// Its kind, as the specification names it.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($kind),)*
                    Self::Skipped(_) => "SKIPPED",
                }
            }

            /// The payload; empty for kinds that have none.
            #[must_use]
            pub fn payload(&self) -> &'a [u8] {
                match self {
                    $(Self::$name(message) => shape!(payload $shape message),)*
                    Self::Skipped(_) => &[],
                }
            }

            /// Writes the header.
            pub fn encode_header(&self, out: &mut Writer<'_>) -> Result<(), Full> {
                match self {
                    $(Self::$name(message) => shape!(encode $shape message out),)*
                    Self::Skipped(_) => Ok(()),
                }
            }
        }
    };
}

/// What a kind's layout means for its flags and payload: `plain` fields, fields `with` a payload, `hot` ones by hand.
macro_rules! shape {
    (spelled plain $m:ident) => {{
        let _: &_ = $m;
        false
    }};
    (spelled with $m:ident) => {{
        let _: &_ = $m;
        false
    }};
    (spelled extras $m:ident) => {
        !$m.extras.is_empty()
    };
    (spelled ack $m:ident) => {
        $m.is_spelled()
    };
    (spelled raw $m:ident) => {{
        let _: &_ = $m;
        false
    }};
    (payload plain $m:ident) => {{
        let _: &_ = $m;
        &[]
    }};
    (payload ack $m:ident) => {{
        let _: &_ = $m;
        &[]
    }};
    (payload with $m:ident) => {
        $m.payload
    };
    (payload extras $m:ident) => {
        $m.payload
    };
    (payload raw $m:ident) => {
        $m.payload
    };
    (encode with $m:ident $out:ident) => {
        $m.encode($out)
    };
    (encode $shape:ident $m:ident $out:ident) => {
        $m.encode($out)
    };
}

messages! {
    /// spec §4.1
    Hello(Hello<'a>) = HELLO, plain;
    /// spec §4.2
    Welcome(Welcome<'a>) = WELCOME, plain;
    /// spec §4.3
    Auth(Auth<'a>) = AUTH, plain;
    /// spec §4.4
    Ping(Ping) = PING, plain;
    /// spec §4.5
    GoAway(GoAway<'a>) = GOAWAY, plain;
    /// spec §4.6
    Fault(Fault<'a>) = FAULT, plain;
    /// spec §5.1
    Lane(Lane<'a>) = LANE, plain;
    /// spec §5.1
    LaneAnswer(LaneAnswer<'a>) = LANE, plain;
    /// spec §5.2
    Bind(Bind<'a>) = BIND, plain;
    /// spec §5.3
    Event(Event<'a>) = EVENT, extras;
    /// spec §5.4
    Batch(Batch<'a>) = BATCH, extras;
    /// spec §5.6
    Ack(Ack<'a>) = ACK, ack;
    /// spec §6
    Credit(Credit) = CREDIT, plain;
    /// spec §7.1
    Open(Open<'a>) = OPEN, plain;
    /// spec §7.1
    Opened(Opened<'a>) = OPEN, plain;
    /// spec §7.2
    Chunk(Chunk<'a>) = CHUNK, raw;
    /// spec §7.3
    Seal(Seal) = SEAL, plain;
    /// spec §7.4
    Abort(Abort) = ABORT, plain;
    /// spec §8.1
    Subscribe(Subscribe<'a>) = SUBSCRIBE, plain;
    /// spec §8.2
    Deliver(Deliver<'a>) = DELIVER, extras;
    /// spec §8.3
    Settle(Settle<'a>) = SETTLE, plain;
    /// spec §8.4
    End(End) = END, plain;
    /// spec §9.1
    Get(Get<'a>) = GET, plain;
    /// spec §9.2
    Value(Body<'a, Value<'a>>) = VALUE, with;
    /// spec §9.3
    List(request::List<'a>) = LIST, plain;
    /// spec §9.4
    Call(Body<'a, Call<'a>>) = CALL, with;
    /// spec §9.5
    Reply(Body<'a, Reply<'a>>) = REPLY, with;
    /// spec §9.6
    Serve(Serve<'a>) = SERVE, plain;
    /// spec §10.2
    Attach(Attach<'a>) = ATTACH, plain;
    /// spec §10.2
    Detach(Detach) = DETACH, plain;
    /// spec §10.3
    Envelope(Envelope<'a>) = ENVELOPE, raw;
    /// spec §10.5
    Registry(Registry<'a>) = REGISTRY, plain;
    /// spec §10.4
    Void(Void) = VOID, plain;
    /// spec §10.1
    LinkHello(LinkHello<'a>) = LINK_HELLO, plain;
    /// spec §10.8
    Changed(Changed<'a>) = CHANGED, plain;
}

/// Fields with a payload behind them: on the wire the fields are a byte string, so that the payload's place is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Body<'a, T> {
    /// The fields.
    pub fields: T,
    /// The payload.
    #[serde(serialize_with = "field::hex")]
    pub payload: &'a [u8],
}

impl<'a, T: Copy> Body<'a, T> {
    fn decode(
        header: &'a [u8],
        payload: &'a [u8],
        decode: impl FnOnce(&'a [u8]) -> Result<T, DecodeError>,
    ) -> Result<Self, DecodeError> {
        let mut outer = Fields::new(header);
        let fields = outer.bytes("the fields' length", limits::BODY_FIELDS)?;
        outer.end("the fields' length")?;
        Ok(Self { fields: decode(fields)?, payload })
    }
}

macro_rules! body {
    ($($name:ident)*) => {$(
        impl Body<'_, $name<'_>> {
            fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
                out.counted(|out| self.fields.encode(out))
            }
        }
    )*};
}
body!(Value Call Reply);

/// Where the header ends in the body of a frame of that kind; `None` where the body is not of the kind's form.
/// A kind without a payload, or that is not known, is all header.
#[must_use]
pub fn header_length(tag: Tag, body: &[u8]) -> Option<usize> {
    match tag.kind() {
        kind::EVENT => Event::header_length(tag.extras(), body),
        kind::BATCH => Batch::header_length(tag.extras(), body),
        kind::DELIVER => Deliver::header_length(tag.extras(), body),
        kind::CHUNK => Chunk::header_length(body),
        kind::ENVELOPE => Envelope::header_length(body),
        kind::VALUE | kind::CALL | kind::REPLY => {
            let mut fields = Fields::new(body);
            fields.skip_bytes()?;
            Some(body.len() - fields.rest().len())
        }
        _ => Some(body.len()),
    }
}

impl<'a> Message<'a> {
    /// Reads what a whole frame holds. `sender` says who sent it, since LANE and OPEN are answered by their own kind.
    pub fn decode(frame: &Frame<'a>, sender: Sender) -> Result<Self, DecodeError> {
        Self::decode_parts(frame.tag, frame.header, frame.payload, sender)
    }

    /// Reads what stands in an envelope, or a frame in parts.
    pub fn decode_parts(
        tag: Tag,
        header: &'a [u8],
        payload: &'a [u8],
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        let hot = matches!(tag.kind(), kind::EVENT | kind::BATCH | kind::ACK | kind::DELIVER);
        let known = header_of(tag.kind());
        if known.is_none() && tag.skippable() {
            return Ok(Self::Skipped(tag.kind()));
        }
        if known.is_none() {
            return Err(DecodeError { code: Code::UNKNOWN_KIND, what: "a frame's kind" });
        }
        // spec §2.2: no kind of this version may be skipped, and only hot kinds have extras.
        if tag.skippable() || (tag.extras() && !hot) {
            return Err(DecodeError::malformed("a frame's flags"));
        }
        if !payload.is_empty() && !has_payload(tag.kind()) {
            return Err(DecodeError::malformed("a payload where none may be"));
        }
        Self::decode_known(tag, header, payload, sender)
    }

    fn decode_known(
        tag: Tag,
        header: &'a [u8],
        payload: &'a [u8],
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        let server = sender == Sender::Server;
        Ok(match tag.kind() {
            kind::HELLO => Self::Hello(Hello::decode(header)?),
            kind::WELCOME => Self::Welcome(Welcome::decode(header)?),
            kind::AUTH => Self::Auth(Auth::decode(header)?),
            kind::PING => Self::Ping(Ping::decode(header)?),
            kind::GOAWAY => Self::GoAway(GoAway::decode(header)?),
            kind::FAULT => Self::Fault(Fault::decode(header)?),
            kind::LANE if server => Self::LaneAnswer(LaneAnswer::decode(header)?),
            kind::LANE => Self::Lane(Lane::decode(header)?),
            kind::BIND => Self::Bind(Bind::decode(header)?),
            kind::EVENT => Self::Event(Event::decode(tag.extras(), header, payload)?),
            kind::BATCH => Self::Batch(Batch::decode(tag.extras(), header, payload)?),
            kind::ACK => Self::Ack(Ack::decode(tag.extras(), header)?),
            kind::CREDIT => Self::Credit(Credit::decode(header)?),
            kind::OPEN if server => Self::Opened(Opened::decode(header)?),
            kind::OPEN => Self::Open(Open::decode(header)?),
            kind::CHUNK => Self::Chunk(Chunk::decode(header, payload)?),
            kind::SEAL => Self::Seal(Seal::decode(header)?),
            kind::ABORT => Self::Abort(Abort::decode(header)?),
            kind::SUBSCRIBE => Self::Subscribe(Subscribe::decode(header)?),
            kind::DELIVER => Self::Deliver(Deliver::decode(tag.extras(), header, payload)?),
            kind::SETTLE => Self::Settle(Settle::decode(header)?),
            kind::END => Self::End(End::decode(header)?),
            kind::GET => Self::Get(Get::decode(header)?),
            kind::VALUE => Self::Value(Body::decode(header, payload, Value::decode)?),
            kind::LIST => Self::List(request::List::decode(header)?),
            kind::CALL => Self::Call(Body::decode(header, payload, Call::decode)?),
            kind::REPLY => Self::Reply(Body::decode(header, payload, Reply::decode)?),
            kind::SERVE => Self::Serve(Serve::decode(header)?),
            kind::ATTACH => Self::Attach(Attach::decode(header)?),
            kind::DETACH => Self::Detach(Detach::decode(header)?),
            kind::ENVELOPE => Self::Envelope(Envelope::decode(header, payload)?),
            kind::REGISTRY => Self::Registry(Registry::decode(header)?),
            kind::VOID => Self::Void(Void::decode(header)?),
            kind::LINK_HELLO => Self::LinkHello(LinkHello::decode(header)?),
            kind::CHANGED => Self::Changed(Changed::decode(header)?),
            _ => return Err(DecodeError { code: Code::UNKNOWN_KIND, what: "a frame's kind" }),
        })
    }

    /// Writes the whole frame to the front of `out`: how long it is.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, Full> {
        let payload = self.payload();
        let ends = self.encode_ends(crate::crc::of(payload), out)?;
        let rest = out.get_mut(ends.head..).ok_or(Full)?;
        rest.get_mut(..payload.len()).ok_or(Full)?.copy_from_slice(payload);
        let behind = rest.get_mut(payload.len()..).ok_or(Full)?;
        behind.get_mut(..frame::CRC_BYTES).ok_or(Full)?.copy_from_slice(&ends.crc);
        Ok(ends.head + payload.len() + frame::CRC_BYTES)
    }

    /// Writes kind, length and header to the front of `out`, and says the CRC that follows the payload. `payload_crc` is
    /// the payload's own, as it came: the bytes a sensor summed are the bytes a consumer checks.
    pub fn encode_ends(&self, payload_crc: u32, out: &mut [u8]) -> Result<frame::Ends, Full> {
        // The length stands before the header and its own length depends on it: the header is written behind room for
        // the longest, then moved up.
        let room = out.get_mut(frame::HEAD_BYTES..).ok_or(Full)?;
        let mut writer = Writer::new(room);
        self.encode_header(&mut writer)?;
        let header = writer.len();
        frame::close(self.tag(), header, self.payload().len(), payload_crc, out).ok_or(Full)
    }
}

/// Does a payload follow the kind's header? spec §2.5.
const fn has_payload(kind: u8) -> bool {
    let hot =
        matches!(kind, kind::EVENT | kind::BATCH | kind::DELIVER | kind::CHUNK | kind::ENVELOPE);
    hot || matches!(kind, kind::VALUE | kind::CALL | kind::REPLY)
}

/// Is the kind one of this version's?
fn header_of(kind: u8) -> Option<()> {
    matches!(kind, 1..=6 | 8..=13 | 16..=19 | 24..=27 | 32..=34 | 40..=42 | 48..=54).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{LaneId, Number, RouteId};

    fn round(message: &Message<'_>, sender: Sender) -> usize {
        let mut out = [0; 1024];
        let length = message.encode(&mut out).unwrap();
        let (frame, used) = frame::decode(&out[..length], 1024).unwrap().unwrap();
        assert_eq!(used, length);
        assert_eq!(Message::decode(&frame, sender).as_ref(), Ok(message));
        length
    }

    #[test]
    fn a_bound_event_of_32_bytes_takes_39_and_a_lone_ack_7() {
        let payload = [7; 32];
        let event = Event { route: RouteId(0), extras: Extras::default(), payload: &payload };
        assert_eq!(round(&Message::Event(event), Sender::Client), 39);
        let ack = Ack::Step { durability: Durability::Stored, step: 1 };
        assert_eq!(round(&Message::Ack(ack), Sender::Server), 7);
    }

    #[test]
    fn ten_events_in_a_batch_take_at_most_28_bytes_over_their_payloads() {
        let payload = [7; 320];
        for lengths in [[32; 10], [31, 33, 32, 32, 32, 32, 32, 32, 32, 32]] {
            let mut room = [0; 64];
            let lengths = Lengths::encode(lengths.into_iter(), &mut room).unwrap();
            let batch =
                Batch { route: RouteId(0), lengths, extras: Extras::default(), payload: &payload };
            assert!(round(&Message::Batch(batch), Sender::Client) <= 348);
        }
    }

    #[test]
    fn a_missing_tail_has_defaults_and_an_unknown_one_is_skipped() {
        let (mut bytes, mut longer) = ([0; 64], [0; 64]);
        let mut writer = Writer::new(&mut bytes);
        writer.put(&LaneId(3)).unwrap();
        writer.put(&Number(9)).unwrap();
        let short = writer.len();
        let lane = Lane::decode(&bytes[..short]).unwrap();
        assert_eq!(
            lane,
            Lane { lane: LaneId(3), first_unacked: Number(9), key: None, urgent: false }
        );
        let mut writer = Writer::new(&mut longer);
        Lane { urgent: true, ..lane }.encode(&mut writer).unwrap();
        let known = writer.len();
        assert!(Lane::decode(&longer[..known + 5]).unwrap().urgent);
    }
}
