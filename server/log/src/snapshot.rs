//! Snapshots: what views were at a position, as opaque bytes, durable and checked. The two newest are kept.
//!
//! A snapshot counts only once its file is synced and renamed; it is read only after all of it was verified.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, write_whole};
use crate::error::{At, DiskError, KeepError};
use crate::format::snapshot::{
    BLOCK_BYTES, BLOCK_HEADER, END_BYTES, HEADER_BYTES, block_holds, decode_block_header,
    decode_end, decode_header, encode_block_header, encode_end, encode_header,
};
use crate::format::{narrow, wide};
use crate::health::{Damage, DamageKind};
use crate::limits::SNAPSHOTS_KEPT;
use crate::shared::Shared;
use crate::writer::discard;
use crate::{Position, lock};

/// A snapshot there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Views held everything below this position.
    pub position: Position,
    /// Bytes of its file.
    pub bytes: u64,
}

pub(crate) fn file_name(position: u64) -> String {
    format!("{position:020}.snapshot")
}

fn position_of(name: &str) -> Option<u64> {
    name.strip_suffix(".snapshot").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Positions of the snapshot files, newest first.
pub(crate) fn positions(disk: &dyn Disk) -> Result<Vec<u64>, DiskError> {
    let names = disk.list().at("list", "the folder")?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| position_of(name)).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Writes one snapshot; one is written at a time. Dropped unfinished, it leaves nothing that counts: the next removes it.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    position: u64,
    offset: u64,
    blocks: u64,
    total: u64,
    hash: blake3::Hasher,
}

impl SnapshotWriter {
    pub(crate) fn new(shared: Arc<Shared>, position: Position) -> Result<Self, KeepError> {
        let at = position;
        let position = position.get();
        let newest = positions(&*shared.disk)?.first().copied().unwrap_or(0);
        if position <= newest || position > lock(&shared.queue).durable_end {
            return Err(KeepError::BadSnapshot { at });
        }
        // What an earlier one left unfinished is in nobody's way: on a full disk each try would leave more.
        for left in shared.disk.list().at("list", "the folder")? {
            if left.ends_with(".snapshot.tmp") {
                discard(&*shared.disk, &left).map_err(DiskError::from)?;
            }
        }
        let tmp = tmp_name(position);
        let file = shared.disk.create(&tmp).at("create", &tmp)?;
        write_whole(&*file, 0, &encode_header(position)).at("write", &tmp)?;
        let offset = wide(HEADER_BYTES);
        Ok(Self {
            shared,
            file,
            position,
            offset,
            blocks: 0,
            total: 0,
            hash: blake3::Hasher::new(),
        })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KeepError> {
        for data in bytes.chunks(BLOCK_BYTES) {
            let front = encode_block_header(self.position, self.blocks, data);
            self.put(&front)?;
            self.put(data)?;
            self.hash.update(data);
            self.blocks = self.blocks.saturating_add(1);
            self.total = self.total.saturating_add(wide(data.len()));
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        write_whole(&*self.file, self.offset, bytes).at("write", &tmp_name(self.position))?;
        self.offset = self.offset.saturating_add(wide(bytes.len()));
        Ok(())
    }

    /// Makes it durable; from now on it counts, and older ones beyond the two newest are removed.
    pub fn finish(mut self) -> Result<SnapshotInfo, KeepError> {
        let end =
            encode_end(self.position, self.blocks, self.total, self.hash.finalize().as_bytes());
        self.put(&end)?;
        let (tmp, name) = (tmp_name(self.position), file_name(self.position));
        self.shared.must_sync(self.file.sync().at("sync", &tmp))?;
        self.shared.disk.rename(&tmp, &name).at("rename", &tmp)?;
        self.shared.sync_folder(&name)?;
        for old in positions(&*self.shared.disk)?.into_iter().skip(SNAPSHOTS_KEPT) {
            self.shared.disk.remove(&file_name(old)).at("remove", &file_name(old))?;
        }
        Ok(SnapshotInfo { position: self.position.into(), bytes: self.offset })
    }
}

fn tmp_name(position: u64) -> String {
    format!("{}.tmp", file_name(position))
}

/// A verified snapshot, read from its start.
#[derive(Debug)]
pub struct Snapshot {
    file: Arc<dyn DiskFile>,
    position: u64,
    offset: u64,
    block: u64,
    bytes: u64,
}

/// What stands next in a snapshot file.
enum Piece {
    Data(Bytes),
    End(u64, [u8; 32]),
}

impl Snapshot {
    /// Opens and verifies the snapshot at `position`; `None` when it is damaged.
    pub(crate) fn open(disk: &dyn Disk, position: u64) -> Result<Option<Self>, DiskError> {
        let name = file_name(position);
        let file = disk.open(&name).at("open", &name)?;
        let bytes = file.bytes().at("measure", &name)?;
        let mut front = [0_u8; HEADER_BYTES];
        let read = file.read_at(0, &mut front).at("read", &name)?;
        if read < HEADER_BYTES || decode_header(&front) != Some(position) {
            return Ok(None);
        }
        let mut whole = Self { file, position, offset: wide(HEADER_BYTES), block: 0, bytes };
        let mut hash = blake3::Hasher::new();
        let mut total = 0_u64;
        loop {
            match whole.piece()? {
                Some(Piece::Data(data)) => {
                    hash.update(&data);
                    total = total.saturating_add(wide(data.len()));
                }
                Some(Piece::End(length, said)) => {
                    let right = length == total && said == *hash.finalize().as_bytes();
                    whole.rewind();
                    return Ok(right.then_some(whole));
                }
                None => return Ok(None),
            }
        }
    }

    /// Views held everything below this position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position.into()
    }

    /// Bytes of its file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes, at most 1 MiB; `None` behind the last.
    pub fn read(&mut self) -> Result<Option<Bytes>, KeepError> {
        match self.piece()? {
            Some(Piece::Data(data)) => Ok(Some(data)),
            Some(Piece::End(..)) => Ok(None),
            None => {
                Err(KeepError::Damaged { name: file_name(self.position), at: self.position.into() })
            }
        }
    }

    /// The next bytes are the first again.
    pub fn rewind(&mut self) {
        (self.offset, self.block) = (wide(HEADER_BYTES), 0);
    }

    fn piece(&mut self) -> Result<Option<Piece>, DiskError> {
        let name = file_name(self.position);
        let room = narrow(self.bytes.saturating_sub(self.offset));
        let mut front = [0_u8; END_BYTES];
        let read = self.file.read_at(self.offset, &mut front).at("read", &name)?;
        let Some((length, check)) = decode_block_header(front.get(..read).unwrap_or_default())
        else {
            return Ok(None);
        };
        if length == 0 {
            let end =
                if read == room { decode_end(self.position, self.block, &front) } else { None };
            return Ok(end.map(|(total, hash)| Piece::End(total, hash)));
        }
        if length > room {
            return Ok(None);
        }
        let mut data = vec![0_u8; length];
        let at = self.offset.saturating_add(wide(BLOCK_HEADER));
        let read = self.file.read_at(at, &mut data).at("read", &name)?;
        if read < length || !block_holds(self.position, self.block, &data, check) {
            return Ok(None);
        }
        self.block = self.block.saturating_add(1);
        self.offset = at.saturating_add(wide(length));
        Ok(Some(Piece::Data(Bytes::from(data))))
    }
}

impl Shared {
    /// A sync that failed poisons the log, whatever it was for.
    pub(crate) fn must_sync(&self, synced: Result<(), DiskError>) -> Result<(), KeepError> {
        synced.map_err(|error| {
            self.poison(&error);
            KeepError::Poisoned { name: error.name }
        })
    }

    pub(crate) fn sync_folder(&self, name: &str) -> Result<(), KeepError> {
        self.must_sync(self.disk.sync_folder().at("sync the folder of", name))
    }

    /// The snapshots there are, newest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotInfo>, DiskError> {
        let found = positions(&*self.disk)?.into_iter().map(|position| {
            let name = file_name(position);
            let bytes = self.disk.open(&name).and_then(|file| file.bytes()).at("measure", &name)?;
            Ok(SnapshotInfo { position: position.into(), bytes })
        });
        found.collect()
    }

    /// The newest snapshot that is whole; damaged ones are told to health.
    pub(crate) fn newest_snapshot(&self) -> Result<Option<Snapshot>, DiskError> {
        for position in positions(&*self.disk)? {
            if let Some(snapshot) = Snapshot::open(&*self.disk, position)? {
                return Ok(Some(snapshot));
            }
            let (file, at) = (file_name(position), Position::new(position));
            self.damaged(Damage {
                kind: DamageKind::Snapshot,
                file,
                from: at,
                to: at,
                accepted: false,
            });
        }
        Ok(None)
    }
}
