//! The one place of the client that reads a clock or asks for randomness: from here on both are arguments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spile_protocol::time::{Instant, Millis};

use super::Error;

/// A monotonic clock with its origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the client's driver: time becomes an argument")]
    pub(super) fn start() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    pub(super) fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When a point of the machine's time comes, for a timer.
    pub(super) fn at(&self, point: Instant) -> tokio::time::Instant {
        // A day is as good as never, and no clock overflows on it.
        let from_origin = Duration::from_micros(point.0);
        self.origin
            .checked_add(from_origin)
            .unwrap_or_else(|| self.origin + Duration::from_secs(86_400))
    }
}

/// The wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the client's driver: time becomes an argument")]
pub fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Fresh random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|why| {
        Error::setup(
            "random numbers",
            why.to_string(),
            "run where the system's random source works",
        )
    })?;
    Ok(bytes)
}
