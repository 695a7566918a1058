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
            (
                "spile_worker_lag",
                "Events of groups not settled nor dead, as far as the log was looked at for them",
                narrow(status.lag),
            ),
            (
                "spile_worker_unread",
                "Positions not looked at for a group, of all groups",
                narrow(status.unread),
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
            ("spile_worker_found", "Look-ups that found something", status.found),
            ("spile_worker_missed", "Look-ups that found nothing new enough", status.missed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}
