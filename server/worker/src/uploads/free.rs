//! Space comes back: segments of the chunk log in which little is wanted are rewritten, those before the first that is wanted
//! removed. On the thread that tends uploads.
//!
//! The invariant: a chunk is wanted while a blob or an upload rests on it, durable or not, and as long as its freeing is not
//! durable.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use spile_protocol::{
    code::Code,
    id::{Role, Run},
    message::deliver::Kind,
    time::Millis,
};

use crate::{
    core::Core,
    keeper::Kept,
    limits::{EXPIRED_AT_ONCE, FREE_PERCENT},
    log::ChunkLog,
    record::{Names, kind},
    uploads::{
        Uploads,
        form::{Freed, JSON},
        principal_of,
        take::json,
        view::{Blob, Change, Upload, tenant_of},
        work::Seat,
    },
};

/// What is wanted of the chunk log.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// First and last chunk, and bytes.
    kept: Vec<(u64, u64, u64)>,
    /// Chunks from here on are newer than this was asked.
    horizon: u64,
}

impl Uploads {
    /// What is wanted now.
    pub(crate) fn wanted(&self) -> Wanted {
        let uploads = self.view.uploads.values().filter_map(Upload::keeps);
        let blobs = self.view.blobs.values().filter_map(Blob::keeps);
        let kept = uploads.chain(blobs).chain(self.pending_keeps()).collect();
        let horizon = self.chunks.as_ref().map_or(0, |chunks| chunks.next);
        Wanted { kept, horizon }
    }
}

impl Wanted {
    /// About how many bytes of a segment are wanted: chunks of one thing are thought to lie evenly between its first and its
    /// last.
    fn bytes_in(&self, segment: &Range<u64>) -> u64 {
        let part = |&(first, last, bytes): &(u64, u64, u64)| {
            let from = first.max(segment.start);
            let to = last.saturating_add(1).min(segment.end);
            let span = u128::from(last.saturating_sub(first).saturating_add(1));
            let within = u128::from(bytes) * u128::from(to.saturating_sub(from)) / span;
            u64::try_from(within).unwrap_or(u64::MAX)
        };
        self.kept.iter().map(part).fold(0, u64::saturating_add)
    }

    /// The first position that is wanted.
    fn first(&self) -> u64 {
        self.kept.iter().map(|kept| kept.0).min().unwrap_or(self.horizon).min(self.horizon)
    }
}

/// Forgets uploads that nobody went on with for so long. At most a few at once.
pub(crate) fn expire(kept: &Kept, now: Millis, idle_ms: u64) {
    let mut core = kept.core();
    core.look();
    let idle = |upload: &Upload| now.0.saturating_sub(upload.time_ms.max(upload.work.active_ms));
    let uploads = core.uploads.view.uploads.iter();
    let old = uploads.filter(|(_, upload)| idle(upload) > idle_ms).map(|(&at, _)| at);
    let old: Vec<u64> = old.take(EXPIRED_AT_ONCE).collect();
    if old.is_empty() {
        return;
    }
    core.begin();
    let seats: Vec<_> = old.iter().map(|&at| expire_one(&mut core, now, at)).collect();
    match core.commit(true) {
        Ok(()) => {
            let gate = core.next;
            core.uploads.counted.expired += u64::try_from(old.len()).unwrap_or(u64::MAX);
            seats.into_iter().flatten().for_each(|seat| seat.end(gate, Code::EXPIRED));
            tracing::info!(uploads = old.len(), "abandoned uploads are forgotten");
        }
        // They are as old the next time.
        Err(refusal) => tracing::warn!(code = %refusal.code, "abandoned uploads are kept for now"),
    }
}

/// Puts the FREED of one; who writes it is told later.
fn expire_one(core: &mut Core, now: Millis, at: u64) -> Option<Arc<Seat>> {
    let upload = core.uploads.view.uploads.get_mut(&at)?;
    let (who, seat) = (upload.who.clone(), upload.work.writer.clone());
    let (role, principal) = principal_of(&who).split_once('/')?;
    let names = Names {
        role: Role::find(role)?,
        run: Run([0; 8]),
        trace_base: [0; 8],
        tenant: tenant_of(&who),
        principal,
        key: "",
        topic: "",
        kind: Kind { content_type: JSON, ..Kind::default() },
    };
    let freed = Freed::upload(at, Code::EXPIRED);
    let payload = json(&freed).ok()?;
    let time_ms = core.tables.time_ms;
    let position = core.put_alone(now.0, kind::FREED, &names.prefix(), payload);
    core.uploads.put(position, time_ms, Change::Freed(freed));
    seat
}

/// Gives back what was freed, where anything was, until `stop` says so.
pub(crate) fn tend(kept: &Kept, stop: &dyn Fn() -> bool) {
    let (log, wanted, mut tried) = {
        let mut core = kept.core();
        core.look();
        let uploads = &mut core.uploads;
        if !uploads.freed {
            return;
        }
        let Some(chunks) = &uploads.chunks else { return };
        let log = chunks.log.clone();
        // What is not durable yet is looked at again.
        uploads.freed = uploads.first_pending().is_some();
        (log, uploads.wanted(), std::mem::take(&mut uploads.tried))
    };
    free(&log, &wanted, &mut tried, stop);
    kept.core().uploads.tried = tried;
}

/// `tried`: what was thought to be wanted of segments that were rewritten. Where that was too little, and hardly anything
/// was freed, it is not tried again before less is wanted.
fn free(
    log: &Arc<dyn ChunkLog>,
    wanted: &Wanted,
    tried: &mut HashMap<u64, u64>,
    stop: &dyn Fn() -> bool,
) {
    let first = wanted.first();
    let mut freed = 0_u64;
    match log.remove_before(first) {
        Ok(bytes) => freed = freed.saturating_add(bytes),
        Err(error) => tracing::warn!(%error, "segments of chunks are not removed"),
    }
    let streams: HashSet<u64> = wanted.kept.iter().map(|kept| kept.0).collect();
    let segments = log.segments();
    tried.retain(|at, _| segments.iter().any(|(segment, _)| segment.start == *at));
    for (segment, bytes) in segments {
        if stop() {
            return;
        }
        let live = wanted.bytes_in(&segment);
        let little = live.saturating_mul(100) < bytes.saturating_mul(FREE_PERCENT);
        let again = tried.get(&segment.start).is_some_and(|&before| live >= before);
        if segment.end > wanted.horizon || !little || again {
            continue;
        }
        tried.insert(segment.start, live);
        let rewritten = log.rewrite(segment.start, &mut |record| {
            record.position.get() >= wanted.horizon || streams.contains(&record.stream)
        });
        match rewritten {
            Ok(bytes) => freed = freed.saturating_add(bytes.unwrap_or(0)),
            Err(error) => tracing::warn!(%error, "a segment of chunks is not rewritten"),
        }
    }
    if freed > 0 {
        tracing::info!(bytes = freed, "space of uploads given back");
    }
}
