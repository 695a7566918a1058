//! `spile bench subscribe`: every connection receives everything, a block at a time.
//!
//! Latency is told of events that came while it ran: from the edge's time to here, so both clocks must agree.

use std::time::{Duration, Instant};

use spile_client::{Client, From, Interest, wall};
use spile_protocol::time::Millis;
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchSubscribe, Everywhere};
use crate::connect::{builder, effective, within};
use crate::failure::Failure;
use crate::output::Output;

/// Bytes in flight a subscription asks for.
const WINDOW_BYTES: u32 = 16 << 20;

pub(super) async fn run(
    args: &BenchSubscribe,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    let (end, from) = (End::of(args.extent), args.from.clone().resolve(wall()));
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
