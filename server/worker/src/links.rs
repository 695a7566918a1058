//! A link from an edge: its bytes in, its sessions driven, their answers out. One task a link; TLS is around it.
//!
//! What a link says and in which order is the machine's ([`spile_protocol::session::link`]); who the edge is was found out by
//! whoever accepted it, and stands in [`Edge`]. The invariants: nothing is read while the log has no room
//! for events, and chunks that wait for the disk keep nobody from being read: a link's credit bounds them; a session that has
//! something to say waits its turn behind the others.

mod registered;
pub(crate) mod share;

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use spile_protocol::{
    code::Code,
    frame::HEAD_BYTES,
    id::{LinkSessionId, Mark, Number, name, tenant},
    limits::FRAME_LINK,
    message::{Attach, Changed, List, Message, Void},
    session::link::{Config as LinkConfig, Worker as Machine, WorkerInput},
    time::{Instant, Millis},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use self::{registered::Defining, share::Share};
use crate::{
    changes::Changes,
    clock::Clock,
    limits::{CHANGED_MARKS, LARGE_BYTES, LINK_DRAIN_MS, LINK_OUT_BYTES, LINK_TURN_BYTES},
    presence::Kicked,
    registry::{Copy, Follower},
    session::{Polled, Session},
    turns::Turns,
    worker::Worker,
};

/// The other end, as its certificate says.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Its name.
    pub name: String,
    /// The tenants it may speak for; `None` for all.
    pub tenants: Option<Vec<String>>,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection failed.
    #[error("the link to edge {edge} broke: {source}; the edge comes back by itself")]
    Io {
        /// Which edge.
        edge: String,
        /// Why.
        source: io::Error,
    },
    /// One side ended it.
    #[error("the link to edge {edge} ended: {code}")]
    Closed {
        /// Which edge.
        edge: String,
        /// Why.
        code: Code,
    },
}

/// Serves one link until it ends, or `stop` says so: then it drains, for at most five seconds.
pub async fn serve<S: AsyncRead + AsyncWrite + Send>(
    worker: Arc<Worker>,
    edge: Edge,
    stream: S,
    stop: CancellationToken,
) -> Result<(), LinkError> {
    worker.counters.links.add(1);
    let name = edge.name.clone();
    let (reader, writer) = tokio::io::split(stream);
    let mut link = Link::new(worker.clone(), edge);
    let ended = link.run(reader, writer, stop).await;
    worker.counters.links.sub(1);
    match ended {
        Err(source) => Err(LinkError::Io { edge: name, source }),
        Ok(Code(0)) | Ok(Code::SHUTDOWN) => Ok(()),
        Ok(code) => Err(LinkError::Closed { edge: name, code }),
    }
}

struct Link {
    worker: Arc<Worker>,
    edge: Edge,
    machine: Machine,
    sessions: Vec<Option<Session>>,
    turns: Turns,
    follower: Option<Follower>,
    changes: Changes,
    defining: Defining,
    /// Of what may be under way of chunks.
    share: Share,
    clock: Clock,
    input: BytesMut,
    out: BytesMut,
    draining: Option<tokio::time::Instant>,
    /// Sessions that were kicked, until the edge has said that they are gone.
    leaving: Vec<(LinkSessionId, Kicked)>,
}

fn place(session: LinkSessionId) -> usize {
    usize::try_from(session.0).unwrap_or(usize::MAX)
}

fn most_input() -> usize {
    usize::try_from(FRAME_LINK).unwrap_or(usize::MAX) + HEAD_BYTES + 4
}

impl Link {
    fn new(worker: Arc<Worker>, edge: Edge) -> Self {
        let clock = Clock::start();
        let mut config = LinkConfig::new(Arc::from(worker.name()), worker.slots());
        config.next = worker.durable().borrow().end.get();
        let share = worker.shares.join();
        config.chunk_bytes = share.bytes();
        Self {
            machine: Machine::new(clock.now(), Clock::wall(), config),
            changes: worker.follow_changes(),
            worker,
            edge,
            sessions: Vec::new(),
            turns: Turns::default(),
            follower: None,
            defining: Defining::default(),
            share,
            clock,
            input: BytesMut::new(),
            out: BytesMut::new(),
            draining: None,
            leaving: Vec::new(),
        }
    }

    /// Moves bytes and turns until the link is over. What is half read or half written stands in `self`, so that no arm
    /// that loses drops a byte.
    async fn run(
        &mut self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        stop: CancellationToken,
    ) -> io::Result<Code> {
        let mut durable = self.worker.durable();
        loop {
            self.tell_known();
            self.speak_behind_changes();
            if self.out.is_empty()
                && let Some(code) = self.machine.close_reason()
            {
                writer.shutdown().await?;
                return Ok(code);
            }
            let now = self.clock.now();
            let timeout = self.machine.poll_timeout().map(|at| self.clock.at(at));
            let give_up = timeout.into_iter().chain(self.draining).min();
            let room = self.worker.has_room();
            let reads =
                room && self.out.len() < LINK_OUT_BYTES && self.machine.close_reason().is_none();
            tokio::select! {
                written = writer.write(&self.out), if !self.out.is_empty() => match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => self.out.advance(written),
                },
                read = reader.read_buf(&mut self.input), if reads => match read? {
                    0 => return Ok(Code(0)),
                    _ => self.hear(now),
                },
                () = self.turns.ready(), if self.out.len() < LINK_OUT_BYTES => {}
                copy = follow(&mut self.follower), if self.out.len() < LINK_OUT_BYTES => self.tell_registry(&copy),
                marks = self.changes.next(CHANGED_MARKS), if self.out.len() < LINK_OUT_BYTES => self.tell_changed(&marks),
                moved = durable.changed(), if !room || self.defining.waits() => if moved.is_err() {
                    return Ok(Code::SHUTDOWN);
                },
                bytes = self.share.changed(), if self.out.len() < LINK_OUT_BYTES => self.tell_share(bytes),
                () = stop.cancelled(), if self.draining.is_none() => self.drain(),
                () = tokio::time::sleep_until(give_up.unwrap_or(self.clock.start)), if give_up.is_some() => {
                    self.machine.handle_timeout(self.clock.now());
                    if self.draining.is_some_and(|at| at.elapsed() > Duration::ZERO) {
                        return Ok(Code::SHUTDOWN);
                    }
                }
            }
        }
    }

    fn drain(&mut self) {
        self.machine.goaway(Code::SHUTDOWN);
        let until = self.clock.now().after(Duration::from_millis(LINK_DRAIN_MS));
        self.draining = Some(self.clock.at(until));
    }

    /// Takes all whole frames off what was read.
    fn hear(&mut self, now: Instant) {
        let input = self.input.split().freeze();
        let mut rest = &*input;
        while let Some(next) = self.machine.handle_input(now, &mut rest) {
            match next {
                WorkerInput::Message { session, number, time, message, payload_crc } => {
                    self.take(session, number, time, &message, payload_crc);
                }
                WorkerInput::Void(void) => self.void(&void),
                WorkerInput::Attached(attach) => self.attach(&attach),
                WorkerInput::Detached { session, .. } => self.detached(session),
                WorkerInput::Registry(registry) => match &self.follower {
                    Some(follower) => follower.confirm(registry.upto),
                    None => self.defining.hear(&self.worker, &registry),
                },
                WorkerInput::Ready(peer) => self.greeted(peer.name),
                WorkerInput::Leaving(code) => {
                    tracing::info!(edge = self.edge.name, %code, "an edge goes away");
                }
                WorkerInput::Closed(_) => break,
            }
        }
        self.confirm_gone();
        let left = input.len() - rest.len();
        let rest = input.slice(left.min(input.len())..);
        // A frame that is not whole yet stays, with room for it.
        self.input.reserve(rest.len().max(LINK_TURN_BYTES).min(most_input()));
        self.input.extend_from_slice(&rest);
    }

    fn greeted(&mut self, name: &str) {
        // spec §10.1.2: who it says it is, is who its certificate says.
        if name != self.edge.name {
            self.machine.close(Code::UNAUTHENTICATED, "another name than the certificate's");
            return;
        }
        tracing::info!(edge = name, "a link is up");
        self.follower = self.worker.follow_registry(name);
    }

    fn attach(&mut self, attach: &Attach<'_>) {
        let may = |tenants: &Vec<String>| tenants.iter().any(|may| may == attach.tenant);
        let code = if tenant(attach.tenant).is_err() || name(attach.principal).is_err() {
            Code::INVALID
        } else if !self.edge.tenants.as_ref().is_none_or(may) {
            Code::FORBIDDEN
        } else {
            let at = place(attach.session);
            if self.sessions.len() <= at {
                self.sessions.resize_with(at + 1, || None);
            }
            if let Some(free) = self.sessions.get_mut(at) {
                let session = self.worker.attach(attach).of_edge(&self.edge.name);
                *free = Some(session.asking(self.changes.asking()));
            }
            return self.turns.add(attach.session.0);
        };
        self.end(attach.session, code);
    }

    /// The session must go: the edge is told.
    fn end(&mut self, session: LinkSessionId, code: Code) {
        let kicked = self.session(session).and_then(Session::take_kicked);
        self.leaving.extend(kicked.map(|kicked| (session, kicked)));
        self.remove(session);
        if let Err(why) = self.machine.detach(session, code, &mut self.out) {
            tracing::debug!(session = session.0, %why, "a session that is not attached ends");
        }
    }

    fn session(&self, session: LinkSessionId) -> Option<&Session> {
        self.sessions.get(place(session))?.as_ref()
    }

    /// What the edge has said is gone, is.
    fn confirm_gone(&mut self) {
        let Self { leaving, machine, .. } = self;
        leaving.retain(|(session, kicked)| {
            let waits = machine.is_leaving(*session);
            if !waits {
                kicked.confirm();
            }
            waits
        });
    }

    fn remove(&mut self, session: LinkSessionId) {
        drop(self.sessions.get_mut(place(session)).and_then(Option::take));
        self.turns.remove(session.0);
    }

    fn detached(&mut self, session: LinkSessionId) {
        if let Some(kicked) = self.session(session).and_then(Session::take_kicked) {
            kicked.confirm();
        }
        self.remove(session);
        if self.machine.detached(session, &mut self.out).is_err() {
            self.machine.close(Code::INTERNAL, "an answer that is longer than a frame");
        }
    }

    fn take(
        &mut self,
        session: LinkSessionId,
        number: Number,
        time: Millis,
        message: &Message<'_>,
        payload_crc: u32,
    ) {
        let Some(Some(attached)) = self.sessions.get_mut(place(session)) else { return };
        // What is not an event carries no time: it is now.
        let time = if time == Millis(0) { Clock::wall() } else { time };
        if message.payload().len() >= LARGE_BYTES {
            // Copied before the worker is locked.
            let payload = Bytes::copy_from_slice(message.payload());
            attached.intake().message(time, number, message, &payload, payload_crc);
        } else {
            attached.intake().borrowed(time, number, message, payload_crc);
        }
        self.turns.add(session.0);
    }

    fn void(&mut self, void: &Void) {
        let Some(Some(attached)) = self.sessions.get_mut(place(void.session)) else { return };
        let Void { lane, number, count, code, time_ms, .. } = *void;
        attached.intake().void(Millis(time_ms), lane, number, count, code);
        self.turns.add(void.session.0);
    }

    /// Lets sessions speak, each its share, as long as there is room.
    fn speak(&mut self) {
        self.machine.poll_transmit(&mut self.out);
        let mut left = self.turns.len();
        while left > 0
            && self.out.len() < LINK_OUT_BYTES
            && let Some(session) = self.turns.next()
        {
            left -= 1;
            self.speak_one(LinkSessionId(session));
        }
    }

    fn speak_one(&mut self, id: LinkSessionId) {
        let Self { sessions, machine, out, turns, .. } = self;
        let Some(Some(session)) = sessions.get_mut(place(id)) else { return };
        let polled = session.poll(LINK_TURN_BYTES, &mut |message, payload_crc| {
            if let Err(why) = machine.send(id, message, payload_crc, out) {
                // Only where the link is over: nothing that is said on it counts any more.
                tracing::debug!(session = id.0, %why, "an answer was not said");
            }
        });
        match polled {
            Polled::Gone(code) => self.end(id, code),
            Polled::More => turns.add(id.0),
            Polled::Idle => {
                if turns.wait(id.0, |cx| session.poll_ready(cx)).is_ready() {
                    turns.add(id.0);
                }
            }
        }
    }

    /// spec §10.5.1: a whole copy, then what changes.
    fn tell_registry(&mut self, copy: &Copy) {
        let Self { machine, out, .. } = self;
        registered::say(copy, |part| {
            if let Err(why) = machine.registry(part, out) {
                tracing::debug!(%why, "the registry was not said");
            }
        });
    }

    /// spec §10.8.1: an ACK goes out behind the mark of what it acknowledges.
    fn speak_behind_changes(&mut self) {
        let before = self.out.len();
        self.speak();
        let mut marks = self.changes.poll(CHANGED_MARKS);
        if marks.is_empty() {
            return;
        }
        // Looked at behind what sessions looked at, said before it.
        let said = self.out.split_off(before);
        while !marks.is_empty() {
            self.tell_changed(&marks);
            marks = self.changes.poll(CHANGED_MARKS);
        }
        self.out.extend_from_slice(&said);
    }

    /// spec §10.6.1: other links came or went.
    fn tell_share(&mut self, bytes: u32) {
        if self.machine.set_chunk_credit(bytes, &mut self.out).is_err() {
            self.machine.close(Code::INTERNAL, "a growing buffer did not grow");
        }
    }

    /// Says what changed of the values the edge asked for. spec §10.8.1
    fn tell_changed(&mut self, marks: &[Mark]) {
        if marks.is_empty() {
            return;
        }
        let mut room = vec![0; marks.len() * 3];
        let marks = List::encode(marks.iter().copied(), &mut room).unwrap_or_default();
        if let Err(why) = self.machine.changed(&Changed { marks }, &mut self.out) {
            // Only where the link is over: the next one begins with nothing kept.
            tracing::debug!(%why, "what changed was not said");
        }
    }

    /// Says that groups the edge told of are durable here, once they are.
    fn tell_known(&mut self) {
        let end = self.worker.durable().borrow().end.get();
        if let Some(known) = self.defining.known(end)
            && let Err(why) = self.machine.registry(&known, &mut self.out)
        {
            tracing::debug!(%why, "that groups are known was not said");
        }
    }
}

/// The next part of the registry; never where nobody follows it.
async fn follow(follower: &mut Option<Follower>) -> Copy {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}
