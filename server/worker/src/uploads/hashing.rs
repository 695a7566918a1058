//! Hashes what of an upload is on disk and was not hashed as it came: after a restart, or where another session goes on.
//! On a thread of its own, since it reads a file from its beginning.
//!
//! The invariant: a job that ends rings its session's bell, whatever came of it.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    bell::Bell,
    clock::Clock,
    keeper::Kept,
    limits::{READ_BYTES, TEND_MS},
    uploads::{
        free,
        work::{Hash, Part},
    },
};

/// An upload to be hashed up to what is durable.
#[derive(Debug)]
pub(crate) struct Job {
    /// The position of its first UPLOAD.
    pub(crate) upload: u64,
    pub(crate) hash: Hash,
    pub(crate) bell: Arc<Bell>,
}

/// What is to be done: at most one job an opening.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    queue: Mutex<VecDeque<Job>>,
    wake: Condvar,
    closed: AtomicBool,
}

impl Jobs {
    pub(crate) fn ask(&self, job: Job) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
        self.wake.notify_one();
    }

    pub(crate) fn next(&self) -> Option<Job> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The next job; `None` after a while without any.
    fn wait(&self) -> Option<Job> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |queue: &mut VecDeque<Job>| queue.is_empty() && !self.is_closed();
        let waited = self.wake.wait_timeout_while(queue, Duration::from_millis(TEND_MS), idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }
}

/// Does a job.
pub(crate) fn run(kept: &Kept, jobs: &Jobs, job: &Job) {
    if read_on(kept, jobs, job).is_none() {
        job.hash.lock().broken = true;
    }
    job.hash.lock().asked = false;
    job.bell.ring();
}

/// `None` where the log can't be read.
fn read_on(kept: &Kept, jobs: &Jobs, job: &Job) -> Option<()> {
    let (log, Part { offset, stream, last }) = {
        let mut core = kept.core();
        let Some(upload) = core.uploads.upload(job.upload) else { return Some(()) };
        let stored = upload.work.stored;
        (core.uploads.chunks.as_ref()?.log.clone(), stored)
    };
    let from = job.hash.lock().upto();
    if from >= offset || stream == 0 {
        return Some(());
    }
    let mut reader = log.read_stream(stream, last, from.saturating_add(1));
    let mut records = VecDeque::new();
    while reader.next(READ_BYTES, &mut records).ok()? {
        if jobs.is_closed() {
            return Some(());
        }
        for record in records.drain(..) {
            let length = u64::try_from(record.payload.len()).ok()?;
            job.hash.lock().take(record.version.checked_sub(length)?, &record.payload);
        }
    }
    let upto = job.hash.lock().upto();
    (upto >= offset).then_some(())
}

/// The thread: it hashes, and now and then gives back space. Dropping it ends it.
pub(crate) struct Tender {
    jobs: Arc<Jobs>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Tender {
    pub(crate) fn start(kept: Arc<Kept>, jobs: Arc<Jobs>, idle_ms: u64) -> io::Result<Self> {
        let shared = jobs.clone();
        let builder = thread::Builder::new().name("uploads".to_owned());
        let thread = Some(builder.spawn(move || tend(&kept, &shared, idle_ms))?);
        Ok(Self { jobs, thread })
    }
}

impl Drop for Tender {
    fn drop(&mut self) {
        self.jobs.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that tends uploads panicked");
        }
    }
}

fn tend(kept: &Kept, jobs: &Jobs, idle_ms: u64) {
    while !jobs.is_closed() {
        match jobs.wait() {
            Some(job) => run(kept, jobs, &job),
            None if jobs.is_closed() => return,
            None => {
                free::expire(kept, Clock::wall(), idle_ms);
                free::tend(kept, &|| jobs.is_closed());
            }
        }
    }
}
