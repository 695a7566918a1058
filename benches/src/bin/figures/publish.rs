//! Publishing: one event at a time, one connection with 256, 64 connections with 16 in flight each.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::disk::{Filled, Growing};
use crate::load::{Load, Seen};
use crate::server::Server;
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, one_thread};

const EVENT: usize = 256;
const WARM: Duration = Duration::from_millis(500);
/// Bare syncs a round.
const SYNCS: usize = 200;
/// Turns of one at a time and the bare disk.
const TURNS: usize = 10 * ROUNDS;

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let server = Server::start(folder)?;
    let mut disk = Disk {
        growing: Growing::create(&folder.join("growing"))?,
        filled: Filled::create(&folder.join("filled"))?,
    };
    one_thread()?.block_on(async {
        lone(&server, &mut disk, size, table).await?;
        window(&server, &mut disk, size, table).await?;
        many(&server, size, table).await
    })
}

/// What the bare syncs are done on, beside the server's log.
struct Disk {
    growing: Growing,
    filled: Filled,
}

async fn lone(server: &Server, disk: &mut Disk, size: Size, table: &mut Table) -> Result<()> {
    let mut load = Load::open(server, 1, 1, EVENT).await?;
    load.run(server, WARM).await?;
    let (mut own, mut append, mut overwrite) = (Vec::new(), Vec::new(), Vec::new());
    let mut syncs = Vec::new();
    // In turns and short, so that a busy moment of the machine hits both sides.
    for _ in 0..TURNS {
        append.push(disk.growing.append_us(4096, SYNCS / 5)?);
        overwrite.push(disk.filled.overwrite_us(4096, SYNCS / 5)?);
        let mut seen = load.run(server, size.window() / 10).await?;
        own.push(seen.quantile_us(0.5));
        syncs.push(seen.syncs_each());
    }
    load.close().await;
    let (own, append, overwrite) = (median(own), median(append), median(overwrite));
    let syncs = median(syncs);
    table.push(Row {
        what: "publish, 1 connection × 1 in flight, p50".into(),
        measured: format!("{own:.0} µs, {syncs:.2} syncs an event"),
        bare: format!(
            "4 KiB append + fdatasync {append:.0} µs; overwrite of zeros {overwrite:.0} µs"
        ),
        ratio: format!("{:+.0} µs ({:.2} ×)", own - append, own / append),
        must: "bare append + 40 µs".into(),
        met: Some(own - append <= 40.0),
    });
    Ok(())
}

async fn window(server: &Server, disk: &mut Disk, size: Size, table: &mut Table) -> Result<()> {
    let mut load = Load::open(server, 1, 256, EVENT).await?;
    load.run(server, WARM).await?;
    let (mut seen, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        limits.push(disk.growing.append_us(64 << 10, SYNCS / 2)?);
        seen.push(load.run(server, size.window()).await?);
    }
    load.close().await;
    let (own, append) = (median(seen.iter().map(Seen::per_s).collect()), median(limits));
    let limit = 256.0 * 1e6 / (append + 60.0);
    table.push(Row {
        what: "publish, 1 connection × 256 in flight".into(),
        measured: format!("{}/s; {}", grouped(own), costs(&mut seen)),
        bare: format!("256 / (64 KiB append {append:.0} µs + 60 µs): {}/s", grouped(limit)),
        ratio: format!("{:.2} ×", own / limit),
        must: "500,000/s (reach for 0.75 × bare)".into(),
        met: Some(own >= 500_000.0),
    });
    Ok(())
}

async fn many(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    let mut load = Load::open(server, 64, 16, EVENT).await?;
    load.run(server, WARM).await?;
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        seen.push(load.run(server, size.window()).await?);
    }
    load.close().await;
    let own = median(seen.iter().map(Seen::per_s).collect());
    let p99 = median(seen.iter_mut().map(|seen| seen.quantile_us(0.99)).collect()) / 1e3;
    let server_us = median(seen.iter().map(Seen::server_us).collect());
    let syncs = median(seen.iter().map(Seen::syncs_each).collect());
    let client_us = median(seen.iter().map(Seen::client_us).collect());
    // What both processes burn for an event bounds what two cores can do.
    let cores = 2.0 * 1e6 / (server_us + client_us);
    table.push(Row {
        what: "publish, 64 connections × 16 in flight".into(),
        measured: format!("{}/s, p99 {p99:.1} ms, {syncs:.4} syncs an event", grouped(own)),
        bare: format!("2 cores / ({server_us:.2} + {client_us:.2} µs): {}/s", grouped(cores)),
        ratio: format!("{:.2} ×", own / cores),
        must: "800,000/s, p99 under 4 ms".into(),
        met: Some(own >= 800_000.0 && p99 < 4.0),
    });
    table.push(Row {
        what: "server CPU an event, 64 × 16".into(),
        measured: format!("{server_us:.2} µs"),
        bare: format!("the client's in the same run {client_us:.2} µs"),
        ratio: format!("{:.2} ×", server_us / client_us),
        must: "1.1 µs".into(),
        met: Some(server_us <= 1.1),
    });
    Ok(())
}

fn costs(seen: &mut [Seen]) -> String {
    let p99 = median(seen.iter_mut().map(|seen| seen.quantile_us(0.99)).collect()) / 1e3;
    let server = median(seen.iter().map(Seen::server_us).collect());
    let syncs = median(seen.iter().map(Seen::syncs_each).collect());
    format!("p99 {p99:.1} ms, server {server:.2} µs, {syncs:.4} syncs an event")
}
