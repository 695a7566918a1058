//! A session and the cache: which of its GETs are answered from there, and which answers go there.
//!
//! Invariants: policy was asked before (the gate's); what a session may have published itself it asks the worker for, so
//! that it never reads it older than what it was acknowledged (spec §9.1.2).

use std::collections::VecDeque;
use std::sync::Arc;

use spile_protocol::{
    code::Code,
    id::RequestId,
    message::{Body, Fault, Message, Scope, Target, Value, request::Get},
    session::edge::Session,
    time::Instant,
};

use super::gate::Gate;
use super::{park_frame, unpark};
use crate::buffers::Turn;
use crate::cache::{Asked, Kept, Name};
use crate::limits::CACHE_WAITING;

/// What of a session has to do with the cache.
#[derive(Debug, Default)]
pub(super) struct Cached {
    /// Answers on their way to the client.
    hits: VecDeque<(RequestId, Arc<Kept>)>,
    /// Questions on their way to a worker.
    asked: Vec<(RequestId, Asked)>,
}

impl<'s, 'i, 'b: 's> Gate<'s, 'i, 'b> {
    /// True: the worker at `place` is asked. Else the GET is answered.
    pub(super) fn look_in_cache(&mut self, get: &Get<'b>, place: usize) -> bool {
        let Target::State { key, topic } = get.target else { return true };
        let name = Name { tenant: &self.who.tenant, key, topic };
        let own = self.tables.publishes(key, &self.who.principal);
        if get.at_least.0 == 0
            && !own
            && self.tables.cached.hits.len() < CACHE_WAITING
            && let Some(kept) = self.edge.cache.get(self.now, place, name, get.newer_than.0)
        {
            self.tables.unask(get.request);
            self.tables.cached.hits.push_back((get.request, kept));
            return false;
        }
        let asked = self.edge.cache.ask(self.now, place, name);
        self.tables.cached.asked.extend(asked.map(|asked| (get.request, asked)));
        true
    }
}

impl Cached {
    /// Keeps what a worker answered.
    pub(super) fn hear(&mut self, message: &Message<'_>, payload_crc: u32) {
        let Message::Value(value) = message else { return };
        let Some((_, asked)) = self.asked.iter().find(|(one, _)| *one == value.fields.request)
        else {
            return;
        };
        // Absence is not kept: who asks for what is not there would push out what is.
        if value.fields.absent {
            return;
        }
        let frame = park_frame(message, payload_crc);
        let Value { version, left_ms, .. } = value.fields;
        frame.into_iter().for_each(|frame| asked.keep(version.0, left_ms, frame));
    }

    /// The request was answered, or goes nowhere.
    pub(super) fn over(&mut self, request: RequestId) {
        self.asked.retain(|(known, _)| *known != request);
    }

    /// The worker at `place` went away with what it was asked.
    pub(super) fn lose(&mut self, place: usize) {
        self.asked.retain(|(_, asked)| asked.place() != place);
    }

    /// Says what is answered from the cache, as long as there is room.
    pub(super) fn say(&mut self, machine: &mut Session, now: Instant, out: &mut Turn<'_>) {
        while let Some((request, kept)) = self.hits.pop_front() {
            let Some((Message::Value(value), payload_crc)) = unpark(&kept.frame) else { continue };
            let (message, payload_crc) = if kept.ends.is_some_and(|ends| ends <= now) {
                // Its end came while the answer waited for room.
                let (code, scope, detail) =
                    (Code::BUSY, Scope::Request(request), "it ended meanwhile");
                let fault = Fault { code, scope, retry: true, retry_after_ms: 0, detail };
                (Message::Fault(fault), 0)
            } else {
                let fields = Value { request, left_ms: kept.left_ms(now), ..value.fields };
                (Message::Value(Body { fields, ..value }), payload_crc)
            };
            if machine.handle_downstream(now, &message, payload_crc, out).is_err() {
                return self.hits.push_front((request, kept));
            }
        }
        self.hits = VecDeque::new();
    }
}
