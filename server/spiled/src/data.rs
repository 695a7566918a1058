//! The data folder: one process at a time, and only one that knows its format.
//!
//! Here: the lock, the format's number, and what to say when either is wrong. Not here: what the log, the certificates
//! or the views keep inside. Invariant: while a [`DataFolder`] lives, no other process has one of the same folder.

pub mod tenure;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::durable::{self, NotDurable};

/// The number of the folder's format that this version writes and reads.
pub const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "format";
const FORMAT_WORD: &str = "spile-data";
const LOCK_FILE: &str = "lock";

/// A data folder that this process has for itself.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Held for its lock, which ends with the process whatever its end is.
    lock: File,
}

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process has it.
    #[error("data: lock {path}: process {holder} has it; end that process or name another folder with --data", path = path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who has it, as it wrote itself.
        holder: String,
    },
    /// A newer version made it.
    #[error("data: open {path}: its format is {found} and this spiled knows up to {FORMAT}; start the newer spiled", path = path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its format file says something else.
    #[error("data: open {path}: its file {FORMAT_FILE} is not ours; restore it from a backup or name another folder with --data", path = path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
    },
    /// It holds something that is not ours.
    #[error("data: open {path}: not empty and no spile data folder ({found} is in it); name an empty or new folder with --data", path = path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// One thing in it.
        found: String,
    },
    /// There is none.
    #[error("data: open {path}: no spile data folder there; name one that is", path = path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// It can't be read or written.
    #[error("data: {doing} {path}: {why}; make it readable and writable for this user, or name another folder with --data", path = path.display())]
    NotWritable {
        /// What was tried.
        doing: &'static str,
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
    /// A file in it could not be made to last.
    #[error("data: {0}")]
    NotDurable(#[from] NotDurable),
}

impl DataFolder {
    /// Opens a folder, making it when it is missing and finishing it when a crash left it half made.
    ///
    /// # Errors
    /// See [`DataError`]; nothing is changed in a folder that is not ours.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        durable::make_folder(path)?;
        let format = read_format(path)?;
        if format.is_none() {
            refuse_foreign(path)?;
        }
        let lock = take_lock(path)?;
        if format.is_none() {
            let line = format!("{FORMAT_WORD} {FORMAT}\n");
            durable::write(&path.join(FORMAT_FILE), line.as_bytes(), durable::PLAIN)?;
        }
        let path = fs::canonicalize(path).map_err(not_writable("find", path))?;
        Ok(Self { path, lock })
    }

    /// Takes a folder that is there for an offline tool. Nothing in it is changed; one without a lock file, such as a
    /// backup, is taken as it is.
    ///
    /// # Errors
    /// See [`DataError`]; a folder that is not there is [`DataError::Missing`].
    pub fn open_offline(path: &Path) -> Result<Self, DataError> {
        let missing = || DataError::Missing { path: path.to_owned() };
        if read_format(path)?.is_none() {
            return Err(missing());
        }
        let lock = match File::open(path.join(LOCK_FILE)) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                File::open(path).map_err(not_writable("open", path))?
            }
            Err(why) => return Err(not_writable("lock", path)(why)),
        };
        let lock = hold(lock, path)?;
        let path = fs::canonicalize(path).map_err(not_writable("find", path))?;
        Ok(Self { path, lock })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataFolder {
    /// Frees it at once: a child that another thread is starting has the descriptor too, until it runs its own program.
    fn drop(&mut self) {
        self.lock.unlock().unwrap_or_default();
    }
}

fn not_writable(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |why| DataError::NotWritable { doing, path, why }
}

fn read_format(path: &Path) -> Result<Option<u32>, DataError> {
    let text = match fs::read(path.join(FORMAT_FILE)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(not_writable("read the format of", path)(why)),
    };
    let number = text.trim_end().strip_prefix(FORMAT_WORD).map(str::trim_start);
    match number.and_then(|number| number.parse::<u32>().ok()) {
        Some(found) if found > FORMAT => Err(DataError::Newer { path: path.to_owned(), found }),
        Some(found) if found > 0 => Ok(Some(found)),
        Some(_) | None => Err(DataError::Unreadable { path: path.to_owned() }),
    }
}

/// A folder without our format file must be empty, but for what a crash of the first start leaves.
fn refuse_foreign(path: &Path) -> Result<(), DataError> {
    let entries = fs::read_dir(path).map_err(not_writable("list", path))?;
    for entry in entries {
        let name = entry.map_err(not_writable("list", path))?.file_name();
        let ours = [LOCK_FILE, ".format.tmp"].iter().any(|ours| name == *ours);
        if !ours {
            let found = name.to_string_lossy().into_owned();
            return Err(DataError::NotOurs { path: path.to_owned(), found });
        }
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<File, DataError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(durable::PLAIN);
    let file = options.open(path.join(LOCK_FILE)).map_err(not_writable("lock", path))?;
    let mut file = hold(file, path)?;
    note_holder(&mut file).map_err(not_writable("lock", path))?;
    Ok(file)
}

fn hold(mut file: File, path: &Path) -> Result<File, DataError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(DataError::Locked { path: path.to_owned(), holder: holder(&mut file) })
        }
        Err(TryLockError::Error(why)) => Err(not_writable("lock", path)(why)),
    }
}

/// Who has the lock is a courtesy to people; nothing depends on it.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(16).read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => text.trim().to_owned(),
        Ok(_) | Err(_) => "another".to_owned(),
    }
}

fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn message(path: &Path) -> String {
        DataFolder::open(path).unwrap_err().to_string()
    }

    #[test]
    fn a_new_folder_is_made_and_opens_again() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a/b");
        drop(DataFolder::open(&path).unwrap());
        assert_eq!(fs::read_to_string(path.join(FORMAT_FILE)).unwrap(), "spile-data 1\n");
        assert!(DataFolder::open(&path).unwrap().path().is_absolute());
    }

    #[test]
    fn a_second_opener_hears_who_has_it() {
        let folder = TempDir::new().unwrap();
        let first = DataFolder::open(folder.path()).unwrap();
        let holder = std::process::id().to_string();
        assert!(message(folder.path()).contains(&format!("process {holder} has it")));
        drop(first);
        DataFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn an_offline_tool_changes_nothing_and_waits_for_nobody() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data");
        let offline = |path: &Path| DataFolder::open_offline(path).unwrap_err().to_string();
        assert!(offline(&path).contains("no spile data folder there"));
        assert!(!path.exists());
        let server = DataFolder::open(&path).unwrap();
        assert!(offline(&path).contains("has it"));
        drop(server);
        let lock = fs::read(path.join(LOCK_FILE)).unwrap();
        let tool = DataFolder::open_offline(&path).unwrap();
        assert!(message(&path).contains("has it"));
        drop(tool);
        assert_eq!(fs::read(path.join(LOCK_FILE)).unwrap(), lock);
        fs::remove_file(path.join(LOCK_FILE)).unwrap();
        drop(DataFolder::open_offline(&path).unwrap());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_of_the_first_start_leaves_is_finished() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(LOCK_FILE), "123\n").unwrap();
        fs::write(folder.path().join(".format.tmp"), "spile-da").unwrap();
        DataFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_ours_is_left_alone() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("thesis.odt"), "").unwrap();
        assert!(message(folder.path()).contains("thesis.odt is in it"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn formats_from_elsewhere_are_refused() {
        let folder = TempDir::new().unwrap();
        for (text, expected) in [
            ("spile-data 2\n", "its format is 2 and this spiled knows up to 1"),
            ("spile-data 0\n", "is not ours"),
            ("spile-data", "is not ours"),
            ("", "is not ours"),
            ("postgres 16", "is not ours"),
        ] {
            fs::write(folder.path().join(FORMAT_FILE), text).unwrap();
            let message = message(folder.path());
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
