//! How fast one worker takes events, on the disk of the folder it is told, beside a bare append of the same run; then how
//! fast one consumer gets them back.
//!
//! `cargo run --release -p spile-worker --example intake [FOLDER] [SECONDS]`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a measurement reads clocks and ends on any error"
)]

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use spile_log::{Log, Options, RealDisk};
use spile_protocol::{
    crc,
    id::{LaneId, Number, Role, RouteId, Run, SubscriptionId},
    message::{
        Ack, Batch, Bind, Event, Extras, From, Lane, Lengths, Message, Outcome, Settle, Source,
        Subscribe,
    },
    time::Millis,
};
use spile_worker::{Config, Polled, Session, Worker, attach_of};

const NOW: Millis = Millis(1_700_000_000_000);
const SIZE: usize = 256;

/// What one publisher counted.
#[derive(Default)]
struct Counted {
    events: u64,
    /// Time inside intakes.
    intake: Duration,
    latencies_us: Vec<u128>,
    /// The quickest full intake, for one event: what it costs where nobody else has the processor.
    best_ns: Option<u128>,
}

fn open(folder: &Path) -> Arc<Worker> {
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let (log, _) =
        Log::open(disk, Options { queue_bytes: 64 << 20, ..Options::default() }).unwrap();
    let config = Config { name: "w".to_owned(), waiting_bytes: 16 << 20, ..Config::default() };
    Worker::open(config, Arc::new(log), None).unwrap()
}

fn session(worker: &Arc<Worker>, name: &str) -> Session {
    let mut session = worker.attach(&attach_of("main", Role::Device, name, Run([1; 8])));
    let lane = Lane { lane: LaneId(0), first_unacked: Number(1), key: None, urgent: false };
    let bind = Bind {
        route: RouteId(0),
        lane: LaneId(0),
        topic: "telemetry/temp",
        content_type: "",
        schema: 0,
        encoding: "",
    };
    let mut intake = session.intake();
    for message in [Message::Lane(lane), Message::Bind(bind)] {
        intake.message(NOW, Number(0), &message, &Bytes::new(), 0);
    }
    intake.finish();
    session
}

async fn publish(mut session: Session, window: u64, until: Instant, batch: bool) -> Counted {
    let payload =
        Bytes::from(vec![7; SIZE * if batch { usize::try_from(window).unwrap() } else { 1 }]);
    let payload_crc = crc::of(&payload);
    let (mut sent, mut acked) = (0, 0);
    let mut counted = Counted::default();
    let mut begun = Instant::now();
    let mut first_in_flight = 0;
    while Instant::now() < until || acked < sent {
        let in_flight = sent - acked;
        let now = Instant::now();
        if now < until && if batch { in_flight == 0 } else { in_flight < window } {
            let mut intake = session.intake();
            if batch {
                let lengths =
                    Lengths::same(u32::try_from(window).unwrap(), u32::try_from(SIZE).unwrap());
                let batch = Batch {
                    route: RouteId(0),
                    lengths,
                    extras: Extras::default(),
                    payload: &payload,
                };
                intake.message(
                    NOW,
                    Number(sent + 1),
                    &Message::Batch(batch),
                    &payload,
                    payload_crc,
                );
                sent += window;
            } else {
                for _ in in_flight..window {
                    sent += 1;
                    let event =
                        Event { route: RouteId(0), extras: Extras::default(), payload: &payload };
                    intake.message(
                        NOW,
                        Number(sent),
                        &Message::Event(event),
                        &payload,
                        payload_crc,
                    );
                }
            }
            intake.finish();
            let took = now.elapsed();
            counted.intake += took;
            if in_flight == 0 {
                let each = took.as_nanos() / u128::from(window);
                counted.best_ns = Some(counted.best_ns.map_or(each, |best| best.min(each)));
            }
            if first_in_flight <= acked {
                (begun, first_in_flight) = (now, sent);
            }
        }
        session.ready().await;
        let mut last = acked;
        session.poll(1 << 20, &mut |message, _| {
            if let Message::Ack(Ack::Spelled { last: to, .. }) = message {
                last = to.0;
            }
        });
        acked = last;
        if acked >= first_in_flight && first_in_flight > 0 {
            counted.latencies_us.push(begun.elapsed().as_micros());
            first_in_flight = 0;
        }
    }
    counted.events = acked;
    counted
}

/// Appends `bytes` and syncs, over and over: seconds for one.
fn bare(folder: &Path, bytes: usize) -> f64 {
    let mut file = File::create(folder.join("bare")).unwrap();
    let buffer = vec![1; bytes];
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_millis(700) {
        let one = Instant::now();
        file.write_all(&buffer).unwrap();
        file.sync_data().unwrap();
        times.push(one.elapsed());
    }
    std::fs::remove_file(folder.join("bare")).unwrap();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

async fn scenario(folder: &Path, sessions: u64, window: u64, seconds: u64, batch: bool) {
    let data = folder.join(format!("s{sessions}x{window}{batch}"));
    let worker = open(&data);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..sessions {
        tasks.spawn(publish(session(&worker, &format!("device-{n}")), window, until, batch));
    }
    let mut all = Counted::default();
    while let Some(one) = tasks.join_next().await {
        let one = one.unwrap();
        all.events += one.events;
        all.intake += one.intake;
        all.latencies_us.extend(one.latencies_us);
        all.best_ns = all.best_ns.into_iter().chain(one.best_ns).min();
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu() - cpu_before);
    all.latencies_us.sort_unstable();
    let at = |part: usize| {
        all.latencies_us.get(all.latencies_us.len() * part / 1000).copied().unwrap_or_default()
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let (events, commits) = (all.events as f64, worker.status().commits as f64);
    println!(
        "{sessions:>3} × {window:<4}{} {:>9.0} events/s  {:>5.2} µs CPU/event  intake {:>4.0} ns/event, at best {}  {:>6.1} events/sync  p50 {} µs  p99 {} µs",
        if batch { " batch" } else { "      " },
        events / wall,
        cpu / events * 1e6,
        all.intake.as_secs_f64() / events * 1e9,
        all.best_ns.unwrap_or_default(),
        events / commits,
        at(500),
        at(990),
    );
    replay(&worker, all.events);
}

fn replay(worker: &Arc<Worker>, events: u64) {
    let mut reader = worker.attach(&attach_of("main", Role::Service, "reader", Run([2; 8])));
    let source = Source::Filter { filter: "telemetry/#", key: None, from: From::Start };
    let (window, live) = (1 << 20, false);
    let subscribe = Subscribe {
        subscription: SubscriptionId(1),
        source,
        events: window,
        bytes: 64 << 20,
        live,
    };
    reader.intake().message(NOW, Number(0), &Message::Subscribe(subscribe), &Bytes::new(), 0);
    let (begun, cpu_before) = (Instant::now(), cpu());
    let (mut got, mut deliveries, mut ended) = (0, 0, false);
    while !ended {
        let polled = reader.poll(1 << 20, &mut |message, _| match message {
            Message::Deliver(deliver) => {
                got += u64::from(deliver.lengths.count());
                deliveries += 1;
            }
            Message::End(_) => ended = true,
            _ => {}
        });
        assert!(!matches!(polled, Polled::Gone(_)));
        let outcome = Outcome::Seen;
        let settle = Settle {
            subscription: SubscriptionId(1),
            delivery: deliveries,
            outcome,
            events: 0,
            reason: "",
        };
        reader.intake().message(NOW, Number(0), &Message::Settle(settle), &Bytes::new(), 0);
    }
    assert_eq!(got, events);
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu() - cpu_before);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let events = events as f64;
    println!(
        "            replay {:>9.0} events/s  {:>5.2} µs CPU/event",
        events / wall,
        cpu / events * 1e6
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let kept = tempfile::tempdir().unwrap();
    let folder = arguments.next().map_or_else(|| kept.path().to_owned(), PathBuf::from);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2);
    for bytes in [4 << 10, 64 << 10, 256 << 10] {
        println!("bare append of {:>3} KiB: {:.0} µs", bytes / 1024, bare(&folder, bytes) * 1e6);
    }
    scenario(&folder, 1, 1, seconds, false).await;
    scenario(&folder, 1, 256, seconds, false).await;
    scenario(&folder, 64, 16, seconds, false).await;
    scenario(&folder, 64, 16, seconds, true).await;
    scenario(&folder, 1, 256, seconds, true).await;
}
