//! What may pass, and to which worker: each message of a read is judged once, and goes on in runs for one worker.
//!
//! Invariant: no message reaches a worker that the policy did not allow; what is denied is answered, never dropped.

use std::collections::VecDeque;

use spile_protocol::{
    code::Code,
    id::{LaneId, LinkSessionId, Number, RouteId},
    message::{Bind, Credit, From, Lane, Message, Scope, Source, Subscribe, Void},
    session::edge::{Input as Came, Session},
    time::{Instant, Millis},
};

use super::{
    Counted, Who,
    asks::Plan,
    lines,
    merge::Merge,
    tables::{Sub, Tables},
};
use crate::Edge;
use crate::inlet::Arrived;
use crate::limits::{AWAY_RETRY_MS, WINDOW};
use crate::policy::{Action, Policy, Resource};
use crate::upstream::{Away, Input, Port, Workers};

/// Whom the next message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// One worker, with others of the same run.
    Worker(usize),
    /// One worker; it is a LANE, behind which others may have to be said.
    Lane(usize),
    /// Every worker: it is about a merged subscription.
    Every,
    /// Those of the plan: a request that several answer.
    Many,
}

/// A read on its way to the workers.
pub(super) struct Gate<'s, 'i, 'b> {
    pub(super) machine: &'s mut Session,
    pub(super) tables: &'s mut Tables,
    pub(super) who: &'s Who,
    policy: &'s Policy,
    pub(super) workers: &'s Workers,
    pub(super) edge: &'s Edge,
    pub(super) now: Instant,
    pub(super) wall: Millis,
    arrived: &'i mut Arrived<'b>,
    pub(super) front: Option<(To, LaneId, Input<'s>)>,
    /// Whom a request that several answer is for.
    pub(super) plan: Option<Plan>,
    counted: Counted,
    /// Its frames are logged.
    logs: bool,
}

impl<'s, 'i, 'b: 's> Gate<'s, 'i, 'b> {
    pub(super) fn new(
        machine: &'s mut Session,
        tables: &'s mut Tables,
        who: &'s Who,
        policy: &'s Policy,
        edge: &'s Edge,
        (now, wall): (Instant, Millis),
        arrived: &'i mut Arrived<'b>,
    ) -> Self {
        let counted = Counted::default();
        let (front, plan) = (None, None);
        let workers = &edge.workers;
        let logs = tables.frames.are_logged(wall);
        Self {
            machine,
            tables,
            who,
            policy,
            workers,
            edge,
            now,
            wall,
            arrived,
            front,
            plan,
            counted,
            logs,
        }
    }

    pub(super) const fn counted(&self) -> Counted {
        self.counted
    }

    /// Whom the next message is for; `None` when the read is worked off.
    pub(super) fn front(&mut self) -> Option<To> {
        while self.front.is_none() {
            let bytes = self.arrived.bytes;
            let came = self.machine.handle_input(self.now, &mut self.arrived.bytes);
            if self.logs {
                let left = self.arrived.bytes.len();
                self.tables.frames.came(self.wall, bytes, left, came.as_ref());
            }
            match came? {
                Came::Upstream { lane, first, message, payload_crc } => {
                    let message = self.traced(windowed(message));
                    let block = self.arrived.block;
                    self.front = self.judge(lane, &message).map(|to| {
                        let message = self.respelled(message);
                        (to, lane, Input { message, number: first, payload_crc, block })
                    });
                }
                Came::Void { lane, first, count, code } => {
                    self.counted.denied += u64::from(count);
                    let message = self.void(lane, first, count, code);
                    let input = Input { block: None, message, number: first, payload_crc: 0 };
                    self.front =
                        self.lane_place(lane).map(|place| (To::Worker(place), lane, input));
                }
                // AUTH was decided before there was a route, and a second one ends the session in the machine.
                Came::Authenticate(_) | Came::Leaving(_) | Came::Closed(_) => {}
            }
        }
        self.front.as_ref().map(|(to, _, _)| *to)
    }

    /// The messages for the worker at `place`, up to the first for another.
    pub(super) fn run(
        &mut self,
        place: usize,
    ) -> impl Iterator<Item = Input<'s>> + use<'_, 's, 'i, 'b> {
        std::iter::from_fn(move || {
            if self.front() == Some(To::Worker(place)) { self.take_front() } else { None }
        })
    }

    fn take_front(&mut self) -> Option<Input<'s>> {
        let (_, _, input) = self.front.take()?;
        if let Message::Event(event) = &input.message {
            self.count(1, event.payload.len());
        } else if let Message::Batch(batch) = &input.message {
            self.count(u64::from(batch.lengths.count()), batch.payload.len());
        }
        Some(input)
    }

    fn count(&mut self, events: u64, bytes: usize) {
        self.counted.events += events;
        self.counted.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// LANE, and the BINDs the worker has not heard.
    pub(super) fn open_lane(&mut self, port: &mut dyn Port) {
        let Some((_, lane, input)) = self.front.take() else { return };
        port.take(self.wall, &mut std::iter::once(input));
        let binds = self.tables.rebind(lane).map(Message::Bind);
        port.take(
            self.wall,
            &mut binds.map(|message| Input {
                message,
                number: Number(0),
                payload_crc: 0,
                block: None,
            }),
        );
    }

    /// The worker is away: what is next can't go there.
    pub(super) fn refuse_front(&mut self, away: Away) {
        let Some((to, lane, input)) = self.front.take() else { return };
        let retry = Some(away.retry_after_ms);
        if let Some(Scope::Request(request)) = scope_of(&input.message) {
            // It never went there: refused below, as what surely was not done.
            self.tables.unask(request);
        }
        if let To::Worker(place) | To::Lane(place) = to {
            // A BIND is kept: the worker hears it behind the LANE that opens the lane again.
            for lane in self.tables.lose(place, away) {
                self.machine.close_lane(lane, Code::UNAVAILABLE, retry);
            }
        }
        self.machine.close_lane(lane, Code::UNAVAILABLE, retry);
        if let Some(scope) = scope_of(&input.message) {
            self.tables.refuse(scope, Code::UNAVAILABLE, retry);
        }
    }

    /// Says what is next to every worker, as its part of a merged subscription.
    pub(super) fn spread(&mut self, send: &mut SendTo<'_>) {
        let Some((_, _, input)) = self.front.take() else { return };
        let Some(scope @ Scope::Subscription(id)) = scope_of(&input.message) else { return };
        let mut to_one = |place, message: &Message<'_>| send(place, spelled(*message));
        if let Message::Subscribe(subscribe) = &input.message {
            let Some(mut merge) = Merge::new(subscribe, self.workers, self.wall) else {
                return self.tables.refuse_for(scope, "a worker's position is not named");
            };
            // spec §8.1.4: the others' events come, and one that is away joins when it is back.
            if merge.begin(&mut to_one) {
                self.tables.subscribe(id, Sub::Every(Box::new(merge)));
            } else {
                self.tables.refuse(scope, Code::UNAVAILABLE, Some(AWAY_RETRY_MS));
            }
        } else if let Some(Sub::Every(merge)) = self.tables.subscription(id) {
            merge.send(&input.message, &mut to_one);
        }
    }

    fn void(&self, lane: LaneId, number: Number, count: u32, code: Code) -> Message<'s> {
        let (session, time_ms) = (LinkSessionId(0), self.wall.0);
        Message::Void(Void { session, lane, number, count, code, time_ms })
    }

    fn lane_place(&self, lane: LaneId) -> Option<usize> {
        if self.workers.count() == 1 {
            return Some(0);
        }
        self.tables.lane(lane).map(|lane| lane.place)
    }

    pub(super) fn may(&mut self, action: Action, resource: Resource<'_>) -> bool {
        let decision = self.policy.allowed(self.who.principal(), action, resource);
        if !decision.allowed {
            self.counted.denied += 1;
            let (key, name) = (resource.key.unwrap_or_default(), resource.name);
            tracing::debug!(action = action.name(), key, name, rule = decision.rule, "denied");
        }
        decision.allowed
    }

    pub(super) fn place_of(&self, key: &str) -> usize {
        self.workers.of(&self.who.tenant, key)
    }

    /// Whom an allowed message is for; `None` where it was answered here.
    fn judge(&mut self, lane: LaneId, message: &Message<'b>) -> Option<To> {
        match message {
            Message::Event(_) | Message::Batch(_) => self.lane_place(lane).map(To::Worker),
            Message::Lane(lane) => self.lane(lane),
            Message::Bind(bind) => self.bind(bind),
            Message::Subscribe(subscribe) => self.subscribe(subscribe),
            Message::Settle(settle) => {
                lines::settled(self.who, settle);
                self.subscribed(settle.subscription)
            }
            Message::Credit(credit) => self.subscribed(credit.subscription?),
            Message::End(end) => self.subscribed(end.subscription),
            Message::Get(get) => self.get(get),
            Message::List(list) => self.list(list),
            Message::Call(call) => self.call(call),
            Message::Serve(serve) => self.serve(serve),
            Message::Open(open) => {
                let key = open.key.unwrap_or(&self.who.principal);
                let place = self.place_of(key);
                let scope = Scope::Upload { upload: open.upload, expected: 0 };
                if !self.may(Action::Upload, Resource { key: Some(key), name: open.name }) {
                    return self.denied(scope);
                }
                let trace = lines::sealing(self.who, key);
                lines::upload(self.who, trace, open.upload, "open");
                self.tables.upload(open.upload, place, trace);
                Some(To::Worker(place))
            }
            Message::Chunk(chunk) => self.tables.upload_at(chunk.upload).map(To::Worker),
            Message::Seal(seal) => {
                if let Some(trace) = self.tables.upload_trace(seal.upload) {
                    lines::upload(self.who, trace, seal.upload, "seal");
                }
                self.tables.upload_at(seal.upload).map(To::Worker)
            }
            Message::Abort(abort) => {
                let place = self.tables.upload_at(abort.upload);
                self.tables.end_upload(abort.upload);
                place.map(To::Worker)
            }
            Message::Reply(reply) => self.reply(reply),
            // The machine lets none of these through.
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Ping(_)
            | Message::GoAway(_)
            | Message::Fault(_)
            | Message::LaneAnswer(_)
            | Message::Ack(_)
            | Message::Opened(_)
            | Message::Deliver(_)
            | Message::Value(_)
            | Message::Attach(_)
            | Message::Detach(_)
            | Message::Envelope(_)
            | Message::Registry(_)
            | Message::Void(_)
            | Message::LinkHello(_)
            | Message::Changed(_)
            | Message::Skipped(_) => None,
        }
    }

    pub(super) fn denied(&mut self, scope: Scope) -> Option<To> {
        self.tables.refuse(scope, Code::FORBIDDEN, None);
        None
    }

    fn lane(&mut self, lane: &Lane<'b>) -> Option<To> {
        let key = lane.key.unwrap_or(&self.who.principal);
        if !self.may(Action::Publish, Resource { key: Some(key), name: "" }) {
            self.machine.close_lane(lane.lane, Code::FORBIDDEN, None);
            return None;
        }
        let place = self.place_of(key);
        if self.tables.open_lane(lane.lane, place, lane.key) {
            self.judge_binds(lane.lane, key);
        }
        Some(To::Lane(place))
    }

    /// What was bound to the lane was allowed under another key.
    fn judge_binds(&mut self, lane: LaneId, key: &str) {
        let allows = |bind: &Bind<'_>| {
            let resource = Resource { key: Some(key), name: bind.topic };
            self.policy.allowed(self.who.principal(), Action::Publish, resource).allowed
        };
        let denied: Vec<RouteId> =
            self.tables.binds(lane).filter(|bind| !allows(bind)).map(|bind| bind.route).collect();
        for route in denied {
            self.machine.deny_route(route, Code::FORBIDDEN);
        }
    }

    fn bind(&mut self, bind: &Bind<'b>) -> Option<To> {
        let (place, stale, key) = {
            let known = self.tables.lane(bind.lane)?;
            (known.place, known.stale, known.key.clone())
        };
        let key = key.as_deref().unwrap_or(&self.who.principal);
        // What is denied is bound all the same: its events have numbers, and those become VOIDs.
        if !self.may(Action::Publish, Resource { key: Some(key), name: bind.topic }) {
            self.machine.deny_route(bind.route, Code::FORBIDDEN);
        }
        self.tables.bind(bind);
        (!stale).then_some(To::Worker(place))
    }

    fn subscribe(&mut self, subscribe: &Subscribe<'b>) -> Option<To> {
        let own: &str = &self.who.principal;
        let (action, key, name) = match subscribe.source {
            Source::Filter { filter, key, .. } => (Action::Subscribe, key, filter),
            Source::Stream { key, .. } => (Action::Stream, Some(key), ""),
            Source::Group { name, .. } => (Action::Consume, None, name),
            Source::Inbox => (Action::Subscribe, Some(own), "inbox/#"),
        };
        let place = key.map(|key| self.place_of(key));
        if !self.may(action, Resource { key, name }) {
            return self.denied(Scope::Subscription(subscribe.subscription));
        }
        if let Source::Filter { from: From::Positions(list), .. } = subscribe.source {
            let named: Vec<_> = list.iter().map(|at| at.worker).collect();
            if self.workers.misnamed(&named).is_some() {
                let scope = Scope::Subscription(subscribe.subscription);
                self.tables.refuse_for(scope, "a position is of no worker here, or of one twice");
                return None;
            }
        }
        match place.or((self.workers.count() == 1).then_some(0)) {
            Some(place) => {
                self.tables.subscribe(subscribe.subscription, Sub::One(place, VecDeque::new()));
                Some(To::Worker(place))
            }
            None => Some(To::Every),
        }
    }

    fn subscribed(&mut self, id: spile_protocol::id::SubscriptionId) -> Option<To> {
        match self.tables.subscription(id)? {
            Sub::One(place, _) => Some(To::Worker(*place)),
            Sub::Every(_) => Some(To::Every),
        }
    }
}

/// How a message goes to one worker.
pub(super) type SendTo<'f> = dyn FnMut(usize, Input<'_>) -> Result<(), Away> + 'f;

/// A message that has no number and no payload.
const fn spelled(message: Message<'_>) -> Input<'_> {
    Input { message, number: Number(0), payload_crc: 0, block: None }
}

/// With a window the edge can hold.
fn windowed(message: Message<'_>) -> Message<'_> {
    if let Message::Subscribe(subscribe) = message {
        // None at all is for workers whose turn it is not; spec §6.2.2: a client's one frame may always go.
        let (events, bytes) = (subscribe.events.max(1), subscribe.bytes.min(WINDOW));
        Message::Subscribe(Subscribe { events, bytes, ..subscribe })
    } else if let Message::Credit(credit) = message {
        let (events, bytes) = (credit.events.max(1), credit.bytes.min(WINDOW));
        Message::Credit(Credit { events, bytes, ..credit })
    } else {
        message
    }
}

/// What a message that could not go to its worker is about, but for lanes.
fn scope_of(message: &Message<'_>) -> Option<Scope> {
    match message {
        Message::Subscribe(subscribe) => Some(Scope::Subscription(subscribe.subscription)),
        Message::Settle(settle) => Some(Scope::Subscription(settle.subscription)),
        Message::Credit(credit) => credit.subscription.map(Scope::Subscription),
        Message::End(end) => Some(Scope::Subscription(end.subscription)),
        Message::Get(get) => Some(Scope::Request(get.request)),
        Message::List(list) => Some(Scope::Request(list.request)),
        Message::Call(call) => Some(Scope::Request(call.fields.request)),
        Message::Serve(serve) => Some(Scope::Request(serve.request)),
        Message::Open(open) => Some(Scope::Upload { upload: open.upload, expected: 0 }),
        Message::Chunk(chunk) => Some(Scope::Upload { upload: chunk.upload, expected: 0 }),
        Message::Seal(seal) => Some(Scope::Upload { upload: seal.upload, expected: 0 }),
        Message::Abort(_)
        | Message::Hello(_)
        | Message::Welcome(_)
        | Message::Auth(_)
        | Message::Ping(_)
        | Message::GoAway(_)
        | Message::Fault(_)
        | Message::Lane(_)
        | Message::LaneAnswer(_)
        | Message::Bind(_)
        | Message::Event(_)
        | Message::Batch(_)
        | Message::Ack(_)
        | Message::Opened(_)
        | Message::Deliver(_)
        | Message::Value(_)
        | Message::Reply(_)
        | Message::Attach(_)
        | Message::Detach(_)
        | Message::Envelope(_)
        | Message::Registry(_)
        | Message::Void(_)
        | Message::LinkHello(_)
        | Message::Changed(_)
        | Message::Skipped(_) => None,
    }
}
