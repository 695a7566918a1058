//! What the log knows to be wrong with itself, for people and for readiness checks.

use crate::Position;
use crate::limits::DAMAGES_MAX;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Records that were synced can't be read any more.
    Records,
    /// A segment file is gone or its header can't be read: all its records are lost.
    Segment,
    /// A segment's header is bad in one copy; nothing is lost.
    Header,
    /// A segment's footer is bad; nothing is lost, `rebuild` writes it anew.
    Footer,
    /// A segment does not follow the one before it: a file of another log, or a changed one.
    Chain,
    /// A snapshot can't be read.
    Snapshot,
    /// One slot of the watermark can't be read; nothing is lost.
    Watermark,
}

/// One damage that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub kind: DamageKind,
    /// In which file.
    pub file: String,
    /// First position concerned.
    pub from: Position,
    /// One past the last; equal to `from` when no record is lost.
    pub to: Position,
    /// An operator said that it is known.
    pub accepted: bool,
}

impl Damage {
    /// Records are lost.
    #[must_use]
    pub fn loses(&self) -> bool {
        self.from < self.to
    }
}

/// The log's health at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What was found damaged, at most 1,024.
    pub damages: Vec<Damage>,
    /// Damages that were not kept.
    pub more_damages: u64,
    /// Why the log is poisoned.
    pub poisoned: Option<String>,
    /// Why it takes only reserved records.
    pub full: Option<String>,
    /// Commits, each one write and one sync, since the log was opened.
    pub commits: u64,
    /// Records committed since then.
    pub records: u64,
    /// Bytes committed since then.
    pub bytes: u64,
    /// Segments there are.
    pub segments: usize,
    /// Bytes in them.
    pub segment_bytes: u64,
    /// Bytes that wait for the next write.
    pub waiting_bytes: usize,
    /// Bytes free on the disk and in all, as they were a second ago; `None` before the first look.
    pub disk: Option<DiskSpace>,
    /// What half of the syncs of the last minute did not pass, in microseconds; `None` where there was none.
    pub sync_p50_us: Option<u64>,
    /// The same for 99 of 100.
    pub sync_p99_us: Option<u64>,
    /// Bytes committed an hour, by the last hour; `None` in the first minute.
    pub bytes_per_hour: Option<u64>,
}

/// A disk's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes there are in all.
    pub total_bytes: u64,
}

impl Health {
    /// Nothing is wrong that nobody accepted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.poisoned.is_none()
            && self.full.is_none()
            && self.damages.iter().all(|damage| damage.accepted)
    }

    /// Remembers a damage, once.
    pub(crate) fn add(&mut self, damage: Damage) {
        let known = self
            .damages
            .iter()
            .any(|d| d.kind == damage.kind && d.file == damage.file && d.from == damage.from);
        if known {
            return;
        }
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        } else {
            self.more_damages = self.more_damages.saturating_add(1);
        }
    }
}
