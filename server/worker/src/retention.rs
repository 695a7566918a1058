//! The log stops growing: what no rule keeps and nothing rests on is removed, a segment at a time; and snapshots, which
//! come before that. On a thread of its own, so that nobody who takes events ever waits for it.
//!
//! The invariant: nothing is removed that is wanted, nor before both snapshots that are kept are past it; the worker's lock
//! is held only to copy what a segment needs, or to look up one name. record §12

mod rules;
mod show;
mod wanted;

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use spile_log::{KeepError, SegmentInfo, State, Thinned};

pub use self::rules::Rule;
use self::{
    rules::{Line, rule_of},
    wanted::Wanted,
};
use crate::{
    keeper::Kept,
    limits::{RETAIN_AGAIN_MS, RETAIN_FULL_AGAIN_MS, RETAIN_PERCENT, SNAPSHOT_S, SNAPSHOT_START_S},
    log::EventLog,
    record::{self, Names, kind},
    snapshot::{self, SnapshotError, each_record},
    status::Counter,
    worker::Config,
};

/// What was done since the start.
#[derive(Debug, Default)]
pub struct RetentionCounts {
    /// Snapshots made.
    pub snapshots: Counter,
    /// Segments removed.
    pub removed: Counter,
    /// Segments rewritten with what is wanted of them.
    pub rewritten: Counter,
    /// Bytes that gave back.
    pub freed: Counter,
}

/// What is known of the log's segments, by their first positions.
#[derive(Default)]
struct Memo {
    looked: HashMap<u64, Look>,
    /// Bytes a rule's topics have in it; the file had so many when they were counted.
    counted: HashMap<u64, (u64, Vec<u64>)>,
}

/// When a segment was looked at, and what was found.
#[derive(Clone, Copy)]
struct Look {
    at_ms: u64,
    /// How many rules' lines it was beyond.
    passed: usize,
    wanted_bytes: u64,
}

/// Snapshots and retention of one worker.
pub(crate) struct Retention {
    kept: Arc<Kept>,
    log: Arc<dyn EventLog>,
    config: Config,
    memo: Mutex<Memo>,
    /// One snapshot is made at a time.
    making: Mutex<()>,
    /// Up to where the newest snapshot holds.
    newest: AtomicU64,
    pub(crate) counts: RetentionCounts,
}

impl Retention {
    pub(crate) fn new(kept: Arc<Kept>, log: Arc<dyn EventLog>, config: Config) -> Arc<Self> {
        let newest = log.snapshots().ok().and_then(|found| found.first().copied()).unwrap_or(0);
        let (memo, counts) = (Mutex::default(), RetentionCounts::default());
        let (making, newest) = (Mutex::default(), newest.into());
        Arc::new(Self { kept, log, config, memo, making, newest, counts })
    }

    /// Makes the next snapshot: up to where it holds; `None` where nothing is new.
    pub(crate) fn snapshot(&self, stop: &dyn Fn() -> bool) -> Result<Option<u64>, SnapshotError> {
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let made = snapshot::next(&*self.log, &self.config, stop)?;
        if let Some(position) = made {
            self.newest.store(position, Ordering::Relaxed);
            self.counts.snapshots.add(1);
        }
        Ok(made)
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Is there a segment that is not written any more, and that not both snapshots hold? Without rules nothing may go, so
    /// that nothing needs them: making them costs reading every record twice.
    fn is_due(&self) -> bool {
        if self.config.retention.is_empty() {
            return false;
        }
        let holds = self.log.snapshots().ok().and_then(|found| found.get(1).copied()).unwrap_or(0);
        self.log.sealed().last().is_some_and(|segment| segment.range.end.get() > holds)
    }

    /// Makes the snapshots that are due, and removes what may go.
    pub(crate) fn tend(&self, stop: &dyn Fn() -> bool) {
        while !stop() && self.is_due() {
            match self.snapshot(stop) {
                Ok(Some(position)) => tracing::info!(position, "a snapshot of the views was made"),
                Ok(None) | Err(SnapshotError::Stopped) => break,
                Err(error) => {
                    tracing::warn!(%error, "no snapshot is made; the log keeps what the views rest on");
                    break;
                }
            }
        }
        self.remove(stop);
    }

    /// Removes what may go, of the oldest segments first.
    pub(crate) fn remove(&self, stop: &dyn Fn() -> bool) {
        if self.config.retention.is_empty() {
            return;
        }
        if let Err(error) = self.pass(stop) {
            tracing::warn!(%error, "retention stops; what is there stays");
        }
    }

    fn pass(&self, stop: &dyn Fn() -> bool) -> Result<(), SnapshotError> {
        let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        let segments = self.log.sealed();
        let there = |start: &u64| segments.iter().any(|one| one.range.start.get() == *start);
        memo.looked.retain(|start, _| there(start));
        memo.counted.retain(|start, _| there(start));
        let now_ms = self.config.clock.now().0;
        let lines = self.lines(&mut memo, &segments, now_ms, stop)?;
        let limit = self.log.snapshots()?.last().copied().unwrap_or(0);
        for segment in &segments {
            if stop() || segment.range.end.get() > limit {
                break;
            }
            self.one(&mut memo, &lines, segment, now_ms)?;
        }
        Ok(())
    }

    /// Looks at a segment, where it is worth it.
    fn one(
        &self,
        memo: &mut Memo,
        lines: &[Line],
        segment: &SegmentInfo,
        now_ms: u64,
    ) -> Result<(), KeepError> {
        let range = segment.range.start.get()..segment.range.end.get();
        let passed = lines.iter().map(|line| line.passed(segment.last_ms, range.end)).sum();
        let full = self.log.durable().borrow().state == State::Full;
        let first = self.log.start() == range.start;
        if !is_worth(memo.looked.get(&range.start), passed, (first, full), now_ms) {
            return Ok(());
        }
        let mut look = Look { at_ms: now_ms, passed, wanted_bytes: u64::MAX };
        match self.thin(lines, &range, (now_ms, full))? {
            Thinned::Removed(bytes) => {
                self.counts.removed.add(1);
                self.counts.freed.add(bytes);
                tracing::info!(?range, bytes, "a segment was removed: nothing in it is wanted");
            }
            Thinned::Rewritten(bytes) => {
                self.counts.rewritten.add(1);
                self.counts.freed.add(bytes);
                tracing::info!(?range, bytes, "a segment was rewritten with what is wanted of it");
                // Where that is nothing it goes as soon as it is the first.
                look.wanted_bytes = 0;
            }
            Thinned::Kept(bytes) => look.wanted_bytes = bytes,
            Thinned::Damaged => tracing::warn!(?range, "a segment is damaged: it stays"),
            // The next time.
            Thinned::Waits | Thinned::Unsure => return Ok(()),
        }
        memo.looked.insert(range.start, look);
        Ok(())
    }

    fn thin(
        &self,
        lines: &[Line],
        range: &Range<u64>,
        now: (u64, bool),
    ) -> Result<Thinned, KeepError> {
        let mut wanted = Wanted::of(&self.kept, (&self.config.retention, lines), range, now);
        let thinned = self.log.thin(
            range.start,
            RETAIN_PERCENT,
            &mut |record| wanted.wants(record),
            &mut || self.kept.core().groups.fence.lower(),
        );
        self.kept.core().groups.fence.lower();
        thinned
    }

    /// What each rule keeps now.
    fn lines(
        &self,
        memo: &mut Memo,
        segments: &[SegmentInfo],
        now_ms: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Line>, SnapshotError> {
        let rules = self.config.retention.iter();
        let time_ms = |rule: &Rule| rule.max_age_ms.map_or(0, |age| now_ms.saturating_sub(age));
        let mut lines: Vec<_> =
            rules.map(|rule| Line { time_ms: time_ms(rule), position: 0 }).collect();
        let mut left: Vec<Option<u64>> =
            self.config.retention.iter().map(|rule| rule.max_bytes).collect();
        // From the newest back, until each has its bytes.
        for segment in segments.iter().rev() {
            for (left, line) in left.iter_mut().zip(&mut lines) {
                if *left == Some(0) {
                    line.position = segment.range.end.get();
                    *left = None;
                }
            }
            if left.iter().all(Option::is_none) {
                break;
            }
            let bytes = self.count(memo, segment, stop)?;
            for (left, bytes) in left.iter_mut().zip(bytes) {
                *left = left.map(|left| left.saturating_sub(*bytes));
            }
        }
        Ok(lines)
    }

    /// Bytes of each rule's topics in a segment: read once.
    fn count<'m>(
        &self,
        memo: &'m mut Memo,
        segment: &SegmentInfo,
        stop: &dyn Fn() -> bool,
    ) -> Result<&'m [u64], SnapshotError> {
        let (start, end) = (segment.range.start.get(), segment.range.end.get());
        let known = memo.counted.get(&start).is_some_and(|(bytes, _)| *bytes == segment.bytes);
        if !known {
            let rules = &self.config.retention;
            let mut bytes = vec![0_u64; rules.len()];
            let (mut seen, mut rule) = (Vec::new(), None);
            each_record(&*self.log, (start, end), stop, &mut |record| {
                let event = matches!(record.kind, kind::EVENT | kind::BATCH | kind::BLOB);
                let Some((prefix, _)) = record::split(&record.head).ok().filter(|_| event) else {
                    return Ok(true);
                };
                if *prefix != *seen {
                    seen = prefix.to_vec();
                    rule = Names::parse(prefix).ok().and_then(|it| rule_of(rules, it.topic));
                }
                if let Some(bytes) = rule.and_then(|rule| bytes.get_mut(rule)) {
                    let more = record.head.len() + record.payload.len();
                    *bytes = bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
                }
                Ok(true)
            })?;
            memo.counted.insert(start, (segment.bytes, bytes));
        }
        Ok(memo.counted.get(&start).map_or(&[], |(_, bytes)| bytes))
    }
}

/// Is a segment worth to be read? It is beyond some rule's line, and it was not looked at since that is so, or so long
/// ago that what rested on it may not any more.
fn is_worth(look: Option<&Look>, passed: usize, (first, full): (bool, bool), now_ms: u64) -> bool {
    let again_ms = if full { RETAIN_FULL_AGAIN_MS } else { RETAIN_AGAIN_MS };
    passed > 0
        && look.is_none_or(|look| {
            passed > look.passed
                || (first && look.wanted_bytes == 0)
                || now_ms.saturating_sub(look.at_ms) >= again_ms
        })
}

/// The thread. Dropping it ends it; what it is at counts only if it is whole.
pub(crate) struct Retainer {
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Retainer {
    pub(crate) fn start(retention: Arc<Retention>) -> io::Result<Self> {
        let closed = Arc::<AtomicBool>::default();
        let shared = closed.clone();
        let builder = thread::Builder::new().name("retention".to_owned());
        let thread = Some(builder.spawn(move || keep(&retention, &shared))?);
        Ok(Self { closed, thread })
    }
}

impl Drop for Retainer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread of retention panicked");
            }
        }
    }
}

fn keep(retention: &Retention, closed: &AtomicBool) {
    let stop = || closed.load(Ordering::Acquire);
    let every_s = match retention.config.retention.is_empty() {
        true => SNAPSHOT_S,
        false => (retention.config.retention_every_ms / 1000).max(1),
    };
    let mut wait_s = SNAPSHOT_START_S.min(every_s);
    while !stop() {
        thread::park_timeout(Duration::from_secs(1));
        wait_s = wait_s.saturating_sub(1);
        if wait_s == 0 {
            wait_s = every_s;
            retention.tend(&stop);
        }
    }
}
