//! Blocks of memory for what is large, used again: a chunk is read into one, hashed and written from it, and it comes back.
//!
//! A block of its own for each chunk would be mapped, cleared page by page and given back each time, which costs as much as
//! hashing it. Invariants: a block is given back once, when nobody has a part of it any more; those that wait for their
//! next use are bounded, and nearly all are given to the system when none is in use.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use bytes::Bytes;

use crate::limits::{BLOCK_BYTES, BLOCKS_IDLE, BLOCKS_KEPT};
use crate::lock;

static POOL: Pool = Pool::new();

/// What waits, and how many are out.
#[derive(Debug)]
struct Pool(Mutex<Blocks>);

#[derive(Debug)]
struct Blocks {
    free: Vec<Box<[u8]>>,
    lent: usize,
}

impl Pool {
    const fn new() -> Self {
        Self(Mutex::new(Blocks { free: Vec::new(), lent: 0 }))
    }

    fn lend(&self) -> Box<[u8]> {
        let mut blocks = lock(&self.0);
        blocks.lent += 1;
        let free = blocks.free.pop();
        drop(blocks);
        free.unwrap_or_else(|| vec![0; BLOCK_BYTES].into_boxed_slice())
    }

    fn give_back(&self, block: Box<[u8]>) {
        let mut blocks = lock(&self.0);
        blocks.lent = blocks.lent.saturating_sub(1);
        blocks.free.push(block);
        let most = if blocks.lent == 0 { BLOCKS_IDLE } else { BLOCKS_KEPT };
        let freed = blocks.free.len().min(most);
        let freed = blocks.free.split_off(freed);
        drop(blocks);
        drop(freed);
    }
}

/// [`BLOCK_BYTES`] bytes that are one's own until they are frozen. What stands in them is what was there last.
#[derive(Debug)]
pub struct LentBlock {
    bytes: Box<[u8]>,
    home: &'static Pool,
}

impl LentBlock {
    /// One that waits, or a new one.
    #[must_use]
    pub fn take() -> Self {
        Self { bytes: POOL.lend(), home: &POOL }
    }

    /// Its first bytes, to be shared; the block is given back with the last part of them.
    #[must_use]
    pub fn freeze(self, length: usize) -> Bytes {
        let mut bytes = Bytes::from_owner(self);
        bytes.truncate(length);
        bytes
    }
}

impl Deref for LentBlock {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for LentBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for LentBlock {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for LentBlock {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

/// `part` as a share of `whole`, where it stands in it: kept without being copied.
#[must_use]
pub fn share(whole: &Bytes, part: &[u8]) -> Option<Bytes> {
    let from = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let to = from.checked_add(part.len()).filter(|&to| to <= whole.len())?;
    Some(whole.slice(from..to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pool: &'static Pool) -> LentBlock {
        LentBlock { bytes: pool.lend(), home: pool }
    }

    fn waiting(pool: &Pool) -> usize {
        lock(&pool.0).free.len()
    }

    #[test]
    fn a_block_is_used_again_when_nobody_has_a_part_of_it() {
        static ONE: Pool = Pool::new();
        let mut block = of(&ONE);
        block[7] = 7;
        let place = block.as_ptr();
        let whole = block.freeze(8);
        let part = share(&whole, &whole[7..]).unwrap();
        drop(whole);
        assert_eq!((waiting(&ONE), &*part), (0, &[7_u8][..]));
        drop(part);
        assert_eq!(waiting(&ONE), 1);
        assert_eq!(of(&ONE).as_ptr(), place);
    }

    #[test]
    fn few_wait_while_some_are_out_and_fewer_when_none_is() {
        static MANY: Pool = Pool::new();
        let mut out: Vec<_> = (0..=BLOCKS_KEPT + 9).map(|_| of(&MANY)).collect();
        out.truncate(1);
        assert_eq!(waiting(&MANY), BLOCKS_KEPT);
        drop(out);
        assert_eq!(waiting(&MANY), BLOCKS_IDLE);
    }

    #[test]
    fn only_what_stands_in_it_is_a_share() {
        let whole = Bytes::from(vec![1, 2, 3, 4]);
        assert_eq!(share(&whole, &whole[1..3]).as_deref(), Some(&[2, 3][..]));
        assert_eq!(share(&whole.slice(1..3), &whole[1..4]), None);
        assert_eq!(share(&whole.slice(1..3), &whole[..2]), None);
        assert_eq!(share(&whole, &[2, 3]), None);
    }
}
