//! What a worker asks this edge itself, through one of its sessions (spec §10.3.4, admin §3.8), and what the edge says to
//! its own operators the same way: about one principal here.
//!
//! Invariant: it is about the session's own principal, whatever the call says.

use serde_json::{Map, Value, json};
use spile_protocol::{
    code::Code,
    crc,
    id::{Number, RequestId},
    message::{Body, Call, Message, Reply},
    time::Millis,
};

use super::{
    Route,
    aim::{self, Wrong, wrong},
};
use crate::Edge;
use crate::upstream::Input;

/// The longest time that frames are logged for, in milliseconds: a day (admin §3.7).
const LONGEST_MS: u64 = 24 * 60 * 60 * 1_000;

/// A call that is for the edge.
#[derive(Debug)]
pub(super) struct Errand {
    request: RequestId,
    method: Box<str>,
    payload: Box<[u8]>,
}

impl Errand {
    /// Is the message one?
    pub(super) fn of(message: &Message<'_>) -> Option<Self> {
        let Message::Call(Body { fields: Call { request, service, method, .. }, payload }) =
            *message
        else {
            return None;
        };
        let (method, payload) = (method.into(), payload.into());
        service.starts_with('$').then_some(Self { request, method, payload })
    }
}

/// The newest FAULT a principal was told here, as it is shown; null for none.
pub(super) fn last_fault(edge: &Edge, tenant: &str, principal: &str) -> Value {
    let Some(fault) = edge.watch.last_fault(tenant, principal) else { return Value::Null };
    json!({
        "edge": &*edge.session.edge, "time_ms": fault.time.0, "code": fault.code.0,
        "name": fault.code.name(),
    })
}

/// For how long frames are to be logged.
pub(super) fn for_ms(asked: &Map<String, Value>) -> Result<u64, Wrong> {
    let for_ms = asked.get("for_ms").and_then(Value::as_u64).filter(|ms| *ms <= LONGEST_MS);
    for_ms.ok_or_else(|| {
        wrong(Code::INVALID, format!("for_ms is a number of milliseconds, {LONGEST_MS} at most"))
    })
}

/// Logs a principal's frames for so long, of its live sessions and of those to come; until when.
pub(super) fn debug(
    edge: &Edge,
    now: Millis,
    (tenant, principal): (&str, &str),
    for_ms: u64,
) -> Result<Millis, Wrong> {
    let until = Millis(now.0.saturating_add(for_ms));
    if !edge.watch.debug(now, (tenant, principal), until) {
        let full = "as many are debugged at this edge as may be; end another first";
        return Err(wrong(Code::TOO_MANY, full));
    }
    edge.sessions.log_frames(tenant, principal, until);
    tracing::info!(tenant, principal, for_ms, "an operator has its frames logged");
    Ok(until)
}

impl Route {
    /// Does what the worker at `place` asked, and says so.
    pub(super) fn run_errands(&mut self, place: usize, errands: Vec<Errand>, wall: Millis) {
        for Errand { request, method, payload } in errands {
            let answer = self.errand(&method, &payload, wall);
            let Some(port) = self.ports.get_mut(place).and_then(Option::as_mut) else { return };
            let (code, detail, payload) = match answer {
                Ok(answer) => (Code(0), String::new(), answer.to_string().into_bytes()),
                Err(Wrong { code, detail }) => (code, detail, Vec::new()),
            };
            let content_type = "application/json";
            let fields = Reply { request, code, more: false, content_type, detail: &detail };
            let message = Message::Reply(Body { fields, payload: &payload });
            let payload_crc = crc::of(&payload);
            let input = Input { message, number: Number(0), payload_crc, block: None };
            port.take(wall, &mut std::iter::once(input));
        }
    }

    fn errand(&self, method: &str, payload: &[u8], wall: Millis) -> Result<Value, Wrong> {
        let own = (&*self.who.tenant, &*self.who.principal);
        match method {
            "told" => Ok(json!({ "last_fault": last_fault(&self.edge, own.0, own.1) })),
            "debug" => {
                let until = debug(&self.edge, wall, own, for_ms(&aim::object(payload)?)?)?;
                Ok(json!({ "until_ms": until.0 }))
            }
            _ => Err(wrong(Code::NOT_FOUND, "an edge is asked told and debug")),
        }
    }
}
