//! `spile bench upload`: connections that send uploads of one length, so many at once, until each is sealed.
//!
//! An event of the report is an upload; its latency is from its beginning to its seal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spile_client::{Client, Upload};
use tokio::task::JoinSet;

use super::{Done, End, Measured, gather, now};
use crate::args::{BenchUpload, Everywhere};
use crate::connect::{builder, effective, within};
use crate::failure::Failure;
use crate::output::Output;

pub(super) async fn run(
    args: &BenchUpload,
    typed: &Everywhere,
    output: &Output,
) -> Result<Measured, Failure> {
    let end = End::of(args.extent);
    let length = usize::try_from(args.size)
        .map_err(|_| Failure::usage("--size", "it does not fit this machine's memory"))?;
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        let context = effective(typed)?;
        clients.push(within(typed.timeout, "connect", builder(&context)?.connect()).await?);
    }
    let (done, mut tasks, begun) = (Done::default(), JoinSet::new(), now());
    let shared = Arc::new(Shared {
        bytes: content(length),
        left: AtomicU64::new(end.share(0, 1)),
        deadline: end.deadline(begun),
        done: done.clone(),
    });
    for (index, client) in (0..).zip(&clients) {
        for _ in 0..args.window {
            let key = format!("{}{index}", args.key);
            tasks.spawn(send(client.clone(), key, Arc::clone(&shared), begun));
        }
    }
    let measured = gather("bench upload", tasks, end, &done, output).await;
    for client in clients {
        client.close().await;
    }
    measured
}

/// Bytes that do not compress to nothing.
fn content(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

struct Shared {
    bytes: Bytes,
    left: AtomicU64,
    deadline: Option<Instant>,
    done: Done,
}

impl Shared {
    fn take(&self) -> bool {
        let due = self.deadline.is_none_or(|deadline| now() < deadline);
        let one = |left: u64| left.checked_sub(1);
        due && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok()
    }
}

async fn send(
    client: Client,
    key: String,
    shared: Arc<Shared>,
    begun: Instant,
) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    while shared.take() {
        let at = now();
        let upload = Upload::bytes(shared.bytes.clone()).key(key.as_str()).name("bench");
        let blob = client.upload(upload).await;
        let blob = blob.map_err(|error| Failure::client("bench upload", &error))?;
        measured.latency.record(now().duration_since(at), 1);
        measured.events += 1;
        measured.bytes += blob.size;
        shared.done.add(1);
    }
    measured.elapsed = now().duration_since(begun).max(Duration::from_nanos(1));
    Ok(measured)
}
