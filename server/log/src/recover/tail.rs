//! The open segment after a stop: what is not proven is written anew, what was torn is kept aside and cut.

use std::sync::Arc;

use super::{Found, Recovery};
use crate::build::{Builder, MakeError, Seal};
use crate::copy::{Copied, Source, copy};
use crate::disk::write_whole;
use crate::error::{At, DiskError, OpenError};
use crate::format::footer::{GapRow, Trailer};
use crate::format::header::{AFTER_UNSEALED, Header};
use crate::format::{Hash, crc, narrow, wide};
use crate::limits::TORN_KEPT;
use crate::mark::WatermarkFile;
use crate::scan::{Bounds, Scan, Window, scan};
use crate::segment::{Index, Open, OpenFile, Segment, file_name};
use crate::writer::discard;
use crate::{Position, TornTail};

impl Recovery<'_> {
    /// Cuts a segment where its scan ended and writes its footer.
    pub(crate) fn seal(
        &self,
        header: &Header,
        file: &Arc<OpenFile>,
        scan: Scan,
        gaps: &[GapRow],
        kept_hash: Option<Hash>,
    ) -> Result<(Trailer, Builder), DiskError> {
        let (end, marks, entries) = (scan.end, scan.marks.clone(), scan.entries.clone());
        let build = builder(header, file, &scan);
        let seal = Seal {
            name: file_name(header.id),
            end,
            marks: &marks,
            entries: &entries,
            gaps,
            kept_hash,
        };
        let trailer = build.seal(seal)?;
        Ok((trailer, build))
    }

    /// Makes what was read of the open segment true on disk, and a segment to write on.
    pub(crate) fn settle(
        &mut self,
        header: &Header,
        file: &Arc<OpenFile>,
        scan: Scan,
        index: &mut Index,
        found: &mut Found,
    ) -> Result<(), OpenError> {
        self.keep_torn(header, file, &scan)?;
        found.recovered.unproven = scan.end.saturating_sub(scan.proven);
        if (scan.proven >= scan.end || self.slips.trusts_the_tail()) && scan.holes.is_empty() {
            self.cut(header, file, &scan)?;
            let build = builder(header, file, &scan);
            (index.durable_end, index.last_time) = (build.end, build.last_time);
            index.open = Some(Open::of(&build, scan.marks, scan.entries));
            found.build = Some(build);
            return Ok(());
        }
        self.move_tail(header, file, &scan, index, found)?;
        let (end, floor) = (index.durable_end, found.watermark.newest.floor);
        found.watermark.write(end, floor).at("write", WatermarkFile::NAME)?;
        Ok(())
    }

    fn cut(&self, header: &Header, file: &Arc<OpenFile>, scan: &Scan) -> Result<(), DiskError> {
        let name = file_name(header.id);
        if file.0.bytes().at("measure", &name)? == scan.data_end {
            return Ok(());
        }
        file.0.truncate(scan.data_end).at("cut", &name)?;
        file.0.sync().at("sync", &name)
    }

    /// log §10: what is not proven goes into a new segment at the same positions; then the old one is cut and sealed.
    fn move_tail(
        &mut self,
        header: &Header,
        file: &Arc<OpenFile>,
        all: &Scan,
        index: &mut Index,
        found: &mut Found,
    ) -> Result<(), OpenError> {
        let proven = all.proven;
        let bounds = Bounds {
            limit: Some(proven),
            proven,
            jumps: false,
            followed: false,
            slips: self.slips,
        };
        let kept = scan(file, header, bounds)?;
        let name = file_name(header.id);
        let empty = proven == header.base && kept.holes.is_empty();
        let hash = if empty { header.prev_hash } else { *kept.hash.finalize().as_bytes() };
        let prev_id = if empty { header.prev_id } else { header.id };
        let next = self.next_header(header.id, proven, kept.last_time, AFTER_UNSEALED, hash)?;
        let next = Header { prev_id, ..next };
        // Where a hole ends at what is proven, the batch behind it has a mark.
        let mark = all.marks.iter().find(|mark| mark.position == proven);
        let tail_at = mark.map_or(kept.data_end, |mark| u64::from(mark.offset));
        let mut source = Source {
            window: Window::new(&*file.0, name.clone())?,
            name: name.clone(),
            salt: header.salt,
            seed: crc(&[&header.salt]),
            from: tail_at,
            to: if all.end > proven { all.data_end } else { tail_at },
        };
        let (build, copied) = self.make(next, |build| copy(&mut source, build, |_, _| true))?;
        if empty {
            self.disk.remove(&name).at("remove", &name)?;
            self.disk.sync_folder().at("sync the folder of", &name)?;
        } else {
            let gaps: Vec<GapRow> = kept
                .holes
                .iter()
                .map(|(from, to)| GapRow { from: *from, to: *to, damaged: true })
                .collect();
            let (trailer, sealed) = self.seal(header, file, kept, &gaps, None)?;
            index.sealed.push(Arc::new(Segment::footed(&sealed, trailer, file)));
        }
        (index.durable_end, index.last_time) = (build.end, build.last_time);
        index.open = Some(Open::of(&build, copied.marks, copied.entries));
        found.build = Some(build);
        Ok(())
    }

    pub(super) fn next_header(
        &self,
        id: u64,
        base: u64,
        time: u64,
        flags: u32,
        hash: [u8; 32],
    ) -> Result<Header, DiskError> {
        let salt = self.disk.random().at("take random bytes for", "a segment")?;
        let next = id.saturating_add(1);
        Ok(Header {
            flags,
            id: next,
            base: base.max(1),
            time_floor: time,
            salt,
            prev_id: id,
            prev_hash: hash,
        })
    }

    /// Makes a segment durable, contents first, then its name.
    pub(crate) fn make(
        &self,
        header: Header,
        fill: impl FnOnce(&mut Builder) -> Result<Copied, MakeError>,
    ) -> Result<(Builder, Copied), DiskError> {
        let name = file_name(header.id);
        let tmp = format!("{name}.tmp");
        discard(self.disk, &tmp)?;
        let mut build = Builder::create(self.disk, &tmp, header)?;
        let copied = fill(&mut build)?;
        build.disk_file().sync().at("sync", &tmp)?;
        self.disk.rename(&tmp, &name).at("rename", &tmp)?;
        if !self.slips.skips_folder_sync() {
            self.disk.sync_folder().at("sync the folder of", &name)?;
        }
        Ok((build, copied))
    }

    /// log §10: a torn tail is kept aside before it is cut.
    fn keep_torn(
        &mut self,
        header: &Header,
        file: &Arc<OpenFile>,
        scan: &Scan,
    ) -> Result<(), OpenError> {
        let Some((from, to)) = scan.torn else { return Ok(()) };
        let name = format!("{:020}-{from:012}.torn", header.id);
        let tmp = format!("{name}.tmp");
        discard(self.disk, &tmp).map_err(DiskError::from)?;
        let aside = self.disk.create(&tmp).at("create", &tmp)?;
        let mut window = Window::new(&*file.0, file_name(header.id))?;
        let mut at = from;
        while at < to {
            let bytes = window.get(at, narrow(to.saturating_sub(at)).min(1 << 20))?;
            if bytes.is_empty() {
                break;
            }
            write_whole(&*aside, at.saturating_sub(from), bytes).at("write", &tmp)?;
            at = at.saturating_add(wide(bytes.len()));
        }
        aside.sync().at("sync", &tmp)?;
        self.disk.rename(&tmp, &name).at("rename", &tmp)?;
        self.forget_old_torn()?;
        self.disk.sync_folder().at("sync the folder of", &name)?;
        self.torn = Some(TornTail {
            file: name,
            bytes: to.saturating_sub(from),
            at: Position::new(scan.end),
        });
        Ok(())
    }

    fn forget_old_torn(&self) -> Result<(), OpenError> {
        let mut names = self.disk.list().at("list", "the folder")?;
        names.retain(|name| name.ends_with(".torn"));
        names.sort_unstable();
        let spare = names.len().saturating_sub(TORN_KEPT);
        for name in names.iter().take(spare) {
            self.disk.remove(name).at("remove", name)?;
        }
        Ok(())
    }
}

/// The builder that goes on where a scan ended.
pub(crate) fn builder(header: &Header, file: &Arc<OpenFile>, scan: &Scan) -> Builder {
    Builder {
        header: header.clone(),
        file: file.clone(),
        seed: crc(&[&header.salt]),
        offset: scan.data_end,
        end: scan.end,
        prev_tag: scan.prev_tag,
        hash: scan.hash.clone(),
        records: scan.records,
        first_time: scan.first_time,
        last_time: scan.last_time,
        marked: scan.marks.last().map_or(0, |mark| u64::from(mark.offset)),
    }
}
