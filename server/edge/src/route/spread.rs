//! A request on its way to several workers: what was asked of whom, what came, and until when the rest is waited for.
//!
//! Not here: where a call goes (`aim`) and what answers come to (`fold`, `pages`). Invariants: a request that was spread is
//! answered once, when all have answered or its time is over; what is held of answers is bounded for the session.

use serde_json::{Map, Value};
use spile_protocol::{
    code::Code,
    crc,
    id::RequestId,
    message::{Body, Message, Reply, request::Listing},
    time::Instant,
};

use super::aim::{Wrong, object, wrong};
use super::fold::{Fold, Outcome};
use super::pages::{Pages, nothing};
use super::park_frame;
use crate::limits::GATHERED;
use crate::upstream::Workers;

/// What the answers become.
#[derive(Debug)]
enum Into {
    Page(Box<Pages>),
    Reply(Fold),
}

/// How far one worker is.
#[derive(Debug)]
enum State {
    /// It was asked; so much of its reply has come.
    Asked(Vec<u8>),
    Done(Outcome),
}

/// One worker's part.
#[derive(Debug)]
struct Part {
    place: usize,
    state: State,
}

/// A request that several workers were asked.
#[derive(Debug)]
pub(super) struct Spread {
    due: Instant,
    parts: Vec<Part>,
    into: Into,
    /// Bytes of answers that wait for the others.
    held: usize,
}

impl Spread {
    /// A listing, asked of the workers at these places until `due`.
    pub(super) fn list(due: Instant, listing: Listing, limit: u32, places: usize) -> Self {
        let into = Into::Page(Box::new(Pages::new(listing, limit, places)));
        Self::new(due, (0..places).collect(), into)
    }

    /// A call.
    pub(super) fn call(due: Instant, places: Vec<usize>, fold: Fold) -> Self {
        Self::new(due, places, Into::Reply(fold))
    }

    fn new(due: Instant, places: Vec<usize>, into: Into) -> Self {
        let part = |place| Part { place, state: State::Asked(Vec::new()) };
        Self { due, parts: places.into_iter().map(part).collect(), into, held: 0 }
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Has every worker answered, or gone?
    pub(super) fn is_done(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.state, State::Done(_)))
    }

    /// The worker is away: its part is missing.
    pub(super) fn lose(&mut self, place: usize) {
        let asked = |part: &&mut Part| part.place == place && matches!(part.state, State::Asked(_));
        for part in self.parts.iter_mut().filter(asked) {
            part.state = State::Done(Outcome::Away);
        }
    }

    /// What a worker answers; `others` is what the session holds of other requests.
    pub(super) fn hear(
        &mut self,
        place: usize,
        message: &Message<'_>,
        payload_crc: u32,
        others: usize,
    ) {
        let room = GATHERED.saturating_sub(self.held.saturating_add(others));
        let waits = |part: &Part| part.place == place && matches!(part.state, State::Asked(_));
        let Some(at) = self.parts.iter().position(waits) else { return };
        let Some(Part { state, .. }) = self.parts.get_mut(at) else { return };
        let (outcome, held) = match (message, &mut self.into) {
            (Message::Value(value), Into::Page(pages)) => {
                let held = pages.take(at, message, payload_crc, room);
                ((!value.fields.more).then(|| Outcome::Came(Map::new())), held)
            }
            (Message::Reply(reply), Into::Reply(_)) => {
                let outcome = reply_of(state, reply, room);
                (outcome, reply.payload.len().min(room))
            }
            (Message::Fault(fault), _) => {
                (Some(Outcome::Refused(wrong(fault.code, fault.detail))), 0)
            }
            _ => (None, 0),
        };
        self.held += held;
        if let Some(outcome) = outcome {
            *state = State::Done(outcome);
        }
    }

    /// The answer, as frames in order. Who has not answered by now is missing from it.
    pub(super) fn finish(
        self,
        request: RequestId,
        workers: &Workers,
        edge: impl FnOnce() -> Map<String, Value>,
    ) -> Vec<Box<[u8]>> {
        let name = |place| workers.get(place).map_or("", crate::upstream::Upstream::name);
        let parts: Vec<_> = self
            .parts
            .into_iter()
            .map(|part| match part.state {
                State::Done(outcome) => (name(part.place), outcome),
                State::Asked(_) => (name(part.place), Outcome::Away),
            })
            .collect();
        match self.into {
            Into::Reply(fold) => vec_of(reply(request, fold.fold(parts, edge))),
            Into::Page(pages) => page(request, *pages, parts),
        }
    }
}

fn vec_of(frame: Option<Box<[u8]>>) -> Vec<Box<[u8]>> {
    frame.into_iter().collect()
}

/// What a worker's reply is, once all of it is there.
fn reply_of(state: &mut State, reply: &Body<'_, Reply<'_>>, room: usize) -> Option<Outcome> {
    let State::Asked(bytes) = state else { return None };
    let Reply { code, more, detail, .. } = reply.fields;
    if code != Code(0) {
        return Some(Outcome::Refused(wrong(code, detail)));
    }
    if reply.payload.len() > room {
        return Some(Outcome::Refused(wrong(Code::TOO_LARGE, "its answer is longer than is held")));
    }
    bytes.extend_from_slice(reply.payload);
    if more {
        return None;
    }
    let bytes = std::mem::take(bytes);
    Some(match object(&bytes) {
        Ok(object) => Outcome::Came(object),
        Err(why) => Outcome::Refused(wrong(Code::INTERNAL, why.detail)),
    })
}

/// The one answer to a call.
pub(super) fn reply(
    request: RequestId,
    answer: Result<Map<String, Value>, Wrong>,
) -> Option<Box<[u8]>> {
    // A map of JSON values is always written.
    let (payload, Wrong { code, detail }) = match answer {
        Ok(object) => (serde_json::to_vec(&object).unwrap_or_default(), wrong(Code(0), "")),
        Err(wrong) => (Vec::new(), wrong),
    };
    let content_type = if code == Code(0) { "application/json" } else { "" };
    let detail = cut(&detail);
    let fields = Reply { request, code, more: false, content_type, detail };
    park_frame(&Message::Reply(Body { fields, payload: &payload }), crc::of(&payload))
}

/// A detail as long as one may be.
fn cut(detail: &str) -> &str {
    let most = spile_protocol::limits::DETAIL_BYTES;
    let end = (0..=most).rev().find(|&at| detail.is_char_boundary(at)).unwrap_or_default();
    detail.get(..end).unwrap_or(detail)
}

fn page(request: RequestId, pages: Pages, parts: Vec<(&str, Outcome)>) -> Vec<Box<[u8]>> {
    let came = parts.iter().any(|(_, outcome)| matches!(outcome, Outcome::Came(_)));
    let partial = !parts.iter().all(|(_, outcome)| matches!(outcome, Outcome::Came(_)));
    if came {
        return pages.merge(&nothing(request), partial);
    }
    let refused = parts.into_iter().find_map(|(_, outcome)| match outcome {
        Outcome::Refused(wrong) => Some(wrong),
        Outcome::Came(_) | Outcome::Away => None,
    });
    let Wrong { code, detail } =
        refused.unwrap_or_else(|| wrong(Code::UNAVAILABLE, "all workers are away"));
    let scope = spile_protocol::message::Scope::Request(request);
    let retry = code.retry();
    let retry_after_ms = if retry { crate::limits::AWAY_RETRY_MS } else { 0 };
    let fault =
        spile_protocol::message::Fault { code, scope, retry, retry_after_ms, detail: cut(&detail) };
    vec_of(park_frame(&Message::Fault(fault), 0))
}
