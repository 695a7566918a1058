//! What time it is, for what waits inside the worker: retries, deliveries that are not settled. A test sets it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use spile_protocol::time::Millis;

/// A clock that tells milliseconds since 1970.
#[derive(Clone, Debug, Default)]
pub enum TimeOfDay {
    /// The wall's.
    #[default]
    Wall,
    /// One that stands where it is set.
    Set(Arc<AtomicU64>),
}

impl TimeOfDay {
    /// The time.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place beside the drivers where the worker reads a clock"
    )]
    pub fn now(&self) -> Millis {
        match self {
            Self::Wall => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Self::Set(now) => Millis(now.load(Ordering::Acquire)),
        }
    }
}
