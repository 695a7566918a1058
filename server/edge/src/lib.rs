//! The edge: who is it, may it, how fast, route it.

pub mod clock;
pub mod half_open;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod registry;
pub mod sessions;
pub mod signal;
pub mod trace;
pub mod upstream;
