//! What of a session lives at which worker. Invariant: what is closed or answered for good is forgotten here too.

use std::collections::VecDeque;

use spile_protocol::{
    code::Code,
    frame,
    id::{LaneId, RequestId, RouteId, SubscriptionId},
    limits::FRAME_LINK,
    message::{Bind, Fault, Full, Message, Scope, Sender, Trace},
    session::{
        Transmit,
        edge::{Session, Told},
    },
    time::Instant,
};

use super::{
    Counted, cached::Cached, lines, merge::Merge, park_frame, served::Served, spread::Spread,
    unpark,
};
use crate::buffers::Turn;
use crate::frames::Frames;
use crate::upstream::Away;

/// A lane that was opened.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) lane: LaneId,
    pub(super) place: usize,
    /// `None`: the session's own name.
    pub(super) key: Option<Box<str>>,
    /// The worker does not know the lane's BINDs: it was away, or the lane went to another worker.
    pub(super) stale: bool,
}

/// A route that was bound, as the frame that bound it.
#[derive(Debug)]
struct Bound {
    route: RouteId,
    lane: LaneId,
    frame: Box<[u8]>,
}

/// Where a subscription lives.
#[derive(Debug)]
pub(super) enum Sub {
    /// At one worker. What the client may not hear yet waits, in order: so many deliveries, unsettled, are too many for
    /// one subscription, whatever its window.
    One(usize, VecDeque<Box<[u8]>>),
    /// At every worker, merged.
    Every(Box<Merge>),
}

/// Where a request is asked.
#[derive(Debug)]
pub(super) enum Asks {
    /// Of one worker.
    One(usize),
    /// The same for a call to a service, which may do what can't be done twice.
    Call { place: usize, idempotent: bool },
    /// Of several: what they answer is gathered.
    Many(Box<Spread>),
}

/// What the client is told is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) scope: Scope,
    pub(super) code: Code,
    pub(super) retry_after_ms: Option<u32>,
    pub(super) detail: &'static str,
}

/// What became of a message for the client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    pub(super) delivered: u64,
    /// The subscription the client can't take any further.
    pub(super) over: Option<SubscriptionId>,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    lanes: Vec<Lane>,
    bound: Vec<Bound>,
    pub(super) subscriptions: Vec<(SubscriptionId, Sub)>,
    pub(super) requests: Vec<(RequestId, Asks)>,
    uploads: Vec<(u32, usize, Trace)>,
    /// Subscriptions the edge has ended at a worker that has not answered: what it still says of one is not about the next
    /// of that number.
    ending: Vec<(usize, SubscriptionId)>,
    pub(super) served: Served,
    pub(super) refusals: VecDeque<Refusal>,
    /// Answers of the edge's own, as frames: they go out when there is room.
    pub(super) answers: VecDeque<Box<[u8]>>,
    /// Calls whose answer the client has not heard, by their number among those that are remembered; and those of which it
    /// has, with the code.
    pub(super) called: Vec<(RequestId, u64)>,
    pub(super) heard: Vec<(u64, Code)>,
    /// What is answered out of the cache, and what may be put there.
    pub(super) cached: Cached,
    /// Calls that got a trace here.
    pub(super) traces: u32,
    /// The session's frames, where they are logged.
    pub(super) frames: Frames,
}

impl Tables {
    pub(super) fn lane(&self, lane: LaneId) -> Option<&Lane> {
        // Mostly the last or the only one; a session with many lanes has them in the order it opened them.
        self.lanes.iter().rev().find(|known| known.lane == lane)
    }

    /// Has the session a lane of that key? `own` is its name.
    pub(super) fn publishes(&self, key: &str, own: &str) -> bool {
        self.lanes.iter().any(|lane| lane.key.as_deref().unwrap_or(own) == key)
    }

    /// Notes where a lane goes; true where its key or its worker is another than before.
    pub(super) fn open_lane(&mut self, lane: LaneId, place: usize, key: Option<&str>) -> bool {
        if let Some(known) = self.lanes.iter_mut().find(|known| known.lane == lane) {
            let changed = known.key.as_deref() != key;
            known.stale |= known.place != place;
            known.place = place;
            if changed {
                known.key = key.map(Box::from);
            }
            return changed;
        }
        self.lanes.push(Lane { lane, place, key: key.map(Box::from), stale: false });
        false
    }

    /// The BINDs a worker has to hear behind a LANE; it has heard them then.
    pub(super) fn rebind(&mut self, lane: LaneId) -> impl Iterator<Item = Bind<'_>> {
        let known = self.lanes.iter_mut().find(|known| known.lane == lane);
        let stale = known.is_some_and(|known| std::mem::take(&mut known.stale));
        self.binds(lane).filter(move |_| stale)
    }

    /// The BINDs of a lane.
    pub(super) fn binds(&self, lane: LaneId) -> impl Iterator<Item = Bind<'_>> {
        self.bound.iter().filter(move |bound| bound.lane == lane).filter_map(Bound::message)
    }

    pub(super) fn bind(&mut self, bind: &Bind<'_>) {
        let mut frame = Vec::new();
        if frame.put(&Message::Bind(*bind), 0).is_err() {
            return;
        }
        let new = Bound { route: bind.route, lane: bind.lane, frame: frame.into_boxed_slice() };
        match self.bound.iter_mut().find(|bound| bound.route == bind.route) {
            Some(bound) => *bound = new,
            None => self.bound.push(new),
        }
    }

    pub(super) fn ask(&mut self, request: RequestId, place: usize) {
        self.requests.push((request, Asks::One(place)));
    }

    pub(super) fn ask_service(&mut self, request: RequestId, place: usize, idempotent: bool) {
        self.requests.push((request, Asks::Call { place, idempotent }));
    }

    /// It goes nowhere after all.
    pub(super) fn unask(&mut self, request: RequestId) {
        self.cached.over(request);
        self.requests.retain(|(known, _)| *known != request);
    }

    pub(super) fn upload(&mut self, upload: u32, place: usize, trace: Trace) {
        self.uploads.push((upload, place, trace));
    }

    pub(super) fn upload_trace(&self, upload: u32) -> Option<Trace> {
        self.uploads.iter().find(|(known, ..)| *known == upload).map(|(.., trace)| *trace)
    }

    pub(super) fn upload_at(&self, upload: u32) -> Option<usize> {
        self.uploads.iter().find(|(known, ..)| *known == upload).map(|(_, place, _)| *place)
    }

    pub(super) fn subscribe(&mut self, id: SubscriptionId, sub: Sub) {
        self.subscriptions.push((id, sub));
    }

    pub(super) fn subscription(&mut self, id: SubscriptionId) -> Option<&mut Sub> {
        self.subscriptions.iter_mut().find(|(known, _)| *known == id).map(|(_, sub)| sub)
    }

    /// Forgets a subscription: the workers it lives at.
    pub(super) fn forget_subscription(&mut self, id: SubscriptionId) -> Vec<usize> {
        let at = self.subscriptions.iter().position(|(known, _)| *known == id);
        match at.map(|at| self.subscriptions.swap_remove(at).1) {
            Some(Sub::One(place, _)) => vec![place],
            Some(Sub::Every(merge)) => merge.places(),
            None => Vec::new(),
        }
    }

    /// The edge ends a subscription at a worker.
    pub(super) fn end_at(&mut self, place: usize, id: SubscriptionId) {
        self.ending.push((place, id));
    }

    /// Is it about a subscription that the edge has ended there? The last that is said of it is its END or a FAULT.
    fn is_of_before(&mut self, place: usize, message: &Message<'_>) -> bool {
        let Some(id) = subscription_of(message) else { return false };
        let Some(at) = self.ending.iter().position(|ending| *ending == (place, id)) else {
            return false;
        };
        if matches!(message, Message::End(_) | Message::Fault(_)) {
            self.ending.swap_remove(at);
        }
        true
    }

    pub(super) fn refuse(&mut self, scope: Scope, code: Code, retry_after_ms: Option<u32>) {
        self.refusals.push_back(Refusal { scope, code, retry_after_ms, detail: "" });
    }

    /// What is asked for can't be meant, and why.
    pub(super) fn refuse_for(&mut self, scope: Scope, detail: &'static str) {
        let (code, retry_after_ms) = (Code::INVALID, None);
        self.refusals.push_back(Refusal { scope, code, retry_after_ms, detail });
    }

    /// The worker at `place` went away: the lanes that are closed by it. The rest of what lives there is refused.
    pub(super) fn lose(&mut self, place: usize, away: Away) -> Vec<LaneId> {
        let there = |at: usize| at == place;
        let retry = Some(away.retry_after_ms);
        let refusals = &mut self.refusals;
        let code = Code::UNAVAILABLE;
        let away = |scope| Refusal { scope, code, retry_after_ms: retry, detail: "" };
        self.subscriptions.retain_mut(|(id, sub)| {
            let lost = match sub {
                Sub::One(at, _) => there(*at),
                // spec §8.1.4: the others' events come.
                Sub::Every(merge) => merge.lose(place),
            };
            if lost {
                refusals.push_back(away(Scope::Subscription(*id)));
            }
            !lost
        });
        self.requests.retain_mut(|(request, asks)| {
            let lost = match asks {
                Asks::One(at) => there(*at).then_some((Code::UNAVAILABLE, true)),
                // spec §9.4.2: it may have been done.
                Asks::Call { place: at, idempotent } => {
                    there(*at).then_some((Code::UNKNOWN_OUTCOME, *idempotent))
                }
                Asks::Many(spread) => {
                    spread.lose(place);
                    None
                }
            };
            if let Some((code, again)) = lost {
                let (scope, retry_after_ms) = (Scope::Request(*request), retry.filter(|_| again));
                refusals.push_back(Refusal { scope, code, retry_after_ms, detail: "" });
            }
            lost.is_none()
        });
        self.served.lose(place);
        self.cached.lose(place);
        self.ending.retain(|(at, _)| !there(*at));
        self.uploads.retain(|(upload, at, _)| {
            if there(*at) {
                refusals.push_back(away(Scope::Upload { upload: *upload, expected: 0 }));
            }
            !there(*at)
        });
        let lost = self.lanes.iter_mut().filter(|lane| there(lane.place));
        lost.map(|lane| {
            lane.stale = true;
            lane.lane
        })
        .collect()
    }

    /// Passes on what the worker at `place` says.
    pub(super) fn hear(
        &mut self,
        place: usize,
        message: &Message<'_>,
        payload_crc: u32,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
    ) -> Result<Heard, Full> {
        if self.is_of_before(place, message) {
            return Ok(Heard::default());
        }
        let id = subscription_of(message);
        match id.and_then(|id| self.subscription(id)) {
            Some(Sub::Every(merge)) => {
                let heard = merge.hear(place, message, payload_crc, machine, now, out)?;
                if let (Some(id), true) = (id, merge.is_over()) {
                    self.forget_subscription(id);
                }
                return Ok(heard);
            }
            Some(Sub::One(_, held)) if !held.is_empty() => {
                held.extend(park_frame(message, payload_crc));
                return Ok(Heard::default());
            }
            Some(Sub::One(..)) | None => {}
        }
        if self.served.answered(place, message) || self.gather(place, message, payload_crc) {
            return Ok(Heard::default());
        }
        if let Message::Call(call) = message {
            return self.call(place, call, payload_crc, machine, now, out);
        }
        let told = machine.handle_downstream(now, message, payload_crc, out)?;
        if told == Told::NoCredit {
            if let Some(Sub::One(_, held)) = id.and_then(|id| self.subscription(id)) {
                held.extend(park_frame(message, payload_crc));
            }
            return Ok(Heard::default());
        }
        self.cached.hear(message, payload_crc);
        match told {
            Told::TooLong => self.hear_of(request_of(message), Code::TOO_LARGE),
            Told::Said | Told::Delivered(_) | Told::NoCredit | Told::Dropped => self.heard(message),
        }
        self.note(message);
        Ok(heard_of(told, message))
    }

    /// Says what is held back, as far as the client's credit goes: the subscriptions it can't take any further.
    pub(super) fn say_held(
        &mut self,
        machine: &mut Session,
        now: Instant,
        out: &mut Turn<'_>,
        counted: &mut Counted,
    ) -> Vec<SubscriptionId> {
        let mut over = Vec::new();
        for (id, sub) in &mut self.subscriptions {
            let is_over = match sub {
                Sub::Every(merge) => {
                    counted.delivered += merge.speak(machine, now, out);
                    merge.is_over()
                }
                Sub::One(_, held) if held.is_empty() => false,
                Sub::One(_, held) => say_in_order(held, machine, now, out, counted),
            };
            if is_over {
                over.push(*id);
            }
        }
        over
    }

    /// Forgets what a message that went out has ended.
    fn note(&mut self, message: &Message<'_>) {
        if let Message::End(end) = message {
            self.forget_subscription(end.subscription);
        } else if let Message::Value(value) = message {
            self.answered(value.fields.request, value.fields.more);
        } else if let Message::Reply(reply) = message {
            self.answered(reply.fields.request, reply.fields.more);
        } else if let Message::Opened(opened) = message {
            if !opened.blob.is_empty() {
                self.end_upload(opened.upload);
            }
        } else if let Message::Fault(fault) = message {
            self.faulted(fault.scope);
        }
    }

    fn faulted(&mut self, scope: Scope) {
        match scope {
            Scope::Subscription(id) => drop(self.forget_subscription(id)),
            Scope::Request(request) => self.answered(request, false),
            Scope::Upload { upload, .. } => self.end_upload(upload),
            Scope::Session | Scope::Lane { .. } | Scope::Number { .. } | Scope::Route(_) => {}
        }
    }

    /// Everything at a worker that goes on when it is back.
    pub(super) fn waits(&self, place: usize, now: Instant) -> bool {
        self.served.waits(place)
            || self.subscriptions.iter().any(|(_, sub)| match sub {
                Sub::Every(merge) => merge.waits(place, now),
                Sub::One(..) => false,
            })
    }

    pub(super) fn merges(&mut self) -> impl Iterator<Item = &mut Merge> {
        self.subscriptions.iter_mut().filter_map(|(_, sub)| match sub {
            Sub::Every(merge) => Some(&mut **merge),
            Sub::One(..) => None,
        })
    }

    fn answered(&mut self, request: RequestId, more: bool) {
        if !more {
            self.cached.over(request);
        }
        self.requests.retain(|(known, _)| more || *known != request);
    }

    pub(super) fn end_upload(&mut self, upload: u32) {
        self.uploads.retain(|(known, ..)| *known != upload);
    }
}

impl Bound {
    fn message(&self) -> Option<Bind<'_>> {
        let (frame, _) = frame::decode(&self.frame, FRAME_LINK).ok()??;
        let Message::Bind(bind) = Message::decode(&frame, Sender::Client).ok()? else {
            return None;
        };
        Some(bind)
    }
}

/// Says what waits for credit, from the first on; true when that was the end of it.
fn say_in_order(
    held: &mut VecDeque<Box<[u8]>>,
    machine: &mut Session,
    now: Instant,
    out: &mut Turn<'_>,
    counted: &mut Counted,
) -> bool {
    let mut over = false;
    while let Some((message, payload_crc)) = held.front().and_then(|frame| unpark(frame)) {
        match machine.handle_downstream(now, &message, payload_crc, out) {
            Ok(Told::NoCredit) | Err(Full) => return over,
            Ok(told) => {
                let heard = heard_of(told, &message);
                counted.delivered += heard.delivered;
                over |=
                    heard.over.is_some() || matches!(message, Message::End(_) | Message::Fault(_));
            }
        }
        held.pop_front();
    }
    *held = VecDeque::new();
    over
}

fn heard_of(told: Told, message: &Message<'_>) -> Heard {
    lines::delivered(told, message);
    match told {
        Told::Delivered(_) => Heard { delivered: events_of(message), over: None },
        Told::TooLong => Heard { delivered: 0, over: subscription_of(message) },
        Told::Said | Told::Dropped | Told::NoCredit => Heard::default(),
    }
}

/// The subscription a worker's message is about.
pub(super) fn subscription_of(message: &Message<'_>) -> Option<SubscriptionId> {
    if let Message::Deliver(deliver) = message {
        Some(deliver.subscription)
    } else if let Message::Credit(credit) = message {
        credit.subscription
    } else if let Message::End(end) = message {
        Some(end.subscription)
    } else if let Message::Settle(settle) = message {
        Some(settle.subscription)
    } else if let Message::Fault(Fault { scope: Scope::Subscription(id), .. }) = message {
        Some(*id)
    } else {
        None
    }
}

/// The request a worker's message answers.
pub(super) fn request_of(message: &Message<'_>) -> Option<RequestId> {
    if let Message::Value(value) = message {
        Some(value.fields.request)
    } else if let Message::Reply(reply) = message {
        Some(reply.fields.request)
    } else if let Message::Fault(Fault { scope: Scope::Request(request), .. }) = message {
        Some(*request)
    } else {
        None
    }
}

/// How many events a delivery has.
pub(super) fn events_of(message: &Message<'_>) -> u64 {
    if let Message::Deliver(deliver) = message { u64::from(deliver.lengths.count()) } else { 0 }
}
