//! Any header and payload of any kind. One byte says the kind and its flags, one the sender, two how long the header is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spile_protocol::{frame::Tag, message::Sender};

#[path = "../../protocol/tests/random/strict.rs"]
mod strict;

fuzz_target!(|data: &[u8]| {
    let Some((&[tag, from, low, high], rest)) = data.split_first_chunk::<4>() else { return };
    let length = usize::from(u16::from_le_bytes([low, high]));
    let (header, payload) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    let sender = if from & 1 == 0 { Sender::Client } else { Sender::Server };
    strict::check(Tag(tag), header, payload, sender);
});
