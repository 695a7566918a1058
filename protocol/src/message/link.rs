//! ATTACH, DETACH, ENVELOPE, REGISTRY, VOID and CHANGED: what only edges and workers say to each other. spec §10.

use serde::{Deserialize, Serialize};

use super::{
    field::{self, DecodeError, Fields, Full, List, Writer, fields},
    kind,
};
use crate::{
    code::Code,
    frame::Tag,
    id::{LaneId, LinkSessionId, Mark, Number, Role, Run},
    limits,
};

fields! {
    /// From the edge: a session is here, and this is who it is. The worker trusts it.
    Attach<'a> {
        /// The link's number for the session.
        session: LinkSessionId,
        /// In which tenant.
        tenant: &'a str [limits::TENANT_BYTES],
        /// As what.
        role: Role,
        /// Who.
        principal: &'a str [limits::NAME_BYTES],
        /// The run it numbers in.
        run: Run,
        /// Receipts are wanted.
        receipts: bool,
        /// The first half of trace ids made for this session's events.
        #[serde(serialize_with = "field::hex")]
        trace_base: [u8; 8],
        ;
        /// Where it comes from, for logs.
        peer: &'a str [limits::PEER_BYTES] = "",
        /// The longest frame body its client takes: what the worker delivers must fit.
        frame_max: u32 = limits::FRAME_DEFAULT,
        /// The run its client gave up (HELLO); zeros for none.
        abandoned: Run = Run([0; 8]),
    }
}

fields! {
    /// The session is gone (from the edge), or must go (from the worker).
    Detach {
        /// The link's number for the session.
        session: LinkSessionId,
        ;
        /// Why.
        code: Code = Code(0),
    }
}

/// A frame of a session on its way over a link; hot, a fixed layout. The payload's CRC is continued, not made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope<'a> {
    /// The link's number for the session.
    pub session: LinkSessionId,
    /// EVENT, BATCH: the first event's number. Else 0.
    pub number: Number,
    /// EVENT, BATCH: when the edge accepted it, in milliseconds since 1970. Else 0.
    pub time_ms: u64,
    /// The frame's kind and flags.
    pub tag: Tag,
    /// The frame's header.
    #[serde(serialize_with = "field::hex")]
    pub header: &'a [u8],
    /// The frame's payload.
    #[serde(serialize_with = "field::hex")]
    pub payload: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the header; `payload` is what follows it.
    pub fn decode(header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let mut envelope = Self::read(&mut fields)?;
        if !travels(envelope.tag) {
            return Err(DecodeError::malformed("Envelope.kind"));
        }
        envelope.header = fields.rest();
        envelope.payload = payload;
        Ok(envelope)
    }

    fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            session: LinkSessionId(fields.varint32("Envelope.session")?),
            number: Number(fields.varint("Envelope.number")?),
            time_ms: fields.varint("Envelope.time")?,
            tag: Tag(fields.byte("Envelope.kind")?),
            header: &[],
            payload: &[],
        })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.varint(u64::from(self.session.0))?;
        out.varint(self.number.0)?;
        out.varint(self.time_ms)?;
        out.raw(&[self.tag.0])?;
        out.raw(self.header)
    }

    /// Where the header ends in `body`: where the inner frame's does.
    pub(super) fn header_length(body: &'a [u8]) -> Option<usize> {
        let mut fields = Fields::new(body);
        fields.skip_varints(3)?;
        let tag = Tag(fields.byte("").ok()?);
        if tag.kind() == kind::ENVELOPE {
            return None; // spec §10.3.2: an envelope holds no envelope, which also ends this recursion
        }
        let before = body.len() - fields.rest().len();
        Some(before + super::header_length(tag, fields.rest())?)
    }
}

/// spec §10.3.2: an envelope holds what a session and a worker say to each other; no greeting, no other envelope.
const fn travels(tag: Tag) -> bool {
    matches!(tag.kind(), kind::FAULT..=kind::SERVE) && !tag.skippable()
}

/// One line of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// In which tenant.
    pub tenant: &'a str,
    /// Who.
    pub principal: &'a str,
    /// As what.
    pub role: Role,
    /// SHA-256 of the device key; `None` where it has none.
    #[serde(serialize_with = "field::hex_option")]
    pub key_hash: Option<[u8; 32]>,
    /// May it come?
    pub revoked: bool,
    /// Until when, in milliseconds since 1970; 0 for ever.
    pub expires_ms: u64,
    /// Fields of later releases; empty now, skipped by who does not know them.
    #[serde(serialize_with = "field::hex")]
    pub later: &'a [u8],
}

/// A durable group, as its definition on the registry's slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group<'a> {
    /// In which tenant.
    pub tenant: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its id: the position of the record that created it; a name that comes back has another.
    pub id: u64,
    /// Counted up by each seek.
    pub epoch: u32,
    /// Is it gone?
    pub removed: bool,
    /// What it delivers and how, as JSON (spec/admin.md, `$group`).
    #[serde(serialize_with = "field::hex")]
    pub definition: &'a [u8],
    /// Fields of later releases; empty now, skipped by who does not know them.
    #[serde(serialize_with = "field::hex")]
    pub later: &'a [u8],
}

fields! {
    /// From the worker of `$registry`: what is registered, up to a position. From an edge: it has that.
    Registry<'a> {
        /// The position of the last record this rests on.
        upto: u64,
        /// Does this begin a whole copy; else it changes the one before.
        whole: bool,
        ;
        /// The entries.
        entries: List<'a, Entry<'a>> = List::default(),
        /// Will more follow before the copy is complete up to `upto`?
        more: bool = false,
        /// Groups; an edge passes them on to the other workers.
        groups: List<'a, Group<'a>> = List::default(),
    }
}

fields! {
    /// From the edge: these numbers are refused for good; keep their place.
    Void {
        /// The link's number for the session.
        session: LinkSessionId,
        /// In which lane.
        lane: LaneId,
        /// The first number.
        number: Number,
        /// How many.
        count: u32,
        /// Why.
        code: Code,
        /// When the edge refused them.
        time_ms: u64,
        ;
    }
}

fields! {
    /// From the worker: values that were asked for over this link have changed since, by their marks.
    Changed<'a> {
        /// Which; not all that have a mark need have changed.
        marks: List<'a, Mark>,
        ;
    }
}

fields! {
    /// The first frame on a link, both ways: who holds which slots.
    LinkHello<'a> {
        /// The newest version the sender speaks.
        version: u16,
        /// The sender's name.
        name: &'a str [limits::NAME_BYTES],
        /// One bit a slot, as the sender's configuration has them for the worker on this link; slot 0 is bit 0 of byte 0.
        #[serde(serialize_with = "field::hex")]
        slots: [u8; 32],
        ;
        /// The sender's wall clock, in milliseconds since 1970.
        time_ms: u64 = 0,
        /// The worker's next position; 0 from an edge.
        next: u64 = 0,
        /// The oldest version the sender speaks.
        oldest: u16 = 1,
        /// From the worker: events that may be sent and unacked on the link, over all sessions.
        credit_events: u32 = limits::CREDIT_LINK_EVENTS,
        /// From the worker: bytes of events' payload that may be sent and unacked on the link.
        credit_bytes: u32 = limits::CREDIT_LINK_BYTES,
        /// After how many silent seconds the sender will ping, and wants to be pinged; 0 for never.
        keep_alive_s: u32 = limits::LINK_KEEP_ALIVE_S,
        /// What the sender is, for logs.
        software: &'a str [limits::SOFTWARE_BYTES] = "",
        /// From the worker: bytes of chunks that may be sent and not stored yet on the link, over all sessions.
        chunk_bytes: u32 = limits::CREDIT_LINK_CHUNK_BYTES,
    }
}
