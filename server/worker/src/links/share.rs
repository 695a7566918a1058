//! How many bytes of chunks each link may have under way: what may wait for the disk, in equal parts. spec §10.6.1
//!
//! The invariant: once the links have heard of their parts, these are together no more than what may wait, but for one chunk
//! each. While a new one has its part and an older has not given up some of its own it may be half as much again, which the
//! chunk log's queue has room for.

use spile_protocol::limits::CHUNK_MAX;
use tokio::sync::watch;

use crate::limits::WAITING_CHUNK_BYTES;

/// How many links there are.
#[derive(Debug)]
pub(crate) struct Shares(watch::Sender<usize>);

impl Default for Shares {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

/// A link's part.
#[derive(Debug)]
pub(crate) struct Share {
    all: watch::Sender<usize>,
    seen: watch::Receiver<usize>,
    bytes: u32,
}

impl Shares {
    /// One link more.
    pub(crate) fn join(&self) -> Share {
        self.0.send_modify(|links| *links += 1);
        let seen = self.0.subscribe();
        let bytes = part(*seen.borrow());
        Share { all: self.0.clone(), seen, bytes }
    }
}

impl Share {
    /// Its bytes.
    pub(crate) const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Its bytes, when they are others than before.
    pub(crate) async fn changed(&mut self) -> u32 {
        loop {
            if self.seen.changed().await.is_err() {
                // The sender is in here.
                std::future::pending::<()>().await;
            }
            let bytes = part(*self.seen.borrow_and_update());
            if std::mem::replace(&mut self.bytes, bytes) != bytes {
                return bytes;
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.send_modify(|links| *links -= 1);
    }
}

/// It changes with each doubling, not with each link.
fn part(links: usize) -> u32 {
    let bytes = WAITING_CHUNK_BYTES / links.next_power_of_two();
    u32::try_from(bytes.max(CHUNK_MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_parts_are_no_more_than_the_whole_and_change_with_each_doubling() {
        let shares = Shares::default();
        let mut links = vec![shares.join()];
        assert_eq!(links[0].bytes(), 32 << 20);
        for (count, part) in [(2, 16 << 20), (3, 8 << 20), (5, 4 << 20)] {
            while links.len() < count {
                links.push(shares.join());
            }
            assert_eq!((links[0].changed().await, links[count - 1].bytes()), (part, part));
        }
        links.truncate(4);
        assert_eq!(links[0].changed().await, 8 << 20);
        links.truncate(1);
        assert_eq!(links[0].changed().await, 32 << 20);
        assert_eq!(part(1 << 20), 256 << 10, "a chunk each");
    }
}
