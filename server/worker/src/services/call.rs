//! A call under way: what is asked, who waits, how far it is, and what is said when no answer comes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use spile_protocol::{
    code::{Class, Code},
    id::RequestId,
    message::Trace,
    time::Instant,
};

use super::{
    breaker::Outcome,
    mailbox::{Letter, Mailbox},
};
use crate::limits::RETRY_BUSY_MS;

/// Why a call or a registration is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) retry_after_ms: u32,
    pub(crate) detail: String,
}

pub(super) fn refused(code: Code, retry_after_ms: u32, detail: impl Into<String>) -> Refused {
    Refused { code, retry_after_ms, detail: detail.into() }
}

/// What is asked, but for its payload.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) service: Box<str>,
    pub(crate) method: Box<str>,
    pub(crate) content_type: Box<str>,
    /// `ROLE/NAME` of who asks.
    pub(crate) caller: Box<str>,
    /// As it came; its edge makes one where there was none.
    pub(crate) trace: Option<Trace>,
    pub(crate) idempotent: bool,
}

impl Head {
    /// Its trace; zeros where it has none.
    pub(super) fn id(&self) -> Trace {
        self.trace.unwrap_or(Trace { id: [0; 16], span: [0; 8], flags: 0 })
    }
}

/// A call, as it came.
#[derive(Debug)]
pub(crate) struct Asking {
    /// The service's name, with its tenant.
    pub(crate) scoped: Arc<str>,
    pub(crate) head: Arc<Head>,
    pub(crate) payload: Bytes,
    pub(crate) payload_crc: u32,
    pub(crate) wait: Duration,
    pub(crate) asker: Asker,
}

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) session: u64,
    pub(crate) request: RequestId,
    pub(crate) mail: Arc<Mailbox>,
}

/// A call on its way to a member.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) head: Arc<Head>,
    pub(crate) payload: Bytes,
    pub(crate) payload_crc: u32,
    pub(crate) remaining_ms: u32,
}

/// A call that its member has not answered.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) scoped: Arc<str>,
    pub(super) head: Arc<Head>,
    /// Nobody: it only takes its place in the member's window.
    pub(super) asker: Option<Asker>,
    pub(super) member: u64,
    /// What may still be handed out.
    pub(super) payload: Option<Bytes>,
    pub(super) payload_crc: u32,
    /// The member has it.
    pub(super) sent: bool,
    /// A part of the answer went to who asked.
    pub(super) parts: bool,
    pub(super) probe: bool,
    /// It had so much time that it counts where there was no answer.
    pub(super) patient: bool,
    /// What became of it was counted.
    pub(super) decided: bool,
    pub(super) taken: Instant,
    /// Who asked has its last word.
    pub(super) told: bool,
    pub(super) deadline: Instant,
    pub(super) attempts: u32,
    /// Its number among those that are remembered.
    pub(super) recent: u64,
}

/// What a service's own code says of it: only that it is broken itself counts.
pub(super) fn outcome_of(code: Code) -> Outcome {
    let broken = code != Code(0) && code.class() == Class::OurSide;
    if broken { Outcome::Bad } else { Outcome::Good }
}

/// Says that no answer comes. Whether to try again depends on what may have been done.
pub(super) fn fault(asker: &Asker, why: Refused, idempotent: bool) {
    let Refused { code, retry_after_ms, detail } = why;
    let letter = Letter::Fault {
        request: asker.request,
        code,
        retry: code.retry_of_call(idempotent),
        retry_after_ms,
        detail,
    };
    if asker.mail.put(letter).is_err() {
        tracing::error!("a fault was not put into a mailbox");
    }
}

pub(super) fn why(code: Code, service: &str) -> Refused {
    match code {
        Code::BUSY => refused(code, RETRY_BUSY_MS, format!("all members of {service} are busy")),
        Code::TOO_LARGE => {
            refused(code, 0, format!("no member of {service} takes so much at once"))
        }
        _ => refused(code, 0, format!("nobody serves {service}")),
    }
}
