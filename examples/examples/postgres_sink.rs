//! A sink into Postgres that is right whatever is killed, and whenever.
//!
//! Delivery is at least once, so writing is idempotent: the history has a primary key of (key, version), and the latest
//! value of a key is overwritten only by a higher version. A delivery is settled when its transaction is committed.
//!
//! `cargo run -p spile-examples --example postgres_sink -- GROUP 'host=/var/run/postgresql user=spile dbname=spile'`

use std::time::Duration;

use anyhow::{Context, Result};
use spile_client::{Consume, Delivery, GroupDelivery};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

/// Two sinks that begin at once, or one beside what a killed one left running, would both make them: one at a time.
const TABLES: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(7450);
    CREATE TABLE IF NOT EXISTS readings (
        key text NOT NULL, version bigint NOT NULL, topic text NOT NULL, accepted_ms bigint NOT NULL,
        value double precision NOT NULL, PRIMARY KEY (key, version));
    CREATE TABLE IF NOT EXISTS latest (
        key text PRIMARY KEY, version bigint NOT NULL, value double precision NOT NULL);
    COMMIT";

const HISTORY: &str = "
    INSERT INTO readings (key, version, topic, accepted_ms, value) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (key, version) DO NOTHING";

const LATEST: &str = "
    INSERT INTO latest (key, version, value) VALUES ($1, $2, $3)
    ON CONFLICT (key) DO UPDATE SET version = excluded.version, value = excluded.value
    WHERE latest.version < excluded.version";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (group, database) =
        args.next().zip(args.next()).context("say which group and which database")?;
    let client = spile_examples::builder()?.connect().await?;
    let mut deliveries = client.consume(&group, Consume::default().batch(256, 1 << 20)).await?;
    let mut postgres = Postgres::connect(&database).await?;
    postgres.client.batch_execute(TABLES).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        match postgres.store(delivery).await {
            Ok(()) => {}
            Err(why) => {
                eprintln!("postgres: {why}; what was not committed is tried again");
                postgres = Postgres::reconnect(&database).await;
            }
        }
    }
    Ok(())
}

struct Postgres {
    client: Client,
    /// Moves its bytes; ends with it.
    _connection: JoinSet<()>,
}

impl Postgres {
    async fn connect(database: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(why) = connection.await {
                eprintln!("postgres: {why}");
            }
        });
        Ok(Self { client, _connection: tasks })
    }

    async fn reconnect(database: &str) -> Self {
        let mut pause = Duration::from_millis(100);
        loop {
            match Self::connect(database).await {
                Ok(postgres) => return postgres,
                Err(why) => eprintln!("postgres: {why}; again in {pause:?}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Stores a run of one key's events in one transaction and settles it. Dropped by an error, the delivery is given
    /// back for a retry.
    async fn store(&mut self, mut delivery: GroupDelivery) -> Result<(), tokio_postgres::Error> {
        while !delivery.is_empty() {
            let good: Vec<_> =
                delivery.events().map_while(|event| Some((value(&event)?, event))).collect();
            if good.is_empty() {
                // No retry makes a number of it: a dead letter, and the key goes on.
                delivery.reject_first(1, "the payload is no number");
                continue;
            }
            let transaction = self.client.transaction().await?;
            for (value, event) in &good {
                let (key, topic) = (event.key.as_ref(), event.topic.as_ref());
                let (version, time) = (signed(event.version.0), signed(event.time.0));
                transaction.execute(HISTORY, &[&key, &version, &topic, &time, value]).await?;
                transaction.execute(LATEST, &[&key, &version, value]).await?;
            }
            transaction.commit().await?;
            // Only now: what is settled never comes again.
            delivery.done_first(good.len());
        }
        Ok(())
    }
}

fn value(event: &Delivery) -> Option<f64> {
    std::str::from_utf8(&event.payload).ok()?.trim().parse().ok()
}

/// Postgres has no unsigned numbers; versions and times stay far below its limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
