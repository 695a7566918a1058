//! A store that grows: whether ingest, memory and the start after kill -9 stay as they were with few events, and how soon one
//! key's events are found among all others.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spile_client::Event;
use spile_protocol::id::Version;

use crate::load::Load;
use crate::server::Server;
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, now, number, one_thread, process};

const EVENT: usize = 256;
/// What an event takes on the disk, and room to spare.
const STORED: u64 = 400;
const FIRST: u64 = 1_000_000;
/// The key that is looked for, and how many events it has, spread over all that is stored.
const NEEDLE: &str = "needle";
const NEEDLES: u64 = 1_000;

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let room = crate::disk::free(folder)? / 2 / STORED;
    let wanted = if size == Size::Short { 4_000_000 } else { 100_000_000 };
    let events = room.min(wanted);
    ensure!(events > 2 * FIRST, "the disk has no room for {} events", 2 * FIRST);
    let mut server = Server::start(folder)?;
    let (few, many) = one_thread()?.block_on(async {
        let few = grown(&server, FIRST, size).await?;
        let many = grown(&server, events, size).await?;
        sow(&server, NEEDLES - server.version(NEEDLE).await?).await?;
        anyhow::Ok((few, many))
    })?;
    let begun = now();
    server.kill_and_start(folder)?;
    let start = begun.elapsed();
    // The first after a start knows nothing; the second has what the first read in memory.
    let (first, second) = one_thread()?
        .block_on(async { anyhow::Ok((find(&server).await?, find(&server).await?)) })?;
    let label = format!("{} to {} events stored", millions(FIRST), millions(many.events));
    table.push(Row {
        what: format!("ingest with {label}"),
        measured: format!("{}/s", grouped(many.rate)),
        bare: format!("with {} events {}/s", millions(few.events), grouped(few.rate)),
        ratio: format!("{:.2} ×", many.rate / few.rate),
        must: "0.90 ×".into(),
        met: Some(many.rate >= 0.9 * few.rate),
    });
    table.push(Row {
        what: format!("memory with {label}"),
        measured: format!("{} MiB", many.resident >> 10),
        bare: format!("with {} events {} MiB", millions(few.events), few.resident >> 10),
        ratio: format!("{:.2} ×", number(many.resident) / number(few.resident)),
        must: "flat: at most 1.25 ×".into(),
        met: Some(number(many.resident) <= 1.25 * number(few.resident)),
    });
    table.push(Row {
        what: format!("{NEEDLES} events of one key out of {}", millions(many.events)),
        measured: format!("{:.1} ms", first.as_secs_f64() * 1e3),
        bare: format!("the same again {:.1} ms", second.as_secs_f64() * 1e3),
        ratio: format!("{:.2} ×", first.as_secs_f64() / second.as_secs_f64()),
        must: "50 ms".into(),
        met: Some(first < Duration::from_millis(50)),
    });
    table.push(Row {
        what: format!("kill -9 to ready with {} events stored", millions(many.events)),
        measured: format!("{:.2} s", start.as_secs_f64()),
        bare: String::new(),
        ratio: String::new(),
        must: "5 s".into(),
        met: Some(start < Duration::from_secs(5)),
    });
    Ok(())
}

fn millions(events: u64) -> String {
    format!("{:.0} M", number(events) / 1e6)
}

struct Grown {
    events: u64,
    rate: f64,
    resident: u64,
}

/// Publishes until so many are stored, then measures.
async fn grown(server: &Server, events: u64, size: Size) -> Result<Grown> {
    let mut load = Load::open(server, 4, 256, EVENT).await?;
    let mut stored = server.stored().await?;
    while stored < events {
        stored += load.run(server, Duration::from_millis(250)).await?.events;
        // A few of the needle's between each heap of the others, up to nine tenths of them.
        let share = NEEDLES * 9 / 10 * stored.min(events) / events;
        sow(server, share.saturating_sub(server.version(NEEDLE).await?)).await?;
    }
    load.close().await;
    // What devices do, not what a disk can swallow: it is not the disk's cache that is measured.
    let mut load = Load::open(server, 64, 16, EVENT).await?;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(load.run(server, size.window()).await?.per_s());
    }
    load.close().await;
    let resident = process::resident_kib(server.pid())?;
    Ok(Grown { events: server.stored().await?, rate: median(rates), resident })
}

/// Publishes so many of the needle's events.
async fn sow(server: &Server, events: u64) -> Result<()> {
    let client = server.operator().receipts(false).connect().await?;
    let one = |_| Event::new("bench/needle", vec![b'n'; EVENT]).key(NEEDLE);
    let mut acked = client.publish_all((0..events).map(one));
    while let Some(receipt) = acked.next().await {
        receipt?;
    }
    client.close().await;
    Ok(())
}

/// How long it takes to read all of the needle's events.
async fn find(server: &Server) -> Result<Duration> {
    let client = server.operator().connect().await?;
    let begun = now();
    let mut events = client.stream(NEEDLE, Version(1)).await?;
    for version in 1..=NEEDLES {
        let event = events.next().await.context("the stream ended")??;
        ensure!(event.version.0 == version, "version {} where {version} was next", event.version.0);
    }
    let took = begun.elapsed();
    client.close().await;
    Ok(took)
}
