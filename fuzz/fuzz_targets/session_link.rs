//! Any sequence of operations on both ends of a link, against the small model the tests use.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../protocol/tests/links/world.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod world;

fuzz_target!(|data: &[u8]| {
    world::run(data);
});
