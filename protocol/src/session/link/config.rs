//! What an end of a link begins with, and why it does not say something.

use alloc::sync::Arc;
use core::time::Duration;

use crate::{limits, message::Full, session::Amount, time::Millis};

/// What an end of a link begins with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The sender's name, as in its certificate.
    pub name: Arc<str>,
    /// Which slots the worker of this link holds, by our configuration: slot 0 is the lowest bit of byte 0.
    pub slots: [u8; 32],
    /// From a worker: what may be sent and unacked on the link, over all sessions.
    pub credit: Amount,
    /// From a worker: bytes of chunks that may be sent and not stored yet, over all sessions.
    pub chunk_bytes: u32,
    /// After how many silent seconds the other side is asked; 0 for never.
    pub keep_alive_s: u32,
    /// How long the greeting may take.
    pub greeting: Duration,
    /// What this is, for logs.
    pub software: Arc<str>,
    /// From a worker: its next position.
    pub next: u64,
}

impl Config {
    /// The usual values.
    #[must_use]
    pub fn new(name: Arc<str>, slots: [u8; 32]) -> Self {
        Self {
            name,
            slots,
            credit: Amount { events: limits::CREDIT_LINK_EVENTS, bytes: limits::CREDIT_LINK_BYTES },
            chunk_bytes: limits::CREDIT_LINK_CHUNK_BYTES,
            keep_alive_s: limits::LINK_KEEP_ALIVE_S,
            greeting: Duration::from_secs(10),
            software: Arc::from(""),
            next: 0,
        }
    }
}

/// What the other side's LINK_HELLO said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'b> {
    /// Its name: to be compared with its certificate's.
    pub name: &'b str,
    /// Its clock.
    pub time: Millis,
    /// A worker's next position.
    pub next: u64,
    /// What it is, for logs.
    pub software: &'b str,
}

/// Why something was not said. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The link is not open, or going away.
    #[error("the link is not open")]
    NotOpen,
    /// As many sessions as a link takes are attached.
    #[error("the link has as many sessions as it takes")]
    TooMany,
    /// The session is not attached.
    #[error("the session is not attached to this link")]
    NotAttached,
    /// As many bytes of chunks are under way as the worker takes.
    #[error("the link has no credit for the chunk now")]
    NoCredit,
    /// The buffer has no room.
    #[error("there is no room for it now")]
    Full,
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::Full
    }
}
