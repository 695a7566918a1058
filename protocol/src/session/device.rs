//! The client's side of a session: what is published stays here until it is stored, whatever connections come and go.
//! spec §4 to §9, §17.1.
//!
//! ```text
//!  Idle ──connected──▶ Greeting ──WELCOME──▶ Open ──GOAWAY either way──▶ Draining ──▶ Closed ──disconnected──▶ Idle
//! ```
//!
//! Here: the machine, its configuration, the verbs that change what is kept (lanes, routes, events), and time. What comes
//! in is `input`, what goes out because of what is kept `output`, the window of events `outbox`. Subscriptions, settling,
//! requests and uploads are `verbs`: said at once into the caller's buffer, and forgotten with the connection.
//!
//! The machine never allocates: its tables are [`Storage`] the caller lends, its frames go to a [`Transmit`] of the
//! caller's. The invariants: a number is given once in a run; what is sent and unacked never passes the credit; nothing
//! leaves the window before it is stored or refused.

use core::time::Duration;

mod input;
mod outbox;
mod output;
mod storage;
mod verbs;

#[cfg(feature = "alloc")]
pub use self::storage::Growable;
pub use self::{
    input::{Event, Spelled},
    storage::{
        Fixed, Flight, LaneSlot, Parts, RouteSlot, Storage, SubscriptionSlot, Table, UploadSlot,
    },
};
use self::{
    outbox::{New, Outbox},
    storage::{LaneState, Progress, Text},
};
use super::{
    Amount, Window,
    key::{self, Key},
};
use crate::{
    code::Code,
    crc, id,
    id::{LaneId, Number, RouteId, Run},
    limits,
    message::{Batch, Event as Published, Extras, Full, Happened, Lengths, Message},
    time::Instant,
};

/// How the client proves who it is. `T` is where its texts are: `&'static str`, or `String`.
#[derive(Clone, Debug)]
pub enum Credential<T> {
    /// The certificate of the TLS handshake.
    Certificate,
    /// A device key.
    Key {
        /// In which tenant.
        tenant: T,
        /// The device's id.
        device: T,
        /// Its key.
        key: Key,
    },
    /// A signed token.
    Token(T),
}

/// What a machine begins with.
#[derive(Clone, Debug)]
pub struct Config<T> {
    /// The run it numbers in: fresh random bytes, or those kept beside the outbox.
    pub run: Run,
    /// Who it is.
    pub credential: Credential<T>,
    /// What it is, for logs: `name/version`.
    pub software: T,
    /// The longest frame body it takes.
    pub frame_max: u32,
    /// After how many silent seconds it asks; 0 for never.
    pub keep_alive_s: u32,
    /// Are receipts wanted for all events?
    pub receipts: bool,
    /// How long the server may take to let it in.
    pub greeting: Duration,
}

impl<T> Config<T> {
    /// The usual values.
    pub const fn new(run: Run, credential: Credential<T>, software: T) -> Self {
        Self {
            run,
            credential,
            software,
            frame_max: limits::FRAME_DEFAULT,
            keep_alive_s: limits::KEEP_ALIVE_S,
            receipts: false,
            greeting: Duration::from_secs(30),
        }
    }
}

/// What the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// TLS; with the exporter's 32 bytes (label [`key::EXPORTER_LABEL`]) where a device key is proven.
    Tls(Option<[u8; 32]>),
    /// No TLS.
    Plain,
}

/// Why something was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The window, or the caller's buffer, is full: try again when something was acknowledged or sent.
    #[error("there is no room for it now")]
    Busy,
    /// A table has no place left.
    #[error("there is no place left in the table of {0}")]
    TooMany(&'static str),
    /// A name is not one, or too long for the table.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// It is longer than the server, or the window, takes.
    #[error("it is longer than what is taken")]
    TooLarge,
    /// A lane, route, subscription or upload was named that is not open.
    #[error("{0} is not open")]
    Unknown(&'static str),
    /// There is no session to say it in.
    #[error("there is no session now")]
    NotConnected,
    /// The session is going away.
    #[error("the session is going away")]
    Leaving,
    /// Something is in flight on the lane.
    #[error("something is in flight on the lane")]
    InUse,
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::Busy
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No connection.
    Idle,
    /// HELLO goes out, or went; waits for WELCOME, or for the challenge before it.
    Greeting { deadline: Instant, hello: bool, auth: Auth },
    /// Everything flows.
    Open,
    /// One side said GOAWAY: nothing new.
    Draining,
    /// Over: the connection is to be cut.
    Closed(Code),
}

/// How far AUTH is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Auth {
    /// Waits for the server's challenge.
    Unchallenged,
    /// Goes out next, bound to that.
    Due(Option<key::Binding>),
    /// Went out.
    Sent(Option<key::Binding>),
}

/// What is due because of the session's state.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    pong: Option<u32>,
    ping: bool,
    pings: u32,
    goaway: Option<Code>,
}

/// A client's session, over as many connections as it takes.
#[derive(Debug)]
pub struct Device<S, T> {
    config: Config<T>,
    storage: S,
    state: State,
    due: Due,
    outbox: Outbox,
    window: Window,
    chunks: Window,
    lanes: usize,
    routes: usize,
    /// Lanes whose LANE and routes whose BIND are still to go out on this connection.
    wanted: bool,
    untold: bool,
    urgent: bool,
    /// What may still go out before WELCOME.
    early: usize,
    nonce: [u8; 16],
    abandoned: Run,
    /// The run's numbers do not fit what the server has: see [`Event::UnknownRun`].
    lost: bool,
    /// The user wants to leave when everything is acknowledged.
    closing: bool,
    server_frame_max: u32,
    payload_max: u32,
    heard: Instant,
    asked: bool,
    jitter: u32,
}

impl<S: Storage, T: AsRef<str>> Device<S, T> {
    /// A machine without a connection. Lanes are opened, routes bound and events published before there is one.
    pub fn new(config: Config<T>, storage: S) -> Self {
        let [a, b, c, d, ..] = config.run.0;
        Self {
            config,
            storage,
            state: State::Idle,
            due: Due::default(),
            outbox: Outbox::default(),
            window: Window::default(),
            chunks: Window::default(),
            lanes: 0,
            routes: 0,
            wanted: false,
            untold: false,
            urgent: false,
            early: 0,
            nonce: [0; 16],
            abandoned: Run([0; 8]),
            lost: false,
            closing: false,
            server_frame_max: limits::FRAME_DEFAULT,
            payload_max: limits::PAYLOAD_DEFAULT,
            heard: Instant(0),
            asked: false,
            jitter: u32::from_le_bytes([a, b, c, d]) | 1,
        }
    }

    /// A connection stands: the greeting and what is in flight go out with the next [`Device::poll_transmit`]. `nonce`:
    /// 16 fresh random bytes.
    pub fn connected(&mut self, now: Instant, channel: Channel, nonce: [u8; 16]) {
        self.disconnected();
        let auth = match (&self.config.credential, channel) {
            (Credential::Key { .. }, Channel::Tls(exporter)) => {
                Auth::Due(exporter.map(key::Binding::Tls))
            }
            (Credential::Key { .. }, Channel::Plain) => Auth::Unchallenged,
            (Credential::Certificate | Credential::Token(_), Channel::Tls(_) | Channel::Plain) => {
                Auth::Due(None)
            }
        };
        self.state =
            State::Greeting { deadline: now.after(self.config.greeting), hello: false, auth };
        self.nonce = nonce;
        self.heard = now;
        self.window =
            Window::new(Amount { events: limits::CREDIT_EVENTS, bytes: limits::CREDIT_BYTES });
        self.chunks = Window::default();
        self.early = usize::try_from(limits::FRAME_UNAUTHENTICATED).unwrap_or(usize::MAX);
        (self.wanted, self.untold) = (self.lanes > 0, self.routes > 0);
    }

    /// The connection is gone: what is in flight waits for the next, subscriptions, requests and uploads are over.
    pub fn disconnected(&mut self) {
        self.state = State::Idle;
        self.due = Due { pings: self.due.pings, ..Due::default() };
        self.closing = false;
        self.asked = false;
        let mut parts = self.storage.parts();
        for lane in 0..self.lanes {
            self.outbox.unsend(&mut parts, lane, &mut self.window);
        }
        self.outbox.rewind();
        for lane in parts.lanes.iter_mut().take(self.lanes) {
            (lane.state, lane.closed) = (LaneState::Wanted, 0);
        }
        for route in parts.routes.iter_mut().take(self.routes) {
            route.told = false;
        }
        parts.subscriptions.fill_with(SubscriptionSlot::default);
        parts.uploads.fill_with(UploadSlot::default);
    }

    /// Opens a lane for `key`, `None` for the client's own name; the first one opened is lane 0 and has none. `first` is
    /// the number of the first event that will be published on it: 1 in a new run, else what was kept beside the outbox.
    pub fn open_lane(
        &mut self,
        key: Option<&str>,
        first: Number,
        urgent: bool,
    ) -> Result<LaneId, Refusal> {
        let id = LaneId(u32::try_from(self.lanes).unwrap_or(u32::MAX));
        let slot = lane(id, key, first, urgent)?;
        if self.storage.lanes().len() <= self.lanes && !self.storage.grow(Table::Lanes, 1) {
            return Err(Refusal::TooMany("lanes"));
        }
        let parts = self.storage.parts();
        *parts.lanes.get_mut(self.lanes).ok_or(Refusal::TooMany("lanes"))? = slot;
        self.lanes += 1;
        self.wanted = true;
        self.urgent |= urgent;
        Ok(id)
    }

    /// Gives a lane another key; its routes stay and mean the new one. Only while nothing is in flight on it.
    pub fn rekey_lane(
        &mut self,
        id: LaneId,
        key: Option<&str>,
        first: Number,
    ) -> Result<(), Refusal> {
        let parts = self.storage.parts();
        let old = slot(parts.lanes, id.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?;
        if old.head != storage::NONE {
            return Err(Refusal::InUse);
        }
        *old = lane(id, key, first, old.urgent)?;
        self.wanted = true;
        Ok(())
    }

    /// Opens a lane again that [`Event::LaneClosed`] said is not to be tried again by itself.
    pub fn reopen_lane(&mut self, id: LaneId) -> Result<(), Refusal> {
        let parts = self.storage.parts();
        let lane = slot(parts.lanes, id.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?;
        match lane.state {
            LaneState::Closed { .. } => lane.state = LaneState::Wanted,
            LaneState::Wanted | LaneState::Opening | LaneState::Open => {}
        }
        self.wanted = true;
        Ok(())
    }

    /// Binds a route to a lane, a topic, and what the payloads are.
    pub fn bind(
        &mut self,
        lane: LaneId,
        topic: &str,
        content_type: &str,
        schema: u32,
        encoding: &str,
    ) -> Result<RouteId, Refusal> {
        if slot(self.storage.parts().lanes, lane.0, self.lanes).is_none() {
            return Err(Refusal::Unknown("the lane"));
        }
        let topic =
            id::topic(topic).ok().and_then(Text::new).ok_or(Refusal::Invalid("the topic"))?;
        let content_type = Text::new(content_type).ok_or(Refusal::Invalid("the content type"))?;
        let encoding = Text::new(encoding).ok_or(Refusal::Invalid("the encoding"))?;
        if self.storage.parts().routes.len() <= self.routes && !self.storage.grow(Table::Routes, 1)
        {
            return Err(Refusal::TooMany("routes"));
        }
        let parts = self.storage.parts();
        let new = RouteSlot { lane, topic, content_type, encoding, schema, told: false };
        *parts.routes.get_mut(self.routes).ok_or(Refusal::TooMany("routes"))? = new;
        let id = RouteId(u32::try_from(self.routes).unwrap_or(u32::MAX));
        self.routes += 1;
        self.untold = true;
        Ok(id)
    }

    /// Publishes one event: its number. It is kept until it is stored or refused. The machine spells numbers itself:
    /// `extras.number` is not looked at.
    pub fn publish(
        &mut self,
        now: Instant,
        route: RouteId,
        extras: Extras<'_>,
        payload: &[u8],
    ) -> Result<Number, Refusal> {
        let extras = Extras { number: None, ..extras };
        let message = Message::Event(Published { route, extras, payload });
        self.put(now, route, 1, payload, &extras, &message, payload.len())
    }

    /// Publishes several events of one route under one checksum: the first one's number. They stay one block.
    pub fn publish_batch(
        &mut self,
        now: Instant,
        route: RouteId,
        lengths: Lengths<'_>,
        extras: Extras<'_>,
        payload: &[u8],
    ) -> Result<Number, Refusal> {
        let whole = u64::try_from(payload.len()).is_ok_and(|length| length == lengths.total());
        if !whole || !(1..=limits::BATCH_EVENTS).contains(&lengths.count()) {
            return Err(Refusal::Invalid("the batch's lengths"));
        }
        let extras = Extras { number: None, ..extras };
        let longest = lengths.iter().max().unwrap_or_default();
        let message = Message::Batch(Batch { route, lengths, extras, payload });
        self.put(now, route, lengths.count(), payload, &extras, &message, longest)
    }

    #[expect(clippy::too_many_arguments, reason = "what an event and a batch have in common")]
    fn put(
        &mut self,
        now: Instant,
        route: RouteId,
        count: u32,
        payload: &[u8],
        extras: &Extras<'_>,
        message: &Message<'_>,
        longest: usize,
    ) -> Result<Number, Refusal> {
        let fits =
            |length: usize, most: u32| u32::try_from(length).is_ok_and(|length| length <= most);
        // A header is at most a route, lengths and extras: what is left of the frame is told by the server anyway.
        if !fits(longest, self.payload_max) || !fits(payload.len(), self.server_frame_max) {
            return Err(Refusal::TooLarge);
        }
        let parts = self.storage.parts();
        let bound =
            slot(parts.routes, route.0, self.routes).ok_or(Refusal::Unknown("the route"))?.lane;
        let first =
            slot(parts.lanes, bound.0, self.lanes).ok_or(Refusal::Unknown("the lane"))?.next;
        let next = first.0.checked_add(u64::from(count)).ok_or(Refusal::TooMany("numbers"))?;
        let entry = Flight {
            lane: bound.0,
            route: route.0,
            first,
            count,
            payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            born: now,
            aged: matches!(extras.happened, Some(Happened::Ago(_))),
            progress: Progress::Unsent,
            ..Flight::default()
        };
        self.push(New { entry, payload_crc: crc::of(payload) }, message)?;
        if let Some(lane) = slot(self.storage.parts().lanes, bound.0, self.lanes) {
            lane.next = Number(next);
        }
        Ok(first)
    }

    fn push(&mut self, new: New, message: &Message<'_>) -> Result<(), Refusal> {
        if self.outbox.push(&mut self.storage.parts(), new, message).is_ok() {
            return Ok(());
        }
        let compacted = self.outbox.compact(&mut self.storage.parts());
        if compacted && self.outbox.push(&mut self.storage.parts(), new, message).is_ok() {
            return Ok(());
        }
        // Which table is full is not said: both get room where they can.
        let (flights, bytes) = self.outbox.wants(&self.storage.parts(), message);
        let grew = (flights && self.storage.grow(Table::Flights, 1))
            | (bytes > 0 && self.storage.grow(Table::Window, bytes));
        if grew && self.outbox.push(&mut self.storage.parts(), new, message).is_ok() {
            return Ok(());
        }
        Err(if self.outbox.live() == 0 { Refusal::TooLarge } else { Refusal::Busy })
    }

    /// Takes a new run, after [`Event::UnknownRun`] and without a connection: everything in flight is numbered anew, and
    /// may come twice. `told` hears lane, old first number, new first number and how many of each event or batch.
    pub fn renew(
        &mut self,
        run: Run,
        mut told: impl FnMut(LaneId, Number, Number, u32),
    ) -> Result<(), Refusal> {
        if self.state != State::Idle {
            return Err(Refusal::InUse);
        }
        self.abandoned = self.config.run;
        self.config.run = run;
        self.lost = false;
        self.outbox.renumber(&mut self.storage.parts(), |entry, new| {
            told(LaneId(entry.lane), entry.first, new, entry.count);
        });
        Ok(())
    }

    /// Leaves when everything in flight is acknowledged: GOAWAY goes out then.
    pub const fn close(&mut self) {
        self.closing = true;
    }

    /// Is nothing published that is not stored or refused?
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.outbox.live() == 0
    }

    /// What is sent and unacked on this connection.
    #[must_use]
    pub const fn in_flight(&self) -> Amount {
        self.window.in_flight()
    }

    /// Did the server let us in, and is the session still there?
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Draining)
    }

    /// Is the connection to be cut, once what [`Device::poll_transmit`] has to say is written?
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Why; `None` while the connection is good. Code 0: it ended as it should.
    #[must_use]
    pub const fn close_reason(&self) -> Option<Code> {
        match self.state {
            State::Closed(code) => Some(code),
            State::Idle | State::Greeting { .. } | State::Open | State::Draining => None,
        }
    }

    /// The first number of a lane that is not known to be stored or refused; `None` where there is no such lane.
    #[must_use]
    pub fn first_unacked(&self, lane: LaneId) -> Option<Number> {
        let lane = self.storage.lanes().get(..self.lanes)?.get(usize::try_from(lane.0).ok()?)?;
        Some(Number(lane.acked.0 + 1))
    }

    /// The run it numbers in.
    #[must_use]
    pub const fn run(&self) -> Run {
        self.config.run
    }

    /// When to call [`Device::handle_timeout`]; `None`: nothing is waited for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Idle | State::Closed(_) => None,
            State::Greeting { deadline, .. } => Some(deadline),
            State::Open | State::Draining => {
                self.next_reopening().into_iter().chain(self.next_silence()).min()
            }
        }
    }

    fn next_reopening(&self) -> Option<Instant> {
        let lanes = self.storage.lanes().iter().take(self.lanes);
        let until = |lane: &LaneSlot| match lane.state {
            LaneState::Closed { until } => until,
            LaneState::Wanted | LaneState::Opening | LaneState::Open => None,
        };
        lanes.filter_map(until).min()
    }

    /// spec §4.4.2: asked after the keep-alive, given up after twice that, or when the server says it would.
    fn next_silence(&self) -> Option<Instant> {
        let keep_alive = u64::from(self.config.keep_alive_s);
        let after = |seconds: u64| self.heard.after(Duration::from_secs(seconds));
        (keep_alive > 0).then(|| after(if self.asked { 2 * keep_alive } else { keep_alive }))
    }

    /// Does what is due by now: asks who is silent, gives up who is gone, opens lanes again.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Greeting { deadline, .. } if now >= deadline => {
                self.state = State::Closed(Code::DEADLINE)
            }
            State::Open | State::Draining => {
                self.reopen_lanes(now);
                if self.next_silence().is_some_and(|at| now >= at) {
                    self.silent();
                }
            }
            State::Greeting { .. } | State::Idle | State::Closed(_) => {}
        }
    }

    fn silent(&mut self) {
        if self.asked {
            self.state = State::Closed(Code::DEADLINE);
        } else {
            self.asked = true;
            self.due.ping = true;
        }
    }

    fn reopen_lanes(&mut self, now: Instant) {
        for lane in self.storage.parts().lanes.iter_mut().take(self.lanes) {
            match lane.state {
                LaneState::Closed { until: Some(until) } if now >= until => {
                    lane.state = LaneState::Wanted;
                    self.wanted = true;
                }
                LaneState::Closed { .. }
                | LaneState::Wanted
                | LaneState::Opening
                | LaneState::Open => {}
            }
        }
    }

    /// A number in 0..=`most`, for jitter: xorshift, seeded by the run.
    const fn jitter(&mut self, most: u32) -> u32 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 17;
        self.jitter ^= self.jitter << 5;
        self.jitter % (most.saturating_add(1))
    }
}

/// The entry of a small number.
fn slot<T>(table: &mut [T], at: u32, used: usize) -> Option<&mut T> {
    table.get_mut(..used)?.get_mut(usize::try_from(at).ok()?)
}

/// A lane that waits to be opened. spec §5.1.1
fn lane(id: LaneId, key: Option<&str>, first: Number, urgent: bool) -> Result<LaneSlot, Refusal> {
    if key.is_none() != (id == LaneId(0)) || first == Number(0) {
        return Err(Refusal::Invalid("the lane"));
    }
    let key = match key {
        Some(key) => {
            Some(id::key(key).ok().and_then(Text::new).ok_or(Refusal::Invalid("the key"))?)
        }
        None => None,
    };
    let acked = Number(first.0 - 1);
    Ok(LaneSlot { key, urgent, next: first, wire_next: first, acked, ..LaneSlot::default() })
}
