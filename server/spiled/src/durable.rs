//! Files and folders that are there after a crash: written aside, synced, renamed, and the folder synced.
//!
//! Invariant: a file that exists under its name is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Readable by its owner only: private keys.
pub const SECRET: u32 = 0o600;
/// Readable by all: certificates, configuration.
pub const PLAIN: u32 = 0o644;

/// What could not be made to last.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {why}; {remedy}", path = path.display(), remedy = remedy(why))]
pub struct NotDurable {
    doing: &'static str,
    path: PathBuf,
    /// The system's reason.
    pub why: io::Error,
}

fn remedy(why: &io::Error) -> &'static str {
    if why.kind() == io::ErrorKind::StorageFull {
        return "free space on that disk or name another folder";
    }
    "make it writable for this user or name another folder"
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NotDurable {
    let path = path.to_owned();
    move |why| NotDurable { doing, path, why }
}

/// Writes a whole file so that it is there, whole, after a crash, or not at all.
///
/// # Errors
/// Which step failed, on which path.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), NotDurable> {
    let aside = aside(path);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&aside).map_err(failed("create", &aside))?;
    // A left-over from a crash keeps its old mode when it is opened again.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("protect", &aside))?;
    file.write_all(bytes).map_err(failed("write", &aside))?;
    file.sync_all().map_err(failed("sync", &aside))?;
    fs::rename(&aside, path).map_err(failed("rename", path))?;
    sync_folder(parent(path))
}

/// Reads a whole file; `None` where there is none.
///
/// # Errors
/// It is there and can't be read.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

/// Makes a folder and what is missing above it, readable by its owner only, each synced into its parent.
///
/// # Errors
/// Which step failed, on which path.
pub fn make_folder(path: &Path) -> Result<(), NotDurable> {
    if path.is_dir() {
        return Ok(());
    }
    make_folder(parent(path))?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(failed("create", path))?,
    }
    sync_folder(parent(path))
}

fn sync_folder(path: &Path) -> Result<(), NotDurable> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("sync", path))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new(if path.has_root() { "/" } else { "." }),
    }
}

/// The name a file has while it is written.
fn aside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaces_the_one_before_and_leaves_nothing_aside() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("a/b/key.pem");
        make_folder(parent(&path)).unwrap();
        fs::write(aside(&path), "left by a crash, and longer than what comes").unwrap();
        write(&path, b"one", PLAIN).unwrap();
        write(&path, b"two", SECRET).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SECRET);
        assert_eq!(fs::read_dir(parent(&path)).unwrap().count(), 1);
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_an_error_that_names_it() {
        let folder = tempfile::TempDir::new().unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        let error = make_folder(&folder.path().join("a/b")).unwrap_err().to_string();
        assert!(error.contains("create") && error.contains("/a"), "{error}");
    }
}
