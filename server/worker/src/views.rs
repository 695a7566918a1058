//! Where checkpoints of the views are kept, and the embedded store that keeps them. Nothing above knows which store it is,
//! and nothing but this file knows sled.
//!
//! A checkpoint is a shortcut: without one, or with one that can't be read, the views are made from the log alone.

use std::{
    fs::{File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::checkpoint::{BadRow, Changes, Row};

/// Why a checkpoint can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewsError {
    /// The store failed.
    #[error("the views in {folder} can't be used: {why}; they are made anew from the log")]
    Store {
        /// Where.
        folder: PathBuf,
        /// What the store said.
        why: String,
    },
    /// A row is not one.
    #[error("a row of the views is damaged; they are made anew from the log")]
    Row,
    /// The folder can't be set aside.
    #[error(
        "the views in {folder} can't be set aside: {source}; remove the folder and start again"
    )]
    Aside {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<BadRow> for ViewsError {
    fn from(_: BadRow) -> Self {
        Self::Row
    }
}

/// Keeps rows between starts.
pub trait Views: Send {
    /// Gives every row to `each`, in the order of keys, and says up to which position they hold; 0 where there are none.
    fn load(&self, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<u64, ViewsError>;
    /// Writes a checkpoint: all of it or nothing. `removed` are prefixes of keys, taken out before `rows` are put in.
    fn store(
        &mut self,
        removed: &[Vec<u8>],
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        applied: u64,
    ) -> Result<(), ViewsError>;
}

pub(crate) fn store(views: &mut dyn Views, changes: Changes) -> Result<(), ViewsError> {
    let Changes { removed, rows, applied } = changes;
    views.store(&removed, rows, applied)
}

/// The key that says up to which position the rows hold, and in which form they are. It sorts before all rows.
const APPLIED: &[u8] = b"\0applied";
/// The form this build writes.
const FORM: u8 = 2;

/// Views in a folder, in sled.
pub struct SledViews {
    folder: PathBuf,
    db: sled::Db,
}

impl std::fmt::Debug for SledViews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledViews").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Calls the store, which may fail or panic where its files are damaged.
fn guarded<T>(
    folder: &Path,
    call: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, ViewsError> {
    let store = |why| ViewsError::Store { folder: folder.to_owned(), why };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(store(error.to_string())),
        Err(_) => Err(store("it panicked".to_owned())),
    }
}

/// How often a start looks whether the store that was open before has let go of its file, and how many times: 10 s in all.
const LET_GO: (Duration, u32) = (Duration::from_millis(5), 2000);

/// Waits until nothing holds the store's file. Threads of sled's own may keep it for a moment after the last handle was
/// dropped, and an open that fails for it would cost the checkpoint. No other process has the data folder.
fn wait_until_let_go(folder: &Path) {
    let Ok(file) = File::open(folder.join("db")) else { return };
    let (pause, times) = LET_GO;
    for _ in 0..times {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            // What else is wrong with it, sled's own open says.
            Ok(()) | Err(TryLockError::Error(_)) => return,
        }
    }
}

impl SledViews {
    /// Opens the folder, or makes it.
    pub fn open(folder: &Path) -> Result<Self, ViewsError> {
        wait_until_let_go(folder);
        let config = sled::Config::new()
            .path(folder)
            // A checkpoint flushes when it is whole; nothing in between is worth a sync.
            .flush_every_ms(None)
            .cache_capacity(16 << 20)
            .mode(sled::Mode::LowSpace);
        let db = guarded(folder, || config.open())?;
        Ok(Self { folder: folder.to_owned(), db })
    }

    /// Renames a folder that can't be used, over the one that was set aside before, if any.
    pub fn set_aside(folder: &Path) -> Result<(), ViewsError> {
        let failed = |source| ViewsError::Aside { folder: folder.to_owned(), source };
        if !folder.exists() {
            return Ok(());
        }
        let aside = folder.with_extension("aside");
        if aside.exists() {
            let remove =
                if aside.is_dir() { std::fs::remove_dir_all } else { std::fs::remove_file };
            remove(&aside).map_err(failed)?;
        }
        std::fs::rename(folder, &aside).map_err(failed)
    }
}

impl Views for SledViews {
    fn load(&self, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<u64, ViewsError> {
        let applied = guarded(&self.folder, || self.db.get(APPLIED))?;
        let Some(applied) = applied else { return Ok(0) };
        let applied = match applied.split_first_chunk::<8>() {
            Some((applied, [FORM])) => u64::from_le_bytes(*applied),
            Some(_) | None => return Err(ViewsError::Row),
        };
        let good = guarded(&self.folder, || {
            for row in self.db.iter() {
                let (key, value) = row?;
                if *key != *APPLIED && !each(&key, &value) {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        if good { Ok(applied) } else { Err(ViewsError::Row) }
    }

    fn store(
        &mut self,
        removed: &[Vec<u8>],
        rows: Vec<Row>,
        applied: u64,
    ) -> Result<(), ViewsError> {
        guarded(&self.folder, || {
            let mut batch = sled::Batch::default();
            for prefix in removed {
                for key in self.db.scan_prefix(prefix).keys() {
                    batch.remove(key?);
                }
            }
            for (key, value) in rows {
                batch.insert(key, value);
            }
            let mut form = applied.to_le_bytes().to_vec();
            form.push(FORM);
            batch.insert(APPLIED, form);
            self.db.apply_batch(batch)?;
            self.db.flush().map(drop)
        })
    }
}
