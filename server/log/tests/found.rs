//! What fuzzing found once, and must never find again.
#![allow(clippy::unwrap_used, reason = "a test that fails may stop")]

#[path = "../../../fuzz/fuzz_targets/log_disk/mod.rs"]
mod log_disk;

#[test]
fn recovery_of_damaged_files() {
    let found: [&[u8]; 3] = [
        &[
            50, 1, 1, 0, 0, 241, 1, 253, 40, 171, 0, 44, 1, 63, 80, 83, 63, 253, 255, 253, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 40,
        ],
        &[6, 255, 49, 14, 44, 58, 255, 253, 253, 66, 0, 0, 0, 181],
        &[6, 255, 4, 44, 1, 7, 191, 61, 191, 7, 191, 61, 191, 253],
    ];
    for data in found {
        let disk = log_disk::filled();
        log_disk::damage(&disk, data);
        println!("{data:?}: {:?}", spile_log::verify(&disk).unwrap());
        log_disk::opens(&disk);
    }
}
