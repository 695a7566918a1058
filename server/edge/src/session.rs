//! One client's connection: one task, a short loop around the pure machine that decides nothing.
//!
//! A turn reads what there is, hands it to the workers in one go, collects what is to be said, and writes it in one go.
//! Reading never stops because writing blocks: what may come in is bounded by credit, what is to go out is derived from
//! state. Invariants: no byte is lost between turns; an idle session holds no buffer; whoever is cut is told first, as
//! far as it still listens.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use spile_protocol::{
    code::Code,
    message::Auth,
    session::edge::{Admission, Config, Input, Session},
    time::{Instant, Millis},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Sleep;

use crate::auth::{self, Admitted, Channel, Presented};
use crate::buffers::{Outlet, Turn};
use crate::half_open::Place;
use crate::inlet::{Arrived, Got, Inlet};
use crate::limits::{LINGER, LOOK_FOR_ROOM, READS_A_TURN};
use crate::listener::Stream;
use crate::route::{Counted, Route, Who};
use crate::sessions::Seat;
use crate::signal::Signal;
use crate::watch::Fault;
use crate::{Edge, trace};

/// A client's connection, from the end of its TLS handshake on.
pub struct Connection<S> {
    edge: Arc<Edge>,
    stream: S,
    inlet: Inlet,
    outlet: Outlet,
    timer: Option<Pin<Box<Sleep>>>,
    session: Whole,
    told_to_go: bool,
    /// It is not read for want of room, and its peer does not read.
    stuck: bool,
}

/// The session behind the bytes: the machine, and what this edge knows of the client.
struct Whole {
    machine: Session,
    number: u64,
    peer: SocketAddr,
    signal: Arc<Signal>,
    /// What only an unauthenticated connection has.
    entry: Option<Box<Entry>>,
    /// What only a live session has.
    live: Option<Box<Alive>>,
}

struct Entry {
    presented: Presented,
    _place: Place,
}

struct Alive {
    route: Route,
    seat: Seat,
    /// When it must end, whatever it does; 0 for never.
    ends: Millis,
}

impl Alive {
    /// What operators hear of what it was told.
    fn heard(&mut self, edge: &Edge, time: Millis, turn: &Turn<'_>) {
        let live = self.seat.live();
        if let Some(code) = turn.fault() {
            edge.watch.told(&live.tenant, &live.principal, Fault { time, code });
        }
        self.route.log_said(time, turn);
    }

    fn note(&self, machine: &Session) {
        self.seat.live().has_in_flight(machine.in_flight().events);
    }
}

/// How a connection ended.
#[derive(Debug)]
enum Ended {
    /// The session is over, for this reason, and the peer was told.
    Over(Code),
    /// The peer closed the connection.
    Gone,
    /// The connection broke.
    Broken(io::Error),
}

impl<S: Stream> Connection<S> {
    /// A client has come in, at `came`; it has not said who it is.
    #[must_use]
    pub fn new(
        edge: Arc<Edge>,
        stream: S,
        presented: Presented,
        peer: SocketAddr,
        signal: Arc<Signal>,
        (place, came): (Place, Instant),
    ) -> Self {
        let number = edge.sessions.number();
        let nonce = match presented.channel {
            Channel::Tls(_) => None,
            Channel::Plain(nonce) => Some(nonce),
        };
        let config = Config { nonce, session: number, ..edge.session.clone() };
        let machine = Session::new(came, config);
        let entry = Some(Box::new(Entry { presented, _place: place }));
        let (inlet, outlet) = (Inlet::default(), Outlet::default());
        let session = Whole { machine, number, peer, signal, entry, live: None };
        Self { edge, stream, inlet, outlet, timer: None, session, told_to_go: false, stuck: false }
    }

    /// Lives until the session is over. In a box: a task that waits holds a pointer, not what moves on the way.
    pub async fn run(mut self: Box<Self>) {
        let ended = std::future::poll_fn(|cx| self.turn(cx)).await;
        self.note_end(&ended);
        let (stream, entry) = (*self).leave();
        if let Ended::Over(_) = ended {
            Box::pin(linger(stream)).await;
        }
        drop(entry);
    }

    /// The workers hear at once that the session is gone, not when its peer has hung up.
    fn leave(self) -> (Box<S>, Option<Box<Entry>>) {
        let Self { stream, session: Whole { entry, .. }, .. } = self;
        (Box::new(stream), entry)
    }

    fn note_end(&self, ended: &Ended) {
        let Whole { live, number, peer, .. } = &self.session;
        let trace = trace::Shown(self.edge.bases.of(*number));
        let principal = live.as_ref().map_or("", |live| &*live.seat.live().principal);
        match ended {
            Ended::Over(code) => {
                self.edge.metrics.fault(*code);
                tracing::debug!(session = number, %trace, %peer, principal, %code, "session over");
            }
            Ended::Gone => {
                tracing::debug!(session = number, %trace, %peer, principal, "peer closed")
            }
            Ended::Broken(error) => {
                tracing::debug!(session = number, %trace, %peer, principal, %error, "connection broke");
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let now = self.edge.clock.now();
        self.obey(cx, now);
        let waits = !self.has_room();
        if waits {
            self.session.machine.not_read(now);
        }
        let ended = match self.read(cx, now) {
            Ok(ended) => ended,
            Err(error) => return Poll::Ready(Ended::Broken(error)),
        };
        self.keep_time(cx, now);
        let written = self.write(cx, now);
        self.stuck = written.is_pending() && !self.has_room();
        match written {
            Poll::Ready(Err(error)) => return Poll::Ready(Ended::Broken(error)),
            Poll::Ready(Ok(())) => {
                if let Some(code) = self.session.machine.close_reason() {
                    return Poll::Ready(Ended::Over(code));
                }
            }
            Poll::Pending => {}
        }
        if let Some(ended) = ended {
            return Poll::Ready(ended);
        }
        self.keep_time(cx, now);
        if waits && self.has_room() {
            // There is room since: what was not read is read in the next turn.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Goes, where it was told to.
    fn obey(&mut self, cx: &Context<'_>, now: Instant) {
        if self.told_to_go {
            return;
        }
        if let Poll::Ready(code) = self.session.signal.poll_ended(cx) {
            self.told_to_go = true;
            let drain = if code == Code::SHUTDOWN {
                self.edge.session.deadlines.drain
            } else {
                Duration::ZERO
            };
            self.session.machine.goaway(now, code, 0, drain);
        }
    }

    fn has_room(&self) -> bool {
        self.session.live.as_ref().is_none_or(|live| live.route.has_room())
    }

    /// Reads what there is, up to a turn's share.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<Option<Ended>> {
        for _ in 0..READS_A_TURN {
            if !self.has_room() {
                return Ok(None);
            }
            let Self { edge, stream, inlet, session, .. } = self;
            let got = inlet
                .read(stream, cx, |arrived| session.work(edge, (now, edge.clock.wall()), arrived));
            match got {
                Poll::Pending => return Ok(None),
                Poll::Ready(got) => match got? {
                    Got::End => return Ok(Some(Ended::Gone)),
                    Got::Bytes(bytes) => {
                        edge.metrics.bytes_in.add(u64::try_from(bytes).unwrap_or(u64::MAX))
                    }
                },
            }
            if session.machine.is_closed() {
                return Ok(None);
            }
        }
        // There may be more; others have their turn first.
        cx.waker().wake_by_ref();
        Ok(None)
    }

    /// Says what is to be said.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let Self { edge, stream, outlet, session: Whole { machine, live, .. }, .. } = self;
        let (mut written, mut counted) = (0, Counted::default());
        let result = outlet.write(stream, cx, &mut written, |cx, turn| {
            machine.poll_transmit(now, turn);
            if let Some(live) = live {
                let wall = edge.clock.wall();
                counted.delivered += live.route.fill(machine, now, wall, cx, turn).delivered;
                machine.poll_transmit(now, turn);
                live.note(machine);
                live.heard(edge, wall, turn);
            }
        });
        edge.metrics.bytes_out.add(written);
        edge.metrics.delivered.add(counted.delivered);
        result
    }

    /// Does what is due, and asks to be woken when the next thing is.
    fn keep_time(&mut self, cx: &mut Context<'_>, now: Instant) {
        let ends = self.session.live.as_ref().map_or(Millis(0), |live| live.ends);
        if ends.0 != 0 && ends <= self.edge.clock.wall() {
            // The signal wakes this task, which obeys it in its next turn.
            self.session.signal.end(Code::UNAUTHENTICATED);
        }
        loop {
            let Some(at) = self.next_time(now) else {
                self.timer = None;
                return;
            };
            if at <= now {
                self.session.machine.handle_timeout(now);
                if self.next_time(now) == Some(at) {
                    return;
                }
                continue;
            }
            let at = self.edge.clock.runtime(at);
            let timer = match &mut self.timer {
                // One that is too early costs one turn for nothing, moving it costs something with every frame.
                Some(timer) if timer.deadline() <= at && !timer.is_elapsed() => timer,
                Some(timer) => {
                    timer.as_mut().reset(at);
                    timer
                }
                none @ None => none.insert(Box::pin(tokio::time::sleep_until(at))),
            };
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            timer.as_mut().reset(at);
        }
    }

    fn next_time(&self, now: Instant) -> Option<Instant> {
        let machine = self.session.machine.poll_timeout();
        let ends = self.session.live.as_ref().map(|live| live.ends).filter(|ends| ends.0 != 0);
        let ends = ends.map(|ends| {
            let left = ends.0.saturating_sub(self.edge.clock.wall().0);
            now.after(Duration::from_millis(left.max(1)))
        });
        let route = self.session.live.as_ref().and_then(|live| live.route.poll_timeout(now));
        let look = self.stuck.then(|| now.after(LOOK_FOR_ROOM));
        machine.into_iter().chain(ends).chain(route).chain(look).min()
    }
}

impl Whole {
    /// Works off what was read, as far as it is whole.
    fn work(
        &mut self,
        edge: &Arc<Edge>,
        (now, wall): (Instant, Millis),
        arrived: &mut Arrived<'_>,
    ) {
        while self.live.is_none() {
            match self.machine.handle_input(now, &mut arrived.bytes) {
                Some(Input::Authenticate(auth)) => self.decide(edge, (now, wall), &auth),
                // Before it is admitted a session gives nothing else but its end.
                Some(
                    Input::Upstream { .. }
                    | Input::Void { .. }
                    | Input::Leaving(_)
                    | Input::Closed(_),
                )
                | None => {
                    return;
                }
            }
        }
        if let Some(live) = &mut self.live {
            let counted = live.route.take(&mut self.machine, now, wall, arrived);
            edge.metrics.events.add(counted.events);
            edge.metrics.event_bytes.add(counted.bytes);
            edge.metrics.denied.add(counted.denied);
            live.note(&self.machine);
        }
    }

    /// Lets the client in, or does not.
    fn decide(&mut self, edge: &Arc<Edge>, (now, wall): (Instant, Millis), auth: &Auth<'_>) {
        let Some(entry) = self.entry.take() else { return };
        let registry = &*edge.registry;
        match auth::authenticate(wall, &entry.presented, &auth.proof, registry, &edge.tenants) {
            Ok(admitted) => self.admit(edge, (now, wall), admitted),
            Err(denied) => {
                edge.metrics.refused.add(1);
                tracing::info!(session = self.number, peer = %self.peer, %denied, "refused");
                self.machine.refuse(denied.code(), denied.text());
                // It keeps its place until it is gone.
                self.entry = Some(entry);
            }
        }
    }

    fn admit(&mut self, edge: &Arc<Edge>, (now, wall): (Instant, Millis), admitted: Admitted) {
        let Admitted { tenant, role, name, proof, ends_ms } = admitted;
        let who = (&*tenant, role, &*name);
        let from = (self.machine.greeting().run, self.peer);
        let seat = edge.sessions.admit(self.number, who, wall, from, Arc::clone(&self.signal));
        let Some(seat) = seat else {
            edge.metrics.refused.add(1);
            return self.machine.refuse(Code::BUSY, "this edge has as many sessions as it may");
        };
        // Looked at again now that the seat is taken: a revocation in between finds nobody else.
        if edge.registry.lookup(&tenant, &name).is_some_and(|entry| entry.revoked) {
            edge.metrics.refused.add(1);
            return self.machine.refuse(Code::REVOKED, "the principal was revoked");
        }
        let trace_base = edge.bases.of(self.number);
        let (session, trace, peer) = (self.number, trace::Shown(trace_base), self.peer);
        tracing::debug!(session, %trace, %peer, tenant, role = role.name(), principal = name, "session admitted");
        // Looked at now that the seat is taken: an operator in between finds it there.
        seat.live().logged.begin(edge.watch.debugged_until(&tenant, &name));
        let greeting = self.machine.greeting();
        let who = Who {
            tenant: Box::from(&*tenant),
            role,
            principal: Box::from(&*name),
            caller: format!("{}/{name}", role.name()).into(),
            run: greeting.run,
            abandoned: greeting.abandoned,
            receipts: greeting.receipts,
            frame_max: greeting.frame_max,
            trace_base,
            peer: self.peer,
            newest: Arc::clone(&seat.live().newest),
            logged: Arc::clone(&seat.live().logged),
        };
        self.machine.admit(now, wall, Admission { tenant, principal: name, proof });
        let route = Route::new(Arc::clone(edge), who);
        self.live = Some(Box::new(Alive { route, seat, ends: Millis(ends_ms) }));
    }
}

/// Closes the way out and waits a little for the peer to close its own: closing at once while something is on its way
/// here would take from it what it was told.
async fn linger<S: Stream>(mut stream: S) {
    let mut scratch = [0; 1024];
    let gone = async {
        stream.shutdown().await?;
        while stream.read(&mut scratch).await? > 0 {}
        io::Result::Ok(())
    };
    if !matches!(tokio::time::timeout(LINGER, gone).await, Ok(Ok(()))) {
        tracing::trace!("a peer that was told to go did not close its end");
    }
}
