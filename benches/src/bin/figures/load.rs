//! A publishing load: connections that keep their windows full and await the acks, all on the caller's thread.
//!
//! As `spile bench publish` does it: no clock, counter or allocation an event. Here the connections outlive a repetition, so
//! that what is measured is publishing and nothing else.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use spile_client::{Client, Kind, Producer};
use tokio::task::JoinSet;

use crate::disk::micros;
use crate::server::{self, Server};
use crate::{now, number};

/// Connections that publish.
pub(crate) struct Load {
    lanes: Vec<Lane>,
    operator: Client,
}

/// One connection's.
struct Lane {
    client: Client,
    producer: Producer,
    payload: Vec<u8>,
    window: u64,
}

/// What a repetition showed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    /// How long so many took, in µs.
    took: Vec<(f64, u64)>,
    /// Processor time of the server.
    pub(crate) server: Duration,
    /// Processor time of this process.
    pub(crate) client: Duration,
    pub(crate) syncs: u64,
}

impl Load {
    pub(crate) async fn open(
        server: &Server,
        connections: usize,
        window: u64,
        bytes: usize,
    ) -> Result<Self> {
        let mut lanes = Vec::new();
        for index in 0..connections {
            let client = server.operator().receipts(false).connect().await?;
            let key = format!("load-{connections}-{window}-{index}");
            let producer = client.producer(Some(&key), "bench/load", Kind::default())?;
            lanes.push(Lane { client, producer, payload: payload(bytes), window });
        }
        Ok(Self { lanes, operator: server.operator().connect().await? })
    }

    /// Publishes for so long, and until all is acked.
    pub(crate) async fn run(&mut self, server: &Server, time: Duration) -> Result<Seen> {
        let syncs = server::commits(&self.operator).await?;
        let (server_cpu, own_cpu) = (server.cpu()?, crate::process::cpu(std::process::id())?);
        let (begun, mut tasks) = (now(), JoinSet::new());
        for lane in self.lanes.drain(..) {
            tasks.spawn(lane.run(begun, begun + time));
        }
        let mut seen = Seen::default();
        while let Some(ended) = tasks.join_next().await {
            let (lane, part) = ended??;
            self.lanes.push(lane);
            seen.add(part);
        }
        seen.server = server.cpu()?.saturating_sub(server_cpu);
        seen.client = crate::process::cpu(std::process::id())?.saturating_sub(own_cpu);
        seen.syncs = server::commits(&self.operator).await? - syncs;
        Ok(seen)
    }

    pub(crate) async fn close(self) {
        for lane in self.lanes {
            drop(lane.producer);
            lane.client.close().await;
        }
        self.operator.close().await;
    }
}

impl Lane {
    async fn run(mut self, begun: Instant, deadline: Instant) -> Result<(Self, Seen)> {
        let mut seen = Seen::default();
        // When so many were sent, oldest first: one entry a turn, not an event.
        let mut flight: VecDeque<(Instant, u64)> = VecDeque::new();
        let (mut in_flight, mut at) = (0, begun);
        loop {
            let room = if at < deadline { self.window - in_flight } else { 0 };
            let sent = self.producer.fill(&self.payload, room).await?;
            if sent > 0 {
                flight.push_back((at, sent));
                in_flight += sent;
            }
            if in_flight == 0 {
                seen.elapsed = at.duration_since(begun);
                return Ok((self, seen));
            }
            let outcomes = self.producer.outcomes().await?;
            ensure!(outcomes.refused == 0, "refused: {:?}", outcomes.refusal);
            at = now();
            seen.events += outcomes.stored;
            in_flight -= outcomes.stored;
            settle(&mut flight, outcomes.stored, at, &mut seen.took);
        }
    }
}

/// Acks settle the oldest first.
fn settle(
    flight: &mut VecDeque<(Instant, u64)>,
    mut ended: u64,
    at: Instant,
    took: &mut Vec<(f64, u64)>,
) {
    while ended > 0 {
        let Some((sent, count)) = flight.front_mut() else { return };
        let taken = ended.min(*count);
        took.push((micros(at.duration_since(*sent)), taken));
        (*count, ended) = (*count - taken, ended - taken);
        if *count == 0 {
            flight.pop_front();
        }
    }
}

impl Seen {
    fn add(&mut self, part: Self) {
        self.events += part.events;
        self.elapsed = self.elapsed.max(part.elapsed);
        self.took.extend(part.took);
    }

    pub(crate) fn per_s(&self) -> f64 {
        number(self.events) / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(crate) fn server_us(&self) -> f64 {
        micros(self.server) / number(self.events.max(1))
    }

    pub(crate) fn client_us(&self) -> f64 {
        micros(self.client) / number(self.events.max(1))
    }

    pub(crate) fn syncs_each(&self) -> f64 {
        number(self.syncs) / number(self.events.max(1))
    }

    /// Within how many µs that part of all events was acked.
    pub(crate) fn quantile_us(&mut self, quantile: f64) -> f64 {
        self.took.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rank = number(self.events) * quantile;
        let mut passed = 0;
        let found = self.took.iter().find(|(_, count)| {
            passed += count;
            number(passed) >= rank
        });
        found.map_or(0.0, |(us, _)| *us)
    }
}

/// Bytes that do not compress to nothing and are the same in every run.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes().first().copied().unwrap_or_default()
    };
    std::iter::repeat_with(byte).take(bytes).collect()
}
