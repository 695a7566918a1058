//! The log beside the bare limits of the same run: what a lone append costs, how many fit into a second, and so on.
//!
//! `cargo bench -p spile-benches --bench log [a b c d e]`; SPILE_BENCH_DIR is the folder to write in (default: the temporary
//! one), SPILE_BENCH_LOG_GIB how large (e) and (f) let a log grow (default 1).
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a benchmark that fails may stop"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spile_log::{Append, Durable, Log, Options, Position, RealDisk};
use tokio::sync::watch::Receiver;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [mode, path] = args.as_slice()
        && mode == "fill"
    {
        fill(Path::new(path));
        return;
    }
    let base = std::env::var("SPILE_BENCH_DIR").map_or_else(|_| std::env::temp_dir(), Into::into);
    let cases: [(&str, Case); 5] =
        [("a", lone), ("b", many), ("c", large), ("d", replay), ("e", start)];
    for (name, case) in cases {
        if args.is_empty() || args.iter().any(|arg| arg == name) {
            let folder = tempfile::tempdir_in(&base).unwrap();
            case(folder.path());
        }
    }
}

/// One measurement, in a folder of its own.
type Case = fn(&Path);

fn open(path: &Path, options: Options) -> Log {
    Log::open(Arc::new(RealDisk::open(path).unwrap()), options).unwrap().0
}

fn record(payload: &Bytes, crc: u32) -> Append {
    Append {
        kind: 1,
        positions: 1,
        time_ms: 1,
        stream: 0,
        version: 0,
        prev: 0,
        head: Bytes::from_static(&[7; 40]),
        payload: payload.clone(),
        payload_crc: crc,
    }
}

fn body(bytes: usize) -> (Bytes, u32) {
    let body = Bytes::from((0..bytes).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>());
    let crc = crc32fast::hash(&body);
    (body, crc)
}

/// Waits until the durable end passes `end`.
fn wait(
    runtime: &tokio::runtime::Runtime,
    durable: &mut Receiver<Durable>,
    end: Position,
) -> Position {
    runtime.block_on(async { durable.wait_for(|d| d.end >= end).await.unwrap().end })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e6
}

/// User and system time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// (a) One append of 256 bytes at a time, beside one bare 4 KiB append and `fdatasync` at a time.
fn lone(folder: &Path) {
    let (payload, crc) = body(256);
    let plain = open(&folder.join("plain"), Options { prefill: false, ..Options::default() });
    let zeros = open(&folder.join("zeros"), Options::default());
    let bare = File::create(folder.join("bare")).unwrap();
    let runtime = runtime();
    let page = [1_u8; 4096];
    let (mut bare_times, mut plain_times, mut zeros_times) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..20_u64 {
        for n in 0..100 {
            let start = Instant::now();
            bare.write_at(&page, (round * 100 + n) * 4096).unwrap();
            bare.sync_data().unwrap();
            bare_times.push(start.elapsed());
        }
        for (log, times) in [(&plain, &mut plain_times), (&zeros, &mut zeros_times)] {
            let mut durable = log.durable();
            for _ in 0..100 {
                let start = Instant::now();
                let range = log.append(1, &mut vec![record(&payload, crc)]).unwrap();
                wait(&runtime, &mut durable, range.end);
                times.push(start.elapsed());
            }
        }
    }
    let p50 = percentile(&mut bare_times, 50);
    println!(
        "(a) bare 4 KiB append + fdatasync: p50 {p50:.0} us, p99 {:.0} us",
        percentile(&mut bare_times, 99)
    );
    for (name, times) in [("growing", &mut plain_times), ("zeros ahead", &mut zeros_times)] {
        let (own50, own99) = (percentile(times, 50), percentile(times, 99));
        println!(
            "(a) lone append of 256 B, {name}: p50 {own50:.0} us, p99 {own99:.0} us, {:.2} x bare",
            own50 / p50
        );
    }
}

/// (b) 1,024 records of 256 bytes in flight, appended in calls of up to 256; in turns with as many bytes bare.
fn many(folder: &Path) {
    const IN_FLIGHT: u64 = 1024;
    let (payload, crc) = body(256);
    let log = open(&folder.join("log"), Options::default());
    let mut durable = log.durable();
    let runtime = runtime();
    let mut call = Vec::with_capacity(256);
    let (mut next, mut stored) = (1_u64, 1_u64);
    let (mut own, mut limits) = (Vec::new(), Vec::new());
    let (mut cpu_s, mut append_s, mut count) = (0.0, 0.0, 0.0);
    let mut size = 340 << 10;
    // The first turn warms memory and is not counted.
    for turn in 0..16 {
        let (first, before, cpu_before, start) = (stored, log.health(), cpu(), Instant::now());
        let mut appending = Duration::ZERO;
        while start.elapsed() < Duration::from_millis(400) {
            while next - stored < IN_FLIGHT {
                let n = 256.min(IN_FLIGHT - (next - stored));
                call.extend((0..n).map(|_| record(&payload, crc)));
                let began = Instant::now();
                next = log.append(1, &mut call).unwrap().end.get();
                appending += began.elapsed();
            }
            stored = wait(&runtime, &mut durable, Position::new(stored + 1)).get();
        }
        wait(&runtime, &mut durable, Position::new(next));
        stored = next;
        let (seconds, records, after) =
            (start.elapsed().as_secs_f64(), (stored - first) as f64, log.health());
        let syncs = (after.commits - before.commits) as f64;
        let path = folder.join("bare");
        let (_, bare_syncs) = bare(&path, size, 128 << 20);
        std::fs::remove_file(path).unwrap();
        if turn > 0 {
            own.push(records / seconds);
            limits.push(bare_syncs * records / syncs);
            (cpu_s, append_s) = (cpu_s + cpu() - cpu_before, append_s + appending.as_secs_f64());
            count += records;
        }
        size = ((after.bytes - before.bytes) as f64 / syncs) as usize;
        if turn == 15 {
            println!("(b) syncs a record: {:.5}, bytes a sync: {size}", syncs / records);
        }
    }
    let (own, limit) = (spread(&mut own), spread(&mut limits));
    println!("(b) 1,024 in flight: {:.0} records/s median, {:.0} best", own.0, own.1);
    println!(
        "(b) bare writes and syncs of as many bytes: {:.0} median, {:.0} best; ratio {:.2}",
        limit.0,
        limit.1,
        own.0 / limit.0
    );
    println!(
        "(b) CPU a record (with the bare writes): {:.2} us, of it in append {:.3} us",
        cpu_s * 1e6 / count,
        append_s * 1e6 / count
    );
}

/// Median and best.
fn spread(rates: &mut [f64]) -> (f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates.get(rates.len() / 2).copied().unwrap_or(0.0), rates.last().copied().unwrap_or(0.0))
}

/// Appends `size` bytes and syncs, until `total` is written: bytes and syncs per second.
fn bare(path: &Path, size: usize, total: u64) -> (f64, f64) {
    let file = File::create(path).unwrap();
    let data = vec![3_u8; size];
    let start = Instant::now();
    let count = total / size as u64;
    for n in 0..count {
        file.write_at(&data, n * size as u64).unwrap();
        file.sync_data().unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    ((count * size as u64) as f64 / seconds, count as f64 / seconds)
}

/// (c) Bodies of 256 KiB, 16 MiB in flight, in turns with bare appends of 8 MiB.
fn large(folder: &Path) {
    const TURN: u64 = 1024;
    let (payload, crc) = body(256 << 10);
    let options = Options { prefill: false, queue_bytes: 32 << 20, ..Options::default() };
    let log = open(&folder.join("log"), options);
    let mut durable = log.durable();
    let runtime = runtime();
    let (mut next, mut stored) = (1_u64, 1_u64);
    let (mut own, mut limits) = (Vec::new(), Vec::new());
    for turn in 0..9 {
        let (start, until) = (Instant::now(), stored + TURN);
        while stored < until {
            while next - stored < 64 && next < until {
                next = log.append(1, &mut vec![record(&payload, crc)]).unwrap().end.get();
            }
            stored = wait(&runtime, &mut durable, Position::new(stored + 1)).get();
        }
        let rate = (TURN * (256 << 10)) as f64 / start.elapsed().as_secs_f64();
        let path = folder.join("bare");
        let (limit, _) = bare(&path, 8 << 20, 256 << 20);
        std::fs::remove_file(path).unwrap();
        if turn > 0 {
            own.push(rate / 1e6);
            limits.push(limit / 1e6);
        }
    }
    let (own, limit) = (spread(&mut own), spread(&mut limits));
    println!("(c) bodies of 256 KiB: {:.0} MB/s median, {:.0} best", own.0, own.1);
    println!(
        "(c) bare appends of 8 MiB: {:.0} MB/s median, {:.0} best; ratio {:.2}",
        limit.0,
        limit.1,
        own.0 / limit.0
    );
}

/// (d) Replay with all checks, from the page cache.
fn replay(folder: &Path) {
    for bytes in [256, 4096] {
        let (payload, crc) = body(bytes);
        let log = open(
            &folder.join(bytes.to_string()),
            Options { recent_bytes: 0, ..Options::default() },
        );
        let mut durable = log.durable();
        let runtime = runtime();
        let count = (512 << 20) / bytes as u64;
        let mut next = Position::FIRST;
        while next.get() <= count {
            let mut call = (0..256).map(|_| record(&payload, crc)).collect();
            next = log.append(1, &mut call).unwrap().end;
            wait(&runtime, &mut durable, next);
        }
        for _ in 0..2 {
            let start = Instant::now();
            let mut reader = log.read(Position::FIRST);
            let (mut read, mut records) = (0, 0_u64);
            while let Some(block) = reader.next(256 << 10).unwrap() {
                read += block.len();
                records += block.records().count() as u64;
            }
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "(d) replay of {bytes} B bodies: {:.2} GB/s, {:.1} M records/s",
                read as f64 / seconds / 1e9,
                records as f64 / seconds / 1e6
            );
        }
    }
}

/// Writes a log until it is killed: records of 1,000 bytes in 1,000 streams.
fn fill(path: &Path) {
    let (payload, crc) = body(1000);
    let log = open(path, Options::default());
    let mut durable = log.durable();
    let runtime = runtime();
    let (mut told, mut last) = (0, Position::FIRST);
    loop {
        let next = log.next().get();
        let streams =
            (next..).map(|n| Append { stream: 1 + n % 1000, version: n, ..record(&payload, crc) });
        let end = log.append(1, &mut streams.take(1024).collect()).unwrap().end;
        wait(&runtime, &mut durable, last);
        last = end;
        let written = log.health().bytes >> 30;
        if written > told {
            told = written;
            println!("{written} GiB, {} MiB resident", resident_mib());
            std::io::stdout().flush().unwrap();
        }
    }
}

/// (e) and (f): a large log, killed while it writes; how long the next start takes, and what memory both need.
fn start(folder: &Path) {
    let gib = std::env::var("SPILE_BENCH_LOG_GIB").map_or(1, |gib| gib.parse().unwrap());
    let path = folder.join("log");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["fill", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        println!("(f) {line}");
        if line.starts_with(&format!("{gib} GiB")) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for start in ["after kill -9", "again"] {
        let began = Instant::now();
        let disk = Arc::new(RealDisk::open(&path).unwrap());
        let (log, recovered) = Log::open(disk, Options::default()).unwrap();
        println!(
            "(e) open {gib} GiB {start}: {:.2} s, {} segments, {} positions written anew, {} damages, {} MiB resident",
            began.elapsed().as_secs_f64(),
            recovered.segments,
            recovered.unproven,
            recovered.damages.len(),
            resident_mib()
        );
        log.close();
    }
}
