//! Slots: which of the 256 shares of the keys a worker has, written `0-127` or `0-63,128`.
//!
//! A set here is never empty and never names a slot twice.

use std::fmt;

/// How many slots there are; fixed for ever, because keys are laid out by it.
pub const SLOTS: usize = 256;

/// A set of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSet([bool; SLOTS]);

/// Why a text is no set of slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Not a number or a range of numbers in 0..=255.
    #[error("{0:?} is no slot or range of slots")]
    Malformed(String),
    /// A range that ends before it begins.
    #[error("{0:?} ends before it begins")]
    Backwards(String),
    /// A slot named twice.
    #[error("slot {0} is named twice")]
    Twice(usize),
}

impl SlotSet {
    /// All 256.
    pub const ALL: Self = Self([true; SLOTS]);

    /// Reads `0-127`, `7`, `0-63,128-191`.
    pub fn parse(text: &str) -> Result<Self, SlotError> {
        let mut set = [false; SLOTS];
        for part in text.split(',').map(str::trim) {
            let (from, to) = Self::range(part)?;
            for (slot, taken) in set.iter_mut().enumerate().take(to + 1).skip(from) {
                if std::mem::replace(taken, true) {
                    return Err(SlotError::Twice(slot));
                }
            }
        }
        Ok(Self(set))
    }

    fn range(part: &str) -> Result<(usize, usize), SlotError> {
        let number = |text: &str| {
            text.parse::<u8>().map(usize::from).map_err(|_| SlotError::Malformed(part.to_owned()))
        };
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        if from > to { Err(SlotError::Backwards(part.to_owned())) } else { Ok((from, to)) }
    }

    /// Whether a slot is in the set.
    pub fn contains(&self, slot: u8) -> bool {
        self.0.get(usize::from(slot)).copied().unwrap_or(false)
    }

    /// The slots of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|slot| self.contains(*slot))
    }

    /// The slots that are in both.
    pub fn shared_with(&self, other: &Self) -> Option<Self> {
        let mut both = [false; SLOTS];
        for ((both, a), b) in both.iter_mut().zip(&self.0).zip(&other.0) {
            *both = *a && *b;
        }
        both.contains(&true).then_some(Self(both))
    }

    /// The slots that none of the sets has.
    pub fn missing(sets: &[Self]) -> Option<Self> {
        let mut none = [true; SLOTS];
        for set in sets {
            for (none, taken) in none.iter_mut().zip(&set.0) {
                *none &= !*taken;
            }
        }
        none.contains(&true).then_some(Self(none))
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut slots = self.iter().peekable();
        while let Some(from) = slots.next() {
            let mut to = from;
            while let Some(next) = slots.next_if(|next| to.checked_add(1) == Some(*next)) {
                to = next;
            }
            let comma = if first { "" } else { "," };
            first = false;
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_shown_alike() {
        for text in ["0-255", "7", "0-63,128-191", "0,2,4", "255"] {
            assert_eq!(SlotSet::parse(text).map(|set| set.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(SlotSet::parse("0-255"), Ok(SlotSet::ALL));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!(SlotSet::parse("9-3"), Err(SlotError::Backwards("9-3".to_owned())));
        assert_eq!(SlotSet::parse("0-9,9"), Err(SlotError::Twice(9)));
        for text in ["", "256", "-1", "a", "1-", "1-2-3", "1,,2"] {
            assert!(matches!(SlotSet::parse(text), Err(SlotError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn holes_and_overlaps_are_found() {
        let (low, high) = (SlotSet::parse("0-130").unwrap(), SlotSet::parse("128-250").unwrap());
        assert_eq!(low.shared_with(&high).unwrap().to_string(), "128-130");
        assert_eq!(SlotSet::missing(&[low, high]).unwrap().to_string(), "251-255");
        assert_eq!(SlotSet::missing(&[SlotSet::ALL]), None);
    }
}
