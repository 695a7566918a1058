//! `spile bench subscribe`: every connection receives everything, a block at a time; with `--size` what was published for
//! it before.
//!
//! Latency is told of events that came while it ran: from the edge's time to here, so both clocks must agree.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spile_client::{Client, Event, From, Interest, wall};
use spile_protocol::time::Millis;
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchSubscribe, Everywhere};
use crate::connect::{builder, connect, effective, within};
use crate::failure::Failure;
use crate::output::Output;

/// The key of what is published first.
const KEY: &str = "bench-0";
/// Bytes in flight a subscription asks for.
const WINDOW_BYTES: u32 = 16 << 20;

pub(super) async fn run(
    args: &BenchSubscribe,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    let end = End::of(args.extent);
    let published = match args.size {
        Some(size) => Some(publish(args, size, typed).await?),
        None => None,
    };
    let from = args.from.clone().map(|from| from.resolve(wall()));
    let from = from.or(published).unwrap_or(From::Start);
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        let context = effective(typed)?;
        clients.push(within(typed.timeout, "connect", builder(&context)?.connect()).await?);
    }
    let (done, mut tasks) = (Done::default(), JoinSet::new());
    let begun = now();
    for (index, client) in (0..).zip(clients) {
        let reading = Reading {
            client,
            interest: interest(args, from.clone()),
            left: end.share(index, args.connections),
            deadline: end.deadline(begun),
            done: done.clone(),
        };
        tasks.spawn(reading.run(begun));
    }
    gather("bench subscribe", tasks, end, &done, output).await
}

/// Publishes what is received afterwards: where that begins, by the server's clock.
async fn publish(args: &BenchSubscribe, size: u64, typed: &Everywhere) -> Result<From, Failure> {
    let payload = Bytes::from(super::publish::payload("bench subscribe", size)?);
    let client = connect(typed).await?;
    let begun = client.session().server_time;
    let count = args.extent.count.unwrap_or(u64::from(args.window));
    let topic = topic(&args.topic);
    let event = |_| Event::new(topic.as_str(), payload.clone()).key(KEY);
    let mut acks = client.publish_all((0..count).map(event));
    let mut outcome = Ok(From::Time(begun));
    while let Some(ack) = acks.next().await {
        if let Err(error) = ack {
            outcome = Err(Failure::client("publish what is to be received", &error));
            break;
        }
    }
    client.close().await;
    outcome
}

/// A topic that falls under the filter.
fn topic(filter: &str) -> String {
    let level = |level| if matches!(level, "+" | "#") { "load" } else { level };
    filter.split('/').map(level).collect::<Vec<_>>().join("/")
}

fn interest(args: &BenchSubscribe, from: From) -> Interest {
    Interest::filter(args.topic.as_str()).from(from).window(args.window, WINDOW_BYTES)
}

/// One connection's work.
struct Reading {
    client: Client,
    interest: Interest,
    left: u64,
    deadline: Option<Instant>,
    done: Done,
}

impl Reading {
    async fn run(self, begun: Instant) -> Result<Measured, Failure> {
        let failed = |error| Failure::client("bench subscribe", &error);
        let (mut measured, mut left, since) = (Measured::default(), self.left, wall());
        let mut events = self.client.subscribe(self.interest).await.map_err(failed)?;
        while left > 0 {
            let Some(block) = until(self.deadline, events.next_block()).await.flatten() else {
                break;
            };
            let block = block.map_err(failed)?;
            let count = u64::try_from(block.len()).unwrap_or(u64::MAX).min(left);
            left -= count;
            measured.events += count;
            measured.bytes += u64::try_from(block.bytes().len()).unwrap_or(0);
            if block.time >= since {
                measured.latency.record(age(block.time, wall()), count);
            }
            self.done.add(count);
        }
        measured.elapsed = now().duration_since(begun);
        drop(events);
        self.client.close().await;
        Ok(measured)
    }
}

fn age(Millis(accepted): Millis, Millis(now): Millis) -> Duration {
    Duration::from_millis(now.saturating_sub(accepted))
}

async fn until<T>(deadline: Option<Instant>, next: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), next).await.ok(),
        None => Some(next.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_falls_under_the_filter() {
        for filter in ["bench/#", "#", "a/+/c", "a/b", "+/+"] {
            assert!(spile_protocol::id::matches(filter, &topic(filter)), "{filter}");
        }
    }
}
