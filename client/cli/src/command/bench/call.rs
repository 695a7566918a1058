//! `spile bench call`: every connection keeps so many calls under way and awaits the answers.
//!
//! Unless a service is named this process serves one that answers what it is asked, on a connection of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use spile_client::{Call, Client, Reply, Serving};
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchCall, Everywhere};
use crate::connect::{connect, within};
use crate::failure::Failure;
use crate::output::Output;

/// The longest payload, there and back in one frame.
const SIZE: u64 = 256 * 1024;

pub(super) async fn run(
    args: &BenchCall,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    if args.size > SIZE {
        return Err(Failure::usage(
            "bench call",
            format!("--size {} is above {SIZE} bytes", args.size),
        ));
    }
    let payload = Bytes::from(vec![b'c'; usize::try_from(args.size).unwrap_or_default()]);
    let end = End::of(args.extent);
    let echo = match &args.service {
        Some(_) => None,
        None => Some(echo(typed).await?),
    };
    let service: Arc<str> = match (&args.service, &echo) {
        (Some(service), _) => Arc::from(service.as_str()),
        (None, Some(echo)) => Arc::clone(&echo.name),
        (None, None) => Arc::default(),
    };
    let mut clients = Vec::new();
    for index in 0..args.connections {
        clients.push((index, connect(typed).await?));
    }
    let (done, mut tasks) = (Done::default(), JoinSet::new());
    let begun = now();
    for (index, client) in clients {
        let load = Load {
            client,
            service: Arc::clone(&service),
            method: args.method.clone(),
            payload: payload.clone(),
            left: Arc::new(AtomicU64::new(end.share(index, args.connections))),
            deadline: end.deadline(begun),
            done: done.clone(),
            patience: typed.timeout,
        };
        let load = Arc::new(load);
        for _ in 0..args.window {
            let load = Arc::clone(&load);
            tasks.spawn(async move { load.run(begun).await });
        }
    }
    let measured = gather("bench call", tasks, end, &done, output).await;
    if let Some(echo) = echo {
        echo.serving.stop().await;
        echo.client.close().await;
    }
    measured
}

/// A service that answers what it is asked.
struct Echo {
    client: Client,
    serving: Serving,
    name: Arc<str>,
}

async fn echo(typed: &Everywhere) -> Result<Echo, Failure> {
    let client = connect(typed).await?;
    // Two measurements at once do not answer each other.
    let name: Arc<str> = Arc::from(format!("bench-echo-{}", std::process::id()));
    let answer = |call: Call| async move { Ok(Reply::from(call.payload)) };
    let serving = client.serve(&name, 256, answer);
    let serving = within(typed.timeout, "serve the echo", serving).await?;
    Ok(Echo { client, serving, name })
}

/// One connection's work.
struct Load {
    client: Client,
    service: Arc<str>,
    method: String,
    payload: Bytes,
    left: Arc<AtomicU64>,
    deadline: Option<Instant>,
    done: Done,
    patience: std::time::Duration,
}

impl Load {
    /// One call after the other.
    async fn run(&self, begun: Instant) -> Result<Measured, Failure> {
        let mut measured = Measured::default();
        let mut at = begun;
        let take = |left: u64| left.checked_sub(1);
        while self.deadline.is_none_or(|deadline| at < deadline)
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        {
            let ask = self.client.ask(&self.service, &self.method).payload(self.payload.clone());
            let answer = ask.within(self.patience).send().await;
            let answered = now();
            match answer {
                Ok(reply) => {
                    measured.latency.record(answered.duration_since(at), 1);
                    measured.events += 1;
                    let bytes = self.payload.len() + reply.payload.len();
                    measured.bytes += u64::try_from(bytes).unwrap_or_default();
                }
                // Nobody there is no load; that one was refused or late is what is measured.
                Err(error) if error.retry_after().is_none() => {
                    return Err(Failure::client("bench call", &error));
                }
                Err(_) => measured.errors += 1,
            }
            at = answered;
            self.done.add(1);
        }
        measured.elapsed = at.duration_since(begun);
        Ok(measured)
    }
}
