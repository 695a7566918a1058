//! Any bytes behind the header of a segment. Nobody without the salt can make a record, so the log holds what it held before,
//! however the bytes look; and it takes new records once damage was accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod log_disk;

fuzz_target!(|data: &[u8]| {
    let disk = log_disk::filled();
    let (name, mut bytes) = log_disk::last_segment(&disk);
    // One byte says how much of the real data stays before the made-up bytes begin.
    let Some((&keep, rest)) = data.split_first() else { return };
    bytes.truncate(4096 + usize::from(keep) * 32);
    bytes.extend_from_slice(rest);
    disk.put(&name, bytes);
    log_disk::opens(&disk);
});
