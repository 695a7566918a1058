//! What a session has named: lanes, routes, subscriptions, uploads, questions; each found by its small number.
//!
//! The invariant: what is in flight in the tables and what is spent in the window are the same.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};

use crate::{
    code::Code,
    id::{LaneId, Number, RequestId, RouteId, SubscriptionId},
    limits,
    session::window::{Amount, Window},
};

/// One table of a session's own small numbers: an index, no hashing.
fn at<T>(table: &[Option<T>], index: u32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)?.as_ref()
}

fn at_mut<T>(table: &mut [Option<T>], index: u32) -> Option<&mut T> {
    table.get_mut(usize::try_from(index).ok()?)?.as_mut()
}

fn put<T>(table: &mut Vec<Option<T>>, index: u32, cap: u32, item: T) -> bool {
    let Some(at) = usize::try_from(index).ok().filter(|_| index < cap) else { return false };
    if table.len() <= at {
        table.resize_with(at + 1, || None);
    }
    table.get_mut(at).is_some_and(|slot| {
        *slot = Some(item);
        true
    })
}

/// How far a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// LANE came, its answer has not gone out: events are taken, acks of before are not passed on.
    Opening,
    /// Answered.
    Open,
    /// Closed by a FAULT: events are dropped until a new LANE.
    Closed,
}

/// A frame in flight: it leaves the credit when its last number is acked.
#[derive(Clone, Copy, Debug)]
struct Sent {
    last: Number,
    amount: Amount,
}

/// Numbers that were refused and whose FAULT has not gone out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voided {
    pub(super) first: Number,
    pub(super) count: u32,
    pub(super) code: Code,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) state: LaneState,
    /// The key it carries; `None` for the principal's own name.
    key: Option<Box<str>>,
    /// The number of the next event, where none is spelled.
    pub(super) next: Number,
    /// The last number the client was told is stored or refused.
    pub(super) acked: Number,
    sent: VecDeque<Sent>,
    pub(super) voids: VecDeque<Voided>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) lane: LaneId,
    pub(super) denied: Option<Code>,
}

/// An upload: chunks come from `next` on; up to `stored` they left the credit. spec §7.2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upload {
    pub(super) number: u32,
    pub(super) size: u64,
    pub(super) next: u64,
    pub(super) stored: u64,
    pub(super) state: UploadState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadState {
    /// OPEN came, its answer has not gone out; a new upload may begin at 0 at once.
    Opening,
    /// Answered.
    Open,
    /// SEAL came: no more chunks.
    Sealing,
    /// ABORT came: everything but its answer is dropped.
    Aborting,
}

/// A question of the client's that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) request: RequestId,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Tables {
    pub(super) window: Window,
    lanes: Vec<Option<Box<Lane>>>,
    routes: Vec<Option<Route>>,
    pub(super) subscriptions: Vec<Subscription>,
    /// Chunks in flight, over all uploads.
    pub(super) chunks: Window,
    uploads: Vec<Upload>,
    asked: Vec<Asked>,
    /// Calls to the client that wait for its answer.
    pub(super) called: Vec<RequestId>,
}

impl Tables {
    pub(super) fn new(credit: Amount, chunk_bytes: u32) -> Self {
        // A first flight goes out before the credit is known: whatever the limit, that much is taken.
        let first_flight = u32::try_from(limits::FIRST_FLIGHT_KEPT).unwrap_or(u32::MAX);
        let mut window = Window::new(Amount { events: first_flight / 8, bytes: first_flight });
        window.raise(credit);
        Self {
            window,
            lanes: Vec::new(),
            routes: Vec::new(),
            subscriptions: Vec::new(),
            uploads: Vec::new(),
            chunks: Window::new(Amount { events: 0, bytes: chunk_bytes }),
            asked: Vec::new(),
            called: Vec::new(),
        }
    }

    /// Is nothing waited for?
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_idle() && self.chunks.is_idle() && self.asked.is_empty()
    }

    pub(super) fn lane_mut(&mut self, lane: LaneId) -> Option<&mut Lane> {
        at_mut(&mut self.lanes, lane.0).map(Box::as_mut)
    }

    pub(super) fn lane(&self, lane: LaneId) -> Option<&Lane> {
        at(&self.lanes, lane.0).map(Box::as_ref)
    }

    /// Opens a lane at `first`; not so where its number is above the cap.
    pub(super) fn open_lane(&mut self, id: LaneId, first: Number, key: Option<&str>) -> bool {
        self.close_lane(id);
        let lane = Lane {
            state: LaneState::Opening,
            key: key.map(Box::from),
            next: first,
            acked: Number(first.0.saturating_sub(1)),
            sent: VecDeque::new(),
            voids: VecDeque::new(),
        };
        put(&mut self.lanes, id.0, limits::LANES, Box::new(lane))
    }

    /// Does another lane that is not closed carry that key? `own` is the principal's name, which `None` stands for.
    pub(super) fn carries(&self, besides: LaneId, key: Option<&str>, own: &str) -> bool {
        let key = key.unwrap_or(own);
        self.lanes.iter().zip(0_u32..).any(|(lane, id)| {
            let open =
                lane.as_ref().filter(|lane| lane.state != LaneState::Closed && id != besides.0);
            open.is_some_and(|lane| lane.key.as_deref().unwrap_or(own) == key)
        })
    }

    /// Is something in flight on the lane under another key than that?
    pub(super) fn is_busy_with_another(&self, id: LaneId, key: Option<&str>) -> bool {
        self.lane(id).is_some_and(|lane| !lane.sent.is_empty() && lane.key.as_deref() != key)
    }

    /// Closes a lane that is not closed: the number expected next.
    pub(super) fn close_lane(&mut self, id: LaneId) -> Option<Number> {
        let (window, lanes) = (&mut self.window, &mut self.lanes);
        let lane = at_mut(lanes, id.0).filter(|lane| lane.state != LaneState::Closed)?;
        lane.state = LaneState::Closed;
        for sent in lane.sent.drain(..) {
            window.release(sent.amount);
        }
        lane.sent = VecDeque::new();
        lane.voids = VecDeque::new();
        Some(Number(lane.acked.0.saturating_add(1)))
    }

    pub(super) fn bind(&mut self, route: RouteId, lane: LaneId) -> bool {
        put(&mut self.routes, route.0, limits::ROUTES, Route { lane, denied: None })
    }

    pub(super) fn route(&self, route: RouteId) -> Option<Route> {
        at(&self.routes, route.0).copied()
    }

    pub(super) fn route_mut(&mut self, route: RouteId) -> Option<&mut Route> {
        at_mut(&mut self.routes, route.0)
    }

    /// Notes a frame as in flight, unless all of it was acked before: spec §5.6.6
    #[must_use]
    pub(super) fn spend(&mut self, id: LaneId, last: Number, amount: Amount) -> bool {
        let Some(lane) = at_mut(&mut self.lanes, id.0) else { return false };
        if last <= lane.acked {
            return true;
        }
        if !self.window.spend(amount) {
            return false;
        }
        lane.sent.push_back(Sent { last, amount });
        true
    }

    /// Everything of the lane through `last` is stored or refused: it leaves the credit. How far that goes past what was
    /// acked before; `None` where it says nothing new.
    pub(super) fn ack(&mut self, id: LaneId, last: Number) -> Option<u64> {
        let lane = at_mut(&mut self.lanes, id.0)?;
        let step = last.0.checked_sub(lane.acked.0).filter(|&step| step > 0)?;
        lane.acked = last;
        while let Some(sent) = lane.sent.front().filter(|sent| sent.last <= last).copied() {
            lane.sent.pop_front();
            self.window.release(sent.amount);
        }
        Some(step)
    }

    /// Gives back the room that nothing in flight needs: an idle session is small.
    pub(super) fn give_back(&mut self) {
        for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.sent.is_empty()) {
            lane.sent = VecDeque::new();
        }
        for subscription in
            self.subscriptions.iter_mut().filter(|subscription| subscription.open.is_empty())
        {
            subscription.open = VecDeque::new();
        }
    }

    pub(super) fn subscription_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.id == id)
    }

    pub(super) fn subscription(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.id == id)
    }

    pub(super) fn subscribe(&mut self, subscription: Subscription) -> bool {
        let most = usize::try_from(limits::SUBSCRIPTIONS).unwrap_or(usize::MAX);
        let takes = self.subscriptions.len() < most;
        if takes {
            self.subscriptions.push(subscription);
        }
        takes
    }

    pub(super) fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.retain(|subscription| subscription.id != id);
    }

    pub(super) fn upload_mut(&mut self, number: u32) -> Option<&mut Upload> {
        self.uploads.iter_mut().find(|upload| upload.number == number)
    }

    /// Opens an upload, anew where its number is in use; not so at the cap.
    pub(super) fn open_upload(&mut self, number: u32, size: u64) -> bool {
        self.end_upload(number);
        let takes = self.uploads.len() < limits::UPLOADS;
        if takes {
            self.uploads.push(Upload {
                number,
                size,
                next: 0,
                stored: 0,
                state: UploadState::Opening,
            });
        }
        takes
    }

    /// Bytes of an upload are stored: they leave the credit.
    pub(super) fn store(&mut self, number: u32, offset: u64) {
        let Some(upload) = self.uploads.iter_mut().find(|upload| upload.number == number) else {
            return;
        };
        if upload.next == upload.stored {
            // Nothing in flight: an upload that goes on begins where it was left.
            upload.next = upload.next.max(offset);
            upload.stored = upload.next;
        }
        let through = offset.clamp(upload.stored, upload.next);
        self.chunks.release(bytes(through - upload.stored));
        upload.stored = through;
    }

    /// Ends an upload: what is in flight of it leaves the credit.
    pub(super) fn end_upload(&mut self, number: u32) {
        let (chunks, uploads) = (&mut self.chunks, &mut self.uploads);
        uploads.retain(|upload| {
            let ends = upload.number == number;
            if ends {
                chunks.release(bytes(upload.next - upload.stored));
            }
            !ends
        });
    }

    pub(super) fn is_asked(&self, request: RequestId) -> bool {
        self.asked.iter().any(|asked| asked.request == request)
    }

    /// Notes a question; not so at the caps.
    pub(super) fn ask(&mut self, request: RequestId, bytes: usize) -> bool {
        let held: usize = self.asked.iter().map(|asked| asked.bytes).sum();
        let takes = self.asked.len() < limits::REQUESTS
            && (held == 0 || held.saturating_add(bytes) <= limits::REQUEST_BYTES);
        if takes {
            self.asked.push(Asked { request, bytes });
        }
        takes
    }

    pub(super) fn answered(&mut self, request: RequestId) {
        self.asked.retain(|asked| asked.request != request);
    }
}

/// So many bytes of chunks; they cost no events.
pub(super) fn bytes(bytes: u64) -> Amount {
    Amount { events: 0, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }
}

/// A delivery that is not settled.
#[derive(Clone, Copy, Debug)]
struct Delivered {
    amount: Amount,
    /// Events of it that are settled.
    settled: u32,
    done: bool,
}

/// How deliveries of a subscription are settled. spec §8.3.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settles {
    /// By *seen* only.
    Seen,
    /// By everything but *seen*: a group.
    Each,
    /// Either way: the inbox.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    /// SUBSCRIBE came, its CREDIT has not gone out.
    Opening,
    Open,
    /// The client's END came: deliveries are dropped, until the server's END goes out.
    Ending,
}

/// A subscription: what may be delivered, what is not settled, and what the last delivery spelled.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    pub(super) settles: Settles,
    pub(super) window: Window,
    pub(super) state: SubscriptionState,
    /// Deliveries that went out: the next one has one more.
    pub(super) delivered: u64,
    /// Those not settled, up to `delivered`.
    open: VecDeque<Delivered>,
    pub(super) spelled: Spelled,
}

/// What the last delivery of a subscription spelled, so that the next need not.
#[derive(Debug, Default)]
pub(super) struct Spelled {
    pub(super) key: Option<Box<str>>,
    pub(super) topic: Option<Box<str>>,
    pub(super) content_type: Option<Box<str>>,
    pub(super) schema: u32,
    pub(super) encoding: Option<Box<str>>,
    pub(super) worker: Option<Box<str>>,
}

impl Subscription {
    pub(super) fn new(id: SubscriptionId, settles: Settles, credit: Amount) -> Self {
        let (open, spelled) = (VecDeque::new(), Spelled::default());
        let (window, state) = (Window::new(credit), SubscriptionState::Opening);
        Self { id, settles, window, state, delivered: 0, open, spelled }
    }

    /// May this be delivered now?
    pub(super) fn takes(&self, amount: Amount) -> bool {
        self.open.len() < limits::DELIVERIES && self.window.takes(amount)
    }

    /// It is delivered: its number.
    pub(super) fn deliver(&mut self, amount: Amount) -> u64 {
        // The caller asked `takes`; what is not spent here is not released later either.
        let done = !self.window.spend(amount);
        self.open.push_back(Delivered { amount, settled: 0, done });
        self.delivered += 1;
        self.delivered
    }

    /// Settles `events` of one delivery, 0 for all; false where there never was such a one.
    pub(super) fn settle(&mut self, delivery: u64, events: u32) -> bool {
        if delivery == 0 || delivery > self.delivered {
            return false;
        }
        let back = usize::try_from(self.delivered - delivery).unwrap_or(usize::MAX);
        let at = self.open.len().checked_sub(1).and_then(|last| last.checked_sub(back));
        if let Some(open) = at.and_then(|at| self.open.get_mut(at)) {
            open.settled = if events == 0 { u32::MAX } else { open.settled.saturating_add(events) };
            if !open.done && open.settled >= open.amount.events {
                open.done = true;
                self.window.release(open.amount);
            }
        }
        self.forget_done();
        true
    }

    /// Would *seen* of it free anything?
    pub(super) fn frees(&self, delivery: u64) -> bool {
        let behind = self.delivered.checked_sub(delivery);
        behind.is_some_and(|behind| usize::try_from(behind).is_ok_and(|n| n < self.open.len()))
    }

    /// SEEN: everything up to `delivery` was received.
    pub(super) fn seen(&mut self, delivery: u64) -> bool {
        if delivery == 0 || delivery > self.delivered {
            return false;
        }
        let keep = usize::try_from(self.delivered - delivery).unwrap_or(usize::MAX);
        while self.open.len() > keep {
            if let Some(open) = self.open.pop_front().filter(|open| !open.done) {
                self.window.release(open.amount);
            }
        }
        true
    }

    fn forget_done(&mut self) {
        while self.open.front().is_some_and(|open| open.done) {
            self.open.pop_front();
        }
    }
}
