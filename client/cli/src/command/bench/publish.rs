//! `spile bench publish`: every connection keeps its window full and awaits the acks.

use std::collections::VecDeque;
use std::time::Instant;

use spile_client::{Client, Kind, Producer};
use spile_protocol::limits;
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchPublish, Everywhere};
use crate::connect::{builder, effective, within};
use crate::failure::Failure;
use crate::output::Output;

pub(super) async fn run(
    args: &BenchPublish,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    let payload = payload("bench publish", args.size)?;
    let end = End::of(args.extent);
    let mut producers = Vec::new();
    for index in 0..args.connections {
        producers.push((index, producer(index, args, typed).await?));
    }
    let (done, mut tasks) = (Done::default(), JoinSet::new());
    let begun = now();
    for (index, (client, producer)) in producers {
        let load = Load {
            producer,
            payload: payload.clone(),
            window: u64::from(args.window),
            left: end.share(index, args.connections),
            deadline: end.deadline(begun),
            done: done.clone(),
        };
        tasks.spawn(async move {
            let measured = load.run(begun).await;
            client.close().await;
            measured
        });
    }
    gather("bench publish", tasks, end, &done, output).await
}

/// Bytes that do not compress to nothing and are the same in every run.
pub(super) fn payload(what: &str, size: u64) -> Result<Vec<u8>, Failure> {
    let length = usize::try_from(size).ok().filter(|length| *length <= limits::PAYLOAD_MAX);
    let length = length.ok_or_else(|| {
        Failure::usage(what, format!("--size {size} is above {} bytes", limits::PAYLOAD_MAX))
    })?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    Ok(std::iter::repeat_with(byte).take(length).collect())
}

async fn producer(
    index: u32,
    args: &BenchPublish,
    typed: &Everywhere,
) -> Result<(Client, Producer), Failure> {
    let context = effective(typed)?;
    let client =
        within(typed.timeout, "connect", builder(&context)?.receipts(false).connect()).await?;
    let key = (!args.own_key).then(|| format!("{}{index}", args.key));
    let producer = client
        .producer(key.as_deref(), &args.topic, Kind::default())
        .map_err(|error| Failure::client(format!("publish {}", args.topic), &error))?;
    Ok((client, producer))
}

/// One connection's work.
struct Load {
    producer: Producer,
    payload: Vec<u8>,
    window: u64,
    left: u64,
    deadline: Option<Instant>,
    done: Done,
}

impl Load {
    async fn run(mut self, begun: Instant) -> Result<Measured, Failure> {
        let mut measured = Measured::default();
        // When so many were sent, oldest first: one entry a turn, not an event.
        let mut flight: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut in_flight = 0;
        let mut at = begun;
        loop {
            if self.deadline.is_some_and(|deadline| at >= deadline) {
                self.left = 0;
            }
            let room = (self.window - in_flight).min(self.left);
            let sent = self.producer.fill(&self.payload, room).await.map_err(failed)?;
            if sent > 0 {
                flight.push_back((at, sent));
                (in_flight, self.left) = (in_flight + sent, self.left - sent);
            }
            if in_flight == 0 && self.left == 0 {
                measured.elapsed = at.duration_since(begun);
                return Ok(measured);
            }
            let outcomes = self.producer.outcomes().await.map_err(failed)?;
            at = now();
            measured.errors += outcomes.refused;
            measured.events += outcomes.stored + outcomes.spooled;
            let ended = outcomes.stored + outcomes.spooled + outcomes.refused;
            settle(&mut flight, ended, at, &mut measured);
            in_flight -= ended;
            measured.bytes = measured.events * u64::try_from(self.payload.len()).unwrap_or(0);
            self.done.add(ended);
        }
    }
}

fn settle(flight: &mut VecDeque<(Instant, u64)>, ended: u64, at: Instant, measured: &mut Measured) {
    let mut left = ended;
    while left > 0 {
        let Some((sent, count)) = flight.front_mut() else { return };
        let taken = left.min(*count);
        measured.latency.record(at.duration_since(*sent), taken);
        (*count, left) = (*count - taken, left - taken);
        if *count == 0 {
            flight.pop_front();
        }
    }
}

fn failed(error: spile_client::Error) -> Failure {
    Failure::client("bench publish", &error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn acks_settle_the_oldest_first() {
        let start = now();
        let later = start + Duration::from_millis(10);
        let mut flight = VecDeque::from([(start, 3), (later, 5)]);
        let mut measured = Measured::default();
        settle(&mut flight, 4, later + Duration::from_millis(1), &mut measured);
        assert_eq!(flight, [(later, 4)]);
        let millis = |quantile| measured.latency.quantile(quantile).unwrap() / 1_000_000;
        assert_eq!((millis(0.25), millis(0.5)), (1, 11));
    }
}
