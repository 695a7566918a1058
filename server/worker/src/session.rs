//! One attached session: its lanes, routes and subscriptions, and what it will be told.
//!
//! Owned by the task that drives it, so nothing here is locked; the worker's core is, for one [`Session::intake`] at a
//! time. No I/O waits here. In: [`Session::intake`], out: [`Session::poll`], when: [`Session::ready`].

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use spile_log::{Durable, State as LogState};
use spile_protocol::{
    code::Code,
    id::{LaneId, LinkSessionId, Role, Run},
    limits,
    message::Attach,
};
use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    answers::{Answers, Hearer, Sink, What},
    bell::Bell,
    changes::Asking,
    core::Attached,
    desk::{Desk, Identity},
    groups::polling::Part,
    inbox,
    intake::Intake,
    lookups::{self, Lookup},
    presence::{About, Kicked},
    receipts,
    subscription::Subscription,
    tables::principal,
    uploads::writing::Files,
    worker::Worker,
};

/// What a poll came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// There is nothing more to say now.
    Idle,
    /// There was no room for all: poll again when there is.
    More,
    /// The session is over, for this reason; drop it.
    Gone(Code),
}

/// A session that is attached. Dropping it detaches it.
pub struct Session {
    pub(crate) worker: Arc<Worker>,
    pub(crate) desk: Desk,
    /// Whoever drives it was told that there is no room, and waits to hear that there is.
    lacked_room: AtomicBool,
    /// Waits for the durable position to move.
    moved: ReusableBoxFuture<'static, watch::Receiver<Durable>>,
    /// The same of the chunk log, from the first upload on.
    chunks_moved: Option<ReusableBoxFuture<'static, watch::Receiver<Durable>>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("who", &self.desk.who).finish_non_exhaustive()
    }
}

async fn changed(mut durable: watch::Receiver<Durable>) -> watch::Receiver<Durable> {
    if durable.changed().await.is_err() {
        // The log is gone: it never moves again, and whoever drives the session hears it otherwise.
        std::future::pending::<()>().await;
    }
    durable
}

impl Session {
    pub(crate) fn attach(worker: Arc<Worker>, attach: &Attach<'_>, number: u64) -> Self {
        let who = Identity {
            tenant: attach.tenant.to_owned(),
            principal: attach.principal.to_owned(),
            role: attach.role,
            run: attach.run,
            receipts: attach.receipts,
            trace_base: attach.trace_base,
            frame_max: usize::try_from(attach.frame_max).unwrap_or(usize::MAX),
            edge: Arc::from(""),
        };
        let bell = Arc::new(Bell::default());
        let about = Arc::new(About::new(attach, worker.config.clock.now()));
        let scoped: Arc<str> = principal(attach.tenant, attach.role, attach.principal).into();
        let generation = {
            let mut core = worker.core();
            let newest = Attached { number, bell: bell.clone(), about: about.clone() };
            // One live session a (principal, run): the newest wins.
            if let Some(older) = core.sessions.insert((scoped.clone(), who.run), newest) {
                older.bell.send_away(Code::REPLACED);
            }
            core.generation
        };
        worker.counters.sessions.add(1);
        let durable = worker.durable();
        let moved = ReusableBoxFuture::new(changed(durable.clone()));
        let desk = Desk {
            who,
            scoped,
            number,
            bell,
            generation,
            durable,
            lanes: Vec::new(),
            routes: Vec::new(),
            answers: Answers::default(),
            subscriptions: Vec::new(),
            lookups: Vec::new(),
            confirms: Vec::new(),
            calling: None,
            files: Files::default(),
            groups: Part::default(),
            about,
            asking: None,
            heard: false,
        };
        Self { worker, desk, lacked_room: AtomicBool::new(false), moved, chunks_moved: None }
    }

    /// Through which edge it came.
    #[must_use]
    pub fn of_edge(mut self, edge: &str) -> Self {
        self.desk.who.edge = Arc::from(edge);
        self.desk.about.of_edge(&self.desk.who.edge);
        self
    }

    /// Its edge is told of changes of what it asks for. spec §10.8
    #[must_use]
    pub fn asking(mut self, asking: Asking) -> Self {
        self.desk.asking = Some(asking);
        self
    }

    /// What has to be confirmed when its edge has said that it is gone, where an operator kicked it.
    pub(crate) fn take_kicked(&self) -> Option<Kicked> {
        self.desk.about.take_kicked()
    }

    /// Who it is, as its edge said.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.desk.who.principal
    }

    /// Begins to take what came in with one read. The worker's core is locked until the intake is dropped, which hands all
    /// records to the log at once: nothing may be awaited meanwhile.
    pub fn intake(&mut self) -> Intake<'_> {
        Intake::begin(&self.worker, &mut self.desk)
    }

    /// Is there room for more? Where not, read nothing more from the client until [`Session::ready`] was heard: too much
    /// waits for the disk.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let room = self.there_is_room();
        if !room {
            self.lacked_room.store(true, Ordering::Relaxed);
        }
        room
    }

    /// Everything the session may be told now, as long as `room` bytes of frames last. One message goes out however little
    /// room there is.
    pub fn poll(&mut self, room: usize, sink: &mut Sink<'_>) -> Polled {
        if let Some(code) = self.desk.bell.gone() {
            return Polled::Gone(code);
        }
        self.desk.about.errands.say(sink);
        let end = self.sync();
        self.seal_whole(end);
        let worker = &self.worker;
        self.desk.answer_confirms(worker, end);
        let generation = self.desk.generation;
        let Desk {
            subscriptions,
            lookups,
            files,
            groups,
            scoped,
            who,
            answers,
            bell,
            heard,
            lanes,
            calling,
            about,
            ..
        } = &mut self.desk;
        let (who, lanes) = (&*who, &*lanes);
        let stored = |lane: LaneId, first, last| {
            let lane = usize::try_from(lane.0).ok().and_then(|at| lanes.get(at)?.as_ref());
            lane.map_or_else(Vec::new, |lane| receipts::stored(worker, who, lane, (first, last)))
        };
        let (name, frame_max) = (worker.config.name.as_str(), who.frame_max);
        let inbox = || inbox::told(&mut worker.core(), scoped);
        let uploads = || worker.core().uploads.open_of(scoped);
        let to =
            Hearer { worker: name, frame_max, stored: &stored, inbox: &inbox, uploads: &uploads };
        let mut said = answers.emit(end, room, to, sink);
        if answers.ready(end) {
            return Polled::More;
        }
        if std::mem::take(heard) {
            subscriptions.iter_mut().for_each(Subscription::woken);
            lookups.iter_mut().for_each(Lookup::woken);
        }
        let mut more = files.poll(worker, who, (end, room), &mut said, sink);
        more |= lookups::poll(lookups, worker, bell, (end, room), &mut said, sink);
        if let Some(calling) = calling {
            more |= calling.poll(worker, room, &mut said, sink);
        }
        for subscription in &mut *subscriptions {
            more |= subscription.poll(worker, who, (end, room), &mut said, sink);
        }
        more |= groups.poll(worker, (who, generation), (end, room), (answers, &mut said), sink);
        subscriptions.retain(|subscription| {
            let Some(last) = subscription.over() else { return true };
            if let Some(stream) = subscription.stream() {
                worker.core().release_stream(stream, bell);
            }
            answers.push(0, LaneId(0), What::Said(Box::new(last.clone())));
            false
        });
        // Who reads first changes, so that one subscription does not starve the others.
        if more && !subscriptions.is_empty() {
            subscriptions.rotate_left(1);
        }
        if answers.ready(end) && said < room {
            answers.emit(end, room - said, to, sink);
        }
        about.has_in_flight(answers.in_flight());
        if more || answers.ready(end) { Polled::More } else { Polled::Idle }
    }

    /// Looks how far the log is; where it was cut back, closes the lanes that lost something.
    fn sync(&mut self) -> u64 {
        let durable = *self.desk.durable.borrow_and_update();
        if durable.generation != self.desk.generation {
            let mut core = self.worker.core();
            self.desk.catch_up(&mut core);
        }
        let waits = !(self.desk.answers.is_empty() && self.desk.confirms.is_empty());
        if durable.state == LogState::Poisoned && waits {
            let core = self.worker.core();
            self.desk.lose(&core, durable.end.get(), Code::UNKNOWN_OUTCOME);
        }
        durable.end.get()
    }

    /// Uploads that came in whole become blobs.
    fn seal_whole(&mut self, end: u64) {
        if self.desk.files.writings.is_empty() {
            return;
        }
        self.desk.files.hash();
        let whole = self.desk.files.whole(end, &self.worker.jobs);
        if whole.is_empty() {
            return;
        }
        let mut intake = self.intake();
        for (upload, sealing, hash) in whole {
            intake.seal_whole(upload, sealing, hash);
        }
    }

    fn has_something(&self) -> bool {
        let desk = &self.desk;
        let durable = *desk.durable.borrow();
        let lost = durable.generation != desk.generation || durable.state == LogState::Poisoned;
        desk.bell.gone().is_some()
            || desk.answers.ready(durable.end.get())
            || desk.confirms.iter().any(|one| one.answer(&self.worker, durable.end.get()).is_some())
            || (lost && !(desk.answers.is_empty() && desk.confirms.is_empty()))
            || desk.files.ready(durable.end.get())
            || desk.lookups.iter().any(|one| one.ready(durable.end.get()))
            || desk.subscriptions.iter().any(|one| one.ready(durable.end.get()))
            || desk.groups.ready(&self.worker, durable.end.get())
    }

    fn waits_for_disk(&self) -> bool {
        !self.desk.answers.is_empty() || self.waits_for_more()
    }

    /// Does something but its own answers wait for the log to move?
    fn waits_for_more(&self) -> bool {
        !self.desk.confirms.is_empty()
            || self.lacked_room.load(Ordering::Relaxed)
            || self.desk.files.waits_for_events()
            || self.desk.lookups.iter().any(Lookup::waits_for_disk)
            || self.desk.subscriptions.iter().any(Subscription::waits_for_disk)
            || self.desk.groups.waits_for_disk()
    }

    /// Bulk that waits for its disk stops those who send bulk, and nobody else.
    fn there_is_room(&self) -> bool {
        self.worker.has_room()
            && (!self.desk.files.sends_chunks() || self.worker.has_room_for_chunks())
    }

    /// Is there room again, where there was none?
    fn found_room(&self) -> bool {
        let found = self.lacked_room.load(Ordering::Relaxed) && self.there_is_room();
        if found {
            self.lacked_room.store(false, Ordering::Relaxed);
        }
        found
    }

    /// Wakes the task when [`Session::poll`] may have something to say, or there is room again.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.desk.bell.heard(cx) {
            self.desk.heard = true;
            return Poll::Ready(());
        }
        // Each is asked, so that each wakes the task.
        let confirms = self.desk.confirms.iter_mut();
        let late = confirms.filter_map(|one| one.poll_late(cx).then_some(())).count() > 0;
        let lookups = self.desk.lookups.iter_mut();
        let late = lookups.map(|one| one.poll_late(cx)).fold(late, |late, one| late || one);
        let calling = self.desk.calling.as_mut();
        let called = calling.is_some_and(|calling| calling.poll_ready(&self.worker, cx));
        let late = self.desk.groups.poll_due(&self.worker, cx) || late;
        if late || called || self.has_something() || self.found_room() {
            return Poll::Ready(());
        }
        if self.poll_chunks(cx) {
            return Poll::Ready(());
        }
        while self.waits_for_disk() {
            if let Some(gate) = self.desk.answers.gate().filter(|_| !self.waits_for_more()) {
                self.worker.tide.await_at(gate, &self.desk.bell);
                // Durable between the two looks: the bell may have been rung before it was there.
                return if self.has_something() { Poll::Ready(()) } else { Poll::Pending };
            }
            let durable = ready!(self.moved.poll(cx));
            self.moved.set(changed(durable));
            if self.has_something() || self.found_room() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Did the chunk log move so that there is something? Where not, the task is woken when it moves.
    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(durable) = self.desk.files.durable() else { return false };
        let first = || ReusableBoxFuture::new(changed(durable.clone()));
        let mut moved = self.chunks_moved.take().unwrap_or_else(first);
        let mut something = false;
        while let Poll::Ready(durable) = moved.poll(cx) {
            moved.set(changed(durable));
            something = self.has_something() || self.found_room();
            if something {
                break;
            }
        }
        self.chunks_moved = Some(moved);
        something
    }

    /// Waits until [`Session::poll`] may have something to say. Nothing is lost when the wait is dropped.
    pub async fn ready(&mut self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(calling) = self.desk.calling.take() {
            calling.leave(&self.worker);
        }
        let mut core = self.worker.core();
        let desk = &mut self.desk;
        let name = (desk.scoped.clone(), desk.who.run);
        if core.sessions.get(&name).is_some_and(|attached| attached.number == desk.number) {
            core.sessions.remove(&name);
        }
        desk.lanes.drain(..).flatten().for_each(|lane| core.tables.release(lane.at));
        for stream in desk.lookups.drain(..).filter_map(|lookup| lookup.stream()) {
            core.release_stream(stream, &desk.bell);
        }
        for stream in desk.subscriptions.drain(..).filter_map(|subscription| subscription.stream())
        {
            core.release_stream(stream, &desk.bell);
        }
        drop(core);
        desk.groups.leave(&self.worker);
        self.worker.counters.sessions.sub(1);
    }
}

/// An attach of one's own process, where no link gives the session a number.
#[must_use]
pub fn attach_of<'a>(tenant: &'a str, role: Role, principal: &'a str, run: Run) -> Attach<'a> {
    Attach {
        session: LinkSessionId(0),
        tenant,
        role,
        principal,
        run,
        receipts: false,
        trace_base: [0; 8],
        peer: "",
        frame_max: limits::FRAME_DEFAULT,
        abandoned: Run([0; 8]),
    }
}
