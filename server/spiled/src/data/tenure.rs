//! Whose folder this is: the worker that keeps its log here, and which slots it has.
//!
//! Keys are laid out by slots and positions begin with the worker's name. A folder under another name or with other slots
//! would answer for keys it never had and deny those it has, so that start is refused. Invariant: what was recorded once
//! is never changed by a start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::SlotSet;
use crate::durable::{self, NotDurable};

const FILE: &str = "worker";

/// Why a folder is not this worker's.
#[derive(Debug, thiserror::Error)]
pub enum TenureError {
    /// It is another's.
    #[error("data: {path} is worker {name}'s with slots {slots}, and the configuration says worker {wanted} with slots {wanted_slots}; moving slots is not offered: correct the configuration, or name that worker's folder", path = path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        name: String,
        /// With which slots.
        slots: String,
        /// Who wants it.
        wanted: String,
        /// With which slots.
        wanted_slots: String,
    },
    /// The record says something else.
    #[error("data: {path} can't be read as a worker's name and slots; restore it from a backup", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// The record can't be read.
    #[error("data: read {path}: {why}; make it readable for this user", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
    /// The record could not be made to last.
    #[error("data: {0}")]
    NotDurable(#[from] NotDurable),
}

/// Records whose folder it is, or holds what was recorded against who wants it now.
///
/// # Errors
/// It is another's, or nobody can tell.
pub fn claim(folder: &Path, name: &str, slots: &SlotSet) -> Result<(), TenureError> {
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let text = format!("{name} {slots}\n");
            return Ok(durable::write(&path, text.as_bytes(), durable::PLAIN)?);
        }
        Err(why) if why.kind() == io::ErrorKind::InvalidData => {
            return Err(TenureError::Unreadable { path });
        }
        Err(why) => return Err(TenureError::Read { path, why }),
    };
    let (owner, owned) = text
        .trim_end()
        .split_once(' ')
        .and_then(|(owner, owned)| Some((owner, SlotSet::parse(owned).ok()?)))
        .ok_or(TenureError::Unreadable { path })?;
    if owner == name && owned == *slots {
        return Ok(());
    }
    Err(TenureError::Other {
        path: folder.to_owned(),
        name: owner.to_owned(),
        slots: owned.to_string(),
        wanted: name.to_owned(),
        wanted_slots: slots.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn slots(text: &str) -> SlotSet {
        SlotSet::parse(text).unwrap()
    }

    #[test]
    fn a_folder_is_its_first_workers_for_good() {
        let folder = TempDir::new().unwrap();
        let claim = |name, text| claim(folder.path(), name, &slots(text));
        claim("a", "0-127").unwrap();
        claim("a", "0-63,64-127").unwrap();
        for (name, text) in [("b", "0-127"), ("a", "0-126"), ("a", "0-128")] {
            let why = claim(name, text).unwrap_err().to_string();
            let said =
                format!("is worker a's with slots 0-127, and the configuration says worker {name}");
            assert!(why.contains(&said), "{why}");
        }
        claim("a", "0-127").unwrap();
    }

    #[test]
    fn a_record_that_is_none_stops_the_start() {
        let folder = TempDir::new().unwrap();
        for bytes in [&b""[..], b"a", b"a 0-256", b"a 5-1", b"\xff\xff"] {
            fs::write(folder.path().join(FILE), bytes).unwrap();
            let why = claim(folder.path(), "a", &SlotSet::ALL).unwrap_err();
            assert!(matches!(why, TenureError::Unreadable { .. }), "{why}");
            assert_eq!(fs::read(folder.path().join(FILE)).unwrap(), bytes);
        }
    }
}
