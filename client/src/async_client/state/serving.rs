//! What we serve: said to the server on each connection, and the calls that are under way.
//!
//! What is wanted stands in each entry; [`State::ask_to_serve`] says what the server does not know yet. Invariants: one
//! SERVE of a service is unanswered at most; no more calls run at once than its window; what came on a connection that
//! is gone is not answered.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use spile_protocol::code::Code;
use spile_protocol::crc;
use spile_protocol::id::{self, RequestId};
use spile_protocol::limits;
use spile_protocol::message::{self, Body, Message, Serve};
use spile_protocol::session::device::Refusal as Machine;
use spile_protocol::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::Error;
use super::super::error::Refusal;
use super::super::request::Reply;
use super::super::serve::{Answer, Begun, Call, Came, Handler, not_taken};
use super::super::slab::Slab;
use super::{Phase, Shared, State};

/// Numbers of SERVEs have this bit, and not the one of look-ups.
const SERVES: u32 = 1 << 30;
/// A service that can't be taken now is not asked for again sooner.
const AGAIN: Duration = Duration::from_millis(100);
/// Bytes of what is said at once; at the cap answers wait until they are sent.
const SAID: usize = 1 << 20;

/// Is it the number of a SERVE?
pub(super) const fn is_serve(id: RequestId) -> bool {
    !super::looking::is_look(id) && id.0 & SERVES != 0
}

fn place(id: RequestId) -> usize {
    usize::try_from(id.0 & !SERVES).unwrap_or(usize::MAX)
}

/// One service of ours.
#[derive(Debug)]
struct Served {
    service: Arc<str>,
    /// Calls at once; 0: it ends.
    window: u32,
    handler: Handler,
    /// The window the server knows on this connection.
    told: Option<u32>,
    /// The window of the SERVE that is not answered.
    asking: Option<u32>,
    /// Not to be asked before.
    again: Option<Instant>,
    /// It was taken once.
    begun: bool,
    running: u32,
    queue: VecDeque<Call>,
    over: Option<Error>,
    /// Nobody holds it any more.
    dropped: bool,
    wakers: Vec<Waker>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Serves {
    of: Slab<Served>,
    pub(super) me: Weak<Shared>,
    /// How many connections there were: what came on another is not answered on this one.
    connection: u64,
    /// Cancelled when the client is over.
    ended: CancellationToken,
    starts: Vec<Begun>,
    /// Who waits for room to answer.
    waiting: Vec<Waker>,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("call", &self.call).finish_non_exhaustive()
    }
}

impl Serves {
    /// Calls to be begun, outside the lock.
    pub(super) fn take_starts(&mut self) -> Vec<Begun> {
        std::mem::take(&mut self.starts)
    }

    /// Does something of this connection wait for an answer of ours?
    pub(super) fn is_busy(&self) -> bool {
        self.of.iter().any(|(_, served)| served.running > 0)
    }

    /// What was said went out.
    pub(super) fn sent(&mut self, wake: &mut Vec<Waker>) {
        wake.append(&mut self.waiting);
    }

    /// When to ask again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.of.iter().filter_map(|(_, served)| served.again).min()
    }

    pub(super) fn disconnected(&mut self, wake: &mut Vec<Waker>) {
        self.connection += 1;
        for (_, served) in self.of.iter_mut() {
            (served.told, served.asking, served.again) = (None, None, None);
            served.queue.clear();
            wake.append(&mut served.wakers);
        }
    }

    pub(super) fn end(&mut self, why: &Error, wake: &mut Vec<Waker>) {
        self.ended.cancel();
        for (_, served) in self.of.iter_mut() {
            served.over.get_or_insert_with(|| why.clone());
            served.queue.clear();
            wake.append(&mut served.wakers);
        }
    }

    /// Forgets one that nobody holds and nothing refers to.
    fn tidy(&mut self, number: usize) {
        let over = |served: &Served| {
            served.dropped
                && served.running == 0
                && served.asking.is_none()
                && (served.told.is_none_or(|told| told == 0) || served.over.is_some())
        };
        if self.of.get(number).is_some_and(over) {
            self.of.remove(number);
        }
    }
}

impl State {
    pub(in super::super) fn serve(
        &mut self,
        service: &str,
        window: u32,
        handler: Handler,
    ) -> Result<usize, Error> {
        self.check()?;
        id::name(service.strip_prefix("device/").unwrap_or(service)).map_err(|why| {
            Error::setup("service", format!("{service:?}: {why}"), "correct the name")
        })?;
        let live = |served: &Served| !served.dropped && served.over.is_none();
        if self.serves.of.iter().any(|(_, served)| live(served) && *served.service == *service) {
            let why = format!("{service:?} is served by this client already");
            return Err(Error::setup("service", why, "serve it once, with a larger window"));
        }
        let most = u32::try_from(limits::CALLS).unwrap_or(u32::MAX);
        let served = Served {
            service: Arc::from(service),
            window: window.clamp(1, most),
            handler,
            told: None,
            asking: None,
            again: None,
            begun: false,
            running: 0,
            queue: VecDeque::new(),
            over: None,
            dropped: false,
            wakers: Vec::new(),
        };
        self.dirty = true;
        Ok(self.serves.of.insert(served))
    }

    /// Says what the server does not know yet of what we serve.
    pub(super) fn ask_to_serve(&mut self) {
        if self.phase != Phase::Open || self.going {
            return;
        }
        let Self { serves, device, said, now, .. } = self;
        let mut over = Vec::new();
        for (number, served) in serves.of.iter_mut() {
            let known =
                served.told == Some(served.window) || (served.told.is_none() && served.window == 0);
            let waits = served.asking.is_some() || served.again.is_some_and(|again| again > *now);
            if known || waits || served.over.is_some() {
                continue;
            }
            served.again = None;
            let request = RequestId(u32::try_from(number).unwrap_or(u32::MAX) | SERVES);
            let serve = Serve { request, service: &served.service, window: served.window };
            match device.request(&Message::Serve(serve), 0, said) {
                Ok(()) => served.asking = Some(served.window),
                // There is another connection soon.
                Err(Machine::Leaving | Machine::NotConnected) => {}
                Err(why) => over.push((number, not_taken(Code::INVALID, &why.to_string()))),
            }
        }
        over.into_iter().for_each(|(number, why)| self.serving_over(number, why));
    }

    fn serving_over(&mut self, number: usize, why: Error) {
        let Some(served) = self.serves.of.get_mut(number) else { return };
        served.over.get_or_insert(why);
        self.wake.append(&mut served.wakers);
        self.serves.tidy(number);
    }

    /// The server took a SERVE.
    pub(super) fn serves_now(&mut self, id: RequestId, code: Code, detail: &str) {
        if code != Code(0) {
            return self.serve_failed(id, Refusal::of(code).detail(detail));
        }
        let Some(served) = self.serves.of.get_mut(place(id)) else { return };
        (served.told, served.begun) = (served.asking.take(), true);
        self.wake.append(&mut served.wakers);
        self.dirty = true;
        self.serves.tidy(place(id));
    }

    pub(super) fn serve_failed(&mut self, id: RequestId, why: Refusal) {
        let number = place(id);
        let now = self.now;
        let Some(served) = self.serves.of.get_mut(number) else { return };
        let asked = served.asking.take();
        match why.retry_after {
            // Who ends it needs no answer to that.
            _ if asked == Some(0) => {
                served.told = Some(0);
                self.wake.append(&mut served.wakers);
                self.serves.tidy(number);
            }
            // Taken once, it is asked for until it is taken again: the worker may be away for a while.
            Some(after) if served.begun => served.again = Some(now.after(after.max(AGAIN))),
            Some(_) | None => self.serving_over(number, why.into()),
        }
        self.dirty = true;
    }

    /// A call came.
    pub(super) fn called(&mut self, call: &Body<'_, message::Call<'_>>) {
        let fields = &call.fields;
        let serves = |served: &Served| {
            *served.service == *fields.service && served.window > 0 && served.over.is_none()
        };
        let found = self.serves.of.iter().find(|(_, served)| serves(served));
        let number = found.map(|(number, _)| number);
        let (Some(number), Some(shared)) = (number, self.serves.me.upgrade()) else {
            let busy =
                Err(super::super::NotDone::new(Code::BUSY, "it is not served here any more"));
            return self.say_answer(fields.request, busy);
        };
        let connection = self.serves.connection;
        let Some(served) = self.serves.of.get_mut(number) else { return };
        let call = Call {
            service: Arc::clone(&served.service),
            method: fields.method.to_owned(),
            payload: Bytes::copy_from_slice(call.payload),
            content_type: fields.content_type.to_owned(),
            caller: fields.caller.to_owned(),
            trace: fields.trace,
            remaining: Duration::from_millis(u64::from(fields.remaining_ms)),
            from: Came { shared, number, connection, request: fields.request },
        };
        served.queue.push_back(call);
        self.begin_calls(number);
    }

    /// Begins what waits, as far as the window goes.
    fn begin_calls(&mut self, number: usize) {
        let Serves { of, starts, ended, connection, .. } = &mut self.serves;
        let Some(served) = of.get_mut(number) else { return };
        while served.running < served.window.max(1)
            && let Some(call) = served.queue.pop_front()
        {
            if call.from.connection != *connection {
                continue;
            }
            served.running += 1;
            starts.push(Begun { call, handler: served.handler.clone(), over: ended.clone() });
        }
    }

    /// The handler has answered.
    pub(in super::super) fn answer(&mut self, from: &Came, answer: Answer) {
        if from.connection == self.serves.connection {
            self.say_answer(from.request, answer);
        }
        let Some(served) = self.serves.of.get_mut(from.number) else { return };
        served.running = served.running.saturating_sub(1);
        self.wake.append(&mut served.wakers);
        self.begin_calls(from.number);
        self.serves.tidy(from.number);
    }

    fn say_answer(&mut self, request: RequestId, answer: Answer) {
        let (code, detail, reply) = match answer {
            Ok(reply) => (Code(0), String::new(), reply),
            Err(not) => (not.code, not.detail, Reply::default()),
        };
        // Other refusals: the call is over with its connection.
        if self.say_reply(request, code, &detail, &reply, false) == Err(Machine::TooLarge) {
            let detail = "the answer is longer than a frame; say it in parts";
            let told = self.say_reply(request, Code::TOO_LARGE, detail, &Reply::default(), false);
            debug_assert!(told.is_ok(), "without a payload it fits");
        }
    }

    pub(in super::super) fn answer_part(&mut self, from: &Came, part: &Reply) -> Result<(), Error> {
        if from.connection != self.serves.connection {
            let gone = "the connection the call came on is gone";
            return Err(Refusal::of(Code::EXPIRED).detail(gone).into());
        }
        self.say_reply(from.request, Code(0), "", part, true).map_err(|why| {
            let code = if why == Machine::TooLarge { Code::TOO_LARGE } else { Code::EXPIRED };
            Refusal::of(code).detail(&why.to_string()).into()
        })
    }

    fn say_reply(
        &mut self,
        request: RequestId,
        code: Code,
        detail: &str,
        reply: &Reply,
        more: bool,
    ) -> Result<(), Machine> {
        let Reply { content_type, payload } = reply;
        let detail = shortened(detail);
        let content_type =
            if content_type.len() <= limits::CONTENT_TYPE_BYTES { content_type } else { "" };
        let fields = message::Reply { request, code, more, content_type, detail };
        let message = Message::Reply(Body { fields, payload });
        self.dirty = true;
        self.device.reply(&message, crc::of(payload), &mut self.said)
    }

    /// Is there room for another answer?
    pub(in super::super) fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.said.len() < SAID || self.phase != Phase::Open {
            return Poll::Ready(());
        }
        self.serves.waiting.push(cx.waker().clone());
        Poll::Pending
    }

    pub(in super::super) fn poll_serving(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let Some(served) = self.serves.of.get_mut(number) else {
            return Poll::Ready(Err(Error::Closed));
        };
        match &served.over {
            Some(why) => Poll::Ready(Err(why.clone())),
            None if served.begun => Poll::Ready(Ok(())),
            None => {
                served.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(in super::super) fn poll_serving_over(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Error> {
        let Some(served) = self.serves.of.get_mut(number) else {
            return Poll::Ready(Error::Closed);
        };
        if let Some(why) = &served.over {
            return Poll::Ready(why.clone());
        }
        if !served.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            served.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(in super::super) fn poll_stopped(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let open = self.phase == Phase::Open;
        let Some(served) = self.serves.of.get_mut(number) else { return Poll::Ready(()) };
        if served.window > 0 {
            (served.window, served.again) = (0, None);
            self.dirty = true;
        }
        let told = !open || served.over.is_some() || served.told.is_none_or(|told| told == 0);
        if told && served.asking.is_none() && served.running == 0 && served.queue.is_empty() {
            return Poll::Ready(());
        }
        served.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    pub(in super::super) fn running(&self, number: usize) -> u32 {
        self.serves.of.get(number).map_or(0, |served| served.running)
    }

    pub(in super::super) fn stop_serving(&mut self, number: usize) {
        let Some(served) = self.serves.of.get_mut(number) else { return };
        (served.window, served.dropped, served.again) = (0, true, None);
        self.dirty = true;
        self.serves.tidy(number);
    }
}

/// What fits a REPLY's detail, cut between characters.
fn shortened(detail: &str) -> &str {
    let mut end = detail.len().min(limits::DETAIL_BYTES);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail.get(..end).unwrap_or_default()
}
