//! A session's side of services: what it serves, what it asked, and the letters it has for its client.
//!
//! One timer a session, for the first deadline of what it asked; none where it asked nothing.

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use spile_protocol::{
    code::Code,
    id::{RequestId, Role},
    limits,
    message::{Body, Call, Fault, Message, Reply, Scope, Serve},
    time::Instant,
};
use tokio::time::Sleep;

use super::{
    Asker, Asking, Handed, Head, Refused, Serving,
    mailbox::{Answer, Letter, Mailbox},
};
use crate::{
    answers::Sink, calls::reply, desk::Desk, errands, intake::Intake, said::Said, tables::scoped,
    worker::Worker,
};

/// A call that was not answered yet.
#[derive(Debug)]
struct Asked {
    request: RequestId,
    key: u32,
    deadline: Instant,
    idempotent: bool,
}

/// What a session has to do with services.
#[derive(Debug)]
pub(crate) struct Calling {
    session: u64,
    mail: Arc<Mailbox>,
    serves: Vec<Arc<str>>,
    asked: Vec<Asked>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Desk {
    fn calling(&mut self) -> &mut Calling {
        let (session, bell) = (self.number, &self.bell);
        self.calling.get_or_insert_with(|| {
            let mail = Arc::new(Mailbox::new(Arc::clone(bell)));
            let (serves, asked) = (Vec::new(), Vec::new());
            Box::new(Calling { session, mail, serves, asked, timer: None })
        })
    }

    fn may_serve(&self, service: &str) -> Result<(), Refused> {
        let forbidden = |detail: &str| {
            Err(Refused { code: Code::FORBIDDEN, retry_after_ms: 0, detail: detail.to_owned() })
        };
        if service.starts_with('$') {
            return forbidden("names that begin with $ are the bus's own");
        }
        // spec §9.6.3: `device/ID` with the own id.
        match service.strip_prefix("device/") {
            Some(device) if self.who.role != Role::Device || self.who.principal != device => {
                forbidden("only the device itself serves device/ID")
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Intake<'_> {
    /// spec §9.6: calls to this service may come to this session.
    pub(crate) fn serve(&mut self, serve: &Serve<'_>) {
        let Serve { request, service, window } = *serve;
        match self.try_serve(service, window) {
            Ok(()) => self.desk.said(0, reply(request, Ok(Bytes::new()))),
            Err(why) => self.refuse_call(request, why, true),
        }
    }

    fn try_serve(&mut self, service: &str, window: u32) -> Result<(), Refused> {
        self.desk.may_serve(service)?;
        let name: Arc<str> = scoped(&self.desk.who.tenant, service).into();
        let now = self.worker.clock.now();
        let (edge, frame_max) = (Arc::clone(&self.desk.who.edge), self.desk.who.frame_max);
        let principal = who(self.desk).into();
        let calling = self.desk.calling();
        let session = calling.session;
        let mut services = self.worker.services();
        calling.serves.retain(|name| services.is_member(name, session));
        let is_new = !calling.serves.contains(&name);
        if is_new && window > 0 && calling.serves.len() >= limits::SERVICES {
            let detail = "a session serves no more".to_owned();
            return Err(Refused { code: Code::TOO_MANY, retry_after_ms: 0, detail });
        }
        let serving =
            Serving { session, principal, edge, frame_max, mail: Arc::clone(&calling.mail) };
        services.serve(now, &name, &serving, window)?;
        if is_new && window > 0 {
            calling.serves.push(name);
        }
        Ok(())
    }

    fn refuse_call(&mut self, request: RequestId, why: Refused, idempotent: bool) {
        let Refused { code, retry_after_ms, detail } = why;
        let retry = code.retry_of_call(idempotent);
        let scope = Scope::Request(request);
        self.desk.said(0, Said::Refused { code, scope, retry, retry_after_ms, detail });
    }

    /// spec §9.4: a call to a service that is not built in.
    pub(crate) fn call_service(&mut self, call: &Call<'_>, payload: &Bytes, payload_crc: u32) {
        let worker = Arc::clone(self.worker);
        let now = worker.clock.now();
        let wait = Duration::from_millis(u64::from(call.remaining_ms));
        let (request, idempotent) = (call.request, call.idempotent);
        if wait.is_zero() {
            let detail = "no time was left for it".to_owned();
            let why = Refused { code: Code::TIMED_OUT, retry_after_ms: 0, detail };
            return self.refuse_call(request, why, true);
        }
        let desk = &mut *self.desk;
        let scoped = scoped(&desk.who.tenant, call.service).into();
        let caller = who(desk);
        let calling = desk.calling();
        let mut services = worker.services();
        let head = Head {
            service: call.service.into(),
            method: call.method.into(),
            content_type: call.content_type.into(),
            caller,
            trace: call.trace,
            idempotent,
        };
        let asker = Asker { session: calling.session, request, mail: Arc::clone(&calling.mail) };
        // A copy of its own: what waits for a service must not pin the block it came in.
        let payload = Bytes::copy_from_slice(payload);
        let asking = Asking { scoped, head: Arc::new(head), payload, payload_crc, wait, asker };
        match services.call(now, asking) {
            Ok(key) => {
                let deadline = now.after(wait);
                calling.asked.push(Asked { request, key, deadline, idempotent });
            }
            Err(why) => {
                drop(services);
                self.refuse_call(request, why, idempotent);
            }
        }
    }

    /// spec §9.5: an answer of who serves.
    pub(crate) fn replied(&mut self, fields: &Reply<'_>, payload: &Bytes, payload_crc: u32) {
        if fields.request.0 >= errands::FIRST {
            return self.desk.about.errands.heard(fields.request, fields.code, payload);
        }
        let Some(calling) = self.desk.calling.as_deref() else { return };
        let answer = Answer {
            request: fields.request,
            code: fields.code,
            more: fields.more,
            content_type: fields.content_type.into(),
            detail: fields.detail.into(),
            payload: Bytes::copy_from_slice(payload),
            payload_crc,
        };
        let now = self.worker.clock.now();
        self.worker.services().reply(now, calling.session, fields.request.0, answer);
    }
}

/// `ROLE/NAME`, as the edge let it in.
fn who(desk: &Desk) -> Box<str> {
    format!("{}/{}", desk.who.role.name(), desk.who.principal).into()
}

impl Calling {
    /// Says the letters, as long as `room` bytes of frames last, and what has run out of time. True: there are more.
    pub(crate) fn poll(
        &mut self,
        worker: &Worker,
        room: usize,
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        while let Some(size) = self.mail.next_size() {
            if *said > 0 && *said + size > room {
                return true;
            }
            let Some(letter) = self.mail.take() else { break };
            *said += self.say(worker, letter, sink);
        }
        if !self.asked.is_empty() {
            *said += self.say_late(worker, sink);
        }
        false
    }

    fn say(&mut self, worker: &Worker, letter: Letter, sink: &mut Sink<'_>) -> usize {
        let size = letter.size();
        match letter {
            Letter::Call(key) => {
                let handed = worker.services().take(worker.clock.now(), self.session, key);
                let Some(handed) = handed else { return 0 };
                say_call(key, &handed, sink);
                return size + handed.payload.len();
            }
            Letter::Reply(answer) => {
                if !answer.more {
                    self.forget(answer.request);
                }
                let fields = Reply {
                    request: answer.request,
                    code: answer.code,
                    more: answer.more,
                    content_type: &answer.content_type,
                    detail: &answer.detail,
                };
                let message = Message::Reply(Body { fields, payload: &answer.payload });
                sink(&message, answer.payload_crc);
            }
            Letter::Fault { request, code, retry, retry_after_ms, detail } => {
                self.forget(request);
                let scope = Scope::Request(request);
                let fault = Fault { code, scope, retry, retry_after_ms, detail: &detail };
                sink(&Message::Fault(fault), 0);
            }
        }
        size
    }

    fn forget(&mut self, request: RequestId) {
        self.asked.retain(|asked| asked.request != request);
    }

    /// spec §9.4.1: at 0 the asker hears TIMED_OUT.
    fn say_late(&mut self, worker: &Worker, sink: &mut Sink<'_>) -> usize {
        let now = worker.clock.now();
        let mut said = 0;
        let session = self.session;
        self.asked.retain(|asked| {
            if asked.deadline > now {
                return true;
            }
            // One that was answered as its time ran out has its answer in the mailbox.
            if !worker.services().timed_out(now, session, asked.key) {
                return true;
            }
            let (code, scope) = (Code::TIMED_OUT, Scope::Request(asked.request));
            let retry = code.retry_of_call(asked.idempotent);
            let detail = "nobody answered in time";
            sink(&Message::Fault(Fault { code, scope, retry, retry_after_ms: 0, detail }), 0);
            said += 64 + detail.len();
            false
        });
        said
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.asked.iter().map(|asked| asked.deadline).min()
    }

    /// Is there something to say? Wakes the task when the next deadline is over.
    pub(crate) fn poll_ready(&mut self, worker: &Worker, cx: &mut Context<'_>) -> bool {
        if self.mail.next_size().is_some() {
            return true;
        }
        let Some(deadline) = self.next_deadline() else {
            self.timer = None;
            return false;
        };
        let at = worker.clock.at(deadline);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx) == Poll::Ready(())
    }

    /// The session is gone.
    pub(crate) fn leave(&self, worker: &Worker) {
        let now = worker.clock.now();
        let mut services = worker.services();
        self.asked.iter().for_each(|asked| services.abandon(now, self.session, asked.key));
        services.leave(now, self.session, &self.serves);
    }
}

fn say_call(key: u32, handed: &Handed, sink: &mut Sink<'_>) {
    let Handed { head, payload, payload_crc, remaining_ms } = handed;
    let fields = Call {
        request: RequestId(key),
        service: &head.service,
        method: &head.method,
        remaining_ms: *remaining_ms,
        idempotent: head.idempotent,
        content_type: &head.content_type,
        caller: &head.caller,
        trace: head.trace,
    };
    sink(&Message::Call(Body { fields, payload }), *payload_crc);
}
