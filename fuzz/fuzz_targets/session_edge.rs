//! Any sequence of operations on an edge's session, against the small model the tests use.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../protocol/tests/operations/bytes.rs"]
mod bytes;
#[path = "../../protocol/tests/operations/edge.rs"]
mod edge;

fuzz_target!(|data: &[u8]| {
    edge::run(data);
});
