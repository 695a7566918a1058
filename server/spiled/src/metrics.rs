//! The process's metrics, in the text format that Prometheus reads.
//!
//! Others register theirs into it; nothing here knows what they count.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::health::Health;

/// The registry; clones are the same registry.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry that says what this process is, and whether it is ready.
    pub fn new(role: &'static str, health: &Health) -> Self {
        let mut registry = Registry::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("role", role)]);
        registry.register("spiled_build", "What runs", build);
        registry.register_collector(Box::new(Readiness(health.clone())));
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Lets a part register its metrics.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of them as text.
    ///
    /// # Errors
    /// A collector failed.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

#[derive(Debug)]
struct Readiness(Health);

impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ready = ConstGauge::new(i64::from(self.0.is_ready()));
        let name = "spiled_ready";
        ready.encode(encoder.encode_descriptor(name, "1 when ready", None, MetricType::Gauge)?)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::health::Phase;

    #[test]
    fn what_is_registered_is_told() {
        let health = Health::default();
        let metrics = Metrics::new("all", &health);
        let counter = metrics.register(|registry| {
            let counter: Counter = Counter::default();
            registry.register("spile_events", "Events stored", counter.clone());
            counter
        });
        counter.inc_by(3);
        let text = metrics.encode().unwrap();
        assert!(text.contains("spile_events_total 3\n"), "{text}");
        assert!(text.contains("spiled_ready 0\n"), "{text}");
        assert!(text.contains("role=\"all\""), "{text}");
        health.enter(Phase::Serving);
        assert!(metrics.encode().unwrap().contains("spiled_ready 1\n"));
    }
}
