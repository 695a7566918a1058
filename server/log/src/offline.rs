//! What is done with a log that nobody has open: check every byte, show every record, write lost footers anew.
//!
//! [`verify`] and [`dump`] change nothing. [`rebuild`] writes only what follows from records that were all found whole.

use std::ops::Range;

use crate::accept::Accepted;
use crate::disk::{Disk, write_whole};
use crate::error::{At, DiskError, OpenError};
use crate::format::footer::Trailer;
use crate::format::header::{AFTER_UNSEALED, Header, REWRITTEN};
use crate::format::record::RecordHeader;
use crate::health::{Damage, DamageKind};
use crate::mark::WatermarkFile;
use crate::planted::Slips;
use crate::recover::{OnDisk, Recovery, segment};
use crate::scan::{Bounds, Scan, scan, scan_with};
use crate::segment::{Lookup, Segment, View, file_name, id_of};
use crate::snapshot::{Snapshot, file_name as snapshot_name, positions};
use crate::{Position, TornTail};

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The segments, in order.
    pub segments: Vec<SegmentReport>,
    /// What is damaged.
    pub damages: Vec<Damage>,
    /// Bytes behind the end that were never acknowledged: no damage. `file` is the segment they are in.
    pub torn: Option<TornTail>,
    /// One past what is proven synced.
    pub proven: Position,
    /// The segment before the last, if its footer was not written when the process stopped: the next start does that.
    pub unsealed: Vec<String>,
    /// Positions of the snapshots that are whole, newest first.
    pub snapshots: Vec<Position>,
}

impl Report {
    /// There is no damage that nobody accepted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.damages.iter().all(|damage| damage.accepted)
    }
}

/// One segment as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub file: String,
    /// Its first position.
    pub from: Position,
    /// One past its last.
    pub to: Position,
    /// Bytes of the file.
    pub bytes: u64,
    /// Records that are whole.
    pub records: u64,
    /// It has a footer.
    pub sealed: bool,
}

/// One line of a [`dump`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpLine {
    /// The segment's id.
    pub segment: u64,
    /// The position it is about.
    pub position: Position,
    /// `segment`, `record`, `hole`, `torn` or `footer`.
    pub kind: &'static str,
    /// It is as it was written.
    pub ok: bool,
    /// What there is to say.
    pub detail: String,
}

/// The folder as it is, unchanged.
struct Looked {
    found: Vec<OnDisk>,
    damages: Vec<Damage>,
    accepted: Accepted,
    floor: u64,
    durable: u64,
}

fn look(disk: &dyn Disk) -> Result<Looked, OpenError> {
    let names = disk.list().at("list", "the folder")?;
    let has = |name: &str| names.iter().any(|other| other == name);
    let accepted = Accepted::open(disk, has(Accepted::NAME))?;
    let mut recovery = Recovery::new(disk, accepted.clone(), Slips::default());
    let (mut floor, mut durable) = (1, 1);
    if has(WatermarkFile::NAME) {
        let file = disk.open(WatermarkFile::NAME).at("open", WatermarkFile::NAME)?;
        let (newest, bad) = WatermarkFile::read(&*file).at("read", WatermarkFile::NAME)?;
        (floor, durable) = (newest.floor.max(1), newest.durable.max(1));
        if bad {
            recovery.damage(DamageKind::Watermark, WatermarkFile::NAME, 0, 0);
        }
    }
    let mut ids: Vec<u64> = names.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    let found = ids.into_iter().map(|id| recovery.look_at(id)).collect::<Result<Vec<_>, _>>()?;
    Ok(Looked { found, damages: recovery.damages, accepted, floor, durable })
}

/// Reads every byte of the log and says what is not as it was written. Changes nothing.
pub fn verify(disk: &dyn Disk) -> Result<Report, OpenError> {
    walk(disk, &mut |_| {})
}

/// Shows every segment and record between two positions, and what is wrong with them. Changes nothing.
pub fn dump(
    disk: &dyn Disk,
    range: Range<Position>,
    each: &mut dyn FnMut(DumpLine),
) -> Result<Report, OpenError> {
    walk(disk, &mut |line: DumpLine| {
        if range.contains(&line.position) {
            each(line);
        }
    })
}

fn walk(disk: &dyn Disk, each: &mut dyn FnMut(DumpLine)) -> Result<Report, OpenError> {
    let looked = look(disk)?;
    let mut walk = Walk {
        disk,
        accepted: &looked.accepted,
        report: Report {
            damages: looked.damages,
            proven: looked.durable.into(),
            ..Report::default()
        },
        end: looked.floor,
        named: None,
        each,
    };
    for (n, one) in looked.found.iter().enumerate() {
        let next = looked.found.get(n + 1);
        walk.segment(one, next, looked.found.get(n + 2).is_none(), looked.durable)?;
    }
    if looked.durable > walk.end {
        let (from, to) = (walk.end, looked.durable);
        walk.damage(DamageKind::Segment, "the end", from, to);
    }
    for position in positions(disk)? {
        match Snapshot::open(disk, position)? {
            Some(_) => walk.report.snapshots.push(position.into()),
            None => walk.damage(DamageKind::Snapshot, &snapshot_name(position), position, position),
        }
    }
    Ok(walk.report)
}

/// A walk over all segments.
struct Walk<'a> {
    disk: &'a dyn Disk,
    accepted: &'a Accepted,
    report: Report,
    /// Where the next segment should begin.
    end: u64,
    /// The hash that the next segment should name.
    named: Option<[u8; 32]>,
    each: &'a mut dyn FnMut(DumpLine),
}

impl Walk<'_> {
    fn damage(&mut self, kind: DamageKind, file: &str, from: u64, to: u64) {
        let accepted = from < to && self.accepted.covers(from, to);
        let file = file.to_owned();
        self.report.damages.push(Damage { kind, file, from: from.into(), to: to.into(), accepted });
    }

    fn line(&mut self, segment: u64, position: u64, kind: &'static str, ok: bool, detail: String) {
        (self.each)(DumpLine { segment, position: position.into(), kind, ok, detail });
    }

    fn segment(
        &mut self,
        one: &OnDisk,
        next: Option<&OnDisk>,
        last_but_one: bool,
        durable: u64,
    ) -> Result<(), OpenError> {
        let name = file_name(one.id);
        let Some(header) = &one.header else {
            let to = next
                .and_then(|next| next.header.as_ref())
                .map_or(self.end, |next| next.base)
                .max(self.end);
            self.damage(DamageKind::Segment, &name, self.end, to);
            self.line(
                one.id,
                self.end,
                "segment",
                false,
                format!("{name}: its header can't be read"),
            );
            (self.end, self.named) = (to, None);
            return Ok(());
        };
        if header.base > self.end {
            self.damage(DamageKind::Segment, &name, self.end, header.base);
        }
        if self.named.is_some_and(|hash| hash != header.prev_hash) {
            self.damage(DamageKind::Chain, &name, header.base, header.base);
        }
        self.line(
            one.id,
            header.base,
            "segment",
            true,
            format!("{name}, {} bytes", one.file_bytes),
        );
        let follows = next.is_some();
        let next = next.and_then(|next| next.header.as_ref());
        let limit = one.trailer.as_ref().map(|trailer| trailer.end).or(next.map(|next| next.base));
        let found = self.scan(one, header, limit, durable, follows)?;
        self.footer(one, header, next, last_but_one, &found)?;
        self.found(one, header, &found, limit.is_none());
        Ok(())
    }

    fn scan(
        &mut self,
        one: &OnDisk,
        header: &Header,
        limit: Option<u64>,
        durable: u64,
        follows: bool,
    ) -> Result<Scan, OpenError> {
        let jumps = header.flags & REWRITTEN != 0;
        let bounds = Bounds {
            limit,
            proven: limit.unwrap_or(durable),
            jumps,
            followed: follows && limit.is_none(),
            slips: Slips::default(),
        };
        let each = &mut *self.each;
        let mut visit = |record: &RecordHeader, offset: u64, whole: bool| {
            let detail = format!(
                "at byte {offset}: kind {} positions {} time {} stream {} version {} payload {} bytes",
                record.kind,
                record.positions,
                record.time_ms,
                record.stream,
                record.version,
                record.payload_len
            );
            let position = record.position.into();
            each(DumpLine { segment: header.id, position, kind: "record", ok: whole, detail });
        };
        Ok(scan_with(&one.file, header, bounds, Some(&mut visit))?)
    }

    fn footer(
        &mut self,
        one: &OnDisk,
        header: &Header,
        next: Option<&Header>,
        last_but_one: bool,
        found: &Scan,
    ) -> Result<(), OpenError> {
        let name = file_name(one.id);
        self.named = None;
        let good = match (&one.trailer, next) {
            (Some(trailer), _) => {
                self.named = Some(trailer.kept_hash);
                let one = segment(one, header, trailer);
                let view = one.view(self.disk)?;
                let pages = one.bad_section(&view, trailer)?.is_none();
                pages && (!found.holes.is_empty() || agrees(found, trailer))
            }
            // The next start writes it.
            (None, Some(next)) if next.flags & AFTER_UNSEALED != 0 && last_but_one => {
                self.report.unsealed.push(name.clone());
                true
            }
            (None, Some(_)) => false,
            (None, None) => true,
        };
        if !good {
            self.damage(DamageKind::Footer, &name, found.end, found.end);
        }
        if one.trailer.is_some() || next.is_some() {
            self.line(one.id, found.end, "footer", good, name);
        }
        Ok(())
    }

    fn found(&mut self, one: &OnDisk, header: &Header, found: &Scan, open: bool) {
        let name = file_name(one.id);
        for (from, to) in &found.holes {
            self.damage(DamageKind::Records, &name, *from, *to);
            self.line(
                one.id,
                *from,
                "hole",
                false,
                format!("positions {from} up to {to} can't be read"),
            );
        }
        // Bytes behind a hole that reaches to the end are what is left of it.
        let ends_whole = found.holes.last().is_none_or(|(_, to)| *to < found.end);
        if let Some((from, to)) = found.torn.filter(|_| open && ends_whole) {
            let bytes = to.saturating_sub(from);
            self.line(
                one.id,
                found.end,
                "torn",
                true,
                format!("{bytes} bytes that were never acknowledged"),
            );
            self.report.torn = Some(TornTail { file: name.clone(), bytes, at: found.end.into() });
        }
        self.report.proven = self.report.proven.max(found.proven.into());
        self.report.segments.push(SegmentReport {
            file: name,
            from: header.base.into(),
            to: found.end.into(),
            bytes: one.file_bytes,
            records: found.records,
            sealed: one.trailer.is_some(),
        });
        self.end = found.end;
    }
}

/// Writes anew what can be made from whole records: footers, header pages with one bad copy, a bad slot of the watermark. Gives
/// the names of the files that were mended. What has lost records is left as it is.
pub fn rebuild(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    let looked = look(disk)?;
    let mut mended = Vec::new();
    let recovery = Recovery::new(disk, looked.accepted.clone(), Slips::default());
    for (n, one) in looked.found.iter().enumerate() {
        let name = file_name(one.id);
        let Some(header) = &one.header else { continue };
        if looked
            .damages
            .iter()
            .any(|damage| damage.kind == DamageKind::Header && damage.file == name)
        {
            write_whole(&*one.file.0, 0, &header.encode_page()).at("write the header of", &name)?;
            one.file.0.sync().at("sync", &name)?;
            mended.push(name.clone());
        }
        let next = looked.found.get(n + 1).and_then(|next| next.header.as_ref());
        if let Some(next) = next
            && mend_footer(&recovery, one, header, next)?
        {
            mended.push(name);
        }
    }
    if looked.damages.iter().any(|damage| damage.kind == DamageKind::Watermark) {
        let mut file = WatermarkFile::open(disk, true).at("open", WatermarkFile::NAME)?;
        let (durable, floor) = (file.newest.durable, file.newest.floor);
        file.write(durable.max(1), floor.max(1)).at("write", WatermarkFile::NAME)?;
        mended.push(WatermarkFile::NAME.to_owned());
    }
    Ok(mended)
}

/// Seals a segment anew whose footer is bad, if all its records are there and are what the next segment names.
fn mend_footer(
    recovery: &Recovery<'_>,
    one: &OnDisk,
    header: &Header,
    next: &Header,
) -> Result<bool, OpenError> {
    let jumps = header.flags & REWRITTEN != 0;
    if let Some(trailer) = &one.trailer {
        let one = segment(one, header, trailer);
        let view = one.view(recovery.disk)?;
        if one.bad_section(&view, trailer)?.is_none() {
            return Ok(false);
        }
    }
    let bounds = Bounds {
        limit: Some(next.base),
        proven: next.base,
        jumps,
        followed: false,
        slips: Slips::default(),
    };
    let found = scan(&one.file, header, bounds)?;
    let hash = *found.hash.finalize().as_bytes();
    // A rewritten segment's records do not show whether they are all there: the trailer does.
    let whole = match &one.trailer {
        Some(trailer) => agrees(&found, trailer),
        None => !jumps && (next.prev_id != one.id || next.prev_hash == hash),
    };
    if !found.holes.is_empty() || !whole {
        return Ok(false);
    }
    let kept = one.trailer.as_ref().map(|trailer| trailer.kept_hash);
    recovery.seal(header, &one.file, found, &[], kept)?;
    Ok(true)
}

/// Walks the records of a sealed segment and gives the ranges that are damaged. What its footer says must agree.
pub(crate) fn check_records(
    segment: &Segment,
    view: &View,
) -> Result<Vec<Range<Position>>, DiskError> {
    let header = Header {
        flags: segment.flags,
        id: segment.id,
        base: segment.base,
        time_floor: segment.first_time,
        salt: segment.salt,
        prev_id: 0,
        prev_hash: [0; 32],
    };
    let jumps = segment.flags & REWRITTEN != 0;
    let bounds = Bounds {
        limit: Some(segment.end),
        proven: segment.end,
        jumps,
        followed: false,
        slips: Slips::default(),
    };
    let found = scan(&view.file, &header, bounds)?;
    let mut bad: Vec<Range<Position>> =
        found.holes.iter().map(|(a, b)| (*a).into()..(*b).into()).collect();
    if let Lookup::Footer(trailer) = &segment.lookup
        && bad.is_empty()
        && !agrees(&found, trailer)
    {
        bad.push(segment.base.into()..segment.end.into());
    }
    Ok(bad)
}

/// The footer is of these records.
fn agrees(found: &Scan, trailer: &Trailer) -> bool {
    *found.hash.finalize().as_bytes() == trailer.hash && found.records == trailer.records
}
