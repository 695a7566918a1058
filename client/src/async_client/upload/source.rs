//! Where an upload's bytes come from: a file, a reader, memory; hashed as they are first read.
//!
//! A file is read and hashed by blocks off the runtime. Invariant: every byte is hashed once, in order, however often it
//! is read; the hash is known when the last one was.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::spawn_blocking;

use super::super::Error;
use super::shown;

/// How much is read at once: two of the longest chunks.
pub(super) const BLOCK: u64 = 512 * 1024;

/// A block that was read, and the hash of the whole where it was the last.
#[derive(Debug)]
pub(in super::super) struct Read {
    pub(in super::super) bytes: Bytes,
    pub(in super::super) hash: Option<[u8; 32]>,
}

/// What was read so far, hashed.
#[derive(Clone, Default)]
struct Hashed {
    hasher: blake3::Hasher,
    through: u64,
}

impl Hashed {
    /// Bytes that were read at `at`: those not seen before are hashed.
    fn take(&mut self, at: u64, bytes: &[u8]) {
        let seen = usize::try_from(self.through.saturating_sub(at)).unwrap_or(usize::MAX);
        let new = bytes.get(seen..).unwrap_or_default();
        self.hasher.update(new);
        self.through += length(new);
    }

    fn whole(&self, size: u64) -> Option<[u8; 32]> {
        (self.through == size).then(|| *self.hasher.finalize().as_bytes())
    }
}

enum Origin {
    /// A file, opened when it is first needed.
    Path(Arc<PathBuf>, Option<Arc<File>>),
    /// A reader, and how much it has given.
    Reader(Box<dyn AsyncRead + Send + Unpin>, u64),
    Bytes(Bytes),
}

/// The bytes of an upload.
pub(super) struct Source {
    origin: Origin,
    hashed: Hashed,
    size: u64,
}

impl Source {
    fn of(origin: Origin) -> Self {
        Self { origin, hashed: Hashed::default(), size: 0 }
    }

    pub(super) fn path(path: PathBuf) -> Self {
        Self::of(Origin::Path(Arc::new(path), None))
    }

    pub(super) fn reader(reader: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self::of(Origin::Reader(reader, 0))
    }

    pub(super) fn bytes(bytes: Bytes) -> Self {
        Self::of(Origin::Bytes(bytes))
    }

    /// Opens the file: how long it is.
    pub(super) async fn open(&mut self) -> Result<u64, Error> {
        let Origin::Path(path, file) = &mut self.origin else { return Ok(self.size) };
        let name = Arc::clone(path);
        let opened = off_the_runtime(move || {
            let file = File::open(&*name)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            Ok((file, metadata.len()))
        });
        let (opened, size) = opened.await.map_err(|why| unreadable(path, &why))?;
        *file = Some(Arc::new(opened));
        Ok(size)
    }

    /// So many bytes are wanted of it.
    pub(super) const fn begin(&mut self, size: u64) {
        self.size = size;
    }

    /// The block that begins at `at`, read into `spare` where there is one: what is new for each block is cleared page by
    /// page before it is read into.
    pub(super) async fn read(&mut self, at: u64, spare: Option<BytesMut>) -> Result<Read, Error> {
        let wanted = self.size.saturating_sub(at).min(BLOCK);
        let bytes = match &mut self.origin {
            Origin::Path(path, Some(file)) => {
                let (file, mut hashed) = (Arc::clone(file), std::mem::take(&mut self.hashed));
                let read = off_the_runtime(move || {
                    let mut block = spare.unwrap_or_default();
                    block.resize(usize::try_from(wanted).unwrap_or(0), 0);
                    file.read_exact_at(&mut block, at)?;
                    hashed.take(at, &block);
                    Ok((block.freeze(), hashed))
                });
                let (block, hashed) = read.await.map_err(|why| unreadable(path, &why))?;
                self.hashed = hashed;
                block
            }
            Origin::Path(path, None) => {
                return Err(unreadable(path, &io::Error::other("not open")));
            }
            Origin::Reader(reader, given) => {
                let block = read_on(reader, given, (at, wanted), spare).await?;
                self.hashed.take(at, &block);
                block
            }
            Origin::Bytes(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let until = (from + usize::try_from(wanted).unwrap_or(0)).min(bytes.len());
                let block = bytes.slice(from..until);
                self.hashed.take(at, &block);
                block
            }
        };
        Ok(Read { bytes, hash: self.hashed.whole(self.size) })
    }

    /// The hash of the whole; what was not read yet is read for it.
    pub(super) async fn hash(&mut self) -> Result<[u8; 32], Error> {
        loop {
            if let Some(hash) = self.hashed.whole(self.size) {
                return Ok(hash);
            }
            self.read(self.hashed.through, None).await?;
        }
    }
}

async fn read_on(
    reader: &mut (dyn AsyncRead + Send + Unpin),
    given: &mut u64,
    (at, wanted): (u64, u64),
    spare: Option<BytesMut>,
) -> Result<Bytes, Error> {
    if at != *given {
        return Err(Error::File {
            path: "the reader".to_owned(),
            why: "the server has forgotten what it had stored, and it can't be read again"
                .to_owned(),
        });
    }
    let mut block = spare.unwrap_or_default();
    block.clear();
    block.reserve(usize::try_from(wanted).unwrap_or(0));
    reader.take(wanted).read_to_end_into(&mut block).await.map_err(|why| unread(&why))?;
    if length(&block) < wanted {
        return Err(unread(&io::ErrorKind::UnexpectedEof.into()));
    }
    *given += wanted;
    Ok(block.freeze())
}

/// Reading until there is no more, into a buffer that does not grow past what is wanted.
trait ReadToEndInto {
    async fn read_to_end_into(self, block: &mut BytesMut) -> io::Result<()>;
}

impl<R: AsyncRead + Unpin> ReadToEndInto for R {
    async fn read_to_end_into(mut self, block: &mut BytesMut) -> io::Result<()> {
        while self.read_buf(block).await? > 0 {}
        Ok(())
    }
}

async fn off_the_runtime<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(act).await.unwrap_or_else(|broken| Err(io::Error::other(broken)))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn unread(why: &io::Error) -> Error {
    Error::File { path: "the reader".to_owned(), why: words(why) }
}

fn unreadable(path: &Path, why: &io::Error) -> Error {
    Error::File { path: shown(path), why: words(why) }
}

fn words(why: &io::Error) -> String {
    if why.kind() == io::ErrorKind::UnexpectedEof {
        return "it is shorter than it was when it was opened, or than was said".to_owned();
    }
    why.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(mut source: Source, bytes: &[u8]) {
        let size = source.open().await.unwrap().max(length(bytes));
        source.begin(size);
        // What is read into may hold anything of before, and be of any length.
        let (mut at, mut spare) = (0, Some(BytesMut::from(&[9; 700_000][..])));
        while at < size {
            let read = source.read(at, spare.take()).await.unwrap();
            let from = usize::try_from(at).unwrap();
            assert_eq!(read.bytes, bytes[from..from + read.bytes.len()]);
            at += length(&read.bytes);
            assert_eq!(read.hash.is_some(), at == size);
            spare = read.bytes.try_into_mut().ok();
        }
        assert_eq!(source.hash().await.unwrap(), *blake3::hash(bytes).as_bytes());
    }

    #[tokio::test]
    async fn all_origins_give_the_same_bytes_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            std::fs::write(&path, &bytes).unwrap();
            check(Source::path(path.clone()), &bytes).await;
            check(Source::bytes(Bytes::from(bytes.clone())), &bytes).await;
            let reader = std::io::Cursor::new(bytes.clone());
            check(Source::reader(Box::new(reader)), &bytes).await;
        }
    }

    #[tokio::test]
    async fn what_is_read_again_is_not_hashed_again() {
        let bytes = vec![7; usize::try_from(2 * BLOCK + 9).unwrap()];
        let mut source = Source::bytes(Bytes::from(bytes.clone()));
        source.begin(length(&bytes));
        for at in [0, BLOCK, 0, 5, BLOCK, 2 * BLOCK] {
            source.read(at, None).await.unwrap();
        }
        assert_eq!(source.hash().await.unwrap(), *blake3::hash(&bytes).as_bytes());
    }

    #[tokio::test]
    async fn a_source_that_ends_early_is_told() {
        let mut source = Source::reader(Box::new(std::io::Cursor::new(b"123".to_vec())));
        source.begin(4);
        let told = source.read(0, None).await.unwrap_err().to_string();
        assert!(told.contains("shorter"), "{told}");
        let mut source = Source::reader(Box::new(std::io::Cursor::new(vec![1; 1 << 20])));
        source.begin(1 << 20);
        source.read(0, None).await.unwrap();
        let told = source.read(0, None).await.unwrap_err().to_string();
        assert!(told.contains("forgotten"), "{told}");
    }
}
