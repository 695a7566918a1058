//! The wire: frames, messages, and the sessions that exchange them.
//!
//! Nothing here performs I/O, reads a clock, or spawns. Bytes and time come in as arguments; bytes and events go out as
//! return values. Without the feature `alloc` nothing allocates either. Start with [`message`] and [`session`]; the
//! format is fixed by `spec/protocol.md`.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(test, feature = "codec"))]
extern crate std;

pub mod code;
#[cfg(feature = "codec")]
pub mod codec;
pub mod crc;
pub mod frame;
pub mod id;
pub mod limits;
pub mod message;
pub mod session;
pub mod time;
pub mod varint;
