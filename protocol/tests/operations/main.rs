//! Sequences of operations on the sessions, each against a small model. The same functions are what the fuzz targets
//! `session_edge` and `session_device` run; here they run under seeds.
//!
//! `SPILE_SEED=N` replays one, `SPILE_SEEDS=N` runs more.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail"
)]

mod bytes;
mod device;
mod edge;
#[path = "../pair/seed.rs"]
#[allow(dead_code, reason = "shared with the pair tests")]
mod seed;

fn random(seed: &mut seed::Seed) -> Vec<u8> {
    let length = seed.below(3000);
    (0..length).map(|_| seed.next().to_le_bytes()[3]).collect()
}

#[test]
fn an_edges_session_does_what_the_model_does() {
    // Sequences that end at once would prove nothing.
    let (lived, runs) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    seed::each_seed(500, |seed| {
        runs.set(runs.get() + 1);
        lived.set(lived.get() + edge::run(&random(seed)));
    });
    assert!(
        runs.get() < 50 || lived.get() > runs.get() * 40,
        "{} operations in {} runs",
        lived.get(),
        runs.get()
    );
}

#[test]
fn a_devices_session_does_what_the_model_does() {
    seed::each_seed(500, |seed| device::run(&random(seed)));
}
