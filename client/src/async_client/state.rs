//! What callers and the driver share, behind one lock that is held for no longer than it takes to look.
//!
//! ```text
//!            let in              broke               let in
//!  Greeting ────────▶ Open ────────────────▶ Away ─────────────▶ Open
//!      └── failed ──────┴── closed, or no use in coming back ──┴──────▶ Closed
//! ```
//!
//! Here: phases, and what callers share. What the driver asks: `driving`; publishing: `sending`; what the server says: `happened`; subscriptions and
//! calls: `asking`; memberships of groups: `consuming`; look-ups: `looking`. Invariant: who waits is woken outside the lock,
//! and hears either its outcome or why there is none.

mod asking;
mod consuming;
mod driving;
mod gather;
mod happened;
mod looking;
mod sending;
mod serving;
mod uploading;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use spile_protocol::id::Run;
use spile_protocol::session::device::{Config, Credential, Device, Growable};
use spile_protocol::time::{Instant, Millis};
use tokio_util::task::TaskTracker;

use super::Error;
use super::builder::{self, Prepared};
use super::clock::{Clock, random};
use super::handed::{Handed, Settles};
use super::inbox::Inbox;
use super::lookup::Looked;
use super::outbox::Outbox;
use super::pipe::Seen;
use super::request::Asked;
use super::slab::Slab;
pub(super) use consuming::Part;
use gather::Gathered;
pub(super) use sending::Way;
use sending::Ways;
use serving::Serves;
use uploading::Uploads;

/// Events and batches the machine keeps until they are acknowledged.
const FLIGHTS: usize = 16 * 1024;
/// Bytes of their frames. At the cap publishing waits.
const WINDOW: usize = 8 << 20;
/// A device key's tenant where none is said.
const MAIN: &str = "main";
/// Credit is given back no more often: each time costs a frame, of which a server takes 1,024 a second. spec §6.5
const GIVE_BACK_EVERY: Duration = Duration::from_millis(1);

/// Who we are to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Our name: the key where none is said.
    pub principal: Arc<str>,
    /// The tenant we are in.
    pub tenant: Arc<str>,
    /// The edge we speak to.
    pub edge: Arc<str>,
    /// What the server is.
    pub software: Arc<str>,
    /// The session's number at the edge, as its logs have it.
    pub number: u64,
    /// The server's clock when it let us in …
    pub server_time: Millis,
    /// … and ours.
    pub local_time: Millis,
}

/// How far the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Was never let in.
    Greeting,
    /// Is let in.
    Open,
    /// Was let in once, comes back.
    Away,
    /// Over for good.
    Closed(Error),
}

/// Whether it is wanted any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    Asked { since: Instant, told: bool },
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    device: Device<Growable, Arc<str>>,
    pub(super) outbox: Outbox,
    gathered: Gathered,
    ways: Ways,
    inboxes: Slab<Inbox>,
    groups: Slab<Handed>,
    settles: Settles,
    /// How often a membership was opened, of all groups.
    openings: u64,
    calls: Slab<Asked>,
    looks: Slab<Looked>,
    serves: Serves,
    uploads: Uploads,
    phase: Phase,
    leaving: Leaving,
    session: Session,
    /// The tenant we mean to be in: the one asked for, else the first the server said.
    tenant: Option<Arc<str>>,
    /// The server said another tenant: nothing more is said to it or heard from it.
    foreign: Option<Error>,
    seen: Seen,
    /// What is said at once: subscriptions, settling, calls.
    said: Vec<u8>,
    /// Why the server ends the connection, in its own words.
    last_word: Option<Error>,
    /// Why a lane was closed for a while, where nothing was acknowledged since.
    held_up: Option<Error>,
    /// The server says goodbye and answers what is in flight still.
    going: bool,
    /// The run is not known any more: a new one, on a new connection.
    lost: bool,
    /// What may be sent and unacked, as WELCOME said.
    credit: (u32, u32),
    /// The longest payload and frame the server takes.
    payload_max: usize,
    frame_max: usize,
    clock: Clock,
    /// When somebody for whom it matters looked last: looking for each event would cost as much as the event.
    now: Instant,
    /// When something came last.
    heard: Instant,
    /// When credit was given back last, and whether some waits to be.
    gave_back: Instant,
    owes: bool,
    dirty: bool,
    driver: Option<Waker>,
    wake: Vec<Waker>,
    opening: Vec<Waker>,
}

/// What callers and the driver hold.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// What calls to our services run on.
    tasks: OnceLock<TaskTracker>,
}

impl Shared {
    pub(super) fn new(prepared: &Prepared) -> Result<Self, Error> {
        let run = prepared.run.map_or_else(|| random().map(Run), Ok)?;
        let credential = match &prepared.credential {
            builder::Credential::Certificate => Credential::Certificate,
            builder::Credential::Token(token) => Credential::Token(Arc::clone(token)),
            builder::Credential::DeviceKey { device, key } => Credential::Key {
                tenant: prepared.tenant.clone().unwrap_or_else(|| Arc::from(MAIN)),
                device: Arc::clone(device),
                key: *key,
            },
        };
        let mut config = Config::new(run, credential, Arc::clone(&prepared.software));
        config.keep_alive_s = prepared.keep_alive_s;
        config.receipts = prepared.receipts;
        config.greeting = prepared.connect_timeout;
        let mut state = State::new(Device::new(config, Growable::new(FLIGHTS, WINDOW)));
        state.tenant.clone_from(&prepared.tenant);
        Ok(Self { state: Mutex::new(state), tasks: OnceLock::new() })
    }

    /// Calls to our services run there.
    pub(super) fn runs_on(&self, this: &Arc<Self>, tasks: &TaskTracker) {
        self.with(|state| state.serves.me = Arc::downgrade(this));
        self.tasks.get_or_init(|| tasks.clone());
    }

    /// Does something with the state, and wakes who is to hear of it.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut state);
        let driver = if std::mem::take(&mut state.dirty) { state.driver.take() } else { None };
        let wake = std::mem::take(&mut state.wake);
        let starts = state.serves.take_starts();
        drop(state);
        if let Some(tasks) = self.tasks.get() {
            starts.into_iter().for_each(|begun| drop(tasks.spawn(begun.run())));
        }
        driver.into_iter().chain(wake).for_each(Waker::wake);
        result
    }

    /// Waits until the server let us in, or will not.
    pub(super) fn poll_open(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.with(|state| match &state.phase {
            Phase::Open => Poll::Ready(Ok(())),
            Phase::Closed(why) => Poll::Ready(Err(why.clone())),
            Phase::Greeting | Phase::Away => {
                state.opening.push(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    pub(super) fn session(&self) -> Session {
        self.with(|state| state.session.clone())
    }

    pub(super) fn principal(&self) -> Arc<str> {
        self.with(|state| Arc::clone(&state.session.principal))
    }

    pub(super) fn seen(&self) -> Seen {
        self.with(|state| state.seen.clone())
    }

    pub(super) fn is_open(&self) -> bool {
        self.with(|state| state.phase == Phase::Open)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.with(|state| matches!(state.phase, Phase::Closed(_)))
    }

    /// It is not wanted any longer: what is in flight has a little time, then it is over.
    pub(super) fn close(&self) {
        self.with(|state| {
            state.tick();
            if state.leaving == Leaving::No {
                state.leaving = Leaving::Asked { since: state.now, told: false };
            }
            state.dirty = true;
        });
    }
}

impl State {
    fn new(device: Device<Growable, Arc<str>>) -> Self {
        Self {
            device,
            outbox: Outbox::default(),
            gathered: Gathered::default(),
            ways: Ways::default(),
            inboxes: Slab::default(),
            groups: Slab::default(),
            settles: Settles::default(),
            openings: 0,
            calls: Slab::default(),
            looks: Slab::default(),
            serves: Serves::default(),
            uploads: Uploads::default(),
            phase: Phase::Greeting,
            leaving: Leaving::No,
            session: Session {
                principal: Arc::default(),
                tenant: Arc::default(),
                edge: Arc::default(),
                software: Arc::default(),
                number: 0,
                server_time: Millis(0),
                local_time: Millis(0),
            },
            tenant: None,
            foreign: None,
            seen: Seen::default(),
            said: Vec::new(),
            last_word: None,
            held_up: None,
            going: false,
            lost: false,
            credit: (0, 0),
            payload_max: 0,
            frame_max: 0,
            clock: Clock::start(),
            now: Instant(0),
            heard: Instant(0),
            gave_back: Instant(0),
            owes: false,
            dirty: false,
            driver: None,
            wake: Vec::new(),
            opening: Vec::new(),
        }
    }

    /// Looks at the clock.
    fn tick(&mut self) {
        self.now = self.clock.now();
    }

    /// Fails where the client is over.
    fn check(&self) -> Result<(), Error> {
        match &self.phase {
            Phase::Closed(why) => Err(why.clone()),
            Phase::Greeting | Phase::Open | Phase::Away => Ok(()),
        }
    }

    /// Over for good: everyone who waits hears why.
    fn end(&mut self, why: &Error) {
        self.phase = Phase::Closed(why.clone());
        self.gathered.clear();
        self.outbox.fail(why, &mut self.wake);
        for (_, inbox) in self.inboxes.iter_mut() {
            if !inbox.is_over() {
                inbox.ended(Some(why.clone()), &mut self.wake);
            }
        }
        self.end_groups(why);
        self.fail_uploads(why);
        for (_, asked) in self.calls.iter_mut() {
            asked.failed(why.clone(), &mut self.wake);
        }
        self.fail_looks(why);
        self.serves.end(why, &mut self.wake);
        self.wake.append(&mut self.opening);
    }
}

/// Keys by their lanes' numbers, or lanes by their keys.
type Numbers = HashMap<Arc<str>, usize>;
