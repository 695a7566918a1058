//! `spile bench sessions`: opens sessions, TLS and credential and all, holds them or closes them.
//!
//! An event of the report is a session that was opened; its latency is from the first packet to WELCOME.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use spile_client::Client;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchSessions, Everywhere};
use crate::connect::{builder, effective, within};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;

/// An idle session needs no more; the default would be most of what this process takes.
const SOCKET_BUFFER: usize = 2 * 1024;

pub(super) async fn run(
    args: &BenchSessions,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    let (end, context) = (End::of(args.extent), effective(typed)?);
    let (done, mut tasks) = (Done::default(), JoinSet::new());
    let begun = now();
    let shared = Arc::new(Shared {
        left: AtomicU64::new(end.share(0, 1)),
        open: Barrier::new(usize::try_from(args.connections).unwrap_or(1)),
        context,
        timeout: typed.timeout,
        hold: args.hold,
        deadline: end.deadline(begun),
    });
    for _ in 0..args.connections {
        tasks.spawn(open(Arc::clone(&shared), done.clone(), begun));
    }
    gather("bench sessions", tasks, end, &done, output).await
}

struct Shared {
    left: AtomicU64,
    open: Barrier,
    context: Context,
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
    let prepared = prepared.map_err(|error| Failure::client("bench sessions", &error))?;
    while shared.take() {
        let at = now();
        match within(shared.timeout, "connect", prepared.connect()).await {
            Ok(client) => {
                measured.latency.record(now().duration_since(at), 1);
                measured.events += 1;
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

async fn keep(held: &mut Vec<Client>, client: Client, hold: Option<Duration>) {
    if hold.is_some() {
        held.push(client);
    } else {
        client.close().await;
    }
}
