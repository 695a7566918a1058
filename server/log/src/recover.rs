//! From whatever a crash left to a log that is true: nothing that was proven synced is dropped without a word.
//!
//! Each step leaves a folder that the next start understands, so recovery can be killed anywhere and run again (log §10).

mod tail;

use std::sync::{Arc, Mutex, Weak};

use crate::accept::Accepted;
use crate::build::Builder;
use crate::copy::Copied;
use crate::disk::{Disk, read_exact, write_whole};
use crate::error::{At, OpenError};
use crate::format::batch::Batch;
use crate::format::footer::{PAGE, Trailer, pages_at};
use crate::format::header::{AFTER_UNSEALED, Header, HeaderError, REWRITTEN};
use crate::format::{Hash, crc, wide};
use crate::health::{Damage, DamageKind};
use crate::limits::HEADER_PAGE;
use crate::mark::WatermarkFile;
use crate::planted::Slips;
use crate::scan::{Bounds, Scan, Window, scan};
use crate::segment::{Index, Lookup, Open, OpenFile, Segment, file_name, id_of};
use crate::{Recovered, TornTail};

/// More positions than this no segment has: a batch header that says so is not believed even as a hint.
const POSITIONS_MAX: u64 = 1 << 48;

/// What recovery found and made.
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) build: Option<Builder>,
    pub(crate) accepted: Accepted,
    pub(crate) watermark: WatermarkFile,
    pub(crate) recovered: Recovered,
}

/// One segment file as it was found.
pub(crate) struct OnDisk {
    pub(crate) id: u64,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) header: Option<Header>,
    pub(crate) trailer: Option<Trailer>,
    pub(crate) file_bytes: u64,
}

/// Recovery at work.
pub(crate) struct Recovery<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) damages: Vec<Damage>,
    pub(crate) resealed: Vec<String>,
    pub(crate) torn: Option<TornTail>,
    accepted: Accepted,
    /// Mistakes made on purpose.
    pub(crate) slips: Slips,
}

/// Recovers the log in `disk`.
pub(crate) fn recover(disk: &dyn Disk, slips: Slips) -> Result<Found, OpenError> {
    let names = disk.list().at("list", "the folder")?;
    let accepted = Accepted::open(disk, names.iter().any(|name| name == Accepted::NAME))?;
    Recovery::new(disk, accepted, slips).run(&names)
}

impl<'a> Recovery<'a> {
    pub(crate) fn new(disk: &'a dyn Disk, accepted: Accepted, slips: Slips) -> Self {
        Self { disk, damages: Vec::new(), resealed: Vec::new(), torn: None, accepted, slips }
    }
}

impl Recovery<'_> {
    fn run(mut self, names: &[String]) -> Result<Found, OpenError> {
        if !names.is_empty() {
            // log §10: names that a killed process saw need not be on disk.
            self.disk.sync_folder().at("sync", "the folder")?;
        }
        for tmp in names.iter().filter(|name| name.ends_with(".tmp")) {
            self.disk.remove(tmp).at("remove", tmp)?;
        }
        let there = names.iter().any(|name| name == WatermarkFile::NAME);
        let watermark = WatermarkFile::open(self.disk, there).at("open", WatermarkFile::NAME)?;
        if watermark.one_bad {
            self.damage(DamageKind::Watermark, WatermarkFile::NAME, 0, 0);
        }
        let mut ids: Vec<u64> = names.iter().filter_map(|name| id_of(name)).collect();
        ids.sort_unstable();
        let found = ids.into_iter().map(|id| self.look_at(id)).collect::<Result<Vec<_>, _>>()?;
        let mut index = Index::default();
        let floor = watermark.newest.floor;
        let last = self.sealed(&found, floor, &mut index)?;
        self.finish(index, last, watermark)
    }

    pub(crate) fn damage(&mut self, kind: DamageKind, file: &str, from: u64, to: u64) {
        let accepted = from < to && self.accepted.covers(from, to);
        self.damages.push(Damage {
            kind,
            file: file.to_owned(),
            from: from.into(),
            to: to.into(),
            accepted,
        });
    }

    /// Reads both ends of a segment file.
    pub(crate) fn look_at(&mut self, id: u64) -> Result<OnDisk, OpenError> {
        let name = file_name(id);
        let file = self.disk.open(&name).at("open", &name)?;
        let file_bytes = file.bytes().at("measure", &name)?;
        let mut page = vec![0_u8; PAGE];
        let read = file.read_at(0, &mut page).at("read", &name)?;
        page.truncate(read);
        let header = match Header::decode_page(&page) {
            Ok((header, both)) if header.id == id => {
                if !both {
                    self.damage(DamageKind::Header, &name, header.base, header.base);
                }
                Some(header)
            }
            Ok(_) | Err(HeaderError::Damaged) => None,
            Err(HeaderError::Version(version)) => return Err(OpenError::Version { name, version }),
        };
        let mut trailer = None;
        if let Some(header) = &header
            && let Some(at) = file_bytes.checked_sub(wide(PAGE)).filter(|at| *at >= HEADER_PAGE)
        {
            let mut page = vec![0_u8; PAGE];
            read_exact(&*file, at, &mut page).at("read the footer of", &name)?;
            trailer = Trailer::decode(&page, crc(&[&header.salt]), file_bytes)
                .filter(|trailer| trailer.id == id && trailer.base == header.base);
        }
        Ok(OnDisk { id, file: Arc::new(OpenFile(file)), header, trailer, file_bytes })
    }

    /// Takes all segments that are not written any more into the index; gives back the one that may be.
    fn sealed(
        &mut self,
        found: &[OnDisk],
        floor: u64,
        index: &mut Index,
    ) -> Result<Last, OpenError> {
        let mut last = Last { end: floor, ..Last::default() };
        for (n, one) in found.iter().enumerate() {
            let successor = found.iter().skip(n + 1).find_map(|next| next.header.as_ref());
            let follows = found.get(n + 1).is_some();
            let Some(header) = &one.header else {
                last = self.lost(one, successor, last, index)?;
                continue;
            };
            let next_base =
                found.get(n + 1).and_then(|next| next.header.as_ref()).map(|next| next.base);
            if next_base.is_some_and(|next| next <= floor) {
                self.finish_removal(one)?;
                continue;
            }
            self.join(header, &last);
            if header.base > last.end {
                // Above the floor nothing was removed on purpose.
                self.damage(DamageKind::Segment, &file_name(one.id), last.end, header.base);
            }
            last.id = one.id;
            last.open = None;
            if let Some(trailer) = &one.trailer {
                // log §6: only a segment after the next proves that this footer is on disk.
                if found.get(n + 2).is_none() {
                    self.confirm_footer(one, header, trailer)?;
                }
                last.after(trailer.end, trailer.last_time, one.id, trailer.kept_hash);
                index.sealed.push(Arc::new(segment(one, header, trailer)));
            } else if let Some(next) = successor {
                let last_but_one = found.get(n + 2).is_none();
                self.unsealed(one, header, next, last_but_one, &mut last, index)?;
            } else if follows {
                // What follows can't be read: where this one ends is not known, it is walked to its end.
                self.unsealed_to(one, header, None, None, &mut last, index)?;
            } else {
                last.end = header.base;
                last.open = Some((header.clone(), one.file.clone()));
            }
        }
        Ok(last)
    }

    /// log §12: the floor was moved before the file was to be removed.
    fn finish_removal(&self, one: &OnDisk) -> Result<(), OpenError> {
        self.disk.remove(&file_name(one.id)).at("remove", &file_name(one.id))?;
        Ok(self.disk.sync_folder().at("sync the folder of", &file_name(one.id))?)
    }

    /// log §3: a segment names the hash of the one before it.
    fn join(&mut self, header: &Header, last: &Last) {
        if last.named && header.prev_id == last.id && header.prev_hash != last.hash {
            self.damage(DamageKind::Chain, &file_name(header.id), header.base, header.base);
        }
    }

    /// A segment whose header can't be read.
    fn lost(
        &mut self,
        one: &OnDisk,
        successor: Option<&Header>,
        last: Last,
        index: &mut Index,
    ) -> Result<Last, OpenError> {
        let end = successor.map_or(last.end, |next| next.base).max(last.end);
        let may_reach =
            if successor.is_none() { self.hint(one, last.end)?.max(last.may_reach) } else { 0 };
        let next = Last { id: one.id, may_reach, end, named: false, open: None, ..last };
        if successor.is_some() {
            self.damage(DamageKind::Segment, &file_name(one.id), last.end, end);
            index.sealed.push(Arc::new(lost_segment(one, last.end, end, last.time)));
        }
        Ok(next)
    }

    /// How far the positions of a segment may have gone whose salt is lost: no tag can be checked, so what its batch headers say
    /// is taken only to be sure that no position is used twice.
    fn hint(&self, one: &OnDisk, from: u64) -> Result<u64, OpenError> {
        let mut reach = from.saturating_add(one.file_bytes);
        let mut window = Window::new(&*one.file.0, file_name(one.id))?;
        let mut at = HEADER_PAGE;
        while at < one.file_bytes {
            let bytes = window.get(at, 1 << 20)?;
            for n in (0..bytes.len()).step_by(8) {
                let said = bytes.get(n..).and_then(Batch::hint).filter(|(base, end)| {
                    *base >= from && base < end && end.saturating_sub(from) < POSITIONS_MAX
                });
                reach = reach.max(said.map_or(0, |(_, end)| end));
            }
            at = at.saturating_add(1 << 20);
        }
        Ok(reach)
    }

    /// A segment without a footer that another follows: recovery was killed before it sealed it, or the footer is damaged.
    fn unsealed(
        &mut self,
        one: &OnDisk,
        header: &Header,
        next: &Header,
        last_but_one: bool,
        last: &mut Last,
        index: &mut Index,
    ) -> Result<(), OpenError> {
        let ours =
            next.flags & AFTER_UNSEALED != 0 && next.prev_id != one.id && next.base == header.base;
        if ours {
            // log §10: all of it was copied; what is left of it is not needed.
            self.disk.remove(&file_name(one.id)).at("remove", &file_name(one.id))?;
            self.disk.sync_folder().at("sync the folder of", &file_name(one.id))?;
            return Ok(());
        }
        // log §6: a segment begins only once the footer of the last but one is synced.
        let interrupted =
            last_but_one && next.flags & AFTER_UNSEALED != 0 && next.prev_id == one.id;
        self.unsealed_to(
            one,
            header,
            Some(next.base),
            interrupted.then_some(next.prev_hash),
            last,
            index,
        )
    }

    fn unsealed_to(
        &mut self,
        one: &OnDisk,
        header: &Header,
        limit: Option<u64>,
        named: Option<Hash>,
        last: &mut Last,
        index: &mut Index,
    ) -> Result<(), OpenError> {
        let bounds = Bounds {
            limit,
            proven: 0,
            jumps: header.flags & REWRITTEN != 0,
            followed: limit.is_none(),
            slips: self.slips,
        };
        let scan = scan(&one.file, header, bounds)?;
        let name = file_name(one.id);
        for (from, to) in &scan.holes {
            self.damage(DamageKind::Records, &name, *from, *to);
        }
        let hash = *scan.hash.finalize().as_bytes();
        last.after(scan.end, scan.last_time, one.id, hash);
        if named == Some(hash) && scan.holes.is_empty() {
            let (trailer, _) = self.seal(header, &one.file, scan, &[], None)?;
            self.resealed.push(name);
            index.sealed.push(Arc::new(segment(one, header, &trailer)));
        } else {
            self.damage(DamageKind::Footer, &name, scan.end, scan.end);
            index.sealed.push(Arc::new(scanned_segment(one, header, &scan)));
        }
        Ok(())
    }

    /// log §10: nothing proves that this footer is on disk, only that the records are. What is seen of it is written again.
    fn confirm_footer(
        &mut self,
        one: &OnDisk,
        header: &Header,
        trailer: &Trailer,
    ) -> Result<(), OpenError> {
        let name = file_name(one.id);
        let sealed = segment(one, header, trailer);
        if sealed.bad_section(&sealed.view(self.disk)?, trailer)?.is_some() {
            // Damaged pages stay as they are: `rebuild` makes them anew.
            self.damage(DamageKind::Footer, &name, trailer.end, trailer.end);
            return Ok(());
        }
        let mut window = Window::new(&*one.file.0, name.clone())?;
        let mut at = pages_at(trailer.data_end);
        while at < one.file_bytes {
            let bytes = window.get(at, 1 << 20)?;
            write_whole(&*one.file.0, at, bytes).at("write the footer of", &name)?;
            at = at.saturating_add(1 << 20);
        }
        Ok(one.file.0.sync().at("sync", &name)?)
    }

    fn finish(
        mut self,
        mut index: Index,
        last: Last,
        watermark: WatermarkFile,
    ) -> Result<Found, OpenError> {
        let durable = watermark.newest.durable;
        let mut found = Found {
            index: Index::default(),
            build: None,
            accepted: self.accepted.clone(),
            watermark,
            recovered: Recovered::default(),
        };
        match last.open.clone() {
            Some((header, file)) => {
                self.open_segment(header, file, durable, &mut index, &mut found)?
            }
            None if !self.lets_go(&last, durable) => {
                self.wait_without(&last, durable, &mut index, &mut found);
            }
            None => {
                let base = last.end.max(durable).max(last.may_reach);
                if base > last.end {
                    self.damage(DamageKind::Segment, &file_name(last.id), last.end, base);
                }
                let header = self.next_header(last.id, base, last.time, 0, last.hash)?;
                let (build, _) = self.make(header, |_| Ok(Copied::default()))?;
                (index.durable_end, index.last_time) = (build.end, build.last_time);
                index.open = Some(Open::of(&build, Vec::new(), Vec::new()));
                found.build = Some(build);
            }
        }
        found.recovered.watermark = found.recovered.watermark.max(durable.into());
        self.tell(&mut index, &mut found);
        found.index = index;
        Ok(found)
    }

    fn tell(self, index: &mut Index, found: &mut Found) {
        let recovered = &mut found.recovered;
        recovered.start = index.start().into();
        recovered.end = index.durable_end.into();
        recovered.generation = 1;
        recovered.segments = index.sealed.len() + usize::from(index.open.is_some());
        recovered.damages = self.damages;
        recovered.resealed = self.resealed;
        recovered.torn = self.torn;
    }

    /// All that is lost behind the last segment was accepted.
    fn lets_go(&self, last: &Last, durable: u64) -> bool {
        let reach = durable.max(last.may_reach);
        reach <= last.end || self.accepted.covers(last.end, reach)
    }

    /// What is proven is lost and there is no segment to look into.
    fn wait_without(&mut self, last: &Last, durable: u64, index: &mut Index, found: &mut Found) {
        let end = durable.max(last.end).max(last.may_reach);
        self.damage(DamageKind::Segment, &file_name(last.id), last.end, end);
        (index.durable_end, index.last_time) = (end, last.time);
        found.recovered.waiting = Some(last.end.into()..end.into());
    }

    /// The segment that was being written when the log stopped.
    fn open_segment(
        &mut self,
        header: Header,
        file: Arc<OpenFile>,
        durable: u64,
        index: &mut Index,
        found: &mut Found,
    ) -> Result<(), OpenError> {
        let bounds = Bounds {
            limit: None,
            proven: durable,
            jumps: false,
            followed: false,
            slips: self.slips,
        };
        let scan = scan(&file, &header, bounds)?;
        found.recovered.watermark = scan.proven.into();
        for (from, to) in &scan.holes {
            self.damage(DamageKind::Records, &file_name(header.id), *from, *to);
        }
        if !scan.holes.iter().all(|(from, to)| self.accepted.covers(*from, *to)) {
            return self.wait(&header, file, &scan, index, found);
        }
        self.settle(&header, &file, scan, index, found)?;
        Ok(())
    }

    /// Nothing is changed; what is proven can be read until an operator accepted the holes.
    fn wait(
        &self,
        header: &Header,
        file: Arc<OpenFile>,
        all: &Scan,
        index: &mut Index,
        found: &mut Found,
    ) -> Result<(), OpenError> {
        let bounds = Bounds {
            limit: Some(all.proven),
            proven: all.proven,
            jumps: false,
            followed: false,
            slips: self.slips,
        };
        let scan = scan(&file, header, bounds)?;
        let file_bytes = scan.data_end;
        let one = OnDisk { id: header.id, file, header: None, trailer: None, file_bytes };
        index.sealed.push(Arc::new(scanned_segment(&one, header, &scan)));
        (index.durable_end, index.last_time) = (scan.end, scan.last_time);
        let from = all.holes.iter().map(|hole| hole.0).min().unwrap_or(all.proven);
        let to = all.holes.iter().map(|hole| hole.1).max().unwrap_or(all.proven);
        found.recovered.waiting = Some(from.into()..to.into());
        Ok(())
    }
}

/// What the segments so far lead to.
#[derive(Clone, Default)]
struct Last {
    id: u64,
    end: u64,
    time: u64,
    hash: [u8; 32],
    /// `hash` is what the next one must name.
    named: bool,
    /// The last segment's header can't be read; its positions went up to here, as far as can be told.
    may_reach: u64,
    open: Option<(Header, Arc<OpenFile>)>,
}

impl Last {
    fn after(&mut self, end: u64, time: u64, id: u64, hash: [u8; 32]) {
        (self.end, self.time, self.id, self.hash, self.named) = (end, time, id, hash, true);
    }
}

pub(crate) fn segment(one: &OnDisk, header: &Header, trailer: &Trailer) -> Segment {
    Segment {
        id: one.id,
        base: trailer.base,
        end: trailer.end,
        data_end: trailer.data_end,
        first_time: trailer.first_time,
        last_time: trailer.last_time,
        salt: header.salt,
        seed: crc(&[&header.salt]),
        flags: header.flags,
        file_bytes: trailer.file_bytes(),
        lookup: Lookup::Footer(trailer.clone()),
        lost: false,
        file: Mutex::new(Weak::new()),
    }
}

fn scanned_segment(one: &OnDisk, header: &Header, scan: &Scan) -> Segment {
    Segment {
        id: one.id,
        base: header.base,
        end: scan.end,
        data_end: scan.data_end,
        first_time: scan.first_time,
        last_time: scan.last_time,
        salt: header.salt,
        seed: crc(&[&header.salt]),
        flags: header.flags,
        file_bytes: one.file_bytes,
        lookup: Lookup::Scanned { marks: Arc::new(scan.marks.clone()) },
        lost: false,
        file: Mutex::new(Weak::new()),
    }
}

fn lost_segment(one: &OnDisk, base: u64, end: u64, time: u64) -> Segment {
    Segment {
        id: one.id,
        base,
        end,
        data_end: HEADER_PAGE,
        first_time: time,
        last_time: time,
        salt: [0; 32],
        seed: 0,
        flags: 0,
        file_bytes: one.file_bytes,
        lookup: Lookup::Scanned { marks: Arc::new(Vec::new()) },
        lost: true,
        file: Mutex::new(Weak::new()),
    }
}
