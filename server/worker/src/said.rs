//! Messages that wait for a session with what they borrow: faults, credit, ends, replies and calls.

use bytes::Bytes;
use spile_protocol::{
    code::Code,
    crc,
    id::{RequestId, SubscriptionId, Version},
    message::{Body, Call, Credit, End, Fault, List, Message, Reply, Scope, Value},
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
    /// An answer to GET: the last version of a stream.
    Version {
        /// The question's number.
        request: RequestId,
        /// Whose stream.
        key: String,
        /// Its last version; 0 where it has none.
        version: Version,
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
    /// A question for who serves.
    Call {
        /// Our number for the question.
        request: RequestId,
        /// The service.
        service: String,
        /// What of it.
        method: String,
        /// How long an answer is worth waiting for.
        remaining_ms: u32,
        /// Who asks.
        caller: String,
        /// What the payload is.
        content_type: String,
        /// The question.
        payload: Bytes,
    },
}

impl Said {
    /// Something was refused.
    #[must_use]
    pub(crate) fn fault(code: Code, scope: Scope, detail: &str) -> Self {
        Self::Fault { code, scope, detail: detail.to_owned() }
    }

    /// The request this answers, if it does.
    #[must_use]
    pub(crate) fn request(&self) -> Option<RequestId> {
        match self {
            Self::Reply { request, .. } | Self::Version { request, .. } => Some(*request),
            Self::Fault { scope: Scope::Request(request), .. } => Some(*request),
            Self::Fault { .. } | Self::Credit { .. } | Self::End(_) | Self::Call { .. } => None,
        }
    }

    /// Says it; about how many bytes it is.
    pub(crate) fn say(&self, sink: &mut Sink<'_>) -> usize {
        match self {
            Self::Fault { code, scope, detail } => {
                let (code, scope) = (*code, *scope);
                let fault = Fault { code, scope, retry: code.retry(), retry_after_ms: 0, detail };
                sink(&Message::Fault(fault), 0);
                64 + detail.len()
            }
            Self::Credit { subscription, events, bytes } => {
                let credit = Credit {
                    subscription: Some(*subscription),
                    events: *events,
                    bytes: *bytes,
                    chunk_bytes: None,
                };
                sink(&Message::Credit(credit), 0);
                16
            }
            Self::End(subscription) => {
                sink(&Message::End(End { subscription: *subscription }), 0);
                16
            }
            Self::Version { request, key, version } => {
                let (request, version) = (*request, *version);
                let absent = version == Version(0);
                let fields = Value { request, more: false, key, version, absent, ..no_value() };
                sink(&Message::Value(Body { fields, payload: &[] }), 0);
                64 + key.len()
            }
            Self::Reply { request, code, detail, content_type, payload } => {
                let fields =
                    Reply { request: *request, code: *code, more: false, content_type, detail };
                sink(&Message::Reply(Body { fields, payload }), crc::of(payload));
                64 + payload.len()
            }
            Self::Call {
                request,
                service,
                method,
                remaining_ms,
                caller,
                content_type,
                payload,
            } => {
                let fields = Call {
                    request: *request,
                    service,
                    method,
                    remaining_ms: *remaining_ms,
                    idempotent: false,
                    content_type,
                    caller,
                    trace: None,
                };
                sink(&Message::Call(Body { fields, payload }), crc::of(payload));
                128 + payload.len()
            }
        }
    }
}

/// A VALUE that says nothing.
fn no_value<'a>() -> Value<'a> {
    Value {
        request: RequestId(0),
        more: false,
        name: "",
        key: "",
        version: Version(0),
        position: None,
        time_ms: 0,
        content_type: "",
        partial: false,
        absent: false,
        size: 0,
        worker: "",
        cursor: "",
        principal: "",
        stored_offset: 0,
        revision: 0,
        blake3: None,
        meta: List::default(),
    }
}
