//! What is counted: plain atomics, added to once a read or once a turn, never once an event.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spile_protocol::code::{Code, TABLE};

/// A count that goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Relaxed);
        }
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A count that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more; it is taken back when the value that is returned is dropped.
    pub fn hold(self: &std::sync::Arc<Self>) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(std::sync::Arc::clone(self))
    }

    /// How many there are.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held(std::sync::Arc<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// What an edge counts.
#[derive(Debug)]
pub struct Metrics {
    /// Sessions that are authenticated and live.
    pub sessions: std::sync::Arc<Gauge>,
    /// Connections that have not proven who they are.
    pub half_open: std::sync::Arc<Gauge>,
    /// Links that are up.
    pub links: std::sync::Arc<Gauge>,
    /// Connections accepted.
    pub connections: Counter,
    /// TLS handshakes that were completed.
    pub handshakes: Counter,
    /// Connections cut before they were authenticated, by deadline, cap or garbage.
    pub cut: Counter,
    /// Authentications that were refused.
    pub refused: Counter,
    /// Events taken from clients, each of a batch counted.
    pub events: Counter,
    /// Their payload, in bytes.
    pub event_bytes: Counter,
    /// Events delivered to clients, each of a block counted.
    pub delivered: Counter,
    /// Bytes read from clients, inside TLS.
    pub bytes_in: Counter,
    /// Bytes written to clients, inside TLS.
    pub bytes_out: Counter,
    /// What the policy denied.
    pub denied: Counter,
    faults: Vec<Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sessions: std::sync::Arc::default(),
            half_open: std::sync::Arc::default(),
            links: std::sync::Arc::default(),
            connections: Counter::default(),
            handshakes: Counter::default(),
            cut: Counter::default(),
            refused: Counter::default(),
            events: Counter::default(),
            event_bytes: Counter::default(),
            delivered: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            denied: Counter::default(),
            faults: TABLE.iter().map(|_| Counter::default()).collect(),
        }
    }
}

impl Metrics {
    /// Counts a fault sent; one of a newer worker, which the table does not know, counts as INTERNAL.
    pub fn fault(&self, code: Code) {
        let place = |code| TABLE.iter().position(|entry| entry.code == code);
        // A goodbye is none.
        if code == Code(0) {
            return;
        }
        let counter = place(code).or(place(Code::INTERNAL)).and_then(|at| self.faults.get(at));
        if let Some(counter) = counter {
            counter.add(1);
        }
    }

    /// Every code and how often a fault with it was sent.
    pub fn faults(&self) -> impl Iterator<Item = (Code, u64)> {
        TABLE.iter().zip(&self.faults).map(|(entry, counter)| (entry.code, counter.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_while_it_is_held() {
        let metrics = Metrics::default();
        let held = (metrics.sessions.hold(), metrics.sessions.hold());
        assert_eq!(metrics.sessions.get(), 2);
        drop(held);
        assert_eq!(metrics.sessions.get(), 0);
    }

    #[test]
    fn faults_are_counted_by_code_and_unknown_ones_as_internal() {
        let metrics = Metrics::default();
        metrics.fault(Code::FORBIDDEN);
        metrics.fault(Code(9999));
        metrics.fault(Code(0));
        let counted: Vec<_> = metrics.faults().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(Code::FORBIDDEN, 1), (Code::INTERNAL, 1)]);
    }
}
