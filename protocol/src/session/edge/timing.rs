//! Deadlines, silence, and the end of a session that drains. spec §4.4, §4.5, §12.2.

use core::time::Duration;

use super::{Partial, Session, State};
use crate::{code::Code, frame, time::Instant};

impl Session {
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
    pub(super) fn idle(&self) -> Option<Duration> {
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

    /// The caller does not read now, since it has no room: silence is its own.
    pub fn not_read(&mut self, now: Instant) {
        self.heard = now;
        if let Some(partial) = &mut self.partial {
            let left = partial.deadline.since(partial.begun);
            (partial.begun, partial.deadline) = (now, now.after(left));
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
            self.tables.give_back();
        }
    }

    /// spec §4.5: a session that is going away ends when nothing is in flight, or when its time is over; where the client
    /// began it hears the same code back.
    pub(super) fn close_when_drained(&mut self, now: Instant) {
        let State::Draining { deadline } = self.state else { return };
        // spec §4.5.1: a call the client has is in flight too, unless it is the client that leaves.
        let owed = !self.client_left && !self.tables.called.is_empty();
        if now >= deadline || (self.tables.is_idle() && !owed) {
            self.state = State::Closed(self.leave);
            if self.client_left {
                self.due.goaway = Some((self.leave, 0));
            }
        }
    }

    /// spec §12.2: a frame that has begun must be whole in time.
    pub(super) fn wait_for_the_rest(&mut self, now: Instant, bytes: &[u8], limit: u32) {
        let begun = self.partial.map_or(now, |partial| partial.begun);
        let measured = frame::measure(bytes, limit).ok().flatten();
        let length = measured.map_or(0, |extent| u64::try_from(extent.end()).unwrap_or(u64::MAX));
        let rate = u64::from(self.config.deadlines.frame_bytes_per_s.max(1));
        let whole = self.config.deadlines.frame + Duration::from_secs(length / rate);
        self.partial = (!bytes.is_empty()).then(|| Partial { begun, deadline: begun.after(whole) });
    }
}
