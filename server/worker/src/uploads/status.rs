//! How uploads go at a worker: what `$status` and the metrics tell of files. admin §2.1
//!
//! Told as it is at the moment it is asked; nothing rests on it.

use serde::Serialize;

use super::{Counted, Uploads};

/// What a worker has of files, and how its chunk log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilesStatus {
    /// Uploads under way.
    pub open_uploads: usize,
    /// Sealed uploads.
    pub blobs: usize,
    /// Commits of the chunk log, each one write and one sync, since the start.
    pub chunk_commits: u64,
    /// Segments of the chunk log.
    pub chunk_segments: usize,
    /// Bytes in them.
    pub chunk_log_bytes: u64,
    /// Bytes of chunks that wait for the disk.
    pub chunk_waiting_bytes: usize,
    /// Uploads that were forgotten since their client or an operator said so, since the start.
    #[serde(skip)]
    pub aborted: u64,
    /// Those that nobody went on with for too long.
    #[serde(skip)]
    pub expired: u64,
    /// What the chunk log knows to be wrong with itself.
    #[serde(skip)]
    pub(crate) wrong: Vec<String>,
}

impl Uploads {
    pub(crate) fn status(&self) -> FilesStatus {
        let (open_uploads, blobs) = (self.view.open.len(), self.view.blobs.len());
        let Counted { aborted, expired } = self.counted;
        let none = FilesStatus { open_uploads, blobs, aborted, expired, ..FilesStatus::default() };
        let Some(chunks) = &self.chunks else { return none };
        let health = chunks.log.health();
        let mut wrong: Vec<String> = health.poisoned.into_iter().chain(health.full).collect();
        let damaged = health.damages.iter().filter(|damage| !damage.accepted);
        wrong.extend(damaged.map(|damage| {
            format!("{}: chunks {} up to {} are damaged", damage.file, damage.from, damage.to)
        }));
        FilesStatus {
            chunk_commits: health.commits,
            chunk_segments: health.segments,
            chunk_log_bytes: health.segment_bytes,
            chunk_waiting_bytes: health.waiting_bytes,
            wrong,
            ..none
        }
    }
}
