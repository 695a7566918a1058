//! The clocks: monotonic from a start, and the wall's. What decides gets their time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use spile_protocol::time::{Instant, Millis};

/// A monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) start: tokio::time::Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
    pub(crate) fn start() -> Self {
        Self { start: tokio::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::default().after(self.start.elapsed())
    }

    /// The same point of the runtime's clock.
    pub(crate) fn at(&self, at: Instant) -> tokio::time::Instant {
        self.start + at.since(Instant::default())
    }

    #[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
    pub(crate) fn wall() -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
