//! ATTACH, DETACH, ENVELOPE, REGISTRY and VOID: what only edges and workers say to each other. spec §10.

use serde::{Deserialize, Serialize};

use super::field::{DecodeError, Fields, Full, List, Writer, fields};
use crate::{
    code::Code,
    frame::Tag,
    id::{LaneId, LinkSessionId, Number, Role, Run},
};

fields! {
    /// From the edge: a session is here, and this is who it is. The worker trusts it.
    Attach<'a> {
        /// The link's number for the session.
        session: LinkSessionId,
        /// In which tenant.
        tenant: &'a str,
        /// As what.
        role: Role,
        /// Who.
        principal: &'a str,
        /// The run it numbers in.
        run: Run,
        /// Receipts are wanted.
        receipts: bool,
        /// The first half of trace ids made for this session's events.
        trace_base: [u8; 8],
        ;
        /// Where it comes from, for logs.
        peer: &'a str = "",
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub header: &'a [u8],
    /// The frame's payload.
    pub payload: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the header; `payload` is what follows it.
    pub fn decode(header: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let mut envelope = Self::read(&mut fields)?;
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
        let envelope = Self::read(&mut fields).ok()?;
        if envelope.tag.kind() == super::kind::ENVELOPE {
            return None; // spec §10.3: an envelope holds no envelope
        }
        let before = body.len() - fields.rest().len();
        Some(before + super::header_length(envelope.tag, fields.rest())?)
    }
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
    pub key_hash: Option<[u8; 32]>,
    /// May it come?
    pub revoked: bool,
    /// Until when, in milliseconds since 1970; 0 for ever.
    pub expires_ms: u64,
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
    /// The first frame on a link, both ways: who holds which slots.
    LinkHello<'a> {
        /// The newest version the sender speaks.
        version: u16,
        /// The sender's name.
        name: &'a str,
        /// One bit a slot, as the sender's configuration has them for the worker on this link.
        slots: [u8; 32],
        ;
        /// The sender's wall clock, in milliseconds since 1970.
        time_ms: u64 = 0,
        /// The worker's next position; 0 from an edge.
        next: u64 = 0,
    }
}
