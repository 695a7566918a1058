//! The one place where this process reads the wall clock outside its runtime.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock set before that reads as 0, and then certificates are found not yet valid.
#[expect(
    clippy::disallowed_methods,
    reason = "the process's driver: time becomes an argument here"
)]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
