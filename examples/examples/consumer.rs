//! A consumer that keeps the order of each key, retries what fails for a while and rejects what can never succeed.
//!
//! Start it as often as you like: the members of a group share the keys, and no key is with two of them at once.
//!
//! `cargo run -p spile-examples --example consumer -- GROUP`

use std::time::Duration;

use anyhow::{Context, Result};
use spile_client::{Consume, Delivery, GroupDelivery, Settled, Settling};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Keys worked on at a time.
const AT_ONCE: usize = 16;

/// Why an event was not handled.
enum Failed {
    /// The world was not ready; it may be later.
    ForNow(String),
    /// The event itself is wrong.
    ForGood(String),
}

#[tokio::main]
async fn main() -> Result<()> {
    let group = std::env::args().nth(1).context("say which group; make one: spile group create")?;
    let client = spile_examples::builder()?.connect().await?;
    let mut deliveries = client.consume(&group, Consume::default().batch(16, 1 << 20)).await?;
    let mut under_way = JoinSet::new();
    // Once, before the loop: what listens for one turn only misses a Ctrl-C between two.
    let mut stop = signal(SignalKind::interrupt())?;
    loop {
        // A delivery is one key's, and the next of that key comes when this one is settled: so deliveries can be worked
        // on side by side, and each key keeps its order.
        tokio::select! {
            delivery = deliveries.next(), if under_way.len() < AT_ONCE => match delivery {
                Some(delivery) => drop(under_way.spawn(work(delivery?))),
                None => break,
            },
            Some(worked) = under_way.join_next() => worked?,
            _ = stop.recv() => break,
        }
    }
    // What is being worked on is finished and settled; what was not begun goes to the other members.
    while let Some(worked) = under_way.join_next().await {
        worked?;
    }
    println!("{:?}", deliveries.close().await);
    client.close().await;
    Ok(())
}

/// A run of one key's events, one after the other; the first that fails is settled, and all behind it with it.
async fn work(mut delivery: GroupDelivery) {
    while let Some(event) = delivery.first() {
        let settling = match handle(&event) {
            Ok(()) => delivery.done_first(1),
            Err(Failed::ForGood(why)) => delivery.reject_first(1, &why),
            Err(Failed::ForNow(why)) => {
                // This key waits; all others go on. None: as long as the group's backoff says.
                let after = (delivery.attempt() == 1).then_some(Duration::from_millis(200));
                report(&event, delivery.retry(after, &why)).await;
                return;
            }
        };
        report(&event, settling).await;
    }
}

/// Waiting for each answer is the careful way. Dropping it instead keeps the order too, and is faster.
async fn report(event: &Delivery, settling: Settling) {
    match settling.await {
        Ok(Settled::Durable) => {}
        Ok(Settled::TooLate) => {
            eprintln!("{} {}: too late, it comes again", event.key, event.version)
        }
        Err(why) => eprintln!("{} {}: {why}; it may come again", event.key, event.version),
    }
}

/// What this service does. It must be safe to do twice: a settlement can get lost after the work is done.
fn handle(event: &Delivery) -> Result<(), Failed> {
    let text = std::str::from_utf8(&event.payload)
        .map_err(|_| Failed::ForGood("the payload is no text".to_owned()))?;
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => {
            println!("{} {} {value}", event.key, event.version);
            Ok(())
        }
        Ok(_) => Err(Failed::ForNow(format!("{text:?} is no measurement yet"))),
        Err(_) => Err(Failed::ForGood(format!("{text:?} is no number"))),
    }
}
