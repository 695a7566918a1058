//! Which upload a file is: the same command for the same file has the same id, so that it goes on where it was.
//!
//! A file that changed in length or time is another one; one that changed in neither is found out by its hash when it is
//! sealed. Stdin is known by its contents.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What tells one file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    File { path: PathBuf, size: u64, modified_ns: u128 },
    Contents { size: u64, blake3: [u8; 32] },
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file; pipe it into `spile upload -`"));
        }
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (path, size) = (std::fs::canonicalize(path)?, metadata.len());
        Ok(Self::File { path, size, modified_ns: modified.as_nanos() })
    }

    /// Reads all there is and keeps it.
    pub(super) fn spool(from: &mut impl Read, to: &mut impl Write) -> io::Result<Self> {
        let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
        let mut block = vec![0; 256 * 1024];
        loop {
            let count = match from.read(&mut block) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let Some(read) = block.get(..count).filter(|read| !read.is_empty()) else { break };
            hasher.update(read);
            to.write_all(read)?;
            size += u64::try_from(count).unwrap_or(0);
        }
        to.flush()?;
        Ok(Self::Contents { size, blake3: *hasher.finalize().as_bytes() })
    }

    pub(super) const fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Contents { size, .. } => *size,
        }
    }

    /// The upload's id for who sends it, under that key and name.
    pub(super) fn id(
        &self,
        tenant: &str,
        principal: &str,
        key: Option<&str>,
        name: &str,
    ) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_derive_key("spile upload 2026-11 id of a file");
        let mut say = |part: &[u8]| {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part);
        };
        for part in [tenant, principal, key.unwrap_or(principal), name] {
            say(part.as_bytes());
        }
        match self {
            Self::File { path, size, modified_ns } => {
                say(path.as_os_str().as_encoded_bytes());
                say(&size.to_le_bytes());
                say(&modified_ns.to_le_bytes());
            }
            Self::Contents { size, blake3 } => {
                say(&size.to_le_bytes());
                say(blake3);
            }
        }
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(identity: &Identity) -> [u8; 16] {
        identity.id("main", "tester", None, "n")
    }

    #[test]
    fn the_same_file_has_the_same_id_and_a_changed_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let first = Identity::of(&path).unwrap();
        assert_eq!(id(&first), id(&Identity::of(&folder.path().join("./a")).unwrap()));
        assert_eq!(first.id("main", "tester", Some("tester"), "n"), id(&first), "our own key");
        for other in [
            first.id("main", "tester", Some("k"), "n"),
            first.id("main", "tester", None, "m"),
            first.id("main", "other", None, "n"),
            first.id("two", "tester", None, "n"),
        ] {
            assert_ne!(other, id(&first));
        }
        std::fs::write(&path, "longer").unwrap();
        assert_ne!(id(&Identity::of(&path).unwrap()), id(&first));
        let copy = folder.path().join("b");
        std::fs::copy(&path, &copy).unwrap();
        assert_ne!(id(&Identity::of(&copy).unwrap()), id(&Identity::of(&path).unwrap()));
        assert!(Identity::of(folder.path()).is_err(), "a folder is no file");
    }

    #[test]
    fn stdin_is_known_by_its_contents() {
        let spool = |text: &str| {
            let mut kept = Vec::new();
            let identity = Identity::spool(&mut text.as_bytes(), &mut kept).unwrap();
            assert_eq!((kept.as_slice(), identity.size()), (text.as_bytes(), text.len() as u64));
            identity
        };
        assert_eq!(id(&spool("one")), id(&spool("one")));
        assert_ne!(id(&spool("one")), id(&spool("two")));
    }
}
