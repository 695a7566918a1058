//! A log's files with bytes turned over, cut off and put behind, in any number and place.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod log_disk;

fuzz_target!(|data: &[u8]| {
    let disk = log_disk::filled();
    log_disk::damage(&disk, data);
    log_disk::opens(&disk);
});
