//! Requests that several workers answer, among what a session has asked, and the edge's own answers on their way out.
//!
//! What such a request is and what its answers come to: `spread`. Invariant: each is answered once, and leaves the table.

use std::collections::VecDeque;

use spile_protocol::{id::RequestId, message::Message, session::edge::Session, time::Instant};

use super::spread::Spread;
use super::tables::{Asks, Sub, Tables, request_of};
use super::unpark;
use crate::buffers::Turn;
use crate::limits::SPREADS;
use crate::upstream::Workers;

impl Tables {
    /// May one more request be asked of several workers?
    pub(super) fn may_spread(&self) -> bool {
        let many = |(_, asks): &&(RequestId, Asks)| matches!(asks, Asks::Many(_));
        self.requests.iter().filter(many).count() < SPREADS
    }

    pub(super) fn spread(&mut self, request: RequestId, spread: Spread) {
        self.requests.push((request, Asks::Many(Box::new(spread))));
    }

    /// Says an answer of the edge's own.
    pub(super) fn answer(&mut self, frames: impl IntoIterator<Item = Box<[u8]>>) {
        self.answers.extend(frames);
    }

    /// Keeps what a worker answers to a request that several were asked.
    pub(super) fn gather(&mut self, place: usize, message: &Message<'_>, payload_crc: u32) -> bool {
        let Some(request) = request_of(message) else { return false };
        let held: usize = self.spreads().map(|(_, spread)| spread.held()).sum();
        let Some((_, spread)) = self.spreads().find(|(known, _)| *known == request) else {
            return false;
        };
        let others = held.saturating_sub(spread.held());
        spread.hear(place, message, payload_crc, others);
        true
    }

    fn spreads(&mut self) -> impl Iterator<Item = (RequestId, &mut Spread)> {
        self.requests.iter_mut().filter_map(|(request, asks)| match asks {
            Asks::Many(spread) => Some((*request, &mut **spread)),
            Asks::One(_) | Asks::Call { .. } => None,
        })
    }

    /// When requests that several were asked are answered with what came, and workers asked again.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let spreads = self.requests.iter().filter_map(|(_, asks)| match asks {
            Asks::Many(spread) => Some(spread.due()),
            Asks::One(_) | Asks::Call { .. } => None,
        });
        let merges = self.subscriptions.iter().flat_map(move |(_, sub)| match sub {
            Sub::Every(merge) => merge.due(now),
            Sub::One(..) => None,
        });
        spreads.chain(merges)
    }

    /// Answers what several workers were asked, and all have answered or whose time is over.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        workers: &Workers,
        edge: impl Fn() -> serde_json::Map<String, serde_json::Value>,
    ) {
        let over = |spread: &Spread| spread.is_done() || spread.due() <= now;
        while let Some(at) = self
            .requests
            .iter()
            .position(|(_, asks)| matches!(asks, Asks::Many(spread) if over(spread)))
        {
            if let (request, Asks::Many(spread)) = self.requests.swap_remove(at) {
                self.answers.extend(spread.finish(request, workers, &edge));
            }
        }
    }

    /// Says the edge's own answers, as long as there is room.
    pub(super) fn say_answers(&mut self, machine: &mut Session, now: Instant, out: &mut Turn<'_>) {
        while let Some(frame) = self.answers.pop_front() {
            let Some((message, payload_crc)) = unpark(&frame) else { continue };
            if machine.handle_downstream(now, &message, payload_crc, out).is_err() {
                return self.answers.push_front(frame);
            }
            self.heard(&message);
        }
        self.answers = VecDeque::new();
    }
}
