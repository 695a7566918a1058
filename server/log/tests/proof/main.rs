//! The proof that a crash, a fault or a rotten bit never costs what was promised.
//!
//! `SPILE_LOG_SEEDS=20000 cargo test --release -p spile-log --test proof` runs as many seeds; `SPILE_LOG_SEED=17` one. A failure
//! prints its seed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails may stop"
)]

mod faults;
mod oracle;
mod points;
mod rot;
mod run;
mod seeds;
mod streams;
