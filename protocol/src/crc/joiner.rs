//! Joins many values whose lengths repeat: what so many bytes behind it do to a value is linear, so it is a table then.
//!
//! [`join`](super::join) costs 26 ns, the table a sixth of that and 0.1 µs to make. It is made where a length came a few
//! times in a row and forgotten with the next other one.

use alloc::boxed::Box;

use super::join;

/// So often in a row before a table is made.
const OFTEN: u32 = 4;
/// The reflected polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// Joins as [`join`](super::join) does.
#[derive(Debug, Default)]
pub struct Joiner {
    length: usize,
    /// How often in a row.
    seen: u32,
    shift: Option<Box<Shift>>,
}

impl Joiner {
    /// The CRC-32 of two things one after the other, from that of each: `length` is the second's.
    #[must_use]
    #[inline]
    pub fn join(&mut self, first: u32, second: u32, length: usize) -> u32 {
        match &self.shift {
            Some(shift) if self.length == length => shift.apply(first) ^ second,
            Some(_) | None => self.join_slowly(first, second, length),
        }
    }

    fn join_slowly(&mut self, first: u32, second: u32, length: usize) -> u32 {
        if self.length != length {
            (self.length, self.seen, self.shift) = (length, 0, None);
        }
        self.seen += 1;
        if self.seen >= OFTEN {
            self.shift = Some(Box::new(Shift::by(length)));
        }
        join(first, second, length)
    }
}

/// What so many bytes of zero behind it make of a value: for each four bits of it, for each of their values.
#[derive(Debug)]
struct Shift([[u32; 16]; 8]);

impl Shift {
    fn by(length: usize) -> Self {
        // The highest bit is 1, the one below x, and so on: each bit's image is the one above's times x.
        let mut image = join(1 << 31, 0, length);
        let mut table = [[0; 16]; 8];
        for row in table.iter_mut().rev() {
            for bit in [8_usize, 4, 2, 1] {
                let with_bit = row.iter_mut().enumerate().filter(|(value, _)| value & bit != 0);
                with_bit.for_each(|(_, entry)| *entry ^= image);
                image = (image >> 1) ^ (POLYNOMIAL & (image & 1).wrapping_neg());
            }
        }
        Self(table)
    }

    #[inline]
    fn apply(&self, value: u32) -> u32 {
        let mut rest = value;
        self.0.iter().fold(0, |sum, row| {
            // Four bits: the entry is always there.
            let entry = row.get((rest & 15) as usize).copied().unwrap_or_default();
            rest >>= 4;
            sum ^ entry
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_as_one_by_one_whether_lengths_repeat_or_not() {
        let lengths = [[256; 9].as_slice(), &[1, 1, 0, 3], &[0; 6], &[70_000; 7], &[5, 256, 5]];
        let (mut joiner, mut value, mut tables) = (Joiner::default(), 1, 0);
        for &length in lengths.into_iter().flatten() {
            for second in [0, 1, 0x8000_0000, 0xffff_ffff, 0x1234_5678] {
                // Nothing has the value 0.
                let second = if length == 0 { 0 } else { second };
                let joined = join(value, second, length);
                assert_eq!(joiner.join(value, second, length), joined, "{value:x} {length}");
                value = joined.wrapping_mul(0x9e37_79b1) ^ second;
            }
            tables += u32::from(joiner.shift.is_some());
        }
        assert!(tables > 20, "the table was used {tables} times");
    }

    #[test]
    fn each_bit_alone_goes_where_it_should() {
        for length in [1, 7, 256, 1 << 20] {
            let shift = Shift::by(length);
            for bit in 0..32 {
                assert_eq!(shift.apply(1 << bit), join(1 << bit, 0, length), "{bit} {length}");
            }
        }
    }
}
