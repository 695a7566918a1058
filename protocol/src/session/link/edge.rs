//! An edge's end of a link.

use super::{Came, Config, Link, Peer, Place, Refusal, chunks::Chunks, common};
use crate::{
    code::Code,
    id::{LinkSessionId, Number},
    limits,
    message::{Attach, Changed, Message, Registry, Sender, Void},
    session::{Amount, Transmit},
    time::{Instant, Millis},
};

/// What came from the worker.
#[expect(
    clippy::large_enum_variant,
    reason = "it is borrowed from the read buffer and taken apart at once"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeInput<'b> {
    /// The worker answered: sessions may be attached. Compare its name with its certificate's.
    Ready(Peer<'b>),
    /// For a session's client.
    Message {
        /// Which session.
        session: LinkSessionId,
        /// What its worker says.
        message: Message<'b>,
        /// CRC-32 of the payload.
        payload_crc: u32,
    },
    /// The worker ended a session; answer with [`Edge::detached`].
    Detached {
        /// Which.
        session: LinkSessionId,
        /// Why.
        code: Code,
    },
    /// What is registered; answer with [`Edge::registry`] when it is synced.
    Registry(Registry<'b>),
    /// Values that were asked for over this link have changed: what was answered of them is old. spec §10.8
    Changed(Changed<'b>),
    /// The worker goes away: no new sessions.
    Leaving(Code),
    /// The link is over; every session on it is detached.
    Closed(Code),
}

/// An edge's end of a link.
#[derive(Debug)]
pub struct Edge {
    pub(super) link: Link,
    /// Where to look for a free number.
    free: u32,
    /// What is in flight of events on the link, over all sessions.
    flight: Amount,
    chunks: Chunks,
}

common!(Edge);

impl Edge {
    /// A connection to a worker stands.
    #[must_use]
    pub fn new(now: Instant, wall: Millis, config: Config) -> Self {
        Self {
            link: Link::new(now, wall, config, Sender::Server),
            free: 0,
            flight: Amount::default(),
            chunks: Chunks::default(),
        }
    }

    /// Takes frames off the front of `bytes` until one means something to the driver. `None`: more bytes are needed.
    pub fn handle_input<'b>(
        &mut self,
        now: Instant,
        bytes: &mut &'b [u8],
    ) -> Option<EdgeInput<'b>> {
        loop {
            let (came, payload_crc) = match self.link.next(now, bytes)? {
                Ok(came) => came,
                Err(code) => return Some(EdgeInput::Closed(code)),
            };
            match came {
                Came::Nothing => {}
                Came::Hello(peer) => {
                    self.chunks.limit(self.link.config.chunk_bytes);
                    return Some(EdgeInput::Ready(peer));
                }
                Came::Inner { session, message, .. } => {
                    self.chunks.heard(session, &message);
                    return Some(EdgeInput::Message { session, message, payload_crc });
                }
                Came::Detached(session, code) => {
                    self.chunks.end_session(session);
                    return Some(EdgeInput::Detached { session, code });
                }
                Came::Leaving(code) if self.link.closed().is_some() => {
                    return Some(EdgeInput::Closed(code));
                }
                Came::Leaving(code) => return Some(EdgeInput::Leaving(code)),
                Came::Bare(Message::Registry(registry)) => {
                    return Some(EdgeInput::Registry(registry));
                }
                Came::Bare(Message::Changed(changed)) => {
                    return Some(EdgeInput::Changed(changed));
                }
                Came::Bare(Message::Credit(credit)) if credit.subscription.is_none() => {
                    self.link.config.credit = Amount { events: credit.events, bytes: credit.bytes };
                    if let Some(bytes) = credit.chunk_bytes {
                        self.chunks.limit(bytes);
                    }
                }
                Came::Bare(_) => {
                    return Some(EdgeInput::Closed(
                        self.link.fail(Code::UNEXPECTED, "a message no worker sends"),
                    ));
                }
            }
        }
    }

    /// Attaches a session: its number on the link, whatever `attach.session` says.
    pub fn attach(
        &mut self,
        attach: &Attach<'_>,
        out: &mut impl Transmit,
    ) -> Result<LinkSessionId, Refusal> {
        if !self.link.is_open() {
            return Err(Refusal::NotOpen);
        }
        let numbers = (self.free..limits::LINK_SESSIONS).chain(0..self.free);
        let mut free =
            numbers.map(LinkSessionId).filter(|&session| self.link.place(session) == Place::Free);
        let session = free.next().ok_or(Refusal::TooMany)?;
        out.put(&Message::Attach(Attach { session, ..*attach }), 0)?;
        self.link.set(session, Place::Attached);
        self.free = session.0 + 1;
        Ok(session)
    }

    /// Passes on what a session's client says. `number` and `time` are of EVENT and BATCH, else 0. A chunk without credit is
    /// refused: say it again when some has come back (spec §10.6.2).
    pub fn send(
        &mut self,
        session: LinkSessionId,
        number: Number,
        time: Millis,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        if !self.chunks.takes(session, message) {
            return Err(Refusal::NoCredit);
        }
        self.link.envelope(session, number, time, message, payload_crc, out)?;
        self.chunks.sent(session, message);
        Ok(())
    }

    /// Ends a session from this side. Its number is free when the other side has said so too.
    pub fn detach(
        &mut self,
        session: LinkSessionId,
        code: Code,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.link.detach(session, code, out)?;
        self.chunks.end_session(session);
        Ok(())
    }

    /// Numbers that are refused for good; `void.session` must be attached.
    pub fn void(&mut self, void: &Void, out: &mut impl Transmit) -> Result<(), Refusal> {
        if self.link.place(void.session) != Place::Attached {
            return Err(Refusal::NotAttached);
        }
        self.link.say_bare(&Message::Void(*void), out)
    }

    /// Says what of the registry is synced here, or passes groups on.
    pub fn registry(
        &mut self,
        registry: &Registry<'_>,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.link.say_bare(&Message::Registry(*registry), out)
    }

    /// What a session has in flight, before and now: the link's credit bounds the sum (spec §10.6).
    pub const fn account(&mut self, before: Amount, now: Amount) {
        self.flight.events =
            self.flight.events.saturating_add(now.events).saturating_sub(before.events);
        self.flight.bytes =
            self.flight.bytes.saturating_add(now.bytes).saturating_sub(before.bytes);
    }

    /// May any session read more from its client? With nothing in flight, always.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        let idle = self.flight.events == 0 && self.flight.bytes == 0;
        let Amount { events, bytes } = self.link.config.credit;
        idle || (self.flight.events < events && self.flight.bytes < bytes)
    }
}
