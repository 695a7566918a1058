//! `spile bench sessions`: opens sessions, TLS and credential and all, holds them or closes them.
//!
//! An event of the report is a session that was opened; its latency is from the first packet to WELCOME. With `--window`
//! or `--size` each publishes so much once it is open, which the bytes of the report are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spile_client::{Client, Event};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchSessions, Everywhere};
use crate::connect::{builder, effective, within};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;

const WHAT: &str = "bench sessions";
/// What they publish is about this, and so long where nothing is said.
const TOPIC: &str = "bench/load";
const SIZE: u64 = 256;
/// An idle session needs no more; the default would be most of what this process takes.
const SOCKET_BUFFER: usize = 2 * 1024;

pub(super) async fn run(
    args: &BenchSessions,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    let (end, context) = (End::of(args.extent), effective(typed)?);
    let publishes = match (args.window, args.size) {
        (None, None) => None,
        (window, size) => {
            let payload = super::publish::payload(WHAT, size.unwrap_or(SIZE))?;
            Some((window.unwrap_or(1), Bytes::from(payload)))
        }
    };
    let (done, mut tasks) = (Done::default(), JoinSet::new());
    let begun = now();
    let shared = Arc::new(Shared {
        left: AtomicU64::new(end.share(0, 1)),
        open: Barrier::new(usize::try_from(args.connections).unwrap_or(1)),
        context,
        publishes,
        timeout: typed.timeout,
        hold: args.hold,
        deadline: end.deadline(begun),
    });
    for _ in 0..args.connections {
        tasks.spawn(open(Arc::clone(&shared), done.clone(), begun));
    }
    gather(WHAT, tasks, end, &done, output).await
}

struct Shared {
    left: AtomicU64,
    open: Barrier,
    context: Context,
    /// How many events each session publishes, and of which payload.
    publishes: Option<(u32, Bytes)>,
    timeout: Duration,
    hold: Option<Duration>,
    deadline: Option<Instant>,
}

impl Shared {
    fn take(&self) -> bool {
        let due = self.deadline.is_none_or(|deadline| now() < deadline);
        let one = |left: u64| left.checked_sub(1);
        due && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok()
    }
}

async fn open(shared: Arc<Shared>, done: Done, begun: Instant) -> Result<Measured, Failure> {
    let (mut measured, mut held) = (Measured::default(), Vec::new());
    let prepared = builder(&shared.context)?.socket_buffer(SOCKET_BUFFER).prepare();
    let prepared = prepared.map_err(|error| Failure::client(WHAT, &error))?;
    while shared.take() {
        let at = now();
        match within(shared.timeout, "connect", prepared.connect()).await {
            Ok(client) => {
                measured.latency.record(now().duration_since(at), 1);
                measured.events += 1;
                if let Some((count, payload)) = &shared.publishes {
                    let sent = async { Ok(publish(&client, *count, payload).await) };
                    let sent = within(shared.timeout, "publish", sent).await;
                    let (stored, refused) = sent.unwrap_or((0, u64::from(*count)));
                    measured.bytes += stored * u64::try_from(payload.len()).unwrap_or(u64::MAX);
                    measured.errors += refused;
                }
                keep(&mut held, client, shared.hold).await;
            }
            // One that fails for a reason that stays would fail for ever.
            Err(failure) if measured.events == 0 => return Err(failure),
            Err(_) => measured.errors += 1,
        }
        done.add(1);
    }
    measured.elapsed = now().duration_since(begun);
    shared.open.wait().await;
    if let Some(hold) = shared.hold {
        tokio::time::sleep(hold).await;
    }
    for client in held {
        client.close().await;
    }
    Ok(measured)
}

/// Publishes under the session's own key: how many were acknowledged, and how many were not.
async fn publish(client: &Client, count: u32, payload: &Bytes) -> (u64, u64) {
    let event = |_| Event::new(TOPIC, payload.clone());
    let mut acks = client.publish_all((0..count).map(event));
    let (mut stored, mut refused) = (0, 0);
    while let Some(ack) = acks.next().await {
        *(if ack.is_ok() { &mut stored } else { &mut refused }) += 1;
    }
    (stored, refused)
}

async fn keep(held: &mut Vec<Client>, client: Client, hold: Option<Duration>) {
    if hold.is_some() {
        held.push(client);
    } else {
        client.close().await;
    }
}
