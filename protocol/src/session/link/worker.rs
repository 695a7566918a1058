//! A worker's end of a link.

use super::{Came, Config, Link, Peer, Place, Refusal, common};
use crate::{
    code::Code,
    id::{LinkSessionId, Number},
    message::{Attach, Changed, Credit, Full, Message, Registry, Sender, Void},
    session::{Amount, Transmit},
    time::{Instant, Millis},
};

/// What came from the edge.
#[expect(
    clippy::large_enum_variant,
    reason = "it is borrowed from the read buffer and taken apart at once"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerInput<'b> {
    /// The edge is here. Compare its name with its certificate's.
    Ready(Peer<'b>),
    /// A session is here.
    Attached(Attach<'b>),
    /// From a session's client.
    Message {
        /// Which session.
        session: LinkSessionId,
        /// EVENT, BATCH: the first event's number. Else 0.
        number: Number,
        /// EVENT, BATCH: when the edge accepted it. Else 0.
        time: Millis,
        /// What the client says.
        message: Message<'b>,
        /// CRC-32 of the payload.
        payload_crc: u32,
    },
    /// Numbers that the edge refused for good.
    Void(Void),
    /// The edge ended a session; answer with [`Worker::detached`].
    Detached {
        /// Which.
        session: LinkSessionId,
        /// Why.
        code: Code,
    },
    /// What of the registry the edge has, or groups it passes on.
    Registry(Registry<'b>),
    /// The edge goes away.
    Leaving(Code),
    /// The link is over; every session on it is detached.
    Closed(Code),
}

/// A worker's end of a link.
#[derive(Debug)]
pub struct Worker {
    pub(super) link: Link,
}

common!(Worker);

impl Worker {
    /// An edge has connected.
    #[must_use]
    pub fn new(now: Instant, wall: Millis, config: Config) -> Self {
        Self { link: Link::new(now, wall, config, Sender::Client) }
    }

    /// Takes frames off the front of `bytes` until one means something to the driver. `None`: more bytes are needed.
    pub fn handle_input<'b>(
        &mut self,
        now: Instant,
        bytes: &mut &'b [u8],
    ) -> Option<WorkerInput<'b>> {
        loop {
            let (came, payload_crc) = match self.link.next(now, bytes)? {
                Ok(came) => came,
                Err(code) => return Some(WorkerInput::Closed(code)),
            };
            match came {
                Came::Nothing => {}
                Came::Hello(peer) => return Some(WorkerInput::Ready(peer)),
                Came::Inner { session, number, time, message } => {
                    return Some(WorkerInput::Message {
                        session,
                        number,
                        time,
                        message,
                        payload_crc,
                    });
                }
                Came::Detached(session, code) => {
                    return Some(WorkerInput::Detached { session, code });
                }
                Came::Leaving(code) if self.link.closed().is_some() => {
                    return Some(WorkerInput::Closed(code));
                }
                Came::Leaving(code) => return Some(WorkerInput::Leaving(code)),
                Came::Bare(Message::Registry(registry)) => {
                    return Some(WorkerInput::Registry(registry));
                }
                Came::Bare(Message::Attach(attach)) => return Some(self.attached(attach)),
                Came::Bare(Message::Void(void)) if self.is_attached(void.session) => {
                    return Some(WorkerInput::Void(void));
                }
                Came::Bare(Message::Void(_)) => {}
                Came::Bare(_) => {
                    return Some(WorkerInput::Closed(
                        self.link.fail(Code::UNEXPECTED, "a message no edge sends"),
                    ));
                }
            }
        }
    }

    fn attached<'b>(&mut self, attach: Attach<'b>) -> WorkerInput<'b> {
        let wrong = match self.link.place(attach.session) {
            Place::Free if self.link.set(attach.session, Place::Attached) => {
                return WorkerInput::Attached(attach);
            }
            Place::Free => (Code::TOO_MANY, "Attach.session is above the most a link takes"),
            Place::Attached | Place::Detaching => (Code::UNEXPECTED, "Attach.session is in use"),
        };
        WorkerInput::Closed(self.link.fail(wrong.0, wrong.1))
    }

    /// Passes on what a session's client is told.
    pub fn send(
        &mut self,
        session: LinkSessionId,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.link.envelope(session, Number(0), Millis(0), message, payload_crc, out)
    }

    /// Says what is registered, or that groups are synced here.
    pub fn registry(
        &mut self,
        registry: &Registry<'_>,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.link.say_bare(&Message::Registry(*registry), out)
    }

    /// Values that were asked for over this link have changed. spec §10.8
    pub fn changed(
        &mut self,
        changed: &Changed<'_>,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.link.say_bare(&Message::Changed(*changed), out)
    }

    /// Ends a session from this side. Its number is free when the other side has said so too.
    pub fn detach(
        &mut self,
        session: LinkSessionId,
        code: Code,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.link.detach(session, code, out)
    }

    /// Another credit for events, for the whole link.
    pub fn set_credit(&mut self, credit: Amount, out: &mut impl Transmit) -> Result<(), Refusal> {
        let Amount { events, bytes } = credit;
        let message =
            Message::Credit(Credit { subscription: None, events, bytes, chunk_bytes: None });
        self.link.say_bare(&message, out)?;
        self.link.config.credit = credit;
        Ok(())
    }
    /// Another credit for chunks, for the whole link; before the greeting is over LINK_HELLO says it.
    pub fn set_chunk_credit(&mut self, bytes: u32, out: &mut impl Transmit) -> Result<(), Full> {
        self.link.config.chunk_bytes = bytes;
        let Amount { events, bytes: of_events } = self.link.config.credit;
        let chunk_bytes = Some(bytes);
        let credit = Credit { subscription: None, events, bytes: of_events, chunk_bytes };
        match self.link.say_bare(&Message::Credit(credit), out) {
            Err(Refusal::Full) => Err(Full),
            // A link that is not open yet says it in its greeting, one that is over says nothing.
            Ok(())
            | Err(Refusal::NotOpen | Refusal::TooMany | Refusal::NotAttached | Refusal::NoCredit) => {
                Ok(())
            }
        }
    }
}
