//! What a session begins with, and what goes in and out of it.

use alloc::{string::String, sync::Arc};
use core::time::Duration;

use crate::{
    code::Code,
    id::{LaneId, Number, Run},
    limits,
    message::{Auth, Message},
    session::Amount,
};

/// What a session is told when it begins.
#[derive(Clone, Debug)]
pub struct Config {
    /// Without TLS: 16 fresh random bytes for the challenge. `None` over TLS.
    pub nonce: Option<[u8; 16]>,
    /// The longest frame body taken after AUTH.
    pub frame_max: u32,
    /// The longest payload of one event; a longer one that still fits a frame becomes a VOID.
    pub payload_max: u32,
    /// What may be sent and unacked.
    pub credit: Amount,
    /// Bytes of chunks that may be sent and unacked.
    pub chunk_bytes: u32,
    /// How long a session that never pings (keep-alive 0) may be silent; `None`: for ever.
    pub idle: Option<Duration>,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// The edge's name.
    pub edge: Arc<str>,
    /// What this server is, for logs.
    pub software: Arc<str>,
    /// The session's number at this edge.
    pub session: u64,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the beginning to a decided AUTH.
    pub auth: Duration,
    /// For each frame that has begun …
    pub frame: Duration,
    /// … and its length at so many bytes a second.
    pub frame_bytes_per_s: u32,
    /// From GOAWAY until the session is closed whatever is in flight.
    pub drain: Duration,
}

impl Deadlines {
    /// Of a listener for networks as slow as NB-IoT. spec §12.2
    #[must_use]
    pub fn slow() -> Self {
        Self {
            auth: Duration::from_secs(u64::from(limits::SLOW_AUTH_S)),
            frame: Duration::from_secs(u64::from(limits::SLOW_FRAME_S)),
            frame_bytes_per_s: limits::SLOW_FRAME_RATE,
            ..Self::default()
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            auth: Duration::from_secs(u64::from(limits::AUTH_S)),
            frame: Duration::from_secs(u64::from(limits::FRAME_S)),
            frame_bytes_per_s: limits::FRAME_RATE,
            drain: Duration::from_secs(u64::from(limits::DRAIN_S)),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nonce: None,
            frame_max: limits::FRAME_DEFAULT,
            payload_max: limits::PAYLOAD_DEFAULT,
            credit: Amount { events: limits::CREDIT_EVENTS, bytes: limits::CREDIT_BYTES },
            chunk_bytes: limits::CREDIT_CHUNK_BYTES,
            idle: None,
            deadlines: Deadlines::default(),
            edge: Arc::from("edge"),
            software: Arc::from(""),
            session: 0,
        }
    }
}

/// What HELLO said, kept for the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The version that is spoken.
    pub version: u16,
    /// The longest frame body the client takes.
    pub frame_max: u32,
    /// The run it numbers in.
    pub run: Run,
    /// Does it want receipts instead of short acks?
    pub receipts: bool,
    /// After how many silent seconds it pings; 0 for never.
    pub keep_alive_s: u32,
    /// What it is, for logs; cut at a name's length.
    pub software: String,
    /// The run it gave up; zero for none.
    pub abandoned: Run,
}

/// What the driver found out about a client it lets in.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// In which tenant.
    pub tenant: String,
    /// Who.
    pub principal: String,
    /// The server's own proof of a device key, from [`crate::session::key::verify`].
    pub proof: Option<[u8; 32]>,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'b> {
    /// Who is it? Answer with `admit` or `refuse`; until then nothing more is decoded. HELLO is in [`super::Session::greeting`].
    Authenticate(Auth<'b>),
    /// For the worker (or for the edge itself, where the message is about the edge): checked against everything the
    /// session knows.
    Upstream {
        /// The lane of EVENT, BATCH, LANE and BIND; lane 0 for everything else.
        lane: LaneId,
        /// EVENT, BATCH: the number of the first event. LANE: the first unacked one. Else 0.
        first: Number,
        /// The message.
        message: Message<'b>,
        /// CRC-32 of its payload.
        payload_crc: u32,
    },
    /// These numbers are refused for good: the worker logs a VOID in their place.
    Void {
        /// In which lane.
        lane: LaneId,
        /// The first number.
        first: Number,
        /// How many.
        count: u32,
        /// Why.
        code: Code,
    },
    /// The client is leaving: it sends nothing new and waits for what is in flight.
    Leaving(Code),
    /// The session is over; what [`super::Session::poll_transmit`] still has to say goes out before the connection is cut.
    Closed(Code),
}
