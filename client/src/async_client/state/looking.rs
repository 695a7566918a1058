//! Look-ups on the wire: asked on a connection and over with it.
//!
//! Invariant: a look-up's number is used again only when no answer to it can come any more.

use spile_protocol::code::Code;
use spile_protocol::id::RequestId;
use spile_protocol::message::{Body, Message, Value};
use spile_protocol::session::device::Refusal as Machine;

use super::super::Error;
use super::super::error::Refusal;
use super::super::lookup::Looked;
use super::State;

/// Numbers of look-ups have this bit, those of calls do not: each has its own places.
const LOOKS: u32 = 1 << 31;

fn place(id: RequestId) -> usize {
    usize::try_from(id.0 & !LOOKS).unwrap_or(usize::MAX)
}

/// Is it the number of a look-up?
pub(super) const fn is_look(id: RequestId) -> bool {
    id.0 & LOOKS != 0
}

impl State {
    pub(in super::super) fn look<'m>(
        &mut self,
        message: impl FnOnce(RequestId) -> Message<'m>,
    ) -> Result<usize, Error> {
        self.check()?;
        let number = self.looks.insert(Looked::default());
        let request = RequestId(u32::try_from(number).unwrap_or(u32::MAX) | LOOKS);
        match self.device.request(&message(request), 0, &mut self.said) {
            Ok(()) => {
                self.dirty = true;
                Ok(number)
            }
            Err(why) => {
                self.looks.remove(number);
                let away = matches!(why, Machine::NotConnected | Machine::Leaving);
                let code = if away { Code::UNAVAILABLE } else { Code::INVALID };
                Err(Refusal::of(code).detail(&why.to_string()).into())
            }
        }
    }

    pub(in super::super) fn looked(&mut self, number: usize) -> Option<&mut Looked> {
        self.looks.get_mut(number)
    }

    /// Nobody waits for the answer any more. The number stays taken until all of it came.
    pub(in super::super) fn forget_look(&mut self, number: usize) {
        if self.looks.get_mut(number).is_some_and(Looked::forget) {
            self.looks.remove(number);
        }
    }

    pub(super) fn valued(&mut self, value: &Body<'_, Value<'_>>) {
        let number = place(value.fields.request);
        let Some(looked) = self.looks.get_mut(number) else { return };
        looked.came(&value.fields, value.payload, &mut self.wake);
        if !value.fields.more && looked.is_forgotten() {
            self.looks.remove(number);
        }
    }

    pub(super) fn look_failed(&mut self, id: RequestId, why: Refusal) {
        let number = place(id);
        let Some(looked) = self.looks.get_mut(number) else { return };
        looked.failed(why.into(), &mut self.wake);
        if looked.is_forgotten() {
            self.looks.remove(number);
        }
    }

    /// The connection is gone, and with it what was asked on it: it may be asked again.
    pub(super) fn fail_looks(&mut self, why: &Error) {
        let mut forgotten = Vec::new();
        for (number, looked) in self.looks.iter_mut() {
            looked.failed(why.clone(), &mut self.wake);
            if looked.is_forgotten() {
                forgotten.push(number);
            }
        }
        for number in forgotten {
            self.looks.remove(number);
        }
    }
}
