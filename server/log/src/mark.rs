//! The watermark file: what is proven synced and what retention removed, written off the path of acknowledgements.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, write_whole};
use crate::format::pad_to;
use crate::format::watermark::{FILE_BYTES, SLOT, Watermark};
use bytes::BytesMut;

const NAME: &str = "watermark";

/// The file and the newest slot.
#[derive(Debug)]
pub(crate) struct WatermarkFile {
    file: Arc<dyn DiskFile>,
    pub(crate) newest: Watermark,
    /// A slot could not be read.
    pub(crate) one_bad: bool,
}

impl WatermarkFile {
    pub(crate) const NAME: &'static str = NAME;

    /// Opens the file, or makes it.
    pub(crate) fn open(disk: &dyn Disk, is_there: bool) -> io::Result<Self> {
        if !is_there {
            return Self::create(disk);
        }
        let file = disk.open(NAME)?;
        let (newest, one_bad) = Self::read(&*file)?;
        Ok(Self { file, newest, one_bad })
    }

    /// The newer valid slot (none valid: nothing is claimed) and whether a slot that was written is bad.
    pub(crate) fn read(file: &dyn DiskFile) -> io::Result<(Watermark, bool)> {
        let mut newest: Option<Watermark> = None;
        let mut bad = 0;
        for slot in 0..2_u64 {
            let mut bytes = [0_u8; SLOT];
            let read = file.read_at(slot * 4096, &mut bytes)?;
            let found = Watermark::decode(&bytes).filter(|mark| mark.turn % 2 == slot);
            // A slot of zeros was never written.
            bad += usize::from(found.is_none() && (read < SLOT || bytes.iter().any(|b| *b != 0)));
            newest = newest.into_iter().chain(found).max_by_key(|mark| mark.turn);
        }
        Ok((newest.unwrap_or(Watermark { turn: 0, durable: 1, floor: 1 }), bad > 0))
    }

    fn create(disk: &dyn Disk) -> io::Result<Self> {
        let tmp = "watermark.tmp";
        let file = disk.create(tmp)?;
        let newest = Watermark { turn: 0, durable: 1, floor: 1 };
        let mut both = newest.encode();
        pad_to(&mut both, crate::format::narrow(FILE_BYTES));
        write_whole(&*file, 0, &both)?;
        file.sync()?;
        disk.rename(tmp, NAME)?;
        disk.sync_folder()?;
        Ok(Self { file, newest, one_bad: false })
    }

    /// Writes the other slot and syncs. `durable` must have been proven before.
    pub(crate) fn write(&mut self, durable: u64, floor: u64) -> io::Result<()> {
        let next = Watermark { turn: self.newest.turn.saturating_add(1), durable, floor };
        let slot: BytesMut = next.encode();
        write_whole(&*self.file, next.offset(), &slot)?;
        self.file.sync()?;
        self.newest = next;
        Ok(())
    }
}
