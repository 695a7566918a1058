//! Uploads: one long one, many of 1 MiB with their syncs counted, thousands at once, and events beside them.
//!
//! The bare limit is what the same disk takes in appends of 1 MiB, each synced, in the same minute, taken before and
//! after. The client reads, hashes, encrypts and sends on the same machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use spile_client::{Client, Upload};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::disk::Growing;
use crate::load::{Load, payload};
use crate::server::{Server, status};
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, now, number, two_threads};

const MIB: u64 = 1 << 20;
/// Appends of 1 MiB a measurement of the bare disk takes.
const APPENDS: usize = 32;
const CONNECTIONS: usize = 32;
/// Uploads a connection has under way in the scenario of many.
const WINDOW: usize = 8;
/// Uploads a session may have open.
const A_SESSION: usize = 64;

/// How much of everything.
struct Extent {
    long: u64,
    many: usize,
    at_once: usize,
}

impl Extent {
    const fn of(size: Size) -> Self {
        match size {
            Size::Short => Self { long: 128 * MIB, many: 200, at_once: 1_000 },
            Size::Full => Self { long: 1024 * MIB, many: 1_000, at_once: 10_000 },
        }
    }
}

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let extent = Extent::of(size);
    let server = Server::start(folder)?;
    let mut disk = Growing::create(&folder.join("growing"))?;
    two_threads()?.block_on(async {
        long(&server, (folder, &mut disk), &extent, table).await?;
        many(&server, &mut disk, &extent, table).await?;
        at_once(&server, &extent, table).await?;
        beside_events(&server, size, table).await
    })
}

/// What the bare disk takes a second, in MiB.
fn bare(disk: &mut Growing) -> Result<f64> {
    let us = disk.append_us(usize::try_from(MIB)?, APPENDS)?;
    Ok(1e6 / us)
}

/// Commits of the chunk log and of the event log.
async fn syncs(operator: &Client) -> Result<(u64, u64)> {
    let status = status(operator).await?;
    let count = |name: &str| {
        let found = status.pointer(&format!("/workers/0/{name}")).and_then(Value::as_u64);
        found.with_context(|| format!("$status tells no {name}: {status}"))
    };
    Ok((count("chunk_commits")?, count("commits")?))
}

async fn long(
    server: &Server,
    (folder, disk): (&Path, &mut Growing),
    extent: &Extent,
    table: &mut Table,
) -> Result<()> {
    let file = folder.join("long.bin");
    std::fs::write(&file, payload(usize::try_from(extent.long)?))?;
    let client = server.operator().connect().await?;
    let (mut rates, mut limits, mut server_s) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        limits.push(bare(disk)?);
        let (begun, cpu) = (now(), server.cpu()?);
        let blob = client.upload(Upload::path(&file).key("long")).await?;
        rates.push(number(extent.long / MIB) / begun.elapsed().as_secs_f64());
        server_s.push(server.cpu()?.saturating_sub(cpu).as_secs_f64());
        ensure!(blob.sent == extent.long, "sent {} of {}", blob.sent, extent.long);
        limits.push(bare(disk)?);
    }
    client.close().await;
    std::fs::remove_file(&file)?;
    let (own, limit) = (median(rates), median(limits));
    let per_gib = median(server_s) * number(1024 * MIB) / number(extent.long);
    table.push(Row {
        what: format!("one upload of {} MiB over TLS, synced", extent.long / MIB),
        measured: format!("{own:.0} MiB/s"),
        bare: format!("appends of 1 MiB, each synced: {limit:.0} MiB/s"),
        ratio: format!("{:.2} ×", own / limit),
        must: "0.90 × bare append".into(),
        met: Some(own >= 0.9 * limit),
    });
    table.push(Row {
        what: "server CPU a GiB of it, BLAKE3 and all".into(),
        measured: format!("{per_gib:.2} s"),
        bare: String::new(),
        ratio: String::new(),
        must: "0.75 s".into(),
        met: Some(per_gib <= 0.75),
    });
    Ok(())
}

async fn clients(server: &Server, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(server.operator().connect().await?);
    }
    Ok(clients)
}

/// Sends so many uploads over the connections, each with so many under way at once: how long it took.
async fn send(clients: &[Client], window: usize, count: usize, bytes: &Bytes) -> Result<Duration> {
    let (begun, mut tasks) = (now(), JoinSet::new());
    let streams = clients.len() * window;
    for (at, client) in (0..streams).zip(clients.iter().cycle()) {
        let share = count / streams + usize::from(at < count % streams);
        let (client, bytes) = (client.clone(), bytes.clone());
        tasks.spawn(async move {
            for _ in 0..share {
                let upload = Upload::bytes(bytes.clone()).key(format!("key-{at}"));
                client.upload(upload).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(begun.elapsed())
}

async fn close(clients: Vec<Client>) {
    for client in clients {
        client.close().await;
    }
}

async fn many(
    server: &Server,
    disk: &mut Growing,
    extent: &Extent,
    table: &mut Table,
) -> Result<()> {
    let clients = clients(server, CONNECTIONS).await?;
    let operator = server.operator().connect().await?;
    let bytes = Bytes::from(payload(usize::try_from(MIB)?));
    let (mut rates, mut limits, mut server_s) = (Vec::new(), Vec::new(), Vec::new());
    let (mut chunk_syncs, mut event_syncs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        limits.push(bare(disk)?);
        let (before, cpu) = (syncs(&operator).await?, server.cpu()?);
        let took = send(&clients, WINDOW, extent.many, &bytes).await?;
        let after = syncs(&operator).await?;
        rates.push(number(u64::try_from(extent.many)?) / took.as_secs_f64());
        server_s.push(server.cpu()?.saturating_sub(cpu).as_secs_f64());
        chunk_syncs.push(number(after.0 - before.0));
        event_syncs.push(number(after.1 - before.1));
        limits.push(bare(disk)?);
    }
    close(clients).await;
    operator.close().await;
    let (own, limit) = (median(rates), median(limits));
    let (chunks, events) = (median(chunk_syncs), median(event_syncs));
    let per_gib = median(server_s) * 1024.0 / number(u64::try_from(extent.many)?);
    table.push(Row {
        what: format!("{} uploads of 1 MiB, {CONNECTIONS} connections", extent.many),
        measured: format!("{own:.0} MiB/s, server {per_gib:.2} CPU s/GiB"),
        bare: format!("appends of 1 MiB, each synced: {limit:.0} MiB/s"),
        ratio: format!("{:.2} ×", own / limit),
        must: "0.90 × bare append".into(),
        met: Some(own >= 0.9 * limit),
    });
    table.push(Row {
        what: format!("syncs of {} uploads of 1 MiB", extent.many),
        measured: format!("{chunks:.0} of the chunk log, {events:.0} of the event log"),
        bare: format!("one an upload: {}", extent.many),
        ratio: format!("{:.2} an upload", (chunks + events) / number(u64::try_from(extent.many)?)),
        must: "100 for 1,000, both logs together".into(),
        // With fewer the first and last of them, which share no sync, are a larger part.
        met: (extent.many >= 1_000).then_some(chunks + events <= 100.0),
    });
    Ok(())
}

async fn at_once(server: &Server, extent: &Extent, table: &mut Table) -> Result<()> {
    let clients = clients(server, extent.at_once.div_ceil(A_SESSION)).await?;
    let bytes = Bytes::from(payload(4 * 1024));
    let cpu = server.cpu()?;
    let took = send(&clients, A_SESSION, extent.at_once, &bytes).await?;
    let count = number(u64::try_from(extent.at_once)?);
    let each_us = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / count;
    close(clients).await;
    table.push(Row {
        what: format!("{} uploads of 4 KiB at once", grouped(count)),
        measured: format!(
            "{}/s, all in {:.2} s",
            grouped(count / took.as_secs_f64()),
            took.as_secs_f64()
        ),
        bare: format!("server {each_us:.0} µs an upload"),
        ratio: String::new(),
        must: String::new(),
        met: None,
    });
    Ok(())
}

/// Uploads without end, until it is told to stop: how many bytes.
async fn keep_sending(client: Client, bytes: Bytes, stop: Arc<Notify>) -> Result<u64> {
    let mut sent = 0;
    let mut stopped = std::pin::pin!(stop.notified());
    stopped.as_mut().enable();
    loop {
        tokio::select! {
            () = &mut stopped => return Ok(sent),
            blob = client.upload(Upload::bytes(bytes.clone()).key("beside")) => sent += blob?.size,
        }
    }
}

async fn beside_events(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    let mut load = Load::open(server, 8, 16, 256).await?;
    load.run(server, Duration::from_millis(500)).await?;
    let (mut alone, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let clients = clients(server, 4).await?;
    let bytes = Bytes::from(payload(usize::try_from(4 * MIB)?));
    for _ in 0..ROUNDS {
        alone.push(load.run(server, size.window()).await?.quantile_us(0.99));
        let (stop, mut tasks, begun) = (Arc::new(Notify::new()), JoinSet::new(), now());
        for client in &clients {
            tasks.spawn(keep_sending(client.clone(), bytes.clone(), Arc::clone(&stop)));
        }
        beside.push(load.run(server, size.window()).await?.quantile_us(0.99));
        stop.notify_waiters();
        let mut sent = 0;
        while let Some(ended) = tasks.join_next().await {
            sent += ended??;
        }
        rates.push(number(sent / MIB) / begun.elapsed().as_secs_f64());
    }
    load.close().await;
    close(clients).await;
    let (alone, beside) = (median(alone), median(beside));
    table.push(Row {
        what: "events beside uploads, 8 × 16 in flight, p99".into(),
        measured: format!("{beside:.0} µs beside {:.0} MiB/s of uploads", median(rates)),
        bare: format!("without uploads {alone:.0} µs"),
        ratio: format!("{:.2} ×", beside / alone),
        must: "2 × without".into(),
        met: Some(beside <= 2.0 * alone),
    });
    Ok(())
}
