//! CRC-32 (IEEE 802.3, reflected), and how a frame continues a payload's value over its own header.
//!
//! With the feature `codec` the processor's instructions are used; without it a 64-byte table, which is what a device
//! has room for. Both give the same values.

/// Continues `crc` over `bytes`. `crc` is 0 at the beginning, or the value of all bytes before.
#[must_use]
#[cfg(feature = "codec")]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// Continues `crc` over `bytes`. `crc` is 0 at the beginning, or the value of all bytes before.
#[must_use]
#[cfg(not(feature = "codec"))]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    small::extend(crc, bytes)
}

/// The CRC-32 of `bytes`.
#[must_use]
pub fn of(bytes: &[u8]) -> u32 {
    extend(0, bytes)
}

/// The CRC-32 of two things one after the other, from that of each: `length` is the second's. So a payload's own value
/// goes on where payloads are put together, instead of one that is made from bytes which may have changed since.
#[must_use]
#[cfg(feature = "codec")]
pub fn join(first: u32, second: u32, length: usize) -> u32 {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let mut joined = crc32fast::Hasher::new_with_initial(first);
    joined.combine(&crc32fast::Hasher::new_with_initial_len(second, length));
    joined.finalize()
}

#[cfg(feature = "codec")]
mod joiner;
#[cfg(feature = "codec")]
pub use joiner::Joiner;

#[cfg(any(test, not(feature = "codec")))]
mod small {
    //! Four bits at a time: 16 entries of 4 bytes.

    const TABLE: [u32; 16] = [
        0x0000_0000,
        0x1db7_1064,
        0x3b6e_20c8,
        0x26d9_30ac,
        0x76dc_4190,
        0x6b6b_51f4,
        0x4db2_6158,
        0x5005_713c,
        0xedb8_8320,
        0xf00f_9344,
        0xd6d6_a3e8,
        0xcb61_b38c,
        0x9b64_c2b0,
        0x86d3_d2d4,
        0xa00a_e278,
        0xbdbd_f21c,
    ];

    fn entry(crc: u32) -> u32 {
        // The index is four bits, so the entry is always there.
        TABLE.get((crc & 15) as usize).copied().unwrap_or_default()
    }

    pub(super) fn extend(crc: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!crc, |crc, &byte| {
            let crc = crc ^ u32::from(byte);
            let crc = (crc >> 4) ^ entry(crc);
            (crc >> 4) ^ entry(crc)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(of(b"123456789"), 0xcbf4_3926);
        assert_eq!(small::extend(0, b"123456789"), 0xcbf4_3926);
    }

    #[test]
    #[cfg(feature = "codec")]
    fn two_values_join_as_their_bytes_do() {
        let bytes = [b"1234567891234567".as_slice(), &[0; 300]].concat();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(join(of(first), of(second), second.len()), of(&bytes), "{cut}");
        }
    }

    #[test]
    fn continuing_is_the_same_as_one_pass() {
        assert_eq!(extend(of(b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(small::extend(small::extend(0, b"1234"), b"56789"), 0xcbf4_3926);
    }
}
