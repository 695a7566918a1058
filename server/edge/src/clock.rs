//! Where this crate reads a clock: once a turn, in the drivers. Everything below takes the time as an argument.

use spile_protocol::time::{Instant, Millis};

/// A monotonic clock from an origin of its own, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver's clock: time becomes an argument here"
    )]
    pub fn start() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    /// The monotonic time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The wall clock's time; 0 when it is set before 1970.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver's clock: time becomes an argument here"
    )]
    pub fn wall(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Millis(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The runtime's time for a point of this clock.
    #[must_use]
    pub fn runtime(&self, at: Instant) -> tokio::time::Instant {
        self.origin + std::time::Duration::from_micros(at.0)
    }
}
