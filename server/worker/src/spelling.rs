//! What a delivery spells of its names: what differs from the subscription's delivery before. spec §8.2.1
//!
//! Names are looked at where a record's prefix is another than the last record's; equal prefixes are equal names. The
//! invariant: what is not spelled is what the last delivery had.

use bytes::Bytes;
use spile_log::Record;
use spile_protocol::{
    crc,
    id::Number,
    message::{Trace, deliver::Kind},
};

use crate::record::Names;

/// The names of the record at hand, and which of them the consumer does not know.
#[derive(Default)]
pub(crate) struct Spelling {
    /// The prefix that was looked at last, and whether it is wanted.
    seen: Bytes,
    wanted: bool,
    trace_base: [u8; 8],
    key_crc: u32,
    key: String,
    topic: String,
    content_type: String,
    schema: u32,
    encoding: String,
    /// There was a delivery.
    begun: bool,
    new_key: bool,
    new_topic: bool,
    new_kind: bool,
}

/// Keeps `new`; says whether it is another than what was kept.
fn keep(old: &mut String, new: &str) -> bool {
    let other = old != new;
    if other {
        new.clone_into(old);
    }
    other
}

impl Spelling {
    /// Is the record with this prefix wanted? The names of one that is are those at hand from now on: it must be the next
    /// that is delivered.
    pub(crate) fn look(
        &mut self,
        record: &Record,
        prefix: &[u8],
        wanted: impl FnOnce(&Names<'_>) -> bool,
    ) -> bool {
        if *prefix == *self.seen {
            return self.wanted;
        }
        self.seen = record.head.slice_ref(prefix);
        let names = Names::parse(prefix);
        self.wanted = names.as_ref().is_ok_and(wanted);
        if let Ok(names) = names.as_ref()
            && self.wanted
        {
            self.take(names);
        }
        self.wanted
    }

    fn take(&mut self, names: &Names<'_>) {
        let Kind { content_type, schema, encoding } = names.kind;
        self.trace_base = names.trace_base;
        if keep(&mut self.key, names.key) {
            (self.new_key, self.key_crc) = (true, crc::of(names.key.as_bytes()));
        }
        self.new_topic |= keep(&mut self.topic, names.topic);
        self.new_kind |= keep(&mut self.content_type, content_type);
        self.new_kind |= keep(&mut self.encoding, encoding);
        self.new_kind |= std::mem::replace(&mut self.schema, schema) != schema;
    }

    /// Is this the first delivery?
    pub(crate) fn is_first(&self) -> bool {
        !self.begun
    }

    /// The key, where it is to be spelled. A first delivery's was another than the empty one.
    pub(crate) fn key(&self) -> Option<&str> {
        Some(self.key.as_str()).filter(|_| self.new_key)
    }

    /// The topic, where it is to be spelled.
    pub(crate) fn topic(&self) -> Option<&str> {
        Some(self.topic.as_str()).filter(|_| self.new_topic)
    }

    /// The type, where it is to be spelled.
    pub(crate) fn kind(&self) -> Option<Kind<'_>> {
        let Self { content_type, schema, encoding, .. } = self;
        Some(Kind { content_type, schema: *schema, encoding }).filter(|_| self.new_kind)
    }

    /// The most bytes that are spelled. An edge that merges this with what others deliver may have to spell what is left out
    /// here: whether a delivery fits its client's frame must not depend on which came before. spec §8.1.5
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.topic.len() + self.content_type.len() + self.encoding.len()
    }

    /// The trace of the record's first event. spec §5.5.5
    pub(crate) fn trace(&self, number: Number, given: Option<Trace>) -> Trace {
        given.unwrap_or_else(|| Trace::made(self.trace_base, self.key_crc, number))
    }

    /// It was delivered: the consumer knows the names.
    pub(crate) fn delivered(&mut self) {
        self.begun = true;
        (self.new_key, self.new_topic, self.new_kind) = (false, false, false);
    }
}

/// The trace of a record's first event, by its names. spec §5.5.5
pub(crate) fn trace_of(names: &Names<'_>, number: Number, given: Option<Trace>) -> Trace {
    given.unwrap_or_else(|| Trace::made(names.trace_base, crc::of(names.key.as_bytes()), number))
}
