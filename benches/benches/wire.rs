//! The hot paths of the wire: an event of 256 bytes, a chunk of 256 KiB, in and out.
//!
//! `cargo bench -p spile-benches --bench wire`. Behind criterion's figures come ratios to a bare `crc32fast` over the same
//! payload, measured in the same run in turns, which is what counts on a machine that others use too; then whether what
//! must be reached is. docs/figures.md keeps what it said.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use criterion::{Criterion, Throughput};
use spile_protocol::{
    codec, crc, frame,
    id::{LaneId, Number, Position, RouteId, SubscriptionId, Version},
    limits,
    message::{
        Ack, Chunk, Deliver, Durability, Envelope, Event, Extras, Lengths, List, Message, Sender,
    },
    time::Millis,
};

const EVENT: usize = 256;
const CHUNK: usize = 256 * 1024;

fn event(payload: &[u8]) -> Message<'_> {
    Message::Event(Event { route: RouteId(3), extras: Extras::default(), payload })
}

fn chunk(payload: &[u8]) -> Message<'_> {
    Message::Chunk(Chunk { upload: 1, offset: 1 << 20, payload })
}

fn deliver(payload: &[u8]) -> Message<'_> {
    Message::Deliver(Deliver {
        subscription: SubscriptionId(1),
        key: None,
        topic: None,
        kind: None,
        worker: None,
        attempt: 1,
        version: Version(1000),
        position: Position(1_000_000),
        time: Millis(1_790_000_000_000),
        lengths: Lengths::same(1, u32::try_from(payload.len()).unwrap_or_default()),
        extras: Extras::default(),
        payload,
    })
}

fn ack() -> Message<'static> {
    let (durability, lane, last) = (Durability::Stored, LaneId(3), Number(1000));
    Message::Ack(Ack::Spelled { durability, lane, last, receipts: List::default() })
}

fn envelope<'a>(header: &'a [u8], payload: &'a [u8]) -> Message<'a> {
    let tag = event(payload).tag();
    let (session, number) = (spile_protocol::id::LinkSessionId(7), Number(1000));
    Message::Envelope(Envelope {
        session,
        number,
        time_ms: 1_790_000_000_000,
        tag,
        header,
        payload,
    })
}

/// The frame of a message, as it stands on the wire.
fn framed(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0; message.payload().len() + 256];
    let length = message.encode(&mut out).unwrap_or_default();
    out.truncate(length);
    out
}

/// What is measured: its name, the payload it goes over, and how.
type Case = (&'static str, usize, Box<dyn FnMut()>);

fn cases() -> Vec<Case> {
    let payload: &'static [u8] = vec![7; CHUNK].leak();
    let small = payload.get(..EVENT).unwrap_or_default();
    let mut cases: Vec<Case> = Vec::new();
    for (name, bytes) in [("bare crc32fast, event", small), ("bare crc32fast, chunk", payload)] {
        cases.push((
            name,
            bytes.len(),
            Box::new(move || {
                black_box(crc::of(black_box(bytes)));
            }),
        ));
    }
    for (name, message) in
        [("encode event", event(small)), ("encode chunk, vectored", chunk(payload))]
    {
        let mut out = [0; 64];
        cases.push((
            name,
            message.payload().len(),
            Box::new(move || {
                let message = black_box(&message);
                let crc = crc::of(message.payload());
                black_box(message.encode_ends(crc, black_box(&mut out))).ok();
            }),
        ));
    }
    let mut out = vec![0; 512];
    let message = event(small);
    cases.push((
        "encode event, copied whole",
        EVENT,
        Box::new(move || {
            black_box(black_box(&message).encode(black_box(&mut out))).ok();
        }),
    ));
    for (name, message) in [
        ("pass on event in envelope", envelope(&[3], small)),
        ("pass on deliver", deliver(small)),
        ("encode ack", ack()),
    ] {
        let mut out = [0; 64];
        cases.push((
            name,
            EVENT,
            Box::new(move || {
                black_box(black_box(&message).encode_ends(black_box(5), black_box(&mut out))).ok();
            }),
        ));
    }
    for (name, message, sender) in [
        ("decode event", event(small), Sender::Client),
        ("decode chunk", chunk(payload), Sender::Client),
        ("decode deliver", deliver(small), Sender::Server),
        ("decode envelope", envelope(&[3], small), Sender::Client),
        ("decode ack", ack(), Sender::Server),
    ] {
        let (bytes, length) = (framed(&message), message.payload().len().max(1));
        cases.push((
            name,
            length,
            Box::new(move || {
                let found = frame::decode(black_box(&bytes), limits::FRAME_LINK);
                if let Ok(Some((frame, _))) = found {
                    black_box(Message::decode(&frame, sender)).ok();
                }
            }),
        ));
    }
    let one = framed(&event(small));
    let mut buffer = BytesMut::with_capacity(1 << 16);
    cases.push((
        "codec: take event",
        EVENT,
        Box::new(move || {
            if buffer.is_empty() {
                (0..64).for_each(|_| buffer.extend_from_slice(&one));
            }
            black_box(codec::take(&mut buffer, limits::FRAME_DEFAULT)).ok();
        }),
    ));
    cases
}

/// What a case must reach.
#[derive(Clone, Copy)]
enum Must {
    /// At most so many nanoseconds.
    Nanoseconds(f64),
    /// At least so many bytes of payload a nanosecond.
    Gigabytes(f64),
}

const MUSTS: [(&str, Must); 4] = [
    ("encode event", Must::Nanoseconds(80.0)),
    ("decode event", Must::Nanoseconds(80.0)),
    ("encode chunk, vectored", Must::Gigabytes(15.0)),
    ("decode chunk", Must::Gigabytes(15.0)),
];

impl Must {
    fn line(self, name: &str, ns: f64, rate: f64) -> String {
        let (reached, text) = match self {
            Self::Nanoseconds(most) => (ns <= most, format!("{ns:.1} ns, must {most} at most")),
            Self::Gigabytes(least) => {
                (rate >= least, format!("{rate:.1} GB/s, must {least} at least"))
            }
        };
        format!("{name}: {text}: {}", if reached { "reached" } else { "MISSED" })
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures by the clock")]
fn timed(rounds: u32, run: &mut dyn FnMut()) -> Duration {
    let begin = Instant::now();
    (0..rounds).for_each(|_| run());
    begin.elapsed() / rounds
}

/// The best of many turns of each case, so that what else runs on the machine counts little.
fn ratios() {
    let mut cases = cases();
    let mut best = vec![Duration::MAX; cases.len()];
    for _ in 0..200 {
        for ((_, bytes, run), best) in cases.iter_mut().zip(&mut best) {
            *best = timed(if *bytes > EVENT { 20 } else { 5000 }, run).min(*best);
        }
    }
    let bare = |bytes: usize| best.get(usize::from(bytes > EVENT)).copied().unwrap_or_default();
    println!("{:<28} {:>10} {:>8} {:>12}", "what", "ns", "GB/s", "x bare crc");
    let mut musts = Vec::new();
    for ((name, bytes, _), best) in cases.iter().zip(&best) {
        let ns = best.as_secs_f64() * 1e9;
        let rate = f64::from(u32::try_from(*bytes).unwrap_or_default()) / ns;
        println!(
            "{name:<28} {ns:>10.1} {rate:>8.1} {:>12.2}",
            best.as_secs_f64() / bare(*bytes).as_secs_f64()
        );
        let mine = MUSTS.iter().filter(|(of, _)| of == name);
        musts.extend(mine.map(|(_, must)| must.line(name, ns, rate)));
    }
    println!("\n{}", musts.join("\n"));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("wire");
    for (name, bytes, mut run) in cases() {
        group.throughput(Throughput::Bytes(bytes.try_into().unwrap_or_default()));
        group.bench_function(name, |bencher| bencher.iter(&mut run));
    }
    group.finish();
    criterion.final_summary();
    if !std::env::args().any(|argument| argument == "--test") {
        ratios();
    }
}
