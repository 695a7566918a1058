//! Calls of a session's: which of those it asked it has not heard the end of, and those that come to what it serves.
//! A part of [`Tables`].

use spile_protocol::{
    code::Code,
    id::RequestId,
    message::{Body, Call, Fault, Full, Message, Scope},
    session::edge::{Session, Told},
    time::Instant,
};

use super::lines;
use super::tables::{Heard, Tables};
use crate::buffers::Turn;

impl Tables {
    /// The client heard a last answer, perhaps of a call that is remembered.
    pub(super) fn heard(&mut self, message: &Message<'_>) {
        if let Message::Reply(reply) = message {
            let done = Some(reply.fields.request).filter(|_| !reply.fields.more);
            self.hear_of(done, reply.fields.code);
        } else if let Message::Fault(Fault { scope: Scope::Request(request), code, .. }) = message {
            self.hear_of(Some(*request), *code);
        }
    }

    pub(super) fn hear_of(&mut self, request: Option<RequestId>, code: Code) {
        let at = self.called.iter().position(|(known, _)| Some(*known) == request);
        self.heard.extend(at.map(|at| (self.called.swap_remove(at).1, code)));
    }

    /// Calls whose answer the client will not hear any more.
    pub(super) fn unheard(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.called).into_iter().map(|(_, call)| call)
    }

    /// A worker's call, in the row of the client's numbers. One that the client can't take is answered for it.
    pub(super) fn call(
        &mut self,
        place: usize,
        call: &Body<'_, Call<'_>>,
        payload_crc: u32,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        let own = call.fields.request;
        let message = Message::Call(self.served.number(call));
        let refused = match machine.handle_downstream(now, &message, payload_crc, out)? {
            Told::Said | Told::Delivered(_) => None,
            Told::TooLong => Some(Code::TOO_LARGE),
            Told::NoCredit => Some(Code::BUSY),
            Told::Dropped => Some(Code::UNAVAILABLE),
        };
        lines::handed(call.fields.caller, call.fields.trace, call.fields.service, refused);
        let Some(code) = refused else {
            self.served.called(place, own, call.fields.trace);
            return Ok(Heard::default());
        };
        self.served.refuse(place, own, code);
        Ok(Heard::default())
    }
}
