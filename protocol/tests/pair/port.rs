//! What a session's edge does with what comes in: route it to the worker, or to its spool; and what it may be told.

use std::collections::BTreeMap;

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RouteId, Run, Version},
    message::{Ack, Durability, Fault, LaneAnswer, List, Message, Refused, Scope},
    session::{edge, producer::Decision},
    time::Instant,
};

use crate::worker::{Body, Lane, Spool, Spooled, Worker};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Spool,
}

#[derive(Debug)]
struct Open {
    lane: Lane,
    way: Way,
    first: u64,
    answered: bool,
    /// Numbers taken by the spool, for its acks.
    spooled: u64,
    told: u64,
    closed: bool,
}

/// One edge: its way to the worker, and its spool.
#[derive(Default)]
pub struct Edge {
    pub spool: Spool,
    pub link: bool,
    pub spools: bool,
}

/// One session behind its edge.
pub struct Port {
    run: Run,
    own: String,
    lanes: BTreeMap<LaneId, Open>,
    routes: BTreeMap<RouteId, LaneId>,
    out: Vec<u8>,
}

fn bodies(message: &Message<'_>) -> Vec<Body> {
    let id = |payload: &[u8]| Body::Event(u64::from_le_bytes(*payload.first_chunk().unwrap()));
    match message {
        Message::Event(event) => vec![id(event.payload)],
        Message::Batch(batch) => batch.lengths.split(batch.payload).map(id).collect(),
        other => panic!("not an event: {other:?}"),
    }
}

impl Port {
    pub fn new(run: Run, own: &str) -> Self {
        let own = own.to_owned();
        Self { run, own, lanes: BTreeMap::new(), routes: BTreeMap::new(), out: Vec::new() }
    }

    pub fn take(
        &mut self,
        now: Instant,
        session: &mut edge::Session,
        input: edge::Input<'_>,
        edge: &mut Edge,
        worker: &mut Worker,
    ) {
        match input {
            edge::Input::Upstream { lane, first, message, .. } => match message {
                Message::Lane(wanted) => self.open(session, lane, first, wanted.key, edge, worker),
                Message::Bind(bind) => {
                    self.routes.insert(bind.route, bind.lane);
                    if bind.topic.starts_with("denied") {
                        session.deny_route(bind.route, Code::FORBIDDEN);
                    }
                }
                Message::Event(_) | Message::Batch(_) => {
                    self.events(now, session, lane, first, bodies(&message), edge, worker);
                }
                other => panic!("not in this test: {other:?}"),
            },
            edge::Input::Void { lane, first, count, code } => {
                let bodies = vec![Body::Void(code); usize::try_from(count).unwrap()];
                self.events(now, session, lane, first, bodies, edge, worker);
            }
            edge::Input::Authenticate(_) | edge::Input::Leaving(_) | edge::Input::Closed(_) => {}
        }
    }

    fn open(
        &mut self,
        session: &mut edge::Session,
        id: LaneId,
        first: Number,
        key: Option<&str>,
        edge: &Edge,
        worker: &Worker,
    ) {
        let lane = (self.run, key.unwrap_or(&self.own).to_owned());
        if !edge.link && !edge.spools {
            session.close_lane(id, Code::UNAVAILABLE, Some(20));
            return;
        }
        let gap = worker.durable_last(&lane) + 1 < first.0;
        let spool = !edge.link || edge.spool.holds(&lane) || (gap && edge.spools);
        let way = if spool { Way::Spool } else { Way::Direct };
        let told = first.0 - 1;
        let open =
            Open { lane, way, first: first.0, answered: false, spooled: told, told, closed: false };
        self.lanes.insert(id, open);
    }

    #[allow(clippy::too_many_arguments)]
    fn events(
        &mut self,
        now: Instant,
        session: &mut edge::Session,
        id: LaneId,
        first: Number,
        bodies: Vec<Body>,
        edge: &mut Edge,
        worker: &mut Worker,
    ) {
        let open = self.lanes.get_mut(&id).unwrap();
        if open.closed {
            return;
        }
        let last = first.0 + u64::try_from(bodies.len()).unwrap() - 1;
        match open.way {
            Way::Spool => {
                // What the spool has is not taken twice; a part of a batch may be.
                let known =
                    (first.0..=last).all(|number| edge.spool.body(&open.lane, number).is_some());
                if !known && worker.durable_last(&open.lane) < last {
                    edge.spool.push(Spooled { lane: open.lane.clone(), first: first.0, bodies });
                }
                open.spooled = open.spooled.max(last);
            }
            Way::Direct => {
                let decision = worker.take(&open.lane, first.0, &bodies);
                let (code, expected) = match decision {
                    Decision::Take { .. } | Decision::Duplicate => return,
                    Decision::Gap { expected } => (Code::OUT_OF_ORDER, expected),
                    Decision::UnknownRun => (Code::UNKNOWN_RUN, Number(1)),
                    Decision::Malformed => panic!("a session let {first} {bodies:?} through"),
                };
                open.closed = true;
                let scope = Scope::Lane { lane: id, expected };
                let fault =
                    Fault { code, scope, retry: code.retry(), retry_after_ms: 0, detail: "" };
                self.say(now, session, &Message::Fault(fault));
            }
        }
    }

    fn say(&mut self, now: Instant, session: &mut edge::Session, message: &Message<'_>) {
        let _told: edge::Told = session.handle_downstream(now, message, 0, &mut self.out).unwrap();
    }

    /// The worker is gone from this edge's sight: lanes that can't spool close, what is not acked is not known.
    pub fn link_lost(&mut self, session: &mut edge::Session) {
        for (&id, open) in self.lanes.iter_mut().filter(|(_, open)| !open.closed) {
            if open.way == Way::Direct {
                open.closed = true;
                session.close_lane(id, Code::UNAVAILABLE, Some(20));
            }
        }
    }

    /// What may be told now, appended to `out`.
    pub fn poll(
        &mut self,
        now: Instant,
        session: &mut edge::Session,
        edge: &Edge,
        worker: &Worker,
        out: &mut Vec<u8>,
    ) {
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        for id in ids {
            if !self.lanes[&id].closed {
                self.poll_lane(now, session, id, edge, worker);
            }
        }
        out.append(&mut self.out);
    }

    fn poll_lane(
        &mut self,
        now: Instant,
        session: &mut edge::Session,
        id: LaneId,
        edge: &Edge,
        worker: &Worker,
    ) {
        let open = self.lanes.get_mut(&id).unwrap();
        if open.way == Way::Spool && edge.link && !edge.spool.holds(&open.lane) {
            let caught_up = worker.durable_last(&open.lane) >= open.spooled;
            if caught_up {
                (open.way, open.answered, open.first) = (Way::Direct, false, open.told + 1);
            }
        }
        match open.way {
            Way::Spool => {
                let (answered, through) = (open.answered, open.spooled);
                let told = open.told;
                (open.answered, open.told) = (true, through);
                if !answered {
                    let answer = LaneAnswer { lane: id, last: None, ..answer(id) };
                    self.say(now, session, &Message::LaneAnswer(answer));
                }
                if through > told {
                    self.ack(now, session, id, through, Durability::Spooled);
                }
            }
            Way::Direct => self.poll_direct(now, session, id, worker),
        }
    }

    fn poll_direct(
        &mut self,
        now: Instant,
        session: &mut edge::Session,
        id: LaneId,
        worker: &Worker,
    ) {
        let open = self.lanes.get_mut(&id).unwrap();
        let last = worker.durable_last(&open.lane);
        let ended =
            worker.ended(&open.lane, if open.answered { open.told + 1 } else { open.first });
        let refused = ended.iter().filter_map(|&(number, body)| match body {
            Body::Void(code) => Some(Refused { number: Number(number), count: 1, code }),
            Body::Event(_) => None,
        });
        let (answered, told) = (open.answered, open.told);
        open.answered = true;
        open.told = open.told.max(last);
        if !answered {
            let mut room = [0; 65536];
            let refused = List::encode(refused, &mut room).unwrap();
            let answer = LaneAnswer { lane: id, last: Some(Number(last)), refused, ..answer(id) };
            self.say(now, session, &Message::LaneAnswer(answer));
        } else if last > told {
            let refused: Vec<Refused> = refused.collect();
            for Refused { number, count, code } in refused {
                let scope = Scope::Number { lane: id, number, count, version: Version(0) };
                let fault = Fault { code, scope, retry: false, retry_after_ms: 0, detail: "" };
                self.say(now, session, &Message::Fault(fault));
            }
            self.ack(now, session, id, last, Durability::Stored);
        }
    }

    fn ack(
        &mut self,
        now: Instant,
        session: &mut edge::Session,
        lane: LaneId,
        last: u64,
        durability: Durability,
    ) {
        let ack = Ack::Spelled { durability, lane, last: Number(last), receipts: List::default() };
        self.say(now, session, &Message::Ack(ack));
    }
}

fn answer(lane: LaneId) -> LaneAnswer<'static> {
    LaneAnswer {
        lane,
        last: None,
        worker: "w1",
        refused: List::default(),
        receipts: List::default(),
        uploads: List::default(),
        inbox: Version(0),
    }
}
