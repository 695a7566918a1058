//! Streams under any split: what the codec takes is what is there in one piece. One byte says how many messages are made
//! of the rest before it follows as garbage, one how the stream is split.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spile_protocol::{codec, frame};

#[path = "../../protocol/tests/random/draw.rs"]
mod draw;

const LIMIT: u32 = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((&[count, split], rest)) = data.split_first_chunk::<2>() else { return };
    let mut stream = Vec::new();
    let mut room = vec![0; 8 * draw::ROOM];
    let mut draw = draw::Draw::new(rest, &mut room);
    for kind in 0..count % 8 {
        let (_, message) = draw.message(kind.wrapping_mul(37).wrapping_add(split));
        let mut room = vec![0; message.payload().len() + 8192];
        let length = message.encode(&mut room).unwrap();
        stream.extend_from_slice(&room[..length]);
    }
    stream.extend_from_slice(rest);
    pieces(&stream, usize::from(split) + 1);
});

fn pieces(stream: &[u8], size: usize) {
    let (mut buffer, mut at) = (BytesMut::new(), 0);
    for piece in stream.chunks(size) {
        buffer.extend_from_slice(piece);
        loop {
            assert!(buffer.capacity() <= 2 * stream.len() + (1 << 18), "room by declared size");
            let (taken, whole) =
                (codec::take(&mut buffer, LIMIT), frame::decode(&stream[at..], LIMIT));
            match (taken, whole) {
                (Ok(Some(taken)), Ok(Some((frame, used)))) => {
                    assert_eq!(taken.frame(), frame);
                    at += used;
                }
                (Ok(None), _) => break,
                (Err(taken), Err(whole)) => return assert_eq!(taken, whole),
                (taken, whole) => panic!("{taken:?} {whole:?}"),
            }
        }
    }
}
