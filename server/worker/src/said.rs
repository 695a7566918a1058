//! Messages that wait for a session with what they borrow: faults, credit, ends and answers.

use bytes::Bytes;
use spile_protocol::{
    code::Code,
    crc,
    id::{RequestId, SubscriptionId, Version},
    message::{Body, Credit, End, Fault, Message, Outcome, Reply, Scope, Settle, Value},
};

use crate::answers::Sink;

/// A message that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Something was refused or failed.
    Fault {
        /// Why.
        code: Code,
        /// How far it reaches.
        scope: Scope,
        /// For people.
        detail: String,
    },
    /// A call or a registration was not taken.
    Refused {
        /// Why.
        code: Code,
        /// Which request.
        scope: Scope,
        /// May the same be asked again.
        retry: bool,
        /// After how long.
        retry_after_ms: u32,
        /// For people.
        detail: String,
    },
    /// The window of a subscription.
    Credit {
        /// Which.
        subscription: SubscriptionId,
        /// Events in flight.
        events: u32,
        /// Bytes in flight.
        bytes: u32,
    },
    /// A subscription has delivered all.
    End(SubscriptionId),
    /// What became of a delivery, as it was settled.
    Settled {
        /// Of which subscription.
        subscription: SubscriptionId,
        /// Its number.
        delivery: u64,
        /// What counts; *seen* where nothing was left to settle.
        outcome: Outcome,
        /// How many of its events; 0 for all.
        events: u32,
    },
    /// An answer to GET: the last version of a stream.
    Version {
        /// The question's number.
        request: RequestId,
        /// Whose stream.
        key: String,
        /// Its last version; 0 where it has none.
        version: Version,
    },
    /// An entry of a LIST of services.
    Service {
        /// The question's number.
        request: RequestId,
        /// Another entry follows.
        more: bool,
        /// The service.
        name: String,
        /// How many serve it.
        members: u64,
        /// What the next page begins after.
        cursor: String,
    },
    /// An answer to a CALL or SERVE.
    Reply {
        /// The question's number.
        request: RequestId,
        /// 0: it was done.
        code: Code,
        /// For people, where it was not.
        detail: String,
        /// What the payload is.
        content_type: &'static str,
        /// The reply.
        payload: Bytes,
    },
}

impl Said {
    /// Something was refused.
    #[must_use]
    pub(crate) fn fault(code: Code, scope: Scope, detail: &str) -> Self {
        Self::Fault { code, scope, detail: detail.to_owned() }
    }

    /// What is said instead, where the record it rests on is not stored: a settlement did not count (spec §8.3.5).
    pub(crate) fn into_lost(self) -> Self {
        match self {
            Self::Settled { subscription, delivery, events, .. } => {
                Self::Settled { subscription, delivery, outcome: Outcome::Seen, events }
            }
            Self::Reply { request, .. } => Self::fault(
                Code::UNKNOWN_OUTCOME,
                Scope::Request(request),
                "the log does not take it",
            ),
            other @ (Self::Fault { .. }
            | Self::Credit { .. }
            | Self::End(_)
            | Self::Refused { .. }
            | Self::Service { .. }
            | Self::Version { .. }) => other,
        }
    }

    /// The request this answers, if it does.
    #[must_use]
    pub(crate) fn request(&self) -> Option<RequestId> {
        match self {
            Self::Reply { request, .. }
            | Self::Version { request, .. }
            | Self::Service { request, .. } => Some(*request),
            Self::Fault { scope: Scope::Request(request), .. }
            | Self::Refused { scope: Scope::Request(request), .. } => Some(*request),
            Self::Refused { .. }
            | Self::Fault { .. }
            | Self::Credit { .. }
            | Self::End(_)
            | Self::Settled { .. } => None,
        }
    }

    /// About how many bytes of frames it takes to say it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Fault { detail, .. } | Self::Refused { detail, .. } => 64 + detail.len(),
            Self::Credit { .. } | Self::End(_) | Self::Settled { .. } => 24,
            Self::Version { key, .. } => 64 + key.len(),
            Self::Service { name, cursor, .. } => 64 + name.len() + cursor.len(),
            Self::Reply { detail, payload, .. } => 96 + detail.len() + payload.len(),
        }
    }

    /// Says it.
    pub(crate) fn say(&self, sink: &mut Sink<'_>) {
        match self {
            Self::Fault { code, scope, detail } => {
                let (code, scope) = (*code, *scope);
                let fault = Fault { code, scope, retry: code.retry(), retry_after_ms: 0, detail };
                sink(&Message::Fault(fault), 0);
            }
            Self::Refused { code, scope, retry, retry_after_ms, detail } => {
                let (code, scope, retry) = (*code, *scope, *retry);
                let retry_after_ms = *retry_after_ms;
                sink(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail }), 0);
            }
            Self::Credit { subscription, events, bytes } => {
                let (subscription, events, bytes) = (Some(*subscription), *events, *bytes);
                let credit = Credit { subscription, events, bytes, chunk_bytes: None };
                sink(&Message::Credit(credit), 0);
            }
            Self::End(subscription) => {
                sink(&Message::End(End { subscription: *subscription }), 0);
            }
            Self::Settled { subscription, delivery, outcome, events } => {
                let (subscription, delivery) = (*subscription, *delivery);
                let (outcome, events) = (*outcome, *events);
                let settle = Settle { subscription, delivery, outcome, events, reason: "" };
                sink(&Message::Settle(settle), 0);
            }
            Self::Version { request, key, version } => {
                let (request, version) = (*request, *version);
                let absent = version == Version(0);
                let fields =
                    Value { request, more: false, key, version, absent, ..Value::default() };
                sink(&Message::Value(Body { fields, payload: &[] }), 0);
            }
            Self::Service { request, more, name, members, cursor } => {
                let (request, more, revision) = (*request, *more, *members);
                let fields = Value { request, more, name, revision, cursor, ..Value::default() };
                sink(&Message::Value(Body { fields, payload: &[] }), 0);
            }
            Self::Reply { request, code, detail, content_type, payload } => {
                let (request, code) = (*request, *code);
                let fields = Reply { request, code, more: false, content_type, detail };
                sink(&Message::Reply(Body { fields, payload }), crc::of(payload));
            }
        }
    }
}
