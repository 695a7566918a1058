//! The frames of a device that an operator debugs, in the log (admin §3.7): kind, lengths, and what they spell of lane,
//! number and code.
//!
//! Invariant: nothing of a payload, a name or a proof is logged; and no more than [`FRAMES_LOGGED`] lines a second.

use std::sync::Arc;

use spile_protocol::{
    code::Code,
    frame,
    id::{LaneId, Number},
    limits::FRAME_LINK,
    message::{Ack, Message, Scope, Sender},
    session::edge::Input as Came,
    time::Millis,
};

use crate::limits::FRAMES_LOGGED;
use crate::watch::Until;

/// What is logged of a session's frames, while it is to be.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    principal: Box<str>,
    trace_base: [u8; 8],
    until: Arc<Until>,
    /// The second it is, how many lines it has had, and how many there was no room for.
    second: u64,
    lines: u32,
    left_out: u64,
}

/// What a line says beside the kind and the lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct About {
    lane: Option<u32>,
    number: Option<u64>,
    count: Option<u64>,
    code: Option<Code>,
}

impl Frames {
    pub(crate) fn of(principal: &str, trace_base: [u8; 8], until: Arc<Until>) -> Self {
        Self { principal: principal.into(), trace_base, until, ..Self::default() }
    }

    /// Are they logged now?
    pub(crate) fn are_logged(&self, now: Millis) -> bool {
        self.until.covers(now)
    }

    /// What stands in `bytes` before the last `left` of them was taken, and came to this.
    pub(crate) fn came(&mut self, now: Millis, bytes: &[u8], left: usize, came: Option<&Came<'_>>) {
        let taken = bytes.get(..bytes.len().saturating_sub(left)).unwrap_or_default();
        let own = came.and_then(About::came);
        self.log(now, "in", taken, Sender::Client, own);
    }

    /// What is said to the client.
    pub(crate) fn said(&mut self, now: Millis, bytes: &[u8]) {
        self.log(now, "out", bytes, Sender::Server, None);
    }

    /// A line a frame; `last` is what is known of the last one.
    fn log(
        &mut self,
        now: Millis,
        way: &'static str,
        mut bytes: &[u8],
        sender: Sender,
        last: Option<About>,
    ) {
        while let Ok(Some((whole, used))) = frame::decode(bytes, FRAME_LINK) {
            bytes = bytes.get(used..).unwrap_or_default();
            let Ok(message) = Message::decode(&whole, sender) else { continue };
            let about = last.filter(|_| bytes.is_empty()).unwrap_or_else(|| About::of(&message));
            if self.has_room(now) {
                let About { lane, number, count, code } = about;
                let code = code.map(tracing::field::display);
                let (header, payload) = (whole.header.len(), whole.payload.len());
                let trace = crate::trace::Shown(self.trace_base);
                let (kind, principal) = (message.name(), &*self.principal);
                tracing::info!(
                    principal, %trace, way, kind, header, payload, lane, number, count, code, "frame"
                );
            }
        }
    }

    fn has_room(&mut self, now: Millis) -> bool {
        let second = now.0 / 1_000;
        if second != self.second {
            if self.left_out > 0 {
                let (principal, frames) = (&*self.principal, self.left_out);
                tracing::info!(principal, frames, "frames were not logged: too many in a second");
            }
            (self.second, self.lines, self.left_out) = (second, 0, 0);
        }
        let room = self.lines < FRAMES_LOGGED;
        if room {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        room
    }
}

impl About {
    /// What the session knows beside what the frame spells: an event's lane and number.
    fn came(came: &Came<'_>) -> Option<Self> {
        match came {
            Came::Upstream { lane, first, message, .. } => {
                let count = Self::count(message);
                count.map(|_| Self { count, ..Self::numbered(*lane, *first) })
            }
            Came::Void { lane, first, count, code } => Some(Self {
                count: Some(u64::from(*count)),
                code: Some(*code),
                ..Self::numbered(*lane, *first)
            }),
            Came::Authenticate(_) | Came::Leaving(_) | Came::Closed(_) => None,
        }
    }

    fn numbered(lane: LaneId, number: Number) -> Self {
        Self { lane: Some(lane.0), number: Some(number.0), ..Self::default() }
    }

    fn count(message: &Message<'_>) -> Option<u64> {
        if let Message::Event(_) = message {
            Some(1)
        } else if let Message::Batch(batch) = message {
            Some(u64::from(batch.lengths.count()))
        } else if let Message::Deliver(deliver) = message {
            Some(u64::from(deliver.lengths.count()))
        } else {
            None
        }
    }

    fn of(message: &Message<'_>) -> Self {
        if let Message::Lane(lane) = message {
            Self::numbered(lane.lane, lane.first_unacked)
        } else if let Message::LaneAnswer(answer) = message {
            let number = answer.last.map(|last| last.0);
            Self { lane: Some(answer.lane.0), number, ..Self::default() }
        } else if let Message::Bind(bind) = message {
            Self { lane: Some(bind.lane.0), ..Self::default() }
        } else if let Message::Ack(Ack::Spelled { lane, last, .. }) = message {
            Self::numbered(*lane, *last)
        } else if let Message::Ack(Ack::Step { step, .. }) = message {
            Self { lane: Some(0), count: Some(u64::from(*step)), ..Self::default() }
        } else if let Message::Fault(fault) = message {
            Self { code: Some(fault.code), ..Self::scoped(fault.scope) }
        } else if let Message::GoAway(goaway) = message {
            Self { code: Some(goaway.code), ..Self::default() }
        } else if let Message::Reply(reply) = message {
            Self { code: Some(reply.fields.code), ..Self::default() }
        } else if let Message::Deliver(deliver) = message {
            let number = Some(deliver.position.0);
            Self { number, count: Self::count(message), ..Self::default() }
        } else {
            Self { count: Self::count(message), ..Self::default() }
        }
    }

    fn scoped(scope: Scope) -> Self {
        match scope {
            Scope::Lane { lane, expected } => Self::numbered(lane, expected),
            Scope::Number { lane, number, count, .. } => {
                Self { count: Some(u64::from(count)), ..Self::numbered(lane, number) }
            }
            Scope::Session
            | Scope::Route(_)
            | Scope::Subscription(_)
            | Scope::Request(_)
            | Scope::Upload { .. } => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use spile_protocol::message::Fault;

    use super::*;

    #[test]
    fn a_line_has_what_the_frame_spells_or_the_session_knows() {
        let lane = Scope::Number {
            lane: LaneId(3),
            number: Number(7),
            count: 2,
            version: spile_protocol::id::Version(0),
        };
        let fault = Fault {
            code: Code::FORBIDDEN,
            scope: lane,
            retry: false,
            retry_after_ms: 0,
            detail: "",
        };
        let want =
            About { lane: Some(3), number: Some(7), count: Some(2), code: Some(Code::FORBIDDEN) };
        assert_eq!(About::of(&Message::Fault(fault)), want);
        let void =
            Came::Void { lane: LaneId(3), first: Number(7), count: 2, code: Code::FORBIDDEN };
        assert_eq!(About::came(&void), Some(want));
    }

    #[test]
    fn lines_are_bounded_each_second_and_what_was_left_out_is_counted() {
        let mut frames = Frames::default();
        let written = (0..FRAMES_LOGGED + 5).filter(|_| frames.has_room(Millis(1_500))).count();
        assert_eq!(u32::try_from(written), Ok(FRAMES_LOGGED));
        assert_eq!(frames.left_out, 5);
        assert!(frames.has_room(Millis(2_000)));
        assert_eq!(frames.left_out, 0);
    }
}
