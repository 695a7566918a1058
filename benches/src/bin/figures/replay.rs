//! Replay: one consumer that reads everything from the start, of events that were published in blocks, one by one, and one by
//! one with a time of their own, which can't be joined.

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
/// Publishing one by one is slow, and a short run has other things to do.
const SHORT_SINGLES: u64 = 250_000;
/// What the consumer has under way.
const WINDOW: (u32, u32) = (65_536, 16 << 20);
const BLOCKS: &str = "replay/blocks";
const SINGLES: &str = "replay/singles";
const TIMED: &str = "replay/timed";

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let server = Server::start(folder)?;
    let singles = if size == Size::Short { SHORT_SINGLES } else { EVENTS };
    one_thread()?.block_on(async {
        let client = server.operator().receipts(false).connect().await?;
        let body = Bytes::from(payload(EVENT));
        let blocks = || Event::new(BLOCKS, body.clone()).key("blocks");
        publish(&client, EVENTS, blocks).await?;
        lone::publish(&server, ("singles", SINGLES), &body, singles).await?;
        // An event that says more than its payload is a record of its own, and a delivery.
        let time = wall();
        let timed = || Event::new(TIMED, body.clone()).key("timed").device_time(time);
        publish(&client, singles, timed).await?;
        table.push(row("in blocks", &client, &server, BLOCKS, EVENTS).await?);
        table.push(row("one by one", &client, &server, SINGLES, singles).await?);
        let timed = row("one by one with a device time", &client, &server, TIMED, singles).await?;
        table.push(Row { must: String::new(), met: None, ..timed });
        client.close().await;
        Ok(())
    })
}

async fn publish(client: &Client, events: u64, event: impl Fn() -> Event) -> Result<()> {
    let mut acked = client.publish_all((0..events).map(|_| event()));
    let mut stored = 0;
    while let Some(receipt) = acked.next().await {
        receipt?;
        stored += 1;
    }
    ensure!(stored == events, "{stored} of {events} were acked");
    Ok(())
}

async fn row(how: &str, client: &Client, server: &Server, topic: &str, events: u64) -> Result<Row> {
    // The first reads the disk's cache warm.
    read(client, server, topic, events).await?;
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        seen.push(read(client, server, topic, events).await?);
    }
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

async fn read(client: &Client, server: &Server, topic: &str, events: u64) -> Result<Seen> {
    let own = || process::cpu(std::process::id());
    let (server_cpu, own_cpu, begun) = (server.cpu()?, own()?, now());
    let interest = Interest::filter(topic).from(From::Start).window(WINDOW.0, WINDOW.1);
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
