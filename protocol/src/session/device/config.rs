//! What a machine begins with, and why it does not take something.

use core::time::Duration;

use crate::{id::Run, limits, message::Full, session::key::Key};

/// How the client proves who it is. `T` is where its texts are: `&'static str`, or `String`.
#[derive(Clone, Debug)]
pub enum Credential<T> {
    /// The certificate of the TLS handshake.
    Certificate,
    /// A device key.
    Key {
        /// In which tenant.
        tenant: T,
        /// The device's id.
        device: T,
        /// Its key.
        key: Key,
    },
    /// A signed token.
    Token(T),
}

/// What a machine begins with.
#[derive(Clone, Debug)]
pub struct Config<T> {
    /// The run it numbers in: fresh random bytes, or those kept beside the outbox.
    pub run: Run,
    /// Who it is.
    pub credential: Credential<T>,
    /// What it is, for logs: `name/version`.
    pub software: T,
    /// The longest frame body it takes.
    pub frame_max: u32,
    /// After how many silent seconds it asks; 0 for never.
    pub keep_alive_s: u32,
    /// Are receipts wanted for all events?
    pub receipts: bool,
    /// How long the server may take to let it in.
    pub greeting: Duration,
}

impl<T> Config<T> {
    /// The usual values.
    pub const fn new(run: Run, credential: Credential<T>, software: T) -> Self {
        Self {
            run,
            credential,
            software,
            frame_max: limits::FRAME_DEFAULT,
            keep_alive_s: limits::KEEP_ALIVE_S,
            receipts: false,
            greeting: Duration::from_secs(30),
        }
    }
}

/// What the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// TLS; with the exporter's 32 bytes (label [`crate::session::key::EXPORTER_LABEL`]) where a device key is proven.
    Tls(Option<[u8; 32]>),
    /// No TLS.
    Plain,
}

/// Why something was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The window, or the caller's buffer, is full: try again when something was acknowledged or sent.
    #[error("there is no room for it now")]
    Busy,
    /// A table has no place left.
    #[error("there is no place left in the table of {0}")]
    TooMany(&'static str),
    /// A name is not one, or too long for the table.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// It is longer than the server, or the window, takes.
    #[error("it is longer than what is taken")]
    TooLarge,
    /// A lane, route, subscription or upload was named that is not open.
    #[error("{0} is not open")]
    Unknown(&'static str),
    /// There is no session to say it in.
    #[error("there is no session now")]
    NotConnected,
    /// The session is going away.
    #[error("the session is going away")]
    Leaving,
    /// Something is in flight on the lane.
    #[error("something is in flight on the lane")]
    InUse,
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::Busy
    }
}
