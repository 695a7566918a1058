//! What the driver asks of the state: what is to be sent, what came, when to look again, and whether to come back.
//! A part of [`State`].

use std::task::{Context, Poll};
use std::time::Duration;

use spile_protocol::code::{Class, Code};
use spile_protocol::id::Run;
use spile_protocol::session::Limited;
use spile_protocol::session::device::Channel;
use spile_protocol::time::Instant;

use super::{GIVE_BACK_EVERY, Leaving, Phase, Shared, State};
use crate::async_client::Error;
use crate::async_client::clock::random;
use crate::async_client::error::Refusal;
use crate::async_client::outbox::register;
use crate::async_client::pipe::Seen;

/// How long a client that was closed waits for what is in flight and for the server's goodbye.
const LEAVING: Duration = Duration::from_secs(2);
/// Kind, length and checksum of a frame, with room to spare.
const FRAME_AROUND: usize = 16;
/// After so long without a byte a connection is quiet, and needs no large buffers.
const QUIET: Duration = Duration::from_secs(1);

impl Shared {
    /// A connection stands.
    pub(in crate::async_client) fn connected(
        &self,
        channel: Channel,
        seen: Seen,
    ) -> Result<(), Error> {
        let nonce = random()?;
        self.with(|state| {
            state.tick();
            state.seen = seen;
            (state.last_word, state.going) = (None, false);
            state.said.clear();
            state.device.connected(state.now, channel, nonce);
        });
        Ok(())
    }

    /// The connection is gone: was it a session?
    pub(in crate::async_client) fn disconnected(&self) -> Result<bool, Error> {
        let run = random()?;
        Ok(self.with(|state| state.disconnected(Run(run))))
    }

    /// Puts what is to be sent behind what is in `out`, up to `most`; says why where the connection is to end.
    pub(in crate::async_client) fn gather(
        &self,
        cx: &Context<'_>,
        out: &mut Vec<u8>,
        most: usize,
    ) -> Option<Error> {
        self.with(|state| {
            state.tick();
            let over = state.say(out, most);
            register(&mut state.driver, cx);
            state.dirty = false;
            over
        })
    }

    /// Takes whole frames off the front of `bytes`: how many bytes.
    pub(in crate::async_client) fn take(&self, bytes: &[u8]) -> usize {
        self.with(|state| {
            state.tick();
            state.take(bytes)
        })
    }

    /// When to look again though nothing happens, and whether the server let us in.
    pub(in crate::async_client) fn deadline(&self) -> (Option<tokio::time::Instant>, bool) {
        self.with(|state| {
            let deadline = state.deadline().map(|deadline| state.clock.at(deadline));
            (deadline, state.phase == Phase::Open)
        })
    }

    /// The deadline came: has nothing come for a while?
    pub(in crate::async_client) fn timed_out(&self) -> bool {
        self.with(|state| {
            state.tick();
            state.device.handle_timeout(state.now);
            state.now >= state.heard.after(QUIET)
        })
    }

    /// What the server said last, where that is why the connection ended.
    pub(in crate::async_client) fn last_word(&self) -> Option<Error> {
        self.with(|state| state.last_word.clone())
    }

    /// Why events wait, where the server said it and has acknowledged none since.
    pub(in crate::async_client) fn held_up(&self) -> Option<Error> {
        self.with(|state| state.held_up.clone())
    }

    /// After how long to connect again; `None`: not at all, and everyone who waits was told why.
    pub(in crate::async_client) fn comes_back(
        &self,
        why: &Error,
        reconnect: bool,
    ) -> Option<Duration> {
        self.with(|state| {
            let asked = state.comes_back(why, reconnect);
            if asked.is_none() {
                let why = if state.leaving == Leaving::No { why.clone() } else { Error::Closed };
                state.end(&why);
            }
            asked
        })
    }

    /// Comes when the client is not wanted any more.
    pub(in crate::async_client) async fn closed(&self) {
        let closed = std::future::poll_fn(|cx| {
            self.with(|state| {
                register(&mut state.driver, cx);
                if state.leaving == Leaving::No { Poll::Pending } else { Poll::Ready(()) }
            })
        });
        closed.await;
    }
}

impl State {
    fn say(&mut self, out: &mut Vec<u8>, most: usize) -> Option<Error> {
        if self.foreign.is_some() {
            return self.foreign.clone();
        }
        self.open_uploads();
        self.rejoin_due();
        self.ask_to_serve();
        out.append(&mut self.said);
        self.serves.sent(&mut self.wake);
        self.give_back_credit(out);
        let over = self.leave();
        if over.is_none() {
            self.send_what_was_gathered();
        }
        // The longest frame goes too, by itself.
        let most = if out.is_empty() { most.max(self.frame_max + FRAME_AROUND) } else { most };
        let room = most.saturating_sub(out.len());
        self.device.poll_transmit(self.now, &mut Limited::new(out, room));
        if over.is_none() {
            self.say_chunk(out);
        }
        over.or_else(|| self.is_over())
    }

    /// Leaves when everything in flight is acknowledged, or when that takes too long.
    fn leave(&mut self) -> Option<Error> {
        let Leaving::Asked { since, told } = self.leaving else { return None };
        if self.phase != Phase::Open || self.now >= since.after(LEAVING) {
            return Some(Error::Closed);
        }
        if !told && self.gathered.is_empty() {
            self.device.close();
            self.leaving = Leaving::Asked { since, told: true };
        }
        None
    }

    /// Is the connection to be cut?
    fn is_over(&self) -> Option<Error> {
        let word = || self.last_word.clone().unwrap_or(Error::Closed);
        if self.lost {
            return Some(Refusal::of(Code::UNKNOWN_RUN).into());
        }
        if let Some(code) = self.device.close_reason() {
            return Some(self.last_word.clone().unwrap_or_else(|| Refusal::of(code).into()));
        }
        // The server has said goodbye, and owes us nothing more.
        let owes = self.device.in_flight().events > 0
            || self.serves.is_busy()
            || self.calls.iter().any(|(_, asked)| asked.is_awaited());
        (self.going && !owes).then(word)
    }

    fn take(&mut self, bytes: &[u8]) -> usize {
        self.heard = self.now;
        let mut rest = bytes;
        while self.foreign.is_none()
            && let Some(event) = self.device.handle_input(self.now, &mut rest)
        {
            self.happened(event);
        }
        bytes.len() - rest.len()
    }

    fn deadline(&self) -> Option<Instant> {
        let leaving = match self.leaving {
            Leaving::Asked { since, .. } => Some(since.after(LEAVING)),
            Leaving::No => None,
        };
        let owes = self.owes.then(|| self.gave_back.after(GIVE_BACK_EVERY));
        let work = self.uploads_due().into_iter().chain(self.groups_due()).chain(self.serves.due());
        self.device.poll_timeout().into_iter().chain(leaving).chain(owes).chain(work).min()
    }

    fn disconnected(&mut self, run: Run) -> bool {
        let was_open = self.phase == Phase::Open;
        if was_open {
            self.phase = Phase::Away;
        }
        self.device.disconnected();
        if std::mem::take(&mut self.lost) && self.device.renew(run, |_, _, _, _| {}).is_ok() {
            self.outbox.renumber();
            self.ways.renewed();
        }
        // Where the server said why it ended the session, that is why.
        let broke = || Refusal::of(Code::UNAVAILABLE).detail("the connection broke").into();
        let why = self.last_word.clone().unwrap_or_else(broke);
        self.fail_calls(&why);
        self.fail_looks(&why);
        self.suspend_subscriptions();
        self.suspend_groups();
        self.serves.disconnected(&mut self.wake);
        self.suspend_uploads();
        was_open
    }

    fn comes_back(&self, why: &Error, reconnect: bool) -> Option<Duration> {
        let wanted = self.leaving == Leaving::No && reconnect && self.phase == Phase::Away;
        match why {
            _ if !wanted => None,
            Error::Refused(refusal) if refusal.code == Code::UNKNOWN_RUN => Some(Duration::ZERO),
            // What is said at a goodbye need not be a fault of ours: a server that restarts says so.
            Error::Refused(refusal) if self.going && refusal.code.class() != Class::YourRight => {
                Some(refusal.retry_after.unwrap_or_default())
            }
            Error::Refused(refusal) => refusal.retry_after,
            Error::Unreachable { .. } => Some(Duration::ZERO),
            Error::Setup { .. }
            | Error::Untrusted { .. }
            | Error::OtherTenant { .. }
            | Error::File { .. }
            | Error::Closed => None,
        }
    }
}
