//! What people type and read: durations, sizes, times, places, headers, bytes as text.
//!
//! Each is parsed once, here, into a type that can't be wrong; nothing behind this folder sees the text again.
//! Invariant: what is printed as JSON is parsed back by the same file to the same value.

pub(crate) mod bytes;
pub(crate) mod duration;
pub(crate) mod header;
pub(crate) mod moment;
pub(crate) mod place;
pub(crate) mod size;
pub(crate) mod trace;
