//! Durable groups: one hot key, up to 100,000 keys, and 64 members some of whose events fail, beside a plain subscription that
//! reads the same events, or the same members without a failure; and as many keys that wait, over a restart.
//!
//! Every event is counted: one that is lost, done twice, or out of its key's order ends the run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::json;
use spile_client::{
    Client, Consume, Consumer, Delivery, Event, From, GroupDelivery, Interest, Settled,
};
use tokio::task::JoinSet;

use crate::load::payload;
use crate::server::{self, Server};
use crate::table::{Row, Table, grouped};
use crate::{Size, now, number, one_thread, process};

const EVENT: usize = 256;
const WINDOW: (u32, u32) = (65_536, 16 << 20);
const BATCH: (u32, u32) = (1_024, 1 << 20);
/// Keys that are published at a time; a session has little more lanes.
const LANES: usize = 250;
/// Keys of one run: a worker keeps the numbers of 65,536, and refuses lanes of more.
const KEYS_OF_RUN: usize = 50_000;
const MEMBERS: usize = 64;
/// One of so many events fails …
const FAILS: u64 = 100;
/// … so many times.
const TIMES: u32 = 3;
/// A figure that takes longer was not measured but waited for.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let mut server = Server::start(folder)?;
    one_thread()?.block_on(async {
        let operator = server.operator().receipts(false).connect().await?;
        let hot = Load { topic: "groups/hot", keys: 1, events: size.of(200_000, 1_000_000) };
        table.push(beside_reading(&server, &operator, &hot, "one hot key").await?);
        // Publishing to so many keys in turn takes longer than consuming them: a short run has a tenth.
        let keys = size.of(10_000, 100_000);
        let wide = Load { topic: "groups/wide", keys, events: keys };
        let what = format!("{} keys", grouped(number(keys)));
        table.push(beside_reading(&server, &operator, &wide, &what).await?);
        let many = Load { topic: "groups/many", keys: 2_000, events: size.of(20_000, 200_000) };
        table.push(failing(&server, &operator, &many).await?);
        operator.close().await;
        table.push(waiting_over_a_restart(&mut server, folder, keys).await?);
        Ok(())
    })
}

/// Events spread over keys.
struct Load {
    topic: &'static str,
    keys: u64,
    events: u64,
}

impl Load {
    async fn publish(&self, server: &Server) -> Result<()> {
        let body = Bytes::from(payload(EVENT));
        // All of a key at once, so that its blocks are as long as they can be.
        let each = usize::try_from(self.events / self.keys)?;
        let keys: Vec<_> =
            (0..self.keys).map(|key| Arc::<str>::from(format!("{}/{key}", self.topic))).collect();
        let mut stored = 0;
        for keys in keys.chunks(KEYS_OF_RUN) {
            let client = server.operator().receipts(false).connect().await?;
            for keys in keys.chunks(LANES) {
                let keys = keys.iter().flat_map(|key| std::iter::repeat_n(Arc::clone(key), each));
                let events = keys.map(|key| Event::new(self.topic, body.clone()).key(key));
                let mut acked = client.publish_all(events);
                while let Some(receipt) = acked.next().await {
                    receipt?;
                    stored += 1;
                }
            }
            client.close().await;
        }
        ensure!(stored == self.events, "{stored} of {} were acked", self.events);
        Ok(())
    }

    /// Events a second of a plain subscription that reads them all.
    async fn read(&self, client: &Client) -> Result<f64> {
        let interest = Interest::filter(self.topic).from(From::Start).window(WINDOW.0, WINDOW.1);
        let begun = now();
        let (mut subscription, mut seen) = (client.subscribe(interest).await?, 0);
        while seen < self.events {
            let block = subscription.next_block().await.context("the subscription ended")??;
            seen += u64::try_from(block.len())?;
        }
        Ok(number(self.events) / begun.elapsed().as_secs_f64())
    }
}

/// How far each key is: an event lost, doubled or out of order is found at once.
#[derive(Default)]
struct Order(HashMap<Arc<str>, u64>);

impl Order {
    fn done(&mut self, key: &Arc<str>, version: u64, count: u64) -> Result<()> {
        let last = self.0.entry(Arc::clone(key)).or_default();
        ensure!(version == *last + 1, "{key}: version {version} is done behind {last}");
        *last += count;
        Ok(())
    }
}

async fn beside_reading(
    server: &Server,
    operator: &Client,
    load: &Load,
    what: &str,
) -> Result<Row> {
    load.publish(server).await?;
    // The first reads the disk's cache warm.
    load.read(operator).await?;
    let bare = load.read(operator).await?;
    let group = load.topic.replace('/', "-");
    server::create_group(operator, json!({ "name": group, "filter": load.topic, "from": "start" }))
        .await?;
    let member = server.operator().receipts(false).connect().await?;
    let options = Consume::default().batch(BATCH.0, BATCH.1).window(WINDOW.0, WINDOW.1);
    let syncs = server::commits(operator).await?;
    let begun = now();
    let mut deliveries = member.consume(&group, options).await?;
    let (mut order, mut done, mut handed) = (Order::default(), 0, 0_u64);
    while done < load.events {
        let delivery = take(&mut deliveries).await?;
        let count = u64::try_from(delivery.len())?;
        order.done(&delivery.key, delivery.version.0, count)?;
        (done, handed) = (done + count, handed + 1);
        delivery.done();
    }
    tokio::time::timeout(PATIENCE, deliveries.settled()).await.context("settling hangs")?;
    let rate = number(load.events) / begun.elapsed().as_secs_f64();
    let syncs = server::commits(operator).await? - syncs;
    let tally = deliveries.close().await;
    ensure!(tally.durable == handed, "{handed} settlements: {tally:?}");
    member.close().await;
    Ok(Row {
        what: format!("group, {what}, {} events, one member", grouped(number(load.events))),
        measured: format!(
            "{}/s settled, {:.1} events a delivery, {:.4} syncs an event",
            grouped(rate),
            number(load.events) / number(handed),
            number(syncs) / number(load.events)
        ),
        bare: format!("a plain subscription that reads the same: {}/s", grouped(bare)),
        ratio: format!("{:.2} ×", rate / bare),
        must: String::new(),
        met: None,
    })
}

/// As many keys, each with an event that failed and waits: how much memory that takes, and how long it is after a kill until
/// another key's event is handed out.
async fn waiting_over_a_restart(server: &mut Server, folder: &Path, keys: u64) -> Result<Row> {
    const LATER: Duration = Duration::from_secs(3_600);
    let operator = server.operator().receipts(false).connect().await?;
    // The events are those of the plain load; none of them is done here.
    let definition = json!({ "name": "waits", "filter": "groups/wide", "from": "start" });
    server::create_group(&operator, definition).await?;
    let before = process::resident_kib(server.pid())?;
    let member = server.operator().receipts(false).connect().await?;
    let options = || Consume::default().batch(BATCH.0, BATCH.1).window(WINDOW.0, WINDOW.1);
    let mut deliveries = member.consume("waits", options()).await?;
    for _ in 0..keys {
        take(&mut deliveries).await?.retry(Some(LATER), "as the scenario says");
    }
    tokio::time::timeout(PATIENCE, deliveries.settled()).await.context("settling hangs")?;
    let after = process::resident_kib(server.pid())?;
    let shown = server::call(&operator, "$group", "show", &json!({ "name": "waits" })).await?;
    let count = |field: &str| shown.get(field).and_then(serde_json::Value::as_u64).unwrap_or(0);
    ensure!(count("keys") == keys && count("waiting") == keys, "not all of them wait: {shown}");
    member.close().await;
    operator.close().await;

    server.kill_and_start(folder)?;
    let operator = server.operator().receipts(false).connect().await?;
    let begun = now();
    let mut deliveries = operator.consume("waits", options()).await?;
    operator
        .publish(Event::new("groups/wide", Bytes::from(payload(EVENT))).key("groups/new"))
        .await?;
    let delivery = take(&mut deliveries).await?;
    let first = begun.elapsed();
    ensure!(*delivery.key == *"groups/new", "{} came, which waits", delivery.key);
    delivery.done();
    let again = process::resident_kib(server.pid())?;
    deliveries.close().await;
    operator.close().await;
    Ok(Row {
        what: format!("group, {} keys whose event failed and waits", grouped(number(keys))),
        measured: format!(
            "{:.0} MiB for them, {:.0} MiB by its own count; after a kill another key's event comes in {:.0} ms",
            number(after.saturating_sub(before)) / 1024.0,
            number(count("keys_bytes")) / 1_048_576.0,
            first.as_secs_f64() * 1e3,
        ),
        bare: format!(
            "the server has {:.0} MiB, after the kill {:.0} MiB",
            number(after) / 1024.0,
            number(again) / 1024.0
        ),
        ratio: String::new(),
        must: String::new(),
        met: None,
    })
}

async fn take(deliveries: &mut Consumer) -> Result<GroupDelivery> {
    let next = tokio::time::timeout(PATIENCE, deliveries.next()).await;
    Ok(next.context("nothing comes")?.context("the membership ended")??)
}

/// The same load through the same members, once without a failure and once with.
async fn failing(server: &Server, operator: &Client, load: &Load) -> Result<Row> {
    load.publish(server).await?;
    let (whole, _) = members(server, operator, load, "whole", 0).await?;
    let (failing, retried) = members(server, operator, load, "failing", TIMES).await?;
    let must = load.events / FAILS * u64::from(TIMES);
    ensure!(retried == must, "{retried} retries where {must} were asked for");
    Ok(Row {
        what: format!(
            "group, {MEMBERS} members, {} events of {} keys, 1 % fail {TIMES} times",
            grouped(number(load.events)),
            grouped(number(load.keys))
        ),
        measured: format!("{}/s done, {} retries", grouped(failing), grouped(number(retried))),
        bare: format!("the same without a failure: {}/s", grouped(whole)),
        ratio: format!("{:.2} ×", failing / whole),
        must: String::new(),
        met: None,
    })
}

/// Events done a second, and how many retries that took.
async fn members(
    server: &Server,
    operator: &Client,
    load: &Load,
    group: &str,
    times: u32,
) -> Result<(f64, u64)> {
    let definition = json!({
        "name": group, "filter": load.topic, "from": "start", "max_attempts": 100, "backoff_min_ms": 5,
        "backoff_max_ms": 20,
    });
    server::create_group(operator, definition).await?;
    let (mut clients, mut tasks) = (Vec::new(), JoinSet::new());
    let begun = now();
    for _ in 0..MEMBERS {
        let client = server.operator().receipts(false).connect().await?;
        let deliveries = client.consume(group, Consume::default().batch(16, BATCH.1)).await?;
        clients.push(client);
        tasks.spawn(member(deliveries, load.events / load.keys, times));
    }
    let (mut done, mut retried) = (HashMap::new(), 0);
    while !tasks.is_empty() {
        let ended = tokio::time::timeout(PATIENCE, tasks.join_next()).await;
        let part: Part = ended.context("members hang")?.context("events are missing")???;
        retried += part.retried;
        for (event, at) in part.done {
            ensure!(done.insert(event.clone(), at).is_none(), "{event:?} was done twice");
        }
    }
    ensure!(done.len() == usize::try_from(load.events)?, "{} events were done", done.len());
    let last = done.values().max().copied().unwrap_or(begun);
    for client in clients {
        client.close().await;
    }
    Ok((number(load.events) / (last - begun).as_secs_f64(), retried))
}

/// One of so many of all events, whoever gets it and whenever.
fn fails(event: &Delivery, each: u64) -> bool {
    let key = event.key.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0_u64);
    (key * each + event.version.0 - 1).is_multiple_of(FAILS)
}

/// What one member did.
#[derive(Default)]
struct Part {
    done: Vec<((Arc<str>, u64), std::time::Instant)>,
    retried: u64,
}

/// Works until nothing came for a while.
async fn member(mut deliveries: Consumer, each: u64, times: u32) -> Result<Part> {
    const SILENCE: Duration = Duration::from_secs(2);
    let mut part = Part::default();
    while let Ok(next) = tokio::time::timeout(SILENCE, deliveries.next()).await {
        let mut delivery = next.context("the membership ended")??;
        while let Some(event) = delivery.first() {
            if fails(&event, each) && delivery.attempt() <= times {
                let settled = delivery.retry(None, "as the scenario says").await?;
                ensure!(settled == Settled::Durable, "a retry came too late");
                part.retried += 1;
                break;
            }
            delivery.done_first(1);
            part.done.push(((Arc::clone(&event.key), event.version.0), now()));
        }
    }
    let tally = deliveries.close().await;
    ensure!(tally.too_late + tally.unknown == 0, "{tally:?}");
    Ok(part)
}
