//! Any bytes as a record of the log, and as each other layout on its disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spile_log::fuzzing::{layouts, record};

fuzz_target!(|data: &[u8]| {
    record(data);
    layouts(data);
});
