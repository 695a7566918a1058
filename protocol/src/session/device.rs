//! The client's side of a session: what is published stays here until it is stored, whatever connections come and go.
//! spec §4 to §9, §17.1.
//!
//! ```text
//!  Idle ──connected──▶ Greeting ──WELCOME──▶ Open ──GOAWAY either way──▶ Draining ──▶ Closed ──disconnected──▶ Idle
//! ```
//!
//! Here: the machine and its connections. What changes what is kept (lanes, routes, events) is `publish`, what comes in
//! `input`, what goes out because of what is kept `output`, the window of events `outbox`, time `timing`. Subscriptions,
//! settling, requests and uploads are `verbs`: said at once into the caller's buffer, and forgotten with the connection.
//!
//! The machine never allocates: its tables are [`Storage`] the caller lends, its frames go to a [`super::Transmit`] of the
//! caller's. The invariants: a number is given once in a run; what is sent and unacked never passes the credit; nothing
//! leaves the window before it is stored or refused.

mod config;
mod input;
mod outbox;
mod output;
mod publish;
mod storage;
mod timing;
mod verbs;

#[cfg(feature = "alloc")]
pub use self::storage::Growable;
pub use self::{
    config::{Channel, Config, Credential, Refusal},
    input::{Event, Spelled},
    storage::{
        Fixed, Flight, LaneSlot, Parts, RouteSlot, Storage, SubscriptionSlot, Table, UploadSlot,
    },
};
use self::{
    outbox::Outbox,
    storage::{LaneState, Text},
};
use super::{Amount, Window, key};
use crate::{
    code::Code,
    id::{LaneId, Number, Run},
    limits,
    time::Instant,
};

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

    /// The state's name in spec §17.1.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self.state {
            State::Idle => "Idle",
            State::Greeting {
                auth:
                    Auth::Due(Some(key::Binding::Nonces { .. }))
                    | Auth::Sent(Some(key::Binding::Nonces { .. })),
                ..
            } => "Challenged",
            State::Greeting { .. } => "Greeting",
            State::Open => "Open",
            State::Draining => "Draining",
            State::Closed(_) => "Closed",
        }
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
}

/// The entry of a small number.
fn slot<T>(table: &mut [T], at: u32, used: usize) -> Option<&mut T> {
    table.get_mut(..used)?.get_mut(usize::try_from(at).ok()?)
}
