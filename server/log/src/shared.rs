//! What the handle, the writer and the readers share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::watch;

use crate::accept::Accepted;
use crate::ahead::Filling;
use crate::disk::{Disk, DiskFile, is_full};
use crate::error::{At, DiskError};
use crate::health::{Damage, DiskSpace, Health};
use crate::listeners::Listeners;
use crate::mark::WatermarkFile;
use crate::pace::Pace;
use crate::planted::Slips;
use crate::queue::Queue;
use crate::seal::Sealing;
use crate::segment::Index;
use crate::thread::Keeper;
use crate::writer::Writer;
use crate::{Durable, Options, State, lock};

/// The file that holds back disk space.
const RESERVE: &str = "reserve";

/// One log's insides. Locks are taken one at a time, or in this order: writer, sealing, watermark, filling, ahead, index,
/// queue, health, pace.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) queue: Mutex<Queue>,
    /// Wakes the writer.
    pub(crate) wake: Condvar,
    pub(crate) index: Mutex<Index>,
    pub(crate) durable: watch::Sender<Durable>,
    pub(crate) listeners: Listeners,
    /// `None` while damage waits for an operator.
    pub(crate) writer: Mutex<Option<Writer>>,
    pub(crate) accepted: Mutex<Accepted>,
    pub(crate) sealing: Mutex<Option<Sealing>>,
    pub(crate) keeper: Keeper,
    pub(crate) watermark: Mutex<WatermarkFile>,
    pub(crate) health: Mutex<Health>,
    pub(crate) counters: Counters,
    pub(crate) pace: Mutex<Pace>,
    /// What had been written when the watermark was.
    pub(crate) marked_bytes: AtomicU64,
    /// The next segment's file while it is filled, and when it is.
    pub(crate) filling: Mutex<Filling>,
    pub(crate) ahead: Mutex<Option<Arc<dyn DiskFile>>>,
    /// One retention or rewriting at a time.
    pub(crate) keeping: Mutex<()>,
    pub(crate) slips: Slips,
}

/// Counts since the log was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn committed(&self, bytes: u64, records: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Shared {
    /// log §9: a sync failed. Nothing is taken, written or acknowledged any more.
    pub(crate) fn poison(&self, error: &DiskError) {
        {
            let mut queue = lock(&self.queue);
            queue.state = State::Poisoned;
            queue.pending.clear();
        }
        self.health_note(|health| {
            health.poisoned.get_or_insert_with(|| error.to_string());
        });
        self.announce();
    }

    /// Says to everyone who waits what the queue knows to be durable.
    pub(crate) fn announce(&self) {
        let now = {
            let queue = lock(&self.queue);
            Durable {
                end: queue.durable_end.into(),
                generation: queue.generation,
                state: queue.state,
            }
        };
        let changed = self.durable.send_if_modified(|durable| {
            let changed = *durable != now;
            *durable = now;
            changed
        });
        if changed {
            self.listeners.tell(now);
        }
    }

    /// What can be done later: the watermark, and a look at the room on the disk. `idle`: nothing was written for a while.
    pub(crate) fn tend(&self, idle: bool) {
        self.tend_sealing();
        self.look_for_room();
        let written = self.counters.bytes.load(Ordering::Relaxed);
        let since = written.saturating_sub(self.marked_bytes.load(Ordering::Relaxed));
        if idle || since >= self.options.watermark_bytes {
            self.write_watermark(None);
        }
    }

    /// Writes what is durable now, and the floor if it moves. Says whether it is on disk.
    pub(crate) fn write_watermark(&self, floor: Option<u64>) -> bool {
        let mut watermark = lock(&self.watermark);
        let (durable, state) = {
            let queue = lock(&self.queue);
            (queue.durable_end, queue.state)
        };
        let newest = watermark.newest;
        let floor_now = floor.unwrap_or(newest.floor).max(newest.floor);
        let nothing_new = durable <= newest.durable && floor.is_none();
        if nothing_new || matches!(state, State::Poisoned | State::Damaged) {
            return nothing_new;
        }
        self.marked_bytes.store(self.counters.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        match watermark.write(durable, floor_now).at("write", WatermarkFile::NAME) {
            Ok(()) => true,
            Err(error) if is_full(&error.source) => false,
            // log §9: whatever file it was, a disk that fails a sync is not believed any more.
            Err(error) => {
                self.poison(&error);
                false
            }
        }
    }

    /// Takes less before the disk is full, and everything again once there is room.
    fn look_for_room(&self) {
        let low = self.options.free_bytes_low;
        let Ok(mut free) = self.disk.free_bytes() else { return };
        self.note_space(free);
        if self.options.bytes_max > 0 {
            // A log at its limit has as little room as one on a full disk.
            free = free.min(
                self.options
                    .bytes_max
                    .saturating_sub(lock(&self.index).file_bytes())
                    .saturating_add(low),
            );
        }
        let state = lock(&self.queue).state;
        match state {
            State::Running if free < low || (self.options.bytes_max > 0 && free <= low) => {
                self.health_note(|health| {
                    health.full = Some(format!("{free} bytes are free, {low} are kept"))
                });
                self.turn(State::Running, State::Full);
                self.forget_ahead();
            }
            State::Full if free >= low.saturating_add(low / 4) => self.have_room(),
            State::Running | State::Full | State::Poisoned | State::Damaged => {}
        }
    }

    /// What the disk has, for health.
    pub(crate) fn note_space(&self, free_bytes: u64) {
        if let Ok(total_bytes) = self.disk.total_bytes() {
            self.health_note(|health| health.disk = Some(DiskSpace { free_bytes, total_bytes }));
        }
        let written = self.counters.bytes.load(Ordering::Relaxed);
        lock(&self.pace).wrote(self.disk.passed(), written);
    }

    fn have_room(&self) {
        if let Some(writer) = lock(&self.writer).as_mut()
            && writer.reserve.is_none()
            && self.options.reserve_bytes > 0
        {
            match Self::take_reserve(&*self.disk, self.options.reserve_bytes) {
                Ok(Some(reserve)) => writer.reserve = Some(reserve),
                Ok(None) | Err(_) => return,
            }
        }
        self.health_note(|health| health.full = None);
        self.turn(State::Full, State::Running);
    }

    fn turn(&self, from: State, to: State) {
        {
            let mut queue = lock(&self.queue);
            if queue.state == from {
                queue.state = to;
            }
        }
        self.announce();
    }

    /// Takes the disk space that is held back; `None` when there is none to take.
    pub(crate) fn take_reserve(
        disk: &dyn Disk,
        bytes: u64,
    ) -> Result<Option<Arc<dyn DiskFile>>, DiskError> {
        let file = match disk.open(RESERVE) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => disk.create(RESERVE),
            other => other,
        };
        let taken = file.and_then(|file| file.allocate(0, bytes).map(|()| file));
        match taken {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_full(&error) => Ok(None),
            Err(error) => Err(error).at("take space for", RESERVE),
        }
    }

    pub(crate) fn health_note(&self, note: impl FnOnce(&mut Health)) {
        note(&mut lock(&self.health));
    }

    pub(crate) fn damaged(&self, mut damage: Damage) {
        damage.accepted |=
            damage.loses() && lock(&self.accepted).covers(damage.from.get(), damage.to.get());
        self.health_note(|health| health.add(damage));
    }
}
