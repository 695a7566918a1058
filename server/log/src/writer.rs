//! The one writer: it takes all that waits, writes it once, syncs once, and only then moves the durable end.
//!
//! Runs on its own thread (`crate::thread`) or on the caller's (`Log::pump`). The invariant: `published` is never ahead of a
//! sync that returned.

use std::sync::Arc;

use crate::ahead::zeros_of;
use crate::build::{Added, Builder, MakeError};
use crate::disk::{Disk, DiskFile, is_full, no_room};
use crate::error::{At, DiskError};
use crate::format::header::{AFTER_UNSEALED, Header};
use crate::format::wide;
use crate::limits::{
    HEADER_PAGE, INDEX_ENTRIES_MAX, PREFILL_BYTES, PREFILL_LOW, SEGMENT_BYTES_MAX,
};
use crate::queue::Pending;
use crate::segment::Recent;
use crate::shared::Shared;
use crate::{State, lock};

/// What only the writer knows.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) build: Builder,
    /// Zero-filled and synced up to here.
    pub(crate) filled: u64,
    /// Space of the file is taken up to here.
    taken: u64,
    /// How far the log that leads was at the last look.
    led: u64,
    /// Room for `append_reserved` alone.
    pub(crate) reserve: Option<Arc<dyn DiskFile>>,
}

/// Why a batch was not stored.
pub(crate) enum Refused {
    /// No room: cut back and take less.
    Full(DiskError),
    /// Nobody knows what the disk has.
    Poisoned(DiskError),
}

impl From<MakeError> for Refused {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Disk(error) if is_full(&error.source) => Self::Full(error),
            MakeError::Disk(error) | MakeError::Sync(error) => Self::Poisoned(error),
        }
    }
}

impl Writer {
    pub(crate) fn new(build: Builder, reserve: Option<Arc<dyn DiskFile>>) -> Self {
        let filled = build.offset;
        Self { build, filled, taken: filled, led: 0, reserve }
    }

    /// One group commit. Says whether there was anything to write.
    pub(crate) fn pump(&mut self, shared: &Shared) -> bool {
        let Some(mut batch) = lock(&shared.queue).take() else { return false };
        let leads = shared.options.leads.as_ref();
        let begun = shared.disk.passed();
        if let Some(lead) = leads {
            lead.begins();
        }
        match self.commit(shared, &mut batch) {
            Ok(()) => {}
            Err(Refused::Full(error)) => self.cut_back(shared, &error),
            Err(Refused::Poisoned(error)) => shared.poison(&error),
        }
        if let Some(lead) = leads {
            lead.ends(shared.disk.passed().saturating_sub(begun));
        }
        batch.clear();
        lock(&shared.queue).spare.get_or_insert(batch);
        true
    }

    fn commit(&mut self, shared: &Shared, batch: &mut Pending) -> Result<(), Refused> {
        self.make_room(shared, batch)?;
        // What was gathered while the segment changed was encoded for the one before.
        batch.resalt(self.build.seed);
        let synced_upto = self.build.end;
        let tag = self.build.finish(batch, synced_upto);
        self.take_space(shared, batch)?;
        self.write(shared, batch)?;
        // The file has them: who lent them may have them back while they are synced.
        batch.large.clear();
        if shared.slips.acks_before_sync() {
            lock(&shared.queue).durable_end = batch.end;
            shared.announce();
        }
        // log §9: what is acknowledged was synced, by a sync that returned.
        self.sync(shared)?;
        let added = self.build.advance(batch, tag);
        self.filled = self.filled.max(self.build.offset);
        self.publish(shared, batch, added);
        Ok(())
    }

    /// Writes the batch; while a log that leads is at work, in slices that are synced one by one.
    fn write(&mut self, shared: &Shared, batch: &Pending) -> Result<(), MakeError> {
        let Some(lead) = &shared.options.follows else {
            return self.build.write(batch, shared.slips, (usize::MAX, &mut || Ok(())));
        };
        let mut led = self.led;
        let mut between = || if lead.is_at_work(&mut led) { self.sync(shared) } else { Ok(()) };
        let written = self.build.write(batch, shared.slips, (lead.slice_bytes(), &mut between));
        self.led = led;
        written
    }

    /// Takes space ahead of the end, so that it need not be found for each page; and leaves what is kept free, so that bulk
    /// ends before events have to.
    fn take_space(&mut self, shared: &Shared, batch: &Pending) -> Result<(), MakeError> {
        let step = shared.options.ahead_bytes;
        let end = self.build.offset.saturating_add(wide(batch.padded()));
        if step == 0 || end <= self.taken {
            return Ok(());
        }
        let kept = shared.options.free_bytes_low.saturating_add(end.saturating_sub(self.taken));
        let name = self.build.name();
        // Where nobody can say how much is free, the write does.
        let free = shared.disk.free_bytes().unwrap_or(u64::MAX);
        let Some(spare) = free.checked_sub(kept) else {
            return Err(no_room()).at("take space for", &name).map_err(MakeError::Disk);
        };
        let ahead = end.saturating_add(step.min(spare));
        let taken = self.build.disk_file().allocate(self.taken, ahead);
        self.taken = taken.map_or(end, |()| ahead);
        Ok(())
    }

    fn sync(&self, shared: &Shared) -> Result<(), MakeError> {
        // Events sync first: what is bulk waits for the sync that is under way.
        let lead = shared.options.follows.as_ref();
        if let Some(lead) = lead {
            lead.let_pass();
            lead.followed(true);
        }
        let begun = shared.disk.passed();
        let synced = self.sync_once(shared);
        let now = shared.disk.passed();
        if let Some(lead) = lead {
            lead.followed(false);
        }
        lock(&shared.pace).synced(now, now.saturating_sub(begun));
        synced.at("sync", &self.build.name()).map_err(MakeError::Sync)
    }

    fn sync_once(&self, shared: &Shared) -> std::io::Result<()> {
        match self.build.disk_file().sync() {
            Err(_) if shared.slips.retries_failed_sync() => self.build.disk_file().sync(),
            other => other,
        }
    }

    /// Goes to the next segment when this one is full.
    fn make_room(&mut self, shared: &Shared, batch: &mut Pending) -> Result<(), Refused> {
        let after = self.build.offset.saturating_add(wide(batch.padded()));
        let must = after > SEGMENT_BYTES_MAX;
        // With the disk full the reserve is for records, not for segments: this one grows a little past its size.
        let may = must || lock(&shared.queue).state != State::Full;
        // Where this one would grow and the next need not, the next is begun early.
        let grows = after > self.filled && lock(&shared.ahead).is_some();
        if self.build.records == 0 || !may || !(must || grows || self.is_full(shared)) {
            return Ok(());
        }
        self.roll(shared)
    }

    fn is_full(&self, shared: &Shared) -> bool {
        let entries = lock(&shared.index).open.as_ref().map_or(0, |open| open.entries.len());
        self.build.offset >= shared.options.segment_bytes || entries >= INDEX_ENTRIES_MAX
    }

    /// Begins the next segment. This one's footer is written later, off the path of acknowledgements; everything in it is
    /// synced, and the next segment names its hash (log §6).
    fn roll(&mut self, shared: &Shared) -> Result<(), Refused> {
        // At most one segment lacks its footer.
        shared.finish_sealing()?;
        let random = shared.disk.random().at("take random bytes for", "a segment");
        let header = Header {
            flags: AFTER_UNSEALED,
            id: self.build.header.id.saturating_add(1),
            base: self.build.end,
            time_floor: self.build.last_time,
            salt: random.map_err(MakeError::Disk)?,
            prev_id: self.build.header.id,
            prev_hash: self.build.digest(),
        };
        let (next, filled) = begin_segment(shared, header)?;
        let old = std::mem::replace(&mut self.build, next);
        (self.filled, self.taken) = (filled, self.build.offset);
        shared.turn_to(&self.build, old);
        Ok(())
    }

    /// Tells readers, then waiters.
    fn publish(&self, shared: &Shared, batch: &mut Pending, added: Added) {
        let kept = self.remember(shared, batch);
        {
            let mut index = lock(&shared.index);
            if let Some(open) = index.open.as_mut() {
                open.data_end = self.build.offset;
                (open.first_time, open.last_time) = (self.build.first_time, self.build.last_time);
                open.marks.extend(added.mark);
                Arc::make_mut(&mut open.entries).extend_from_slice(&added.entries);
            }
            index.durable_end = batch.end;
            index.last_time = batch.last_time;
            let freed = match kept {
                Some(recent) => index.remember(recent, shared.options.recent_bytes),
                None => {
                    index.forget_recent();
                    None
                }
            };
            drop(index);
            if let Some(Ok(buffer)) = freed.map(bytes::Bytes::try_into_mut) {
                batch.bytes = buffer;
            }
        }
        batch.entries = added.entries;
        {
            let mut queue = lock(&shared.queue);
            queue.durable_end = batch.end;
            queue.durable_time = batch.last_time;
        }
        shared.counters.committed(added.bytes, u64::from(batch.records));
        shared.announce();
    }

    /// Small batches stay in memory for a while. Those with large payloads do not: they would pin the callers' buffers.
    fn remember(&self, shared: &Shared, batch: &mut Pending) -> Option<Recent> {
        if batch.large_bytes > 0 || batch.bytes.len() > shared.options.recent_bytes {
            return None;
        }
        let bytes = std::mem::take(&mut batch.bytes).freeze();
        Some(Recent { base: batch.base, end: batch.end, bytes })
    }

    /// log §9: no room. Nothing of the batch counts; what was written of it is cut away, and that is synced.
    fn cut_back(&mut self, shared: &Shared, error: &DiskError) {
        lock(&shared.queue).cut_back(State::Full);
        self.release_reserve();
        shared.forget_ahead();
        let name = self.build.name();
        let file = self.build.disk_file();
        let cut = file.truncate(self.build.offset).and_then(|()| file.sync()).at("cut back", &name);
        (self.filled, self.taken) = (self.build.offset, self.build.offset);
        shared.health_note(|health| health.full = Some(error.to_string()));
        match cut {
            Ok(()) => shared.announce(),
            Err(error) => shared.poison(&error),
        }
    }

    fn release_reserve(&mut self) {
        // Failing to give the reserve back only means that reserved records are refused as well.
        if let Some(file) = self.reserve.take() {
            drop(file.truncate(0));
        }
    }

    /// What is done when nobody waits: zeros a little ahead, so that the next sync need not grow the file.
    pub(crate) fn prefill(&mut self, shared: &Shared) {
        let ahead = self.filled.saturating_sub(self.build.offset);
        let room = shared.options.segment_bytes.saturating_add(PREFILL_BYTES) > self.filled;
        let running = lock(&shared.queue).state == State::Running;
        if !shared.options.prefill || !room || !running || ahead >= PREFILL_LOW {
            return;
        }
        let zeros = vec![0_u8; crate::format::narrow(PREFILL_BYTES)];
        let from = self.filled.max(self.build.offset);
        let file = self.build.disk_file();
        // A prefill that fails changes nothing: the file grows as it is written.
        match crate::disk::write_whole(file, from, &zeros) {
            Ok(()) => {}
            Err(_) => return,
        }
        match file.sync().at("sync", &self.build.name()) {
            Ok(()) => self.filled = from.saturating_add(PREFILL_BYTES),
            // log §9: a failed sync is never retried; the next one would say yes and mean nothing.
            Err(error) => shared.poison(&error),
        }
    }
}

/// Makes the file of a new segment durable, name and all (log §3). Says how far it is filled with zeros.
fn begin_segment(shared: &Shared, header: Header) -> Result<(Builder, u64), Refused> {
    let name = crate::segment::file_name(header.id);
    let tmp = format!("{name}.tmp");
    let ahead = shared.take_ahead(&tmp);
    let filled = ahead.as_ref().map_or(HEADER_PAGE, |_| zeros_of(shared.options.segment_bytes));
    let made = make_segment(shared, ahead, (&tmp, &name), header);
    if made.is_err() {
        // What is left of it is removed by the next start too.
        drop(shared.disk.remove(&tmp));
    }
    Ok((made?, filled))
}

fn make_segment(
    shared: &Shared,
    ahead: Option<Arc<dyn DiskFile>>,
    (tmp, name): (&str, &str),
    header: Header,
) -> Result<Builder, MakeError> {
    let build = match ahead {
        Some(file) => Builder::begin(file, tmp, header),
        None => {
            discard(&*shared.disk, tmp)?;
            Builder::create(&*shared.disk, tmp, header)
        }
    };
    let build = build.map_err(MakeError::Disk)?;
    build.disk_file().sync().at("sync", tmp).map_err(MakeError::Sync)?;
    shared.disk.rename(tmp, name).at("rename", tmp).map_err(MakeError::Disk)?;
    if !shared.slips.skips_folder_sync() {
        shared.disk.sync_folder().at("sync the folder of", name).map_err(MakeError::Sync)?;
    }
    Ok(build)
}

/// Removes what an earlier try left.
pub(crate) fn discard(disk: &dyn Disk, tmp: &str) -> Result<(), MakeError> {
    match disk.remove(tmp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).at("remove", tmp).map_err(MakeError::Disk)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
