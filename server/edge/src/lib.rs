//! The edge: who is it, may it, how fast, route it.

pub mod clock;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod trace;
