//! What an operator accepted as lost: kept on disk, so that a later start neither waits nor turns red for it again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{Disk, is_full, write_whole};
use crate::error::{At, DiskError, KeepError, OpenError};
use crate::format::accepted::{FILE_BYTES_MAX, RANGES_MAX, decode, encode};
use crate::health::Damage;
use crate::recover::{Found, recover};
use crate::segment::Open;
use crate::shared::Shared;
use crate::writer::{Writer, discard};
use crate::{Position, State, lock};

const NAME: &str = "accepted";

/// Ranges of positions that are known to be lost, sorted and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted(Vec<(u64, u64)>);

impl Accepted {
    /// Reads the file; one that is damaged accepts nothing.
    pub(crate) fn open(disk: &dyn Disk, is_there: bool) -> Result<Self, DiskError> {
        if !is_there {
            return Ok(Self::default());
        }
        let mut bytes = vec![0_u8; FILE_BYTES_MAX];
        let read = disk.open(NAME).and_then(|file| file.read_at(0, &mut bytes)).at("read", NAME)?;
        Ok(Self(decode(bytes.get(..read).unwrap_or_default()).unwrap_or_default()))
    }

    pub(crate) const NAME: &'static str = NAME;

    /// All of `from..to` was accepted.
    pub(crate) fn covers(&self, from: u64, to: u64) -> bool {
        self.0.iter().any(|(a, b)| *a <= from && to <= *b)
    }

    /// The same with `from..to` added.
    fn with(&self, from: u64, to: u64) -> Self {
        let mut all = self.0.clone();
        all.push((from, to));
        all.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (a, b) in all {
            match joined.last_mut() {
                Some(last) if a <= last.1 => last.1 = last.1.max(b),
                Some(_) | None => joined.push((a, b)),
            }
        }
        // At the cap the oldest go: what they covered turns red again at the next start, which is the safe side.
        let spare = joined.len().saturating_sub(RANGES_MAX);
        Self(joined.split_off(spare))
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        let tmp = format!("{NAME}.tmp");
        discard(disk, &tmp)?;
        let file = disk.create(&tmp).at("create", &tmp)?;
        write_whole(&*file, 0, &encode(&self.0)).at("write", &tmp)?;
        file.sync().at("sync", &tmp)?;
        disk.rename(&tmp, NAME).at("rename", &tmp)?;
        disk.sync_folder().at("sync the folder of", NAME)
    }
}

impl Shared {
    /// An operator accepts that what is damaged in `range` is lost. Where writes waited for it, they go on.
    pub(crate) fn accept(self: &Arc<Self>, range: &Range<Position>) -> Result<(), KeepError> {
        let _one_at_a_time = lock(&self.keeping);
        let none = KeepError::NoSuchHole { from: range.start, to: range.end };
        let within = |damage: &Damage| {
            !damage.accepted && damage.from >= range.start && damage.to <= range.end
        };
        if !lock(&self.health).damages.iter().any(within) {
            return Err(none);
        }
        let accepted = lock(&self.accepted).with(range.start.get(), range.end.get());
        accepted.write(&*self.disk).inspect_err(|error| {
            // log §9: nothing is taken from a disk that failed, but for want of room.
            if !is_full(&error.source) {
                self.poison(error);
            }
        })?;
        *lock(&self.accepted) = accepted;
        self.health_note(|health| {
            health
                .damages
                .iter_mut()
                .filter(|damage| within(damage))
                .for_each(|damage| damage.accepted = true);
        });
        if lock(&self.queue).state == State::Damaged { self.go_on(none) } else { Ok(()) }
    }

    /// Recovers again, now that the damage is accepted. Nothing was written since the first time.
    fn go_on(&self, none: KeepError) -> Result<(), KeepError> {
        let Found { index, build, watermark, recovered, .. } = recover(&*self.disk, self.slips)
            .map_err(|error| match error {
                OpenError::Disk(error) => KeepError::Disk(error),
                OpenError::Version { name, .. } => KeepError::Damaged { name, at: Position::FIRST },
            })?;
        let Some(build) = build else { return Err(none) };
        let mut writer = lock(&self.writer);
        *lock(&self.watermark) = watermark;
        let (end, time) = (index.durable_end, index.last_time);
        let seed = index.open.as_ref().map_or(0, Open::seed);
        *lock(&self.index) = index;
        let reserve = match self.options.reserve_bytes {
            0 => None,
            bytes => Self::take_reserve(&*self.disk, bytes)?,
        };
        let full = self.options.reserve_bytes > 0 && reserve.is_none();
        *writer = Some(Writer::new(build, reserve));
        drop(writer);
        {
            let mut queue = lock(&self.queue);
            (queue.durable_end, queue.next, queue.seed) = (end, end, seed);
            (queue.durable_time, queue.last_time) = (time, time);
            queue.state = if full { State::Full } else { State::Running };
        }
        recovered.damages.into_iter().for_each(|damage| self.damaged(damage));
        self.marked_bytes.store(self.counters.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        self.announce();
        Ok(())
    }
}
