//! Any bytes as a stream of frames. The first two bytes choose the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spile_protocol::{
    crc,
    frame::{self, Extent, Frame, FrameError},
    message::{self, Sender},
};

#[path = "../../protocol/tests/random/strict.rs"]
mod strict;

fuzz_target!(|data: &[u8]| {
    let Some((limit, mut stream)) = data.split_first_chunk::<2>() else { return };
    let limit = u32::from(u16::from_le_bytes(*limit));
    loop {
        let used = match frame::decode(stream, limit) {
            Ok(Some((frame, used))) => {
                judge(&frame, &stream[..used]);
                used
            }
            Err(FrameError::Damaged) => mended(stream, limit),
            Ok(None) | Err(FrameError::Length(_) | FrameError::TooLarge { .. }) => return,
        };
        stream = &stream[used..];
    }
});

/// The frame at the front with the right checksum: how long it is.
fn mended(stream: &[u8], limit: u32) -> usize {
    let extent = frame::measure(stream, limit).unwrap().unwrap();
    let mut whole = stream[..extent.end()].to_vec();
    let Extent { tag, body_start, body_end } = extent;
    let (head, body) = (&whole[..body_start], &whole[body_start..body_end]);
    let header = message::header_length(tag, body).unwrap_or(body.len());
    let sum = crc::extend(crc::extend(crc::of(&body[header..]), head), &body[..header]);
    whole[body_end..].copy_from_slice(&sum.to_le_bytes());
    let (frame, used) = frame::decode(&whole, limit).unwrap().unwrap();
    judge(&frame, &whole[..used]);
    used
}

fn judge(frame: &Frame<'_>, whole: &[u8]) {
    let Frame { tag, header, payload, payload_crc } = *frame;
    assert_eq!(payload_crc, crc::of(payload));
    assert!(header.len() + payload.len() + 6 <= whole.len());
    for sender in [Sender::Client, Sender::Server] {
        strict::check(tag, header, payload, sender);
    }
    for length in [0, 1, 2, whole.len() / 2, whole.len() - 1] {
        assert_eq!(frame::decode(&whole[..length], u32::MAX >> 8), Ok(None));
    }
}
