//! Silence, deadlines, and lanes that open again. spec §4.4.2, §5.9.2.

use core::time::Duration;

use super::{Device, LaneSlot, State, Storage, storage::LaneState};
use crate::{code::Code, time::Instant};

impl<S: Storage, T: AsRef<str>> Device<S, T> {
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
    pub(super) const fn jitter(&mut self, most: u32) -> u32 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 17;
        self.jitter ^= self.jitter << 5;
        self.jitter % (most.saturating_add(1))
    }
}
