//! Uploads, as callers see them: from a path, a reader or bytes, whatever connections come and go. spec §7.
//!
//! The caller's own future reads and hashes ([`source`]); what is read waits in [`sending`] for the one task of the
//! connection, which cuts chunks of it as the link and the credit allow ([`pace`]). No task and no channel a chunk.
//! Invariant: nothing before the offset the server has stored is ever sent again.

pub(super) mod pace;
pub(super) mod sending;
pub(super) mod source;

use std::fmt;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use spile_protocol::code::Code;
use tokio::io::AsyncRead;

use super::Error;
use super::client::Handle;
use super::clock::random;
use super::error::Refusal;
use sending::{Ended, Next, Sealed, Told, What};
use source::Source;

/// What is to be uploaded, and how it is called.
#[must_use = "nothing is sent before it is given to Client::upload"]
pub struct Upload {
    source: Source,
    size: Option<u64>,
    id: Option<[u8; 16]>,
    key: Option<String>,
    name: String,
    content_type: String,
    meta: Vec<(String, String)>,
    progress: Option<Callback>,
}

/// Who is told how far an upload is.
type Callback = Box<dyn FnMut(Progress) + Send>;

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the whole.
    pub size: u64,
    /// Bytes of it that are on the server's disk.
    pub stored: u64,
    /// Bytes that were sent, counting what had to be sent again.
    pub sent: u64,
    /// How much was stored already when it began here; `None` until the server has said so.
    pub resumed_at: Option<u64>,
    /// Why it does not go on now, though it will be tried again.
    pub waits: Option<Refusal>,
}

/// A sealed upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its id.
    pub blob: String,
    /// Under which key it is kept.
    pub key: Arc<str>,
    /// Its name.
    pub name: String,
    /// Its revision under key and name.
    pub revision: u64,
    /// Bytes of the whole.
    pub size: u64,
    /// BLAKE3 of the whole, as it was read here; what the server keeps has the same.
    pub blake3: [u8; 32],
    /// Bytes that were sent, counting what had to be sent again.
    pub sent: u64,
    /// How much was stored already when it began here; all of it where it was sealed before.
    pub resumed_at: u64,
}

impl Upload {
    fn of(source: Source, size: Option<u64>, name: String) -> Self {
        let (id, key, progress) = (None, None, None);
        let (content_type, meta) = (String::new(), Vec::new());
        Self { source, size, id, key, name, content_type, meta, progress }
    }

    /// A file, under its own name. What is appended to it behind the length it has when it is opened is left out.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Self::of(Source::path(path), None, name.unwrap_or_default())
    }

    /// So many bytes of a reader. They can't be read twice: where the server has forgotten what it had stored, the upload
    /// fails.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static, size: u64) -> Self {
        Self::of(Source::reader(Box::new(reader)), Some(size), String::new())
    }

    /// Bytes that are in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self::of(Source::bytes(bytes), Some(size), String::new())
    }

    /// Its id: with the same id it goes on where it was left, also in another process. Random where none is given.
    pub const fn id(mut self, id: [u8; 16]) -> Self {
        self.id = Some(id);
        self
    }

    /// Under which key it is kept; without one, under our own name.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Its name; revisions count under key and name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What it is, as `image/jpeg`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// One more thing about it.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.push((name.into(), value.into()));
        self
    }

    /// Is called whenever more of it is stored, or when it has to wait.
    pub fn progress(mut self, progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("name", &self.name)
            .field("key", &self.key)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Leaves the upload when nobody waits for it any more: the server keeps what it has.
struct Waiting<'a> {
    handle: &'a Arc<Handle>,
    number: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.handle.shared.with(|state| state.leave_upload(number));
    }
}

impl<'a> Waiting<'a> {
    /// Takes a place among the uploads of the session.
    async fn begin(handle: &'a Arc<Handle>, what: What, aborts: bool) -> Result<Self, Error> {
        let mut what = Some(what);
        let place = poll_fn(|cx| {
            handle.shared.with(|state| state.poll_upload_place(&mut what, aborts, cx))
        });
        let number = place.await?;
        Ok(Self { handle, number })
    }

    async fn next(&self) -> Next {
        let number = self.number;
        poll_fn(|cx| self.handle.shared.with(|state| state.poll_upload(number, cx))).await
    }
}

/// Sends all of it and waits until it is sealed.
pub(super) async fn run(handle: &Arc<Handle>, upload: Upload) -> Result<Blob, Error> {
    let Upload { mut source, size, id, key, name, content_type, meta, mut progress } = upload;
    let size = match size {
        Some(size) => size,
        None => source.open().await?,
    };
    source.begin(size);
    let id = id.map_or_else(random, Ok)?;
    let what = What { id, size, key, name, content_type, meta };
    let waiting = Waiting::begin(handle, what, false).await?;
    let number = waiting.number;
    let (ended, told) = loop {
        match waiting.next().await {
            Next::Read { at, spare } => {
                let read = source.read(at, spare).await?;
                handle.shared.with(|state| state.offer(number, at, read));
            }
            Next::Told(told) => {
                if let Some(progress) = &mut progress {
                    progress(told.progress(size));
                }
            }
            Next::Over(outcome, told) => break (outcome?, told),
        }
    };
    let Ended::Sealed(sealed) = ended else {
        return Err(Refusal::of(Code::NOT_FOUND).detail("it was forgotten").into());
    };
    if let Some(progress) = &mut progress {
        progress(told.clone().progress(size));
    }
    // Sealed before: what we have is read to the end for its hash.
    let blake3 = source.hash().await?;
    let what = handle.shared.with(|state| state.take_upload(number));
    let (key, name) = what.map(|what| (what.key, what.name)).unwrap_or_default();
    let key = key.map_or_else(|| handle.shared.principal(), Arc::from);
    Ok(blob(sealed, &told, (key, name), (size, blake3)))
}

/// Opens it where it was left and has the server forget it.
pub(super) async fn abort(handle: &Arc<Handle>, upload: Upload) -> Result<(), Error> {
    let Upload { mut source, size, id, key, name, content_type, meta, progress: _ } = upload;
    let Some(id) = id else {
        return Err(Error::setup("id", "none is given".to_owned(), "say which upload: Upload::id"));
    };
    let size = match size {
        Some(size) => size,
        None => source.open().await?,
    };
    let what = What { id, size, key, name, content_type, meta };
    let waiting = Waiting::begin(handle, what, true).await?;
    loop {
        match waiting.next().await {
            // Nothing is read of it.
            Next::Read { .. } | Next::Told(_) => {}
            Next::Over(ended, _) => {
                return match ended? {
                    Ended::Aborted => Ok(()),
                    Ended::Sealed(_) => {
                        let why = "it is sealed already; remove the blob";
                        Err(Refusal::of(Code::CONFLICT).detail(why).into())
                    }
                };
            }
        }
    }
}

fn blob(
    sealed: Sealed,
    told: &Told,
    (key, name): (Arc<str>, String),
    (size, blake3): (u64, [u8; 32]),
) -> Blob {
    let Sealed { blob, revision } = sealed;
    let (sent, resumed_at) = (told.sent, told.resumed_at.unwrap_or_default());
    Blob { blob, key, name, revision, size, blake3, sent, resumed_at }
}

/// The name of a file, for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
