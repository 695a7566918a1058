//! One file of the simulated disk: what is seen, what is durable, and what waits between.

use super::choose::{Choose, Random};
use crate::format::{narrow, wide};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A change that was not synced yet.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: usize, data: Vec<u8> },
    Length(usize),
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) view: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Write { at, data } => {
                let end = at.saturating_add(data.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(place) = content.get_mut(*at..end) {
                    place.copy_from_slice(data);
                }
            }
        }
    }

    /// The sectors it may change, in a file that is `length` long before it.
    fn sectors(&self, length: usize) -> std::ops::Range<usize> {
        match self {
            Self::Write { at, data } => at / SECTOR..at.saturating_add(data.len()).div_ceil(SECTOR),
            Self::Length(new) => new.min(&length) / SECTOR..(*new).max(length).div_ceil(SECTOR),
        }
    }
}

impl Inode {
    pub(super) fn durable(content: Vec<u8>) -> Self {
        Self { view: content.clone(), durable: content, pending: Vec::new() }
    }

    pub(super) fn read(&self, at: usize, into: &mut [u8]) -> usize {
        let there = self.view.get(at..).unwrap_or_default();
        let n = there.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..n), there.get(..n)) {
            to.copy_from_slice(from);
        }
        n
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.view);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that failed: some of it is on disk, all of it is seen, and nobody will write it again.
    pub(super) fn lose_sync(&mut self, random: &mut Random) {
        self.settle(random);
    }

    /// The power goes: what is seen afterwards is what is durable.
    pub(super) fn lose_power(&mut self, choose: &mut dyn Choose) {
        self.settle(choose);
        self.view.clone_from(&self.durable);
    }

    /// Each sector becomes one of its versions, the length one of its own.
    fn settle(&mut self, choose: &mut dyn Choose) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        let mut versions = vec![self.durable.clone()];
        let mut touched: Vec<Vec<usize>> = Vec::new();
        for (n, change) in pending.iter().enumerate() {
            let mut next = versions.last().cloned().unwrap_or_default();
            for sector in change.sectors(next.len()) {
                if touched.len() <= sector {
                    touched.resize(sector + 1, Vec::new());
                }
                if let Some(list) = touched.get_mut(sector) {
                    list.push(n + 1);
                }
            }
            change.apply(&mut next);
            versions.push(next);
        }
        let mut lengths: Vec<usize> = versions.iter().map(Vec::len).collect();
        lengths.dedup();
        let length = pick(choose, &lengths);
        let mut content = self.durable.clone();
        content.resize(length, 0);
        for (sector, changes) in
            touched.iter().enumerate().filter(|(_, changes)| !changes.is_empty())
        {
            let mut of: Vec<usize> = vec![0];
            of.extend(changes);
            let version = versions.get(pick(choose, &of)).map(Vec::as_slice).unwrap_or_default();
            copy_sector(sector, version, &mut content);
        }
        self.durable = content;
    }

    pub(super) fn rot(&mut self, at: usize, mask: u8) -> bool {
        let bytes = [self.view.get_mut(at), self.durable.get_mut(at)];
        let there = bytes.iter().any(Option::is_some);
        bytes.into_iter().flatten().for_each(|byte| *byte ^= mask);
        there
    }
}

fn pick(choose: &mut dyn Choose, of: &[usize]) -> usize {
    let n = if of.len() > 1 { narrow(choose.choose(wide(of.len()))) } else { 0 };
    of.get(n).copied().unwrap_or(0)
}

/// The sector of `content` as it is in `version`; what that does not have is zeros.
fn copy_sector(sector: usize, version: &[u8], content: &mut [u8]) {
    let start = sector.saturating_mul(SECTOR);
    let end = start.saturating_add(SECTOR).min(content.len());
    let Some(place) = content.get_mut(start..end) else { return };
    let from = version.get(start..).unwrap_or_default();
    for (n, byte) in place.iter_mut().enumerate() {
        *byte = from.get(n).copied().unwrap_or(0);
    }
}
