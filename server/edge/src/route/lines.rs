//! Log lines about what passes, each with the trace it belongs to: so that one id leads through the logs of edge and
//! workers. What comes and goes with calls a session asks is [`Recent`](crate::recent::Recent)'s.
//!
//! Nothing is decided here, and nothing is made where nobody listens.

use spile_protocol::{
    code::Code,
    crc,
    id::{Number, RequestId},
    message::{Message, Settle, Trace},
    session::edge::Told,
};

use super::Who;
use crate::trace;

/// A delivery went out.
pub(super) fn delivered(told: Told, message: &Message<'_>) {
    if let (Told::Delivered(delivery), Message::Deliver(deliver)) = (told, message)
        && let Some(trace) = deliver.extras.trace
    {
        let (subscription, events) = (deliver.subscription.0, deliver.lengths.count());
        let (version, position) = (deliver.version.0, deliver.position.0);
        tracing::trace!(%trace, subscription, delivery, version, position, events, "delivered");
    }
}

/// A consumer says what became of a delivery. Its event's own trace stands where it was delivered, and at the worker.
pub(super) fn settled(who: &Who, settle: &Settle<'_>) {
    let Settle { subscription, delivery, outcome, events, .. } = settle;
    let (session, who, subscription) = (trace::Shown(who.trace_base), &*who.caller, subscription.0);
    tracing::debug!(trace = %session, who, subscription, delivery, ?outcome, events, "settled");
}

/// The trace of what a session uploads under a key: that of its `file.uploaded`, which has no number (spec §5.5.5).
pub(super) fn sealing(who: &Who, key: &str) -> Trace {
    Trace::made(who.trace_base, crc::of(key.as_bytes()), Number(0))
}

pub(super) fn upload(who: &Who, trace: Trace, upload: u32, what: &'static str) {
    tracing::debug!(%trace, who = &*who.caller, upload, what, "upload");
}

/// A call went out to who serves it here.
pub(super) fn handed(caller: &str, trace: Option<Trace>, service: &str, code: Option<Code>) {
    if let Some(trace) = trace {
        let code = code.map(tracing::field::display);
        tracing::debug!(%trace, caller, service, refused = code, "a call is handed out");
    }
}

/// Who serves it has answered.
pub(super) fn answered(who: &str, trace: Option<Trace>, number: RequestId, code: Code) {
    if let Some(trace) = trace {
        tracing::debug!(%trace, member = who, request = number.0, %code, "a call is answered");
    }
}
