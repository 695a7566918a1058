//! Unsigned LEB128, canonical only: the one integer encoding of the wire.
//!
//! The same bytes as postcard's varints, except that what postcard tolerates (a longer form than needed) is refused.

/// Why a varint could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The bytes end inside the number.
    #[error("the number is cut off")]
    Cut,
    /// A shorter encoding of the same number exists.
    #[error("the number is not in its shortest form")]
    Overlong,
    /// The number does not fit its type.
    #[error("the number is too large")]
    TooLarge,
}

/// The most bytes a `u64` takes.
pub const MAX_BYTES: usize = 10;

/// How many bytes `value` takes.
#[must_use]
pub const fn len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads one number from the front of `bytes`: the number and how many bytes it took.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    match bytes.first() {
        Some(&byte) if byte < 0x80 => Ok((u64::from(byte), 1)),
        Some(_) | None => decode_long(bytes),
    }
}

fn decode_long(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        if index == MAX_BYTES - 1 && byte > 1 {
            return Err(VarintError::TooLarge);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let overlong = byte == 0 && index > 0;
            return if overlong { Err(VarintError::Overlong) } else { Ok((value, index + 1)) };
        }
    }
    Err(if bytes.len() >= MAX_BYTES { VarintError::TooLarge } else { VarintError::Cut })
}

/// Writes `value` to the front of `out`: how many bytes it took, or `None` where `out` is too short.
#[inline]
pub fn encode(value: u64, out: &mut [u8]) -> Option<usize> {
    match (value.to_le_bytes(), out.first_mut()) {
        ([low @ 0..0x80, 0, 0, 0, 0, 0, 0, 0], Some(first)) => {
            *first = low;
            Some(1)
        }
        (_, _) => encode_long(value, out),
    }
}

fn encode_long(mut value: u64, out: &mut [u8]) -> Option<usize> {
    let length = len(value);
    for byte in out.get_mut(..length)?.iter_mut() {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        *byte = if value == 0 { low } else { low | 0x80 };
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = [0; MAX_BYTES];
                let wrote = encode(value, &mut out).unwrap();
                assert_eq!(wrote, len(value));
                assert_eq!(decode(&out), Ok((value, wrote)));
                assert_eq!(decode(&out[..wrote - 1]), Err(VarintError::Cut));
                assert_eq!(encode(value, &mut out[..wrote - 1]), None);
            }
        }
    }

    #[test]
    fn longer_forms_are_refused() {
        assert_eq!(decode(&[0x80, 0x00]), Err(VarintError::Overlong));
        assert_eq!(decode(&[0xff, 0x80, 0x00]), Err(VarintError::Overlong));
        assert_eq!(decode(&[0xff; 10]), Err(VarintError::TooLarge));
        assert_eq!(
            decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Err(VarintError::TooLarge)
        );
    }
}
