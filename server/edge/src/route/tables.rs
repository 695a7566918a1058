//! What of a session lives at which worker. Invariant: what is closed or answered for good is forgotten here too.

use std::collections::VecDeque;

use spile_protocol::{
    code::Code,
    frame,
    id::{LaneId, RequestId, RouteId, SubscriptionId},
    limits::FRAME_LINK,
    message::{Bind, Fault, Full, Message, Scope, Sender},
    session::{
        Transmit,
        edge::{Session, Told},
    },
    time::Instant,
};

use super::{Counted, merge::Merge, park_frame, unpark};
use crate::buffers::Turn;
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

/// What the client is told is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) scope: Scope,
    pub(super) code: Code,
    pub(super) retry_after_ms: Option<u32>,
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
    subscriptions: Vec<(SubscriptionId, Sub)>,
    requests: Vec<(RequestId, usize)>,
    uploads: Vec<(u32, usize)>,
    pub(super) refusals: VecDeque<Refusal>,
}

impl Tables {
    pub(super) fn lane(&self, lane: LaneId) -> Option<&Lane> {
        // Mostly the last or the only one; a session with many lanes has them in the order it opened them.
        self.lanes.iter().rev().find(|known| known.lane == lane)
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
        self.requests.push((request, place));
    }

    pub(super) fn upload(&mut self, upload: u32, place: usize) {
        self.uploads.push((upload, place));
    }

    pub(super) fn upload_at(&self, upload: u32) -> Option<usize> {
        self.uploads.iter().find(|(known, _)| *known == upload).map(|(_, place)| *place)
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
            Some(Sub::Every(merge)) => (0..merge.count()).collect(),
            None => Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, scope: Scope, code: Code, retry_after_ms: Option<u32>) {
        self.refusals.push_back(Refusal { scope, code, retry_after_ms });
    }

    /// The worker at `place` went away: the lanes that are closed by it. The rest of what lives there is refused.
    pub(super) fn lose(&mut self, place: usize, away: Away) -> Vec<LaneId> {
        let there = |at: usize| at == place;
        let retry = Some(away.retry_after_ms);
        let refusals = &mut self.refusals;
        let mut refuse = |scope| {
            refusals.push_back(Refusal { scope, code: Code::UNAVAILABLE, retry_after_ms: retry });
        };
        self.subscriptions.retain(|(id, sub)| {
            let lost = match sub {
                Sub::One(at, _) => there(*at),
                Sub::Every(_) => true,
            };
            if lost {
                refuse(Scope::Subscription(*id));
            }
            !lost
        });
        self.requests.retain(|(request, at)| {
            if there(*at) {
                refuse(Scope::Request(*request));
            }
            !there(*at)
        });
        self.uploads.retain(|(upload, at)| {
            if there(*at) {
                refuse(Scope::Upload { upload: *upload, expected: 0 });
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
        let told = machine.handle_downstream(now, message, payload_crc, out)?;
        if told == Told::NoCredit {
            match id.and_then(|id| self.subscription(id)) {
                Some(Sub::One(_, held)) => held.extend(park_frame(message, payload_crc)),
                // A CALL above what the client may have open: whoever asked hears nothing and asks again in time.
                Some(Sub::Every(_)) | None => {}
            }
            return Ok(Heard::default());
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
                    counted.delivered += merge.say_held(machine, now, out);
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

    fn answered(&mut self, request: RequestId, more: bool) {
        self.requests.retain(|(known, _)| more || *known != request);
    }

    pub(super) fn end_upload(&mut self, upload: u32) {
        self.uploads.retain(|(known, _)| *known != upload);
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

/// How many events a delivery has.
pub(super) fn events_of(message: &Message<'_>) -> u64 {
    if let Message::Deliver(deliver) = message { u64::from(deliver.lengths.count()) } else { 0 }
}
