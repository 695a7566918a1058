//! A real process on a real folder, killed while it writes: what it said was stored is there.
#![allow(clippy::unwrap_used, reason = "a test that fails may stop")]

mod plain;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use spile_log::{Append, Log, Options, Position, RealDisk};

const CHILD: &str = "SPILE_LOG_CHILD";

fn options() -> Options {
    Options { segment_bytes: 256 << 10, reserve_bytes: 0, free_bytes_low: 0, ..Options::default() }
}

fn record(position: u64) -> Append {
    let bytes = if position.is_multiple_of(7) { 3000 } else { 200 };
    plain::record(position, Bytes::from(position.to_le_bytes().repeat(bytes / 8)))
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let (log, _) = Log::open(Arc::new(RealDisk::open(path).unwrap()), options()).unwrap();
    let mut durable = log.durable();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = std::io::stdout();
    let mut waits = Position::FIRST;
    loop {
        let next = log.next().get();
        let end = log.append(1, &mut (next..next + 9).map(record).collect()).unwrap().end;
        // Some are always in flight.
        let stored =
            runtime.block_on(async { durable.wait_for(|d| d.end >= waits).await.unwrap().end });
        waits = end;
        writeln!(out, "stored {stored}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_a_killed_process_called_stored_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut end = 1;
    for life in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in lines
            .by_ref()
            .filter_map(|line| line.strip_prefix("stored ")?.parse::<u64>().ok())
            .take(60 * (life + 1))
        {
            end = end.max(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts, too.
        let last = lines.filter_map(|line| line.strip_prefix("stored ")?.parse::<u64>().ok()).max();
        end = end.max(last.unwrap_or(0));
        let (log, recovered) =
            Log::open(Arc::new(RealDisk::open(folder.path()).unwrap()), options()).unwrap();
        assert!(recovered.damages.is_empty() && recovered.end.get() >= end, "{end}: {recovered:?}");
        let mut reader = log.read(Position::FIRST);
        let mut at = 1;
        while let Some(block) = reader.next(1 << 16).unwrap() {
            for read in block.records() {
                let want = record(at);
                assert!(read.position.get() == at && read.payload == want.payload, "{at}");
                at += 1;
            }
        }
        assert_eq!(at, recovered.end.get());
        end = at;
        drop(log);
    }
    assert!(end > 1000, "{end}");
}
