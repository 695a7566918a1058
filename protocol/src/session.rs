//! Sessions: who may say what when, as pure state machines. spec §4 to §10.
//!
//! Three of them: [`edge::Session`] is the server's side of one client, [`device::Device`] the client's side, and
//! [`link::Edge`] and [`link::Worker`] the two ends of a link. All have the same verbs: bytes, commands and the time go
//! in as arguments, what happened and what is to be sent come out, and `poll_timeout` says when to come back. Nothing
//! here reads a clock, makes a random number, or does I/O; the device's machine does not allocate either.
//!
//! [`producer`] is the one decision about numbers a worker makes, [`key`] the proof of a device key, [`transmit`] where
//! frames go.

#[cfg(feature = "alloc")]
mod budget;
pub mod device;
#[cfg(feature = "alloc")]
pub mod edge;
pub mod key;
#[cfg(feature = "alloc")]
pub mod link;
pub mod producer;
pub mod transmit;
mod window;

pub use self::{
    transmit::{Cursor, Limited, Transmit},
    window::{Amount, Window},
};
use crate::{code::Code, frame::FrameError};

/// The code a peer is told when its bytes are not a frame.
const fn frame_code(error: FrameError) -> Code {
    match error {
        FrameError::Length(_) => Code::MALFORMED,
        FrameError::TooLarge { .. } => Code::TOO_LARGE,
        FrameError::Damaged => Code::DAMAGED,
    }
}
