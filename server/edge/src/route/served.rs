//! What a session serves, and the calls that came to it: each worker numbers its calls by itself, the client sees one row
//! of numbers (spec §9.6.2).
//!
//! Invariants: a client's REPLY goes to the worker whose call it answers; a worker that comes back hears of every service
//! the session still serves there.

use spile_protocol::{
    code::Code,
    id::RequestId,
    message::{Body, Call, Message, Reply, Serve, Trace},
};

use super::{lines, tables::request_of};

/// A service of the session's.
#[derive(Debug)]
struct Service {
    name: Box<str>,
    window: u32,
    place: usize,
    /// The SERVE that has not been answered.
    asked: Option<RequestId>,
    /// The worker that has it went away: it hears of it again.
    stale: bool,
}

/// A call the client has not answered.
#[derive(Clone, Copy, Debug)]
struct Called {
    number: RequestId,
    place: usize,
    /// Its number at the worker.
    own: RequestId,
    trace: Option<Trace>,
}

#[derive(Debug, Default)]
pub(super) struct Served {
    services: Vec<Service>,
    calls: Vec<Called>,
    next: u32,
    /// Calls the client can't take: their workers hear so.
    refused: Vec<(usize, RequestId, Code)>,
}

impl Served {
    /// The client serves, or no longer does; it counts when the worker has said so.
    pub(super) fn serve(&mut self, serve: &Serve<'_>, place: usize) {
        self.services.retain(|service| &*service.name != serve.service);
        if serve.window > 0 && self.services.len() < spile_protocol::limits::SERVICES {
            let (name, window) = (serve.service.into(), serve.window);
            let asked = Some(serve.request);
            self.services.push(Service { name, window, place, asked, stale: false });
        }
    }

    /// An answer to a SERVE; true where the edge itself had asked, so that the client hears nothing of it.
    pub(super) fn answered(&mut self, place: usize, message: &Message<'_>) -> bool {
        let Some(request) = request_of(message) else { return false };
        let done = matches!(message, Message::Reply(reply) if reply.fields.code == Code(0));
        let asked = |service: &Service| service.place == place && service.asked == Some(request);
        let Some(at) = self.services.iter().position(asked) else { return false };
        let Some(service) = self.services.get_mut(at) else { return false };
        let again = is_own(request);
        service.asked = None;
        if !done && again {
            tracing::warn!(service = &*service.name, "a worker that came back does not take it");
        }
        if !done {
            self.services.swap_remove(at);
        }
        again
    }

    /// The worker is away: its calls are over, and its services wait for it.
    pub(super) fn lose(&mut self, place: usize) {
        self.calls.retain(|called| called.place != place);
        self.services.retain(|service| {
            // A SERVE of the client's that was not answered is refused with the rest that lived there.
            service.place != place || service.asked.is_none_or(is_own)
        });
        for service in self.services.iter_mut().filter(|service| service.place == place) {
            (service.stale, service.asked) = (true, None);
        }
    }

    /// Does something wait for the worker to come back?
    pub(super) fn waits(&self, place: usize) -> bool {
        self.services.iter().any(|service| service.stale && service.place == place)
    }

    /// What the worker hears again.
    pub(super) fn serve_again(&mut self, place: usize, mut say: impl FnMut(&Message<'_>)) {
        let stale = |service: &&mut Service| service.stale && service.place == place;
        for (service, number) in self.services.iter_mut().filter(stale).zip(OWN..=u32::MAX) {
            let request = RequestId(number);
            (service.stale, service.asked) = (false, Some(request));
            let (service, window) = (&*service.name, service.window);
            say(&Message::Serve(Serve { request, service, window }));
        }
    }

    /// A worker's call as the client sees it. It counts once [`Served::called`] has said so.
    pub(super) fn number<'a>(&mut self, call: &Body<'a, Call<'a>>) -> Body<'a, Call<'a>> {
        while self.calls.iter().any(|called| called.number.0 == self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let request = RequestId(self.next);
        Body { fields: Call { request, ..call.fields }, payload: call.payload }
    }

    /// The call went out to the client.
    pub(super) fn called(&mut self, place: usize, own: RequestId, trace: Option<Trace>) {
        self.calls.push(Called { number: RequestId(self.next), place, own, trace });
        self.next = self.next.wrapping_add(1);
    }

    /// The client can't take a call: its worker hears why, as if the client had answered.
    pub(super) fn refuse(&mut self, place: usize, own: RequestId, code: Code) {
        self.refused.push((place, own, code));
    }

    /// The answers to calls that the client can't take.
    pub(super) fn take_refused(&mut self) -> impl Iterator<Item = (usize, Reply<'static>)> + use<> {
        std::mem::take(&mut self.refused).into_iter().map(|(place, request, code)| {
            let detail = "the session that serves it can't take the call";
            (place, Reply { request, code, more: false, content_type: "", detail })
        })
    }

    /// Whom a reply of the client's is for.
    pub(super) fn place_of(&self, number: RequestId) -> Option<usize> {
        self.calls.iter().find(|called| called.number == number).map(|called| called.place)
    }

    /// Whom a reply of the client's is for, and as what.
    pub(super) fn reply<'a>(
        &mut self,
        who: &str,
        reply: &Body<'a, Reply<'a>>,
    ) -> Option<(usize, Body<'a, Reply<'a>>)> {
        let at = self.calls.iter().position(|called| called.number == reply.fields.request)?;
        let Called { place, own, trace, .. } = *self.calls.get(at)?;
        if !reply.fields.more {
            lines::answered(who, trace, reply.fields.request, reply.fields.code);
            self.calls.swap_remove(at);
        }
        let fields = Reply { request: own, ..reply.fields };
        Some((place, Body { fields, payload: reply.payload }))
    }
}

/// Requests of the edge's own, from here on up: a client's may not be told apart from them, and is refused.
const OWN: u32 = u32::MAX - 64;

/// Is it a number that only the edge uses?
pub(super) const fn is_own(request: RequestId) -> bool {
    request.0 >= OWN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(request: u32) -> Body<'static, Call<'static>> {
        let fields = Call {
            request: RequestId(request),
            service: "resize",
            method: "one",
            remaining_ms: 5,
            idempotent: false,
            content_type: "",
            caller: "",
            trace: None,
        };
        Body { fields, payload: b"in" }
    }

    fn reply(request: u32, more: bool) -> Body<'static, Reply<'static>> {
        let request = RequestId(request);
        let fields = Reply { request, code: Code(0), more, content_type: "", detail: "" };
        Body { fields, payload: b"out" }
    }

    fn take(served: &mut Served, place: usize, own: u32) -> u32 {
        let number = served.number(&call(own)).fields.request.0;
        served.called(place, RequestId(own), None);
        number
    }

    #[test]
    fn a_reply_goes_to_the_worker_that_called() {
        let mut served = Served::default();
        let (one, two) = (take(&mut served, 0, 7), take(&mut served, 1, 7));
        assert_ne!(one, two);
        let sent = |served: &mut Served, number, more| {
            let sent = served.reply("", &reply(number, more))?;
            Some((sent.0, sent.1.fields.request.0))
        };
        assert_eq!(sent(&mut served, two, true), Some((1, 7)));
        assert_eq!(sent(&mut served, two, false), Some((1, 7)));
        assert_eq!(sent(&mut served, two, false), None);
        served.lose(0);
        assert_eq!(sent(&mut served, one, false), None);
    }

    #[test]
    fn a_worker_that_comes_back_hears_what_is_served_there() {
        let mut served = Served::default();
        for (name, place) in [("resize", 0), ("ocr", 1)] {
            served.serve(&Serve { request: RequestId(3), service: name, window: 4 }, place);
            assert!(!served.answered(place, &Message::Reply(reply(3, false))));
        }
        served.serve(&Serve { request: RequestId(4), service: "ocr", window: 0 }, 1);
        served.lose(0);
        served.lose(1);
        assert!(served.waits(0) && !served.waits(1));
        let mut said = Vec::new();
        served.serve_again(0, |message| {
            let Message::Serve(serve) = message else { panic!("{message:?}") };
            said.push((serve.request.0, serve.service.to_owned(), serve.window));
        });
        let [(number, name, 4)] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!(name, "resize");
        // The client did not ask: it hears no answer.
        assert!(is_own(RequestId(*number)));
        assert!(served.answered(0, &Message::Reply(reply(*number, false))));
        assert!(!served.waits(0));
    }

    #[test]
    fn what_was_refused_is_not_served() {
        let mut served = Served::default();
        served.serve(&Serve { request: RequestId(3), service: "resize", window: 4 }, 0);
        let Body { mut fields, payload } = reply(3, false);
        fields.code = Code::FORBIDDEN;
        assert!(!served.answered(0, &Message::Reply(Body { fields, payload })));
        served.lose(0);
        assert!(!served.waits(0));
    }
}
