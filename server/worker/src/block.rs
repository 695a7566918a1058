//! Parts of blocks: a batch whose first events are stored already, a delivery that begins inside one or fits no frame.
//!
//! The invariant: a payload that goes on whole keeps the CRC its device took; a part is summed anew only after the whole was
//! checked.

use bytes::Bytes;
use spile_log::Record;
use spile_protocol::{crc, message::Lengths};

pub(crate) fn place(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// How many events behind the first `skip` fit so many bytes.
pub(crate) fn how_many(lengths: Lengths<'_>, skip: u32, room: usize) -> u32 {
    let left = lengths.count().saturating_sub(skip);
    if lengths.total() <= u64::try_from(room).unwrap_or(u64::MAX) {
        return left;
    }
    let mut bytes = 0_usize;
    let fits = lengths.iter().skip(place(skip)).take_while(|&length| {
        bytes = bytes.saturating_add(length);
        bytes <= room
    });
    u32::try_from(fits.count()).unwrap_or(left)
}

/// The part of a block that is delivered: untouched where it is all of it. Else the whole is checked and the part summed
/// anew.
pub(crate) fn part<'l>(
    whole: Lengths<'l>,
    skip: u32,
    count: u32,
    record: &Record,
    spelled: &'l mut [u8],
) -> Option<(Lengths<'l>, Bytes, u32)> {
    if skip == 0 && count == whole.count() {
        return Some((whole, record.payload.clone(), record.payload_crc));
    }
    if skip + count == whole.count() {
        return behind(whole, skip, &record.payload, record.payload_crc, spelled);
    }
    if crc::of(&record.payload) != record.payload_crc {
        return None;
    }
    let before: usize = whole.iter().take(place(skip)).sum();
    let bytes: usize = whole.iter().skip(place(skip)).take(place(count)).sum();
    let payload = record.payload.slice_ref(record.payload.get(before..before.checked_add(bytes)?)?);
    let lengths =
        Lengths::encode(whole.iter().skip(place(skip)).take(place(count)), spelled).ok()?;
    let payload_crc = crc::of(&payload);
    Some((lengths, payload, payload_crc))
}

/// What of a block stands behind its first `skip` events: untouched where that is all. Else the whole is checked and the
/// part summed anew; `None` where the whole is not what its CRC says.
pub(crate) fn behind<'l>(
    lengths: Lengths<'l>,
    skip: u32,
    payload: &Bytes,
    payload_crc: u32,
    spelled: &'l mut [u8],
) -> Option<(Lengths<'l>, Bytes, u32)> {
    if skip == 0 {
        return Some((lengths, payload.clone(), payload_crc));
    }
    if crc::of(payload) != payload_crc {
        return None;
    }
    let skip = place(skip);
    let before: usize = lengths.iter().take(skip).sum();
    let part = Bytes::copy_from_slice(payload.get(before..)?);
    let lengths = Lengths::encode(lengths.iter().skip(skip), spelled).ok()?;
    let part_crc = crc::of(&part);
    Some((lengths, part, part_crc))
}
