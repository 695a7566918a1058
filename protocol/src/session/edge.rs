//! The server's side of one client: who it is, what it may send next, what it has been promised. spec §4 to §9.
//!
//! ```text
//!              HELLO           AUTH              admit                goaway / GOAWAY            drained or late
//!  Greeting ─────────▶ Proving ─────▶ Deciding ─────────▶ Open ─────────────────────▶ Draining ─────────────────▶ Closed
//!      └──────────────────┴───────────────┴──── refuse, a fault, a deadline ─┴───────────────┴──────────────────────▲
//! ```
//!
//! Here: states, deadlines and the verbs. What each message must satisfy is `upstream`, what the worker says on the way
//! out is `downstream`, what is said because of the state alone is `due`. Who a client is and what it may are the
//! driver's: it answers [`Input::Authenticate`] with [`Session::admit`] or [`Session::refuse`], and a BIND or LANE it does
//! not allow with [`Session::deny_route`] or [`Session::close_lane`], before it gives the next bytes.
//!
//! The invariants: nothing behind AUTH is decoded before it is decided; what is sent and unacked never passes the credit
//! that was given; no ACK passes a VOID whose FAULT has not gone out; every table has its cap in [`limits`].

use alloc::{string::String, sync::Arc};
use core::time::Duration;

mod downstream;
mod due;
mod tables;
mod upstream;

pub use self::downstream::Told;
use self::{due::Due, tables::Tables};
use super::{Amount, budget::Budget, frame_code};
use crate::{
    code::Code,
    frame::{self, Frame},
    id::{LaneId, Number, RouteId, Run},
    limits,
    message::{Auth, DecodeError, Event, Hello, Message, Proof, Sender, hello, kind},
    time::{Instant, Millis},
};

/// What a session is told when it begins.
#[derive(Clone, Debug)]
pub struct Config {
    /// Without TLS: 16 fresh random bytes for the challenge. `None` over TLS.
    pub nonce: Option<[u8; 16]>,
    /// The longest frame body taken after AUTH.
    pub frame_max: u32,
    /// The longest payload of one event; a longer one that still fits a frame becomes a VOID.
    pub payload_max: u32,
    /// What may be sent and unacked.
    pub credit: Amount,
    /// Bytes of chunks that may be sent and unacked.
    pub chunk_bytes: u32,
    /// How long a session that never pings (keep-alive 0) may be silent; `None`: for ever.
    pub idle: Option<Duration>,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// The edge's name.
    pub edge: Arc<str>,
    /// What this server is, for logs.
    pub software: Arc<str>,
    /// The session's number at this edge.
    pub session: u64,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the beginning to a decided AUTH.
    pub auth: Duration,
    /// For each frame that has begun …
    pub frame: Duration,
    /// … and its length at so many bytes a second.
    pub frame_bytes_per_s: u32,
    /// From GOAWAY until the session is closed whatever is in flight.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            auth: Duration::from_secs(u64::from(limits::AUTH_S)),
            frame: Duration::from_secs(u64::from(limits::FRAME_S)),
            frame_bytes_per_s: limits::FRAME_RATE,
            drain: Duration::from_secs(u64::from(limits::DRAIN_S)),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nonce: None,
            frame_max: limits::FRAME_DEFAULT,
            payload_max: limits::PAYLOAD_DEFAULT,
            credit: Amount { events: limits::CREDIT_EVENTS, bytes: limits::CREDIT_BYTES },
            chunk_bytes: limits::CREDIT_CHUNK_BYTES,
            idle: None,
            deadlines: Deadlines::default(),
            edge: Arc::from("edge"),
            software: Arc::from(""),
            session: 0,
        }
    }
}

/// What HELLO said, kept for the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The version that is spoken.
    pub version: u16,
    /// The longest frame body the client takes.
    pub frame_max: u32,
    /// The run it numbers in.
    pub run: Run,
    /// Does it want receipts instead of short acks?
    pub receipts: bool,
    /// After how many silent seconds it pings; 0 for never.
    pub keep_alive_s: u32,
    /// What it is, for logs; cut at a name's length.
    pub software: String,
    /// The run it gave up; zero for none.
    pub abandoned: Run,
}

/// What the driver found out about a client it lets in.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// In which tenant.
    pub tenant: String,
    /// Who.
    pub principal: String,
    /// The server's own proof of a device key, from [`super::key::verify`].
    pub proof: Option<[u8; 32]>,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'b> {
    /// Who is it? Answer with `admit` or `refuse`; until then nothing more is decoded. HELLO is in [`Session::greeting`].
    Authenticate(Auth<'b>),
    /// For the worker (or for the edge itself, where the message is about the edge): checked against everything the
    /// session knows.
    Upstream {
        /// The lane of EVENT, BATCH, LANE and BIND; lane 0 for everything else.
        lane: LaneId,
        /// EVENT, BATCH: the number of the first event. LANE: the first unacked one. Else 0.
        first: Number,
        /// The message.
        message: Message<'b>,
        /// CRC-32 of its payload.
        payload_crc: u32,
    },
    /// These numbers are refused for good: the worker logs a VOID in their place.
    Void {
        /// In which lane.
        lane: LaneId,
        /// The first number.
        first: Number,
        /// How many.
        count: u32,
        /// Why.
        code: Code,
    },
    /// The client is leaving: it sends nothing new and waits for what is in flight.
    Leaving(Code),
    /// The session is over; what [`Session::poll_transmit`] still has to say goes out before the connection is cut.
    Closed(Code),
}

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

    /// spec §12.2: a frame that has begun must be whole in time.
    fn wait_for_the_rest(&mut self, now: Instant, bytes: &[u8], limit: u32) {
        let begun = self.partial.map_or(now, |partial| partial.begun);
        let measured = frame::measure(bytes, limit).ok().flatten();
        let length = measured.map_or(0, |extent| u64::try_from(extent.end()).unwrap_or(u64::MAX));
        let rate = u64::from(self.config.deadlines.frame_bytes_per_s.max(1));
        let whole = self.config.deadlines.frame + Duration::from_secs(length / rate);
        self.partial = (!bytes.is_empty()).then(|| Partial { begun, deadline: begun.after(whole) });
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

    /// When to call [`Session::handle_timeout`]; `None`: nothing is waited for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Greeting { deadline }
            | State::Proving { deadline }
            | State::Deciding { deadline } => Some(deadline),
            State::Open => {
                self.partial.map(|partial| partial.deadline).or_else(|| self.next_silence())
            }
            State::Draining { deadline } => Some(deadline),
            State::Closed(_) => None,
        }
    }

    fn next_silence(&self) -> Option<Instant> {
        match (self.asked, self.ping_after()) {
            (None, Some(after)) => Some(self.heard.after(after)),
            (Some(_), _) | (None, None) => self.idle().map(|idle| self.heard.after(idle)),
        }
    }

    /// spec §4.4.2: how long the client may be silent before it is asked.
    fn ping_after(&self) -> Option<Duration> {
        let keep_alive = u64::from(self.greeting.keep_alive_s);
        (keep_alive > 0).then(|| Duration::from_secs(keep_alive))
    }

    /// How long the client may be silent before it is given up.
    fn idle(&self) -> Option<Duration> {
        let keep_alive = u64::from(self.greeting.keep_alive_s);
        if keep_alive == 0 { self.config.idle } else { Some(Duration::from_secs(2 * keep_alive)) }
    }

    /// Does what is due by now: gives up who is late, asks who is silent, ends what has drained.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Greeting { deadline }
            | State::Proving { deadline }
            | State::Deciding { deadline } => {
                if now >= deadline {
                    self.close_with(Code::DEADLINE, "AUTH was not done in time", 0);
                }
            }
            State::Open => self.check_silence(now),
            State::Draining { .. } => self.close_when_drained(now),
            State::Closed(_) => {}
        }
    }

    fn check_silence(&mut self, now: Instant) {
        if let Some(partial) = self.partial {
            if now >= partial.deadline {
                self.close_with(Code::DEADLINE, "a frame was not whole in time", 0);
            }
        } else if self.idle().is_some_and(|idle| now >= self.heard.after(idle)) {
            self.close_with(Code::DEADLINE, "nothing was heard for too long", 0);
        } else if self.asked.is_none()
            && self.ping_after().is_some_and(|after| now >= self.heard.after(after))
        {
            self.asked = Some(now);
            self.due.ping = true;
        }
    }

    /// spec §4.5: a session that is going away ends when nothing is in flight, or when its time is over; where the client
    /// began it hears the same code back.
    fn close_when_drained(&mut self, now: Instant) {
        let State::Draining { deadline } = self.state else { return };
        if now >= deadline || self.tables.is_idle() {
            self.state = State::Closed(self.leave);
            if self.client_left {
                self.due.goaway = Some((self.leave, 0));
            }
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
