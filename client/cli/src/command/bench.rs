//! `spile bench`: load, and what became of it.
//!
//! What figures are measured with, so it does little itself: no allocation, clock or counter an event, all connections
//! on one thread. A connection is a client of its own with a run of its own.

mod call;
mod histogram;
mod publish;
mod sessions;
mod subscribe;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::args::{Bench, Everywhere, Extent};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::signal;
use histogram::Histogram;

/// How long a measurement goes on when nothing is said.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(
    bench: &Bench,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let measured = match bench {
        Bench::Publish(args) => publish::run(args, typed, output).await?,
        Bench::Subscribe(args) => subscribe::run(args, typed, output).await?,
        Bench::Sessions(args) => sessions::run(args, typed, output).await?,
        Bench::Upload(args) => upload::run(args, typed, output).await?,
        Bench::Call(args) => call::run(args, typed, output).await?,
    };
    output.result(&measured.report(), Report::line)
}

/// The one place of the measurement that reads the clock.
#[expect(clippy::disallowed_methods, reason = "a load generator measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// When a measurement ends.
#[derive(Clone, Copy, Debug)]
enum End {
    After(Duration),
    Count(u64),
}

impl End {
    fn of(extent: Extent) -> Self {
        match (extent.count, extent.duration) {
            (Some(count), _) => Self::Count(count),
            (None, duration) => Self::After(duration.unwrap_or(DEFAULT_DURATION)),
        }
    }

    /// The share of one connection of so many; the first ones take what is left over.
    fn share(self, index: u32, of: u32) -> u64 {
        match self {
            Self::After(_) => u64::MAX,
            Self::Count(count) => {
                count / u64::from(of) + u64::from(u64::from(index) < count % u64::from(of))
            }
        }
    }

    fn deadline(self, begun: Instant) -> Option<Instant> {
        match self {
            Self::After(duration) => begun.checked_add(duration),
            Self::Count(_) => None,
        }
    }
}

/// What one connection, or all together, saw.
#[derive(Debug, Default)]
struct Measured {
    events: u64,
    bytes: u64,
    errors: u64,
    elapsed: Duration,
    latency: Histogram,
}

/// As scripts read it.
#[derive(Debug, Serialize)]
struct Report {
    events_per_s: f64,
    mb_per_s: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    p999_us: Option<f64>,
    max_us: Option<f64>,
    errors: u64,
    events: u64,
    seconds: f64,
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency.add(&other.latency);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people and plots")]
    fn report(&self) -> Report {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let micros = |quantile| self.latency.quantile(quantile).map(|nanos| nanos as f64 / 1e3);
        Report {
            events_per_s: (self.events as f64 / seconds).round(),
            mb_per_s: (self.bytes as f64 / seconds / 1e4).round() / 1e2,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            max_us: micros(1.0),
            errors: self.errors,
            events: self.events,
            seconds: (seconds * 1e3).round() / 1e3,
        }
    }
}

impl Report {
    fn line(&self) -> String {
        let micros =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |us| format!("{us:.1} µs"));
        format!(
            "{} in {} s: {:.0}/s, {:.2} MB/s; p50 {} p99 {} p99.9 {}; {} errors",
            self.events,
            self.seconds,
            self.events_per_s,
            self.mb_per_s,
            micros(self.p50_us),
            micros(self.p99_us),
            micros(self.p999_us),
            self.errors
        )
    }
}

/// How far all connections are, for the bar only.
#[derive(Clone, Debug, Default)]
struct Done(Arc<AtomicU64>);

impl Done {
    fn add(&self, events: u64) {
        self.0.fetch_add(events, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits for all connections, showing how far they are. Ctrl-C ends it without a report: half a measurement is none.
async fn gather(
    what: &'static str,
    mut tasks: JoinSet<Result<Measured, Failure>>,
    end: End,
    done: &Done,
    output: &Output,
) -> Result<Measured, Failure> {
    let total = match end {
        End::After(duration) => u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        End::Count(count) => count,
    };
    let mut progress = Progress::new(what, total, output);
    let (begun, mut all) = (now(), Measured::default());
    let mut look = tokio::time::interval(LOOK_EVERY);
    let stopped = signal::stop();
    tokio::pin!(stopped);
    let outcome = loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(Ok(measured))) => all.add(&measured),
                Some(Ok(Err(failure))) => break Err(failure),
                Some(Err(broken)) => break Err(Failure::local(&crate::local_code::ANSWER, what, broken)),
                None => break Ok(all),
            },
            _ = look.tick() => show(&mut progress, begun, end, done),
            () = &mut stopped => break Err(Failure::Quiet(crate::failure::Exit::Failed)),
        }
    };
    progress.finish();
    outcome
}

fn show(progress: &mut Progress, begun: Instant, end: End, done: &Done) {
    let (elapsed, events) = (now().duration_since(begun), done.get());
    let at = match end {
        End::After(_) => u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        End::Count(_) => events,
    };
    let per_s = u128::from(events) * 1_000 / elapsed.as_millis().max(1);
    progress.update(at, elapsed, &format!("{events} done, {per_s}/s"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_shared_out_whole() {
        for (count, of) in [(10, 3), (2, 5), (7, 1), (1_000_000, 64)] {
            let shares: u64 = (0..of).map(|index| End::Count(count).share(index, of)).sum();
            assert_eq!(shares, count);
        }
    }

    #[test]
    fn a_report_has_the_fields_of_the_contract() {
        let mut measured = Measured {
            events: 1_000,
            bytes: 256_000,
            elapsed: Duration::from_millis(500),
            ..Measured::default()
        };
        measured.latency.record(Duration::from_micros(100), 1_000);
        let value = serde_json::to_value(measured.report()).unwrap();
        assert_eq!(value["events_per_s"], 2_000.0);
        assert_eq!(value["mb_per_s"], 0.51);
        assert_eq!(value["errors"], 0);
        for field in ["p50_us", "p99_us", "p999_us"] {
            let micros = value[field].as_f64().unwrap();
            assert!((98.0..=102.0).contains(&micros), "{field} {micros}");
        }
    }
}
