//! `spiled log verify|dump|rebuild DIR`: offline, on a data folder that nobody has open.
//!
//! One JSON object a line: `log segment position kind ok detail`. What is checked and mended is the log's business; here
//! its findings are printed and counted. Only `rebuild` changes anything.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Subcommand;
use serde::Serialize;
use spile_log::{Damage, DumpLine, Position, RealDisk, Report};

use super::Ended;
use crate::data::{DataError, DataFolder};

/// The logs that a data folder may hold.
const LOGS: [&str; 2] = ["events", "chunks"];

/// What is asked of the logs.
#[derive(Debug, Subcommand)]
pub(super) enum Log {
    /// Read every byte and say what is not as it was written; changes nothing
    Verify {
        /// The data folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Show every segment and record, without payloads; changes nothing
    Dump {
        /// The data folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// From this position
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Up to and without this position
        #[arg(long, default_value_t = u64::MAX)]
        to: u64,
    },
    /// Write anew what can be made from whole records: footers, headers, the watermark; then verify
    Rebuild {
        /// The data folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// One line of what is found.
#[derive(Serialize)]
struct Finding<'a> {
    log: &'a str,
    segment: Option<u64>,
    position: u64,
    kind: &'a str,
    ok: bool,
    detail: &'a str,
}

pub(super) fn run(what: &Log) -> Result<(), Ended> {
    let (Log::Verify { folder } | Log::Dump { folder, .. } | Log::Rebuild { folder }) = what;
    let data = DataFolder::open_offline(folder).map_err(|why| match why {
        DataError::Missing { .. } => Ended::NotFound(why.to_string()),
        DataError::Locked { .. }
        | DataError::Newer { .. }
        | DataError::Unreadable { .. }
        | DataError::NotOurs { .. }
        | DataError::NotWritable { .. }
        | DataError::NotDurable(_) => Ended::Failed(why.into()),
    })?;
    let mut bad = Vec::new();
    for log in LOGS {
        let folder = data.path().join(log);
        if folder.is_dir() && !of_log(what, log, &folder)? {
            bad.push(log);
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    Err(Ended::Corrupt(format!(
        "log: {} {}: found corrupt; the lines above say where; restore it from a backup",
        data.path().display(),
        bad.join(" and ")
    )))
}

/// Does what is asked to one log; says whether it is good.
fn of_log(what: &Log, log: &str, folder: &Path) -> Result<bool, Ended> {
    let broken = |why: &dyn std::fmt::Display| anyhow!("log: read {}: {why}", folder.display());
    let disk = RealDisk::open(folder).map_err(|why| broken(&why))?;
    let mut out = Lines::new(log);
    let report = match what {
        Log::Verify { .. } => verify(&disk, &mut out),
        Log::Dump { from, to, .. } => {
            let range = Position::from(*from)..Position::from(*to);
            spile_log::dump(&disk, range, &mut |line| out.walked(&line))
        }
        Log::Rebuild { .. } => spile_log::rebuild(&disk).and_then(|mended| {
            mended.iter().for_each(|file| out.mended(file));
            verify(&disk, &mut out)
        }),
    };
    let report = report.map_err(|why| broken(&why))?;
    report.damages.iter().for_each(|damage| out.damaged(damage));
    out.end()?;
    Ok(report.is_good())
}

/// The walk without the records that are whole.
fn verify(disk: &RealDisk, out: &mut Lines<'_>) -> Result<Report, spile_log::OpenError> {
    let all = Position::from(0)..Position::from(u64::MAX);
    spile_log::dump(disk, all, &mut |line: DumpLine| {
        if line.kind != "record" || !line.ok {
            out.walked(&line);
        }
    })
}

/// Lines on their way to stdout; the first error is kept and told at the end.
struct Lines<'a> {
    log: &'a str,
    out: BufWriter<StdoutLock<'static>>,
    failed: Option<io::Error>,
    /// Segments by the name of their file.
    segments: BTreeMap<String, u64>,
}

impl<'a> Lines<'a> {
    fn new(log: &'a str) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        Self { log, out, failed: None, segments: BTreeMap::new() }
    }

    fn walked(&mut self, line: &DumpLine) {
        if line.kind == "segment" {
            let file = line.detail.split([',', ':']).next().unwrap_or_default();
            self.segments.insert(file.to_owned(), line.segment);
        }
        let position = line.position.get();
        self.line(Some(line.segment), position, line.kind, line.ok, &line.detail);
    }

    fn mended(&mut self, file: &str) {
        self.line(None, 0, "mended", true, &format!("{file}: written anew from whole records"));
    }

    fn damaged(&mut self, damage: &Damage) {
        let segment = self.segments.get(&damage.file).copied();
        let (file, from, to) = (&damage.file, damage.from, damage.to);
        let known = if damage.accepted { ", accepted" } else { "" };
        let lost = if damage.loses() {
            format!("{from} up to {to} are lost")
        } else {
            "nothing is lost".to_owned()
        };
        let detail = format!("{file}: {:?} damaged, {lost}{known}", damage.kind);
        self.line(segment, from.get(), "damage", damage.accepted, &detail);
    }

    fn line(&mut self, segment: Option<u64>, position: u64, kind: &str, ok: bool, detail: &str) {
        if self.failed.is_some() {
            return;
        }
        let finding = Finding { log: self.log, segment, position, kind, ok, detail };
        let written = serde_json::to_writer(&mut self.out, &finding).map_err(io::Error::from);
        self.failed = written.and_then(|()| self.out.write_all(b"\n")).err();
    }

    fn end(mut self) -> anyhow::Result<()> {
        let flushed = self.out.flush().err();
        match self.failed.take().or(flushed) {
            // A reader that has gone away has read enough; the exit code still says what was found.
            Some(why) if why.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow!("stdout: write: {why}; send it where there is room"))
            }
            Some(_) | None => Ok(()),
        }
    }
}
