//! Any sequence of operations on a device's session, against the small model the tests use.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../protocol/tests/operations/bytes.rs"]
mod bytes;
#[path = "../../protocol/tests/operations/device.rs"]
mod device;

fuzz_target!(|data: &[u8]| device::run(data));
