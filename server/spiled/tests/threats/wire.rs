//! Bytes as an attacker makes them: frames of any kind, length and checksum, garbage, and a ClientHello of yesterday.

use spile_protocol::{crc, message::Message, session::Transmit};

/// A varint, in its shortest form.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

/// Kind and length, and nothing behind them.
pub fn head(kind: u8, length: u64) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(varint(length));
    out
}

/// A whole frame, all of it header, with the right checksum.
pub fn framed(kind: u8, header: &[u8]) -> Vec<u8> {
    with_payload(kind, header, &[])
}

/// A whole frame with the right checksum. spec §2.4: payload first.
pub fn with_payload(kind: u8, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = head(kind, u64::try_from(header.len() + payload.len()).unwrap());
    out.extend(header);
    let sum = crc::extend(crc::of(payload), &out);
    out.extend(payload);
    out.extend(sum.to_le_bytes());
    out
}

/// Frames as a client makes them.
pub fn encoded(messages: &[Message<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        out.put(message, crc::of(message.payload())).unwrap();
    }
    out
}

/// The same with one bit of its last byte, the checksum's, turned.
pub fn damaged(mut frame: Vec<u8>) -> Vec<u8> {
    *frame.last_mut().unwrap() ^= 0x10;
    frame
}

/// xorshift: the same garbage for the same seed.
pub fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn prefixed(width: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[4 - width..], body].concat()
}

fn extension(number: u8, body: &[u8]) -> Vec<u8> {
    [&[0, number][..], &prefixed(2, body)].concat()
}

/// A whole ClientHello, in one record, of a client that speaks nothing newer than TLS 1.2, and offers `spile/1`.
pub fn client_hello_of_tls12() -> Vec<u8> {
    let extensions = [
        extension(10, &prefixed(2, &[0, 29, 0, 23])),
        extension(11, &[1, 0]),
        extension(13, &prefixed(2, &[4, 3, 8, 4, 4, 1])),
        extension(16, &prefixed(2, &prefixed(1, b"spile/1"))),
        extension(23, &[]),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend(garbage(12, 32));
    body.extend(prefixed(1, &[]));
    // ECDHE-ECDSA and ECDHE-RSA with AES-128-GCM.
    body.extend(prefixed(2, &[0xc0, 0x2b, 0xc0, 0x2f]));
    body.extend(prefixed(1, &[0]));
    body.extend(prefixed(2, &extensions));
    let handshake = [&[1][..], &prefixed(3, &body)].concat();
    [&[22, 3, 1][..], &prefixed(2, &handshake)].concat()
}
