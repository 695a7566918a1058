//! Where a session's messages go: lane to slot to worker and back, with a port at each worker that is needed.
//!
//! Here: the ports and both directions. What may pass, and to whom, is [`gate`]'s; what belongs to which worker stands in
//! [`tables`]; a subscription on every worker is [`merge`]'s. Invariants: what one read brought goes to a worker in as few
//! calls as it can; when a worker goes away, everything of the session that lives there is closed retryably, and when it
//! is back a LANE is followed by the BINDs it has not heard.

mod aim;
mod asks;
mod cached;
mod calling;
mod devices;
mod errands;
mod fold;
mod gate;
mod gathered;
mod lines;
mod merge;
mod pages;
mod part;
mod sent;
mod served;
mod spread;
mod tables;
mod tend;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use spile_protocol::{
    code::Code,
    frame,
    id::{LinkSessionId, Number, Role, Run, SubscriptionId},
    limits::FRAME_LINK,
    message::{Attach, End, Fault, Full, Message, Sender},
    session::{Transmit, edge::Session},
    time::{Instant, Millis},
};

use self::{
    errands::Errand,
    gate::{Gate, To},
    tables::Tables,
};
use crate::buffers::Turn;
use crate::frames::Frames;
use crate::inlet::Arrived;
use crate::limits::AWAY_RETRY_MS;
use crate::sessions::Newest;
use crate::upstream::{Away, Input, Port, Ready, Workers};
use crate::watch::Until;
use crate::{Edge, policy::Principal};

/// A worker that says it has something and has nothing, so often in one turn, is asked again in the next.
const IDLE_ASKS: u32 = 8;

/// Below so much room a worker is not asked for more in the same turn.
const ROOM_MIN: usize = 2 * 1024;

/// Who a session is, to a worker.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) tenant: Box<str>,
    pub(crate) role: Role,
    pub(crate) principal: Box<str>,
    /// `ROLE/NAME`: what a service hears of who calls.
    pub(crate) caller: Box<str>,
    pub(crate) run: Run,
    pub(crate) abandoned: Run,
    pub(crate) receipts: bool,
    pub(crate) frame_max: u32,
    pub(crate) trace_base: [u8; 8],
    pub(crate) peer: std::net::SocketAddr,
    /// Is it of its principal and run?
    pub(crate) newest: Arc<Newest>,
    /// Until when its frames are logged.
    pub(crate) logged: Arc<Until>,
}

impl Who {
    /// As the policy sees it.
    pub(crate) fn principal(&self) -> Principal<'_> {
        Principal { role: self.role, name: &self.principal }
    }
}

/// A session's way to the workers.
pub(crate) struct Route {
    edge: Arc<Edge>,
    who: Who,
    ports: Vec<Option<Box<dyn Port>>>,
    tables: Tables,
    /// Frames for the client that did not fit its turn: they go first in the next one.
    waiting: VecDeque<(usize, Box<[u8]>)>,
    /// Whose turn is first next time.
    first: usize,
    /// The worker that has the slot of the session's name, where other edges come to it too.
    home: Option<usize>,
    /// Workers that something waits for, by place.
    back: Vec<Option<tend::Waiting>>,
}

/// What a read or a turn came to, for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) denied: u64,
    pub(crate) delivered: u64,
}

impl Route {
    pub(crate) fn new(edge: Arc<Edge>, who: Who) -> Self {
        let frames = Frames::of(&who.principal, who.trace_base, Arc::clone(&who.logged));
        let (mut tables, waiting) = (Tables::default(), VecDeque::new());
        tables.frames = frames;
        let home = edge.workers.of(&who.tenant, &who.principal);
        let shared = edge.workers.get(home).is_some_and(crate::upstream::Upstream::is_shared);
        let home = Some(home).filter(|_| shared);
        Self { edge, who, ports: Vec::new(), tables, waiting, first: 0, home, back: Vec::new() }
    }

    /// Do the workers take more?
    pub(crate) fn has_room(&self) -> bool {
        self.ports.iter().flatten().all(|port| port.has_room())
    }

    /// Takes all whole frames off the front of what arrived and hands them to the workers they are for.
    pub(crate) fn take(
        &mut self,
        machine: &mut Session,
        now: Instant,
        wall: Millis,
        arrived: &mut Arrived<'_>,
    ) -> Counted {
        let policy = self.edge.policy();
        let Self { edge, who, ports, tables, .. } = self;
        let workers = &edge.workers;
        let mut gate = Gate::new(machine, tables, who, &policy, edge, (now, wall), arrived);
        while let Some(to) = gate.front() {
            match to {
                To::Worker(place) => match port_at(ports, workers, who, place) {
                    Ok(port) => port.take(wall, &mut gate.run(place)),
                    Err(away) => gate.refuse_front(away),
                },
                To::Lane(place) => match port_at(ports, workers, who, place) {
                    Ok(port) => gate.open_lane(port),
                    Err(away) => gate.refuse_front(away),
                },
                To::Every => gate.spread(&mut |place, input| {
                    port_at(ports, workers, who, place)?.take(wall, &mut std::iter::once(input));
                    Ok(())
                }),
                To::Many => gate.ask_many(&mut |place, input| {
                    port_at(ports, workers, who, place)?.take(wall, &mut std::iter::once(input));
                    Ok(())
                }),
            }
        }
        let counted = gate.counted();
        self.note_flight(machine);
        counted
    }

    /// Logs what was said, where an operator wants that.
    pub(crate) fn log_said(&mut self, wall: Millis, turn: &Turn<'_>) {
        let frames = &mut self.tables.frames;
        if frames.are_logged(wall) {
            frames.said(wall, turn.said());
        }
    }

    fn note_flight(&mut self, machine: &Session) {
        let amount = machine.in_flight();
        self.ports.iter_mut().flatten().for_each(|port| port.in_flight(amount));
    }

    /// Says to the client what the workers have for it, as long as there is room. The task is woken when there is more.
    pub(crate) fn fill(
        &mut self,
        machine: &mut Session,
        now: Instant,
        wall: Millis,
        cx: &mut Context<'_>,
        out: &mut Turn<'_>,
    ) -> Counted {
        let mut counted = Counted::default();
        self.say_refusals(machine, now, out);
        self.say_waiting(machine, (now, wall), out, &mut counted);
        self.tend((now, wall), cx);
        let (count, first) = (self.ports.len(), self.first);
        let mut lost = false;
        for at in 0..count {
            let place = (first + at) % count;
            let was = self.ports.get(place).is_some_and(Option::is_some);
            self.fill_from(place, machine, (now, wall), cx, out, &mut counted);
            lost |= was && self.ports.get(place).is_some_and(Option::is_none);
        }
        if lost {
            // What waits for it is woken when it is back, and what ended with it is said.
            self.tend((now, wall), cx);
            for subscription in self.tables.say_held(machine, now, out, &mut counted) {
                self.end(subscription, wall);
            }
        }
        self.first = (first + 1) % count.max(1);
        self.answer(machine, now, out);
        for (call, code) in self.tables.heard.drain(..) {
            self.edge.recent.ended(wall, call, Some(code));
        }
        self.note_flight(machine);
        counted
    }

    fn fill_from(
        &mut self,
        place: usize,
        machine: &mut Session,
        (now, wall): (Instant, Millis),
        cx: &mut Context<'_>,
        out: &mut Turn<'_>,
        counted: &mut Counted,
    ) {
        let mut asks = 0;
        while self.waiting.is_empty() && out.room() >= ROOM_MIN {
            let Some(port) = self.ports.get_mut(place).and_then(Option::as_mut) else { return };
            match port.poll_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Ready::Away(away)) => {
                    self.lost(place, machine, away);
                    return self.say_refusals(machine, now, out);
                }
                Poll::Ready(Ready::Some) => {}
            }
            let before = out.len();
            let (tables, waiting) = (&mut self.tables, &mut self.waiting);
            let mut ended = None;
            let (mut over, mut errands) = (Vec::new(), Vec::new());
            port.poll(out.room(), &mut |message, payload_crc| {
                if let Message::Detach(detach) = message {
                    ended = Some(detach.code);
                    return;
                }
                if let Some(errand) = Errand::of(message) {
                    return errands.push(errand);
                }
                let told = if waiting.is_empty() {
                    tables.hear(place, message, payload_crc, machine, now, out)
                } else {
                    Err(Full)
                };
                match told {
                    Ok(told) => {
                        counted.delivered += told.delivered;
                        over.extend(told.over);
                    }
                    Err(Full) => {
                        waiting.extend(park_frame(message, payload_crc).map(|frame| (place, frame)))
                    }
                }
            });
            for subscription in over {
                self.end(subscription, wall);
            }
            self.run_errands(place, errands, wall);
            if let Some(code) = ended {
                // The worker has let go of the session already.
                self.ports.iter_mut().for_each(|port| drop(port.take()));
                machine.goaway(now, code, 0, std::time::Duration::ZERO);
            }
            asks += u32::from(out.len() == before);
            if asks > IDLE_ASKS {
                return cx.waker().wake_by_ref();
            }
        }
    }

    /// Tells the workers that a subscription is over which the client can't take any further.
    fn end(&mut self, subscription: SubscriptionId, wall: Millis) {
        let message = Message::End(End { subscription });
        let input = Input { message, number: Number(0), payload_crc: 0, block: None };
        for place in self.tables.forget_subscription(subscription) {
            if let Some(port) = self.ports.get_mut(place).and_then(Option::as_mut) {
                port.take(wall, &mut std::iter::once(input));
                self.tables.end_at(place, subscription);
            }
        }
    }

    /// A worker went away: what lives there is closed, and the client comes back with what LANE answers.
    fn lost(&mut self, place: usize, machine: &mut Session, away: Away) {
        if let Some(port) = self.ports.get_mut(place) {
            *port = None;
        }
        for lane in self.tables.lose(place, away) {
            machine.close_lane(lane, Code::UNAVAILABLE, Some(away.retry_after_ms));
        }
    }

    fn say_refusals(&mut self, machine: &mut Session, now: Instant, out: &mut Turn<'_>) {
        while let Some(&tables::Refusal { scope, code, retry_after_ms, detail }) =
            self.tables.refusals.front()
        {
            let retry = retry_after_ms.is_some();
            let retry_after_ms = retry_after_ms.unwrap_or_default();
            let fault = Fault { code, scope, retry, retry_after_ms, detail };
            if machine.handle_downstream(now, &Message::Fault(fault), 0, out).is_err() {
                return;
            }
            self.edge.metrics.fault(code);
            self.tables.heard(&Message::Fault(fault));
            self.tables.refusals.pop_front();
        }
    }

    fn say_waiting(
        &mut self,
        machine: &mut Session,
        (now, wall): (Instant, Millis),
        out: &mut Turn<'_>,
        counted: &mut Counted,
    ) {
        while let Some((place, frame)) = self.waiting.pop_front() {
            let Some((message, payload_crc)) = unpark(&frame) else { continue };
            match self.tables.hear(place, &message, payload_crc, machine, now, out) {
                Ok(told) => {
                    counted.delivered += told.delivered;
                    told.over.into_iter().for_each(|subscription| self.end(subscription, wall));
                }
                Err(Full) => return self.waiting.push_front((place, frame)),
            }
        }
        self.waiting = VecDeque::new();
        for subscription in self.tables.say_held(machine, now, out, counted) {
            self.end(subscription, wall);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        for call in self.tables.unheard() {
            self.edge.recent.ended(self.edge.clock.wall(), call, None);
        }
    }
}

/// The port at a worker, opened where there is none yet.
fn port_at<'p>(
    ports: &'p mut Vec<Option<Box<dyn Port>>>,
    workers: &Workers,
    who: &Who,
    place: usize,
) -> Result<&'p mut dyn Port, Away> {
    const AWAY: Away = Away { retry_after_ms: AWAY_RETRY_MS };
    if ports.len() <= place {
        ports.resize_with(workers.count(), || None);
    }
    let port = ports.get_mut(place).ok_or(AWAY)?;
    if port.is_none() {
        let worker = workers.get(place).ok_or(AWAY)?;
        let attached = who.newest.attach(|| worker.attach(&attach(who, &who.peer.to_string())));
        *port = Some(attached.ok_or(AWAY)??);
    }
    port.as_deref_mut().map_or(Err(AWAY), |port| Ok(port as &mut dyn Port))
}

fn attach<'a>(who: &'a Who, peer: &'a str) -> Attach<'a> {
    Attach {
        session: LinkSessionId(0),
        tenant: &who.tenant,
        role: who.role,
        principal: &who.principal,
        run: who.run,
        receipts: who.receipts,
        trace_base: who.trace_base,
        peer,
        frame_max: who.frame_max,
        abandoned: who.abandoned,
    }
}

/// A message kept as the frame it is.
fn park_frame(message: &Message<'_>, payload_crc: u32) -> Option<Box<[u8]>> {
    let mut frame = Vec::new();
    frame.put(message, payload_crc).ok()?;
    Some(frame.into_boxed_slice())
}

fn unpark(bytes: &[u8]) -> Option<(Message<'_>, u32)> {
    let (frame, _) = frame::decode(bytes, FRAME_LINK).ok()??;
    let message = Message::decode(&frame, Sender::Server).ok()?;
    Some((message, frame.payload_crc))
}
