//! Every message comes back as it went; nothing is taken that would go out differently; frames come whole out of any split.
//!
//! `PROPTEST_RNG_SEED=N` repeats a run; `PROPTEST_CASES=10000 cargo test -p spile-protocol --test roundtrip` for longer; a failure prints its seed and is
//! kept in `roundtrip.proptest-regressions`, from where it is tried first the next time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

#[path = "random/draw.rs"]
mod draw;
#[path = "random/strict.rs"]
mod strict;

use bytes::BytesMut;
use draw::{Draw, KINDS, ROOM};
use proptest::prelude::*;
use spile_protocol::{
    codec, crc, frame,
    message::{Message, Sender, kind},
};

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0; message.payload().len() + 8192];
    let length = message.encode(&mut out).unwrap();
    out.truncate(length);
    out
}

/// Arbitrary bytes, as much as any message needs.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500)
}

/// A kind of this version, in its first or second form.
fn known_tag() -> impl Strategy<Value = u8> {
    let kinds: Vec<u8> = (0..64).filter(|&kind| is_known(kind)).collect();
    (prop::sample::select(kinds), any::<bool>())
        .prop_map(|(kind, second)| if second { kind | frame::EXTRAS } else { kind })
}

fn is_known(kind: u8) -> bool {
    matches!(kind, 1..=6 | 8..=13 | 16..=19 | 24..=27 | 32..=34 | 40..=42 | 48..=54)
}

proptest! {
    #[test]
    fn every_message_comes_back(kind in 0..KINDS, bytes in any_bytes()) {
        let mut room = vec![0; ROOM];
        let (sender, message) = Draw::new(&bytes, &mut room).message(kind);
        let frame = encoded(&message);
        let (found, used) = frame::decode(&frame, 1 << 20).unwrap().unwrap();
        prop_assert_eq!(used, frame.len());
        prop_assert_eq!(found.payload, message.payload());
        prop_assert_eq!(found.payload_crc, crc::of(message.payload()));
        prop_assert_eq!(Message::decode(&found, sender), Ok(message));
        prop_assert!(strict::check(found.tag, found.header, found.payload, sender));
    }

    #[test]
    fn what_is_bent_is_refused_or_goes_out_as_it_came(
        kind in 0..KINDS,
        bytes in any_bytes(),
        bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut room = vec![0; ROOM];
        let (sender, message) = Draw::new(&bytes, &mut room).message(kind);
        let frame = encoded(&message);
        let (found, _) = frame::decode(&frame, 1 << 20).unwrap().unwrap();
        let mut header = found.header.to_vec();
        for (index, byte, how) in bends {
            let at = index.index(header.len() + 1);
            match how {
                0 => header.insert(at, byte),
                1 if at < header.len() => header[at] = byte,
                _ => header.truncate(at),
            }
        }
        strict::check(found.tag, &header, found.payload, sender);
    }

    #[test]
    fn bytes_behind_a_header_by_hand_are_refused(kind in 11..=21_u8, bytes in any_bytes(), more in any::<u8>()) {
        let mut room = vec![0; ROOM];
        let (sender, message) = Draw::new(&bytes, &mut room).message(kind);
        let frame = encoded(&message);
        let (found, _) = frame::decode(&frame, 1 << 20).unwrap().unwrap();
        let header = [found.header, &[more]].concat();
        let taken = Message::decode_parts(found.tag, &header, found.payload, sender);
        let by_hand = [kind::EVENT, kind::BATCH, kind::ACK, kind::CHUNK, kind::DELIVER];
        prop_assert!(!by_hand.contains(&found.tag.kind()) || taken.is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_go_out_as_they_came(
        tag in prop_oneof![any::<u8>(), known_tag(), known_tag(), known_tag()],
        header in prop::collection::vec(any::<u8>(), 0..64),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        for sender in [Sender::Client, Sender::Server] {
            strict::check(frame::Tag(tag), &header, &payload, sender);
            strict::check(frame::Tag(tag), &header, &[], sender);
        }
    }

    #[test]
    fn frames_come_whole_out_of_any_split(
        kinds in prop::collection::vec(0..KINDS, 1..8),
        bytes in any_bytes(),
        splits in prop::collection::vec(1..900_usize, 1..40),
    ) {
        let mut room = vec![0; 8 * ROOM];
        let mut draw = Draw::new(&bytes, &mut room);
        let stream: Vec<u8> = kinds.iter().flat_map(|&kind| encoded(&draw.message(kind).1)).collect();
        let (mut buffer, mut rest, mut at) = (BytesMut::new(), &stream[..], 0);
        let mut splits = splits.into_iter().cycle();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(splits.next().unwrap().min(rest.len()));
            buffer.extend_from_slice(now);
            rest = later;
            while let Some(whole) = codec::take(&mut buffer, 1 << 20).unwrap() {
                let (frame, used) = frame::decode(&stream[at..], 1 << 20).unwrap().unwrap();
                prop_assert_eq!(whole.frame(), frame);
                at += used;
            }
        }
        prop_assert_eq!(at, stream.len());
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_message_is_appended_as_it_is_encoded(kind in 0..KINDS, bytes in any_bytes()) {
        let mut room = vec![0; ROOM];
        let (_, message) = Draw::new(&bytes, &mut room).message(kind);
        let mut out = BytesMut::from(&b"before"[..]);
        codec::append(&mut out, &message, crc::of(message.payload())).unwrap();
        prop_assert_eq!(&out[6..], encoded(&message));
    }

    #[test]
    fn a_buffer_that_is_too_short_is_said(kind in 0..KINDS, bytes in any_bytes(), share in 0.0..1.0_f64) {
        let mut room = vec![0; ROOM];
        let (_, message) = Draw::new(&bytes, &mut room).message(kind);
        let whole = encoded(&message);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small length")]
        let length = (whole.len() as f64 * share) as usize;
        let mut out = vec![0; length];
        prop_assert!(message.encode(&mut out).is_err());
    }
}

#[test]
fn every_kind_is_drawn() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..64_u8 {
        for kind in 0..KINDS {
            let bytes: Vec<u8> =
                (0..200_u8).map(|n| n.wrapping_add(seed).wrapping_mul(37)).collect();
            kinds.insert(Draw::new(&bytes, &mut vec![0; ROOM]).message(kind).1.tag().kind());
        }
    }
    let known = (0..64_u8).filter(|&kind| is_known(kind));
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), known.collect::<Vec<_>>());
    assert_eq!(kind::CHANGED, 54);
}
