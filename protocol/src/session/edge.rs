//! The server's side of one client: who it is, what it may send next, what it has been promised. spec §4 to §9.
//!
//! ```text
//!              HELLO           AUTH              admit                goaway / GOAWAY            drained or late
//!  Greeting ─────────▶ Proving ─────▶ Deciding ─────────▶ Open ─────────────────────▶ Draining ─────────────────▶ Closed
//!      └──────────────────┴───────────────┴──── refuse, a fault, a deadline ─┴───────────────┴──────────────────────▲
//! ```
//!
//! Here: states, the greeting and the commands. What each message must satisfy is `upstream` (publishing), `asking` and
//! `uploads`; what the worker says on the way out is `downstream`, what is said because of the state alone `due`, deadlines
//! and silence `timing`. Who a client is and what it may are the
//! driver's: it answers [`Input::Authenticate`] with [`Session::admit`] or [`Session::refuse`], and a BIND or LANE it does
//! not allow with [`Session::deny_route`] or [`Session::close_lane`], before it gives the next bytes.
//!
//! The invariants: nothing behind AUTH is decoded before it is decided; what is sent and unacked never passes the credit
//! that was given; no ACK passes a VOID whose FAULT has not gone out; every table has its cap in [`limits`].

use alloc::string::String;
use core::time::Duration;

mod asking;
mod config;
mod downstream;
mod due;
mod tables;
mod timing;
mod uploads;
mod upstream;

pub use self::{
    config::{Admission, Config, Deadlines, Greeting, Input},
    downstream::Told,
};
use self::{due::Due, tables::Tables};
use super::{Amount, budget::Budget, frame_code};
use crate::{
    code::Code,
    frame::{self, Frame},
    id::{LaneId, RouteId},
    limits,
    message::{DecodeError, Event, Hello, Message, Proof, Sender, hello, kind},
    time::{Instant, Millis},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for HELLO.
    Greeting { deadline: Instant },
    /// Waits for AUTH.
    Proving { deadline: Instant },
    /// AUTH came; the driver decides.
    Deciding { deadline: Instant },
    /// Everything flows.
    Open,
    /// Nothing new is taken; what is in flight is answered.
    Draining { deadline: Instant },
    /// Over.
    Closed(Code),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partial {
    begun: Instant,
    deadline: Instant,
}

/// The oldest version this build speaks.
const OLDEST: u16 = 1;

/// One client's session, on the server's side.
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    greeting: Greeting,
    tables: Tables,
    due: Due,
    cheap: Budget,
    pings: Budget,
    /// When the last whole frame came.
    heard: Instant,
    /// When we last asked whether it is there.
    asked: Option<Instant>,
    /// A frame that has begun and is not whole.
    partial: Option<Partial>,
    /// The reason it is leaving for, while it drains.
    leave: Code,
    /// Did the client say goodbye first?
    client_left: bool,
    /// The principal's own name: the key of lane 0.
    own: String,
}

impl Session {
    /// A client has connected; over TLS, its handshake is done.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        let deadline = now.after(config.deadlines.auth);
        Self {
            state: State::Greeting { deadline },
            greeting: Greeting::default(),
            tables: Tables::new(config.credit, config.chunk_bytes),
            due: Due::default(),
            cheap: Budget::new(now, limits::CHEAP_BURST, limits::CHEAP_PER_S),
            pings: Budget::new(now, limits::PING_BURST, limits::PING_PER_S),
            heard: now,
            asked: None,
            partial: None,
            leave: Code(0),
            client_left: false,
            own: String::new(),
            config,
        }
    }

    /// What HELLO said; before it, nothing.
    #[must_use]
    pub const fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The nonce of the challenge, where there is no TLS: a device key's proof is bound to it.
    #[must_use]
    pub const fn nonce(&self) -> Option<[u8; 16]> {
        self.config.nonce
    }

    /// What is sent and unacked.
    #[must_use]
    pub const fn in_flight(&self) -> Amount {
        self.tables.window.in_flight()
    }

    /// Is nothing in flight and nothing asked?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tables.is_idle()
    }

    /// Is the session over? What is due still goes out first.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// The state's name in spec §17.3.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self.state {
            State::Greeting { .. } => "Greeting",
            State::Proving { .. } => "Proving",
            State::Deciding { .. } => "Deciding",
            State::Open => "Open",
            State::Draining { .. } => "Draining",
            State::Closed(_) => "Closed",
        }
    }

    /// Why the session is over; `None` while it is not. Code 0: it ended as it should.
    #[must_use]
    pub const fn close_reason(&self) -> Option<Code> {
        match self.state {
            State::Closed(code) => Some(code),
            State::Greeting { .. }
            | State::Proving { .. }
            | State::Deciding { .. }
            | State::Open
            | State::Draining { .. } => None,
        }
    }

    /// Takes frames off the front of `bytes` until one means something to the driver. `None`: more bytes are needed, or
    /// AUTH waits for its decision; the driver keeps what is left, at the front of what it gives next time.
    pub fn handle_input<'b>(&mut self, now: Instant, bytes: &mut &'b [u8]) -> Option<Input<'b>> {
        while let Some(limit) = self.frame_limit() {
            match frame::decode(bytes, limit) {
                Ok(Some((frame, used))) => {
                    *bytes = bytes.get(used..).unwrap_or_default();
                    self.heard = now;
                    self.asked = None;
                    self.partial = None;
                    if let Some(input) = self.take(now, &frame) {
                        return Some(input);
                    }
                }
                Ok(None) => {
                    self.wait_for_the_rest(now, bytes, limit);
                    return None;
                }
                Err(error) => return Some(self.fail(frame_code(error), "a frame")),
            }
        }
        self.keep_first_flight(bytes.len())
    }

    /// The longest frame that may come next; `None`: nothing is read in this state.
    const fn frame_limit(&self) -> Option<u32> {
        match self.state {
            State::Greeting { .. } | State::Proving { .. } => Some(limits::FRAME_UNAUTHENTICATED),
            State::Open | State::Draining { .. } => Some(self.config.frame_max),
            State::Deciding { .. } | State::Closed(_) => None,
        }
    }

    /// spec §4.0.1: what comes behind AUTH waits undecoded, up to a cap.
    fn keep_first_flight<'b>(&mut self, waiting: usize) -> Option<Input<'b>> {
        let deciding = matches!(self.state, State::Deciding { .. });
        (deciding && waiting > limits::FIRST_FLIGHT_KEPT)
            .then(|| self.fail(Code::TOO_LARGE, "more than 4 KiB before AUTH was decided"))
    }

    fn take<'b>(&mut self, now: Instant, frame: &Frame<'b>) -> Option<Input<'b>> {
        // Events are nearly all there is: they do not go through what tells the kinds apart.
        if frame.tag.kind() == kind::EVENT && !frame.tag.skippable() && self.state == State::Open {
            return match Event::decode(frame.tag.extras(), frame.header, frame.payload) {
                Ok(event) => self.one_event(event, frame.payload_crc),
                Err(DecodeError { code, what }) => Some(self.fail(code, what)),
            };
        }
        match Message::decode(frame, Sender::Client) {
            Ok(message) => self.message(now, message, frame.payload_crc),
            Err(DecodeError { code, what }) => Some(self.fail(code, what)),
        }
    }

    fn message<'b>(&mut self, now: Instant, message: Message<'b>, crc: u32) -> Option<Input<'b>> {
        match self.state {
            State::Greeting { deadline } => self.greet(deadline, &message),
            State::Proving { deadline } => Some(self.prove(deadline, &message)),
            State::Open | State::Draining { .. } => self.upstream(now, message, crc),
            State::Deciding { .. } | State::Closed(_) => None,
        }
    }

    fn greet<'b>(&mut self, deadline: Instant, message: &Message<'b>) -> Option<Input<'b>> {
        let Message::Hello(hello) = message else {
            return Some(self.fail(Code::UNEXPECTED, "HELLO comes first"));
        };
        match greeting(hello) {
            Ok(greeting) => {
                self.greeting = greeting;
                self.due.challenge = self.config.nonce;
                self.state = State::Proving { deadline };
                None
            }
            Err((code, what)) => Some(self.fail(code, what)),
        }
    }

    fn prove<'b>(&mut self, deadline: Instant, message: &Message<'b>) -> Input<'b> {
        let Message::Auth(auth) = message else {
            return self.fail(Code::UNEXPECTED, "AUTH comes second");
        };
        if matches!(auth.proof, Proof::Challenge { .. }) {
            return self.fail(Code::UNEXPECTED, "only a server challenges");
        }
        self.state = State::Deciding { deadline };
        Input::Authenticate(*auth)
    }

    /// Lets the client in. What came behind AUTH is decoded by the next [`Session::handle_input`].
    pub fn admit(&mut self, now: Instant, wall: Millis, admission: Admission) {
        if matches!(self.state, State::Deciding { .. }) {
            self.state = State::Open;
            self.heard = now;
            self.own.clone_from(&admission.principal);
            self.due.welcome = Some((wall, admission));
        }
    }

    /// Does not let the client in, or cuts it off at once: it is told why, then the session is over.
    pub fn refuse(&mut self, code: Code, detail: &'static str) {
        if !self.is_closed() {
            self.close_with(code, detail, 0);
        }
    }

    /// Says goodbye: nothing new is taken from here on, what is in flight is still answered, then the session is over.
    /// `drain` zero: it is over behind the GOAWAY.
    pub fn goaway(&mut self, now: Instant, code: Code, retry_after_ms: u32, drain: Duration) {
        match self.state {
            State::Open | State::Draining { .. } => {
                self.due.goaway = Some((code, retry_after_ms));
                self.leave = code;
                self.state = State::Draining { deadline: now.after(drain) };
                self.close_when_drained(now);
            }
            State::Greeting { .. } | State::Proving { .. } | State::Deciding { .. } => {
                self.due.goaway = Some((code, retry_after_ms));
                self.state = State::Closed(code);
            }
            State::Closed(_) => {}
        }
    }

    /// Another credit: raises or lowers what the client may send and have unacked. A lower one binds the client when it
    /// hears of it; what it sent before is taken.
    pub fn set_credit(&mut self, credit: Amount, chunk_bytes: Option<u32>) {
        let chunk_bytes = chunk_bytes.unwrap_or(self.config.chunk_bytes);
        if (self.config.credit, self.config.chunk_bytes) != (credit, chunk_bytes) {
            self.config.credit = credit;
            self.config.chunk_bytes = chunk_bytes;
            self.tables.window.raise(credit);
            self.tables.chunks.raise(Amount { events: 0, bytes: chunk_bytes });
            self.due.credit = true;
        }
    }

    /// Does not allow what a route binds: the client is told, and every event on it becomes a VOID with that code.
    pub fn deny_route(&mut self, route: RouteId, code: Code) {
        if let Some(bound) = self.tables.route_mut(route) {
            bound.denied = Some(code);
            self.due.route(route, code);
        }
    }

    /// Closes a lane: its key is not allowed, or its worker is away and nothing spools. What is in flight on it is
    /// dropped and leaves the credit; a new LANE opens it. `retry_after_ms`: `None` where trying again is no use.
    pub fn close_lane(&mut self, lane: LaneId, code: Code, retry_after_ms: Option<u32>) {
        if let Some(expected) = self.tables.close_lane(lane) {
            self.due.lane(lane, code, expected, retry_after_ms);
        }
    }

    fn close_with(&mut self, code: Code, detail: &'static str, retry_after_ms: u32) {
        self.due.fault = Some((code, detail, retry_after_ms));
        self.state = State::Closed(code);
    }

    /// The client broke the protocol: it is told, then cut.
    fn fail<'b>(&mut self, code: Code, detail: &'static str) -> Input<'b> {
        self.close_with(code, detail, 0);
        Input::Closed(code)
    }
}

/// spec §4.1: what of HELLO can be agreed to.
fn greeting(hello: &Hello<'_>) -> Result<Greeting, (Code, &'static str)> {
    if hello.oldest > hello.version {
        return Err((Code::INVALID, "Hello.oldest is above Hello.version"));
    }
    if hello.oldest > hello::VERSION || hello.version < OLDEST {
        return Err((Code::VERSION, "no version in common"));
    }
    if !(limits::FRAME_MIN..=limits::FRAME_MAX).contains(&hello.frame_max) {
        return Err((Code::INVALID, "Hello.frame_max is out of range"));
    }
    if hello.keep_alive_s > limits::KEEP_ALIVE_MAX_S {
        return Err((Code::INVALID, "Hello.keep_alive_s is above a day"));
    }
    Ok(Greeting {
        version: hello.version.min(hello::VERSION),
        frame_max: hello.frame_max,
        run: hello.run,
        receipts: hello.receipts,
        keep_alive_s: hello.keep_alive_s,
        software: hello
            .software
            .chars()
            .filter(|c| !c.is_control())
            .take(limits::NAME_BYTES)
            .collect(),
        abandoned: hello.abandoned,
    })
}
