//! Both ends of a link: an edge's many sessions on one connection to one worker. spec §10, §17.4.
//!
//! ```text
//!  Greeting ──LINK_HELLO both ways, slots agree──▶ Open ──GOAWAY──▶ Draining ──▶ Closed
//! ```
//!
//! [`Edge`] and [`Worker`] greet, number the sessions, wrap and unwrap what sessions and workers say, and keep the link
//! alive; the edge's end counts the chunks that are under way. What they have in common is `Link`. What a session may say is checked by [`super::edge`]; who may connect is
//! TLS's. The invariants: a session's number means one session until both sides have said DETACH; an envelope for a
//! session that is not attached goes nowhere; a link whose sides disagree about slots carries nothing.

use alloc::vec::Vec;
use core::time::Duration;

mod chunks;
mod config;
mod edge;
mod worker;

pub use self::{
    config::{Config, Peer, Refusal},
    edge::{Edge, EdgeInput},
    worker::{Worker, WorkerInput},
};
use super::{Amount, Transmit, frame_code};
use crate::{
    code::Code,
    frame::{self, Frame},
    id::{LinkSessionId, Number},
    limits,
    message::{
        DecodeError, Detach, Envelope, Fault, Full, GoAway, LinkHello, Message, Ping, Scope,
        Sender, Writer, hello,
    },
    time::{Instant, Millis},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting { deadline: Instant },
    Open,
    Draining,
    Closed(Code),
}

/// A session's number on the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Free,
    Attached,
    /// We said DETACH and wait for theirs.
    Detaching,
}

#[derive(Clone, Copy, Debug, Default)]
struct Due {
    hello: bool,
    pong: Option<u32>,
    ping: bool,
    pings: u32,
    goaway: Option<Code>,
    fault: Option<(Code, &'static str)>,
}

/// What both ends do.
#[derive(Debug)]
struct Link {
    config: Config,
    state: State,
    due: Due,
    places: Vec<Place>,
    attached: usize,
    heard: Instant,
    asked: bool,
    wall: Millis,
    header: Vec<u8>,
    /// Who speaks on the other side.
    peer: Sender,
}

/// What a frame was, before either end looks at it.
enum Came<'b> {
    Hello(Peer<'b>),
    /// Of a session that is attached.
    Inner {
        session: LinkSessionId,
        number: Number,
        time: Millis,
        message: Message<'b>,
    },
    Detached(LinkSessionId, Code),
    Leaving(Code),
    Bare(Message<'b>),
    Nothing,
}

type Wrong = (Code, &'static str);

impl Link {
    fn new(now: Instant, wall: Millis, config: Config, peer: Sender) -> Self {
        let deadline = now.after(config.greeting);
        Self {
            state: State::Greeting { deadline },
            due: Due { hello: peer == Sender::Server, ..Due::default() },
            places: Vec::new(),
            attached: 0,
            heard: now,
            asked: false,
            wall,
            header: Vec::new(),
            peer,
            config,
        }
    }

    const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    const fn state(&self) -> &'static str {
        match self.state {
            State::Greeting { .. } => "Greeting",
            State::Open => "Open",
            State::Draining => "Draining",
            State::Closed(_) => "Closed",
        }
    }

    const fn closed(&self) -> Option<Code> {
        match self.state {
            State::Closed(code) => Some(code),
            State::Greeting { .. } | State::Open | State::Draining => None,
        }
    }

    fn place(&self, session: LinkSessionId) -> Place {
        let at = usize::try_from(session.0).unwrap_or(usize::MAX);
        self.places.get(at).copied().unwrap_or_default()
    }

    /// Sets a session's place; not so above the cap.
    fn set(&mut self, session: LinkSessionId, place: Place) -> bool {
        let Some(at) =
            usize::try_from(session.0).ok().filter(|_| session.0 < limits::LINK_SESSIONS)
        else {
            return false;
        };
        if self.places.len() <= at {
            self.places.resize(at + 1, Place::Free);
        }
        if let Some(old) = self.places.get_mut(at) {
            self.attached = self.attached + usize::from(place == Place::Attached)
                - usize::from(*old == Place::Attached);
            *old = place;
        }
        true
    }

    /// Takes one frame off the front of `bytes`; `None`: more bytes are needed, or the link is over.
    fn next<'b>(
        &mut self,
        now: Instant,
        bytes: &mut &'b [u8],
    ) -> Option<Result<(Came<'b>, u32), Code>> {
        let limit = match self.state {
            State::Greeting { .. } => limits::FRAME_UNAUTHENTICATED,
            State::Open | State::Draining => limits::FRAME_LINK,
            State::Closed(_) => return None,
        };
        match frame::decode(bytes, limit) {
            Ok(Some((frame, used))) => {
                *bytes = bytes.get(used..).unwrap_or_default();
                (self.heard, self.asked) = (now, false);
                let came = self.came(&frame).map(|came| (came, frame.payload_crc));
                Some(came.map_err(|(code, what)| self.fail(code, what)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(self.fail(frame_code(error), "a frame"))),
        }
    }

    /// The other side broke the protocol: it is told, then the link is over.
    fn fail(&mut self, code: Code, what: &'static str) -> Code {
        if self.closed().is_none() {
            self.due.fault = Some((code, what));
            self.state = State::Closed(code);
        }
        code
    }

    fn came<'b>(&mut self, frame: &Frame<'b>) -> Result<Came<'b>, Wrong> {
        let wrong = |DecodeError { code, what }: DecodeError| (code, what);
        let message = Message::decode(frame, self.peer).map_err(wrong)?;
        if let State::Greeting { .. } = self.state {
            return self.greeted(&message);
        }
        Ok(match message {
            Message::Envelope(envelope) => {
                if self.place(envelope.session) != Place::Attached {
                    return Ok(Came::Nothing); // spec §10.2.1
                }
                let Envelope { session, number, time_ms, tag, header, payload } = envelope;
                let message =
                    Message::decode_parts(tag, header, payload, self.peer).map_err(wrong)?;
                Came::Inner { session, number, time: Millis(time_ms), message }
            }
            Message::Detach(Detach { session, code }) => match self.place(session) {
                Place::Attached => Came::Detached(session, code),
                Place::Detaching => {
                    self.set(session, Place::Free);
                    Came::Nothing
                }
                Place::Free => Came::Nothing,
            },
            Message::Ping(Ping { number, answer }) => {
                if !answer {
                    self.due.pong = Some(number);
                }
                Came::Nothing
            }
            Message::GoAway(goaway) => {
                self.state = State::Draining;
                Came::Leaving(goaway.code)
            }
            Message::Fault(Fault { code, scope: Scope::Session, .. }) => {
                self.state = State::Closed(code);
                Came::Leaving(code)
            }
            Message::Skipped(_) => Came::Nothing,
            Message::LinkHello(_) => return Err((Code::UNEXPECTED, "LINK_HELLO comes once")),
            bare @ (Message::Attach(_)
            | Message::Void(_)
            | Message::Registry(_)
            | Message::Changed(_)
            | Message::Credit(_)) => Came::Bare(bare),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Fault(_)
            | Message::Lane(_)
            | Message::LaneAnswer(_)
            | Message::Bind(_)
            | Message::Event(_)
            | Message::Batch(_)
            | Message::Ack(_)
            | Message::Open(_)
            | Message::Opened(_)
            | Message::Chunk(_)
            | Message::Seal(_)
            | Message::Abort(_)
            | Message::Subscribe(_)
            | Message::Deliver(_)
            | Message::Settle(_)
            | Message::End(_)
            | Message::Get(_)
            | Message::Value(_)
            | Message::List(_)
            | Message::Call(_)
            | Message::Reply(_)
            | Message::Serve(_) => {
                return Err((Code::UNEXPECTED, "a session's message outside an envelope"));
            }
        })
    }

    /// spec §10.1.1: slots and versions are compared on both sides.
    fn greeted<'b>(&mut self, message: &Message<'b>) -> Result<Came<'b>, Wrong> {
        if let Message::Fault(Fault { code, scope: Scope::Session, .. })
        | Message::GoAway(GoAway { code, .. }) = message
        {
            self.state = State::Closed(*code);
            return Ok(Came::Leaving(*code));
        }
        let Message::LinkHello(peer) = message else {
            return Err((Code::UNEXPECTED, "LINK_HELLO comes first"));
        };
        if peer.oldest > hello::VERSION || peer.version < hello::VERSION {
            return Err((Code::VERSION, "no version in common"));
        }
        if peer.slots != self.config.slots {
            return Err((
                Code::CONFLICT,
                "the two sides disagree about which slots this worker holds",
            ));
        }
        if self.peer == Sender::Server {
            self.config.credit = Amount { events: peer.credit_events, bytes: peer.credit_bytes };
            self.config.chunk_bytes = peer.chunk_bytes;
        } else {
            self.due.hello = true;
        }
        self.state = State::Open;
        Ok(Came::Hello(Peer {
            name: peer.name,
            time: Millis(peer.time_ms),
            next: peer.next,
            software: peer.software,
        }))
    }

    /// Wraps what a session or its worker says.
    fn envelope(
        &mut self,
        session: LinkSessionId,
        number: Number,
        time: Millis,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        if self.closed().is_some() || self.due.hello {
            return Err(Refusal::NotOpen);
        }
        if self.place(session) != Place::Attached {
            return Err(Refusal::NotAttached);
        }
        let length = self.encode_header(message)?;
        let envelope = Envelope {
            session,
            number,
            time_ms: time.0,
            tag: message.tag(),
            header: self.header.get(..length).unwrap_or_default(),
            payload: message.payload(),
        };
        Ok(out.put(&Message::Envelope(envelope), payload_crc)?)
    }

    /// The inner header, in a buffer that is kept: it grows to what is needed, at most a frame.
    fn encode_header(&mut self, message: &Message<'_>) -> Result<usize, Full> {
        let most = usize::try_from(limits::FRAME_LINK).unwrap_or(usize::MAX);
        loop {
            let mut writer = Writer::new(&mut self.header);
            match message.encode_header(&mut writer) {
                Ok(()) => return Ok(writer.len()),
                Err(Full) if self.header.len() < most => {
                    let longer = (self.header.len() * 4).max(1024).min(most);
                    self.header.resize(longer, 0);
                }
                Err(Full) => return Err(Full),
            }
        }
    }

    /// Ends a session from this side.
    fn detach(
        &mut self,
        session: LinkSessionId,
        code: Code,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        if self.place(session) != Place::Attached {
            return Err(Refusal::NotAttached);
        }
        out.put(&Message::Detach(Detach { session, code }), 0)?;
        self.set(session, Place::Detaching);
        Ok(())
    }

    /// Answers the other side's DETACH: the number is free.
    fn detached(&mut self, session: LinkSessionId, out: &mut impl Transmit) -> Result<(), Full> {
        out.put(&Message::Detach(Detach { session, code: Code(0) }), 0)?;
        self.set(session, Place::Free);
        Ok(())
    }

    fn say_bare(&self, message: &Message<'_>, out: &mut impl Transmit) -> Result<(), Refusal> {
        match self.state {
            State::Open | State::Draining if !self.due.hello => Ok(out.put(message, 0)?),
            State::Greeting { .. } | State::Open | State::Draining | State::Closed(_) => {
                Err(Refusal::NotOpen)
            }
        }
    }

    fn poll_transmit(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        if self.due.hello {
            out.put(&Message::LinkHello(self.hello()), 0)?;
            self.due.hello = false;
        }
        if let Some(number) = self.due.pong {
            out.put(&Message::Ping(Ping { number, answer: true }), 0)?;
            self.due.pong = None;
        }
        if self.due.ping {
            let number = self.due.pings.wrapping_add(1);
            out.put(&Message::Ping(Ping { number, answer: false }), 0)?;
            (self.due.pings, self.due.ping) = (number, false);
        }
        if let Some(code) = self.due.goaway {
            out.put(&Message::GoAway(GoAway { code, retry_after_ms: 0, detail: "" }), 0)?;
            self.due.goaway = None;
        }
        if let Some((code, detail)) = self.due.fault {
            let (scope, retry) = (Scope::Session, code.retry());
            out.put(&Message::Fault(Fault { code, scope, retry, retry_after_ms: 0, detail }), 0)?;
            self.due.fault = None;
        }
        Ok(())
    }

    fn hello(&self) -> LinkHello<'_> {
        LinkHello {
            version: hello::VERSION,
            name: &self.config.name,
            slots: self.config.slots,
            time_ms: self.wall.0,
            next: self.config.next,
            oldest: hello::VERSION,
            credit_events: self.config.credit.events,
            credit_bytes: self.config.credit.bytes,
            keep_alive_s: self.config.keep_alive_s,
            software: &self.config.software,
            chunk_bytes: self.config.chunk_bytes,
        }
    }

    fn goaway(&mut self, code: Code) {
        match self.state {
            State::Open | State::Draining => {
                self.due.goaway = Some(code);
                self.state = State::Draining;
            }
            // Nothing is in flight, and a LINK_HELLO that comes now would find nobody who waits for it.
            State::Greeting { .. } => {
                self.due.goaway = Some(code);
                self.state = State::Closed(code);
            }
            State::Closed(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Greeting { deadline } => Some(deadline),
            State::Open | State::Draining => self.next_silence(),
            State::Closed(_) => None,
        }
    }

    /// spec §4.4.2: asked after the keep-alive, given up after twice that.
    fn next_silence(&self) -> Option<Instant> {
        let keep_alive = u64::from(self.config.keep_alive_s);
        let seconds = if self.asked { 2 * keep_alive } else { keep_alive };
        (keep_alive > 0).then(|| self.heard.after(Duration::from_secs(seconds)))
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            State::Open | State::Draining if !self.asked => {
                (self.asked, self.due.ping) = (true, true)
            }
            State::Greeting { .. } | State::Open | State::Draining => {
                self.fail(Code::DEADLINE, "nothing was heard for too long");
            }
            State::Closed(_) => {}
        }
    }
}

/// What both ends offer in the same words.
macro_rules! common {
    ($end:ident) => {
        impl $end {
            /// Says what is due, as far as there is room; before anything else is said.
            pub fn poll_transmit(&mut self, out: &mut impl crate::session::Transmit) {
                // A frame that does not fit now is due still, and goes out next time.
                let _all: Result<(), crate::message::Full> = self.link.poll_transmit(out);
            }

            /// When to call `handle_timeout`; `None`: nothing is waited for.
            #[must_use]
            pub fn poll_timeout(&self) -> Option<crate::time::Instant> {
                self.link.poll_timeout()
            }

            /// Does what is due by now: asks who is silent, gives up who is gone.
            pub fn handle_timeout(&mut self, now: crate::time::Instant) {
                self.link.handle_timeout(now);
            }

            /// Says goodbye: no new sessions; what is in flight is answered.
            pub fn goaway(&mut self, code: crate::code::Code) {
                self.link.goaway(code);
            }

            /// Ends the link at once; the other side is told why.
            pub fn close(&mut self, code: crate::code::Code, detail: &'static str) {
                self.link.fail(code, detail);
            }

            /// Is it greeted and open?
            #[must_use]
            pub const fn is_open(&self) -> bool {
                self.link.is_open()
            }

            /// The state's name in spec §17.4.
            #[must_use]
            pub const fn state(&self) -> &'static str {
                self.link.state()
            }

            /// Why the link is over; `None` while it is not.
            #[must_use]
            pub const fn close_reason(&self) -> Option<crate::code::Code> {
                self.link.closed()
            }

            /// How many sessions are attached.
            #[must_use]
            pub const fn sessions(&self) -> usize {
                self.link.attached
            }

            /// Is that session attached?
            #[must_use]
            pub fn is_attached(&self, session: crate::id::LinkSessionId) -> bool {
                self.link.place(session) == super::Place::Attached
            }

            /// Was that session ended from this side, and the other side has not said so yet?
            #[must_use]
            pub fn is_leaving(&self, session: crate::id::LinkSessionId) -> bool {
                self.link.place(session) == super::Place::Detaching
            }

            /// Answers a `Detached`: the session's number is free.
            pub fn detached(
                &mut self,
                session: crate::id::LinkSessionId,
                out: &mut impl crate::session::Transmit,
            ) -> Result<(), crate::message::Full> {
                self.link.detached(session, out)
            }
        }
    };
}
use common;
