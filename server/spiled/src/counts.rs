//! A worker's counters, as Prometheus reads them: what its status says, taken when it is asked.
//!
//! Invariant: being read keeps no worker alive; its log ends when its store is closed.

use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use spile_worker::Worker;
use spile_worker::status::{
    CALL_CLASSES, CALL_SECONDS, CallsMeasured, GroupMeasured, GroupsMeasured,
};

/// The counters of a worker that may be gone.
#[derive(Debug)]
pub struct Counts(pub Weak<Worker>);

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn narrow(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(worker) = self.0.upgrade() else { return Ok(()) };
        let status = worker.status();
        for (name, help, value) in [
            ("spile_worker_streams", "Streams that have events", status.streams),
            ("spile_worker_values", "Latest events of kept topics", status.values),
            ("spile_worker_services", "Services that somebody serves", status.calls.services),
            ("spile_worker_calls_in_flight", "Calls not answered yet", status.calls.in_flight),
            (
                "spile_worker_breakers_open",
                "Breakers that are not closed, 64 at most",
                status.calls.breakers.len(),
            ),
            ("spile_worker_waiting_bytes", "Bytes that wait for the disk", status.waiting_bytes),
            ("spile_worker_groups", "Durable groups", status.groups),
            ("spile_worker_dead", "Dead letters", status.dead),
            (
                "spile_worker_in_flight",
                "Events of groups handed out and not settled",
                narrow(status.in_flight),
            ),
            ("spile_worker_segments", "Segments of the log", status.segments),
            ("spile_worker_log_bytes", "Bytes of the log", narrow(status.log_bytes)),
            ("spile_worker_start", "The first position that is kept", narrow(status.start)),
            (
                "spile_worker_snapshot",
                "Up to where the newest snapshot of the views holds",
                narrow(status.snapshot),
            ),
            ("spile_worker_open_uploads", "Uploads under way", status.files.open_uploads),
            ("spile_worker_blobs", "Sealed uploads", status.files.blobs),
            (
                "spile_worker_chunk_log_bytes",
                "Bytes of the log of chunks",
                narrow(status.files.chunk_log_bytes),
            ),
            (
                "spile_worker_chunk_waiting_bytes",
                "Bytes of chunks that wait for the disk",
                status.files.chunk_waiting_bytes,
            ),
        ] {
            let gauge = ConstGauge::new(gauge(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            ("spile_worker_events", "Events handed to the log", status.events),
            ("spile_worker_event_bytes", "Their payload bytes", status.bytes),
            ("spile_worker_voids", "Numbers refused for good", status.voids),
            ("spile_worker_duplicates", "Numbers that came again", status.duplicates),
            ("spile_worker_delivered", "Events delivered", status.delivered),
            ("spile_worker_delivered_bytes", "Their payload bytes", status.delivered_bytes),
            ("spile_worker_commits", "Commits of the log", status.commits),
            (
                "spile_worker_chunk_commits",
                "Commits of the log of chunks",
                status.files.chunk_commits,
            ),
            ("spile_worker_calls", "Calls to services", status.calls.calls),
            (
                "spile_worker_calls_failed",
                "Calls whose service did not answer, or said that it is broken",
                status.calls.failed,
            ),
            (
                "spile_worker_calls_timed_out",
                "Calls nobody answered in time",
                status.calls.timed_out,
            ),
            ("spile_worker_calls_refused", "Calls handed to nobody", status.calls.refused),
            ("spile_worker_snapshots", "Snapshots of the views made", status.snapshots),
            (
                "spile_worker_segments_removed",
                "Segments that retention removed",
                status.segments_removed,
            ),
            (
                "spile_worker_segments_rewritten",
                "Segments that retention rewrote with what is wanted",
                status.segments_rewritten,
            ),
            ("spile_worker_freed_bytes", "Bytes that retention gave back", status.freed_bytes),
            ("spile_worker_settled", "Events of groups that were done", status.settled),
            ("spile_worker_redelivered", "Events of groups handed out again", status.redelivered),
            ("spile_worker_died", "Events of groups that died", status.died),
            (
                "spile_worker_replayed",
                "Dead letters that were sent out again",
                worker.counters.replayed.get(),
            ),
            (
                "spile_worker_dropped",
                "Dead letters that were dropped",
                worker.counters.dropped.get(),
            ),
            (
                "spile_worker_inbox_stored",
                "Messages for inboxes handed to the log",
                worker.counters.inbox.get(),
            ),
            (
                "spile_worker_inbox_settled",
                "Messages of inboxes that were done",
                worker.counters.inbox_settled.get(),
            ),
            ("spile_worker_sealed", "Uploads that were sealed", status.sealed),
            ("spile_worker_aborted", "Uploads forgotten as asked", status.files.aborted),
            ("spile_worker_expired", "Uploads nobody went on with", status.files.expired),
            ("spile_worker_chunk_bytes", "Bytes of chunks taken", status.chunk_bytes),
            ("spile_worker_read_bytes", "Bytes of blobs read", status.read_bytes),
            ("spile_worker_found", "Look-ups that found something", status.found),
            ("spile_worker_missed", "Look-ups that found nothing new enough", status.missed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        calls(&worker.calls_measured(), &mut encoder)?;
        groups(&worker.groups_measured(), &mut encoder)
    }
}

/// How long calls took, and whose fault it was that they failed.
fn calls(
    measured: &CallsMeasured,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let (name, help) = ("spile_worker_calls_retried", "Calls handed to another member");
    let retried = ConstCounter::new(measured.retried);
    retried.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    let (name, help) = ("spile_worker_call_faults", "Calls that failed, by whose fault it was");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (class, count) in CALL_CLASSES.iter().zip(measured.failed) {
        let labels = [("class", class.name())];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    let (name, help) = ("spile_worker_call_seconds", "From a call that was handed out to its end");
    let mut histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let ends = CALL_SECONDS.into_iter().chain([f64::INFINITY]);
    let steps: Vec<(f64, u64)> = ends.zip(measured.steps).collect();
    let seconds = std::time::Duration::from_micros(measured.micros).as_secs_f64();
    histogram.encode_histogram::<[(&str, &str); 0]>(
        seconds,
        measured.steps.iter().sum(),
        &steps,
        None,
    )
}

/// What is told of a group, and of all of them together.
struct OfGroups {
    name: &'static str,
    of_each: &'static str,
    help: &'static str,
    value: fn(&GroupMeasured) -> u64,
}

/// In flight and dead are told of all of them beside everything else.
const OF_GROUPS: [OfGroups; 6] = [
    OfGroups {
        name: "spile_worker_lag",
        of_each: "spile_worker_group_lag",
        help: "Events of groups without an outcome, as far as the log was looked at",
        value: |group| group.lag,
    },
    OfGroups {
        name: "spile_worker_waiting",
        of_each: "spile_worker_group_waiting",
        help: "Those of them that no member has",
        value: |group| group.waiting,
    },
    OfGroups {
        name: "spile_worker_unread",
        of_each: "spile_worker_group_unread",
        help: "Positions of the log that were not looked at for the lag yet",
        value: |group| group.unread,
    },
    OfGroups {
        name: "spile_worker_full",
        of_each: "spile_worker_group_full",
        help: "Groups that look at no further keys until some are done",
        value: |group| group.full,
    },
    OfGroups {
        name: "",
        of_each: "spile_worker_group_in_flight",
        help: "Events that members have",
        value: |group| group.in_flight,
    },
    OfGroups {
        name: "",
        of_each: "spile_worker_group_dead",
        help: "Dead letters",
        value: |group| group.dead,
    },
];

/// The first groups each by itself, and all of them together.
fn groups(
    measured: &GroupsMeasured,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    for OfGroups { name, of_each, help, value } in OF_GROUPS {
        let number = |group| ConstGauge::new(i64::try_from(value(group)).unwrap_or(i64::MAX));
        if !name.is_empty() {
            let sum = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            number(&measured.sum).encode(sum)?;
        }
        let mut family = encoder.encode_descriptor(of_each, help, None, MetricType::Gauge)?;
        for group in &measured.each {
            let labels = [("tenant", group.tenant.as_str()), ("group", group.name.as_str())];
            number(group).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
