//! A store that grows: whether ingest, memory and the start after kill -9 stay as they were with few events.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::Load;
use crate::server::Server;
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, now, number, one_thread, process};

const EVENT: usize = 256;
/// What an event takes on the disk, and room to spare.
const STORED: u64 = 400;
const FIRST: u64 = 1_000_000;

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let room = crate::disk::free(folder)? / 2 / STORED;
    let wanted = if size == Size::Short { 4_000_000 } else { 100_000_000 };
    let events = room.min(wanted);
    ensure!(events > 2 * FIRST, "the disk has no room for {} events", 2 * FIRST);
    let mut server = Server::start(folder)?;
    let (few, many) = one_thread()?.block_on(async {
        let few = grown(&server, FIRST, size).await?;
        let many = grown(&server, events, size).await?;
        anyhow::Ok((few, many))
    })?;
    let begun = now();
    server.kill_and_start(folder)?;
    let start = begun.elapsed();
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
    let mut load = Load::open(server, 4, 1024, EVENT).await?;
    let mut stored = server.stored().await?;
    while stored < events {
        stored += load.run(server, Duration::from_millis(500)).await?.events;
    }
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(load.run(server, size.window()).await?.per_s());
    }
    load.close().await;
    let resident = process::resident_kib(server.pid())?;
    Ok(Grown { events: server.stored().await?, rate: median(rates), resident })
}
