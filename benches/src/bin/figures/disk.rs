//! The bare disk: what a write and its sync cost when nothing else is done.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::{now, table::median};

/// How far ahead the overwritten file is filled with zeros.
const ZEROS: usize = 8 << 20;

/// A file that grows with each write.
pub(crate) struct Growing {
    file: File,
    end: u64,
}

/// A file of zeros that are written over.
pub(crate) struct Filled {
    file: File,
    at: u64,
}

impl Growing {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: File::create(path)?, end: 0 })
    }

    /// What one append and its sync took, in µs: the median of so many.
    pub(crate) fn append_us(&mut self, bytes: usize, times: usize) -> Result<f64> {
        let data = vec![3_u8; bytes];
        median_us(times, || {
            self.file.write_all_at(&data, self.end)?;
            self.file.sync_data()?;
            self.end += u64::try_from(bytes)?;
            Ok(())
        })
    }
}

impl Filled {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)?;
        file.write_all_at(&vec![0; ZEROS], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// The same where the file does not grow.
    pub(crate) fn overwrite_us(&mut self, bytes: usize, times: usize) -> Result<f64> {
        let data = vec![3_u8; bytes];
        median_us(times, || {
            self.file.write_all_at(&data, self.at)?;
            self.file.sync_data()?;
            self.at = (self.at + u64::try_from(bytes)?) % u64::try_from(ZEROS)?;
            Ok(())
        })
    }
}

fn median_us(times: usize, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = now();
        once()?;
        took.push(micros(begun.elapsed()));
    }
    Ok(median(took))
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Bytes that are free for a folder's files.
pub(crate) fn free(folder: &Path) -> Result<u64> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}
