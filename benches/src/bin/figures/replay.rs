//! Replay: one consumer that reads everything from the start, of events that were published in blocks, one by one, and one by
//! one with a time of their own, which can't be joined. Each on a server of its own: what is read there is what is counted.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use spile_client::{Client, Event, From, Interest, wall};

use crate::disk::micros;
use crate::load::payload;
use crate::lone;
use crate::server::Server;
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, now, number, one_thread, process};

const EVENT: usize = 256;
const EVENTS: u64 = 1_000_000;
/// What can't be joined costs more, and a short run has other things to do.
const SHORT_TIMED: u64 = 250_000;
/// What the consumer has under way.
const WINDOW: (u32, u32) = (65_536, 16 << 20);
const KEY: &str = "replay";
const TOPIC: &str = "replay/topic";

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let timed = if size == Size::Short { SHORT_TIMED } else { EVENTS };
    one_thread()?.block_on(async {
        table.push(blocks(&fresh(folder, "blocks")?).await?);
        table.push(singles(&fresh(folder, "singles")?).await?);
        table.push(with_times(&fresh(folder, "timed")?, timed).await?);
        Ok(())
    })
}

fn fresh(folder: &Path, name: &str) -> Result<Server> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder)?;
    Server::start(&folder)
}

async fn blocks(server: &Server) -> Result<Row> {
    let body = Bytes::from(payload(EVENT));
    publish(server, EVENTS, || Event::new(TOPIC, body.clone()).key(KEY)).await?;
    row("in blocks", server, EVENTS).await
}

async fn singles(server: &Server) -> Result<Row> {
    lone::publish(server, (KEY, TOPIC), &payload(EVENT), EVENTS).await?;
    row("one by one", server, EVENTS).await
}

/// An event that says more than its payload is a record of its own, and a delivery.
async fn with_times(server: &Server, events: u64) -> Result<Row> {
    let (body, time) = (Bytes::from(payload(EVENT)), wall());
    let event = || Event::new(TOPIC, body.clone()).key(KEY).device_time(time);
    publish(server, events, event).await?;
    let row = row("one by one with a device time", server, events).await?;
    Ok(Row { must: String::new(), met: None, ..row })
}

async fn publish(server: &Server, events: u64, event: impl Fn() -> Event) -> Result<()> {
    let client = server.operator().receipts(false).connect().await?;
    let mut acked = client.publish_all((0..events).map(|_| event()));
    let mut stored = 0;
    while let Some(receipt) = acked.next().await {
        receipt?;
        stored += 1;
    }
    ensure!(stored == events, "{stored} of {events} were acked");
    drop(acked);
    client.close().await;
    Ok(())
}

async fn row(how: &str, server: &Server, events: u64) -> Result<Row> {
    let client = server.operator().connect().await?;
    // The first reads the disk's cache warm.
    read(&client, server, events).await?;
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        seen.push(read(&client, server, events).await?);
    }
    client.close().await;
    let rate = median(seen.iter().map(|seen| seen.per_s).collect());
    let cost = median(seen.iter().map(|seen| seen.server_us).collect());
    let client = median(seen.iter().map(|seen| seen.client_us).collect());
    // One consumer is one thread on each side: the busier one is the limit.
    let limit = 1e6 / cost.max(client);
    Ok(Row {
        what: format!("replay of {} events published {how}, one consumer", grouped(number(events))),
        measured: format!("{}/s, server {cost:.2} µs an event", grouped(rate)),
        bare: format!("1 core / the larger of {cost:.2} and {client:.2} µs: {}/s", grouped(limit)),
        ratio: format!("{:.2} ×", rate / limit),
        must: "3,000,000/s".into(),
        met: Some(rate >= 3e6),
    })
}

struct Seen {
    per_s: f64,
    server_us: f64,
    client_us: f64,
}

async fn read(client: &Client, server: &Server, events: u64) -> Result<Seen> {
    let own = || process::cpu(std::process::id());
    let (server_cpu, own_cpu, begun) = (server.cpu()?, own()?, now());
    let interest = Interest::filter(TOPIC).from(From::Start).window(WINDOW.0, WINDOW.1);
    let mut subscription = client.subscribe(interest).await?;
    let (mut seen, mut next) = (0, 1);
    while seen < events {
        let block = subscription.next_block().await.context("the subscription ended")??;
        ensure!(block.version.0 == next, "version {} where {next} was next", block.version.0);
        let count = u64::try_from(block.len())?;
        (seen, next) = (seen + count, next + count);
    }
    ensure!(seen == events, "{seen} events where {events} were published");
    let elapsed = begun.elapsed().as_secs_f64();
    let each =
        |before, after: std::time::Duration| micros(after.saturating_sub(before)) / number(events);
    Ok(Seen {
        per_s: number(events) / elapsed,
        server_us: each(server_cpu, server.cpu()?),
        client_us: each(own_cpu, own()?),
    })
}
