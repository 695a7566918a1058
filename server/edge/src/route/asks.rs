//! Requests, as they pass the gate: GET and LIST, CALL, SERVE and what answers the calls that came.
//!
//! Here: whom each is for, and what of it the edge sets. Invariant: a worker hears the caller from the edge, never from
//! the client (spec §9.4, 16.8).

use std::time::Duration;

use spile_protocol::{
    code::Code,
    crc,
    id::{Number, RequestId, Role},
    message::{
        Body, Call, Message, Reply, Scope, Serve, Target, Trace,
        request::{self, Listing},
    },
};

use super::aim::{self, Aim};
use super::fold::{Fold, Steps};
use super::gate::{Gate, SendTo, To};
use super::served::is_own;
use super::spread::{self, Spread};
use crate::limits::{AWAY_RETRY_MS, LIST_WAIT};
use crate::policy::{Action, Resource};
use crate::upstream::Input;

/// Whom a request that several answer is for.
#[derive(Debug)]
pub(super) enum Plan {
    /// Every worker: a listing.
    List,
    /// These, each with what came or a payload of its own.
    Call(Vec<(usize, Option<Vec<u8>>)>, Fold),
}

impl<'s, 'i, 'b: 's> Gate<'s, 'i, 'b> {
    pub(super) fn get(&mut self, get: &request::Get<'b>) -> Option<To> {
        let (action, key, name) = match get.target {
            Target::State { key, topic } => (Action::StateGet, Some(key), topic),
            Target::Stream { key } => (Action::StateGet, Some(key), ""),
            Target::Blob { blob, .. } => (Action::Download, None, blob),
        };
        let place = match get.target {
            Target::State { key, .. } | Target::Stream { key } => self.place_of(key),
            Target::Blob { blob, .. } => aim::blob_place(blob, self.workers),
        };
        let to = self.ask(get.request, action, Resource { key, name }, place)?;
        self.look_in_cache(get, place).then_some(to)
    }

    pub(super) fn list(&mut self, list: &request::List<'b>) -> Option<To> {
        let name = match list.listing {
            Listing::State | Listing::Blobs | Listing::Uploads | Listing::Services => list.prefix,
        };
        if self.workers.count() == 1 {
            return self.ask(list.request, Action::List, Resource { key: None, name }, 0);
        }
        self.may_ask(list.request, Action::List, Resource { key: None, name })?;
        self.plan(list.request, Plan::List)
    }

    fn plan(&mut self, request: RequestId, plan: Plan) -> Option<To> {
        if !self.tables.may_spread() {
            self.tables.refuse(Scope::Request(request), Code::BUSY, Some(AWAY_RETRY_MS));
            return None;
        }
        self.plan = Some(plan);
        Some(To::Many)
    }

    pub(super) fn call(&mut self, call: &Body<'b, Call<'b>>) -> Option<To> {
        let Call { request, service, .. } = call.fields;
        self.remember(&call.fields);
        self.may_ask(request, Action::Call, Resource { key: None, name: service })?;
        if let Some(fold) = self.about_device(&call.fields, call.payload) {
            let every = (0..self.workers.count()).map(|place| (place, None));
            return match fold {
                Ok(fold) => self.plan(request, Plan::Call(every.collect(), fold)),
                Err(wrong) => {
                    self.tables.answer(spread::reply(request, Err(wrong)));
                    None
                }
            };
        }
        if (service, call.fields.method) == ("$device", "ls") {
            let registry = self.workers.of(aim::REGISTRY.0, aim::REGISTRY.1);
            let fold = Fold::Devices(self.here(call.payload));
            return self.plan(request, Plan::Call(vec![(registry, None)], fold));
        }
        match aim::aim(&call.fields, call.payload, &self.who.tenant, self.workers) {
            Ok(Aim::One(place)) => {
                if service.starts_with('$') {
                    self.tables.ask(request, place);
                } else {
                    self.tables.ask_service(request, place, call.fields.idempotent);
                }
                Some(To::Worker(place))
            }
            Ok(Aim::Many(parts, Fold::Steps(_))) => {
                let own = self.own_steps(call.payload);
                self.plan(request, Plan::Call(parts, Fold::Steps(own)))
            }
            Ok(Aim::Many(parts, fold)) => self.plan(request, Plan::Call(parts, fold)),
            Err(wrong) => {
                self.tables.answer(spread::reply(request, Err(wrong)));
                None
            }
        }
    }

    pub(super) fn serve(&mut self, serve: &Serve<'b>) -> Option<To> {
        let place = self.place_of(aim::service_key(serve.service));
        let service = Resource { key: None, name: serve.service };
        let to = self.ask(serve.request, Action::Serve, service, place)?;
        self.tables.served.serve(serve, place);
        Some(to)
    }

    pub(super) fn reply(&mut self, reply: &Body<'b, Reply<'b>>) -> Option<To> {
        // spec §9.5.1: one to a call that is over is ignored. Its number at the worker is looked up when it goes there.
        self.tables.served.place_of(reply.fields.request).map(To::Worker)
    }

    fn ask(
        &mut self,
        request: RequestId,
        action: Action,
        resource: Resource<'_>,
        place: usize,
    ) -> Option<To> {
        self.may_ask(request, action, resource)?;
        self.tables.ask(request, place);
        Some(To::Worker(place))
    }

    fn may_ask(
        &mut self,
        request: RequestId,
        action: Action,
        resource: Resource<'_>,
    ) -> Option<()> {
        if is_own(request) {
            // spec §9.0: these numbers are the edge's.
            self.tables.refuse(Scope::Request(request), Code::INVALID, None);
            return None;
        }
        if !self.may(action, resource) {
            self.denied(Scope::Request(request));
            return None;
        }
        Some(())
    }

    /// The message as its worker hears it: the caller is who the edge knows, a reply has the worker's number.
    pub(super) fn respelled(&mut self, message: Message<'s>) -> Message<'s> {
        if let Message::Call(mut call) = message {
            call.fields.caller = &self.who.caller;
            Message::Call(call)
        } else if let Message::Reply(reply) = message {
            let own = self.tables.served.reply(&self.who.caller, &reply);
            Message::Reply(own.map_or(reply, |(_, own)| own))
        } else {
            message
        }
    }

    /// A call has a trace from here on, and is remembered by it.
    pub(super) fn traced(&mut self, message: Message<'b>) -> Message<'b> {
        let Message::Call(mut call) = message else { return message };
        if call.fields.trace.is_none() {
            call.fields.trace = Some(self.trace(call.fields.service));
        }
        Message::Call(call)
    }

    fn remember(&mut self, call: &Call<'_>) {
        let Some(trace) = call.trace.filter(|_| !is_own(call.request)) else { return };
        let what = format!("{} {} from {}", call.service, call.method, self.who.caller);
        let number = self.edge.recent.came(self.wall, &self.who.tenant, trace, what);
        self.tables.called.push((call.request, number));
    }

    /// What this edge itself knows of the calls of a trace: of the asker's tenant, or of another's where it may name one
    /// (admin §1.5, whose worker refuses it otherwise).
    fn own_steps(&self, payload: &[u8]) -> Steps {
        let asked = aim::object(payload).unwrap_or_default();
        let text = |field| asked.get(field).and_then(serde_json::Value::as_str);
        let own = &*self.who.tenant;
        let tenant = text("tenant").unwrap_or(own);
        let may = tenant == own || (self.who.role == Role::Operator && own == aim::REGISTRY.0);
        let id = text("id").filter(|id| id.len() == 32);
        let id = id.and_then(|id| u128::from_str_radix(id, 16).ok()).filter(|_| may);
        let Some(id) = id else { return Steps::default() };
        let (came, ended) = self.edge.recent.steps(tenant, id.to_be_bytes());
        Steps { came, ended }
    }

    /// spec §9.4.4: made as an event's is, over the service's name and a count of the session's calls.
    fn trace(&mut self, service: &str) -> Trace {
        let count = self.tables.traces;
        self.tables.traces = count.wrapping_add(1);
        let named = crc::of(service.as_bytes()).to_be_bytes();
        let mut id = [0; 16];
        let parts = self.who.trace_base.iter().chain(&named).copied().chain(count.to_be_bytes());
        id.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        Trace { id, span: [0; 8], flags: 0 }
    }

    /// Asks those of the plan; who is away is missing from the answer.
    pub(super) fn ask_many(&mut self, send: &mut SendTo<'_>) {
        let (Some((_, _, input)), Some(plan)) = (self.front.take(), self.plan.take()) else {
            return;
        };
        match (plan, &input.message) {
            (Plan::List, Message::List(list)) => {
                let due = self.now.after(LIST_WAIT);
                let count = self.workers.count();
                let mut spread = Spread::list(due, list.listing, list.limit, count);
                for place in 0..count {
                    if send(place, input).is_err() {
                        spread.lose(place);
                    }
                }
                self.tables.spread(list.request, spread);
            }
            (Plan::Call(parts, fold), Message::Call(call)) => {
                let spread = self.call_many(call, parts, fold, send);
                self.tables.spread(call.fields.request, spread);
            }
            _ => {}
        }
    }

    /// admin §2.1: half of the time the call has left is the workers'.
    fn call_many(
        &self,
        call: &Body<'_, Call<'_>>,
        parts: Vec<(usize, Option<Vec<u8>>)>,
        fold: Fold,
        send: &mut SendTo<'_>,
    ) -> Spread {
        let remaining_ms = call.fields.remaining_ms / 2;
        let due = self.now.after(Duration::from_millis(u64::from(remaining_ms)));
        let places = parts.iter().map(|(place, _)| *place).collect();
        let mut spread = Spread::call(due, places, fold);
        for (place, own) in &parts {
            let payload = own.as_deref().unwrap_or(call.payload);
            let fields = Call { remaining_ms, ..call.fields };
            let message = Message::Call(Body { fields, payload });
            let input =
                Input { message, number: Number(0), payload_crc: crc::of(payload), block: None };
            if send(*place, input).is_err() {
                spread.lose(*place);
            }
        }
        spread
    }
}
